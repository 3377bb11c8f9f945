"""The comings and goings of connections: taken off the listening socket, let go when the server stops.

aiohttp cuts an idle connection off the moment a server stops, and the loops deal badly with a process that
has no descriptor left: uvloop closes connections that it has just accepted, and in the end the listening
socket itself. So both are done here, in the same way on every loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Collection
from typing import Final

from aiohttp import web

from harmony4.server.serving.connection import Connection
from harmony4.server.serving.listening import BACKLOG

__all__ = ["GRACE", "Acceptor", "drain"]

_LOG: Final = logging.getLogger("harmony4.server")

GRACE: Final = 0.5
"""Seconds that a connection must have been silent before a server that stops closes it: a client in the
middle of a conversation gets an answer that says `Connection: close` instead."""
_TICK: Final = 0.02
_AT_ONCE: Final = 4
"""Connections taken in one go. Few: the other workers, and the requests of this one, get their turn."""
_PAUSE: Final = 0.1
"""Seconds until another try when descriptors have run out; connections wait in the kernel's queue."""
_COMPLAIN: Final = 10.0
"""Seconds until the log says again that connections wait."""
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def drain(connections: Collection[web.RequestHandler], limit: float) -> None:
    """Let a server's connections end: what runs may finish, what is silent is closed.

    Returns when there are none left, or after `limit` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    # Requests that lie in the kernel become requests here, before anybody is called silent.
    for _ in range(3):
        await asyncio.sleep(0)
    while connections and (now := loop.time()) < deadline:
        for one in list(connections):
            if isinstance(one, Connection):
                one.leave_if_idle(now, GRACE)
        await asyncio.sleep(min(_TICK, deadline - now))


class Acceptor:
    """Takes connections off a socket that listens, for one event loop.

    Never more than `most` are open at a time; those beyond wait in the kernel's queue, and so do all while
    the process or the system has no descriptor left. `relieve` is called then: it may set some free.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], Connection],
        *,
        connections: Collection[web.RequestHandler],
        most: int,
        relieve: Callable[[], object],
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._most = most
        self._relieve = relieve
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._complained = -_COMPLAIN
        self._stopped = False

    def start(self) -> None:
        """Begin to take connections."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._ready)

    async def stop(self) -> None:
        """Take what waits already, and no more after that."""
        self._stopped = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        else:
            self._loop.remove_reader(self._listener.fileno())
        for _ in range(BACKLOG):
            if not self._take():
                break
        if self._opening:
            await asyncio.gather(*self._opening)

    def _ready(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._take():
                return

    def _take(self) -> bool:
        """Take one connection; False where there is none, or none can be had now."""
        if len(self._connections) + len(self._opening) >= self._most:
            self._pause("as many connections as there is room for")
            return False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _FULL:
                self._relieve()
                self._pause(f"no connection can be accepted: {error.strerror}")
                return False
            return True  # it broke off while it waited (accept(2), Error handling): on to the next one
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError:
            connection.close()

    def _pause(self, why: str) -> None:
        if time.monotonic() - self._complained >= _COMPLAIN:
            self._complained = time.monotonic()
            _LOG.warning("%s; the others wait", why)
        if self._again is None and not self._stopped:
            self._loop.remove_reader(self._listener.fileno())
            self._again = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._again = None
        self.start()
        self._ready()
