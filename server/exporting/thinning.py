"""Fragments of an MP4 without the samples that no block depends on, for a demuxer that reads a pipe.

The cutting rule (H4MK 16) needs the packets of one stream, the clock; of the others it needs that none of
them lies far behind them, which is always so in a pipe. But FFmpeg keeps a table of all samples that it has
met, 36 bytes each, and takes a microsecond for each. So the boxes that list those of other tracks are shown
to it as free space: the places and sizes of everything else stay as they are.

That must not change what becomes of any other packet. A fragment stays as it is unless it is as plain as
encoders make them: media right behind it, samples of known sizes in it, no two in one place and each track's
in order, so that FFmpeg would have read all of them without going back. ISO 14496-12 8.8 has the boxes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["Thinner"]

_MOST: Final = 2**20
"""A longer fragment header (bytes) is not looked into."""
_BETWEEN: Final = (b"styp", b"sidx", b"ssix", b"free", b"skip", b"prft", b"emsg")
"""Boxes that may stand between fragments."""
_LATEST: Final = 2**60
"""No decoding time beyond it is plain, ticks."""
_TFHD: Final = ((0x2, 4), (0x8, 4), (0x10, 4), (0x20, 4))
"""Optional fields of tfhd behind the track, as flag and size: sample description, and defaults of duration,
size and flags. 0x1 (a base of its own) and 0x10000 (no samples) are not plain."""
_BASE_IS_MOOF, _DEFAULT_SIZE = 0x20000, 0x10
_KNOWN_TFHD: Final = _BASE_IS_MOOF | sum(flag for flag, _ in _TFHD)
_OFFSET, _FIRST_FLAGS, _SIZE = 0x1, 0x4, 0x200
_COLUMNS: Final = (0x100, _SIZE, 0x400, 0x800)
_KNOWN_TRUN: Final = _OFFSET | _FIRST_FLAGS | sum(_COLUMNS)
_U32, _PAIR = struct.Struct(">I"), struct.Struct(">II")
_TRUN, _LONG = struct.Struct(">IIi"), struct.Struct(">Q")


class _StrangeError(Exception):
    """A fragment that is not plain."""


class _Run(NamedTuple):
    """Where samples lie, one after the other; bytes from the start of the fragment."""

    start: int
    end: int
    last: int
    """Where the last one starts."""


class _Track(NamedTuple):
    """What a fragment says of one track."""

    at: int
    """Where its box starts in the fragment."""
    number: int
    runs: list[_Run]


class Thinner:
    """A pipe as a reader; `keep` begins to thin it. Reads are full, but at the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """`read` gives as many bytes as it is asked for, fewer only at the end."""
        self._read = read
        self._held = b""  # read, and not given yet
        self._skip = 0  # bytes from what is given next to the next box
        self._size = 0  # bytes given, and held
        self._given = 0
        self._ended = False
        self._lost = False  # boxes could not be followed
        self._before = b""  # the box before the next one
        self._keep: int | None = None
        self._known: set[int] = set()  # tracks in a fragment that was given as it was
        self._last = 0  # where the last sample of the last thinned fragment starts

    def keep(self, track: int) -> None:
        """From here on only samples of this track are needed."""
        self._keep = track

    @property
    def broken(self) -> bool:
        """Whether the medium ended before the start of a sample that FFmpeg was not shown.

        It would have met the end there, which is no error; now it looks for the next box behind the end.
        """
        return self._ended and 0 < self._size <= self._last

    def read(self, n: int, /) -> bytes:
        """The next `n` bytes, fewer only at the end."""
        data = self._held[:n]
        if data:
            self._held = self._held[n:]
        if len(data) < n:
            data += self._more(n - len(data))
        if self._skip < len(data) and not self._lost:
            data = self._walk(data, n)
        self._skip -= len(data)
        self._given += len(data)
        return data

    def _more(self, n: int) -> bytes:
        data = self._read(n)
        self._size += len(data)
        self._ended = len(data) < n
        return data

    def _walk(self, data: bytes, n: int) -> bytes:
        """Look at the boxes that start in `data`; what must be read for that, is held."""
        held = bytearray(data + self._held)

        def reach(size: int) -> bool:
            while len(held) < size and not self._ended:
                held.extend(self._more(size - len(held)))
            return len(held) >= size

        while self._skip < len(data):
            at = self._skip
            if not reach(at + 16):
                self._lost = True
                break
            size, kind = _U32.unpack_from(held, at)[0], bytes(held[at + 4 : at + 8])
            if size == 1:
                size = _LONG.unpack_from(held, at + 8)[0]
            if size < 8:
                self._lost = True
                break
            self._skip = at + size
            if kind == b"moof" and size <= _MOST and reach(at + size + 16):
                self._fragment(held, at, size)
            elif self._known and kind not in ((b"mdat",) if self._before == b"moof" else _BETWEEN):
                self._lost = True
            if self._lost:
                break
            self._before = kind
        self._held = bytes(held[n:])
        return bytes(held[:n])

    def _fragment(self, held: bytearray, at: int, size: int) -> None:
        try:
            tracks = _tracks(held[at : at + size], *_media(held, at + size, size))
        except (_StrangeError, struct.error):
            self._lost = True  # FFmpeg may read on from another place than the next box
            return
        numbers = {one.number for one in tracks}
        if self._last and not numbers <= self._known:
            self._lost = True
        elif self._keep in numbers and numbers <= self._known:
            for one in tracks:
                if one.number != self._keep:
                    held[at + one.at + 4 : at + one.at + 8] = b"free"
            self._last = self._given + at + max(run.last for one in tracks for run in one.runs)
        self._known |= numbers


