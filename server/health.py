"""`/health` (the process answers) and `/ready` (it can do its work)."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from harmony4.crypto.errors import SourceError
from harmony4.server.errors import Problem
from harmony4.server.keys import LIBRARY, STATUS
from harmony4.server.query import json_response

__all__ = ["get_health", "get_ready", "routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/health", get_health), web.get("/ready", get_ready)]


async def get_health(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return json_response({"status": "ok"}, "no-store")


async def get_ready(request: web.Request) -> web.Response:
    """200 if the library can be read; 503 if not, and while the server stops."""
    await asyncio.to_thread(_look, request.app[LIBRARY].root)
    if request.app[STATUS].stopping:
        raise Problem("stopping", "the server is stopping")
    return json_response({"status": "ready", "containers_open": request.app[LIBRARY].opened}, "no-store")


def _look(root: os.PathLike[str]) -> None:
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        raise SourceError(f"cannot read the library: {error.strerror}") from error
