"""RMAP: from a logical byte range of a track to the pieces of the file that hold it (H4MK 9)."""

from __future__ import annotations

from collections.abc import Iterator

from harmony4.h4mk.layout import RMAP_ENTRY, RangeEntry
from harmony4.h4mk.seek import CopiedTable, Table

__all__ = ["RangeMap"]

_PTS, _OFFSET = 0, 8


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

    def offset_of(self, number: int) -> int:
        """Where block `number`, which exists, begins in the stream."""
        return int.from_bytes(self._table.row(number)[_OFFSET : _OFFSET + 8])

    def at_offset(self, offset: int) -> int:
        """The number of the last block that starts at or before `offset`; -1 if there is none."""
        return self._table.find(_OFFSET, offset)

    def at_time(self, pts: int) -> int:
        """The number of the last block whose PTS is ≤ `pts` µs; -1 if there is none."""
        return self._table.find(_PTS, pts)

    def __iter__(self) -> Iterator[RangeEntry]:
        return (self[number] for number in range(len(self)))
