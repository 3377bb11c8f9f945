"""Hand-made containers: every stage of writing one can be changed, and all later stages follow the change.

So exactly one thing is wrong in a vector: a SEEK table that is not sorted stands in a file whose CRCs, VERI,
head and TAIL are right. Uses `independent.py` (written from the specification alone) and the standard
library; nothing of the project.
"""

import copy
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import independent
from independent import KEY, TOKN, canonical, chunk, head_of, levels, pack_token, root_of, sha, tokens_of

SPEC = (Path(__file__).parents[2] / "docs" / "H4MK.md").read_text("utf-8")

HEADER = b"H4MK\0\0\0\1"
ORIGINAL = b"H4MK\0\1\0\0"
EXPORT = {"args": {}, "inputs": [], "op": "export"}
ENDS = {0: 1080000}
TITLE = 'Zwölf "µs"'
# With the next three: the example of H4MK A.2.
BLOCKS = [
    {"payload": b"header", "pts": 0, "header": True},
    {"payload": b"sixteen bytes ..", "pts": 40000, "key": True},
    {"payload": b"rest", "pts": 600000, "min_pts": 560000},
    {"payload": b"second group", "pts": 1040000, "key": True, "min_pts": 1000000},
]
TRACK = {
    "codec": "h264,aac",
    "kind": "video",
    "masked": False,
    "media_type": "video/mp4",
    "self_framing": True,
    "span": 0,
    "start": {"den": 90000, "num": 1, "ticks": 126000},
    "stream": 0,
    "timing": "demux",
}
AUDIO = {**TRACK, "codec": "aac", "kind": "audio", "media_type": "audio/mp4", "stream": 1}
TRAK = {"cut": {"block": 16, "order": "end", "rule": 1}, "origin": "1400000", "tracks": [TRACK]}
TWO = {**TRAK, "tracks": [TRACK, AUDIO]}
# In file order (end, track, index): video 0, audio 0, video 1, audio 1.
TWO_BLOCKS = [
    {"payload": b"picture 0", "pts": 0, "key": True},
    {"payload": b"picture 1", "pts": 500000, "key": True},
    {"payload": b"sound 0", "pts": 0, "key": True, "track": 1},
    {"payload": b"sound 1", "pts": 600000, "key": True, "track": 1},
]
TWO_ENDS = {0: 1000000, 1: 1100000}


def spec_value(name):
    """A hex value of the worked examples (H4MK A.3 to A.5)."""
    return bytes.fromhex(re.search(rf"^{name} = ([0-9a-f]+)$", SPEC, re.MULTILINE)[1])


class Vector(NamedTuple):
    """One file and its twin. `recover` is {"blocks", "lost", "left_out"} or an error class."""

    name: str
    spec: str
    description: str
    data: bytes
    expect: str
    """What a verifier says: ok or the error class."""
    open: str
    """What opening says: sealed, incomplete, original or the error class."""
    read: str
    """What reading everything says after that: ok or the error class; empty if the file does not open."""
    recover: dict | str

    def twin(self):
        """What stands in NAME.json."""
        twin = {
            "description": self.description,
            "spec": f"H4MK {self.spec}",
            "expect": self.expect,
            "open": self.open,
            "recover": self.recover,
        }
        return twin | ({"read": self.read} if self.read else {})


def kept(blocks, *lost, left_out=0):
    """A recovery's result; each of `lost` is (track, first, count)."""
    named = [{"count": count, "first": first, "track": track} for track, first, count in lost]
    return {"blocks": blocks, "lost": named, "left_out": left_out}


class Collection(list):
    """All vectors; `add` fills in what most of them have in common."""

    def add(self, name, spec, expect, description, data, *, open="sealed", read=None, recover=None):
        """`read` defaults to ok where the file opens; `recover` to all four blocks of the usual example."""
        opens = open in ("sealed", "incomplete", "original")
        read = (read or "ok") if opens else ""
        if recover is None:
            recover = "usage" if open == "original" else kept(4)
        assert all(one.name != name for one in self), name
        self.append(Vector(name, spec, description, bytes(data), expect, open, read, recover))


def framed(tag, payload, size=None, crc=None):
    """A chunk with a header that may lie (H4MK 3.1)."""
    size = len(payload) if size is None else size
    return struct.pack(">4sII", tag, size, zlib.crc32(payload) if crc is None else crc) + payload


def tokens_in(body):
    """(record, payload, offset in the body of the payload's chunk) as a writer that wrote `body` sees it."""
    found, at, record = [], 0, None
    for raw in body:
        if raw[:4] == b"TOKN" and len(raw) == 140:
            record = raw[12:]
        elif raw[:4] in (b"CORE", b"SAFE") and record is not None:
            found.append((record, raw[12:], at))
            record = None
        at += len(raw)
    return found


def unpacked(record):
    """A TOKN payload as a dict."""
    return dict(zip(independent.NAMES, TOKN.unpack(record), strict=True))


def same(value):
    """The stage is not changed."""
    return value


