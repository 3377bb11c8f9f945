"""H4MKReader: seeks, tokens, ranges, streams, holes, threads, and tables that lie (H4MK 18)."""

import io
import struct
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import (
    KEY,
    LAST,
    ChecksumError,
    FormatError,
    HarmonyError,
    NotFoundError,
    SealError,
    SourceError,
    TokenSequencer,
    TruncatedError,
    UsageError,
    sha256,
)
from harmony4.h4mk import (
    TOKEN_DTYPE,
    H4MKBuilder,
    H4MKReader,
    Lost,
    SeekEntry,
    SeekResult,
    TrackInfo,
)
from harmony4.h4mk import opening as opening_module
from harmony4.h4mk.edits import openfile
from make_vectors.parts import TWO, TWO_BLOCKS, TWO_ENDS, container, framed
from needs import ORIGINAL
from samples import VIDEO, Counting, track_of

GOOD = container()
STREAM = b"headersixteen bytes ..restsecond group"


@pytest.fixture
def reader():
    with H4MKReader(GOOD) as reader:
        yield reader


def test_locate(reader):  # H4MK 18.4
    assert reader.locate(39_999) is None
    assert reader.locate(700_000) == SeekResult(40_000, 6, 1, 1_040_000, 20, ((0, 6),))
    assert reader.locate(10**9) == SeekResult(1_040_000, 26, 3, None, 12, ((0, 6),))
    assert reader.seek(700_000) == SeekEntry(40_000, 6)


def test_unknown_tracks(reader):
    for call in (
        *(
            reader.seek_table,
            reader.range_map,
            reader.open,
            reader.etag,
            reader.token_array,
            reader.stream_size,
        ),
        lambda track: reader.seek(0, track),
        lambda track: reader.locate(0, track),
        lambda track: reader.token(0, track),
        lambda track: list(reader.tokens(track)),
        lambda track: list(reader.blocks(track)),
        lambda track: reader.read(0, 1, track),
    ):
        for track in (-1, 1, 65536):
            with pytest.raises(NotFoundError):
                call(track)


def test_tokens(reader):  # H4MK 6.1
    tokens = list(reader.tokens())
    assert [token.index for token in tokens] == [0, 1, 2, 3]
    assert [reader.token(index) for index in range(4)] == tokens
    assert list(reader.tokens(start=2)) == tokens[2:] and list(reader.tokens(start=9)) == []
    assert [block.token for block in reader.blocks(start=3)] == tokens[3:]
    for index in (-1, 4, 2**64):
        with pytest.raises(NotFoundError):
            reader.token(index)
    for call in (reader.tokens, reader.blocks):
        with pytest.raises(UsageError):
            list(call(start=-1))


def test_token_array(reader):
    array = reader.token_array()
    assert array.dtype == TOKEN_DTYPE and array.itemsize == 128
    assert array.tobytes() == b"".join(token.pack() for token in reader.tokens())
    assert list(array["pts"]) == [0, 40_000, 600_000, 1_040_000]
    assert np.sum(array["flags"] & KEY != 0) == 2
    assert array["digest"][0].tobytes() == sha256(b"header")
    with H4MKReader(track_of(0)) as empty:
        assert len(empty.token_array()) == 0


@given(st.integers(0, 45), st.integers(0, 45))
def test_any_range(start, length):  # H4MK 18.5
    with H4MKReader(GOOD) as reader:
        assert reader.read(start, length) == STREAM[start : start + length]
        pieces = list(reader.extents(start, length))
        assert (
            b"".join(GOOD[offset : offset + size] for offset, size in pieces)
            == STREAM[start : start + length]
        )
        assert all(size > 0 for _, size in pieces)
        assert all(a + size < b for (a, size), (b, _) in pairwise(pieces))


@pytest.mark.parametrize("asked", [(-1, 5), (0, -1)])
def test_negative_ranges(reader, asked):
    with pytest.raises(UsageError):  # before the first piece
        reader.extents(*asked)


