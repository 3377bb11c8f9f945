"""Jobs: what runs for longer than a request, in files that every worker and the next start can read.

    STATE/jobs/ID.json    what is known of it; replaced whole at each change
    STATE/jobs/ID.live    held (`state.hold`) by the process that works on it, so that its death is seen
    STATE/jobs/ID.cancel  somebody wants it to stop; who wanted it first stands in it

A job whose holder is gone before it was finished has failed: whoever looks at it first says so in its file.
Unless it says `restarts`: then somebody will take it up again, under its old id.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import NotFoundError, StorageError, UsageError
from harmony4.server.state import State, held, hold, write_whole

__all__ = ["ACTIVE", "Job", "Jobs", "new_id"]

ACTIVE: Final = frozenset({"receiving", "sealing"})
"""States in which somebody works on a job; the others, `done`, `failed` and `cancelled`, are final."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_LONGEST: Final = 1000
"""Bytes of a name of somebody."""
_PAUSE: Final = 0.25
"""Seconds between two notes of progress."""
_STARTING: Final = 60.0
"""Seconds that files of a job may stand there without the rest of it."""
_INTERRUPTED: Final = {
    "type": "urn:harmony4:problem:interrupted",
    "title": "The server stopped before the job was done",
    "status": 503,
}

Facts = dict[str, Any]
Heard = Callable[[Facts], object]


