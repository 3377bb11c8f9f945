"""`/health` (the process answers) and `/ready` (it can do its work)."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from aiohttp import web

from harmony4.crypto.errors import SourceError
from harmony4.server.errors import Problem
from harmony4.server.keys import CONFIG, LIBRARY, SHARES, STATUS
from harmony4.server.query import json_response

__all__ = ["disk_free", "get_health", "get_ready", "routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/health", get_health), web.get("/ready", get_ready)]


async def get_health(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return json_response({"status": "ok"}, "no-store")


async def get_ready(request: web.Request) -> web.Response:
    """200 if the library can be read; 503 if not, and from the first word that the server is to stop.

    A disk with less than `min_free` bytes left takes nothing in, but who reads is served: it is said, and no
    reason for a 503.
    """
    app = request.app
    free = workers = 0
    if app[STATUS].ready:
        free = await asyncio.to_thread(disk_free, app[LIBRARY].root, app[LIBRARY].device)
        workers = await asyncio.to_thread(app[SHARES].living)
    if not app[STATUS].ready:
        raise Problem("stopping", "the server is stopping")
    found = {
        "status": "ready",
        "containers_open": app[LIBRARY].opened,
        "disk_free": free,
        "takes_uploads": free >= app[CONFIG].min_free,
        "workers": workers,
    }
    return json_response(found, "no-store")


def disk_free(root: os.PathLike[str], device: int | None = None) -> int:
    """Bytes that are free on the library's disk.

    Raises SourceError where it cannot be read, or is another one than `device`: something was mounted over
    it, or what was mounted is gone.
    """
    try:
        with os.scandir(root):
            if device is not None and Path(root).stat().st_dev != device:
                raise SourceError("the library's folder is on another disk than at the start")
            return shutil.disk_usage(root).free
    except OSError as error:
        raise SourceError(f"cannot read the library: {error.strerror}") from error
