"""Bytes out: answers to requests for a resource's bytes, and the bytes onto a connection.

Two ways, one interface. Where it is safe, slices of the file's mapping are handed to the transport, and only
the kernel ever touches them: a container that is truncated while it streams makes `send` fail with EFAULT,
which costs this one connection. Bytes that are not in memory are brought in by a thread first, so that `send`
waits for no disk. Anywhere else the bytes are read in a thread. Safe means that the transport keeps a view of
what it could not send at once, instead of copying it (uvloop does, asyncio from Python 3.12 on), and that
nothing encrypts in between.

Both wait until the kernel has taken a window before the next one is touched, so a slow client costs no
memory. Who takes nothing at all is cut off (`housekeeping.py`). Requests that come again and again take a
shorter way (`express.py`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from mmap import mmap
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web
from aiohttp.http import StreamWriter

from harmony4.crypto.errors import (
    ChecksumError,
    FormatError,
    HarmonyError,
    SealError,
    SourceChangedError,
    SourceError,
)
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import Problem
from harmony4.server.keys import BUFFERS, CONFIG, EXPRESS, TALLY
from harmony4.server.logs import without_signature
from harmony4.server.query import cache_control
from harmony4.server.reading.buffers import LARGE, SMALL, Buffers
from harmony4.server.reading.express import offer_range
from harmony4.server.reading.fields import asked_fields
from harmony4.server.reading.push import slices
from harmony4.server.reading.ranges import ByteRange, decide
from harmony4.server.reading.residency import bring_in, is_cut_short, is_resident
from harmony4.server.reading.resource import Checked, Fill, Resource
from harmony4.server.serving.access import SENT

if TYPE_CHECKING:
    from harmony4.server.serving.connection import Connection

__all__ = ["may_map", "respond", "send"]

_LOG: Final = logging.getLogger("harmony4.server")

_BATCH: Final = 2**18
"""Bytes read or handed to the transport at a time: what is copied before other connections get their turn."""
_ALONE: Final = 2**22
"""The same while nobody waits for a short answer: fewer turns are faster by a fourth."""
_SOON: Final = 0.02
"""Seconds; a client that takes longer for a buffer gets one at a time."""
_PIECES: Final = 64
"""Most pieces in one batch; blocks may be as small as a byte."""


def may_map(transport: asyncio.BaseTransport) -> bool:
    """Whether slices of a mapping may be written to `transport` (see the module's text)."""
    if transport.get_extra_info("sslcontext") is not None:
        return False
    module = type(transport).__module__
    version = sys.version_info
    # Older ones copy the rest of a write in user space, or lose data in `writelines` (CVE-2024-12254).
    keeps_views = (3, 12, 9) <= version < (3, 13) or version >= (3, 13, 2)
    return module.startswith("uvloop.") or (keeps_views and module == "asyncio.selector_events")


async def respond(request: web.Request, resource: Resource) -> web.StreamResponse:
    """Answer a GET or HEAD for a resource: preconditions, ranges, bytes.

    The caller holds the lease on the container until this returns. Raises Problem for 410, 412 and 416, and
    HarmonyError while nothing has been sent. Headers that a client has to ask for are in `fields`.
    """
    cache = cache_control(request, *(resource.versions or (resource.etag,)))
    if resource.fill is not None:
        # What the key has opened stays with nobody longer than the right to it.
        cache = "private, no-cache"
    if not resource.kept:
        cache = "no-store"
    decision = decide(request.method, request.headers, resource.representation())
    if decision.status == 416:
        raise Problem("range", "no byte of the range exists", headers=dict(decision.headers))
    if decision.status == 412:
        raise Problem("precondition", "the container is another one by now", headers=dict(decision.headers))
    response = web.StreamResponse(status=decision.status, headers=decision.headers)
    response.headers["Cache-Control"] = cache
    if decision.status == 304:
        return response
    if len(decision.parts) > 1:
        await asyncio.to_thread(_check, resource, decision.parts)
    asked = await asked_fields(request, resource, decision)
    response.headers.update(asked)
    if "Content-Digest" in asked:
        # It is about this content alone; a cache would send it with bytes that answer other ranges, too.
        response.headers["Cache-Control"] = "no-store"
    # Whether a wish for a digest is granted depends on the range: the next one needs the ordinary way, too.
    wished = "Want-Content-Digest" in request.headers
    check = request.app[CONFIG].verify_on_read
    if decision.status == 206 and len(decision.parts) == 1 and not (wished or check):
        offer_range(request, resource)
    return await send(request, response, resource, decision.parts, check=check)


def _check(resource: Resource, parts: Sequence[bytes | ByteRange]) -> None:
    """Find the begin of each range, so that one that is lost gets its problem, though others come first.

    In a thread. Raises HarmonyError.
    """
    for part in parts:
        if isinstance(part, ByteRange):
            next(iter(resource.pieces(part.start, part.length)), None)


async def send(
    request: web.Request,
    response: web.StreamResponse,
    resource: Resource,
    parts: Sequence[bytes | ByteRange],
    *,
    check: bool = False,
) -> web.StreamResponse:
    """Send `response` with a body of these parts; its headers must say their length.

    `check`: send nothing of a block that does not match its CRC and its digest. What is unmasked has a right
    tag, and was compared with its digest when it was first read, with `verify_on_read` each time.

    Raises HarmonyError only while nothing has been sent; an error after that is logged and breaks the
    connection off, which a client sees as a body that is too short.
    """
    async with aclosing(_batches(request, resource, parts, check)) as batches:
        return await _send(request, response, resource, batches)


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    resource: Resource,
    batches: AsyncIterator[list[memoryview]],
) -> web.StreamResponse:
    # The first bytes are there before the headers go out: what fails here still gets its problem.
    pieces = await anext(batches, None) if request.method != "HEAD" else None
    if pieces is None:
        await response.prepare(request)
        return response
    try:
        writer = await response.prepare(request)
        if not isinstance(writer, StreamWriter):
            raise TypeError("aiohttp's response has no StreamWriter")
        flow = _Flow(writer)
        request[SENT] = 0
        while pieces is not None:
            request[SENT] += await flow.write(pieces)
            # The rest of a mapping's last page reads as zero bytes, and fails nothing.
            if is_cut_short(resource.container.reader):
                raise SourceChangedError("the container was cut short")
            pieces = await anext(batches, None)
        return response
    except (HarmonyError, OSError) as error:
        target = without_signature(request.rel_url.raw_path_qs)
        # Whatever the loop made of the kernel's EFAULT, a reset or nothing at all: look at the file.
        if is_cut_short(resource.container.reader):
            request.app[TALLY].count("broken|failed")
            _LOG.warning("%s was broken off: the container was cut short meanwhile", target)
        elif isinstance(error, ConnectionError):
            if not cast("Connection", request.protocol).cut_off:  # else it is counted already
                request.app[TALLY].count("broken|left")
            _LOG.debug("%s: the client left: %s", request.path, error)
        else:
            request.app[TALLY].count("broken|failed")
            if isinstance(error, ChecksumError | SealError | FormatError):
                request.app[TALLY].count("damaged|read")
            _LOG.warning("%s was broken off: %s", target, error)
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response


