"""Export: from media to a sealed container, in one pass, complete or not at all."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from harmony4.crypto.errors import (
    LimitError,
    MediaError,
    SourceChangedError,
    SourceError,
    StorageError,
    UsageError,
)
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, TrackInfo, verify
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.tokenize.demux import demux
from harmony4.tokenize.scan import missing
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from media_factory import PLAIN, RECIPES, media
from needs import BUNNY, needs_ffmpeg

SMALL = ExportOptions(block_size=20_000)


def check(path: Path, data: bytes) -> None:
    report = verify(path)
    assert report.ok, report.problems
    with H4MKReader(path) as reader:
        assert reader.read(0, reader.stream_size(), 0) == data


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_real_media(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.h4mk"
    result = export(media(name), out, SMALL)
    check(out, media(name).read_bytes())
    assert (result.timing, result.note) == ("demux", None)
    assert result.seal.length == out.stat().st_size
    with H4MKReader(out) as reader:
        assert reader.head == result.seal.head
        assert reader.tracks[0].info == result.track
        assert [(one.op, one.args, one.inputs) for one in reader.meta.history] == [("export", {}, ())]
        assert reader.tracks[0].sha256 == hashlib.sha256(media(name).read_bytes()).digest()
    assert nothing_in(tmp_path, {"out.h4mk"})


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.mp4", "moovend.mp4", "plain.ts", "live.webm", "tone.mp3"])
def test_the_same_from_everywhere(name: str, tmp_path: Path) -> None:
    """Path, open file, pipe, memory; to a path, memory, a pipe; confined or not; another folder and time."""
    data = media(name).read_bytes()
    path = tmp_path / "other name.bin"
    path.write_bytes(data)
    os.utime(path, (10**9, 10**9))
    first = tmp_path / "first.h4mk"
    export(media(name), first, SMALL)
    expected = first.read_bytes()

    second = tmp_path / "second.h4mk"
    export(str(path), str(second), SMALL, demuxer=demux)
    assert second.read_bytes() == expected

    memory = io.BytesIO()
    with path.open("rb") as file:
        export(file, memory, SMALL)
    assert memory.getvalue() == expected

    memory = io.BytesIO()
    export(io.BytesIO(data), memory, SMALL)
    assert memory.getvalue() == expected

    for demuxer in (demux, None):
        source_ends, target_ends = os.pipe(), os.pipe()
        collected = bytearray()

        def write(end: int = source_ends[1]) -> None:
            with os.fdopen(end, "wb") as out:
                out.write(data)

        def read(end: int = target_ends[0], into: bytearray = collected) -> None:
            with os.fdopen(end, "rb") as pipe:
                into += pipe.read()

        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        with os.fdopen(source_ends[0], "rb") as source, os.fdopen(target_ends[1], "wb") as target:
            export(source, target, SMALL, demuxer=demuxer, spool_folder=tmp_path)
        for thread in threads:
            thread.join()
        assert bytes(collected) == expected


LATER = 400 * 86_400 + 12_345
"""Seconds to another day, another year, another time of day."""


def move_the_clock(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks Python for the day or the hour is told another one; those who imported the answer's
    function before as well."""
    real = {name: getattr(time, name) for name in ("time", "time_ns", "clock_gettime", "clock_gettime_ns")}

    def of_now(name: str) -> Callable[..., Any]:
        function = getattr(time, name)
        return lambda seconds=None: function(real["time"]() + LATER if seconds is None else seconds)

    def strftime(form: str, moment: Any = None, function: Callable[..., str] = time.strftime) -> str:
        return function(form, time.localtime() if moment is None else moment)

    moved: dict[str, Callable[..., Any]] = {
        "time": lambda: real["time"]() + LATER,
        "time_ns": lambda: real["time_ns"]() + LATER * 10**9,
        "clock_gettime": lambda clock: real["clock_gettime"](clock) + LATER * (not clock),
        "clock_gettime_ns": lambda clock: real["clock_gettime_ns"](clock) + LATER * 10**9 * (not clock),
        "strftime": strftime,
    }
    moved |= {name: of_now(name) for name in ("localtime", "gmtime", "ctime")}
    instead: dict[int, Any] = {id(getattr(time, name)): function for name, function in moved.items()}

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    instead[id(datetime.datetime)] = Later
    ours = [module for name, module in sys.modules.items() if name.startswith("harmony4.")]
    for module in (time, datetime, *ours):
        for name, value in list(vars(module).items()):
            if id(value) in instead:
                patch.setattr(module, name, instead[id(value)])
    assert abs(time.time() - real["time"]() - LATER) < 60
    assert datetime.datetime.now().timestamp() > real["time"]() + LATER - 60
    assert datetime.date.today().toordinal() >= datetime.date.fromtimestamp(real["time"]()).toordinal() + 399


