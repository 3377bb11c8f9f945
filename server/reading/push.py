"""Bytes of a file that are in memory, straight to a socket, through one small buffer.

A slice of the mapping is what a transport may keep: it costs no memory, however long the client takes. But
the copy out of it pays for each page's place in two page tables (the machine's and the hypervisor's), and to
read into a buffer that stays in the processor's cache, and write that, is faster by an eighth though it
copies twice (docs/PERFORMANCE.md). So what the kernel takes at once goes through the buffer, and what it does
not take stays a slice.

What a file that is cut short misses of its last page reads as zero bytes from a mapping, and fails nothing;
only a page behind it does (EFAULT). So slices end with the first byte of a page that follows on another one,
and what comes behind that is copied before: an answer may end early, with zero bytes of one page even, but
never is it whole and wrong.

There is one buffer, for the event loop: what stands in it is good until the next call of anything here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from mmap import PAGESIZE, mmap
from typing import Final

from harmony4.crypto.errors import SourceChangedError, SourceError
from harmony4.server.reading.residency import is_resident, read_resident

__all__ = ["begin", "push", "slices"]

Pieces = Sequence[tuple[int, int]]
"""(offset, size) of a file."""

_BUFFER: Final = memoryview(bytearray(2**19))
"""Half of a second-level cache of 1 MiB; 256 KiB and 1 MiB are slower by a tenth."""
_GAP: Final = memoryview(bytearray(2**12))
"""For what stands between two blocks, the token of the second one mostly, and nobody wants."""


def begin(descriptor: int, pieces: Pieces, length: int) -> memoryview | None:
    """The first bytes of pieces, `length` together, for `push`; None if not all of them are in memory."""
    if len(pieces) == 1 and length <= len(_BUFFER):  # the most frequent case, at half the price
        data = _BUFFER[:length]
        return data if read_resident(descriptor, pieces[0][0], length, (data,)) else None
    data = _load(descriptor, pieces, 0, 0)
    if len(data) < min(length, len(_BUFFER)):
        return None
    if len(data) < length and not is_resident(
        descriptor, _spans(_behind(pieces, *_place(pieces, len(data))))
    ):
        return None
    return data


def push(
    socket: int, head: bytes, data: memoryview, descriptor: int, pieces: Pieces, mapping: mmap | None
) -> Sequence[bytes | memoryview]:
    """Write `head` and pieces of a file to a socket until the kernel takes no more.

    `socket`: of a transport that has nothing left to write. `data`: what `begin` gave. `mapping`: the file's;
    it may be None where `data` is all of the pieces. Returns what is left, for the transport, which finds out
    as well what is wrong with a socket. Raises SourceChangedError and SourceError as `slices` does, when a
    part of the answer may be out.
    """
    number = skip = 0  # what is written of the pieces: so many, and so many bytes of the next one
    left: list[bytes | memoryview] = []
    while data:
        try:
            written = os.writev(socket, (head, data)) if head else os.write(socket, data)
        except OSError:
            written = 0  # it takes nothing now, or is broken
        if written < len(head):
            left.append(head[written:])
            break
        written -= len(head)
        head = b""
        if mapping is None:
            return (bytes(data[written:]),) if written < len(data) else ()
        number, skip = _place(pieces, written, number, skip)
        if written < len(data):
            break
        # Nothing comes where all is done, or where bytes have left the memory or the file meanwhile.
        data = _load(descriptor, pieces, number, skip)
    if mapping is None:
        return (*left, bytes(data))
    left += slices(mapping, descriptor, tuple(_behind(pieces, number, skip)))
    return left


def slices(mapping: mmap, descriptor: int, pieces: Pieces) -> list[bytes | memoryview]:
    """The end of an answer, as pieces of a file in ascending order, for a transport that keeps views.

    If the file is cut short afterwards, all of it is right, or sending it fails. Memory: what the pieces have
    in their last page, or pages, where they are smaller than one. For pieces that are in memory. Raises
    SourceChangedError if the file is too short already, SourceError on an I/O error.
    """
    view = memoryview(mapping)
    copies: list[bytes | memoryview] = []
    for number in range(len(pieces) - 1, -1, -1):
        offset, size = pieces[number]
        page = (offset + size - 1) // PAGESIZE * PAGESIZE
        if offset < page:  # nobody sends the byte at `page` unless the page before is whole
            if page + 1 < offset + size:
                copies.append(_copy(descriptor, page + 1, offset + size))
            sent = [view[start : start + length] for start, length in pieces[:number]]
            return [*sent, view[offset : page + 1], *reversed(copies)]
        copies.append(_copy(descriptor, offset, offset + size))
    return copies[::-1]


def _copy(descriptor: int, start: int, stop: int) -> bytes:
    try:
        data = os.pread(descriptor, stop - start, start)
    except OSError as error:
        raise SourceError(f"cannot read the source: {error.strerror}", where=start) from error
    if len(data) < stop - start:
        raise SourceChangedError("the container was cut short")
    return data


def _place(pieces: Pieces, count: int, number: int = 0, skip: int = 0) -> tuple[int, int]:
    """The place `count` bytes behind byte `skip` of piece `number`."""
    skip += count
    while number < len(pieces) and skip >= pieces[number][1]:
        skip -= pieces[number][1]
        number += 1
    return number, skip


def _behind(pieces: Pieces, number: int, skip: int) -> Iterator[tuple[int, int]]:
    """What comes from byte `skip` of piece `number` on."""
    for offset, size in islice(pieces, number, None):
        yield offset + skip, size - skip
        skip = 0


def _load(descriptor: int, pieces: Pieces, number: int, skip: int) -> memoryview:
    """Bytes from byte `skip` of piece `number` on: as many as are in memory and the buffer holds."""
    loaded = filled = 0
    run: list[memoryview] = []
    start = end = 0
    for offset, size in _behind(pieces, number, skip):
        most = min(size, len(_BUFFER) - filled)
        if not most:
            break
        gap = offset - end
        if run and 0 <= gap <= len(_GAP):
            run.append(_GAP[:gap])  # read as well: one system call instead of two
        else:
            if run and not read_resident(descriptor, start, end - start, run):
                return _BUFFER[:loaded]
            loaded, start, run = filled, offset, []
        run.append(_BUFFER[filled : filled + most])
        filled += most
        end = offset + most
    if run and read_resident(descriptor, start, end - start, run):
        loaded = filled
    return _BUFFER[:loaded]


def _spans(pieces: Iterable[tuple[int, int]]) -> Pieces:
    """Pieces and the small gaps between them: fewer things to ask for."""
    spans: list[tuple[int, int]] = []
    for offset, size in pieces:
        end = sum(spans[-1]) if spans else 0
        if spans and 0 <= offset - end <= len(_GAP):
            spans[-1] = (spans[-1][0], offset + size - spans[-1][0])
        else:
            spans.append((offset, size))
    return spans
