"""cut and keep_tracks: what comes out is sound, and leads back to where it is from (H4MK 17.5 ff.)."""

from __future__ import annotations

import io
import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from edits import (
    AUDIO,
    GROUPS,
    OPAQUE,
    OPEN,
    STRUCTURE,
    Block,
    blocks_of_a_track,
    body,
    bundled,
    cut_of,
    head,
    history,
    holed,
    joined,
    kept,
    lost,
    made,
    random_track,
    sound,
    source_times,
    streams,
    tokens,
)
from harmony4.crypto.errors import (
    ChecksumError,
    HarmonyError,
    NotFoundError,
    SealError,
    StorageError,
    UsageError,
)
from harmony4.crypto.token import LAST, MAX_VALUE
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Lost, Step
from harmony4.h4mk.edits.bundle import PART, parts
from harmony4.h4mk.edits.edit import Span, concat, cut, keep_tracks
from make_vectors.parts import BLOCKS, TRACK, TRAK, TWO, TWO_BLOCKS, TWO_ENDS, container
from needs import ORIGINAL, VECTORS
from samples import VIDEO, track_of


@pytest.mark.parametrize(
    ("start", "end", "report", "taken"),
    [
        (0, 50, (0, Span(0, 80, 100)), (0, 2)),
        (0, 80, (0, Span(0, 80, 100)), (0, 2)),
        (0, 81, (0, Span(0, 170, 200)), (0, 4)),  # the picture at 81 is stored behind the keyframe at 100
        (99, 100, (0, Span(0, 170, 200)), (0, 4)),
        (100, 170, (80, Span(100, 170, 200)), (2, 4)),
        (120, None, (80, Span(100, 300, None)), (2, 6)),
        (200, MAX_VALUE, (170, Span(200, 300, None)), (4, 6)),
        (0, None, (0, Span(0, 300, None)), (0, 6)),
    ],
)
def test_whole_groups(start: int, end: int | None, report: tuple[int, Span], taken: tuple[int, int]) -> None:
    data, told = cut_of(OPEN, start, end)
    assert (told.start, *told.spans) == report
    before, after = body(OPEN)[slice(*taken)], body(data)
    assert [one.digest for one in after] == [one.digest for one in before]
    assert [one.pts + told.start for one in after] == [one.pts for one in before]
    assert [one.min_pts + told.start for one in after] == [one.min_pts for one in before]
    assert [one.key_pts + told.start for one in after] == [one.key_pts for one in before]
    assert [one.end + told.start for one in after] == [*(one.end for one in before[:-1]), told.spans[0].end]
    assert [one.flags for one in after[:-1]] == [one.flags for one in before[:-1]]
    assert after[-1].flags == before[-1].flags | LAST
    assert [one.size for one in tokens(data)[:2]] == [4, 5]
    with H4MKReader(data) as reader:
        assert reader.trak.origin == 1_000_000 + told.start
        assert reader.duration == told.seal.duration == told.spans[0].end - told.start
        assert reader.meta is not None
        assert (reader.meta.title, reader.meta.steps) == ("Film", ())


def test_history_of_a_cut() -> None:
    once, _ = cut_of(OPEN, 90, 180)
    twice, _ = cut_of(once, 30, title="Scene")
    assert history(twice) == (
        HistoryEntry("export"),
        HistoryEntry("cut", {"at": 0, "from": 90, "to": 180}, ({"head": head(OPEN)},)),
        HistoryEntry("cut", {"at": 0, "from": 30}, ({"head": head(once)},)),
    )
    assert source_times(twice) == source_times(OPEN)[-len(source_times(twice)) :]
    with H4MKReader(twice) as reader:
        assert reader.meta is not None
        assert reader.meta.title == "Scene"


def test_tracks_keep_their_relation() -> None:
    """Late audio stays late; a track with nothing in that time is empty."""
    film = made([Block(number * 100) for number in range(10)], end=1000)
    late = made([Block(230 + number * 70) for number in range(9)], end=860, info=AUDIO, headers=[b"fLaC"])
    both = bundled(film, late)
    data, told = cut_of(both, 150, 400)
    assert told.spans == (Span(100, 400, 400), Span(230, 440, 440))
    assert [one.pts for one in body(data)] == [0, 100, 200]
    assert [one.pts for one in body(data, 1)] == [130, 200, 270]
    assert streams(data)[1].startswith(b"fLaC")
    data, told = cut_of(both, 0, 230)
    assert told.spans == (Span(0, 300, 300), None)
    assert streams(data)[1] == b""
    data, told = cut_of(both, 900)
    assert (told.start, told.spans) == (900, (Span(900, 1000, None), None))
    with pytest.raises(NotFoundError, match="no track"):
        cut_of(both, 1000)
    with pytest.raises(NotFoundError):
        cut_of(late, 0, 230)


