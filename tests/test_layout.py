"""The records of the wire: chunk headers, TAIL, range entries, HEAD (H4MK 2, 3, 9, 12, 14)."""

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    MAX_BLOCK,
    MAX_BLOCKS,
    CriticalError,
    FormatError,
    LimitError,
    OrderError,
    TruncatedError,
    VersionError,
)
from harmony4.h4mk.layout import (
    ChunkInfo,
    RangeEntry,
    Tail,
    chunk_header,
    head_bytes,
    is_critical,
    known,
    parse_header,
    table_count,
)

TAIL = Tail(1000, 100, 150, 200, 300, 3, 5000, 2, 1, bytes(range(32)), bytes(32))


def test_the_header_selects_the_profile():  # H4MK 2.1
    assert parse_header(b"H4MK\0\0\0\1 and more") is True
    assert parse_header(memoryview(b"H4MK\0\1\0\0")) is False


@pytest.mark.parametrize("header", [b"H4MJ\0\0\0\1", b"G", b"RIFF....WAVE", b"H4MK\0\0\0\2", b"H4MK\0\1\0\1"])
def test_other_headers_are_refused(header):
    with pytest.raises(VersionError):
        parse_header(header)


@pytest.mark.parametrize("length", range(8))
def test_a_header_that_is_cut(length):
    with pytest.raises(TruncatedError) as caught:
        parse_header(b"H4MK\0\0\0\1"[:length])
    assert caught.value.where == length


def test_a_chunk_header():  # H4MK 3.1
    header = chunk_header(b"CORE", 5, 0xDEADBEEF)
    assert header == b"CORE\0\0\0\5\xde\xad\xbe\xef"
    info = ChunkInfo.unpack(header + b"rest", 100, 117)
    assert (info.tag, info.offset, info.size, info.crc) == ("CORE", 100, 5, 0xDEADBEEF)
    assert (info.payload, info.end) == (112, 117)
    with pytest.raises(TruncatedError) as caught:
        ChunkInfo.unpack(header, 100, 116)
    assert (caught.value.where, caught.value.expected, caught.value.found) == (100, 116, 117)
    with pytest.raises(TruncatedError):
        ChunkInfo.unpack(header[:11], 100, 1000)


@pytest.mark.parametrize("tag", [b"COR\0", b"CO E", b"C0RE", b"COR\xc9", b"\0\0\0\0"])
def test_a_tag_is_four_letters(tag):  # H4MK 3.2
    with pytest.raises(FormatError) as caught:
        ChunkInfo.unpack(chunk_header(tag, 0, 0), 0, 100)
    assert type(caught.value) is FormatError


def test_the_case_of_the_first_letter_decides():  # H4MK 3.2
    assert is_critical("Xyzw") and not is_critical("xYZW")
    assert known("CORE") and known("time") and not known("post") and not known("XYZW")
    assert known("CORE", original=True) and not known("TOKN", original=True)


SIZES = {  # H4MK 3.2, 23
    "TRAK": (2, 2**20),
    "KEYS": (520, 520),
    "TOKN": (128, 128),
    "CORE": (1, MAX_BLOCK),
    "SAFE": (1, MAX_BLOCK),
    "SIGN": (144, 2**20),
    "SEEK": (4, 4 + 16 * MAX_BLOCKS),
    "RMAP": (16, 16 + 40 * MAX_BLOCKS),
    "META": (2, 2**20),
    "MERK": (8, 2**32 - 1),
    "VERI": (32, 32),
    "TAIL": (128, 128),
    "time": (1, 2**20),
    "post": (0, 2**32 - 1),
}
ORIGINAL = {
    "CORE": (0, 2**32 - 1),
    "SEEK": (4, 2**32 - 1),
    "META": (2, 2**20),
    "SAFE": (2, 2**20),
    "VERI": (32, 32),
}


@pytest.mark.parametrize(
    ("tag", "limits", "original"),
    [
        *((tag, limits, False) for tag, limits in SIZES.items()),
        *((tag, limits, True) for tag, limits in ORIGINAL.items()),
    ],
)
def test_sizes_that_a_tag_can_have(tag, limits, original):
    for size in limits:
        ChunkInfo(tag, 0, size, 0).check_size(original=original)
    for size in (limits[0] - 1, limits[1] + 1):
        with pytest.raises(LimitError):
            ChunkInfo(tag, 0, size, 0).check_size(original=original)


