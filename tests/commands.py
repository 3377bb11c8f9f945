"""Runs the real console command, as a shell would, and in-process where only the answer matters."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from harmony4.h4mk import H4MKBuilder, TrackInfo
from harmony4.server.cli.main import main

HARMONY4: Final = Path(sys.executable).with_name("harmony4")
ROOM: Final = 60  # seconds that any command may take here


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


def run(*arguments: object, stdin: bytes | io.IOBase | int = b"", **more: Any) -> Done:
    """Run `harmony4` with these arguments to its end."""
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    command = [str(HARMONY4), *map(str, arguments)]
    capture = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    done = subprocess.run(command, **source, **capture, timeout=ROOM, check=False)
    return Done(done.returncode, done.stdout or b"", (done.stderr or b"").decode())


def here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """The same without a process of its own, for tests that only look at what is said."""
    capsys.readouterr()
    status = main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return Done(status, shown.out.encode(), shown.err)


def refused(done: Done, *words: str, status: int = 1) -> None:
    """Check that a command was refused as promised: status, one line, no traceback, nothing else printed."""
    assert done.status == status, (done.out[:500], done.err)
    assert done.err.startswith("error: "), done.err
    assert done.err.endswith("\n"), done.err
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err, done.err


@contextlib.contextmanager
def started(*arguments: object, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A running `harmony4` with pipes at all three ends; it is gone when the block is left."""

    def listen() -> (
        None
    ):  # a shell's background jobs, and so the tests in one, ignore Ctrl-C; `nohup`, SIGHUP
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    process = subprocess.Popen([str(HARMONY4), *map(str, arguments)], preexec_fn=listen, **pipes)
    try:
        yield process
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait(ROOM)


def small_container(path: Path, *, blocks: int = 10, title: str | None = None) -> list[bytes]:
    """A sealed container: header and `blocks` video blocks of half a second, every second one KEY, a track
    of sound. Returns the two streams."""
    tracks = [
        TrackInfo(codec="h264", kind="video", media_type="video/mp4", timing="demux"),
        TrackInfo(codec="opus", kind="audio", media_type="audio/ogg", timing="demux", lang="de"),
    ]
    streams = [b"header", b""]
    with H4MKBuilder.to_path(path, tracks, title=title) as builder:
        builder.add_block(b"header", 0, header=True)
        for number in range(blocks):
            for track, payload in enumerate((b"%06d" % number * 50, b"%06d" % number)):
                key = track == 1 or number % 2 == 0
                builder.add_block(payload, number * 500_000, track=track, key=key)
                streams[track] += payload
        builder.finish(ends={0: blocks * 500_000, 1: blocks * 500_000})
    return streams
