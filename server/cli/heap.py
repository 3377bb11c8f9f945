"""Memory for blocks that come and go."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

__all__ = ["keep_heap"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_BLOCKS: Final = 32 * 2**20
"""More than any block, and the most that glibc takes for the second of them (bytes)."""


def keep_heap() -> None:
    """Keep the memory of blocks for the next ones, where there is glibc (mallopt(3)).

    By itself it gives much of it back to the kernel, block after block, which clears each page again.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _BLOCKS)
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCKS)
