"""The demuxer's own process: `python -I -m harmony4.server.sandboxing.sandbox_worker OPTIONS`.

Media come in on standard input (or as an inherited descriptor that can seek), packets, the pieces of a
remuxed file, or decoded samples, go out on standard output as frames (kind, length, payload). Before it looks
at the first byte it gives up what it does not need: memory, CPU time and descriptors beyond the limits, files
to write, a directory to stand in, core dumps.

It is told what to do by its parent and believes it; the parent believes nothing that comes back
(`sandbox.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import operator
import os
import select
import signal
import struct
import sys
import tempfile
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

# PyAV imports these when it meets the first stream of their kind; by then no file can be opened any more.
import av.audio.codeccontext
import av.audio.stream
import av.subtitles.codeccontext
import av.subtitles.stream
import av.video.codeccontext
import av.video.stream  # noqa: F401

from harmony4.crypto.errors import HarmonyError
from harmony4.server.exporting.remux import ALL, remux
from harmony4.server.exporting.thinning import Thinner
from harmony4.tokenize.demux import Readable, clock_of, demux
from harmony4.tokenize.packet import NOTHING

__all__ = [
    "DATA",
    "EVERY",
    "FAILED",
    "FRAME",
    "MISSING",
    "PACKETS",
    "SOUND",
    "STOPPED",
    "STREAMS",
    "main",
]

FRAME = struct.Struct(">cI")
"""Every frame: kind, then how many bytes follow."""
STREAMS, PACKETS, DATA, STOPPED, FAILED = b"S", b"P", b"D", b"X", b"E"
"""JSON list of streams (of sound: of rate, channels, decoder, whether it is exact, start in µs) · records of
packets (none: only to say that work goes on) ·
bytes of a remuxed file, or samples of 24 bits as little-endian integers of 32 · the end (UTF-8 reason, may be
empty) · refused (UTF-8 reason)."""
EVERY = "all"
"""What stands for all streams."""
SOUND = "sound"
"""What asks for decoded samples, instead of streams to remux."""
MISSING = 71
"""Exit status where the limits could not be set."""

_BATCH = 512
_ROW = operator.attrgetter("stream_index", "pos", "pts", "duration", "size", "is_keyframe")
_Row = tuple[int, int | None, int | None, int | None, int, bool]
_AHEAD = 2**20  # bytes of a pipe that are read until packets are sent
_QUIET = 2**22  # bytes of a file between two signs of life
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


class _Pipe:
    """Standard input as a reader: full reads.

    It hands out what is ready before it has to wait, or when it has read on for long: the parent keeps all
    bytes whose packets it does not know.
    """

    def __init__(self, out: _Output) -> None:
        self._out = out
        self._quiet = 0

    def read(self, n: int, /) -> bytes:
        self._quiet += n
        if self._quiet > _AHEAD:
            self._quiet = 0
            self._out.flush()
        parts = []
        while n:
            if self._out.pending and not select.select([0], [], [], 0)[0]:
                self._out.flush()
            data = os.read(0, n)
            if not data:
                break
            parts.append(data)
            n -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _File:
    """An inherited file, read by `pread`: the parent reads through the same descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pos = 0
        self._quiet = 0
        self.out: _Output | None = None
        """Is told now and then that work goes on, where there may be no packets for long."""

    def read(self, n: int, /) -> bytes:
        data = os.pread(self._fd, n, self._pos)
        self._pos += len(data)
        self._quiet += len(data)
        if self._quiet > _QUIET and self.out is not None:
            self._quiet = 0
            self.out.frame(PACKETS, b"")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = 0 if whence == 0 else self._pos if whence == 1 else os.fstat(self._fd).st_size
        self._pos = base + offset
        return self._pos

    def tell(self) -> int:
        return self._pos


class _Output:
    """Frames onto standard output, packets in batches."""

    def __init__(self) -> None:
        self.pending: deque[_Row] = deque()
        """What is said of packets, and waits."""

    def frame(self, kind: bytes, payload: bytes | bytearray | memoryview) -> None:
        data = memoryview(FRAME.pack(kind, len(payload)) + payload)
        while data:
            data = data[os.write(1, data) :]

    def flush(self) -> None:
        """Send the packets that wait."""
        while self.pending:
            rows = [self.pending.popleft() for _ in range(len(self.pending))]
            try:
                records = array("q", cast(Iterator[int], chain.from_iterable(rows)))
            except TypeError:  # something is missing
                records = array("q", chain.from_iterable(map(_row, filter(_real, rows))))
            if sys.byteorder != "little":
                records.byteswap()
            if records:
                self.frame(PACKETS, records.tobytes())

    def packets(self, packets: Iterator[Any]) -> None:
        """PyAV's packets, as records. The reader below them may flush in the middle of this."""
        rows = map(_ROW, packets)
        for row in rows:
            self.pending.append(row)
            self.pending.extend(islice(rows, _BATCH - 1))  # a loop in C, for all but the first
            self.flush()


