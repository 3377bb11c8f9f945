"""SIGHUP while nobody can heed it yet: held back, which loses none and lets none end a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_a_terminal", "held_back", "let_through"]


def at_a_terminal() -> bool:
    """Whether SIGHUP says that the terminal is gone, rather than that settings are to be read anew."""
    return os.isatty(0)


@contextmanager
def held_back() -> Iterator[None]:
    """Let SIGHUP wait until `let_through`, or the end of the block; processes started here never get it.

    That is so for the calling thread and those it starts. Nothing changes on systems without POSIX signals.
    """
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Deliver the one that waits, if there is one, and those that come: its handler is installed now."""
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
