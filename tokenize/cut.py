"""The cutting rule (H4MK, "Time"; `cut.rule` 1) as a state machine: bytes and packets in, blocks out.

It does no I/O and knows offsets only; whoever drives it holds the bytes. What it decides depends on the
packets, in the order in which the demuxer gives them, and on the structure before them, and on nothing
else: not on the sizes of the pieces that the bytes came in, nor on how far the demuxer had read ahead.

A boundary is final once it is certain that no later packet opens a KEY block at or before it:

- *Frontier*: later packets of the clock stream lie at or behind its last one; those of other streams may
  come up to LAG bytes too early (their frames end sooner), and do not count at all (`in_order=False`) where
  the demuxer jumps about in a seekable file.
- *Unit*: a keyframe opens its block at the start of its random-access unit, so boundaries inside the
  frontier's unit wait, unless a block has been opened at its start or it is longer than MAX_UNIT.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from harmony4.tokenize.packet import Packet
from harmony4.tokenize.packettable import PacketTable
from harmony4.tokenize.scan import Buffer, Scanner
from harmony4.tokenize.timeline import Timeline

__all__ = ["LAG", "MAX_UNIT", "Block", "Cutter"]

LAG = 4 * 2**20
"""How far (bytes) a packet of another stream may run ahead of a clock packet that starts before it."""
MAX_UNIT = 64 * 2**20
"""A keyframe more than this (bytes) behind its unit's start opens no block: waiting stays bounded."""


@dataclass(frozen=True, slots=True)
class Block:
    """A decided block of the source."""

    start: int
    size: int
    pts: int
    key: bool
    header: bool
    min_pts: int | None


