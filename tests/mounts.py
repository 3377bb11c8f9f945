"""Disks of a test's own: one that is small, one that becomes read only.

As root they are file systems that are mounted. Others cannot mount; for them the server's own limit stands
for the disk's end, and permissions for a disk that takes nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harmony4.server.state import FOLDER

__all__ = ["Folder", "folder_that_can_be_locked", "small_disk"]

_RDONLY: Final = 1
_REMOUNT: Final = 32
_DETACH: Final = 2
_PIECE: Final = bytes(2**16)
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass
class Folder:
    """A folder on a disk of its own, or that plays one."""

    path: Path
    mounted: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    """What a server has to be started with."""

    @property
    def _ballast(self) -> Path:
        # In the server's own folder, which its limit counts.
        return self.path / (".ballast" if self.mounted else f"{FOLDER}/ballast")

    def fill(self) -> None:
        """Write to it until nothing more fits."""
        with self._ballast.open("wb", buffering=0) as file:
            if not self.mounted:
                file.truncate(2**40)  # counts by its length
                return
            try:
                while True:
                    file.write(_PIECE)
            except OSError:
                return

    def empty(self) -> None:
        """Give that room back."""
        self._ballast.unlink()

    def lose(self) -> None:
        """Take the disk away below those who have it open, as `umount -l` does."""
        assert not _libc.umount2(os.fsencode(self.path), _DETACH)

    def lock(self) -> bool:
        """Let nothing be written any more; False where somebody writes at this moment."""
        return self._remount(_RDONLY)

    def unlock(self) -> None:
        """Let it be written to again."""
        assert self._remount(0)

    def _remount(self, flag: int) -> bool:
        if self.mounted:
            return not _libc.mount(None, os.fsencode(self.path), None, _REMOUNT | flag, None)
        for folder, _, _ in os.walk(self.path):
            Path(folder).chmod(0o555 if flag else 0o755)
        return True


@contextmanager
def _tmpfs(path: Path, size: int) -> Iterator[bool]:
    path.mkdir()
    mounted = not _libc.mount(b"small", os.fsencode(path), b"tmpfs", 0, f"size={size}".encode())
    try:
        yield mounted
    finally:
        if mounted:
            _libc.umount2(os.fsencode(path), _DETACH)


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Folder]:
    """A disk of `size` bytes."""
    with _tmpfs(path, size) as mounted:
        yield Folder(path, mounted, {} if mounted else {"HARMONY4_QUOTA": str(size)})


@contextmanager
def folder_that_can_be_locked(path: Path) -> Iterator[Folder]:
    """A disk that can be made read only."""
    with _tmpfs(path, 2**30) as mounted:
        yield Folder(path, mounted)
