"""The server's own folder: tokens, spools, jobs, the trash.

It is `.harmony4` in the library, hidden and readable by its owner only, unless the settings name another. All
worker processes share it, and find in it what another one, or the server before a restart, has left. It
should lie on the library's file system: containers then move in and out without a copy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from harmony4.crypto.errors import StorageError
from harmony4.h4mk.edits.target import sync_folder

if os.name == "posix":
    import fcntl

__all__ = [
    "FOLDER",
    "Spool",
    "State",
    "held",
    "hold",
    "open_private",
    "sweep_spools",
    "sweep_streams",
    "write_whole",
]

FOLDER: Final = ".harmony4"
"""Names that begin with a dot are no containers."""
_LIVE: Final = "live"


class State:
    """The folder, made when something is first kept in it.

    Its methods touch the disk: call them in threads.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path

    @classmethod
    def of(cls, path: Path | None, library: Path) -> Self:
        """The one that the settings name, or else that of the library.

        Its real path: what lies in the library is told from what lies here by their paths.
        """
        return cls(library / FOLDER if path is None else Path(os.path.realpath(path)))

    def folder(self, name: str) -> Path:
        """The folder `name` in it, made if it is missing. Raises StorageError."""
        path = self.path / name
        try:
            for one in (self.path, path):
                if not one.is_dir():
                    one.mkdir(mode=0o700, exist_ok=True)
                    _leave_to_owner(one, one.parent)
        except OSError as error:
            raise StorageError(f"cannot make the server's folder {path}: {error.strerror}") from error
        return path

    def is_writable(self) -> bool:
        """Whether something can be kept in it, as far as permissions say, or it can be made."""
        there = next(one for one in (self.path, *self.path.parents) if one.exists())
        return os.access(there, os.W_OK | os.X_OK)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock `name`: nobody else, in this process or another, is in such a block.

        Raises StorageError.
        """
        path = self.folder("locks") / name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            _leave_to_owner(descriptor, path.parent)
        except OSError as error:
            raise StorageError(f"cannot lock {path}: {error.strerror}") from error
        try:
            # A lock on an open file, not of a process: threads exclude each other as well.
            if os.name == "posix":
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


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
    part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _leave_to_owner(file.fileno(), path.parent)
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def open_private(path: Path) -> BinaryIO:
    """Open a file to read and write, made if it is missing, which only its owner may read. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        _leave_to_owner(descriptor, path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "r+b")


def _leave_to_owner(made: int | Path, folder: Path) -> None:
    """Give what root has made to whom the folder belongs: the server runs as that user, and must read it.

    Raises OSError.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = folder.stat()
        os.chown(made, owner.st_uid, owner.st_gid)


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
