"""The C library's memory: kept from growing by habit.

glibc gives each thread an arena of its own, up to eight for each processor. Threads that take turns with
uploads leave holes in all of them: a worker went on growing, by 12 MiB within a quarter of an hour, though no
object of Python's was more than before. Giving each block back at once (M_MMAP_THRESHOLD) would save some 20
MiB more of twenty uploads, and cost a fifth of their throughput.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Final

__all__ = ["few_arenas"]

_ARENA_MAX: Final = -8
"""M_ARENA_MAX (malloc.h, mallopt(3))."""
_ARENAS: Final = 2


def few_arenas() -> None:
    """Let all threads share two arenas; does nothing where the library is not glibc.

    Python's own lock lets one thread at a time allocate, nearly always, so nobody waits. Call it before
    threads are started.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
