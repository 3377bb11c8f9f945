"""Fragmented MP4 out of other media: `export --remux` and `bundle --demux`, against ffmpeg's own reading."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from commands import here, refused
from commands import run as harmony4
from harmony4.crypto.errors import HarmonyError, LimitError, MediaError, SourceChangedError, UsageError
from harmony4.h4mk import H4MKReader, verify
from harmony4.server.exporting import bundling, remux, remuxing
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.exporting.sources import open_source
from harmony4.server.sandboxing import sandbox
from harmony4.server.sandboxing.sandbox import Limits, Sandbox
from media_factory import key_times, media, probe
from needs import needs_ffmpeg, program
from processes import demuxers
from serving import running

pytestmark = needs_ffmpeg

REMUX = ExportOptions(remux=True)
MUXED = ["plain.mp4", "opengop.mp4", "moovend.mp4", "plain.mkv", "live.mkv", "variable.mp4", "late-audio.mp4"]
SOUND = ["audio.m4a", "tone.flac", "opus.ogg"]


def exported(source: Path, made: Path, options: ExportOptions = REMUX) -> Path:
    export(source, made, options)
    return made


def extracted(container: Path, track: int = 0) -> bytes:
    with H4MKReader(container) as reader:
        return reader.read(0, reader.stream_size(track), track)


def hashes(source: Path, stream: str, *, packets: bool = False) -> list[str]:
    """The digests of what is decoded from a stream, or of its packets."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-i", str(source)]
    command += ["-map", f"0:{stream}", *(["-c", "copy"] if packets else [])]
    command += ["-fps_mode", "passthrough", "-f", "framemd5", "-"]
    out = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout
    # What follows the digest is of side data, such as how much of a packet is encoder delay.
    return [line.split(",")[5].strip() for line in out.splitlines() if not line.startswith("#")]


def times(source: Path, stream: str) -> list[Fraction]:
    """When its packets show, s, in that order."""
    packets = probe(source, "pts_time", stream=stream)
    return sorted(Fraction(one["pts_time"]) for one in packets)


