"""Buffers that are used again and again: memory that is new each time costs more than what is put into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["SIZE", "Buffers"]

SIZE: Final = 2**20
"""Bytes of one: what a thread fills at a time, and the most that waits for a client that is slow."""
_KEPT: Final = 8


class Buffers:
    """The buffers of one application. For one event loop."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """One that is nobody else's, SIZE bytes, writable. Its contents are anybody's."""
        return self._free.pop() if self._free else memoryview(bytearray(SIZE))

    def give(self, buffers: Iterable[memoryview]) -> None:
        """Give back what nobody looks at any more."""
        self._free.extend(buffers)
        del self._free[_KEPT:]
