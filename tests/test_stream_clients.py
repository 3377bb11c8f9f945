"""Token streams read by real clients: EventSource (Chromium's, npm's), httpx-sse, curl, and through nginx."""

from __future__ import annotations

import io
import json
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from httpx_sse import connect_sse

from chromium import chromium
from harmony4.h4mk import H4MKReader
from harmony4.server.exporting.ingest import export
from harmony4.server.folder.facts import token_facts
from harmony4.server.keys import LIBRARY, STATE
from harmony4.tokenize.audio import AudioFFTTokenizer
from media_factory import media
from needs import needs_chromium, needs_curl, needs_ffmpeg, needs_nginx, needs_node, needs_npm
from nodejs import run_node
from processes import until
from programs import ROOM, command, documented, environment, nginx, run_program
from samples import track_of
from serving import LOOPS, running
from test_arriving_http import duplex, spools, tokens_of
from test_sound_http import wav
from test_sse import parse

EXAMPLE = "".join(documented("## Behind nginx")[1:])
HEARD = "/audio/stream?name=a.h4mk&profile=detail&from=0"
"""Nothing that the page asks for by itself."""
TOKENS = 20_000
LISTEN = """() => new Promise((resolve) => {
  const seen = { ids: [], kinds: [], errors: 0 };
  const source = new EventSource("/video/stream?name=a.h4mk");
  source.addEventListener("token", (event) => seen.ids.push(event.lastEventId));
  for (const kind of ["meta", "done", "problem", "reset", "restart"])
    source.addEventListener(kind, () => seen.kinds.push(kind));
  source.onerror = () => {
    seen.errors += 1;
    if (source.readyState === EventSource.CLOSED) resolve(seen);
  };
})"""

SEND_AND_LISTEN = """async () => {
  const [file] = document.querySelector("body > input[type=file]").files;
  const { url } = await (await fetch("/video/stream?job=1", { method: "POST", body: file })).json();
  const seen = { tokens: [], kinds: [] };
  return await new Promise((resolve) => {
    const source = new EventSource(url);
    source.addEventListener("token", (event) => seen.tokens.push(event.data));
    for (const kind of ["meta", "done", "problem", "reset", "restart"])
      source.addEventListener(kind, () => seen.kinds.push(kind));
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) resolve(seen);
    };
  });
}"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "a.h4mk").write_bytes(track_of(TOKENS, 8, gop=100))
    return tmp_path


class Cutting:
    """A way to a server on which answers to a stream break off after so many bytes, the first ones."""

    def __init__(self, upstream: tuple[str, int], cuts: list[int]) -> None:
        self._upstream = upstream
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.asked: list[str | None] = []
        """The last id that each request for a stream came with."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._upstream) as server:
            while request := client.recv(2**16):
                head, _, rest = request.partition(b"\r\n\r\n")
                server.sendall(head + b"\r\nConnection: close\r\n\r\n" + rest)
                left = 2**62
                if head.startswith((b"GET /video/stream", b"GET %b " % HEARD.encode())):
                    last = re.search(rb"\r\nLast-Event-ID: ([^\r]*)", head, re.IGNORECASE)
                    self.asked.append(last[1].decode() if last else None)
                    left = self._cuts.pop(0) if self._cuts else left
                while left > 0 and (answer := server.recv(min(2**14, left))):
                    client.sendall(answer)
                    left -= len(answer)
                return

    def close(self) -> None:
        self._listener.close()


@contextmanager
def cutting(upstream: tuple[str, int], *cuts: int) -> Iterator[Cutting]:
    one = Cutting(upstream, list(cuts))
    try:
        yield one
    finally:
        one.close()


@needs_chromium
def test_chromium_comes_back(library: Path) -> None:
    """Two connections break within an event: no token is lost, none comes twice, and then it stops."""
    with (
        running(library) as server,
        cutting(server.address, 100_003, 1_000_001) as way,
        chromium() as browser,
    ):
        page = browser.new_page()
        page.goto("http://{}:{}/".format(*way.address))
        seen: dict[str, Any] = page.evaluate(LISTEN)
    everything_once(library, seen, way.asked)


def everything_once(library: Path, seen: dict[str, Any], asked: list[str | None]) -> None:
    """Checks what a client has heard that was cut off twice."""
    with H4MKReader(library / "a.h4mk") as reader:
        assert reader.head is not None
        seal = reader.head.hex()[:8]
    assert seen["ids"] == [f"{seal}-0-{index}" for index in range(TOKENS)]
    assert seen["kinds"] == ["meta", "meta", "meta", "done"]
    # After the end it asks once more, and 204 tells it to leave it at that.
    first, second, third, last = asked
    assert first is None
    assert second in seen["ids"]
    assert third in seen["ids"]
    assert last == f"{seal}-0-end"


