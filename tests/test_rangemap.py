"""RMAP, and the holes of a recovered track (H4MK 9, 10.2)."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import FormatError, OrderError, SealError
from harmony4.h4mk import Lost
from harmony4.h4mk.holes import Holes
from harmony4.h4mk.layout import RMAP_ENTRY, RangeEntry
from harmony4.h4mk.rangemap import KeyMap, RangeMap
from harmony4.h4mk.seek import PagedTable, SeekTable
from samples import Counting

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=40)


def entries_of(blocks, gaps=()):
    made, offset, position, pts = [], 0, 400, 0
    for number, (size, step) in enumerate(blocks):
        offset += 5 if number in gaps else 0
        pts += step
        made.append(RangeEntry(pts, offset, position, number, size, 0))
        offset += size
        position += size + 152
    return made


def pack(entries):
    return b"".join(entry.pack() for entry in entries)


@given(SIZES, st.integers(-1, 400), st.integers(-1, 140))
def test_by_offset_and_by_time(blocks, offset, time):  # H4MK 9
    entries = entries_of(blocks)
    data = pack(entries)
    copied = RangeMap.copied(data)

    class Small(PagedTable):
        PAGE = 120

    paged = RangeMap(Small(Counting(b"front" + data), 5, RMAP_ENTRY.size, len(entries)))
    for table in (copied, paged):
        assert list(table) == entries and len(table) == len(entries)
        assert table.at_offset(offset) == sum(entry.offset <= offset for entry in entries) - 1
        assert table.at_time(time) == sum(entry.pts <= time for entry in entries) - 1
    for number in (-1, len(entries)):
        with pytest.raises(IndexError):
            copied[number]


@pytest.mark.parametrize(
    ("first", "second"),
    [((5, 0), (4, 9)), ((0, 9), (5, 9)), ((0, 9), (5, 8))],
    ids=["pts", "equal offsets", "offsets"],
)
def test_a_map_that_is_not_sorted_is_refused(first, second):
    entries = [
        RangeEntry(*pair, 400 + 200 * number, number, 1, 0) for number, pair in enumerate((first, second))
    ]
    with pytest.raises(OrderError):
        RangeMap.copied(pack(entries))


def test_values_beyond_the_limit():
    for entry in (RangeEntry(2**63, 0, 0, 0, 1, 0), RangeEntry(0, 2**63, 0, 0, 1, 0)):
        with pytest.raises(FormatError):
            RangeMap.copied(entry.pack())
    table = RangeMap.copied(RangeEntry(0, 0, 2**63, 0, 1, 0).pack())
    with pytest.raises(FormatError):  # the other columns are looked at with their row
        table[0]


# ---- holes -----------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 30), max_size=20), st.integers(1, 31))
def test_rows_and_indices(lost, count):  # H4MK 10.2
    """Against the plain list of stored indices."""
    stored = [index for index in range(count) if index not in lost]
    spans = []
    for index in sorted(index for index in lost if index < count and index < max(stored, default=-1)):
        if spans and sum(spans[-1]) == index:
            spans[-1][1] += 1
        else:
            spans.append([index, 1])
    holes = Holes([*(Lost(length, first) for first, length in spans), Lost(0, count)])
    assert [holes.index_of(row) for row in range(len(stored))] == stored
    for index in range(count):
        after = [row for row, one in enumerate(stored) if one >= index]
        if after:
            assert holes.row_of(index) == after[0]
            assert holes.is_lost(index) == (index not in stored)
    if stored:
        assert holes.row_of(stored[-1] + 3) == len(stored) + 2  # behind the end: no such row


def test_the_bytes_of_a_hole():
    blocks = [(4, 1)] * 4
    rmap = RangeMap.copied(pack(entries_of(blocks, gaps={0, 2})))
    holes = Holes([Lost(1, 0), Lost(3, 3), Lost(0, 8)])
    assert list(holes.byte_ranges(rmap)) == [(0, 5), (13, 18)]
    assert [holes.index_of(row) for row in range(4)] == [1, 2, 6, 7]
    with pytest.raises(SealError):
        list(Holes([Lost(1, 4)]).byte_ranges(rmap))
    assert list(Holes().byte_ranges(rmap)) == []


@given(SIZES, st.data())
def test_pieces_of_a_flat_map(blocks, data):  # H4MK 18.3
    """The columns give what going through the entries gives."""
    entries = entries_of(blocks)
    flat = RangeMap.copied(pack(entries)).flat(10**6)
    if not entries:
        assert flat is None
        return
    places = [entry.position + byte for entry in entries for byte in range(entry.size)]
    assert flat.end == len(places)
    start = data.draw(st.integers(0, flat.end - 1))
    stop = data.draw(st.integers(start + 1, flat.end))
    pieces = list(flat.pieces(start, stop - start))
    assert [at + byte for at, size in pieces for byte in range(size)] == places[start:stop]


def test_pieces_are_made_one_by_one():
    flat = RangeMap.copied(pack(entries_of([(1, 1)] * 40))).flat(10**6)
    pieces = flat.pieces(0, 40)
    assert next(iter(pieces)) == (400, 1)
    assert isinstance(pieces, Iterator)


@pytest.mark.parametrize(
    "change",
    [
        {1: {"offset": 4}},  # a hole
        {0: {"offset": 1}},
        {0: {"position": 19}},  # inside the header
        {1: {"position": 402}},  # inside the block before
        {2: {"position": 10**6}},  # behind the end of the file
        {2: {"size": 0}},
    ],
)
def test_a_map_that_is_not_flat(change):
    entries = entries_of([(3, 1)] * 3)
    made = [replace(entry, **change.get(number, {})) for number, entry in enumerate(entries)]
    assert RangeMap.copied(pack(entries)).flat(10**6) is not None
    assert RangeMap.copied(pack(made)).flat(10**6) is None
    assert RangeMap.copied(pack(entries)[:-1] + b"\1").flat(10**6) is None  # a reserved bit


@given(SIZES.filter(bool), st.sets(st.integers(0, 39)), st.integers(0, 200))
def test_key_map(blocks, keys, pts):  # H4MK 18.2
    entries = entries_of([(size, step + 1) for size, step in blocks])
    chosen = [number for number in sorted(keys) if number < len(entries)]
    table = SeekTable.of([(entries[number].pts, entries[number].offset) for number in chosen])
    flat = RangeMap.copied(pack(entries)).flat(10**6)
    found = KeyMap(*table.columns(), flat).find(pts)
    before = [number for number in chosen if entries[number].pts <= pts]
    if not before:
        assert found is None
        return
    entry = entries[before[-1]]
    after = [entries[number] for number in chosen if number > before[-1]]
    end = after[0].offset if after else flat.end
    assert found == (entry.pts, entry.offset, before[-1], after[0].pts if after else None, end - entry.offset)


def test_a_key_map_that_does_not_fit():
    flat = RangeMap.copied(pack(entries_of([(5, 1)] * 3))).flat(10**6)
    keys = KeyMap(*SeekTable.of([(1, 0), (2, 6)]).columns(), flat)
    assert keys.find(1) == (1, 0, 0, 2, 6)
    assert keys.find(2) is None
    assert KeyMap(*SeekTable.of([]).columns(), flat).greatest == 15
