"""Sound out of real media through FFmpeg's decoders: which samples, exact or not, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmony4.crypto.errors import LimitError, MediaError, SourceError
from harmony4.tokenize import decode as module
from harmony4.tokenize.decode import bit_exact, decode
from harmony4.tokenize.samples import ENCODINGS, PIECE, SCALE
from harmony4.tokenize.sound import Sound, open_sound
from media_factory import media
from needs import BUNNY, needs_espeak, needs_ffmpeg, program

# name -> decoder, form in which the ffmpeg program is asked for its samples, how far these may be from ours.
# Not 0 where versions of FFmpeg differ (seen: 5.1 and 8.1): a step of 2^-16 is 256.
DECODED: Final = {
    "stereo.m4a": ("aac_fixed", "s32le", 64),
    "stereo.ts": ("aac_fixed", "s32le", 64),
    "surround.m4a": ("aac_fixed", "s32le", 64),
    "stereo.mp3": ("mp3", "s16le", 0),
    "stereo-mp2.ts": ("mp2", "s16le", 0),
    "stereo-ac3.ts": ("ac3_fixed", "s16le", 256),
    "stereo.flac": ("flac", "s16le", 0),
    "surround.flac": ("flac", "s32le", 0),
    "stereo-alac.m4a": ("alac", "s16le", 0),
    "stereo-wavpack.mkv": ("wavpack", "s16le", 0),
    "stereo-tta.mkv": ("tta", "s16le", 0),
    "stereo-truehd.mkv": ("truehd", "s16le", 0),
    "stereo-adpcm.wav": ("adpcm_ms", "s16le", 0),
    "stereo-alaw.wav": ("pcm_alaw", "s16le", 0),
    "stereo-s24.mkv": ("pcm_s24le", "s24le", 0),
    "stereo-f32.mkv": ("pcm_f32le", "f32le", 0),
    "stereo-f64.mkv": ("pcm_f64le", "f64le", 0),
    "stereo.ogg": ("vorbis", "f32le", 16),
    "stereo.webm": ("opus", "f32le", 16),
    "stereo-eac3.mkv": ("eac3", "f32le", 16),
    "twelve.ogg": ("opus", "f32le", 16),
}
LOSSLESS: Final = [
    *("stereo.flac", "stereo-alac.m4a", "stereo-wavpack.mkv", "stereo-tta.mkv", "stereo-truehd.mkv"),
]
FLOATS: Final = {"vorbis", "opus", "eac3"}


def opened(source: Any, **options: Any) -> Sound:
    return open_sound(source, pcm=None, decoder=decode, **options)


def samples(sound: Sound) -> NDArray[np.int32]:
    arrays = list(sound)
    for array in arrays:
        assert array.dtype == np.int32
        assert 0 < array.size <= PIECE
        assert array.shape[1] == sound.format.channels
        assert abs(array).max() <= SCALE
    return np.concatenate([np.zeros((0, sound.format.channels), np.int32), *arrays])


def read(name: str, **options: Any) -> NDArray[np.int32]:
    return samples(opened([media(name).read_bytes()], **options))


def by_ffmpeg(path: Path, decoder: str, form: str, channels: int) -> NDArray[np.int32]:
    """What the ffmpeg program decodes, interleaved and otherwise as its decoder gives it."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-bitexact", "-c:a", decoder]
    command += ["-i", str(path), "-map", "0:a:0", "-f", form, "-"]
    data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return ENCODINGS[form].convert(data).reshape(-1, channels)


# -- the samples


@needs_ffmpeg
@pytest.mark.parametrize("name", DECODED)
def test_the_same_as_ffmpeg(name: str) -> None:
    decoder, form, far = DECODED[name]
    with media(name).open("rb") as file:
        sound = opened(file)
        found = samples(sound)
    channels = {"surround": 8, "twelve": 12}.get(name.partition(".")[0], 2)
    assert (sound.format.rate, sound.format.channels, sound.format.encoding) == (48_000, channels, decoder)
    assert sound.format.bit_exact == (decoder not in FLOATS)
    assert sound.format.start == {"stereo.mp3": 23_020}.get(name, 1_400_000 if name.endswith(".ts") else 0)
    assert sound.note is None
    expected = by_ffmpeg(media(name), decoder, form, channels)
    if name == "stereo.mp3":  # the padding at its end: see `decode.py`
        assert 0 <= len(found) - len(expected) < 1152
        found = found[: len(expected)]
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= far
    assert abs(found).max() > SCALE // 8  # it is no silence


