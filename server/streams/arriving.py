"""POST `/video/stream`: media in, their tokens out, while they are still arriving (full duplex).

Three tasks: the body feeds the tokenizer's thread, tokens become text in a `Spill`, the text goes out to
the client. A client that reads nothing until it has sent everything holds up none of them before the spill
is full.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, Final

from aiohttp import web

from harmony4.crypto.errors import HarmonyError, LimitError, SourceError, UsageError
from harmony4.server import facts
from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.ingest import ExportOptions, export_note, make_tokenizer, track_info
from harmony4.server.intake.admission import LOOK
from harmony4.server.intake.body import Body, check_head, go_on, open_body, wait_to_go_on
from harmony4.server.intake.exports import admitted
from harmony4.server.keys import CONFIG, DESK, STATE
from harmony4.server.sandbox import Limits, default_demuxer
from harmony4.server.state import Spool
from harmony4.server.streams.forms import END, Form, chosen
from harmony4.server.streams.outlet import Outlet
from harmony4.server.streams.spill import Spill
from harmony4.tokenize.video import VideoTransportTokenizer

__all__ = ["routes"]

_SEAL: Final = "00000000"
"""What the tokens belong to has no seal yet."""
_QUIET: Final = 15.0
"""Seconds without an event until a comment is sent."""
_AHEAD: Final = 2**21
"""Bytes of blocks whose tokens may wait for the event loop, and the most tokens."""
_MOST_AHEAD: Final = 256
_LOOK: Final = 0.5
"""Seconds between two looks whether the client is still there, while there is nothing to send."""


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.post("/video/stream", post_stream, expect_handler=wait_to_go_on)]


async def post_stream(request: web.Request) -> web.StreamResponse:
    """The tokens of the media in the body: 200.

    Refused before the first token: 400, 406, 408, 413, 415, 422, 429, 503, 507.
    """
    form = chosen(request.headers.getall("Accept", []))(_SEAL, 0)
    check_head(request)
    config = request.app[CONFIG]
    async with admitted(request, request.content_length):
        await go_on(request)
        body = await open_body(request, config.read_timeout)
        asked = body.asked
        if asked.name is not None or asked.options.remux or asked.options.title is not None or asked.job:
            raise UsageError("nothing is stored here", expected="block_size, fps_hint, gop, raw")
        spool = await asyncio.to_thread(Spool, request.app[STATE])
        try:
            return await _Arriving(request, form, config, spool).run(body)
        finally:
            await asyncio.to_thread(spool.close)


class _Arriving:
    """One upload, and the answer to it."""

    def __init__(self, request: web.Request, form: Form, config: Config, spool: Spool) -> None:
        self._request = request
        self._form = form
        self._config = config
        self._spool = spool
        self._spill = Spill(spool.path / "unread", config.stream_spill)
        self._gone = threading.Event()
        self._begun = asyncio.Event()

    async def run(self, body: Body) -> web.StreamResponse:
        making = asyncio.create_task(self._make(body))
        try:
            # What is wrong with the first bytes is said by a status.
            making.add_done_callback(lambda _: self._begun.set())
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUIET):
                    await self._begun.wait()
            if making.done() and not self._spill.used:
                await making  # it raises
            outlet = Outlet(self._request, self._form)
            async with outlet:
                await outlet.write(self._form.begin())
                await self._send(outlet, making)
            return outlet.response
        finally:
            self._gone.set()
            making.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await making
            await self._spill.close()

    async def _send(self, outlet: Outlet, making: asyncio.Task[None]) -> None:
        quiet = 0.0
        while (data := await self._spill.take(_LOOK)) != b"":
            if data is not None:
                quiet = 0.0
                await outlet.write(data)
                continue
            quiet += _LOOK
            if not outlet.alive:
                raise ConnectionResetError("the client has left")
            if outlet.stopping:
                await outlet.fail(Problem("stopping", "the server is stopping"))
                return
            if quiet >= _QUIET:
                quiet = 0.0
                await outlet.write(self._form.ping)
        try:
            await making
        except (HarmonyError, Problem) as error:
            await outlet.fail(error)

    async def _make(self, body: Body) -> None:
        """All tokens as text, into the spill."""
        try:
            await self._tokenize(body)
        finally:
            self._spill.end()

    async def _tokenize(self, body: Body) -> None:
        options: ExportOptions = body.asked.options
        limits = Limits(memory=self._config.demux_memory, cpu=self._config.demux_cpu)
        tokenizer = make_tokenizer(options, default_demuxer(limits, self._look), self._spool.path)
        form, count, end = self._form, 0, 0
        ahead = max(1, min(_AHEAD // options.block_size, _MOST_AHEAD))
        async with aclosing(tokenizer.batches(self._counted(body.pieces), ahead=ahead)) as batches:
            async for batch in batches:
                if not count:
                    await self._begin(tokenizer)
                text = [
                    form.token(token, number, facts.token_facts(token.record))
                    for number, token in enumerate(batch, count)
                ]
                await self._spill.put(b"".join(text))
                count, end = count + len(batch), batch[-1].record.end
        if not count:
            await self._begin(tokenizer)
        track = track_info(tokenizer)
        done: dict[str, Any] = {
            "tokens": count,
            "bytes": tokenizer.consumed,
            "duration": end,
            "steps": [{"pts": one.pts, "shift": one.shift} for one in tokenizer.steps],
            "note": export_note(tokenizer, options, track),
        }
        await self._spill.put(form.event("done", done, index=END))

    async def _begin(self, tokenizer: VideoTransportTokenizer) -> None:
        track = track_info(tokenizer)
        meta = {
            "track": 0,
            "kind": track.kind,
            "codec": track.codec,
            "media_type": track.media_type,
            "self_framing": track.self_framing,
            "timing": track.timing,
            "origin": str(tokenizer.origin),
            "spooled": tokenizer.spooled,
        }
        await self._spill.put(self._form.event("meta", meta))
        self._begun.set()

    async def _counted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        most, room, received, looked = self._config.max_upload, self._request.app[DESK].room, 0, 0
        async for piece in pieces:
            received += len(piece)
            if most and received > most:
                raise LimitError("the upload is too large", expected=f"<= {most} bytes")
            if received - looked >= LOOK:
                looked = received  # all of it may have to be spooled
                await asyncio.to_thread(room.check, roughly=True)
            yield piece
        self._spill.patient = True  # nothing of the client's waits for us any more

    def _look(self) -> None:
        """In the demuxer's thread: nothing more is wanted of it."""
        if self._gone.is_set():
            raise SourceError("the client has left")
