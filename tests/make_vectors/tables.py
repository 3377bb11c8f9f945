"""What is derived and what seals: tables, META's facts, the tree, signatures, TAIL (checks V13 to V20)."""

import struct

from independent import chunk, sha
from make_vectors.parts import (
    BLOCKS,
    SPEC,
    container,
    empty,
    kept,
    spec_value,
    two,
)
from make_vectors.valid import masked, signed

RMAP_AT = {"pts": (0, 8), "offset": (8, 8), "position": (16, 8), "leaf": (24, 8), "size": (32, 4)}
RMAP_AT |= {"flags": (36, 2), "zero": (38, 2)}


def add_all(vectors):
    """Add the vectors of this module."""
    _keys(vectors)
    _seek(vectors)
    _rmap(vectors)
    _meta(vectors)
    _ancillary(vectors)
    _tree(vectors)
    _sign(vectors)
    _tail(vectors)


def _keys(vectors):
    slot = spec_value("keys_payload_start")[8:]
    low, high = bytes(16) + slot[16:], slot

    def add(name, expect, text, head, *slots):
        keys = (head + b"".join(slots)).ljust(520, b"\0")
        vectors.add(f"keys-{name}", "7", expect, text, masked(keys=keys), recover="key")

    one, two_ = bytes([1]) + bytes(7), bytes([2]) + bytes(7)
    add("none", "format", "no slot is used", bytes(8))
    add("nine", "format", "nine slots", bytes([9]) + bytes(7), *[slot] * 8)
    add("reserved", "format", "a reserved byte is set", bytes([1, 0, 0, 0, 0, 0, 0, 1]), slot)
    add("padding", "format", "a slot's padding is not zero", one, slot[:63] + b"\1")
    add("unused", "format", "an unused slot is not zero", one, slot, bytes(63) + b"\1")
    add("unsorted", "order", "key ids not sorted", two_, high, low)
    add("equal", "order", "two slots with one key id", two_, slot, slot)


def _seek(vectors):
    def entries(*pairs, count=None):
        count = len(pairs) if count is None else count
        return struct.pack(">I", count) + b"".join(struct.pack(">QQ", *pair) for pair in pairs)

    def add(name, text, payload, read):
        vectors.add(f"seek-{name}", "8", "seal", text, container(seek=lambda _: [payload]), read=read)

    first, second = (40000, 6), (1040000, 26)
    add("unsorted", "entries not sorted", entries(second, first), "order")
    add("pts-twice", "two entries with one pts", entries(first, (40000, 26)), "order")
    add("offset-back", "offsets that decrease", entries((40000, 26), (1040000, 6)), "order")
    add("missing", "a KEY block has no entry", entries(first), "seal")
    add("extra", "an entry without a KEY block", entries(first, (600000, 22), second), "seal")
    add("not-key", "an entry names a block that is not KEY", entries(first, (600000, 22)), "ok")
    add("wrong-pts", "an entry with a wrong pts", entries(first, (1040001, 26)), "ok")
    add("wrong-offset", "an entry with a wrong offset", entries(first, (1040000, 27)), "seal")
    add("far-offset", "an entry with an offset beyond the stream", entries(first, (1040000, 10**15)), "seal")
    add("wide", "an entry with a pts of 2^64-1", entries(first, (2**64 - 1, 26)), "format")
    add("count-most", "a count of 2^32-1", entries(first, second, count=2**32 - 1), "format")
    add("count-more", "a count of one more", entries(first, second, count=3), "format")
    add("count-less", "a count of one less", entries(first, second, count=1), "format")
    add("tail", "a byte behind the entries", entries(first, second) + b"\0", "format")


