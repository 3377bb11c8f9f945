"""The SEEK table: binary search in O(log n), copied and paged tables agree (H4MK 8, 18.3)."""

import math
import struct
from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.crypto import FormatError, OrderError, TruncatedError
from harmony4.h4mk import SeekEntry, SeekTable
from harmony4.h4mk.layout import SEEK_ENTRY
from harmony4.h4mk.seek import CopiedTable, PagedTable
from samples import Counting

ROW = SEEK_ENTRY


def rows(entries):
    return b"".join(ROW.pack(*entry) for entry in entries)


def paged(entries, *, front=b"", page=64):
    class Small(PagedTable):
        PAGE = page
        PAGES = 2
        FENCES = 3

    source = Counting(front + rows(entries))
    return SeekTable(Small(source, len(front), ROW.size, len(entries))), source


ENTRIES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=60).map(
    lambda steps: [
        (sum(a for a, _ in steps[: n + 1]) - 1, sum(b for _, b in steps[: n + 1]) - 1)
        for n in range(len(steps))
    ]
)


@given(ENTRIES, st.lists(st.integers(-3, 320), min_size=1, max_size=20), st.sampled_from((16, 48, 64, 4096)))
def test_the_answer_is_the_last_keyframe_at_or_before(entries, times, page):  # H4MK 8
    copied = SeekTable.of(entries)
    by_pages, _ = paged(entries, front=b"xyz", page=page)
    for time in times:
        wanted = [SeekEntry(*entry) for entry in entries if entry[0] <= time]
        assert copied.seek(time) == by_pages.seek(time) == (wanted[-1] if wanted else None)
        assert copied.find(time) == by_pages.find(time) == len(wanted) - 1
    assert list(copied) == list(by_pages) == [SeekEntry(*entry) for entry in entries]
    assert len(copied) == len(by_pages) == len(entries)
    assert copied.pack() == by_pages.pack() == struct.pack(">I", len(entries)) + rows(entries)


def test_extremes():
    top = 2**63 - 1
    table = SeekTable.of([SeekEntry(0, 0), (5, 7), (top, top)])
    assert table.seek(-1) is None
    assert table.seek(0) == SeekEntry(0, 0) == table.seek(4)
    assert table.seek(5) == SeekEntry(5, 7) == table.seek(top - 1)
    assert table.seek(top) == SeekEntry(top, top) == table.seek(10**30)
    empty = SeekTable.of([])
    assert (empty.seek(5), len(empty), empty.pack()) == (None, 0, bytes(4))
    for number in (-1, 3):
        with pytest.raises(IndexError):
            table[number]


@pytest.mark.parametrize("entries", [[(1, 1), (1, 2)], [(2, 1), (1, 2)], [(1, 2), (2, 2)], [(1, 2), (2, 1)]])
def test_a_table_that_is_not_sorted_is_refused(entries):  # H4MK 8
    with pytest.raises(OrderError) as caught:
        SeekTable.of(entries)
    assert caught.value.where == "entry 1"


@pytest.mark.parametrize("entry", [(2**63, 1), (1, 2**63), (-1, 1), (1, -1), (2**70, 1)])
def test_values_that_no_field_holds(entry):
    with pytest.raises(FormatError):
        SeekTable.of([entry])
    if max(entry) < 2**64 and min(entry) >= 0:
        with pytest.raises(FormatError):
            SeekTable.copied(ROW.pack(*entry))


def test_the_original_implementations_table():  # H4MK 23
    def of(*entries, count=None):
        return SeekTable.original(struct.pack(">I", len(entries) if count is None else count) + rows(entries))

    table = of((0, 0), (10, 0), (20, 99))
    assert table.seek(15) == SeekEntry(10, 0)
    for bad in ([(0, 0), (0, 1)], [(5, 0), (0, 1)], [(0, 5), (1, 4)]):
        with pytest.raises(OrderError):
            of(*bad)
    for count in (0, 2, 2**32 - 1):
        with pytest.raises(FormatError):
            of((0, 0), count=count)


