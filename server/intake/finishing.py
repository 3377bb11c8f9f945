"""Uploads whose last byte has come become containers, each as a job; those that a killed server left, too.

An upload stays in hand (`uploads.Held`) while its export runs, so exactly one of all workers does it. Its job
keeps its id when it is started again, and its bytes are kept until it has come to its end.
"""

from __future__ import annotations

import asyncio
import filecmp
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Final

import aiofiles

from harmony4.crypto.errors import HarmonyError, NotFoundError, StorageError
from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.intake.admission import place
from harmony4.server.intake.body import Asked
from harmony4.server.intake.desk import Closing, Desk, Export
from harmony4.server.intake.jobs import ACTIVE, new_id
from harmony4.server.intake.shelf import Match
from harmony4.server.intake.tusfields import asked_for, parse_metadata
from harmony4.server.intake.uploads import Held, Uploads
from harmony4.server.library import Library
from harmony4.server.ranges import matcher
from harmony4.server.state import State

__all__ = ["Finisher"]

_LOG: Final = logging.getLogger("harmony4.server")
_PIECE: Final = 2**20
_SWEEP: Final = 30.0
"""Seconds between two looks for uploads that have expired or were left."""


class Finisher:
    """All exports of uploads of one application. For one event loop."""

    def __init__(self, config: Config, library: Library, state: State, desk: Desk) -> None:
        self.uploads: Final = Uploads(state, config.upload_ttl)
        self._config = config
        self._library = library
        self._state = state
        self._desk = desk

    async def begin(self, held: Held, after: Closing) -> str:
        """Make the container of a complete upload, behind; returns the job's id.

        From here on `held` is the finisher's, even if this raises; `after` is closed when it is done. Raises
        StorageError: it is tried again later.
        """
        try:
            again, number = held.known.job is not None, held.known.job or new_id()
            if not again:
                await asyncio.to_thread(held.note, job=number)
            asked = asked_for(parse_metadata(held.known.metadata or ""))
            one = await self._desk.start(
                asked.options, number=number, name=asked.name, size=held.known.length, restarts=True
            )
        except BaseException:
            held.release()
            await after.aclose()
            raise
        self._desk.behind(self._run(one, held, asked, after, again))
        return number

    async def _run(self, one: Export, held: Held, asked: Asked, after: Closing, again: bool) -> None:
        match = None if held.known.match is None else matcher(held.known.match)
        try:
            with suppress(HarmonyError, Problem):
                await self._export(one, held, asked, match, again)
            # Left for later, if the server stops.
            if one.pipe.failure is None or getattr(one.pipe.failure, "code", None) != "stopping":
                await asyncio.to_thread(held.finish)
        except HarmonyError as error:
            _LOG.warning("the end of an upload cannot be noted: %s", error)
        finally:
            held.release()
            await after.aclose()

    async def _export(self, one: Export, held: Held, asked: Asked, match: Match | None, again: bool) -> None:
        assert asked.name is not None
        try:
            async with aclosing(self._pieces(held)) as pieces:
                await self._desk.feed(one, pieces)
        except BaseException:
            await self._desk.abandon(one)
            raise
        if again and await self._is_there(one, asked.name):
            await self._desk.finish(one, None, None)
            await self._desk.close(one)
        else:
            await self._desk.finish(one, asked.name, match)

    async def _pieces(self, held: Held) -> AsyncGenerator[bytes, None]:
        try:
            async with aiofiles.open(held.data, "rb", buffering=0) as file:
                while piece := await file.read(_PIECE):
                    if self._desk.stopping:
                        raise Problem("stopping", "the server is stopping")
                    yield piece
        except OSError as error:
            raise StorageError(f"an upload cannot be read: {error.strerror}") from error

    async def _is_there(self, one: Export, name: str) -> bool:
        """Whether this very container has its name already: a server was killed just after giving it."""
        path = self._library.root / name
        try:
            await asyncio.shield(one.done)
            return await asyncio.to_thread(filecmp.cmp, one.made, path, shallow=False)
        except (HarmonyError, Problem, OSError):  # what the export itself raises, `Desk.finish` says
            return False

    async def keep(self) -> None:
        """Remove uploads that have expired, take up those that were left; until cancelled."""
        while True:
            try:
                if self._state.path.exists():
                    await asyncio.to_thread(self.uploads.sweep)
                    left = self.uploads.complete()
                    while (held := await asyncio.to_thread(next, left, None)) is not None:
                        await self._take_up(held)
            except Exception:
                _LOG.exception("looking after uploads failed; it goes on")
            await asyncio.sleep(_SWEEP)

    async def _take_up(self, held: Held) -> None:
        if await asyncio.to_thread(self._has_ended, held):
            await asyncio.to_thread(held.finish)
            held.release()
            return
        async with AsyncExitStack() as stack:
            most = self._config.max_uploads
            try:
                taken = place(self._state, "left", most=most, each=most)
                await asyncio.to_thread(taken.__enter__)
            except Problem:  # none is free: next time
                held.release()
                return
            stack.callback(taken.__exit__, None, None, None)
            with suppress(StorageError):
                await self.begin(held, stack.pop_all())

    def _has_ended(self, held: Held) -> bool:
        """Whether the job has come to its end, and only that could not be noted of the upload any more."""
        if held.known.job is None:
            return False
        try:
            return self._desk.jobs.read(held.known.job)["state"] not in ACTIVE
        except NotFoundError:
            return False