def _rmap(vectors):
    def add(name, text, change, read, data=None):
        data = container(rmap=lambda raws: [change(raws[0])]) if data is None else data
        vectors.add(f"rmap-{name}", "9", "seal", text, data, read=read)

    def field(row, **values):
        def change(payload):
            payload = bytearray(payload)
            for name, value in values.items():
                at, size = RMAP_AT[name]
                at += 16 + 40 * row
                payload[at : at + size] = value.to_bytes(size, "big")
            return bytes(payload)

        return change

    def head(at, size, value):
        return lambda payload: payload[:at] + value.to_bytes(size, "big") + payload[at + size :]

    plain = container()
    payloads = [plain.index(block["payload"]) for block in BLOCKS]
    add("to-trak", "an entry points into TRAK", field(0, position=40), "format")
    add("to-front", "an entry points before the first possible payload", field(0, position=3), "format")
    add("to-tail", "an entry points at TAIL", field(3, position=len(plain) - 128), "format")
    add("beyond", "an entry points beyond the file", field(3, position=2**40), "truncated")
    add("into-payload", "an entry points into a payload", field(1, position=payloads[1] + 1), "format")
    add("other-block", "an entry points at another block", field(2, position=payloads[1]), "seal")
    add("wrong-pts", "a wrong pts", field(2, pts=600001), "seal")
    add("wrong-offset", "a wrong offset", field(2, offset=23), "seal")
    add("wrong-size", "a wrong size: two entries overlap", field(1, size=17), "seal")
    add("wrong-flags", "a flag of the token is missing", field(3, flags=1), "seal")
    add("wrong-leaf", "a wrong leaf", field(3, leaf=7), "ok")
    add("reserved", "reserved bytes are set", field(1, zero=1), "format")
    add("wide", "an offset of 2^64-1", field(3, offset=2**64 - 1), "format")
    add("offset-back", "offsets that decrease", field(2, offset=5), "order")
    add("pts-back", "times that decrease", field(3, pts=5), "order")
    add("track", "another track's number", head(0, 2, 1), "order")
    add("entry-size", "entries of 48 bytes", head(2, 2, 48), "critical")
    add("head-reserved", "reserved bytes of the head are set", head(4, 4, 1), "critical")
    add("count-most", "a count of 2^64-1", head(8, 8, 2**64 - 1), "format")
    add(
        "count-overflow",
        "a count whose bytes overflow 64 bits to the right size",
        head(8, 8, 2**61 + 4),
        "format",
    )
    add("missing", "an entry is missing", lambda raw: head(8, 8, 3)(raw[:-40]), "seal")
    add("extra", "an entry stands twice", lambda raw: head(8, 8, 5)(raw + raw[-40:]), "order")
    add(
        "swapped-tracks",
        "the maps of two tracks, exchanged",
        None,
        "order",
        two(rmap=lambda raws: raws[::-1]),
    )

    def across(raws):
        return [raws[0][:16] + raws[1][16:], raws[1]]

    add("other-track", "entries that point at another track's blocks", None, "seal", two(rmap=across))


