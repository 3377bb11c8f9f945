"""The access log: a line a request in nginx's combined format, with the microseconds that it took behind it.

Lines are collected and written by a thread, a few times a second: the event loop never waits for a disk or a
pipe. A reader of the log that falls behind costs lines, never requests; how many were lost is logged as soon
as there is room again.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from harmony4.server.logs import json_line, rfc3339, without_keys, without_signature

__all__ = ["SENT", "AccessLog", "client_fields", "escape"]

SENT: Final = web.RequestKey("sent", int)
"""Bytes of a streamed body that were handed to the transport: aiohttp's own count includes the head."""
_DELAY: Final = 0.2
"""Seconds that a line may wait for others."""
_MOST: Final = 100_000
"""Lines that may wait; more are counted and dropped."""
_PATIENCE: Final = 1.0
"""Seconds that the thread waits for a pipe to have room."""
_PIPE: Final = 4096
"""What a pipe takes in one piece beside other writers (PIPE_BUF on Linux), bytes."""
_CUT: Final = " ...\n"
"""The end of a line that would not fit into one piece."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")


def escape(text: str) -> str:
    r"""Text for a field of the log: quotes, backslashes and all that is not printable ASCII as `\xHH`."""
    if _UNSAFE.search(text) is None:
        return text
    data = text.encode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02X}", data.decode("latin-1"))


def client_fields(request: web.BaseRequest) -> str:
    """The quoted referrer and user agent, as the log has them."""
    referrer = escape(without_signature(request.headers.get("Referer", "-")))
    return f'"{referrer}" "{escape(without_keys(request.headers.get("User-Agent", "-")))}"'


class AccessLog:
    """Collects lines and writes them to a descriptor. For one event loop."""

    def __init__(
        self, descriptor: int, clock: Callable[[], float] = time.time, *, json: bool = False
    ) -> None:
        """`clock` gives seconds since the epoch; `json`: lines are JSON instead."""
        self._json = json
        self._descriptor = descriptor
        self._clock = clock
        self._lines: list[str] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[int] | None = None
        self._second = -1
        self._date = ""
        self._pipe = True
        with suppress(OSError):
            self._pipe = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    def add(
        self,
        address: str,
        request: str,
        status: int,
        size: int,
        client: str,
        seconds: float,
        request_id: str = "",
    ) -> None:
        """Add a line.

        `request` is the request line and `client` the quoted referrer and user agent, both escaped already;
        `size` is the body's length in bytes.
        """
        if len(self._lines) >= _MOST:
            self._dropped += 1
            return
        now = self._clock()
        if int(now) != self._second:
            self._second = int(now)
            self._date = _date(self._second)
        if self._json:
            self._lines.append(self._record(now, address, request, status, size, client, seconds, request_id))
        else:
            self._lines.append(
                f'{address} - - [{self._date}] "{request}" {status} {size} {client} {int(seconds * 1e6)}\n'
            )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DELAY, self._flush)

    def _record(
        self,
        now: float,
        address: str,
        request: str,
        status: int,
        size: int,
        client: str,
        seconds: float,
        request_id: str,
    ) -> str:
        # Quotes in the two fields of `client` are escaped, so those that stand there are around them.
        referrer, _, agent = client[1:-1].partition('" "')
        record = {
            "timestamp": rfc3339(now),
            "level": "info",
            "event": "request",
            "client": address,
            "request": request,
            "status": status,
            "bytes": size,
            "seconds": round(seconds, 6),
            "referrer": referrer,
            "agent": agent,
        }
        if request_id:
            record["request_id"] = request_id
        return json_line(record)

    async def close(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
        for _ in range(2):  # what is being written, then the rest
            if self._writing is not None:
                await self._writing
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        if self._writing is not None:
            if not self._writing.done():  # the thread still writes: these lines travel with the next ones
                self._timer = asyncio.get_running_loop().call_later(_DELAY, self._flush)
                return
            self._dropped += self._writing.result()
            self._writing = None
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        dropped, self._dropped = self._dropped, 0
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, lines, dropped)

    def _write(self, lines: list[str], dropped: int) -> int:
        """Whole lines in each write, so that those of several processes do not mix; in a thread.

        `dropped` lines were lost before, which the log says behind these. Returns how many are lost now.
        """
        lost = len(lines) + dropped
        if dropped:
            said = f"{dropped} lines were dropped: the log's reader is too slow"
            lines.append(json_line({"level": "warning", "event": said}) if self._json else f"({said})\n")
        most = _PIPE if self._pipe else 2**20
        batch: list[str] = []
        size = 0
        if self._pipe:
            lines = [line if len(line) <= _PIPE else line[: _PIPE - len(_CUT)] + _CUT for line in lines]
        for line in [*lines, ""]:
            if batch and (not line or size + len(line) > most):
                if not self._write_all("".join(batch).encode("ascii")):
                    return lost
                lost -= len(batch)
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        return 0

    def _write_all(self, data: bytes) -> bool:
        """Whether it could be written; nobody is helped by a server that stops because it cannot log."""
        try:
            # A pipe that has room takes PIPE_BUF bytes at once; one that has none for so long is lost.
            if self._pipe and not select.select([], [self._descriptor], [], _PATIENCE)[1]:
                return False
            while data:
                data = data[os.write(self._descriptor, data) :]
        except (OSError, ValueError):
            return False
        return True


def _date(second: int) -> str:
    """Seconds since the epoch as nginx's `time_local`, in UTC."""
    year, month, day, hour, minute, second, *_ = time.gmtime(second)
    return f"{day:02}/{_MONTHS[month - 1]}/{year}:{hour:02}:{minute:02}:{second:02} +0000"
