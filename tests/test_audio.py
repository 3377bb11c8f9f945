"""Spectral tokens: frames, levels and times, what is written and read back, and every way to say it wrong."""

from __future__ import annotations

import io
import os
import random
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmony4.crypto.errors import (
    CriticalError,
    FormatError,
    HarmonyError,
    LimitError,
    MediaError,
    OrderError,
    TruncatedError,
    UsageError,
    VersionError,
)
from harmony4.tokenize.audio import (
    DETAIL,
    PROFILES,
    STRUCTURE,
    AudioFFTTokenizer,
    AudioToken,
    Profile,
    Shape,
    _Analysis,
)
from harmony4.tokenize.samples import SoundFormat
from harmony4.tokenize.sound import PcmSpec
from media_factory import media
from needs import BUNNY, needs_ffmpeg

RATE = 8000
FRAME = 4096  # of `structure` at RATE


def run(samples: NDArray[Any], rate: int = RATE, **options: Any) -> list[AudioToken]:
    """The tokens of 16-bit samples, (n,) or (n, channels)."""
    spec = PcmSpec("s16le", rate, 1 if samples.ndim == 1 else samples.shape[1])
    data = samples.astype("<i2").tobytes()
    return list(AudioFFTTokenizer(pcm=spec, **options).encode(io.BytesIO(data)))


def tone(bin: float, count: int, frame: int = FRAME, amplitude: int = 10_000) -> NDArray[np.int16]:
    """A sine in the middle of a bin."""
    return np.rint(amplitude * np.sin(2 * np.pi * bin * np.arange(count) / frame)).astype(np.int16)


def noise(count: int, channels: int = 1, seed: int = 1) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-20_000, 20_000, (count, channels)).astype(np.int16)


# -- frames


@pytest.mark.parametrize(
    ("rate", "structure", "detail"),
    [
        (1, Shape(256, 256, 1), Shape(256, 128, 1)),
        (8000, Shape(4096, 4096, 1), Shape(512, 256, 1)),
        (11_025, Shape(4096, 4096, 1), Shape(512, 256, 1)),
        (16_000, Shape(8192, 8192, 1), Shape(1024, 512, 1)),
        (22_050, Shape(8192, 8192, 1), Shape(1024, 512, 1)),
        (24_000, Shape(8192, 8192, 1), Shape(1024, 512, 1)),
        (32_000, Shape(16_384, 16_384, 1), Shape(2048, 1024, 1)),
        (44_100, Shape(16_384, 16_384, 1), Shape(2048, 1024, 1)),
        (48_000, Shape(16_384, 16_384, 1), Shape(2048, 1024, 1)),
        (48_001, Shape(16_384, 16_384, 2), Shape(4096, 2048, 1)),
        (88_200, Shape(16_384, 16_384, 2), Shape(4096, 2048, 1)),
        (96_000, Shape(16_384, 16_384, 2), Shape(4096, 2048, 1)),
        (192_000, Shape(16_384, 16_384, 4), Shape(8192, 4096, 1)),
        (384_000, Shape(16_384, 16_384, 8), Shape(16_384, 8192, 1)),
        (2**31 - 1, Shape(16_384, 16_384, 65_536), Shape(16_384, 8192, 8192)),
    ],
)
def test_frames_last_as_long_at_every_rate(rate: int, structure: Shape, detail: Shape) -> None:
    assert (STRUCTURE.shape(rate), DETAIL.shape(rate)) == (structure, detail)
    for profile in PROFILES.values():
        shape = profile.shape(rate)
        lasts = shape.frame * shape.step * 48_000 / rate / profile.span
        assert 1 <= lasts < 2 or shape.frame == 256


def test_a_tone_is_its_bin() -> None:
    tokens = run(tone(100, 3 * FRAME))
    assert len(tokens) == 3
    for token in tokens:
        assert [bin for bin, _ in token.bins] == [99, 100, 101]
        assert [level for _, level in token.bins] == [
            pytest.approx(127.5, abs=1),
            255,
            pytest.approx(127.5, abs=1),
        ]