def _meta(vectors):
    def add(name, text, change, data=container, spec="10.1", expect="seal", **more):
        vectors.add(f"facts-{name}", spec, expect, text, data(change_meta=change), **more)

    def track(**more):
        return lambda meta: meta["tracks"][0].update(more)

    def by(key, more):
        return lambda meta: meta["tracks"][0].update({key: meta["tracks"][0][key] + more})

    add("blocks", "a wrong number of blocks", lambda meta: meta.update(blocks=5), open="seal")
    add("blocks-most", "2^26-1 blocks", lambda meta: meta.update(blocks=2**26 - 1), open="seal")
    add("duration", "a wrong duration", lambda meta: meta.update(duration=1080001), open="seal")
    add("track-blocks", "a track's wrong number of blocks", track(blocks=5), open="seal")
    add("bytes", "a wrong number of bytes", by("bytes", 1))
    add("keyframes", "a wrong number of keyframes", by("keyframes", 1), read="seal")
    add("sha256", "a wrong digest of the stream", track(sha256="0" * 64))
    add("seek", "META does not point at SEEK", by("seek", 1), read="format")
    add("seek-front", "META points at TRAK for SEEK", track(seek=8), read="order")
    add("seek-far", "META points beyond the file", track(seek=2**62), read="order")
    add(
        "seek-is-rmap",
        "META points at RMAP for SEEK",
        lambda meta: track(seek=meta["tracks"][0]["rmap"])(meta),
        read="order",
    )
    add("rmap", "META does not point at RMAP", by("rmap", 4), read="format")
    add(
        "track-more",
        "META has a track more than TRAK",
        lambda meta: meta["tracks"].append(meta["tracks"][0] | {"blocks": 0}),
        open="seal",
    )
    add(
        "track-less",
        "META has a track less than TRAK",
        lambda meta: meta["tracks"].pop(),
        two,
        open="seal",
        recover=kept(4),
    )
    add(
        "tracks-swapped",
        "META has the tracks in another order",
        lambda meta: meta["tracks"].reverse(),
        two,
        read="order",
    )
    steps = [{"pts": 9, "shift": 1, "track": 0}, {"pts": 5, "shift": 1, "track": 0}]
    add("steps-unsorted", "steps not sorted", lambda meta: meta.update(steps=steps))
    elsewhere = [{"pts": 9, "shift": 1, "track": 3}]
    add("steps-track", "a step in a track that does not exist", lambda meta: meta.update(steps=elsewhere))


def _ancillary(vectors):
    one, other = sorted([(b"pstr", b"one"), (b"pstr", b"two")], key=lambda pair: sha(pair[1]))

    def add(name, expect, text, ancillary, change=None, spec="14.2", **more):
        data = container(ancillary=ancillary, change_meta=change, **more)
        vectors.add(f"ancillary-{name}", spec, expect, text, data)

    add("unsorted", "order", "two chunks of one tag, not sorted by their digests", [other, one])
    add("unsorted-tags", "order", "two tags, not sorted", [(b"pstr", b""), (b"aaaa", b"")])
    add("twice", "order", "the same chunk twice", [one, one])
    add("unlisted", "seal", "a chunk that META does not list", [one], lambda meta: meta["ancillary"].clear())
    add(
        "listed-only",
        "seal",
        "META lists a chunk that is not there",
        [one, other],
        index=lambda raws: [raws[0], *raws[2:]],
    )
    add("size", "seal", "META lists a wrong size", [one], lambda meta: meta["ancillary"][0].update(size=4))
    add(
        "digest",
        "seal",
        "META lists a wrong digest",
        [one],
        lambda meta: meta["ancillary"][0].update(sha256="0" * 64),
    )
    stamp = chunk(b"time", b"x")
    add("time", "order", "a time chunk before SEEK", [], index=lambda raws: [stamp, *raws], spec="13.6")


def _tree(vectors):
    def add(name, spec, text, data, **more):
        vectors.add(name, spec, "seal", text, data, **more)

    add("merk-leaf", "11.2", "a wrong leaf", container(merk=lambda raw: raw[:8] + bytes(32) + raw[40:]))
    add(
        "merk-node",
        "11.2",
        "a wrong inner node",
        container(merk=lambda raw: raw[:-64] + bytes(32) + raw[-32:]),
    )
    add(
        "merk-count",
        "11.2",
        "a wrong number of leaves",
        container(merk=lambda raw: struct.pack(">Q", 5) + raw[8:]),
    )
    add("merk-count-most", "11.2", "2^64-1 leaves", container(merk=lambda raw: b"\xff" * 8 + raw[8:]))
    add("merk-missing", "11.2", "the last node is missing", container(merk=lambda raw: raw[:-32]))
    add("merk-extra", "11.2", "a node too many", container(merk=lambda raw: raw + raw[-32:]))
    add(
        "merk-empty",
        "11.2",
        "one leaf in a tree without leaves",
        empty(merk=lambda _: struct.pack(">Q", 1) + bytes(32)),
        recover=kept(0),
    )
    add("veri", "11.3", "a wrong VERI", container(veri=lambda raw: bytes(32)))
    plain = container()
    veri = sha(plain[: plain.rindex(b"VERI")])
    add("veri-header", "11.3", "VERI over the file's header too", container(veri=lambda _: veri))


