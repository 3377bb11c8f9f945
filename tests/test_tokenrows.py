"""h4mk/tokenrows.py: many tokens at once are those that come one by one, and the same things are wrong."""

from __future__ import annotations

import random
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import HarmonyError, NotFoundError, TokenRecord, UsageError
from harmony4.crypto.digest import crc32
from harmony4.h4mk import TOKEN_DTYPE, H4MKBuilder, H4MKReader
from harmony4.h4mk import opening as opening_module
from harmony4.h4mk.source import BytesSource, read_places
from make_vectors.parts import container
from samples import VIDEO, Counting, track_of
from test_reader import with_holes

VECTORS = sorted(Path(__file__).with_name("vectors").glob("*.h4mk"))
GOOD = container()

Outcome = tuple[list[bytes], str]
"""The tokens that came, and what was wrong with the next one."""


def one_by_one(reader: H4MKReader, track: int, start: int = 0) -> Outcome:
    found: list[bytes] = []
    try:
        for token in reader.tokens(track, start):
            found.append(token.pack())  # noqa: PERF401 - what came before an error counts
    except HarmonyError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def in_rows(reader: H4MKReader, track: int, start: int = 0, count: int = 3) -> Outcome:
    found: list[bytes] = []
    try:
        while len(rows := reader.token_rows(track, start, count)):
            assert len(rows) <= count
            assert rows.dtype == TOKEN_DTYPE
            found += [row.tobytes() for row in rows]
            start = int(rows["index"][-1]) + 1
    except HarmonyError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def check(data: bytes, count: int = 3) -> list[Outcome]:
    """The same both ways, for each track; a file that does not open has nothing to compare."""
    try:
        reader = H4MKReader(data)
    except HarmonyError:
        return []
    with reader:
        outcomes = [one_by_one(reader, track) for track in range(len(reader.tracks))]
        assert [in_rows(reader, track, count=count) for track in range(len(reader.tracks))] == outcomes
        return outcomes


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    data = path.read_bytes()
    for count in (1, 4096):
        check(data, count)


def test_every_byte_of_a_good_file() -> None:
    """Flipped, one after the other: what is wrong is found where it stands."""
    wrong = set()
    for at in range(len(GOOD)):
        data = bytearray(GOOD)
        data[at] ^= 0x41
        wrong.update(error.partition(":")[0] for _, error in check(bytes(data)) if error)
    assert {"ChecksumError", "FormatError", "SealError"} <= wrong


FIELDS = struct.Struct(">HHIQQQQQQQ32s32s")


@given(
    st.integers(0, 3),
    st.integers(0, 11),
    st.one_of(
        st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]),
        st.integers(0, 2**64 - 1),
    ),
)
def test_tokens_that_cannot_be(number: int, field: int, value: int) -> None:
    """With the right CRC: every rule of a token by itself is looked at (H4MK 6.2)."""
    places = [at for at in range(len(GOOD)) if GOOD[at : at + 8] == b"TOKN\0\0\0\x80"]
    at = places[number]
    values = list(FIELDS.unpack_from(GOOD, at + 12))
    widths = [16, 16, 32, *[64] * 7]
    values[field] = value % 2 ** widths[field] if field < 10 else value.to_bytes(32)
    packed = FIELDS.pack(*values)
    data = bytearray(GOOD)
    data[at + 8 : at + 140] = crc32(packed).to_bytes(4) + packed
    check(bytes(data))


@pytest.mark.parametrize("limit", [2**20, 0])
def test_large_and_paged_tables(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "COPY_LIMIT", limit)
    for size in (8, 4096):  # close together, and far apart
        data = track_of(1500, size)
        with H4MKReader(data) as reader:
            for start, count in ((0, 1000), (408, 3), (409, 820), (1499, 5), (1500, 5)):
                rows = reader.token_rows(0, start, count)
                assert [row.tobytes() for row in rows] == [
                    reader.token(index).pack() for index in range(start, min(start + count, 1500))
                ]


def test_holes() -> None:
    for stored in ({1, 2, 5, 6}, {0, 3, 4, 7}, set(range(8)), {4}, set()):
        with H4MKReader(with_holes(stored)) as reader:
            for start in range(10):
                for count in (1, 2, 100):
                    assert in_rows(reader, 0, start, count) == one_by_one(reader, 0, start)


def test_a_file(tmp_path: Path) -> None:
    """Few system calls for what lies close together, one for each token otherwise; and a file cut short."""
    for size in (100, 100_000):
        path = tmp_path / f"{size}.h4mk"
        path.write_bytes(track_of(40, size))
        with H4MKReader(path) as reader:
            expected = one_by_one(reader, 0)
            assert in_rows(reader, 0, count=16) == expected
            path.write_bytes(path.read_bytes()[: 20 * (size + 164)])
            found, error = in_rows(reader, 0)
            assert error.startswith("TruncatedError")
            assert found == expected[0][: len(found)]
            assert 18 <= len(found) <= 20


def test_reads() -> None:
    source = Counting(track_of(1000, 8))
    with H4MKReader(source) as reader:
        reader.range_map()
        source.taken()
        assert len(reader.token_rows(0, 0, 1000)) == 1000
        assert source.taken()[0] == 1


def test_numbers_that_are_none() -> None:
    with H4MKReader(GOOD) as reader:
        with pytest.raises(UsageError, match="negative"):
            reader.token_rows(0, -1)
        with pytest.raises(NotFoundError):
            reader.token_rows(9)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 40))
def test_places(offsets: list[int], count: int) -> None:
    data = random.Random(1).randbytes(256)
    whole = [data[at : at + count] for at in offsets]
    short = next((n for n, piece in enumerate(whole) if len(piece) < count), len(whole))
    # A table that runs back and forth is not read over, and gives nothing behind that.
    found = read_places(BytesSource(data), offsets, count)
    if all(a <= b for a, b in pairwise(offsets)):
        assert found == b"".join(whole[:short])
    else:
        assert b"".join(whole).startswith(found)


def test_block_at() -> None:
    with H4MKReader(track_of(10, 8)) as reader:  # 40 ms each
        assert [reader.block_at(pts) for pts in (0, 39_999, 40_000, 399_999, 400_000, 10**9)] == [
            0,
            0,
            1,
            9,
            10,
            10,
        ]
        with pytest.raises(UsageError, match="negative"):
            reader.block_at(-1)
    with H4MKReader(GOOD) as reader:
        for pts in range(0, 1_500_000, 9_999):
            index = reader.block_at(pts)
            tokens = list(reader.tokens())
            assert index == next((one.index for one in tokens if one.end > pts), len(tokens))
    with H4MKReader(with_holes({1, 2, 5, 6})) as reader:
        tokens = list(reader.tokens())
        for pts in range(0, 120, 5):
            rows = reader.token_rows(0, reader.block_at(pts))
            expected = [one.index for one in tokens if one.end > pts]
            assert [int(index) for index in rows["index"]][:1] == expected[:1]


def test_block_at_before_the_first() -> None:
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        for number in range(1, 4):
            builder.add_block(b"data", number * 1000, key=True)
        builder.finish()
        with H4MKReader(builder.getvalue()) as reader:
            assert [reader.block_at(pts) for pts in (0, 999, 1000, 2000)] == [0, 0, 0, 1]


def test_token_array() -> None:
    with H4MKReader(GOOD) as reader:
        array = reader.token_array()
        assert [TokenRecord.unpack(row.tobytes()) for row in array] == list(reader.tokens())
        assert isinstance(array, np.ndarray)
    with H4MKReader(with_holes(set())) as reader:
        assert len(reader.token_array()) == 0