async def _batches(
    request: web.Request,
    resource: Resource,
    parts: Sequence[bytes | ByteRange],
    check: bool,
) -> AsyncGenerator[list[memoryview]]:
    """The body, a turn's bytes at a time; every batch holds at least a byte."""
    transport = request.transport
    checked = resource.checked if check else None
    mapping = None
    if checked is None and resource.fill is None and transport is not None and may_map(transport):
        with suppress(SourceError):  # no address space left, for one: reading needs none
            mapping = resource.container.reader.mapping
    frame: list[memoryview] = []  # travels with the bytes behind it
    for part in parts:
        if isinstance(part, bytes):
            frame.append(memoryview(part))
            continue
        if resource.fill is not None:
            batches = _filled(resource.fill, request.app[BUFFERS], part)
        elif checked is not None:
            batches = _checked(checked, part)
        elif mapping is not None:
            batches = _mapped(request, mapping, resource, part)
        else:
            batches = _read(resource, part)
        async with aclosing(batches):
            async for batch in batches:
                yield frame + batch
                frame = []
    if frame:
        yield frame


async def _read(resource: Resource, body: ByteRange) -> AsyncGenerator[list[memoryview]]:
    pieces = _Pieces(resource.pieces(body.start, body.length))
    left = body.length
    while left:
        data = await asyncio.to_thread(_load, resource.container.reader, pieces)
        left -= sum(map(len, data))
        yield data


def _load(reader: H4MKReader, pieces: _Pieces) -> list[memoryview]:
    """The next pieces, read into memory; in a thread."""
    return [memoryview(reader.read_file(offset, size)) for offset, size in pieces.take(_BATCH)]