def exported(source: Path, options: ExportOptions) -> bytes:
    memory = io.BytesIO()
    export(source, memory, options, demuxer=demux)  # in this process, where the clock is moved
    return memory.getvalue()


def built() -> bytes:
    with H4MKBuilder.in_memory([TrackInfo(kind="video"), TrackInfo(kind="audio")], title="Ø") as builder:
        for number in range(20):
            builder.add_block(b"%d" % number, number * 1000, track=number % 2, key=True)
        builder.finish(ends={0: 20_000, 1: 20_000}, history=[HistoryEntry("edit", {"by": "nobody"})])
        return builder.getvalue()


def test_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another year, another time zone, sources that are younger or older: the same bytes."""
    data = BUNNY.read_bytes()
    variants = (SMALL, ExportOptions(title="a title"), ExportOptions(raw=True, block_size=9999))
    (tmp_path / "film.mp4").write_bytes(data)
    expected = [exported(tmp_path / "film.mp4", options) for options in variants]
    container = built()
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Chatham")
        time.tzset()
        move_the_clock(patch)
        for seconds in (0, 10**9, 4 * 10**9):
            other = tmp_path / str(seconds) / "another film.mkv"
            other.parent.mkdir()
            other.write_bytes(data)
            os.utime(other, (seconds, seconds))
            assert [exported(other, options) for options in variants] == expected
        assert built() == container
        export(other, tmp_path / "confined.h4mk", SMALL)
        assert (tmp_path / "confined.h4mk").read_bytes() == expected[0]
    time.tzset()


def test_options(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    options = ExportOptions(block_size=1000, raw=True, fps_hint=Fraction(25), gop=50, title="Ø")
    seen: list[tuple[int, int | None]] = []
    result = export(source, out, options, progress=lambda done, total: seen.append((done, total)))
    check(out, data)
    assert (result.timing, result.note, result.seal.blocks) == ("hint", None, 11)
    assert seen[-1] == (len(data), len(data))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with H4MKReader(out) as reader:
        assert reader.meta.title == "Ø"
        assert reader.meta.history[0].args == {"fps": "25/1", "gop": 50, "raw": True}
        assert reader.trak.block == 1000
        assert reader.duration == 11 * 2_000_000
        answer = reader.seek(5_000_000)
        assert answer is not None
        assert (answer.pts, answer.offset) == (4_000_000, 2000)


def test_unknown_media_are_opaque(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export(io.BytesIO(b"what is this?"), out)
    check(out, b"what is this?")
    assert result.note is not None
    assert "hint" in result.note
    with H4MKReader(out) as reader:
        assert reader.meta.history[0].args == {"fps": "30/1", "gop": 30}


def test_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export(io.BytesIO(), out)
    check(out, b"")
    assert (result.seal.blocks, result.seal.duration, result.note) == (0, 0, None)


@needs_ffmpeg
def test_clock_steps_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(io.BytesIO(media("plain.ts").read_bytes() * 2), out, SMALL)
    assert verify(out).ok
    with H4MKReader(out) as reader:
        (step,) = reader.meta.steps
        assert step.track == 0
        assert reader.seek(step.pts) is not None


@needs_ffmpeg
def test_media_that_break_off_have_a_note(tmp_path: Path) -> None:
    data = bytearray(media("plain.mkv").read_bytes())
    data[80_000:] = b"\xff" * 90_000
    out = tmp_path / "out"
    result = export(io.BytesIO(data), out, SMALL)
    check(out, bytes(data))
    assert result.note is None or result.note.startswith("the media break off")


@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["plain.mp4", "fragmented.mp4", "plain.mkv", "plain.webm", "plain.ts", "tone.wav", "opus.ogg"]
)
def test_media_that_lack_their_end(name: str, tmp_path: Path) -> None:
    """Demuxers say nothing of it, so the structure is asked; a pipe and a file say the same."""
    data = media(name).read_bytes()
    for kept in (len(data) * 6 // 10 - 5, len(data) * 95 // 100 - 5):
        (tmp_path / name).write_bytes(data[:kept])
        for source in (tmp_path / name, io.BytesIO(data[:kept])):
            note = export(source, tmp_path / "out").note
            found = re.fullmatch(r"the media break off: (\d+) bytes are missing at the end", note or "")
            assert found, note
            assert 0 < int(found[1]) <= len(data) - kept


@needs_ffmpeg
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_whole_media_lack_nothing(name: str) -> None:
    found = sniff(media(name).read_bytes()[:SNIFF_SIZE])
    if found is not None:
        with media(name).open("rb") as file:
            assert missing(file, media(name).stat().st_size, found.name) == 0


# -- refused, and nothing written


def nothing_in(folder: Path, but: Collection[str] = ()) -> bool:
    return {one.name for one in folder.iterdir()} == set(but)


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for source, words in ((tmp_path, "folder"), (tmp_path / "none", "No such file"), ("a\0b", "null")):
        with pytest.raises(SourceError, match=words):
            export(source, out)
    assert nothing_in(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, who becomes somebody else")
def test_permissions_as_somebody_else(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"x")
    source.chmod(0)
    code = (
        "import os, sys\nfrom harmony4.server.exporting.ingest import export\n"
        "from harmony4.crypto.errors import SourceError\nimport io\n"
        "os.setuid(65534)\n"
        "try:\n    export(sys.argv[1], io.BytesIO())\n"
        "except SourceError as error:\n    print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(source)], capture_output=True, text=True, timeout=60
    )
    assert "Permission denied" in ran.stdout, ran.stderr


def test_the_output_is_the_input(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"precious")
    linked, soft = tmp_path / "linked", tmp_path / "soft"
    os.link(source, linked)
    soft.symlink_to(source)
    for out in (source, linked, soft, tmp_path / "x" / ".." / "in"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="same file"):
            export(source, out)
    with source.open("rb") as ours, source.open("r+b") as theirs, pytest.raises(UsageError):
        export(ours, theirs)
    assert source.read_bytes() == b"precious"


def test_bad_options(tmp_path: Path) -> None:
    for options in (ExportOptions(block_size=0), ExportOptions(gop=0), ExportOptions(fps_hint=Fraction(-1))):
        with pytest.raises((UsageError, LimitError)):
            export(io.BytesIO(b"x"), tmp_path / "out", options)
    assert nothing_in(tmp_path)


def test_refused_media(tmp_path: Path) -> None:
    source = io.BytesIO(b"\0\0\0\x18ftypisom" + bytes(9000))
    with pytest.raises(MediaError, match="--raw"):
        export(source, tmp_path / "out")
    assert nothing_in(tmp_path)
    (tmp_path / "out").write_bytes(b"what stood there")
    source.seek(0)
    with pytest.raises(MediaError):
        export(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"what stood there"
    source.seek(0)
    export(source, tmp_path / "out", ExportOptions(raw=True))
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize("change", ["grows", "shrinks", "is touched"])
@pytest.mark.parametrize("kind", ["raw", "mp4", "moovend"])
def test_a_source_that_changes(tmp_path: Path, change: str, kind: str) -> None:
    data = os.urandom(300_000) if kind == "raw" else BUNNY.read_bytes()
    source = tmp_path / "in"
    source.write_bytes(data)
    done = False

    def meddle(read: int, total: int | None) -> None:
        nonlocal done
        assert total == len(data)
        if not done:
            done = True
            if change == "grows":
                with source.open("ab") as file:
                    file.write(b"more")
            elif change == "shrinks":
                os.truncate(source, len(data) - 100)
            else:
                os.utime(source, (1, 1))

    with pytest.raises(SourceChangedError):
        export(source, tmp_path / "out", ExportOptions(20_000, raw=kind != "moovend"), progress=meddle)
    assert nothing_in(tmp_path, {"in"})


class Full(io.RawIOBase):
    """A target that takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if len(data) > self.room:
            raise OSError(28, "No space left on device")
        self.room -= len(data)
        return len(data)


