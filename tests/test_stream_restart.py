"""A server goes away and comes back while somebody reads a stream: no token is lost, none comes twice."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog

from chromium import chromium
from harmony4.h4mk import H4MKReader
from harmony4.server.exporting.ingest import export
from needs import ROOT, needs_chromium, needs_nginx
from processes import Served, needs_proc, served, until
from programs import ROOM, documented, nginx
from samples import track_of
from test_arriving_http import duplex
from test_sound_http import wav

EXAMPLE = "".join(documented("## Behind nginx")[1:])
TOKENS = 120_000
"""More than fits between a server and a page that does not read: 24 MB."""
LISTEN = """() => {
  const seen = (window.seen = { ids: [], kinds: [], errors: 0, closed: false });
  const source = new EventSource("/video/stream?name=a.h4mk");
  source.addEventListener("token", (event) => {
    if (seen.ids.push(event.lastEventId) === 1000) alert("as long as this stands here, nothing is read");
  });
  for (const kind of ["meta", "done", "problem", "reset", "restart"])
    source.addEventListener(kind, () => seen.kinds.push(kind));
  source.onerror = () => {
    seen.errors += 1;
    seen.closed = source.readyState === EventSource.CLOSED;
  };
}"""

HEAR = """async () => {
  const { listen } = await import("/static/api.js");
  const heard = (window.heard = { open: 0, closed: false, media: [] });
  const listening = (window.listening = listen());
  listening.addEventListener("open", () => (heard.open += 1));
  listening.addEventListener("media", (event) => heard.media.push(JSON.parse(event.data).name));
  const { source } = listening;
  source.addEventListener("error", () => (heard.closed = source.readyState === EventSource.CLOSED));
}"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.h4mk").write_bytes(track_of(TOKENS, 8, gop=1000))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def read_across_a_restart(browser: Browser, library: Path, server: Served, url: str) -> dict[str, Any]:
    """What a page at `url` hears, whose server stops in the middle, stays away, and comes back."""
    page = browser.new_page()

    def stop(dialog: Dialog) -> None:
        server.process.send_signal(signal.SIGTERM)
        until(server.refuses, "stopping")
        dialog.accept()

    def hears(what: str) -> bool:
        return bool(page.evaluate(f"() => {what}"))

    page.on("dialog", stop)
    page.goto(url)
    page.evaluate(LISTEN)
    until(lambda: hears("seen.kinds.includes('restart') || seen.closed"), "the end of the stream")
    assert server.process.wait(ROOM) == 0
    before = page.evaluate("() => seen.errors")
    until(lambda: hears(f"seen.errors >= {before + 2} || seen.closed"), "asking in vain")
    assert not hears("seen.closed"), "it has given up"
    with served(library, "--port", server.address[1]):
        until(lambda: hears("seen.closed"), "the end of all")
        seen: dict[str, Any] = page.evaluate("() => seen")
        return seen


def everything_once(library: Path, seen: dict[str, Any]) -> None:
    with H4MKReader(library / "a.h4mk") as reader:
        assert reader.head is not None
        seal = reader.head.hex()[:8]
    assert seen["ids"] == [f"{seal}-0-{index}" for index in range(TOKENS)]


@needs_chromium
@needs_proc
def test_chromium_waits_for_the_server(browser: Browser, library: Path) -> None:
    """Nobody listens: it asks again until somebody does."""
    with served(library) as server:
        seen = read_across_a_restart(browser, library, server, server.url)
    everything_once(library, seen)
    assert seen["kinds"] == ["meta", "restart", "meta", "done"]


@needs_chromium
@needs_nginx
@needs_proc
def test_chromium_waits_behind_nginx(browser: Browser, library: Path, tmp_path: Path) -> None:
    """nginx would answer 502, after which EventSource never asks again: here it answers with a stream."""
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    away = text[text.index("    location @away {") :].partition("    }\n\n")[0]
    assert away in EXAMPLE
    text = text.replace("/var/log/nginx/harmony4.log", str(tmp_path / "access.log"))
    with served(library) as server, nginx(tmp_path / "nginx", text, server.address) as proxy:
        seen = read_across_a_restart(browser, library, server, proxy.url)
    everything_once(library, seen)
    first, *away, again, last = seen["kinds"]
    assert (first, again, last) == ("meta", "meta", "done")
    assert set(away) == {"restart"}
    assert len(away) >= 3


