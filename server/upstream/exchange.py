"""Requests to another server: HTTP/1.1 over connections that stay open, one per thread, and no redirects.

A server cannot hold a request up for ever: each answer has an end in time, and one in bytes, from its first
status line to the last byte of its body.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import threading
import time
from typing import Any, Final
from urllib.parse import quote, urlsplit

from harmony4.crypto.errors import SourceError, UsageError

__all__ = ["Exchange", "target_of"]

_BROKEN: Final = (http.client.HTTPException, OSError, UnicodeError)
"""What the standard library raises; UnicodeError for names of hosts that are none."""
_SLOWEST: Final = 8 * 2**10
"""Bytes a second below which a server is given up, measured over a whole answer."""
_HEADS: Final = 256 * 2**10
"""Bytes of an answer that are not its body: status lines and headers, interim ones (1xx) as well."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Exchange:
    """Requests to one origin; may be used from several threads.

    `timeout` is how long connecting and each wait for data may take, seconds; an answer may take that long
    and a second for each 8 KiB that are asked for. `token` is sent along as `Authorization: Bearer`. Raises
    UsageError for another kind of URL, and for a token that cannot be sent.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, token: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError("not an address", where=url) from error
        kinds: dict[str, type[http.client.HTTPConnection]] = {
            "http": http.client.HTTPConnection,
            "https": http.client.HTTPSConnection,
        }
        kind = kinds.get(parts.scheme)
        host = parts.hostname
        if kind is None or not host:
            raise UsageError("not an address of a container", where=url, expected="http:// or https://")
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError("that is no token")
        self._kind, self._host = kind, host
        # Said, as http.client would look for it in an IPv6 address.
        self._port = kind.default_port if port is None else port
        self._timeout = timeout
        self._fields = {"Accept-Encoding": "identity"}
        if token is not None:
            self._fields["Authorization"] = f"Bearer {token}"
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []
        self._closed = False

    def request(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        most: int,
        into: memoryview | None = None,
        *,
        whole: bool = True,
    ) -> tuple[int, http.client.HTTPMessage, bytes | memoryview]:
        """One exchange: status, headers and, of a GET that is answered with 200 or 206, `most` bytes of body,
        into memory of that size if there is some.

        `whole`: fewer of them are an error. A connection that was closed while idle is replaced once. Raises
        SourceError, UsageError once it is closed.
        """
        if self._closed:
            raise UsageError("the source is closed")
        fresh = False
        while True:
            connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
            try:
                if connection is None:
                    fresh = True
                    connection = self._new()
                response = self._answer(connection, method, target, headers, most)
                has_body = response.status in (200, 206) and method == "GET"
                data = _body(response, most, into) if has_body else b""
                if has_body and whole and len(data) < most:
                    raise http.client.IncompleteRead(bytes(data), most - len(data))
                if method == "GET" and (not has_body or response.read(1)):
                    self._drop(connection)  # cheaper than reading a body that nobody wants
                else:
                    response.read()
                return response.status, response.headers, data
            except _BROKEN as error:
                if connection is not None:
                    self._drop(connection)
                if fresh or isinstance(error, TimeoutError):
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise SourceError(f"cannot read the remote source: {reason}") from error

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: dict[str, str],
        most: int,
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
        bound = _Bound(connection.sock, self._timeout, most)
        connection.sock.settimeout(self._timeout)
        connection.response_class = bound.response  # type: ignore[assignment]
        connection.request(method, target, headers={**self._fields, **headers})
        return connection.getresponse()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        connection = self._kind(self._host, self._port, timeout=self._timeout)
        with self._lock:
            if self._closed:
                raise UsageError("the source is closed")
            self._connections.append(connection)
        self._local.connection = connection
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            if connection in self._connections:
                self._connections.remove(connection)


class _Bound:
    """A socket as `http.client` reads one answer from it: until a time, and no more than so many bytes."""

    def __init__(self, sock: socket.socket, timeout: float, most: int) -> None:
        self._sock = sock
        self._timeout = timeout
        self._until = time.monotonic() + timeout + most / _SLOWEST
        self._left = most + _HEADS

    def response(self, _: socket.socket, *arguments: Any, **named: Any) -> http.client.HTTPResponse:
        """In place of the class HTTPResponse, which asks its socket for a file and nothing else."""
        return http.client.HTTPResponse(self, *arguments, **named)  # type: ignore[arg-type]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self, self._sock.makefile(mode, buffering=0)))  # type: ignore[call-overload]

    def read(self, raw: io.RawIOBase, out: memoryview) -> int:
        wait = min(self._timeout, self._until - time.monotonic())
        if wait <= 0:
            raise TimeoutError("the server is too slow")
        self._sock.settimeout(wait)
        done = raw.readinto(out) or 0
        self._left -= done
        if self._left < 0:
            raise http.client.HTTPException("the server sends more than was asked for")
        return done


class _Reader(io.RawIOBase):
    def __init__(self, bound: _Bound, raw: io.RawIOBase) -> None:
        self._bound = bound
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, out: Any) -> int:
        return self._bound.read(self._raw, memoryview(out))

    def close(self) -> None:
        self._raw.close()
        super().close()


def target_of(url: str) -> str:
    """Path and query of a URL, as a request line has them. What is not ASCII yet is escaped; escapes stay."""
    parts = urlsplit(url)
    return quote(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", safe="%/?&=:;,@+$!*'()~[]")


def _body(response: http.client.HTTPResponse, most: int, into: memoryview | None) -> bytes | memoryview:
    """Up to `most` bytes of a body, `into` memory of that size or new one."""
    if into is None:
        return response.read(most)
    done = 0
    while done < most and (count := response.readinto(into[done:])):
        done += count
    return into[:done]
