"""The audit log: every change to the library and to who may do what, a line each, chained by hashes.

    STATE/audit.log    {"n": 7, "time": "…", "action": "delete", "by": "token …", …, "prev": "<64 digits>"}

`prev` is the SHA-256 of the line before (64 zeros for the first): whoever changes, removes or inserts a line
breaks the chain behind it, which `harmony4 audit verify` finds. Two things a chain cannot tell by itself:
lines that were taken off the end, and a log that was written anew as a whole. Keep the number and the hash
of the last line somewhere else now and then, and `verify --head N:HASH` says whether the log still goes
through that line.

    STATE/audit-waiting/TIME-LINES-ID.json    lines of one that could not write the log, and does not stay

Whoever writes the log next, a server or a command, takes them in first, each with its own time and `waited`:
the ID, by which those are known that are there already if that was cut short before the file was gone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from harmony4.crypto.errors import HarmonyError, LimitError, SealError, SourceError, StorageError
from harmony4.server.logs import rfc3339
from harmony4.server.state import HeldError, State, write_whole

__all__ = ["ACTOR", "AuditLog", "Head", "note_keys"]

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
_ALWAYS: Final = ("time", "action", "by")
_WAITING: Final = "audit-waiting"
_LEFT: Final = re.compile(r"[0-9]{20}-([0-9]{1,6})-([0-9a-f]{32})\.json")
_PART: Final = re.compile(r"([0-9]{20}-[0-9]{1,6}-([0-9a-f]{32}))\.[0-9a-f]{8}\.part")
_OLD: Final = 60.0
"""Seconds after which nobody is still writing a file of lines."""
_MOST_TOGETHER: Final = 500
"""Lines in a file of lines that wait."""
_MOST_LEFT: Final = _MOST_TOGETHER * (_LONGEST + 2)
"""Bytes of such a file."""
_PATIENCE: Final = 10.0
"""Seconds that who checks the log waits for who writes it."""
_TURN: Final = 2.0
"""Seconds that a server waits for its turn to write: what has none waits here, and is tried again."""
_AGAIN: Final = 0.1
"""The same after that was in vain."""

_NO_LINE: Final = (ValueError, KeyError, TypeError, ArithmeticError, RecursionError)
"""What the last line of a log may raise that somebody has written over."""

Row = dict[str, object]
"""A line without what chains it."""


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: the number of its last line (0: there is none), and that line's SHA-256."""

    number: int
    digest: str


