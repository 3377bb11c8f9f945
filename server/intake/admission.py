"""Who may send how much at once: places for uploads, and room on the disk.

A place is a file that is held (`state.hold`) as long as the upload lasts, so all workers share one count,
and the places of a worker that dies are free again.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem
from harmony4.server.folder.listing import scan
from harmony4.server.state import State, hold

__all__ = ["LOOK", "Room", "place"]

LOOK: Final = 16 * 2**20
"""Bytes that may arrive, or be written, between two looks at the room."""

_NAME: Final = 256
"""Bytes of a client's name that are kept."""


@contextmanager
def place(state: State, client: str, *, most: int, each: int, kind: str = "places") -> Iterator[None]:
    """One of `most` places for uploads, of which a client gets up to `each`; in threads.

    Raises Problem: 503 where there is none left, 429 where the client has its share. Raises StorageError.
    """
    descriptor = _take(state, client, most, each, kind)
    try:
        yield
    finally:
        os.close(descriptor)


def _take(state: State, client: str, most: int, each: int, kind: str) -> int:
    folder, name = state.folder(kind), client.encode()[:_NAME]
    with state.locked(kind), ExitStack() as looked_at:
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
        raise Problem("too-many", f"a client may send {each} at once")
    raise Problem("busy", f"the server takes {most} uploads at once")


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
        self._lock = threading.Lock()
        self._used = 0
        self._stale = float("-inf")

    def check(self, more: int = 0, *, roughly: bool = False) -> None:
        """Raise Problem (507) unless there is room for `more` bytes.

        `roughly`: by what the library held a moment ago, for who looks often.
        """
        try:
            free = min(shutil.disk_usage(each).free for each in self._places())
        except OSError as error:
            raise StorageError(f"the disk says nothing of its room: {error.strerror}") from error
        # Who looks often writes until the next look; by then it would be too late.
        if free - more - (2 * LOOK if roughly else 0) < self._least:
            raise Problem("full", "the disk is full")
        if self._quota and (self._recently_used() if roughly else self.used()) + more > self._quota:
            raise Problem("full", "the library has all that it may have")

    def _recently_used(self) -> int:
        """`used`, as of a moment ago, so that looking takes a tenth of the time at most: at ten thousand
        containers a look takes a tenth of a second, and uploads look after every 16 MiB.
        """
        with self._lock:
            began = time.monotonic()
            if began >= self._stale:
                self._used = self.used()
                ended = time.monotonic()
                self._stale = ended + 9 * (ended - began)
            return self._used

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
