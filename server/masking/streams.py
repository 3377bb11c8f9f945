"""POST `/audio/mask`: any body through a mask, and back, while it is still arriving.

    format=h4mk   a masked container of the body under a new random key; with inverse=1 the other way round
    format=raw    as many bytes under a salt of 32 random bytes, which the answer's Harmony4-Salt says; with
                  inverse=1 the request's Harmony4-Salt says it

A key is named (`key`), for those that the server has, or sent along: in the header Harmony4-Master-Key or the
form's field `master_key`, where nobody else can read it on the way. In a query string it would be in logs and
histories before anybody looks at it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import aiofiles
from aiohttp import web

from harmony4.crypto.errors import (
    FormatError,
    KeyRefusedError,
    MediaError,
    SourceError,
    StorageError,
    UsageError,
)
from harmony4.crypto.mask import SALT_SIZE, MaskSpec, MasterKey, xor_mask
from harmony4.h4mk import H4MKReader, unmask_container
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.folder import facts
from harmony4.server.intake.body import (
    Options,
    check_head,
    check_names,
    go_on,
    open_body,
    parse_asked,
    wait_to_go_on,
)
from harmony4.server.intake.exports import admitted
from harmony4.server.keys import CONFIG, DESK, KEYRING, STATE
from harmony4.server.masking.asked import key_names, masters_named, parse_master, shown, switch
from harmony4.server.masking.sending import send_what_comes
from harmony4.server.masking.sink import Sink
from harmony4.server.reading.fields import attachment
from harmony4.server.sandboxing.sandbox import Limits, default_demuxer
from harmony4.server.serving.forwarded import is_forwarded, is_private
from harmony4.server.state import Spool
from harmony4.server.streams.arriving import counted
from harmony4.server.streams.proxied import Arrival
from harmony4.server.streams.spill import Spill
from harmony4.tokenize.pipe import Pipe

__all__ = ["FORMATS", "MASK", "MASTER", "SALT", "MaskingAsked", "routes"]

FORMATS: Final = ("h4mk", "raw")
MASTER: Final = "Harmony4-Master-Key"
"""The request header with a master key."""
SALT: Final = "Harmony4-Salt"
"""The header with the salt of a raw stream: of the answer, and with `inverse` of the request."""
_CUT: Final = ("block_size", "raw", "fps_hint", "gop", "title")
_NAMES: Final = ("key", "master_key", "format", "inverse", *_CUT)
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")
_GRACE: Final = 0.25
"""Seconds without a byte that a client takes until what waits for it goes to the disk."""


@dataclass(frozen=True, slots=True)
class MaskingAsked:
    """What is to be done."""

    keys: tuple[str, ...]
    """Ids or names of keys of the server; none where the client brings one, or any will do."""
    master: MasterKey | None = field(repr=False)
    """The key that the form brings."""
    raw: bool
    inverse: bool
    options: ExportOptions


def _parse(fields: Mapping[str, str]) -> MaskingAsked:
    check_names(fields, _NAMES)
    form, inverse = fields.get("format", FORMATS[0]), switch(fields, "inverse")
    if form not in FORMATS:
        raise UsageError("format is not valid", expected=" or ".join(FORMATS), found=shown(form))
    cut = {name: text for name, text in fields.items() if name in _CUT}
    if cut and (inverse or form == "raw"):
        raise UsageError(f"{next(iter(cut))} is for making a container")
    keys = key_names("key", fields["key"]) if "key" in fields else ()
    text = fields.get("master_key")
    master = None if text is None else parse_master(text)
    return MaskingAsked(keys, master, form == "raw", inverse, parse_asked(cut).options)


MASK: Final = Options(_NAMES, _parse)
"""What POST `/audio/mask` can be told."""


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.post("/audio/mask", post_mask, expect_handler=wait_to_go_on)]


async def post_mask(request: web.Request) -> web.StreamResponse:
    """The body, masked or unmasked: 200.

    Refused before the first byte: 400, 403, 408, 413, 415, 422, 429, 503, 507. What breaks off later breaks
    the connection off.
    """
    if "master_key" in request.query:
        raise UsageError(
            "a master key never stands in a query string, which ends in logs: give this one up, and send "
            f"another in the header {MASTER} or the form's field master_key"
        )
    asked = check_head(request, MASK)
    if request.content_type != "multipart/form-data":
        _masters(request, asked)
        _salt(request, asked)
    config = request.app[CONFIG]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(request, request.content_length))
        await go_on(request)
        body = await open_body(request, config.read_timeout, MASK)
        masters, salt = _masters(request, body.asked), _salt(request, body.asked)
        spool = await asyncio.to_thread(Spool, request.app[STATE])
        stack.push_async_callback(asyncio.to_thread, spool.close)
        spill = Spill(spool.path / "unread", config.stream_spill, grace=_GRACE)
        stack.push_async_callback(spill.close)
        pieces = counted(request, body.pieces)
        arrival = Arrival(request, pieces, spool.path, config.stream_spill)
        stack.push_async_callback(arrival.close)
        work = _Work(request, arrival.pieces(), body.asked, masters, spool.path, spill)
        if body.asked.raw:
            making, headers = work.raw(masters[0].raw_key(salt)), _raw_headers(request, body.asked, salt)
        elif body.asked.inverse:
            making, headers = work.unmasked(), _file_headers("unmasked")
        else:
            making, headers = work.masked(), _file_headers("masked")
        return await send_what_comes(request, spill, making, headers, arrival.wait)


def _file_headers(name: str) -> dict[str, str]:
    return {
        "Content-Type": facts.CONTAINER_TYPE,
        "Content-Disposition": attachment(f"{name}.h4mk"),
        "Cache-Control": "no-store",
    }


def _raw_headers(request: web.Request, asked: MaskingAsked, salt: bytes) -> dict[str, str]:
    headers = {"Content-Type": facts.OPAQUE, "Cache-Control": "no-store"}
    if not asked.inverse:
        headers[SALT] = salt.hex()
    if request.content_type != "multipart/form-data" and request.content_length is not None:
        headers["Content-Length"] = str(request.content_length)
    return headers


# -- keys


def _masters(request: web.Request, asked: MaskingAsked) -> tuple[MasterKey, ...]:
    """The keys that a request names or brings. Raises UsageError, KeyRefusedError."""
    texts = request.headers.getall(MASTER, [])
    if len(texts) + (asked.master is not None) + bool(asked.keys) > 1:
        raise UsageError("more than one way to the key", expected=f"key, {MASTER} or master_key")
    if texts or asked.master is not None:
        if not _is_unread(request):
            raise UsageError(
                "a master key is only taken over TLS or on this machine; this one may have been read already"
            )
        return (asked.master or parse_master(texts[0]),)
    if asked.keys:
        masters = masters_named(request.app[KEYRING], asked.keys)
        if asked.raw and len(masters) > 1:
            raise UsageError("a raw stream has one key", found=len(masters))
        return masters
    if asked.inverse and not asked.raw:
        if masters := request.app[KEYRING].masters():
            return masters
        raise KeyRefusedError("there is no key in the server's keyring")
    raise UsageError("key is missing", expected=f"the id of a key of the server, or a master key in {MASTER}")


def _is_unread(request: web.Request) -> bool:
    """Whether nobody on the way can read a request: over TLS, here or at a proxy that is believed, or within
    this machine."""
    if is_private(request):
        return True
    # A proxy on this machine speaks for clients elsewhere, and need not say so. Where a server is made for
    # others than this machine, what comes from here may come from anywhere.
    config = request.app[CONFIG]
    if config.auth or config.public_read or is_forwarded(request):
        return False
    host = re.sub(r":[0-9]*$", "", request.headers.get("Host", "localhost")).strip("[]")
    return _is_loopback(request.remote or "") and (host.lower() == "localhost" or _is_loopback(host))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _salt(request: web.Request, asked: MaskingAsked) -> bytes:
    """The salt of a raw stream: a new one, or with `inverse` the one it has. Raises UsageError."""
    texts = request.headers.getall(SALT, [])
    if asked.raw and asked.inverse:
        if len(texts) != 1 or not _HEX.fullmatch(texts[0]):
            raise UsageError(f"{SALT} is missing or not valid", expected="64 hexadecimal digits")
        return bytes.fromhex(texts[0])
    if texts:
        # Whoever could choose it could make two streams with one keystream.
        raise UsageError(f"{SALT} is for inverse=1 with format=raw")
    return secrets.token_bytes(SALT_SIZE)


# -- work


class _Work:
    """What makes the answer's bytes out of the body's, into a spill. Each way is used once."""

    def __init__(
        self,
        request: web.Request,
        pieces: AsyncIterator[bytes],
        asked: MaskingAsked,
        masters: tuple[MasterKey, ...],
        folder: Path,
        spill: Spill,
    ) -> None:
        self._desk = request.app[DESK]
        self._config = request.app[CONFIG]
        self._pieces = pieces
        self._asked = asked
        self._masters = masters
        self._folder = folder
        self._spill = spill

    async def raw(self, key: bytes) -> None:
        """Mask or unmask byte for byte."""
        done = 0
        async for piece in self._pieces:
            # As long as the pieces that a connection reads, this takes less than a change to a thread.
            await self._spill.put(bytes(xor_mask(piece, key, done)))
            done += len(piece)
        self._spill.patient = True

    async def masked(self) -> None:
        """A masked container."""
        pipe = Pipe()

        def look() -> None:
            if pipe.failure is not None:
                raise pipe.failure

        def work(sink: Sink) -> None:
            config = self._config
            limits = Limits(memory=config.demux_memory, cpu=config.demux_cpu, samples=config.decode_samples)
            try:
                export(
                    pipe,  # type: ignore[arg-type]  # `export` takes anything that has `read`
                    sink,  # type: ignore[arg-type]  # and anything that has `write`
                    replace(self._asked.options, mask=MaskSpec(self._masters, mode="random")),
                    demuxer=default_demuxer(limits, look),
                    spool_folder=self._folder,
                )
                sink.flush()
            finally:
                pipe.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed(pipe))
            group.create_task(self._in_thread(work, pipe))

    async def _feed(self, pipe: Pipe) -> None:
        try:
            async for piece in self._pieces:
                if not await pipe.put(piece):
                    return  # it has failed, and says why
            pipe.end()
            self._spill.patient = True
        except BaseException as error:
            pipe.fail(error if isinstance(error, Exception) else SourceError("nobody wants it any more"))
            raise

    async def _in_thread(self, work: Callable[[Sink], None], pipe: Pipe | None = None) -> None:
        """Run work in a thread, which ends before this does."""
        sink = Sink(self._spill.put)
        future = self._desk.in_thread(work, sink)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            sink.stop()
            if pipe is not None:
                pipe.fail(SourceError("nobody wants it any more"))
            await asyncio.wait([future])
            future.exception()
            raise

    async def unmasked(self) -> None:
        """The container that a masked one was: first all of it comes to the disk."""
        path = self._folder / "masked.h4mk"
        try:
            async with aiofiles.open(path, "xb", buffering=0) as file:
                async for piece in self._pieces:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[await file.write(rest) :]
        except OSError as error:
            raise StorageError(f"the container cannot be kept: {error.strerror}") from error
        self._spill.patient = True

        def work(sink: Sink) -> None:
            try:
                with H4MKReader(path) as reader:
                    unmask_container(reader, sink, self._masters)
            except FormatError as error:
                # The client's bytes are wrong, and not a container of the server.
                raise MediaError(f"the body is no sound masked container: {error}") from None
            sink.flush()

        await self._in_thread(work)
