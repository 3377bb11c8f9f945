"""What the server looks after while it runs: clients that take nothing, and memory that mappings hold."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Final, cast

from aiohttp import web

from harmony4.server.folder.library import Library
from harmony4.server.serving.connection import Connection

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["keep_house"]

_LOG: Final = logging.getLogger("harmony4.server")
_PAUSE: Final = 0.25
"""Seconds between two rounds."""
_LOOKS: Final = 8
"""Looks at a connection within the write time limit."""
_Seen = dict[Connection, tuple[tuple[int, int], float]]
"""Bytes that a client had still to take, and those of a body that it had sent; the loop's time since when."""


async def keep_house(manager: web.Server, library: Library, limit: float, patience: float) -> None:
    """Run until cancelled. `limit` is how long a client may take nothing, `patience` how long the head of its
    request may take, seconds.
    """
    pause = min(_PAUSE, min(limit, patience) / _LOOKS)
    loop = asyncio.get_running_loop()
    seen: _Seen = {}
    while True:
        await asyncio.sleep(pause)
        now = loop.time()
        try:
            seen = _look_after(cast(list[Connection], manager.connections), seen, now, limit, patience)
            library.look_around()
            await library.let_go(now)
        except Exception:  # one bad round must not leave the server without the next ones
            _LOG.exception("the housekeeping failed; it goes on")


def _look_after(
    connections: list[Connection], before: _Seen, now: float, limit: float, patience: float
) -> _Seen:
    """Cut off who takes nothing for `limit` seconds, and sends nothing of a body either; what each one has
    still to take, and since when.
    """
    seen: _Seen = {}
    for one in connections:
        try:
            one.end_if_late(now, patience)
            left = _left(one)
            if not left:
                continue
            known, since = before.get(one, (None, now))
            state = left, one.received
            seen[one] = state, (since if known == state else now)
            if now - seen[one][1] >= limit:
                _cut_off(one, limit)
        except Exception:  # that one must not keep the others, or itself, for ever
            _LOG.exception("a connection cannot be looked after, and is closed")
            if one.wire is not None:
                one.wire.abort()
    return seen


def _left(connection: Connection) -> int:
    """Bytes that the client has still to take, those in the kernel included; 0 where we wait for nothing."""
    transport = connection.wire
    if transport is None:
        return 0
    left = transport.get_write_buffer_size()
    if left and sys.platform != "win32":
        # The kernel takes more only when much of its own buffer is free, which a slow client may need minutes
        # for: what it has still to send says whether the client takes anything.
        queue = bytearray(4)
        try:
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queue)
        except OSError:
            return left
        left += int.from_bytes(queue, sys.byteorder)
    return left


def _cut_off(connection: Connection, limit: float) -> None:
    _LOG.debug("a client took nothing for %s s", limit)
    connection.cut_off_stuck()
