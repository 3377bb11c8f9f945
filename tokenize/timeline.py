"""From stream ticks to the container's one timeline in µs (H4MK, "Time").

Pure arithmetic: wraps of MPEG-TS's 33-bit clock are unrolled, and where a clock keyframe jumps backwards
(streams that were joined end to end) the timeline goes on at the end of what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["WRAP", "Step", "Timeline", "micros", "unroll"]

WRAP = 2**33
"""Period of the MPEG-TS clock, ticks of 1/90000 s."""
_FAR = 2**62  # µs; nothing that a demuxer reports beyond it is a time
_NEAR = 2**59  # of sums of four numbers below this, none is far or beyond 64 bits


@dataclass(frozen=True, slots=True)
class Step:
    """A place where the timeline departs from the stream's own time stamps, as META.steps lists it."""

    pts: int
    """Where on the container's timeline, µs."""
    shift: int
    """What was added to the PTS from there, in addition to earlier steps, µs."""


def micros(ticks: int, num: int, den: int) -> int:
    """floor(ticks · num · 10^6 / den), exactly."""
    return ticks * num * 1_000_000 // den


def unroll(ticks: int, near: int | None) -> int:
    """The value that equals `ticks` modulo 2^33 and is nearest to `near` (None: `ticks` itself)."""
    return ticks if near is None else ticks + (near - ticks + WRAP // 2) // WRAP * WRAP


class Timeline:
    """Places the packets of the clock stream, in the order in which they are read."""

    def __init__(
        self, num: int, den: int, *, origin: int, wraps: bool = False, start: int | None = None
    ) -> None:
        """Time base num/den s, origin in µs; with `wraps` 33-bit ticks are unrolled, from `start` on."""
        self._num, self._den = num, den
        self._origin = origin
        self._wraps = wraps
        self._near = start
        self._shift = 0
        self._greatest = -1  # keyframe PTS
        self.steps: list[Step] = []
        self.end = 0
        """Greatest end (PTS + duration) of a packet so far, µs."""

    def place(self, ticks: int | None, duration: int, key: bool) -> int | None:
        """PTS of a clock packet in µs, at least 0; None if it has none (or an absurd one)."""
        if ticks is None:
            return None
        if self._wraps:
            ticks = self._near = unroll(ticks, self._near)
        raw = micros(ticks, self._num, self._den) - self._origin
        end = micros(ticks + max(duration, 0), self._num, self._den) - self._origin
        if abs(raw) + self._shift >= _FAR or end + self._shift >= _FAR:
            return None
        pts = max(0, raw + self._shift)
        if key and pts < self._greatest:
            shift = self.end - (raw + self._shift)
            self._shift += shift
            pts = raw + self._shift
            self.steps.append(Step(pts, shift))
        if key:
            self._greatest = max(self._greatest, pts)
        self.end = max(self.end, end + self._shift)
        return pts

    def place_all(
        self, ticks: NDArray[np.int64], durations: NDArray[np.int64], keys: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """The same for consecutive packets at once; None, and nothing is done, where that cannot be.

        That is where one has no PTS or an absurd one, on a clock that wraps, and where a keyframe jumps back.
        """
        scale = self._num * 1_000_000
        most = _NEAR // scale
        if self._wraps or max(scale, self._den, abs(self._origin), abs(self._shift)) > _NEAR:
            return None
        if ticks.min() < -most or max(int(ticks.max()), int(durations.max())) > most:
            return None
        moved = self._shift - self._origin
        found = np.maximum(ticks * scale // self._den + moved, 0)
        places = found[keys]
        if len(places) and (places[0] < self._greatest or (places[1:] < places[:-1]).any()):
            return None
        ends = (ticks + np.maximum(durations, 0)) * scale // self._den
        self.end = max(self.end, int(ends.max()) + moved)
        if len(places):
            self._greatest = int(places[-1])
        return found
