"""The application: `create_app(config)` puts the rooms together, `run(config)` serves it until it is told to
stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.server import health, media, openapi, pages, seeking, timed, video
from harmony4.server.access import AccessLog
from harmony4.server.catalogue import Catalogue
from harmony4.server.config import Config
from harmony4.server.connection import Connection
from harmony4.server.errors import problems
from harmony4.server.express import Express
from harmony4.server.housekeeping import keep_house
from harmony4.server.keys import CATALOGUE, CONFIG, EXPRESS, LIBRARY, STATUS, Status
from harmony4.server.library import Library

__all__ = ["create_app", "run", "serve"]

_LOG: Final = logging.getLogger("harmony4.server")
_BACKLOG: Final = 1024


def create_app(config: Config) -> web.Application:
    """The application for one library. Raises SourceError where the library cannot be read."""
    app = web.Application(middlewares=[problems])
    library = Library(config.library, max_open=config.max_open)
    app[CONFIG] = config
    app[LIBRARY] = library
    app[CATALOGUE] = Catalogue(library.root)
    app[STATUS] = Status()
    app[EXPRESS] = Express(library)
    app.on_response_prepare.append(pages.secure)
    app.on_response_prepare.append(timed.name_time)
    app.cleanup_ctx.append(_readers)
    app.add_routes(video.routes())
    app.add_routes(seeking.routes())
    app.add_routes(media.routes())
    app.add_routes(health.routes())
    app.add_routes(openapi.routes())
    app.add_routes(pages.routes(pages.load_static()))
    return app


async def _readers(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[LIBRARY].close()


def _announce(url: str) -> None:
    print(f"HarmonyØ4 is at {url}", flush=True)


def run(config: Config, *, ready: Callable[[str], None] = _announce) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the address once connections are accepted.

    Running requests get `config.stop_timeout` seconds. Uses uvloop where it is installed. Raises SourceError
    where
    the library cannot be read, UsageError where the address cannot be used.
    """
    app = create_app(config)
    with _listen(config.host, config.port) as listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(app, listener, ready=ready))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(
    app: web.Application,
    listener: socket.socket,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve `app` on a socket that listens already, until `stop` is set or a signal comes (without
    `stop`)."""
    config = app[CONFIG]
    access = AccessLog(sys.stderr.fileno()) if config.access_log else None
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=config.stop_timeout)
    await runner.setup()
    manager = runner.server
    assert manager is not None  # set by `setup`
    loop = asyncio.get_running_loop()
    make = partial(
        Connection,
        manager,
        loop=loop,
        keepalive_timeout=config.keepalive_timeout,
        express=app[EXPRESS],
        access=access,
    )
    server = await loop.create_server(make, sock=listener, backlog=_BACKLOG)
    house = loop.create_task(keep_house(manager, app[LIBRARY], config.write_timeout))
    try:
        if stop is None:
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
        ready(_url(listener))
        await stop.wait()
        app[STATUS].stopping = True
    finally:
        server.close()
        await runner.cleanup()
        house.cancel()
        if access is not None:
            await access.close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError that says what is wrong with the address."""
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError("not an address of this machine", where=where) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: "something else listens on this port",
            errno.EACCES: "this port needs more rights",
            errno.EADDRNOTAVAIL: "not an address of this machine",
        }
        raise UsageError(
            reasons.get(error.errno or 0, f"cannot listen: {error.strerror}"), where=where
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
