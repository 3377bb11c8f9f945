"""cut, concat, keep_tracks: what comes out is sound, and leads back to where it is from (H4MK 17.5)."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import independent
import independent_edits
from harmony4.crypto.errors import (
    ChecksumError,
    FormatError,
    HarmonyError,
    LimitError,
    NotFoundError,
    SealError,
    StorageError,
    UsageError,
)
from harmony4.crypto.token import HEADER, KEY, LAST, MAX_VALUE, NONE, TokenRecord
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Lost, Step, TrackInfo, recover, verify
from harmony4.h4mk.bundle import PART, ContainerInput, bundle, parts
from harmony4.h4mk.edit import CutReport, Span, concat, cut, keep_tracks
from make_vectors.parts import BLOCKS, TRACK, TRAK, TWO, TWO_BLOCKS, TWO_ENDS, container
from needs import ORIGINAL, VECTORS
from samples import VIDEO, track_of

AUDIO = TrackInfo(codec="flac", kind="audio", media_type="audio/flac", self_framing=True, timing="demux")
OPAQUE = TrackInfo()
STRUCTURE = TrackInfo(kind="tokens", media_type="application/x-h4mk-tokens")


class Block(NamedTuple):
    """A block of a test's track; its payload says which one it is."""

    pts: int
    key: bool = True
    min_pts: int | None = None
    size: int = 3


def made(
    blocks: Sequence[Block],
    *,
    end: int | None = None,
    headers: Sequence[bytes] = (),
    info: TrackInfo = VIDEO,
    origin: int = 0,
    title: str | None = None,
    steps: Sequence[Step] = (),
    ancillary: Sequence[tuple[str, bytes]] = (),
    name: str = "",
) -> bytes:
    """A sealed container of one track."""
    with H4MKBuilder.in_memory([info], origin=origin, title=title) as builder:
        for payload in headers:
            builder.add_block(payload, 0, header=True)
        for number, one in enumerate(blocks):
            payload = f"{name}{number} ".encode() * one.size
            builder.add_block(payload, one.pts, key=one.key, min_pts=one.min_pts)
        last = blocks[-1].pts if blocks else 0
        history = [HistoryEntry("export")]
        builder.finish(
            ends={0: last if end is None else end}, steps=steps, history=history, ancillary=ancillary
        )
        return builder.getvalue()


def bundled(*sources: bytes) -> bytes:
    out = io.BytesIO()
    with ExitStack() as stack:
        bundle([ContainerInput(stack.enter_context(H4MKReader(one))) for one in sources], out)
    return out.getvalue()


def sound(data: bytes) -> bytes:
    """The container, which passes all checks of two verifiers."""
    report = verify(data)
    assert report.ok, report.problems
    independent.check(data)
    return data


def cut_of(
    data: bytes, start: int = 0, end: int | None = None, title: str | None = None
) -> tuple[bytes, CutReport]:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        report = cut(reader, out, start, end, title=title)
        if not reader.lost and title is None:
            assert out.getvalue() == independent_edits.cut(data, start, end)
    return sound(out.getvalue()), report


def joined(*sources: bytes, title: str | None = None) -> bytes:
    out = io.BytesIO()
    with ExitStack() as stack:
        readers = [stack.enter_context(H4MKReader(one)) for one in sources]
        concat(readers, out, title=title)
        if not any(reader.lost for reader in readers) and title is None:
            assert out.getvalue() == independent_edits.concat(*sources)
    return sound(out.getvalue())


def kept(data: bytes, *tracks: int, title: str | None = None) -> bytes:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        keep_tracks(reader, out, tracks, title=title)
        if not reader.lost and title is None:
            assert out.getvalue() == independent_edits.keep_tracks(data, *tracks)
    return sound(out.getvalue())


def streams(data: bytes) -> list[bytes]:
    with H4MKReader(data) as reader:
        return [b"".join(one.payload for one in reader.blocks(track)) for track in range(len(reader.tracks))]


