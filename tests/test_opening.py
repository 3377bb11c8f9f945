"""Opening costs three small reads; without a TAIL a file is walked; tables come when asked for (H4MK 18)."""

import io
import struct
import threading

import pytest

from harmony4.crypto import (
    ChecksumError,
    HarmonyError,
    LimitError,
    NotFoundError,
    OrderError,
    SealError,
    TruncatedError,
    VersionError,
)
from harmony4.h4mk import H4MKBuilder, H4MKReader, SeekEntry, TrackInfo
from harmony4.h4mk import opening as opening_module
from harmony4.h4mk.layout import FIRST_READ, TAIL_CHUNK
from harmony4.h4mk.seek import PagedTable
from make_vectors.parts import BLOCKS, container, framed
from needs import ORIGINAL
from samples import VIDEO, Counting, payloads, track_of


@pytest.mark.parametrize(
    ("tracks", "blocks", "size"),
    [(1, 0, 8), (1, 1, 8), (1, 3000, 8), (1, 40, 2**16), (200, 0, 8), (200, 3, 8), (3, 500, 8)],
)
def test_three_small_reads(tracks, blocks, size):  # H4MK 18.1
    data = track_of(blocks, size, tracks=[VIDEO] * tracks)
    source = Counting(data)
    with H4MKReader(source) as reader:
        assert reader.state == "sealed" and reader.block_count == tracks * blocks
    assert len(source.reads) == 3
    tail, front, meta = source.reads
    assert tail == (len(data) - TAIL_CHUNK, TAIL_CHUNK)
    assert front == (0, FIRST_READ)
    assert 12 < meta[1] <= 12 + 2**20 and meta[1] < len(data)
    assert source.closed == 0  # a source that was given stays its owner's


def test_a_long_trak_costs_one_more_read():  # H4MK 18.1
    data = track_of(1, tracks=[TrackInfo(name="n" * 70_000)])
    source = Counting(data)
    with H4MKReader(source) as reader:
        assert reader.trak.tracks[0].name == "n" * 70_000
    assert len(source.reads) == 4 and source.reads[2][1] > 70_000


def test_tables_are_read_once_and_only_when_asked_for():
    source = Counting(track_of(100, tracks=[VIDEO, VIDEO]))
    with H4MKReader(source) as reader:
        source.taken()
        assert reader.seek(500_000, 1) is not None
        reads, size = source.taken()
        assert reads == 2 and size == 12 + 4 + 16 * 25
        reader.seek(900_000, 1)
        assert source.taken() == (0, 0)
        assert reader.read(5, 20, 1)
        assert source.taken()[0] == 2 + 4  # header and body of RMAP; four blocks of eight bytes
        reader.read(5, 20, 1)
        assert source.taken() == (4, 20)


