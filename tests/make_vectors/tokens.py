"""Blocks and their tokens, alone and in sequence (H4MK 6, 10.2, 17.1; checks V8 to V12)."""

from independent import HEADER, KEY, LAST, MASKED, NONE, chunk
from make_vectors.parts import BLOCKS, TRAK, TWO, TWO_BLOCKS, TWO_ENDS, container, kept, two
from make_vectors.valid import holed, masked

# A token that breaks a rule is left out by recover, and the blocks around it stay (H4MK 20.1, 20.2).
HOLE = {number: kept(3, (0, number, 1)) for number in range(3)}
LAST_GONE = kept(3, (0, 3, 0))


def add_all(vectors):
    """Add the vectors of this module."""
    _alone(vectors)
    _payload(vectors)
    _sequence(vectors)
    _keyframes(vectors)
    _tracks(vectors)
    _holes(vectors)


def token(number, **more):
    """The usual container with other fields in one token, everything behind it derived from that."""
    return container(change_tokens=lambda tokens: tokens[number].update(more))


def _alone(vectors):
    def add(name, expect, text, number, recover=None, **fields):
        more = {"read": expect, "recover": HOLE.get(number, LAST_GONE) if recover is None else recover}
        vectors.add(f"token-{name}", "6.2", expect, text, token(number, **fields), **more)

    add("flag-16", "critical", "an unknown flag", 2, flags=16)
    add("flag-top", "critical", "the highest flag bit", 2, flags=0x8000)
    add("pts-wide", "format", "pts of 2^63", 3, pts=2**63, end=2**63, key_pts=2**63)
    add("min-pts-wide", "format", "min_pts of 2^64-1", 2, min_pts=NONE)
    add("end-wide", "format", "end of 2^63", 3, end=2**63)
    add("key-pts-alone", "format", "key_offset is NONE, key_pts is not", 2, key_offset=NONE)
    add("key-offset-alone", "format", "key_pts is NONE, key_offset is not", 2, key_pts=NONE)
    add("key-pts-wide", "format", "key_pts of 2^63", 2, key_pts=2**63)
    add("plain-tag", "format", "a plain block with a tag", 2, tag=b"\1" * 32)
    add("index-beyond", "limit", "an index of 2^26-1", 3, index=2**26 - 1)
    add("ends-early", "order", "end before pts", 3, end=1000000)
    add("key-is-other", "order", "a KEY block names another keyframe", 3, key_pts=40000, key_offset=6)
    add("key-half-other", "order", "a KEY block with another key_offset", 3, key_offset=6)
    add("keyframe-ahead", "order", "key_pts behind pts", 2, key_pts=700000)
    add("key-offset-ahead", "order", "key_offset behind offset", 2, key_offset=30)
    add("header-key", "order", "a HEADER block that is KEY", 0, flags=HEADER | KEY, key_pts=0, key_offset=0)
    add("header-time", "order", "a HEADER block with a pts", 0, pts=1, min_pts=1)
    add("header-keyframe", "order", "a HEADER block that names a keyframe", 0, key_pts=0, key_offset=0)


def _payload(vectors):
    def add(name, spec, expect, text, data, **more):
        vectors.add(f"block-{name}", spec, expect, text, data, **more)

    add("size-0", "6.2", "limit", "a token's size is 0", token(2, size=0), read="limit", recover=HOLE[2])
    add(
        "size-differs",
        "6.2",
        "order",
        "a token's size is not that of its payload",
        token(3, size=11),
        read="seal",
        recover=LAST_GONE,
    )
    add(
        "size-huge",
        "6.2",
        "limit",
        "a token's size is 2^32-1",
        token(3, size=2**32 - 1),
        read="limit",
        recover=LAST_GONE,
    )
    add(
        "digest",
        "6.1",
        "seal",
        "a token's digest is not that of its payload",
        token(2, digest=bytes(32)),
        read="seal",
        recover=HOLE[2],
    )

    def other(raws):
        return [*raws[:7], chunk(b"CORE", b"Second group")]

    add(
        "payload",
        "6.1",
        "seal",
        "another payload of the same size, its CRC right",
        container(body=other),
        read="seal",
        recover=LAST_GONE,
    )

    def safe(raws):
        return [*raws[:5], chunk(b"SAFE", raws[5][12:]), *raws[6:]]

    def core(raws):
        return [*raws[:5], chunk(b"CORE", raws[5][12:]), *raws[6:]]

    add(
        "safe-in-plain",
        "6.3",
        "order",
        "a plain block in SAFE",
        container(body=safe),
        read="seal",
        recover=HOLE[2],
    )
    add(
        "core-in-masked",
        "6.3",
        "order",
        "a masked block in CORE",
        masked(body=core),
        read="seal",
        recover=HOLE[2],
    )
    add(
        "masked-in-plain",
        "6.2",
        "order",
        "a MASKED token in a track that is not",
        container(change_tokens=lambda tokens: tokens[2].update(flags=MASKED)),
        read="seal",
        recover=kept(3, (0, 2, 1), left_out=1),
    )
    small = {**TRAK, "cut": {**TRAK["cut"], "block": 15}}
    add(
        "beyond-cut",
        "3.4",
        "limit",
        "a payload of 16 bytes where cut.block is 15",
        container(small),
        recover=kept(2, (0, 1, 2), left_out=2),
    )


