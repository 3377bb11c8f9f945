"""Small files that only the server's user may read: written whole or not at all. Call these in threads."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from harmony4.crypto.errors import SourceError, StorageError

__all__ = ["Mark", "mark", "read_private", "write_private"]

Mark = tuple[int, int, int, int] | None
"""What tells a file from its replacement; None where there is none."""


def mark(path: Path) -> Mark:
    """The mark of the file at `path`; None as well where it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_private(path: Path) -> bytes | None:
    """The content; None where there is no such file. Raises SourceError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"cannot read {path.name}: {error.strerror}", where=str(path.parent)) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace the file at `path`; it is on the disk when this returns. Raises StorageError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
