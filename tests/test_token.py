"""The token record and the sequencer that makes complete tokens (H4MK 6.1, 6.2)."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    HEADER,
    KEY,
    LAST,
    MASKED,
    MAX_BLOCK,
    MAX_BLOCKS,
    NONE,
    CriticalError,
    FormatError,
    HarmonyError,
    LimitError,
    OrderError,
    TokenRecord,
    TokenSequencer,
    UsageError,
    sha256,
)

DIGEST = sha256(b"payload")
GOOD = TokenRecord(3, 0, 7, 5, 100, 200, 50, 40, 20, 90, DIGEST)
KEYED = replace(GOOD, flags=KEY, key_pts=100, key_offset=50)
BIG = 2**63


def test_the_wire_form():  # H4MK 6.1
    record = replace(KEYED, flags=KEY | MASKED | LAST, tag=bytes(range(32)))
    packed = record.pack()
    assert len(packed) == 128
    assert packed[:8] == struct.pack(">HHI", 3, 7, 7)
    assert struct.unpack(">7Q", packed[8:64]) == (5, 100, 200, 50, 100, 50, 90)
    assert packed[64:] == DIGEST + bytes(range(32))
    for data in (packed, bytearray(packed), memoryview(packed)):
        assert TokenRecord.unpack(data) == record


@pytest.mark.parametrize("size", [0, 127, 129])
def test_a_token_has_128_bytes(size):
    with pytest.raises(FormatError):
        TokenRecord.unpack(bytes(size))


@pytest.mark.parametrize(
    ("base", "change", "kind"),
    [
        (GOOD, {"flags": 16}, CriticalError),
        (GOOD, {"flags": 0x8000}, CriticalError),
        (GOOD, {"size": 0}, LimitError),
        (GOOD, {"size": MAX_BLOCK + 1}, LimitError),
        (GOOD, {"index": MAX_BLOCKS}, LimitError),
        (GOOD, {"index": BIG}, FormatError),
        (GOOD, {"pts": BIG, "end": BIG}, FormatError),
        (GOOD, {"end": BIG}, FormatError),
        (GOOD, {"offset": BIG}, FormatError),
        (GOOD, {"min_pts": BIG}, FormatError),
        (GOOD, {"end": 99}, OrderError),
        (GOOD, {"key_pts": NONE}, FormatError),
        (GOOD, {"key_offset": NONE}, FormatError),
        (GOOD, {"key_pts": BIG}, FormatError),
        (GOOD, {"key_offset": BIG}, FormatError),
        (GOOD, {"key_pts": 101}, OrderError),
        (GOOD, {"key_offset": 51}, OrderError),
        (GOOD, {"key_offset": 50}, OrderError),  # only a KEY block is its own keyframe
        (KEYED, {"key_pts": 99}, OrderError),
        (KEYED, {"key_offset": 49}, OrderError),
        (KEYED, {"flags": KEY | HEADER}, OrderError),
        (GOOD, {"flags": HEADER, "pts": 0}, OrderError),
        (GOOD, {"flags": HEADER, "key_pts": NONE, "key_offset": NONE}, OrderError),
        (GOOD, {"tag": bytes(31) + b"\1"}, FormatError),
    ],
)
def test_what_a_token_must_satisfy_by_itself(base, change, kind):  # H4MK 6.2
    base.check()
    with pytest.raises(kind) as caught:
        TokenRecord.unpack(replace(base, **change).pack())
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "change",
    [
        {"flags": HEADER, "pts": 0, "key_pts": NONE, "key_offset": NONE},
        {"key_pts": NONE, "key_offset": NONE},
        {"flags": MASKED, "tag": bytes(range(32))},
        {"flags": LAST, "end": 100},
        {"size": MAX_BLOCK, "index": MAX_BLOCKS - 1, "end": BIG - 1},
        {"min_pts": 300},
    ],
)
def test_what_a_token_may_be(change):
    record = replace(GOOD, **change)
    assert TokenRecord.unpack(record.pack()) == record


@pytest.mark.parametrize(
    "change",
    [
        *({"track": 65536}, {"track": -1}, {"digest": b"short"}, {"tag": b""}),
        *({"pts": -1}, {"key_pts": -1}, {"size": -1}, {"flags": -1}),
    ],
)
def test_what_no_field_can_hold_is_an_error_of_ours(change):
    with pytest.raises(HarmonyError):
        replace(GOOD, **change).check()


VALUE = st.sampled_from((0, 1, 2, 40, 41, BIG - 1, BIG, NONE - 1, NONE))
FIELDS = st.tuples(
    st.integers(0, 65535),
    st.integers(0, 17),
    st.sampled_from((0, 1, MAX_BLOCK, MAX_BLOCK + 1)),
    st.sampled_from((0, 1, MAX_BLOCKS - 1, MAX_BLOCKS, BIG)),
    *[VALUE] * 6,
    st.just(DIGEST),
    st.sampled_from((bytes(32), bytes(31) + b"x")),
)


@given(FIELDS)
def test_any_128_bytes_give_a_token_or_an_error(fields):  # H4MK 6.2
    """Both implementations draw the line at the same place."""
    data = independent.TOKN.pack(*fields)

    def strict():
        token = independent.unpack_token(data)
        independent.need(0 < token["size"] <= MAX_BLOCK and token["index"] < MAX_BLOCKS, "limit")
        independent.need(token["flags"] & KEY or token["key_offset"] != token["offset"], "own keyframe")

    try:
        record = TokenRecord.unpack(data)
    except (FormatError, LimitError):
        with pytest.raises(ValueError, match=r"."):
            strict()
    else:
        assert record.pack() == data
        strict()


# ---- TokenSequencer --------------------------------------------------------------------------------------


def test_tokens_come_one_block_late():  # H4MK 6.2, 17.2
    sequencer = TokenSequencer(2)
    assert sequencer.push(6, DIGEST, 0, header=True) is None
    header = sequencer.push(16, DIGEST, 40, key=True)
    key = sequencer.push(4, DIGEST, 60, min_pts=50)
    continuation = sequencer.push(12, DIGEST, 100, key=True, min_pts=90)
    last = sequencer.finish(130)
    assert header == TokenRecord(2, HEADER, 6, 0, 0, 40, 0, NONE, NONE, 0, DIGEST)
    assert key == TokenRecord(2, KEY, 16, 1, 40, 60, 6, 40, 6, 40, DIGEST)
    assert continuation == TokenRecord(2, 0, 4, 2, 60, 100, 22, 40, 6, 50, DIGEST)
    assert last == TokenRecord(2, KEY | LAST, 12, 3, 100, 130, 26, 100, 26, 90, DIGEST)
    with pytest.raises(UsageError):
        sequencer.push(1, DIGEST, 200)
    assert sequencer.finish() is None


def test_an_empty_track_and_a_single_block():
    assert TokenSequencer().finish(10) is None
    for end, expected in ((None, 7), (3, 7), (9, 9)):
        sequencer = TokenSequencer()
        sequencer.push(1, DIGEST, 7)
        last = sequencer.finish(end)
        assert last is not None and (last.end, last.flags) == (expected, LAST)


def test_masked_tracks_carry_tags():
    sequencer = TokenSequencer(masked=True)
    sequencer.push(1, DIGEST, 0, tag=bytes(range(32)))
    last = sequencer.finish()
    assert last is not None and (last.flags, last.tag) == (MASKED | LAST, bytes(range(32)))


@pytest.mark.parametrize(
    ("push", "kind"),
    [
        ({"pts": 39}, OrderError),
        ({"pts": 40, "key": True}, OrderError),
        ({"pts": 50, "header": True}, OrderError),
        ({"pts": 50, "key": True, "header": True}, OrderError),
        ({"pts": 50, "size": 0, "key": True}, LimitError),
        ({"pts": 50, "size": MAX_BLOCK + 1}, LimitError),
        ({"pts": BIG, "key": True}, FormatError),
        ({"pts": 50, "digest": b"x"}, FormatError),
        ({"pts": 50, "tag": bytes(range(32))}, FormatError),
    ],
)
def test_a_push_that_breaks_the_rules_changes_nothing(push, kind):  # H4MK 6.2
    def made(disturb):
        sequencer = TokenSequencer()
        tokens = [sequencer.push(5, DIGEST, 40, key=True)]
        if disturb:
            with pytest.raises(kind):
                sequencer.push(**{"size": 1, "digest": DIGEST, **push})
        tokens.append(sequencer.push(3, DIGEST, 60))
        tokens.append(sequencer.push(3, DIGEST, 60, key=True))
        return [*tokens, sequencer.finish()]

    assert made(True) == made(False)


def test_a_header_must_begin_the_time():
    with pytest.raises(OrderError):
        TokenSequencer().push(1, DIGEST, 5, header=True)


def test_an_end_that_no_field_holds():
    sequencer = TokenSequencer()
    sequencer.push(1, DIGEST, 0)
    with pytest.raises(FormatError):
        sequencer.finish(BIG)


BLOCK = st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans())


@given(st.lists(BLOCK, max_size=20))
def test_the_sequence_is_that_of_the_specification(blocks):  # H4MK 6.2
    sequencer, tokens, wanted, pts = TokenSequencer(), [], [], 0
    key_pts = -1
    for size, step, key in blocks:
        pts += step
        key = key and pts > key_pts
        key_pts = pts if key else key_pts
        payload = bytes(size)
        tokens.append(sequencer.push(size, sha256(payload), pts, key=key))
        wanted.append({"payload": payload, "pts": pts, "key": key})
    tokens.append(sequencer.finish(pts + 5))
    found = [token.pack() for token in tokens if token is not None]
    trak = {"tracks": [{"masked": False}]}
    assert found == [independent.pack_token(one) for one in independent.tokens_of(trak, wanted, {0: pts + 5})]
