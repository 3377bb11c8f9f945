"""Answers that begin while their request is still arriving, through a proxy that may forget one half of them.

nginx (seen with 1.22) passes no more of a request's body on when it has once had to wait for the server, if
the answer has begun by then: `ngx_http_upstream_send_request_handler` does nothing once the header is out.
Only another byte from the client would wake it up, and for that there may be no room. So behind a proxy an
answer waits until the body has come, or comes so slowly that nobody waits for the server; and from then on
what comes is taken at once, onto the disk if need be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from harmony4.server.errors import Problem
from harmony4.server.serving.forwarded import is_forwarded
from harmony4.server.streams.spill import Spill

__all__ = ["Arrival", "refuse_too_much"]

_TICK: Final = 0.1
"""Seconds between two looks at how fast it comes."""
_TICKS: Final = 10
"""Looks in a row that must have found it slow."""
_SLOW: Final = 2**20
"""Bytes in a tick at most: what sockets hold lasts for half a second of it, however busy the server is."""


class Arrival:
    """A body that is arriving, and when its answer may begin. For one event loop; `close` it in the end."""

    def __init__(self, request: web.Request, pieces: AsyncIterator[bytes], folder: Path, most: int) -> None:
        """Up to `most` bytes may wait in a file in `folder`; past that the client waits."""
        self._request = request
        self._pieces = pieces
        self._proxied = is_forwarded(request)
        self._spill = Spill(folder / "ahead", most)
        self._spill.patient = self._proxied
        """Until the answer begins."""
        self._task: asyncio.Task[None] | None = None
        self._came = 0
        self._full = False
        """Whether we are what is slow."""
        self._over = False

    async def wait(self, work: asyncio.Future[Any]) -> None:
        """Until the answer may begin, or `work` is done. Raises ConnectionResetError: the client has left."""
        if not self._proxied:
            return
        slow = before = 0
        while slow < _TICKS and not (self._over or work.done()):
            await asyncio.wait([work], timeout=_TICK)
            if self._request.transport is None:
                raise ConnectionResetError("the client has left")
            slow = 0 if self._full or self._came - before > _SLOW else slow + 1
            before = self._came
        self._spill.patient = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """What has come. Raises what the body does, and StorageError."""
        if not self._proxied:
            async for piece in self._pieces:
                yield piece
            return
        self._task = asyncio.create_task(self._take())
        while data := await self._spill.take(None):
            yield data
        await self._task

    async def _take(self) -> None:
        try:
            async for piece in self._pieces:
                self._came += len(piece)
                if not self._spill.fits(len(piece)):
                    self._spill.patient = True
                self._full = True
                await self._spill.put(piece)
                self._full = False
        finally:
            self._over = True
            self._spill.end()

    async def close(self) -> None:
        """Take no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task
        await self._spill.close()


def refuse_too_much(making: asyncio.Task[None]) -> None:
    """Raise Problem where an answer that had to wait for its body, for a proxy, became too long.

    Nothing of it is out yet, so this can be said.
    """
    if making.done() and not making.cancelled() and _is_unread(making.exception()):
        raise Problem(
            "full",
            "through a proxy the answer begins when the body has come, and so much cannot wait here "
            "(`stream_spill`): send less at once, or less than 10 MiB a second",
        )


def _is_unread(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_unread, error.exceptions))
    return isinstance(error, Problem) and error.code == "unread"