class AuditLog:
    """The log of one server. Its methods touch the disk: call them in threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._late: list[Row] = []
        """What could not be written yet, in order."""
        self._lost = 0
        """How many more there were."""
        self._stuck = False
        """Whether somebody else had the log for too long the last time."""

    @property
    def path(self) -> Path:
        """The file, if there is one."""
        return self._state.path / "audit.log"

    @property
    def waiting(self) -> int:
        """Lines of this one that could not be written yet."""
        return len(self._late) + self._lost

    def left(self) -> int:
        """Lines that others have left to whoever writes the log next. Touches the disk."""
        return sum(int(match[1]) for match in self._beside(_LEFT))

    def record(self, action: str, **facts: object) -> None:
        """Add a line; it is on the disk when this returns.

        The change itself has happened: where the log cannot be written, this is an error in the other log,
        and the line, with its own time, is added as soon as it can be (`retry`).
        """
        self.take(action, **facts)
        self._say(action, self.write())

    def take(self, action: str, **facts: object) -> None:
        """The first half of `record`, which touches no disk: the line waits in memory."""
        row = {"time": rfc3339(time.time()), "action": action, "by": ACTOR.get(), **facts}
        with self._lock:
            if len(self._late) < _MOST_LATE:
                self._late.append(row)
            else:
                self._lost += 1

    def write(self, begun: Callable[[], None] | None = None) -> str | None:
        """The second half, for who says it otherwise: why the log cannot be written, None where it can.

        `begun` is called once nobody else has the log, before anything is written.
        """
        with self._lock:
            return self._write(begun)

    def retry(self) -> None:
        """Add what could not be written before, and what others have left."""
        with self._lock:
            if self._late:
                self._say(str(self._late[0]["action"]), self._write())
            elif self._beside(_LEFT) or self._beside(_PART):
                self._say("what others have left", self._write())

    def leave(self) -> None:
        """Put what still waits beside the log, for whoever writes it next. Raises StorageError."""
        with self._lock:
            while rows := [_short(row) for row in self._rows()[:_MOST_TOGETHER]]:
                name = f"{time.time_ns():020}-{len(rows)}-{secrets.token_hex(16)}.json"
                try:
                    self._state.keep(_WAITING, name, json.dumps(rows).encode("ascii"))
                except OSError as error:
                    raise StorageError(f"it cannot wait beside the log: {error.strerror}") from error
                if len(rows) > len(self._late):
                    self._lost = 0
                del self._late[: len(rows)]

    def close(self) -> None:
        """Let nothing wait in memory any more: in the log, or beside it; else it is lost, and told."""
        self.retry()
        try:
            self.leave()
        except StorageError as error:
            _LOG.error("%d lines of the audit log are lost: %s", self.waiting, error)

    def _say(self, action: str, why: str | None) -> None:
        if why is not None:
            _LOG.error("the audit log cannot be written (%s): %s", action, why)

    def _rows(self) -> list[Row]:
        rows = list(self._late)
        if self._lost:
            rows.append(
                {"time": rfc3339(time.time()), "action": "lost", "by": "server", "changes": self._lost}
            )
        return rows

    def _write(self, begun: Callable[[], None] | None = None) -> str | None:
        """Everything that waits, here and beside the log. Returns why that cannot be done."""
        patience = self._state.patience
        if self._stuck:
            patience = _AGAIN
        elif patience is None:
            patience = _TURN
        try:
            with self._state.locked("audit", patience), self._state.private("audit.log") as file:
                if begun is not None:
                    begun()
                self._stuck = False
                self._save_parts()
                self._take_in(file)
                if rows := self._rows():
                    self._append(file, rows)
                self._late, self._lost = [], 0
        except HeldError as error:
            self._stuck = True
            return str(error)
        except (HarmonyError, OSError, *_NO_LINE) as error:
            return str(error)
        return None

    def _beside(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """The names of what waits beside the log, the oldest first."""
        try:
            names = os.listdir(self._state.path / _WAITING)  # noqa: PTH208 - mostly there is no such folder
        except OSError:
            return []
        return [match for name in sorted(names) if (match := pattern.fullmatch(name))]

    def _save_parts(self) -> None:
        """What somebody left who died when it was written, but not yet there: it is whole, or else gone."""
        for match in self._beside(_PART):
            name = match.string
            try:
                if time.time() - (self._state.path / _WAITING / name).lstat().st_mtime < _OLD:
                    continue
                try:
                    _left(self._state.kept(_WAITING, name, _MOST_LEFT + 1), match[2])
                except ValueError as error:
                    _LOG.error("lines that were to wait for the audit log are lost (%s): %s", name, error)
                    self._state.drop(_WAITING, name)
                else:
                    self._state.rename(_WAITING, name, f"{match[1]}.json")
            except OSError as error:
                _LOG.error("lines that wait for the audit log cannot be looked at (%s): %s", name, error)

    def _take_in(self, file: BinaryIO) -> None:
        """What waits beside the log, file by file. Raises OSError where there is no room for it."""
        for match in self._beside(_LEFT):
            name, number = match.string, match[2]
            try:
                rows = _left(self._state.kept(_WAITING, name, _MOST_LEFT + 1), number)
            except (OSError, ValueError) as error:
                _LOG.error("lines that wait for the audit log cannot be read (%s): %s", name, error)
                continue
            # Only where it can be removed: else it would come again and again.
            if not os.access(self._state.path / _WAITING, os.W_OK):
                _LOG.error("lines that wait for the audit log cannot be removed from there (%s)", name)
                continue
            # Somebody may have died before all of them were there, or before the file was gone.
            if rows := rows[_taken_in(file, rows, number) :]:
                self._append(file, rows)
            try:
                self._state.drop(_WAITING, name)
            except OSError as error:  # it is in the log, and known there
                _LOG.error("lines that waited for the audit log cannot be removed (%s): %s", name, error)

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
                line = _line({"n": number, **_cut(row, len(line)), "prev": prev})
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
            # Not to hang, whatever somebody has put there.
            flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(self.path, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise SourceError("the audit log is no regular file", where=str(self.path))
                # As far as it goes when nobody is writing: what comes later is not looked at.
                with self._state.settled("audit", _PATIENCE):
                    left = os.fstat(file.fileno()).st_size
                while line := file.readline(min(left, _LONGEST + 1)):
                    if len(line) > _LONGEST:
                        raise LimitError(
                            "a line of the audit log is too long", expected=f"<= {_LONGEST} bytes"
                        )
                    left -= len(line)
                    yield line
        except OSError as error:
            raise SourceError(f"cannot read the audit log: {error.strerror}", where=str(self.path)) from error


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


def _taken_in(file: BinaryIO, rows: list[Row], number: str) -> int:
    """How many of these rows are whole lines of the log already: the first ones, for they came in order."""
    # What chains a line is shorter than this; and somebody may have written a line or two behind them.
    most = 2 * _LONGEST + sum(len(_line(row)) + 2 * len(_FIRST) for row in rows)
    file.seek(max(0, file.seek(0, os.SEEK_END) - most))
    *lines, _ = file.read().split(b"\n")
    return sum(f'"waited": "{number}"'.encode() in line for line in lines)


def _cut(row: Row, length: int) -> Row:
    """What stays of a line that would be too long."""
    return {key: row[key] for key in (*_ALWAYS, "waited") if key in row} | {"cut": length}


def _short(row: Row) -> Row:
    length = len(_line(row))
    return row if length < _LONGEST else _cut(row, length)


def _left(data: bytes, number: str) -> list[Row]:
    """The lines in a file that waited beside the log. Raises ValueError."""
    try:
        rows = json.loads(data) if len(data) <= _MOST_LEFT else None
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError("it holds no lines")
    for row in rows:
        whole = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in _ALWAYS)
        if not whole or "n" in row or "prev" in row:
            raise ValueError("it holds something else than lines")
    return [row | {"waited": number} for row in rows]


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
