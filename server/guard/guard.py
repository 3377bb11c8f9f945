"""The guard before every route: whom the server is called, which page asks, who asks, and whether they may.

In this order: `Host` (421), preflights (204), `Origin` of whatever changes something (403), then the
credentials and the scope that the route needs (401, 403, 429). Handlers find the `Caller` in
`request[CALLER]`. Answers say how far caches may keep them, and which pages may see them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from harmony4.server.audit import ACTOR
from harmony4.server.config import Config
from harmony4.server.errors import Problem
from harmony4.server.guard import cors, sessions, signing, tokens
from harmony4.server.guard.caller import CALLER, Caller
from harmony4.server.guard.files import Mark, mark
from harmony4.server.guard.origins import Hosts, is_foreign
from harmony4.server.guard.policy import SAFE, needed_scope
from harmony4.server.guard.scopes import ALL, READ, implied
from harmony4.server.guard.secret import load_secret, secret_path
from harmony4.server.guard.throttle import Throttle
from harmony4.server.guard.tokens import Token, TokenFile
from harmony4.server.reading.express import Express
from harmony4.server.serving.forwarded import client_address
from harmony4.server.state import State

__all__ = ["LOOKS", "Guard"]

_LOG: Final = logging.getLogger("harmony4.server")

LOOKS: Final = 0.25
"""Seconds between two looks at whether tokens or secret were replaced."""
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_INVALID: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
_DEPENDS: Final = "Authorization, Cookie"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class _Known:
    """What the server's own folder holds, and the marks of the files that say so."""

    tokens: dict[str, Token] = field(default_factory=dict)
    url_key: bytes = b""
    session_key: bytes = b""
    marks: tuple[Mark, Mark] = (None, None)


