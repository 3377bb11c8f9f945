"""Containers in which everything is right, however odd they look."""

from independent import chunk, sha
from make_vectors.parts import (
    BLOCKS,
    EXPORT,
    ORIGINAL,
    TRACK,
    TRAK,
    TWO,
    TWO_BLOCKS,
    TWO_ENDS,
    container,
    empty,
    kept,
    spec_value,
    two,
)

BARE = {"codec": "", "kind": "data", "masked": False, "media_type": "application/octet-stream"}
BARE |= {"self_framing": False, "span": 0, "start": {"den": 30, "num": 30, "ticks": 0}, "stream": 0}
BARE |= {"timing": "hint"}
HINT = {"cut": {"block": 16, "order": "end", "rule": 1}, "origin": "0", "tracks": [BARE]}
RAW = {"args": {"fps": "30/1", "gop": 30, "raw": True}, "inputs": [], "op": "export"}
RECOVERED = [EXPORT, {"args": {}, "inputs": [], "op": "recover"}]


def holed(gone, *, lost, **changes):
    """The usual four blocks and two more, of which those numbered in `gone` are missing (H4MK 10.2)."""
    blocks = [
        *BLOCKS,
        {"payload": b"between", "pts": 1200000},
        {"payload": b"third", "pts": 1500000, "key": True},
    ]
    named = [{"count": count, "first": first, "track": 0} for first, count in lost]
    return container(
        blocks=blocks,
        ends={0: 1600000},
        order=lambda pairs: [pair for number, pair in enumerate(pairs) if number not in gone],
        history=RECOVERED,
        lost=named,
        **changes,
    )


def masked(later=(), **changes):
    """H4MK A.4; `later`: entries of the history behind the mask."""
    blocks = [
        {**block, "payload": spec_value(f"safe_{number}"), "tag": spec_value(f"tag_{number}")}
        for number, block in enumerate(BLOCKS)
    ]
    commit = spec_value("commit").hex()
    trak = {
        **TRAK,
        "mask": {"commit": commit, "mode": "deterministic"},
        "tracks": [{**TRACK, "masked": True}],
    }
    arguments = {name: spec_value(name).hex() for name in ("heads", "whole")}
    mask = {"args": arguments, "inputs": [{"head": "00" * 32}], "op": "mask"}
    keys = changes.pop("keys", spec_value("keys_payload_start").ljust(520, b"\0"))
    return container(trak, blocks, keys=keys, history=[EXPORT, mask, *later], **changes)


def signed(**changes):
    """H4MK A.5"""
    finals = changes.pop("finals", [chunk(b"SIGN", spec_value("final_sign"))])
    return container(checkpoints={2: spec_value("checkpoint_sign")}, finals=finals, **changes)


def forged(payload, pts=0):
    """A complete block as bytes, as somebody might hide it in media: block 1 of the usual example."""
    blocks = [BLOCKS[0], {**BLOCKS[1], "payload": payload}]
    whole = container(
        blocks=blocks, change_tokens=lambda tokens: tokens[1].update(pts=pts, key_pts=pts, min_pts=pts)
    )
    start = whole.index(b"TOKN", whole.index(b"TOKN") + 1)
    return whole[start : start + 140 + 12 + len(payload)]


WIDE = {**TRAK, "cut": {"block": 2048, "order": "end", "rule": 1}}


def hiding(payload):
    """The usual blocks, the second of them with another payload."""
    return [BLOCKS[0], {**BLOCKS[1], "payload": payload}, *BLOCKS[2:]]


def original(*chunks, veri=True):
    """A file of the original profile (H4MK 23)."""
    body = b"".join(chunks)
    return ORIGINAL + body + (chunk(b"VERI", sha(body)) if veri else b"")


def add_all(vectors):
    """Add the vectors of this module."""
    _plain(vectors)
    _blocks(vectors)
    _json(vectors)
    _extras(vectors)
    _holes(vectors)
    _original(vectors)


