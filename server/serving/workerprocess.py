"""A worker as its parent sees it: a process, and the two pipes that are all there is between them.

    standard input   the settings, one line of JSON; then nothing, or `replaced`: finish what runs and leave,
                     the server goes on. Its end means the same, and that the server stops.
    standard output  lines from the worker: `ready`, `leaving`, `failed REASON`. Its end means: it is gone.

So a worker ends with its parent however that came to end, and a worker that dies is noticed at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Final

from harmony4.server.config import Config
from harmony4.server.serving.hangups import held_back

__all__ = ["FAILED", "LEAVING", "MARGIN", "READY", "REPLACED", "WorkerProcess"]

READY: Final = b"ready"
LEAVING: Final = b"leaving"
FAILED: Final = b"failed "
REPLACED: Final = b"replaced"

MARGIN: Final = 5.0
"""Seconds beyond `stop_timeout` until a worker that does not leave is killed."""


class WorkerProcess:
    """One worker process, as its parent sees it."""

    def __init__(self, config: Config, listener: socket.socket, shared: str, late: float) -> None:
        """`shared`: the folder for numbers. `late`: until when it should be ready, monotonic seconds.

        Raises OSError where no process can be started.
        """
        module = "harmony4.server.serving.worker"
        command = [sys.executable, "-P", "-m", module, str(listener.fileno()), shared]
        with held_back():  # it is born so, and ignores SIGHUP as soon as it can
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, and a number
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, who tells the workers
                bufsize=0,
            )
        self.config = config
        self.late = late
        self.ready = False
        self.leaving = False
        self.dismissed = False
        self.killed = False
        self.reason: str | None = None
        self._said = b""
        with suppress(BrokenPipeError):  # it is dead already: `listen` will say so
            self._pipe(self.process.stdin).write(json.dumps(asdict(config), default=str).encode() + b"\n")

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    @property
    def voice(self) -> IO[bytes]:
        """The pipe that the worker speaks through."""
        return self._pipe(self.process.stdout)

    def listen(self) -> Iterator[bytes]:
        """The lines that have come; an empty one at the end of the worker. Blocks unless something came."""
        data = os.read(self.voice.fileno(), 2**16)
        if not data:
            yield b""
            return
        *lines, self._said = (self._said + data).split(b"\n")
        yield from lines

    def replace(self) -> None:
        """Tell it to finish what it does and leave; the server goes on. Safe to call twice."""
        self.dismissed = True
        with suppress(OSError):  # it has gone already
            self._pipe(self.process.stdin).write(REPLACED + b"\n")

    def dismiss(self) -> None:
        """The same, as the server stops. Safe to call twice, and after `replace`."""
        self.dismissed = True
        with suppress(OSError):
            self._pipe(self.process.stdin).close()

    def kill(self, why: str) -> None:
        """End it at once: it hangs, and would not hear that it is dismissed."""
        self.killed = True
        self.reason = why
        self.process.kill()

    def bury(self) -> str:
        """Wait for the end of a worker that has closed its pipe; says how it ended."""
        self.dismiss()
        try:
            status = self.process.wait(MARGIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.voice.close()
        if self.reason is not None:
            return self.reason
        if status < 0:
            return f"a worker was ended by {signal.Signals(-status).name}"
        return f"a worker ended with status {status}"