@pytest.mark.parametrize("name", [*MUXED, *SOUND])
def test_the_same_pictures_and_sound_at_the_same_times(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made.mp4"
    made.write_bytes(extracted(exported(media(name), tmp_path / "a.h4mk")))
    for stream in ["a:0"] if name in SOUND else ["v:0", "a:0"] if name != "variable.mp4" else ["v:0"]:
        # Of sound the packets: this ffmpeg does not cut encoder delay off fragmented MP4.
        packets = stream == "a:0"
        assert hashes(made, stream, packets=packets) == hashes(media(name), stream, packets=packets)
        source, result = times(media(name), stream), times(made, stream)
        # To the millisecond: Matroska has no finer clock. Where a stream starts late, all are later by the
        # delay of B-frames.
        late = 80 if name.startswith("late") else 0
        assert {round((b - a) * 1000) for a, b in zip(source, result, strict=True)} == {late}


@pytest.mark.parametrize("name", MUXED)
def test_each_group_plays_alone(name: str, tmp_path: Path) -> None:
    """Behind the header bytes, from any keyframe on."""
    made = exported(media(name), tmp_path / "a.h4mk")
    assert verify(made).ok
    with H4MKReader(made) as reader:
        info = reader.tracks[0].info
        assert info.self_framing and info.media_type == "video/mp4"
        assert reader.meta is not None and dict(reader.meta.history[0].args)["remux"] is True
        (header,) = reader.header_ranges()
        assert header[0] == 0
        table = reader.seek_table()
        picks = [0, len(table) // 2, len(table) - 1]
        whole = tmp_path / "whole.mp4"
        whole.write_bytes(extracted(made))
        for number in picks:
            group = tmp_path / f"{number}.mp4"
            begin = table[number].offset
            end = table[number + 1].offset if number + 1 < len(table) else reader.stream_size()
            group.write_bytes(reader.read(*header) + reader.read(begin, end - begin))
            found = hashes(group, "v:0")
            assert found
            if "opengop" not in name and "mkv" not in name:  # leading pictures need the group before
                assert set(found) <= set(hashes(whole, "v:0"))


def test_one_stream_does_not_wait_for_another(tmp_path: Path) -> None:
    """Sound that begins late costs no keyframe."""
    made = exported(media("late-audio.mp4"), tmp_path / "a.h4mk")
    with H4MKReader(made) as reader:
        assert reader.tracks[0].keyframes == len(key_times(media("late-audio.mp4"))) == 6


def test_a_film_with_one_keyframe(tmp_path: Path) -> None:
    """Its fragments are bounded, so that nothing waits for its end."""
    source = tmp_path / "noise.mp4"
    noise = "nullsrc=s=640x360:r=25:d=4,geq=lum=random(1)*255:cb=128:cr=128"
    x264 = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "4", "-g", "9999", "-pix_fmt", "yuv420p")
    _ffmpeg("-f", "lavfi", "-i", noise, *x264, source)
    assert source.stat().st_size > 24 * 2**20
    data = extracted(exported(source, tmp_path / "a.h4mk"))
    assert len(data.split(b"moof")) > 2
    (tmp_path / "made.mp4").write_bytes(data)
    assert hashes(tmp_path / "made.mp4", "v:0") == hashes(source, "v:0")


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "opus.ogg"])
def test_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    """From a file and from a pipe, and in another process."""
    first = exported(media(name), tmp_path / "a.h4mk").read_bytes()
    out = io.BytesIO()
    export(io.BytesIO(media(name).read_bytes()), out, REMUX)
    assert out.getvalue() == first
    again = tmp_path / "b.h4mk"
    assert harmony4("export", "--remux", "-q", media(name), "-o", again).status == 0
    assert again.read_bytes() == first
    assert b"Lavf" not in first and b"Lavc" not in extracted(tmp_path / "a.h4mk")[:2000]


@pytest.mark.parametrize("name", ["fragmented.mp4", "plain.webm", "plain.ts", "bare.mp3"])
def test_what_plays_already_is_kept(name: str, tmp_path: Path) -> None:
    result = export(media(name), tmp_path / "a.h4mk", REMUX)
    assert result.note == "kept as it is: its blocks play alone already"
    export(media(name), tmp_path / "b.h4mk")
    assert (tmp_path / "a.h4mk").read_bytes() == (tmp_path / "b.h4mk").read_bytes()


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv"])
def test_the_original_stays(name: str, tmp_path: Path) -> None:
    made = exported(media(name), tmp_path / "a.h4mk", ExportOptions(remux=True, keep_original=True))
    exported(media(name), tmp_path / "b.h4mk")
    assert verify(made).ok
    assert extracted(made, 1) == media(name).read_bytes()
    assert extracted(made, 0) == extracted(tmp_path / "b.h4mk")
    piped = io.BytesIO()
    export(io.BytesIO(media(name).read_bytes()), piped, ExportOptions(remux=True, keep_original=True))
    assert piped.getvalue() == made.read_bytes()


# -- one track for each stream


def demuxed(source: Path, made: Path) -> tuple[Path, list[str]]:
    notes: list[str] = []
    bundle_files([source], made, demux=True, say=notes.append)
    return made, notes


