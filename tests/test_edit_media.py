"""Edits of real media: a decoder makes of a cut what it makes of that part of the source (H4MK 17.6)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from commands import Done, here, refused
from harmony4.crypto import HEADER, KEY
from harmony4.h4mk import H4MKReader, verify
from harmony4.h4mk.edits.edit import Span, cut
from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import FRAGMENTS, media
from needs import BUNNY, needs_espeak, needs_ffmpeg

pytestmark = needs_ffmpeg

WRAP = Fraction(2**33, 90_000)


@dataclass(frozen=True)
class Made:
    """A medium, its container, and a cut of it with its stream."""

    source: Path
    container: Path
    cut: Path
    stream: Path
    span: Span
    origin: int
    """Of the container, µs."""

    def inside(self, time: Fraction) -> bool:
        """Whether the cut shows all that is shown at a time of the source, s."""
        at = time * 10**6 - self.origin
        return self.span.pts <= at + 1 and at + 1 < self.span.end


def tool(*words: object) -> str:
    command = [str(word) for word in words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def frames(path: Path, stream: str) -> dict[Fraction, str]:
    """Time in s → hash of each picture, or of each piece of sound, as ffmpeg decodes it."""
    words = ("-v", "error", "-copyts", "-i", path, "-map", f"0:{stream}:0", "-fps_mode", "passthrough")
    words += ("-enc_time_base", "-1")
    if stream == "a":
        words = ("-v", "error", "-copyts", "-i", path, "-map", "0:a:0")
    found, base = {}, Fraction(1)
    for line in tool("ffmpeg", *words, "-f", "framehash", "-hash", "md5", "-").splitlines():
        if line.startswith("#tb 0:"):
            base = Fraction(line.split(":")[1].strip())
        elif not line.startswith("#"):
            _, _, pts, _, _, digest = (part.strip() for part in line.split(","))
            found[int(pts) * base] = digest
    return found


def packets(path: Path, stream: str) -> Iterator[tuple[Fraction, int]]:
    """Time in s and size of each packet, in reading order, by ffprobe."""
    words = ("-v", "error", "-select_streams", f"{stream}:0", "-show_entries", "packet=pts_time,size")
    for one in json.loads(tool("ffprobe", *words, "-of", "json", path))["packets"]:
        if "pts_time" in one:
            yield Fraction(one["pts_time"]), int(one["size"])


def made(source: Path, folder: Path, start: int, end: int | None) -> Made:
    container, out, stream = folder / "all.h4mk", folder / "cut.h4mk", folder / f"cut{source.suffix}"
    export(source, container, ExportOptions(block_size=20_000))
    with H4MKReader(container) as reader:
        report = cut(reader, out, start, end)
        origin = reader.trak.origin
    assert verify(out).ok
    with H4MKReader(out) as reader:
        stream.write_bytes(reader.read(0, reader.stream_size()))
    (span,) = report.spans
    assert span is not None
    return Made(source, container, out, stream, span, origin)


def fragmented(name: str, folder: Path) -> Path:
    """A medium of the factory as fragmented MP4, which it is remuxed to."""
    path = folder / f"fragmented-{name}"
    words = f"-v error -nostdin -i {media(name)} -c copy -fflags +bitexact {FRAGMENTS}+frag_keyframe {path}"
    tool("ffmpeg", *words.split())
    return path


VIDEOS = (
    *("fragmented.mp4", "fragments-by-time.mp4", "plain.mkv", "live.mkv", "mixed-clusters.mkv"),
    *("plain.webm", "live.webm", "plain.ts", "broadcast.ts", "plain.m2ts", "theora.ogv"),
    *("+opengop.mp4", "+variable.mp4", "+late-audio.mp4", "+late-video.mp4", "+two-videos.mp4"),
)
"""Those with a + are made fragmented first."""


@pytest.mark.parametrize("name", VIDEOS)
def test_pictures_of_a_cut(name: str, tmp_path: Path) -> None:
    """B-frames, open GOPs, varying frame rates, late sound, late pictures: same frames, same times."""
    source = fragmented(name[1:], tmp_path) if name.startswith("+") else media(name)
    one = made(source, tmp_path, 3_300_000, 4_200_000)
    shown = {time: frame for time, frame in frames(source, "v").items() if one.inside(time)}
    found = {time: frame for time, frame in frames(one.stream, "v").items() if one.inside(time)}
    assert len(shown) >= 10
    assert found == shown
    assert dict(packets(one.stream, "v")).items() >= {
        (time, size) for time, size in packets(source, "v") if one.inside(time)
    }


@pytest.mark.parametrize(
    "name", ["tone.flac", "tone.mp3", "tone.wav", "opus.ogg", "vorbis.ogg", "audio.webm"]
)
def test_packets_of_sound(name: str, tmp_path: Path) -> None:
    """Of sound, decoders need a little of what went before; the packets are the same, in one piece."""
    one = made(media(name), tmp_path, 2_500_000, 4_000_000)
    sizes = [size for _, size in packets(one.stream, "a")]
    whole = [size for _, size in packets(one.source, "a")]
    times = [time for time, _ in packets(one.source, "a")]
    assert len(sizes) > 15
    assert sizes in (whole[at : at + len(sizes)] for at in range(len(whole)))
    assert times
    tool("ffmpeg", "-v", "error", "-i", one.stream, "-f", "null", "-")


@needs_espeak
def test_speech(tmp_path: Path) -> None:
    """PCM: every sample from the first to the last key block, at its place."""
    one = made(media("speech.wav"), tmp_path, 1_200_000, 2_500_000)
    with H4MKReader(one.container) as reader:
        found = reader.time_range(1_200_000, 2_500_000)
        ((start, size),) = found.header_ranges
        assert start == 0
        sound = media("speech.wav").read_bytes()
        assert one.stream.read_bytes() == sound[:size] + sound[found.start : found.stop]


def test_a_wrap_of_the_clock(tmp_path: Path) -> None:
    """The 33-bit clock of MPEG-TS wraps inside the cut, or before it: the container's times go on."""
    source = media("wrap.ts")
    before = made(source, tmp_path, 2_500_000, 4_500_000)
    shown = list(frames(media("plain.ts"), "v").values())
    found = list(frames(before.stream, "v").values())
    assert any(shown[at : at + len(found)] == found for at in range(len(shown)))
    with H4MKReader(before.container) as reader, H4MKReader(before.cut) as other:
        assert other.trak.origin == reader.trak.origin + before.span.pts
        (tmp_path / "b").mkdir()
        behind = made(source, tmp_path / "b", 4_500_000, None)
        times = {token.digest: token.pts + reader.trak.origin for token in reader.tokens()}
        with H4MKReader(behind.cut) as last:
            for token in (one for one in last.tokens() if not one.flags & HEADER):
                assert token.pts + last.trak.origin == times[token.digest]