def _sequence(vectors):
    def add(name, text, data, recover, spec="6.2", read="ok"):
        vectors.add(f"sequence-{name}", spec, "order", text, data, read=read, recover=recover)

    add(
        "index-skips",
        "an index is left out and META.lost does not say so",
        token(3, index=4),
        LAST_GONE | {"left_out": 1},
        read="seal",
    )
    add("index-repeats", "an index stands twice", token(2, index=1), HOLE[2] | {"left_out": 1}, read="seal")
    add(
        "offset",
        "an offset that does not follow",
        token(2, offset=23),
        HOLE[2] | {"left_out": 1},
        read="seal",
    )
    add(
        "offset-last",
        "the last offset does not follow",
        token(3, offset=25, key_offset=25),
        LAST_GONE | {"left_out": 1},
        read="seal",
    )
    add("end", "end is not the next block's pts", token(1, end=600001), HOLE[2] | {"left_out": 1})
    add(
        "pts-back",
        "pts decreases",
        token(2, pts=39999, key_pts=39999, end=1040000),
        HOLE[2] | {"left_out": 1},
        read="order",
    )
    add("last-missing", "no LAST", token(3, flags=KEY), kept(4, (0, 4, 0)))
    add("last-early", "a block behind LAST", token(2, flags=LAST), kept(3, left_out=1))
    add("last-everywhere", "LAST on a HEADER block", token(0, flags=HEADER | LAST), kept(1, left_out=3))


def _keyframes(vectors):
    def add(name, text, data, recover, read="ok"):
        vectors.add(f"keyframe-{name}", "6.2", "order", text, data, read=read, recover=recover)

    flat = [*BLOCKS[:2], {**BLOCKS[2], "pts": 40000}, {**BLOCKS[3], "pts": 40000, "min_pts": 40000}]
    add(
        "pts-repeats",
        "two KEY blocks with one pts",
        container(blocks=flat),
        LAST_GONE | {"left_out": 1},
        read="order",
    )
    add("wrong-offset", "a block names a wrong key_offset", token(2, key_offset=5), HOLE[2] | {"left_out": 1})
    add("wrong-pts", "a block names a wrong key_pts", token(2, key_pts=39999), HOLE[2] | {"left_out": 1})
    add(
        "none",
        "a block behind a KEY block names none",
        token(2, key_pts=NONE, key_offset=NONE),
        HOLE[2] | {"left_out": 1},
    )
    bare = [{**block, "header": False, "key": False} for block in BLOCKS]

    def invented(number):
        return container(
            blocks=bare, change_tokens=lambda tokens: tokens[number].update(key_pts=0, key_offset=0)
        )

    add("invented", "a block names a KEY block where there is none", invented(1), HOLE[1] | {"left_out": 1})
    add("itself", "a block that is not KEY names itself", invented(0), HOLE[0], read="order")
    late = [{**BLOCKS[1], "pts": 0, "min_pts": 0}, BLOCKS[0], *BLOCKS[2:]]

    def header(tokens):
        tokens[1].update(key_pts=NONE, key_offset=NONE)

    add(
        "header-late",
        "a HEADER block behind a KEY block",
        container(blocks=late, change_tokens=header),
        HOLE[1] | {"left_out": 1},
    )