def _sign(vectors):
    final, check = spec_value("final_sign"), spec_value("checkpoint_sign")

    def add(name, expect, text, data, spec="13.1"):
        vectors.add(f"sign-{name}", spec, expect, text, data)

    def finals(*payloads):
        return signed(finals=[chunk(b"SIGN", payload) for payload in payloads])

    def changed(payload, at, value):
        return payload[:at] + bytes([value]) + payload[at + 1 :]

    add("kind", "critical", "an unknown kind", finals(changed(final, 0, 3)))
    add("kind-0", "critical", "kind 0", finals(changed(final, 0, 0)))
    add("algorithm", "critical", "an unknown algorithm", finals(changed(final, 1, 2)))
    add("reserved", "format", "a reserved byte is set", finals(changed(final, 7, 1)))
    add("revision", "format", "a revision of 2^63", finals(changed(final, 8, 0x80)))
    add("checkpoint-at-end", "order", "a checkpoint behind VERI", finals(check))
    wrong = container(checkpoints={2: final})
    add("final-in-body", "order", "a final signature between blocks", wrong)
    add("certificate-0", "format", "a certificate of 0 bytes", finals(final + bytes(4)))
    add("certificate-past", "format", "a certificate that reaches past SIGN", finals(final + b"\0\0\0\5abcd"))
    add(
        "certificate-most", "format", "a certificate of 2^32-1 bytes", finals(final + b"\xff\xff\xff\xffabcd")
    )
    add("certificate-cut", "format", "SIGN ends inside a certificate's length", finals(final + b"\0\0\0"))
    body = container(checkpoints={2: changed(check, 6, 1)})
    add("checkpoint-reserved", "format", "a checkpoint with a reserved byte set", body)
    stamp, sign = chunk(b"time", b"\x30\x00"), chunk(b"SIGN", final)
    add("time-first", "order", "time before its SIGN", signed(finals=[stamp, sign]), "13.6")
    add("time-twice", "order", "two time chunks behind one SIGN", signed(finals=[sign, stamp, stamp]), "13.6")
    seen = []

    def stamped(raws):
        seen.extend(raws)
        return [*raws[:5], stamp, *raws[5:]]

    late = container(checkpoints={2: check}, body=stamped)
    add("time-checkpoint", "order", "time behind a checkpoint", late, "13.6")


def _tail(vectors):
    names = ["length", "index", "meta", "merk", "veri", "blocks", "duration", "tracks", "reserved", "signs"]
    names += ["root", "head"]
    rows = (
        ("length", lambda value: value + 1, "incomplete"),
        ("index", lambda value: value - 1, "sealed"),
        ("meta", lambda value: value - 1, "format"),
        ("merk", lambda value: value - 1, "order"),
        ("veri", lambda value: value - 1, "sealed"),
        ("blocks", 5, "seal"),
        ("duration", 1080001, "seal"),
        ("tracks", 2, "seal"),
        ("reserved", 1, "incomplete"),
        ("signs", 1, "sealed"),
        ("root", bytes(32), "sealed"),
        ("head", bytes(32), "seal"),
    )
    assert "duration, µs" in SPEC
    for name, value, opens in rows:
        vectors.add(
            f"tail-{name}",
            "14.1",
            "seal",
            f"TAIL's {name} is wrong",
            container(tail={names.index(name): value}),
            open=opens,
        )
    for name in ("index", "meta", "merk", "veri", "blocks", "duration"):
        vectors.add(
            f"tail-{name}-most",
            "14.1",
            "seal",
            f"TAIL's {name} is 2^64-1",
            container(tail={names.index(name): 2**64 - 1}),
            open="incomplete",
        )