async def _checked(checked: Checked, body: ByteRange) -> AsyncGenerator[list[memoryview]]:
    # What is sent are the bytes that were checked, in memory: those on disk may be others by now.
    pieces = checked(body.start, body.length)
    while (data := await asyncio.to_thread(next, pieces, None)) is not None:
        yield [data]


async def _filled(fill: Fill, buffers: Buffers, body: ByteRange) -> AsyncGenerator[list[memoryview]]:
    """What threads put into buffers: into one while the other one goes out, as long as the client is fast."""
    clock = asyncio.get_running_loop().time
    start, left, fast = body.start, body.length, True
    held: deque[memoryview] = deque()
    ahead: asyncio.Future[int] | None = None

    def begin() -> asyncio.Future[int]:
        held.append(buffers.take(min(left, LARGE if fast else SMALL)))
        return asyncio.ensure_future(asyncio.to_thread(fill, start, held[-1][:left]))

    try:
        while left:
            ahead = ahead or begin()
            count, ahead = await ahead, None
            start, left = start + count, left - count
            if left and fast and buffers.plenty:
                ahead = begin()
            began = clock()
            yield [held[0][:count]]
            fast = clock() - began < _SOON
            buffers.give(held.popleft(), again=True)
    finally:
        if ahead is not None:
            # Neither container nor buffer may be taken from the thread, which needs no longer than for one.
            await asyncio.wait([ahead])
            ahead.cancelled() or ahead.exception()
        while held:
            buffers.give(held.popleft(), again=False)  # something of it may still wait in the transport


async def _mapped(
    request: web.Request, mapping: mmap, resource: Resource, body: ByteRange
) -> AsyncGenerator[list[memoryview]]:
    descriptor = resource.container.reader.fileno()
    assert descriptor is not None  # there is a mapping
    view = memoryview(mapping)
    pieces = _Pieces(resource.pieces(body.start, body.length))
    express, clock, left, cold = request.app[EXPRESS], asyncio.get_running_loop().time, body.length, False
    while left:
        calm = not cold and express.is_calm(clock())
        most = _ALONE if calm else _BATCH
        if resource.in_memory:
            batch = pieces.take(most)
        else:
            batch = await asyncio.to_thread(pieces.take, most)  # the range map is read by pages
        left -= sum(size for _, size in batch)
        if cold := not is_resident(descriptor, batch):
            request.app[TALLY].count("cold")
            await asyncio.to_thread(bring_in, descriptor, batch)
        if left:
            yield [view[offset : offset + size] for offset, size in batch]
        else:
            yield [memoryview(data) for data in slices(mapping, descriptor, batch)]


class _Pieces:
    """(offset, size) pieces of a file, to be taken in batches."""

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        self._pieces = iter(pieces)
        self._rest: tuple[int, int] | None = None

    def take(self, most: int) -> list[tuple[int, int]]:
        """The next pieces, up to `most` bytes and `_PIECES` of them; empty at the end."""
        batch: list[tuple[int, int]] = []
        while most and len(batch) < _PIECES:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                break
            offset, size = piece
            taken = min(size, most)
            self._rest = (offset + taken, size - taken) if taken < size else None
            batch.append((offset, taken))
            most -= taken
        return batch


class _Flow:
    """Writes to one connection, with back-pressure."""

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        transport = writer.transport
        if transport is None:
            raise ConnectionResetError("the connection is gone")
        self._transport = transport
        # Nothing may wait in the transport when `write` returns: what waits there holds memory or a mapping.
        transport.set_write_buffer_limits(high=0)
        self._ran_on = False

    async def write(self, pieces: Sequence[memoryview]) -> int:
        """Return their size when the kernel has taken all of them. Raises OSError, as ConnectionError is."""
        if self._ran_on:
            await asyncio.sleep(0)  # the kernel takes all at once, as it does with small blocks: others' turn
        if len(pieces) == 1:
            await self._writer.write(pieces[0], drain=False)
        else:
            self._write_lines(pieces)
        self._ran_on = not self._writer.protocol.writing_paused
        if not self._ran_on:
            await self._writer.drain()
        return sum(map(len, pieces))

    def _write_lines(self, pieces: Sequence[memoryview]) -> None:
        """One `writelines` for many pieces, with the books kept as StreamWriter keeps them.

        Its own would join the pieces in user space on older Pythons, and touch the mapping.
        """
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        size = sum(len(piece) for piece in pieces)
        self._writer.buffer_size += size
        self._writer.output_size += size
        if self._writer.length is not None:
            self._writer.length -= size
        self._transport.writelines(pieces)
