"""Uploads that survive a lost connection and a killed server: their files, which all workers share.

    STATE/uploads/ID.json  what is known of it (`Known`), replaced whole at each change
    STATE/uploads/ID.data  the bytes that have arrived: as many as the file is long
    STATE/uploads/ID.lock  held (`state.hold`) by whoever appends, exports or removes

Bytes are not synced: what a process has written survives its death. After a crash of the whole machine fewer
may be there than a client was told of, and it is told so when it asks.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import NotFoundError, StorageError
from harmony4.server.audit import AuditLog
from harmony4.server.errors import Problem
from harmony4.server.state import State, held, hold, write_whole

__all__ = ["Held", "Known", "Uploads"]

_ID: Final = re.compile(r"[0-9a-f]{32}")
_MOST: Final = 10_000
"""Uploads that may have begun and not ended at once."""
_STARTING: Final = 60.0
"""Seconds that files of an upload may stand there without the rest of it."""
_LATER: Final = {"Retry-After": "600"}


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of an upload beside its bytes."""

    length: int
    """Bytes of the whole."""
    metadata: str | None
    """`Upload-Metadata` as it was sent."""
    match: tuple[str, ...] | None
    """`If-Match`, where the container is to take the place of another one."""
    sure: int | None = None
    """While a chunk with a checksum arrives: bytes in front of it. What is behind may still be dropped."""
    job: str | None = None
    """The job that makes the container, since all bytes are there."""
    done: bool = False
    """That job has come to its end, and the bytes are gone."""


@dataclass(frozen=True, slots=True)
class Look:
    """An upload as somebody sees it who does not hold it."""

    known: Known
    offset: int
    """Bytes that are there for sure."""
    expires: float
    """Seconds since the epoch; moves with each byte."""