def test_levels_say_nothing_of_loudness() -> None:
    loud, quiet = (run(tone(100, FRAME, amplitude=amplitude))[0].bins for amplitude in (30_000, 3000))
    assert [bin for bin, _ in loud] == [bin for bin, _ in quiet]
    assert max(abs(one - other) for (_, one), (_, other) in zip(loud, quiet, strict=True)) <= 1


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_of_equal_bins_the_lower_ones_are_kept(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = _Analysis(profile, SoundFormat(RATE, 1, "u8", True, 0), each=False)
    most, bins = profile.bins, profile.shape(RATE).frame // 2 + 1
    given_back = np.full((3, bins), 7)
    given_back[1, 100:103] = 9
    given_back[2] = np.arange(bins) // 50
    monkeypatch.setattr(analysis._spectrum, "magnitudes", lambda samples: given_back.copy())
    alike, some, rising = analysis._kept(np.zeros((3, 2 * (bins - 1)), np.int32))
    assert alike == tuple((bin, 255) for bin in range(1, most + 1))
    assert some == (*((bin, 198) for bin in range(1, most - 2)), (100, 255), (101, 255), (102, 255))
    order = sorted(range(1, bins), key=lambda bin: (-(bin // 50), bin))
    assert [bin for bin, _ in rising] == sorted(order[:most])


def test_silence_has_no_bins_and_a_constant_none_but_its_edge() -> None:
    assert [token.bins for token in run(np.zeros(FRAME + 1, np.int16))] == [(), ()]
    constant = run(np.full(FRAME, 1000, np.int16))[0]
    assert constant.bins[0] == (1, 255)  # what the window spreads; bin 0 itself is no frequency
    assert all(level == 0 for _, level in constant.bins[1:])


def test_the_last_frame_goes_on_with_zeros() -> None:
    samples = noise(FRAME + 500)[:, 0]
    padded = np.concatenate([samples, np.zeros(FRAME - 500, np.int16)])
    short, long = run(samples), run(padded)
    assert [token.bins for token in short] == [token.bins for token in long]
    assert (short[-1].pts, short[-1].end) == (512_000, 574_500)
    assert long[-1].end == 1_024_000


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (256, 1), (257, 2), (512, 2), (513, 3), (768, 3)])
def test_frames_that_overlap(count: int, frames: int) -> None:
    samples = noise(count)[:, 0]
    tokens = run(samples, profile="detail")
    assert [token.index for token in tokens] == list(range(frames))
    assert tokens[-1].end == count * 125
    padded = np.concatenate([samples, np.zeros(512, np.int16)])
    for token in tokens:  # each is the first one of the sound from there on
        alone = run(padded[token.index * 256 :][:512], profile="detail")[0]
        assert token.bins == alone.bins


@pytest.mark.parametrize("rate", [8000, 44_100, 11_025, 192_000])
@pytest.mark.parametrize("profile", PROFILES)
def test_times_are_exact_and_without_gaps(profile: str, rate: int) -> None:
    samples = noise(rate + 77)[:, 0]
    tokens = run(samples, rate, profile=profile)
    shape = PROFILES[profile].shape(rate)
    assert tokens[0].pts == 0
    assert [token.pts for token in tokens] == [
        index * shape.hop * shape.step * 1_000_000 // rate for index in range(len(tokens))
    ]
    assert [token.pts for token in tokens[1:]] == [token.end for token in tokens[:-1]]
    assert tokens[-1].end == len(samples) * 1_000_000 // rate


def test_high_rates_are_averaged() -> None:
    # At 192 kHz four samples are one: alternating ones are silent, four alike are not.
    assert run(np.tile(np.array([9000, -9000], np.int16), 32_768), 192_000)[0].bins == ()
    low = tone(1000, 16_384, 16_384)
    assert run(np.repeat(low, 4), 192_000)[0].bins == run(low, 48_000)[0].bins
    odd = run(np.repeat(low, 4)[:-1], 192_000)
    assert len(odd) == 1
    assert [bin for bin, _ in odd[0].bins[:3]] == [999, 1000, 1001]


# -- channels


def test_one_channel_is_its_own_mix() -> None:
    samples = noise(3 * FRAME)
    each = run(samples, channels="each")
    assert [token.channel for token in each] == [0] * 3
    assert [replace(token, channel=None) for token in each] == run(samples)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_each_channel_is_what_it_is_alone(count: int) -> None:
    samples = noise(2 * FRAME + 9, count)
    tokens = run(samples, channels="each")
    assert [(token.index, token.channel) for token in tokens] == [
        (index, channel) for index in range(3) for channel in range(count)
    ]
    for channel in range(count):
        alone = run(samples[:, channel])
        assert [replace(one, channel=None) for one in tokens if one.channel == channel] == alone


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_mix_is_the_rounded_mean(count: int) -> None:
    samples = noise(FRAME, count).astype(np.int32) * 256
    sound = SoundFormat(RATE, count, "s24le", True, 0)
    mixed = list(_Analysis(STRUCTURE, sound, each=False).feed(samples))
    mean = np.array([[(2 * sum(row) + count) // (2 * count)] for row in samples.tolist()], np.int32)
    assert np.abs(mean - samples.mean(axis=1, keepdims=True)).max() <= 0.5
    alone = list(_Analysis(STRUCTURE, replace(sound, channels=1), each=False).feed(mean))
    assert mixed == alone


def test_opposite_channels_cancel() -> None:
    one = noise(FRAME)
    assert run(np.concatenate([one, -one], axis=1))[0].bins == ()


# -- the source


@given(
    cuts=st.lists(st.integers(0, 4 * 5000), max_size=12),
    profile=st.sampled_from(list(PROFILES)),
    channels=st.sampled_from(["mix", "each"]),
)
@settings(max_examples=40)
def test_where_the_source_is_split_does_not_matter(cuts: list[int], profile: str, channels: str) -> None:
    samples = noise(5000, 2)
    data = samples.astype("<i2").tobytes()
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    options: dict[str, Any] = {"pcm": PcmSpec("s16le", RATE, 2), "profile": profile, "channels": channels}
    whole = list(AudioFFTTokenizer(**options).encode(io.BytesIO(data)))
    assert list(AudioFFTTokenizer(**options).encode(pieces)) == whole
    assert len(whole) > 1


def test_a_pipe_gives_what_a_file_gives() -> None:
    data = noise(60_000).astype("<i2").tobytes()
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as pipe:
        piped = list(AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1)).encode(pipe))
    writer.join()
    assert piped == list(AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1)).encode(io.BytesIO(data)))


def test_tokens_come_as_soon_as_they_are_certain() -> None:
    given_out = 0

    def source() -> Iterator[bytes]:
        nonlocal given_out
        while True:
            given_out += 1
            yield bytes(2 * 256)

    tokens = AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1)).encode(source())
    for index in range(1, 4):
        next(tokens)
        assert given_out == index * FRAME // 256
    given_out = 0
    overlapping = AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1), profile="detail").encode(source())
    for index in range(1, 4):
        next(overlapping)
        assert given_out == 1 + index