@pytest.mark.parametrize(
    "name",
    [
        "plain.mp4",
        "opengop.mp4",
        "plain.mkv",
        "late-audio.mp4",
        "late-video.mp4",
        "plain.ts",
        "wrap.ts",
        "plain.m2ts",
    ],
)
def test_each_stream_is_a_track(name: str, tmp_path: Path) -> None:
    """Pictures and sound are what they were, and as far apart as they were."""
    made, notes = demuxed(media(name), tmp_path / "a.h4mk")
    assert notes == [] and verify(made).ok
    firsts = {}
    with H4MKReader(made) as reader:
        assert [track.info.kind for track in reader.tracks] == ["video", "audio"]
        assert all(track.info.self_framing for track in reader.tracks)
        for number, stream in enumerate(("v:0", "a:0")):
            part = tmp_path / f"{stream[0]}.mp4"
            part.write_bytes(extracted(made, number))
            # In transport streams each packet of sound has a header of its own, which MP4 has not.
            packets = stream == "a:0" and not name.endswith("ts")
            assert hashes(part, "0", packets=packets) == hashes(media(name), stream, packets=packets)
            firsts[stream] = reader.seek_table(number)[0].pts
    shown = [_shown(media(name), stream) for stream in ("v:0", "a:0")]
    wanted = max(-(2**62), round((shown[0] - shown[1]) * 1_000_000))
    # Encoder delay, which nobody hears, is before a track's beginning; a millisecond is Matroska's tick.
    assert abs((firsts["v:0"] - firsts["a:0"]) - wanted) <= 22_500


def _shown(source: Path, stream: str) -> Fraction:
    """When the first picture or sound of a stream shows, s."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", str(source)]
    command += ["-map", f"0:{stream}", "-f", "framemd5", "-fps_mode", "passthrough", "-"]
    out = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout
    num, den = next(line for line in out.splitlines() if line.startswith("#tb 0:")).split(": ")[1].split("/")
    first = next(line for line in out.splitlines() if not line.startswith("#")).split(",")[2]
    return Fraction(int(first) * int(num), int(den))


def test_languages_and_titles(tmp_path: Path) -> None:
    """Of two sounds; what a container must not say is left out."""
    source = tmp_path / "two.mkv"
    plain = str(media("plain.mp4"))
    _ffmpeg(
        *("-i", plain, "-i", plain, "-map", "0:v", "-map", "0:a", "-map", "1:a", "-c", "copy"),
        *("-metadata:s:a:0", "language=deu", "-metadata:s:a:0", "title=Kommentar ‹1›"),
        *("-metadata:s:a:1", "language=und", "-metadata:s:a:1", "title=" + "x" * 300, source),
    )
    made, _ = demuxed(source, tmp_path / "a.h4mk")
    with H4MKReader(made) as reader:
        assert [(one.info.lang, one.info.name) for one in reader.tracks] == [
            *((None, None), ("deu", "Kommentar ‹1›"), (None, None))
        ]


def test_streams_that_mp4_does_not_hold(tmp_path: Path) -> None:
    """Subtitles, covers and VP8 are left out, and named; nothing left is an error."""
    _, notes = demuxed(media("subtitled.mkv"), tmp_path / "a.h4mk")
    assert notes == ["left out, for MP4 does not hold them: subtitle 2 (subrip)"]
    result = export(media("subtitled.mp4"), tmp_path / "b.h4mk", REMUX)
    assert result.note == "left out, for MP4 does not hold them: subtitle 2 (mov_text)"
    source = tmp_path / "vp8.mkv"
    _ffmpeg("-i", str(media("plain.webm")), "-map", "0:v", "-c", "copy", source)
    for act in (lambda: demuxed(source, tmp_path / "c.h4mk"), lambda: exported(source, tmp_path / "c.h4mk")):
        with pytest.raises(MediaError, match="none of its streams"):
            act()
        assert not (tmp_path / "c.h4mk").exists()


@pytest.mark.parametrize("name", ["tone.flac", "bare.mp3", "opus.ogg", "tone.wav"])
def test_sound_alone_stays_as_it_is(name: str, tmp_path: Path) -> None:
    made, _ = demuxed(media(name), tmp_path / "a.h4mk")
    assert extracted(made) == media(name).read_bytes()


def test_beside_what_is_not_muxed(tmp_path: Path) -> None:
    """Each source has its own clock: the film's tracks share one, the others begin at 0."""
    (tmp_path / "notes.bin").write_bytes(b"what nobody knows " * 100)
    sources = [media("late-audio.mp4"), media("tone.flac"), tmp_path / "notes.bin"]
    made = tmp_path / "a.h4mk"
    bundle_files(sources, made, demux=True)
    assert verify(made).ok
    with H4MKReader(made) as reader:
        assert [one.info.kind for one in reader.tracks] == ["video", "audio", "audio", "data"]
        firsts = [reader.seek_table(number)[0].pts for number in range(4)]
        assert firsts[0] == firsts[2] == firsts[3] == 0 and 2_450_000 < firsts[1] < 2_550_000
        assert [one.op for one in reader.meta.history] == ["export", "bundle"]  # type: ignore[union-attr]


