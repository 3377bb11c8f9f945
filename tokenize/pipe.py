"""Bytes from the event loop to a thread that reads them like a file, with back-pressure.

The loop's side is `put`, `end` and `fail`; the thread's side is `read`, which every tokenizer takes for a
source.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

__all__ = ["Pipe"]

MEMORY = 2**18
"""Bytes that may wait before `put` waits."""


class Pipe:
    """One writer on the event loop it is made on, one reader in a thread."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._changed = threading.Condition()
        self._chunks: deque[bytes | memoryview] = deque()
        self._waiting = 0
        self._ended = False
        self._closed = False
        self.failure: Exception | None = None
        """What `fail` was told."""

    async def put(self, data: bytes) -> bool:
        """Hand over bytes; returns when there is room for more. False: nobody reads any more."""
        with self._changed:
            if self._closed:
                return False
            self._chunks.append(data)
            self._waiting += len(data)
            self._changed.notify()
        while self._waiting >= self._memory and not self._closed:
            self._room.clear()
            if self._waiting >= self._memory and not self._closed:  # not made room just now
                await self._room.wait()
        return not self._closed

    def end(self) -> None:
        """No more bytes come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def fail(self, error: Exception) -> None:
        """No more bytes come, and those that came are not all: reading raises `error` from now on."""
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify()

    def read(self, n: int, /) -> bytes:
        """The next `n` bytes, fewer only at the end or after `close`; in a thread. Raises what `fail` was
        told.
        """
        parts: list[bytes | memoryview] = []
        missing = n
        while missing and (chunk := self._take(missing)) is not None:
            parts.append(chunk)
            missing -= len(chunk)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def read1(self, n: int, /) -> bytes:
        """Up to `n` bytes as soon as there are any; none at the end or after `close`. Else as `read`."""
        return bytes(self._take(n) or b"")

    def _take(self, most: int) -> bytes | memoryview | None:
        """What has waited longest, up to `most` bytes of it; None at the end. Raises what `fail` was told."""
        with self._changed:
            while not (self._chunks or self._ended or self._closed or self.failure):
                self._changed.wait()
            if self.failure is not None:
                raise self.failure
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            if len(chunk) > most:
                view = memoryview(chunk)  # not copied again for each small read
                self._chunks.appendleft(view[most:])
                chunk = view[:most]
            self._waiting -= len(chunk)
        if not self._room.is_set() and self._waiting < self._memory:
            self._wake()
        return chunk

    def close(self) -> None:
        """The reader leaves: what comes from now on is dropped, and whoever still reads finds the end; from
        any thread.
        """
        with self._changed:
            self._closed = True
            self._chunks.clear()
            self._waiting = 0
            self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.set)
        except RuntimeError:  # the loop is closed: nobody waits
            pass
