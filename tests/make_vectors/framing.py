"""Header, tags, sizes, CRCs, and the order of chunks (H4MK 2, 3; checks V1 to V6)."""

import struct
from functools import partial

from independent import chunk
from make_vectors.parts import BLOCKS, container, framed, kept, spec_value, two
from make_vectors.valid import masked, signed

PLAIN = container()
SEALED = 4  # blocks of the plain example
NAMES = ("TRAK", "TOKN", "CORE", "SEEK", "RMAP", "META", "MERK", "VERI", "TAIL")


def add_all(vectors):
    """Add the vectors of this module."""
    _header(vectors)
    _tags(vectors)
    _cuts(vectors)
    _lies(vectors)
    _sizes(vectors)
    _checksums(vectors)
    _order(vectors)
    _order_behind(vectors)


def at(tag, number=0):
    """Where the chunk stands in the plain example."""
    place = -1
    for _ in range(number + 1):
        place = PLAIN.index(tag, place + 1)
    return place


def swapped(tag, change):
    """An `emit` that changes the chunks of one tag."""
    return lambda found, raw: change(raw) if found == tag else raw


def nth(tag, number, change):
    """An `emit` that changes one chunk of one tag."""
    seen = []

    def emit(found, raw):
        if found == tag:
            seen.append(raw)
            if len(seen) == number + 1:
                return change(raw)
        return raw

    return emit


def _header(vectors):
    add = partial(vectors.add, open="version", recover=kept(4))
    add("bad-magic", "2.1", "version", "a wrong magic", b"H4ML" + PLAIN[4:])
    add("bad-magic-case", "2.1", "version", "the magic in lower case", b"h4mk" + PLAIN[4:])
    add("bad-version-2", "2.1", "version", "version 2", b"H4MK\0\0\0\2" + PLAIN[8:])
    add("bad-version-little-endian", "2.1", "version", "little-endian 1", b"H4MK\1\0\0\0" + PLAIN[8:])
    add("bad-version-both", "2.1", "version", "a mix of both profiles", b"H4MK\0\1\0\1" + PLAIN[8:])
    add = partial(vectors.add, recover="version")
    add(
        "bad-media",
        "2.1",
        "version",
        "media that is not a container",
        b"\0\0\0\x18ftypisom" * 20,
        open="version",
    )
    add("bad-empty-file", "2.1", "truncated", "no byte at all", b"", open="truncated", recover="truncated")
    for size in (3, 4, 7):
        add(
            f"cut-header-{size}",
            "2.1",
            "truncated",
            f"{size} bytes of the header and nothing else",
            PLAIN[:size],
            open="truncated",
            recover="truncated",
        )


def _tags(vectors):
    def renamed(tag):
        return swapped("SEEK", lambda raw: tag + raw[4:])

    # META points at what should be SEEK, so reading the table fails as well.
    add = partial(vectors.add, spec="3.2")
    for name, tag in (("digit", b"SEE1"), ("nul", b"SEE\0"), ("high", b"SEE\xcb"), ("space", b"SEE ")):
        add(
            name=f"tag-{name}",
            expect="format",
            description=f"a tag that is not four letters: {tag!r}",
            data=container(emit=renamed(tag)),
            read="format",
        )
    more = [chunk(b"NEWS", b"critical")]
    add(
        name="tag-unknown-critical",
        expect="critical",
        description="an unknown critical chunk before SEEK",
        data=container(index=lambda raws: more + raws),
    )
    add(
        name="tag-unknown-critical-case",
        expect="critical",
        description="a known tag in another case is another tag",
        data=container(index=lambda raws: [chunk(b"Seek", raws[0][12:]), *raws]),
    )
    add(
        name="tag-unknown-critical-in-body",
        expect="critical",
        description="an unknown critical chunk between two blocks",
        data=container(body=lambda raws: [*raws[:4], *more, *raws[4:]]),
    )
    add(
        name="tag-ancillary-in-body",
        spec="3.3",
        expect="order",
        description="an ancillary chunk between two blocks",
        data=container(body=lambda raws: [*raws[:4], chunk(b"pstr", b"poster"), *raws[4:]]),
    )


