"""Where a container is written to: any writable object, or a file that appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Final, Protocol

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import SourceError, StorageError

__all__ = ["AtomicFile", "Writable", "sync_folder", "write_all"]

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What file systems answer that cannot sync a folder (some network and FUSE ones)."""


_NO_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
"""What systems answer that cannot copy between these two files."""
_PIECE: Final = 2**20
_AHEAD: Final = 64 * 2**20
"""Bytes after which a file is synced while it is written on."""
_sync = getattr(os, "fdatasync", os.fsync)


class Writable(Protocol):
    """What a builder needs of its target: files, pipes, sockets' files, BytesIO."""

    def write(self, data: Buffer, /) -> int | None:
        """Write some or all of `data`; returns how many bytes, None for all."""
        ...


def write_all(out: Writable, data: Buffer) -> None:
    """Write every byte. Raises StorageError."""
    try:
        while (done := out.write(data)) is not None and done < len(data):
            if not done:
                raise StorageError("cannot write the container: the target takes no more bytes")
            data = memoryview(data)[done:]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot write the container: {reason}") from error


class AtomicFile:
    """Writes beside `path` and takes its place at `commit`, after both are safe on the disk.

    Until then the target is untouched, and `abort` leaves no trace. A process that is killed leaves a file
    named `.NAME.XXXXXXXX.part`, from which `recover` gets every complete block.
    """

    def __init__(self, path: str | PathLike[str], *, ahead: bool = False) -> None:
        """Raises StorageError where the folder cannot be written or the target is a folder.

        `ahead`: a thread lets what has been written be on the disk while more is written, so that `commit`
        has little to wait for.
        """
        self.path = Path(path)
        if self.path.is_dir():
            raise StorageError("cannot write the container: the target is a folder")
        # A name of 255 bytes is legal; with the ending it would not be.
        stem = os.fsdecode(os.fsencode(self.path.name)[:200])
        self.part = self.path.with_name(f".{stem}.{secrets.token_hex(4)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self.part, flags, 0o666)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StorageError(f"cannot write the container: {reason}") from error
        self._file = os.fdopen(descriptor, "wb", buffering=2**18)
        self._open = True
        self._ahead = ThreadPoolExecutor(1, "harmony4-sync") if ahead else None
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def write(self, data: Buffer, /) -> int:
        """Write to the part file."""
        self._unsynced += len(data)
        if self._ahead is not None and self._unsynced >= _AHEAD:
            self._synced()
            self._syncing = self._ahead.submit(_sync, self._file.fileno())
            self._unsynced = 0
        return self._file.write(data)

    def keep_mode(self, descriptor: int) -> None:
        """Give the file the permissions of another one, where the system can. Raises StorageError."""
        if hasattr(os, "fchmod"):
            try:
                os.fchmod(self._file.fileno(), os.fstat(descriptor).st_mode & 0o7777)
            except OSError as error:
                raise StorageError(f"cannot write the container: {error.strerror}") from error

    def take(self, descriptor: int, count: int) -> None:
        """Write the first `count` bytes of another file, without reading them where the system can do that.

        File systems that share blocks between files copy nothing. Raises StorageError, SourceError.
        """
        done = 0
        try:
            self._file.flush()
            while done < count:
                step = _copy_range(descriptor, self._file.fileno(), min(count - done, _AHEAD), done)
                if not step:
                    raise SourceError("the source ends too early", where=done)
                done += step
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise StorageError(f"cannot write the container: {error.strerror}") from error

    def _synced(self) -> None:
        """Wait for the thread. Raises OSError, which no later sync would tell again."""
        if self._syncing is not None:
            self._syncing.result()

    def _close(self) -> None:
        if self._ahead is not None:
            self._ahead.shutdown()  # it must not meet a descriptor that is somebody else's by then
        self._file.close()

    def commit(self) -> None:
        """Make it durable and put it in place. Raises StorageError."""
        try:
            self._file.flush()
            self._synced()
            os.fsync(self._file.fileno())
            self._close()
            self.part.replace(self.path)
            self._open = False
            sync_folder(self.path.parent)
        except OSError as error:
            self.abort()
            raise StorageError(f"cannot write the container: {error.strerror}") from error

    def abort(self) -> None:
        """Remove the part file. Safe to call twice and after `commit`."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError):
            self._close()  # flushes, which fails where the disk is full
        with suppress(OSError):
            self.part.unlink(missing_ok=True)


def _copy_range(source: int, target: int, count: int, at: int) -> int:
    """Copy up to `count` bytes from offset `at` to the same offset; returns how many. Raises OSError."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, at, at)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
    data = os.pread(source, min(count, _PIECE), at)
    return os.pwrite(target, data, at)


def sync_folder(folder: Path) -> None:
    """Let the names in `folder` be on the disk, where the system can do that. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):  # pragma: no cover - a folder cannot be opened on Windows
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # it may be written and not read; the file is in place and is not taken back
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