def test_many_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, without one waiting for another for ever; too many are refused."""
    source = tmp_path / "many.mkv"
    audio = ["-map", "0:a"] * 11
    _ffmpeg("-i", str(media("plain.mp4")), "-map", "0:v", *audio, "-c", "copy", source)
    made, _ = demuxed(source, tmp_path / "a.h4mk")
    with H4MKReader(made) as reader:
        assert len(reader.tracks) == 12 and len({one.sha256 for one in reader.tracks[1:]}) == 1
    monkeypatch.setattr(bundling, "_STREAMS", 11)
    with pytest.raises(LimitError):
        demuxed(source, tmp_path / "b.h4mk")
    assert demuxers(os.getpid()) == []


# -- what goes wrong


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("name", ["plain.mkv", "plain.mp4", "moovend.mp4"])
def test_media_that_break_off(name: str, kept: float, tmp_path: Path) -> None:
    """All that an export of the source as it is has is remuxed, to its last packet; or both are refused."""
    data = media(name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    try:
        plain = export(tmp_path / name, tmp_path / "plain.h4mk")
    except MediaError:
        with pytest.raises(MediaError):
            exported(tmp_path / name, tmp_path / "a.h4mk")
        assert not (tmp_path / "a.h4mk").exists()
        return
    result = export(tmp_path / name, tmp_path / "a.h4mk", REMUX)
    assert verify(tmp_path / "a.h4mk").ok
    assert (result.seal.duration, result.lost) == (plain.seal.duration, False)
    assert result.note == plain.note
    if name != "moovend.mp4":
        assert "are missing at the end" in (result.note or "")
    with H4MKReader(tmp_path / "a.h4mk") as moved, H4MKReader(tmp_path / "plain.h4mk") as source:
        assert moved.tracks[0].keyframes == source.tracks[0].keyframes


class _Broken(io.BytesIO):
    """A source that goes wrong at its end."""

    def __init__(self, data: bytes, error: Exception) -> None:
        super().__init__(data)
        self._error = error

    def read(self, n: int | None = -1, /) -> bytes:
        data = super().read(n)
        if not data:
            raise self._error
        return data


def test_what_stops_the_demuxer() -> None:
    """It is passed on; memory that has run out is an error, and decides nothing."""
    data = media("plain.mkv").read_bytes()[:100_000]
    pieces: list[bytes] = []
    asked = "matroska", remux.ALL, lambda notes: None, pieces.append
    assert "I/O" in str(remux.remux(_Broken(data, OSError(errno.EIO, "I/O error")), *asked))
    assert pieces
    with pytest.raises(MediaError, match="more memory"):
        remux.remux(_Broken(data, MemoryError()), *asked)


def test_what_is_not_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A demuxer that stopped: said by the export (status 3) and by bundles."""
    with open_source(media("plain.mkv")) as source:
        found = remuxing.recognize(source)
        assert found is not None
        with remuxing.remuxed(source, found) as (moved, _):
            assert list(moved.file) and moved.broken() is None
            monkeypatch.setattr(moved._worker, "stopped", "odd")  # type: ignore[attr-defined]
            assert moved.broken() == "the media break off, and the rest is left out: odd"
    monkeypatch.setattr(remuxing._Remuxed, "broken", lambda self: "broken off")
    result = export(media("plain.mkv"), tmp_path / "a.h4mk", REMUX)
    assert (result.note, result.lost) == ("broken off", True)
    _, notes = demuxed(media("plain.mkv"), tmp_path / "b.h4mk")
    assert notes == ["track 0: broken off", "track 1: broken off"]
    done = here(capsys, "export", "--remux", media("plain.mkv"), "-o", tmp_path / "c.h4mk")
    assert (done.status, "note: broken off" in done.text) == (3, True)
    both = ExportOptions(remux=True, keep_original=True)
    result = export(media("plain.mkv"), tmp_path / "d.h4mk", both)
    assert (result.note, result.lost) == ("broken off", False)


