"""A file object whose bytes go from a thread to the event loop, with back-pressure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from threading import Lock
from typing import Final

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import SourceError

__all__ = ["Sink"]

_LEAST: Final = 4096
"""Bytes that are worth a change to the event loop: what stands before a block travels with it."""


class Sink:
    """Made on the event loop, written in one thread. `put` is awaited for what was written, in order."""

    def __init__(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        self._put = put
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._lock = Lock()
        self._waiting: Future[None] | None = None
        self._stopped = False

    def write(self, data: Buffer, /) -> int:
        """Take all of `data`; waits while `put` does. Raises what it raises, and SourceError after `stop`."""
        self._held += data
        if len(self._held) >= _LEAST:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Hand over what is held."""
        data = bytes(self._held)
        self._held.clear()
        if not data:
            return

        async def put() -> None:
            await self._put(data)

        with self._lock:
            if self._stopped:
                raise SourceError("nobody wants it any more")
            waiting = self._waiting = asyncio.run_coroutine_threadsafe(put(), self._loop)
        try:
            waiting.result()
        except CancelledError:
            raise SourceError("nobody wants it any more") from None

    def stop(self) -> None:
        """Nobody takes any more: let `write` raise; on the event loop."""
        with self._lock:
            self._stopped = True
            if self._waiting is not None:
                self._waiting.cancel()
