"""diff: where two containers part, in O(log n) reads (H4MK 22.4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from commands import here, refused
from harmony4.crypto import OrderError, SealError, UsageError, leaf_hash
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo
from harmony4.h4mk.edits.diff import diff, differences
from needs import ORIGINAL
from samples import Counting, track_of


def made(payloads, *, title=None, tracks=1, kind="data"):
    with H4MKBuilder.in_memory([TrackInfo(kind=kind)] * tracks, order="arrival", title=title) as builder:
        for number, payload in enumerate(payloads):
            for track in range(tracks):
                builder.add_block(payload, number * 1000, track=track, key=True)
        builder.finish()
        return builder.getvalue()


def tree(leaves):
    rows = independent.levels(leaves)
    return lambda level, index: rows[level][index]


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 70), st.integers(0, 70))
def test_the_leaves_that_differ(changed, one, other):
    first = [leaf_hash(b"%d" % number) for number in range(len(changed))]
    second = [
        leaf_hash(b"%d %d" % (number, bad)) if bad else first[number] for number, bad in enumerate(changed)
    ]
    sizes = min(one, len(first)), min(other, len(first))
    found = list(differences(tree(first[: sizes[0]]), tree(second[: sizes[1]]), *sizes))
    assert found == [number for number, bad in enumerate(changed[: min(sizes)]) if bad]


@pytest.mark.parametrize("count", [100, 4096, 5000])
def test_one_block_in_the_middle_is_found_with_few_reads(count):
    data = track_of(count, size=1)
    payloads = [bytes([0])] * count
    with H4MKReader(data) as reader:
        payloads = [reader.read(number, 1) for number in range(count)]
    middle = count // 2 + 3
    spoilt = [*payloads[:middle], b"?", *payloads[middle + 1 :]]
    sources = [Counting(_at_40(payloads)), Counting(_at_40(spoilt))]
    with H4MKReader(sources[0]) as one, H4MKReader(sources[1]) as other:
        for reader in (one, other):
            reader.range_map()
        for source in sources:
            source.taken()
        found = diff(one, other)
        assert [parting.leaf for parting in found.partings] == [middle] and found.common == middle
        parting = found.partings[0]
        assert parting.first and parting.second and parting.first.index == middle
        assert parting.first.digest != parting.second.digest
        for source in sources:
            reads, size = source.taken()
            assert reads <= 4 * count.bit_length() and size <= 200 * reads


def _at_40(payloads):
    with H4MKBuilder.in_memory([TrackInfo()]) as builder:
        for number, payload in enumerate(payloads):
            builder.add_block(payload, number * 40_000, key=number % 4 == 0)
        builder.finish(ends={0: len(payloads) * 40_000})
        return builder.getvalue()


BLOCKS = [b"block %d" % number for number in range(11)]


def compared(first, second, **more):
    with H4MKReader(first) as one, H4MKReader(second) as other:
        return diff(one, other, **more)


def test_the_same_and_other_metadata():
    found = compared(made(BLOCKS), made(BLOCKS))
    assert found.same and found.common == 11 and not found.partings and not found.continues
    found = compared(made(BLOCKS), made(BLOCKS, title="x"))
    assert not found.same and found.same_tracks and found.common == 11 and not found.partings
    found = compared(made([]), made([]))
    assert found.same and found.common == 0
    assert not compared(made(BLOCKS), made(BLOCKS, kind="video")).same_tracks


@pytest.mark.parametrize("tracks", [1, 2])
def test_one_continues_the_other(tracks):
    short, long = made(BLOCKS[:6], tracks=tracks), made(BLOCKS, tracks=tracks)
    found = compared(short, long)
    assert found.continues and not found.same
    assert found.common == found.ends == 5 * tracks  # the last block of a track says that it is
    assert found.partings[0].first and found.partings[0].first.flags & 4
    assert not compared(made([b"x", *BLOCKS[1:6]], tracks=tracks), long).continues
    assert not compared(long, short).continues
    # A stream that is cut off has no last block yet.
    with H4MKReader(long) as reader:
        ends = [chunk.end for chunk in reader.chunks() if chunk.tag == "CORE"]
    cut = long[: ends[3 * tracks - 1]]
    found = compared(cut, long)
    assert found.continues and found.common == found.blocks[0] == 3 * tracks
    assert [(one.leaf, one.first) for one in found.partings] == [(3 * tracks, None)]
    assert compared(cut, cut).common == 3 * tracks and not compared(cut, cut).same
    assert not compared(cut, long, most=0).partings


def arranged(blocks, ends):
    """A container of (track, payload, µs) in this order; a fourth number ends the track, as `ends` does."""
    with H4MKBuilder.in_memory([TrackInfo(kind="data")] * 2, order="arrival") as builder:
        for track, payload, pts, *end in blocks:
            builder.add_block(payload, pts, track=track, key=True)
            if end:
                builder.end_track(track, end[0])
        builder.finish(ends=ends)
        return builder.getvalue()


def test_a_stranger_does_not_continue():
    """A track that ends early, and a container of one block, leave nothing in common to go on from."""
    cover = (1, b"cover", 0, 500)
    films = {
        word: arranged([cover, *((0, b"%s %d" % (word, n), n * 1000) for n in range(50))], {0: 60_000})
        for word in (b"one", b"other one")
    }
    one, other = films.values()
    found = compared(one, other)
    assert found.common == 1 and not found.continues
    longer = arranged([cover, *((0, b"one %d" % n, n * 1000) for n in range(70))], {0: 90_000})
    found = compared(one, longer)
    assert found.continues and found.ends == 0 and found.common == 50
    assert not compared(longer, one).continues
    # One block: there is nothing that both have.
    for stranger in (made([b"TOTALLY OTHER"] * 9), made([*BLOCKS[:1], b"more"])):
        found = compared(made(BLOCKS[:1]), stranger)
        assert found.common == 0 and not found.continues


def test_what_ends_a_track_must_be_the_same_block():
    short = made(BLOCKS[:6])
    assert compared(short, made(BLOCKS)).continues
    assert not compared(short, made([*BLOCKS[:5], b"another", *BLOCKS[6:]])).continues
    # In the longer one that track ends there as well, but at another time.
    begin = [(0, b"a", 0), (0, b"b", 1000), (1, b"c", 0)]
    more = [*begin, (1, b"d", 1000)]
    first = arranged(begin, {0: 2000, 1: 1000})
    assert compared(first, arranged(more, {0: 2000, 1: 2000})).continues
    assert not compared(first, arranged(more, {0: 3000, 1: 2000})).continues
    # A block of the second track is gone, or another one stands in its place.
    three = [(0, b"a", 0), (0, b"b", 1000), (1, b"c", 0), (0, b"e", 2000), (0, b"f", 3000)]
    for changed in ([*three[:2], *three[3:]], [*three[:2], (1, b"C", 0), *three[3:]]):
        assert not compared(first, arranged(changed, {0: 4000})).continues


def test_other_tracks_come_in_between():
    """Behind the first block that ends a track, blocks stand elsewhere."""
    begin = [(0, b"a", 0), (0, b"b", 1000), (1, b"c", 0)]
    longer = [*begin[:2], (0, b"d", 2000), (0, b"e", 3000), begin[2], (1, b"f", 500)]
    found = compared(arranged(begin, {0: 2000, 1: 1000}), arranged(longer, {0: 4000, 1: 1000}))
    assert found.common == 1 and found.continues and [one.leaf for one in found.partings] == [1, 2]


def test_as_many_as_asked_for():
    other = made([b"other %d" % number for number in range(11)])
    assert [one.leaf for one in compared(made(BLOCKS), other, most=3).partings] == [0, 1, 2]
    found = compared(made(BLOCKS), other, most=0)
    assert found.common == 0 and not found.partings


def test_what_cannot_be_compared():
    data = made(BLOCKS)
    with pytest.raises(UsageError, match="no tree"):
        compared(ORIGINAL, data)
    with H4MKReader(data) as reader:
        merk, rmap = reader.tail.merk, reader.meta.tracks[0].rmap
    with pytest.raises(SealError, match="MERK"):
        compared(data[: merk + 20 + 32 * 18] + bytes(32) + data[merk + 20 + 32 * 19 :], data)
    # A range map that does not have a block that the tree has.
    payload = bytearray(data[rmap + 12 : rmap + 12 + 16 + 40 * 11])
    for row in range(11):
        payload[16 + 40 * row + 24 : 16 + 40 * row + 32] = (20 + row).to_bytes(8)
    crc = independent.zlib.crc32(payload).to_bytes(4, "big")
    spoilt = data[: rmap + 8] + crc + bytes(payload) + data[rmap + 12 + len(payload) :]
    with pytest.raises(OrderError, match="RMAP"):
        compared(spoilt, made([b"x", *BLOCKS[1:]]))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "a": made(BLOCKS),
        "b": made([*BLOCKS[:5], b"Block 5", *BLOCKS[6:]]),
        "t": made(BLOCKS, title="x"),
    }
    files |= {"s": made(BLOCKS[:6]), "k": made([b"?", *BLOCKS[1:]], kind="video")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def said(one: str, other: str, *more: object) -> str:
        done = here(capsys, "diff", tmp_path / one, tmp_path / other, *more)
        assert done.status == 0, done.err
        return done.text

    assert said("a", "a") == "A and B are the same container\n"
    assert "part: the first 5 blocks are the same" in said("a", "b")
    assert "block 5 of the file: A has block 5 of track 0 at 0:00:00.005 (7 bytes, " in said("a", "b")
    assert "the same 11 blocks; what is around them differs" in said("a", "t")
    assert "B continues A: the first 5 blocks are the same (A ends its first track at block 5)" in said(
        "s", "a"
    )
    assert "the last one" in said("s", "a") and "described differently" in said("a", "k")
    (tmp_path / "c").write_bytes(files["a"][:-200])
    assert "A has" not in said("a", "c", "--most", 0)
    facts = json.loads(said("a", "b", "--json"))
    assert (facts["same"], facts["common"], facts["blocks"]) == (False, 5, [11, 11])
    assert [one["leaf"] for one in facts["differences"]] == [5]
    (tmp_path / "u").write_bytes(files["a"][: files["a"].index(BLOCKS[4])])
    facts = json.loads(said("u", "a", "--json"))
    assert facts["continues"] and facts["differences"][0]["first"] is None
    assert "A has none" in said("u", "a")
    refused(here(capsys, "diff", tmp_path / "a", ORIGINAL), "no tree")
