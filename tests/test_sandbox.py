"""The demuxer's process: the same packets, and nothing a medium or a worker does reaches further."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harmony4.crypto.errors import MediaError, SourceError
from harmony4.server.sandboxing import sandbox, sandbox_worker
from harmony4.server.sandboxing.sandbox import Limits, Sandbox, default_demuxer
from harmony4.tokenize import packet
from harmony4.tokenize.demux import demux
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import PLAIN, media
from needs import BUNNY, needs_ffmpeg, program
from sandboxes import at_rest, frame, leaving_nothing, limits_of, says, workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are confined on POSIX systems only")


def tokens(source: Any, **options: Any) -> list[Any]:
    tokenizer = VideoTransportTokenizer(block_size=10_000, **options)
    found: list[Any] = list(tokenizer.encode(source))
    return [tokenizer.track, tokenizer.origin, tokenizer.steps, tokenizer.note, *found]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_the_same_packets(name: str) -> None:
    with media(name).open("rb") as file:
        expected = tokens(file)
    with media(name).open("rb") as file:
        assert tokens(file, demuxer=Sandbox()) == expected


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.ts", "plain.mp4"])
def test_the_same_from_pieces(name: str) -> None:
    data = media(name).read_bytes()
    pieces = [data[i : i + 777] for i in range(0, len(data), 777)]
    assert tokens(pieces, demuxer=Sandbox()) == tokens(pieces)


def test_an_index_at_the_end(tmp_path: Path) -> None:
    """An MP4 with its index last: the source itself if it is a file, else a spool that is one."""
    with BUNNY.open("rb") as file:
        expected = tokens(file)
    data = BUNNY.read_bytes()
    assert tokens([data], spool=lambda: (tmp_path / "spool").open("w+b"), demuxer=Sandbox()) == expected
    assert tokens([data], demuxer=Sandbox()) == expected  # a spool in memory: it is copied for the worker


def test_refusals_are_the_same() -> None:
    data = b"\0\0\0\x18ftypisom" + bytes(5000)
    messages = []
    for demuxer in (demux, Sandbox()):
        with pytest.raises(MediaError) as caught:
            tokens(io.BytesIO(data), demuxer=demuxer)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0] == (
        "the demuxer refuses it (--raw would store it as it is): "
        "Invalid data found when processing input in mp4"
    )


def test_default() -> None:
    assert isinstance(default_demuxer(), Sandbox)


def test_default_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.os, "name", "nt")
    assert default_demuxer() is demux


# -- limits


@needs_ffmpeg
def test_confined(tmp_path: Path) -> None:
    """What the worker of a medium that is still coming in may do, as the kernel tells it."""
    data = media("plain.ts").read_bytes()
    limits = Limits(memory=2**30, cpu=77)
    seen: dict[str, Any] = {}

    def source() -> Iterator[bytes]:
        yield data[:100_000]
        (pid,) = workers()
        seen["limits"] = limits_of(
            pid, "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"
        )
        status = Path(f"/proc/{pid}/status").read_text()
        seen["privileges"] = [line for line in status.splitlines() if line.startswith("NoNewPrivs")]
        seen["environment"] = Path(f"/proc/{pid}/environ")
        seen["session"] = os.getsid(pid)
        try:
            seen["cwd"] = str(Path(f"/proc/{pid}/cwd").readlink())
            seen["fds"] = sorted(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir())
        except PermissionError:  # not dumpable: only root may look
            seen["cwd"], seen["fds"] = "(deleted)", [0, 1, 2]
        yield data[100_000:]

    assert tokens(source(), demuxer=Sandbox(limits))
    assert seen["limits"] == {
        "RLIMIT_AS": (2**30, 2**30),
        "RLIMIT_CPU": (77, 78),
        "RLIMIT_NOFILE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_CORE": (0, 0),
    }
    assert seen["privileges"] == ["NoNewPrivs:\t1"]
    assert seen["session"] != os.getsid(0)
    assert seen["cwd"].endswith("(deleted)")
    assert seen["fds"] == [0, 1, 2]


@needs_ffmpeg
def test_memory() -> None:
    with (
        media("plain.ts").open("rb") as file,
        pytest.raises(MediaError, match=r"memory|allocate|ended early"),
    ):
        tokens(file, demuxer=Sandbox(Limits(memory=64 * 2**20)))


@needs_ffmpeg
def test_more_packets_than_bytes_can_be(tmp_path: Path) -> None:
    """Frames of four bytes, all of one size, so that the tables that promise them are tiny."""
    source, ffmpeg = tmp_path / "dots.mov", program("ffmpeg")
    assert ffmpeg is not None
    picture = ["-f", "lavfi", "-i", "color=gray:s=2x2:r=1000:d=60", "-pix_fmt", "gray"]
    subprocess.run([ffmpeg, "-v", "error", *picture, "-c:v", "rawvideo", source], check=True, timeout=60)
    assert source.stat().st_size < 60_000 * 5
    with source.open("rb") as file:
        usual = tokens(file, demuxer=Sandbox())
    with source.open("rb") as file:
        assert tokens(file, demuxer=demux) == usual
    with source.open("rb") as file, pytest.raises(MediaError, match="more packets than its bytes"):
        tokens(file, demuxer=Sandbox(Limits(output=0)))
    with BUNNY.open("rb") as file:  # of media as they are, far more would be believed
        tokens(file, demuxer=Sandbox(Limits(output=0)))


@needs_ffmpeg
def test_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is stopped in the middle of its work."""
    data = media("plain.ts").read_bytes()

    def source() -> Iterator[bytes]:
        for at in range(0, len(data), 5_000):
            if at == 100_000:
                for pid in workers():
                    os.kill(pid, signal.SIGSTOP)
            yield data[at : at + 5_000]

    started = time.monotonic()
    with pytest.raises(MediaError, match="no progress"):
        tokens(source(), demuxer=Sandbox(Limits(stall=0.5)))
    assert time.monotonic() - started < 20