def test_a_joined_recording(tmp_path: Path) -> None:
    """The source's own clock begins again in its middle: cuts across it and behind it know."""
    twice = tmp_path / "twice.ts"
    twice.write_bytes(media("plain.ts").read_bytes() * 2)
    across = made(twice, tmp_path, 5_300_000, 7_500_000)
    with H4MKReader(across.container) as reader, H4MKReader(across.cut) as other:
        assert reader.meta is not None
        assert other.meta is not None
        (step,) = reader.meta.steps
        (kept,) = other.meta.steps
        assert (kept.pts, kept.shift) == (step.pts - across.span.pts, step.shift)
        assert other.trak.origin == reader.trak.origin + across.span.pts
        cut(reader, tmp_path / "behind.h4mk", step.pts + 1_000_000)
        with H4MKReader(tmp_path / "behind.h4mk") as behind:
            assert behind.meta is not None
            assert behind.meta.steps == ()
            # As the clock said it: the second recording began as the first did.
            assert behind.trak.origin == reader.trak.origin + reader.seek_table()[1].pts


def test_an_open_gop_keeps_its_times(tmp_path: Path) -> None:
    """0 is the first leading picture, as for whoever exports the cut's bytes; the keyframe comes later."""
    one = made(fragmented("opengop.mp4", tmp_path), tmp_path, 3_300_000, 4_200_000)
    export(one.stream, tmp_path / "again.h4mk", ExportOptions(block_size=20_000))
    with H4MKReader(one.cut) as reader, H4MKReader(tmp_path / "again.h4mk") as again:
        ours, theirs = list(reader.tokens()), list(again.tokens())
        key = next(token for token in ours if token.flags & KEY)
        assert key.pts > 0
        assert key.min_pts == 0
        assert [token.digest for token in ours] == [token.digest for token in theirs]
        shift = next(token for token in theirs if token.flags & KEY).pts - key.pts
        assert [token.min_pts + shift for token in ours if token.key_pts == key.pts] == [
            token.min_pts for token in theirs if token.key_pts == key.pts + shift
        ]


