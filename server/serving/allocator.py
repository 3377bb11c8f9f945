"""The C library's memory: kept from growing by habit.

glibc gives each thread an arena of its own, up to eight for each processor, and lets blocks of up to 32 MiB
come out of arenas once somebody has freed one of that size. Threads that take turns with uploads then leave
holes in all of them: a worker grew by 12 MiB within a quarter of an hour, though nothing of that was in use.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Final

__all__ = ["few_arenas"]

_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""M_MMAP_THRESHOLD and M_ARENA_MAX (malloc.h, mallopt(3))."""
_ARENAS: Final = 2
_LARGE: Final = 2**20
"""Bytes of a block that is asked of the system, and given back to it as soon as it is free."""


def few_arenas() -> None:
    """Let all threads share two arenas, and large blocks stay out of them; nothing where that is not glibc.

    Python's own lock lets one thread at a time allocate, nearly always, so nobody waits. Call it before
    threads are started.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, _ARENAS)
        mallopt(_MMAP_THRESHOLD, _LARGE)
