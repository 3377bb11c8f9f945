"""The demuxer in a process of its own, with limits: a medium may crash it, never us.

`Sandbox()` is a demuxer as `VideoTransportTokenizer` takes one. It gives the same packets as the one in
this process (`harmony4.tokenize.demux`), at the price of one process per medium (about 0.15 s). Whatever the
worker does, a crash, a hang, a limit or nonsense on the pipe, the caller gets a MediaError, and the worker is
gone. `sandbox_sound.py` decodes sound in the same way.

On systems without POSIX processes (Windows) `default_demuxer` falls back to demuxing in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from harmony4.crypto.errors import MediaError, SourceError, StorageError
from harmony4.server.exporting.remux import StreamNote
from harmony4.server.sandboxing import sandbox_worker as wire
from harmony4.tokenize.demux import BUFFER, Demuxer, Readable, StreamFacts, demux, refusal
from harmony4.tokenize.packet import RECORD, Packet, known
from harmony4.tokenize.packettable import PacketTable

__all__ = ["Limits", "Remuxer", "Sandbox", "Worker", "default_demuxer"]

_MAX_FRAME = 2**20
_FEW = 12  # packets that are faster one by one than in columns
_TICK = 0.2  # s between looks at a silent worker
_TEXT = 4096  # characters of what a medium says of a stream
_AHEAD = 16 * 2**20  # bytes that may wait for the caller before the worker must wait too


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use."""

    memory: int = 2**30
    """Address space, bytes, the interpreter's own 0.3 GiB included; tables of a 10-hour film take 0.1 GiB."""
    cpu: int = 600
    """CPU seconds."""
    output: int = 64 * 2**20
    """Bytes that it may say (48 a packet), and 8 more for each byte of the medium: packets are not that small
    (5 bytes, silence included), but tables can promise any number of them. Sound is limited by `samples`."""
    samples: int = 2**32
    """Samples that it may decode, all channels together: 12 hours of 48 kHz stereo."""
    stall: float = 30.0
    """Seconds without progress (a byte taken or a packet given) while there is something to work on."""


class Sandbox:
    """Opens media in worker processes. Thread-safe; each call is a process of its own."""

    def __init__(self, limits: Limits | None = None, look: Callable[[], object] | None = None) -> None:
        """`look` is called a few times a second while a worker is silent, and raises where nobody wants its
        packets any more.
        """
        self._limits = limits or Limits()
        self._look = look or (lambda: None)

    def __call__(self, source: Readable, name: str) -> _Demuxer:
        """Start a worker that demuxes `source` as format `name`.

        Raises MediaError, SourceError where no process can be started, StorageError.
        """
        return _Demuxer(source, name, self._limits, self._look)

    def remux(self, source: Readable, name: str, streams: Collection[int] | None = ()) -> Remuxer:
        """Start a worker that remuxes streams of `source` (None: all that fit) as one fragmented MP4.

        Raises as a call does.
        """
        wanted = wire.EVERY if streams is None else ",".join(map(str, streams))
        return Remuxer(source, name, self._limits, self._look, wanted)


def default_demuxer(limits: Limits | None = None, look: Callable[[], object] | None = None) -> Demuxer:
    """The sandbox where processes can be confined, else the demuxer of this process."""
    return Sandbox(limits, look) if os.name == "posix" else demux


