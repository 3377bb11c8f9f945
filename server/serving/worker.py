"""A worker process: `python -m harmony4.server.serving.worker DESCRIPTOR FOLDER`, started by `workers`
alone.

`DESCRIPTOR` is the listening socket, `FOLDER` is where the workers put their numbers together. The settings
come as a line of JSON on standard input. A line `replaced` behind it means "finish what runs and leave", as
SIGTERM does, and its end the same, where the server stops, too. What there is to say to the parent goes to
standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harmony4.crypto.errors import HarmonyError
from harmony4.server.serving.workerprocess import FAILED, LEAVING, MARGIN, READY

if TYPE_CHECKING:
    from harmony4.server.config import Config

__all__ = ["main"]

_STDIN: Final = 0
_ANSWER: Final = 1.0
"""Seconds until it leaves without a word of the parent's."""


def main() -> int:
    """Serve until the parent's pipe ends or SIGTERM comes; returns the exit status."""
    # It is for the parent, but whoever goes by names sends it to all.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        # Only here: an installation that is broken is something to tell the parent as well.
        from harmony4.server import logs
        from harmony4.server.app import loop_factory
        from harmony4.server.config import load_config
        from harmony4.server.serving import allocator, descriptors

        listener = socket.socket(fileno=int(sys.argv[1]))
        settings, said = _settings()
        if said:  # it is not needed any more
            return 0
        config = load_config(flags=settings)
        logs.configure(config)
        allocator.few_arenas()
        descriptors.raise_limit()
        with listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(config, listener, Path(sys.argv[2])))
    except HarmonyError as error:
        _say(FAILED + " ".join(str(error).split()).encode(errors="replace"))
        return 1
    except Exception as error:
        _say(FAILED + " ".join(f"{type(error).__name__}: {error}".split()).encode(errors="replace"))
        return 1
    return 0


async def _serve(config: Config, listener: socket.socket, shared: Path) -> None:
    from harmony4.server.app import create_app, serve
    from harmony4.server.keys import STATUS

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def leave() -> None:
        _say(LEAVING)
        loop.call_later(_ANSWER, stop.set)  # the parent knows whether the server goes on, and says so

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    app = create_app(config, shared)

    def told(replaced: bool) -> None:
        app[STATUS].replaced = replaced
        stop.set()

    # Daemon: it waits for a parent who may outlive this process.
    threading.Thread(
        target=_watch, args=(loop, told, config.stop_delay + config.stop_timeout), daemon=True
    ).start()
    await serve(app, listener, ready=lambda _url: _say(READY), stop=stop)


def _watch(loop: asyncio.AbstractEventLoop, told: Callable[[bool], None], stop_timeout: float) -> None:
    """Hear from the parent, up to its end; in a thread, so that a loop which hangs ends as well."""
    late = threading.Timer(stop_timeout + MARGIN, os._exit, (1,))
    late.daemon = True
    said = True
    while said:
        said = bool(os.read(_STDIN, 2**10))  # there is only one word
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(told, said)
        if late.ident is None:
            late.start()


def _settings() -> tuple[dict[str, object], bytes]:
    """The settings, from standard input, and what was said behind them already.

    Read without a buffer, whose lock a thread would hold at the end.
    """
    line = b""
    while b"\n" not in line:
        data = os.read(_STDIN, 2**16)
        if not data:
            raise EOFError("the parent is gone")
        line += data
    line, _, said = line.partition(b"\n")
    found = json.loads(line)
    assert isinstance(found, dict)
    return found, said


def _say(line: bytes) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(sys.stdout.fileno(), line + b"\n")


if __name__ == "__main__":
    sys.exit(main())
