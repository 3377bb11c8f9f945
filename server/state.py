"""The server's own folder: tokens, spools, jobs, the trash.

It is `.harmony4` in the library, hidden and readable by its owner only, unless the settings name another. All
worker processes share it, and find in it what another one, or the server before a restart, has left. It
should lie on the library's file system: containers then move in and out without a copy.

Root's commands write into folders of others, who can put anything there meanwhile. So locks and the audit log
are opened from folder to folder, no link is followed, what is there must be a file of its own, and only what
was made just now is given to the folder's owner.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from harmony4.crypto.errors import StorageError
from harmony4.server.openfolder import OpenFolder, others_may_write

if os.name == "posix":
    import fcntl

__all__ = [
    "FOLDER",
    "HeldError",
    "Spool",
    "State",
    "held",
    "hold",
    "sweep_spools",
    "sweep_streams",
    "write_whole",
]

FOLDER: Final = ".harmony4"
"""Names that begin with a dot are no containers."""
_LIVE: Final = "live"
_TICK: Final = 0.02
"""Seconds between two tries for a lock that is not waited for without end."""


class HeldError(StorageError):
    """Somebody else has had a lock for longer than there is patience."""


class State:
    """The folder, made when something is first kept in it.

    Its methods touch the disk: call them in threads.
    """

    def __init__(self, path: Path, *, patience: float | None = None, owner: int | None = None) -> None:
        """`patience`: seconds that a lock is waited for; None: as long as it takes. `owner`: whose folder it
        must be, and nobody else's to write; None: whoever's.
        """
        self.path: Final = path
        self.patience: Final = patience
        self._owner = owner

    @classmethod
    def of(cls, path: Path | None, library: Path, *, patience: float | None = None) -> Self:
        """The one that the settings name, or else that of the library.

        Its real path: what lies in the library is told from what lies here by their paths.
        """
        return cls(library / FOLDER if path is None else Path(os.path.realpath(path)), patience=patience)

    @classmethod
    def found(cls, library: Path, *, patience: float | None = None) -> Self | None:
        """The hidden folder of a library that no settings name; None where there is none.

        Raises StorageError where it may be a trap: it is a link, others may write it, or it belongs neither
        to who asks nor, where that is root, to whom the library belongs.
        """
        path = library / FOLDER
        try:
            status = path.lstat()
            owners = {status.st_uid} if os.name != "posix" else {os.geteuid()}
            if 0 in owners:
                owners.add(library.stat().st_uid)
        except OSError:
            return None
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            return None
        if stat.S_ISLNK(status.st_mode) or status.st_uid not in owners or others_may_write(status):
            raise StorageError("it is somebody else's", where=str(path))
        return cls(path, patience=patience, owner=status.st_uid)

    def folder(self, name: str) -> Path:
        """The folder `name` in it, made if it is missing. Raises StorageError."""
        path = self.path / name
        try:
            if not path.is_dir():
                with self._inside(name):
                    pass
        except OSError as error:
            raise StorageError(f"cannot make the server's folder {path}: {error.strerror}") from error
        return path

    @contextmanager
    def _inside(self, name: str | None = None) -> Iterator[OpenFolder]:
        """It, or the folder `name` in it, open; made if it is missing. Raises OSError."""
        with ExitStack() as stack:
            try:
                inside = stack.enter_context(OpenFolder(self.path))
            except FileNotFoundError:
                if self._owner is not None:
                    raise
                with OpenFolder(self.path.parent, follow=True) as above:
                    inside = stack.enter_context(above.folder(self.path.name))
            if self._owner is not None:
                inside.check(self._owner)
            yield inside if name is None else stack.enter_context(inside.folder(name))

    def is_writable(self) -> bool:
        """Whether something can be kept in it, as far as permissions say, or it can be made."""
        # `Path.exists` raises for what lies where one may not look.
        there = next(one for one in (self.path, *self.path.parents) if os.path.exists(one))  # noqa: PTH110
        return os.access(there, os.W_OK | os.X_OK)

    @contextmanager
    def locked(self, name: str, patience: float | None = None) -> Iterator[None]:
        """Hold the lock `name`: nobody else, in this process or another, is in such a block.

        `patience`: seconds, if not as for all. Raises StorageError; HeldError where somebody else has it for
        longer.
        """
        patience = self.patience if patience is None else patience
        try:
            with self._inside("locks") as folder:
                descriptor = folder.own(name)
        except OSError as error:
            raise StorageError(f"cannot lock {self.path / 'locks' / name}: {error.strerror}") from error
        try:
            # A lock on an open file, not of a process: threads exclude each other as well.
            if os.name == "posix" and not _lock(descriptor, fcntl.LOCK_EX, patience):
                raise HeldError(
                    f"cannot lock {self.path / 'locks' / name}: somebody else has held it for {patience:g} s"
                )
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def settled(self, name: str, patience: float) -> Iterator[None]:
        """Nobody holds the lock `name` in this block, if that can be had within `patience` seconds.

        Writes nothing: for folders that can only be read.
        """
        descriptor = -1
        if os.name == "posix":
            with (
                suppress(OSError),
                OpenFolder(self.path) as inside,
                OpenFolder(Path("locks"), inside) as folder,
            ):
                descriptor = folder.open(name, os.O_RDONLY)
                with suppress(OSError):
                    _lock(descriptor, fcntl.LOCK_SH, patience)
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def private(self, name: str, folder: str | None = None) -> BinaryIO:
        """A file in it, or in a folder of it, to read and write; made if it is missing, for its owner only.

        Raises OSError, also for what is no file of its own.
        """
        with self._inside(folder) as inside:
            return os.fdopen(inside.own(name), "r+b")

    def keep(self, folder: str, name: str, data: bytes) -> None:
        """Write a new file in a folder of it, whole and on the disk, or not at all. Raises OSError."""
        with self._inside(folder) as inside:
            inside.write(name, data, sync=True, new=True)

    def kept(self, folder: str, name: str, most: int) -> bytes:
        """The first `most` bytes of a file in a folder of it. Raises OSError."""
        with self._inside(folder) as inside, os.fdopen(inside.open(name, os.O_RDONLY), "rb") as file:
            return file.read(most)

    def rename(self, folder: str, name: str, wanted: str) -> None:
        """Give a file in a folder of it another name, in place of what has that name. Raises OSError."""
        with self._inside(folder) as inside:
            inside.rename(name, wanted)

    def drop(self, folder: str, name: str) -> None:
        """Remove a file in a folder of it for good. Raises OSError."""
        with self._inside(folder) as inside:
            inside.drop(name)


def _lock(descriptor: int, kind: int, patience: float | None) -> bool:
    """Lock an open file (flock); False where somebody else has it for `patience` seconds. Raises OSError."""
    if patience is None:
        fcntl.flock(descriptor, kind)
        return True
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_TICK)
        else:
            return True


class Spool:
    """A folder for what is being made, gone when it is closed; a context manager. For threads."""

    def __init__(self, state: State) -> None:
        """Raises StorageError."""
        # Nobody sweeps between making it and holding it.
        with state.locked("spool"):
            self.path: Final = state.folder("spool") / secrets.token_hex(16)
            try:
                self.path.mkdir(mode=0o700)
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
                self._live = os.open(self.path / _LIVE, flags, 0o600)
            except OSError as error:
                raise StorageError(f"nothing can be spooled: {error.strerror}") from error
            hold(self._live)

    def close(self) -> None:
        """Remove it. Safe to call twice."""
        if self._live >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._live)
            self._live = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep_spools(state: State) -> None:
    """Remove the spools of processes that died. Raises StorageError."""
    with state.locked("spool"):
        for path in state.folder("spool").iterdir():
            if not held(path / _LIVE):
                shutil.rmtree(path, ignore_errors=True)


def sweep_streams(state: State, ttl: float) -> None:
    """Remove the tokens that are kept of uploads (`streams/kept.py`) and ended `ttl` seconds ago."""
    folder, now = state.path / "streams", time.time()
    with suppress(OSError):
        for path in list(folder.iterdir()):
            with suppress(OSError):
                if path.stat().st_mtime < now - ttl and not held(path):
                    path.unlink()


def write_whole(path: Path, data: bytes, *, sync: bool) -> None:
    """Replace the file at `path` by one that only its owner may read: whole, or not at all.

    Who is killed meanwhile leaves `NAME.….part` beside it. `sync`: it is on the disk when this returns, and
    survives the machine's crash as well. Raises OSError.
    """
    with OpenFolder(path.parent, follow=True) as folder:
        folder.write(path.name, data, sync=sync)


def hold(descriptor: int, *, wait: bool = False) -> bool:
    """Mark an open file as in use until it is closed, however this process ends.

    False if somebody else has it; `wait`: until they have not, for files that others only look at.
    """
    if os.name != "posix":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def held(path: Path) -> bool:
    """Whether somebody holds the file at `path`; False where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # nobody is taken for dead because there are no descriptors left
    try:
        if os.name == "posix":
            # Shared: who looks must not be what another one sees.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