@needs_ffmpeg
def test_a_slow_source_is_no_stall() -> None:
    data = media("plain.ts").read_bytes()
    gate = threading.Event()

    def source() -> Iterator[bytes]:
        yield data[:100_000]
        gate.wait(3.0)  # nobody sets it: longer than the limit, and the worker is not to blame
        yield data[100_000:]

    assert tokens(source(), demuxer=Sandbox(Limits(stall=2.0))) == tokens([data])


@needs_ffmpeg
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_crashed(number: signal.Signals) -> None:
    data = media("plain.ts").read_bytes()

    def source() -> Iterator[bytes]:
        for at in range(0, len(data), 5_000):
            if at == 100_000:
                for pid in workers():
                    os.kill(pid, number)
            yield data[at : at + 5_000]

    with pytest.raises(MediaError, match="CPU time" if number == signal.SIGXCPU else number.name):
        tokens(source(), demuxer=Sandbox())


def test_crashed_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    with BUNNY.open("rb") as file, pytest.raises(MediaError, match="ended early"):
        tokens(file, demuxer=Sandbox())
    monkeypatch.setattr(sandbox.sys, "executable", "/nowhere/python")
    with BUNNY.open("rb") as file, pytest.raises(SourceError, match="cannot be started"):
        tokens(file, demuxer=Sandbox())


# -- a worker that was taken over says what it likes

FACTS = [0, "video", "h264", 1, 1000, 0, 256]
RECORD = packet.RECORD.pack(0, 5, 0, 40, 10, 1)


STREAMS = frame(b"S", json.dumps([FACTS]).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"S",
        frame(b"Q", b""),
        frame(b"P", RECORD),
        sandbox_worker.FRAME.pack(b"S", 2**32 - 1),
        frame(b"S", b"{"),
        frame(b"S", b"[1]"),
        frame(b"S", b"7"),
        frame(b"S", b"[[]]"),
        frame(b"S", b"[" * 100_000),
        frame(b"S", json.dumps([[*FACTS[:3], 0, *FACTS[4:]]]).encode()),
        frame(b"S", json.dumps([[*FACTS[:3], 1.5, *FACTS[4:]]]).encode()),
        frame(b"S", json.dumps([[*FACTS[:2], "\u00f8", *FACTS[3:]]]).encode()),
        frame(b"S", json.dumps([[*FACTS[:2], 7, *FACTS[3:]]]).encode()),
        STREAMS,
        STREAMS + frame(b"S", b"[]"),
        STREAMS + frame(b"P", RECORD[:-1]),
        STREAMS + frame(b"P", packet.RECORD.pack(1, 5, 0, 40, 10, 1)),
        STREAMS + frame(b"P", packet.RECORD.pack(-1, 5, 0, 40, 10, 1)),
        STREAMS + frame(b"P", packet.RECORD.pack(0, 5, 0, 40, -10, 1)),
        *(
            STREAMS + frame(b"P", 20 * RECORD + packet.RECORD.pack(stream, 5, 0, 40, size, 1))
            for stream, size in ((1, 10), (-1, 10), (0, -10), (0, 2**31))
        ),
        STREAMS + frame(b"E", b"\xff\xfe my own words"),
    ],
)
def test_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    says(tmp_path, monkeypatch, data)
    source = b"\0\0\0\x18ftypisom" + bytes(9000)
    with pytest.raises(MediaError):
        tokens([source], demuxer=Sandbox(Limits(stall=5)))


