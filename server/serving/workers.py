"""Several processes on one socket: the parent binds and watches, workers accept and answer.

The parent opens no container and runs no event loop. Each worker is a fresh interpreter that inherits the
listening socket (`SO_REUSEPORT` would drop connections queued for a worker that leaves) and two pipes
(`workerprocess.py`): it ends with its parent, and if it dies it is replaced at once. One that dies before it
was ready, or is killed as it does not get ready in time, counts as a failed start: the next ones wait longer
and longer, and after PATIENCE of them in a row the server gives up. Before all workers were ready once, the
first failure is the last.

New settings have to prove themselves: as many new workers are started with them, and only when all of these
are ready are the others dismissed. If one of them fails, or is not ready in time, all of them go, and
everything stays as it was. A thread reads the settings, which looks at the library: a disk that hangs must
not keep the parent from its workers, nor from stopping.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from harmony4.crypto.errors import HarmonyError, UsageError
from harmony4.server import logs
from harmony4.server.config import Config
from harmony4.server.serving.hangups import at_a_terminal, let_through
from harmony4.server.serving.listening import address_url
from harmony4.server.serving.notes import Notes
from harmony4.server.serving.numbers import numbers_folder
from harmony4.server.serving.workerprocess import FAILED, LEAVING, MARGIN, READY, WorkerProcess

__all__ = ["Supervisor", "count"]

PATIENCE: Final = 5
"""Failed starts in a row until the server gives up."""
_BACK_OFF: Final = 0.2
"""Seconds before the start that follows the second failure; it doubles from there."""
_PROOF: Final = 60.0
"""Seconds that a worker has until it is ready. Starting takes a second or two, and no longer for a large
library; a disk that takes a minute to answer hangs, and so may whoever waits for it."""
_READ: Final = 60.0
"""Seconds that new settings have until they are read."""
_LOG: Final = logging.getLogger("harmony4.server")


def count(workers: int) -> int:
    """The number of workers a setting means: 0 is one for each processor this process may use."""
    if workers:
        return workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Reading:
    """Settings that a thread reads; `wake` is called when it has them, or knows why not."""

    def __init__(self, read: Callable[[], Config], wake: Callable[[], None]) -> None:
        self.late = time.monotonic() + _READ
        self.found: Config | None = None
        self.problem: str | None = None
        self._read, self._wake = read, wake
        # Daemon: where it hangs, nothing waits for it.
        threading.Thread(target=self._run, name="harmony4-settings", daemon=True).start()

    def _run(self) -> None:
        try:
            self.found = self._read()
        except HarmonyError as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
        self._wake()


class Supervisor:
    """The parent of `number` workers on one listening socket."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        number: int,
        reload: Callable[[], Config] | None = None,
    ) -> None:
        """`reload` gives the settings as they are now, for SIGHUP; it is called in a thread.

        Raises UsageError on systems without POSIX processes.
        """
        if os.name != "posix":
            raise UsageError("several workers need a POSIX system", expected="workers = 1", found=number)
        self._config = config
        self._reading: _Reading | None = None  # settings that are being read
        self._next: Config | None = None  # settings that have to prove themselves
        self._wake = -1  # wakes the selector
        self._waking = threading.Lock()
        self._listener = listener
        self._number = number
        self._workers: set[WorkerProcess] = set()
        self._selector = selectors.DefaultSelector()
        self._shared = ""  # where the workers put their numbers together
        self._reload = reload
        self._asked_to_reload = False
        self._asked_to_stop = False
        self._running = False  # all workers were ready once
        self._failures = 0  # failed starts since the last good one
        self._due: list[float] = []  # when to start workers, monotonic seconds
        self._notes: Notes | None = None

    def run(self, *, ready: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM, or the end of the terminal it was started at; then let the workers
        finish. Closes the socket.

        `ready` is called with the address once all workers accept connections. Call it in the main thread.
        Raises HarmonyError where workers do not start.
        """
        with self._signals(), numbers_folder() as self._shared:
            self._notes = Notes(self._shared)
            try:
                self._due = [0.0] * self._number
                while not self._asked_to_stop:
                    if self._asked_to_reload and self._running:
                        self._renew()
                    self._adopt()
                    self._end_the_late()
                    self._start_due()
                    self._look(ready)
            finally:
                self._stop()
                self._notes.close()

    def _renew(self) -> None:
        """Read the settings as they are now; then `_adopt`."""
        self._asked_to_reload = False
        if self._reload is None:
            return
        self._replace(self._next)  # what was asked for before is out of date
        self._next = None
        self._reading = _Reading(self._reload, self._wake_up)

    def _adopt(self) -> None:
        """Start workers with settings that were read; `_take_over` when all of them are ready."""
        reading = self._reading
        if reading is None or (reading.found is None and reading.problem is None):
            return
        self._reading, self._next = None, reading.found
        if self._next is None:
            self._keep(str(reading.problem))
            return
        for _ in range(self._number):
            try:
                self._start(self._next)
            except OSError as error:
                self._keep(f"no process can be started: {error.strerror}")
                return

    def _end_the_late(self) -> None:
        """End the workers that are not ready in time, and give up new settings that they had."""
        now = time.monotonic()
        if self._reading is not None and self._reading.late <= now:
            self._reading = None
            self._keep(f"they could not be read within {_READ:g} s")
        for worker in self._pending():
            if worker.late <= now:
                if worker.config is self._next:
                    self._keep(f"a new worker was not ready within {_PROOF:g} s")
                worker.kill(f"a worker was not ready within {_PROOF:g} s")

    def _pending(self) -> list[WorkerProcess]:
        """Workers that are not ready yet."""
        return [one for one in self._workers if not (one.ready or one.killed)]

    def _keep(self, why: str) -> None:
        """Give the new settings up, and the workers that were started with them."""
        self._replace(self._next)
        self._next = None
        _LOG.error("the settings stay as they are: %s", why)

    def _take_over(self) -> None:
        """The new settings have proved themselves: dismiss the workers that have others."""
        assert self._next is not None
        if self._notes is not None:
            self._notes.changed(self._config, self._next)
        before, self._config, self._next = self._config, self._next, None
        _log_as(self._config)
        _LOG.warning("the settings were read anew; other workers take over")
        self._due.clear()  # those would have replaced workers that are not needed any more
        self._failures = 0
        self._replace(before)

    def _replace(self, config: Config | None) -> None:
        """Let the workers go that were started with these very settings: others are there."""
        for worker in self._workers:
            if worker.config is config and not worker.dismissed:
                worker.replace()

    def _start_due(self) -> None:
        now = time.monotonic()
        late = [at for at in self._due if at <= now]
        self._due = [at for at in self._due if at > now]
        for _ in late:
            try:
                self._start(self._config)
            except OSError as error:
                self._failed(f"no process can be started: {error.strerror}")

    def _start(self, config: Config) -> None:
        """Raises OSError where no process can be started."""
        worker = WorkerProcess(config, self._listener, self._shared, time.monotonic() + _PROOF)
        self._workers.add(worker)
        self._selector.register(worker.voice, selectors.EVENT_READ, worker)

    def _look(self, ready: Callable[[str], None]) -> None:
        """Wait until a worker says something, a signal comes or a start is due."""
        now = time.monotonic()
        times = self._due + [one.late for one in self._pending()]
        if self._reading is not None:
            times.append(self._reading.late)
        timeout = max(0.0, min(times) - now) if times else None
        for key, _ in self._selector.select(timeout):
            if not isinstance(key.data, WorkerProcess):
                os.read(key.fd, 2**10)  # signals: their handler has run by now
                continue
            for line in key.data.listen():
                self._heard(key.data, line)
        if not self._running and sum(one.ready for one in self._workers) >= self._number:
            self._running = True
            ready(address_url(self._listener))

    def _heard(self, worker: WorkerProcess, line: bytes) -> None:
        if line == READY:
            worker.ready = True
            if worker.config is self._config:
                self._failures = 0
            elif worker.config is self._next:
                proved = sum(one.ready and one.config is self._next for one in self._workers)
                if proved >= self._number:
                    self._take_over()
        elif line == LEAVING and not worker.leaving and not worker.dismissed:
            if worker.config is self._next:
                self._keep("a new worker was told to leave")
            else:
                self._due.append(0.0)  # its successor need not wait until it has finished
                worker.replace()
            worker.leaving = True
        elif line.startswith(FAILED):
            worker.reason = line.removeprefix(FAILED).decode(errors="replace")
        elif not line:
            self._ended(worker)

    def _ended(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.voice)
        given_up = worker.dismissed
        how = worker.bury()
        if worker.leaving or given_up:
            return
        if worker.config is self._next:
            self._keep(how)
        elif worker.ready:
            _LOG.warning("%s; another one takes its place", how)
            self._due.append(0.0)
        else:
            self._failed(how)

    def _failed(self, how: str) -> None:
        """A start has failed: try again, later and later, or give up."""
        if self._asked_to_stop:
            return
        self._failures += 1
        if not self._running or self._failures >= PATIENCE:
            raise HarmonyError(f"the workers do not start: {how}")
        _LOG.warning("%s while it was starting; trying again", how)
        delay = _BACK_OFF * 2 ** (self._failures - 2) if self._failures > 1 else 0.0
        self._due.append(time.monotonic() + delay)

    def _stop(self) -> None:
        """Let the workers finish and leave; kill those that take too long."""
        self._listener.close()
        for worker in self._workers:
            worker.dismiss()
        deadline = time.monotonic() + self._config.stop_delay + self._config.stop_timeout + MARGIN
        while self._workers and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if isinstance(key.data, WorkerProcess) and b"" in key.data.listen():
                    self._workers.remove(key.data)
                    self._selector.unregister(key.fileobj)
                    key.data.bury()
                elif not isinstance(key.data, WorkerProcess):
                    os.read(key.fd, 2**10)
        for worker in self._workers:
            _LOG.warning("a worker did not leave in time and was killed")
            worker.process.kill()
            worker.bury()
        self._workers.clear()
        self._selector.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP set a flag and wake the selector."""
        # Asked now: a terminal that is gone is none any more.
        terminal = at_a_terminal()

        def stop(number: int, _frame: object) -> None:
            if number == signal.SIGHUP and not terminal:
                self._asked_to_reload = True
            else:
                self._asked_to_stop = True

        awake, wake = os.pipe()
        for end in (awake, wake):
            os.set_blocking(end, False)
        self._selector.register(awake, selectors.EVENT_READ)
        before_fd = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # `nohup` at a terminal means what it says.
            if not (number == signal.SIGHUP and terminal and signal.getsignal(number) is signal.SIG_IGN)
        }
        self._wake = wake
        try:
            let_through()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            with self._waking:  # a thread must not write to what has its number next
                self._wake = -1
            os.close(awake)
            os.close(wake)

    def _wake_up(self) -> None:
        """End the selector's wait; from any thread."""
        with self._waking, suppress(OSError):  # it is over, or has more reasons than the pipe has room for
            os.write(self._wake, b"\0")


def _log_as(config: Config) -> None:
    """Write this process's log as the settings ask for it now, as the new workers do."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logs.LineHandler):
            root.removeHandler(handler)
    logging.getLogger("harmony4").setLevel(logging.NOTSET)
    logs.configure(config)