def test_a_stream_is_a_file(reader):
    stream = reader.open()
    assert stream.readable() and stream.seekable() and not stream.writable()
    assert stream.read(3) == STREAM[:3] and stream.tell() == 3
    assert stream.seek(-4, io.SEEK_END) == len(STREAM) - 4
    assert stream.read() == STREAM[-4:] and stream.read() == b""
    assert stream.seek(100) == 100 and stream.read(5) == b""
    stream.seek(10)
    assert stream.seek(5, io.SEEK_CUR) == 15 and stream.peek(1)[:1] == STREAM[15:16]
    buffer = bytearray(9)
    stream.seek(0)
    assert stream.readinto(buffer) == 9 and buffer == STREAM[:9]
    raw = stream.detach()
    for offset, whence in ((-1, io.SEEK_SET), (-100, io.SEEK_CUR), (0, 9)):
        with pytest.raises(UsageError):
            raw.seek(offset, whence)
    assert raw.seek(9) == 9 == raw.tell() and raw.read(4) == STREAM[9:13]
    raw.close()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 60)), max_size=12))
def test_a_stream_behaves_as_bytesio(steps):
    with H4MKReader(GOOD) as reader, reader.open() as ours:
        theirs = io.BytesIO(STREAM)
        for whence, offset, count in steps:
            offset = -min(offset, len(STREAM)) if whence == io.SEEK_END else offset
            assert ours.seek(offset, whence) == theirs.seek(offset, whence)
            assert ours.read(count) == theirs.read(count)


def test_etags(reader):  # H4MK 12.3
    assert reader.etag() == independent.etag(reader.head)
    assert reader.etag(unmasked=True) == independent.etag(reader.head, unmasked=True) != reader.etag()


def test_the_entity_tag_of_the_file(monkeypatch):  # H4MK 12.3
    source = Counting(GOOD)
    with H4MKReader(source) as reader:
        source.taken()
        assert reader.file_etag() == independent.file_etag(GOOD) != reader.etag()
        assert reader.file_etag() == independent.file_etag(GOOD)
        assert source.taken()[0] == 1
    original = ORIGINAL.read_bytes()
    with H4MKReader(original) as reader:
        assert reader.file_etag() == independent.file_etag(original) != reader.etag()
    for unsealed in (GOOD[:-1], original[:-44]):
        with H4MKReader(unsealed) as reader:
            assert reader.file_etag() is None
    monkeypatch.setattr(openfile, "SEAL_LIMIT", 100)
    with H4MKReader(GOOD) as reader:
        assert reader.file_etag() is None


def test_paths_are_mapped_and_bytes_are_not(tmp_path):
    path = tmp_path / "x.h4mk"
    path.write_bytes(GOOD)
    with H4MKReader(path) as reader:
        offset, size = next(reader.extents(6, 16))
        assert bytes(memoryview(reader.mapping)[offset : offset + size]) == b"sixteen bytes .."
        assert reader.fileno() >= 0 and reader.size == len(GOOD)
    with pytest.raises(SourceError):
        reader.read(0, 5)
    with H4MKReader(str(path)) as reader:
        assert [info.tag for info in reader.chunks()][:3] == ["TRAK", "TOKN", "CORE"]
    with H4MKReader(GOOD) as reader:
        assert reader.mapping is None and reader.fileno() is None


def test_a_file_that_shrinks_while_it_is_open(tmp_path):  # H4MK 25
    path = tmp_path / "x.h4mk"
    path.write_bytes(GOOD)
    with H4MKReader(path) as reader:
        assert reader.read(0, 5) == b"heade"
        path.write_bytes(GOOD[:400])
        with pytest.raises(TruncatedError):
            reader.read(20, 18)


# ---- holes -----------------------------------------------------------------------------------------------


def with_holes(stored, lost_end=False, headers=(0, 1, 3)):
    """Eight blocks of which only `stored` are there; some of the first are HEADER blocks."""
    out = io.BytesIO()
    with H4MKBuilder(out, [VIDEO], gaps=True) as builder:
        sequencer, held, payloads = TokenSequencer(), None, {}
        for index in range(9):
            if index == 8:
                token = sequencer.finish(500)
            else:
                payloads[index] = bytes([65 + index]) * (index + 3)
                header = index in headers and index < 4
                pts = 0 if index < 4 else index * 10
                token = sequencer.push(
                    index + 3, sha256(payloads[index]), pts, key=index in (4, 6), header=header
                )
            if token is not None and token.index in stored:
                if lost_end:
                    token = replace(token, flags=token.flags & ~LAST)
                builder.add_token(token, payloads[token.index])
        assert held is None
        builder.finish()
        return out.getvalue()


