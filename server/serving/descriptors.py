"""File descriptors: how many this process may have, and who gets them.

Connections and open containers share one limit. Containers get half of what there is, so that a library of
any size leaves room for clients; a cache that is larger than that is cut down to it. Pure but for
`raise_limit` and `limit`.
"""

from __future__ import annotations

import errno
from typing import Final

try:
    import resource
except ImportError:  # pragma: no cover - Windows
    resource = None  # type: ignore[assignment]

__all__ = ["connections_that_fit", "is_exhausted", "limit", "raise_limit", "readers_that_fit"]

PER_READER: Final = 2
"""The file, and the copy of its descriptor that Python keeps with a mapping."""

_RESERVE: Final = 64
"""For the loop, pipes, logs, the metadata cache, and folders and containers that are being looked at."""
_UNLIMITED: Final = 2**20
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one where that works; returns what holds now."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS calls it unlimited and takes less: what there is will do
    return limit()


def limit() -> int:
    """How many descriptors this process may have open."""
    if resource is None:
        return _UNLIMITED
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, _UNLIMITED)


def readers_that_fit(descriptors: int) -> int:
    """How many containers may be kept open with so many descriptors; at least one."""
    return max(1, (descriptors - _RESERVE) // 2 // PER_READER)


def connections_that_fit(descriptors: int, readers: int) -> int:
    """How many connections may be open beside so many containers; at least eight."""
    return max(8, descriptors - _RESERVE - readers * PER_READER)


def is_exhausted(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from, says that descriptors have run out."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            return True
        error = error.__cause__
    return False
