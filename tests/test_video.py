"""The tokenizers over real media: every byte kept, KEY blocks at real units, times as ffprobe sees them."""

from __future__ import annotations

import io
import itertools
import os
import random
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import HarmonyError, MediaError, SourceError, StorageError, UsageError
from harmony4.crypto.token import HEADER, KEY, LAST, MAX_BLOCK, TokenRecord
from harmony4.tokenize import cut, feed
from harmony4.tokenize import media as media_module
from harmony4.tokenize.demux import demux
from harmony4.tokenize.feed import Feed, SeekableFile
from harmony4.tokenize.media import MediaBlocks, TrackFacts
from harmony4.tokenize.sniff import Format, sniff
from harmony4.tokenize.timeline import Step
from harmony4.tokenize.video import VideoBlockToken, VideoTokenizer, VideoTransportTokenizer
from limits import file_size_limit, needs_rlimit
from media_factory import PLAIN, RECIPES, key_times, media, probe
from needs import BUNNY, needs_espeak, needs_ffmpeg

SMALL = 10_000


def run(
    source: Any, size: int = SMALL, **options: Any
) -> tuple[VideoTransportTokenizer, list[VideoBlockToken]]:
    tokenizer = VideoTransportTokenizer(block_size=size, **options)
    return tokenizer, list(tokenizer.encode(source))


def sound(tokens: list[VideoBlockToken], data: bytes, size: int = SMALL) -> list[TokenRecord]:
    """Check what every tokenizer owes; returns the records."""
    records = [one.record for one in tokens]
    assert b"".join(one.data for one in tokens) == data
    for i, one in enumerate(tokens):
        one.record.check()
        assert (one.record.index, one.record.size) == (i, len(one.data))
        assert one.record.digest == sha256(one.data)
        assert 0 < one.record.size <= size
        assert bool(one.record.flags & LAST) == (i == len(tokens) - 1)
    for a, b in itertools.pairwise(records):
        assert (a.offset + a.size, a.end) == (b.offset, b.pts)
        assert not b.flags & HEADER or a.flags & HEADER
    return records


def keys(records: list[TokenRecord]) -> list[TokenRecord]:
    return [one for one in records if one.flags & KEY]


def facts(tokenizer: VideoTransportTokenizer) -> TrackFacts:
    assert tokenizer.track is not None
    return tokenizer.track