@pytest.mark.parametrize("options", [[], ["--demux"]])
def test_from_a_pipe(options: list[str], tmp_path: Path) -> None:
    """A source is opened once: what comes out of a pipe is gone when somebody has looked at it."""
    fifo = tmp_path / "film.mkv"
    os.mkfifo(fifo)
    for name, source in (("a", media("plain.mkv")), ("b", fifo)):
        writer = threading.Thread(target=lambda: fifo.write_bytes(media("plain.mkv").read_bytes()))
        if source == fifo:
            writer.start()
        done = harmony4("bundle", "-q", *options, source, "-o", tmp_path / f"{name}.h4mk")
        assert done.status == 0, done.err
        if source == fifo:
            writer.join()
    assert (tmp_path / "a.h4mk").read_bytes() == (tmp_path / "b.h4mk").read_bytes()
    writer = threading.Thread(target=lambda: fifo.write_bytes((tmp_path / "a.h4mk").read_bytes()))
    writer.start()
    refused(harmony4("bundle", fifo, "-o", tmp_path / "c.h4mk"), "must be a file")
    writer.join()


def test_limits_reach_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remuxer's and both demuxers', and what waits goes where it should."""
    started: list[Limits] = []
    begin = sandbox.Worker.__init__

    def noted(self: Any, source: Any, name: str, limits: Limits, *more: Any) -> None:
        started.append(limits)
        begin(self, source, name, limits, *more)

    monkeypatch.setattr(sandbox.Worker, "__init__", noted)
    limits = Limits(memory=2**29, cpu=77)
    both = ExportOptions(remux=True, keep_original=True)
    export(
        io.BytesIO(media("moovend.mp4").read_bytes()),
        tmp_path / "a.h4mk",
        both,
        demuxer=Sandbox(limits),
        spool_folder=tmp_path,
    )
    assert started == [limits] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.h4mk"]


def test_a_clock_that_goes_back(tmp_path: Path) -> None:
    """Two recordings one behind the other: MP4 cannot say it. As it is, it is exported."""
    source = tmp_path / "joined.ts"
    source.write_bytes(media("late.ts").read_bytes() + media("plain.ts").read_bytes())
    with pytest.raises(MediaError, match="its clock goes back"):
        demuxed(source, tmp_path / "a.h4mk")
    assert export(source, tmp_path / "b.h4mk", REMUX).note is not None
    assert demuxers(os.getpid()) == []


def test_rubbish(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"no media at all" * 50)):
        (tmp_path / f"{number}").write_bytes(data)
        with pytest.raises(MediaError, match="no known media format"):
            exported(tmp_path / f"{number}", tmp_path / "a.h4mk")
    moov = b"\0\0\0\x08moov"
    largest = (2**63 - 8).to_bytes(8)
    for data in (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\1free" + largest + bytes(99),):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(MediaError):
            exported(tmp_path / "x", tmp_path / "a.h4mk")
    for data in (moov, b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + moov, b"\0\0\0\x01moov\0\0\0\0\0\0\0\1"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(HarmonyError):
            exported(tmp_path / "x", tmp_path / "a.h4mk")
    assert not (tmp_path / "a.h4mk").exists()


def test_an_empty_fragment_makes_no_fragmented_film(tmp_path: Path) -> None:
    """`moov` has to promise fragments, too."""
    source = tmp_path / "a.mp4"
    source.write_bytes(media("plain.mp4").read_bytes() + b"\0\0\0\x08moof")
    result = export(source, tmp_path / "a.h4mk", REMUX)
    assert result.note is None and result.track.self_framing


def test_options_that_exclude_each_other() -> None:
    for options in ({"raw": True, "remux": True}, {"keep_original": True}):
        with pytest.raises(UsageError):
            ExportOptions(**options)
    refused(harmony4("export", "--keep-original", media("plain.mp4"), "-o", "-"), "without remux")


def _killed(sandbox: Sandbox, act: Callable[[Any], None]) -> None:
    with open_source(media("large.mp4")) as source:
        found = remuxing.recognize(source)
        assert found is not None
        with remuxing.remuxed(source, found, sandbox=sandbox) as (moved, _):
            pieces = iter(moved.file)
            assert next(pieces)
            act(pieces)


def test_its_process_is_killed() -> None:
    def act(pieces: Any) -> None:
        for pid in demuxers(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(MediaError, match="ended early"):
            list(pieces)

    _killed(Sandbox(), act)
    assert demuxers(os.getpid()) == []


def test_limits() -> None:
    with pytest.raises(MediaError, match=r"(?i)memory|ended early"):
        _killed(Sandbox(Limits(memory=2**26)), lambda pieces: [*pieces] and None)
    assert demuxers(os.getpid()) == []


def test_a_source_that_changes(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(media("plain.mp4").read_bytes())

    def grow(_done: int, _size: int | None) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceChangedError):
        export(source, tmp_path / "a.h4mk", REMUX, progress=grow)
    assert not (tmp_path / "a.h4mk").exists()


def test_on_the_command_line(tmp_path: Path) -> None:
    made = tmp_path / "a.h4mk"
    said = harmony4("bundle", "--demux", "--json", media("subtitled.mkv"), "-o", made)
    assert json.loads(said.out)["notes"] == ["left out, for MP4 does not hold them: subtitle 2 (subrip)"]
    said = harmony4("bundle", "--demux", media("subtitled.mkv"), "-o", tmp_path / "b.h4mk")
    assert "left out, for MP4 does not hold them" in said.text
    assert made.read_bytes() == (tmp_path / "b.h4mk").read_bytes()
    harmony4("split", made, "-o", tmp_path / "parts")
    assert [path.name for path in sorted((tmp_path / "parts").iterdir())] == ["00.mp4", "01.m4a"]
    said = harmony4("export", "--remux", media("subtitled.mkv"), "-o", tmp_path / "c.h4mk")
    assert "left out" in said.text + said.err


def test_over_http(tmp_path: Path) -> None:
    """As a body that is sent, and sent back; what is refused leaves nothing behind."""
    expected = exported(media("moovend.mp4"), tmp_path / "a.h4mk").read_bytes()
    both = ExportOptions(remux=True, keep_original=True)
    kept = exported(media("moovend.mp4"), tmp_path / "b.h4mk", both).read_bytes()
    data = media("moovend.mp4").read_bytes()
    root = tmp_path / "library"
    root.mkdir()
    with running(root, min_free=0) as server:
        made = server.request("POST", "/video/export?name=a.h4mk&remux=1", body=data)
        assert made.status == 201, made
        assert (root / "a.h4mk").read_bytes() == expected
        assert server.request("POST", "/video/export?remux=1&keep_original=1", body=data).body == kept
        refused = server.request("POST", "/video/export?name=b.h4mk&remux=1", body=b"no media" * 999)
        assert (refused.status, refused.problem) == (422, "media")
        for query in ("remux=2", "keep_original=1", "remux=1&raw=1"):
            assert server.request("POST", f"/video/export?name=c.h4mk&{query}", body=data).status == 400
        assert server.get("/video/hls?name=a.h4mk").status == 200
        assert [path.name for path in root.iterdir() if not path.name.startswith(".")] == ["a.h4mk"]
    assert demuxers(os.getpid()) == []


def _ffmpeg(*arguments: object) -> None:
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)
