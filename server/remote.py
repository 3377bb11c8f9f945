"""A container (or any file) on another server as a source for the reader: `H4MKReader(HTTPSource(url))`.

Bytes come by HTTP ranges over connections that stay open, one per thread that reads. The source notices when
the file is
replaced in between: its strong ETag (else its Last-Modified) must stay the same.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

from harmony4.crypto.errors import LimitError, SourceChangedError, SourceError, UsageError

__all__ = ["HTTPSource"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_BROKEN: Final = (http.client.HTTPException, OSError, UnicodeError)
"""What the standard library raises; UnicodeError for names of hosts that are none."""
_MAX_READ: Final = 64 * 2**20


class HTTPSource:
    """Bytes at an http or https URL, read at offsets; may be used from several threads.

    `timeout` is how long connecting and each wait for data may take, seconds. Raises UsageError for another
    kind of
    URL, SourceError where the server cannot be reached, does not answer ranges or answers them wrongly,
    SourceChangedError where the file behind the URL is no longer the one that was opened.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
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
        self._connect: Callable[[], http.client.HTTPConnection] = lambda: kind(
            host,
            # Said, as http.client would look for it in an IPv6 address.
            kind.default_port if port is None else port,
            timeout=timeout,
        )
        # What is not ASCII yet is escaped; escapes that are there stay.
        self._target = quote(
            f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", safe="%/?&=:;,@+$!*'()~[]"
        )
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []
        self._closed = False
        self._validator: tuple[str, str] | None = None
        try:
            self._size = self._open()
        except BaseException:
            self.close()
            raise

    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end."""
        if count > _MAX_READ:
            raise LimitError(
                "one read of a remote source is too large", expected=f"<= {_MAX_READ}", found=count
            )
        stop = min(offset + count, self._size)
        if offset < 0 or stop <= offset:
            return b""
        return bytes(self._range(offset, stop, None))

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """`read_at` into memory that is there already; returns how many bytes that are."""
        stop = min(offset + len(buffer), self._size)
        if offset < 0 or stop <= offset:
            return 0
        return len(self._range(offset, stop, buffer[: stop - offset]))

    def _range(self, offset: int, stop: int, into: memoryview | None) -> bytes | memoryview:
        headers = {"Range": f"bytes={offset}-{stop - 1}"}
        if self._validator is not None and self._validator[0] == "ETag":
            # A changed file answers 200 instead of mixing two versions.
            headers["If-Range"] = self._validator[1]
        status, answer, data = self._request("GET", headers, stop - offset, into)
        if status == 200 and (offset, stop) == (0, self._size) and self._same(answer):
            return data
        if status != 206 or not self._same(answer):
            raise SourceChangedError("the remote container was replaced", found=f"HTTP {status}")
        match = _CONTENT_RANGE.fullmatch(answer.get("Content-Range", ""))
        if match is None or tuple(map(int, match.groups())) != (offset, stop - 1, self._size):
            raise SourceError("the server sent another range than was asked for", where=offset)
        return data

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        """The length, by HEAD; where a server has none to tell, by asking for the first byte."""
        status, answer, _ = self._request("HEAD", {}, 0)
        length = answer.get("Content-Length", "")
        if status != 200 or not _LENGTH.fullmatch(length):
            status, answer, _ = self._request("GET", {"Range": "bytes=0-0"}, 1)
            match = _CONTENT_RANGE.fullmatch(answer.get("Content-Range", ""))
            if status != 206 or match is None:
                raise SourceError("the server does not answer byte ranges", found=f"HTTP {status}")
            length = match[3]
        etag = answer.get("ETag")
        if etag is not None and etag.startswith('"'):
            self._validator = ("ETag", etag)
        elif (modified := answer.get("Last-Modified")) is not None:
            self._validator = ("Last-Modified", modified)
        return int(length)

    def _same(self, answer: http.client.HTTPMessage) -> bool:
        return (
            self._validator is None
            or answer.get(self._validator[0], self._validator[1]) == self._validator[1]
        )

    def _request(
        self, method: str, headers: dict[str, str], most: int, into: memoryview | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes | memoryview]:
        """One exchange; `most` bytes of body are read, into memory of that size if there is some.

        A connection that was closed while idle is replaced once.
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
                connection.request(method, self._target, headers={"Accept-Encoding": "identity", **headers})
                response = connection.getresponse()
                whole = response.status in (200, 206) and method == "GET"
                data = _body(response, most, into) if whole else b""
                if whole and len(data) < most:
                    raise http.client.IncompleteRead(bytes(data), most - len(data))
                if method == "GET" and (not whole or response.read(1)):
                    self._drop(connection)  # cheaper than reading a body that nobody wants
                else:
                    response.read()
                return response.status, response.headers, data
            except _BROKEN as error:
                if connection is not None:
                    self._drop(connection)
                if fresh:
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise SourceError(f"cannot read the remote source: {reason}") from error

    def _new(self) -> http.client.HTTPConnection:
        connection = self._connect()
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


def _body(response: http.client.HTTPResponse, most: int, into: memoryview | None) -> bytes | memoryview:
    """Up to `most` bytes of a body, `into` memory of that size or new one."""
    if into is None:
        return response.read(most)
    done = 0
    while done < most and (count := response.readinto(into[done:])):
        done += count
    return into[:done]
