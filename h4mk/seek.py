"""Tables of fixed-size entries, and the SEEK table: the keyframe at or before a time in O(log n) (H4MK 8)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from harmony4.crypto.errors import FormatError, OrderError
from harmony4.crypto.token import MAX_VALUE, TokenRecord
from harmony4.h4mk.layout import SEEK_ENTRY, SEEK_HEAD
from harmony4.h4mk.source import ReadAt, read_exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CopiedTable", "PagedTable", "SeekEntry", "SeekResult", "SeekTable", "Table"]


class Table(Protocol):
    """Entries of one size whose u64 columns increase."""

    count: int

    def row(self, number: int) -> bytes | memoryview:
        """The bytes of entry `number`."""
        ...

    def rows(self, number: int, count: int) -> bytes:
        """The bytes of entries `number` … `number + count`, which exist."""
        ...

    def find(self, column: int, value: int) -> int:
        """The last entry whose u64 at byte `column` is ≤ `value`; -1 if there is none."""
        ...


class CopiedTable:
    """A table in memory: for tables up to 8 MiB, and for those made by walking a file."""

    def __init__(self, data: bytes | bytearray, width: int) -> None:
        """`data` holds whole entries of `width` bytes."""
        self.count = len(data) // width
        self._data = memoryview(data).toreadonly()
        self._width = width
        self._columns: dict[int, array[int]] = {}

    def column(self, column: int) -> array[int]:
        """One u64 column as native integers. Raises FormatError for values of 2^63 and more."""
        if column not in self._columns:
            # NumPy refuses a stride over an empty buffer.
            strided = (
                np.ndarray((self.count,), ">u8", self._data, column, (self._width,)) if self.count else _NONE
            )
            raw = strided.astype("=u8")
            if (raw > MAX_VALUE).any():
                raise FormatError("a table value is 2^63 or more")
            self._columns[column] = array("Q", raw.tobytes())
        return self._columns[column]

    def view(self, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        """The entries as NumPy records of `dtype`, which is as wide as they are."""
        return np.frombuffer(self._data, dtype)

    def check_increasing(self, column: int, what: str, *, strictly: bool) -> None:
        """Raise OrderError unless the column increases."""
        values = np.frombuffer(self.column(column), "=u8")
        good = values[1:] > values[:-1] if strictly else values[1:] >= values[:-1]
        if not good.all():
            raise OrderError(f"{what} is not in order", where=f"entry {int(np.argmin(good)) + 1}")

    def row(self, number: int) -> memoryview:
        """The bytes of entry `number`."""
        return self._data[number * self._width : (number + 1) * self._width]

    def rows(self, number: int, count: int) -> bytes:
        """The bytes of entries `number` … `number + count`, which exist."""
        return bytes(self._data[number * self._width : (number + count) * self._width])

    def find(self, column: int, value: int) -> int:
        """The last entry whose u64 at byte `column` is ≤ `value`; -1 if there is none."""
        return bisect_right(self.column(column), value) - 1


class PagedTable:
    """A table read by pages: a binary search over the pages' first entries, then within one page.

    First entries ("fence keys") and a few pages are remembered, so a search in a table of any length costs
    a handful of small reads at first and none or one later.
    """

    PAGE = 16 * 2**10
    PAGES = 128
    FENCES = 2**16

    def __init__(self, source: ReadAt, start: int, width: int, count: int) -> None:
        """`start` is the file offset of the first entry."""
        self.count = count
        self._source = source
        self._start = start
        self._width = width
        self._per_page = self.PAGE // width
        self._pages = -(-count // self._per_page)
        self._page = lru_cache(self.PAGES)(self._read_page)
        # By column: what `bisect` calls, without any Python code between where the answer is known.
        self._fences: dict[int, Callable[[int], int]] = {}

    def row(self, number: int) -> bytes:
        """The bytes of entry `number`."""
        page, rest = divmod(number, self._per_page)
        return self._page(page)[rest * self._width : (rest + 1) * self._width]

    def rows(self, number: int, count: int) -> bytes:
        """The bytes of entries `number` … `number + count`, which exist."""
        first, skip = divmod(number, self._per_page)
        last = (number + count - 1) // self._per_page
        data = b"".join(map(self._page, range(first, last + 1)))
        return data[skip * self._width : (skip + count) * self._width]

    def find(self, column: int, value: int) -> int:
        """The last entry whose u64 at byte `column` is ≤ `value`; -1 if there is none."""
        fence = self._fences.get(column)
        if fence is None:
            fence = self._fences[column] = lru_cache(self.FENCES)(partial(self._read_fence, column))
        fences = bisect_right(range(self._pages), value, key=fence)
        if not fences:
            return -1
        data = self._page(fences - 1)
        # Big-endian numbers compare as their bytes do.
        wanted, rows = min(value, 2**64 - 1).to_bytes(8), range(column, len(data), self._width)
        inside = bisect_right(rows, wanted, key=lambda at: data[at : at + 8])
        return (fences - 1) * self._per_page + inside - 1

    def _read_fence(self, column: int, page: int) -> int:
        start = self._start + page * self._per_page * self._width
        return _u64(read_exact(self._source, start + column, 8), 0)

    def _read_page(self, page: int) -> bytes:
        first = page * self._per_page
        entries = min(self._per_page, self.count - first)
        return read_exact(self._source, self._start + first * self._width, entries * self._width)


_NONE = np.empty(0, "=u8")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8])


@dataclass(frozen=True, slots=True)
class SeekEntry:
    """One keyframe: where to start reading for a time."""

    pts: int
    """µs on the container's timeline."""
    offset: int
    """Logical offset in the track's stream, bytes: what goes into `Range: bytes=offset-`."""