class Cutter:
    """Decides blocks; every method gives back those that became certain, in order."""

    def __init__(
        self,
        limit: int,
        scanner: Scanner,
        timeline: Timeline,
        *,
        clock: int,
        span: int = 0,
        in_order: bool = True,
    ) -> None:
        """Blocks of at most `limit` bytes; KEY blocks of stream `clock` at least `span` µs apart."""
        self._limit = limit
        self._scanner = scanner
        self._timeline = timeline
        self._clock = clock
        self._span = span
        self._in_order = in_order
        self._fed = 0
        self._frontier = 0
        self._done = False
        self._decided = -1  # the last boundary that was decided; -1: not even the one at 0
        self._start = 0
        self._pts = 0
        self._key = False
        self._header = True
        self._key_pts: int | None = None
        self._seen = 0  # greatest clock PTS among packets before _start
        # pos and PTS of clock packets at or after _start, in runs of growing positions
        self._pending: list[tuple[list[int], list[int]]] = []
        self._pos: int | None = None  # of the last clock packet that had one
        self._out: list[Block] = []

    @property
    def end(self) -> int:
        """Where the track ends: the greatest end of a clock packet, µs."""
        return self._timeline.end

    def feed(self, data: Buffer) -> list[Block]:
        """The next bytes of the source."""
        if not self._done:
            self._scanner.feed(data)
        return self.skip(len(data))

    def skip(self, size: int) -> list[Block]:
        """The same for `size` bytes that need no look (`scanner.reads` is false, or packets have ended)."""
        self._fed += size
        if self._done:
            self._continue(self._fed)
        return self._take()

    def packet(self, packet: Packet) -> list[Block]:
        """The next packet, in the demuxer's order; the bytes up to its end have been fed."""
        pos = packet.pos
        if pos is not None and not 0 <= pos < self._fed:
            pos = None
        if packet.stream != self._clock:
            if pos is not None and self._in_order:
                self._advance(pos - LAG)
            return self._take()
        pts = self._timeline.place(packet.pts, packet.duration, packet.key)
        # A packet without a position begins where its predecessor's transport packet does (MPEG-TS: several
        # frames in one PES packet).
        pos = self._pos = self._pos if pos is None else pos
        if pos is None:
            return self._take()
        self._show(pos, pts, packet.key)
        return self._take()

    def packets(self, packets: PacketTable) -> list[Block]:
        """The same for many at once; the bytes up to the end of each have been fed."""
        if not self._at_once(packets):
            return [block for packet in packets for block in self.packet(packet)]
        return self._take()

    def _at_once(self, packets: PacketTable) -> bool:
        """Take packets of which only keyframes, and those that complete a block, need a look of their own.

        False, and nothing is done, where there may be others.
        """
        clock, places = packets.stream == self._clock, packets.pos
        if not clock.all():
            others = places[~clock]
            if self._in_order and int(others.max()) - LAG > self._frontier:
                return False
            packets, places = packets[clock], places[clock]
        if not len(packets):
            return True
        if places[0] < self._frontier or places[-1] >= self._fed or (places[1:] < places[:-1]).any():
            return False
        keys = packets.key
        times = self._timeline.place_all(packets.pts, packets.duration, keys)
        if times is None:
            return False
        at, pts = places.tolist(), times.tolist()
        i = 0
        for key in [*np.flatnonzero(keys).tolist(), len(at)]:
            while i < key:
                stop = bisect_left(at, self._start + self._limit, i, key)
                if stop > i:
                    self._keep(at[i:stop], pts[i:stop])
                    self._frontier = at[stop - 1]
                else:
                    self._show(at[i], pts[i], False)
                    stop += 1
                i = stop
            if key < len(at):
                self._show(at[key], pts[key], True)
                i += 1
        self._pos = at[-1]
        return True

    def _show(self, pos: int, pts: int | None, key: bool) -> None:
        """A clock packet."""
        self._advance(pos)
        if pts is not None:
            if key:
                self._open(pos, pts)
            self._keep([pos], [pts])
        self._advance(pos)  # once more: a unit that has just been opened holds nothing back

    def _keep(self, at: list[int], pts: list[int]) -> None:
        if not self._pending or at[0] < self._pending[-1][0][-1]:
            self._pending.append((at, pts))
        else:
            self._pending[-1][0].extend(at)
            self._pending[-1][1].extend(pts)

    def packets_end(self) -> list[Block]:
        """No packet will follow; bytes may."""
        self._done = True
        self._continue(self._fed)
        return self._take()

    def finish(self) -> list[Block]:
        """No byte will follow either: the last block (none for an empty source)."""
        self.packets_end()
        if self._fed > self._start:
            self._close(self._fed)
        return self._take()

    def _take(self) -> list[Block]:
        out, self._out = self._out, []
        return out

    def _advance(self, frontier: int) -> None:
        frontier = self._frontier = max(frontier, self._frontier)
        if self._start + self._limit > frontier:
            return
        unit = self._unit(frontier)
        settled = self._decided >= unit or frontier - unit > MAX_UNIT
        self._continue(frontier + 1 if settled else unit)

    def _unit(self, pos: int) -> int:
        unit = self._scanner.unit(pos)
        return pos if unit <= self._decided and self._scanner.bare else unit

    def _continue(self, before: int) -> None:
        """Continuation boundaries below `before`."""
        while (boundary := self._start + self._limit) < before:
            self._close(boundary)
            if not self._header:
                self._pts = max(self._pts, self._seen)

    def _open(self, pos: int, pts: int) -> None:
        """A KEY block for the keyframe at `pos`, if the rule allows one."""
        unit = self._unit(pos)
        if unit <= self._decided or pos - unit > MAX_UNIT:
            return
        if self._key_pts is not None and (pts <= self._pts or pts < self._key_pts + self._span):
            return
        self._continue(unit)
        if unit > self._start:
            self._close(unit)
        self._decided = unit
        self._key, self._header = True, False
        self._pts = self._key_pts = pts

    def _close(self, boundary: int) -> None:
        """End the open block at `boundary` and start the next there, a continuation for now."""
        inside: list[int] = []
        for at, times in self._pending:
            stop = bisect_left(at, boundary)
            inside += times[bisect_left(at, self._start) : stop]
            self._seen = max(self._seen, *times[:stop]) if stop else self._seen
            del at[:stop], times[:stop]
        self._pending = [run for run in self._pending if run[0]]
        self._out.append(
            Block(
                self._start,
                boundary - self._start,
                self._pts,
                self._key,
                self._header,
                min(inside) if inside else None,
            )
        )
        self._start = self._decided = boundary
        self._key = False
        self._scanner.forget(boundary)