class Held:
    """An upload in one pair of hands; for threads, one at a time. `release` it in the end."""

    def __init__(self, folder: Path, number: str, lock: int, known: Known, mark: int) -> None:
        """`mark`: the lock's time before it was taken."""
        self._folder = folder
        self._lock = lock
        self._mark = mark
        self.id: Final = number
        """32 hexadecimal digits, not to be guessed."""
        self.data: Final = folder / f"{number}.data"
        """Where the bytes are."""
        self.known = known
        self.offset = 0
        """Bytes that are there; whoever appends counts on."""

    @property
    def is_complete(self) -> bool:
        """Whether its last byte has come."""
        return self.offset == self.known.length

    def note(self, **changes: Any) -> None:
        """Change what is known. Raises StorageError."""
        self.known = replace(self.known, **changes)
        _write(self._folder, self.id, self.known)

    def settle(self) -> None:
        """Drop what is not sure: bytes of a chunk whose checksum was not seen or did not match.

        Raises StorageError.
        """
        if self.known.sure is not None:
            try:
                os.truncate(self.data, self.known.sure)
            except OSError as error:
                raise StorageError(f"an upload cannot be cut: {error.strerror}") from error
            self.offset = self.known.sure
            self.note(sure=None)

    def count(self) -> None:
        """Look how many bytes are there. Raises StorageError."""
        try:
            self.offset = self.known.length if self.known.done else self.data.stat().st_size
        except OSError as error:
            raise StorageError(f"an upload cannot be read: {error.strerror}") from error

    def is_wanted(self) -> bool:
        """Whether somebody else has asked for it since it was taken."""
        try:
            # Another time, not a later one: clocks are set back.
            return (self._folder / f"{self.id}.lock").stat().st_mtime_ns != self._mark
        except OSError:
            return False

    def finish(self) -> None:
        """The container is made, or cannot be: the bytes go, what is known stays until it expires.

        Raises StorageError.
        """
        self.note(done=True)
        with suppress(OSError):
            self.data.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it, the bytes last: what dies in between is swept. Raises StorageError."""
        try:
            for kind in ("json", "data", "lock"):
                (self._folder / f"{self.id}.{kind}").unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"an upload cannot be removed: {error.strerror}") from error

    def release(self) -> None:
        """Let others have it. Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Uploads:
    """All uploads of a library. Its methods touch the disk: call them in threads."""

    def __init__(self, state: State, ttl: float, audit: AuditLog | None = None) -> None:
        """`ttl`: seconds after its last byte that an upload is kept."""
        self._state = state
        self._ttl = ttl
        self._audit = audit or AuditLog(state)

    def create(self, length: int, metadata: str | None, match: tuple[str, ...] | None) -> Held:
        """A new upload without a byte. Raises Problem (503) where there are too many, StorageError."""
        folder, number = self._state.folder("uploads"), secrets.token_hex(16)
        if len(self._numbers(".data")) >= _MOST:
            raise Problem("busy", f"the server keeps {_MOST} uploads", headers=_LATER)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            lock = os.open(folder / f"{number}.lock", flags, 0o600)
        except OSError as error:
            raise StorageError(f"an upload cannot be noted: {error.strerror}") from error
        hold(lock, wait=True)
        mark = os.fstat(lock).st_mtime_ns
        made = Held(folder, number, lock, Known(length, metadata, match), mark)
        try:
            try:
                made.data.touch(mode=0o600, exist_ok=False)
            except OSError as error:
                raise StorageError(f"an upload cannot be noted: {error.strerror}") from error
            made.note()
        except BaseException:
            with suppress(StorageError):
                made.remove()
            made.release()
            raise
        return made

    def look(self, number: str) -> Look:
        """An upload as it is. Raises NotFoundError for one that is not there or has expired."""
        known = self._known(number)
        try:
            return self._look(number, known)
        except NotFoundError:
            again = self._known(number)
            if again.done == known.done:
                raise
            return self._look(number, again)  # it has ended between two looks, and its bytes are gone

    def _look(self, number: str, known: Known) -> Look:
        folder = self._state.path / "uploads"
        try:
            size = known.length if known.done else (folder / f"{number}.data").stat().st_size
            kind = "json" if known.done else "data"
            until = (folder / f"{number}.{kind}").stat().st_mtime + self._ttl
        except OSError:
            raise _missing() from None
        # One that is complete is kept as long as its container takes.
        if until < time.time() and (known.done or size < known.length):
            raise _missing()
        return Look(known, size if known.sure is None else min(size, known.sure), until)

    def is_held(self, number: str) -> bool:
        """Whether somebody has it in his hands."""
        return bool(_ID.fullmatch(number)) and held(self._state.path / "uploads" / f"{number}.lock")

    def take(self, number: str) -> Held | None:
        """Take an upload in hand; None if somebody else has it, who is told that it is wanted.

        Bytes that are not sure are dropped. Raises NotFoundError, StorageError.
        """
        self.look(number)
        return self._take(number, want=True)

    def _take(self, number: str, *, want: bool) -> Held | None:
        folder = self._state.path / "uploads"
        path = folder / f"{number}.lock"
        try:
            lock = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            raise _missing() from None
        try:
            mark = os.fstat(lock).st_mtime_ns
            if not hold(lock):
                if want:
                    with suppress(OSError):
                        now = time.time_ns()  # the kernel's own is some ms behind
                        os.utime(path, ns=(now, now))
                os.close(lock)
                return None
            taken = Held(folder, number, lock, self._known(number), mark)
            taken.count()
            taken.settle()
        except BaseException:
            with suppress(OSError):
                os.close(lock)
            raise
        return taken

    def complete(self) -> Iterator[Held]:
        """Uploads that have all their bytes and no container, which nobody works on; each in hand."""
        for number in self._numbers():
            with suppress(NotFoundError, StorageError):
                seen = self.look(number)
                if seen.known.done or seen.offset < seen.known.length:
                    continue
                taken = self._take(number, want=False)
                if taken is None:
                    continue
                if taken.known.done or not taken.is_complete:
                    taken.release()
                else:
                    yield taken

    def give_up(self, held: Held) -> None:
        """Remove an upload that its client does not want any more. Raises StorageError."""
        held.remove()
        if not held.known.done:
            self._audit.record("upload-cancel", id=held.id, bytes=held.offset)

    def sweep(self) -> None:
        """Remove uploads that have expired, and what crashes have left."""
        folder, now = self._state.path / "uploads", time.time()
        kept = set()
        for number in self._numbers():
            try:
                if self.look(number).known.done:
                    (folder / f"{number}.data").unlink(missing_ok=True)
                kept.add(number)
            except (NotFoundError, OSError):
                self._clear(number)
        with suppress(OSError):
            for path in list(folder.iterdir()):
                number = path.name.partition(".")[0]
                whole = path.suffix == ".json" and _read(path) is not None
                if whole or (number in kept and path.suffix != ".part"):
                    continue
                with suppress(OSError):
                    if path.stat().st_mtime < now - _STARTING and not self.is_held(number):
                        path.unlink()

    def _clear(self, number: str) -> None:
        with suppress(NotFoundError, StorageError):
            taken = self._take(number, want=False)
            if taken is not None:
                try:
                    self.look(number)  # bytes may have come just before it was in hand
                except NotFoundError:
                    taken.remove()
                    if not taken.known.done:
                        self._audit.record("upload-expire", id=number, bytes=taken.offset)
                finally:
                    taken.release()

    def _known(self, number: str) -> Known:
        known = _read(self._state.path / "uploads" / f"{number}.json") if _ID.fullmatch(number) else None
        if known is None:
            raise _missing()
        return known

    def _numbers(self, kind: str = ".json") -> list[str]:
        try:
            names = os.listdir(self._state.path / "uploads")  # noqa: PTH208 - may be many
        except OSError:
            return []
        stems = [name.removesuffix(kind) for name in names if name.endswith(kind)]
        return [stem for stem in stems if _ID.fullmatch(stem)]


def _missing() -> NotFoundError:
    return NotFoundError("there is no such upload, or it has expired")


def _read(path: Path) -> Known | None:
    try:
        facts = json.loads(path.read_bytes())
        match = facts.pop("match")
        known = Known(match=None if match is None else tuple(match), **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return known if isinstance(known.length, int) else None


def _write(folder: Path, number: str, known: Known) -> None:
    try:
        write_whole(folder / f"{number}.json", json.dumps(asdict(known)).encode("ascii"), sync=False)
    except OSError as error:
        raise StorageError(f"an upload cannot be noted: {error.strerror}") from error
