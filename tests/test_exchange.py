"""Requests to servers that do not end, send too much, or point somewhere else; over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harmony4.crypto import SourceError, UsageError
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.trust import Trust
from harmony4.server.upstream import exchange, fetching
from harmony4.server.upstream.exchange import Exchange
from harmony4.server.upstream.fetching import fetch_container, fetch_stream
from harmony4.server.upstream.remote import HTTPSource
from serving import VIDEO

KEY = SigningKey.from_number(5)
TRUST = Trust((KEY.public,))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@contextlib.contextmanager
def answering(*acts: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server whose n-th connection is answered by the n-th of these, and what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for act in acts:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                data = b""
                while b"\r\n\r\n" not in data and (more := connection.recv(2**16)):
                    data += more
                asked.append(data)
                act(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def forever(first: bytes, again: bytes) -> Callable[[socket.socket], None]:
    """`again`, each time that the other side has had a moment, until it goes away."""

    def act(connection: socket.socket) -> None:
        connection.sendall(first)
        connection.settimeout(0.02)
        while True:
            connection.sendall(again)
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    return

    return act


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT", 0.4)
    monkeypatch.setattr(exchange, "_SLOWEST", 2**30)


@pytest.mark.parametrize(
    "act",
    [
        forever(OK, b" "),
        forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        forever(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        forever(b"", b"H"),
    ],
)
def test_an_answer_that_does_not_end(act: Callable[[socket.socket], None]) -> None:
    """Each wait is short; all of them together are not."""
    with answering(act) as (url, _), contextlib.closing(Exchange(url, timeout=0.4)) as one:
        begin = time.monotonic()
        with pytest.raises(SourceError):
            one.request("GET", "/", {}, 100, whole=False)
        assert time.monotonic() - begin < 10


def test_an_answer_with_too_much_before_it() -> None:
    act = forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
    too_much = pytest.raises(SourceError, match="more than was asked for")
    with answering(act) as (url, _), contextlib.closing(Exchange(url, timeout=60)) as one, too_much:
        one.request("GET", "/", {}, 100)


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:{port}/x", "file:///etc/passwd", "ftp://127.0.0.1:{port}/x"]
)
def test_redirects_are_not_followed(tmp_path: Path, place: str) -> None:
    with H4MKBuilder.to_path(tmp_path / "a.h4mk", [VIDEO], signer=Signer(KEY)) as builder:
        builder.add_block(b"one", 0, key=True)
        builder.finish(ends={0: 1})
    data = (tmp_path / "a.h4mk").read_bytes()
    with answering(lambda _: None) as (other, asked):
        location = place.format(port=other.rpartition(":")[2]).encode()
        found = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
        size = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
        with answering(lambda one: one.sendall(size), lambda one: one.sendall(found)) as (url, requests):
            stream = f"{url}/video/range?name=a.h4mk"
            with pytest.raises(SourceError, match="HTTP 302"):
                fetch_stream(stream, tmp_path / "f", TRUST)
        assert b"/video/proof" in requests[1]
        with answering(lambda one: one.sendall(found), lambda one: one.sendall(found)) as (url, _):
            container = f"{url}/container?name=a.h4mk"
            with pytest.raises(SourceError, match="HTTP 302"):
                HTTPSource(container, timeout=1)
    assert asked == []


@pytest.mark.parametrize("bring", [fetch_stream, fetch_container])
def test_a_token_is_sent_along(tmp_path: Path, bring: Callable[..., object]) -> None:
    with answering(lambda _: None) as (url, asked), pytest.raises(SourceError):
        bring(f"{url}/video/range?name=a", tmp_path / "f", TRUST, token="abc.def_1-2=")
    assert all(b"\r\nAuthorization: Bearer abc.def_1-2=\r\n" in one for one in asked) and asked
    for wrong in ("", "a b", "a\r\nHost: x", "ü"):
        with pytest.raises(UsageError, match="no token"):
            Exchange("http://127.0.0.1/", token=wrong)


def test_an_address_that_is_none() -> None:
    for url in ("ftp://h/", "http://[/", "http:///x", "http://h:x/"):
        with pytest.raises(UsageError, match="not an address"):
            Exchange(url)


def test_a_slow_server_has_time_for_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more is asked for, the later is too late."""
    monkeypatch.setattr(exchange, "_SLOWEST", 10)

    def slowly(connection: socket.socket) -> None:
        connection.sendall(OK)
        for _ in range(100):
            connection.sendall(b"x")
            connection.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                connection.recv(1)

    with answering(slowly) as (url, _), contextlib.closing(Exchange(url, timeout=0.4)) as one:
        assert one.request("GET", "/", {}, 100)[2] == b"x" * 100