@needs_ffmpeg
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless(name: str) -> None:
    assert np.array_equal(read(name), read("stereo.wav"))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["stereo.m4a", "stereo.mp3", "stereo.webm", "stereo.ogg"])
def test_encoder_delay_is_taken_away(name: str) -> None:
    """Lossy sound is most like what it was where it is not moved by a single sample."""
    expected, found = read("stereo.wav")[5000:60_000].astype(float), read(name).astype(float)
    errors = {n: abs(found[5000 + n : 60_000 + n] - expected).mean() for n in range(-3, 4)}
    assert min(errors, key=lambda n: errors[n]) == 0


@needs_espeak
@needs_ffmpeg
@pytest.mark.parametrize("name", ["speech.m4a", "speech.mp3"])
def test_speech_that_was_compressed(name: str) -> None:
    expected, found = read("speech.wav").astype(float), read(name).astype(float)
    n = len(expected)
    assert n <= len(found) < n + 2 * 1152
    error, loud = abs(found[:n] - expected).mean(), abs(expected).mean()
    assert error < loud / 5
    assert error < abs(found[1:n] - expected[:-1]).mean() / 2  # moved by a single sample it is far from it


@needs_espeak
def test_speech() -> None:
    with wave.open(str(media("speech.wav"))) as file:
        rate, expected = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    sound = opened([media("speech.wav").read_bytes()])
    assert np.array_equal(samples(sound)[:, 0], expected.astype(np.int32) * 256)
    assert sound.format.rate == rate


@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["stereo.m4a", "stereo-moovend.m4a", "stereo.mp3", "stereo.ts", "stereo.webm"]
)
def test_a_file_and_a_pipe_give_the_same(name: str) -> None:
    data = media(name).read_bytes()
    with media(name).open("rb") as file:
        expected = samples(opened(file))
    assert np.array_equal(samples(opened(io.BytesIO(data))), expected)
    assert np.array_equal(samples(opened([data[i : i + 999] for i in range(0, len(data), 999)])), expected)


@needs_ffmpeg
@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 10**5), max_size=8),
    st.sampled_from(["stereo.mp3", "stereo.ogg", "stereo-alac.m4a"]),
)
def test_in_any_pieces(cuts: list[int], name: str) -> None:
    data = media(name).read_bytes()
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    found = samples(opened([data[a:b] for a, b in itertools.pairwise(places)]))
    assert np.array_equal(found, read(name))


def test_bunny() -> None:
    with BUNNY.open("rb") as file:
        sound = opened(file)
        found = samples(sound)
    assert (sound.format.encoding, sound.format.rate, sound.format.bit_exact) == ("aac_fixed", 48_000, True)
    assert len(found) / sound.format.rate == pytest.approx(5.3, abs=0.1)


@needs_ffmpeg
def test_one_stream_of_several() -> None:
    assert np.array_equal(read("two-sounds.mkv"), read("stereo.flac"))
    assert np.array_equal(read("two-sounds.mkv", stream=1), read("stereo.flac"))
    sound = opened([media("two-sounds.mkv").read_bytes()], stream=2)
    assert samples(sound).shape[1] == 1
    assert sound.format.rate == 44_100
    for other in (0, 3):
        with pytest.raises(MediaError, match=rf"no sound of it in matroska .expected 1, 2, found {other}"):
            read("two-sounds.mkv", stream=other)
    assert np.array_equal(read("stereo.wav", stream=0), read("stereo.wav"))
    with pytest.raises(MediaError, match="no sound of it in wav"):
        read("stereo.wav", stream=1)


# -- the same on every machine

