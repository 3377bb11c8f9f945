"""One client that reads a stream: what goes out to it, how it is seen that it has left, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Final, NoReturn, Self

from aiohttp import web

from harmony4.crypto.errors import FormatError, HarmonyError, UsageError
from harmony4.server import sse
from harmony4.server.errors import PROBLEMS, Problem, describe
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import GUARD, OUTLETS, STATUS, TALLY, TURNS
from harmony4.server.logs import without_signature
from harmony4.server.streams.forms import Form, Position, parse_position
from harmony4.server.streams.turns import Turns

__all__ = ["Outlet", "last_position"]

_LOG: Final = logging.getLogger("harmony4.server")
_SOON: Final = 0.02
"""Seconds; who takes longer gets smaller batches."""
_LAST: Final = 1.0
"""Seconds before a server's end in which a client can still be told of it."""
_GOODBYE: Final = {"detail": "the server is stopping: come back", "retry": 1000}


class Outlet:
    """The answer to one request. An async context manager: `prepare` on the way in, the end on the way out.

    A client that has left raises ConnectionError in `write`, which ends the stream quietly.
    """

    def __init__(self, request: web.Request, form: Form) -> None:
        self._request = request
        self.form = form
        self.since: float | None = None
        """When the write began that waits for the client, on the loop's clock."""
        headers = dict(sse.HEADERS) | {"Content-Type": form.content_type, "Vary": "Accept"}
        self.response = web.StreamResponse(headers=headers)

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        self._request.app[OUTLETS].add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._request.app[OUTLETS].discard(self)
        if error is not None and not isinstance(error, Exception):
            return False
        # The answer has begun: nobody else can say what is wrong any more.
        with suppress(ConnectionError):
            if isinstance(error, HarmonyError | Problem):
                await self.fail(error)
            elif error is not None and not isinstance(error, ConnectionError):
                _LOG.error("a stream failed", exc_info=error)
                self._request.app[TALLY].count("broken|failed")
                self.abort()
            if not isinstance(error, ConnectionError):
                await self.response.write_eof()
        return True

    @property
    def stopping(self) -> bool:
        """Whether the server is on its way out, and streams have to end."""
        return self._request.app[STATUS].stopping

    @property
    def over(self) -> bool:
        """Whether also a stream has to end now that nobody can take up again: the server has no more time."""
        status = self._request.app[STATUS]
        return status.stopping and asyncio.get_running_loop().time() > status.until - _LAST

    @property
    def turns(self) -> Turns:
        """Who else has always something to send."""
        return self._request.app[TURNS]

    @property
    def alive(self) -> bool:
        """Whether the client is still there, and still may read."""
        request = self._request
        return request.transport is not None and request.app[GUARD].holds(request[CALLER])

    async def write(self, data: bytes) -> bool:
        """Send bytes; returns whether the client took them soon. Raises ConnectionError."""
        clock = asyncio.get_running_loop().time
        self.since = began = clock()
        try:
            await self.response.write(data)
        finally:
            self.since = None
        if not self.alive:
            raise ConnectionResetError("the client has left")
        return clock() - began < _SOON

    async def fail(self, error: HarmonyError | Problem, *, index: int | None = None) -> None:
        """Say what broke off. Raises ConnectionError. `index`: END where coming back would change nothing.

        Where the form has no words for it the connection breaks off: nobody must take a part for the whole.
        The status is out, so what is the server's own fault is counted here, as it is for ranges.
        """
        if isinstance(error, FormatError):
            self._request.app[TALLY].count("damaged|read")
        if error.code != "stopping" and PROBLEMS[error.code][0] >= 500:
            self._request.app[TALLY].count("broken|failed")
            target = without_signature(self._request.rel_url.raw_path_qs)
            _LOG.warning("%s was broken off: %s", target, error)
        await self._say("problem", describe(error), index)

    async def _say(self, name: str, data: object, index: int | None = None) -> None:
        words = self.form.event(name, data, index=index)
        if not words:
            self.abort()
        await self.write(words)

    def abort(self) -> NoReturn:
        """Break the connection off. Raises ConnectionError."""
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionResetError("the stream broke off")

    async def say_goodbye(self) -> None:
        """Tell the client to come back. Raises ConnectionError. Forms without words: as `fail`."""
        await self._say("restart", _GOODBYE)


def last_position(request: web.Request) -> Position | None:
    """Where the client was; None where it says nothing. Raises UsageError."""
    text = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    if not text:
        return None
    position = parse_position(text)
    if position is None:
        raise UsageError("Last-Event-ID is not valid", expected="SEAL-TRACK-INDEX", found=text[:40])
    return position
