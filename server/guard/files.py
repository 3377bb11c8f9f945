"""Small files that only the server's user may read: written whole or not at all. Call these in threads."""

from __future__ import annotations

from pathlib import Path

from harmony4.crypto.errors import SourceError, StorageError
from harmony4.server.state import write_whole

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
    try:
        write_whole(path, data, sync=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
