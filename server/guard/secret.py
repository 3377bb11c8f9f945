"""The server's secret: 32 random bytes in `secret` in its own folder, made once, shared by its processes.

Replacing the file ends all signed URLs and all sessions.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import SourceError
from harmony4.server.guard.files import read_private, write_private
from harmony4.server.state import State

__all__ = ["SIZE", "load_secret", "secret_path"]

SIZE: Final = 32
"""Bytes."""
_LOCK: Final = "secret"


def secret_path(state: State) -> Path:
    """Where it lies."""
    return state.path / "secret"


def load_secret(state: State) -> bytes:
    """The secret; made if there is none yet, by one process only. Touches the disk.

    Raises SourceError where it cannot be read or is no secret, StorageError where it cannot be made.
    """
    path = secret_path(state)
    found = read_private(path)
    if found is None:
        with state.locked(_LOCK):
            found = read_private(path)
            if found is None:
                found = secrets.token_bytes(SIZE)
                write_private(path, found)
    if len(found) != SIZE:
        raise SourceError(
            "the server's secret is damaged: delete it, and a new one is made",
            where=str(path),
            expected=f"{SIZE} bytes",
            found=len(found),
        )
    return found
