"""An answer whose bytes are made while they go out, and that is never taken for whole where it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import HttpVersion11, web

from harmony4.crypto.errors import HarmonyError
from harmony4.server.errors import Problem
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import GUARD, TALLY
from harmony4.server.serving.connection import Connection
from harmony4.server.streams.proxied import refuse_too_much
from harmony4.server.streams.spill import Spill

__all__ = ["send_what_comes"]

_LOG: Final = logging.getLogger("harmony4.server")
_LOOK: Final = 0.5
"""Seconds between two looks whether the client is still there, while there is nothing to send."""


async def send_what_comes(
    request: web.Request,
    spill: Spill,
    making: Coroutine[Any, Any, None],
    headers: Mapping[str, str],
    wait: Callable[[asyncio.Task[None]], Awaitable[None]],
) -> web.StreamResponse:
    """Answer with what `making` puts into `spill`, from its first byte on; `wait` until the answer may begin.

    Raises HarmonyError and Problem while nothing has been sent; what fails after that breaks the connection
    off, also where the body has no length that a client could miss.
    """

    async def make() -> None:
        try:
            await making
        finally:
            spill.end()

    task = asyncio.create_task(make())
    try:
        await wait(task)
        refuse_too_much(task)
        data = await _next(request, spill)
        if not data:
            await _made(task)  # it may raise
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            while data:
                await response.write(data)
                data = await _next(request, spill)
            await _made(task)
            await response.write_eof()
        except (HarmonyError, Problem) as error:
            request.app[TALLY].count("broken|failed")
            _LOG.warning("%s was broken off: %s", request.path, error)
            _abort(request)
            raise ConnectionResetError from None
        except BaseException:
            _abort(request)
            raise
        return response
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _made(task: asyncio.Task[None]) -> None:
    """Wait for the end of the making. Raises what it raised, alone."""
    try:
        await task
    except BaseExceptionGroup as group:
        wanted = group.subgroup(lambda one: isinstance(one, HarmonyError | Problem)) or group
        first: BaseException = wanted
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _next(request: web.Request, spill: Spill) -> bytes:
    """The next bytes; none at the end. Raises ConnectionResetError for a client that has left."""
    while (data := await spill.take(_LOOK)) is None:
        if request.transport is None or not request.app[GUARD].holds(request[CALLER]):
            raise ConnectionResetError("the client has left")
    return data


def _abort(request: web.Request) -> None:
    """Break the connection off: nobody must take what is out for the whole."""
    protocol = request.protocol
    if request.version < HttpVersion11 and isinstance(protocol, Connection):
        protocol.reset()  # without a length or chunks the end of a connection is the end of an answer
    elif request.transport is not None:
        request.transport.abort()