def _media(held: bytearray, at: int, base: int) -> tuple[int, int]:
    """Where the media in the box at `at` start and end, if `at` is `base` bytes from the fragment's start."""
    size, head = _U32.unpack_from(held, at)[0], 8
    if held[at + 4 : at + 8] != b"mdat" or size == 0:
        raise _StrangeError
    if size == 1:
        size, head = _LONG.unpack_from(held, at + 8)[0], 16
    if not head <= size < 2**30:
        raise _StrangeError
    return base + head, base + size


def _tracks(moof: bytearray, start: int, end: int) -> list[_Track]:
    """The tracks of a fragment whose media lie from `start` to `end`. Raises _StrangeError, struct.error."""
    tracks = [_track(moof, at, size) for at, size, kind in _boxes(moof, 8, len(moof)) if kind == b"traf"]
    if len({one.number for one in tracks}) < len(tracks):
        raise _StrangeError
    for one in tracks:
        before = start
        for run in one.runs:
            if run.start < before:
                raise _StrangeError
            before = run.end
    before = start
    for run in sorted(run for one in tracks for run in one.runs):
        if run.start < before:
            raise _StrangeError
        before = run.end
    if before > end:
        raise _StrangeError
    return tracks


def _boxes(data: bytearray, at: int, end: int) -> list[tuple[int, int, bytes]]:
    found = []
    while at < end:
        (size,) = _U32.unpack_from(data, at)
        if size < 8 or at + size > end:
            raise _StrangeError
        found.append((at, size, bytes(data[at + 4 : at + 8])))
        at += size
    return found


def _track(data: bytearray, at: int, size: int) -> _Track:
    number, usual, timed, runs = -1, 0, False, []
    for place, length, kind in _boxes(data, at + 8, at + size):
        if kind == b"tfhd" and number < 0:
            number, usual = _head(data, place, length)
        elif kind == b"tfdt" and number >= 0 and not timed:
            wide = data[place + 8]
            if wide > 1 or length != (20 if wide else 16):
                raise _StrangeError
            (ticks,) = (_LONG if wide else _U32).unpack_from(data, place + 12)
            timed = ticks <= _LATEST
        elif kind == b"trun" and timed:
            runs.append(_samples(data, place, length, usual))
        else:
            raise _StrangeError
    if not runs:
        raise _StrangeError
    return _Track(at, number, runs)


def _head(data: bytearray, at: int, length: int) -> tuple[int, int]:
    """The track's number, and the size of its samples where nothing else is said (0: nothing is)."""
    flags, number = _PAIR.unpack_from(data, at + 8)
    if flags & ~_KNOWN_TFHD or not flags & _BASE_IS_MOOF:
        raise _StrangeError
    place, usual = at + 16, 0
    for flag, size in _TFHD:
        if flags & flag:
            if flag == _DEFAULT_SIZE:
                (usual,) = _U32.unpack_from(data, place)
            place += size
    if place != at + length:
        raise _StrangeError
    return number, usual


def _samples(data: bytearray, at: int, length: int, usual: int) -> _Run:
    word, count, start = _TRUN.unpack_from(data, at + 8)
    flags = word & 0xFFFFFF
    if word >> 24 > 1 or flags & ~_KNOWN_TRUN or not flags & _OFFSET or not count:
        raise _StrangeError
    columns = [flag for flag in _COLUMNS if flags & flag]
    place = at + (24 if flags & _FIRST_FLAGS else 20)
    if length != place - at + 4 * len(columns) * count:
        raise _StrangeError
    if not flags & _SIZE:
        total, last = usual * count, usual
        least = usual
    else:
        step = len(columns)
        sizes = struct.unpack_from(f">{count * step}I", data, place)[columns.index(_SIZE) :: step]
        total, last, least = sum(sizes), sizes[-1], min(sizes)
    if not least:
        raise _StrangeError
    return _Run(start, start + total, start + total - last)
