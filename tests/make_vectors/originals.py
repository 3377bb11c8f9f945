"""Broken files of the original profile (H4MK 23)."""

from functools import partial

from independent import chunk
from make_vectors.parts import container, framed, kept
from make_vectors.valid import original

CORE = chunk(b"CORE", b"media")
META = chunk(b"META", b'{"domain":"video"}')
SAFE = chunk(b"SAFE", b'{"scope":"transport-only"}')


def seek(*pairs, count=None):
    """SEEK as the original implementation wrote it."""
    data = (len(pairs) if count is None else count).to_bytes(4, "big")
    return chunk(b"SEEK", data + b"".join(p.to_bytes(8, "big") + o.to_bytes(8, "big") for p, o in pairs))


def add_all(vectors):
    """Add the vectors of this module."""
    add = partial(vectors.add, spec="23", recover="usage")

    def bad(name, expect, text, data, open=None, read=None):
        add(
            name=f"original-{name}",
            expect=expect,
            description=text,
            data=data,
            open=open or expect,
            read=read,
        )

    whole = original(CORE, seek((0, 0)), META, SAFE)
    bad("no-veri", "truncated", "no VERI", original(CORE, META, veri=False), "original")
    bad("header-only", "truncated", "the header and nothing else", whole[:8], "original")
    bad("cut-core", "truncated", "cut inside a payload", whole[:22])
    bad("cut-last", "truncated", "the last byte is missing", whole[:-1])
    bad(
        "size-most",
        "truncated",
        "a payload claims 2^32-1 bytes",
        original(framed(b"CORE", b"media", size=2**32 - 1)),
    )
    bad(
        "veri",
        "seal",
        "a wrong VERI",
        original(CORE, META, veri=False) + chunk(b"VERI", bytes(32)),
        "original",
    )
    bad("veri-size", "limit", "VERI of 31 bytes", original(CORE, veri=False) + chunk(b"VERI", bytes(31)))
    crc = framed(b"CORE", b"media", crc=0)
    bad("crc", "checksum", "a payload's CRC is wrong", original(crc, META), "original", "checksum")
    bad("crc-meta", "checksum", "META's CRC is wrong", original(CORE, framed(META[:4], META[12:], crc=0)))
    bad("critical", "critical", "an unknown critical chunk", original(CORE, chunk(b"NEWS", b"")))
    bad(
        "tokn",
        "critical",
        "a TOKN, which this profile does not have",
        original(chunk(b"TOKN", bytes(128)), CORE),
    )
    bad(
        "ancillary",
        "critical",
        "an ancillary chunk, which this profile does not have",
        original(CORE, chunk(b"pstr", b"")),
    )
    bad("tag", "format", "a tag that is not four letters", original(CORE, chunk(b"SEE1", b"")))
    bad("order", "order", "META before SEEK", original(CORE, META, seek((0, 0))))
    bad("core-late", "order", "a payload behind SEEK", original(seek((0, 0)), CORE))
    bad("seek-twice", "order", "SEEK twice", original(CORE, seek((0, 0)), seek((0, 0))))
    bad("behind-veri", "order", "a chunk behind VERI", whole + CORE)
    bad("bytes-behind-veri", "truncated", "two bytes behind VERI", whole + b"\0\0")
    bad("seek-unsorted", "order", "SEEK not sorted by time", original(CORE, seek((5, 0), (3, 1))))
    bad("seek-pts-twice", "order", "two SEEK entries with one pts", original(CORE, seek((5, 0), (5, 1))))
    bad("seek-offset-back", "order", "SEEK offsets that decrease", original(CORE, seek((3, 1), (5, 0))))
    bad("seek-wide", "format", "a SEEK offset of 2^63", original(CORE, seek((5, 2**63))))
    bad("seek-count", "format", "SEEK counts one entry more", original(CORE, seek((5, 0), count=2)))
    bad(
        "seek-count-most",
        "format",
        "SEEK counts 2^32-1 entries",
        original(CORE, seek((5, 0), count=2**32 - 1)),
    )
    bad("seek-empty", "limit", "SEEK without a count", original(CORE, chunk(b"SEEK", b"")))
    bad("meta-array", "json", "META that is no object", original(CORE, chunk(b"META", b"[1]")))
    bad("meta-not-json", "json", "META that is no JSON", original(CORE, chunk(b"META", b"{video}")))
    bad(
        "meta-bomb",
        "json",
        "META with five thousand brackets",
        original(CORE, chunk(b"META", b'{"a":' + b"[" * 5000)),
    )
    bad("safe-not-json", "json", "SAFE that is no JSON", original(CORE, chunk(b"SAFE", b"safe")), "original")
    plain = container()
    add(
        name="original-header-on-v1",
        expect="critical",
        description="this specification's chunks under the original profile",
        data=b"H4MK\0\1\0\0" + plain[8:],
        open="critical",
    )
    vectors.add(
        "v1-header-on-original",
        "2.1",
        "order",
        "the original profile's chunks under this specification's header",
        b"H4MK\0\0\0\1" + whole[8:],
        open="order",
        recover="truncated",
    )
    assert kept(0)["blocks"] == 0