@pytest.mark.parametrize("number", range(8))
def test_threads_load_a_table_once(number):
    source = Counting(track_of(100))
    with H4MKReader(source) as reader:
        source.taken()
        gate = threading.Barrier(5)
        found = []

        def seek():
            gate.wait(10)
            found.append((reader.seek(number * 100_000), reader.locate(number * 100_000)))

        threads = [threading.Thread(target=seek) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 5 and len(set(found)) == 1
        assert source.taken()[0] == 4


# ---- without a TAIL --------------------------------------------------------------------------------------

GOOD = container()


def test_a_cut_at_every_byte():  # H4MK 18.2
    """Every block that is complete is there, and nothing else; the rest is an error of ours."""
    data = GOOD
    whole = payloads(data)
    trak_end = 20 + int.from_bytes(data[12:16])
    for cut in range(len(data)):
        try:
            reader = H4MKReader(data[:cut])
        except HarmonyError as error:
            assert cut < trak_end
            assert error.code == "truncated"
            continue
        assert cut >= trak_end and reader.state == "incomplete"
        assert (reader.head, reader.root, reader.meta, reader.etag()) == (None, None, None, None)
        complete = [payload for payload in whole if data.index(payload) + len(payload) <= cut]
        assert [block.payload for block in reader.blocks()] == complete
        assert reader.read(0, 100) == b"".join(complete)
        assert reader.block_count == len(complete) == reader.tracks[0].blocks
        assert reader.tracks[0].sha256 is None
        if 0 < len(complete) < 4:
            assert [(hole.first, hole.count) for hole in reader.lost] == [(len(complete), 0)]


def test_walking_stops_where_the_order_breaks():  # H4MK 18.2
    def wrong_kind(raws):
        return [*raws[:2], raws[2], framed(b"SAFE", raws[3][12:]), *raws[4:]]

    def wrong_size(raws):
        return [*raws[:3], framed(b"CORE", raws[3][12:-1]), *raws[4:]]

    def wrong_token(raws):
        return [*raws[:2], framed(b"TOKN", raws[2][12:], None, 5), *raws[3:]]

    def twice(raws):
        return [*raws[:2], *raws]

    for body in (wrong_kind, wrong_size, wrong_token, twice):
        data = container(body=body)[:-1]
        with H4MKReader(data) as reader:
            assert (reader.state, reader.block_count) == ("incomplete", 1)
            assert reader.read(0, 100) == b"header"


def test_a_tail_that_does_not_fit_is_no_tail():  # H4MK 2.2, 14.1
    tail = GOOD[-TAIL_CHUNK:]
    for bad in (
        GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
        GOOD + b"more",
        GOOD[:-TAIL_CHUNK] + b"post" + tail[4:],
        container(tail={0: len(GOOD) + 1}),
        container(tail={8: 1}),
        container(tail={3: 5}),
        b"H4MK\0\0\0\1" + tail,
    ):
        try:
            assert H4MKReader(bad).state == "incomplete"
        except HarmonyError:
            assert bad[8:12] != b"TRAK"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", TruncatedError),
        (b"H4MK", TruncatedError),
        (b"H4MK\0\0\0\1", TruncatedError),
        (b"PK\3\4" * 100, VersionError),
        (bytes(10_000), VersionError),
        (container(change_trak=lambda trak: trak["cut"].update(rule=2)), HarmonyError),
        (container(trak_json=lambda data: data.replace(b'"rule"', b' "rule"')), HarmonyError),
        (container(tail={10: bytes(32), 11: bytes(32)}), SealError),
        (container(tail={7: 2}), SealError),
        (container(change_meta=lambda meta: meta.update(blocks=5)), SealError),
        (container(change_meta=lambda meta: meta.update(duration=5)), SealError),
        (container(change_meta=lambda meta: meta["tracks"].append(meta["tracks"][0])), SealError),
        (container(change_meta=lambda meta: meta["tracks"][0].update(blocks=3)), SealError),
        (
            container(emit=lambda tag, raw: framed(b"META", raw[12:], None, 1) if tag == "META" else raw),
            ChecksumError,
        ),
        (
            container(emit=lambda tag, raw: framed(b"TRAK", raw[12:], None, 1) if tag == "TRAK" else raw),
            ChecksumError,
        ),
        (container(emit=lambda tag, raw: framed(b"post", raw[12:]) if tag == "TRAK" else raw), OrderError),
        (container(emit=lambda tag, raw: framed(b"post", raw[12:]) if tag == "META" else raw), OrderError),
        (container(tail={2: lambda at: at - 1}), HarmonyError),
        (container(tail={3: lambda at: at + 1}), OrderError),
    ],
)
def test_containers_that_do_not_open(data, kind):  # H4MK 18.1
    with pytest.raises(kind):
        H4MKReader(data)


def test_a_meta_that_is_too_large_is_not_read():  # H4MK 24.1
    """A TAIL that claims a META of gigabytes costs no more than reading TAIL and the front."""
    room = framed(b"post", bytes(2**21))
    data = container(emit=lambda tag, raw: raw + room if tag == "META" else raw)
    source = Counting(data)
    with pytest.raises(LimitError):
        H4MKReader(source)
    assert len(source.reads) == 2


@pytest.mark.parametrize("tag", ["SEEK", "RMAP"])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda place: 8, OrderError),
        (lambda place: 2**40, OrderError),
        (lambda place: place + 1, HarmonyError),
        (None, OrderError),  # the other table
    ],
)
def test_a_directory_that_points_elsewhere(tag, change, kind):  # H4MK 18.1
    key, other = ("seek", "rmap") if tag == "SEEK" else ("rmap", "seek")

    def point(meta):
        track = meta["tracks"][0]
        track[key] = change(track[key]) if change else track[other]

    with H4MKReader(container(change_meta=point)) as reader:
        with pytest.raises(kind):
            reader.seek_table() if tag == "SEEK" else reader.range_map()
        (reader.range_map if tag == "SEEK" else reader.seek_table)()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (
            {"emit": lambda tag, raw: framed(raw[:4], raw[12:], None, 1) if tag == "SEEK" else raw},
            ChecksumError,
        ),
        ({"seek": lambda tables: [tables[0] + b"x"]}, HarmonyError),
        ({"seek": lambda tables: [struct.pack(">I", 2**32 - 1)]}, HarmonyError),
        ({"seek": lambda tables: [tables[0][:4] + tables[0][20:] + tables[0][4:20]]}, OrderError),
        ({"seek": lambda tables: [struct.pack(">I", 1) + tables[0][4:20]]}, SealError),
    ],
)
@pytest.mark.parametrize("limit", [2**23, 0])
def test_a_seek_table_that_lies(change, kind, limit, monkeypatch):  # H4MK 18.3
    monkeypatch.setattr(opening_module, "COPY_LIMIT", limit)
    with H4MKReader(container(**change)) as reader:
        if limit == 0 and kind in (ChecksumError, OrderError):
            reader.seek(50_000)  # by pages nobody looks at the whole table
            return
        with pytest.raises(kind):
            reader.seek(50_000)


