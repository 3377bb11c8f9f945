"""The bytes between a source that is read once, a demuxer that reads ahead, and blocks that wait.

What the demuxer pulls is kept until blocks are cut from it. Past a threshold the newest bytes go into a spool
that the caller provides (this tier knows no disk), so memory follows the block and not the source.
"""

from __future__ import annotations

import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from harmony4.crypto.errors import SourceError, StorageError
from harmony4.tokenize.demux import BUFFER
from harmony4.tokenize.tokens import Source

__all__ = ["Feed", "SeekableFile", "Spool", "discard", "regular_file"]

Spool = Callable[[], BinaryIO]
"""Makes an empty seekable file, for bytes that memory should not hold."""


class _Pieces:
    """`read(n)` over an iterable of pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, n: int) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece).cast("B")
        data = bytes(self._rest[:n])
        self._rest = self._rest[n:]
        return data


class Feed:
    """A source as the demuxer's reader and, at the same time, a queue of bytes that wait to be cut.

    `read` is the demuxer's side (it may run on another thread), `take` the cutter's. Without `seek`: the
    demuxer sees a pipe whatever the source is.
    """

    def __init__(self, source: Source, spool: Spool, *, memory: int) -> None:
        """Keeps up to `memory` waiting bytes itself."""
        self._source: Any = source if hasattr(source, "read") else _Pieces(iter(source))
        self._make = spool
        self._memory = memory
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._starts: list[int] = []
        self._taken = 0  # offset of the first waiting byte
        self._held = 0  # offset behind the last byte in _chunks; the spool goes on from there
        self._spool: BinaryIO | None = None
        self._spooled = 0  # bytes in the spool
        self._drained = 0  # of those, taken
        self._cursor = 0  # the demuxer's
        self.size = 0
        """Bytes read from the source so far."""
        self.ended = False
        self.error: SourceError | StorageError | None = None
        """What went wrong while reading; FFmpeg would take it for the end."""

    def read(self, n: int = BUFFER, /) -> bytes:
        """The demuxer's next `n` bytes; fewer only at the end. Raises SourceError, StorageError."""
        if self._cursor + n > self.size and not self.ended:
            self.pull(self._cursor + n)
        data = self.peek(self._cursor, n)
        self._cursor += len(data)
        return data

    def pull(self, size: int) -> None:
        """Read on until `size` bytes of the source (or all) have been read."""
        while self.size < size and not self.ended:
            data = self._read(size - self.size)
            if data:
                self._append(data)

    def _read(self, n: int, *, some: bool = False) -> bytes:
        read = getattr(self._source, "read1", self._source.read) if some else self._source.read
        try:
            data = read(n)
            if data is None:
                raise BlockingIOError("no data is ready")
        except OSError as error:
            self.error = SourceError(f"reading the source failed: {error.strerror or error}")
            raise self.error from error
        self.ended = not data
        return bytes(data)

    def _append(self, data: bytes) -> None:
        with self._lock:
            if self._spooled or self.size - self._taken + len(data) > self._memory:
                self._spill(data)
            else:
                self._starts.append(self.size)
                self._chunks.append(data)
                self._held += len(data)
            self.size += len(data)

    def _spill(self, data: bytes) -> None:
        try:
            if self._spool is None:
                self._spool = self._make()
            self._spool.seek(self._spooled)
            self._spool.write(data)
        except OSError as error:
            self.error = StorageError(f"waiting bytes cannot be spooled: {error.strerror or error}")
            raise self.error from error
        self._spooled += len(data)

    def peek(self, offset: int, n: int) -> bytes:
        """Up to `n` of the waiting bytes from `offset`."""
        with self._lock:
            return self._peek(offset, n)

    def _peek(self, offset: int, n: int) -> bytes:
        parts: list[bytes | memoryview] = []
        end = min(offset + n, self.size)
        i = bisect_right(self._starts, offset) - 1
        while offset < end and offset < self._held:
            start, chunk = self._starts[i], self._chunks[i]
            stop = min(end, start + len(chunk))
            whole = offset == start and stop == start + len(chunk)
            parts.append(chunk if whole else memoryview(chunk)[offset - start : stop - start])
            offset = stop
            i += 1
        if offset < end and self._spool is not None:
            try:
                self._spool.seek(offset - self._held + self._drained)
                parts.append(self._spool.read(end - offset))
            except OSError as error:
                self.error = StorageError(f"spooled bytes cannot be read: {error.strerror or error}")
                raise self.error from error
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def take(self, n: int) -> bytes:
        """The first `n` waiting bytes; they wait no longer."""
        with self._lock:
            data = self._peek(self._taken, n)
            self._taken += n
            gone = bisect_right(self._starts, self._taken) - 1
            if self._taken >= self._held:
                self._drained += self._taken - self._held
                self._held = self._taken
                gone = len(self._chunks)
            del self._chunks[:gone], self._starts[:gone]
            if self._spooled and self._drained == self._spooled and self._spool is not None:
                self._spool.seek(0)
                self._spool.truncate()
                self._spooled = self._drained = 0
            return data

    def next(self, n: int) -> bytes:
        """The next `n` bytes of a source that no demuxer reads, without a copy where that is possible."""
        if not self.waiting and not self.ended:
            data = self._read(n)
            if len(data) == n:
                self.size += n
                self._taken = self._held = self.size
                return data
            if data:
                self._append(data)
        self.pull(self._taken + n)
        return self.take(min(n, self.waiting))

    def some(self, n: int) -> bytes:
        """Up to `n` bytes of a source that no demuxer reads, as soon as there are any; none at the end."""
        if self.waiting or self.ended:
            return self.take(min(n, self.waiting))
        data = self._read(n, some=True)
        self.size += len(data)
        self._taken = self._held = self.size
        return data

    @property
    def waiting(self) -> int:
        """Bytes that were read and not yet taken."""
        return self.size - self._taken

    def close(self) -> None:
        """Give the spool back."""
        spool, self._spool = self._spool, None
        if spool is not None:
            discard(spool)