def _cuts(vectors):
    places = (
        ("before-trak", 8, "truncated", "truncated"),
        ("in-trak-header", 15, "truncated", "truncated"),
        ("in-trak", at(b"TRAK") + 40, "truncated", "truncated"),
        ("after-trak", at(b"TOKN"), "incomplete", kept(0, (0, 0, 0))),
        ("in-tokn-header", at(b"TOKN") + 5, "incomplete", kept(0, (0, 0, 0))),
        ("in-tokn", at(b"TOKN", 1) + 50, "incomplete", kept(1, (0, 1, 0))),
        ("after-tokn", at(b"CORE", 1), "incomplete", kept(1, (0, 1, 0))),
        ("in-core-header", at(b"CORE", 1) + 11, "incomplete", kept(1, (0, 1, 0))),
        ("in-core", at(b"CORE", 3) + 23, "incomplete", kept(3, (0, 3, 0))),
        ("after-block", at(b"TOKN", 2), "incomplete", kept(2, (0, 2, 0))),
        ("after-blocks", at(b"SEEK"), "incomplete", kept(4)),
        ("in-seek", at(b"SEEK") + 20, "incomplete", kept(4)),
        ("before-meta", at(b"META"), "incomplete", kept(4)),
        ("in-meta", at(b"META") + 100, "incomplete", kept(4)),
        ("before-merk", at(b"MERK"), "incomplete", kept(4)),
        ("before-veri", at(b"VERI"), "incomplete", kept(4)),
        ("before-tail", len(PLAIN) - 140, "incomplete", kept(4)),
        ("in-tail-header", len(PLAIN) - 139, "incomplete", kept(4)),
        ("last-byte", len(PLAIN) - 1, "incomplete", kept(4)),
    )
    for name, size, opens, recover in places:
        vectors.add(
            f"cut-{name}",
            "3.1",
            "truncated",
            f"cut at byte {size}",
            PLAIN[:size],
            open=opens,
            recover=recover,
        )
    vectors.add(
        "cut-front", "2.1", "version", "the header is missing", PLAIN[8:], open="version", recover=kept(4)
    )


def _lies(vectors):
    def lie(size):
        return lambda raw: framed(raw[:4], raw[12:], size=size)

    def add(name, text, emit, **more):
        vectors.add(f"size-{name}", "3.1", "truncated", text, container(emit=emit), **more)

    most = 2**32 - 1
    add("trak-most", "TRAK claims 2^32-1 bytes", swapped("TRAK", lie(most)), open="truncated")
    add(
        "core-most",
        "a payload claims 2^32-1 bytes",
        nth("CORE", 1, lie(most)),
        read="truncated",
        recover=kept(3, (0, 1, 1)),
    )
    add("seek-most", "SEEK claims 2^32-1 bytes", swapped("SEEK", lie(most)), read="truncated")
    add("merk-most", "MERK claims 2^32-1 bytes", swapped("MERK", lie(most)))
    past = len(PLAIN) - at(b"META") - 12 + 1
    add(
        "meta-past-end",
        "META claims one byte more than is left",
        swapped("META", lie(past)),
        open="truncated",
    )


def _sizes(vectors):
    def add(name, text, data, **more):
        vectors.add(f"size-{name}", "3.2", "limit", text, data, **more)

    def resized(tag, size):
        return swapped(tag, lambda raw: chunk(raw[:4], raw[12:].ljust(size, b"\0")[:size]))

    add(
        "core-empty",
        "a payload of 0 bytes",
        container(body=lambda raws: [*raws[:4], raws[4], chunk(b"CORE", b""), *raws[6:]]),
        read="seal",
        recover=kept(3, (0, 2, 1)),
    )
    for size in (127, 129):
        record = nth("TOKN", 1, lambda raw, size=size: chunk(b"TOKN", raw[12:].ljust(size, b"\0")[:size]))
        add(
            f"tokn-{size}",
            f"TOKN of {size} bytes",
            container(emit=record, index=list),
            read="seal",
            recover=kept(3, (0, 1, 1)),
        )
    add("trak-1", "TRAK of 1 byte", container(trak_json=lambda _: b"{"), open="limit")
    add("meta-1", "META of 1 byte", container(meta_json=lambda _: b"{"), open="incomplete")
    add("seek-3", "SEEK without room for its count", container(seek=lambda _: [b"\0\0\0"]), read="limit")
    add(
        "rmap-15", "RMAP without room for its head", container(rmap=lambda raws: [raws[0][:15]]), read="limit"
    )
    add("merk-7", "MERK without room for its count", container(merk=lambda raw: raw[:7]), open="incomplete")
    add("veri-31", "VERI of 31 bytes", container(veri=lambda raw: raw[:31]), open="incomplete")
    add("veri-33", "VERI of 33 bytes", container(veri=lambda raw: raw + b"\0"))
    add("tail-129", "TAIL of 129 bytes", container(emit=resized("TAIL", 129)), open="incomplete")
    add("sign-143", "SIGN of 143 bytes", signed(finals=[chunk(b"SIGN", spec_value("final_sign")[:143])]))
    add("keys-519", "KEYS of 519 bytes", masked(keys=bytes(519)), recover="key")
    final = chunk(b"SIGN", spec_value("final_sign"))
    add("time-empty", "a time chunk of 0 bytes", signed(finals=[final, chunk(b"time", b"")]))


