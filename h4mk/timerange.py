"""Time ranges: which bytes of a track show all of the moments [pts, end_pts) (H4MK 15.2, 18.4).

Pure but for two callables that read a token each: one KEY block's `min_pts`, and the track's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harmony4.crypto.errors import NotFoundError, UsageError
from harmony4.h4mk.seek import SeekEntry, SeekTable

__all__ = ["TimeRange", "find_time_range"]

LOOK: Final = 1000
"""KEY blocks that are looked at for the end. Real media needs one to three; a file may lie (H4MK 18.4)."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The blocks that show a time. Times are µs, offsets bytes of the track's stream."""

    pts: int
    """PTS of the KEY block that the range begins with."""
    end_pts: int | None
    """From `pts` to here all is shown; None where no end is known (original profile)."""
    start: int
    stop: int
    """`stop` excluded."""
    last: bool
    """Whether the range goes to the end of the stream."""
    header_ranges: tuple[tuple[int, int], ...]
    """(offset, size) of the bytes that a decoder needs before these."""


def find_time_range(
    table: SeekTable,
    pts: int,
    end_pts: int | None,
    *,
    size: int,
    least: Callable[[SeekEntry], int],
    end: Callable[[], int | None],
    header_ranges: Callable[[], tuple[tuple[int, int], ...]],
) -> TimeRange:
    """The blocks for [pts, end_pts) of a stream of `size` bytes; without `end_pts` up to its end.

    Asking again for [result.pts, result.end_pts), or for [result.pts, …) where `last`, gives the same result.
    Raises UsageError for times that are no interval, NotFoundError where nothing shows `pts`.
    """
    if pts < 0 or (end_pts is not None and end_pts <= pts):
        raise UsageError("a time range must not be empty or negative", found=(pts, end_pts))
    number = table.find(pts)
    if number < 0 and len(table) and (end_pts is None or end_pts > table[0].pts):
        number = 0  # the time begins before the track does, and reaches into it
    if number < 0:
        first = f">= {table[0].pts}" if len(table) else None
        raise NotFoundError("no keyframe is that early", expected=first, found=pts)
    entry = table[number]
    until = None
    if number + 1 == len(table) and pts > entry.pts and (until := end()) is not None and pts >= until:
        raise NotFoundError("the track ends before that time", expected=f"< {until}", found=pts)
    start = min(entry.offset, size)  # the original implementation's offsets may lie beyond the stream
    if end_pts is not None:
        # A KEY block holds its own keyframe, so its least PTS is not greater than its PTS.
        following = table.find(end_pts - 1) + 1
        for candidate in range(following, min(len(table), following + LOOK)):
            other = table[candidate]
            shown = min(least(other), other.pts)
            if shown >= end_pts:
                return TimeRange(entry.pts, shown, start, min(other.offset, size), False, header_ranges())
    until = end() if until is None else until
    return TimeRange(entry.pts, until, start, size, True, header_ranges())