JOINABLE = ("fragmented.mp4", "broadcast.ts", "plain.ts", "wrap.ts", "live.webm", "live.mkv", "tone.flac")


@pytest.mark.parametrize("name", JOINABLE)
def test_cuts_put_together_are_the_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, result = tmp_path / "all.h4mk", tmp_path / "result.h4mk"
    export(media(name), source, ExportOptions(block_size=20_000, title="Ø"))
    pieces: list[Path] = []
    start: int | None = 0
    with H4MKReader(source) as reader:
        start = reader.seek_table()[0].pts
    while start is not None:
        pieces.append(tmp_path / f"{len(pieces)}.h4mk")
        words = ("cut", source, "--from", start, "--to", start + 1_500_000, "-o", pieces[-1], "--json")
        start = json.loads(answer(here(capsys, *words)).text)["next"]
    assert len(pieces) > 1
    answer(here(capsys, "concat", *pieces, "-o", result, "-q"))
    answer(here(capsys, "verify", result, "-q"))
    answer(here(capsys, "extract", result, "-o", tmp_path / "back", "-q"))
    assert (tmp_path / "back").read_bytes() == media(name).read_bytes()
    with H4MKReader(source) as reader, H4MKReader(result) as other:
        assert reader.meta is not None
        assert other.meta is not None
        assert other.meta.steps == reader.meta.steps
        assert other.meta.title == "Ø"
        shift = other.trak.origin - reader.trak.origin
        for before, after in zip(reader.tokens(), other.tokens(), strict=True):
            assert before.digest == after.digest
            assert before.flags == after.flags
            if before.key_offset == after.key_offset and before.flags & KEY:
                assert (before.pts, before.min_pts) == (after.pts + shift, after.min_pts + shift)