def _plain(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(name, spec, "ok", text, data, **more)

    add("ok-empty", "A.1", "no blocks: one empty track", empty(), recover=kept(0))
    add("ok-plain", "A.2", "the worked example: a header block, two groups", container())
    add(
        "ok-one-block",
        "6.2",
        "one block that is KEY and LAST",
        container(blocks=BLOCKS[1:2]),
        recover=kept(1),
    )
    add("ok-two-tracks", "17.1", "two tracks in order of (end, track, index)", two())
    arrival = {**TWO, "cut": {"block": 16, "order": "arrival", "rule": 1}}
    add(
        "ok-two-tracks-arrival",
        "17.1",
        "two tracks in order of arrival, which is not that of the ends",
        container(arrival, TWO_BLOCKS[2:] + TWO_BLOCKS[:2], TWO_ENDS),
    )
    add(
        "ok-empty-track",
        "3.3",
        "two tracks, the second has no blocks but its SEEK and RMAP",
        container(TWO, TWO_BLOCKS[:2], TWO_ENDS),
        recover=kept(2),
    )
    hints = [{"payload": bytes([65 + i]) * 16, "pts": 1000000 * i, "key": True} for i in range(7)]
    add(
        "ok-hint",
        "16.8",
        "an opaque source: each block a KEY block, seven leaves (a tree with a ragged edge)",
        container(HINT, hints, {0: 7000000}, title=None, history=[RAW]),
        recover=kept(7),
    )


def _blocks(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(name, spec, "ok", text, data, **more)

    add(
        "ok-no-keyframe",
        "6.2",
        "no KEY block: SEEK is empty, key_pts and key_offset are NONE",
        container(blocks=[{**block, "key": False, "header": False} for block in BLOCKS]),
    )
    add(
        "ok-header-only",
        "6.2",
        "nothing but HEADER blocks",
        container(blocks=[BLOCKS[0], {**BLOCKS[0], "payload": b"more"}]),
        recover=kept(2),
    )
    add(
        "ok-no-moment",
        "6.2",
        "a block with pts = end holds no moment of its own",
        container(blocks=[*BLOCKS[:2], {**BLOCKS[2], "pts": 40000}, BLOCKS[3]]),
    )
    add(
        "ok-zero-crc",
        "3.1",
        "a payload whose CRC-32 is 0, which has no special meaning",
        container(blocks=[*BLOCKS[:2], {**BLOCKS[2], "payload": bytes.fromhex("9d0ad96d")}, BLOCKS[3]]),
    )
    add(
        "ok-greatest-times",
        "1.2",
        "times up to 2^63-1; META.duration is a decimal string",
        container(
            blocks=[*BLOCKS[:3], {**BLOCKS[3], "pts": 2**63 - 2, "min_pts": 2**63 - 2}], ends={0: 2**63 - 1}
        ),
    )
    add(
        "ok-forged-block",
        "20.1",
        "media that holds a complete forged block: it is media and nothing else",
        container(WIDE, hiding(b"media " + forged(b"forged") + b" media")),
    )
    add(
        "ok-container-in-media",
        "20.1",
        "media that is itself a container",
        container(WIDE, hiding(empty())),
    )
    add(
        "ok-tail-in-media",
        "14.1",
        "media that ends with a TAIL",
        container(WIDE, hiding(empty()[-140:])),
    )


def _json(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(name, spec, "ok", text, data, **more)

    named = {**TRACK, "lang": "de-CH", "name": "Kamera 2"}
    add("ok-names", "5", "a track with lang and name", container({**TRAK, "tracks": [named]}))
    add(
        "ok-escapes",
        "4",
        "a title with every kind of escape, a control character, and characters that must not be escaped",
        container(title='"\\/\b\f\n\r\t\x01\x7f é \u2028 \U0001f3ac <script>'),
    )
    add("ok-no-title", "10.1", "META without a title", container(title=None))
    wide = {**TRACK, "start": {"den": 2**63 - 1, "num": 2**53, "ticks": -(2**63) + 1}}
    add("ok-wide-integers", "4", "integers beyond 2^53-1 as strings", container({**TRAK, "tracks": [wide]}))
    edge = {**TRACK, "start": {"den": 2**53 - 1, "num": 1, "ticks": -(2**53) + 1}}
    add("ok-widest-number", "4", "±(2^53-1) is still a number", container({**TRAK, "tracks": [edge]}))
    add("ok-negative-origin", "5", "origin below zero", container({**TRAK, "origin": "-21333"}))
    add("ok-zero-origin", "4", "origin is a string also where it is 0", container({**TRAK, "origin": "0"}))
    add(
        "ok-history",
        "10.3",
        "three operations with arguments of all types; one input whose signature was dropped",
        container(
            history=[
                RAW,
                {"args": {}, "inputs": [{"head": "ab" * 32, "sign": "cd" * 32}], "op": "recover"},
                {"args": {"x": "é", "y": -7, "z": False}, "inputs": [], "op": "later-tool2"},
            ]
        ),
    )
    steps = [{"pts": 240000, "shift": 260000, "track": 0}, {"pts": 1040000, "shift": 1, "track": 0}]
    add("ok-steps", "15.4", "two jumps of the clock taken out", container(steps=steps))
    ahead = [{"pts": 1040000, "shift": -5000000, "track": 0}]
    add("ok-step-ahead", "15.4", "a clock that jumps ahead, as concat writes it", container(steps=ahead))


def _extras(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(name, spec, "ok", text, data, **more)

    pair = [(b"aaAA", b""), (b"pstr", b"poster")]
    add("ok-ancillary", "14.2", "two unknown ancillary chunks, one of them empty", container(ancillary=pair))
    same = sorted([(b"pstr", b"one"), (b"pstr", b"two")], key=lambda one: sha(one[1]))
    add("ok-ancillary-same-tag", "14.2", "two ancillary chunks of one tag", container(ancillary=same))
    add("ok-masked", "A.4", "the worked example, masked", masked())
    add("ok-signed", "A.5", "the worked example with a checkpoint and a final signature", signed())
    final = chunk(b"SIGN", spec_value("final_sign"))
    add(
        "ok-two-signatures",
        "13.6",
        "two final signatures, a time chunk behind the first",
        signed(finals=[final, chunk(b"time", b"\x30\x03\x02\x01\x00"), final]),
    )


def _holes(vectors):
    def add(name, text, data, recover, **more):
        vectors.add(name, "10.2", "ok", text, data, recover=recover, **more)

    add("ok-lost-first", "the first block is lost", holed({0}, lost=[(0, 1)]), kept(5, (0, 0, 1)))
    add("ok-lost-middle", "block 2 is lost", holed({2}, lost=[(2, 1)]), kept(5, (0, 2, 1)))
    add(
        "ok-lost-keyframe",
        "a KEY block is lost: the block behind the hole names it",
        holed({3}, lost=[(3, 1)]),
        kept(5, (0, 3, 1)),
    )
    add(
        "ok-lost-end",
        "the end of the track is lost, nobody knows how much",
        holed({4, 5}, lost=[(4, 0)]),
        kept(4, (0, 4, 0)),
    )
    add(
        "ok-lost-three",
        "three holes in one track",
        holed({1, 3, 5}, lost=[(1, 1), (3, 1), (5, 0)]),
        kept(3, (0, 1, 1), (0, 3, 1), (0, 5, 0)),
    )
    add(
        "ok-lost-all",
        "a track whose blocks are all gone",
        container(
            TWO,
            TWO_BLOCKS[:2],
            TWO_ENDS,
            history=RECOVERED,
            lost=[{"count": 0, "first": 0, "track": 1}],
        ),
        kept(2, (1, 0, 0)),
    )


def _original(vectors):
    def add(name, text, data):
        vectors.add(name, "23", "ok", text, data, open="original")

    seek = chunk(b"SEEK", bytes.fromhex("00000001") + bytes(16))
    core = chunk(b"CORE", b"media")
    meta, safe = chunk(b"META", b'{"domain": "video", "x": 1.5}'), chunk(b"SAFE", b'{"b":null,"a":[]}')
    add("ok-original-nothing", "the original profile with VERI alone", original())
    add("ok-original-cores", "two payloads, one of them empty", original(core, chunk(b"CORE", b""), core))
    add("ok-original-all", "all chunks; META and SAFE are any JSON objects", original(core, seek, meta, safe))
    add("ok-original-no-seek", "no SEEK", original(core, meta, safe))
    flat = bytes.fromhex("00000002") + bytes(16) + (7).to_bytes(8, "big") + bytes(8)
    add("ok-original-flat-seek", "two SEEK entries with one offset", original(core, chunk(b"SEEK", flat)))
    far = bytes.fromhex("00000001") + bytes(8) + (10**12).to_bytes(8, "big")
    add("ok-original-far-seek", "a SEEK offset beyond the stream", original(core, chunk(b"SEEK", far)))
