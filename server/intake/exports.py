"""`/video/export`: media in, a container out. `/jobs`: how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import aiofiles
from aiohttp import web

from harmony4.crypto.errors import LimitError, StorageError
from harmony4.server.audit import ACTOR
from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.folder import facts
from harmony4.server.guard.caller import CALLER
from harmony4.server.guard.scopes import MASK
from harmony4.server.guard.throttle import network
from harmony4.server.intake.admission import place
from harmony4.server.intake.body import EXPORT, Asked, check_head, go_on, open_body, wait_to_go_on
from harmony4.server.intake.desk import Desk, Export
from harmony4.server.intake.jobs import ACTIVE
from harmony4.server.intake.shelf import Match
from harmony4.server.keys import CONFIG, DESK, KEYRING, STATE, STATUS
from harmony4.server.query import json_response, page_limit
from harmony4.server.reading.fields import attachment
from harmony4.server.reading.ranges import matcher
from harmony4.server.serving.forwarded import client_address

__all__ = ["admitted", "check_keys", "match_of", "routes", "shown"]

_LOG: Final = logging.getLogger("harmony4.server")

_PIECE: Final = 2**18


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.post("/video/export", post_export, expect_handler=wait_to_go_on),
        web.get("/jobs", get_jobs),
        web.get("/jobs/{id}", get_job),
        web.delete("/jobs/{id}", delete_job),
    ]


async def post_export(request: web.Request) -> web.StreamResponse:
    """Make a container from what is sent: 201 with a name, 200 and the container without, 202 as a job.

    Refused before a byte of the body is wanted where that is possible: 400, 403, 409, 412, 413, 415, 429,
    503, 507.
    """
    desk, match = request.app[DESK], match_of(request)
    asked = check_head(request, EXPORT)
    check_keys(request, asked)
    if asked.name is not None:
        await asyncio.to_thread(desk.shelf.check, asked.name, match)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(request, request.content_length))
        await go_on(request)
        body = await open_body(request, request.app[CONFIG].read_timeout, EXPORT)
        check_keys(request, body.asked)
        if body.asked != asked and body.asked.name is not None:
            await asyncio.to_thread(desk.shelf.check, body.asked.name, match)
        asked = body.asked
        size = None if request.content_type == "multipart/form-data" else request.content_length
        one = await desk.start(asked.options, mask=asked.mask, name=asked.name, size=size)
        try:
            await desk.feed(one, body.pieces)
        except BaseException:
            await desk.abandon(one)
            raise
        if asked.job:
            desk.go_on(one, asked.name, match, after=stack.pop_all())
            return _accepted(one)
        found = await desk.finish(one, asked.name, match)
        if asked.name is not None:
            return _created(asked.name, one, found)
        try:
            return await _send_back(request, one)
        finally:
            await desk.close(one)


def check_keys(request: web.Request, asked: Asked) -> None:
    """See whether the caller may mask, and whether the keys are there. Raises Problem (403), UsageError."""
    if asked.mask is not None:
        if MASK not in request[CALLER].scopes:
            raise Problem("key", "masking with a key of the server needs the scope mask")
        asked.mask.spec(request.app[KEYRING])


def match_of(request: web.Request) -> Match | None:
    """What `If-Match` says of entity tags (RFC 9110 §13.1.1); None without it."""
    values = request.headers.getall("If-Match", [])
    return matcher(values) if values else None


@asynccontextmanager
async def admitted(request: web.Request, size: int | None, kind: str = "places") -> AsyncIterator[None]:
    """A place for an upload of `size` bytes, None where nobody knows. Raises Problem, LimitError.

    `kind`: places of another kind, as many, for those who bring nothing.
    """
    config: Config = request.app[CONFIG]
    if not request.app[STATUS].takes(asyncio.get_running_loop().time(), config.stop_timeout):
        raise Problem("stopping", "the server is stopping")
    if config.max_upload and size is not None and size > config.max_upload:
        raise LimitError("the upload is too large", expected=f"<= {config.max_upload} bytes", found=size)
    await asyncio.to_thread(request.app[DESK].room.check, size or 0)
    most, each = config.max_uploads, config.max_uploads_per_client
    client = request[CALLER].token_id or network(client_address(request))
    held = place(request.app[STATE], client, most=most, each=each, kind=kind)
    try:
        await asyncio.to_thread(held.__enter__)
    except StorageError as error:
        _LOG.warning("%s", error)
        raise Problem("storage", "the server's own folder cannot be written to") from error
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _created(name: str, one: Export, found: dict[str, Any]) -> web.Response:
    response = json_response({"job": one.job.id, **found}, "no-store")
    response.set_status(201)
    response.headers["Location"] = f"/video/info?name={quote(name, safe='/')}"
    return response


def _accepted(one: Export) -> web.Response:
    response = json_response(shown(one.job.facts), "no-store")
    response.set_status(202)
    response.headers["Location"] = f"/jobs/{one.job.id}"
    return response


async def _send_back(request: web.Request, one: Export) -> web.StreamResponse:
    """The container itself. It is complete, so what breaks off now breaks the connection off."""
    size = (await asyncio.to_thread(one.made.stat)).st_size
    response = web.StreamResponse(
        headers={
            "Content-Type": facts.CONTAINER_TYPE,
            "Content-Length": str(size),
            "Content-Disposition": attachment("export.h4mk"),
            "Cache-Control": "no-store",
        }
    )
    async with aiofiles.open(one.made, "rb", buffering=0) as file:
        await response.prepare(request)
        try:
            while piece := await file.read(_PIECE):
                await response.write(piece)
        except OSError as error:
            if not isinstance(error, ConnectionError):
                _LOG.error("a container cannot be sent back: %s", error.strerror)
                if request.transport is not None:
                    request.transport.abort()  # nobody must take what is out for the whole
            raise ConnectionResetError from error
    await response.write_eof()
    return response


async def get_jobs(request: web.Request) -> web.Response:
    """`{"jobs", "next"}`, in the order of their ids; `next` is the cursor of the following page."""
    desk: Desk = request.app[DESK]
    found, last = await asyncio.to_thread(desk.jobs.page, request.query.get("cursor"), page_limit(request))
    return json_response({"jobs": [shown(one) for one in found], "next": last}, "no-store")


async def get_job(request: web.Request) -> web.Response:
    """How far a job is: 200, 404."""
    found = await asyncio.to_thread(request.app[DESK].jobs.read, request.match_info["id"])
    return json_response(shown(found), "no-store")


async def delete_job(request: web.Request) -> web.Response:
    """Cancel a job: 202 where somebody works on it, 200 where it has ended already, 404."""
    desk: Desk = request.app[DESK]
    found = await asyncio.to_thread(desk.jobs.cancel, request.match_info["id"], ACTOR.get())
    desk.cancel(request.match_info["id"])
    response = json_response(shown(found), "no-store")
    response.set_status(202 if found["state"] in ACTIVE else 200)
    return response


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """A job as answers have it."""
    return {"problem": None, "result": None, **job}
