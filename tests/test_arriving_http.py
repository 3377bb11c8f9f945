"""POST `/video/stream`: the tokens of media that are still arriving."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from harmony4.server.errors import Problem
from harmony4.server.folder.facts import token_facts
from harmony4.server.keys import OUTLETS, STATE, STATUS, TALLY
from harmony4.server.streams import making, spill
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import media
from needs import needs_ffmpeg
from processes import Served, needs_proc, served, until
from serving import LOOPS, Answer, Server, running
from test_sse import parse
from test_tokenizer_stream import cut, places

each_loop = pytest.mark.parametrize("loop", LOOPS)
RAW = "/video/stream?raw=1&block_size=10000"
OCTETS = "application/octet-stream"
LINES = "application/x-ndjson"


def events(answer: Answer) -> list[tuple[str, Any, str]]:
    assert answer.status == 200
    body = answer.body.removeprefix(b"retry: 2000\n\n")
    return [(name, json.loads(data), number) for name, data, number in parse(body)]


def tokens_of(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [token_facts(token.record) for token in VideoTransportTokenizer().encode(file)]


class Duplex:
    """One request whose body and answer are sent and read at the caller's pace; the answer as JSON lines."""

    def __init__(self, server: Server | Served, target: str, accept: str, *fields: str) -> None:
        self.socket = socket.create_connection(server.address, timeout=30)
        self._rest = b""
        head = [f"POST {target} HTTP/1.1", "Host: localhost", f"Accept: {accept}", *fields]
        self.socket.sendall("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Without bytes: the end."""
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def lines(self) -> Iterator[Any]:
        """The answer's lines as they come, to its end."""
        answer = self.socket.makefile("rb")
        status = answer.readline()
        assert status.startswith(b"HTTP/1.1 200"), status
        while (field := answer.readline()) != b"\r\n":
            assert field, "the head breaks off"
        data = b""
        while size := int(answer.readline(), 16):
            data += answer.read(size)
            answer.readline()
            *whole, data = data.split(b"\n")
            yield from map(json.loads, whole)
        assert not data


@contextmanager
def duplex(server: Server | Served, target: str, accept: str = LINES, *fields: str) -> Iterator[Duplex]:
    one = Duplex(server, target, accept, *fields)
    try:
        yield one
    finally:
        one.socket.close()


def spools(server: Server) -> list[Path]:
    folder = server.app[STATE].path / "spool"
    return list(folder.iterdir()) if folder.exists() else []


@needs_ffmpeg
@each_loop
@pytest.mark.parametrize("name", ["fragmented.mp4", "plain.mp4", "moovend.mp4", "plain.ts", "plain.webm"])
def test_real_media(tmp_path: Path, loop: str, name: str) -> None:
    path = media(name)
    with running(tmp_path, loop=loop) as server:
        (first, meta, _), *tokens, (last, done, _) = events(
            server.request("POST", "/video/stream", body=path.read_bytes())
        )
        assert (first, last) == ("meta", "done")
        assert [data for _, data, _ in tokens] == tokens_of(path)
        assert [number for _, _, number in tokens] == [f"00000000-0-{n}" for n in range(len(tokens))]
        assert meta["spooled"] == (name == "moovend.mp4")
        assert (done["tokens"], done["bytes"], done["note"]) == (len(tokens), path.stat().st_size, None)
        assert done["duration"] == tokens[-1][1]["end"]
        until(lambda: not spools(server), "clearing up")


@needs_ffmpeg
def test_the_body_may_come_as_a_form(tmp_path: Path) -> None:
    data = media("fragmented.mp4").read_bytes()
    form = (
        b"--x\r\nContent-Disposition: form-data; name=block_size\r\n\r\n100000\r\n"
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a.mp4\r\n\r\n" + data + b"\r\n--x--\r\n"
    )
    with running(tmp_path) as server:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        by_form = server.request("POST", "/video/stream", kind, form)
        plain = server.request("POST", "/video/stream?block_size=100000", body=data)
        assert events(by_form) == events(plain)


@each_loop
def test_tokens_come_while_the_media_are_arriving(tmp_path: Path, loop: str) -> None:
    """A token needs its successor; it is there before the third block has begun."""
    with running(tmp_path, loop=loop) as server, duplex(server, RAW) as one:
        one.send(b"x" * 20_000)
        one.send(b"x" * 10_000)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        assert next(lines)["data"]["index"] == 0
        for number in range(1, 20):
            one.send(b"x" * 10_000)
            assert next(lines)["data"]["index"] == number
        one.send(b"")
        assert [line["event"] for line in lines] == ["token", "token", "done"]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/video/stream", "fragmented.mp4"),
        ("/video/stream", "moovend.mp4"),
        ("/video/stream", "plain.ts"),
        ("/audio/stream?profile=detail", "plain.mkv"),
        ("/audio/stream?profile=detail", "tone.wav"),
    ],
)
def test_chunks_of_any_length(tmp_path: Path, target: str, name: str) -> None:
    data = media(name).read_bytes()
    with running(tmp_path) as server:
        whole = server.request("POST", target, {"Accept": LINES}, data)
        expected = [json.loads(line) for line in whole.body.splitlines()]
        assert expected[-1]["event"] == "done"

        @given(places(len(data)))
        @settings(max_examples=8)
        def check(at: list[int]) -> None:
            with duplex(server, target) as one:
                for piece in cut(data, at):
                    one.send(piece)
                one.send(b"")
                assert list(one.lines()) == expected

        check()


