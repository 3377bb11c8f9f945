"""What is done with every request before the guard and after it: whom it is from, what it is called in the
log, and whether there are too many under way."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from time import perf_counter
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.guard.caller import CALLER
from harmony4.server.guard.policy import OPEN
from harmony4.server.guard.throttle import network
from harmony4.server.insight.tally import Tally
from harmony4.server.logs import REQUEST_ID
from harmony4.server.serving.forwarded import ADDRESS, BELIEVED, Proxies, client_address

__all__ = ["STARTED", "Front", "name_request", "request_id", "route_name"]

STARTED: Final = web.RequestKey("started", float)
"""When a request reached the application, `perf_counter` seconds."""
_ID: Final = web.RequestKey("request_id", str)
_NAME: Final = "X-Request-Id"
_FORM: Final = re.compile(r"(?!h4_|[0-9A-Fa-f]{64}$)[A-Za-z0-9._-]{8,64}")
"""Nothing that has the form of a token or a key: the log has it."""
_FREE: Final = OPEN | {"/metrics"}
"""Routes that are answered however many requests are under way."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def route_name(request: web.BaseRequest) -> str:
    """The route that the router found, as `openapi.json` names it; `other` for none."""
    found = getattr(request, "_match_info", None)
    resource = None if found is None else found.route.resource
    return "other" if resource is None else str(resource.canonical)


def request_id(request: web.BaseRequest) -> str:
    """What a request is called in the log; empty for what never reached the application."""
    return str(request.get(_ID, ""))


def name_request(request: web.Request, response: web.StreamResponse) -> None:
    """Say what a request that failed is called in the log."""
    if response.status >= 400 and (name := request.get(_ID)) is not None:
        response.headers[_NAME] = name


class Front:
    """The two middlewares of one application. For one event loop."""

    def __init__(self, config: Config, tally: Tally, proxies: Proxies) -> None:
        self._proxies = proxies
        self._tally = tally
        self._most = config.max_streams
        self._each = config.max_streams_per_client
        self._active = 0
        self._busy = 0
        self._clients: Counter[str] = Counter()
        # Told apart between processes and starts by the first half; the second costs less than random digits.
        self._names = (f"{start}{n:08x}" for start in [secrets.token_hex(4)] for n in count())
        tally.gauges["active"] = lambda: self._active

    def outer(self) -> Middleware:
        """Around everything: address, name, time."""

        @web.middleware
        async def front(request: web.Request, handler: _Handler) -> web.StreamResponse:
            request[STARTED] = perf_counter()
            peer = request.remote or ""
            if peer and self._proxies.trusts(peer):
                request[BELIEVED] = True
                request[ADDRESS] = self._proxies.client(
                    peer, request.headers.getall(hdrs.X_FORWARDED_FOR, ())
                )
            shown = request.headers.get(_NAME)
            name = next(self._names) if shown is None or not _FORM.fullmatch(shown) else shown
            request[_ID] = name
            REQUEST_ID.set(name)
            self._active += 1
            try:
                return await handler(request)
            finally:
                self._active -= 1

        return front

    def inner(self) -> list[Middleware]:
        """Behind the guard: no more at once than there may be; nothing where there is no limit.

        It raises Problem (429, 503).
        """
        if not self._most and not self._each:
            return []

        @web.middleware
        async def limit(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if route_name(request) in _FREE:
                return await handler(request)
            client = request[CALLER].token_id or network(client_address(request))
            if self._most and self._busy >= self._most:
                self._tally.count("refused|streams")
                raise Problem("crowded", "too many answers are under way")
            if self._each and self._clients[client] >= self._each:
                self._tally.count("refused|streams_per_client")
                raise Problem("streams", "too many answers are under way for this client")
            self._busy += 1
            self._clients[client] += 1
            try:
                return await handler(request)
            finally:
                self._busy -= 1
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

        return [limit]
