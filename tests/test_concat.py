"""concat: containers behind each other, and cuts put together again (H4MK 17.7)."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edits import (
    AUDIO,
    GROUPS,
    OPEN,
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
    source_times,
    streams,
    tokens,
)
from harmony4.crypto.errors import (
    FormatError,
    LimitError,
    NotFoundError,
    UsageError,
)
from harmony4.crypto.token import KEY, LAST, NONE
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Lost, Step
from harmony4.h4mk.edits.edit import concat
from samples import VIDEO, track_of


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


def test_a_track_of_header_blocks_alone() -> None:
    """In a later input it gives the track nothing: no block, no step."""
    empty = made([])
    result = joined(empty, made([], headers=[b"abc"], origin=100))
    with H4MKReader(result) as reader:
        assert reader.meta is not None and reader.meta.steps == ()


def test_steps_behind_the_end() -> None:
    """They are of media that are not there any more when the next input begins."""
    group = [Block(0), Block(100, min_pts=80)]
    source = made(group, end=200, steps=[Step(95, -7)])
    one, _ = cut_of(source, 0, 80)
    result = joined(one, made([Block(0), Block(10)], end=20, origin=1000))
    assert source_times(result) == [0, 1000, 1010]


def test_cuts_far_away() -> None:
    """Beyond 2^53 µs a history has its numbers in decimal."""
    far = 2**60
    source = made([Block(far + pts) for pts in (0, 100, 200, 300)], end=far + 400)
    one, _ = cut_of(source, far, far + 150)
    other, _ = cut_of(source, far + 150)
    assert streams(joined(one, other)) == streams(source)


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
        with pytest.raises(UsageError, match="cut to in input 2"):
            joined(one, forged(other, {"at": at, "from": 120}))
    for at in (81, 99, 101, 2**52, str(2**60), "x", True):
        try:
            assert len(streams(joined(one, forged(other, {"at": at, "from": 120})))[0]) >= len(
                streams(one)[0]
            )
        except UsageError as error:
            assert "input 2" in str(error)
    group = [Block(0), Block(50, key=False), Block(100), Block(150, key=False), Block(160, key=False)]
    longer = made([*group, Block(200)], end=300, headers=[b"ftypmoov!"])
    with pytest.raises(UsageError, match="cut to in input 2, track 0"):
        joined(one, forged(longer, {"at": 0, "from": 120}, like=other))
    for at in (81, 101):
        with pytest.raises(UsageError, match="cut to in input 2, track 0"):
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
