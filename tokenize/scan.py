"""Small scanners of top-level structure: where do random-access units start?

The demuxer says where a packet's bytes lie, but a player that starts there is lost: it needs the `moof` box,
the Cluster or the page around them (H4MK, "Time"). These scanners follow only the outermost structure, skip
payloads by their length, and never look inside one. They take bytes in file order, in pieces of any length,
and never raise: where the structure breaks they look for the next start, as demuxers do.

They also see what no demuxer tells: that a file ends before its last part does, as one does whose copying was
interrupted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from typing import Final, Protocol

import numpy as np

__all__ = ["WALKERS", "Boxes", "Chunks", "Clusters", "Packets", "Pages", "Samples", "Scanner", "missing"]

Buffer = bytes | bytearray | memoryview
_ENDLESS = 2**63
_LOOK = 4096
"""Bytes that are read at a header by who looks at nothing else."""


class Scanner(Protocol):
    """Finds the start of the random-access unit that holds a byte position."""

    reads: bool
    """False: `feed` need not be called."""
    bare: bool
    """True: a keyframe may open at its own position where its unit's start is already behind a boundary."""

    @property
    def missing(self) -> int:
        """Bytes by which the last part is longer than what was fed; 0 where it is whole, or does not say."""

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the file."""

    def unit(self, pos: int) -> int:
        """The start of the unit that holds `pos` (bytes up to `pos` have been fed), at most `pos`."""

    def forget(self, before: int) -> None:
        """Drop what is only needed for positions below `before`."""


class Samples:
    """No structure: every packet is its own unit (plain MP3, FLAC)."""

    reads = False
    bare = False
    missing = 0

    def feed(self, data: Buffer) -> None:
        """Nothing to see."""

    def unit(self, pos: int) -> int:
        return pos

    def forget(self, before: int) -> None:
        """Nothing kept."""


class _Walker(ABC):
    """Header after header: collects each, lets `_header` read it, skips what it says."""

    reads = True
    bare = False
    _marker: bytes = b""
    """What a unit starts with: searched for where the structure is broken (empty: give up there)."""
    _least = 1
    """Bytes of a header that are always needed."""

    def __init__(self) -> None:
        self.units: list[int] = []
        self._head = bytearray()
        self._want = self._least
        self._skip = 0
        self._at = 0  # where the header that is being collected starts
        self._lost = False

    def feed(self, data: Buffer) -> None:
        view = memoryview(data)
        i, n = 0, len(view)
        while i < n:
            if self._skip:
                step = min(self._skip, n - i)
                self._skip -= step
                self._at += step
            else:
                step = n - i if self._lost else min(self._want - len(self._head), n - i)
                self._head += view[i : i + step]
                while len(self._head) >= self._want:
                    self._consume()
            i += step

    def _consume(self) -> None:
        if self._lost:
            step = self._head.find(self._marker)
            self._lost = step < 0
            if self._lost:  # the marker may stand across two pieces
                step = len(self._head) - len(self._marker) + 1
        else:
            distance = self._header(self._head)
            if distance is None:  # more of it is needed: _want has grown
                return
            step = distance
            if step < 0 and self._marker:
                step, self._lost = 1, True
            elif step < 0:
                step = _ENDLESS
        self._want = len(self._marker) if self._lost else self._least
        gone = min(step, len(self._head))
        del self._head[:gone]
        self._at += gone
        self._skip = step - gone

    @property
    def ahead(self) -> int:
        """Bytes that come before the next header."""
        return self._skip

    @property
    def missing(self) -> int:
        """As Scanner."""
        return self._skip if self._skip < _ENDLESS // 2 else 0

    def leap(self, size: int) -> None:
        """Go on behind `size` bytes that need no look, at most `ahead`."""
        self._skip -= size
        self._at += size

    @abstractmethod
    def _header(self, head: bytearray) -> int | None:
        """Bytes from this header's start to the next one's; None: `_want` more of it; below 0: nonsense."""

    def unit(self, pos: int) -> int:
        i = bisect_right(self.units, pos)
        return self.units[i - 1] if i else pos

    def forget(self, before: int) -> None:
        i = bisect_right(self.units, before)
        if i > 1:
            del self.units[: i - 1]


class Boxes(_Walker):
    """ISO base media (ISO 14496-12 4.2): units are `moof` boxes.

    A file without fragments has none, so each sample is its own unit. `order` tells what stands first: it
    decides whether the demuxer can read the file in one pass.
    """

    _least = 8

    def __init__(self) -> None:
        super().__init__()
        self.order: str | None = None
        """The first of "moov", "moof", "mdat", once one was seen."""
        self._media = False

    @property
    def missing(self) -> int:
        """As Scanner, of media and what tells where they are: nobody misses the end of anything else."""
        return super().missing if self._media else 0

    def _header(self, head: bytearray) -> int | None:
        size = int.from_bytes(head[:4], "big")
        if size == 1 and len(head) < 16:
            self._want = 16
            return None
        kind = bytes(head[4:8])
        self._media = kind in (b"moov", b"moof", b"mdat")
        if self.order is None and self._media:
            self.order = kind.decode()
        if kind == b"moof":
            self.units.append(self._at)
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
            return size if 16 <= size < _ENDLESS else -1
        return size if size >= 8 else -1 if size else _ENDLESS

    def fragment_before(self, pos: int | None) -> bool:
        """Whether a fragment starts before `pos` (None: anywhere in what was fed)."""
        return bool(self.units) and (pos is None or self.units[0] < pos)


class Clusters(_Walker):
    """Matroska and WebM (RFC 9559): units are Clusters, of known or unknown size.

    Levels need not be followed: the Segment and Clusters of unknown size are entered, everything else
    (SimpleBlocks in such a Cluster as well as Cues or Tags beside it) is skipped by its size.
    """

    _marker = b"\x1f\x43\xb6\x75"
    _SEGMENT = b"\x18\x53\x80\x67"

    def __init__(self) -> None:
        super().__init__()
        self._stop = 0  # where the Segment ends, if it says so

    @property
    def missing(self) -> int:
        """As Scanner; a Segment tells as well where nothing is lost but whole Clusters."""
        return 0 if self._lost else max(super().missing, self._stop - self._at - len(self._head), 0)

    def _header(self, head: bytearray) -> int | None:
        width = 9 - head[0].bit_length()  # of the ID; the leading zero bits count its bytes
        if width > 4:
            return -1
        if len(head) <= width:
            self._want = width + 1
            return None
        first = head[width]
        length = 9 - first.bit_length()
        if length > 8:
            return -1
        used = width + length
        if len(head) < used:
            self._want = used
            return None
        tag = bytes(head[:width])
        size = int.from_bytes(head[width:used], "big") ^ 1 << 7 * length
        unknown = size == (1 << 7 * length) - 1
        if tag == self._marker:
            self.units.append(self._at)
        if tag == self._SEGMENT and not unknown:
            self._stop = self._at + used + size
        if tag == self._SEGMENT or (unknown and tag == self._marker):
            return used
        return -1 if unknown else used + size


class Pages(_Walker):
    """Ogg (RFC 3533 6): units are pages."""

    _marker = b"OggS"
    _least = 27

    def _header(self, head: bytearray) -> int | None:
        if not head.startswith(self._marker):
            return -1
        used = 27 + head[26]
        if len(head) < used:
            self._want = used
            return None
        self.units.append(self._at)
        return used + sum(head[27:used])


class Chunks(_Walker):
    """WAV (RIFF, EBU Tech 3306 for RF64): no units, every packet is its own."""

    _least = 8

    def __init__(self) -> None:
        super().__init__()
        self._sound = False
        self._padded = 0  # a chunk of odd size ends in a byte that many writers leave out

    @property
    def missing(self) -> int:
        """As Scanner, of sound."""
        return max(super().missing - self._padded, 0) if self._sound else 0

    def _header(self, head: bytearray) -> int | None:
        size = int.from_bytes(head[4:8], "little")
        self._padded = size & 1
        self._sound = head[:4] == b"data"
        if bytes(head[:4]) in (b"RIFF", b"RF64", b"BW64"):
            return 12
        # Both mean that it is not known here: who writes into a pipe, and RF64.
        return _ENDLESS if self._sound and size in (0, 0xFFFFFFFF) else 8 + size + self._padded


class Packets:
    """MPEG transport streams (ISO 13818-1 2.4.3): a unit starts at the PAT before a PES packet.

    That is the last PAT packet before it, within 64 packets, with no packet of the clock's PID in between
    (else the PES packet itself): a decoder that starts there gets the tables first and loses no frame.
    """

    reads = True
    bare = True
    REACH = 64

    def __init__(self, pid: int, packet: int = 188) -> None:
        self._pid = pid
        self._size = packet
        self._lead = packet - 188  # bytes of a packet before its sync byte: an M2TS time stamp
        self._rest = b""
        self._at = 0  # where _rest starts
        self._pats: list[int] = []
        self._first: list[int] = []  # of the clock's PID after each PAT

    @property
    def missing(self) -> int:
        """As Scanner: of the last packet."""
        begun = self._rest[self._lead : self._lead + 1] == b"\x47"
        return self._size - len(self._rest) if begun else 0

    def feed(self, data: Buffer) -> None:
        chunk = self._rest + bytes(data)
        start = 0
        while (rows := (len(chunk) - start) // self._size) > 0:
            table = np.frombuffer(chunk, np.uint8, rows * self._size, start).reshape(rows, self._size)
            head = table[:, self._lead : self._lead + 3]
            wrong = np.flatnonzero(head[:, 0] != 0x47)
            good = int(wrong[0]) if len(wrong) else rows
            self._rows(head[:good], self._at + start)
            start += good * self._size
            if good < rows:  # sync is lost: the next sync byte may start a packet
                found = chunk.find(b"\x47", start + self._lead + 1)
                start = (found if found >= 0 else len(chunk)) - self._lead
        self._rest = chunk[start:]
        self._at += start

    def _rows(self, head: np.ndarray[tuple[int, int], np.dtype[np.uint8]], at: int) -> None:
        pids = (head[:, 1] & 0x1F).astype(np.uint16) << 8 | head[:, 2]
        clock = np.flatnonzero(pids == self._pid)
        if len(clock) and self._first and self._first[-1] == _ENDLESS:
            self._first[-1] = at + int(clock[0]) * self._size
        for row in np.flatnonzero((pids == 0) & (head[:, 1] & 0x40 != 0)).tolist():
            later = int(np.searchsorted(clock, row))
            self._pats.append(at + row * self._size)
            self._first.append(at + int(clock[later]) * self._size if later < len(clock) else _ENDLESS)

    def unit(self, pos: int) -> int:
        i = bisect_left(self._pats, pos) - 1
        if i >= 0 and self._first[i] >= pos and pos - self._pats[i] <= self.REACH * self._size:
            return self._pats[i]
        return pos

    def forget(self, before: int) -> None:
        i = bisect_left(self._pats, before)  # `unit` looks for a PAT before its position, never at it
        if i > 1:
            del self._pats[: i - 1], self._first[: i - 1]


class Seekable(Protocol):
    """What `missing` reads."""

    def read(self, n: int, /) -> bytes:
        """The next `n` bytes, fewer only at the end."""

    def seek(self, offset: int, /) -> object:
        """Go to an offset from the start."""


WALKERS: Final[dict[str, type[_Walker]]] = {
    "mp4": Boxes,
    "matroska": Clusters,
    "ogg": Pages,
    "wav": Chunks,
}
"""For the formats (`sniff.Format.name`) whose parts tell by themselves where the next one begins."""


def missing(file: Seekable, size: int, name: str) -> int:
    """`Scanner.missing` of a file of `size` bytes in format `name`: little of it is read but headers.

    0 for a format that is not in WALKERS. Raises what the file raises.
    """
    make = WALKERS.get(name)
    if make is None:
        return 0
    walker = make()
    at = 0
    while at < size:
        file.seek(at)
        data = file.read(_LOOK)
        if not data:  # it has become shorter
            break
        walker.feed(data)
        at += len(data)
        far = min(walker.ahead, size - at)
        walker.leap(far)
        at += far
    return walker.missing
