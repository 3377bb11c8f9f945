"""`/session`: sign in with a token, sign out, and what a page may do."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from harmony4.server.errors import Problem
from harmony4.server.guard.caller import Caller
from harmony4.server.guard.scopes import SCOPES
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.keys import GUARD, LIES
from harmony4.server.query import json_response

__all__ = ["delete_session", "get_session", "post_session", "routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/session", get_session),
        web.post("/session", post_session),
        web.delete("/session", delete_session),
    ]


async def get_session(request: web.Request) -> web.Response:
    """The server's mode, and what the caller may do."""
    return json_response(_facts(request, request.app[GUARD].identify(request)), "no-store")


async def post_session(request: web.Request) -> web.Response:
    """A cookie for whoever shows a token: 200, 401, 429. Where everything is open there is none to give."""
    guard = request.app[GUARD]
    caller = guard.identify(request)
    session = guard.start_session(caller)
    if session is None:
        if guard.mode != "open":
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem("unauthorized", "a token is needed", headers=challenge)
        return json_response(_facts(request, caller), "no-store")
    value, ends = session
    response = json_response(_facts(request, caller) | {"expires": ends}, "no-store")
    response.set_cookie(
        COOKIE,
        value,
        max_age=max(0, ends - int(time.time())),
        path="/",
        httponly=True,
        samesite="Strict",
        secure=_is_secure(request),
    )
    return response


async def delete_session(request: web.Request) -> web.Response:
    """Take the cookie away: 204. What was copied of it before holds until it ends, or its token is
    revoked."""
    # What the browser has kept was for whoever was signed in.
    response = web.Response(status=204, headers={"Cache-Control": "no-store", "Clear-Site-Data": '"cache"'})
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=_is_secure(request))
    return response


def _facts(request: web.Request, caller: Caller) -> dict[str, Any]:
    guard = request.app[GUARD]
    token = guard.tokens.get(caller.token_id or "")
    return {
        "mode": guard.mode,
        "name": token.name if token is not None else None,
        "scopes": [one for one in SCOPES if one in caller.scopes],
        "expires": None if caller.expires is None else int(caller.expires),
        "lies": request.app[LIES],
    }


def _is_secure(request: web.Request) -> bool:
    """Whether the browser speaks https, to us or to a proxy, be it believed or not. Whoever lies here only
    harms their own cookie, and where a proxy is not named the cookie is better off marked."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