def _checksums(vectors):
    def spoilt(raw):
        return framed(raw[:4], raw[12:], crc=struct.unpack_from(">I", raw, 8)[0] ^ 0x80000000)

    opens = {"TRAK": "checksum", "META": "checksum", "TAIL": "incomplete"}
    reads = {"TOKN": "checksum", "CORE": "checksum", "SEEK": "checksum", "RMAP": "checksum"}
    recovers = {"TOKN": kept(3, (0, 1, 1)), "CORE": kept(3, (0, 1, 1))}
    for tag in NAMES:
        vectors.add(
            f"crc-{tag.lower()}",
            "3.1",
            "checksum",
            f"the CRC of {tag} is wrong and everything else is right",
            container(emit=nth(tag, 1 if tag in ("TOKN", "CORE") else 0, spoilt)),
            open=opens.get(tag, "sealed"),
            read=reads.get(tag),
            recover=recovers.get(tag),
        )
    pair = [(b"pstr", b"poster")]
    vectors.add(
        "crc-ancillary",
        "3.1",
        "checksum",
        "the CRC of an ancillary chunk is wrong",
        container(ancillary=pair, emit=swapped("pstr", spoilt)),
    )
    vectors.add(
        "crc-keys",
        "3.1",
        "checksum",
        "the CRC of KEYS is wrong",
        masked(emit=swapped("KEYS", spoilt)),
        recover="key",
    )
    vectors.add(
        "crc-sign", "3.1", "checksum", "the CRC of SIGN is wrong", signed(emit=swapped("SIGN", spoilt))
    )
    zero = nth("CORE", 1, lambda raw: framed(raw[:4], raw[12:], crc=0))
    vectors.add(
        "crc-zero",
        "3.1",
        "checksum",
        "a CRC field of 0 does not mean that there is none",
        container(emit=zero),
        read="checksum",
        recover=kept(3, (0, 1, 1)),
    )


def _order(vectors):
    def add(name, text, data, **more):
        vectors.add(f"order-{name}", "3.3", "order", text, data, **more)

    def doubled(raw):
        return raw + raw

    def gone(_):
        return b""

    add("trak-twice", "TRAK twice", container(emit=swapped("TRAK", doubled)))
    rebuilt = {"open": "order", "recover": kept(4)}
    add("trak-missing", "no TRAK", container(emit=swapped("TRAK", gone)), **rebuilt)

    def far(tokens):
        tokens[3].update(track=64000)

    add(
        "trak-missing-far-track",
        "no TRAK, and one block says it is of track 64000",
        container(change_tokens=far, emit=swapped("TRAK", gone)),
        open="order",
        recover=kept(3, (0, 3, 0), left_out=1),
    )
    trak = PLAIN[8 : at(b"TOKN")]
    first = nth("TOKN", 0, lambda raw: raw)
    add(
        "trak-late",
        "TRAK behind the blocks",
        container(
            emit=lambda tag, raw: b"" if tag == "TRAK" else first(tag, raw),
            index=lambda raws: [trak, *raws],
        ),
        **rebuilt,
    )
    add(
        "tokn-twice",
        "a TOKN twice before its payload",
        container(body=lambda raws: [*raws[:4], raws[4], raws[4], *raws[5:]]),
    )
    add(
        "core-twice",
        "a payload twice behind its TOKN",
        container(body=lambda raws: [*raws[:6], raws[5], *raws[6:]]),
    )
    add(
        "core-first",
        "a payload without a TOKN",
        container(body=lambda raws: [raws[5], *raws]),
    )
    add(
        "tokn-alone",
        "a TOKN without a payload as the last block",
        container(body=lambda raws: raws[:-1]),
        recover=kept(3, (0, 3, 0)),
        open="sealed",
    )
    add(
        "pair-reversed",
        "a payload stands before its TOKN",
        container(body=lambda raws: [*raws[:4], raws[5], raws[4], *raws[6:]]),
        read="seal",
        recover=kept(3, (0, 2, 1)),
    )
    block = container(blocks=BLOCKS[:3])
    late = [block[block.index(b"TOKN", at(b"TOKN", 2)) :][:140], PLAIN[at(b"CORE", 2) :][:16]]
    add(
        "block-late",
        "a block behind SEEK",
        container(blocks=BLOCKS, index=lambda raws: [raws[0], *late, raws[1]]),
        recover=kept(4, left_out=1),
    )