@needs_chromium
@needs_nginx
@needs_proc
def test_the_page_asks_again_whatever_a_proxy_says(browser: Browser, tmp_path: Path) -> None:
    """Its own stream of events does not depend on how nginx is set up."""
    plain = EXAMPLE.replace("error_page 502 504 = @away;", "")
    shelf = tmp_path / "library"
    shelf.mkdir()
    with served(shelf) as server, nginx(tmp_path / "nginx", plain, server.address) as proxy:
        page = browser.new_page()
        page.goto(proxy.url)
        page.evaluate(HEAR)
        until(lambda: page.evaluate("() => heard.open") == 1, "listening")
        assert server.stop()[0] == 0
        until(lambda: page.evaluate("() => heard.closed"), "a 502")
        with served(shelf, "--port", server.address[1]):
            until(lambda: page.evaluate("() => heard.open") == 2, "asking again")
            (shelf / "new.h4mk").write_bytes(track_of(1, 8))
            until(lambda: page.evaluate("() => heard.media") == ["new.h4mk"], "hearing of it")
            page.evaluate("() => listening.close()")


@needs_proc
def test_open_streams_end_when_the_server_does(library: Path, tmp_path: Path) -> None:
    """Each says so in an event, whatever it is waiting for: at once where it can be taken up again, else when
    the time that it had is nearly over. The exit waits for nothing else.
    """
    number, grace = "0123456789abcdef" * 2, 8
    raw = "/video/stream?raw=1&block_size=10000"
    shutil.copy(library / "a.h4mk", tmp_path / "video.h4mk")
    # More answer than the buffers on the way hold: who does not read is in the middle of it.
    export(io.BytesIO(wav(bytes(2 * 256 * 32 * 800), channels=32)), tmp_path / "audio.h4mk")
    with served(tmp_path, HARMONY4_STOP_TIMEOUT=str(grace)) as server, ExitStack() as clients:

        def ask(target: str) -> http.client.HTTPResponse:
            """An answer of which nothing is read yet but the head."""
            connection = clients.enter_context(closing(http.client.HTTPConnection(*server.address)))
            connection.sock = server.connect(small=True).socket
            connection.request("GET", target, headers={"Accept": "application/x-ndjson"})
            return connection.getresponse()

        job = clients.enter_context(duplex(server, f"{raw}&job={number}"))
        job.send(bytes(50_000))
        sending = [
            clients.enter_context(duplex(server, target))
            for target in (raw, "/audio/stream?pcm=s16le&rate=8000&channels=1&profile=detail")
        ]
        for one in sending:
            one.send(bytes(100_000))
        answers = [one.lines() for one in sending]
        for answer in answers:
            assert next(answer)["event"] == "meta"
        until(lambda: ask(f"/video/stream?job={number}").status == 200, "the job's stream")
        listening = [
            ask("/video/stream?name=video.h4mk"),
            ask("/audio/stream?name=audio.h4mk&profile=detail&each=1"),
            ask(f"/video/stream?job={number}"),
        ]
        assert [one.status for one in listening] == [200, 200, 200]
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for one in listening:
            assert json.loads(one.read().splitlines()[-1])["event"] == "restart"
        assert time.monotonic() - began < grace / 2
        for sender, answer in zip(sending, answers, strict=True):
            *_, last = answer
            assert (last["event"], last["data"]["type"]) == ("problem", "urn:harmony4:problem:stopping")
            sender.socket.close()  # it knows that its upload is in vain
        job.socket.close()
        assert server.process.wait(ROOM) == 0
        assert grace - 2 < time.monotonic() - began < grace * 1.5