# What a KEY block starts with, by format.
STARTS = {"mkv": b"\x1f\x43\xb6\x75", "webm": b"\x1f\x43\xb6\x75", "ogg": b"OggS", "ogv": b"OggS"}
STARTS |= {"mp3": b"\xff\xfb", "flac": b"\xff\xf8"}


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_real_media(name: str) -> None:
    data = media(name).read_bytes()
    with media(name).open("rb") as file:
        tokenizer, tokens = run(file)
    records = sound(tokens, data)
    track = facts(tokenizer)
    kind, suffix = track.kind, name.rsplit(".")[-1]
    assert (track.timing, tokenizer.note, tokenizer.steps) == ("demux", None, ())
    assert track.self_framing == (
        not name.startswith(("plain.mp4", "opengop.mp4", "moovend", "subtitled.mp4", "audio.m4a"))
    )
    assert track.span == (0 if kind == "video" else 1_000_000)
    assert tokenizer.consumed == len(data)
    # Times: the keyframes that ffprobe sees, on a timeline that starts at the container's origin.
    times = [
        max(0, int(time * 1_000_000 // 1) - tokenizer.origin)
        for time in key_times(media(name), "v:0" if kind == "video" else "a:0")
    ]
    found = keys(records)
    if kind == "video":
        assert [one.pts for one in found] == sorted(times)
        assert len(found) >= 5
    else:
        # ffprobe prints seconds rounded to 6 digits.
        assert all(min(abs(one.pts - time) for time in times) <= 1 for one in found)
        steps = [b.pts - a.pts for a, b in itertools.pairwise(found)]
        assert all(step >= 1_000_000 for step in steps)
        assert suffix == "webm" or max(steps) < 1_200_000  # one Cluster holds 5 s of sound
    # Places: real unit starts.
    for one in found:
        start = data[one.offset : one.offset + 256]
        if suffix in STARTS:
            assert start.startswith(STARTS[suffix])
        elif suffix == "ts":
            assert start[0] == 0x47
            assert kind == "audio" or (start[1] & 0x5F, start[2]) == (0x40, 0)  # a PAT
        elif suffix == "m2ts":
            assert (start[4], start[5] & 0x5F, start[6]) == (0x47, 0x40, 0)
        elif name.startswith("fragment"):
            assert start[4:8] == b"moof"
    assert 5_900_000 <= records[-1].end <= 6_100_000
    assert records[0].flags & (HEADER | KEY)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.mp4", "opengop.mp4", "moovend.mp4", "late-video.mp4"])
def test_mp4_keys_are_samples(name: str) -> None:
    _, tokens = run(io.BytesIO(media(name).read_bytes()))
    records = [one.record for one in tokens]
    places = [int(one["pos"]) for one in probe(media(name)) if "K" in one["flags"]]
    assert [one.offset for one in keys(records)] == places


@needs_ffmpeg
@pytest.mark.parametrize("name", ["opengop.mp4", "opengop.ts", "plain.mkv"])
def test_open_gop_has_leading_pictures(name: str) -> None:
    records = [one.record for one in run(io.BytesIO(media(name).read_bytes()))[1]]
    groups = [one for one in keys(records) if one.min_pts < one.pts]
    assert len(groups) >= 2
    assert all(one.pts - one.min_pts <= 80_000 for one in groups)
    closed = [one.record for one in run(io.BytesIO(media("plain.mp4").read_bytes()))[1]]
    assert all(one.min_pts == one.pts for one in keys(closed))


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_a_pipe_gives_the_same(name: str) -> None:
    with media(name).open("rb") as file:
        expected_tokenizer, expected = run(file)
    ends = os.pipe()
    data = media(name).read_bytes()

    def write() -> None:
        with os.fdopen(ends[1], "wb") as out:
            out.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(ends[0], "rb", buffering=0) as source:
        tokenizer, tokens = run(source)
    thread.join()
    assert tokens == expected
    assert (facts(tokenizer), tokenizer.origin) == (facts(expected_tokenizer), expected_tokenizer.origin)


EXPECTED: dict[tuple[str, int], list[VideoBlockToken]] = {}


@needs_ffmpeg
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.sampled_from([1_000, SMALL, 2**20]),
    st.lists(st.integers(0, 600_000), max_size=8),
    st.sampled_from([None, 1, 997, 32_768, 100_000]),
)
def test_any_chunking_gives_the_same(name: str, size: int, cuts: list[int], step: int | None) -> None:
    data = media(name).read_bytes()
    if (name, size) not in EXPECTED:
        EXPECTED[name, size] = run(io.BytesIO(data), size)[1]
    points = sorted({0, len(data), *(one for one in cuts if one < len(data))})
    if step is not None:
        points = [*range(0, len(data), max(step, len(data) // 3000)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(points)]
    assert run([b"", *pieces], size)[1] == EXPECTED[name, size]


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.mp4", "plain.ts", "live.mkv"])
@pytest.mark.parametrize("size", [1, 100, 5_000, 40_000, MAX_BLOCK])
def test_block_sizes(name: str, size: int) -> None:
    data = media(name).read_bytes()[: 12_000 if size == 1 else None]
    records = sound(run(io.BytesIO(data), size)[1], data, size)
    assert len(keys(records)) >= (1 if size == 1 else 5)


# -- odd media


def test_the_bunny_has_one_keyframe() -> None:
    data = BUNNY.read_bytes()
    tokenizer, tokens = run(io.BytesIO(data), 2**20)
    records = sound(tokens, data, 2**20)
    assert len(keys(records)) == 1
    assert keys(records)[0].pts == 0
    assert facts(tokenizer) == TrackFacts(
        *("h264,aac", "video", "video/mp4", False, 0, 0, 1, facts(tokenizer).start_den, 0, "demux")
    )


@needs_ffmpeg
def test_edit_lists_and_negative_starts() -> None:
    data = media("edited.mp4").read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    records = sound(tokens, data)
    assert records[0].pts == 0
    times = [int(time * 1_000_000 // 1) - tokenizer.origin for time in key_times(media("edited.mp4"))]
    # The keyframe before the cut is there and hidden: its time is negative and counts as 0.
    found = [one.pts for one in keys(records)]
    assert found[0] == 0
    assert found[1:] == [time for time in times if time > 0]


@needs_ffmpeg
@pytest.mark.parametrize(("name", "first"), [("late-audio.mp4", 0), ("late-video.mp4", 2_500_000)])
def test_streams_that_start_apart(name: str, first: int) -> None:
    data = media(name).read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    found = keys(sound(tokens, data))
    assert tokenizer.origin == 0
    assert found[0].pts == first
    assert len(found) == 6


@needs_ffmpeg
def test_the_first_video_is_the_clock() -> None:
    data = media("two-videos.mp4").read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    track = facts(tokenizer)
    assert (track.codec, track.stream) == ("h264,h264", 0)
    places = [int(one["pos"]) for one in probe(media("two-videos.mp4")) if "K" in one["flags"]]
    assert [one.offset for one in keys(sound(tokens, data))] == places


@needs_ffmpeg
def test_variable_frame_rate() -> None:
    data = media("variable.mp4").read_bytes()
    found = keys(sound(run(io.BytesIO(data))[1], data))
    assert [one.pts for one in found] == [int(t * 1_000_000) for t in key_times(media("variable.mp4"))]
    assert len({b.pts - a.pts for a, b in itertools.pairwise(found)}) > 0


@needs_ffmpeg
def test_a_cover_is_not_a_film() -> None:
    data = media("cover.mp3").read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    assert (facts(tokenizer).kind, facts(tokenizer).codec) == ("audio", "mp3,png")
    assert len(keys(sound(tokens, data))) == 6


@needs_espeak
def test_speech() -> None:
    data = media("speech.wav").read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    found = keys(sound(tokens, data))
    assert (facts(tokenizer).codec, found[0].offset) == ("pcm_s16le", 44)
    assert len(found) >= 4


@needs_ffmpeg
@pytest.mark.parametrize("name", ["one-frame.mp4", "single-key.mp4"])
def test_few_keyframes(name: str) -> None:
    data = media(name).read_bytes()
    assert len(keys(sound(run(io.BytesIO(data))[1], data))) == 1


@needs_ffmpeg
def test_no_keyframe_at_all() -> None:
    # The stream from its middle: what is before the next keyframe, alone.
    whole = media("plain.ts").read_bytes()
    found = keys([one.record for one in run(io.BytesIO(whole))[1]])
    data = whole[:564] + whole[found[1].offset + 188 * 40 : found[2].offset]
    records = sound(run(io.BytesIO(data))[1], data)
    assert keys(records) == []
    assert all(one.flags & HEADER for one in records)
    assert records[-1].end > 0


# -- clocks


@needs_ffmpeg
def test_mpegts_wrap() -> None:
    data = media("wrap.ts").read_bytes()
    tokenizer, tokens = run(io.BytesIO(data))
    found = keys(sound(tokens, data))
    plain = keys([one.record for one in run(io.BytesIO(media("plain.ts").read_bytes()))[1]])
    assert tokenizer.steps == ()
    # The offset is not a whole number of µs in ticks, hence the tolerance.
    assert all(abs(a.pts - b.pts) <= 12 for a, b in zip(found, plain, strict=True))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (("plain.ts", "plain.ts"), 1),
        (("late.ts", "plain.ts"), 1),  # more than a minute back: libavformat itself would add 26 hours
        (("plain.ts", "late.ts"), 0),
        (("wrap.ts", "plain.ts", "plain.ts"), 2),  # behind the wrap, and a little back
    ],
)
def test_joined_transport_streams(names: tuple[str, ...], steps: int) -> None:
    data = b"".join(media(name).read_bytes() for name in names)
    tokenizer, tokens = run(io.BytesIO(data))
    found = keys(sound(tokens, data))
    assert len(found) == 6 * len(names)
    assert len(tokenizer.steps) == steps
    for step in tokenizer.steps:
        assert step.pts in {one.pts for one in found}
        assert step.shift > 0
    assert [one.pts for one in found] == sorted({one.pts for one in found})
    if names == ("plain.ts", "plain.ts"):
        assert found[6].pts == tokenizer.steps[0].pts
        assert 5_900_000 < found[6].pts < 6_200_000
        assert found[-1].pts - found[6].pts == found[5].pts - found[0].pts
        assert isinstance(tokenizer.steps[0], Step)


# -- damage: our errors or none


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_truncated(name: str) -> None:
    whole = media(name).read_bytes()
    rnd = random.Random(name)
    for size in [*range(12), 100, 1000, *(rnd.randrange(len(whole)) for _ in range(12)), len(whole) - 1]:
        data = whole[:size]
        try:
            sound(run(io.BytesIO(data))[1], data)
        except MediaError as error:
            assert "--raw" in str(error)


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_bit_flips(name: str) -> None:
    whole = media(name).read_bytes()
    rnd = random.Random(name)
    for _ in range(15):
        data = bytearray(whole)
        for _ in range(rnd.choice((1, 30, 1000))):
            data[rnd.randrange(min(len(data), rnd.choice((300, len(data)))))] ^= 1 << rnd.randrange(8)
        try:
            sound(run(io.BytesIO(data))[1], bytes(data))
        except MediaError:
            continue
        pieces = [bytes(data[i : i + 5000]) for i in range(0, len(data), 5000)]
        assert run(pieces)[1] == run(io.BytesIO(data))[1]


@needs_ffmpeg
def test_media_that_break_off_go_on_as_bytes() -> None:
    data = media("plain.webm").read_bytes()[:100_000] + random.Random(1).randbytes(50_000)
    records = sound(run(io.BytesIO(data))[1], data)
    assert keys(records)
    assert not records[-1].flags & KEY


def test_refused_media_say_so() -> None:
    data = b"\0\0\0\x18ftypisom" + bytes(5000)
    with pytest.raises(MediaError, match="--raw") as caught:
        run(io.BytesIO(data))
    assert caught.value.where == "mp4"
    assert run(io.BytesIO(data), raw=True)[1]


@needs_ffmpeg
def test_neither_video_nor_audio() -> None:
    data = media("subtitles.mkv").read_bytes()
    with pytest.raises(MediaError, match="neither video nor audio"):
        run(io.BytesIO(data))


@given(st.binary(max_size=3000))
@settings(max_examples=60, deadline=None)
def test_anything_can_be_tokenized(data: bytes) -> None:
    try:
        sound(run(io.BytesIO(data), 700)[1], data, 700)
    except HarmonyError as error:
        assert isinstance(error, MediaError)


# -- opaque


def test_opaque() -> None:
    tokenizer, tokens = run([b"abc", b"", b"defg"], 3, fps_hint=Fraction(24000, 1001), gop=48)
    records = sound(tokens, b"abcdefg", 3)
    assert [(one.pts, one.end, one.flags & KEY) for one in records] == [
        *((0, 2_002_000, 1), (2_002_000, 4_004_000, 1), (4_004_000, 6_006_000, 1)),
    ]
    assert facts(tokenizer) == TrackFacts(
        *("", "data", "application/octet-stream", False, 0, 0, 48 * 1001, 24000, 0, "hint")
    )


def test_raw_keeps_the_media_type() -> None:
    data = BUNNY.read_bytes()
    tokenizer, tokens = run(io.BytesIO(data), 2**18, raw=True)
    assert len(keys(sound(tokens, data, 2**18))) == 5
    assert (facts(tokenizer).media_type, facts(tokenizer).kind) == ("video/mp4", "data")


def test_empty() -> None:
    for raw in (False, True):
        tokenizer, tokens = run(io.BytesIO(b""), raw=raw)
        assert tokens == []
        assert facts(tokenizer).timing == "hint"
    assert VideoTokenizer().tokens(b"") == []


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 0},
        {"block_size": MAX_BLOCK + 1},
        {"fps_hint": Fraction(0)},
        {"fps_hint": Fraction(-1)},
        {"gop": 0},
        {"fps_hint": Fraction(10**6 + 1), "gop": 1},
        {"fps_hint": Fraction(1, 2**30), "gop": 2},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VideoTransportTokenizer(**options)
    with pytest.raises(UsageError):
        VideoTokenizer(**options)


def test_one_source_each() -> None:
    tokenizer = VideoTransportTokenizer(raw=True)
    assert (tokenizer.track, tokenizer.origin, tokenizer.steps, tokenizer.note, tokenizer.consumed) == (
        *(None, 0, (), None, 0),
    )
    list(tokenizer.encode([b"x"]))
    with pytest.raises(UsageError):
        tokenizer.encode([b"y"])
    simple = VideoTokenizer(raw=True)
    assert simple.tokens(b"x") == simple.tokens(bytearray(b"x"))


def test_tokens_come_while_the_source_is_read() -> None:
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 10_000
            yield bytes(10_000)

    tokens = VideoTransportTokenizer(raw=True, block_size=10_000).encode(source())
    next(tokens)
    assert read <= 30_000


@needs_ffmpeg
def test_media_tokens_come_while_the_source_is_read() -> None:
    data = media("plain.ts").read_bytes()
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for at in range(0, len(data), 1000):
            read = at
            yield data[at : at + 1000]

    tokens = VideoTransportTokenizer(block_size=SMALL).encode(source())
    ahead = [read - token.record.offset - token.record.size for token in tokens]
    # One block, the packets that FFmpeg looks at to begin with, and its buffer.
    assert max(ahead) < SMALL * 2 + 5 * 32_768


# -- waiting bytes


class Disk:
    """Spools that tell how many there are and what is in them."""

    def __init__(self, *, full: bool = False) -> None:
        self.made: list[io.BytesIO] = []
        self.peak = 0
        self.full = full

    def __call__(self) -> BinaryIO:
        disk = self

        class Spool(io.BytesIO):
            def write(self, data: Any, /) -> int:
                if disk.full:
                    raise OSError(28, "No space left on device")
                n = super().write(data)
                disk.peak = max(disk.peak, self.getbuffer().nbytes)
                return n

        self.made.append(Spool())
        return self.made[-1]


def with_free_box(name: str, size: int) -> Iterator[bytes]:
    """The medium with a huge `free` box behind its `ftyp`, made up while it is read."""
    data = media(name).read_bytes()
    head = int.from_bytes(data[:4], "big")
    yield data[:head]
    yield (8 + size).to_bytes(4, "big") + b"free"
    while size:
        yield bytes(min(size, 2**20))
        size -= min(size, 2**20)
    yield data[head:]


@needs_ffmpeg
def test_bytes_that_wait_go_to_the_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmony4.tokenize.video.MEMORY", 2**18)
    disk = Disk()
    size = 5 * 2**20
    whole = b"".join(with_free_box("fragmented.mp4", size))
    tokens = run(with_free_box("fragmented.mp4", size), 2**18, spool=disk)[1]
    records = sound(tokens, whole, 2**18)
    assert len(keys(records)) == 6
    assert tokens == run(io.BytesIO(whole), 2**18)[1]
    assert disk.peak > 2**20
    assert all(one.closed for one in disk.made)
    with pytest.raises(StorageError, match="No space left"):
        run(with_free_box("fragmented.mp4", size), spool=Disk(full=True))


@needs_ffmpeg
def test_an_index_at_the_end_of_a_pipe_needs_a_spool() -> None:
    data = media("moovend.mp4").read_bytes()
    disk = Disk()
    _, tokens = run([data[i : i + 999] for i in range(0, len(data), 999)], spool=disk)
    with media("moovend.mp4").open("rb") as file:
        assert tokens == run(file)[1]
    assert disk.peak == len(data)
    with pytest.raises(StorageError, match="No space left"):
        run([data], spool=Disk(full=True))


class TestFeed:
    def make(self, memory: int, *pieces: bytes) -> Feed:
        return Feed(list(pieces), io.BytesIO, memory=memory)

    @settings(deadline=None)
    @given(st.integers(0, 40), st.lists(st.tuples(st.sampled_from("rptn"), st.integers(1, 30)), max_size=60))
    def test_as_a_queue(self, memory: int, actions: list[tuple[str, int]]) -> None:
        data = bytes(range(256)) * 2
        made = self.make(memory, *(data[i : i + 7] for i in range(0, 300, 7)))
        data = data[:301]
        read = taken = 0
        for action, n in actions:
            if action == "r" and read >= taken:
                piece = made.read(n)
                assert piece == data[read : read + n]
                read += len(piece)
            elif action == "p":
                assert made.peek(taken, n) == data[taken : min(taken + n, made.size)]
            elif action == "t":
                piece = made.take(min(n, made.waiting))
                assert piece == data[taken : taken + len(piece)]
                taken += len(piece)
            elif action == "n" and read <= taken:
                piece = made.next(n)
                assert piece == data[taken : taken + n]
                taken += len(piece)
            assert made.waiting == made.size - taken
        made.close()
        made.close()

    def test_without_a_demuxer(self) -> None:
        made = self.make(9, b"abc", b"defg")
        assert [made.next(3) for _ in range(4)] == [b"abc", b"def", b"g", b""]
        made = self.make(9, b"abc")
        assert [made.next(3), made.next(3), made.next(3)] == [b"abc", b"", b""]

    def test_spool_errors(self) -> None:
        class Worn(io.BytesIO):
            def read(self, n: int | None = -1, /) -> bytes:
                raise OSError(5, "Input/output error")

        made = Feed([b"abcdef"], Worn, memory=2)
        with pytest.raises(StorageError, match="Input/output"):
            made.read(6)
        assert isinstance(made.error, StorageError)

    @pytest.mark.parametrize("size", [5000, 9000])
    @needs_rlimit
    def test_a_full_disk(self, tmp_path: Path, size: int) -> None:
        """What stays in the spool's own buffer fails again, without words, when it is closed."""
        made = Feed([bytes(size)] * 9, lambda: (tmp_path / "spool").open("w+b"), memory=2)
        with file_size_limit(6000):
            with pytest.raises(StorageError, match="large"):
                made.pull(9 * size)
            made.close()
        spool = cast(BinaryIO, (tmp_path / "spool").open("w+b"))
        blocks = MediaBlocks(
            Feed([bytes(4) + b"mdat", bytes(size)], io.BytesIO, memory=2**20),
            [],
            cast(Format, sniff(bytes(4) + b"mdat")),
            size=9,
            demuxer=demux,
            spool=lambda: spool,
        )
        with file_size_limit(100), pytest.raises(StorageError, match="large"):
            list(blocks)
        assert spool.closed

    def test_source_errors(self) -> None:
        class Bad:
            def read(self, n: int) -> bytes | None:
                return None

        with pytest.raises(SourceError):
            Feed(Bad(), io.BytesIO, memory=9).read(5)  # type: ignore[arg-type]

    def test_cursor(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"0123456789")
        with path.open("rb") as file:
            for one in (SeekableFile(file, 10), SeekableFile(io.BytesIO(b"0123456789"), 10)):
                assert one.read(3) == b"012"
                assert (one.seek(-2, 2), one.tell()) == (8, 8)
                assert one.read(9) == b"89"
                assert one.seek(4) == 4
                assert one.seek(1, 1) == 5
                assert one.read(1) == b"5"
            assert file.tell() == 0
            cursor = SeekableFile(file, 10)
        with pytest.raises(SourceError):
            cursor.read(1)

    def test_regular_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"0123456789")
        with path.open("rb") as file:
            assert feed.regular_file(file, 0) == 10
            assert feed.regular_file(file, 1) is None

            class NoTell:
                fileno = file.fileno

            assert feed.regular_file(NoTell(), 0) is None
        assert feed.regular_file(io.BytesIO(), 0) is None
        assert feed.regular_file([b""], 0) is None


@needs_ffmpeg
@pytest.mark.parametrize("after", [0, 50_000, 120_000])
@pytest.mark.parametrize("name", ["plain.mp4", "plain.ts", "moovend.mp4"])
def test_a_source_that_fails(name: str, after: int) -> None:
    data = media(name).read_bytes()

    def source() -> Iterator[bytes]:
        if after:
            yield data[:after]
        raise OSError(5, "Input/output error")

    class File:
        def __init__(self) -> None:
            self.pieces = source()

        def read(self, n: int) -> bytes:
            return next(self.pieces)

    with pytest.raises(SourceError, match="Input/output error"):
        run(File())


@needs_ffmpeg
def test_an_error_that_ffmpeg_swallows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demuxer may take a failed read for the end, or for bad media; the source's error is what counts."""
    data = media("plain.ts").read_bytes()

    class Quiet:
        def __init__(self, inner: Any, refuse: bool) -> None:
            self.inner, self.refuse = inner, refuse

        def read(self, n: int, /) -> bytes:
            try:
                return self.inner.read(n)
            except SourceError:
                return b""

    for refuse in (False, True):

        def deaf(source: Any, name: str, refuse: bool = refuse) -> Any:
            quiet = Quiet(source, refuse)
            if refuse:
                while quiet.read(1000):
                    pass
                raise MediaError("refused")
            return demux(quiet, name)

        class File:
            def __init__(self) -> None:
                self.file = io.BytesIO(data)

            def read(self, n: int) -> bytes:
                if self.file.tell() > 100_000:
                    raise OSError(5, "Input/output error")
                return self.file.read(n)

        with pytest.raises(SourceError):
            run(File(), demuxer=deaf)


@needs_ffmpeg
def test_a_demuxer_that_gives_nothing() -> None:
    """Recognised and opened, but no packets at all: header bytes, and the facts are known all the same."""
    data = media("fragmented.mp4").read_bytes()
    first = data.find(b"moof") - 4
    for cut_at in (first, first + 100):
        try:
            tokenizer, tokens = run(io.BytesIO(data[:cut_at]))
        except MediaError:
            continue
        sound(tokens, data[:cut_at])
        assert facts(tokenizer).kind == "video"


def test_recipes_are_used() -> None:
    assert set(PLAIN) <= set(RECIPES)
    assert cut.MAX_UNIT > media_module.MEMORY
