"""The audit log: every change to the library and to who may do what, a line each, chained by hashes.

    STATE/audit.log    {"n": 7, "time": "…", "action": "delete", "by": "token …", …, "prev": "<64 digits>"}

`prev` is the SHA-256 of the line before (64 zeros for the first): whoever changes, removes or inserts a line
breaks the chain behind it, which `harmony4 audit verify` finds. Two things a chain cannot tell by itself:
lines that were taken off the end, and a log that was written anew as a whole. Keep the number and the hash
of the last line somewhere else now and then, and `verify --head N:HASH` says whether the log still goes
through that line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from harmony4.crypto.errors import HarmonyError, LimitError, SealError, SourceError
from harmony4.server.config import PREFIX
from harmony4.server.folder.library import SUFFIX
from harmony4.server.logs import rfc3339
from harmony4.server.state import FOLDER, State, open_private, write_whole

__all__ = ["ACTOR", "AuditLog", "Head", "by_command", "command_line", "note_command", "note_keys"]

_LOG: Final = logging.getLogger("harmony4.server")
ACTOR: ContextVar[str] = ContextVar("actor", default="server")
"""Who changes something: `token ID`, `address …`, `user …` of this machine, or the server itself."""
_FIRST: Final = "0" * 64
_LONGEST: Final = 2**16
"""Bytes of a line: names are at most some KiB."""
_SHOWN: Final = 1000
"""Bytes of a line that was cut short."""
_MOST_LATE: Final = 10_000
"""Lines that wait for room on the disk; of more than these only the number is known."""

Row = dict[str, object]
"""A line without what chains it."""


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: the number of its last line (0: there is none), and that line's SHA-256."""

    number: int
    digest: str


def command_line() -> str:
    """The actor of a command: the user who runs it."""
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "user"


class AuditLog:
    """The log of one server. Its methods touch the disk: call them in threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._late: list[Row] = []
        """What could not be written yet, in order."""
        self._lost = 0
        """How many more there were."""

    @property
    def path(self) -> Path:
        """The file, if there is one."""
        return self._state.path / "audit.log"

    @property
    def waiting(self) -> int:
        """Lines that could not be written yet."""
        return len(self._late) + self._lost

    def record(self, action: str, **facts: object) -> None:
        """Add a line; it is on the disk when this returns.

        The change itself has happened: where the log cannot be written, this is an error in the other log,
        and the line, with its own time, is added as soon as there is room again (`retry`).
        """
        row = {"time": rfc3339(time.time()), "action": action, "by": ACTOR.get(), **facts}
        with self._lock:
            if len(self._late) < _MOST_LATE:
                self._late.append(row)
            else:
                self._lost += 1
            self._write(action)

    def retry(self) -> None:
        """Add what could not be written before."""
        with self._lock:
            if self._late:
                self._write(str(self._late[0]["action"]))

    def _write(self, action: str) -> None:
        rows = list(self._late)
        if self._lost:
            rows.append(
                {"time": rfc3339(time.time()), "action": "lost", "by": "server", "changes": self._lost}
            )
        try:
            with self._state.locked("audit"), open_private(self.path) as file:
                self._append(file, rows)
        except (HarmonyError, OSError, ValueError, KeyError, TypeError) as error:
            _LOG.error("the audit log cannot be written (%s): %s", action, error)
        else:
            self._late, self._lost = [], 0

    def _append(self, file: BinaryIO, rows: list[Row]) -> None:
        """All rows, or none of them. Raises OSError, and others where the log's last line is none."""
        size = file.seek(0, os.SEEK_END)
        # Room for the last whole line and as much that was cut short.
        file.seek(max(0, size - 2 * _LONGEST))
        *lines, torn = file.read().split(b"\n")
        number, prev = 0, _FIRST
        if lines:
            last = lines[-1]
            number, prev = int(json.loads(last)["n"]), hashlib.sha256(last).hexdigest()
        repaired: Row | None = None
        if torn:
            # A crash cut the last line short. What there is of it stays, in a line that says so.
            _LOG.error("the last line of the audit log was cut short")
            size -= len(torn)
            lost = torn[:_SHOWN].decode("utf-8", "replace")
            repaired = {"time": rfc3339(time.time()), "action": "repaired", "by": "server", "lost": lost}
            rows = [repaired, *rows]
        data = bytearray()
        for row in rows:
            number += 1
            line = _line({"n": number, **row, "prev": prev})
            if len(line) >= _LONGEST:
                kept = {key: row[key] for key in ("time", "action", "by")}
                line = _line({"n": number, **kept, "cut": len(line), "prev": prev})
            data += line + b"\n"
            prev = hashlib.sha256(line).hexdigest()
        descriptor = file.fileno()
        try:
            # Over what was cut short: the disk may have room for nothing else.
            os.lseek(descriptor, size, os.SEEK_SET)
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.ftruncate(descriptor, size + len(data))
            os.fsync(descriptor)
        except OSError:
            # What is not whole does not stay: the next one must find the end of a line.
            with suppress(OSError):
                os.ftruncate(descriptor, size)
                if repaired is not None:  # nowhere but here, now
                    self._late.insert(0, repaired)
            raise

    def verify(self, expected: Head | None = None) -> Head:
        """Check the whole chain; returns where it ends.

        `expected`: a line that was noted somewhere else. Raises SealError that names the first line which
        does not fit, SourceError where there is no log.
        """
        head, met = Head(0, _FIRST), expected is None or expected.number == 0
        for line in self._lines():
            head = _follow(head, line)
            if expected is not None and head.number == expected.number:
                if head.digest != expected.digest:
                    raise SealError(
                        f"line {head.number} of the audit log is not the one that was noted",
                        expected=expected.digest,
                        found=head.digest,
                    )
                met = True
        if not met:
            assert expected is not None
            raise SealError(
                "lines are missing at the end of the audit log", expected=expected.number, found=head.number
            )
        return head

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while line := file.readline(_LONGEST + 1):
                    if len(line) > _LONGEST:
                        raise LimitError(
                            "a line of the audit log is too long", expected=f"<= {_LONGEST} bytes"
                        )
                    yield line
        except OSError as error:
            raise SourceError(f"cannot read the audit log: {error.strerror}", where=str(self.path)) from error


