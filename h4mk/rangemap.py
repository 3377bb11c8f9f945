"""RMAP: from a logical byte range of a track to the pieces of the file that hold it (H4MK 9)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import numpy as np

from harmony4.crypto.token import MAX_VALUE
from harmony4.h4mk.layout import CHUNK_SIZE, HEADER_SIZE, RMAP_ENTRY, RangeEntry
from harmony4.h4mk.seek import CopiedTable, Table

__all__ = ["FlatMap", "KeyMap", "RangeMap"]

_PTS, _OFFSET, _POSITION, _LEAF = 0, 8, 16, 24
_END = np.dtype({"names": ["size", "zero"], "formats": [">u4", ">u2"], "offsets": [32, 38], "itemsize": 40})


class FlatMap:
    """A range map that is known to be a map of the stream, as two columns: looking up costs two bisections.

    Holds 16 bytes a block.
    """

    __slots__ = ("end", "offsets", "positions")

    def __init__(self, offsets: array[int], positions: array[int], end: int) -> None:
        """Logical offsets and payload positions of all blocks; `end` is the stream's length."""
        self.offsets = offsets
        self.positions = positions
        self.end = end

    def pieces(self, start: int, length: int) -> Iterable[tuple[int, int]]:
        """The (file offset, size) pieces that hold bytes `start` … `start + length`, which exist.

        A tuple where they lie in one block.
        """
        offsets = self.offsets
        row = bisect_right(offsets, start)
        position = self.positions[row - 1] + start - offsets[row - 1]
        if row == len(offsets) or start + length <= offsets[row]:
            return ((position, length),)
        return self._pieces(row, position, start, start + length)

    def _pieces(self, row: int, position: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        # One by one: a range may reach over millions of blocks.
        count = len(self.offsets)
        while row < count and (border := self.offsets[row]) < stop:
            yield position, border - start
            start, position = border, self.positions[row]
            row += 1
        yield position, stop - start


class KeyMap:
    """The keyframes of a track and the blocks that they open, all in memory: an access point in O(log n)."""

    __slots__ = ("_blocks", "_offsets", "_size", "_times", "greatest")

    def __init__(self, times: array[int], offsets: array[int], blocks: FlatMap) -> None:
        """Times (µs) and logical offsets of the keyframes."""
        self._times = times
        self._offsets = offsets
        self._blocks = blocks.offsets
        self._size = blocks.end
        self.greatest = max([blocks.end, *times[-1:]])
        """No number in an answer is greater: the stream's length in bytes, or the last keyframe's µs."""

    def find(self, pts: int) -> tuple[int, int, int, int | None, int] | None:
        """PTS, offset and block index of the keyframe at or before `pts` µs, the next one's PTS, the bytes to
        it.

        The next PTS is None behind the last keyframe; the bytes then reach to the end of the stream. None
        where all keyframes are later, or SEEK does not point at a block.
        """
        times, offsets = self._times, self._offsets
        number = bisect_right(times, pts)
        if not number:
            return None
        offset = offsets[number - 1]
        block = bisect_right(self._blocks, offset) - 1
        if self._blocks[block] != offset:
            return None
        if number < len(times):
            return times[number - 1], offset, block, times[number], offsets[number] - offset
        return times[number - 1], offset, block, None, self._size - offset


class RangeMap:
    """The blocks of one track, in order, by number, by logical offset or by time."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @classmethod
    def copied(cls, data: bytes | bytearray) -> RangeMap:
        """A map from its packed entries, checked. Raises OrderError, FormatError."""
        table = CopiedTable(data, RMAP_ENTRY.size)
        table.check_increasing(_OFFSET, "RMAP", strictly=True)
        table.check_increasing(_PTS, "RMAP", strictly=False)
        return cls(table)

    def __len__(self) -> int:
        return self._table.count

    def __getitem__(self, number: int) -> RangeEntry:
        if not 0 <= number < self._table.count:
            raise IndexError(number)
        return RangeEntry.unpack(self._table.row(number))

    def packed(self, number: int, count: int) -> bytes:
        """Entries `number` … `number + count`, which exist, as they are stored."""
        return self._table.rows(number, count)

    def offset_of(self, number: int) -> int:
        """Where block `number`, which exists, begins in the stream."""
        return int.from_bytes(self._table.row(number)[_OFFSET : _OFFSET + 8])

    def at_offset(self, offset: int) -> int:
        """The number of the last block that starts at or before `offset`; -1 if there is none."""
        return self._table.find(_OFFSET, offset)

    def at_time(self, pts: int) -> int:
        """The number of the last block whose PTS is ≤ `pts` µs; -1 if there is none."""
        return self._table.find(_PTS, pts)

    def at_leaf(self, leaf: int) -> int:
        """The number of the last block that stands in the file at or before `leaf`; -1 if there is none."""
        return self._table.find(_LEAF, leaf)

    def flat(self, size: int) -> FlatMap | None:
        """The map as columns, for a file of `size` bytes; None where it is read by pages or is not sound.

        Sound: blocks follow each other without holes from offset 0 on, and their payloads lie in the file one
        behind the other. Whoever wrote the table may lie, but not make one byte count twice.
        """
        table = self._table
        if not isinstance(table, CopiedTable) or not table.count:
            return None
        offsets, positions = table.column(_OFFSET), table.column(_POSITION)
        ends = table.view(_END)
        sizes = ends["size"].astype("u8")
        starts, places = np.frombuffer(offsets, "=u8"), np.frombuffer(positions, "=u8")
        if int(starts.max()) > MAX_VALUE or int(places.max()) > size:
            return None  # before anything is added: a sum that overflows would look sound
        stops, behind = starts + sizes, places + sizes
        sound = (
            offsets[0] == 0
            and bool((stops[:-1] == starts[1:]).all())
            and positions[0] >= HEADER_SIZE + CHUNK_SIZE
            and bool((behind[:-1] <= places[1:]).all())
            and int(behind[-1]) <= size
            and bool((sizes > 0).all())
            and not ends["zero"].any()
        )
        return FlatMap(offsets, positions, int(stops[-1])) if sound else None

    def __iter__(self) -> Iterator[RangeEntry]:
        return (self[number] for number in range(len(self)))
