"""A track as segments: runs of whole groups that a player fetches one at a time, out of the seek table.

    found = find_segments(reader, track)
    found.starts, found.durations      # µs
    found.offsets, found.sizes         # bytes of the track's stream

Groups that are shorter than `LEAST` share a segment, so that a film of nothing but keyframes has a playlist
that can be read, and so does one of a week (`MOST`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from harmony4.crypto.errors import NotFoundError
from harmony4.h4mk import H4MKReader, SeekTable, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST", "MOST", "Segments", "clock_steps", "find_segments"]

LEAST: Final = 900_000
"""Shortest segment, µs; only the last one, and a group that is alone before a jump of the clock, may be
shorter. Below a second, the distance of access points in sound: Chromium's own HLS (156) fails when it seeks
while it reads a segment of several fragments, so fragments of a usual length stay alone."""
MOST: Final = 40_000
"""So many segments a playlist has; in a longer track they are longer."""
_TICK: Final = 1_000
"""A last group shorter than this, µs, goes with the one before: players round to milliseconds."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a track, in columns of one length."""

    starts: NDArray[np.int64]
    """µs; the first is 0 or later."""
    durations: NDArray[np.int64]
    """µs, each to the next start."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Bytes of the track's stream."""
    jumps: frozenset[int] = frozenset()
    """Segments before which the source's clock jumped."""
    gaps: frozenset[int] = frozenset()
    """Segments of which bytes are lost."""

    def __len__(self) -> int:
        return len(self.starts)

    def peak(self) -> int:
        """Bits/s of the densest segment."""
        seconds = np.maximum(self.durations, _TICK) / 1e6
        return int(np.ceil((self.sizes * 8 / seconds).max()))

    def average(self) -> int:
        """Bits/s of the whole."""
        return -(-int(self.sizes.sum()) * 8 * 1_000_000 // max(int(self.durations.sum()), _TICK))


def find_segments(reader: H4MKReader, track: int) -> Segments | None:
    """The segments of a track, None where it has no keyframe. Reads its tables.

    Raises FormatError and its kin.
    """
    table = reader.seek_table(track)
    if not len(table):
        return None
    first, _ = table.pair(0)
    end = max(reader.end(track), first)
    jumps = sorted({step.pts for step in clock_steps(reader, track) if step.pts > first})
    pts, offsets = _starts(table, max(LEAST, -(-(end - first) // MOST)), jumps)
    if len(pts) > 1 and end - pts[-1] < _TICK:
        pts, offsets = pts[:-1], offsets[:-1]
    durations = np.diff(pts, append=max(end, int(pts[-1]) + _TICK))
    sizes = np.diff(offsets, append=reader.stream_size(track))
    numbers = np.searchsorted(pts, np.array(jumps, np.int64))
    lost = any(hole.track == track for hole in reader.lost)
    return Segments(
        pts,
        durations,
        offsets,
        sizes,
        frozenset(number for number in numbers.tolist() if number < len(pts)),
        frozenset(n for n in range(len(pts)) if _is_lost(reader, track, offsets[n], sizes[n]))
        if lost
        else frozenset(),
    )


def clock_steps(reader: H4MKReader, track: int) -> list[Step]:
    """Where the clock of a track's source jumped."""
    return [step for step in reader.meta.steps if step.track == track] if reader.meta is not None else []


def _is_lost(reader: H4MKReader, track: int, offset: int, size: int) -> bool:
    try:
        reader.extents(int(offset), int(size), track)
    except NotFoundError:
        return True
    return False


def _starts(table: SeekTable, least: int, jumps: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """PTS and offsets of the keyframes that begin a segment."""
    columns = table.columns()
    if columns is not None:
        pts, offsets = (np.frombuffer(column, np.uint64).astype(np.int64) for column in columns)
        if len(pts) == 1 or int(np.diff(pts).min()) >= least:
            return pts, offsets
    pairs = np.array([table.pair(row) for row in _rows(table, least, jumps)], np.int64)
    return pairs[:, 0], pairs[:, 1]


def _rows(table: SeekTable, least: int, jumps: list[int]) -> list[int]:
    """The entries that begin a segment: `least` µs after the one before, or where the clock has jumped."""
    rows, row = [0], 0
    ahead = iter([*(table.find(jump - 1) + 1 for jump in jumps), len(table)])
    jump = next(ahead)
    while True:
        while jump <= row:
            jump = next(ahead)
        row = min(table.find(table.pair(row)[0] + least - 1) + 1, jump)
        if row >= len(table):
            return rows
        rows.append(row)
