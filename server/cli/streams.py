"""Where bytes come from and go to: files, `-`, pipes, devices, and the checks that keep them apart.

A regular target is written beside itself and renamed; anything else that exists (a FIFO, `/dev/null`) is
written through, because renaming over it would replace the device itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Final, cast

from harmony4.crypto.errors import SourceError, StorageError
from harmony4.h4mk import FileSource, H4MKReader
from harmony4.h4mk.edits.target import AtomicFile
from harmony4.server.cli.interrupts import deferred

__all__ = [
    "COMMAND",
    "STANDARD",
    "UNNOTED",
    "ReaderGone",
    "Sink",
    "check_not_same",
    "in_order",
    "named",
    "noted",
    "open_container",
    "open_file",
    "put",
    "sequential",
    "shown",
    "sink",
    "spooled",
]

STANDARD: Final = "-"
_COPY: Final = 2**20
_TICK: Final = 0.25
"""Seconds after which a wait for data looks for signals."""

COMMAND: ContextVar[str] = ContextVar("command", default="write")
"""The command that runs."""
UNNOTED: ContextVar[str | None] = ContextVar("unnoted", default=None)
"""What to say at the end of a command that has done what no audit log knows of."""
FACTS_GONE: Final = 0
"""Exit status when whoever reads facts (`| head`) has seen enough of them."""
DATA_GONE: Final = 141
"""Exit status when the reader of a container or of media went away before its end: 128 + SIGPIPE."""


class ReaderGone(Exception):  # noqa: N818 - an ending, not an error
    """The other end of standard output is closed. Not an OSError: nothing on the way may wrap it."""

    def __init__(self, status: int) -> None:
        super().__init__("the reader went away")
        self.status = status


class Sink:
    """A descriptor that bytes are written to in order; pipes, sockets and devices alike.

    `write` takes all it is given or raises: ReaderGone for a pipe that nobody reads any more, StorageError
    otherwise.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._fd = descriptor
        self._name = name

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`; returns its length in bytes."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += os.write(self._fd, view[done : done + 2**30])
            except BlockingIOError:  # a pipe that somebody set to non-blocking
                select.select((), (self._fd,), ())
            except BrokenPipeError as error:
                raise ReaderGone(DATA_GONE) from error
            except OSError as error:
                raise StorageError(f"cannot write {self._name}: {error.strerror}") from error
        return done

    def flush(self) -> None:
        """Nothing waits here."""


def shown(path: str) -> str:
    """The name as it is shown: standard input by its name."""
    return "standard input" if path == STANDARD else path


def named(error: SourceError, path: str) -> SourceError:
    """The same error with the name of the file in it: on a command line, names help."""
    message = error.message.replace("the source", shown(path), 1)
    return type(error)(message, where=error.where, expected=error.expected, found=error.found)


def sink(path: str) -> contextlib.AbstractContextManager[BinaryIO | str]:
    """The target that a library call should write to: a stream for `-` and for devices, else a path.

    A path is what is written atomically; a symbolic link is followed, so that its target is replaced and
    the link stays. Raises StorageError for a folder, and for binary data that would go onto a terminal.
    """
    if path == STANDARD:
        if sys.stdout is None:
            raise StorageError("standard output is closed")
        if sys.stdout.isatty():
            raise StorageError("binary data is not written onto a terminal; use -o FILE or a pipe")
        sys.stdout.flush()
        return contextlib.nullcontext(cast(BinaryIO, Sink(sys.stdout.fileno(), "standard output")))
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return noted(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write {path}: {_reason(error)}") from error
    if stat.S_ISDIR(mode):
        raise StorageError(f"cannot write {path}: it is a folder")
    if stat.S_ISREG(mode):
        return noted(os.path.realpath(path))
    return _device(path)


@contextlib.contextmanager
def noted(path: str) -> Iterator[str]:
    """A file that is written: what a command does to a container in a library goes into its audit log.

    Of a library that has one: `HARMONY4_LIBRARY` and `HARMONY4_STATE` name it, or it has a `.harmony4`, where
    a server whose `state` is nowhere else has been, or a token was made for it.
    """
    before = _mark(path)
    told = False

    def tell(**options: float) -> None:
        nonlocal told
        with deferred():
            told = True
            if _mark(path) != before:
                from harmony4.server.cli.noting import note_command  # takes its time, and few need it

                note_command(COMMAND.get(), Path(path), **options)

    try:
        yield path
        tell()
    except BaseException:
        # Ctrl-C, or a disk that fails, when it was done already: it is told all the same, waiting for nobody.
        if not told:
            tell(patience=0.0)
        raise


def _mark(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a text that is no path is refused elsewhere, and better
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def put(data: bytes, path: str) -> None:
    """Write a small file, complete or not at all, or a stream. Raises StorageError."""
    with sink(path) as target:
        if not isinstance(target, str):
            target.write(data)
            return
        whole = AtomicFile(target)
        try:
            whole.write(data)
            whole.commit()
        finally:
            whole.abort()


@contextlib.contextmanager
def _device(path: str) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        if os.isatty(descriptor):
            raise StorageError("binary data is not written onto a terminal; use -o FILE or a pipe")
        yield cast(BinaryIO, Sink(descriptor, path))
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _identity(path: str, standard: int) -> tuple[int, int] | None:
    """(device, inode) of a regular file, or None for anything else."""
    try:
        status = os.fstat(standard) if path == STANDARD else Path(path).stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def check_not_same(source: str, target: str) -> None:
    """Raise StorageError where the target is the file that is read, also by another name or through `-`."""
    source_id = _identity(source, 0)
    if source_id is not None and source_id == _identity(target, 1):
        raise StorageError("the output is the same file as the input; write it under another name")


class _Stream(io.FileIO):
    """A stream whose read errors are ours and name it. Closing it leaves the original descriptor open.

    It never waits for long in one system call: a signal that comes just before a blocking `read` would be
    noticed only with the next data, and a stalled pipe could not be interrupted.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        # A descriptor of its own, above 2: a child process that is given it has other plans for its 0.
        super().__init__(os.dup(descriptor), "rb")
        self._shown = name

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer only at the end; all of it for -1. Raises SourceError."""
        wanted = sys.maxsize if size is None or size < 0 else size
        pieces: list[bytes] = []
        try:
            while wanted:
                while os.name == "posix" and not select.select((self,), (), (), _TICK)[0]:
                    pass
                piece = super().read(min(wanted, _COPY))
                if not piece:
                    if piece is None:  # somebody made it non-blocking and was faster
                        continue
                    break
                pieces.append(piece)
                wanted -= len(piece)
        except OSError as error:
            raise SourceError(f"cannot read {self._shown}: {error.strerror}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def sequential(path: str) -> contextlib.AbstractContextManager[BinaryIO] | None:
    """A stream to be read once, in order, for `-`, a FIFO or a device; None for anything with a name.

    Raises SourceError where it cannot be opened, and for a terminal.
    """
    if path == STANDARD:
        if sys.stdin is None:
            raise SourceError("standard input is closed")
        if sys.stdin.isatty():
            raise SourceError("standard input is a terminal; pipe a file into it")
        return _Stream(sys.stdin.fileno(), "standard input")
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None  # opening it by name says what is wrong
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return _opened(path)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123 - errors of opening are told from errors of use
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot open {path}: {_reason(error)}") from error
    with file, _Stream(file.fileno(), path) as stream:
        yield stream


def in_order(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Whatever it is, to be read once, in order. Raises SourceError as `sequential` does."""
    stream = sequential(path)
    return _opened(path) if stream is None else stream


def open_file(path: str) -> FileSource:
    """A file by its name, to be read at offsets. Raises SourceError that names it."""
    try:
        return FileSource(path)
    except SourceError as error:
        raise named(error, path) from error


@contextlib.contextmanager
def spooled(path: str) -> Iterator[FileSource]:
    """A source that can be read at any offset: the file itself, or an unnamed copy of a stream on disk.

    The copy has no name, so nothing can leave it behind. Raises SourceError, StorageError (no space).
    """
    with contextlib.ExitStack() as stack:
        stream = sequential(path)
        if stream is None:
            yield stack.enter_context(contextlib.closing(open_file(path)))
            return
        opened = stack.enter_context(stream)
        descriptor = opened.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            try:
                spool = stack.enter_context(tempfile.TemporaryFile(prefix="harmony4-", buffering=0))
            except OSError as error:
                raise StorageError(f"cannot make a temporary file: {_reason(error)}") from error
            descriptor = spool.fileno()
            writer = Sink(descriptor, "a temporary file")
            while data := opened.read(_COPY):
                writer.write(data)
        yield stack.enter_context(contextlib.closing(FileSource(os.dup(descriptor))))


@contextlib.contextmanager
def open_container(path: str) -> Iterator[H4MKReader]:
    """A reader on a file, or on what standard input holds. Raises SourceError and FormatError."""
    with spooled(path) as source, H4MKReader(source) as reader:
        yield reader