def _tracks(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(f"tracks-{name}", spec, "order", text, data, **more)

    def unknown(tokens):
        tokens[3].update(track=1)

    add(
        "unknown",
        "6.1",
        "a block of a track that does not exist",
        container(change_tokens=unknown),
        recover=LAST_GONE | {"left_out": 1},
        open="seal",
    )
    add(
        "order",
        "17.1",
        "blocks not in order of their ends",
        two(order=lambda pairs: [*pairs[:2], pairs[3], pairs[2]]),
        recover=kept(3, (0, 1, 0), left_out=1),
    )
    level = [{**TWO_BLOCKS[0], "track": 1}, TWO_BLOCKS[0]]
    add(
        "order-level",
        "17.1",
        "blocks with one end, the higher track first",
        container(TWO, [level[1], level[0]], {0: 5, 1: 5}, order=lambda pairs: pairs[::-1]),
        recover=kept(1, (0, 0, 0), left_out=1),
    )
    arrival = {**TWO, "cut": {"block": 16, "order": "arrival", "rule": 1}}
    add(
        "arrival-back",
        "6.2",
        "in order of arrival, but a track's blocks are not in order of their index",
        container(arrival, TWO_BLOCKS, TWO_ENDS, order=lambda pairs: [pairs[1], pairs[0], *pairs[2:]]),
        read="order",
        recover=kept(3, (0, 0, 1), left_out=1),
    )


def _holes(vectors):
    def add(name, text, data, recover, read=None, expect="order", **more):
        vectors.add(f"lost-{name}", "10.2", expect, text, data, recover=recover, read=read, **more)

    def named(*lost):
        return [{"count": count, "first": first, "track": 0} for first, count in lost]

    add(
        "invented", "META names a hole that is not there", container(lost=named((1, 1))), kept(4), read="seal"
    )
    add("unsaid", "a hole that META does not name", holed({2}, lost=[]), kept(5, (0, 2, 1)), read="seal")
    add("unsaid-end", "a missing end that META does not name", holed({5}, lost=[]), kept(5, (0, 5, 0)))
    add("count", "a hole with a wrong count", holed({2}, lost=[(2, 2)]), kept(5, (0, 2, 1)), read="seal")
    add("end-count", "a missing end with a count", holed({4, 5}, lost=[(4, 2)]), kept(4, (0, 4, 0)))
    add(
        "touching",
        "one hole told as two",
        holed({1, 2}, lost=[(1, 1), (2, 1)]),
        kept(4, (0, 1, 2)),
        open="order",
    )
    add(
        "unsorted",
        "holes not sorted",
        holed({1, 3}, lost=[(3, 1), (1, 1)]),
        kept(4, (0, 1, 1), (0, 3, 1)),
        open="order",
    )
    add("end-of-sound-track", "a missing end, but LAST is there", container(lost=named((4, 0))), kept(4))
    add(
        "unknown-track",
        "a hole in a track that does not exist",
        container(lost=[{"count": 0, "first": 0, "track": 1}]),
        kept(4),
        open="order",
    )

    def moved(**more):
        return lambda tokens: tokens[-1].update(more)

    # Without block 4, whose 7 bytes leave offset 45; block 5 is KEY.
    thin = holed({4}, lost=[(4, 1)], change_tokens=moved(offset=38, key_offset=38))
    add("no-room", "a hole of one block and no byte", thin, kept(4, (0, 4, 0), left_out=1))
    wide = holed({4}, lost=[(4, 1)], change_tokens=moved(offset=38 + 17, key_offset=38 + 17))
    add(
        "too-much-room",
        "a hole of one block and more bytes than a block holds",
        wide,
        kept(4, (0, 4, 0), left_out=1),
    )

    def behind(**more):
        return lambda tokens: tokens[3].update(more)

    # Without block 3 (KEY at 1040000, offset 26): block 4 names it, and something else in these.
    lost = {"gone": {3}, "lost": [(3, 1)]}
    spoilt = kept(4, (0, 3, 2), left_out=1)
    add(
        "keyframe-before",
        "behind a hole, a keyframe before it that is none",
        holed(**lost, change_tokens=behind(key_pts=500000, key_offset=22)),
        spoilt,
    )
    add(
        "keyframe-earlier",
        "behind a hole, a keyframe before the last known one",
        holed(**lost, change_tokens=behind(key_pts=0, key_offset=0)),
        spoilt,
    )
    add(
        "keyframe-same-time",
        "behind a hole, another keyframe with the last one's time",
        holed(**lost, change_tokens=behind(key_pts=40000)),
        spoilt,
    )
    add(
        "keyframe-none",
        "behind a hole, no keyframe although there was one",
        holed(**lost, change_tokens=behind(key_pts=NONE, key_offset=NONE)),
        spoilt,
    )
    add(
        "keyframe-behind",
        "behind a hole, a keyframe that is the block itself",
        holed(**lost, change_tokens=behind(key_pts=1200000, key_offset=38)),
        spoilt | {"left_out": 0},
        read="order",
    )
    add(
        "pts-back",
        "behind a hole, a time before the hole",
        holed({2}, lost=[(2, 1)], change_tokens=lambda tokens: tokens[2].update(pts=599999, key_pts=599999)),
        kept(4, (0, 2, 2), left_out=1),
    )
