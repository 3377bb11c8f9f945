"""Raw PCM and WAVE as integer samples: what is read, in which pieces it may come, and what is refused."""

from __future__ import annotations

import io
import itertools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmony4.crypto.errors import LimitError, MediaError, SourceError, UsageError
from harmony4.tokenize.decode import decode
from harmony4.tokenize.samples import ENCODINGS, MAX_CHANNELS, PIECE, SCALE
from harmony4.tokenize.sound import PCM_ENCODINGS, PcmSpec, Sound, open_sound

STEREO = PcmSpec("s16le", 48_000, 2)
GUID = bytes.fromhex("000000001000800000aa00389b71")


def opened(source: Any, pcm: PcmSpec | None = None, **options: Any) -> Sound:
    """A sound that needs no decoder."""

    def nobody(*arguments: object) -> Any:
        raise AssertionError("a decoder was asked for")

    return open_sound(source, pcm=pcm, decoder=nobody, **options)


def samples(sound: Sound) -> NDArray[np.int32]:
    arrays = list(sound)
    for array in arrays:
        assert array.dtype == np.int32
        assert array.ndim == 2
        assert 0 < array.size <= PIECE
        assert array.shape[1] == sound.format.channels
        assert abs(array.astype(np.int64)).max() <= SCALE
    return np.concatenate([np.zeros((0, sound.format.channels), np.int32), *arrays])


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)] or [b""]


def fmt(
    tag: int = 1,
    channels: int = 2,
    rate: int = 48_000,
    bits: int = 16,
    align: int | None = None,
    more: bytes = b"",
) -> bytes:
    align = channels * ((bits + 7) // 8) if align is None else align
    return struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align, bits) + more


def extensible(tag: int, bits: int, valid: int, **options: Any) -> bytes:
    more = struct.pack("<HHIH", 22, valid, 3, tag) + GUID
    return fmt(0xFFFE, bits=bits, more=more, **options)


def chunk(name: bytes, payload: bytes, size: int | None = None) -> bytes:
    size = len(payload) if size is None else size
    return name + struct.pack("<I", size) + payload + bytes(len(payload) % 2)


