"""Turns for streams that have always something to send: new clients come in between.

Each stream that computes on the event loop keeps it for some tenths of a millisecond. If all of a thousand
did so between two looks at the sockets, whoever comes then would wait for half a second, again and again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Turns"]

_AT_ONCE: Final = 4
"""Turns between two looks at the sockets."""


class Turns:
    """Who waits for a turn, in order. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.sharing = 0
        """How many streams share the loop now, so that none keeps the others waiting."""

    @contextmanager
    def share(self) -> Iterator[None]:
        """Be one of those that share the loop."""
        self.sharing += 1
        try:
            yield
        finally:
            self.sharing -= 1

    async def wait(self) -> None:
        """Return when it is one's turn."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._give)
        self._waiting.append(mine)
        await mine

    def _give(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            one = self._waiting.popleft()
            if not one.done():  # it has been cancelled
                one.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._give)