class Worker(ABC):
    """One worker process, whatever it does. A context manager."""

    def __init__(
        self,
        source: Readable,
        name: str,
        limits: Limits,
        look: Callable[[], object] = lambda: None,
        *more: str,
    ) -> None:
        self._more = more
        self.stopped: str | None = None
        self._source = source
        self.name = name
        self.limits = limits
        self._look = look
        self._buffer = bytearray()
        self._given = 0  # bytes the worker has taken
        self._said = 0  # bytes of its packets
        self._reading = False  # the feeder waits for the source, not for the worker
        self._closing = False
        self._error: BaseException | None = None
        self._hungry = threading.Event()  # the caller waits for packets
        fd = getattr(source, "fd", None)
        self._copy: IO[bytes] | None = None
        if fd is None and hasattr(source, "seek"):  # a file that only this process has
            self._copy = _on_disk(source)
            fd = self._copy.fileno()
        self._size = None if fd is None else os.fstat(fd).st_size
        self._feeder: threading.Thread | None = None
        self._selector = selectors.DefaultSelector()
        try:
            self._process = self._start(fd)
        except BaseException:
            self._selector.close()
            if self._copy is not None:
                self._copy.close()
            raise
        try:
            self._selector.register(self._out, selectors.EVENT_READ)
            if fd is None:
                feeder = threading.Thread(target=self._feed, name="harmony4-feed", daemon=True)
                feeder.start()
                self._feeder = feeder
        except BaseException:
            self.close()
            raise

    def _start(self, fd: int | None) -> subprocess.Popen[bytes]:
        limits = self.limits
        arguments = [self.name, fd or 0, limits.memory, limits.cpu, os.getpid(), *self._more]
        command = [sys.executable, "-I", "-m", wire.__name__, *map(str, arguments)]
        keep = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        # numpy's threads, which nobody here needs, would take address space on each processor.
        environment["OPENBLAS_NUM_THREADS"] = "1"
        try:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module, numbers, a fixed name
                command,
                stdin=subprocess.PIPE if fd is None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=() if fd is None else (fd,),
                env=environment,
                start_new_session=True,  # an interrupt from the terminal is the parent's to handle
                bufsize=0,
            )
        except OSError as error:
            # Not the medium's fault: another time it may be (503 and not 422).
            raise SourceError(
                f"the demuxer's process cannot be started: {error.strerror or error}"
            ) from error

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abandoned=error is not None)

    # -- what comes back: nothing of it is believed

    def _open(self) -> None:
        kind, payload = self._frame()
        if kind != wire.STREAMS:
            raise self.nonsense()
        try:
            self.describe(json.loads(payload))
        except (ValueError, TypeError, RecursionError) as error:
            raise self.nonsense() from error

    @abstractmethod
    def describe(self, streams: list[object]) -> None:
        """Take what is said of the streams. Raises ValueError, TypeError for what is not said so."""

    def next(self, expected: bytes) -> bytes | None:
        """The next frame's payload; None at the end."""
        kind, payload = self._frame()
        if kind == wire.STOPPED:
            self.stopped = payload.decode(errors="replace")[:200] or None
            return None
        if kind != expected:
            raise self.nonsense()
        return payload

    def _frame(self) -> tuple[bytes, bytes]:
        kind, size = wire.FRAME.unpack(self._read(wire.FRAME.size))
        if size > _MAX_FRAME:
            raise self.nonsense()
        payload = self._read(size)
        if kind == wire.FAILED:
            raise self._failed(payload.decode(errors="replace")[:200])
        self._said += size
        self.check_output()
        return kind, payload

    def check_output(self) -> None:
        """Raises MediaError where the worker says more than its medium can hold."""
        if self._said > self.limits.output + 8 * (self._given if self._size is None else self._size):
            raise self.refused("it holds more packets than its bytes can be")

    def _read(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._wait()
            data = os.read(self._out.fileno(), 2**16)
            if not data:
                raise self._died()
            self._buffer += data
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _wait(self) -> None:
        """Until the worker says something; a worker with work that makes no progress is ended."""
        if self._selector.select(0):
            return
        self._hungry.set()
        try:
            self._watch()
        finally:
            self._hungry.clear()

    def _watch(self) -> None:
        progress = self._given
        deadline = time.monotonic() + self.limits.stall
        while not self._selector.select(_TICK):
            self._look()
            now = time.monotonic()
            if self._reading or self._given != progress:
                progress = self._given
                deadline = now + self.limits.stall
            elif now > deadline:
                raise self.refused(f"it made no progress for {self.limits.stall:g} s")

    # -- errors

    def refused(self, reason: str) -> MediaError:
        """The error for a medium that came to nothing."""
        return refusal(reason, self.name)

    def nonsense(self) -> MediaError:
        """The error for a worker that is not believed."""
        return self.refused("its process sent nonsense")

    def _failed(self, message: str) -> Exception:
        self._join()
        return self._error if isinstance(self._error, Exception) else MediaError(message, where=self.name)

    def _died(self) -> Exception:
        try:
            status = self._process.wait(self.limits.stall)
        except subprocess.TimeoutExpired:  # closed its output and lives on
            status = None
        if self._error is not None and isinstance(self._error, Exception):
            return self._error
        if status == -signal.SIGXCPU:
            return self.refused(f"it took more than {self.limits.cpu} s of CPU time")
        name = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        return self.refused(f"its process ended early ({name})")

    # -- what goes in

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while not self._closing:
                # Reading far ahead of a caller who is busy would only fill its spool.
                while getattr(self._source, "waiting", 0) > _AHEAD and not self._closing:
                    if self._hungry.wait(_TICK):
                        break
                self._reading = True
                data = self._source.read(BUFFER)
                self._reading = False
                view = memoryview(data)
                while view:
                    written = os.write(pipe.fileno(), view)
                    self._given += written
                    view = view[written:]
                if len(data) < BUFFER:
                    break
        except (SourceError, StorageError) as error:
            self._error = error
        except OSError:
            pass  # EPIPE: the worker has seen enough, or is gone
        except BaseException as error:  # the source's own (a cancelled upload): the caller's to see
            self._error = error
        finally:
            self._reading = False
            with contextlib.suppress(OSError):
                pipe.close()

    def _join(self, timeout: float | None = None) -> None:
        if self._feeder is not None:
            self._feeder.join(timeout)

    def close(self, *, abandoned: bool = True) -> None:
        """End the worker. Not abandoned: also wait until the source is ours alone again."""
        self._closing = True
        self._process.kill()
        self._process.wait()
        self._selector.close()
        self._out.close()
        if self._copy is not None:
            self._copy.close()
        # A feeder that waits for a source which never answers must not hold up a caller who gives up.
        self._join(_TICK if abandoned else None)
        if not abandoned and self._error is not None:
            raise self._error


class _Demuxer(Worker):
    """A worker behind the `Demuxed` protocol."""

    streams: tuple[StreamFacts, ...] = ()

    def describe(self, streams: list[object]) -> None:
        self.streams = tuple(map(_stream, streams))

    def __iter__(self) -> Iterator[Packet | PacketTable]:
        count = len(self.streams)
        while (payload := self.next(wire.PACKETS)) is not None:
            if len(payload) % RECORD.size:
                raise self.nonsense()
            if len(payload) > _FEW * RECORD.size:
                packets = PacketTable.unpack(payload)
                streams, sizes = packets.stream, packets.size
                if streams.min() < 0 or streams.max() >= count or sizes.min() < 0 or sizes.max() >= 2**31:
                    raise self.nonsense()
                yield packets
                continue
            for stream, pos, pts, duration, size, flags in RECORD.iter_unpack(payload):
                if not 0 <= stream < count or not 0 <= size < 2**31:
                    raise self.nonsense()
                yield Packet(stream, known(pos), known(pts), duration, size, bool(flags & 1))


class Remuxer(Worker):
    """A worker that makes a fragmented MP4: its streams' notes, then the file's bytes, once."""

    notes: tuple[StreamNote, ...] = ()

    def describe(self, streams: list[object]) -> None:
        self.notes = tuple(map(_stream_note, streams))

    def __iter__(self) -> Iterator[bytes]:
        """The file in pieces. Raises MediaError, SourceError, StorageError."""
        while (payload := self.next(wire.DATA)) is not None:
            yield payload


def _on_disk(source: Readable) -> IO[bytes]:
    try:
        copy = tempfile.TemporaryFile(prefix="harmony4-", buffering=0)  # noqa: SIM115 - closed with the worker
        try:
            while data := source.read(2**20):
                copy.write(data)
        except BaseException:
            copy.close()
            raise
    except OSError as error:
        raise StorageError(f"the medium cannot be put on disk: {error.strerror or error}") from error
    return copy


def _stream(entry: object) -> StreamFacts:
    if not isinstance(entry, list) or len(entry) != 7:
        raise ValueError("not a stream")
    index, kind, codec, num, den, start, number = entry
    integers = [index, num, den, number, 0 if start is None else start]
    if not all(type(value) is int and abs(value) < 2**63 for value in integers) or num < 1 or den < 1:
        raise ValueError("not a stream")
    if not (isinstance(kind, str) and isinstance(codec, str) and codec.isascii() and len(codec) < 64):
        raise ValueError("not a stream")
    return StreamFacts(index, kind, codec, num, den, start, number)


def _stream_note(entry: object) -> StreamNote:
    if not isinstance(entry, list) or len(entry) != 6:
        raise ValueError("not a note")
    index, kind, codec, lang, name, fits = entry
    if type(index) is not int or not 0 <= index < 2**31 or type(fits) is not bool:
        raise ValueError("not a note")
    if not all(isinstance(text, str) and len(text) < 64 for text in (kind, codec)):
        raise ValueError("not a note")
    if not all(text is None or (isinstance(text, str) and len(text) <= _TEXT) for text in (lang, name)):
        raise ValueError("not a note")
    return StreamNote(index, kind, codec, lang, name, fits)