def wav(*chunks: bytes, name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", 2**32 - 1 if name != b"RIFF" else len(body)) + body


def ramp(n: int) -> bytes:
    return b"".join(struct.pack("<h", (i * 257) % 65536 - 32768) for i in range(n))


# -- raw PCM


@given(
    st.sampled_from(PCM_ENCODINGS),
    st.integers(1, 5),
    st.binary(max_size=400),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_pcm_in_any_pieces(encoding: str, channels: int, data: bytes, cuts: list[int]) -> None:
    frame = ENCODINGS[encoding].width * channels
    spec = PcmSpec(encoding, 44_100, channels)
    sound = opened(split(data, cuts), spec)
    if len(data) % frame:
        with pytest.raises(MediaError, match=f"cut off.*a multiple of {frame} bytes"):
            list(sound)
        return
    found = samples(sound)
    assert found.ravel().tolist() == ENCODINGS[encoding].convert(data).tolist()
    assert (sound.format.rate, sound.format.encoding, sound.format.bit_exact) == (44_100, encoding, True)
    assert (sound.format.start, sound.note) == (0, None)


@pytest.mark.parametrize("channels", [1, 2, 7, MAX_CHANNELS])
def test_pcm_from_files_and_long_pieces(channels: int, tmp_path: Path) -> None:
    data = ramp(channels * 1000)
    expected = ENCODINGS["s16le"].convert(data)
    path = tmp_path / "sound"
    path.write_bytes(data)
    spec = PcmSpec("s16le", 8000, channels)
    with path.open("rb") as file:
        assert samples(opened(file, spec)).ravel().tolist() == expected.tolist()
    assert samples(opened([data[:1], data[1:]], spec)).ravel().tolist() == expected.tolist()


def test_pcm_comes_as_soon_as_its_bytes() -> None:
    """A live source: what is there is not held back until a piece is full."""
    given_out = 0

    def live() -> Iterator[bytes]:
        nonlocal given_out
        for _ in range(10):
            given_out += 1
            yield bytes(6)

    for number, array in enumerate(opened(live(), PcmSpec("s16le", 8000, 1)), 1):
        assert (len(array), given_out) == (3, number)


def test_memory_follows_a_piece() -> None:
    """What has been read and not given out, of an endless source."""
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 2**16
            yield bytes(2**16)

    got = 0
    for array in opened(endless(), STEREO):
        got += 2 * array.size
        assert read - got <= 2**17
        if got > 50 * 2**20:
            break


def test_nothing_at_all() -> None:
    sound = opened([], STEREO)
    assert list(sound) == []
    assert sound.format.channels == 2
    with pytest.raises(MediaError, match="nobody knows"):
        opened([])


def test_unrecognised() -> None:
    with pytest.raises(MediaError, match="of raw PCM say the encoding, the rate and the channels"):
        opened([b"no sound " * 1000])


@pytest.mark.parametrize("text", [b"WEBVTT\n\n", b'{"pts":1}\n'])
def test_text(text: bytes) -> None:
    with pytest.raises(MediaError, match="holds no sound in"):
        opened([text])


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "message"),
    [
        ("s16be", 8000, 1, "s16le, s24le, s32le, f32le, u8"),
        ("f64le", 8000, 1, "encoding"),
        ("s16le", 0, 1, "rate is out of range"),
        ("s16le", -8000, 1, "rate is out of range"),
        ("s16le", 2**31, 1, "rate is out of range"),
        ("s16le", 8000, 0, "channels is out of range"),
        ("s16le", 8000, 10_000, "channels is out of range"),
    ],
)
def test_pcm_that_cannot_be(encoding: str, rate: int, channels: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PcmSpec(encoding, rate, channels)


def test_once_only() -> None:
    sound = opened([bytes(8)], STEREO)
    assert len(list(sound)) == 1
    with pytest.raises(UsageError, match="read once"):
        list(sound)


def test_a_limit() -> None:
    assert len(samples(opened([bytes(400)], STEREO, max_samples=200))) == 100
    with pytest.raises(LimitError, match="<= 199 samples"):
        list(opened([bytes(400)], STEREO, max_samples=199))
    with pytest.raises(LimitError, match="more sound than it may"):
        for _ in opened(itertools.repeat(bytes(4000)), STEREO, max_samples=10**6):
            pass


@pytest.mark.parametrize("pcm", [STEREO, None])
def test_the_sources_own_error(pcm: PcmSpec | None) -> None:
    def source() -> Iterator[bytes]:
        yield wav(chunk(b"fmt ", fmt()), chunk(b"data", ramp(4000)))
        raise OSError(5, "Input/output error")

    got = 0
    with pytest.raises(SourceError, match="Input/output error"):
        for array in opened(source(), pcm):
            got += len(array)
    assert got >= 2000


# -- WAVE


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        (fmt(1, bits=8), "u8"),
        (fmt(1, bits=16), "s16le"),
        (fmt(1, bits=24), "s24le"),
        (fmt(1, bits=32), "s32le"),
        (fmt(3, bits=32), "f32le"),
        (fmt(3, bits=64), "f64le"),
        (fmt(1, bits=12), "s16le"),
        (fmt(1, bits=20), "s24le"),
        (fmt(1, bits=16, more=bytes(2)), "s16le"),
        (fmt(3, bits=32, more=bytes(2)), "f32le"),
        (extensible(1, 16, 16), "s16le"),
        (extensible(1, 24, 20), "s24le"),
        (extensible(1, 32, 24), "s32le"),
        (extensible(1, 32, 0), "s32le"),
        (extensible(3, 32, 32), "f32le"),
    ],
)
@pytest.mark.parametrize("name", [b"RIFF", b"RF64", b"BW64"])
def test_wav(form: bytes, encoding: str, name: bytes) -> None:
    data = ramp(240)
    sound = opened([wav(chunk(b"fmt ", form), chunk(b"data", data), name=name)])
    assert samples(sound).ravel().tolist() == ENCODINGS[encoding].convert(data).tolist()
    assert (sound.format.rate, sound.format.channels, sound.format.encoding) == (48_000, 2, encoding)
    assert (sound.format.bit_exact, sound.format.start, sound.note) == (True, 0, None)


