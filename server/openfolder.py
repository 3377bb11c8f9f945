"""Files in a folder that others may write, opened and made so that nobody leads us somewhere else.

Root's commands write into folders of other users, who can put anything there meanwhile: links, other names
of root's files, folders in place of folders. So files are opened from folder to folder (openat(2)), no link
is followed, what is there must be a file of its own, and only what was made just now changes hands.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from harmony4.h4mk.edits.target import sync_folder

__all__ = ["OpenFolder", "others_may_write"]

_TRIES: Final = 10
"""How often a file may go while it is being opened."""


class OpenFolder:
    """An open folder: what is opened or made in it lies there, whatever somebody does to paths meanwhile."""

    def __init__(self, path: Path, above: OpenFolder | None = None, *, follow: bool = False) -> None:
        """`path`: its name, where it lies in `above`. Raises OSError, for a link as well unless `follow`."""
        self.path: Path = path if above is None else above.path / path
        self._fd: int | None = None
        if os.open in os.supports_dir_fd:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
            try:
                self._fd = os.open(path, flags, dir_fd=None if above is None else above._fd)
            except OSError as error:
                if self.path.is_symlink() and not follow:
                    raise OSError(
                        errno.ELOOP, "its folder is a link, and is not followed", str(self.path)
                    ) from error
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def _at(self, name: str) -> str | Path:
        return self.path / name if self._fd is None else name

    def check(self, owner: int) -> None:
        """Raises OSError where it is not this owner's alone."""
        if self._fd is not None:
            status = os.fstat(self._fd)
            if status.st_uid != owner or others_may_write(status):
                raise OSError(errno.EPERM, "its folder is somebody else's", str(self.path))

    def folder(self, name: str) -> OpenFolder:
        """A folder in it, made if it is missing. Raises OSError."""
        made = False
        try:
            return OpenFolder(Path(name), self)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(self._at(name), 0o700, dir_fd=self._fd)
                made = True
        found = OpenFolder(Path(name), self)
        if made and found._fd is not None:
            with os.scandir(found._fd) as inside:
                is_new = next(inside, None) is None
            # Not one that somebody has put there in the same moment, with something in it.
            if is_new:
                self._leave(found._fd)
        return found

    def open(self, name: str, flags: int) -> int:
        """A regular file in it, that has no other name. Raises OSError."""
        for flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
            flags |= getattr(os, flag, 0)
        descriptor = os.open(self._at(name), flags, 0o600, dir_fd=self._fd)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise OSError(errno.EPERM, "it is no file of its own", str(self.path / name))
        return descriptor

    def own(self, name: str) -> int:
        """A file to read and write, made if it is missing: for whom the folder belongs to. Raises OSError."""
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                return self.open(name, os.O_RDWR)
            with suppress(FileExistsError):
                return self.make(name)
        raise OSError(errno.EBUSY, "it comes and goes", str(self.path / name))

    def make(self, name: str) -> int:
        """A new file to read and write, for whom the folder belongs to. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._at(name), flags, 0o600, dir_fd=self._fd)
        try:
            self._leave(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _leave(self, made: int) -> None:
        """Give what root has made to whom this belongs: the server runs as that user, and must read it.

        Raises OSError.
        """
        if self._fd is not None and os.geteuid() == 0:
            owner = os.fstat(self._fd)
            os.fchown(made, owner.st_uid, owner.st_gid)

    def write(self, name: str, data: bytes, *, sync: bool, new: bool = False) -> None:
        """As `write_whole`. `new`: there is no such file yet, and none is left where this fails."""
        part = f"{Path(name).stem}.{secrets.token_hex(4)}.part"
        descriptor = self.make(part)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(self._at(part), self._at(name), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._at(part), dir_fd=self._fd)
            raise
        if sync:
            try:
                sync_folder(self.path)
            except BaseException:
                with suppress(OSError):
                    if new:
                        os.unlink(self._at(name), dir_fd=self._fd)
                raise

    def rename(self, name: str, wanted: str) -> None:
        """Give a file another name, in place of what has it. Raises OSError."""
        os.replace(self._at(name), self._at(wanted), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        sync_folder(self.path)

    def drop(self, name: str) -> None:
        """Remove a file for good. Raises OSError."""
        os.unlink(self._at(name), dir_fd=self._fd)
        sync_folder(self.path)


def others_may_write(status: os.stat_result) -> bool:
    """Whether others than its owner may write it."""
    return os.name == "posix" and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
