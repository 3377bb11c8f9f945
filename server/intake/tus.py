"""`/uploads/`: uploads that survive a lost connection, by tus 1.0 and its extensions creation,
creation-with-upload, termination, checksum and expiration (https://tus.io/protocols/resumable-upload).

When the last byte is in, the upload becomes a job that makes the container (`finishing.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

import aiofiles
from aiohttp import web

from harmony4.crypto.errors import HarmonyError, LimitError, StorageError, UsageError
from harmony4.server.errors import Problem
from harmony4.server.intake.admission import LOOK, Room
from harmony4.server.intake.body import check_coding, go_on, open_pieces, wait_to_go_on
from harmony4.server.intake.exports import admitted, check_keys, match_of
from harmony4.server.intake.tusfields import (
    ALGORITHMS,
    CHUNK_TYPE,
    EXTENSIONS,
    VERSION,
    Checksum,
    asked_for,
    expires,
    parse_checksum,
    parse_metadata,
    parse_size,
)
from harmony4.server.intake.uploads import Held, Look
from harmony4.server.keys import CONFIG, DESK, FINISHER

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["PATH", "name_version", "routes"]

PATH: Final = "/uploads/"
_WAIT: Final = 1.0
"""Seconds to wait for somebody who is at the upload: a client that broke off and comes back is as fast as the
end of its old connection."""
_POLL: Final = 0.02
_SILENCE: Final = 2.0
"""Seconds without a byte after which a connection makes way for another one that wants the upload."""
_SOON: Final = {"Retry-After": "1"}
_OVERRIDE: Final = "X-HTTP-Method-Override"


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.options(PATH, get_options),
        web.post(PATH, post_collection, expect_handler=wait_to_go_on),
        web.options(f"{PATH}{{id}}", get_options),
        web.head(f"{PATH}{{id}}", head_upload),
        web.patch(f"{PATH}{{id}}", patch_upload, expect_handler=wait_to_go_on),
        web.post(f"{PATH}{{id}}", post_upload, expect_handler=wait_to_go_on),
        web.delete(f"{PATH}{{id}}", delete_upload),
    ]


async def name_version(request: web.Request, response: web.StreamResponse) -> None:
    """Put `Tus-Resumable` on every answer below `/uploads/`, errors included; a signal handler."""
    if request.path.startswith(PATH):
        response.headers["Tus-Resumable"] = VERSION


async def get_options(request: web.Request) -> web.Response:
    """What the server can do: 204, for any version of the protocol."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(EXTENSIONS),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    if most := request.app[CONFIG].max_upload:
        headers["Tus-Max-Size"] = str(most)
    return _answer(204, headers)


async def post_collection(request: web.Request) -> web.Response:
    """A new upload, whose first bytes may come with it: 201.

    Refused before anything is stored: 400, 409, 412, 413, 415, 429, 503, 507. Where the bytes that come with
    it break off or do not have their checksum (460), nothing is kept: the client has no address to go on.
    """
    method = request.headers.get(_OVERRIDE, "POST").upper()
    if method == "OPTIONS":
        return await get_options(request)
    if method != "POST":
        raise web.HTTPMethodNotAllowed(method, ["OPTIONS", "POST"])
    _check_version(request)
    length = _length(request)
    metadata = _one(request, "Upload-Metadata")
    asked = asked_for(parse_metadata(metadata or ""))
    assert asked.name is not None
    check_keys(request, asked)
    checksum = _checksum(request)
    if request.body_exists:
        _check_type(request)
        _check_fits(request, length)
    desk, finisher, match = request.app[DESK], request.app[FINISHER], match_of(request)
    await asyncio.to_thread(desk.shelf.check, asked.name, match)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(request, length))
        # The bytes that arrive and the container made of them are on the disk at the same time.
        await asyncio.to_thread(desk.room.check, 2 * length)
        named = tuple(request.headers.getall("If-Match", ())) or None
        held = await asyncio.to_thread(finisher.uploads.create, length, metadata, named)
        stack.callback(held.release)
        if request.body_exists:
            try:
                await _receive(request, held, checksum)
            except BaseException:
                with suppress(StorageError):
                    await asyncio.to_thread(held.remove)
                raise
        return await _go_on(request, held, stack, 201, {"Location": f"{PATH}{held.id}"})


