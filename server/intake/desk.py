"""The desk: media that arrive on the event loop become containers in threads, each as a job.

One export per thread, fed through a `Pipe`, or out of a file that is there already; the demuxer has a process
of its own (`sandbox.py`). Whatever ends an export early, a client that leaves, a limit, a cancellation, the
end of the server, fails its pipe; the thread then unwinds, and its spool goes with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from harmony4.crypto.errors import HarmonyError, LimitError, StorageError
from harmony4.server.audit import ACTOR, AuditLog
from harmony4.server.config import Config
from harmony4.server.errors import Problem, describe
from harmony4.server.exporting.ingest import ExportOptions, ExportResult, export
from harmony4.server.folder import facts
from harmony4.server.folder.library import Library
from harmony4.server.intake.admission import LOOK, Room
from harmony4.server.intake.jobs import Job, Jobs
from harmony4.server.intake.shelf import Match, Shelf
from harmony4.server.masking.asked import MaskAsked
from harmony4.server.masking.keys import Keyring
from harmony4.server.sandboxing.sandbox import Limits, default_demuxer
from harmony4.server.sandboxing.sandbox_sound import default_decoder
from harmony4.server.state import Spool, State, sweep_spools, sweep_streams
from harmony4.tokenize.pipe import Pipe

__all__ = ["Desk", "Export", "passes"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_LOG: Final = logging.getLogger("harmony4.server")
_PASSING: Final = frozenset({"stopping", "full", "storage", "source", "busy"})
_TICK: Final = 0.5
"""Seconds between two looks for jobs that somebody wants to stop, and between two notes of what has come."""
_SWEEP: Final = 30.0
"""Seconds between two rounds of removing what has expired."""


class CancelledProblem(Problem):
    """Somebody cancelled the job."""

    def __init__(self) -> None:
        super().__init__("cancelled", "the job was cancelled")


def passes(error: BaseException | None) -> bool:
    """Whether another try may succeed: the server stops, or lacks something for the moment."""
    return getattr(error, "code", None) in _PASSING


class Closing(Protocol):
    """What is closed when a job is done."""

    async def aclose(self) -> None:
        """Close it."""


@dataclass(eq=False, slots=True)
class Export:
    """An export that runs."""

    job: Job
    pipe: Pipe
    spool: Spool
    done: asyncio.Future[ExportResult]
    received: int = 0
    masked: tuple[str, ...] = ()
    """Ids or names of the keys that it is masked with."""
    feeding: asyncio.Timeout | None = None
    """Ends the wait for more of the body."""

    @property
    def made(self) -> Path:
        """Where the container is, once it is done."""
        return self.spool.path / "made.h4mk"

    def stop(self, error: HarmonyError | Problem) -> None:
        """Let it fail, now; on the event loop."""
        self.pipe.fail(error)
        self.stop_feeding()

    def stop_feeding(self, _done: object = None) -> None:
        """Nobody reads any more of the body."""
        if self.feeding is not None and not self.feeding.expired():
            self.feeding.reschedule(asyncio.get_running_loop().time())


class Desk:
    """All exports of one application. For one event loop."""

    def __init__(self, config: Config, library: Library, state: State, keyring: Keyring) -> None:
        self._keyring = keyring
        self.jobs: Final = Jobs(state)
        self.audit: Final = AuditLog(state)
        self.shelf: Final = Shelf(library, state, self.audit)
        self.room: Final = Room(library.root, state, quota=config.quota, least=config.min_free)
        self.stopping = False
        """What runs now has had its time."""
        self._config = config
        self._state = state
        self._running: set[Export] = set()
        self._behind: set[asyncio.Task[Any]] = set()
        # As many threads as there are places: who has a place must not wait for another's end.
        self._threads = ThreadPoolExecutor(config.max_uploads, thread_name_prefix="harmony4-export")
        self._limits = Limits(memory=config.demux_memory, cpu=config.demux_cpu, samples=config.decode_samples)

    # -- an export

    async def start(
        self,
        options: ExportOptions,
        *,
        mask: MaskAsked | None = None,
        number: str | None = None,
        source: Path | None = None,
        **about: Any,
    ) -> Export:
        """Begin an export, whose bytes come by `feed`, or are in the file `source`.

        `about` is what its job says of it; `number`: the job's id, if it has one already. It fails where the
        keys for `mask` are not there. Raises StorageError.
        """
        spool = await asyncio.to_thread(Spool, self._state)
        try:
            job = await asyncio.to_thread(self.jobs.start, number, received=0, blocks=0, **about)
        except BaseException:
            await asyncio.to_thread(spool.close)
            raise
        pipe = Pipe()
        loop = asyncio.get_running_loop()
        one = Export(job, pipe, spool, loop.create_future(), masked=() if mask is None else mask.keys)
        if source is not None:
            one.received = (await asyncio.to_thread(source.stat)).st_size
        one.done = loop.run_in_executor(self._threads, self._run, one, options, mask, source)
        self._running.add(one)
        return one

    def in_thread(self, work: Callable[[_T], _R], one: _T) -> asyncio.Future[_R]:
        """Do something for somebody who has a place, in one of the threads that there are for that."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work, one)

    def _run(
        self, one: Export, options: ExportOptions, mask: MaskAsked | None, source: Path | None
    ) -> ExportResult:
        rarely = max(
            1, LOOK // options.block_size
        )  # blocks may be smaller, and are looked at more often then

        def look() -> None:
            if one.pipe.failure is not None:
                raise one.pipe.failure

        def progress(_consumed: int, _size: int | None) -> None:
            blocks = int(one.job.facts["blocks"]) + 1
            one.job.note(received=one.received, blocks=blocks)
            if one.job.cancelled:
                one.pipe.fail(CancelledProblem())
            look()
            if blocks % rarely == 0:
                self.room.check(roughly=True)

        try:
            if mask is not None:
                options = replace(options, mask=mask.spec(self._keyring))
            # A reader for itself: `export` takes anything that has `read`.
            return export(
                source or one.pipe,  # type: ignore[arg-type]
                one.made,
                options,
                progress=progress,
                demuxer=default_demuxer(self._limits, look),
                decoder=default_decoder(self._limits, look),
                spool_folder=one.spool.path,
            )
        finally:
            one.pipe.close()

    async def feed(self, one: Export, pieces: AsyncIterator[bytes]) -> None:
        """All bytes of a body into an export.

        Raises what broke it off; the export has failed with it then.
        """
        most, looked, clock = self._config.max_upload, 0, asyncio.get_running_loop().time
        due = clock()
        one.done.add_done_callback(one.stop_feeding)
        try:
            async with asyncio.timeout(None) as one.feeding:
                if one.pipe.failure is not None:
                    raise one.pipe.failure
                async for piece in pieces:
                    one.received += len(piece)
                    if most and one.received > most:
                        raise LimitError("the upload is too large", expected=f"<= {most} bytes")
                    if one.received - looked >= LOOK or clock() >= due:
                        # Before the first block all of it may have to be there: nobody else looks then.
                        looked, due = one.received, clock() + _TICK
                        await asyncio.to_thread(self._look, one)
                    if not await one.pipe.put(piece):
                        return  # it has failed: `finish` says why
            one.pipe.end()
        except TimeoutError:
            return  # as above: stopped, or failed by itself
        except BaseException as error:
            failure = (
                error if isinstance(error, HarmonyError | Problem) else Problem("body", "the client left")
            )
            one.pipe.fail(failure)
            raise
        finally:
            one.feeding = None

    def _look(self, one: Export) -> None:
        """What has to be seen to while bytes arrive. Raises Problem (507), StorageError."""
        self.room.check(roughly=True)
        one.job.note(received=one.received)

    async def abandon(self, one: Export) -> None:
        """After `feed` has raised: wait for the thread, note why, remove the spool."""
        assert one.pipe.failure is not None
        with suppress(HarmonyError, Problem):
            await one.done
        await self._fail(one, one.pipe.failure)

    async def finish(self, one: Export, name: str | None, match: Match | None) -> dict[str, Any]:
        """Wait for the container, give it its name, note how it ended. Returns what there is to say of it.

        Without a name the container stays in the spool, which is the caller's to close (`close`). After an
        error it is closed. Raises HarmonyError, Problem.
        """
        try:
            try:
                result = await asyncio.shield(one.done)
            except asyncio.CancelledError:
                one.pipe.fail(Problem("stopping", "the server is stopping"))
                with suppress(HarmonyError, Problem):
                    await one.done
                raise
            if one.job.cancelled:
                raise CancelledProblem
            await asyncio.to_thread(one.job.note, now=True, state="sealing", received=one.received)
            found = facts.export_facts(result)
            if name is not None:
                await asyncio.to_thread(self.room.check)
                about = {"masked": list(one.masked)} if one.masked else {}
                await self.shelf.call(self.shelf.put, one.made, name, match, **about)
                found = {"name": name, **found}
        except BaseException as error:
            await self._fail(one, error)
            raise
        try:
            await asyncio.to_thread(
                one.job.finish, "done", received=one.received, blocks=result.seal.blocks, result=found
            )
        except StorageError as error:  # the container is there all the same
            _LOG.error("the end of job %s cannot be noted: %s", one.job.id, error)
        finally:
            if name is not None:
                await self.close(one)
        return found

    async def _fail(self, one: Export, error: BaseException) -> None:
        if one.pipe.failure is not None and not isinstance(error, CancelledProblem):
            error = one.pipe.failure
        if one.job.facts.get("restarts") and passes(error):
            await asyncio.to_thread(one.job.leave)
            await self.close(one)
            return
        state = "cancelled" if isinstance(error, CancelledProblem) else "failed"
        if not isinstance(error, HarmonyError | Problem):
            _LOG.error("an export failed", exc_info=error)
        problem = describe(error)
        by = await asyncio.to_thread(one.job.cancelled_by)
        with suppress(HarmonyError):
            await asyncio.to_thread(one.job.finish, state, received=one.received, problem=problem)
        if state == "cancelled":
            # Here, where it ends so: who asks for it may ask often, or too late.
            await asyncio.to_thread(self._note_cancelled, one, by)
        await self.close(one)

    def _note_cancelled(self, one: Export, by: str | None) -> None:
        token = ACTOR.set(by or "unknown")
        try:
            self.audit.record("export-cancel", id=one.job.id, name=one.job.facts.get("name"))
        finally:
            ACTOR.reset(token)

    async def close(self, one: Export) -> None:
        """Remove what an export has in its spool."""
        self._running.discard(one)
        await asyncio.to_thread(one.spool.close)

    def go_on(self, one: Export, name: str | None, match: Match | None, *, after: Closing) -> None:
        """`finish` without anybody who waits; `after` is closed when it is done."""

        async def behind() -> None:
            try:
                await self.finish(one, name, match)
            except (HarmonyError, Problem) as error:
                _LOG.info("job %s failed: %s", one.job.id, error)
            finally:
                await after.aclose()

        self.behind(behind())

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something without anybody who waits, but `stop`."""
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    # -- the house

    async def keep(self) -> None:
        """Stop what somebody wants stopped, remove what has expired; until cancelled."""
        loop = asyncio.get_running_loop()
        swept = float("-inf")
        while True:
            try:
                if self._running:
                    for one in await asyncio.to_thread(self._unwanted, list(self._running)):
                        one.stop(CancelledProblem())
                if loop.time() - swept >= _SWEEP:
                    swept = loop.time()
                    await asyncio.to_thread(self._sweep)
            except Exception:
                _LOG.exception("looking after uploads failed; it goes on")
            await asyncio.sleep(_TICK)

    def cancel(self, number: str) -> None:
        """Stop a job at once if it runs in this process."""
        for one in self._running:
            if one.job.id == number:
                one.stop(CancelledProblem())

    def _unwanted(self, running: list[Export]) -> list[Export]:
        for one in running:
            # Where nothing more comes for the moment, nobody else says how far it is.
            with suppress(StorageError):
                one.job.catch_up(one.received)
        return [one for one in running if self.jobs.is_unwanted(one.job.id)]

    def _sweep(self) -> None:
        if not self._state.path.exists():
            return
        sweeps: list[Callable[[], None]] = [
            partial(sweep_spools, self._state),
            partial(self.jobs.sweep, self._config.job_ttl),
            partial(sweep_streams, self._state, self._config.job_ttl),
            partial(self.shelf.sweep, self._config.trash_retention),
            self.audit.retry,
        ]
        for sweep in sweeps:  # one that fails keeps none of the others from its work
            try:
                sweep()
            except HarmonyError as error:
                _LOG.error("what has expired cannot be removed: %s", error)

    async def stop(self, patience: float) -> None:
        """Let exports that have all their bytes come to their end, for up to `patience` seconds; then end
        them.
        """
        if self._behind and patience > 0:
            await asyncio.wait(self._behind, timeout=patience)
        self.stopping = True
        for one in list(self._running):
            one.stop(Problem("stopping", "the server is stopping"))
        if self._behind:
            await asyncio.wait(self._behind)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.shelf.close)
        # What still waits is in memory alone.
        await asyncio.to_thread(self.audit.close)
