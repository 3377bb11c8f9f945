"""A container (or any file) on another server as a source for the reader: `H4MKReader(HTTPSource(url))`.

Bytes come by HTTP ranges. The source notices when the file is replaced in between: its strong ETag (else its
Last-Modified) must stay the same.
"""

from __future__ import annotations

import http.client
import re
from types import TracebackType
from typing import Final, Self

from harmony4.crypto.errors import LimitError, SourceChangedError, SourceError
from harmony4.server.upstream.exchange import Exchange, target_of

__all__ = ["HTTPSource"]

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_MAX_READ: Final = 64 * 2**20


class HTTPSource:
    """Bytes at an http or https URL, read at offsets; may be used from several threads.

    `timeout` and `token` are as for `Exchange`. Raises UsageError for another kind of URL, SourceError where
    the server cannot be reached, does not answer ranges or answers them wrongly, SourceChangedError where the
    file behind the URL is no longer the one that was opened.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, token: str | None = None) -> None:
        self._exchange = Exchange(url, timeout=timeout, token=token)
        self._target = target_of(url)
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
        status, answer, data = self._exchange.request("GET", self._target, headers, stop - offset, into)
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
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        """The length, by HEAD; where a server has none to tell, by asking for the first byte."""
        status, answer, _ = self._exchange.request("HEAD", self._target, {}, 0)
        length = answer.get("Content-Length", "")
        if status != 200 or not _LENGTH.fullmatch(length):
            status, answer, _ = self._exchange.request("GET", self._target, {"Range": "bytes=0-0"}, 1)
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
