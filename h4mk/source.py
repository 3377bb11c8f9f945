"""Where a container's bytes come from: anything that can be read at an offset.

Readers never seek and never hold a file position, so one source serves many threads at once.
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from os import PathLike
from typing import Final, Protocol, runtime_checkable

from harmony4.crypto.errors import SourceError, TruncatedError

__all__ = [
    "BytesSource",
    "FileSource",
    "NotResidentError",
    "ReadAt",
    "impatient",
    "open_source",
    "read_exact",
    "read_into",
    "read_places",
]

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_THREAD: Final = threading.local()
_NEAR: Final = 2048
"""Bytes from one place to the next, on average, up to which reading all between them costs less."""


class NotResidentError(SourceError):
    """What is to be read is not in memory, and whoever reads does not want to wait for it (`impatient`)."""


@runtime_checkable
class ReadAt(Protocol):
    """A source of bytes. Implementations must allow calls from several threads at once."""

    def size(self) -> int:
        """Length in bytes, the same for the life of the source."""
        ...

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end. Raises SourceError."""
        ...

    def close(self) -> None:
        """Give back what the source holds. Safe to call twice."""
        ...


class BytesSource:
    """A container that is in memory already."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).toreadonly().cast("B")

    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read_at(self, offset: int, count: int) -> bytes:
        """A copy of the slice."""
        return bytes(self._data[offset : offset + count])

    def close(self) -> None:
        """Nothing to give back: the bytes belong to the caller."""


class FileSource:
    """A regular file, read with `pread`, and mapped on request.

    The mapping exists so that the kernel can send from it. Python code must not read through it: if the
    file is truncated by somebody else, a touched page beyond the new end kills the process (SIGBUS),
    while `pread` only comes back short.
    """

    def __init__(self, path: str | PathLike[str] | int) -> None:
        """Open `path`, or take over the open descriptor `path`. Raises SourceError."""
        try:
            if isinstance(path, int):
                self._fd = path
            else:
                # O_NONBLOCK: opening a FIFO that nobody writes to must not hang; regular files ignore it.
                flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
                self._fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
            status = os.fstat(self._fd)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"cannot open the source: {reason}") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise SourceError(f"cannot open the source: it is {kind}")
        self._size = status.st_size
        self._lock = threading.Lock()
        self._mapping: mmap.mmap | None = None

    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`. Raises SourceError on an I/O error."""
        count = min(count, self._size - offset)
        if getattr(_THREAD, "impatient", False):
            return self._read_resident(offset, count)
        pieces = []  # more than one beyond the 2 GiB limit of a read
        try:
            while count > 0 and (piece := _pread(self._fd, count, offset, self._lock)):
                pieces.append(piece)
                offset += len(piece)
                count -= len(piece)
        except OSError as error:
            raise SourceError(f"cannot read the source: {error.strerror}", where=offset) from error
        return b"".join(pieces)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out`. Raises TruncatedError where the file ends before, SourceError on an I/O error."""
        if getattr(_THREAD, "impatient", False):
            self._fill_resident(offset, out)
            return
        done = 0
        try:
            while done < len(out) and (count := os.preadv(self._fd, [out[done:]], offset + done)):
                done += count
        except OSError as error:
            raise SourceError(f"cannot read the source: {error.strerror}", where=offset) from error
        if done < len(out):
            raise TruncatedError("the file ends too early", where=offset + done, expected=offset + len(out))

    def read_places(self, offsets: Sequence[int], count: int) -> bytes:
        """`count` bytes from each offset, joined, up to the first place that is not whole.

        Raises SourceError on an I/O error.
        """
        if getattr(_THREAD, "impatient", False):
            return self._resident_places(offsets, count)
        if not hasattr(os, "pread"):  # pragma: no cover - Windows
            return _joined([self.read_at(offset, count) for offset in offsets], count)
        try:
            return _joined(list(map(os.pread, repeat(self._fd), repeat(count), offsets)), count)
        except OSError as error:
            raise SourceError(f"cannot read the source: {error.strerror}") from error

    def _resident_places(self, offsets: Sequence[int], count: int) -> bytes:
        data = bytearray(count * len(offsets))
        view = memoryview(data)
        try:
            for place, offset in enumerate(offsets):
                into = view[place * count : (place + 1) * count]
                if _NOWAIT is None or os.preadv(self._fd, (into,), offset, _NOWAIT) != count:
                    raise NotResidentError("the bytes are not in memory", where=offset)
        except OSError as error:
            raise NotResidentError("the bytes are not in memory") from error
        return bytes(data)

    def _read_resident(self, offset: int, count: int) -> bytes:
        data = bytearray(max(count, 0))
        self._fill_resident(offset, data)
        return bytes(data)

    def _fill_resident(self, offset: int, out: bytearray | memoryview) -> None:
        try:
            if _NOWAIT is None or (out and os.preadv(self._fd, [out], offset, _NOWAIT) != len(out)):
                raise NotResidentError("the bytes are not in memory", where=offset)
        except OSError as error:
            raise NotResidentError("the bytes are not in memory", where=offset) from error

    def fileno(self) -> int:
        """The descriptor, for calls such as `posix_fadvise`."""
        return self._fd

    @property
    def mapping(self) -> mmap.mmap | None:
        """The whole file, mapped once, read-only; None for an empty file. See the class's warning."""
        with self._lock:
            if self._mapping is None and self._size and self._fd >= 0:
                try:
                    self._mapping = mmap.mmap(self._fd, self._size, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise SourceError("cannot map the source") from error
        return self._mapping

    def close(self) -> None:
        """Close the descriptor. A mapping lives until the last slice of it is gone."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._mapping = None


if hasattr(os, "pread"):

    def _pread(descriptor: int, count: int, offset: int, lock: threading.Lock) -> bytes:
        return os.pread(descriptor, count, offset)

else:  # pragma: no cover - Windows has no pread

    def _pread(descriptor: int, count: int, offset: int, lock: threading.Lock) -> bytes:
        with lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, count)


@contextmanager
def impatient() -> Iterator[None]:
    """While this lasts, files read nothing in this thread that is not in memory: they raise NotResidentError.

    For an event loop, which must not wait for a disk, and asks a thread instead.
    """
    _THREAD.impatient = True
    try:
        yield
    finally:
        _THREAD.impatient = False


def open_source(source: str | PathLike[str] | bytes | bytearray | memoryview | ReadAt) -> tuple[ReadAt, bool]:
    """A ReadAt for whatever was given, and whether the caller now owns it and must close it."""
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesSource(source), True
    if isinstance(source, str | PathLike):
        return FileSource(source), True
    return source, False


def read_exact(source: ReadAt, offset: int, count: int) -> bytes:
    """Exactly `count` bytes. Raises TruncatedError where the source ends before."""
    data = source.read_at(offset, count)
    if len(data) != count:
        raise TruncatedError("the file ends too early", where=offset + len(data), expected=offset + count)
    return data


def read_into(source: ReadAt, offset: int, out: memoryview) -> None:
    """Fill `out`, which is writable, from `offset` on; from a file without a copy.

    Raises TruncatedError where the source ends before, SourceError.
    """
    if isinstance(source, FileSource) and hasattr(os, "preadv"):
        source.read_into(offset, out)
    else:
        out[:] = read_exact(source, offset, len(out))


def read_places(source: ReadAt, offsets: Sequence[int], count: int) -> bytes:
    """The `count` bytes at each of these offsets, joined, up to the first place that is not whole.

    Faster than one call for each. Memory: 2 KiB a place, or `count`. Raises SourceError.
    """
    if not offsets:
        return b""
    first, span = offsets[0], offsets[-1] - offsets[0]
    if 0 <= span <= _NEAR * len(offsets):
        window = source.read_at(first, span + count)
        # Whoever wrote the table that the offsets are from may lie.
        inside = (at - first for at in offsets)
        return _joined([window[at : at + count] if at >= 0 else b"" for at in inside], count)
    if isinstance(source, FileSource):
        return source.read_places(offsets, count)
    return _joined([source.read_at(at, count) for at in offsets], count)


def _joined(pieces: list[bytes], count: int) -> bytes:
    short = next((number for number, piece in enumerate(pieces) if len(piece) != count), len(pieces))
    return b"".join(pieces[:short])
