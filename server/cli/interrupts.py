"""Ctrl-C and its like, put off while what was done is told.

By handlers, not by the mask of a thread: Python heeds a signal in the main thread, whichever it came to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["defer", "deferred", "deliver"]

_HANDLERS: Final[dict[signal.Signals, Callable[[int, FrameType | None], object]]] = {}
"""What signals do that are put off."""
_COME: Final[list[int]] = []
"""Those that have come meanwhile."""
_depth = 0


@contextmanager
def deferred() -> Iterator[None]:
    """Interrupts wait for the end of the outermost such block, but where `deliver` lets them in.

    Other threads than the main one have none, and nothing changes there.
    """
    global _depth
    if not _is_main():
        yield
        return
    outermost = not _depth
    _depth += 1
    try:
        defer()
        yield
    finally:
        _depth -= 1
        if outermost:
            deliver()


def defer() -> None:
    """Put interrupts off from now on, within `deferred`."""
    if not _is_main():
        return
    for each in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        if each is not None and each not in _HANDLERS and callable(handler := signal.getsignal(each)):
            _HANDLERS[each] = handler
            signal.signal(each, _remember)


def deliver() -> None:
    """Let in the first that has come, if there is one, and those that come now."""
    if not _is_main():
        return
    while _HANDLERS:
        each, handler = next(iter(_HANDLERS.items()))
        signal.signal(each, handler)
        del _HANDLERS[each]
    for number in _COME[:1]:
        _COME.clear()
        signal.raise_signal(number)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _remember(number: int, _frame: FrameType | None) -> None:
    _COME.append(number)