async def post_upload(request: web.Request) -> web.Response:
    """For clients that can only POST: the method is in `X-HTTP-Method-Override`."""
    method = request.headers.get(_OVERRIDE, "POST").upper()
    handlers = {
        "DELETE": delete_upload,
        "HEAD": head_upload,
        "OPTIONS": get_options,
        "PATCH": patch_upload,
    }
    if method not in handlers:
        raise web.HTTPMethodNotAllowed(method, sorted(handlers))
    return await handlers[method](request)


async def head_upload(request: web.Request) -> web.Response:
    """How far an upload is: 200, 404. While somebody sends, it is a moment ago."""
    _check_version(request)
    seen = await _look(request)
    headers = {"Upload-Length": str(seen.known.length)}
    if seen.known.metadata is not None:
        headers["Upload-Metadata"] = seen.known.metadata
    return _answer(200, headers | _progress(seen.offset, seen.expires, seen.known.job))


async def patch_upload(request: web.Request) -> web.Response:
    """Bytes at the end of an upload: 204.

    What has arrived is kept, however it ends, but of a chunk with a checksum: 400, 404, 408, 409, 412, 413,
    415, 423, 429, 460, 503, 507.
    """
    _check_version(request)
    _check_type(request)
    offset = parse_size("Upload-Offset", _one(request, "Upload-Offset"))
    checksum = _checksum(request)
    finisher = request.app[FINISHER]
    seen = await asyncio.to_thread(finisher.uploads.look, request.match_info["id"])
    if seen.known.job is not None:  # all is there, and somebody may have it in hand for long
        _check_offset(offset, seen.offset)
        _check_fits(request, seen.known.length - offset)
        return _answer(204, _progress(seen.offset, seen.expires, seen.known.job))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(request, request.content_length))
        held = await _take(request)
        stack.callback(held.release)
        _check_offset(offset, held.offset)
        _check_fits(request, held.known.length - offset)
        try:
            await _receive(request, held, checksum)
        except (HarmonyError, Problem):
            if held.is_complete:  # what broke off, or was too much, came behind the last byte
                await finisher.begin(held, stack.pop_all())
            raise
        return await _go_on(request, held, stack, 204, {})


async def delete_upload(request: web.Request) -> web.Response:
    """Give an upload up: 204, 404; 423 while its container is being made."""
    _check_version(request)
    uploads = request.app[FINISHER].uploads
    await asyncio.to_thread(uploads.look, request.match_info["id"])
    held = await _take(request)
    try:
        await asyncio.to_thread(uploads.give_up, held)
    finally:
        held.release()
    return _answer(204, {})


# -- bytes


async def _receive(request: web.Request, held: Held, checksum: Checksum | None) -> None:
    """The body of a request behind what is there.

    Raises Problem, LimitError, StorageError; then what has arrived is there, but with a `checksum` nothing.
    """
    await go_on(request)
    pieces = open_pieces(request, request.app[CONFIG].read_timeout)
    found = None
    if checksum is not None:
        found = hashlib.new(checksum.algorithm, usedforsecurity=False)
        await asyncio.to_thread(held.note, sure=held.offset)
    aside = asyncio.create_task(_step_aside(request, held))
    try:
        await _append(held, pieces, request.app[DESK].room, found)
        if checksum is not None and found is not None:
            if found.digest() != checksum.digest:
                raise Problem("upload-checksum", "other bytes have come; none of them is kept")
            await asyncio.to_thread(held.note, sure=None)
    finally:
        aside.cancel()
        if held.known.sure is not None:
            await asyncio.to_thread(held.settle)


async def _append(held: Held, pieces: AsyncIterator[bytes], room: Room, found: _Hash | None) -> None:
    looked, length = held.offset, held.known.length
    try:
        async with aiofiles.open(held.data, "ab", buffering=0) as file:
            async for piece in pieces:
                if held.offset + len(piece) > length:
                    raise LimitError("more bytes than the upload has", expected=f"<= {length - held.offset}")
                if held.offset - looked >= LOOK:
                    await asyncio.to_thread(room.check, roughly=True)
                    looked = held.offset
                if found is not None:
                    await asyncio.to_thread(found.update, piece)
                rest = memoryview(piece)
                while rest:
                    written = await _to_its_end(file.write(rest))
                    held.offset += written
                    rest = rest[written:]
    except OSError as error:
        raise StorageError(f"an upload cannot be written: {error.strerror}") from error


