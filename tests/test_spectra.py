"""Spectral tokens in a container: `export --spectrum`, reading them back, tracks that lie (H4MK 16.11)."""

from __future__ import annotations

import io
import os
import sys
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from commands import here, refused
from commands import run as harmony4
from harmony4.crypto.errors import (
    ChecksumError,
    CriticalError,
    FormatError,
    LimitError,
    MediaError,
    NotFoundError,
    OrderError,
    SourceChangedError,
    TruncatedError,
    UsageError,
    VersionError,
)
from harmony4.crypto.token import KEY
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, recover, verify
from harmony4.h4mk.edits.bundle import bundle
from harmony4.h4mk.edits.edit import concat, cut, keep_tracks
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.exporting.sources import described
from harmony4.server.exporting.spectra import SPECTRUM_TYPE, SpectrumInput, read_tokens, stored_tokens
from harmony4.server.intake import desk
from harmony4.server.sandboxing.sandbox import Limits
from harmony4.server.sandboxing.sandbox_sound import default_decoder
from harmony4.tokenize.audio import DETAIL, PROFILES, STRUCTURE, AudioFFTTokenizer, AudioToken
from harmony4.tokenize.samples import SoundFormat
from media_factory import media
from needs import BUNNY, MEDIA, needs_ffmpeg
from processes import demuxers, until
from serving import running
from test_tus_http import Client