def test_memory_follows_the_frame() -> None:
    second = noise(48_000, 2).astype("<i2").tobytes()

    def peak(seconds: int) -> int:
        tokenizer = AudioFFTTokenizer(pcm=PcmSpec("s16le", 48_000, 2))
        tracemalloc.start()
        try:
            count = sum(1 for _ in tokenizer.encode(second for _ in range(seconds)))
            assert count == -(-seconds * 48_000 // 16_384)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # tables are made
    assert abs(peak(60) - peak(6)) < 2**18


@pytest.mark.parametrize("rate", [48_000, 2**31 - 1])
def test_memory_follows_the_frame_with_every_channel(rate: int) -> None:
    """One frame of 512 channels is 32 MiB, at any rate: they are averaged as they come, and cut in groups."""
    analysis = _Analysis(STRUCTURE, SoundFormat(rate, 512, "s16le", True, 0), each=True)
    count = 0
    tracemalloc.start()
    try:
        for number in range(150):  # 128 samples of each channel, as a decoder gives them
            count += sum(1 for _ in analysis.feed(np.full((128, 512), number, np.int32)))
        count += sum(1 for _ in analysis.finish())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 512 * (2 if rate == 48_000 else 1)
    assert most < (48 if rate == 48_000 else 16) * 2**20


@pytest.mark.parametrize(("rate", "count", "most"), [(192_000, 3000, 9), (2**31 - 1, 200_000, 40_000)])
def test_steps_may_come_in_pieces(rate: int, count: int, most: int) -> None:
    """A mean of samples that came one by one is that of all of them at once."""
    sound = SoundFormat(rate, 3, "s16le", True, 0)
    samples = np.random.default_rng(count).integers(-(2**23), 2**23, (count, 3)).astype(np.int32)
    whole = _Analysis(STRUCTURE, sound, each=True)
    expected = [*whole.feed(samples), *whole.finish()]
    assert len(expected) == 3
    pieces = _Analysis(STRUCTURE, sound, each=True)
    sizes, at, found = random.Random(rate), 0, []
    while at < count:
        size = sizes.randint(1, most)
        found += pieces.feed(samples[at : at + size])
        at += size
    assert [*found, *pieces.finish()] == expected


def test_what_is_known_when() -> None:
    tokenizer = AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1))
    before = (
        tokenizer.format,
        tokenizer.shape,
        tokenizer.frame,
        tokenizer.hop,
        tokenizer.bit_exact,
        tokenizer.note,
    )
    assert before == (None,) * 6
    assert tokenizer.structure_only
    next(tokenizer.encode([bytes(2 * FRAME)]))
    assert tokenizer.format == SoundFormat(RATE, 1, "s16le", True, 0)
    assert (tokenizer.frame, tokenizer.hop, tokenizer.bit_exact, tokenizer.note) == (4096, 4096, True, None)
    detail = AudioFFTTokenizer(pcm=PcmSpec("s16le", RATE, 1), profile="detail")
    assert not detail.structure_only
    assert list(detail.encode([])) == []
    assert detail.format == SoundFormat(RATE, 1, "s16le", True, 0)
    assert (detail.frame, detail.hop) == (512, 256)