@dataclass(frozen=True, slots=True)
class SeekResult:
    """The access point for a time. Times are µs, offsets and sizes bytes of the track's stream."""

    pts: int
    offset: int
    block_index: int
    next_pts: int | None
    """PTS of the next keyframe; None if this is the last."""
    size: int
    """Bytes from here to the next keyframe, or to the end of the stream."""
    header_ranges: tuple[tuple[int, int], ...]
    """(offset, size) of the bytes that a decoder needs before these."""


@dataclass(frozen=True, slots=True)
class Playing:
    """What one track plays at a time."""

    track: int
    found: SeekResult
    """Where to begin reading."""
    token: TokenRecord | None
    """The block whose [pts, end) holds the time; None in files without tokens."""


class SeekTable:
    """The KEY blocks of a track, ordered by time. Safe for use from several threads."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @classmethod
    def of(cls, entries: Iterable[SeekEntry | tuple[int, int]]) -> SeekTable:
        """A table in memory. Raises OrderError unless PTS and offsets both increase strictly, FormatError."""
        pairs = [(one.pts, one.offset) if isinstance(one, SeekEntry) else one for one in entries]
        if any(not 0 <= value <= MAX_VALUE for pair in pairs for value in pair):
            raise FormatError("a keyframe's time or offset is negative or 2^63 or more")
        return cls.copied(b"".join(SEEK_ENTRY.pack(*pair) for pair in pairs))

    @classmethod
    def copied(cls, data: bytes | bytearray) -> SeekTable:
        """A table from its packed entries (without the count), checked. Raises OrderError, FormatError."""
        table = CopiedTable(data, SEEK_ENTRY.size)
        table.check_increasing(0, "SEEK", strictly=True)
        table.check_increasing(8, "SEEK", strictly=True)
        return cls(table)

    @classmethod
    def original(cls, payload: bytes) -> SeekTable:
        """The table of a SEEK chunk that the original implementation wrote (H4MK 23).

        Its offsets only need not decrease. Raises OrderError, FormatError.
        """
        size = SEEK_HEAD.size + SEEK_HEAD.unpack_from(payload)[0] * SEEK_ENTRY.size
        if size != len(payload):
            raise FormatError("SEEK count does not fill its chunk", expected=len(payload), found=size)
        table = CopiedTable(payload[SEEK_HEAD.size :], SEEK_ENTRY.size)
        table.check_increasing(0, "SEEK", strictly=True)
        table.check_increasing(8, "SEEK", strictly=False)
        return cls(table)

    def seek(self, pts: int) -> SeekEntry | None:
        """The keyframe with the largest PTS ≤ `pts`; None if all are later. O(log n)."""
        number = self._table.find(0, pts)
        return None if number < 0 else self[number]

    def find(self, pts: int) -> int:
        """The number of that keyframe, -1 if there is none."""
        return self._table.find(0, pts)

    def columns(self) -> tuple[array[int], array[int]] | None:
        """All times (µs) and all offsets (bytes), where the table is in memory; None where it is not."""
        table = self._table
        return (table.column(0), table.column(8)) if isinstance(table, CopiedTable) else None

    def pair(self, number: int) -> tuple[int, int]:
        """PTS and offset of keyframe `number`, which exists."""
        pts, offset = SEEK_ENTRY.unpack(self._table.row(number))
        return pts, offset

    def __len__(self) -> int:
        return self._table.count

    def __getitem__(self, number: int) -> SeekEntry:
        if not 0 <= number < self._table.count:
            raise IndexError(number)
        return SeekEntry(*self.pair(number))

    def __iter__(self) -> Iterator[SeekEntry]:
        return (self[number] for number in range(len(self)))

    def pack(self) -> bytes:
        """The payload of the SEEK chunk."""
        rows = b"".join(bytes(self._table.row(number)) for number in range(len(self)))
        return SEEK_HEAD.pack(len(self)) + rows