@pytest.mark.parametrize("room", [0, 10, 5000, 1_050_000])
def test_a_full_disk(room: int) -> None:
    with pytest.raises(StorageError, match="No space left"), BUNNY.open("rb") as source:
        export(source, cast(BinaryIO, Full(room)), SMALL)


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    """A file size limit is the full disk that a test can have without being root."""
    code = (
        "import resource, signal, sys\n"
        "from harmony4.server.exporting.ingest import export, ExportOptions\n"
        "from harmony4.tokenize.demux import demux\n"
        "from harmony4.crypto.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try:\n    export(sys.argv[1], sys.argv[2], demuxer=demux)\n"
        "except StorageError as error:\n    print('storage:', error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(BUNNY), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.startswith("storage:"), ran.stderr
    assert nothing_in(tmp_path)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "no" / "such" / "folder"):
        with pytest.raises(StorageError):
            export(BUNNY, out)
    assert nothing_in(tmp_path)
    pipe = cast(BinaryIO, _Pipe(BUNNY.read_bytes()))  # its index comes last: it must be spooled
    with pytest.raises(StorageError, match="temporary"):
        export(pipe, io.BytesIO(), spool_folder=tmp_path / "none")


class _Pipe(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._file.readinto(buffer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    collected: list[bytes] = []
    thread = threading.Thread(target=lambda: collected.append(fifo.read_bytes()))
    thread.start()
    result = export(BUNNY, fifo, SMALL)
    thread.join()
    assert len(collected[0]) == result.seal.length
    assert fifo.is_fifo()
    assert verify(collected[0]).ok


def test_devices(tmp_path: Path) -> None:
    result = export(BUNNY, "/dev/null", SMALL)
    assert result.seal.blocks
    with pytest.raises(StorageError, match="No space left"):
        export(BUNNY, "/dev/full", SMALL)


def test_replaces_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out.h4mk"
    out.write_bytes(b"old")
    with out.open("rb") as held:
        export(BUNNY, out, SMALL)
        assert held.read() == b"old"  # who has it open keeps it
    check(out, BUNNY.read_bytes())


def test_a_source_that_fails(tmp_path: Path) -> None:
    class Bad(_Pipe):
        def readinto(self, buffer: Any, /) -> int:
            if self._file.tell() > 200_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    for raw in (False, True):
        with pytest.raises(SourceError, match="Input/output"):
            export(cast(BinaryIO, Bad(BUNNY.read_bytes())), tmp_path / "out", ExportOptions(20_000, raw=raw))
    assert nothing_in(tmp_path)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(BUNNY, tmp_path / "out", SMALL, progress=stop)
    assert nothing_in(tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("harmony4")]


# -- size


@needs_ffmpeg
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("name", ["moovend.mp4", "fragmented.mp4"])
def test_memory_follows_the_block(name: str, tmp_path: Path) -> None:
    """A 400 MB source, raw and as the free box of an MP4, in a process of its own."""
    source = tmp_path / "big"
    size = 400 * 10**6
    data = media(name).read_bytes()
    head = int.from_bytes(data[:4], "big")
    with source.open("wb") as file:
        file.write(data[:head] + (8 + size).to_bytes(4, "big") + b"free")
        file.seek(size, io.SEEK_CUR)
        file.write(data[head:])
    code = (
        "import sys\n"
        "from harmony4.server.exporting.ingest import export, ExportOptions\n"
        "from harmony4.tokenize.demux import demux\n"
        "class Null:\n"
        "    def write(self, data): return len(data)\n"
        "result = export(sys.argv[1], Null(), ExportOptions(raw=sys.argv[2] == 'raw'), demuxer=demux)\n"
        # not ru_maxrss, which a child inherits from its parent
        "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(peak, result.seal.blocks)\n"
    )
    for mode in ("raw", "demux"):
        ran = subprocess.run(
            [sys.executable, "-c", code, str(source), mode], capture_output=True, text=True, timeout=110
        )
        assert ran.returncode == 0, ran.stderr
        kib, blocks = map(int, ran.stdout.split())
        assert blocks >= size // 2**20
        assert kib < 200 * 1024