def tokens(data: bytes, track: int = 0) -> list[TokenRecord]:
    with H4MKReader(data) as reader:
        return list(reader.tokens(track))


def body(data: bytes, track: int = 0) -> list[TokenRecord]:
    return [token for token in tokens(data, track) if not token.flags & HEADER]


def source_times(data: bytes, track: int = 0) -> list[int]:
    """What the source's clock said at the beginning of each block: `pts` and steps lead back (H4MK 15.4)."""
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        steps = [step for step in reader.meta.steps if step.track == track]
        return [
            token.pts + reader.trak.origin - sum(step.shift for step in steps if step.pts <= token.pts)
            for token in reader.tokens(track)
            if not token.flags & HEADER
        ]


def history(data: bytes) -> tuple[HistoryEntry, ...]:
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        return reader.meta.history


def head(data: bytes) -> str:
    with H4MKReader(data) as reader:
        assert reader.head is not None
        return reader.head.hex()


# Leading pictures of the keyframes at 100 and 200 are shown before them; continuations at 50, 150 and 250.
OPEN = made(
    [
        Block(0, min_pts=0),
        Block(50, key=False, min_pts=40),
        Block(100, min_pts=80),
        Block(150, key=False, min_pts=140),
        Block(200, min_pts=170),
        Block(250, key=False, min_pts=240),
    ],
    end=300,
    headers=[b"ftyp", b"moov!"],
    origin=1_000_000,
    title="Film",
)


# -- cut


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


blocks_of_a_track = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), min_size=1, max_size=3), max_size=6
)


def random_track(
    groups: list[list[tuple[int, int]]],
    late: int = 0,
    lead: int = 0,
    headers: Sequence[bytes] = (),
    steps: Sequence[Step] = (),
    origin: int = 0,
    name: str = "",
) -> bytes:
    """Each group is its blocks' (µs behind the block before, size); leading pictures reach back `lead` µs."""
    blocks, now = [], late
    for group in groups:
        for number, (gap, size) in enumerate(group):
            now += gap + (lead if not number else 0)
            least = max(now - lead, 0)
            blocks.append(Block(now, not number, least if not number else None, size))
    return made(blocks, end=now + 10, headers=headers, steps=steps, origin=origin, name=name, info=VIDEO)


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


@given(blocks_of_a_track.filter(bool), st.integers(0, 30), st.integers(0, 60), st.booleans(), st.data())
def test_cuts_put_together_are_the_source(
    groups: list[list[tuple[int, int]]], lead: int, late: int, with_header: bool, data: st.DataObject
) -> None:
    """Bytes, times, keyframes, steps and origin: all is as it was before the cuts."""
    headers = [b"he", b"ad"] if with_header else []
    plain = random_track(groups, late, lead, headers)
    keys = [one.pts for one in body(plain) if one.flags & KEY]
    times = data.draw(st.lists(st.sampled_from(keys), max_size=2, unique=True).map(sorted))
    steps = [Step(pts, data.draw(st.integers(-1000, 1000))) for pts in times]
    source = random_track(groups, late, lead, headers, steps, data.draw(st.integers(-1000, 1000)))
    pieces, start = [], keys[0]
    while start is not None:
        piece, told = cut_of(source, start, start + data.draw(st.integers(1, 100)))
        pieces.append(piece)
        assert told.spans[0] is not None
        start = told.spans[0].following
    result = joined(*pieces)
    assert streams(result) == streams(source)
    assert source_times(result) == source_times(source)
    least = min(body(source)[0].pts, *(one.min_pts for one in body(source)))
    back = [
        replace(one, pts=one.pts + least, end=one.end + least, min_pts=one.min_pts + least)
        for one in body(result)
    ]
    assert [(one.pts, one.end, one.min_pts, one.flags, one.offset, one.index) for one in back] == [
        (one.pts, one.end, one.min_pts, one.flags, one.offset, one.index) for one in body(source)
    ]