def test_lost_blocks():  # H4MK 10.2, 18.5
    data = with_holes({1, 2, 5, 6})
    with H4MKReader(data) as reader:
        assert reader.lost == (Lost(1, 0), Lost(2, 3), Lost(0, 7))
        assert [token.index for token in reader.tokens()] == [1, 2, 5, 6]
        assert [token.index for token in reader.tokens(start=3)] == [5, 6]
        assert [block.token.index for block in reader.blocks(start=6)] == [6]
        assert reader.token(5).index == 5
        for index in (0, 3, 4):
            with pytest.raises(NotFoundError, match="lost"):
                reader.token(index)
        for index in (7, 8):
            with pytest.raises(NotFoundError, match="no such"):
                reader.token(index)
        assert reader.stream_size() == 3 + 4 + 5 + 6 + 7 + 8 + 9
        assert reader.read(3, 9) == b"BBBBCCCCC" and reader.read(25, 100) == b"F" * 8 + b"G" * 9
        assert reader.locate(65).block_index == 6
        for start, length in ((0, 1), (2, 1), (2, 5), (11, 2), (24, 1), (0, 100)):
            with pytest.raises(NotFoundError, match="lost"):  # before the first piece
                reader.extents(start, length)
        with reader.open() as stream, pytest.raises(NotFoundError):
            stream.read()


@pytest.mark.parametrize(
    ("stored", "headers", "ranges"),
    [
        (set(range(8)), (0, 1, 2, 3), ((0, 18),)),
        (set(range(8)), (0, 1, 3), ((0, 7), (12, 6))),
        ({1, 2, 3, 4, 6}, (0, 1, 2, 3), ((3, 15),)),
        ({0, 2, 3, 4, 6}, (0, 1, 2, 3), ((0, 3), (7, 11))),
        ({4, 6}, (0, 1, 2, 3), ()),
        (set(range(8)), (), ()),
    ],
)
def test_header_ranges(stored, headers, ranges):  # H4MK 18.4
    with H4MKReader(with_holes(stored, headers=headers)) as reader:
        assert reader.locate(60).header_ranges == ranges
        assert reader.locate(70).header_ranges == ranges
        for offset, size in ranges:
            assert len(reader.read(offset, size)) == size


def test_a_track_that_lost_everything():
    with H4MKBuilder(io.BytesIO(), [VIDEO, TrackInfo()], gaps=True) as builder:
        builder.add_token(
            replace(H4MKReader(GOOD).token(3), index=0, offset=0, key_offset=0), b"second group"
        )
        builder.finish(gone=[1])
        with H4MKReader(builder.getvalue()) as reader:
            assert reader.lost == (Lost(0, 0, 1),)
            assert (reader.stream_size(1), reader.read(0, 9, 1), reader.locate(5, 1)) == (0, b"", None)


# ---- tables that lie -------------------------------------------------------------------------------------


def entry(number, **fields):
    """Change an entry of RMAP; CRCs, VERI and head follow."""
    names = ("pts", "offset", "position", "leaf", "size", "flags", "zero")

    def change(tables):
        rows = list(struct.iter_unpack(">QQQQIHH", tables[0][16:]))
        values = dict(zip(names, rows[number], strict=True))
        values |= {name: value(values[name]) if callable(value) else value for name, value in fields.items()}
        rows[number] = tuple(values.values())
        return [tables[0][:16] + b"".join(struct.pack(">QQQQIHH", *row) for row in rows)]

    return container(rmap=change)


@pytest.mark.parametrize("limit", [2**23, 0], ids=["copied", "paged"])
@pytest.mark.parametrize(
    "data",
    [
        entry(0, offset=1),
        entry(1, offset=5),
        entry(1, offset=7),
        entry(2, offset=25),
        entry(0, size=7),
        entry(0, size=5),
        entry(3, size=2**32 - 1),
        entry(1, position=9),
        entry(1, position=2**40),
        entry(3, position=2**62),
        entry(2, position=lambda at: at - 200),
        entry(3, zero=1),
    ],
)
def test_a_range_map_that_lies(data, limit, monkeypatch):  # H4MK 9, 18.3, 18.6
    """A right CRC is no promise. Reading answers with an error, and never with more bytes than there are."""
    monkeypatch.setattr(opening_module, "COPY_LIMIT", limit)
    source = Counting(data)
    with H4MKReader(source) as reader:
        with pytest.raises(FormatError):
            reader.read(0, 2**40)
        assert max(count for _, count in source.reads) <= 2**16
        with pytest.raises(HarmonyError):
            list(reader.tokens())
        with pytest.raises(HarmonyError):
            list(reader.blocks())


