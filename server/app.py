"""The application: `create_app(config)` puts the rooms together, `run(config)` serves it until it is told to
stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from harmony4.server import health, media, openapi, pages
from harmony4.server.audit import note_keys
from harmony4.server.config import Config
from harmony4.server.errors import problems
from harmony4.server.folder.catalogue import Catalogue
from harmony4.server.folder.library import Library
from harmony4.server.folder.scrubbing import Findings, scrubbing
from harmony4.server.guard import session
from harmony4.server.guard.guard import Guard
from harmony4.server.housekeeping import keep_house
from harmony4.server.insight import metrics
from harmony4.server.insight.tally import Shares, Tally
from harmony4.server.intake import changes, events, exports, tus
from harmony4.server.intake.desk import Desk
from harmony4.server.intake.finishing import Finisher
from harmony4.server.keys import (
    BUFFERS,
    CATALOGUE,
    CONFIG,
    CROWD,
    DESK,
    EVENTS,
    EXPRESS,
    FINISHER,
    GUARD,
    KEEPING,
    KEYRING,
    LIBRARY,
    LIES,
    OUTLETS,
    PLAYLISTS,
    SCRUB,
    SHARES,
    STATE,
    STATUS,
    TALLY,
    TURNS,
    Status,
)
from harmony4.server.masking import streams as masking
from harmony4.server.masking.keys import Keyring
from harmony4.server.players import routes as players
from harmony4.server.players.routes import Playlists
from harmony4.server.reading import lies, proving, seeking, timed, video
from harmony4.server.reading.buffers import Buffers
from harmony4.server.reading.express import Express
from harmony4.server.serving import allocator, descriptors, workers
from harmony4.server.serving.acceptor import Acceptor, drain
from harmony4.server.serving.access import AccessLog
from harmony4.server.serving.connection import Connection
from harmony4.server.serving.forwarded import Crowd, Proxies
from harmony4.server.serving.front import Front, name_request
from harmony4.server.serving.hangups import at_a_terminal, let_through
from harmony4.server.serving.listening import address_url, check_open, listen
from harmony4.server.state import State
from harmony4.server.streams import arriving, computed, stored
from harmony4.server.streams.turns import Turns

__all__ = ["create_app", "run", "serve"]

_LOG: Final = logging.getLogger("harmony4.server")
_JOIN: Final = 5.0
"""Seconds that the end waits for what reads ahead: a disk that does not answer must not hold it up."""
_READ: Final = 2**18
"""Bytes of a body that a connection may read ahead, half of them."""
_LOOKS: Final = 1.0
"""Seconds between two questions to the keyring whether it is time to look."""
_CUT: Final = 0.1
"""Seconds that aiohttp waits for a handler which outlived `stop_timeout`, and was cancelled."""


def create_app(config: Config, shared: Path | None = None, *, lying: bool = False) -> web.Application:
    """The application for one library. Raises SourceError where the library cannot be read.

    `shared`: where the workers of one server put their numbers together, None where there is one process.
    It is the caller's business on which address it is served: `run` refuses one that does not fit the mode.
    `lying`: this is a demonstration, and may give out wrong bytes where it is asked for them (`lies`).
    """
    room = descriptors.readers_that_fit(descriptors.limit())
    library = Library(config.library, without=config.state, max_open=min(config.max_open, room))
    tally, proxies = Tally(), Proxies(config.trusted_proxies)
    express, state = Express(library, tally), State.of(config.state, library.root)
    guard, front = Guard(config, state, express), Front(config, tally, proxies)
    app = web.Application(middlewares=[front.outer(), problems, guard.middleware(), *front.inner()])
    app[TALLY], app[SHARES] = tally, Shares(shared)
    app[SCRUB] = Findings(state)
    app[CROWD] = Crowd(config.max_connections_per_client, proxies)
    app[CONFIG] = config
    app[LIBRARY] = library
    app[CATALOGUE] = Catalogue(library.root, without=library.without, cache=config.cache)
    app[STATE] = state
    app[STATUS] = Status()
    app[TURNS] = Turns()
    app[OUTLETS] = set()
    app[BUFFERS] = Buffers()
    app[KEEPING] = set()
    app[PLAYLISTS] = Playlists()
    app[EXPRESS] = express
    app[KEYRING] = Keyring(config.keyring)
    app[LIES] = lies.ROUTE if lying else None
    app[DESK] = Desk(config, library, state, app[KEYRING])
    app[FINISHER] = Finisher(config, library, state, app[DESK])
    app[EVENTS] = events.Events(library, app[DESK].jobs)
    metrics.watch(app)
    guard.changed = app[EVENTS].look_around
    app[GUARD] = guard
    app.on_response_prepare.append(pages.secure)
    app.on_response_prepare.append(timed.name_time)
    app.on_response_prepare.append(guard.label)
    app.on_response_prepare.append(tus.name_version)
    app.on_response_prepare.append(_say_goodbye)
    app.cleanup_ctx.append(guard.watch)
    app.cleanup_ctx.append(_keys)
    app.cleanup_ctx.append(metrics.publishing)
    app.cleanup_ctx.append(_readers)
    app.cleanup_ctx.append(_facts)
    app.cleanup_ctx.append(_intake)
    app.cleanup_ctx.append(_keeping)
    app.cleanup_ctx.append(scrubbing)
    app.add_routes(video.routes())
    app.add_routes(seeking.routes())
    app.add_routes(proving.routes())
    app.add_routes(players.routes())
    app.add_routes(stored.routes())
    app.add_routes(arriving.routes())
    app.add_routes(computed.routes())
    app.add_routes(masking.routes())
    app.add_routes(media.routes())
    app.add_routes(exports.routes())
    app.add_routes(tus.routes())
    app.add_routes(changes.routes())
    app.add_routes(events.routes())
    app.add_routes(health.routes())
    app.add_routes(metrics.routes())
    app.add_routes(session.routes())
    app.add_routes(openapi.routes())
    app.add_routes(pages.routes(pages.load_static()))
    if lying:
        app.add_routes(lies.routes())
    return app


async def _keys(app: web.Application) -> AsyncIterator[None]:
    """Look whether keys come and go."""

    async def note() -> None:
        await asyncio.to_thread(note_keys, app[DESK].audit, app[STATE], app[KEYRING].names())

    async def look() -> None:
        await note()
        while True:
            await asyncio.sleep(_LOOKS)
            if app[KEYRING].due and await asyncio.to_thread(app[KEYRING].reload):
                app[EXPRESS].drop()  # answers say whether somebody may unmask
                await note()

    task = asyncio.create_task(look())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _readers(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[LIBRARY].close()


async def _intake(app: web.Application) -> AsyncIterator[None]:
    """Look after uploads and jobs, and watch the folders."""
    work = (app[DESK].keep(), app[FINISHER].keep(), app[EVENTS].watch())
    tasks = [asyncio.create_task(one) for one in work]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await app[DESK].stop(app[STATUS].until - asyncio.get_running_loop().time())


async def _keeping(app: web.Application) -> AsyncIterator[None]:
    """Tokens that are kept while nobody waits may come to their end as long as the server has time."""
    yield
    keeping = app[KEEPING]
    if tasks := list(keeping):
        left = max(0.0, app[STATUS].until - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(tasks, timeout=left)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _facts(app: web.Application) -> AsyncIterator[None]:
    """Read ahead what listings will want to know."""
    catalogue, stop = app[CATALOGUE], threading.Event()
    thread = threading.Thread(target=catalogue.fill, args=(stop,), name="harmony4-facts", daemon=True)
    thread.start()
    yield
    stop.set()
    await asyncio.to_thread(thread.join, _JOIN)
    await asyncio.to_thread(catalogue.close)


async def _say_goodbye(request: web.Request, response: web.StreamResponse) -> None:
    """Tell clients of a server that stops not to send more on their connections."""
    name_request(request, response)
    if request.app[STATUS].stopping:
        response.headers["Connection"] = "close"
        response.force_close()


def _announce(url: str) -> None:
    print(f"HarmonyØ4 is at {url}", flush=True)


def run(
    config: Config,
    *,
    ready: Callable[[str], None] = _announce,
    reload: Callable[[], Config] | None = None,
    demo: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, or the end of the terminal it was started at; `ready` is called with the
    address once connections are accepted.

    `reload` gives the settings as they are now: where workers is not 1, SIGHUP starts new ones with them.
    Running requests get `config.stop_timeout` seconds. Uses uvloop where it is installed. With several
    workers this process only watches over them (`workers`). Raises SourceError where the library cannot be
    read, UsageError where the address cannot be used or everybody could read and write by it, HarmonyError
    where the workers do not start.

    `demo`: a server for looking at, which may be asked for wrong bytes. That is so only in one process, where
    everything is open, which is on loopback addresses alone.
    """

    def settle(config: Config) -> Config:
        if config.mode == "open":
            check_open(config.host, config.port)
        # The folder that the name means now: a worker that is started later must not mean another one.
        return replace(config, library=Library(config.library).root)

    if config.mode == "open":
        check_open(config.host, config.port)
    descriptors.raise_limit()
    count = workers.count(config.workers)
    if count > 1 or not config.workers:  # 0 means the same wherever it runs, so SIGHUP does, too
        config = settle(config)

        def again() -> Config:
            # The socket stays, so its address does: it decides whether everything may be open.
            assert reload is not None
            found = reload()
            return settle(replace(found, host=config.host, port=config.port, workers=config.workers))

        with listen(config.host, config.port) as listener:
            workers.Supervisor(config, listener, count, again if reload else None).run(ready=ready)
        return
    allocator.few_arenas()
    app = create_app(config, lying=demo and config.mode == "open")
    with listen(config.host, config.port) as listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(app, listener, ready=ready))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _say_that_it_cannot() -> None:
    _LOG.warning(
        "settings are read anew by SIGHUP where workers is not 1: this server goes on with what it has"
    )