def container(
    trak=TRAK,
    blocks=BLOCKS,
    ends=ENDS,
    *,
    change_trak=None,
    trak_json=same,
    keys=None,
    change_tokens=None,
    order=same,
    checkpoints=None,
    body=same,
    ancillary=(),
    seek=same,
    rmap=same,
    index=same,
    lost=None,
    change_meta=None,
    meta_json=same,
    merk=same,
    veri=same,
    finals=(),
    tail=None,
    emit=None,
    title=TITLE,
    history=(EXPORT,),
    steps=(),
):
    """A sealed container (H4MK 17.2), with changes on the way.

    `change_*` take a dict or list and change it in place (`change_tokens`: the tokens in file order). The
    others take what a stage has and give what stands instead: `order` the (token, block) pairs, `body` the
    chunks of the blocks, `seek` and `rmap` the payloads of all tracks, `index` the chunks from the last block
    to META, `trak_json`, `meta_json`, `merk`, `veri` a payload, `emit` (tag, chunk) of each chunk as it is
    written. `tail` maps numbers of TAIL's fields to values, or functions of the right values.
    """
    out = bytearray(HEADER)

    def write(raw):
        out.extend(raw if emit is None else emit(raw[:4].decode("latin-1"), raw))

    trak = _changed(trak, change_trak)
    trak_bytes = trak_json(canonical(trak))
    write(chunk(b"TRAK", trak_bytes))
    if keys is not None:
        write(chunk(b"KEYS", keys))
    pairs = list(zip(tokens_of(trak, blocks, ends), blocks, strict=True))
    if trak["cut"]["order"] == "end":
        pairs.sort(key=lambda pair: (pair[0]["end"], pair[0]["track"], pair[0]["index"]))
    pairs = order(pairs)
    if change_tokens:
        change_tokens([token for token, _ in pairs])
    raws = []
    for number, (token, block) in enumerate(pairs, 1):
        raws += [chunk(b"TOKN", pack_token(token))]
        raws += [chunk(b"SAFE" if token["flags"] & 2 else b"CORE", block["payload"])]
        if checkpoints and number in checkpoints:
            raws.append(chunk(b"SIGN", checkpoints[number]))
    raws = body(raws)
    start = len(out)
    for raw in raws:
        write(raw)
    found = [(record, payload, start + at + 12) for record, payload, at in tokens_in(raws)]
    leaves = [sha(b"\0" + record) for record, _, _ in found]
    duration = max((unpacked(record)["end"] for record, _, _ in found), default=0)
    duration = min(duration, 2**63 - 1)  # what a directory can hold, should a token say more

    index_at = len(out)
    ancillary_raw = [chunk(tag, payload) for tag, payload in ancillary]
    tracks = [_tables(number, found) for number in range(len(trak["tracks"]))]
    seeks = [chunk(b"SEEK", payload) for payload in seek([one["SEEK"] for one in tracks])]
    rmaps = [chunk(b"RMAP", payload) for payload in rmap([one["RMAP"] for one in tracks])]
    places = {b"SEEK": [], b"RMAP": []}
    for raw in index([*ancillary_raw, *seeks, *rmaps]):
        places.setdefault(raw[:4], []).append(len(out))
        write(raw)
    for number, one in enumerate(tracks):
        for tag, key in ((b"SEEK", "seek"), (b"RMAP", "rmap")):
            one["META"][key] = places[tag][number] if number < len(places[tag]) else 0
    meta = {
        "ancillary": [{"sha256": sha(p).hex(), "size": len(p), "tag": tag.decode()} for tag, p in ancillary],
        "blocks": len(found),
        "duration": duration,
        "history": list(history),
        "steps": list(steps),
        "structure_only": True,
        "tracks": [one["META"] for one in tracks],
    }
    meta |= {"title": title} if title else {}
    meta |= {"lost": lost} if lost else {}
    meta = _changed(meta, change_meta)
    meta_bytes = meta_json(canonical(meta))
    meta_at = len(out)
    write(chunk(b"META", meta_bytes))
    merk_at = len(out)
    rows = b"".join(b"".join(row) for row in levels(leaves))
    write(chunk(b"MERK", merk(struct.pack(">Q", len(leaves)) + rows)))
    veri_at = len(out)
    write(chunk(b"VERI", veri(sha(out[8:]))))
    signs = 0
    for raw in finals:
        signs += raw[:4] == b"SIGN"
        write(raw)
    fields = [len(out) + 140, index_at, meta_at, merk_at, veri_at, len(leaves), duration]
    fields += [len(trak["tracks"]), 0, signs, root_of(leaves), None]
    for number in sorted(
        {*(tail or {}), 11}
    ):  # head last: it follows what TAIL says of blocks, duration, root
        if number == 11:
            fields[11] = sha(head_of(fields[5], fields[6], fields[10], trak_bytes, meta_bytes))
        value = (tail or {}).get(number, same)
        fields[number] = value(fields[number]) if callable(value) else value
    write(chunk(b"TAIL", independent.TAIL.pack(*fields)))
    return bytes(out)


def _changed(value, change):
    value = copy.deepcopy(value)
    if change:
        change(value)
    return value


def _tables(track, found):
    """SEEK and RMAP of a track, and its entry in META without their places."""
    seek, rmap, stream, size = [], [], b"", 0
    for leaf, (record, payload, place) in enumerate(found):
        token = unpacked(record)
        if token["track"] != track:
            continue
        if token["flags"] & KEY:
            seek.append(struct.pack(">QQ", token["pts"], token["offset"]))
        rmap.append(
            struct.pack(
                ">QQQQIHH", token["pts"], token["offset"], place, leaf, token["size"], token["flags"], 0
            )
        )
        stream += payload
        size += token["size"]
    return {
        "SEEK": struct.pack(">I", len(seek)) + b"".join(seek),
        "RMAP": struct.pack(">HHIQ", track, 40, 0, len(rmap)) + b"".join(rmap),
        "META": {
            "blocks": len(rmap),
            "bytes": size,
            "keyframes": len(seek),
            "sha256": sha(stream).hex(),
        },
    }


def two(**changes):
    """A container of two tracks."""
    return container(TWO, TWO_BLOCKS, TWO_ENDS, **changes)


def empty(**changes):
    """A container without blocks."""
    return container(TRAK, [], {}, **changes)
