"""The holes of one track: block indices count lost blocks, rows of its tables do not (H4MK 10.2)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from harmony4.crypto.errors import SealError
from harmony4.h4mk.documents import Lost
from harmony4.h4mk.rangemap import RangeMap

__all__ = ["Holes"]


class Holes:
    """Index to row and back, in O(log holes), for the holes of META.lost that belong to one track."""

    def __init__(self, lost: Iterable[Lost] = ()) -> None:
        """`lost`: those of the track, sorted, as META's schema asks."""
        holes = [hole for hole in lost if hole.count]  # 0 is a missing end, behind every block
        self._firsts = [hole.first for hole in holes]
        self._shifts = [0]
        for hole in holes:
            self._shifts.append(self._shifts[-1] + hole.count)
        # The row that follows each hole.
        self._rows = [first - shift for first, shift in zip(self._firsts, self._shifts, strict=False)]

    def index_of(self, row: int) -> int:
        """The block index of a stored row."""
        return row + self._shifts[bisect_right(self._rows, row)]

    def row_of(self, index: int) -> int:
        """The row of a block index; of a lost one, the row that follows the hole."""
        hole = bisect_right(self._firsts, index)
        row = index - self._shifts[hole]
        return max(row, self._rows[hole - 1]) if hole else row

    def run(self, row: int, most: int) -> int:
        """How many rows from `row` on stand for blocks that follow each other, `most` at most."""
        hole = bisect_right(self._rows, row)
        return min(most, self._rows[hole] - row) if hole < len(self._rows) else most

    def is_lost(self, index: int) -> bool:
        """Whether the block is in a hole."""
        return self.index_of(self.row_of(index)) != index

    def byte_ranges(self, rmap: RangeMap) -> Iterator[tuple[int, int]]:
        """(start, end) of the bytes of the stream that are lost. Raises SealError for impossible holes."""
        for row in self._rows:
            if row >= len(rmap):
                raise SealError("META.lost names a hole behind the last block", where="META.lost")
            before = rmap[row - 1] if row else None
            yield before.offset + before.size if before else 0, rmap[row].offset
