"""Coverage-guided fuzzing of what looks at media before or without a demuxer: sniff, the scanners, text.

Run it by `make fuzz`, or by hand as told in fuzz_container.py:

    PYTHONPATH=.link:tests .venv/bin/python tests/fuzz/fuzz_media.py \
        -max_total_time=600 -artifact_prefix=.build/fuzz/ .build/fuzz/media

Scanners never raise and say the same whatever pieces the bytes come in. The first byte of an input chooses
the scanner, the second the size of the pieces; a small medium of each kind is put into the corpus first.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["harmony4"]):
    from harmony4.tokenize.scan import Boxes, Clusters, Packets, Pages, Samples
    from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
    from harmony4.tokenize.text import Cues, Records

KINDS = (
    Boxes,
    Clusters,
    Pages,
    Samples,
    lambda: Packets(256),
    lambda: Packets(0x1FFE),
    lambda: Packets(256, 192),
)


def _units(scanner, data, sizes, places):
    """What a scanner says of these places, each asked once it has seen the bytes up to there."""
    at = piece = 0
    while at < len(data):
        size = sizes[piece % len(sizes)]
        scanner.feed(data[at : at + size])
        at, piece = at + size, piece + 1
    found = [scanner.unit(place) for place in places]
    scanner.forget(len(data) // 2)
    return found, [scanner.unit(place) for place in places if place >= len(data) // 2]


def _entries(scanner, data, sizes):
    """Where a scanner of text finds something that begins; never before what it has called settled."""
    found, at, piece = [], 0, 0
    while at < len(data):
        size, settled = sizes[piece % len(sizes)], scanner.settled
        more = scanner.feed(data[at : at + size])
        assert all(entry.start >= settled and 0 <= entry.pts <= entry.end for entry in more)
        found += more
        at, piece = at + size, piece + 1
    return found + scanner.finish()


def _once(data):
    kind = data[0] % (len(KINDS) + 1) if data else 0
    size = 1 + (data[1] if len(data) > 1 else 0)
    data = data[2:]
    found = sniff(data[:SNIFF_SIZE])
    assert found == sniff(data[:SNIFF_SIZE] + b"") and (found is None or found.name)
    if kind == len(KINDS):
        for text in (Cues, Records):
            assert _entries(text(), data, [size, 1]) == _entries(text(), data, [max(1, len(data))])
        return
    places = sorted({0, len(data) // 3, len(data) // 2, max(0, len(data) - 1), len(data)})
    whole, after = _units(KINDS[kind](), data, [max(1, len(data))], places)
    pieces = _units(KINDS[kind](), data, [size, 1], places)
    assert pieces == (whole, after)
    assert all(0 <= unit <= place for unit, place in zip(whole, places, strict=True))
    assert after == [unit for unit, place in zip(whole, places, strict=True) if place >= len(data) // 2]


def _seeds():
    """A few units of each structure, with every form of length that it knows."""

    def box(kind, body=b"", size=None):
        return (8 + len(body) if size is None else size).to_bytes(4, "big") + kind + body

    def page(*lacing):
        return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))

    def packet(pid, start=0x40):
        return bytes([0x47, start | pid >> 8, pid & 0xFF, 0x10]).ljust(188, b"\xff")

    large = box(b"mdat", (32).to_bytes(8, "big") + bytes(16), size=1)
    film = (
        box(b"ftyp", b"isom")
        + box(b"moof", bytes(9))
        + large
        + box(b"moof")
        + box(b"mdat", bytes(50), size=0)
    )
    cluster = b"\x1f\x43\xb6\x75"
    head = b"\x1aE\xdf\xa3\x88\x42\x82\x84webm" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7
    webm = head + cluster + b"\x84\xa3\x82ab" + cluster + b"\xff\xa3\x40\x03abc" + cluster + b"\x10\0\0\2xx"
    ogg = page(30) + page(255, 3) + b"junk" + page() + page(7)
    ts = (
        packet(0)
        + packet(256)
        + packet(256, 0)
        + packet(0)
        + b"\0\0"
        + packet(0x1FFE)
        + packet(0)
        + packet(256)
    )
    m2ts = b"".join(b"time" + ts[at : at + 188] for at in range(0, 188 * 4, 188))
    sound = b"ID3\4\0\0\0\0\0\5abcdefLaC" + b"\xff\xfb\x90\0".ljust(417, b"\0") + b"\xff\xfb\x90\0"
    for number, data in enumerate((film, webm, ogg, sound, ts, ts, m2ts, b"RIFF\0\0\0\0WAVE")):
        yield bytes([number, 3]) + data
    for data in (
        b"WEBVTT\n\n1\n00:01.000 --> 00:02.000\r\nx\r\rNOTE\n\n1:00:00.000-->1:00:01.000",
        b'{"pts":1}\n{"pts":2,"end":9}\n{}\n',
    ):
        yield bytes([len(KINDS), 3]) + data


if __name__ == "__main__":
    for folder in [name for name in sys.argv[1:] if Path(name).is_dir()][:1]:
        for number, seed in enumerate(_seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([*sys.argv, "-max_len=4096", "-timeout=20", "-rss_limit_mb=1024"], _once)
    atheris.Fuzz()
