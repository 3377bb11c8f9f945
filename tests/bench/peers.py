"""The peers in Python, each as its documentation shows it: `python -m bench.peers KIND FOLDER [BODY]`.

The first line on standard output is `{"url": …}`; then it serves until SIGTERM, logging on standard error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop
from aiohttp import web


def announce(listener: socket.socket) -> None:
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    os.dup2(2, 1)  # nobody reads standard output from now on, and a full pipe would stop whoever logs to it


async def _aiohttp(app: web.Application, log: bool) -> None:
    runner = web.AppRunner(app, access_log=logging.getLogger("aiohttp.access") if log else None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    await web.SockSite(runner, listener).start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    announce(listener)
    await over.wait()
    await runner.cleanup()


def aiohttp(folder: Path) -> None:
    """aiohttp's FileResponse."""

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["name"])

    logging.basicConfig(level=logging.INFO)
    app = web.Application()
    app.router.add_get("/{name}", file)
    uvloop.run(_aiohttp(app, True))


def constant(body: str) -> None:
    """The least that an aiohttp handler can do: a constant body, and no log."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/video/seek", answer)
    uvloop.run(_aiohttp(app, False))


def events(count: int) -> None:
    """The least that an aiohttp handler can do to send events: they are there already, 128 at a time."""
    batch, rest = divmod(count, 128)
    ready = b"event: token\ndata: " + b"x" * 168 + b"\n\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(batch):
            await response.write(ready * 128)
        await response.write(ready * rest)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get("/events", answer)
    uvloop.run(_aiohttp(app, False))


def starlette(folder: Path) -> None:
    """Starlette's FileResponse under uvicorn, with its fast loop and parser."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse
    from starlette.routing import Route

    async def file(request: Request) -> FileResponse:
        return FileResponse(folder / request.path_params["name"])

    app = Starlette(routes=[Route("/{name}", file)])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    announce(listener)
    uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools")).run(sockets=[listener])


if __name__ == "__main__":
    kind, argument = sys.argv[1:3]
    if kind == "constant":
        constant(sys.argv[3])
    elif kind == "events":
        events(int(sys.argv[3]))
    elif kind == "aiohttp":
        aiohttp(Path(argument))
    else:
        starlette(Path(argument))