# ---- O(log n) --------------------------------------------------------------------------------------------


class Counted(int):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other):
        Counted.compared += 1
        return int(self) < other

    def __gt__(self, other):
        Counted.compared += 1
        return int(self) > other


def comparisons(table, time):
    Counted.compared = 0
    found = table.find(0, Counted(time))
    return found, Counted.compared


@pytest.mark.parametrize("make", ["copied", "paged"])
def test_comparisons_grow_with_the_logarithm(make):
    counts = {}
    for size in (2**7, 2**14, 2**17):
        data = rows((number * 10, number) for number in range(size))
        table = CopiedTable(data, 16) if make == "copied" else PagedTable(Counting(data), 0, 16, size)
        worst = 0
        for number in (0, 1, size // 3, size // 2, size - 2, size - 1):
            found, compared = comparisons(table, number * 10 + 9)
            assert found == number
            worst = max(worst, compared)
        counts[size] = worst
        assert worst <= math.log2(size) + 3
    assert counts[2**17] > counts[2**7] > 0  # the counter counts: 2^10 times the entries, 10 more comparisons
    assert counts[2**17] - counts[2**7] <= 11


def test_reads_of_a_paged_table_grow_with_the_logarithm():
    """And no read is longer than a page."""
    worst = {}
    for size in (2**13, 2**17, 2**20):
        source = Virtual(size)
        table = PagedTable(source, 4, 16, size)
        assert table.find(0, (size - 2) * 10) == size - 2
        pages = size * 16 // PagedTable.PAGE
        worst[size] = len(source.reads)
        assert worst[size] <= math.log2(pages) + 3
        assert max(count for _, count in source.reads) <= PagedTable.PAGE
        source.reads.clear()
        assert table.find(0, (size - 2) * 10 + 5) == size - 2
        assert source.reads == []  # the second time everything is remembered
    assert worst[2**20] <= worst[2**13] + 8


class Virtual:
    """A table of `size` entries behind four bytes, without the memory."""

    def __init__(self, size):
        self._size = size
        self.reads = []

    def size(self):
        return 4 + 16 * self._size

    def read_at(self, offset, count):
        self.reads.append((offset, count))
        first, rest = divmod(offset - 4, 16)
        data = rows((number * 10, number) for number in range(first, first + -(-(rest + count) // 16)))
        return data[rest : rest + count]

    def close(self):
        pass


def test_memory_of_a_paged_table_is_bounded():
    table, source = paged([(number, number) for number in range(1000)], page=64)
    for time in range(0, 1000, 7):
        assert table.seek(time) == SeekEntry(time, time)
    info = table._table._page.cache_info()
    assert info.currsize <= 2 and table._table._fences[0].cache_info().currsize <= 3
    assert len(source.reads) > 200  # so small a cache must read again


def test_a_table_that_ends_too_early():
    source = Counting(rows([(1, 1), (2, 2)]))
    table = SeekTable(PagedTable(source, 0, 16, 3))
    with pytest.raises(TruncatedError):
        table.seek(2)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40), st.integers(0, 2**64))
def test_a_lying_paged_table_gives_some_answer(values, time):
    """Rows are not checked as a whole where that would mean reading all of them; nothing may break."""
    table, _ = paged([(value, value) for value in values])
    found = table.find(time)
    assert -1 <= found < len(values)
    assert found == bisect_right(values, time) - 1 or values != sorted(values)


def test_columns_of_an_empty_table():
    table = CopiedTable(b"", 16)
    table.check_increasing(0, "SEEK", strictly=True)
    assert (table.count, list(table.column(8)), table.find(8, 5)) == (0, [], -1)


@pytest.mark.parametrize("make", ["copied", "paged"])
def test_times_that_no_table_holds(make):
    data = rows([(5, 0), (9, 1)])
    table = CopiedTable(data, 16) if make == "copied" else PagedTable(Counting(data), 0, 16, 2)
    assert table.find(0, -1) == table.find(0, 4) == -1
    assert table.find(0, 2**64) == table.find(0, 2**80) == 1
