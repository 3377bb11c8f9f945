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

from harmony4.crypto.errors import SealError
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
_FAR: Final = 2**53
"""µs, 285 years: no player counts further, so what is later cannot be played."""
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
        """Bits/s of the densest stretch of at least half the longest segment (RFC 8216 §4.3.4.2)."""
        times, sizes = (np.concatenate(([0], np.cumsum(one))) for one in (self.durations, self.sizes))
        half = max(int(self.durations.max()) // 2, 1)
        stops = np.searchsorted(times, times[:-1] + half)
        begins = np.flatnonzero(stops < len(times))
        stops = stops[begins]
        seconds = (times[stops] - times[begins]) / 1e6
        return int(np.ceil(((sizes[stops] - sizes[begins]) / seconds).max() * 8))

    def average(self) -> int:
        """Bits/s of the whole."""
        return -(-int(self.sizes.sum()) * 8 * 1_000_000 // max(int(self.durations.sum()), _TICK))


def find_segments(reader: H4MKReader, track: int) -> Segments | None:
    """The segments of a track, None where it has no keyframe or times beyond all players. Reads its tables.

    Raises FormatError and its kin, SealError where they do not fit each other.
    """
    table = reader.seek_table(track)
    if not len(table):
        return None
    first, _ = table.pair(0)
    end = max(reader.end(track), first)
    jumps = sorted({step.pts for step in clock_steps(reader, track) if step.pts > first})
    if end > _FAR:
        return None
    pts, offsets = _starts(table, max(LEAST, -(-(end - first) // MOST)), jumps)
    _check(reader, track, offsets)
    if len(pts) > 1 and end - pts[-1] < _TICK:
        pts, offsets = pts[:-1], offsets[:-1]
    durations = np.diff(pts, append=max(end, int(pts[-1]) + _TICK))
    sizes = np.diff(offsets, append=reader.stream_size(track))
    numbers = np.searchsorted(pts, np.array(jumps, np.int64))
    return Segments(
        pts,
        durations,
        offsets,
        sizes,
        frozenset(number for number in numbers.tolist() if number < len(pts)),
        frozenset(_lost(reader, track, offsets, sizes)),
    )


def clock_steps(reader: H4MKReader, track: int) -> list[Step]:
    """Where the clock of a track's source jumped."""
    return [step for step in reader.meta.steps if step.track == track] if reader.meta is not None else []


def _check(reader: H4MKReader, track: int, offsets: NDArray[np.int64]) -> None:
    """Raise SealError unless blocks begin at these offsets: a player must not be sent anywhere else."""
    flat = reader.flat_map(track)
    if flat is not None:
        known = np.frombuffer(flat.offsets, np.uint64).astype(np.int64)
        fits = bool(np.isin(offsets, known).all())
    else:
        rmap = reader.range_map(track)
        rows = ((rmap.at_offset(offset), offset) for offset in offsets.tolist())
        fits = all(row >= 0 and rmap.offset_of(row) == offset for row, offset in rows)
    if not fits or (np.diff(offsets) <= 0).any():
        raise SealError("SEEK does not point at a block", where=f"track {track}")


def _lost(reader: H4MKReader, track: int, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[int]:
    """The segments that touch a hole."""
    if all(hole.track != track for hole in reader.lost):
        return []
    holes = np.array(reader.byte_holes(track), np.int64).reshape(-1, 2)
    # The first hole that ends behind a segment's begin is the only one that need be looked at.
    nearest = np.searchsorted(holes[:, 1], offsets, side="right")
    begins = np.append(holes[:, 0], np.iinfo(np.int64).max)[nearest]
    found: list[int] = np.flatnonzero(begins < offsets + sizes).tolist()
    return found


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