def test_a_sound_that_never_says_what_it_is() -> None:
    class Nothing:
        stopped = "there was nothing"

        @property
        def format(self) -> Any:
            raise UsageError("not known")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    tokenizer = AudioFFTTokenizer(decoder=lambda *_: Nothing())
    with BUNNY.open("rb") as source, pytest.raises(UsageError):
        list(tokenizer.encode(source))
    assert tokenizer.format is None


def test_wrong_options() -> None:
    for options in ({"profile": "fine"}, {"channels": "left"}, {"profile": "x" * 1000}):
        with pytest.raises(UsageError):
            AudioFFTTokenizer(**options)
    tokenizer = AudioFFTTokenizer(pcm=PcmSpec("u8", RATE, 1))
    assert list(tokenizer.encode([b"\x80" * 9]))
    with pytest.raises(UsageError, match="one source"):
        tokenizer.encode([b""])


def test_too_much_sound() -> None:
    tokens = AudioFFTTokenizer(pcm=PcmSpec("u8", RATE, 1), max_samples=5000).encode([bytes(5000), bytes(1)])
    with pytest.raises(LimitError):
        list(tokens)


@pytest.mark.parametrize("start", [-250_000, 0, 1_234_567])
def test_times_start_with_the_sound(start: int) -> None:
    sound = SoundFormat(RATE, 1, "u8", True, start)
    analysis = _Analysis(STRUCTURE, sound, each=False)
    tokens = [*analysis.feed(np.zeros((2 * FRAME, 1), np.int32)), *analysis.finish()]
    starts = [max(0, start + index * 512_000) for index in range(3)]
    assert [(token.pts, token.end) for token in tokens] == [(starts[0], starts[1]), (starts[1], starts[2])]


