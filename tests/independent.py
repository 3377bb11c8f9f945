"""A second implementation of H4MK, written from docs/H4MK.md alone with nothing but the standard library.

`build` writes a container from its blocks, `check` reads one strictly and verifies everything that needs no
key, `cut` is the cutting rule over a list of packets. It shares no line with the project: where the two
agree byte for byte, the specification says enough. It favours plainness over speed and memory.
"""

import hashlib
import json
import re
import struct
import zlib
from itertools import pairwise
from typing import NamedTuple

KEY, MASKED, LAST, HEADER = 1, 2, 4, 8
NONE = 2**64 - 1
MIB = 2**20
TOKN = struct.Struct(">HHIQQQQQQQ32s32s")
TAIL = struct.Struct(">QQQQQQQHHI32s32s")
NAMES = ["track", "flags", "size", "index", "pts", "end", "offset", "key_pts", "key_offset", "min_pts"]
NAMES += ["digest", "tag"]


def sha(data):
    return hashlib.sha256(data).digest()


def need(condition, message):
    """Every check of the reader goes through here, so that a refusal is always a ValueError."""
    if not condition:
        raise ValueError(message)


# ---- writing ---------------------------------------------------------------------------------------------


def chunk(tag, payload):
    """H4MK 3.1"""
    return struct.pack(">4sII", tag, len(payload), zlib.crc32(payload)) + payload