async def _to_its_end(work: Awaitable[int]) -> int:
    """Wait for work in a thread, which goes on when whoever waits is cancelled: wait then, too.

    Else the upload would be in other hands while its bytes are still being written.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _step_aside(request: web.Request, held: Held) -> None:
    """Break a connection off that is silent while another one wants the upload: its client has come back."""
    while True:
        before = held.offset
        await asyncio.sleep(_SILENCE)
        if held.offset == before and await asyncio.to_thread(held.is_wanted):
            if request.transport is not None:
                request.transport.abort()
            return


async def _go_on(
    request: web.Request, held: Held, stack: AsyncExitStack, status: int, headers: dict[str, str]
) -> web.Response:
    """The answer after bytes have come; after the last one the export begins, which takes `stack` over."""
    job = await request.app[FINISHER].begin(held, stack.pop_all()) if held.is_complete else None
    until = time.time() + request.app[CONFIG].upload_ttl
    return _answer(status, headers | _progress(held.offset, until, job))


# -- an upload


async def _take(request: web.Request) -> Held:
    """Take the upload in hand. Raises NotFoundError, StorageError, Problem (423)."""
    uploads, number = request.app[FINISHER].uploads, request.match_info["id"]
    loop = asyncio.get_running_loop()
    until = loop.time() + _WAIT
    while (held := await asyncio.to_thread(uploads.take, number)) is None:
        if loop.time() >= until:
            raise Problem("locked", "somebody sends to the upload, or makes its container", headers=_SOON)
        await asyncio.sleep(_POLL)
    return held


async def _look(request: web.Request) -> Look:
    """The upload as it is, a moment later while somebody sends or its job begins. Raises NotFoundError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _WAIT
    seen, moves = await asyncio.to_thread(_look_closely, request)
    while moves and loop.time() < until:
        await asyncio.sleep(_POLL)
        seen, moves = await asyncio.to_thread(_look_closely, request)
    return seen


def _look_closely(request: web.Request) -> tuple[Look, bool]:
    """The upload, and whether it is about to be otherwise; in a thread."""
    uploads, number = request.app[FINISHER].uploads, request.match_info["id"]
    seen = uploads.look(number)
    job = seen.known.job
    if seen.known.done or (job is not None and request.app[DESK].jobs.is_known(job)):
        return seen, False
    return seen, uploads.is_held(number)


# -- what a request says


def _check_version(request: web.Request) -> None:
    if request.headers.get("Tus-Resumable") != VERSION:
        raise Problem("tus-version", f"expected Tus-Resumable: {VERSION}", headers={"Tus-Version": VERSION})


def _check_type(request: web.Request) -> None:
    if request.content_type != CHUNK_TYPE:
        raise Problem("content-type", f"expected {CHUNK_TYPE}")
    check_coding(request)


def _check_offset(asked: int, there: int) -> None:
    if asked != there:
        raise Problem("offset", f"the upload stands at {there}", headers={"Upload-Offset": str(there)})


def _check_fits(request: web.Request, room: int) -> None:
    if (request.content_length or 0) > room:
        raise LimitError(
            "more bytes than the upload has", expected=f"<= {room}", found=request.content_length
        )


def _one(request: web.Request, name: str) -> str | None:
    values = request.headers.getall(name, ())
    if len(values) > 1:
        raise UsageError(f"{name} is given twice")
    return values[0] if values else None


def _length(request: web.Request) -> int:
    for name in ("Upload-Concat", "Upload-Defer-Length"):
        if name in request.headers:
            raise UsageError(f"{name} is of an extension that is not spoken here")
    return parse_size("Upload-Length", _one(request, "Upload-Length"))


def _checksum(request: web.Request) -> Checksum | None:
    text = _one(request, "Upload-Checksum")
    return None if text is None else parse_checksum(text)


# -- what an answer says


def _progress(offset: int, until: float, job: str | None) -> dict[str, str]:
    headers = {"Upload-Offset": str(offset), "Upload-Expires": expires(until)}
    return headers if job is None else headers | {"Harmony4-Job": job}


def _answer(status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, headers={"Cache-Control": "no-store", **headers})