class Guard:
    """The guard of one application. For one event loop."""

    def __init__(self, config: Config, state: State, express: Express) -> None:
        self._hosts = Hosts([config.host, *config.allowed_hosts])
        self._named = bool(config.allowed_hosts)
        self._origins = frozenset(config.cors_origins)
        self._state = state
        self._express = express
        self._known = _Known()
        self.mode: Final = config.mode
        self.throttle: Throttle = Throttle()
        self.changed: Callable[[], object] = lambda: None
        """Called when tokens or secret were replaced: who was let in before may not be any more (`holds`)."""
        self._free = {"open": ALL, "public_read": frozenset({READ})}.get(self.mode, frozenset())
        """What nobody in particular may do."""

    # -- what is known

    async def watch(self, _app: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`: learn tokens and secret, and whatever becomes of them, unless everything is
        open.

        Raises SourceError or StorageError where they cannot be read or made.
        """
        if self.mode == "open":
            if self._named:
                _LOG.warning(
                    "everything is open, and allowed_hosts has names: whoever reaches the server by one, "
                    "be it through a proxy, may read, write and delete; --auth and --public-read prevent that"
                )
            yield
            return
        # A thread of its own: the others may all wait for a slow disk, and a revoked token must end.
        with ThreadPoolExecutor(1, "harmony4-guard") as thread:
            loop = asyncio.get_running_loop()
            self._known = await loop.run_in_executor(thread, self._load)
            if not self._known.tokens:
                _LOG.warning("there are no tokens yet; `harmony4 token add` makes one")
            task = loop.create_task(self._keep_looking(thread))
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep_looking(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOKS)
            try:
                changed = await loop.run_in_executor(thread, self._look)
            except Exception as error:
                # Nobody gets in by what cannot be read any more. The next round tries again.
                if self._known.tokens or self._known.url_key:
                    _LOG.error("no token is accepted any more: %s", error)
                changed = _Known()
            if changed is not None:
                self._known = changed
                self._express.drop()
                self.changed()

    def _marks(self) -> tuple[Mark, Mark]:
        return mark(TokenFile(self._state).path), mark(secret_path(self._state))

    def _look(self) -> _Known | None:
        """What has changed, None if nothing has; in a thread."""
        # Without a key nothing was read the last time: marks may be the same as when it was.
        return None if self._known.url_key and self._marks() == self._known.marks else self._load()

    def _load(self) -> _Known:
        load_secret(self._state)  # makes it if there is none
        # Marks first: what is replaced while it is read is read again.
        marks = self._marks()
        secret = load_secret(self._state)
        found = TokenFile(self._state).read()
        return _Known(found, signing.key_of(secret), sessions.key_of(secret), marks)

    @property
    def tokens(self) -> dict[str, Token]:
        """All tokens by id, as of the last look."""
        return self._known.tokens

    # -- requests

    def middleware(self) -> Middleware:
        """The middleware; inside of `errors.problems`, which turns what it raises into answers."""

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            early = self.admit(request)
            if early is None and request.method not in SAFE:
                token = request[CALLER].token_id
                ACTOR.set(f"address {client_address(request)}" if token is None else f"token {token}")
            return await handler(request) if early is None else early

        return guard

    def admit(self, request: web.Request) -> web.Response | None:
        """Let a request through with its `Caller` set, or answer it. Raises Problem (401, 403, 421, 429)."""
        headers, method = request.headers, request.method
        host = headers.get(hdrs.HOST)
        if host is None:
            # HTTP/1.0: the parser refuses later versions without one (400). No browser leaves it out, so no
            # page gets by like this.
            host = ""
        elif not self._hosts.allows(host):
            raise Problem("host", "the server is not called so; allowed_hosts names more than its address")
        if method not in SAFE:
            site = headers.get("Sec-Fetch-Site")
            if is_foreign(headers.get(hdrs.ORIGIN), site, host, self._origins):
                raise _foreign()
        elif method == "OPTIONS":
            origin = headers.get(hdrs.ORIGIN)
            if cors.is_preflight(method, origin, headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)):
                if origin not in self._origins:
                    raise _foreign()
                return web.Response(status=204, headers=cors.preflight_headers())
        if self.mode == "open":
            request[CALLER] = Caller(None, ALL, None)
            self._express.vouch(request)
            return None
        self._authorize(request)
        return None

    def _authorize(self, request: web.Request) -> None:
        scope = needed_scope(request.method, _route(request))
        if scope is None:
            request[CALLER] = self._nobody()
            return
        caller = self.identify(request)
        if scope not in caller.scopes:
            if caller.token_id is None and caller.signed is None:
                raise Problem("unauthorized", "a token is needed", headers=_CHALLENGE)
            raise Problem("forbidden", f"this needs the scope {scope}", headers=_scope_challenge(scope))
        request[CALLER] = caller
        if caller.expires is None and caller.signed is None:
            self._express.vouch(request)

    def identify(self, request: web.Request) -> Caller:
        """Who sends a request: by token, else by session, else by signature, else nobody in particular.

        Raises Problem: a token or a signature that is there and does not hold is refused (401, 429) even
        where nobody asks for one. A session that has ended is none: browsers go on sending it. Nor is one
        that comes from another origin's page, an allowed one as well: those use tokens.
        """
        now = time.time()
        if self.mode != "open":
            scheme, _, text = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            if scheme.lower() == "bearer":
                token = self._bearer(text.strip(), client_address(request), now)
                return self._caller(token, token.expires, by_token=True)
            value = request.cookies.get(sessions.COOKIE) if hdrs.COOKIE in request.headers else None
            if value is not None and not _is_anothers(request):
                session = sessions.check(self._known.session_key, value, self._known.tokens, now)
                if session is not None and self._known.session_key:
                    return self._caller(*session)
            if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) and "sig" in request.query:
                return self._signed(request, now)
        return self._nobody()

    def _nobody(self) -> Caller:
        return Caller(None, self._free, None)

    def _caller(self, token: Token, expires: int | None, *, by_token: bool = False) -> Caller:
        return Caller(token.id, implied(token.scopes) | self._free, expires, by_token=by_token)

    def holds(self, caller: Caller) -> bool:
        """Whether what let a caller in would do so still; for answers that have no end."""
        if caller.expires is not None and time.time() >= caller.expires:
            return False
        if caller.token_id is not None and caller.token_id not in self._known.tokens:
            return False
        return caller.signed is None or caller.url_key == self._known.url_key

    def _bearer(self, text: str, address: str, now: float) -> Token:
        shown = tokens.token_id(text)
        if shown not in self._known.tokens:
            shown = ""
        wait = self.throttle.wait(address, shown)
        if wait:
            seconds = {"Retry-After": str(math.ceil(wait))}
            raise Problem("throttled", "too many wrong tokens came from this address", headers=seconds)
        token = tokens.check(self._known.tokens, text)
        if token is None:
            self.throttle.failed(address, shown)
            raise Problem("unauthorized", "the token is not valid", headers=_INVALID)
        if token.has_expired(now):
            raise Problem("unauthorized", "the token has expired", headers=_INVALID)
        return token

    def _signed(self, request: web.Request, now: float) -> Caller:
        key, address = self._known.url_key, client_address(request)
        try:
            if not key:
                raise signing.BadSignature("no signature can be checked at the moment")
            found = signing.check(key, request.rel_url.raw_path, request.query.items(), now, address)
        except signing.BadSignature as error:
            raise Problem("unauthorized", str(error), headers=_CHALLENGE) from None
        return Caller(None, frozenset({READ}), float(found.exp), found, key)

    def start_session(self, caller: Caller) -> tuple[str, int] | None:
        """A cookie's value for who showed a token, and when it ends; None for everybody else.

        Not for a session that is there: a cookie that was copied could be kept alive for ever.
        """
        token = self._known.tokens.get(caller.token_id or "")
        return (
            None
            if token is None or not caller.by_token
            else sessions.make(self._known.session_key, token, time.time())
        )

    # -- answers

    def inherited(self, request: web.Request, url: str) -> str:
        """An address that the server made, for an answer: signed like the request, if that is signed."""
        caller = request.get(CALLER)
        if caller is None or caller.signed is None:
            return url
        return signing.signed_url(caller.url_key, url, caller.signed)

    async def label(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say who may see and keep an answer; a signal handler, so that errors and streams have it too."""
        headers = response.headers
        if self._origins:
            _vary(response, "Origin")
            origin = request.headers.get(hdrs.ORIGIN)
            if origin in self._origins:
                headers.update(cors.answer_headers(origin))
        if self.mode == "open":
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            return
        caller = request.get(CALLER)
        known = caller is not None and (caller.token_id is not None or caller.signed is not None)
        if not known and self.mode == "public_read" and response.status != 401:
            return
        if caller is None or caller.signed is None:
            # Another site's page must not show what only this browser's cookie opens.
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if known or needed_scope(request.method, _route(request)) is not None:
            _vary(response, _DEPENDS)
            headers[hdrs.CACHE_CONTROL] = _private(headers.get(hdrs.CACHE_CONTROL, ""))


def _is_anothers(request: web.Request) -> bool:
    """Whether the page of another origin asks, be it an allowed one."""
    headers = request.headers
    site = headers.get("Sec-Fetch-Site")
    return is_foreign(headers.get(hdrs.ORIGIN), site, headers.get(hdrs.HOST, ""), frozenset())


def _foreign() -> Problem:
    return Problem("origin", "the page that asks is of another origin; cors_origins allows more")


def _route(request: web.Request) -> str | None:
    """The route that the router found, as `policy` names it."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _scope_challenge(scope: str) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}


def _vary(response: web.StreamResponse, names: str) -> None:
    before = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = names if before is None else f"{before}, {names}"


def _private(cache: str) -> str:
    """A Cache-Control for the caller alone."""
    directives = [one.strip() for one in cache.split(",") if one.strip() not in ("", "public", "private")]
    return cache if "no-store" in directives else ", ".join(["private", *directives])
