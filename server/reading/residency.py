"""Whether bytes of a file are in memory, so that sending or reading them does not wait for a disk.

The event loop sends only what is resident; a thread brings everything else in first. On Linux `cachestat`
(since 6.5) answers for a range of a file that is one's own, and `preadv` with RWF_NOWAIT reads only what is
there. Where neither exists nothing counts as resident, and threads read. So they do on file systems that do
not know RWF_NOWAIT (FUSE, for one): there a page that could not be read counts as cached as well, and whoever
touches it waits for the disk to fail again.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from harmony4.crypto.errors import SourceError
from harmony4.h4mk.edits.openfile import OpenFile

__all__ = [
    "bring_in",
    "forget",
    "is_cut_short",
    "is_resident",
    "learn",
    "let_go",
    "mapped_bytes",
    "read_resident",
]

_CACHESTAT: Final = 451
"""The system call's number, the same on all of Linux's architectures but alpha."""
_PAGE: Final = mmap.PAGESIZE
_SCRATCH: Final = 2**16
_AHEAD: Final = 2**18
_DONTNEED: Final = 4
"""MADV_DONTNEED on Linux."""
_BYTE: Final = bytearray(1)
_STEP: Final = 2**18
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", None)
_fadvise = getattr(os, "posix_fadvise", None)
_LINUX: Final = sys.platform == "linux"
_syscall = ctypes.CDLL(None, use_errno=True).syscall if _LINUX else None
_madvise = ctypes.CDLL(None).madvise if _LINUX else None
_fstatfs = ctypes.CDLL(None).fstatfs if _LINUX else None
_MEMORY: Final = frozenset({0x01021994, 0x858458F6})
"""TMPFS_MAGIC, RAMFS_MAGIC (linux/magic.h)."""
_in_memory: set[int] = set()
"""Descriptors with nothing but memory behind them, as `learn` saw when they were opened."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "written", "evicted", "recent"))


class _Probe:
    """`cachestat` with its arguments made once. For one thread at a time: the event loop's."""

    def __init__(self) -> None:
        self.works = _syscall is not None
        self._range = _Range()
        self._stat = _Stat()
        self._pointers = ctypes.byref(self._range), ctypes.byref(self._stat)
        if _syscall is not None:
            _syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
            _syscall.restype = ctypes.c_long

    def __call__(self, descriptor: int, offset: int, size: int) -> bool | None:
        """Whether all pages are cached; None where the system does not say."""
        if not self.works:
            return None
        self._range.offset, self._range.length = offset, size
        assert _syscall is not None
        if _syscall(_CACHESTAT, descriptor, *self._pointers, 0):
            # EPERM: somebody else's file. ENOSYS: an older kernel, or a sandbox that does not know the call.
            if ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP):
                self.works = False
            return None
        pages = (offset + size - 1) // _PAGE - offset // _PAGE + 1
        return bool(self._stat.cached >= pages)


_probe = _Probe()
_scratch = memoryview(bytearray(_SCRATCH))


def is_resident(descriptor: int, pieces: Sequence[tuple[int, int]]) -> bool:
    """Whether all (offset, size) pieces of a file are in the page cache, in ascending order, at least one.

    Call it on the event loop only.
    """
    for offset, size in pieces:
        cached = _probe(descriptor, offset, size)
        # Pages that are still being read count as cached: sending them waited up to 5 ms for what another
        # read had asked for. So bytes are read, one in _STEP, and the last one, behind which the kernel reads
        # ahead. Where `cachestat` does not answer, all of them are: a copy costs less than a thread.
        if not (cached if cached is not None else True) or not _reads(
            descriptor, offset, size, cached is None
        ):
            return False
    return True


def _reads(descriptor: int, offset: int, size: int, whole: bool) -> bool:
    """Whether bytes of a piece, or all of them, can be read without waiting."""
    if _NOWAIT is None:
        return False
    end = offset + size
    try:
        if whole:
            while offset < end:
                count = min(_SCRATCH, end - offset)
                if os.preadv(descriptor, [_scratch[:count]], offset, _NOWAIT) != count:
                    return False
                offset += count
            return True
        while offset < end - 1:
            if os.preadv(descriptor, [_BYTE], offset, _NOWAIT) != 1:
                return False
            offset += _STEP
        return os.preadv(descriptor, [_BYTE], end - 1, _NOWAIT) == 1
    except OSError as error:
        return not whole and error.errno == errno.EOPNOTSUPP and _is_memory(descriptor)


def learn(descriptor: int) -> None:
    """Find out what is behind a file that was opened; in a thread, as a file system in a process is asked.

    What is not known is taken for a disk.
    """
    status = (ctypes.c_long * 64)()  # struct statfs begins with its type
    memory = _fstatfs is not None and not _fstatfs(descriptor, status) and status[0] in _MEMORY
    (_in_memory.add if memory else _in_memory.discard)(descriptor)


def forget(descriptor: int) -> None:
    """A file is about to be closed: its descriptor may be that of another one next, on any disk."""
    _in_memory.discard(descriptor)


def _is_memory(descriptor: int) -> bool:
    """Whether there is nothing but memory behind a file, so that what is cached is good."""
    return descriptor in _in_memory


def read_resident(descriptor: int, offset: int, size: int, into: Sequence[memoryview]) -> bool:
    """Fill buffers of `size` bytes together, if all of these are in memory; False if nobody knows."""
    if _NOWAIT is None:
        return False
    try:
        return os.preadv(descriptor, into, offset, _NOWAIT) == size
    except OSError as error:
        # tmpfs does not know RWF_NOWAIT: its pages are there if they are cached.
        if error.errno != errno.EOPNOTSUPP or not (
            _is_memory(descriptor) and _probe(descriptor, offset, size)
        ):
            return False
    try:
        return os.preadv(descriptor, into, offset) == size
    except OSError:
        return False


def bring_in(descriptor: int, pieces: Sequence[tuple[int, int]]) -> None:
    """Read pieces of a file, in ascending order, into the page cache; in a thread. Raises SourceError."""
    scratch = memoryview(bytearray(_SCRATCH))
    if _fadvise is not None and pieces:
        # The kernel by itself reads up to 8 MiB ahead in one go, and keeps a processor for milliseconds for
        # that. What comes next is asked for here, a window at a time, and is on its way meanwhile.
        with suppress(OSError):
            _fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            _fadvise(descriptor, sum(pieces[-1]), _AHEAD, os.POSIX_FADV_WILLNEED)
    for offset, size in pieces:
        at, end = offset, offset + size
        while at < end:
            try:
                read = os.preadv(descriptor, [scratch[: end - at]], at)
            except OSError as error:
                raise SourceError(f"cannot read the source: {error.strerror}", where=at) from error
            if not read:
                return  # the file has become shorter: sending it will tell
            at += read


def is_cut_short(reader: OpenFile) -> bool:
    """Whether the file has become shorter than it was when it was opened."""
    descriptor = reader.fileno()
    try:
        return descriptor is not None and os.fstat(descriptor).st_size < reader.size
    except OSError:
        return True


def mapped_bytes() -> int:
    """Bytes of files that are mapped into this process's memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - several times a second
            return int(file.read().split()[2]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def let_go(mapping: mmap.mmap) -> None:
    """Take a mapping's pages out of this process's memory (they stay in the page cache); in a thread.

    What is being sent meanwhile is mapped in again by the kernel.
    """
    if _madvise is None:
        return
    whole = np.frombuffer(mapping, "u1")  # only for its address: ctypes takes no read-only buffer
    _madvise(ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(whole.size), _DONTNEED)
