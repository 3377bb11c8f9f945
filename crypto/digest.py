"""Digests, and a thread that computes them beside the one that reads and writes.

hashlib and zlib release the GIL for large buffers, so a lane really uses the second core.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import zlib
from collections.abc import Callable
from types import TracebackType

from harmony4.crypto.errors import UsageError

__all__ = ["Buffer", "DigestLane", "crc32", "sha256"]

Buffer = bytes | bytearray | memoryview
_Job = tuple[Callable[["Buffer"], object], "Buffer"]


def crc32(data: Buffer, value: int = 0) -> int:
    """CRC-32 with zlib's polynomial (ISO 3309); `value` continues an earlier one."""
    return zlib.crc32(data, value)


def sha256(data: Buffer) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


class DigestLane:
    """Runs `update(buffer)` calls in order on a thread of its own.

    Small buffers travel together (the hand-over costs more than their digest), and at most `depth` batches
    wait. Buffers must not change until `flush` returns. An exception inside an update comes out of a later
    `put` or `flush`. A context manager; leaving it ends the thread.
    """

    BATCH = 2**18
    """Bytes that make a batch."""

    def __init__(self, depth: int = 4) -> None:
        self._queue: queue.Queue[list[_Job] | None] = queue.Queue(depth)
        self._batch: list[_Job] = []
        self._size = 0
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="harmony4-digest", daemon=True)
        self._thread.start()

    def put(self, update: Callable[[Buffer], object], data: Buffer) -> None:
        """Queue one update; waits while `depth` batches are queued."""
        self._batch.append((update, data))
        self._size += len(data)
        if self._size >= self.BATCH:
            self._send()

    def flush(self) -> None:
        """Wait until everything so far has run."""
        self._send()
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """End the thread when it has run what is queued. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def __enter__(self) -> DigestLane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self) -> None:
        self._raise()
        if self._closed:
            raise UsageError("the digest lane is closed")
        self._queue.put(self._batch)
        self._batch = []
        self._size = 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                if self._error is None:
                    for update, data in batch:
                        update(data)
            except BaseException as error:  # handed to the caller's thread
                self._error = error
            finally:
                self._queue.task_done()
