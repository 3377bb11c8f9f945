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

__all__ = ["Buffer", "DigestLane", "crc32", "sha256"]

Buffer = bytes | bytearray | memoryview


def crc32(data: Buffer, value: int = 0) -> int:
    """CRC-32 with zlib's polynomial (ISO 3309); `value` continues an earlier one."""
    return zlib.crc32(data, value)


def sha256(data: Buffer) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


class DigestLane:
    """Runs `update(buffer)` calls in order on a thread of its own, at most `depth` of them waiting.

    The buffers must not change until `flush` returns. An exception inside an update comes out of the next
    `put` or `flush`. A context manager; leaving it ends the thread.
    """

    def __init__(self, depth: int = 4) -> None:
        self._queue: queue.Queue[tuple[Callable[[Buffer], object], Buffer] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="harmony4-digest", daemon=True)
        self._thread.start()

    def put(self, update: Callable[[Buffer], object], data: Buffer) -> None:
        """Queue one update; waits while `depth` are queued."""
        self._raise()
        self._queue.put((update, data))

    def flush(self) -> None:
        """Wait until everything queued so far has run."""
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Run what is queued and end the thread. Safe to call twice."""
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

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self._error is None:
                    job[0](job[1])
            except BaseException as error:  # handed to the caller's thread
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()
