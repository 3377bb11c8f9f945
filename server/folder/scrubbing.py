"""Verifies the library again and again in the background, slowly, and says what it found.

One process of all that share the server's folder does it: who holds `locks/scrub`. Containers are read in the
order of their names at `scrub_rate` bytes a second, and after a round there is a pause. What was found of
each stands in `scrub.json`, from where `/media` and `/video/info` take it (`verified`); damage is logged
and counted as well.
Nothing is moved, hidden or mended: what to do about it is the operator's decision.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from aiohttp import web

from harmony4.crypto.errors import HarmonyError, StorageError
from harmony4.h4mk import verify
from harmony4.server.config import Config
from harmony4.server.folder.library import SUFFIX, Identity, Library, holds
from harmony4.server.folder.listing import Entry, scan
from harmony4.server.insight.tally import Tally
from harmony4.server.keys import CONFIG, LIBRARY, STATE, TALLY
from harmony4.server.state import State, hold, write_whole

__all__ = ["Findings", "Scrubber", "scrubbing"]

_LOG: Final = logging.getLogger("harmony4.server")
_PIECE: Final = 2**18
"""Bytes that are read in one go."""
_TRY: Final = 30.0
"""Seconds until somebody else's lock is looked at again, at most."""
_JOIN: Final = 5.0


class _StoppedError(Exception):
    """The server stops."""


class Findings:
    """What the last scrubbing of each container found, as all processes see it. Touches the disk."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._mark: tuple[int, int] | None = None
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def path(self) -> Path:
        """The file, if there is one."""
        return self._state.path / "scrub.json"

    def read(self) -> dict[str, dict[str, Any]]:
        """By name: `size` and `mtime_ns` of the file that was read, `ok`, `problem`, `at` (seconds)."""
        try:
            status = self.path.stat()
            mark = (status.st_mtime_ns, status.st_ino)
            if mark != self._mark:
                self._known = json.loads(self.path.read_bytes())
                self._mark = mark
        except (OSError, ValueError):
            self._known, self._mark = {}, None
        return self._known

    def of(self, name: str | None, size: int, modified: int) -> dict[str, Any] | None:
        """What is said of a container of this size and time (seconds); None: not verified as it is."""
        found = self.read().get(name or "")
        if found is None or found["size"] != size or found["mtime_ns"] // 10**9 != modified:
            return None
        return {"ok": found["ok"], "at": found["at"], "problem": found["problem"]}

    def write(self, findings: dict[str, dict[str, Any]]) -> None:
        """Replace all of it. Raises OSError, StorageError."""
        self._state.folder("locks")  # makes the server's folder as well
        write_whole(self.path, json.dumps(findings, sort_keys=True).encode("ascii"), sync=False)


class _Slow:
    """A file that is read no faster than at a rate; raises _StoppedError once `stop` is set."""

    def __init__(self, file: BinaryIO, rate: int, stop: threading.Event, tally: Tally) -> None:
        self._file = file
        self._rate = rate
        self._stop = stop
        self._tally = tally

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, _PIECE))
        self._tally.count("scrubbed_bytes", len(data))
        if self._stop.wait(len(data) / self._rate):
            raise _StoppedError
        return data


class Scrubber:
    """Goes over one library in a thread."""

    def __init__(self, config: Config, library: Library, state: State, tally: Tally) -> None:
        self._rate = config.scrub_rate
        self._pause = config.scrub_pause
        self._library = library
        self._state = state
        self._tally = tally
        self._stop = threading.Event()
        self._damaged = 0
        self._kept = True
        self.findings = Findings(state)
        tally.gauges["damaged_containers"] = lambda: self._damaged

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stop.set()

    def remember(self) -> None:
        """Count the damage that is known already, whoever found it: it has not gone with a restart."""
        self._damaged = _damaged(self.findings.read())

    def run(self) -> None:
        """Round after round until `stop`; waits while another process does it."""
        while not self._stop.is_set():
            try:
                self.remember()
                with self._state.private("scrub", "locks") as lock:
                    if not hold(lock.fileno()):
                        self._stop.wait(min(_TRY, self._pause))
                        continue
                    while not self._stop.is_set():
                        self.round()
                        self._stop.wait(self._pause)
            except _StoppedError:
                return
            except Exception:
                _LOG.exception("the library cannot be scrubbed; it is tried again")
                self._stop.wait(min(_TRY, self._pause))

    def round(self) -> None:
        """Once over all containers. Raises _StoppedError."""
        entries = [
            one
            for one in scan(self._library.root, self._library.without)
            if one.name is not None and one.raw.endswith(SUFFIX.encode())
        ]
        names = {one.name for one in entries}
        findings = {name: found for name, found in self.findings.read().items() if name in names}
        self._damaged = _damaged(findings)
        for entry in sorted(entries, key=lambda one: one.raw):
            found = self._look(entry)
            if found is None:
                findings.pop(str(entry.name), None)
            else:
                findings[str(entry.name)] = found
            self._keep(findings)
        self._keep(findings)

    def _keep(self, findings: dict[str, dict[str, Any]]) -> None:
        """Say what was found. Where it cannot be written (a full disk), metric and log say it still."""
        self._damaged = _damaged(findings)
        try:
            self.findings.write(findings)
            self._kept = True
        except (OSError, StorageError) as error:
            if self._kept:
                _LOG.error("what scrubbing finds cannot be written: %s", error)
            self._kept = False

    def _look(self, entry: Entry) -> dict[str, Any] | None:
        """Verify one container; None where it is gone or was replaced meanwhile."""
        problem = None
        try:
            # Not to hang, whatever is there by now.
            flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(entry.path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                inside = holds(file.fileno(), self._library.root, self._library.without)
                if not inside or not stat.S_ISREG(status.st_mode):
                    return None
                before = Identity.of(status)
                report = verify(_Slow(file, self._rate, self._stop, self._tally))  # type: ignore[arg-type]
                if not before.fits(os.fstat(file.fileno())) or not before.fits(entry.path.stat()):
                    return None
            if report.problems:
                problem = str(report.problems[0])  # with the place
            elif not report.ok:
                problem = f"it is {report.state}"
        except FileNotFoundError:
            return None
        except (OSError, HarmonyError) as error:
            before, problem = (
                entry.identity,
                f"it cannot be read: {getattr(error, 'strerror', None) or error}",
            )
        self._tally.count("scrubbed|damaged" if problem else "scrubbed|sound")
        if problem:
            self._tally.count("damaged|scrub")
            _LOG.error("scrubbing: %r is damaged: %s", entry.name, problem)
        size, mtime = before.size, before.mtime_ns
        return {
            "size": size,
            "mtime_ns": mtime,
            "ok": not problem,
            "problem": problem,
            "at": int(time.time()),
        }


def _damaged(findings: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(not one["ok"] for one in findings.values())


async def scrubbing(app: web.Application) -> AsyncIterator[None]:
    """For `cleanup_ctx`: scrub while the server runs, where the settings ask for it."""
    if not app[CONFIG].scrub_rate:
        yield
        return
    scrubber = Scrubber(app[CONFIG], app[LIBRARY], app[STATE], app[TALLY])
    await asyncio.to_thread(scrubber.remember)  # before anybody can ask
    thread = threading.Thread(target=scrubber.run, name="harmony4-scrub", daemon=True)
    thread.start()
    yield
    scrubber.stop()
    with suppress(RuntimeError):
        await asyncio.to_thread(thread.join, _JOIN)