@needs_chromium
@needs_ffmpeg
def test_chromium_sends_a_file_and_listens(library: Path) -> None:
    """A page cannot read the answer while it sends: it listens to the job, on another connection."""
    path = media("fragmented.mp4")
    with running(library) as server, chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(
            "() => document.body.append(Object.assign(document.createElement('input'), {type: 'file'}))"
        )
        page.set_input_files("body > input[type=file]", path)
        found = page.evaluate(SEND_AND_LISTEN)
    assert [json.loads(data) for data in found["tokens"]] == tokens_of(path)
    assert found["kinds"] == ["meta", "done"]


@needs_node
@needs_npm
def test_node_comes_back(library: Path) -> None:
    """The same of npm's `eventsource`; its program ends because nothing is left to wait for."""
    with running(library) as server, cutting(server.address, 100_003, 1_000_001) as way:
        url = "http://{}:{}/video/stream?name=a.h4mk".format(*way.address)
        seen = json.loads(run_node("listen.js", url).out)
    assert (seen["opened"], seen["status"]) == (3, 204)
    everything_once(library, seen, way.asked)


def test_httpx_comes_back(library: Path) -> None:
    """httpx-sse leaves coming back to its user: with the last id, after what the server asks for."""
    seen: dict[str, Any] = {"ids": [], "kinds": []}
    last, statuses = "", [0]
    with (
        running(library) as server,
        cutting(server.address, 100_003, 1_000_001) as way,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        url = "http://{}:{}/video/stream?name=a.h4mk".format(*way.address)
        while statuses[-1] != 204:
            headers = {"Last-Event-ID": last} if last else {}
            with (
                suppress(httpx.RemoteProtocolError),
                connect_sse(client, "GET", url, headers=headers) as source,
            ):
                statuses.append(source.response.status_code)
                for event in source.iter_sse() if statuses[-1] == 200 else ():
                    last = event.id
                    if event.event == "token":
                        seen["ids"].append(event.id)
                    elif event.data:
                        seen["kinds"].append(event.event)
                    else:  # its way to show `retry`
                        assert (event.event, event.retry) == ("message", 2000)
    assert statuses == [0, 200, 200, 200, 204]
    everything_once(library, seen, way.asked)


@needs_curl
@pytest.mark.parametrize("loop", LOOPS)
def test_curl(library: Path, loop: str) -> None:
    with running(library, loop=loop) as server, H4MKReader(library / "a.h4mk") as reader:
        url = f"{server.url}/video/stream?name=a.h4mk"
        plain = run_program("curl", "-sSfN", url, folder=library).out
        assert [kind for kind, _, _ in parse(plain.removeprefix(b"retry: 2000\n\n"))][-1] == "done"
        lines = run_program("curl", "-sSfN", "-H", "Accept: application/x-ndjson", url, folder=library).out
        found = [json.loads(line) for line in lines.splitlines()]
        assert [one["data"] for one in found if one["event"] == "token"] == list(
            map(token_facts, reader.tokens())
        )
        records = run_program(
            "curl", "-sSfN", "-H", "Accept: application/octet-stream", url, folder=library
        ).out
        assert records == reader.token_array().tobytes()


@pytest.fixture
def sound(tmp_path: Path) -> tuple[Path, list[Any]]:
    """A library with a minute of noise, and what its tokens say."""
    data = wav(random.Random(1).randbytes(16_000 * 60))
    (tmp_path / "sound").mkdir()
    export(io.BytesIO(data), tmp_path / "sound" / "a.h4mk")
    return tmp_path / "sound", [one.metadata() for one in AudioFFTTokenizer(profile="detail").encode([data])]


@needs_chromium
def test_chromium_comes_back_to_sound(sound: tuple[Path, list[Any]]) -> None:
    """What was heard is computed again, and not sent again."""
    listen = LISTEN.replace("/video/stream?name=a.h4mk", HEARD)
    listen = listen.replace("seen.ids.push(event.lastEventId)", "seen.ids.push(event.data)")
    with running(sound[0]) as server, cutting(server.address, 30_003, 100_001) as way, chromium() as browser:
        page = browser.new_page()
        page.goto("http://{}:{}/".format(*way.address))
        seen: dict[str, Any] = page.evaluate(listen)
    assert [json.loads(data) for data in seen["ids"]] == sound[1]
    assert seen["kinds"] == ["meta", "meta", "meta", "done"]
    assert [None if one is None else one.rpartition("-")[2] for one in way.asked][::3] == [None, "end"]


def test_httpx_hears_sound(sound: tuple[Path, list[Any]]) -> None:
    with (
        running(sound[0]) as server,
        httpx.Client(trust_env=False, timeout=30) as client,
        connect_sse(client, "GET", server.url + HEARD) as source,
    ):
        _, first, *tokens, last = list(source.iter_sse())
    assert (first.event, last.event) == ("meta", "done")
    assert [one.json() for one in tokens] == sound[1]


@needs_curl
def test_curl_hears_sound(sound: tuple[Path, list[Any]]) -> None:
    with running(sound[0]) as server:
        done = run_program("curl", "-sSfN", server.url + HEARD, folder=sound[0]).out
    tokens = [json.loads(data) for kind, data, _ in parse(done.partition(b"\n\n")[2]) if kind == "token"]
    assert tokens == sound[1]


@needs_curl
@needs_ffmpeg
def test_curl_sends_and_reads(library: Path) -> None:
    path = media("fragmented.mp4")
    with running(library) as server:
        sent = run_program(
            "curl", "-sSfN", "-T", path, "-X", "POST", f"{server.url}/video/stream", folder=library
        ).out
        tokens = [
            json.loads(data)
            for kind, data, _ in parse(sent.removeprefix(b"retry: 2000\n\n"))
            if kind == "token"
        ]
        assert tokens == tokens_of(path)


@needs_curl
def test_curl_sends_what_comes_and_reads(library: Path) -> None:
    """A pipe into curl that stays open: each block's token is there before the next block is written.

    `-T .`, not `-T -`: with this curl reads no answer while it waits for its standard input.
    """
    with running(library) as server:
        url = f"{server.url}/video/stream?raw=1&block_size=10000"
        with subprocess.Popen(
            command("curl", "-sSfN", "-H", "Accept: application/x-ndjson", "-T", ".", "-X", "POST", url),
            cwd=library,
            env=environment(library),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as curl:
            assert curl.stdin is not None
            assert curl.stdout is not None
            try:
                write_now(curl.stdin, b"x" * 30_000)
                assert json.loads(curl.stdout.readline())["event"] == "meta"
                for index in range(20):
                    assert json.loads(curl.stdout.readline())["data"]["index"] == index
                    write_now(curl.stdin, b"x" * 10_000)
                curl.stdin.close()
                *_, last = map(json.loads, curl.stdout)
                assert (last["event"], last["data"]["tokens"]) == ("done", 23)
                assert curl.wait(ROOM) == 0
            finally:
                curl.kill()


def write_now(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(data)
    pipe.flush()


@needs_nginx
def test_full_duplex_through_nginx(library: Path, tmp_path: Path) -> None:
    """A token comes back before the next block is sent: neither side is collected."""
    with (
        running(library) as server,
        nginx(tmp_path / "nginx", EXAMPLE, server.address) as proxy,
        duplex(proxy, "/video/stream?raw=1&block_size=10000") as one,  # type: ignore[arg-type]
    ):
        one.send(b"x" * 30_000)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        assert next(lines)["data"]["index"] == 0
        for index in range(1, 20):
            one.send(b"x" * 10_000)
            assert next(lines)["data"]["index"] == index
        one.send(b"")
        assert [line["event"] for line in lines][-1] == "done"


@needs_nginx
def test_nginx_is_told_not_to_buffer(library: Path, tmp_path: Path) -> None:
    """Where nobody has configured it: `X-Accel-Buffering: no` is enough for reading a stream as it comes.

    Without HTTP/1.1 to the server, too: then nginx would keep tokens until they fill a buffer.
    """
    plain = re.sub(
        "^ *(proxy_buffering|proxy_http_version|proxy_set_header Connection) .*\n", "", EXAMPLE, flags=re.M
    )
    number = "0123456789abcdef" * 2
    with (
        running(library) as server,
        nginx(tmp_path / "nginx", plain, server.address) as proxy,
        duplex(server, f"/video/stream?raw=1&block_size=10000&job={number}") as upload,
        httpx.Client(trust_env=False, timeout=30, base_url=proxy.url) as client,
    ):
        until((server.app[STATE].path / "streams" / f"{number}.stream").exists, "beginning")
        upload.send(b"x" * 30_000)
        with client.stream(
            "GET", f"/video/stream?job={number}", headers={"Accept": "application/x-ndjson"}
        ) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines))["event"] == "meta"
            for index in range(20):
                assert json.loads(next(lines))["data"]["index"] == index
                upload.send(b"x" * 10_000)
            upload.send(b"")
            assert json.loads(list(lines)[-1])["event"] == "done"


@needs_nginx
def test_leaving_through_nginx(tmp_path: Path) -> None:
    """nginx passes on that the client has left, and within a second nothing is left of it."""
    (tmp_path / "a.h4mk").write_bytes(track_of(120_000, 8, gop=1000))
    with (
        running(tmp_path) as server,
        nginx(tmp_path / "nginx", EXAMPLE, server.address) as proxy,
    ):
        # With room for little: the kernel would take all of it, on machines that let it.
        small = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)])
        with (
            httpx.Client(transport=small, timeout=30, base_url=proxy.url) as client,
            client.stream("GET", "/video/stream?name=a.h4mk") as answer,
        ):
            next(answer.iter_raw())
            container = server.app[LIBRARY]._containers["a.h4mk"]
            assert container.users == 1
        until(lambda: not container.users, "leaving", seconds=1)
        with duplex(proxy, "/video/stream?raw=1&block_size=10000") as one:  # type: ignore[arg-type]
            one.send(b"x" * 30_000)
            assert next(one.lines())["event"] == "meta"
            assert spools(server)
        until(lambda: not spools(server), "leaving", seconds=1)
