"""The scanners of top-level structure (H4MK 16.3), in one piece and in many."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.tokenize.scan import Boxes, Chunks, Clusters, Packets, Pages, Samples, Scanner, missing
from media_factory import media
from needs import needs_ffmpeg


def box(kind: bytes, size: int, wide: bool = False) -> bytes:
    if wide:
        return b"\0\0\0\1" + kind + (16 + size).to_bytes(8, "big") + b"m" * size
    return (8 + size).to_bytes(4, "big") + kind + b"m" * size


def element(tag: str, body: bytes | None, width: int = 8) -> bytes:
    """An EBML element; body None: of unknown size (what follows is its body)."""
    if body is None:
        return bytes.fromhex(tag) + ((1 << 7 * width + 1) - 1).to_bytes(width, "big")
    return bytes.fromhex(tag) + (len(body) | 1 << 7 * width).to_bytes(width, "big") + body


def page(*segments: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + b"\x55" * sum(segments)


def packet(pid: int, start: bool = True, size: int = 188) -> bytes:
    return bytes(size - 188) + bytes([0x47, start << 6 | pid >> 8, pid & 255, 0x10]) + b"\xaa" * 184


CLUSTER, SEGMENT, SIMPLE, CUES, EBML = "1f43b675", "18538067", "a3", "1c53bb6b", "1a45dfa3"
FRAGMENTED = (
    box(b"ftyp", 8) + box(b"moov", 700) + box(b"moof", 90) + box(b"mdat", 3000, wide=True) + box(b"moof", 10)
)
MATROSKA = element(EBML, b"x" * 30) + element(
    SEGMENT,
    element(CLUSTER, element(SIMPLE, b"\x1f\x43\xb6\x75" * 50))  # the marker inside a payload is no Cluster
    + element(CUES, b"c" * 20, 2)
    + element(CLUSTER, element(SIMPLE, b"s" * 900), 4),
)
LIVE = (
    element(EBML, b"x" * 30)
    + element(SEGMENT, None)
    + element(CLUSTER, None, 1)
    + element("e7", b"\1", 1)
    + element(SIMPLE, b"s" * 90, 2)
    + element(CLUSTER, None)
    + element(SIMPLE, b"s" * 900, 2)
)
OGG = page(10) + page(255, 255, 7) + page() + page(1)
TS = packet(0) + packet(16) + packet(256) + packet(256, False) + packet(0, False) + packet(0) + packet(257)
TS += packet(256)

CASES: dict[str, tuple[Callable[[], Scanner], bytes, list[int]]] = {
    "fragmented": (Boxes, FRAGMENTED, [724, 3838]),
    "plain": (Boxes, box(b"ftyp", 8) + box(b"mdat", 99) + box(b"moov", 20), []),
    "to the end": (Boxes, box(b"moof", 8) + b"\0\0\0\0mdat" + box(b"moof", 8), [0]),
    "broken size": (Boxes, box(b"moof", 8) + b"\0\0\0\7moof" + box(b"moof", 8), [0, 16]),
    "broken wide size": (Boxes, box(b"moof", 8) + b"\0\0\0\1mdat" + bytes(8) + box(b"moof", 8), [0]),
    "absurd wide size": (Boxes, b"\0\0\0\1mdat" + b"\xff" * 8 + box(b"moof", 8), []),
    "matroska": (Clusters, MATROSKA, [54, 301]),
    "live matroska": (Clusters, LIVE, [54, 155]),
    "garbage, then a Cluster": (Clusters, b"\0" * 9 + b"\x1f\x43" + element(CLUSTER, b"x") + b"zz", [11]),
    "unknown size where it may not be": (Clusters, element(SIMPLE, None) + element(CLUSTER, b"x"), [9]),
    "no size at all": (Clusters, b"\xa3\0" + element(CLUSTER, b"x"), [2]),
    "ogg": (Pages, OGG, [0, 38, 585, 612]),
    "garbage between pages": (Pages, b"Og" + page(3) + b"OggOgg" + page(4), [2, 39]),
}


def feed(scanner: Scanner, data: bytes, cuts: list[int]) -> None:
    for a, b in itertools.pairwise([0, *sorted(cuts), len(data)]):
        scanner.feed(data[a:b])


@pytest.mark.parametrize("name", CASES)
def test_units(name: str) -> None:
    make, data, units = CASES[name]
    for size in (len(data), 1, 2, 3, 7, 64):
        scanner = make()
        feed(scanner, data, list(range(size, len(data), size)))
        assert scanner.reads
        for pos in range(len(data)):
            assert scanner.unit(pos) == max((one for one in units if one <= pos), default=pos)


@settings(deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_pieces_do_not_matter(name: str, data: st.DataObject) -> None:
    make, content, units = CASES[name]
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=12))
    scanner = make()
    feed(scanner, content, cuts)
    assert [one for one in range(len(content)) if scanner.unit(one) == one and one in units] == units


@settings(deadline=None)
@given(
    st.sampled_from([Boxes, Clusters, Pages, lambda: Packets(256), lambda: Packets(256, 192)]), st.binary()
)
def test_never_raises(make: Callable[[], Scanner], data: bytes) -> None:
    whole, pieces = make(), make()
    whole.feed(data)
    feed(pieces, data, list(range(0, len(data), 5)))
    for pos in range(len(data)):
        assert whole.unit(pos) == pieces.unit(pos) <= pos


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([MATROSKA, LIVE, OGG, TS]), st.integers(0, 2**32))
def test_damage(data: bytes, seed: int) -> None:
    rnd = random.Random(seed)
    bad = bytearray(data)
    for _ in range(rnd.randrange(1, 9)):
        bad[rnd.randrange(len(bad))] = rnd.randrange(256)
    for make in (Boxes, Clusters, Pages, lambda: Packets(256)):
        whole, pieces = make(), make()
        whole.feed(bad)
        feed(pieces, bytes(bad), [rnd.randrange(len(bad)) for _ in range(20)])
        assert [whole.unit(pos) for pos in range(len(bad))] == [pieces.unit(pos) for pos in range(len(bad))]


def test_forgetting_keeps_what_is_needed() -> None:
    scanner = Pages()
    scanner.feed(OGG)
    scanner.forget(20)
    assert scanner.unit(20) == 0
    scanner.forget(600)
    assert (scanner.unit(600), scanner.unit(700)) == (585, 612)
    assert len(scanner.units) == 2


def test_order() -> None:
    for data, order in ((box(b"free", 9), None), (FRAGMENTED, "moov"), (box(b"mdat", 9), "mdat")):
        boxes = Boxes()
        boxes.feed(data)
        assert boxes.order == order
    boxes = Boxes()
    boxes.feed(FRAGMENTED)
    assert (boxes.fragment_before(724), boxes.fragment_before(725), boxes.fragment_before(None)) == (
        False,
        True,
        True,
    )


def test_samples() -> None:
    samples = Samples()
    samples.feed(b"abc")
    samples.forget(2)
    assert (samples.reads, samples.unit(77)) == (False, 77)


def chunk(kind: bytes, size: int) -> bytes:
    return kind + size.to_bytes(4, "little") + b"s" * size


WAV = b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", 16) + chunk(b"LIST", 5) + b"\0" + chunk(b"data", 301) + b"\0"


class TestMissing:
    @pytest.mark.parametrize(
        ("make", "data", "kept", "lacks"),
        [
            (Boxes, FRAGMENTED, 15, 0),  # of ftyp
            (Boxes, FRAGMENTED, 724, 0),  # between two boxes
            (Boxes, FRAGMENTED, 723, 1),
            (Boxes, FRAGMENTED, 840, 3000 - 2),
            (Boxes, box(b"ftyp", 8) + b"\0\0\0\0mdat" + bytes(9), 30, 0),  # to the end, wherever that is
            (Boxes, box(b"free", 8), 9, 0),
            (Boxes, b"\0\0\0\1mdat" + b"\x7f" + b"\xff" * 20, 20, 0),  # nonsense
            (Clusters, MATROSKA, len(MATROSKA) - 5, 5),
            (
                Clusters,
                MATROSKA,
                len(MATROSKA) - 930,
                930,
            ),  # a whole Cluster, of which only the Segment knows
            (Clusters, LIVE, len(LIVE) - 5, 5),
            (Clusters, element(SEGMENT, None) + element(CLUSTER, None) + bytes(8), 32, 0),  # lost
            (Pages, OGG, 585 - 3, 3),
            (Pages, OGG, 585 + 5, 0),
            (Chunks, WAV, len(WAV) - 1, 0),  # nobody needs the byte that makes it even
            (Chunks, WAV, len(WAV) - 2, 1),
            (Chunks, WAV, 100, 301 - (100 - 58)),
            (Chunks, WAV, 40, 0),
            (Chunks, WAV[:50] + b"data" + b"\xff" * 4 + bytes(50), 100, 0),  # out of a pipe
            (Chunks, WAV[:50] + b"data" + bytes(54), 100, 0),
            (lambda: Packets(256), TS, len(TS) - 9, 9),
            (lambda: Packets(256), TS, 6 * 188, 0),
            (lambda: Packets(256), TS + bytes(40), len(TS) + 40, 0),
            (lambda: Packets(256, 192), packet(0, size=192) * 2, 195, 0),
            (lambda: Packets(256, 192), packet(0, size=192) * 2, 200, 184),
            (Samples, b"whatever", 4, 0),
        ],
    )
    def test_what_it_is(self, make: Callable[[], Scanner], data: bytes, kept: int, lacks: int) -> None:
        for cuts in ([], list(range(kept))):
            scanner = make()
            feed(scanner, data[:kept], cuts)
            assert scanner.missing == lacks

    @pytest.mark.parametrize(
        ("name", "make", "data"),
        [
            ("mp4", Boxes, FRAGMENTED),
            ("matroska", Clusters, MATROSKA),
            ("ogg", Pages, OGG),
            ("wav", Chunks, WAV),
        ],
    )
    def test_of_a_file(self, name: str, make: Callable[[], Scanner], data: bytes) -> None:
        """As what has seen every byte says, wherever it ends; whole ones lack nothing."""
        data *= 1 if name in ("matroska", "wav") else 20
        found = set()
        for kept in (*range(0, len(data), max(1, len(data) // 999)), len(data)):
            scanner = make()
            scanner.feed(data[:kept])
            assert missing(io.BytesIO(data[:kept]), kept, name) == scanner.missing
            found.add(scanner.missing > 0)
        assert scanner.missing == 0 and found == {False, True}

    def test_that_reads_little(self) -> None:
        """Of a long film some KiB for each part; it may become shorter meanwhile, too."""

        class Counting(io.BytesIO):
            reads = 0

            def read(self, n: int | None = -1, /) -> bytes:
                self.reads += 1
                return super().read(n)

        long = box(b"moov", 100) + box(b"mdat", 10_000_000)
        file = Counting(long)
        assert missing(file, len(long), "mp4") == 0
        assert file.reads == 1
        assert missing(Counting(long[:5000]), len(long), "mp4") == 0  # as far as it was there, all was well
        assert missing(Counting(long * 2), 15_000_000, "mp4") == 2 * len(long) - 15_000_000
        assert missing(io.BytesIO(b"x"), 1, "mp3") == 0
        small = box(b"free", 9) * 1000
        assert missing(io.BytesIO(small[:5000]), len(small), "mp4") == 0


class TestTransport:
    def test_units(self) -> None:
        for size in (len(TS), 1, 100, 188, 189):
            scanner = Packets(256)
            feed(scanner, TS, list(range(size, len(TS), size)))
            p = 188
            assert [scanner.unit(k * p) for k in range(9)] == [
                *(0, 0, 0),  # the first clock packet: from the PAT before it
                *(3 * p, 4 * p),  # later ones: a clock packet stands between
                5 * p,  # a continued PAT is no start; the PAT itself is not before itself
                *(5 * p, 5 * p),  # the next PAT, over a packet of another stream
                8 * p,  # a clock packet stands between
            ]

    @pytest.mark.parametrize(("between", "unit"), [(63, 0), (64, 65 * 188)])
    def test_reach(self, between: int, unit: int) -> None:
        scanner = Packets(256)
        scanner.feed(packet(0) + packet(257) * between + packet(256))
        assert scanner.unit((between + 1) * 188) == unit

    def test_m2ts(self) -> None:
        data = b"".join(packet(pid, size=192) for pid in (17, 0, 4095, 256))
        scanner = Packets(256, 192)
        feed(scanner, data, [1, 4, 5, 192, 300])
        assert [scanner.unit(k * 192) for k in range(4)] == [0, 192, 192, 192]

    @pytest.mark.parametrize("size", [188, 192])
    def test_lost_sync(self, size: int) -> None:
        good = packet(0, size=size) + packet(256, size=size)
        for junk in (b"\0" * 5, b"\0" * 500):
            data = good + junk + good + good
            for cut in (1, 50, len(good), len(good) + 3, len(data)):
                scanner = Packets(256, size)
                feed(scanner, data, [cut])
                at = len(good) + len(junk)
                assert scanner.unit(at + size) == at
                assert scanner.unit(at + 3 * size) == at + 2 * size

    def test_the_clock_comes_later(self) -> None:
        scanner = Packets(256)
        scanner.feed(packet(0) + packet(0))
        scanner.feed(packet(257))
        scanner.feed(packet(256))
        scanner.feed(packet(0))
        assert scanner.unit(3 * 188) == 188
        assert scanner.unit(3 * 188 + 1) == 3 * 188 + 1
        scanner.forget(188)
        assert scanner.unit(3 * 188) == 188
        scanner.forget(4 * 188)
        assert scanner.unit(5 * 188) == 4 * 188


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("fragmented.mp4", Boxes, "mp4"),
        ("fragments-by-time.mp4", Boxes, "mp4"),
        ("plain.mkv", Clusters, "matroska"),
        ("live.mkv", Clusters, "matroska"),
        ("live.webm", Clusters, "matroska"),
        ("theora.ogv", Pages, "ogg"),
        ("opus.ogg", Pages, "ogg"),
    ],
)
def test_real_media(name: str, make: Callable[[], Scanner], kind: str) -> None:
    data = media(name).read_bytes()
    expected = independent.top_level(data, kind)
    scanner = make()
    feed(scanner, data, list(range(0, len(data), 1000)))
    marker = {"mp4": b"moof", "matroska": b"\x1f\x43\xb6\x75", "ogg": b"OggS"}[kind]
    starts = set()
    for pos in range(0, len(data), 37):
        unit = scanner.unit(pos)
        assert unit == expected(pos, -1)
        if unit != pos:
            starts.add(unit)
    assert len(starts) >= 5
    for unit in starts:
        assert data[unit + 4 * (kind == "mp4") :].startswith(marker)
