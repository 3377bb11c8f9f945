"""What tokens must satisfy next to each other; both implementations agree (H4MK 6.2, 10.2, 17.1)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    KEY,
    LAST,
    MASKED,
    MAX_BLOCKS,
    NONE,
    HarmonyError,
    LimitError,
    OrderError,
    TokenSequencer,
    sha256,
)
from harmony4.h4mk import Lost, TrackInfo, Trak
from harmony4.h4mk.layout import ChunkInfo
from harmony4.h4mk.sequence import Sequence, check_payload
from harmony4.h4mk.tables import Tables

ONE = Trak((TrackInfo(),), block=10, order="arrival")
TWO = Trak((TrackInfo(), TrackInfo()), block=10, order="end")


def tokens_of(track=0, kinds="HK-KK--", step=10, size=4):
    """Tokens of one track; kinds: H header, K key, - continuation."""
    sequencer, made = TokenSequencer(track), []
    for number, kind in enumerate(kinds):
        pts = 0 if kind == "H" else number * step
        made.append(sequencer.push(size, sha256(b""), pts, key=kind == "K", header=kind == "H"))
    made.append(sequencer.finish(len(kinds) * step))
    return [token for token in made if token is not None]


TOKENS = tokens_of()


def run(tokens, trak=ONE, *, gaps=False):
    sequence = Sequence(trak, gaps=gaps)
    for token in tokens:
        sequence.accept(token)
    return sequence, sequence.finish()


def test_a_good_sequence():
    sequence, lost = run(TOKENS)
    assert (lost, sequence.leaf, sequence.duration, sequence.seen) == ([], 7, 70, {0})
    assert run([])[1] == []


def change(number, **fields):
    return [*TOKENS[:number], replace(TOKENS[number], **fields), *TOKENS[number + 1 :]]


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [
        (change(2, track=1), OrderError),
        (change(2, size=11), LimitError),
        (change(2, flags=MASKED), OrderError),
        (change(2, flags=LAST), OrderError),  # a block behind it
        (change(2, index=3), OrderError),
        (change(2, index=1), OrderError),
        (change(2, offset=9), OrderError),
        (change(2, offset=7), OrderError),
        (change(2, pts=19), OrderError),
        (change(2, pts=21), OrderError),
        (change(2, key_pts=9), OrderError),
        (change(2, key_offset=3), OrderError),
        (change(2, key_pts=NONE, key_offset=NONE), OrderError),
        (change(3, flags=0), OrderError),
        (
            [*TOKENS[:3], replace(TOKENS[0], index=3, offset=12, end=30)],
            OrderError,
        ),  # HEADER behind a keyframe
        (TOKENS[:-1], OrderError),
    ],
)
def test_the_rules(tokens, kind):  # H4MK 6.2
    with pytest.raises(kind):
        run(tokens)


def test_keyframe_times_increase_and_no_header_follows_one():
    first = replace(TOKENS[1], index=0, offset=0, key_offset=0, end=10)
    second = replace(first, index=1, offset=4, key_offset=4)
    with pytest.raises(OrderError, match="increase"):
        run([first, second])
    header = replace(TOKENS[0], index=1, offset=4, pts=0, end=0)
    with pytest.raises(OrderError, match="HEADER"):
        run([replace(TOKENS[1], index=0, offset=0, key_offset=0, pts=0, key_pts=0, end=0), header])


def test_a_refused_token_changes_nothing():
    sequence = Sequence(ONE)
    for token in TOKENS:
        for other in TOKENS:
            if other != token:
                with pytest.raises(OrderError):
                    sequence.accept(other)
        sequence.accept(token)
    assert sequence.finish() == [] and sequence.leaf == 7


def test_the_order_of_several_tracks():  # H4MK 17.1
    tokens = [*tokens_of(0, "K--"), *tokens_of(1, "K--")]
    ordered = sorted(tokens, key=lambda token: (token.end, token.track, token.index))
    assert run(ordered, TWO)[0].seen == {0, 1}
    with pytest.raises(OrderError):
        run(tokens, TWO)
    assert run(tokens, replace(TWO, order="arrival"))[1] == []


def test_holes_are_named():  # H4MK 10.2
    sequence, lost = run([TOKENS[1], TOKENS[3], TOKENS[4]], gaps=True)
    assert lost == [Lost(1, 0), Lost(1, 2), Lost(0, 5)] and sequence.leaf == 3
    sequence = Sequence(TWO, gaps=True)
    assert sequence.finish([1]) == [Lost(0, 0, 1)]
    with pytest.raises(OrderError):
        run([TOKENS[1]], gaps=False)


BEHIND = replace(TOKENS[5], index=6, offset=28, key_pts=45, key_offset=21)  # its KEY block, index 5, is lost


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ({}, True),
        ({"key_pts": 40, "key_offset": 16}, True),  # the one before the hole
        ({"key_offset": 20}, True),
        ({"key_offset": 19}, False),  # inside the block before the hole
        ({"key_offset": 16}, False),
        ({"key_pts": 40}, False),
        ({"key_pts": 41}, True),
        ({"key_pts": NONE, "key_offset": NONE}, False),
        ({"key_pts": 10, "key_offset": 4}, False),
        ({"offset": 20, "key_pts": 40, "key_offset": 16}, False),  # a lost block has a byte at least
        ({"offset": 21, "key_pts": 40, "key_offset": 16}, True),
        ({"offset": 31}, False),  # and at most ten
        ({"offset": 30}, True),
        ({"pts": 49, "key_pts": 45}, False),
        ({"index": 5}, False),
    ],
)
def test_across_a_hole(fields, good):  # H4MK 6.2
    tokens = [*TOKENS[:5], replace(BEHIND, flags=LAST, **fields)]
    tokens[-1].check()
    trak = independent.json.loads(ONE.pack())
    raw = [independent.unpack_token(token.pack()) for token in tokens]
    if good:
        assert run(tokens, gaps=True)[1] == [Lost(1, 5)]
        independent.check_sequence(trak, raw, [{"count": 1, "first": 5, "track": 0}])
    else:
        with pytest.raises(OrderError):
            run(tokens, gaps=True)
        with pytest.raises(ValueError, match=r"."):
            independent.check_sequence(trak, raw, [{"count": 1, "first": 5, "track": 0}])


KINDS = st.text("K-", max_size=6)
FIELDS = ("index", "pts", "end", "offset", "key_pts", "key_offset")


@settings(max_examples=400)
@given(
    st.tuples(st.sampled_from(["", "H", "HH"]), KINDS).map("".join),
    KINDS,
    st.sets(st.integers(0, 12), max_size=5),
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(FIELDS), st.integers(-10, 10)), max_size=2),
    st.sampled_from(["end", "arrival"]),
)
def test_both_implementations_draw_the_same_line(first, second, dropped, changes, order):
    """Blocks dropped and fields nudged: accepted by both, with the same holes, or by neither."""
    tokens = [*tokens_of(0, first), *tokens_of(1, second)]
    tokens.sort(key=lambda token: (token.end, token.track, token.index))
    for number, field, by in changes:
        if number < len(tokens):
            value = getattr(tokens[number], field)
            tokens[number] = replace(
                tokens[number], **{field: value if value == NONE else max(value + by, 0)}
            )
    tokens = [token for number, token in enumerate(tokens) if number not in dropped]
    trak = replace(TWO, order=order)
    try:
        for token in tokens:
            token.check()
        lost = run(tokens, trak, gaps=True)[1]
    except HarmonyError:
        lost = None
    named = [{"count": hole.count, "first": hole.first, "track": hole.track} for hole in lost or []]
    document = independent.json.loads(trak.pack())
    try:
        raw = [independent.unpack_token(token.pack()) for token in tokens]
        independent.need(all(t["flags"] & KEY or t["key_offset"] != t["offset"] for t in raw), "own keyframe")
        independent.check_sequence(document, raw, named if lost is not None else _holes(raw))
    except ValueError:
        assert lost is None
    else:
        assert lost is not None


def _holes(tokens):
    """The holes that tokens show, whatever else is wrong with them."""
    holes = []
    for track in (0, 1):
        mine = [token for token in tokens if token["track"] == track]
        index = 0
        for token in mine:
            if token["index"] > index:
                holes.append({"count": token["index"] - index, "first": index, "track": track})
            index = token["index"] + 1
        if mine and not mine[-1]["flags"] & LAST:
            holes.append({"count": 0, "first": index, "track": track})
    return holes


def test_a_payload_fits_its_token():  # H4MK 6.2, 6.3
    check_payload(TOKENS[1], ChunkInfo("CORE", 0, 4, 0))
    check_payload(replace(TOKENS[1], flags=KEY | MASKED), ChunkInfo("SAFE", 0, 4, 0))
    for tag, size, flags in (("CORE", 5, KEY), ("SAFE", 4, KEY), ("CORE", 4, KEY | MASKED)):
        with pytest.raises(OrderError):
            check_payload(replace(TOKENS[1], flags=flags), ChunkInfo(tag, 0, size, 0))


def test_no_more_blocks_than_the_tree_can_hold():  # H4MK 3.4
    with Tables(1) as tables:
        tables.tree.size = MAX_BLOCKS - 1
        tables.tree._edge = [bytes(32)] * 26
        tables.add(TOKENS[0], TOKENS[0].pack(), 0)
        with pytest.raises(LimitError):
            tables.add(TOKENS[1], TOKENS[1].pack(), 0)
