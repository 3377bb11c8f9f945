"""Where an export reads from and writes to: files, streams, copies on disk, and what keeps them apart."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Final, cast

from harmony4.crypto.errors import SourceChangedError, SourceError, StorageError, UsageError
from harmony4.tokenize.feed import discard

__all__ = [
    "OpenedSource",
    "described",
    "make_spool",
    "on_disk",
    "open_source",
    "opened_target",
    "put_piece",
    "refuse_same",
]

_PIECE: Final = 2**20


@dataclass(slots=True)
class OpenedSource:
    """An opened source and what it was when it was opened."""

    file: BinaryIO | Iterator[bytes]
    size: int | None = None
    """None where it is not a regular file that is read from its start."""
    before: os.stat_result | None = field(default=None)
    arguments: dict[str, str | int | bool] = field(default_factory=dict)
    """What META.history says of it besides the options."""

    def broken(self) -> str | None:
        """Why less came than the medium holds, when all of it has come; None if all is there."""
        return None

    def check(self, consumed: int) -> None:
        """Raise SourceChangedError unless the source is still what it was."""
        if self.before is None:
            return
        now = os.fstat(cast(BinaryIO, self.file).fileno())
        same = (now.st_size, now.st_mtime_ns) == (self.before.st_size, self.before.st_mtime_ns)
        if not same or consumed != self.size:
            raise SourceChangedError(
                "the source changed while it was read", expected=self.size, found=now.st_size
            )


@contextlib.contextmanager
def open_source(source: str | PathLike[str] | BinaryIO) -> Iterator[OpenedSource]:
    """Open a source as `export` takes it. Raises SourceError."""
    if not isinstance(source, str | PathLike):
        yield described(source)
        return
    try:
        if Path(source).is_dir():
            raise SourceError("cannot open the source: it is a folder")
        file = open(source, "rb", buffering=0)  # noqa: SIM115, PTH123 - only errors of opening are caught
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"cannot open the source: {reason}") from error
    with file:
        yield described(cast(BinaryIO, file))


def described(file: BinaryIO) -> OpenedSource:
    """A file and what it is now, if it is a regular one that stands at its start."""
    opened = OpenedSource(file)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode) and file.tell() == 0:
            opened.size, opened.before = facts.st_size, facts
    return opened


@contextlib.contextmanager
def on_disk(source: OpenedSource, folder: str | PathLike[str] | None = None) -> Iterator[OpenedSource]:
    """The source itself if it is a file, else a copy on disk as long as the block lasts.

    Raises SourceError, StorageError.
    """
    if source.before is not None:
        yield source
        return
    spool = make_spool(folder)
    try:
        reader = cast(BinaryIO, source.file)
        while data := _read(reader):
            put_piece(spool, data)
        put_piece(spool, b"")
        yield described(spool)
    finally:
        discard(spool)


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(_PIECE)
    except OSError as error:
        raise SourceError(f"reading the source failed: {error.strerror or error}") from error


def put_piece(spool: BinaryIO, data: bytes) -> None:
    """Write a piece; the last one is empty, and the file stands at its start then."""
    try:
        spool.write(data)
        if not data:
            spool.flush()
            spool.seek(0)
    except OSError as error:
        raise StorageError(f"the medium cannot be put on disk: {error.strerror or error}") from error


def refuse_same(source: BinaryIO, out: str | PathLike[str] | BinaryIO) -> None:
    """Raise UsageError where both are one regular file."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        ours = os.fstat(source.fileno())
        theirs = os.stat(out) if isinstance(out, str | PathLike) else os.fstat(out.fileno())  # noqa: PTH116
        if stat.S_ISREG(ours.st_mode) and os.path.samestat(ours, theirs):
            raise UsageError("the output is the same file as the input")


@contextlib.contextmanager
def opened_target(out: str | PathLike[str] | BinaryIO) -> Iterator[Path | BinaryIO]:
    if not isinstance(out, str | PathLike):
        yield out
        return
    path = Path(out)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there; anything worse shows when it is written
        mode = stat.S_IFREG
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        yield path
        return
    try:
        device = open(path, "wb", buffering=0)  # noqa: SIM115, PTH123 - only errors of opening are caught
    except OSError as error:
        raise StorageError(f"cannot write the container: {error.strerror}") from error
    with device:
        yield cast(BinaryIO, device)


def make_spool(folder: str | PathLike[str] | None) -> BinaryIO:
    """A temporary file: without a name, or in somebody's folder with one, so that it is seen and counted
    there. Raises StorageError.
    """
    make = tempfile.TemporaryFile if folder is None else tempfile.NamedTemporaryFile
    try:
        return cast(BinaryIO, make(prefix="harmony4-", dir=folder))
    except OSError as error:
        raise StorageError(f"no temporary file can be made: {error.strerror}") from error