@each_loop
def test_a_client_that_reads_only_when_it_has_sent_everything(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More unread answer than all buffers on the way hold; without the spill both would wait for ever."""
    monkeypatch.setattr(spill, "_MEMORY", 2**12)
    blocks = 40_000  # 12 MB of answer
    with running(tmp_path, loop=loop) as server, duplex(server, "/video/stream?raw=1&block_size=8") as one:
        for _ in range(blocks // 1000):
            one.send(b"12345678" * 1000)
        until(lambda: any((each / "unread").exists() for each in spools(server)), "spilling")
        one.send(b"")
        _, *tokens, done = one.lines()
        assert [line["data"]["index"] for line in tokens] == list(range(blocks))
        assert done["data"]["tokens"] == blocks
        until(lambda: not spools(server), "clearing up")


def test_what_may_be_left_unread_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_MEMORY", 2**12)
    full = threading.Event()
    write = spill.Spill._write

    async def watched(self: spill.Spill, data: bytes) -> None:
        try:
            await write(self, data)
        except Problem:
            full.set()
            raise

    monkeypatch.setattr(spill.Spill, "_write", watched)
    with (
        running(tmp_path, stream_spill=2**20) as server,
        duplex(server, "/video/stream?raw=1&block_size=8") as one,
    ):
        for _ in range(40):
            one.send(b"12345678" * 1000)
        assert full.wait(30)
        *_, last = one.lines()
        assert last["event"] == "problem"
        assert last["data"]["type"] == "urn:harmony4:problem:unread"
        assert last["data"]["status"] == 503


@each_loop
def test_a_body_that_stops_in_the_middle(tmp_path: Path, loop: str) -> None:
    with running(tmp_path, loop=loop, read_timeout=0.3) as server:
        with duplex(server, RAW) as one:  # nothing comes any more
            one.send(b"x" * 50_000)
            *_, last = one.lines()
            assert (last["event"], last["data"]["type"]) == ("problem", "urn:harmony4:problem:timeout")
        with duplex(server, RAW) as one:  # broken framing
            one.send(b"x" * 50_000)
            lines = one.lines()
            assert next(lines)["event"] == "meta"
            one.socket.sendall(b"zz\r\n")
            *_, last = lines
            assert last["event"] == "problem"
            assert last["data"]["type"].rpartition(":")[2] in ("body", "timeout")  # the parser may just stop
        until(lambda: not spools(server), "clearing up")


@each_loop
def test_a_client_that_leaves(tmp_path: Path, loop: str) -> None:
    """In the middle of its upload, or while it is waited for: within a second nothing is left of it."""
    with running(tmp_path, loop=loop) as server:
        for sent in (b"x" * 50_000, b""):
            with duplex(server, RAW) as one:
                if sent:
                    one.send(sent)
                until(lambda: bool(spools(server)), "beginning")
            until(lambda: not spools(server), "leaving", seconds=1)


def stalled(server: Server, target: str, body: bytes = b"", method: str = "POST") -> socket.socket:
    """A client that has asked for something, has sent all of it, and takes nothing of the answer."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(30)
    one.connect(server.address)
    one.sendall(
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    one.sendall(body)
    return one


@each_loop
def test_a_client_that_stops_reading(tmp_path: Path, loop: str) -> None:
    """It sends all and takes nothing: more than the buffers on the way hold, and after a while it is cut."""
    body = b"12345678" * 60_000  # 18 MB of answer
    with (
        running(tmp_path, loop=loop, write_timeout=0.5) as server,
        stalled(server, "/video/stream?raw=1&block_size=8", body),
    ):
        until(lambda: server.app[TALLY].counts["broken|stuck"] == 1, "cutting off")
        until(lambda: not spools(server) and not server.app[OUTLETS], "clearing up")


def test_a_server_that_stops(tmp_path: Path) -> None:
    with running(tmp_path) as server, duplex(server, RAW) as one:
        one.send(b"x" * 30_000)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        server.app[STATUS].stopping = True
        *_, last = lines
        assert (last["event"], last["data"]["type"]) == ("problem", "urn:harmony4:problem:stopping")


@needs_proc
def test_what_arrives_while_a_server_stops(tmp_path: Path) -> None:
    """It may come to its end within the grace period; what is not there by then is told that it is over."""
    with served(tmp_path, HARMONY4_STOP_TIMEOUT="6") as server:
        with duplex(server, RAW) as quick, duplex(server, RAW) as slow:
            heard = [one.lines() for one in (quick, slow)]
            for one, lines in zip((quick, slow), heard, strict=True):
                one.send(b"x" * 30_000)
                assert next(lines)["event"] == "meta"
            server.process.send_signal(signal.SIGTERM)
            until(server.refuses, "stopping")
            quick.send(b"y" * 30_000)
            quick.send(b"")
            *_, last = heard[0]
            assert (last["event"], last["data"]["bytes"]) == ("done", 60_000)
            *_, last = heard[1]
            assert (last["event"], last["data"]["type"]) == ("problem", "urn:harmony4:problem:stopping")
        assert server.process.wait(30) == 0


def test_a_quiet_stream_is_kept_awake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_QUIET", 0.05)
    monkeypatch.setattr(making, "_LOOK", 0.01)
    with running(tmp_path) as server, socket.create_connection(server.address, timeout=30) as one:
        head = f"POST {RAW} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        one.sendall(head.encode())
        received = b""
        while received.count(b": ping") < 2:
            received += one.recv(1000)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"retry: 2000" in received


REFUSED = [
    ("/video/stream?name=a.h4mk", {}, 400, "usage"),
    ("/video/stream?title=a", {}, 400, "usage"),
    ("/video/stream?remux=1", {}, 400, "usage"),
    ("/video/stream?block_size=0", {}, 400, "usage"),
    ("/video/stream?gop=0", {}, 400, "usage"),
    ("/video/stream?what=1", {}, 400, "usage"),
    ("/video/stream", {"Accept": "image/png"}, 406, "accept"),
    ("/video/stream", {"Content-Encoding": "gzip"}, 415, "content-type"),
    ("/video/stream", {"Content-Type": "multipart/mixed; boundary=x"}, 415, "content-type"),
]


@pytest.mark.parametrize(("target", "fields", "status", "code"), REFUSED)
def test_what_is_refused(tmp_path: Path, target: str, fields: dict[str, str], status: int, code: str) -> None:
    with running(tmp_path) as server:
        answer = server.request("POST", target, fields, b"x" * 100)
        assert (answer.status, answer.problem) == (status, code)
        assert not spools(server)


@needs_ffmpeg
def test_media_that_cannot_be_read(tmp_path: Path) -> None:
    """Before the first token by a status; behind it by an event, or by a note where the rest is stored."""
    data = media("plain.mp4").read_bytes()
    with running(tmp_path) as server:
        answer = server.request("POST", "/video/stream", body=data[:2000])
        assert (answer.status, answer.problem) == (422, "media")
        *_, (name, done, _) = events(server.request("POST", "/video/stream", body=data[: len(data) // 2]))
        assert (name, done["bytes"]) == ("done", len(data) // 2)
    with running(tmp_path, max_upload=1000) as server:
        answer = server.request("POST", "/video/stream", body=data)
        assert (answer.status, answer.problem) == (413, "limit")
        with duplex(server, RAW) as one:
            one.send(b"x" * 900)
            one.send(b"x" * 101)
            assert b"413" in one.socket.recv(100)


def test_records_break_off(tmp_path: Path) -> None:
    """They have no words for what is wrong: the connection says it."""
    with running(tmp_path, read_timeout=0.3) as server, duplex(server, RAW, OCTETS) as one:
        one.send(b"x" * 50_000)
        one.socket.settimeout(30)
        received = b""
        try:
            while piece := one.socket.recv(2**16):
                received += piece
        except ConnectionError:
            pass
        assert not received.endswith(b"0\r\n\r\n")


def test_an_empty_body(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        (first, meta, _), (last, done, _) = events(server.request("POST", "/video/stream", body=b""))
        assert (first, last, done["tokens"], done["bytes"]) == ("meta", "done", 0, 0)
        assert meta["timing"] == "hint"


def test_nothing_is_left_in_the_library(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.request("POST", RAW, body=b"x" * 50_000)
        assert [name for name in os.listdir(tmp_path) if name.endswith(".h4mk")] == []  # noqa: PTH208
        assert server.get("/jobs").json["jobs"] == []
