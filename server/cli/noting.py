"""What commands do, in the audit log of the library that they do it in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import StorageError
from harmony4.server.audit import ACTOR, AuditLog
from harmony4.server.cli.interrupts import defer, deferred, deliver
from harmony4.server.cli.output import say
from harmony4.server.cli.streams import UNNOTED
from harmony4.server.cli.values import plain
from harmony4.server.config import PREFIX
from harmony4.server.folder.library import SUFFIX
from harmony4.server.state import State

__all__ = ["PATIENCE", "by_command", "note_command"]

PATIENCE: Final = 10.0
"""Seconds that a command waits for a lock in a server's folder."""


def note_command(action: str, path: Path, *, patience: float = PATIENCE) -> None:
    """Note that a command has written a container, if it is one of a library with a server's folder.

    `patience`: seconds that it waits for others.
    """
    found = _library_of(path, patience) if path.suffix == SUFFIX else None
    if found is not None:
        root, state = found
        by_command(state, action, name=str(path.relative_to(root)))


def by_command(state: State, action: str, **facts: object) -> None:
    """Note what the user of this machine did who runs the command.

    What cannot be written now waits beside the log. Where it cannot even do that, the command goes on to its
    end, and has a status of its own (`UNNOTED`): what it did is done.
    """
    token = ACTOR.set(f"user {os.getuid()}" if hasattr(os, "getuid") else "user")
    try:
        with deferred():
            _tell(AuditLog(state), action, facts)
    finally:
        ACTOR.reset(token)


def _tell(log: AuditLog, action: str, facts: dict[str, object]) -> None:
    """Within `deferred`: nothing comes between the line and its place, in the log or beside it."""
    log.take(action, **facts)
    why: str | None = "interrupted"
    try:
        deliver()  # somebody else may have the log for a while
        why = log.write(defer)
    finally:
        defer()
        if why is not None:
            try:
                log.leave()
            except StorageError as error:
                UNNOTED.set(f"it is done, but the audit log does not know of it ({action}): {why}; {error}")
            else:
                say(
                    f"note: the audit log cannot be written ({action}): {plain(why)}; "
                    "the line waits beside it, and a server or the next command adds it",
                    to_stderr=True,
                )


def _library_of(path: Path, patience: float) -> tuple[Path, State] | None:
    """The library that a file is in, and its server's folder: by the environment, or by the hidden folder."""
    named, own = (os.environ.get(f"{PREFIX}{key}") for key in ("LIBRARY", "STATE"))
    if named and own and os.path.isdir(own):  # noqa: PTH112 - also where it may not be looked at
        root = Path(os.path.realpath(named))
        if path.is_relative_to(root):
            return root, State.of(Path(own), root, patience=patience)
    refused: list[StorageError] = []
    for root in path.parents:
        try:
            state = State.found(root, patience=patience)
        except StorageError as error:
            refused.append(error)
        else:
            if state is not None:
                return root, state
    if refused:
        say(f"note: no audit log was told of this: {plain(refused[0])}", to_stderr=True)
    return None
