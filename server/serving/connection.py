"""aiohttp's connection with three things of ours: the express lane, the access log, problems for what is no
HTTP.

The express lane (`express.py`) takes requests before they reach aiohttp's machinery. That relies on details
of `web.RequestHandler` which change between minor versions: `pyproject.toml` pins one, and
`tests/test_express.py` runs the same requests through both lanes.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from errno import EFAULT
from socket import SO_LINGER, SOL_SOCKET
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from harmony4.server import pages
from harmony4.server.errors import CODE, DAMAGED, problem_response
from harmony4.server.insight.tally import Tally
from harmony4.server.logs import without_signature
from harmony4.server.reading.express import SHORT, Express, Key, split
from harmony4.server.reading.payload import may_map
from harmony4.server.reading.residency import is_cut_short
from harmony4.server.serving.access import SENT, AccessLog, client_fields, escape
from harmony4.server.serving.forwarded import ADDRESS, Crowd
from harmony4.server.serving.front import STARTED, request_id, route_name

if TYPE_CHECKING:
    from harmony4.server.folder.library import Container

__all__ = ["Connection"]

_DRAIN_CHECKS: Final = 0.02
"""Seconds between two looks at what the kernel has still to take, while the server stops."""
_LOG: Final = logging.getLogger("harmony4.server")
_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: 80\r\n\r\n"
    b'{"type": "urn:harmony4:problem:http", "title": "Request Timeout", "status": 408}'
)


_TOO_MANY: Final = b'{"type": "urn:harmony4:problem:http", "title": "Too Many Requests", "status": 429}'
_MANY: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: 5\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_TOO_MANY), _TOO_MANY)


def _count(tally: Tally, request: web.BaseRequest, response: web.StreamResponse) -> None:
    route = route_name(request)
    # `request.get` raises and catches a KeyError for what is not there: a quarter of all that counting costs.
    size = request._state.get(SENT)
    cell = tally.cell(route, request.method, response.status)
    cell[0] += 1
    if size is not None:
        tally.size(size)
    cell[1] += response.body_length if size is None else size
    if response.status >= 500:
        tally.count(f"failed|{response.get(CODE, 'http')}")
        if request.get(DAMAGED):
            tally.count("damaged|read")
    if route == "/video/seek" and (started := request.get(STARTED)) is not None:
        tally.seek(perf_counter() - started)


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_at_boundary",
        "_begun",
        "_body",
        "_crowd",
        "_express",
        "_kept",
        "_keys",
        "_opened",
        "_owed",
        "_partial",
        "_place",
        "_tally",
        "access",
        "address",
        "cut_off",
        "maps",
        "received",
        "socket",
        "trusted",
        "wire",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        express: Express | None,
        access: AccessLog | None,
        tally: Tally | None = None,
        crowd: Crowd | None = None,
        **options: Any,
    ) -> None:
        super().__init__(manager, access_log=None, **options)  # type: ignore[arg-type]  # None: no log
        self._express = express
        self.access = access
        self._logging_enabled = access is not None  # makes aiohttp take the time
        self._tally = tally
        self._crowd = crowd
        self._place: str | None = None
        """What the connection is counted as, while it is."""
        self._at_boundary = True
        self._opened = 0.0
        self._partial = False
        self._begun = 0.0
        """When the head that has not come whole began, by the loop's time."""
        self._body: StreamReader | None = None
        """The body of the request that was answered last."""
        self._keys: deque[Key | None] = deque()
        """What the requests that aiohttp has not answered yet are called in the express lane."""
        self.address = "-"
        self.trusted = False
        """Whether the peer is a proxy that is believed."""
        self.cut_off = False
        """Whether it was ended because its client took nothing."""
        self.maps = False
        """Whether slices of a mapping may be written to the transport."""
        self._owed: Container | None = None
        """A lease on the container of which slices were handed over, until the kernel has taken them."""
        self._kept = 0
        """Bytes of it that are copies."""
        self.received = 0
        """Bytes that came while a body was arriving: who still sends need not read yet."""
        self.socket = -1
        """The socket's descriptor, while there is a transport."""
        self.wire: asyncio.Transport | None = None
        """The transport until it is closed in fact; aiohttp forgets its own when it wants it closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = str(peer[0])
        self.maps = may_map(transport)
        self.socket = transport.get_extra_info("socket").fileno()
        self._opened = self._loop.time()
        self.wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        if self._crowd is not None:
            self.trusted = self._crowd.proxies.trusts(self.address)
            self._place = self._crowd.enter(self.address)
            if self._place is None:
                if self._tally is not None:
                    self._tally.count("refused|connections_per_client")
                self.wire.write(_MANY)
                self.wire.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.wire = None
        if self._crowd is not None and self._place is not None:
            self._crowd.leave(self._place)
            self._place = None
        if (owed := self._disown()) is not None:
            cut = is_cut_short(owed.reader)
            # Pages of a file that cannot be had, which is no client that left.
            lost = isinstance(exc, OSError) and exc.errno == EFAULT
            with owed:
                pass
            if self.cut_off:
                pass  # counted already
            elif cut or lost:
                self._tell_of_the_end("the container was cut short meanwhile" if cut else "it cannot be read")
            elif self._tally is not None:
                self._tally.count("broken|left")
        super().connection_lost(exc)
        # After a refusal aiohttp reads on for 10 s, so that a client which is still sending sees the answer.
        # One that has left sends no more; without this, a server that stops waited for it.
        if self._body is not None and not self._body.is_eof():
            self._body.feed_eof()

    def owe(self, container: Container, rest: Sequence[bytes | memoryview], *, copied: bool = False) -> None:
        """Hand over the rest of an answer, slices of a container's mapping unless it is `copied`.

        The container stays open until the kernel has taken it.
        """
        transport = self.transport
        assert transport is not None
        transport.set_write_buffer_limits(high=0)  # so that it says when all of it is out
        transport.writelines(rest)
        if copied and self._express is not None:
            self._kept = sum(map(len, rest))
            self._express.kept += self._kept
        container.users += 1
        self._owed = container
        self._loop.call_soon(self._look_at_owed)

    def _disown(self) -> Container | None:
        """What is owed, which is not owed any more."""
        if self._kept and self._express is not None:
            self._express.kept -= self._kept
            self._kept = 0
        owed, self._owed = self._owed, None
        return owed

    def _look_at_owed(self) -> None:
        if self._owed is None or self.wire is None:
            return  # resumed, or lost
        if not self.wire.get_write_buffer_size():
            self._settle()  # all of it went at once: nobody will say so
        elif not self._paused:
            self._loop.call_soon(self._look_at_owed)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._owed is not None:
            self._settle()

    def _settle(self) -> None:
        container = self._disown()
        assert container is not None
        # The rest of a mapping's last page reads as zero bytes, and fails nothing.
        cut = is_cut_short(container.reader)
        with container:
            pass
        if cut:
            self.break_off()

    def break_off(self) -> None:
        """End an answer that has begun: its container was cut short."""
        self._tell_of_the_end("the container was cut short meanwhile")
        self.reset()

    def _tell_of_the_end(self, why: str) -> None:
        if self._tally is not None:
            self._tally.count("broken|failed")
        _LOG.warning("an answer was broken off: %s", why)

    def cut_off_stuck(self) -> None:
        """End the connection of a client that takes nothing."""
        if not self.cut_off and self._tally is not None:
            self._tally.count("broken|stuck")
        self.cut_off = True
        self.reset()

    def reset(self) -> None:
        """End the connection at once, and what the kernel has not sent yet with it."""
        if self.wire is None:
            return
        # Without this the kernel would go on offering what it has taken.
        socket = self.wire.get_extra_info("socket")
        if socket is not None:
            with suppress(OSError):  # aborting does it, too, only later
                socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.abort()

    def _process_keepalive(self) -> None:
        # A client that has still bytes to take is not idle: the express lane does not wait for it.
        if self.transport is not None and self.transport.get_write_buffer_size():
            self._next_keepalive_close_time = self._loop.time() + max(self._keepalive_timeout, _DRAIN_CHECKS)
        super()._process_keepalive()

    def data_received(self, data: bytes) -> None:
        key = None
        if self._at_boundary and self._express is not None:
            key, value = split(data)
            if (
                key is not None
                and not self._keys
                and not self._close
                and self._express.answer(self, key, value, now := self._loop.time())
            ):
                self._request_count += 1
                self._manager.requests_count += 1  # type: ignore[union-attr]  # there while connected
                self._next_keepalive_close_time = now + self._keepalive_timeout
                return
        before = self._request_count
        super().data_received(data)
        current = self._current_request
        if current is not None and not current.content.is_eof():
            self.received += len(data)
        new = self._request_count - before
        # The first bytes of a request: no whole one came of them, and nothing else could have been meant.
        partial = not new and self._current_request is None and not self._messages
        if partial and not self._partial:
            self._begun = self._loop.time()
        self._partial = partial
        # Whether the parser stands between two requests: exactly one came, whole and without a body. The
        # bytes are looked at, too, for a parser whose queue is full keeps the second of two for later.
        self._at_boundary = (
            self._at_boundary
            and new == 1
            and data.find(b"\r\n\r\n") == len(data) - 4
            and self._messages[-1][1] is EMPTY_PAYLOAD
            and not self._upgraded
        )
        self._keys.extend([key if self._at_boundary else None] * new)

    def end_if_late(self, now: float, limit: float) -> None:
        """Close, with a problem, if a request's head takes longer than `limit` seconds to come.

        `now` is the loop's time, seconds. Who says nothing at all is closed as idle, which aiohttp does.
        """
        if self.transport is None or self.transport.is_closing():
            return
        if self._partial and now - self._begun >= limit:
            self._partial = False
            self.transport.write(_LATE)
            self.transport.close()

    def leave_if_idle(self, now: float, grace: float) -> None:
        """Close if there is no request, not even the beginning of one, and has been none for `grace` seconds.

        `now` is the loop's time, seconds.
        """
        waiter = self._waiter
        idle = waiter is not None and not waiter.done() and not self._partial
        if not idle or self.transport is None or self.transport.get_write_buffer_size():
            return
        # aiohttp notes after each answer when an idle connection is to be closed, and so does the express
        # lane.
        answered = self._next_keepalive_close_time - self._keepalive_timeout
        if now - max(answered, self._opened) >= grace:
            self.force_close()

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        if self.access is not None and time is not None:
            target = without_signature(request.raw_path)
            line = f"{request.method} {target} HTTP/{request.version.major}.{request.version.minor}"
            size = request.get(SENT, response.body_length)
            seconds = self._loop.time() - time
            client, address = client_fields(request), request.get(ADDRESS) or self.address
            self.access.add(
                address, escape(line), response.status, size, client, seconds, request_id(request)
            )

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self._body = request.content
        response, gone = await super().finish_response(request, resp, start_time)
        if self._tally is not None:
            _count(self._tally, request, response)
        key = self._keys.popleft() if self._keys else None
        if gone or not response.keep_alive:
            self._at_boundary = False  # nothing more is answered here
        if self._express is not None and not gone:
            if response.body_length <= SHORT:
                self._express.last = self._loop.time()
            if key is not None:
                self._express.learn(key, request, response)
        return response, gone

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        gone = self.transport is None or self.transport.is_closing()
        if isinstance(exc, ConnectionError) and gone:
            raise exc  # the client has left, which aiohttp takes for the end, and nobody for an error
        if status >= 500 or request.writer.output_size > 0:
            # Logs the error; where an answer has begun it breaks the connection off.
            super().handle_error(request, status, exc, message)
        detail = "the request is not valid HTTP" if status == 400 else None
        response = problem_response("http", detail, status=status)
        response.headers.update(pages.SECURITY_HEADERS)
        response.force_close()
        return response

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """Let what the express lane has handed over go out before the connection is closed."""
        left = timeout or 0.0
        while left > 0 and self.transport is not None and self.transport.get_write_buffer_size():
            await asyncio.sleep(_DRAIN_CHECKS)
            left -= _DRAIN_CHECKS
        # Never 0: aiohttp takes that for as long as it likes.
        await super().shutdown(max(left, _DRAIN_CHECKS))