def note_command(action: str, path: Path) -> None:
    """Note that a command has written a container, if it is one of a library that a server has been in."""
    found = _library_of(path)
    if found is not None and path.suffix == SUFFIX:
        root, state = found
        by_command(state, action, name=str(path.relative_to(root)))


def by_command(state: State, action: str, **facts: object) -> None:
    """Note what the user of this machine did who runs the command."""
    token = ACTOR.set(command_line())
    try:
        AuditLog(state).record(action, **facts)
    finally:
        ACTOR.reset(token)


def _library_of(path: Path) -> tuple[Path, State] | None:
    """The library that a file is in, and its server's folder: by the environment, or by the hidden folder."""
    named, own = (os.environ.get(f"{PREFIX}{key}") for key in ("LIBRARY", "STATE"))
    if named and own and Path(own).is_dir():
        root = Path(os.path.realpath(named))
        if path.is_relative_to(root):
            return root, State.of(Path(own), root)
    for root in path.parents:
        if (root / FOLDER).is_dir():
            return root, State.of(None, root)
    return None


def note_keys(log: AuditLog, state: State, names: Mapping[str, bytes]) -> None:
    """Note which keys have come into a keyring and which have left it since somebody noted it last.

    `names`: file names and ids. Whichever worker sees it first notes it; what happened while no server ran,
    the next one to start does. Touches the disk.
    """
    found = {name: key.hex() for name, key in names.items()}
    path = state.path / "keyring.json"
    try:
        if not found and not path.exists():
            return
        with state.locked("keyring"):
            try:
                known = {str(name): str(key) for name, key in json.loads(path.read_bytes()).items()}
            except (OSError, ValueError, AttributeError):
                known = {}
            if known == found:
                return
            write_whole(path, json.dumps(found).encode("ascii"), sync=True)
            for name, key in sorted(known.items() - found.items()):
                log.record("key-remove", name=name, key=key)
            for name, key in sorted(found.items() - known.items()):
                log.record("key-add", name=name, key=key)
    except (HarmonyError, OSError) as error:
        _LOG.error("changes of the keyring cannot be noted: %s", error)


def _line(entry: Row) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode("ascii")


def _follow(head: Head, line: bytes) -> Head:
    """The next line of a chain. Raises SealError."""
    number = head.number + 1
    body = line.removesuffix(b"\n")
    try:
        entry: dict[str, Any] = json.loads(body)
        fits = line.endswith(b"\n") and entry["n"] == number and entry["prev"] == head.digest
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise SealError(f"the audit log does not hold together at line {number}", where=f"line {number}")
    return Head(number, hashlib.sha256(body).hexdigest())