@given(
    st.lists(st.tuples(blocks_of_a_track, st.integers(0, 200), st.integers(0, 30)), min_size=1, max_size=3),
    st.integers(0, 500),
    st.integers(1, 500),
)
def test_any_cut(tracks: list[tuple[list[list[tuple[int, int]]], int, int]], start: int, length: int) -> None:
    source = bundled(*(random_track(groups, late, lead, [b"head"]) for groups, late, lead in tracks))
    with H4MKReader(source) as reader:
        wanted = []
        for track in range(len(tracks)):
            try:
                found = reader.time_range(start, start + length, track)
            except NotFoundError:
                wanted.append(b"")
            else:
                wanted.append(b"head" + reader.read(found.start, found.stop - found.start, track))
    if not any(wanted):
        with pytest.raises(NotFoundError):
            cut_of(source, start, start + length)
        return
    data, told = cut_of(source, start, start + length)
    assert streams(data) == wanted
    for track in range(len(tracks)):
        digests = [one.digest for one in body(source, track)]
        first = digests.index(body(data, track)[0].digest) if body(data, track) else 0
        moved = body(data, track)
        assert source_times(data, track) == source_times(source, track)[first : first + len(moved)]
        assert [one.pts + told.start for one in moved] == [
            one.pts for one in body(source, track)[first : first + len(moved)]
        ]


def test_opaque_blocks() -> None:
    """They are cut at the times that somebody gave them."""
    source = made([Block(number * 1000) for number in range(5)], end=5000, info=OPAQUE)
    data, told = cut_of(source, 1500, 3000)
    assert told.spans == (Span(1000, 3000, 3000),)
    assert streams(data) == [b"1 1 1 2 2 2 "]
    assert streams(joined(cut_of(source, 0, 1000)[0], cut_of(source, 1000)[0])) == streams(source)


def test_a_cut_in_order_of_arrival() -> None:
    data, _ = cut_of(track_of(12, tracks=(VIDEO, AUDIO)), 160_000, 320_000)
    with H4MKReader(data) as reader:
        assert reader.trak.order == "end"
        assert [one.blocks for one in reader.tracks] == [4, 4]


def test_many_tracks() -> None:
    source = bundled(
        *(made([Block(number * 10 + track) for number in range(4)], end=60 + track) for track in range(200))
    )
    data, told = cut_of(source, 15, 35)
    assert len(told.spans) == 200
    assert kept(kept(source, *range(10, 200)), 5, 7) == kept(kept(source, *range(10, 200)), 7, 5, 7)
    assert streams(kept(data, 199)) == streams(data)[199:]
    assert len(streams(joined(data, data))) == 200


def test_steps_of_a_cut() -> None:
    steps = [Step(100, 40), Step(200, 3), Step(300, 2)]
    source = made([Block(number * 100) for number in range(5)], end=500, origin=70, steps=steps)
    for start, end, origin, expected in (
        (0, 100, 70, ()),
        (0, 101, 70, (Step(100, 40),)),
        (50, None, 70, tuple(steps)),
        (100, 201, 70 + 100 - 40, (Step(100, 3),)),
        (200, None, 70 + 200 - 43, (Step(100, 2),)),
        (400, None, 70 + 400 - 45, ()),
    ):
        data, _ = cut_of(source, start, end)
        with H4MKReader(data) as reader:
            assert reader.meta is not None
            assert (reader.trak.origin, reader.meta.steps) == (origin, expected)


def test_steps_that_tracks_do_not_share() -> None:
    """A bundle's tracks have clocks of their own; a step at 0 says what they said there."""
    one = made([Block(number * 100) for number in range(5)], end=500, origin=1000, steps=[Step(100, 7)])
    other = made([Block(number * 100) for number in range(5)], end=500, origin=-50)
    source = bundled(one, other)
    data, _ = cut_of(source, 200, 400)
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        assert reader.trak.origin == 1000 + 200 - 7
        assert reader.meta.steps == (Step(0, 1043, 1),)
    for track in range(2):
        assert source_times(data, track) == source_times(source, track)[2:4]


