"""GET `/video/stream`: the tokens of a container's track, from a time on, or behind the last one received.

Nothing is rendered ahead or kept: tokens are read from the file in batches, checked, and written as text. A
batch grows while the client takes all at once, and is small for one that does not: what waits for a slow
client is one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from aiohttp import web

from harmony4.crypto.errors import HarmonyError
from harmony4.h4mk import TOKEN_DTYPE, H4MKReader
from harmony4.h4mk.source import NotResidentError, impatient
from harmony4.server.folder import facts
from harmony4.server.keys import LIBRARY
from harmony4.server.query import asked_track, container_name, integer
from harmony4.server.streams.forms import END, Form, chosen
from harmony4.server.streams.kept import get_kept
from harmony4.server.streams.outlet import Outlet, last_position

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["get_stream", "routes"]

_T = TypeVar("_T")

_FIRST: Final = 16
"""Tokens in the first batch: it is to come soon."""
_SLOW: Final = 128
"""Tokens in a batch for a client that has others to take still, or where there are many."""
_MOST: Final = 512
"""Tokens in a batch, all clients together: what is read and written in a turn of the loop."""
_NO_SEAL: Final = "00000000"


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.get("/video/stream", get_stream, allow_head=False)]


async def get_stream(request: web.Request) -> web.StreamResponse:
    """The tokens of a track, in order: 200, 204 where a client comes back that has all of them."""
    if "job" in request.query:
        return await get_kept(request)
    name = container_name(request)
    form = chosen(request.headers.getall("Accept", []))
    start = integer(request, "from")
    last = last_position(request)
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        track = asked_track(request, reader)
        seal = _NO_SEAL if reader.head is None else reader.head.hex()[:8]
        replaced = last is not None and (last.seal, last.track) != (seal, track)
        stream = _Stream(reader, track, form(seal, track))
        after = None if last is None or replaced else last.index
        # What is wrong with the first tokens is said by a status.
        if not await _soon(stream.begin, start, after):
            return web.Response(status=204, headers={"Cache-Control": "no-cache"})
        async with Outlet(request, stream.form) as outlet:
            head = [stream.form.begin()]
            if replaced:
                head.append(stream.form.reset())
            head.append(stream.form.event("meta", stream.meta(name)))
            with outlet.turns.share():
                await stream.send(outlet, b"".join(head))
        return outlet.response


async def _soon(work: Callable[..., _T], *arguments: Any) -> _T:
    """What `work` returns: here, if it finds all that it reads in memory, else from a thread.

    A thread that computes takes the interpreter from the loop for 5 ms at a time, and with a thousand clients
    the last one waited for ten seconds; a turn on the loop is a millisecond at most (`_MOST`).
    """
    try:
        with impatient():
            return work(*arguments)
    except NotResidentError:
        return await asyncio.to_thread(work, *arguments)


class _Stream:
    """The tokens of one track, for one client."""

    def __init__(self, reader: H4MKReader, track: int, form: Form) -> None:
        self._reader = reader
        self._track = track
        self._rows: NDArray[np.void] = np.empty(0, TOKEN_DTYPE)
        self._first = 0
        self._text = b""
        self.form = form

    def begin(self, start: int | None, after: int | None) -> bool:
        """Read the first tokens: from `start` µs on, and behind the token `after`.

        False where `after` is the end. Reads files; raises HarmonyError.
        """
        self._first = 0 if start is None else self._reader.block_at(start, self._track)
        if after is not None:
            self._first = max(self._first, after + 1)
        if after != END:
            self._load(self._first, _FIRST)
        return after != END

    def _load(self, index: int, count: int) -> None:
        self._rows = self._reader.token_rows(self._track, index, count)
        self._text = self.form.rows(self._rows) if len(self._rows) else b""

    def meta(self, name: str) -> dict[str, Any]:
        """What the stream is about."""
        head = self._reader.head
        return {
            "name": name,
            "state": self._reader.state,
            "head": None if head is None else head.hex(),
            "origin": str(self._reader.trak.origin),
            "first": self._first,
            **facts.track_facts(self._reader, self._track),
        }

    async def send(self, outlet: Outlet, head: bytes) -> None:
        """All of them, behind `head`. Raises ConnectionError."""
        count, tokens = _FIRST, 0
        while len(self._rows):
            tokens += len(self._rows)
            soon = await outlet.write(head + self._text)
            head = b""
            if outlet.stopping:
                await outlet.say_goodbye()
                return
            await outlet.turns.wait()
            count = min(count * 4, max(_SLOW, _MOST // outlet.turns.sharing)) if soon else _SLOW
            try:
                await _soon(self._load, int(self._rows["index"][-1]) + 1, count)
            except HarmonyError as error:
                await outlet.fail(error)
                return
        await outlet.write(head + self.form.event("done", {"tokens": tokens}, index=END))