class Job:
    """A job in the hands of whoever works on it. Thread-safe.

    `cancelled` is looked up in the file system no more often than progress is noted.
    """

    def __init__(self, folder: Path, facts: Facts, live: int, heard: Heard) -> None:
        self._folder = folder
        self._heard = heard
        self._live = live
        self._lock = threading.Lock()
        self._noted = float("-inf")
        self._written: Facts = {}
        self._cancelled = False
        self.facts = facts

    @property
    def id(self) -> str:
        """32 hexadecimal digits, not to be guessed."""
        return str(self.facts["id"])

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants it to stop, as far as the last note knew."""
        return self._cancelled

    def cancelled_by(self) -> str | None:
        """Who wanted it to stop first; None where nobody did, or it is not known. Touches the disk."""
        try:
            by = (self._folder / f"{self.id}.cancel").read_bytes()[:_LONGEST]
        except OSError:
            return None
        return by.decode("utf-8", "replace") or None

    def note(self, *, now: bool = False, **changes: object) -> None:
        """Change facts, and the file a few times a second; `now`: at once. Raises StorageError."""
        with self._lock:
            if self._live < 0:
                return
            self.facts |= changes
            if now or time.monotonic() - self._noted >= _PAUSE:
                self._cancelled = (self._folder / f"{self.id}.cancel").exists()
                _write(self._folder, self.facts)
                self._written = dict(self.facts)
                self._heard(self._written)
                self._noted = time.monotonic()

    def catch_up(self, received: int) -> None:
        """Write what was not written because something else was a moment before. Raises StorageError."""
        if self.facts | {"received": received} != self._written:
            self.note(received=received)

    def finish(self, state: str, **changes: object) -> None:
        """Note how it ended: `done`, `failed` or `cancelled`. The first word counts. Raises StorageError."""
        with self._lock:
            if self._live < 0:
                return
            self.facts |= {"state": state, **changes}
            try:
                _write(self._folder, self.facts)
                self._heard(dict(self.facts))
            finally:
                os.close(self._live)
                self._live = -1
                for name in ("live", "cancel"):
                    (self._folder / f"{self.id}.{name}").unlink(missing_ok=True)

    def leave(self) -> None:
        """Give it out of hand as it is: somebody else will take it up (`restarts`)."""
        with self._lock:
            if self._live >= 0:
                os.close(self._live)
                self._live = -1


def new_id() -> str:
    """An id for a job, not to be guessed."""
    return secrets.token_hex(16)


class Jobs:
    """All jobs of a library. Its methods touch the disk: call them in threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.heard: Heard = lambda facts: None
        """Called, in a thread, with what is noted of a job by this process."""

    @property
    def path(self) -> Path:
        """Where the files are, if there are any."""
        return self._state.path / "jobs"

    @property
    def folder(self) -> Path:
        """The same, made if it is missing. Raises StorageError."""
        return self._state.folder("jobs")

    def start(self, number: str | None = None, /, **facts: object) -> Job:
        """A new job in the state `receiving`, or one with an id of its own (`new_id`), which may have been
        left.

        Raises StorageError.
        """
        folder, number = self.folder, number or new_id()
        try:
            live = os.open(folder / f"{number}.live", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"a job cannot be noted: {error.strerror}") from error
        hold(live, wait=True)
        job = Job(folder, {"id": number, "state": "receiving", **facts}, live, self.heard)
        try:
            job.note(now=True)
        except BaseException:
            os.close(live)
            raise
        return job

    def read(self, number: str) -> Facts:
        """What is known of a job. Raises NotFoundError."""
        facts = self._read(number) if _ID.fullmatch(number) else None
        if facts is None:
            raise NotFoundError("there is no such job, or it has expired")
        return facts

    def _read(self, number: str) -> Facts | None:
        facts = _load(self.path / f"{number}.json")
        if (
            facts is not None
            and facts["state"] in ACTIVE
            and not facts.get("restarts")
            and not self._is_held(number)
        ):
            again = _load(self.path / f"{number}.json")
            if again is None or again["state"] not in ACTIVE:  # it ended just now
                return again
            facts = again | {"state": "failed", "problem": _INTERRUPTED}
            with suppress(StorageError):
                _write(self.folder, facts)
        return facts

    def is_known(self, number: str) -> bool:
        """Whether there is such a job."""
        return (self.path / f"{number}.json").exists()

    def _is_held(self, number: str) -> bool:
        return held(self.path / f"{number}.live")

    def cancel(self, number: str, by: str = "server") -> Facts:
        """Ask for a job to be stopped; returns what is known of it. Raises NotFoundError, StorageError."""
        facts = self.read(number)
        if facts["state"] in ACTIVE:
            path = self.folder / f"{number}.cancel"
            try:
                if not path.exists():
                    with suppress(OSError):
                        write_whole(path, by.encode(), sync=False)
                path.touch(mode=0o600)  # a full disk has room for that still, and not for who it was
            except OSError as error:
                raise StorageError(f"a job cannot be cancelled: {error.strerror}") from error
        return facts

    def is_unwanted(self, number: str) -> bool:
        """Whether somebody has asked for a job to be stopped."""
        return (self.path / f"{number}.cancel").exists()

    def all(self) -> Iterator[Facts]:
        """All jobs that are known, in the order of their ids."""
        return self._read_all(sorted(self._numbers(".json")))

    def page(self, after: str | None, limit: int) -> tuple[list[Facts], str | None]:
        """Up to `limit` jobs behind the id `after`, and the id of the last one if more follow.

        No other job's file is read. Raises UsageError.
        """
        if after is not None and not _ID.fullmatch(after):
            raise UsageError("cursor is not valid", expected="`next` of an earlier answer", found=after[:40])
        numbers = sorted(one for one in self._numbers(".json") if after is None or one > after)
        found = list(islice(self._read_all(numbers), limit + 1))
        return found[:limit], found[limit - 1]["id"] if len(found) > limit else None

    def active(self) -> Iterator[Facts]:
        """Jobs that somebody works on, or will; those that have ended cost nothing."""
        return (one for one in self._read_all(self._numbers(".live")) if one["state"] in ACTIVE)

    def sweep(self, age: float) -> None:
        """Forget jobs that ended more than `age` seconds ago, and what crashes have left."""
        now = time.time()
        # Looked at, so that of those whose worker has died it is noted, and their time begins.
        active = {one["id"] for one in self.active()}
        try:
            with os.scandir(self.path) as found:
                # May be many: of most of them not even a path is made.
                old = [
                    one.path
                    for one in found
                    if _is_old(one, now - (age if one.name.endswith(".json") else _STARTING))
                ]
        except OSError:
            return
        for path in map(Path, old):
            if path.suffix == ".json":
                if _ID.fullmatch(path.stem) and not self._is_held(path.stem):
                    _forget(path, now - age)
            elif path.suffix == ".live":
                # One that was left is found by it, until it is taken up or its time is over.
                if not (path.stem in active and path.with_suffix(".json").exists()) and not held(path):
                    _forget(path, now - _STARTING)
            elif path.suffix != ".cancel" or not self._is_held(path.stem):
                _forget(path, now - _STARTING)

    def _read_all(self, numbers: Iterable[str]) -> Iterator[Facts]:
        for number in numbers:
            facts = self._read(number)
            if facts is not None:
                yield facts

    def _numbers(self, suffix: str) -> list[str]:
        try:
            names = os.listdir(self.path)  # noqa: PTH208 - may be many
        except OSError:
            return []
        stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
        return [stem for stem in stems if _ID.fullmatch(stem)]


def _is_old(one: os.DirEntry[str], before: float) -> bool:
    try:
        return one.stat().st_mtime < before
    except OSError:
        return False


def _forget(path: Path, before: float) -> None:
    """Remove a file that has not changed since `before`, seconds since the epoch."""
    with suppress(OSError):
        if path.stat().st_mtime < before:
            path.unlink()


def _load(path: Path) -> Facts | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    # What is no job of ours is none: others may have written there.
    sound = isinstance(facts, dict) and isinstance(facts.get("state"), str) and facts.get("id") == path.stem
    return facts if sound else None


def _write(folder: Path, facts: Mapping[str, Any]) -> None:
    try:
        write_whole(folder / f"{facts['id']}.json", json.dumps(facts).encode("ascii"), sync=False)
    except OSError as error:
        raise StorageError(f"a job cannot be noted: {error.strerror}") from error
