"""Uploads whose last byte has come become containers, each as a job; those that a killed server left, too.

An upload stays in hand (`uploads.Held`) while its export runs, so exactly one of all workers does it. Its job
keeps its id when it is started again, and its bytes are kept until it has come to its end. What the server
lacks for the moment, such as room, is none: it is tried again as long as an unfinished upload is kept.
"""

from __future__ import annotations

import asyncio
import filecmp
import logging
import time
from contextlib import AsyncExitStack
from typing import Final

from harmony4.crypto.errors import HarmonyError, NotFoundError, StorageError
from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.folder.library import Library
from harmony4.server.intake.admission import place
from harmony4.server.intake.body import Asked
from harmony4.server.intake.desk import Closing, Desk, Export, passes
from harmony4.server.intake.jobs import ACTIVE, new_id
from harmony4.server.intake.shelf import Match
from harmony4.server.intake.tusfields import asked_for, parse_metadata
from harmony4.server.intake.uploads import Held, Uploads
from harmony4.server.reading.ranges import matcher
from harmony4.server.state import State

__all__ = ["Finisher"]

_LOG: Final = logging.getLogger("harmony4.server")
_SWEEP: Final = 30.0
"""Seconds between two looks for uploads that have expired or were left."""
_LONGEST_PAUSE: Final = 600.0
"""Seconds until an export is tried again that failed for want of something, at most."""


class Finisher:
    """All exports of uploads of one application. For one event loop."""

    def __init__(self, config: Config, library: Library, state: State, desk: Desk) -> None:
        self.uploads: Final = Uploads(state, config.upload_ttl, desk.audit)
        self._config = config
        self._library = library
        self._state = state
        self._desk = desk
        self._later: dict[str, tuple[float, float]] = {}
        """When to try an upload again, on the loop's clock, and the pause before, seconds."""

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
                asked.options,
                mask=asked.mask,
                number=number,
                source=held.data,
                name=asked.name,
                size=held.known.length,
                restarts=await asyncio.to_thread(self._has_time, held),
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
            try:
                await self._export(one, asked, match, again)
            except (HarmonyError, Problem) as error:
                if one.job.facts["restarts"] and passes(error):
                    self._put_off(held.id)
                    _LOG.warning("job %s is left for later: %s", one.job.id, error)
                    return
            self._later.pop(held.id, None)
            await asyncio.to_thread(held.finish)
        except HarmonyError as error:
            _LOG.warning("the end of an upload cannot be noted: %s", error)
        finally:
            held.release()
            await after.aclose()

    async def _export(self, one: Export, asked: Asked, match: Match | None, again: bool) -> None:
        assert asked.name is not None
        if again and await self._is_there(one, asked.name):
            await self._desk.finish(one, None, None)
            await self._desk.close(one)
        else:
            await self._desk.finish(one, asked.name, match)

    def _put_off(self, number: str) -> None:
        _, pause = self._later.get(number, (0.0, _SWEEP / 2))
        pause = min(2 * pause, _LONGEST_PAUSE)
        self._later[number] = asyncio.get_running_loop().time() + pause, pause

    def _has_time(self, held: Held) -> bool:
        """Whether it may be tried again later. Raises StorageError."""
        try:
            return time.time() - held.data.stat().st_mtime < self._config.upload_ttl
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
        """Begin the export of an upload that was left, or note that it has ended. Errors are those of one
        upload: the next one gets its turn.
        """
        if self._later.get(held.id, (0.0, 0.0))[0] > asyncio.get_running_loop().time():
            held.release()
            return
        try:
            if await asyncio.to_thread(self._has_ended, held):
                await asyncio.to_thread(held.finish)
                held.release()
                return
            await asyncio.to_thread(self._desk.room.check, held.known.length)
            async with AsyncExitStack() as stack:
                most = self._config.max_uploads
                taken = place(self._state, "left", most=most, each=most)
                await asyncio.to_thread(taken.__enter__)
                stack.callback(taken.__exit__, None, None, None)
                await self.begin(held, stack.pop_all())
        except BaseException as error:
            held.release()
            if not isinstance(error, HarmonyError | Problem):
                raise
            if getattr(error, "code", None) != "busy":  # where no place is free: next time
                self._put_off(held.id)
                _LOG.warning("an upload cannot be taken up: %s", error)

    def _has_ended(self, held: Held) -> bool:
        """Whether the job has come to its end, and only that could not be noted of the upload any more."""
        if held.known.job is None:
            return False
        try:
            return self._desk.jobs.read(held.known.job)["state"] not in ACTIVE
        except NotFoundError:
            return False