SPEECH: Final = MEDIA / "librivox-1.flac"
TRACK: Final = TrackInfo(
    codec="structure",
    kind="tokens",
    media_type=SPECTRUM_TYPE,
    self_framing=True,
    span=4_000_000,
    timing="demux",
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    if sys.platform == "linux":
        assert demuxers(os.getpid()) == []


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAVE file, 30 s of stereo at 8 kHz."""
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    samples = np.random.default_rng(5).integers(-20_000, 20_000, (30 * 8000, 2)).astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(samples.tobytes())
    return path


def exported(source: Path, profile: str | None, **options: Any) -> bytes:
    out = io.BytesIO()
    export(source, out, ExportOptions(spectrum=profile, **options))
    return out.getvalue()


def encoded(source: Path | bytes, profile: str) -> list[AudioToken]:
    """The tokens, straight from the source."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    return list(AudioFFTTokenizer(profile=profile).encode(io.BytesIO(data)))


def stream(reader: H4MKReader, track: int) -> bytes:
    return reader.read(0, reader.stream_size(track), track)


# -- what is stored


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", ["noise", "speech", "film"])
def test_the_tokens_of_the_sound_are_a_track(name: str, profile: str, noise: Path) -> None:
    source = {"noise": noise, "speech": SPEECH, "film": BUNNY}[name]
    wanted = encoded(source, profile)
    data, plain = exported(source, profile), exported(source, None)
    assert verify(data).ok
    with H4MKReader(data) as reader, H4MKReader(plain) as without:
        media, tokens = (track.info for track in reader.tracks)
        assert media == without.tracks[0].info
        assert tokens == replace(TRACK, codec=profile)
        assert reader.trak.origin == without.trak.origin
        assert [(one.token, bytes(one.payload)) for one in reader.blocks()] == [
            (one.token, bytes(one.payload)) for one in without.blocks()
        ]
        assert stream(reader, 1) == b"".join(token.serialize() for token in wanted)
        assert reader.meta is not None
        assert reader.meta.structure_only is (profile == "structure")
        assert [(one.op, dict(one.args)) for one in reader.meta.history] == [
            ("export", {"spectrum": profile}),
            ("bundle", {}),
        ]
        assert stored_tokens(reader, profile) == stored_tokens(reader, None) == 1
        assert stored_tokens(reader, ({*PROFILES} - {profile}).pop()) is None
        assert stored_tokens(without, None) is None
        assert list(read_tokens(reader, 1)) == wanted


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_blocks_begin_with_records(profile: Any, noise: Path) -> None:
    wanted = encoded(noise, profile.name)
    with H4MKReader(exported(noise, profile.name)) as reader:
        blocks = list(reader.tokens(1))
        assert len(blocks) == 8 if profile is STRUCTURE else 7
        for block in blocks:
            assert block.flags & KEY and block.size <= 2**16
            assert block.offset % profile.size == block.size % profile.size == 0
            assert block.pts == block.min_pts == wanted[block.offset // profile.size].pts
            assert block.index == 0 or block.pts - blocks[block.index - 1].pts >= 4_000_000
        assert blocks[-1].end == wanted[-1].end == reader.duration == 30_000_000


def test_small_blocks(noise: Path) -> None:
    """What is full before 4 s have passed goes on in the next block."""
    data = exported(noise, "structure", block_size=200)
    assert verify(data).ok
    with H4MKReader(data) as reader:
        blocks = list(reader.tokens(1))
        assert {block.size for block in blocks} == {128, 192}
        assert not all(block.flags & KEY for block in blocks)
        assert reader.tracks[1].keyframes == 8
        wanted = encoded(noise, "structure")
        assert list(read_tokens(reader, 1)) == wanted
        for start in (4_100_000, 5_000_000, 29_999_999):
            assert list(read_tokens(reader, 1, start)) == [one for one in wanted if one.end > start]
    assert verify(exported(noise, "structure", block_size=64)).ok


def test_from_a_time_on(noise: Path) -> None:
    wanted = encoded(noise, "detail")
    with H4MKReader(exported(noise, "detail")) as reader:
        times = [0, 1, 31_999, 32_000, 3_999_999, 4_000_000, 4_000_001, 29_990_000, 30_000_000, 2**62]
        for start in times:
            expected = [one for one in wanted if one.end > start]
            assert list(read_tokens(reader, 1, start)) == expected, start
        with pytest.raises(UsageError):
            list(read_tokens(reader, 1, -1))
        for track in (-1, 0, 2):
            with pytest.raises(NotFoundError):
                list(read_tokens(reader, track))


class _Pipe(io.BytesIO):
    """Bytes that come once."""

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("name", ["noise", "film"])
def test_the_same_bytes_from_everywhere(name: str, noise: Path, tmp_path: Path) -> None:
    """From a file, a pipe, by another process, and twice."""
    source = noise if name == "noise" else BUNNY
    first = exported(source, "detail")
    assert exported(source, "detail") == first
    piped = io.BytesIO()
    export(_Pipe(source.read_bytes()), piped, ExportOptions(spectrum="detail"), spool_folder=tmp_path)
    assert piped.getvalue() == first
    assert list(tmp_path.iterdir()) == []
    told = harmony4("export", "--spectrum", "detail", "-", "-o", "-", "-q", stdin=source.read_bytes())
    assert (told.status, told.out) == (0, first), told.err
    made = tmp_path / "a.h4mk"
    assert harmony4("export", "--spectrum=detail", source, "-o", made, "-q").status == 0
    assert made.read_bytes() == first


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.ts", "late.ts", "moovend.mp4", "late-audio.mp4", "plain.mkv"])
def test_other_clocks(name: str, tmp_path: Path) -> None:
    """Records keep the source's times; blocks are on the container's timeline."""
    wanted = encoded(media(name), "structure")
    result = export(
        media(name), tmp_path / "a.h4mk", ExportOptions(spectrum="structure"), spool_folder=tmp_path
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.h4mk"]
    assert verify(tmp_path / "a.h4mk").ok and result.track.kind == "video"
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        origin = reader.trak.origin
        assert list(read_tokens(reader, 1)) == wanted
        first = next(reader.tokens(1))
        assert first.pts == max(0, wanted[0].pts - origin)
        assert reader.trak.tracks[1].start.ticks == wanted[0].pts
        assert reader.end(1) == wanted[-1].end - origin
        start = first.pts + 2_000_000
        assert list(read_tokens(reader, 1, start)) == [one for one in wanted if one.end - origin > start]
        assert reader.meta is not None and not reader.meta.steps


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.mkv", "plain.mp4", "plain.ts"])
def test_remuxed(name: str, tmp_path: Path) -> None:
    """The tokens are those of the first track's stream, whatever it was made of."""
    options = {"remux": True, "title": "Ø"}
    plain = exported(media(name), None, **options)
    with H4MKReader(plain) as reader:
        wanted = encoded(stream(reader, 0), "structure")
        blocks = list(reader.tokens())
    for keep in (False, True):
        data = exported(media(name), "structure", keep_original=keep, **options)
        assert verify(data).ok
        with H4MKReader(data) as reader:
            track = stored_tokens(reader, "structure")
            assert track == len(reader.tracks) - 1 == (2 if keep and name != "plain.ts" else 1)
            assert list(reader.tokens()) == blocks
            assert list(read_tokens(reader, track)) == wanted
            assert reader.meta is not None and reader.meta.title == "Ø"
            arguments = {"spectrum": "structure"} | ({} if name == "plain.ts" else {"remux": True})
            assert dict(reader.meta.history[0].args) == arguments


@needs_ffmpeg
def test_what_a_user_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where another machine may give other bytes, and where the sound breaks off."""
    told = here(capsys, "export", "--spectrum", "structure", media("opus.ogg"), "-o", tmp_path / "a.h4mk")
    assert "note: the spectrum: this sound's decoder may give other tokens" in told.text
    told = here(capsys, "export", "--spectrum", "structure", media("tone.flac"), "-o", tmp_path / "b.h4mk")
    assert told.status == 0 and "note" not in told.text
    (tmp_path / "cut.wav").write_bytes(media("tone.wav").read_bytes()[:-100_000])
    result = export(tmp_path / "cut.wav", tmp_path / "c.h4mk", ExportOptions(spectrum="structure"))
    assert result.note is not None and "the spectrum: its header says" in result.note


# -- edits


def test_cut_and_put_together_again(noise: Path) -> None:
    """Records stay as they are; where they stand is known all the same."""
    wanted = encoded(noise, "detail")
    whole, first, second = exported(noise, "detail"), io.BytesIO(), io.BytesIO()
    with H4MKReader(whole) as reader:
        cut(reader, first, 0, 9_000_000)
        report = cut(reader, second, 9_000_000, 21_000_000)
    assert verify(second.getvalue()).ok
    with H4MKReader(second.getvalue()) as reader:
        assert stored_tokens(reader, "detail") == 1
        assert reader.meta is not None and not reader.meta.structure_only
        found = list(read_tokens(reader, 1))
        span = report.spans[1]
        assert span is not None
        assert found == [one for one in wanted if span.pts <= one.pts < span.end]
        later = report.start + 5_000_000
        assert list(read_tokens(reader, 1, 5_000_000)) == [one for one in found if one.end > later]
    joined = io.BytesIO()
    with H4MKReader(first.getvalue()) as one, H4MKReader(second.getvalue()) as other:
        concat([one, other], joined)
    assert verify(joined.getvalue()).ok
    with H4MKReader(joined.getvalue()) as reader:
        assert list(read_tokens(reader, 1)) == [one for one in wanted if one.pts < span.end]
    twice = io.BytesIO()
    with H4MKReader(whole) as one, H4MKReader(whole) as other:
        concat([one, other], twice)
    with H4MKReader(twice.getvalue()) as reader:
        assert list(read_tokens(reader, 1)) == wanted * 2
        assert list(read_tokens(reader, 1, 30_500_000)) == [one for one in wanted if one.end > 500_000]


def test_tracks_are_kept_or_not(noise: Path) -> None:
    for profile, tracks, only in (
        ("detail", [0], True),
        ("detail", [1], False),
        ("structure", [1], True),
    ):
        out = io.BytesIO()
        with H4MKReader(exported(noise, profile)) as reader:
            keep_tracks(reader, out, tracks)
        with H4MKReader(out.getvalue()) as reader:
            assert reader.meta is not None and reader.meta.structure_only is only
            assert stored_tokens(reader, None) == (0 if tracks == [1] else None)


def test_bundled_extracted_split(noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, both = tmp_path / "a.h4mk", tmp_path / "both.h4mk"
    made.write_bytes(exported(noise, "detail"))
    bundle_files([SPEECH, made], both)
    with H4MKReader(both) as reader:
        assert reader.meta is not None and not reader.meta.structure_only
        assert stored_tokens(reader, "detail") == 2
        assert list(read_tokens(reader, 2)) == encoded(noise, "detail")
    assert here(capsys, "split", both, "-o", tmp_path / "apart", "-q").status == 0
    assert (tmp_path / "apart" / "01.h4mk").read_bytes() == made.read_bytes()
    assert here(capsys, "extract", made, "-o", tmp_path / "a.wav", "-q").status == 0
    assert (tmp_path / "a.wav").read_bytes() == noise.read_bytes()
    assert here(capsys, "extract", "-t", 1, made, "-o", tmp_path / "a.bin", "-q").status == 0
    assert AudioFFTTokenizer().decode((tmp_path / "a.bin").read_bytes()) == encoded(noise, "detail")
    assert here(capsys, "verify", made).status == 0
    assert "spectrum" in here(capsys, "inspect", made).text


def test_recovered(noise: Path) -> None:
    """Whole, it is read on; with a hole, or without META, nobody relies on it."""
    data = exported(noise, "structure")
    for profile in PROFILES:
        whole = exported(noise, profile)
        out = io.BytesIO()
        recover(whole[: whole.rindex(b"META")], out)
        with H4MKReader(out.getvalue()) as reader:
            assert reader.meta is not None and not reader.meta.structure_only
            assert stored_tokens(reader, profile) == 1
    payload = encoded(noise, "structure")[20].serialize()
    at_byte = data.index(payload)
    broken = data[:at_byte] + bytes([data[at_byte] ^ 1]) + data[at_byte + 1 :]
    with H4MKReader(broken) as reader, pytest.raises(ChecksumError):
        list(read_tokens(reader, 1))
    out = io.BytesIO()
    recover(broken, out)
    with H4MKReader(out.getvalue()) as reader:
        assert stored_tokens(reader, None) is None
        assert len(list(read_tokens(reader, 1))) < len(encoded(noise, "structure"))
    with H4MKReader(data[:-1]) as reader:
        assert stored_tokens(reader, None) is None


# -- refused


@needs_ffmpeg
def test_media_without_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {
        "silent.ts": media("silent.ts").read_bytes(),
        "text.vtt": b"WEBVTT\n\n00:00.000 --> 00:01.000\nnothing to hear\n",
        "what.bin": b"what nobody knows " * 1000,
        "empty.wav": b"",
    }
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "a.h4mk"
    for name, data in sources.items():
        source = tmp_path / name
        source.write_bytes(data)
        for remux in (False, True):
            with pytest.raises(MediaError):
                export(source, out, ExportOptions(spectrum="structure", remux=remux))
        stream = io.BytesIO()
        with pytest.raises(MediaError):
            export(_Pipe(data), stream, ExportOptions(spectrum="structure"))
        assert stream.getvalue() == b""
        refused(here(capsys, "export", "--spectrum", "structure", source, "-o", out), "error: it ")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spectrum": "structure", "raw": True}, "exclude each other"),
        ({"spectrum": "everything"}, "structure or detail"),
        ({"spectrum": "structure", "block_size": 63}, ">= 64 bytes"),
        ({"spectrum": "detail", "block_size": 135}, ">= 136 bytes"),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExportOptions(**options)


def test_what_is_refused_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = here(capsys, "export", BUNNY, "--spectrum", "all", "-o", tmp_path / "a.h4mk")
    assert told.status == 2 and "structure or detail" in told.err
    with pytest.raises(UsageError, match="a bundle stores no spectrum"):
        bundle_files([BUNNY], tmp_path / "a.h4mk", ExportOptions(spectrum="structure"))
    assert list(tmp_path.iterdir()) == []


def test_limits_and_sources_that_change(tmp_path: Path) -> None:
    """Nothing half-written stays."""
    source, out = tmp_path / "a.flac", tmp_path / "out.h4mk"
    source.write_bytes(SPEECH.read_bytes())
    options = ExportOptions(spectrum="detail", block_size=4096)
    with pytest.raises(LimitError):
        export(source, out, options, decoder=default_decoder(Limits(samples=10_000)))

    def touch(done: int, size: int | None) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceChangedError):
        export(source, out, options, progress=touch)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_progress(noise: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    export(
        noise,
        io.BytesIO(),
        ExportOptions(spectrum="structure", block_size=2**16),
        progress=lambda *now: seen.append(now),
    )
    size = noise.stat().st_size
    assert seen == sorted(seen) and seen[-1] == (size, size)


# -- what a decoder may say


class _Decoded:
    """A sound that a test makes up."""

    stopped = None

    def __init__(self, start: int, seconds: int) -> None:
        self.format = SoundFormat(8000, 1, "s16le", True, start)
        self._seconds = seconds

    def __enter__(self) -> _Decoded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._seconds):
            yield np.ones((8000, 1), np.int32)


@pytest.mark.parametrize(("start", "origin"), [(-20_000_000, 0), (-20_000_000, -20_000_000), (5, 10), (7, 0)])
def test_sound_that_begins_elsewhere(start: int, origin: int) -> None:
    """Before the media, as an encoder's delay does, or far before them."""
    options = ExportOptions(spectrum="detail", block_size=1000)

    def blocks(seconds: int) -> list[Any]:
        with SPEECH.open("rb") as file:
            one = SpectrumInput(
                described(file),
                options,
                origin,
                lambda *_: _Decoded(start, seconds),  # type: ignore[arg-type]
            )
            with one:
                out = io.BytesIO()
                bundle([one], out)
        assert verify(out.getvalue()).ok
        with H4MKReader(out.getvalue()) as reader:
            tokens = list(read_tokens(reader, 0))
            found = list(reader.tokens())
            times = [max(0, one.pts - origin) for one in tokens]
            assert [block.pts for block in found] == [times[block.offset // DETAIL.size] for block in found]
        return found

    assert len(blocks(30)) > 100
    assert blocks(0) == []


# -- tracks that lie


def lying(*payloads: bytes, track: TrackInfo = TRACK) -> bytes:
    with H4MKBuilder.in_memory([track]) as builder:
        for number, payload in enumerate(payloads):
            builder.add_block(payload, number * 4_000_000, key=True)
        builder.finish()
        return builder.getvalue()


def record(index: int = 0, **changes: Any) -> bytes:
    token = AudioToken(
        STRUCTURE, 8000, True, None, index, index * 512_000, (index + 1) * 512_000, ((7, 255),)
    )
    return replace(token, **changes).serialize()


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        (b"\xff" * 64, VersionError, "track 0 block 1 byte 0"),
        (record()[:63], TruncatedError, "block 1 byte 0"),
        (record() + record(1)[:10], TruncatedError, "block 1 byte 64"),
        (record() + b"\x01\x09" + record(1)[2:], CriticalError, "byte 64"),
        (record(profile=DETAIL), FormatError, "expected structure, all channels mixed"),
        (record(channel=1), FormatError, "structure, channel 1"),
        (record() + record(2), FormatError, "does not follow"),
        (record() + record(1, rate=8001), FormatError, "does not follow"),
        (record() + record(1, exact=False), FormatError, "does not follow"),
        (record() + record(1, pts=512_001), FormatError, "does not follow"),
        (b"\x01\x01\x00\x00" + bytes(60), FormatError, "block 1"),
        (record() * 1025, FormatError, "too large"),
    ],
)
def test_records_that_lie(payload: bytes, kind: type[Exception], words: str) -> None:
    with H4MKReader(lying(record(), payload)) as reader:
        tokens = read_tokens(reader, 0)
        assert next(tokens).index == 0
        with pytest.raises(kind, match=words):
            list(tokens)


def test_times_that_run_backwards() -> None:
    payload = bytearray(record(3))
    payload[24:40] = (9).to_bytes(8) + (8).to_bytes(8)
    with (
        H4MKReader(lying(bytes(payload))) as reader,
        pytest.raises(OrderError, match="ends before it starts"),
    ):
        list(read_tokens(reader, 0))


@pytest.mark.parametrize(
    "changes",
    [{"kind": "data"}, {"media_type": "application/jsonl"}, {"codec": "everything"}, {"codec": ""}],
)
def test_tracks_that_are_none(changes: dict[str, Any]) -> None:
    with H4MKReader(lying(record(), track=replace(TRACK, **changes))) as reader:
        assert stored_tokens(reader, None) is None


# -- over HTTP


def test_over_http(noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as on the command line, as a body and as an upload; limits are the server's."""
    asked: list[Limits] = []

    def decoder(limits: Limits, look: Any) -> Any:
        asked.append(limits)
        return default_decoder(limits, look)

    monkeypatch.setattr(desk, "default_decoder", decoder)
    with running(tmp_path, demux_cpu=77, demux_memory=2**30 + 1) as server:
        for name, source in {"a.h4mk": noise, "b.h4mk": BUNNY}.items():
            data = source.read_bytes()
            answer = server.request("POST", f"/video/export?name={name}&spectrum=detail", body=data)
            assert answer.status == 201, answer
            assert (tmp_path / name).read_bytes() == exported(source, "detail")
            found = server.get(f"/video/info?name={name}").json
            assert [one["kind"] for one in found["tracks"]][1] == "tokens"
            job = server.get(f"/jobs/{answer.json['job']}").json
            assert job["blocks"] == answer.json["blocks"]
        answer = server.request("POST", "/video/export?spectrum=structure", body=SPEECH.read_bytes())
        assert (answer.status, answer.body) == (200, exported(SPEECH, "structure"))
        client = Client(server.url)
        place = client.new(SPEECH.stat().st_size, name="c.h4mk", spectrum="structure")
        job = client.patch(place, 0, SPEECH.read_bytes()).headers["Harmony4-Job"]
        assert client.ended(job)["state"] == "done"
        assert (tmp_path / "c.h4mk").read_bytes() == exported(SPEECH, "structure")
        assert {(limits.cpu, limits.memory) for limits in asked} == {(77, 2**30 + 1)}


@needs_ffmpeg
def test_refused_over_http(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        silent = media("silent.ts").read_bytes()
        for body, status, problem in ((silent, 422, "media"), (b"nobody knows", 422, "media")):
            answer = server.request("POST", "/video/export?name=a.h4mk&spectrum=structure", body=body)
            assert (answer.status, answer.problem) == (status, problem)
        for query in ("spectrum=all", "spectrum=", "spectrum=detail&raw=1", "spectrum=detail&block_size=100"):
            answer = server.request("POST", f"/video/export?name=a.h4mk&{query}", body=silent)
            assert (answer.status, answer.problem) == (400, "usage"), query
        answer = Client(server.url).create(5, Upload_Metadata="name YS5oNG1r,spectrum YWxs")
        assert (answer.status, answer.problem) == (400, "usage")
        until(lambda: list((tmp_path / ".harmony4" / "spool").glob("*")) == [], "the spools are gone")
        assert list(tmp_path.glob("*.h4mk")) == []