def canonical(value):
    """H4MK 4: all keys are ASCII, so sorting by code point is RFC 8785's order."""

    def narrow(part):
        if isinstance(part, dict):
            return {key: narrow(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            return [narrow(item) for item in part]
        if isinstance(part, int) and not isinstance(part, bool) and abs(part) > 2**53 - 1:
            return str(part)
        return part

    text = json.dumps(
        narrow(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    data = text.encode()
    need(len(data) <= MIB, "JSON chunk too large")
    return data


def levels(leaves):
    """H4MK 11.2: for each height the roots of the complete subtrees."""
    rows = [list(leaves)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([sha(b"\1" + row[i] + row[i + 1]) for i in range(0, len(row) - 1, 2)])
    return rows if leaves else []


def root_of(leaves):
    """H4MK 11.1, by the definition of RFC 9162."""
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:]))


def head_of(count, duration, root, trak, meta):
    """H4MK 12.1; `meta` is None in a checkpoint."""
    return (
        b"H4MK head v1\0\0\0\0"
        + struct.pack(">QQ", count, duration)
        + root
        + sha(trak)
        + (bytes(32) if meta is None else sha(meta))
    )


def etag(head, track=0, unmasked=False):
    """H4MK 12.3"""
    return sha(b"h4mk etag\0" + head + struct.pack(">HB", track, unmasked))[:16].hex()


def file_etag(data):
    """H4MK 12.3, of a whole file with VERI."""
    at = 8
    while data[at : at + 4] != b"VERI":
        at += 12 + int.from_bytes(data[at + 4 : at + 8])
    return sha(b"h4mk file\0" + data[at:])[:16].hex()


def tokens_of(trak, blocks, ends=None, digests=None):
    """H4MK 6.2: the tokens of `blocks`, in the order given; each block is a dict with `payload`, `pts` and,
    where they are not the default, `track`, `key`, `header`, `min_pts`, `tag`.
    """
    tokens, state, last = [], {}, {}
    for place, block in enumerate(blocks):
        track = block.get("track", 0)
        index, offset, key_pts, key_offset = state.get(track, (0, 0, NONE, NONE))
        if block.get("key"):
            key_pts, key_offset = block["pts"], offset
        flags = KEY * bool(block.get("key")) | HEADER * bool(block.get("header"))
        flags |= MASKED * trak["tracks"][track]["masked"]
        tokens.append(
            {
                "track": track,
                "flags": flags,
                "size": len(block["payload"]),
                "index": index,
                "pts": block["pts"],
                "end": None,
                "offset": offset,
                "key_pts": key_pts,
                "key_offset": key_offset,
                "min_pts": block.get("min_pts", block["pts"]),
                "digest": sha(block["payload"]),
                "tag": block.get("tag", bytes(32)),
            }
        )
        state[track] = (index + 1, offset + len(block["payload"]), key_pts, key_offset)
        if track in last:
            tokens[last[track]]["end"] = block["pts"]
        last[track] = place
    for track, place in last.items():
        token = tokens[place]
        token["end"] = max(token["pts"], (ends or {}).get(track, 0))
        token["flags"] |= LAST
    return tokens


def pack_token(token):
    return TOKN.pack(*token.values())


def build(
    trak,
    blocks,
    *,
    ends=None,
    title=None,
    history=(),
    steps=(),
    structure_only=True,
    ancillary=(),
    keys=None,
    checkpoints=None,
    sign=None,
):
    """A sealed container (H4MK 17.2).

    `trak` is TRAK as a dict; `blocks` as in `tokens_of`, already masked where a track is; `ends` the last end
    per track; `ancillary` pairs (tag, payload); `keys` the payload of KEYS; `checkpoints` maps a number of
    blocks to a function, and `sign` is a list of functions, each from HEAD to a SIGN payload or to
    a pair of payloads for SIGN and time.
    """
    trak_json = canonical(trak)
    tokens = tokens_of(trak, blocks, ends)
    pairs = list(zip(tokens, blocks, strict=True))
    if trak["cut"]["order"] == "end":
        pairs.sort(key=lambda pair: (pair[0]["end"], pair[0]["track"], pair[0]["index"]))
    out = bytearray(b"H4MK\0\0\0\1") + chunk(b"TRAK", trak_json)
    if keys is not None:
        out += chunk(b"KEYS", keys)
    leaves, duration = [], 0
    count = len(trak["tracks"])
    seeks, maps, streams = ([[] for _ in range(count)] for _ in range(3))
    for leaf, (token, block) in enumerate(pairs):
        record, payload, track = pack_token(token), block["payload"], token["track"]
        out += chunk(b"TOKN", record)
        place = len(out) + 12
        out += chunk(b"SAFE" if token["flags"] & MASKED else b"CORE", payload)
        leaves.append(sha(b"\0" + record))
        duration = max(duration, token["end"])
        if token["flags"] & KEY:
            seeks[track].append(struct.pack(">QQ", token["pts"], token["offset"]))
        maps[track].append(
            struct.pack(
                ">QQQQIHH", token["pts"], token["offset"], place, leaf, token["size"], token["flags"], 0
            )
        )
        streams[track].append(payload)
        if checkpoints and leaf + 1 in checkpoints:
            out += chunk(
                b"SIGN", checkpoints[leaf + 1](head_of(leaf + 1, duration, root_of(leaves), trak_json, None))
            )
    index = len(out)
    ordered = sorted(ancillary, key=lambda one: (one[0], sha(one[1])))
    for tag, payload in ordered:
        out += chunk(tag, payload)
    places = [{} for _ in range(count)]
    for track in range(count):
        places[track]["seek"] = len(out)
        out += chunk(b"SEEK", struct.pack(">I", len(seeks[track])) + b"".join(seeks[track]))
    for track in range(count):
        places[track]["rmap"] = len(out)
        out += chunk(b"RMAP", struct.pack(">HHIQ", track, 40, 0, len(maps[track])) + b"".join(maps[track]))
    meta = {
        "ancillary": [
            {"sha256": sha(body).hex(), "size": len(body), "tag": tag.decode()} for tag, body in ordered
        ],
        "blocks": len(pairs),
        "duration": duration,
        "history": list(history),
        "steps": list(steps),
        "structure_only": structure_only,
        "tracks": [
            {
                **places[track],
                "blocks": len(maps[track]),
                "bytes": sum(map(len, streams[track])),
                "keyframes": len(seeks[track]),
                "sha256": sha(b"".join(streams[track])).hex(),
            }
            for track in range(count)
        ],
    }
    if title is not None:
        meta["title"] = title
    meta_json = canonical(meta)
    meta_at = len(out)
    out += chunk(b"META", meta_json)
    merk_at = len(out)
    out += chunk(b"MERK", struct.pack(">Q", len(leaves)) + b"".join(b"".join(row) for row in levels(leaves)))
    veri_at = len(out)
    out += chunk(b"VERI", sha(out[8:]))
    root = root_of(leaves)
    head = head_of(len(leaves), duration, root, trak_json, meta_json)
    for signer in sign or ():
        made = signer(head)
        signature, stamp = made if isinstance(made, tuple) else (made, None)
        out += chunk(b"SIGN", signature)
        if stamp is not None:
            out += chunk(b"time", stamp)
    tail = (
        len(out) + 140,
        index,
        meta_at,
        merk_at,
        veri_at,
        len(leaves),
        duration,
        count,
        0,
        len(sign or ()),
    )
    out += chunk(b"TAIL", TAIL.pack(*tail, root, sha(head)))
    return bytes(out)


# ---- reading ---------------------------------------------------------------------------------------------

INT, COUNT = (0, 2**63 - 1), (0, 2**26 - 1)
TICKS = (1 - 2**63, 2**63 - 1)
DIGEST = re.compile(r"[0-9a-f]{64}")
TRAK_SCHEMA = {
    "cut": {"block": (1, 16 * MIB), "order": {"end", "arrival"}, "rule": (1, 1)},
    "mask?": {"commit": DIGEST, "mode": {"deterministic", "random"}},
    "origin": re.compile(r"0|-?[1-9][0-9]{0,18}"),
    "tracks": [
        {
            "codec": str,
            "kind": {"video", "audio", "text", "tokens", "data"},
            "lang?": re.compile(r".+", re.DOTALL),
            "masked": bool,
            "media_type": re.compile(r".+", re.DOTALL),
            "name?": re.compile(r".+", re.DOTALL),
            "self_framing": bool,
            "span": INT,
            "start": {"den": (1, 2**63 - 1), "num": (1, 2**63 - 1), "ticks": TICKS},
            "stream": (0, 65535),
            "timing": {"demux", "hint"},
        }
    ],
}
META_SCHEMA = {
    "ancillary": [{"sha256": DIGEST, "size": (0, 2**32 - 1), "tag": re.compile(r"(?!time)[a-z][A-Za-z]{3}")}],
    "blocks": COUNT,
    "duration": INT,
    "history": [
        {"args": dict, "inputs": [{"head": DIGEST, "sign?": DIGEST}], "op": re.compile(r"[a-z][a-z0-9-]*")}
    ],
    "lost?": [{"count": COUNT, "first": COUNT, "track": (0, 65535)}],
    "steps": [{"pts": INT, "shift": TICKS, "track": (0, 65535)}],
    "structure_only": bool,
    "title?": re.compile(r".+", re.DOTALL),
    "tracks": [
        {"blocks": COUNT, "bytes": INT, "keyframes": COUNT, "rmap": INT, "seek": INT, "sha256": DIGEST}
    ],
}


def whole(value):
    """H4MK 4: an integer, as a number or as the decimal string of a wide one."""
    if isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{15,18}", value) and abs(int(value)) > 2**53 - 1:
        return int(value)
    need(type(value) is int and abs(value) <= 2**53 - 1, "not an integer")
    return value


def conform(value, schema, path):
    """Check a JSON value against a schema; gives it back with wide integers as integers."""
    if isinstance(schema, dict):
        need(isinstance(value, dict), f"{path} is not an object")
        known = {name.rstrip("?"): (name, part) for name, part in schema.items()}
        need(value.keys() <= known.keys(), f"{path} has an unknown key")
        need(all(n.endswith("?") or n in value for n in schema), f"{path} lacks a key")
        return {name: conform(item, known[name][1], f"{path}.{name}") for name, item in value.items()}
    if isinstance(schema, list):
        need(isinstance(value, list), f"{path} is not an array")
        return [conform(item, schema[0], f"{path}[]") for item in value]
    if isinstance(schema, tuple):
        number = whole(value)
        need(schema[0] <= number <= schema[1], f"{path} is out of range")
        return number
    if isinstance(schema, set):
        need(isinstance(value, str) and value in schema, f"{path} is unknown")
    elif isinstance(schema, re.Pattern):
        need(isinstance(value, str) and schema.fullmatch(value), f"{path} has a wrong form")
    else:
        need(isinstance(value, schema), f"{path} has a wrong type")
    return value


def parse_json(payload, schema, name):
    """H4MK 4"""
    need(2 <= len(payload) <= MIB, f"{name} has an impossible size")
    depth, quoted, escaped = 0, False, False
    for byte in payload:
        if quoted:
            quoted, escaped = escaped or byte != 0x22, not escaped and byte == 0x5C
        elif byte == 0x22:
            quoted = True
        elif byte in b"{[":
            depth += 1
            need(depth <= 8, f"{name} nests too deep")
        elif byte in b"}]":
            depth -= 1

    def no(_):
        raise ValueError(f"{name} has a number that is not an integer")

    def integer(text):
        need(len(text) < 18, f"{name} has a wide number")
        return int(text)

    value = json.loads(payload.decode("utf-8"), parse_float=no, parse_constant=no, parse_int=integer)
    need(canonical(value) == payload, f"{name} is not canonical")
    if name == "META":
        need(
            all(
                isinstance(item, str | bool) or type(item) is int
                for entry in value.get("history", [])
                for item in entry.get("args", {}).values()
            ),
            "META.history has odd arguments",
        )
    return conform(value, schema, name)


class Chunk(NamedTuple):
    tag: bytes
    at: int
    payload: bytes


def walk(data, start=8):
    """H4MK 3.1, 3.2"""
    at = start
    while at < len(data):
        need(len(data) - at >= 12, "truncated chunk header")
        tag, size, crc = struct.unpack_from(">4sII", data, at)
        need(re.fullmatch(rb"[A-Za-z]{4}", tag), f"not a tag at {at}")
        need(size <= len(data) - at - 12, f"truncated chunk at {at}")
        payload = bytes(data[at + 12 : at + 12 + size])
        need(zlib.crc32(payload) == crc, f"CRC of {tag!r} at {at}")
        yield Chunk(tag, at, payload)
        at += 12 + size


SIZES = {b"TOKN": (128, 128), b"CORE": (1, 16 * MIB), b"SAFE": (1, 16 * MIB), b"KEYS": (520, 520)}
SIZES |= {b"VERI": (32, 32), b"TAIL": (128, 128), b"SIGN": (144, MIB), b"time": (1, MIB)}
LETTERS = dict(
    zip(
        b"TRAK KEYS TOKN CORE SAFE SIGN SEEK RMAP META MERK VERI TAIL time".split(),
        "TKtcsgSRMmVZi",
        strict=True,
    )
)


def check(data):
    """Verify a container without keys (H4MK 19). Returns its facts; raises ValueError for anything else."""
    try:
        if bytes(data[:8]) == b"H4MK\0\1\0\0":
            return check_original(data)
        return _check(data)
    except (struct.error, UnicodeError, RecursionError, AttributeError) as error:
        raise ValueError(f"malformed: {error}") from error


def _check(data):
    need(bytes(data[:8]) == b"H4MK\0\0\0\1", "magic or version")
    chunks = list(walk(data))
    need(chunks and chunks[-1].tag == b"TAIL", "no TAIL: incomplete")
    for one in chunks:
        least, most = SIZES.get(one.tag, (0, 2**32 - 1))
        need(least <= len(one.payload) <= most, f"size of {one.tag!r}")
        need(one.tag in LETTERS or one.tag[:1].islower(), f"unknown critical chunk {one.tag!r}")
    # The grammar of H4MK 3.3, as a regular expression over one letter a chunk.
    text = "".join(LETTERS.get(one.tag, "a") for one in chunks)
    grammar = re.fullmatch(r"(T)(K?)((?:t[cs]g?)*)(a*)(S+)(R+)(M)(m)(V)((?:gi?)*)Z", text)
    need(grammar, f"chunk order {text[:200]}")
    parts = [chunks[slice(*grammar.span(number))] for number in range(1, 11)]
    (trak_chunk,), keys, body, ancillary, seeks, maps, (meta_chunk,), (merk,), (veri,), finals = parts

    trak_json = trak_chunk.payload
    trak = parse_json(trak_json, TRAK_SCHEMA, "TRAK")
    tracks = trak["tracks"]
    need(abs(int(trak["origin"])) < 2**63, "origin")
    need(1 <= len(tracks) <= 65535, "number of tracks")
    masked = any(track["masked"] for track in tracks)
    need(masked == ("mask" in trak) == bool(keys), "mask, masked tracks and KEYS come together")
    for one in keys:
        check_keys(one.payload)
    read = read_blocks(trak, trak_json, body)
    meta = parse_json(meta_chunk.payload, META_SCHEMA, "META")
    need(meta["tracks"] and meta.get("lost") != [], "META has an empty list")
    check_sequence(trak, read.tokens, meta.get("lost", []))

    # H4MK 14.2
    order = [(one.tag, sha(one.payload)) for one in ancillary]
    need(all(a < b for a, b in pairwise(order)), "ancillary chunks not sorted")
    listed = [
        {"sha256": sha(c.payload).hex(), "size": len(c.payload), "tag": c.tag.decode()} for c in ancillary
    ]
    need(meta["ancillary"] == listed, "META.ancillary")

    # H4MK 8, 9, 10.1
    need(len(seeks) == len(maps) == len(tracks), "one SEEK and one RMAP for each track")
    facts = []
    for track in range(len(tracks)):
        mine = [(leaf, token) for leaf, token in enumerate(read.tokens) if token["track"] == track]
        entries = [struct.pack(">QQ", t["pts"], t["offset"]) for _, t in mine if t["flags"] & KEY]
        need(
            seeks[track].payload == struct.pack(">I", len(entries)) + b"".join(entries),
            f"SEEK of track {track}",
        )
        rmap = struct.pack(">HHIQ", track, 40, 0, len(mine)) + b"".join(
            struct.pack(">QQQQIHH", t["pts"], t["offset"], read.places[leaf], leaf, t["size"], t["flags"], 0)
            for leaf, t in mine
        )
        need(maps[track].payload == rmap, f"RMAP of track {track}")
        stored = b"".join(read.payloads[leaf] for leaf, _ in mine)
        facts.append(
            {
                "blocks": len(mine),
                "bytes": len(stored),
                "keyframes": len(entries),
                "rmap": maps[track].at,
                "seek": seeks[track].at,
                "sha256": sha(stored).hex(),
            }
        )
    duration = max((token["end"] for token in read.tokens), default=0)
    need(meta["tracks"] == facts, "META.tracks")
    need(meta["blocks"] == len(read.tokens) and meta["duration"] == duration, "META totals")
    steps = [(step["pts"], step["track"]) for step in meta["steps"]]
    need(steps == sorted(steps) and all(step[1] < len(tracks) for step in steps), "META.steps")

    # H4MK 11, 12, 13, 14.1
    leaves = [sha(b"\0" + pack_token(token)) for token in read.tokens]
    tree = struct.pack(">Q", len(leaves)) + b"".join(b"".join(row) for row in levels(leaves))
    need(merk.payload == tree, "MERK")
    need(veri.payload == sha(data[8 : veri.at]), "VERI")
    root = root_of(leaves)
    head = head_of(len(leaves), duration, root, trak_json, meta_chunk.payload)
    signs = [(head, one.payload) for one in finals if one.tag == b"SIGN"]
    for _, payload in signs:
        check_sign(payload, 1)
    index = (ancillary + seeks)[0].at
    tail = (
        len(data),
        index,
        meta_chunk.at,
        merk.at,
        veri.at,
        len(leaves),
        duration,
        len(tracks),
        0,
        len(signs),
    )
    need(chunks[-1].payload == TAIL.pack(*tail, root, sha(head)), "TAIL")
    return {
        "state": "sealed",
        "trak": trak,
        "meta": meta,
        "tokens": read.tokens,
        "payloads": read.payloads,
        "duration": duration,
        "root": root,
        "HEAD": head,
        "head": sha(head),
        "leaves": leaves,
        "signs": signs,
        "checkpoints": read.checkpoints,
        "chunks": [(one.tag.decode(), one.at, len(one.payload)) for one in chunks],
    }


class Blocks(NamedTuple):
    tokens: list
    payloads: list
    places: list
    checkpoints: list


def read_blocks(trak, trak_json, body):
    """The block part of the file: each token by itself and against its payload (H4MK 6), checkpoints."""
    read = Blocks([], [], [], [])
    duration = 0
    for one in body:
        if one.tag == b"TOKN":
            token = unpack_token(one.payload)
            need(token["track"] < len(trak["tracks"]), "token of a track that does not exist")
            read.tokens.append(token)
            duration = max(duration, token["end"])
        elif one.tag == b"SIGN":
            check_sign(one.payload, 2)
            leaves = [sha(b"\0" + pack_token(token)) for token in read.tokens]
            head = head_of(len(leaves), duration, root_of(leaves), trak_json, None)
            read.checkpoints.append((head, one.payload))
        else:
            token = read.tokens[-1]
            masked = trak["tracks"][token["track"]]["masked"]
            need(
                bool(token["flags"] & MASKED) == masked == (one.tag == b"SAFE"),
                "MASKED, SAFE and TRAK differ",
            )
            need(token["size"] == len(one.payload) <= trak["cut"]["block"], "block size")
            need(token["digest"] == sha(one.payload), "block digest")
            read.payloads.append(one.payload)
            read.places.append(one.at + 12)
    need(len(read.tokens) < 2**26, "too many blocks")
    return read


def unpack_token(record):
    """H4MK 6.1, and of 6.2 what a token shows by itself."""
    token = dict(zip(NAMES, TOKN.unpack(record), strict=True))
    need(token["flags"] < 16, "unknown flag")
    need(
        all(token[name] < 2**63 for name in ("index", "pts", "end", "offset", "min_pts")),
        "value of 2^63 or more",
    )
    group = (token["key_pts"], token["key_offset"])
    need(group == (NONE, NONE) or max(group) < 2**63, "half a keyframe")
    need(
        group == (NONE, NONE) or (group[0] <= token["pts"] and group[1] <= token["offset"]),
        "keyframe lies ahead",
    )
    need(token["end"] >= token["pts"], "ends before it starts")
    if token["flags"] & KEY:
        need(
            not token["flags"] & HEADER and group == (token["pts"], token["offset"]),
            "KEY is not its own keyframe",
        )
    if token["flags"] & HEADER:
        need(token["pts"] == 0 and group == (NONE, NONE), "HEADER has a time or a keyframe")
    need(token["flags"] & MASKED or token["tag"] == bytes(32), "plain block with a tag")
    return token


def check_sequence(trak, tokens, lost):
    """H4MK 6.2, 10.2 and 17.1 over all tokens in file order."""
    if trak["cut"]["order"] == "end":
        order = [(token["end"], token["track"], token["index"]) for token in tokens]
        need(order == sorted(order), "blocks not in order of their ends")
    holes = []
    for track in range(len(trak["tracks"])):
        before, key, index, offset, gap = None, (NONE, NONE), 0, 0, False
        for token in (one for one in tokens if one["track"] == track):
            missing, space = token["index"] - index, token["offset"] - offset
            need(missing >= 0, "index runs backwards")
            need(missing <= space <= missing * trak["cut"]["block"], "offset does not follow")
            group = (token["key_pts"], token["key_offset"])
            if missing:
                holes.append({"count": missing, "first": index, "track": track})
                gap = True
            if before is not None:
                need(not before["flags"] & LAST, "a block after LAST")
                need(before["end"] <= token["pts"] and (missing or before["end"] == token["pts"]), "end")
            if token["flags"] & KEY:
                need(key[0] == NONE or token["pts"] > key[0], "keyframe times do not increase")
            elif gap and group != key:
                # The keyframe lies in the hole, after the last one known; only the first block may bring it.
                need(missing and group[0] != NONE, "keyframe changes without a hole")
                need(offset <= group[1] < token["offset"], "keyframe is not in the hole")
                need(key[0] == NONE or group[0] > key[0], "keyframe times do not increase")
            else:
                need(group == key, "wrong keyframe")
            need(not token["flags"] & HEADER or key == (NONE, NONE), "HEADER after a keyframe")
            key, before = group, token
            index, offset = token["index"] + 1, token["offset"] + token["size"]
        if before is not None and not before["flags"] & LAST:
            holes.append({"count": 0, "first": index, "track": track})
        elif before is None and {"count": 0, "first": 0, "track": track} in lost:
            holes.append({"count": 0, "first": 0, "track": track})
    need(holes == lost, "META.lost does not name the holes")


def check_keys(payload):
    """H4MK 7"""
    count = payload[0]
    need(1 <= count <= 8 and payload[1:8] == bytes(7), "KEYS head")
    slots = [payload[at : at + 64] for at in range(8, 520, 64)]
    ids = [slot[:16] for slot in slots[:count]]
    need(all(a < b for a, b in pairwise(ids)), "KEYS not sorted")
    need(all(slot[56:] == bytes(8) for slot in slots[:count]), "KEYS padding")
    need(all(slot == bytes(64) for slot in slots[count:]), "KEYS has something in an unused slot")


def check_sign(payload, kind):
    """H4MK 13.1, 13.4; the signature itself needs a key."""
    need(
        payload[0] == kind and payload[1] == 1 and payload[2:8] == bytes(6), "SIGN kind, algorithm or padding"
    )
    need(payload[8] < 128, "SIGN revision")
    at = 144
    while at < len(payload):
        (length,) = struct.unpack_from(">I", payload, at)
        need(0 < length <= len(payload) - at - 4, "SIGN certificate length")
        at += 4 + length


def check_original(data):
    """H4MK 23"""
    chunks = list(walk(data))
    text = "".join(
        {b"CORE": "c", b"SEEK": "k", b"META": "m", b"SAFE": "s", b"VERI": "v"}.get(c.tag, "?") for c in chunks
    )
    need(re.fullmatch(r"c*k?m?s?v", text), f"chunk order {text[:200]}")
    need(chunks[-1].payload == sha(data[8 : chunks[-1].at]), "VERI")
    entries = []
    for one in chunks:
        if one.tag == b"SEEK":
            (count,) = struct.unpack_from(">I", one.payload)
            need(len(one.payload) == 4 + 16 * count, "SEEK count")
            entries = [struct.unpack_from(">QQ", one.payload, 4 + 16 * i) for i in range(count)]
        elif one.tag in (b"META", b"SAFE"):
            need(
                len(one.payload) <= MIB and isinstance(json.loads(one.payload), dict),
                f"{one.tag!r} is no object",
            )
    need(
        all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(entries)),
        "SEEK not sorted",
    )
    need(all(max(entry) < 2**63 for entry in entries), "value of 2^63 or more")
    return {
        "state": "original",
        "stream": b"".join(one.payload for one in chunks if one.tag == b"CORE"),
        "seek": entries,
        "seal": chunks[-1].payload,
        "chunks": [(one.tag.decode(), one.at, len(one.payload)) for one in chunks],
    }


# ---- cutting ---------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    """A packet, in reading order; times in ticks (H4MK 16.1)."""

    stream: int
    pts: int | None
    duration: int
    pos: int | None
    key: bool


class Timeline:
    """H4MK 15: places clock packets; `start` in ticks for streams whose clock wraps."""

    def __init__(self, num, den, origin, start=None):
        self.num, self.den, self.origin, self.near = num, den, origin, start
        self.shift = self.end = self.greatest = 0
        self.steps = []

    def place(self, packet):
        """The packet's PTS, or None."""
        if packet.pts is None:
            return None
        ticks = packet.pts
        if self.near is not None:
            ticks += 2**33 * ((self.near - ticks + 2**32) // 2**33)
            self.near = ticks
        plain = ticks * self.num * 10**6 // self.den - self.origin
        end = (ticks + max(0, packet.duration)) * self.num * 10**6 // self.den - self.origin
        if max(abs(plain), abs(end)) + self.shift >= 2**62:
            return None
        if packet.key and max(0, plain + self.shift) < self.greatest:
            added = self.end - (plain + self.shift)
            self.steps.append({"pts": self.end, "shift": added, "track": 0})
            self.shift += added
        t = max(0, plain + self.shift)
        if packet.key:
            self.greatest = max(self.greatest, t)
        self.end = max(self.end, end + self.shift)
        return t


class Cut:
    """H4MK 16.4 to 16.6. `unit(p, d)` is u(p) after the boundary d was decided."""

    def __init__(self, length, limit, clock, timeline, unit, span=0, jumping=False):
        self.length, self.limit, self.clock, self.timeline = length, limit, clock, timeline
        self.unit, self.span, self.jumping = unit, span, jumping
        self.blocks = [{"offset": 0, "pts": 0, "key": False, "header": True}]
        self.decided, self.frontier, self.key_pts, self.position = -1, 0, None, None
        self.seen = []  # (p, t) of clock packets

    def read(self, packets):
        """All packets; gives back the blocks of the stream's bytes and the last end."""
        for packet in packets:
            pos = packet.pos if packet.pos is not None and 0 <= packet.pos < self.length else None
            if packet.stream != self.clock:
                if pos is not None and not self.jumping:
                    self.advance(pos - 4 * MIB)
                continue
            t = self.timeline.place(packet)
            self.position = self.position if pos is None else pos
            if self.position is None:
                continue
            self.advance(self.position)
            if t is not None:
                if packet.key:
                    self.open(self.position, t)
                self.seen.append((self.position, t))
            self.advance(self.position)
        self.continuations(self.length)
        self.close(self.length)
        return [block for block in self.blocks if block["size"]]

    def advance(self, position):
        self.frontier = max(self.frontier, position)
        if self.blocks[-1]["offset"] + self.limit <= self.frontier:
            unit = self.unit(self.frontier, self.decided)
            free = self.decided >= unit or self.frontier - unit > 64 * MIB
            self.continuations(self.frontier + 1 if free else unit)

    def open(self, p, t):
        unit, pts = self.unit(p, self.decided), self.blocks[-1]["pts"]
        if unit <= self.decided or p - unit > 64 * MIB:
            return
        if self.key_pts is not None and (t <= pts or t < self.key_pts + self.span):
            return
        self.continuations(unit)
        self.close(unit)
        if not self.blocks[-1]["size"]:
            self.blocks.pop()
        self.blocks.append({"offset": unit, "pts": t, "key": True, "header": False})
        self.decided, self.key_pts = unit, t

    def continuations(self, below):
        while (at := self.blocks[-1]["offset"] + self.limit) < below:
            self.close(at)
            last = self.blocks[-1]
            pts = 0 if last["header"] else max([last["pts"]] + [t for p, t in self.seen if p < at])
            self.blocks.append({"offset": at, "pts": pts, "key": False, "header": last["header"]})
            self.decided = at

    def close(self, end):
        block = self.blocks[-1]
        block["size"] = end - block["offset"]
        block["min_pts"] = min((t for p, t in self.seen if block["offset"] <= p < end), default=block["pts"])


def top_level(data, name):
    """H4MK 16.3: the starts of units; `name` is mp4, matroska or ogg."""
    starts, at = [], 0
    while at < len(data):
        if name == "mp4":
            size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size or len(data) - at
            if kind == b"moof":
                starts.append(at)
        elif name == "ogg":
            lacing = data[at + 27 : at + 27 + data[at + 26]]
            size = 27 + len(lacing) + sum(lacing)
            starts.append(at)
        else:
            width = 9 - data[at].bit_length()
            length = 9 - data[at + width].bit_length()
            head = width + length
            size = int.from_bytes(data[at + width : at + head], "big") - (1 << 7 * length)
            unknown = size == (1 << 7 * length) - 1
            kind = data[at : at + width]
            if kind == b"\x1f\x43\xb6\x75":
                starts.append(at)
            enter = kind == b"\x18\x53\x80\x67" or (unknown and kind == b"\x1f\x43\xb6\x75")
            size = head if enter else head + size
        at += size
    return lambda p, decided: max((start for start in starts if start <= p), default=p)


def transport(data, pid, packet=188):
    """H4MK 16.3, MPEG-TS."""

    def unit(p, decided):
        at = p - packet
        while at >= 0 and p - at <= 64 * packet:
            head = data[at + packet - 188 :][:3]
            found = (head[1] & 0x1F) << 8 | head[2]
            if found == pid:
                return p
            if found == 0 and head[1] & 0x40:
                return at if at > decided else p
            at -= packet
        return p

    return unit


def opaque(stream, limit, num=30, den=1, gop=30):
    """H4MK 16.8"""
    times = [i * gop * 10**6 * den // num for i in range(-(-len(stream) // limit) + 1)]
    blocks = [
        {"payload": bytes(stream[i * limit : (i + 1) * limit]), "pts": times[i], "key": True}
        for i in range(len(times) - 1)
    ]
    return blocks, times[-1]


def text(stream, limit, entries):
    """H4MK 16.10: the blocks, and where the track ends; `entries` are (p, t, e)."""
    keys = {}
    for place, time, _ in entries:
        if not keys or time >= max(keys.values()) + 10**6:
            keys[place] = time
    blocks, at, pts = [], 0, 0
    while at < len(stream):
        stop = min([at + limit, len(stream), *(place for place in keys if place > at)])
        header = all(place > at for place in keys)
        pts = keys[at] if at in keys else max([pts, *(time for place, time, _ in entries if place < at)])
        inside = [time for place, time, _ in entries if at <= place < stop]
        block = {"payload": stream[at:stop], "pts": pts, "min_pts": min(inside, default=pts)}
        blocks.append(block | {"key": at in keys, "header": header})
        at = stop
    return blocks, max([pts, *(end for *_, end in entries)])


def cues(stream):
    """The entries of WebVTT, by the steps of its parser (W3C, "WebVTT parser algorithm") over lines."""
    found = re.finditer(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", stream)
    lines = [(one.start(), one[1][:1024], len(one[1])) for one in found]
    number = 1
    while number < len(lines) and lines[number][1] and b"-->" not in lines[number][1]:
        number += 1
    entries = []
    while number < len(lines):
        first, count, arrow = number, 0, False
        while number < len(lines):
            _, line, _ = lines[number]
            count += 1
            if b"-->" in line:
                if count != 1 and (count != 2 or arrow):
                    break
                arrow = True
                times = cue_times(line)
                if times is not None:
                    place = first if lines[first][2] < 1024 else number
                    entries.append((lines[place][0], times[0], max(times)))
            number += 1
            if not line:
                break
    return entries


def cue_times(line):
    time = rb"(?:([0-9]+):)?([0-5][0-9]):([0-5][0-9])\.([0-9][0-9][0-9])"
    space = rb"[ \t\f]*"
    found = re.match(space + time + space + b"-->" + space + time + rb"([0-9]?)", line)
    if found is None or found[9]:
        return None
    parts = [int(one or 0) for one in found.groups()[:8]]
    times = [
        (3600 * parts[at] + 60 * parts[at + 1] + parts[at + 2]) * 10**6 + parts[at + 3] * 1000
        for at in (0, 4)
    ]
    return times if max(times) <= 2**62 else None


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def records(stream):
    """The entries of JSON lines (H4MK 16.10)."""
    entries, place = [], 0
    for line in stream.split(b"\n"):
        try:
            value = json.loads(line.decode()) if len(line) < 65536 else None
        except ValueError:
            value = None
        if isinstance(value, dict) and depth(value) <= 64:
            times = [value.get(name) for name in ("pts", "end")]
            good = [type(time) is int and 0 <= time <= 2**62 for time in times]
            if good[0]:
                entries.append((place, times[0], max(times) if good[1] else times[0]))
        place += len(line) + 1
    return entries
