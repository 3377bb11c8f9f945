"""Tokens that are made while somebody reads them.

Two tasks: tokens of the source become text in a `Spill`, and the text goes out to the client. A client that
reads nothing until it has sent everything holds up neither of them before the spill is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

from harmony4.crypto.errors import HarmonyError
from harmony4.server.errors import Problem
from harmony4.server.keys import CONFIG
from harmony4.server.streams.forms import END, Form
from harmony4.server.streams.outlet import Outlet
from harmony4.server.streams.proxied import refuse_too_much
from harmony4.server.streams.spill import Spill
from harmony4.server.streams.work import Work
from harmony4.tokenize.tokens import Token

__all__ = ["Making"]

_T = TypeVar("_T", bound=Token)

_QUIET: Final = 15.0
"""Seconds without an event until a comment is sent."""
_LOOK: Final = 0.5
"""Seconds between two looks whether the client is still there, while there is nothing to send."""


class Making(Generic[_T]):
    """The answer to one request."""

    def __init__(
        self,
        request: web.Request,
        form: Form,
        work: Work[_T],
        folder: Path,
        *,
        about: dict[str, Any] | None = None,
        wanted: Callable[[int, _T], bool] = lambda number, token: True,
        replaced: bool = False,
        resumable: bool = False,
    ) -> None:
        """`folder`: for what is not read yet. `about`: what `meta` says besides. `wanted`: of a token and its
        number, whether it is sent. `replaced`: the client was at something that is gone.
        `resumable`: it may come back and go on.
        """
        self._request = request
        self._form = form
        self._work = work
        self._about = about or {}
        self._wanted = wanted
        self._replaced = replaced
        self._resumable = resumable
        self._spill = Spill(folder / "unread", request.app[CONFIG].stream_spill)
        self._begun = asyncio.Event()

    @property
    def patient(self) -> bool:
        """Whether text waits for the client, instead of being put on the disk: it sends nothing any more."""
        return self._spill.patient

    @patient.setter
    def patient(self, value: bool) -> None:
        self._spill.patient = value

    async def run(
        self,
        pieces: AsyncIterator[bytes],
        wait: Callable[[asyncio.Task[None]], Awaitable[None]] | None = None,
    ) -> web.StreamResponse:
        """Answer, after `wait` for the task that makes the tokens.

        Raises HarmonyError and Problem while nothing has been sent.
        """
        making = asyncio.create_task(self._make(pieces))
        try:
            if wait is not None:
                await wait(making)
                refuse_too_much(making)
            # What is wrong with the first bytes is said by a status.
            making.add_done_callback(lambda _: self._begun.set())
            await self._wait_to_begin()
            if making.done() and not self._spill.used:
                await making  # it raises
            outlet = Outlet(self._request, self._form)
            async with outlet:
                await outlet.write(self._form.begin() + (self._form.reset() if self._replaced else b""))
                await self._send(outlet, making)
            return outlet.response
        finally:
            self._work.gone.set()
            making.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await making
            await self._spill.close()

    async def _wait_to_begin(self) -> None:
        """Until there is something to say, or a client would lose its patience."""
        until = asyncio.get_running_loop().time() + _QUIET
        while not self._begun.is_set() and asyncio.get_running_loop().time() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._begun.wait()
            if self._request.transport is None:
                raise ConnectionResetError("the client has left")

    async def _send(self, outlet: Outlet, making: asyncio.Task[None]) -> None:
        quiet = 0.0
        while (data := await self._spill.take(_LOOK)) != b"":
            if data is not None:
                quiet = 0.0
                await outlet.write(data)
            else:
                quiet += _LOOK
                if not outlet.alive:
                    raise ConnectionResetError("the client has left")
            if self._resumable and outlet.stopping:
                await outlet.say_goodbye()
                return
            if outlet.over:
                await outlet.fail(Problem("stopping", "the server is stopping"))
                return
            if quiet >= _QUIET:
                quiet = 0.0
                await outlet.write(self._form.ping)
        try:
            await making
        except (HarmonyError, Problem) as error:
            await outlet.fail(error, index=END)

    async def _make(self, pieces: AsyncIterator[bytes]) -> None:
        """All tokens as text, into the spill."""
        try:
            await self._tokenize(pieces)
        finally:
            self._spill.end()

    async def _tokenize(self, pieces: AsyncIterator[bytes]) -> None:
        form, work, wanted = self._form, self._work, self._wanted
        count = sent = 0
        last: _T | None = None
        async with aclosing(work.batches(pieces)) as batches:
            async for batch in batches:
                if last is None:
                    await self._begin()
                text = [
                    form.token(token, number, work.data(token))
                    for number, token in enumerate(batch, count)
                    if wanted(number, token)
                ]
                if text:
                    await self._spill.put(b"".join(text))
                await asyncio.sleep(0)  # the spill may take all of it without waiting
                count, sent, last = count + len(batch), sent + len(text), batch[-1]
        if last is None:
            await self._begin()
        await self._spill.put(form.event("done", {"tokens": sent, **work.done(last)}, index=END))

    async def _begin(self) -> None:
        await self._spill.put(self._form.event("meta", {**self._about, **self._work.meta()}))
        self._begun.set()