def test_cuts_of_several_tracks_put_together() -> None:
    """Where all tracks have a keyframe at the same time, cuts there go on."""
    film = made([Block(number * 50, not number % 2) for number in range(12)], end=600, headers=[b"moov"])
    tone = made([Block(number * 20) for number in range(30)], end=600, info=AUDIO)
    short = made([Block(100), Block(200), Block(250)], end=300, info=AUDIO, headers=[b"fLaC"])
    source = bundled(film, tone, short)
    pieces = [cut_of(source, *times)[0] for times in ((0, 100), (100, 300), (300, 600))]
    assert [len(streams(piece)[2]) > 0 for piece in pieces] == [False, True, False]
    result = joined(*pieces)
    assert streams(result) == streams(source)
    for track in range(3):
        assert tokens(result, track) == tokens(source, track)
    with H4MKReader(result) as reader, H4MKReader(source) as other:
        assert reader.trak == other.trak
        assert reader.meta is not None
        assert other.meta is not None
        assert reader.meta.steps == other.meta.steps


@settings(max_examples=60)  # each makes and checks some ten containers
@given(
    st.lists(st.tuples(blocks_of_a_track, st.integers(0, 200), st.integers(0, 30)), min_size=1, max_size=3),
    st.lists(st.integers(0, 600), min_size=3, max_size=5, unique=True).map(sorted),
    st.lists(st.integers(-1000, 1000), min_size=3, max_size=3),
)
def test_cuts_that_meet_anywhere(
    tracks: list[tuple[list[list[tuple[int, int]]], int, int]], times: list[int], shifts: list[int]
) -> None:
    """Cut to t and from t: a group that goes on over t is in both, and stands once in what they give."""
    sources = []
    for number, (groups, late, lead) in enumerate(tracks):
        plain = random_track(groups, late, lead)
        keys = [one.pts for one in body(plain) if one.flags & KEY]
        steps = [Step(keys[len(keys) // 2], shifts[number])] if keys else []
        sources.append(
            random_track(groups, late, lead, [b"head"], steps, origin=100 * number, name=str(number))
        )
    source = bundled(*sources)
    whole, pieces = (times[0], times[-1]), list(pairwise(times))
    try:
        cuts = [cut_of(source, *one)[0] for one in pieces]
    except NotFoundError:
        assume(False)
    result, expected = joined(*cuts), cut_of(source, *whole)[0]
    assert streams(result) == streams(expected)
    for track in range(len(tracks)):
        assert source_times(result, track) == source_times(expected, track)
        ours, theirs = body(result, track), body(expected, track)
        shift = theirs[0].pts - ours[0].pts if ours else 0
        for one, other in zip(ours, theirs, strict=True):
            assert (one.pts + shift, one.end + shift, one.flags) == (other.pts, other.end, other.flags)
            assert (one.index, one.offset, one.key_offset) == (other.index, other.offset, other.key_offset)


def test_what_two_cuts_share_stands_once() -> None:
    both = bundled(OPEN, made([Block(number * 70) for number in range(5)], end=340, info=AUDIO))
    first, second, third = (cut_of(both, *times)[0] for times in ((0, 120), (120, 130), (130, None)))
    assert joined(first, second, third) != joined(first, third)
    assert streams(joined(first, second, third)) == streams(both)
    for track in range(2):
        assert tokens(joined(first, second, third), track) == tokens(both, track)
    # The second gives nothing that the first has not.
    assert streams(joined(first, second)) == streams(first)
    # Only next to each other, and where the times are the same: 131 is in the group that the first ends with.
    for sources in (
        (first, third),
        (third, first),
        (second, first),
        (second, second),
        (first, cut_of(both, 121)[0]),
        (first, kept(second, 0, 1)),
        (third, third),
    ):
        assert streams(joined(*sources)) == [
            one + other.removeprefix(b"ftypmoov!")
            for one, other in zip(*(streams(part) for part in sources), strict=True)
        ]


def forged(data: bytes, args: dict[str, int | str], like: bytes = b"") -> bytes:
    """The container as if the last operation had been that of another, with these arguments."""
    last = replace(history(like or data)[-1], args=args)
    with H4MKReader(data) as reader, H4MKBuilder.in_memory(reader.trak.tracks) as builder:
        for block in reader.blocks():
            assert block.token is not None
            builder.add_token(block.token, block.payload)
        builder.finish(history=[last])
        return builder.getvalue()


def test_a_history_that_lies() -> None:
    """What cuts say of themselves is believed where blocks show it."""
    one, other = (cut_of(OPEN, *times)[0] for times in ((0, 120), (120, None)))
    assert streams(joined(one, other)) == streams(OPEN)
    for at in (-300, -1, 0, 79):
        with pytest.raises(UsageError, match="cut to in input 2, track 0"):
            joined(one, forged(other, {"at": at, "from": 120}))
    group = [Block(0), Block(50, key=False), Block(100), Block(150, key=False), Block(160, key=False)]
    longer = made([*group, Block(200)], end=300, headers=[b"ftypmoov!"])
    with pytest.raises(UsageError, match="cut to in input 2, track 0"):
        joined(one, forged(longer, {"at": 0, "from": 120}, like=other))
    for at in (81, 101):
        with pytest.raises(FormatError):
            joined(one, forged(other, {"at": at, "from": 120}))
    far = streams(joined(one, forged(other, {"at": 200, "from": 120})))
    assert far == streams(joined(one, forged(other, {})))
    for args in ({"from": 120}, {"at": "80", "from": 120}, {"at": 80, "from": 121}, {"at": 80}):
        assert len(tokens(joined(one, forged(other, args)))) == 10


def test_the_way_back() -> None:
    """Who has the source and the result can go the way again, from the history alone."""
    first, told = cut_of(OPEN, 0, 80)
    assert told.spans[0] is not None
    second, _ = cut_of(OPEN, told.spans[0].following or 0)
    result = joined(first, second)
    export, *cuts, last = history(result)
    assert export == HistoryEntry("export")
    assert last.op == "concat"
    again = []
    for entry, source in zip(cuts, last.inputs, strict=True):
        assert entry.op == "cut"
        assert entry.inputs == ({"head": head(OPEN)},)
        again.append(cut_of(OPEN, int(entry.args["from"]), entry.args.get("to"))[0])  # type: ignore[arg-type]
        assert head(again[-1]) == source["head"]
    assert joined(*again) == result
    assert streams(result) == streams(OPEN)


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


# -- steps


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


@given(st.permutations(range(4)), st.integers(-(10**6), 10**6))
def test_source_times_of_any_order(order: list[int], origin: int) -> None:
    """Also where the source's clock jumps ahead, or repeats."""
    source = made([Block(number * 100) for number in range(4)], end=400, origin=origin, steps=[Step(200, 17)])
    pieces = [cut_of(source, number * 100, number * 100 + 100)[0] for number in order]
    result = joined(*pieces)
    assert source_times(result) == [source_times(source)[number] for number in order]
    assert [one.pts for one in tokens(result)] == [0, 100, 200, 300]


def test_a_jump_is_told() -> None:
    one, other = made([Block(0), Block(50)], end=90), made([Block(5), Block(40)], end=70, origin=1000)
    with H4MKReader(joined(one, other, one)) as reader:
        assert reader.meta is not None
        assert reader.meta.steps == (Step(95, -910), Step(160, 1070))
        assert [token.pts for token in reader.tokens()] == [0, 50, 95, 130, 160, 210]
        assert [token.end for token in reader.tokens()] == [50, 95, 130, 160, 210, 250]
    # Two tracks: the second begins in the second input, and its first has steps of its own.
    two = bundled(made([], info=VIDEO), made([Block(10)], end=20, origin=3, info=AUDIO))
    first = bundled(made([Block(0)], end=30), made([], info=AUDIO))
    result = joined(first, two)
    with H4MKReader(result) as reader:
        assert reader.meta is not None
        assert reader.meta.steps == (Step(40, 27, 1),)
    assert source_times(result, 1) == [13]


# -- concat


def test_concat_of_one() -> None:
    result = joined(OPEN)
    assert streams(result) == streams(OPEN)
    assert tokens(result) == tokens(OPEN)
    assert history(result) == (*history(OPEN), HistoryEntry("concat", {}, ({"head": head(OPEN)},)))


def test_concat_goes_on_at_the_greatest_end() -> None:
    film, tone = made([Block(0)], end=100), made([Block(0), Block(50)], end=130, info=AUDIO)
    both = bundled(film, tone)
    result = joined(both, both)
    assert [(one.pts, one.end, one.flags) for one in tokens(result)] == [
        (0, 130, KEY),
        (130, 230, KEY | LAST),
    ]
    assert [(one.pts, one.end) for one in tokens(result, 1)] == [(0, 50), (50, 130), (130, 180), (180, 260)]
    with H4MKReader(result) as reader:
        assert reader.duration == 260


def test_keyframes_never_meet() -> None:
    """A last keyframe that lasts no time: what is put behind it begins 1 µs later."""
    still = made([Block(0)])
    assert [one.pts for one in tokens(joined(still, still, still))] == [0, 1, 2]
    empty = made([])
    assert tokens(joined(empty, still, empty)) == tokens(still)
    assert tokens(joined(empty, empty)) == []


def test_header_blocks_stand_once() -> None:
    one = made([Block(0), Block(10, key=False)], end=20, headers=[b"ab", b"c"], name="x")
    other = made([Block(0)], end=20, headers=[b"a", b"bc"], name="y")  # the same bytes in other blocks
    result = joined(one, other, one)
    assert streams(result) == [b"abcx0 x0 x0 x1 x1 x1 y0 y0 y0 x0 x0 x0 x1 x1 x1 "]
    assert [one.key_offset for one in tokens(result)] == [NONE, NONE, 3, 3, 21, 30, 30]
    # A track of nothing but HEADER blocks gives them; blocks of the next input go on.
    bare = made([], headers=[b"abc"])
    assert streams(joined(bare, other)) == streams(other)
    assert streams(joined(bare, bare)) == [b"abc"]
    assert streams(joined(other, bare)) == streams(other)
    assert [(one.pts, one.end) for one in tokens(joined(made([]), one))] == [
        *((0, 0), (0, 0)),
        *((0, 10), (10, 20)),
    ]


def test_a_track_that_begins_later() -> None:
    """Its HEADER blocks answer for the time before, as everywhere."""
    film = made([Block(0)], end=100)
    first, second = (
        bundled(film, made([], info=AUDIO)),
        bundled(film, made([Block(0)], end=9, info=AUDIO, headers=[b"h", b"i"])),
    )
    result = joined(first, second)
    assert [(one.pts, one.end) for one in tokens(result, 1)] == [(0, 0), (0, 100), (100, 109)]


def test_history_and_title_of_a_concat() -> None:
    one, other = made([Block(0)], title="A", name="a"), made([Block(0)], title="A", name="b")
    third = made([Block(0)], title="B")
    scene, _ = cut_of(third)
    result = joined(one, other, scene)
    assert history(result) == (
        HistoryEntry("export"),
        HistoryEntry("cut", {"at": 0, "from": 0}, ({"head": head(third)},)),
        HistoryEntry("concat", {}, tuple({"head": head(part)} for part in (one, other, scene))),
    )
    for data, title in (
        (result, None),
        (joined(one, other), "A"),
        (joined(one, third, title="C"), "C"),
        (kept(one, 0), "A"),
        (kept(one, 0, title="D"), "D"),
    ):
        with H4MKReader(data) as reader:
            assert reader.meta is not None
            assert reader.meta.title == title


def test_what_does_not_fit_together() -> None:
    one = made([Block(0)], end=10, headers=[b"moov"])
    two = bundled(one, one)
    for other, words in (
        (two, r"number of tracks in input 2 \(expected 1, found 2\)"),
        (made([Block(0)], info=replace(VIDEO, codec="hevc")), "codec of a track in input 2, track 0"),
        (made([Block(0)], info=replace(VIDEO, media_type="video/webm")), "media_type"),
        (made([Block(0)], info=replace(VIDEO, kind="audio")), "kind"),
        (made([Block(0)], info=replace(VIDEO, timing="hint")), "timing"),
        (made([Block(0)], info=replace(VIDEO, self_framing=False)), "input 2, track 0 .*decode alone"),
        (made([Block(0)], headers=[b"mooV"]), "decoder needs first.* in input 2, track 0"),
        (made([Block(0)]), "decoder needs first"),
        (made([Block(0, key=False), Block(5)], headers=[b"moov"]), "begin with a keyframe in input 2"),
    ):
        out = io.BytesIO()
        with H4MKReader(one) as a, H4MKReader(other) as b, pytest.raises(UsageError, match=words):
            concat([a, b], out)
        assert out.getvalue() == b""
    with pytest.raises(UsageError, match="nothing"):
        concat([], io.BytesIO())


# -- keep_tracks


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


# -- holes


def holed(data: bytes, *places: tuple[int, int]) -> bytes:
    """The container without some (track, index), as `recover` makes it."""
    broken = bytearray(data)
    with H4MKReader(data) as reader:
        for track, index in places:
            broken[reader.range_map(track)[index].position] ^= 1
    out = io.BytesIO()
    recover(bytes(broken), out)
    return sound(out.getvalue())


def lost(data: bytes) -> tuple[Lost, ...]:
    with H4MKReader(data) as reader:
        return reader.lost


GROUPS = made([Block(number * 10, not number % 3) for number in range(12)], end=120, headers=[b"h0", b"h1"])
"""Two HEADER blocks and four groups of three: KEY blocks have the indices 2, 5, 8 and 11."""


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


def test_concat_and_holes() -> None:
    middle, end, start = (holed(GROUPS, (0, index)) for index in (6, 13, 2))
    assert lost(joined(middle, middle)) == (Lost(1, 6), Lost(1, 18))
    assert lost(joined(middle, end)) == (Lost(1, 6), Lost(0, 25))
    assert lost(joined(start)) == (Lost(1, 2),)
    for sources, words in (
        ([end, middle], "end of a track is lost.* in input 1, track 0"),
        ([middle, holed(made([Block(0)], headers=[b"h0", b"h1"]), (0, 0), (0, 1), (0, 2))], "end .*input 2"),
        ([middle, start], "beginning of a track is lost.* in input 2, track 0"),
        ([start, middle], "beginning of a track is lost.* in input 1, track 0"),
        ([middle, holed(GROUPS, (0, 0))], "beginning of a track is lost.* in input 2, track 0"),
    ):
        with pytest.raises(UsageError, match=words):
            joined(*sources)


# -- what is refused


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


def test_a_history_that_is_full() -> None:
    """META holds 1 MiB; that this is not enough is known before anything is written."""
    sources = []
    for op in ("one", "other"):
        with H4MKBuilder.in_memory([VIDEO]) as builder:
            builder.add_block(b"x", 0, key=True)
            builder.finish(history=[HistoryEntry(op, {"text": f"{number}" * 40}) for number in range(3000)])
            sources.append(builder.getvalue())
    out = io.BytesIO()
    with H4MKReader(sources[0]) as one, H4MKReader(sources[1]) as other, pytest.raises(LimitError):
        concat([one, other], out)
    assert out.getvalue() == b""
    assert len(history(joined(sources[0], sources[0]))) == 3001
    assert [one.op for one in history(joined(track_of(4), track_of(4)))] == ["concat"]


def test_times_beyond_what_a_token_holds() -> None:
    far = made([Block(0), Block(2**62)], end=2**62 + 1)
    with pytest.raises(FormatError):
        joined(far, far, far)


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
