"""`/events`: what happens to jobs and in the library, as it happens, whoever does it (SSE).

Every worker watches the folders (inotify through watchfiles where there is one), so it sees what other
workers, programs and people do. What stands in the library is compared as a whole, soon after anything has
changed there and now and then: a folder full of containers that is moved in needs no event for each of
them. While nobody listens nothing is compared.

    job    a job's facts, when they change, and at the beginning those of every job that runs
    media  {"change": "added" | "changed" | "removed", "name", "size"}

Events have no ids: a client that comes back gets the jobs that run, and asks `/media` for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import watchfiles
from aiohttp import web

from harmony4.crypto.errors import HarmonyError
from harmony4.server import sse
from harmony4.server.folder.library import SUFFIX, Identity, Library, is_inside
from harmony4.server.folder.listing import scan
from harmony4.server.guard.caller import CALLER
from harmony4.server.intake.exports import shown
from harmony4.server.intake.jobs import Jobs
from harmony4.server.keys import DESK, EVENTS, GUARD

__all__ = ["Events", "routes"]

_LOG: Final = logging.getLogger("harmony4.server")
_SCAN: Final = 30.0
"""Seconds after which the library is compared though nothing was heard of it."""
_PAUSE: Final = 0.5
"""Seconds between two comparisons."""
_GATHER: Final = 200
"""Milliseconds in which changes are gathered."""
_LOOK: Final = 0.5
"""Seconds after which a client that has left is forgotten."""
_WORN: Final = 100_000
"""Changes, heeded or not, after which another watcher takes over: watchfiles keeps some 60 bytes of each
folder that was made and is gone, as is one for every upload."""
_QUIET: Final = 15.0
"""Seconds without an event until a comment is sent."""
_MOST: Final = 4096
"""Events that may wait for one client; who falls further behind is sent away, and comes back."""

Found = dict[bytes, Identity]


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.get("/events", get_events, allow_head=False)]


class _Listener:
    """One client: the last word about each thing, until it is sent."""

    def __init__(self, is_gone: Callable[[], bool]) -> None:
        self.is_gone: Final = is_gone
        """Whether the client has left."""
        self.waiting: dict[tuple[str, str], bytes] = {}
        self.heard = asyncio.Event()
        self.over = False
        self.since: float | None = None
        """When the oldest event that waits came, monotonic seconds."""

    def tell(self, name: str, about: str, data: object) -> None:
        """Something happened to `about`; an older word about it that still waits is out of date."""
        self.waiting.pop((name, about), None)
        if self.since is None:
            self.since = time.monotonic()
        self.waiting[name, about] = sse.event(name, data)
        self.over = self.over or len(self.waiting) > _MOST
        self.heard.set()

    def end(self) -> None:
        """Send it away."""
        self.over = True
        self.heard.set()


class _Watch:
    """How far one watcher is."""

    def __init__(self) -> None:
        self.begun: Final = asyncio.Event()
        """It has heard something, or nothing in half a minute."""
        self.worn: Final = asyncio.Event()
        """It has heard enough."""
        self._loop = asyncio.get_running_loop()
        self._heard = 0

    def hear(self) -> bool:
        """Something has changed; called in its thread. False: it is for others to say whether it matters."""
        self._heard += 1
        happens = {1: self.begun, _WORN: self.worn}.get(self._heard)
        if happens is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(happens.set)
        return False


class Events:
    """Everything that listens in one application. For one event loop."""

    def __init__(self, library: Library, jobs: Jobs) -> None:
        self._library = library
        self._jobs = jobs
        # The watcher names files below the folders that it was given.
        self._folder = Path(os.path.realpath(jobs.path))
        self._listeners: set[_Listener] = set()
        self._closed = False
        self._known: Found | None = None
        self._knows = asyncio.Event()
        self._wanted = asyncio.Event()
        self._stirred = asyncio.Event()

    async def listen(self, is_gone: Callable[[], bool]) -> _Listener:
        """Hear of everything that happens after this; `forget` it in the end.

        `is_gone`: whether the client has left, who would be found out only when there is something to say.
        """
        one = _Listener(is_gone)
        self._listeners.add(one)
        self._wanted.set()
        if self._closed:
            one.end()
        try:
            await self._knows.wait()
        except BaseException:
            self.forget(one)
            raise
        return one

    def forget(self, one: _Listener) -> None:
        """The client has left."""
        self._listeners.discard(one)
        if not self._listeners:
            self._wanted.clear()
            self._stirred.set()

    @property
    def listeners(self) -> int:
        """Clients that listen."""
        return len(self._listeners)

    @property
    def waiting(self) -> int:
        """Events that clients have still to take."""
        return sum(len(one.waiting) for one in self._listeners)

    @property
    def lag(self) -> float:
        """Seconds that the oldest of these has waited."""
        oldest = min((one.since for one in self._listeners if one.since is not None), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def look_around(self) -> None:
        """Let everybody look whether they may still listen."""
        for one in self._listeners:
            one.heard.set()

    def close(self) -> None:
        """Send everybody away: the server stops."""
        self._closed = True
        self._knows.set()
        for one in list(self._listeners):
            one.end()

    async def watch(self) -> None:
        """Look what happens, until cancelled."""
        loop = asyncio.get_running_loop()

        def heard(facts: dict[str, Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(self._tell, facts)

        # Those of this process need no watching; the folder may not even be there yet.
        self._jobs.heard = heard
        async with asyncio.TaskGroup() as both:
            both.create_task(self._listen_to_folders())
            both.create_task(self._look_at_library())
            both.create_task(self._look_for_the_gone())

    async def _look_for_the_gone(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            for one in self._listeners:
                if one.is_gone():
                    one.end()

    async def _listen_to_folders(self) -> None:
        while True:
            try:
                await self._watch_in_turn()
            except Exception:
                _LOG.exception("the library cannot be watched; it is looked at every %g s", _SCAN)
            await asyncio.sleep(_SCAN)

    async def _watch_in_turn(self) -> None:
        """Watch with one watcher after the other; each goes on until the next one has begun."""
        before: asyncio.Task[None] | None = None
        current: asyncio.Task[None] | None = None
        try:
            while True:
                watch = _Watch()
                before, current = current, asyncio.create_task(self._watch(watch))
                for until in (watch.begun, watch.worn):
                    wait = asyncio.create_task(until.wait())
                    await asyncio.wait({current, wait}, return_when=asyncio.FIRST_COMPLETED)
                    wait.cancel()
                    if current.done():
                        return current.result()
                    if before is not None:
                        before.cancel()
        finally:
            for one in (before, current):
                if one is not None:
                    one.cancel()

    async def _watch(self, watch: _Watch) -> None:
        folders = [self._library.root]
        if not self._folder.is_relative_to(self._library.root):
            with suppress(HarmonyError):  # where nothing can be written there are no jobs
                await asyncio.to_thread(lambda: self._jobs.folder)
                folders.append(self._folder)
        stop = threading.Event()
        found = watchfiles.watch(
            *folders,
            watch_filter=lambda change, text: watch.hear() or self._matters(change, text),
            debounce=_GATHER,
            rust_timeout=int(_SCAN * 1000),
            yield_on_timeout=True,
            stop_event=stop,
            ignore_permission_denied=True,
        )
        # In a thread of its own from the first folder on: many folders take a while to be watched.
        thread = ThreadPoolExecutor(1, "harmony4-watch")
        look = partial(asyncio.get_running_loop().run_in_executor, thread, next, found, None)
        try:
            while (changes := await look()) is not None:
                watch.begun.set()
                if not self._listeners or not changes:
                    continue
                numbers, stirred = self._sort_out(Path(text) for _, text in changes)
                if stirred:
                    self._stirred.set()
                for number in numbers:
                    await self._tell_job(number)
        finally:
            stop.set()
            thread.shutdown(wait=False)

    def _sort_out(self, paths: Iterable[Path]) -> tuple[set[str], bool]:
        """Of what has changed: which jobs, and whether there was anything else."""
        numbers, stirred = set(), False
        for path in paths:
            if path.parent == self._folder:
                numbers.add(path.stem)
            else:
                stirred = True
        return numbers, stirred

    def _matters(self, _change: watchfiles.Change, text: str) -> bool:
        path = Path(text)
        if path.parent == self._folder:
            return path.suffix == ".json"
        if not is_inside(path, self._library.root, self._library.without):
            return False
        return not any(part.startswith(".") for part in path.relative_to(self._library.root).parts)

    async def _look_at_library(self) -> None:
        """Compare soon after something was heard, and every now and then whatever is heard."""
        while True:
            if not self._wanted.is_set():
                self._known = None
                if not self._closed:
                    self._knows.clear()
                await self._wanted.wait()
            try:
                await self._compare()
            except Exception:
                _LOG.exception("the library cannot be looked at; it is tried again")
            self._knows.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SCAN):
                    await self._stirred.wait()
            await asyncio.sleep(_PAUSE)  # others may follow, which then cost nothing
            self._stirred.clear()

    async def _tell_job(self, number: str) -> None:
        with suppress(HarmonyError):
            self._tell(await asyncio.to_thread(self._jobs.read, number))

    def _tell(self, job: dict[str, Any]) -> None:
        for one in self._listeners:
            one.tell("job", job["id"], shown(job))

    async def _compare(self) -> None:
        entries = await asyncio.to_thread(scan, self._library.root, self._library.without)
        found: Found = {one.raw: one.identity for one in entries}
        known, self._known = self._known, found
        if known is None:
            return
        for name, data in _changes(known, found):
            for one in self._listeners:
                one.tell("media", name, data)


def _changes(known: Found, found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
    for raw in sorted(known.keys() | found.keys()):
        before, now = known.get(raw), found.get(raw)
        if before == now or not raw.endswith(SUFFIX.encode()):
            continue
        name = raw.decode(errors="replace")
        change = "added" if before is None else "removed" if now is None else "changed"
        yield name, {"change": change, "name": name, "size": None if now is None else now.size}


async def get_events(request: web.Request) -> web.StreamResponse:
    """The stream, until the client leaves or the server stops."""
    events = request.app[EVENTS]
    response = web.StreamResponse(headers=dict(sse.HEADERS))
    listener = await events.listen(lambda: request.transport is None)
    try:
        running = await asyncio.to_thread(lambda: list(request.app[DESK].jobs.active()))
        await response.prepare(request)
        # Headers go out with the first bytes: a client knows at once that it is heard.
        await response.write(sse.PING + b"".join(sse.event("job", shown(one)) for one in running))
        with suppress(ConnectionError):  # that the client leaves is how it ends
            async for data in _heard(listener, partial(request.app[GUARD].holds, request[CALLER])):
                await response.write(data)
            await response.write_eof()
    finally:
        events.forget(listener)
    return response


async def _heard(listener: _Listener, holds: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What there is to say, as long as what opened the stream would open it still."""
    while not listener.over:
        try:
            async with asyncio.timeout(_QUIET):
                await listener.heard.wait()
        except TimeoutError:
            if holds():
                yield sse.PING
                continue
            return
        listener.heard.clear()
        if not holds():
            return
        waiting, listener.waiting = listener.waiting, {}
        listener.since = None
        if waiting:
            yield b"".join(waiting.values())
