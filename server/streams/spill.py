"""Text on its way to a client that may not be reading yet: in memory, then on disk, up to a bound.

A client that sends all of its upload before it reads a word of the answer would otherwise stand against a
server that reads no more until its answer is taken: both wait for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem

__all__ = ["Spill"]

_MEMORY: Final = 2**18
"""Bytes that wait in memory."""
_PIECE: Final = 2**18


class Spill:
    """One task that puts, one that takes. For one event loop; `close` it in the end."""

    def __init__(self, path: Path, most: int, *, grace: float = 0.0) -> None:
        """Up to `most` bytes may stand in the file `path`, which is not there yet and grows no longer.

        `grace`: seconds that `put` waits for room in memory, and that it waits on as long as somebody takes,
        before it writes to the disk; so nothing is written for a client that reads while it sends.
        """
        self._path = path
        self._most = most
        self._grace = grace
        self._takes = True
        """Whether bytes were taken since `put` waited in vain."""
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._file: AsyncFileIO | None = None
        self._written = 0
        self._read = 0
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ended = False
        self.used = False
        """Whether anything was ever put."""
        self.patient = False
        """Whether `put` waits for room in memory, instead of writing to the disk."""

    @property
    def _on_disk(self) -> int:
        return self._written - self._read

    def fits(self, size: int) -> bool:
        """Whether so many bytes may still be put on the disk."""
        return self._on_disk + size <= self._most

    async def put(self, data: bytes) -> None:
        """Add bytes behind all others. Raises Problem past the bound, StorageError."""
        while self.patient and (self._held >= _MEMORY or self._on_disk):
            self._changed.clear()
            await self._changed.wait()
        while self._grace and self._takes and not self.patient and (self._held >= _MEMORY or self._on_disk):
            self._takes = False
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await self._changed.wait()
        self.used = True
        waits = self.patient or (self._grace > 0 and self._takes)  # there is room, then
        if self._on_disk or (not waits and self._held + len(data) > _MEMORY):
            await self._write(data)
        else:
            self._waiting.append(data)
            self._held += len(data)
        self._changed.set()

    async def _write(self, data: bytes) -> None:
        if not self.fits(len(data)):
            raise Problem("unread", f"the client has left {self._most} bytes of the answer unread")
        left = memoryview(data)
        async with self._lock:
            # Behind its end the file goes on at its beginning, where everything has been read.
            at = self._written
            try:
                if self._file is None:
                    self._file = await aiofiles.open(self._path, "x+b", buffering=0)
                while left:
                    place = at % self._most
                    await self._file.seek(place)
                    count = await self._file.write(left[: self._most - place])
                    left, at = left[count:], at + count
            except OSError as error:
                raise StorageError(f"the answer cannot be kept: {error.strerror}") from error
            self._written = at

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def take(self, seconds: float | None) -> bytes | None:
        """The next bytes; none at the end, None where nothing has come for so long. Raises StorageError.

        `seconds`: None waits for ever.
        """
        try:
            async with asyncio.timeout(seconds):
                while not (self._waiting or self._on_disk or self._ended):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return None
        if self._waiting:
            self._takes = True
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._held = 0
        elif self._on_disk:
            self._takes = True
            data = await self._from_disk()
        else:
            return b""
        self._changed.set()
        return data

    async def _from_disk(self) -> bytes:
        async with self._lock:
            assert self._file is not None
            try:
                place = self._read % self._most
                await self._file.seek(place)
                data = await self._file.read(min(_PIECE, self._on_disk, self._most - place))
                self._read += len(data)
                if not self._on_disk:
                    await self._file.truncate(0)
                    self._written = self._read = 0
            except OSError as error:
                raise StorageError(f"the answer cannot be read back: {error.strerror}") from error
        if not data:
            raise StorageError("the answer cannot be read back")
        return data

    async def close(self) -> None:
        """Let the file go; whose folder it is in removes it."""
        async with self._lock:
            if self._file is not None:
                await self._file.close()