def test_tracks_stay_as_they_are() -> None:
    sources = [
        made([Block(track), Block(40)], end=50 + track, name=str(track), origin=track) for track in range(4)
    ]
    both = bundled(*sources)
    data = kept(both, 3, 1)
    assert streams(data) == [streams(both)[1], streams(both)[3]]
    for new, old in enumerate((1, 3)):
        assert tokens(data, new) == [replace(one, track=new) for one in tokens(both, old)]
        assert source_times(data, new) == source_times(both, old) == source_times(sources[old])
    assert history(data)[-1] == HistoryEntry("filter", {"tracks": "1,3"}, ({"head": head(both)},))
    with H4MKReader(both) as reader:
        assert reader.meta is not None
        before = reader.meta.steps
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        assert reader.meta.steps == (replace(before[1], track=0),)
        for wrong in ((), (4,), (-1, 2)):
            with pytest.raises((UsageError, NotFoundError)):
                keep_tracks(reader, io.BytesIO(), [one if one < 4 else 4 for one in wrong])


def test_structure_only_is_true_where_no_track_of_tokens_is_left() -> None:
    with H4MKBuilder.in_memory([VIDEO, STRUCTURE]) as builder:
        builder.add_block(b"x", 0, key=True)
        builder.add_block(b"y", 0, key=True, track=1)
        builder.finish(structure_only=False)
        source = builder.getvalue()
    for data, expected in (
        (kept(source, 0), True),
        (kept(source, 1), False),
        (cut_of(source)[0], False),
        (joined(kept(source, 1), kept(source, 1)), False),
    ):
        with H4MKReader(data) as reader:
            assert reader.meta is not None
            assert reader.meta.structure_only is expected


def test_ancillary_chunks_are_kept() -> None:
    """But for `part`: what it says of blocks is not true any more."""
    one = made([Block(0)], ancillary=[("post", b"one"), ("note", b"x")])
    other = made([Block(0)], ancillary=[("post", b"other"), ("note", b"x")])
    for data, expected in (
        (cut_of(one)[0], [("note", b"x"), ("post", b"one")]),
        (kept(one, 0), [("note", b"x"), ("post", b"one")]),
        (joined(one, other), [("note", b"x"), ("post", b"other"), ("post", b"one")]),
    ):
        with H4MKReader(data) as reader:
            assert sorted(reader.ancillary()) == sorted(expected)
    both = bundled(one, other)
    for data in (cut_of(both)[0], kept(both, 1), joined(both, both)):
        with H4MKReader(data) as reader:
            assert parts(reader) == ()
            assert not any(tag == PART for tag, _ in reader.ancillary())


@pytest.mark.parametrize(
    ("places", "times", "expected", "size"),
    [
        ([6], (30, 60), [Lost(1, 3)], 4),  # in a group that is taken
        ([6], (0, 120), [Lost(1, 6)], 13),
        ([7], (30, 60), [Lost(0, 4)], 4),  # at the end of what is taken
        ([7], (30, 61), [Lost(1, 4)], 7),
        ([4], (30, 60), [], 5),  # just before
        ([0], (30, 60), [Lost(1, 0)], 4),
        ([0, 1], (0, 30), [Lost(2, 0)], 3),
        ([0, 1], (30, 60), [], 3),
        ([1], (0, 30), [Lost(1, 1)], 4),
        ([1], (30, 60), [], 4),
        ([5], (30, 60), [Lost(1, 5)], 7),  # the keyframe itself: what is left begins at the one before
        ([13], (90, None), [Lost(0, 4)], 4),  # the end was lost already
        ([12], (60, None), [Lost(1, 6)], 7),
    ],
)
def test_holes_stay_holes(
    places: list[int], times: tuple[int, int | None], expected: list[Lost], size: int
) -> None:
    data, _ = cut_of(holed(GROUPS, *((0, index) for index in places)), *times)
    assert list(lost(data)) == expected
    assert len(tokens(data)) == size