def test_a_full_tree_and_full_tables_fit_a_chunk():  # H4MK 3.4
    def tree(leaves):
        return 8 + 32 * sum(leaves >> level for level in range(leaves.bit_length()))

    assert tree(MAX_BLOCKS) < 2**32 <= tree(MAX_BLOCKS + 2)
    assert SIZES["RMAP"][1] < 2**32


def test_tail():  # H4MK 14.1
    packed = TAIL.pack()
    assert len(packed) == 128
    assert packed[:64] == struct.pack(">7Q2HI", 1000, 100, 150, 200, 300, 3, 5000, 2, 0, 1)
    assert Tail.unpack(packed) == TAIL


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"length": 2**63}, FormatError),
        ({"duration": 2**63}, FormatError),
        ({"blocks": MAX_BLOCKS + 1}, LimitError),
        ({"index": 8}, OrderError),
        ({"index": 150}, OrderError),
        ({"meta": 187}, OrderError),  # no room for META's two bytes
        ({"merk": 281}, OrderError),
        ({"veri": 817}, OrderError),
        ({"length": 483}, OrderError),
    ],
)
def test_a_tail_that_cannot_be(change, kind):  # H4MK 14.1
    with pytest.raises(kind) as caught:
        Tail.unpack(replace(TAIL, **change).pack())
    assert type(caught.value) is kind
    assert Tail.unpack(replace(TAIL, length=484).pack()).length == 484


def test_reserved_bits_of_tail_and_range_entries():
    tail = bytearray(TAIL.pack())
    tail[59] = 1
    with pytest.raises(FormatError):
        Tail.unpack(tail)
    entry = bytearray(RangeEntry(1, 2, 3, 4, 5, 6).pack())
    entry[39] = 1
    with pytest.raises(FormatError):
        RangeEntry.unpack(entry)


def test_a_range_entry():  # H4MK 9
    entry = RangeEntry(1, 2, 3, 4, 5, 6)
    assert entry.pack() == struct.pack(">QQQQIHH", 1, 2, 3, 4, 5, 6, 0)
    assert RangeEntry.unpack(entry.pack()) == entry


@pytest.mark.parametrize("field", ["pts", "offset", "position", "leaf"])
def test_a_range_entry_beyond_the_limit(field):
    entry = replace(RangeEntry(1, 2, 3, 4, 5, 6), **{field: 2**63})
    with pytest.raises(FormatError):
        RangeEntry.unpack(entry.pack())


def test_counts_must_fill_their_chunk():  # H4MK 8, 9
    seek = struct.pack(">I", 2)
    assert table_count(ChunkInfo("SEEK", 0, 36, 0), seek, 0) == 2
    rmap = struct.pack(">HHIQ", 7, 40, 0, 3)
    assert table_count(ChunkInfo("RMAP", 0, 136, 0), rmap, 7) == 3
    for info, head in ((ChunkInfo("SEEK", 0, 35, 0), seek), (ChunkInfo("RMAP", 0, 137, 0), rmap)):
        with pytest.raises(FormatError):
            table_count(info, head, 7)
    with pytest.raises(OrderError):
        table_count(ChunkInfo("RMAP", 0, 136, 0), rmap, 6)
    for wrong in (struct.pack(">HHIQ", 7, 48, 0, 3), struct.pack(">HHIQ", 7, 40, 1, 3)):
        with pytest.raises(CriticalError):
            table_count(ChunkInfo("RMAP", 0, 136, 0), wrong, 7)


def test_a_count_that_lies_is_only_arithmetic():
    with pytest.raises(FormatError):
        table_count(ChunkInfo("RMAP", 0, 56, 0), struct.pack(">HHIQ", 0, 40, 0, 2**64 - 1), 0)


@given(st.integers(0, 2**26 - 1), st.integers(0, 2**63 - 1), st.binary(), st.none() | st.binary())
def test_head(blocks, duration, trak, meta):  # H4MK 12.1
    root = hashlib.sha256(trak).digest()
    head = head_bytes(blocks, duration, root, trak, meta)
    assert len(head) == 128
    assert head == independent.head_of(blocks, duration, root, trak, meta)