def test_pages_are_checked_against_tokens(monkeypatch):  # H4MK 18.3
    """Flags and times of a copied table are only checked by `verify`; a paged one is never trusted."""
    data = entry(1, flags=0)
    with H4MKReader(data) as reader:
        assert reader.read(0, 30) == STREAM[:30]
    monkeypatch.setattr(opening_module, "COPY_LIMIT", 0)
    with H4MKReader(data) as reader, pytest.raises(SealError):
        reader.read(0, 30)
    with H4MKReader(GOOD) as reader:
        assert reader.read(0, 100) == STREAM


@pytest.mark.parametrize(
    ("emit", "kind"),
    [
        (lambda tag, raw: framed(b"TOKN", raw[12:], None, 1) if tag == "TOKN" else raw, ChecksumError),
        (lambda tag, raw: framed(b"TOKM", raw[12:]) if tag == "TOKN" else raw, SealError),
        (lambda tag, raw: framed(b"SAFE", raw[12:]) if tag == "CORE" else raw, SealError),
        (lambda tag, raw: framed(b"CORE", raw[12:], None, 1) if tag == "CORE" else raw, ChecksumError),
        (lambda tag, raw: framed(b"CORE", raw[12:-1] + b"#") if tag == "CORE" else raw, SealError),
    ],
)
def test_damaged_blocks(emit, kind):
    with H4MKReader(container(emit=emit)) as reader, pytest.raises(kind):
        list(reader.blocks())


def test_a_seek_table_that_does_not_fit_the_map():
    def nudge(tables):
        return [tables[0][:-1] + bytes([tables[0][-1] + 1])]

    with H4MKReader(container(seek=nudge)) as reader:
        assert reader.seek(2 * 10**6) == SeekEntry(1_040_000, 27)
        with pytest.raises(SealError):
            reader.locate(2 * 10**6)


def test_holes_that_the_map_does_not_show():
    def claim(meta):
        meta["lost"] = [{"count": 1, "first": 9, "track": 0}]

    with H4MKReader(container(change_meta=claim)) as reader:
        with pytest.raises(SealError):
            reader.read(0, 5)
        assert reader.token(1).index == 1


# ---- threads ---------------------------------------------------------------------------------------------


def test_many_threads_read_at_once(tmp_path):
    """Each call answers as it does alone, whatever the others do; tables are cold at first."""
    path = tmp_path / "x.h4mk"
    data = track_of(400, 40, tracks=[VIDEO, VIDEO])
    path.write_bytes(data)
    with H4MKReader(data) as alone:
        stream = [alone.read(0, 10**6, track) for track in (0, 1)]
    wrong = []
    with H4MKReader(path) as reader:
        gate = threading.Barrier(6)

        def work(seed):
            gate.wait(10)
            track = seed % 2
            try:
                with reader.open(track) as file:
                    for number in range(120):
                        at = (seed * 977 + number * 131) % len(stream[track])
                        index = at // 40
                        file.seek(at)
                        checks = (
                            file.read(77) == stream[track][at : at + 77],
                            reader.read(at, 50, track) == stream[track][at : at + 50],
                            reader.token(index, track).offset == index * 40,
                            reader.seek(index * 40_000, track).pts == index // 4 * 160_000,
                            reader.locate(index * 40_000, track).block_index == index // 4 * 4,
                        )
                        if not all(checks):
                            wrong.append((seed, number, checks))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_two_tracks_do_not_mix():
    data = container(TWO, TWO_BLOCKS, TWO_ENDS)
    with H4MKReader(data) as reader:
        assert reader.read(0, 99, 0) == b"picture 0picture 1"
        assert reader.read(0, 99, 1) == b"sound 0sound 1"
        assert reader.seek(550_000, 0) == SeekEntry(500_000, 9)
        assert reader.seek(550_000, 1) == SeekEntry(0, 0)
        assert reader.etag(0) != reader.etag(1)