DIGESTS: Final = """
import ctypes, hashlib, json, sys
from pathlib import Path
import av
from harmony4.tokenize.decode import decode
from harmony4.tokenize.sound import open_sound
if sys.argv[1]:
    # The wheel has its libraries as files, and no other way to say this.
    library = next(line.split()[-1] for line in Path("/proc/self/maps").open() if "libavutil" in line)
    ctypes.CDLL(library).av_force_cpu_flags(int(sys.argv[1], 0))
found = {}
for path in sys.argv[2:]:
    digest = hashlib.sha256()
    for samples in open_sound([Path(path).read_bytes()], pcm=None, decoder=decode):
        digest.update(samples.astype("<i4").tobytes())
    found[Path(path).name] = digest.hexdigest()
print(json.dumps(found))
"""


@needs_ffmpeg
@pytest.mark.skipif(sys.platform != "linux", reason="finds FFmpeg's library in /proc/self/maps")
def test_exact_decoders_are_exact_and_float_decoders_are_not() -> None:
    """PyAV's own decoders with all of FFmpeg's SIMD, with none, and with SSE up to SSSE3.

    And so do numpy's in the second run. What this cannot show: other architectures, other builds.
    """
    answers = []
    for flags, disabled in (("", ""), ("0", "X86_V3 X86_V4"), ("0xff", "")):
        command = [sys.executable, "-W", "ignore", "-c", DIGESTS, flags, *map(str, map(media, DECODED))]
        environment = {**os.environ, **({"NPY_DISABLE_CPU_FEATURES": disabled} if disabled else {})}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
        answers.append(json.loads(done.stdout))
    for name, (decoder, _, _) in DECODED.items():
        same = len({answer[name] for answer in answers}) == 1
        if decoder not in FLOATS:
            assert same, name
        elif _simd():
            assert not same, name


def _simd() -> bool:
    """Whether there is anything to switch off: an x86 with AVX."""
    try:
        return " avx " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def test_which_are_exact() -> None:
    exact = ("aac_fixed", "ac3_fixed", "mp3", "flac", "alac", "pcm_s24le", "pcm_alaw", "adpcm_ima_qt", "g722")
    assert all(map(bit_exact, exact))
    assert not any(map(bit_exact, ("aac", "ac3", "mp3float", "opus", "vorbis", "eac3", "dca", "wmav2", "")))


def test_the_named_decoders_are_there() -> None:
    """In the pinned wheel. `decode` goes on without them, and says that it is not exact."""
    assert set(module._FIXED.values()) | module._EXACT <= av.codecs_available


@needs_ffmpeg
def test_what_the_fixed_decoder_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """xHE-AAC, which no encoder at hand makes: here plain AAC (profile LC) takes its place."""
    monkeypatch.setattr(module, "_USAC", "LC")
    sound = opened([media("stereo.m4a").read_bytes()])
    assert len(samples(sound)) > 0
    assert (sound.format.encoding, sound.format.bit_exact) == ("aac", False)


@needs_ffmpeg
def test_without_a_fixed_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIXED", {"aac": "aac_of_another_build"})
    sound = opened([media("stereo.m4a").read_bytes()])
    found = samples(sound)
    assert (sound.format.encoding, sound.format.bit_exact) == ("aac", False)
    monkeypatch.undo()
    assert abs(found - read("stereo.m4a")).max() < 256


# -- what is not as it should be


@needs_ffmpeg
def test_no_sound() -> None:
    with pytest.raises(MediaError, match="it holds no sound in mpegts"):
        read("silent.ts")


@needs_ffmpeg
def test_a_codec_that_nobody_knows() -> None:
    data = media("stereo-alac.m4a").read_bytes().replace(b"alac", b"zzzz")
    with pytest.raises(MediaError, match="nobody here knows its codec in mp4"):
        samples(opened([data]))


@needs_ffmpeg
def test_samples_of_64_bits() -> None:
    with pytest.raises(MediaError, match="its samples are s64 in matroska"):
        read("stereo-s64.mkv")


@needs_ffmpeg
def test_not_what_it_seems() -> None:
    with pytest.raises(MediaError, match=r"^its sound cannot be decoded: .* in mp4$"):
        samples(opened([b"\0\0\0\x18ftypisom" + bytes(5000)]))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["stereo.m4a", "stereo.ts", "stereo.mp3", "stereo.flac", "stereo.ogg"])