def test_nothing_left_of_a_track_with_holes() -> None:
    """Nobody knows what the holes showed: the track is lost and not empty."""
    both = bundled(GROUPS, made([Block(0), Block(10)], end=20, info=AUDIO))
    data, _ = cut_of(holed(both, (1, 1)), 60)
    assert lost(data) == (Lost(0, 0, 1),)
    gone = holed(both, (1, 0), (1, 1))
    assert lost(gone) == (Lost(0, 0, 1),)
    assert lost(cut_of(gone, 0, 10)[0]) == (Lost(0, 0, 1),)
    assert lost(kept(gone, 1)) == (Lost(0, 0, 0),)
    assert lost(kept(gone, 0)) == ()
    assert lost(joined(gone)) == (Lost(0, 0, 1),)


def refusing(data: bytes, words: str) -> None:
    with H4MKReader(data) as reader:
        for edit in (
            lambda out: cut(reader, out),
            lambda out: keep_tracks(reader, out, [0]),
            lambda out: concat([reader], out),
        ):
            out = io.BytesIO()
            with pytest.raises(UsageError, match=words):
                edit(out)
            assert out.getvalue() == b""


@pytest.mark.parametrize(
    ("name", "words"), [("ok-signed", "signed"), ("ok-two-signatures", "signed"), ("ok-masked", "masked")]
)
def test_signed_and_masked_ones(name: str, words: str) -> None:
    refusing((VECTORS / f"{name}.h4mk").read_bytes(), words)


def test_what_is_not_sealed() -> None:
    refusing(OPEN[:-1], "sealed")
    refusing(ORIGINAL.read_bytes(), "sealed")


def test_blocks_that_do_not_decode_alone() -> None:
    mp4 = made([Block(0), Block(10)], end=20, info=replace(VIDEO, self_framing=False), headers=[b"moov"])
    both = bundled(OPEN, mp4)
    with pytest.raises(UsageError, match=r"track 1 .*--remux"):
        cut_of(both)
    with pytest.raises(UsageError, match="input 1"):
        joined(mp4, mp4)
    assert streams(kept(both, 1)) == streams(mp4)


def test_times_that_are_no_interval() -> None:
    for start, end in ((-1, None), (5, 5), (6, 5), (0, 0), (-5, -3)):
        with pytest.raises(UsageError):
            cut_of(OPEN, start, end)


def test_damage_does_not_get_through(tmp_path: Path) -> None:
    """And damage elsewhere does no harm."""
    with H4MKReader(OPEN) as reader:
        at = reader.range_map()[7].position
    broken = OPEN[:at] + b"?" + OPEN[at + 1 :]
    path = tmp_path / "out.h4mk"
    with H4MKReader(broken) as reader:
        for start, end in ((0, None), (200, None)):
            with pytest.raises(ChecksumError):
                cut(reader, path, start, end)
        with pytest.raises(ChecksumError):
            keep_tracks(reader, path, [0])
        with pytest.raises(ChecksumError):
            concat([reader, reader], path)
        assert list(tmp_path.iterdir()) == []
        cut(reader, path, 0, 80)
    assert streams(sound(path.read_bytes())) == streams(cut_of(OPEN, 0, 80)[0])
    with H4MKReader(OPEN) as reader:
        at = reader.range_map()[0].position
    broken = OPEN[:at] + b"?" + OPEN[at + 1 :]
    with H4MKReader(OPEN) as one, H4MKReader(broken) as other, pytest.raises(ChecksumError):
        concat([one, other], io.BytesIO())


def test_seek_that_lies() -> None:
    """A SEEK entry that points at a block that is no keyframe, under a sound seal."""

    def lie(payloads: list[bytes]) -> list[bytes]:
        return [payloads[0][:-16] + struct.pack(">QQ", 600_000, 22)]

    data = container(seek=lie)
    with H4MKReader(data) as reader, pytest.raises(SealError, match="KEY"):
        cut(reader, io.BytesIO(), 700_000)


def anything(data: bytes) -> None:
    """All edits of bytes that may be anything: a sound container comes out, or an error of ours."""
    try:
        reader = H4MKReader(data)
    except HarmonyError:
        return
    for edit in (
        lambda out: cut(reader, out, 30, 61),
        lambda out: cut(reader, out, 500_000),
        lambda out: keep_tracks(reader, out, range(len(reader.tracks))),
        lambda out: concat([reader, reader], out),
    ):
        out = io.BytesIO()
        with suppress(HarmonyError):
            edit(out)
            sound(out.getvalue())