def _order_behind(vectors):
    def add(name, text, data, **more):
        vectors.add(f"order-{name}", "3.3", "order", text, data, **more)

    def doubled(raw):
        return raw + raw

    def gone(_):
        return b""

    add("seek-missing", "no SEEK", container(index=lambda raws: raws[1:]), read="order")
    add("rmap-missing", "no RMAP", container(index=lambda raws: raws[:1]), read="order")
    add(
        "seek-second-missing",
        "one SEEK for two tracks",
        two(index=lambda raws: [raws[0], *raws[2:]]),
        read="order",
    )
    add("rmap-second-missing", "one RMAP for two tracks", two(index=lambda raws: raws[:3]), read="order")
    add("seek-twice", "two SEEK for one track", container(index=lambda raws: [raws[0], *raws]))
    add("rmap-twice", "two RMAP for one track", container(index=lambda raws: [*raws, raws[-1]]))
    add("rmap-before-seek", "RMAP before SEEK", container(index=lambda raws: raws[::-1]))
    add(
        "seek-rmap-by-track",
        "SEEK, RMAP, SEEK, RMAP",
        two(index=lambda raws: [raws[0], raws[2], raws[1], raws[3]]),
    )
    add("meta-twice", "META twice", container(emit=swapped("META", doubled)), open="order")
    add("meta-missing", "no META", container(emit=swapped("META", gone)), open="incomplete")
    add("merk-missing", "no MERK", container(emit=swapped("MERK", gone)), open="incomplete")
    add("merk-twice", "MERK twice", container(emit=swapped("MERK", doubled)))
    add("veri-missing", "no VERI", container(emit=swapped("VERI", gone)), open="incomplete")
    add("veri-twice", "VERI twice", container(emit=swapped("VERI", doubled)))
    add("tail-twice", "TAIL twice; the second one counts neither", PLAIN + PLAIN[-140:], open="incomplete")
    add(
        "chunk-behind-tail",
        "an ancillary chunk behind TAIL",
        PLAIN + chunk(b"pstr", b"poster"),
        open="incomplete",
    )
    vectors.add(
        "order-bytes-behind-tail",
        "2.3",
        "truncated",
        "three bytes behind TAIL: the start of a chunk that is not there",
        PLAIN + b"\0\0\0",
        open="incomplete",
    )
    add(
        "keys-unasked",
        "KEYS without TRAK.mask",
        container(keys=spec_value("keys_payload_start").ljust(520, b"\0")),
    )
    add("keys-missing", "TRAK.mask without KEYS", masked(keys=None), recover="key")
    keys = chunk(b"KEYS", spec_value("keys_payload_start").ljust(520, b"\0"))
    add(
        "keys-late",
        "KEYS behind the first block",
        masked(keys=None, body=lambda raws: [*raws[:2], keys, *raws[2:]]),
        recover="key",
    )
    check = chunk(b"SIGN", spec_value("checkpoint_sign"))
    add(
        "checkpoint-first", "a checkpoint before the first block", container(body=lambda raws: [check, *raws])
    )
    add(
        "checkpoint-twice",
        "two checkpoints in a row",
        container(body=lambda raws: [*raws[:4], check, check, *raws[4:]]),
    )
    add(
        "checkpoint-inside",
        "a checkpoint between TOKN and payload",
        container(body=lambda raws: [*raws[:5], check, *raws[5:]]),
        read="format",
        recover=kept(3, (0, 2, 1)),
    )
    add(
        "checkpoint-behind-ancillary",
        "a checkpoint behind the blocks' end",
        container(ancillary=[(b"pstr", b"x")], index=lambda raws: [raws[0], check, *raws[1:]]),
    )