def test_a_start_that_no_clock_shows() -> None:
    with pytest.raises(MediaError, match="starts too late"):
        _Analysis(STRUCTURE, SoundFormat(RATE, 1, "u8", True, 2**62), each=False)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["tone.wav", "tone.flac", "tone.mp3", "audio.m4a", "vorbis.ogg"])
def test_any_sound(name: str) -> None:
    tokenizer = AudioFFTTokenizer()
    with media(name).open("rb") as source:
        tokens = list(tokenizer.encode(source))
    assert tokenizer.note is None
    assert tokenizer.format
    assert tokenizer.bit_exact is (name != "vorbis.ogg")
    assert {token.exact for token in tokens} == {tokenizer.bit_exact}
    spacing = tokenizer.format.rate / tokens[0].shape.frame
    for token in tokens[1:-1]:
        loudest = max(token.bins, key=lambda one: one[1])
        assert abs(loudest[0] * spacing - 440) < spacing
    assert 5.9e6 < tokens[-1].end - tokens[0].pts < 6.2e6


# -- records


GOOD = AudioToken(STRUCTURE, RATE, True, 1, 7, 3_584_000, 4_096_000, ((3, 255), (4, 9)))


def test_metadata() -> None:
    assert GOOD.metadata() == {
        "index": 7,
        "pts": 3_584_000,
        "end": 4_096_000,
        "channel": 1,
        "profile": "structure",
        "structure_only": True,
        "bit_exact": True,
        "rate": 8000,
        "frame": 4096,
        "step": 1,
        "bins": [[3, 255], [4, 9]],
    }
    shown = replace(GOOD, profile=DETAIL, channel=None, exact=False).metadata()
    assert (shown["profile"], shown["structure_only"], shown["frame"]) == ("detail", False, 512)
    assert (shown["channel"], shown["bit_exact"]) == (None, False)
    for token in run(noise(FRAME, 2), channels="each") + run(noise(9), profile="detail"):
        numbers = [value for value in token.metadata().values() if not isinstance(value, str | list)]
        assert all(value is None or isinstance(value, int) for value in numbers)
        assert all(type(value) is int for one in token.metadata()["bins"] for value in one)


def test_the_record() -> None:
    assert GOOD.serialize().hex(" ", -4) == (
        "01010102 00010c00 00001f40 00000000 00000000 00000007 00000000 0036b000"
        " 00000000 003e8000 0003ff00 04090000 00000000 00000000 00000000 00000000"
    )
    other = replace(GOOD, profile=DETAIL, channel=None, exact=False, rate=192_000, bins=())
    assert other.serialize().hex(" ", -4).startswith("01020000 ffff0d00 0002ee00 00000000")
    assert (len(GOOD.serialize()), len(other.serialize())) == (STRUCTURE.size, DETAIL.size) == (64, 136)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("channels", ["mix", "each"])
@pytest.mark.parametrize("rate", [8000, 192_000])
def test_written_tokens_are_read_back(profile: str, channels: str, rate: int) -> None:
    tokens = run(noise(40_000, 2), rate, profile=profile, channels=channels)
    written = b"".join(token.serialize() for token in tokens)
    assert len(written) == len(tokens) * PROFILES[profile].size
    assert AudioFFTTokenizer().decode(written) == tokens
    assert AudioFFTTokenizer().decode(b"") == []