def discard(spool: BinaryIO) -> None:
    """Close a spool whose bytes nobody wants: that flushes it first, which fails where the disk is full."""
    with suppress(OSError):
        spool.close()


class SeekableFile:
    """A demuxer's own cursor in a file that somebody else reads too.

    With a file descriptor it reads by `pread` and so shares no position; otherwise it must be the file's only
    reader at a time, and takes the lock for each read.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._pos = 0
        self.fd = _descriptor(file)

    def read(self, n: int, /) -> bytes:
        """The next `n` bytes, fewer at the end. Raises SourceError."""
        try:
            data = self._read(n)
        except OSError as error:
            raise SourceError(f"reading the source failed: {error.strerror or error}") from error
        self._pos += len(data)
        return data

    def _read(self, n: int) -> bytes:
        if self.fd is not None:
            return os.pread(self.fd, n, self._pos)
        here = self._file.tell()
        self._file.seek(self._pos)
        data = self._file.read(n)
        self._file.seek(here)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files do."""
        self._pos = offset + (0 if whence == 0 else self._pos if whence == 1 else self._size)
        return self._pos

    def tell(self) -> int:
        """As files do."""
        return self._pos


def _descriptor(file: Any) -> int | None:
    try:
        fd = file.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return fd if hasattr(os, "pread") and stat.S_ISREG(os.fstat(fd).st_mode) else None


def regular_file(source: Any, consumed: int) -> int | None:
    """The size of `source` if it is a regular file of which the first `consumed` bytes have been read."""
    fd = _descriptor(source)
    try:
        if fd is not None and source.tell() == consumed:
            return os.fstat(fd).st_size
    except (AttributeError, OSError, ValueError):
        pass
    return None