async def serve(
    app: web.Application,
    listener: socket.socket,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve `app` on a socket that listens already, until `stop` is set or a signal comes (without `stop`).

    Then: connections that wait in the socket's queue are taken, the socket is closed, requests and jobs that
    run may finish within `config.stop_timeout` seconds in all, silent connections are closed.
    """
    config, library = app[CONFIG], app[LIBRARY]
    access = AccessLog(sys.stderr.fileno(), json=config.log_format == "json") if config.access_log else None
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_CUT)
    await runner.setup()
    manager = runner.server
    assert manager is not None  # set by `setup`
    loop = asyncio.get_running_loop()
    make = partial(
        Connection,
        manager,
        loop=loop,
        keepalive_timeout=config.keepalive_timeout,
        read_bufsize=_READ,
        # Nobody here takes compressed bodies, and one that nobody reads would be expanded all the same.
        auto_decompress=False,
        express=app[EXPRESS],
        access=access,
        tally=app[TALLY],
        crowd=app[CROWD],
    )
    acceptor = Acceptor(
        listener,
        make,
        connections=manager._connections,
        most=descriptors.connections_that_fit(descriptors.limit(), library.max_open),
        relieve=library.relieve,
    )
    acceptor.start()
    app[TALLY].gauges["connections"] = lambda: len(manager._connections)
    house = loop.create_task(keep_house(manager, library, config.write_timeout, config.read_timeout))
    try:
        if stop is None:
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            if at_a_terminal():
                if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` means what it says
                    loop.add_signal_handler(signal.SIGHUP, stop.set)
            else:
                loop.add_signal_handler(signal.SIGHUP, _say_that_it_cannot)
                let_through()
        ready(address_url(listener))
        await stop.wait()
        if config.stop_delay and not app[STATUS].replaced:
            # Whoever sends requests here asks `/ready` now and then, and gets time to see what it says.
            app[STATUS].leaving = True
            await asyncio.sleep(config.stop_delay)
    finally:
        app[STATUS].stopping = app[STATUS].leaving = True
        app[STATUS].until = loop.time() + config.stop_timeout
        app[EXPRESS].close()
        app[EVENTS].close()
        await acceptor.stop()
        listener.close()
        await drain(manager._connections, app[STATUS].until - loop.time())
        await runner.cleanup()
        house.cancel()
        if access is not None:
            await access.close()