@given(st.lists(st.integers(0, 10**6), max_size=6), st.booleans())
def test_wav_in_any_pieces(cuts: list[int], extended: bool) -> None:
    form = extensible(3, 32, 32, channels=3) if extended else fmt(3, 3, bits=32)
    values = [0.5, math.nan, math.inf, -math.inf, 1e-30, -2.0] * 50
    data = struct.pack("<300f", *values)
    chunks = [chunk(b"JUNK", bytes(5001)), chunk(b"fmt ", form), chunk(b"odd ", b"x"), chunk(b"data", data)]
    whole = wav(*chunks, chunk(b"LIST", b"behind"))
    found = samples(opened(split(whole, cuts)))
    assert found.shape == (100, 3)
    assert found.ravel().tolist() == [SCALE // 2, 0, SCALE, -SCALE, 0, -SCALE] * 50


def test_wav_is_read_to_its_end() -> None:
    """Chunks behind the samples are no sound; a pipe is emptied all the same."""
    file = io.BytesIO(wav(chunk(b"fmt ", fmt()), chunk(b"data", ramp(100)), chunk(b"LIST", bytes(10**6))))
    assert len(samples(opened(file))) == 50
    assert file.read() == b""


def rf64(size: int, *, in_data: int = 2**32 - 1, ds64: bytes | None = None) -> bytes:
    ds64 = struct.pack("<QQQI", 0, size, 0, 0) if ds64 is None else ds64
    chunks = [chunk(b"ds64", ds64), chunk(b"fmt ", fmt()), chunk(b"data", ramp(100), in_data)]
    return wav(*chunks, chunk(b"LIST", b"not sound"), name=b"RF64")


def test_rf64() -> None:
    """EBU Tech 3306: where `data` says -1, `ds64` says the size."""
    sound = opened([rf64(200)])
    assert len(samples(sound)) == 50
    assert sound.note is None
    sound = opened([rf64(7, in_data=200)])  # `data` says it itself
    assert len(samples(sound)) == 50
    sound = opened([rf64(2**40)])
    with pytest.raises(MediaError, match="cut off"):  # the chunk behind is no whole sample
        samples(sound)
    sound = opened([rf64(2**40)[:-18]])
    assert len(samples(sound)) == 50
    assert sound.note == "its header says 1099511627776 bytes of sound, of which 200 came"


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_a_size_that_nobody_knows(size: int) -> None:
    sound = opened([wav(chunk(b"fmt ", fmt()), chunk(b"data", ramp(100), size))])
    assert len(samples(sound)) == 50
    assert sound.note == "its header does not say how much sound there is: all that came was taken"


@pytest.mark.parametrize("size", [0, 2**64 - 1])
def test_a_size_that_nobody_knows_in_64_bits(size: int) -> None:
    sound = opened([rf64(size)[:-18]])
    assert len(samples(sound)) == 50
    assert sound.note is not None


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_an_empty_wav(size: int) -> None:
    sound = opened([wav(chunk(b"fmt ", fmt()), chunk(b"data", b"", size))])
    assert len(samples(sound)) == 0
    assert (sound.format.rate, sound.note) == (48_000, None)


def test_a_body_that_stops_in_the_middle() -> None:
    sound = opened([wav(chunk(b"fmt ", fmt()), chunk(b"data", ramp(100), 5000))])
    assert len(samples(sound)) == 50
    assert sound.note == "its header says 5000 bytes of sound, of which 200 came"


@pytest.mark.parametrize(("size", "came"), [(5001, 201), (201, 201), (2**32 - 1, 203)])
def test_odd_byte_counts(size: int, came: int) -> None:
    whole = wav(chunk(b"fmt ", fmt())) + b"data" + struct.pack("<I", size) + ramp(200)[:came]
    with pytest.raises(MediaError, match=f"a multiple of 4 bytes .2 channels, s16le., found {came} bytes"):
        list(opened([whole]))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (fmt(rate=0), "2 channels at 0 Hz"),
        (fmt(channels=0), "0 channels"),
        (fmt(align=3), "contradicts itself"),
        (fmt(align=0), "contradicts itself"),
        (fmt(bits=0), "1 to 32 bits"),
        (fmt(bits=33), "1 to 32 bits"),
        (fmt(bits=65_535, align=4), "1 to 32 bits"),
        (fmt(3, bits=16), "32 or 64 bits"),
        (fmt(3, bits=64, align=4), "contradicts itself"),
        (fmt(3, bits=32, align=4), "contradicts itself"),
        (fmt(rate=2**32 - 1), "sample rate"),
        (fmt()[:15], "too short"),
        (b"", "too short"),
        (fmt(0xFFFE, more=bytes(2)), "too short to be extensible"),
        (extensible(1, 16, 17), "<= 16 bits"),
        (extensible(1, 16, 16, align=2), "contradicts itself"),
    ],
)
def test_a_header_that_lies(form: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        list(opened([wav(chunk(b"fmt ", form), chunk(b"data", ramp(100)))]))


@given(st.data())
def test_any_header_is_read_or_refused(data: st.DataObject) -> None:
    """Bytes of a sound file changed anywhere: samples within bounds or an error of ours, nothing else."""
    form = data.draw(st.sampled_from([fmt(), fmt(3, bits=32), extensible(1, 24, 20)]))
    whole = bytearray(wav(chunk(b"ds64", bytes(28)), chunk(b"fmt ", form), chunk(b"data", ramp(240))))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=6)):
        whole[place] = value

    def compressed(*arguments: object) -> Any:
        raise MediaError("compressed")

    try:
        samples(open_sound([bytes(whole)], pcm=None, decoder=compressed))
    except (MediaError, LimitError):
        pass


