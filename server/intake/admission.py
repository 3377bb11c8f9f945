"""Who may send how much at once: places for uploads, and room on the disk.

A place is a file that is held (`state.hold`) as long as the upload lasts, so all workers share one count,
and the places of a worker that dies are free again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem
from harmony4.server.listing import scan
from harmony4.server.state import State, hold

__all__ = ["Room", "place"]

_SOON: Final = {"Retry-After": "5"}
_LATER: Final = {"Retry-After": "600"}
_NAME: Final = 256
"""Bytes of a client's name that are kept."""


@contextmanager
def place(state: State, client: str, *, most: int, each: int) -> Iterator[None]:
    """One of `most` places for uploads, of which a client gets up to `each`; in threads.

    Raises Problem: 503 where there is none left, 429 where the client has its share. Raises StorageError.
    """
    descriptor = _take(state, client, most, each)
    try:
        yield
    finally:
        os.close(descriptor)


def _take(state: State, client: str, most: int, each: int) -> int:
    folder, name = state.folder("places"), client.encode()[:_NAME]
    with state.locked("places"), ExitStack() as looked_at:
        free, theirs = -1, 0
        try:
            for number in range(most):
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
                descriptor = os.open(folder / str(number), flags, 0o600)
                looked_at.callback(os.close, descriptor)
                if not hold(descriptor):
                    theirs += os.pread(descriptor, _NAME, 0) == name
                elif free < 0:
                    free = descriptor
            if free >= 0 and theirs < each:
                os.ftruncate(free, 0)
                os.pwrite(free, name, 0)
                return os.dup(free)  # the same open file, so it stays held
        except OSError as error:
            raise StorageError(f"no place can be taken: {error.strerror}") from error
    if theirs >= each:
        raise Problem("too-many", f"a client may send {each} at once", headers=_SOON)
    raise Problem("busy", f"the server takes {most} uploads at once", headers=_SOON)


class Room:
    """How much may still be written. Its methods touch the disk: call them in threads."""

    def __init__(self, root: Path, state: State, *, quota: int, least: int) -> None:
        """The library and the server's folder may hold `quota` bytes, 0 for no such limit; `least` bytes stay
        free on the disk.
        """
        self._root = root
        self._state = state
        self._quota = quota
        self._least = least

    def check(self, more: int = 0) -> None:
        """Raise Problem (507) unless there is room for `more` bytes."""
        try:
            free = min(shutil.disk_usage(each).free for each in self._places())
        except OSError as error:
            raise StorageError(f"the disk says nothing of its room: {error.strerror}") from error
        if free - more < self._least:
            raise Problem("full", "the disk is full", headers=_LATER)
        if self._quota and self.used() + more > self._quota:
            raise Problem("full", "the library has all that it may have", headers=_LATER)

    def used(self) -> int:
        """Bytes of all containers, and of the server's own folder: uploads, and what was deleted."""
        total = sum(one.identity.size for one in scan(self._root, self._state.path))
        for folder, _, names in os.walk(self._state.path):
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - many files
        return total

    def _places(self) -> list[Path]:
        return [self._root, self._state.path] if self._state.path.exists() else [self._root]