def test_paged_tables_give_the_same_answers(monkeypatch):  # H4MK 18.3
    data = track_of(300)
    with H4MKReader(data) as copied:
        wanted = [(copied.seek(time), copied.locate(time)) for time in range(0, 13_000_000, 39_999)]
        pieces = list(copied.extents(0, 10**6))
    monkeypatch.setattr(opening_module, "COPY_LIMIT", 0)
    with H4MKReader(data) as paged:
        assert [(paged.seek(time), paged.locate(time)) for time in range(0, 13_000_000, 39_999)] == wanted
        assert list(paged.extents(0, 10**6)) == pieces
        size = paged.stream_size()
        monkeypatch.setattr(PagedTable, "row", None)
        assert paged.stream_size() == size  # found once: a server asks for every request


# ---- the original implementation's files -----------------------------------------------------------------


def test_the_original_implementations_file():  # H4MK 23
    with H4MKReader(ORIGINAL) as reader:
        assert (reader.state, reader.head, reader.meta) == ("original", None, None)
        assert reader.original_meta
        assert list(reader.seek_table()) == [
            SeekEntry(0, 0),
            SeekEntry(1_000_000, 3_000),
            SeekEntry(2_000_000, 9_000),
        ]
        assert reader.seek(1_500_000) == SeekEntry(1_000_000, 3_000)
        stream = b"".join(payloads(ORIGINAL.read_bytes()))
        assert reader.read(0, 10**9) == stream
        assert b"".join(block.payload for block in reader.blocks()) == stream
        assert reader.etag() is not None and reader.duration == 2_000_000
        with pytest.raises(NotFoundError):
            reader.token(0)
        with pytest.raises(NotFoundError):
            next(reader.tokens())


def original(*chunks):
    return b"H4MK\0\1\0\0" + b"".join(framed(tag, payload) for tag, payload in chunks)


def test_small_files_of_the_original_implementation():  # H4MK 23
    with H4MKReader(original()) as empty:
        assert (empty.state, empty.seek(5), empty.stream_size(), empty.etag()) == ("original", None, 0, None)
        assert empty.tracks[0].info.kind == "data" and empty.original_meta is None
    seek = struct.pack(">I4Q", 2, 10, 0, 20, 99)
    with H4MKReader(
        original((b"SEEK", seek), (b"META", b'{"domain":"audio"}'), (b"VERI", bytes(32)))
    ) as reader:
        assert reader.tracks[0].info.kind == "audio"
        found = reader.locate(25)
        assert (found.pts, found.offset, found.size, found.block_index) == (20, 99, 0, 0)
        assert reader.etag() is not None
    with H4MKReader(original((b"CORE", b""), (b"CORE", b"abc"), (b"CORE", b""), (b"CORE", b"de"))) as reader:
        assert reader.read(1, 3) == b"bcd" and reader.tracks[0].blocks == 2


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"SEEK", b"\0\0\0\2" + bytes(16))],
        [(b"SEEK", b"\0")],
        [(b"META", b"[]")],
        [(b"META", b"{" * 1000)],
        [(b"META", b'{"a":"' + b"x" * 2**20 + b'"}')],
        [(b"TOKN", bytes(128))],
        [(b"VERI", bytes(32)), (b"CORE", b"x")],
    ],
)
def test_bad_files_of_the_original_implementation(chunks):
    with pytest.raises(HarmonyError):
        H4MKReader(original(*chunks))
    with pytest.raises(ChecksumError):
        H4MKReader(original() + framed(b"META", b"{}", None, 7))
    with pytest.raises(TruncatedError):
        H4MKReader(original((b"CORE", b"abc"))[:-1])


def test_nothing_is_left_open_by_a_file_that_does_not_open(tmp_path):
    (tmp_path / "x").write_bytes(GOOD[:30])
    for _ in range(3):
        with pytest.raises(HarmonyError):
            H4MKReader(tmp_path / "x")
    with H4MKBuilder(io.BytesIO(), [VIDEO]) as builder:
        for block in BLOCKS:
            builder.add_block(**block)
        builder.finish()
