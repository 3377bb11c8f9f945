"""A track's stream as a raw, seekable file object."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

from harmony4.crypto.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BlockFile"]


class _Streams(Protocol):
    def stream_size(self, track: int, /) -> int: ...

    def read(self, start: int, length: int, track: int, /) -> bytes: ...


class BlockFile(io.RawIOBase):
    """Reads the payloads of one track, concatenated. Holds a position, so one thread at a time."""

    def __init__(self, reader: _Streams, track: int) -> None:
        self._reader = reader
        self._track = track
        self._size = reader.stream_size(track)
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Offset in the stream, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move. Raises UsageError for a negative position or an unknown `whence`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise UsageError("cannot seek there", found=(offset, whence))
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` from the stream; 0 at its end. Raises as `H4MKReader.extents` does."""
        view = memoryview(buffer).cast("B")
        data = self._reader.read(
            self._position, min(len(view), max(self._size - self._position, 0)), self._track
        )
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