@pytest.mark.parametrize("name", ["fragmented.mp4", "plain.ts"])
def test_media_put_together_play_through(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder goes on with the pictures of the second input; their clock begins again, as steps say."""
    source, result, stream = tmp_path / "all.h4mk", tmp_path / "twice.h4mk", tmp_path / f"twice-{name}"
    export(media(name), source)
    answer(here(capsys, "concat", source, source, "-o", result, "-q"))
    answer(here(capsys, "extract", result, "-o", stream, "-q"))
    with H4MKReader(source) as reader, H4MKReader(result) as other:
        assert other.meta is not None
        assert other.duration == 2 * reader.duration
        first = reader.seek_table()[0].pts
        assert [(step.pts, step.shift) for step in other.meta.steps] == [
            (reader.duration + first, reader.duration)
        ]
        assert other.seek(reader.duration + first) is not None
    once = [size for _, size in packets(media(name), "v")]
    assert [size for _, size in packets(stream, "v")] == once * 2
    for start in (0, other.duration // 2):  # either half is what was put in
        half = tmp_path / f"{start}.h4mk"
        answer(here(capsys, "cut", result, "--from", start + first, "-o", tmp_path / "rest.h4mk", "-q"))
        end = other.duration // 2 - first
        answer(here(capsys, "cut", tmp_path / "rest.h4mk", "--to", end, "-o", half, "-q"))
        answer(here(capsys, "extract", half, "-o", stream, "-q"))
        assert stream.read_bytes() == media(name).read_bytes()


def test_tracks_of_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Media of several kinds side by side: cut, filtered, and each track plays."""
    film, sound, both = media("fragmented.mp4"), media("tone.flac"), tmp_path / "both.h4mk"
    answer(here(capsys, "bundle", film, sound, "-o", both, "-q"))
    told = json.loads(
        answer(here(capsys, "cut", both, "--from", "2.5s", "-o", tmp_path / "c.h4mk", "--json")).text
    )
    assert [one["track"] for one in told["tracks"]] == [0, 1]
    assert told["next"] is None
    assert told["start"] == min(one["pts"] for one in told["tracks"]) <= 2_500_000
    words = ("filter", tmp_path / "c.h4mk", "--track", 1, "-o", tmp_path / "f.h4mk", "--json")
    assert json.loads(answer(here(capsys, *words)).text)["tracks"] == [1]
    answer(here(capsys, "extract", tmp_path / "f.h4mk", "-o", tmp_path / "f.flac", "-q"))
    assert len(list(packets(tmp_path / "f.flac", "a"))) > 20
    told = json.loads(answer(here(capsys, "inspect", tmp_path / "f.h4mk", "--json")).text)
    assert [one["op"] for one in told["history"]] == ["export", "bundle", "cut", "filter"]
    answer(here(capsys, "filter", both, "-t", 1, "-o", tmp_path / "s.h4mk", "-q"))
    answer(here(capsys, "extract", tmp_path / "s.h4mk", "-o", tmp_path / "s.flac", "-q"))
    assert (tmp_path / "s.flac").read_bytes() == sound.read_bytes()


def test_cuts_of_a_bundle_that_meet_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No keyframe of one track is one of the other: still the media come back, and when they are shown."""
    film, sound, both = media("broadcast.ts"), media("tone.flac"), tmp_path / "both.h4mk"
    answer(here(capsys, "bundle", film, sound, "-o", both, "-q"))
    pieces, times = [], ("0", "1.3s", "1.35s", "2s", "3.777s", "10s")
    for start, end in pairwise(times):
        pieces.append(tmp_path / f"{start}.h4mk")
        answer(here(capsys, "cut", both, "--from", start, "--to", end, "-o", pieces[-1], "-q"))
    answer(here(capsys, "concat", *pieces, "-o", tmp_path / "again.h4mk", "-q"))
    answer(here(capsys, "verify", tmp_path / "again.h4mk", "-q"))
    for track, source in enumerate((film, sound)):
        words = ("filter", tmp_path / "again.h4mk", "-t", track, "-o", tmp_path / "one.h4mk", "-q")
        answer(here(capsys, *words))
        answer(here(capsys, "extract", tmp_path / "one.h4mk", "-o", tmp_path / "one", "-q"))
        assert (tmp_path / "one").read_bytes() == source.read_bytes()
    with H4MKReader(both) as reader, H4MKReader(tmp_path / "again.h4mk") as other:
        assert reader.meta is not None
        assert other.meta is not None
        first = next(token for token in other.tokens(1) if token.flags & KEY)
        shift = next(token for token in reader.tokens(1) if token.digest == first.digest).pts - first.pts
        for track in range(2):
            for before, after in zip(reader.tokens(track), other.tokens(track), strict=True):
                assert before.digest == after.digest
                if not before.flags & HEADER:
                    assert (before.pts, before.end) == (after.pts + shift, after.end + shift)


def test_plain_mp4_is_not_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(BUNNY, tmp_path / "bunny.h4mk")
    out = tmp_path / "out.h4mk"
    refused(here(capsys, "cut", tmp_path / "bunny.h4mk", "--to", "1s", "-o", out), "decode alone", "--remux")
    assert not out.exists()
    export(BUNNY, tmp_path / "raw.h4mk", ExportOptions(raw=True, block_size=100_000))
    answer(here(capsys, "cut", tmp_path / "raw.h4mk", "--to", "1s", "-o", out, "-q"))
    with H4MKReader(out) as reader:
        assert reader.read(0, 2**20) == BUNNY.read_bytes()[:100_000]


def answer(done: Done) -> Done:
    assert (done.status, done.err) == (0, ""), done.err
    return done
