"""server/upstream/remote.py: a container on another server as a source of the reader."""

from __future__ import annotations

import random
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harmony4.crypto.errors import LimitError, SourceChangedError, SourceError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.upstream.remote import HTTPSource
from serving import running, write_container

DATA = random.Random(1).randbytes(100_000)


class Files(BaseHTTPRequestHandler):
    """A small web server that can be told to behave in the ways that servers behave."""

    protocol_version = "HTTP/1.1"
    data: ClassVar[bytes] = DATA
    etag: ClassVar[str | None] = '"one"'
    mode: ClassVar[str] = "good"
    connections: ClassVar[int] = 0
    requests: ClassVar[list[tuple[str, str | None]]] = []

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, *, send: bool) -> None:
        wanted = self.headers["Range"]
        self.requests.append((self.command, wanted))
        mode = self.mode
        if mode == "error" or (mode == "no HEAD" and not send):
            self.send_error(405)
            return
        body, status = self.data, 200
        if wanted and mode != "no ranges" and self.headers.get("If-Range", self.etag) == self.etag:
            first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            body, status = self.data[first : last + 1], 206
        self.send_response(status)
        if self.etag is not None:
            self.send_header("ETag", self.etag)
        if status == 206:
            shift = 1 if mode == "wrong range" else 0
            size = "9" * 5000 if mode == "long range" else len(self.data)
            self.send_header("Content-Range", f"bytes {first + shift}-{last + shift}/{size}")
        short = mode == "short" and send
        wrong = mode.startswith("length ") and not send
        self.send_header("Content-Length", mode.removeprefix("length ") if wrong else str(len(body)))
        if mode == "closes":
            self.send_header("X-Note", "closes without saying so")
        self.end_headers()
        if send:
            self.wfile.write(body[: len(body) // 2] if short else body)
        if mode == "closes" or short:
            self.close_connection = True


@contextmanager
def files(**settings: Any) -> Iterator[tuple[str, type[Files]]]:
    handler = type("Handler", (Files,), {"connections": 0, "requests": [], **settings})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/x y?q=ä%20b", handler
        finally:
            server.shutdown()
            thread.join()


def test_reads() -> None:
    with files() as (url, handler), HTTPSource(url) as source:
        assert source.size() == len(DATA)
        assert source.read_at(0, 10) == DATA[:10]
        assert source.read_at(99_990, 100) == DATA[-10:]
        assert source.read_at(500, 70_000) == DATA[500:70_500]
        assert source.read_at(0, len(DATA)) == DATA
        assert source.read_at(len(DATA), 5) == source.read_at(7, 0) == b""
        assert handler.connections == 1  # it is kept open
        assert [method for method, _ in handler.requests] == ["HEAD", "GET", "GET", "GET", "GET"]
        with pytest.raises(LimitError):
            source.read_at(0, 2**30)


def test_without_head_and_etag() -> None:
    with files(mode="no HEAD", etag=None) as (url, _), HTTPSource(url) as source:
        assert source.size() == len(DATA)
        assert source.read_at(5, 5) == DATA[5:10]


def test_connection_that_was_closed_while_idle() -> None:
    with files(mode="closes") as (url, handler), HTTPSource(url) as source:
        for start in range(0, 50, 10):
            assert source.read_at(start, 10) == DATA[start : start + 10]
        assert handler.connections > 4


def test_threads() -> None:
    with files() as (url, handler), HTTPSource(url) as source, ThreadPoolExecutor(4) as pool:
        starts = [n * 1000 for n in range(100)]
        found = list(pool.map(lambda start: source.read_at(start, 1000), starts))
        assert found == [DATA[start : start + 1000] for start in starts]
        assert handler.connections <= 5


def test_replaced() -> None:
    for before, after in (('"one"', '"two"'), (None, None)):
        with files(etag=before) as (url, handler), HTTPSource(url) as source:
            assert source.read_at(0, 10) == DATA[:10]
            handler.etag = after
            handler.data = DATA[:50_000]
            with pytest.raises(SourceError) as caught:
                source.read_at(10, 10)
            assert isinstance(caught.value, SourceChangedError) == (before is not None)


@pytest.mark.parametrize("mode", ["no ranges", "wrong range", "short"])
def test_servers_that_lie(mode: str) -> None:
    with files(mode=mode) as (url, _), HTTPSource(url) as source, pytest.raises(SourceError):
        source.read_at(10, 1000)


@pytest.mark.parametrize(
    "length", ["\xb2", "9" * 5000, "-1", "+1", "1_0", ""], ids=lambda text: ascii(text)[:9]
)
def test_lengths_that_are_none(length: str) -> None:
    """Then the first byte is asked for, whose answer has a better one."""
    with files(mode=f"length {length}") as (url, _), HTTPSource(url) as source:
        assert source.size() == len(DATA)


def test_a_range_of_a_length_that_is_none() -> None:
    with files(mode="no HEAD") as (url, handler):
        handler.mode = "long range"
        with HTTPSource(url) as source, pytest.raises(SourceError):
            source.read_at(0, 10)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "a b", "\u00ad", "[::ffff]"], ids=ascii)
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises((SourceError, UsageError)):
        HTTPSource(f"http://{host}/", timeout=1)


def test_no_server_and_errors() -> None:
    with files(mode="error") as (url, _), pytest.raises(SourceError, match="byte ranges"):
        HTTPSource(url)
    with pytest.raises(SourceError, match="cannot read the remote source"):
        HTTPSource(url)  # it is gone by now
    for wrong in ("ftp://x/y", "file:///etc/passwd", "http://", "x.h4mk", "http://a:b/c", "http://[::1/c"):
        with pytest.raises(UsageError):
            HTTPSource(wrong)


def test_what_speaks_no_http() -> None:
    class Noise(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Noise) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with pytest.raises(SourceError):
            HTTPSource(f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()
        thread.join()


def test_closed() -> None:
    with files() as (url, _):
        source = HTTPSource(url)
        source.close()
        source.close()
        with pytest.raises(UsageError, match="closed"):
            source.read_at(0, 1)


def test_container_inside_of_a_container_over_http(tmp_path: Path) -> None:
    """A container as opaque payload of another, read by ranges from our own server: few, small reads."""
    blocks = [random.Random(n).randbytes(50_000) for n in range(60)]
    write_container(tmp_path / "inner.h4mk", blocks)
    inner = (tmp_path / "inner.h4mk").read_bytes()
    write_container(tmp_path / "outer.h4mk", [inner[:1_000_000], inner[1_000_000:]])
    with running(tmp_path) as server:
        url = f"{server.url}/video/range?name=outer.h4mk"
        with HTTPSource(url) as source, H4MKReader(source) as reader:
            assert reader.state == "sealed"
            assert reader.read(123_456, 100_000) == b"".join(blocks)[123_456:223_456]
            found = reader.seek(30_500_000)
            assert found is not None
            assert found.offset == 1_500_000
            assert reader.mapping is None