def test_lies_about_places_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = b"\0\0\0\x18ftypisom" + bytes(90_000)
    lies = b"".join(
        packet.RECORD.pack(0, pos, pts, duration, 2**31 - 1, 255)
        for pos in (-5, 0, 10_000, 2**62)
        for pts in (-(2**63) + 1, 0, 2**63 - 1)
        for duration in (-(2**63), 2**63 - 1)
    )
    alive = frame(b"P", b"")  # no packets, only a sign of life
    says(tmp_path, monkeypatch, STREAMS + alive + frame(b"P", lies) + frame(b"X", b"\xff" * 1000))
    found = tokens([source], demuxer=Sandbox())
    assert b"".join(one.data for one in found[4:]) == source
    assert len(found[3]) == 200


def test_lingering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes its output and stays."""
    says(tmp_path, monkeypatch, STREAMS, linger=True)
    with pytest.raises(MediaError, match="ended early"):
        tokens([b"\0\0\0\x18ftypisom" + bytes(9000)], demuxer=Sandbox(Limits(stall=0.3)))


# -- sources that fail, callers that leave


@needs_ffmpeg
def test_a_busy_caller_holds_the_worker_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_AHEAD", 50_000)
    data = media("tone.wav").read_bytes()
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for at in range(0, len(data), 1000):
            read = at
            yield data[at : at + 1000]

    # A caller who does not come for more: what has been read stays near what it got.
    found = VideoTransportTokenizer(block_size=10_000, demuxer=Sandbox()).encode(source())
    got = sum(next(found).record.size for _ in range(3))
    # tone.wav: FFmpeg itself looks at 426 kB before it gives the first packet.
    assert at_rest(lambda: read) < got + 426_000 + 50_000 + 3 * 32_768
    assert sum(one.record.size for one in found) + got == len(data)


@needs_ffmpeg
@pytest.mark.parametrize("after", [5_000, 120_000])
@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), SourceError("gone"), RuntimeError("odd")]
)
def test_the_sources_own_error(after: int, error: Exception) -> None:
    data = media("plain.ts").read_bytes()

    def source() -> Iterator[bytes]:
        yield data[:after]
        raise error

    with pytest.raises(SourceError if isinstance(error, OSError) else type(error)):
        tokens(source(), demuxer=Sandbox())


@needs_ffmpeg
def test_leaving_in_the_middle() -> None:
    """The worker is gone when `close` returns, and took no more of the source."""
    data = media("plain.ts").read_bytes()
    read = []

    def source() -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield data

    found = VideoTransportTokenizer(block_size=1000, demuxer=Sandbox()).encode(source())
    next(found)
    assert len(workers()) == 1
    found.close()  # type: ignore[attr-defined]
    assert workers() == []
    before = len(read)
    assert before < 1000
    with pytest.raises(StopIteration):
        next(found)
    assert len(read) == before


@needs_ffmpeg
def test_leaving_while_the_source_hangs() -> None:
    data = media("plain.ts").read_bytes()
    gate = threading.Event()

    def source() -> Iterator[bytes]:
        yield data[:150_000]
        gate.wait(60)
        yield b""

    found = VideoTransportTokenizer(block_size=1000, demuxer=Sandbox()).encode(source())
    next(found)
    started = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    gate.set()


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\n"
        "from harmony4.server.sandboxing.sandbox import Sandbox\n"
        "class Slow:\n"
        "    def read(self, n):\n"
        "        print(worker._process.pid, flush=True)\n"
        "        sys.stdin.read()\n"
        "import harmony4.server.sandboxing.sandbox as s\n"
        "class W(s._Demuxer):\n"
        "    def _start(self, fd):\n"
        "        global worker\n"
        "        worker = self\n"
        "        self._process = super()._start(fd)\n"
        "        return self._process\n"
        "W(Slow(), 'mpegts', s.Limits()).__enter__()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


# -- the worker's own code, in this process (what runs in it is not seen by coverage otherwise)


def test_worker_reader_and_writer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        one = sandbox_worker._File(file.fileno())
        # Another stream's packets may fill a file for long: now and then the parent is told of it.
        told: list[bytes] = []
        busy = sandbox_worker._File(file.fileno())
        busy.out = sandbox_worker._Output()
        monkeypatch.setattr(busy.out, "frame", lambda kind, payload: told.append(kind + payload))
        monkeypatch.setattr(sandbox_worker, "_QUIET", 4)
        assert [busy.read(3) for _ in range(3)] == [b"012", b"345", b"678"]
        assert told == [b"P"]
        assert (one.read(2), one.tell(), one.seek(-3, 2), one.read(9)) == (b"01", 2, 7, b"789")
        assert (one.seek(1), one.seek(1, 1), one.read(1)) == (1, 2, b"2")