def test_containers_that_are_wrong_somewhere() -> None:
    for path in sorted(VECTORS.glob("*.h4mk")):
        anything(path.read_bytes())


def test_any_byte_may_be_wrong() -> None:
    for at in range(0, len(GROUPS), 5):
        anything(GROUPS[:at] + bytes([GROUPS[at] ^ 0x41]) + GROUPS[at + 1 :])


def test_a_seal_may_be_made_for_lies() -> None:
    """Tables, tokens and history say what nobody wrote, and the seal is right."""

    for name in independent.NAMES[3:10]:
        for value in (0, 1, 22, 700_000, 2**63 - 1):
            for place in range(4):
                anything(container(change_tokens=lambda tokens: tokens[place].update({name: value})))  # noqa: B023

    def lie(payloads: list[bytes]) -> list[bytes]:
        return [payloads[0][: -len(entry)] + entry]

    for one in (0, 1, 22, 700_000, 2**63 - 1):
        for other in (0, 22, 38, 2**63 - 1):
            entry = struct.pack(">QQ", one, other)
            anything(container(seek=lie))
            anything(container(rmap=lie))


def test_what_stands_between_header_blocks_is_no_header() -> None:
    blocks = [
        {"payload": b"head", "pts": 0, "header": True},
        {"payload": b"none", "pts": 0},
        {"payload": b"er", "pts": 0, "header": True},
        {"payload": b"key", "pts": 0, "key": True},
        {"payload": b"other", "pts": 10, "key": True},
    ]
    data, _ = cut_of(container(blocks=blocks, ends={0: 20}), 10)
    assert streams(data) == [b"headerother"]
    assert streams(cut_of(container(blocks=blocks, ends={0: 20}), 0, 10)[0]) == [b"headerkey"]


def test_no_room(tmp_path: Path) -> None:
    with H4MKReader(OPEN) as reader:
        for edit in (lambda path: cut(reader, path), lambda path: concat([reader], path)):
            with pytest.raises(StorageError):
                edit(tmp_path / "none" / "out.h4mk")


def test_progress() -> None:
    seen: list[tuple[int, int | None]] = []

    def watch(done: int, total: int | None) -> None:
        seen.append((done, total))

    both = bundled(OPEN, GROUPS)
    with H4MKReader(both) as reader:
        for edit in (
            lambda: cut(reader, io.BytesIO(), 100, progress=watch),
            lambda: keep_tracks(reader, io.BytesIO(), [1], progress=watch),
            lambda: concat([reader, reader], io.BytesIO(), progress=watch),
        ):
            seen.clear()
            edit()
            assert seen[-1][0] == seen[-1][1] == max(done for done, _ in seen)


class Nowhere:
    """A target that keeps nothing."""

    def write(self, data: object) -> None:
        pass


def test_memory_follows_the_block(tmp_path: Path) -> None:
    payload, path = bytes(2**20), tmp_path / "long.h4mk"
    with H4MKBuilder.to_path(path, [VIDEO, AUDIO]) as builder:
        for number in range(40):
            for track in range(2):
                builder.add_block(payload, number * 1000, track=track, key=number % 10 == 0)
        builder.finish(ends={0: 40_000, 1: 40_000})
    with H4MKReader(path) as reader:
        for edit in (
            lambda: cut(reader, Nowhere(), 1, 35_000),
            lambda: keep_tracks(reader, Nowhere(), [0, 1]),
            lambda: concat([reader, reader], Nowhere()),
        ):
            tracemalloc.start()
            edit()
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most < 20 * 2**20  # of 70 MiB and more


def test_hand_made_containers() -> None:
    """From the specification's own example: two tracks, an origin, a title."""
    two = container(trak=TWO, blocks=TWO_BLOCKS, ends=TWO_ENDS)
    data, told = cut_of(two, 550_000)
    assert told.spans == (Span(500_000, 1_000_000, None), Span(0, 1_100_000, None))
    assert streams(data) == [b"picture 1", b"sound 0sound 1"]
    one = container(trak={**TRAK, "tracks": [TRACK]}, blocks=BLOCKS)
    assert streams(joined(cut_of(one, 0, 1_000_000)[0], cut_of(one, 1_040_000)[0])) == streams(one)
