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
    """Runs `update(buffer)` calls in order, on a thread of its own once there is enough for it to do.

    Small buffers travel together (the hand-over costs more than their digest), and at most `depth` batches
    wait. Buffers must not change until `flush` returns. An exception inside an update comes out of a later
    `put` or `flush`, and nothing behind it is run. A context manager; leaving it ends the thread.
    """

    BATCH = 2**18
    """Bytes that make a batch, an allowance for each call included."""
    CALL = 2**7
    """That allowance: what a waiting call takes in memory, so that many tiny buffers do not pile up."""

    def __init__(self, depth: int = 4) -> None:
        self._queue: queue.Queue[list[_Job] | None] = queue.Queue(depth)
        self._batch: list[_Job] = []
        self._size = 0
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, update: Callable[[Buffer], object], data: Buffer) -> None:
        """Queue one update; waits while `depth` batches are queued."""
        self._batch.append((update, data))
        self._size += len(data) + self.CALL
        if self._size >= self.BATCH:
            self._check()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="harmony4-digest", daemon=True)
                self._thread.start()
            self._queue.put(self._take())

    def flush(self) -> None:
        """Wait until everything so far has run."""
        self._check()
        if self._thread is not None:
            self._queue.put(self._take())
            self._queue.join()
        else:
            self._apply(self._take())
        self._check()

    def close(self) -> None:
        """End the thread when it has run what is queued. Safe to call twice."""
        if self._thread is not None and not self._closed:
            self._queue.put(None)
            self._thread.join()
        self._closed = True

    def __enter__(self) -> DigestLane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> list[_Job]:
        batch, self._batch, self._size = self._batch, [], 0
        return batch

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise UsageError("the digest lane is closed")

    def _apply(self, batch: list[_Job]) -> None:
        try:
            if self._error is None:
                for update, data in batch:
                    update(data)
        except BaseException as error:  # handed to the caller
            self._error = error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            self._apply(batch)
            self._queue.task_done()
