"""A worker process: `python -m harmony4.server.serving.worker DESCRIPTOR FOLDER`, started by `workers`
alone.

`DESCRIPTOR` is the listening socket, `FOLDER` is where the workers put their numbers together. The settings
come as a line of JSON on standard input, whose end means "finish what runs and leave", as SIGTERM does (after
a line `replaced`: and the server goes on); what there is to say to the parent goes to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harmony4.crypto.errors import HarmonyError
from harmony4.server.serving.workerprocess import FAILED, LEAVING, MARGIN, READY, REPLACED

if TYPE_CHECKING:
    from harmony4.server.config import Config

__all__ = ["main"]

_STDIN: Final = 0


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
        config = load_config(flags=_settings())
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
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    app = create_app(config, shared)

    def dismissed(replaced: bool) -> None:
        app[STATUS].replaced = replaced
        stop.set()

    # Daemon: it waits for a parent who may outlive this process.
    threading.Thread(
        target=_watch, args=(loop, dismissed, config.stop_delay + config.stop_timeout), daemon=True
    ).start()
    await serve(app, listener, ready=lambda _url: _say(READY), stop=stop)


def _watch(loop: asyncio.AbstractEventLoop, dismissed: Callable[[bool], None], stop_timeout: float) -> None:
    """Stop when the parent says so or is gone; in a thread, so that a loop which hangs ends as well."""
    said = b""
    while data := os.read(_STDIN, 2**10):
        said += data
    with suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(dismissed, said == REPLACED + b"\n")
    time.sleep(stop_timeout + MARGIN)
    os._exit(1)


def _settings() -> dict[str, object]:
    """The settings, from standard input; read without a buffer, whose lock a thread would hold at the end."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(_STDIN, 2**16)
        if not data:
            raise EOFError("the parent is gone")
        line += data
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def _say(line: bytes) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(sys.stdout.fileno(), line + b"\n")


if __name__ == "__main__":
    sys.exit(main())
