"""The folder that a server's processes count in, and tell apart those who are alive (`insight/tally.py`)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harmony4.server.state import held, hold

__all__ = ["numbers_folder"]

_PREFIX: Final = "harmony4-numbers-"
_PARENT: Final = "parent"
_OLD: Final = 60.0
"""Seconds after which nobody is about to hold what nobody holds."""


@contextmanager
def numbers_folder() -> Iterator[str]:
    """A folder for what the workers count; those that killed servers have left are removed first."""
    now = time.time()
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            users = [path / _PARENT, *path.glob("*.live")]
            if status.st_uid == os.getuid() and status.st_mtime < now - _OLD and not any(map(held, users)):
                shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, Path(folder, _PARENT).open("wb") as parent:
        hold(parent.fileno())
        yield folder