def test_a_body_that_stops_in_the_middle(name: str) -> None:
    data, whole = media(name).read_bytes(), read(name)
    found = samples(opened([data[: len(data) * 2 // 3]]))
    assert len(whole) // 3 < len(found) < len(whole)
    less = len(found) - 4096  # where packets are cut, decoders make up what is missing
    assert np.array_equal(found[:less], whole[:less])


@needs_ffmpeg
def test_a_body_that_stops_before_its_index() -> None:
    data = media("stereo-moovend.m4a").read_bytes()
    with pytest.raises(MediaError, match="cannot be decoded"):
        samples(opened([data[: len(data) // 2]]))


@needs_ffmpeg
def test_packets_that_cannot_be_decoded() -> None:
    data = bytearray(media("stereo.m4a").read_bytes())
    begin = data.index(b"mdat") + 4
    middle = begin + (len(data) - begin) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    sound = opened([bytes(data)])
    found = samples(sound)
    assert sound.note is not None
    assert sound.note.startswith("packets that could not be decoded are left out: ")
    assert len(found) < len(read("stereo.m4a"))
    data[begin:] = b"\xff" * (len(data) - begin)
    with pytest.raises(MediaError, match="its sound cannot be decoded: "):
        samples(opened([bytes(data)]))


@needs_ffmpeg
def test_the_start_is_that_of_what_comes() -> None:
    """The first packets are left out: the first samples are later ones."""
    data = bytearray(media("stereo.m4a").read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin : begin + 2000] = b"\xff" * 2000
    sound = opened([bytes(data)])
    missing = len(read("stereo.m4a")) - len(samples(sound))
    assert sound.note is not None
    assert sound.format.start == missing * 1_000_000 // 48_000 > 0


@needs_ffmpeg
@pytest.mark.parametrize(
    ("first", "second", "after"),
    [("stereo.ts", "mono.ts", "44100"), ("stereo-bare.mp3", "mono-bare.mp3", "")],
)
def test_sound_that_changes(first: str, second: str, after: str) -> None:
    sound = opened([media(first).read_bytes(), media(second).read_bytes()])
    found = samples(sound)
    assert sound.note is not None
    assert sound.note.startswith(f"its sound changes from 2 channels at 48000 Hz to 1 at {after}")
    assert np.array_equal(found, read(first))


@needs_ffmpeg
def test_an_hour_of_silence() -> None:
    """650 kB that decode to 115 MB."""
    assert media("silence.flac").stat().st_size < 10**6
    with pytest.raises(LimitError, match="<= 1000000 samples"):
        read("silence.flac", max_samples=10**6)


@needs_ffmpeg
def test_nothing_in_it() -> None:
    """A-law without a single sample: what it would be is known all the same."""
    data = media("stereo-alaw.wav").read_bytes()
    data = data[: data.index(b"data") + 4] + bytes(4)
    sound = opened([data])
    assert samples(sound).shape == (0, 2)
    assert (sound.format.rate, sound.format.encoding, sound.format.start) == (48_000, "pcm_alaw", 0)


# -- sources and memory


@needs_ffmpeg
@pytest.mark.parametrize("name", ["stereo.ts", "stereo.flac", "stereo.m4a"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_the_sources_own_error(name: str, share: float) -> None:
    data = media(name).read_bytes()

    def source() -> Iterator[bytes]:
        yield data[: int(len(data) * share) + 5000]
        raise OSError(5, "Input/output error")

    with pytest.raises(SourceError, match="Input/output error"):
        list(opened(source()))


@needs_ffmpeg
def test_the_error_of_a_file() -> None:
    data = media("stereo-moovend.m4a").read_bytes()

    class Failing(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise OSError(5, "Input/output error")
            return super().read(n)

    with pytest.raises(SourceError, match="Input/output error"):
        list(opened([data], spool=lambda: Failing()))


class Blind:
    """A decoder that takes an error of its source for the end, and then gives up or does not."""

    stopped = None

    def __init__(self, reader: Any, error: Exception | None) -> None:
        self.reader, self.error = reader, error
        with decode(io.BytesIO(media("stereo.flac").read_bytes()), "flac") as sound:
            next(iter(sound))
            self.format = sound.format

    def __enter__(self) -> Blind:
        return self

    def __exit__(self, *arguments: object) -> None: ...

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        try:
            while self.reader.read(1000):
                pass
        except SourceError:
            if self.error is not None:
                raise self.error from None
        yield from ()


@needs_ffmpeg
@pytest.mark.parametrize("error", [None, MediaError("I saw the end")])
@pytest.mark.parametrize("fails", [True, False])
def test_an_error_is_never_the_end(error: Exception | None, fails: bool) -> None:
    def source() -> Iterator[bytes]:
        yield media("stereo.flac").read_bytes()
        if fails:
            raise OSError(5, "Input/output error")

    sound = open_sound(source(), pcm=None, decoder=lambda reader, name, stream: Blind(reader, error))
    if fails:
        with pytest.raises(SourceError):
            list(sound)
    else:
        assert list(sound) == []


class Broken:
    """PyAV's container, whose packets end with an error."""

    def __init__(self, container: Any, error: Exception, after: int) -> None:
        self._container, self._error, self._after = container, error, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for number, packet in enumerate(self._container.demux(stream)):
            if number == self._after:
                raise self._error
            yield packet


@needs_ffmpeg
@pytest.mark.parametrize("after", [0, 10])
def test_packets_that_end_early(after: int) -> None:
    opening = decode(io.BytesIO(media("stereo-mp2.ts").read_bytes()), "mpegts")
    error = av.error.InvalidDataError(errno.EINVAL, "broken")
    with opening as sound:
        sound._container = Broken(sound._container, error, after)  # type: ignore[attr-defined]
        assert sum(map(len, sound)) == after * 1152
        assert sound.stopped == "broken"
        assert sound.format.rate == 48_000


@needs_ffmpeg
@pytest.mark.parametrize(
    "error", [MemoryError(), av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")]
)
def test_little_memory_is_never_the_end(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = decode(io.BytesIO(media("stereo-mp2.ts").read_bytes()), "mpegts")
    with opening as sound, pytest.raises(MediaError, match="decoded: it needs more memory than it may have"):
        sound._container = Broken(sound._container, error, 5)  # type: ignore[attr-defined]
        list(sound)

    class Context:
        def decode(self, packet: object) -> Any:
            raise error

    with (
        decode(io.BytesIO(media("stereo-mp2.ts").read_bytes()), "mpegts") as sound,
        pytest.raises(MediaError, match="decoded: it needs more memory than it may have"),
    ):
        sound._context = Context()  # type: ignore[attr-defined]
        list(sound)


@needs_ffmpeg
def test_two_reasons() -> None:
    """Packets that could not be decoded, and then the end."""
    data = bytearray(media("stereo.m4a").read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin : begin + 2000] = b"\xff" * 2000
    with decode(io.BytesIO(bytes(data)), "mp4") as sound:
        error = av.error.InvalidDataError(errno.EINVAL, "broken")
        sound._container = Broken(sound._container, error, 60)  # type: ignore[attr-defined]
        list(sound)
        assert sound.stopped is not None
        assert sound.stopped.startswith("broken; packets that could not be decoded are left out: ")


@needs_ffmpeg
def test_leaving_in_the_middle() -> None:
    """FFmpeg's part is closed at once, nothing more is read, and nothing holds the source any longer."""
    read, closed, given_back = [], [], []

    def source() -> Iterator[bytes]:
        try:
            for number in range(1000):
                read.append(number)
                yield media("stereo.mp3").read_bytes()
        finally:
            given_back.append(True)

    class Watched:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def close(self) -> None:
            self._container.close()
            closed.append(True)

    def watched(*arguments: Any) -> Any:
        opening: Any = decode(*arguments)
        opening._container = Watched(opening._container)
        return opening

    found = iter(open_sound(source(), pcm=None, decoder=watched))
    next(found)
    before = len(read)
    assert (before < 1000, closed) == (True, [])
    found.close()  # type: ignore[attr-defined]
    assert (len(read), closed) == (before, [True])
    del found
    assert given_back == [True]


def test_digest_of_known_media() -> None:
    """The samples of the one real recording, pinned: another FFmpeg shows here first."""
    digest = hashlib.sha256()
    with BUNNY.open("rb") as file:
        for array in opened(file):
            digest.update(array.astype("<i4").tobytes())
    assert digest.hexdigest() == "b90ca63220f8fd38c943c41befaa60a78bb4bd5729b6fa8831dadd072e808ba4"
