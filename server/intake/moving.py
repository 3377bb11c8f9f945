"""Files, and links, under other names: in one step where one file system holds both, else by way of a copy.

What is called under a lock never copies: it raises `ApartError`, and whoever holds the lock lets go of it,
makes the copy (`Copies.make`), and tries again.

    STATE/parts/ID  where the copy `.ID.part` is being made; held (`state.hold`) by who makes it
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from harmony4.h4mk.edits.target import sync_folder
from harmony4.server.folder.library import Identity
from harmony4.server.state import State, held, hold

__all__ = [
    "ApartError",
    "Copies",
    "drop",
    "is_part",
    "keep",
    "move",
    "place",
    "sweep_parts",
    "sync_after",
    "take_place",
]

_LOG: Final = logging.getLogger("harmony4.server")
_PARTS: Final = "parts"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class ApartError(Exception):
    """A file cannot be in `folder` without a copy of it."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path, folder)
        self.path = path
        self.folder = folder


@dataclass(frozen=True, slots=True)
class _Copy:
    path: Path
    source: Identity
    note: Path
    live: int


class Copies:
    """Copies that one change needs; a context manager, which removes those that got no name.

    For one thread.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._made: dict[tuple[Path, Path], _Copy] = {}

    def near(self, path: Path, folder: Path) -> Path:
        """The file at `path`, or the copy of it that lies in `folder`: what has one step to go.

        Raises ApartError where there is none yet, or the file is another one by now; OSError.
        """
        status = path.lstat()
        copy = self._made.get((path, folder))
        if copy is not None:
            if copy.source.fits(status) and copy.path.exists():
                return copy.path
        elif stat.S_ISLNK(status.st_mode) or status.st_dev == folder.stat().st_dev:
            return path
        raise ApartError(path, folder)

    def make(self, path: Path, folder: Path) -> None:
        """Copy a file into `folder`, under a hidden name, onto the disk. Raises OSError, StorageError."""
        self._forget((path, folder))
        source = Identity.of(path.lstat())
        number = secrets.token_hex(8)
        copy = _Copy(folder / f".{number}.part", source, *_note(self._state, number, folder))
        self._made[path, folder] = copy
        shutil.copy2(path, copy.path)
        with copy.path.open("rb") as file:
            os.fsync(file.fileno())

    def _forget(self, key: tuple[Path, Path]) -> None:
        copy = self._made.pop(key, None)
        if copy is not None:
            # What cannot be removed now is swept later.
            with suppress(OSError):
                copy.path.unlink(missing_ok=True)
                copy.note.unlink(missing_ok=True)
            os.close(copy.live)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._made):
            self._forget(key)


def _note(state: State, number: str, folder: Path) -> tuple[Path, int]:
    """Say where a copy is going to be, before it is there. Returns the note and its descriptor."""
    note = state.folder(_PARTS) / number
    # Nobody sweeps between making it and holding it.
    with state.locked(_PARTS):
        live = os.open(note, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        hold(live)
    try:
        text = os.fsencode(folder)
        if os.write(live, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(live)
        sync_folder(note.parent)
    except BaseException:
        with suppress(OSError):
            note.unlink()
        os.close(live)
        raise
    return note, live


def sweep_parts(state: State) -> None:
    """Remove the copies of processes that died. Raises StorageError."""
    folder = state.path / _PARTS
    if not folder.is_dir():
        return
    with state.locked(_PARTS), suppress(OSError):
        for note in list(folder.iterdir()):
            if held(note):
                continue
            with suppress(OSError, ValueError):
                where = Path(os.fsdecode(note.read_bytes()))
                if where.is_absolute():
                    (where / f".{note.name}.part").unlink(missing_ok=True)
                note.unlink(missing_ok=True)


def is_part(state: State, path: Path) -> bool:
    """Whether `path` is a copy that is being made, or that `sweep_parts` will remove."""
    number = path.name.removeprefix(".").removesuffix(".part")
    return path.name == f".{number}.part" and (state.path / _PARTS / number).exists()


# -- steps; each is done, or has changed nothing


def place(path: Path, to: Path, copies: Copies) -> None:
    """Give a file, or link, a name that nobody has. The old one may stay: the caller drops it.

    Raises ApartError, FileExistsError, OSError.
    """
    _make_folders(to.parent)
    if path.is_symlink():
        _link_again(path, to)
    else:
        ready = copies.near(path, to.parent)
        with _apart(path, to.parent, ready):
            try:
                os.link(ready, to)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Without links the look and the move are two steps; the lock keeps others of ours away.
                if os.path.lexists(to):
                    raise FileExistsError(errno.EEXIST, "File exists") from error
                ready.rename(to)
    sync_after(to.parent)


def take_place(made: Path, path: Path, copies: Copies) -> None:
    """Give a file the name that another one has. The old one may stay. Raises ApartError, OSError."""
    ready = copies.near(made, path.parent)
    with _apart(made, path.parent, ready):
        ready.replace(path)
    sync_after(path.parent)


def keep(path: Path, kept: Path, copies: Copies) -> None:
    """Give a file, or link, a second name, which nobody has. Raises ApartError, OSError."""
    if path.is_symlink():
        _link_again(path, kept)
        return
    ready = copies.near(path, kept.parent)
    if ready is not path:
        ready.rename(kept)
        return
    try:
        os.link(path, kept)
    except OSError as error:
        if error.errno != errno.EXDEV and error.errno not in _NO_LINKS:
            raise
        raise ApartError(path, kept.parent) from error


def move(path: Path, kept: Path, copies: Copies) -> None:
    """Move a file, or link, to a name that nobody has. Raises ApartError, OSError."""
    if path.is_symlink():
        _link_again(path, kept)
    else:
        ready = copies.near(path, kept.parent)
        with _apart(path, kept.parent, ready):
            ready.rename(kept)
        if ready is path:
            return
    try:
        path.unlink()
    except BaseException:
        kept.unlink(missing_ok=True)
        raise


def drop(path: Path) -> None:
    """Remove a name that is no longer needed; what fails is logged, as the change has happened."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("%s is left behind: %s", path, error.strerror)


def sync_after(folder: Path) -> None:
    """`sync_folder` after a change that nothing takes back; what fails is logged."""
    try:
        sync_folder(folder)
    except OSError as error:
        _LOG.warning("a change in %s may not be on the disk yet: %s", folder, error.strerror)


@contextmanager
def _apart(path: Path, folder: Path, ready: Path) -> Iterator[None]:
    """A copy is needed as well where two mounts show one device."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EXDEV and ready is path:
            raise ApartError(path, folder) from error
        raise


def _link_again(path: Path, to: Path) -> None:
    """The same link under a name that nobody has. Raises FileExistsError, OSError."""
    target = path.readlink()
    if not target.is_absolute():
        # From its new folder it has to lead where it led.
        here, there = os.path.realpath(path.parent), os.path.realpath(to.parent)
        target = Path(os.path.relpath(Path(here) / target, there))
    to.symlink_to(target)


def _make_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing. Raises OSError."""
    made = []
    while not folder.exists():
        made.append(folder)
        folder = folder.parent
    for one in reversed(made):
        one.mkdir(exist_ok=True)
        # A file that is on the disk is lost all the same if the name of its folder is not.
        sync_after(one.parent)
