"""Time ranges: `H4MKReader.time_range` against the sentence of the specification (H4MK 15.2, 18.4)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import HEADER, KEY, NotFoundError, SealError, UsageError
from harmony4.crypto.token import MAX_VALUE
from harmony4.h4mk import H4MKBuilder, H4MKReader, TimeRange, TrackInfo, recover
from harmony4.h4mk import opening as opening_module
from harmony4.h4mk import timerange as timerange_module
from make_vectors.parts import framed
from needs import ORIGINAL
from samples import VIDEO, Counting, track_of


def container(blocks, *, end=None, headers=()):
    """Blocks are (pts, key, min_pts or None); block i has i + 1 bytes, after those of `headers`."""
    with H4MKBuilder.in_memory([VIDEO]) as builder:
        for size in headers:
            builder.add_block(b"h" * size, 0, header=True)
        for number, (pts, key, min_pts) in enumerate(blocks):
            builder.add_block(bytes([number % 256]) * (number + 1), pts, key=key, min_pts=min_pts)
        builder.finish(ends={} if end is None else {0: end})
        return builder.getvalue()


OPEN_GOPS = container(
    # The leading pictures of the keyframes at 10 and 20 are shown before them.
    [(0, True, 0), (5, False, 5), (10, True, 8), (15, False, 14), (20, True, 17), (25, False, 24)],
    end=30,
    headers=(7,),
)


@pytest.mark.parametrize(
    ("pts", "end_pts", "result"),
    [
        (0, 5, (0, 8, 7, 10, False)),
        (0, 8, (0, 8, 7, 10, False)),
        (0, 9, (0, 17, 7, 17, False)),  # 8 is stored behind the keyframe at 10
        (0, 10, (0, 17, 7, 17, False)),
        (9, 17, (0, 17, 7, 17, False)),
        (10, 17, (10, 17, 10, 17, False)),
        (10, 18, (10, 30, 10, 28, True)),
        (12, None, (10, 30, 10, 28, True)),
        (20, 2**62, (20, 30, 17, 28, True)),
        (29, 30, (20, 30, 17, 28, True)),
    ],
)
def test_open_gops(pts, end_pts, result):
    with H4MKReader(OPEN_GOPS) as reader:
        assert reader.time_range(pts, end_pts) == TimeRange(*result, ((0, 7),))


def test_nothing_there():
    with H4MKReader(container([(10, True, 10), (20, True, 19)], end=30)) as reader:
        for pts, expected, ends in (
            (0, ">= 10", (1, 10)),
            (9, ">= 10", (10,)),
            (30, "< 30", (None, MAX_VALUE + 1)),
            (MAX_VALUE, "< 30", (None, MAX_VALUE + 1)),
        ):
            for end_pts in ends:
                with pytest.raises(NotFoundError) as caught:
                    reader.time_range(pts, end_pts)
                assert (caught.value.expected, caught.value.found) == (expected, pts)
        for pts, end_pts in ((5, 5), (6, 5), (-1, None), (-2, -1), (0, 0)):
            with pytest.raises(UsageError):
                reader.time_range(pts, end_pts)
        with pytest.raises(NotFoundError, match="no such track"):
            reader.time_range(10, track=1)
    with H4MKReader(container([])) as reader, pytest.raises(NotFoundError) as caught:
        reader.time_range(0)
    assert caught.value.expected is None


def test_a_time_that_begins_before_the_track():
    with H4MKReader(container([(10, True, 10), (20, True, 19)], end=30)) as reader:
        for pts in (0, 9, 10):
            assert reader.time_range(pts) == reader.time_range(10)
            assert reader.time_range(pts, 11) == reader.time_range(10, 11)


def test_a_track_without_a_length_begins_with_its_last_keyframe():
    with H4MKReader(container([(0, True, 0), (10, True, 10)])) as reader:
        assert reader.time_range(10) == TimeRange(10, 10, 1, 3, True, ())
        with pytest.raises(NotFoundError):
            reader.time_range(11)


BLOCK = st.tuples(st.integers(0, 6), st.booleans(), st.integers(-3, 12))
TIMES = st.integers(0, 160)


@given(st.lists(BLOCK, max_size=24), st.integers(0, 3), st.integers(0, 9), TIMES, st.none() | TIMES)
def test_the_naive_answer(steps, headers, rest, pts, length):
    """Every token is looked at, one after the other."""
    at, last, blocks = 0, -1, []
    for step, key, back in steps:
        at += step
        key = key and at > last  # the times of KEY blocks increase strictly
        last = at if key else last
        blocks.append((at, key, max(0, at - back)))
    if not any(key for _, key, _ in blocks):
        headers = 0
    end_pts = None if length is None else pts + 1 + length
    data = container(blocks, end=at + rest, headers=[2] * headers)
    with H4MKReader(data) as reader:
        tokens = list(reader.tokens())
        keys = [token for token in tokens if token.flags & KEY]
        before = [token for token in keys if token.pts <= pts]
        if not before and keys and (end_pts is None or end_pts > keys[0].pts):
            before = keys[:1]  # the time begins before the track does
        nothing = not before or (pts >= tokens[-1].end and pts > keys[-1].pts)
        if nothing:
            with pytest.raises(NotFoundError):
                reader.time_range(pts, end_pts)
            return
        found = reader.time_range(pts, end_pts)
        start = before[-1]
        following = [
            token
            for token in keys
            if token.index > start.index and end_pts is not None and min(token.min_pts, token.pts) >= end_pts
        ]
        size = reader.stream_size()
        assert (found.pts, found.start) == (start.pts, start.offset)
        assert found.stop == (following[0].offset if following else size)
        assert found.last == (not following)
        assert found.end_pts == (min(following[0].min_pts, following[0].pts) if following else tokens[-1].end)
        assert sum(size for _, size in found.header_ranges) == sum(
            token.size for token in tokens if token.flags & HEADER
        )
        # What it says of itself leads to itself: that is the canonical address.
        assert reader.time_range(found.pts, None if found.last else found.end_pts) == found


def test_it_reads_a_few_tokens(monkeypatch):
    data = container([(n * 10, True, n * 10 - 2 * (n > 0)) for n in range(3000)], end=30_000)
    source = Counting(data)
    with H4MKReader(source) as reader:
        reader.time_range(0)
        source.taken()
        assert reader.time_range(14_999, 20_000).end_pts == 20_008
        assert source.taken() == (2, 2 * 152)
        assert reader.time_range(14_999, 19_998).end_pts == 19_998
        assert source.taken() == (1, 152)
        assert reader.time_range(14_999).last
        assert source.taken() == (1, 152)
    # From a table that is too large to be copied the answers are the same.
    monkeypatch.setattr(opening_module, "COPY_LIMIT", 0)
    with H4MKReader(data) as paged:
        assert paged.time_range(14_999, 20_000) == TimeRange(
            14_990, 20_008, paged.seek(14_990).offset, paged.seek(20_010).offset, False, ()
        )


def test_a_file_that_lies_costs_a_thousand_tokens(monkeypatch):
    monkeypatch.setattr(timerange_module, "LOOK", 5)
    with H4MKReader(container([(n, True, 0) for n in range(20)], end=20)) as reader:
        assert reader.time_range(3, 7) == TimeRange(3, 20, reader.seek(3).offset, 210, True, ())
    early = [(n, True, 0 if n < 12 else n) for n in range(20)]
    with H4MKReader(container(early, end=20)) as reader:
        assert reader.time_range(3, 7).last  # 12 would be the sixth
        assert reader.time_range(3, 8).end_pts == 12


def test_original():  # H4MK 23
    with H4MKReader(ORIGINAL) as reader:
        assert reader.stream_size() == 130  # and its keyframes are at 0, 3000 and 9000
        assert reader.time_range(5, 999_999) == TimeRange(0, 1_000_000, 0, 130, False, ())
        assert reader.time_range(1_500_000, 1_500_001) == TimeRange(1_000_000, 2_000_000, 130, 130, False, ())
        assert reader.time_range(2**62) == TimeRange(2_000_000, None, 130, 130, True, ())


def test_original_with_offsets_beyond_the_stream():
    seek = struct.pack(">I6Q", 3, 0, 2, 10, 50, 20, 60)
    data = b"H4MK\0\1\0\0" + framed(b"CORE", b"bytes") + framed(b"SEEK", seek)
    with H4MKReader(data) as reader:
        assert reader.time_range(0, 10) == TimeRange(0, 10, 2, 5, False, ())
        assert reader.time_range(10, 15) == TimeRange(10, 20, 5, 5, False, ())


def test_incomplete():
    data = track_of(12, gop=4)
    with H4MKReader(data[: len(data) * 2 // 3]) as reader:
        assert reader.state == "incomplete"
        last = list(reader.tokens())[-1]
        assert reader.time_range(0, 160_000) == TimeRange(0, 160_000, 0, 32, False, ())
        assert reader.time_range(200_000).end_pts == last.end
        with pytest.raises(NotFoundError, match="ends before"):
            reader.time_range(last.end)


def test_recovered(tmp_path):  # H4MK 10.2, 18.5
    data = bytearray(track_of(12, gop=4))
    at = data.index((6 * 65537).to_bytes(8))  # the payload of block 6
    data[at] ^= 1
    (tmp_path / "damaged.h4mk").write_bytes(data)
    recover(tmp_path / "damaged.h4mk", tmp_path / "saved.h4mk")
    with H4MKReader(tmp_path / "saved.h4mk") as reader:
        found = reader.time_range(160_000, 320_000)
        assert (found.start, found.stop) == (32, 64)
        with pytest.raises(NotFoundError, match="lost"):
            reader.extents(found.start, found.stop - found.start)
        assert reader.read(found.start, 16)


def test_tracks():
    two = [VIDEO, TrackInfo(kind="audio", media_type="audio/flac", self_framing=True, span=1_000_000)]
    with H4MKReader(track_of(12, tracks=two, gop=3)) as reader:
        video, audio = reader.time_range(125_000, 130_000), reader.time_range(125_000, 130_000, 1)
        assert video == audio == TimeRange(120_000, 240_000, 24, 48, False, ())


def test_tables_that_lie(monkeypatch):
    with H4MKReader(OPEN_GOPS) as reader, H4MKReader(container([])) as empty:
        monkeypatch.setattr(reader, "range_map", empty.range_map)
        with pytest.raises(SealError, match="SEEK does not point"):
            reader.time_range(0)
        with pytest.raises(SealError, match="SEEK does not point"):
            reader.time_range(0, 5)
