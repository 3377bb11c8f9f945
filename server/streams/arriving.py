"""POST `/video/stream` and `/audio/stream`: media in, their tokens out, while they are still arriving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web

from harmony4.crypto.errors import LimitError
from harmony4.server.config import Config
from harmony4.server.intake.admission import LOOK
from harmony4.server.intake.body import Options, check_head, go_on, open_body, wait_to_go_on
from harmony4.server.intake.exports import admitted
from harmony4.server.keys import CONFIG, DESK, KEEPING, STATE
from harmony4.server.query import json_response
from harmony4.server.state import Spool
from harmony4.server.streams.forms import chosen
from harmony4.server.streams.kept import Keeper, asked_number, keep
from harmony4.server.streams.making import Making
from harmony4.server.streams.proxied import Arrival
from harmony4.server.streams.work import SOUND, VIDEO, SoundWork, VideoWork, Work

__all__ = ["counted", "routes"]

_T = TypeVar("_T")

_SEAL: Final = "00000000"
"""What the tokens belong to has no seal yet."""


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.post("/video/stream", post_video, expect_handler=wait_to_go_on),
        web.post("/audio/stream", post_sound, expect_handler=wait_to_go_on),
    ]


async def post_video(request: web.Request) -> web.StreamResponse:
    """The tokens of the media in the body: 200.

    Refused before the first token: 400, 406, 408, 413, 415, 422, 429, 503, 507.
    """
    return await _answer(request, VIDEO, VideoWork)


async def post_sound(request: web.Request) -> web.StreamResponse:
    """The spectral tokens of the sound in the body; as `post_video`."""
    return await _answer(request, SOUND, SoundWork)


async def _answer(
    request: web.Request, options: Options[_T], make: Callable[[Config, _T, Path], Work[Any]]
) -> web.StreamResponse:
    form = chosen(request.headers.getall("Accept", []))(_SEAL, 0)
    number = asked_number(request)
    check_head(request, options)
    config = request.app[CONFIG]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(request, request.content_length))
        await go_on(request)
        body = await open_body(request, config.read_timeout, options)
        spool = await asyncio.to_thread(Spool, request.app[STATE])
        stack.push_async_callback(asyncio.to_thread, spool.close)
        work = make(config, body.asked, spool.path)
        pieces = counted(request, body.pieces)
        if number is not None:
            keeper = await asyncio.to_thread(Keeper, request.app[STATE], number)
            return await _kept(
                request,
                number,
                keep(keeper, work, request.app[DESK].room, config.stream_spill),
                pieces,
                after=stack.pop_all(),
            )
        making = Making(request, form, work, spool.path)

        def arrived() -> None:
            making.patient = True  # the client sends nothing more, so it can wait for what it reads

        arrival = Arrival(request, pieces, spool.path, config.stream_spill)
        stack.push_async_callback(arrival.close)
        return await making.run(_until_the_end(arrival.pieces(), arrived), arrival.wait)


async def _kept(
    request: web.Request,
    number: str,
    keeping: Callable[[AsyncIterator[bytes]], Coroutine[Any, Any, None]],
    pieces: AsyncIterator[bytes],
    *,
    after: AsyncExitStack,
) -> web.Response:
    """Answer when all has arrived, where the tokens are; `after` is closed when they are all there."""
    arrived = asyncio.Event()

    async def work() -> None:
        async with after:
            try:
                await keeping(_until_the_end(pieces, arrived.set))
            finally:
                arrived.set()

    task = asyncio.create_task(work())
    tasks = request.app[KEEPING]
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    # Looked at, so that asyncio does not complain: the stream says it, to whoever reads.
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    await arrived.wait()
    if task.done():
        await task  # what was wrong with what arrived is said here, too
    url = f"{request.path}?job={number}"
    response = json_response({"id": number, "url": url}, "no-store")
    response.set_status(202)
    response.headers["Location"] = url
    return response


async def _until_the_end(pieces: AsyncIterator[bytes], ended: Callable[[], None]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece
    ended()


async def counted(request: web.Request, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, as long as there is room for them. Raises LimitError, Problem (507)."""
    most, room, received, looked = request.app[CONFIG].max_upload, request.app[DESK].room, 0, 0
    async for piece in pieces:
        received += len(piece)
        if most and received > most:
            raise LimitError("the upload is too large", expected=f"<= {most} bytes")
        if received - looked >= LOOK:
            looked = received  # all of it may have to be spooled
            await asyncio.to_thread(room.check, roughly=True)
        yield piece
