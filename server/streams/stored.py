"""GET `/video/stream`: the tokens of a container's track, from a time on, or behind the last one received.

Nothing is rendered ahead or kept: tokens are read from the file in batches, checked, and written as text, in
a thread. A batch grows while the client takes all at once, and is small for one that does not: what waits for
a slow client is one batch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from harmony4.crypto.errors import HarmonyError, NotFoundError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server import facts
from harmony4.server.keys import LIBRARY
from harmony4.server.query import asked_track, container_name, integer
from harmony4.server.streams.forms import END, Form, Position, chosen, parse_position
from harmony4.server.streams.outlet import Outlet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["get_stream", "routes"]

_FIRST: Final = 16
"""Tokens in the first batch: it is to come soon."""
_SLOW: Final = 128
"""Tokens in a batch for a client that has others to take still."""
_MOST: Final = 4096
_NO_SEAL: Final = "00000000"


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.get("/video/stream", get_stream, allow_head=False)]


async def get_stream(request: web.Request) -> web.StreamResponse:
    """The tokens of a track, in order: 200, 204 where a client comes back that has all of them."""
    name = container_name(request)
    form = chosen(request.headers.getall("Accept", []))
    start = integer(request, "from")
    last = _last(request)
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        track = asked_track(request, reader)
        if reader.state == "original":
            raise NotFoundError("files of the original implementation hold no tokens")
        seal = _NO_SEAL if reader.head is None else reader.head.hex()[:8]
        index = await asyncio.to_thread(_index_at, reader, track, start)
        replaced = last is not None and (last.seal, last.track) != (seal, track)
        if last is not None and not replaced:
            if last.index == END or await asyncio.to_thread(_is_last, reader, track, last.index):
                return web.Response(status=204, headers={"Cache-Control": "no-cache"})
            index = max(index, last.index + 1)
        stream = _Stream(reader, track, form(seal, track), index)
        # What is wrong with the first tokens is said by a status.
        rows = await asyncio.to_thread(stream.read, _FIRST)
        async with Outlet(request, stream.form) as outlet:
            head = [stream.form.begin()]
            if replaced:
                head.append(stream.form.event("reset", {"detail": "the container was replaced"}))
            head.append(stream.form.event("meta", stream.meta(name)))
            await stream.send(outlet, b"".join(head), rows)
        return outlet.response


def _last(request: web.Request) -> Position | None:
    """Where the client was; None where it says nothing. Raises UsageError."""
    text = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    if not text:
        return None
    position = parse_position(text)
    if position is None:
        raise UsageError("Last-Event-ID is not valid", expected="SEAL-TRACK-INDEX", found=text[:40])
    return position


def _index_at(reader: H4MKReader, track: int, pts: int | None) -> int:
    """The index of the block that plays at `pts` µs; behind the last where the track has ended by then."""
    return 0 if pts is None else reader.block_at(pts, track)


def _is_last(reader: H4MKReader, track: int, index: int) -> bool:
    return not len(reader.token_rows(track, index + 1, 1))


class _Stream:
    """The tokens of one track, for one client."""

    def __init__(self, reader: H4MKReader, track: int, form: Form, index: int) -> None:
        self._reader = reader
        self._track = track
        self._index = index
        self.form = form

    def meta(self, name: str) -> dict[str, Any]:
        """What the stream is about."""
        about = facts.track_facts(self._reader, self._track)
        head = self._reader.head
        return {
            "name": name,
            "state": self._reader.state,
            "head": None if head is None else head.hex(),
            "origin": str(self._reader.trak.origin),
            "first": self._index,
            **about,
        }

    def read(self, count: int) -> NDArray[np.void]:
        """The next tokens; none at the end. Reads files; raises HarmonyError."""
        return self._reader.token_rows(self._track, self._index, count)

    def _next(self, count: int) -> tuple[NDArray[np.void], bytes]:
        rows = self.read(count)
        return rows, self.form.rows(rows) if len(rows) else b""

    async def send(self, outlet: Outlet, head: bytes, rows: NDArray[np.void]) -> None:
        """All of them, beginning with `rows`. Raises ConnectionError."""
        text = head + (self.form.rows(rows) if len(rows) else b"")
        count, tokens = _FIRST, 0
        while len(rows):
            self._index = int(rows["index"][-1]) + 1
            tokens += len(rows)
            count = min(count * 4, _MOST) if await outlet.write(text) else _SLOW
            if outlet.stopping:
                await outlet.say_goodbye()
                return
            try:
                rows, text = await asyncio.to_thread(self._next, count)
            except HarmonyError as error:
                await outlet.fail(error)
                return
            head = b""
        await outlet.write(head + self.form.event("done", {"tokens": tokens}, index=END))
