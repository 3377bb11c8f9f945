"""ChunkStream and the order of chunks: fed whole, byte by byte, with trailing data (H4MK 3)."""

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.crypto import (
    CriticalError,
    FormatError,
    HarmonyError,
    LimitError,
    OrderError,
    TruncatedError,
    VersionError,
)
from harmony4.h4mk import ChunkInfo, ChunkStream
from harmony4.h4mk.chunks import ChunkEnd, Grammar, Header
from make_vectors.parts import container, framed
from needs import ORIGINAL

GOOD = container(ancillary=[(b"post", b""), (b"post", b"picture")])
OLD = ORIGINAL.read_bytes()


def told(stream, pieces):
    """What a stream says of the pieces, payloads joined; and how it ends."""
    said, payload = [], b""
    for piece in pieces:
        stream.feed(piece)
        for event in stream.events():
            if isinstance(event, memoryview):
                payload += event
            elif isinstance(event, ChunkEnd):
                said.append((event.info, payload, event.crc))
                payload = b""
            else:
                said.append(event)
    return said


def by(step, data=GOOD):
    return [data[at : at + step] for at in range(0, len(data), step)]


@pytest.mark.parametrize("data", [GOOD, OLD], ids=["sealed", "original"])
@pytest.mark.parametrize("step", [1, 2, 7, 11, 12, 13, 140, 10**6])
def test_pieces_of_any_size_say_the_same(data, step):
    stream = ChunkStream(len(data))
    said = told(stream, by(step, data))
    stream.close()
    assert said == told(ChunkStream(), [data])
    assert said[0] == Header(data is OLD)
    starts, ends = said[1::2], said[2::2]
    assert [info for info, _, _ in ends] == starts
    rebuilt = data[:8] + b"".join(
        framed(info.tag.encode(), payload, None, crc) for info, payload, crc in ends
    )
    assert rebuilt == data
    assert all(zlib.crc32(payload) == crc == info.crc for info, payload, crc in ends)
    assert stream.grammar.finished and stream.offset == len(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind):
    assert told(ChunkStream(), [kind(GOOD)]) == told(ChunkStream(), [GOOD])
    wide = memoryview(GOOD[: len(GOOD) // 4 * 4]).cast("I")
    assert told(ChunkStream(), [wide, GOOD[len(GOOD) // 4 * 4 :]]) == told(ChunkStream(), [GOOD])


def test_payloads_are_views_and_not_copies():
    stream = ChunkStream()
    buffer = bytearray(GOOD)
    stream.feed(buffer)
    views = [event for event in stream.events() if isinstance(event, memoryview)]
    assert len(views) > 10 and all(view.obj is buffer for view in views)
    with pytest.raises(BufferError):
        buffer.append(0)


def test_a_small_step_at_a_time():
    """It asks for more, with nothing lost in between, and says everything as soon as it can."""
    stream = ChunkStream()
    stream.feed(b"")
    assert list(stream.events()) == []
    stream.feed(GOOD[:8])
    assert list(stream.events()) == [Header(False)]
    stream.feed(GOOD[8:20])
    (info,) = stream.events()
    assert (info.tag, info.offset) == ("TRAK", 8)
    stream.feed(GOOD[20:22])
    assert [bytes(event) for event in stream.events()] == [GOOD[20:22]]
    assert stream.offset == 22
    with pytest.raises(TruncatedError):
        stream.close()


@pytest.mark.parametrize("trailing", [b"\0", b"x" * 11, framed(b"CORE", b""), framed(b"post", b""), GOOD])
def test_nothing_follows_the_end(trailing):  # check V3
    stream = ChunkStream()
    with pytest.raises((TruncatedError, OrderError, FormatError)):
        told(stream, [GOOD + trailing])
        stream.close()
    stream = ChunkStream()
    with pytest.raises((TruncatedError, OrderError, CriticalError, FormatError)):
        told(stream, [OLD + trailing])
        stream.close()


@pytest.mark.parametrize("data", [GOOD, OLD], ids=["sealed", "original"])
def test_a_cut_at_every_byte(data):
    whole = told(ChunkStream(), [data])
    ends = {8, *(info.end for info, _, _ in whole[2::2])}
    for cut in range(len(data)):
        stream = ChunkStream()
        said = told(stream, [data[:cut]])
        assert said == whole[: len(said)]
        if cut in ends:
            stream.close()
            assert not stream.grammar.finished
        else:
            with pytest.raises(TruncatedError):
                stream.close()


def test_a_wrong_magic_is_refused_at_its_first_byte():
    for data in (b"R", b"H4MX", b"RIFF....", b"H4MKxxxx"):
        with pytest.raises(VersionError):
            told(ChunkStream(), by(1, data))
        with pytest.raises(VersionError):
            told(ChunkStream(), [data])
    for length in range(8):
        stream = ChunkStream()
        assert told(stream, by(1, GOOD[:length])) == []
    stream = ChunkStream()
    stream.feed(GOOD)
    with pytest.raises(TruncatedError):  # fed, and never asked
        stream.close()


def test_a_size_that_lies_is_refused_where_the_length_is_known():  # H4MK 3.1
    data = GOOD[:8] + struct.pack(">4sII", b"TRAK", 2**20, 0)
    with pytest.raises(TruncatedError):
        told(ChunkStream(len(GOOD)), [data])
    said = told(ChunkStream(), [data])
    assert said[1].size == 2**20


def test_a_wrong_crc_is_handed_over():
    data = bytearray(GOOD)
    data[20] ^= 1
    (info, _, crc) = told(ChunkStream(), [bytes(data)])[2]
    assert info.tag == "TRAK" and crc != info.crc


# ---- the order of chunks ---------------------------------------------------------------------------------

SIZES = {"TRAK": 2, "KEYS": 520, "TOKN": 128, "CORE": 1, "SAFE": 1, "SIGN": 144, "SEEK": 4, "RMAP": 16}
SIZES |= {"META": 2, "MERK": 8, "VERI": 32, "TAIL": 128, "time": 1}
CLOSING = "SEEK RMAP META MERK VERI TAIL"


def walk(tags, *, original=False):
    grammar = Grammar(original=original)
    for tag in tags.split():
        size = 2 if original and tag == "SAFE" else SIZES.get(tag, 0)
        grammar.step(ChunkInfo(tag, 0, size, 0))
    return grammar


@pytest.mark.parametrize(
    "tags",
    [
        f"TRAK {CLOSING}",
        f"TRAK KEYS {CLOSING}",
        f"TRAK KEYS TOKN SAFE TOKN SAFE {CLOSING}",
        f"TRAK TOKN CORE SIGN TOKN CORE SIGN {CLOSING}",
        f"TRAK TOKN CORE SIGN post {CLOSING}",
        f"TRAK TOKN CORE aaaa bbbb {CLOSING}",
        "TRAK SEEK SEEK RMAP RMAP META MERK VERI TAIL",
        "TRAK SEEK RMAP META MERK VERI SIGN SIGN time SIGN time TAIL",
    ],
)
def test_orders_that_are_allowed(tags):  # H4MK 3.3
    grammar = walk(tags)
    assert grammar.finished and grammar.expects == "the end of the file"


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ("CORE", OrderError),
        ("SEEK", OrderError),
        ("post", OrderError),
        ("TRAK TRAK", OrderError),
        ("TRAK TOKN TOKN", OrderError),
        ("TRAK TOKN post", OrderError),
        ("TRAK TOKN SIGN", OrderError),
        ("TRAK CORE", OrderError),
        ("TRAK SIGN", OrderError),
        ("TRAK TOKN CORE SIGN SIGN", OrderError),
        ("TRAK TOKN CORE KEYS", OrderError),
        ("TRAK KEYS KEYS", OrderError),
        ("TRAK TOKN CORE post TOKN", OrderError),
        ("TRAK post SIGN", OrderError),
        ("TRAK TOKN CORE time", OrderError),
        ("TRAK RMAP", OrderError),
        ("TRAK SEEK META", OrderError),
        ("TRAK SEEK post", OrderError),
        ("TRAK SEEK RMAP SEEK", OrderError),
        ("TRAK SEEK RMAP MERK", OrderError),
        ("TRAK SEEK RMAP META VERI", OrderError),
        ("TRAK SEEK RMAP META MERK TAIL", OrderError),
        ("TRAK SEEK RMAP META MERK VERI time", OrderError),
        ("TRAK SEEK RMAP META MERK VERI post", OrderError),
        ("TRAK SEEK RMAP META MERK VERI SIGN time time", OrderError),
        (f"TRAK {CLOSING} TAIL", OrderError),
        ("TRAK XYZW", CriticalError),
        ("TRAK Core", CriticalError),
    ],
)
def test_orders_that_are_not(tags, kind):  # H4MK 3.2, 3.3
    walk(tags.rsplit(" ", 1)[0] if " " in tags else "")
    with pytest.raises(kind):
        walk(tags)


def test_orders_of_the_original_implementation():  # H4MK 23
    for tags in ("VERI", "CORE CORE SEEK META SAFE VERI", "META VERI", "SAFE VERI", "SEEK SAFE VERI"):
        assert walk(tags, original=True).finished
    for tags in ("SEEK CORE", "META SEEK", "VERI VERI", "SAFE META", "SEEK SEEK"):
        with pytest.raises(OrderError):
            walk(tags, original=True)
    for tags in ("TRAK", "CORE TOKN", "post", "time", "XYZW", "CORE TAIL"):
        with pytest.raises(CriticalError):
            walk(tags, original=True)


def test_an_impossible_size_is_refused_with_the_header():  # check V4
    for tag, size in (("TRAK", 2**20 + 1), ("TRAK", 1)):
        with pytest.raises(LimitError):
            Grammar().step(ChunkInfo(tag, 8, size, 0))
    with pytest.raises(LimitError):
        Grammar(original=True).step(ChunkInfo("META", 8, 2**20 + 1, 0))


# ---- anything --------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([*SIZES, "post", "Zzzz"]), st.integers(0, 140)), max_size=8),
    st.binary(max_size=20),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_chunks_give_events_or_an_error(chunks, tail, step, old):
    data = b"H4MK" + (b"\0\1\0\0" if old else b"\0\0\0\1")
    data += b"".join(framed(tag.encode(), bytes(size)) for tag, size in chunks) + tail

    def outcome(pieces):
        stream, said = ChunkStream(), []
        try:
            for piece in pieces:
                stream.feed(piece)
                for event in stream.events():
                    if not isinstance(event, memoryview):
                        said.append(event)  # noqa: PERF401 - must hold what came before an error
            stream.close()
        except HarmonyError as error:
            return said, error.code, error.where
        return said, "ok", stream.grammar.finished

    assert outcome([data]) == outcome(by(step, data)) == outcome([b"", *by(1, data)])


def test_a_pipe_of_payload_is_never_gathered():
    """What was handed out is gone: the stream holds no more than a header's worth of bytes."""
    stream = ChunkStream()
    source = io.BytesIO(GOOD)
    while piece := source.read(5):
        stream.feed(piece)
        for _ in stream.events():
            pass
        assert stream._buffered == sum(map(len, stream._views)) < 12