def test_ten_thousand_channels() -> None:
    with pytest.raises(LimitError, match="too many channels"):
        opened([wav(chunk(b"fmt ", fmt(channels=10_000)), chunk(b"data", bytes(20_000)))])


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (wav(), "no fmt"),
        (wav(chunk(b"JUNK", bytes(100))), "no fmt"),
        (wav(chunk(b"JUNK", b"", 2**32 - 1)), "no fmt"),
        (wav(chunk(b"JUNK", bytes(17 * 2**20)), chunk(b"fmt ", fmt())), "no fmt"),
        (wav(chunk(b"data", ramp(100)), chunk(b"fmt ", fmt())), "before its fmt"),
        (wav(chunk(b"fmt ", fmt())), "before its samples begin"),
        (wav(chunk(b"fmt ", fmt()), b"dat"), "before its samples begin"),
        (wav(chunk(b"fmt ", fmt()), chunk(b"JUNK", bytes(10), 2**31)), "before its samples begin"),
        (wav(chunk(b"fmt ", fmt(), 2**32 - 1), chunk(b"data", ramp(100))), "before its samples begin"),
        (wav(chunk(b"fmt ", fmt()[:10], 16)), "too short"),
        (rf64(0, ds64=bytes(27)), "ds64 is too short"),
    ],
)
def test_chunks_that_lie(whole: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        list(opened([whole]))


def test_a_long_way_to_the_samples() -> None:
    """Chunks that nobody needs are skipped and not kept."""
    picture = chunk(b"JUNK", bytes(10**6))
    sound = opened([wav(picture, chunk(b"fmt ", fmt()), *[picture] * 40, chunk(b"data", ramp(100)))])
    assert len(samples(sound)) == 50


def test_the_format_is_known_with_the_samples() -> None:
    sound = open_sound([b"OggS" + bytes(5000)], pcm=None, decoder=decode)
    with pytest.raises(UsageError, match="once its first samples have come"):
        sound.format  # noqa: B018