def test_profiles_may_follow_each_other() -> None:
    tokens = run(noise(5000)[:, 0]) + run(noise(5000)[:, 0], profile="detail")
    assert AudioFFTTokenizer().decode(b"".join(token.serialize() for token in tokens)) == tokens


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rate": 0}, FormatError),
        ({"rate": -1}, FormatError),
        ({"rate": 2**31}, FormatError),
        ({"channel": -1}, FormatError),
        ({"channel": 512}, FormatError),
        ({"index": -1}, FormatError),
        ({"index": 2**63}, FormatError),
        ({"pts": -1}, FormatError),
        ({"end": 2**63}, FormatError),
        ({"end": 3_583_999}, OrderError),
        ({"bins": tuple((bin, 255) for bin in range(1, 10))}, FormatError),
        ({"bins": ((0, 255),)}, OrderError),
        ({"bins": ((2049, 255),)}, OrderError),
        ({"bins": ((5, 255), (5, 1))}, OrderError),
        ({"bins": ((5, 255), (4, 1))}, OrderError),
        ({"bins": ((5, 256),)}, FormatError),
        ({"bins": ((4, 0), (5, 255))}, FormatError),
        ({"bins": ((4, 254),)}, FormatError),
    ],
)
def test_what_no_token_can_say(changes: dict[str, Any], error: type[HarmonyError]) -> None:
    assert AudioFFTTokenizer().decode(GOOD.serialize()) == [GOOD]
    with pytest.raises(error):
        replace(GOOD, **changes).serialize()


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, 0, VersionError),
        (0, 2, VersionError),
        (1, 0, CriticalError),
        (1, 3, CriticalError),
        (2, 2, CriticalError),
        (2, 255, CriticalError),
        (3, 1, FormatError),  # a bin behind those that count
        (3, 3, FormatError),  # level 0
        (3, 9, FormatError),
        (4, 2, FormatError),  # channel 513
        (6, 10, FormatError),
        (6, 255, FormatError),
        (7, 1, FormatError),
        (8, 255, FormatError),
        (12, 1, FormatError),
        (15, 1, FormatError),
        (16, 128, FormatError),
        (24, 128, FormatError),
        (24, 1, OrderError),
        (32, 255, FormatError),
        (42, 254, FormatError),
        (45, 0, FormatError),
        (63, 1, FormatError),
    ],
)
def test_records_with_one_thing_wrong(at: int, value: int, error: type[HarmonyError]) -> None:
    record = bytearray(GOOD.serialize())
    record[at] = value
    for before in (b"", GOOD.serialize()):
        with pytest.raises(error) as caught:
            AudioFFTTokenizer().decode(before + bytes(record))
        assert type(caught.value) is error
        assert caught.value.where == len(before)


@pytest.mark.parametrize("size", [1, 39, 40, 63])
def test_records_that_are_cut_off(size: int) -> None:
    with pytest.raises(TruncatedError):
        AudioFFTTokenizer().decode(GOOD.serialize() + GOOD.serialize()[:size])
    with pytest.raises(TruncatedError):
        AudioToken.parse(b"")


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    try:
        tokens = AudioFFTTokenizer().decode(data)
    except FormatError:
        return
    assert b"".join(token.serialize() for token in tokens) == data


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """What is accepted is exactly what would be written."""
    written = bytearray(b"".join(token.serialize() for token in run(noise(5000, seed=2)[:, 0])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at] = data.draw(st.integers(0, 255))
    try:
        tokens = AudioFFTTokenizer().decode(bytes(written))
    except FormatError:
        return
    assert b"".join(token.serialize() for token in tokens) == written


@st.composite
def tokens_of_any_kind(draw: st.DrawFn) -> AudioToken:
    profile = draw(st.sampled_from(list(PROFILES.values())))
    rate = draw(st.integers(1, 2**31 - 1))
    most = profile.shape(rate).frame // 2
    bins = draw(st.lists(st.integers(1, most), unique=True, max_size=profile.bins))
    levels = [profile.top, *(draw(st.integers(1, profile.top)) for _ in bins[1:])]
    pts = draw(st.integers(0, 2**63 - 1))
    return AudioToken(
        profile=profile,
        rate=rate,
        exact=draw(st.booleans()),
        channel=draw(st.none() | st.integers(0, 511)),
        index=draw(st.integers(0, 2**63 - 1)),
        pts=pts,
        end=draw(st.integers(pts, 2**63 - 1)),
        bins=tuple(sorted(zip(bins, levels, strict=False))),
    )


@given(st.lists(tokens_of_any_kind(), max_size=5))
def test_every_token_can_be_written(tokens: list[AudioToken]) -> None:
    assert AudioFFTTokenizer().decode(b"".join(token.serialize() for token in tokens)) == tokens