def _real(row: _Row) -> bool:
    """False: one of PyAV's flushing packets."""
    return bool(row[4]) or row[2] is not None


def _row(row: _Row) -> tuple[int, ...]:
    stream, pos, pts, duration, size, key = row
    return (
        stream,
        NOTHING if pos is None else pos,
        NOTHING if pts is None else pts,
        duration or 0,
        size,
        key,
    )


def _confine(memory: int, cpu: int, parent: int) -> None:
    """Give up everything that demuxing does not need."""
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    Path(directory).rmdir()  # stays empty: nothing can be made in a directory that is gone
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if parent and os.getppid() != parent:  # it died before the signal was asked for
        os._exit(MISSING)
    import resource

    for which, value, most in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        # At the second one Linux sends SIGKILL, which does not say why; if both are the same, only that.
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_NOFILE, 0, 0),  # what is open stays open; nothing else ever will be
    ):
        with contextlib.suppress(ValueError):  # a lower hard limit is in force already
            resource.setrlimit(which, (value, most))


def main(arguments: list[str]) -> int:
    """FORMAT FD MEMORY CPU PARENT [STREAMS | sound [STREAM]]: demux descriptor FD (0: standard input) as
    FORMAT within the limits; with STREAMS (`all`, or numbers with commas between them, or nothing) remux
    these; with `sound` decode the stream of that number, or the first one with sound.
    """
    name, fd, memory, cpu, parent = arguments[0], *map(int, arguments[1:5])
    out = _Output()
    if arguments[5:6] == [SOUND]:
        # Only here, since numpy takes its time; and now, since later no file can be opened.
        import harmony4.tokenize.decode  # noqa: F401
    reserve = bytearray(2**20)  # so that a MemoryError can be reported
    _confine(memory, cpu, parent)
    source: _File | _Pipe = _File(fd) if fd else _Pipe(out)
    try:
        if arguments[5:6] == [SOUND]:
            _decode(source, name, int(arguments[6]) if len(arguments) > 6 else None, out)
        elif len(arguments) > 5:
            _remux(source, name, arguments[5], out)
        else:
            _demux(source, name, out)
    except HarmonyError as error:
        del reserve
        out.frame(FAILED, error.message.encode())
    except MemoryError:
        del reserve
        out.frame(FAILED, b"it needs more memory than it may have")
    except BrokenPipeError:  # the parent has left
        return 1
    return 0


def _demux(source: _File | _Pipe, name: str, out: _Output) -> None:
    # Packets of streams other than the clock decide nothing: not in a file that the demuxer seeks in, and not
    # in the plain fragments of a pipe.
    thinner = Thinner(source.read) if isinstance(source, _Pipe) and name == "mp4" else None
    with demux(thinner or source, name) as media:
        out.frame(STREAMS, json.dumps([dataclasses.astuple(stream) for stream in media.streams]).encode())
        clock, only = clock_of(media.streams), None
        if isinstance(source, _File):
            source.out = out
            only = None if clock is None else clock.index
        elif thinner is not None and clock is not None:
            thinner.keep(clock.id)
        out.packets(media.raw(only))
        stopped = None if thinner is not None and thinner.broken else media.stopped
        out.frame(STOPPED, (stopped or "").encode())


def _remux(source: Readable, name: str, streams: str, out: _Output) -> None:
    wanted = ALL if streams == EVERY else frozenset(map(int, filter(None, streams.split(","))))
    stopped = remux(
        source,
        name,
        wanted,
        lambda notes: out.frame(STREAMS, json.dumps([dataclasses.astuple(note) for note in notes]).encode()),
        lambda data: out.frame(DATA, data),
    )
    out.frame(STOPPED, (stopped or "").encode())


def _decode(source: Readable, name: str, stream: int | None, out: _Output) -> None:
    from harmony4.tokenize.decode import decode

    with decode(source, name, stream) as sound:
        described = False
        for samples in sound:
            if not described:
                out.frame(STREAMS, json.dumps(dataclasses.astuple(sound.format)).encode())
                described = True
            out.frame(DATA, samples.astype("<i4").tobytes())
        if not described:
            out.frame(STREAMS, json.dumps(dataclasses.astuple(sound.format)).encode())
        out.frame(STOPPED, (sound.stopped or "").encode())


if __name__ == "__main__":
    # _exit: nothing is left to clean up, and no destructor of a hostile medium's state should run.
    os._exit(main(sys.argv[1:]))
