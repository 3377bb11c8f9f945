"""Buffers that are used again and again: memory that is new each time costs more than what is put into it.

Large ones are few, so that clients who take nothing hold little: whoever comes when all are in use, or is
slow, gets small ones.
"""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ["LARGE", "SMALL", "Buffers"]

LARGE: Final = 2**20
"""Bytes of a large one."""
SMALL: Final = 2**17
"""Bytes of a small one."""
_MOST: Final = 16
"""Large ones that are in use at a time."""
_KEPT: Final = 8
"""Large ones that wait for the next user."""


class Buffers:
    """The buffers of one application. For one event loop."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._used = 0

    @property
    def plenty(self) -> bool:
        """Whether there is a large one."""
        return self._used < _MOST

    def take(self, size: int) -> memoryview:
        """One that is nobody else's, writable, of `size` bytes or fewer. Its contents are anybody's."""
        if size <= SMALL or not self.plenty:
            return memoryview(bytearray(min(size, SMALL)))
        self._used += 1
        # Of a mapping of its own: the system gets it back when it is dropped.
        return self._free.pop() if self._free else memoryview(mmap.mmap(-1, LARGE))

    def give(self, buffer: memoryview, *, again: bool) -> None:
        """Give one back; `again`: nobody looks at it any more, so that it may be used again."""
        if len(buffer) == LARGE:
            self._used -= 1
            if again and len(self._free) < _KEPT:
                self._free.append(buffer)
