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
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from harmony4.crypto.errors import HarmonyError, LimitError, SealError, SourceError
from harmony4.server.logs import rfc3339
from harmony4.server.state import State, open_private

__all__ = ["ACTOR", "AuditLog", "Head", "command_line"]

_LOG: Final = logging.getLogger("harmony4.server")
ACTOR: ContextVar[str] = ContextVar("actor", default="server")
"""Who changes something: `token ID`, `address …`, `user …` of this machine, or the server itself."""
_FIRST: Final = "0" * 64
_LONGEST: Final = 2**16
"""Bytes of a line: names are at most some KiB."""


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

    @property
    def path(self) -> Path:
        """The file, if there is one."""
        return self._state.path / "audit.log"

    def record(self, action: str, **facts: object) -> None:
        """Add a line; it is on the disk when this returns.

        The change itself has happened: where the log cannot be written, this is an error in the other log.
        """
        try:
            with self._state.locked("audit"), open_private(self.path) as file:
                self._append(file, action, facts)
        except (HarmonyError, OSError, ValueError, KeyError, TypeError) as error:
            _LOG.error("the audit log cannot be written (%s): %s", action, error)

    def _append(self, file: BinaryIO, action: str, facts: dict[str, object]) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST))
        *lines, torn = file.read().split(b"\n")
        if torn:
            # A crash cut the last line short. What there is of it stays, as a line that says so.
            _LOG.error("the last line of the audit log was cut short")
            file.seek(0, os.SEEK_END)
            file.truncate(size - len(torn))
            file.seek(0, os.SEEK_END)
        number, prev = 0, _FIRST
        if lines:
            last = lines[-1]
            number, prev = int(json.loads(last)["n"]), hashlib.sha256(last).hexdigest()
        rows: list[tuple[str, dict[str, object]]] = [(action, facts)]
        if torn:
            rows.insert(0, ("repaired", {"lost": torn.decode("utf-8", "replace")}))
        for name, more in rows:
            number += 1
            entry = {"n": number, "time": rfc3339(time.time()), "action": name, "by": ACTOR.get(), **more}
            line = json.dumps(entry | {"prev": prev}, ensure_ascii=True).encode("ascii")
            file.write(line + b"\n")
            prev = hashlib.sha256(line).hexdigest()
        file.flush()
        os.fsync(file.fileno())

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
