"""What the parent of several workers has for the audit log: which settings are others now.

A thread writes it. The disk of the log may hang, and the parent has workers to look after meanwhile.
"""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import HarmonyError, StorageError
from harmony4.server.audit import AuditLog
from harmony4.server.config import Config
from harmony4.server.insight.tally import publish_waiting
from harmony4.server.settings import effective
from harmony4.server.state import State

__all__ = ["Notes"]

_RETRY: Final = 30.0
"""Seconds between two tries to write lines that wait here."""
_LAST: Final = 5.0
"""Seconds that the lines have at the end."""
_LOG: Final = logging.getLogger("harmony4.server")


class Notes:
    """Notes of one parent. For one thread, which never waits but in `close`."""

    def __init__(self, shared: str) -> None:
        """`shared`: the folder in which workers find how many lines wait here."""
        self._shared = shared
        self._queue: queue.SimpleQueue[tuple[Config, Config] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._logs: dict[Path, AuditLog] = {}  # by the server's folder, which new settings may change

    def changed(self, before: Config, after: Config) -> None:
        """Let the audit log say which settings are others now.

        What cannot be written waits beside the log, where a worker takes it in, or else here: then workers
        can tell their number (`/metrics`), and it is tried again.
        """
        self._queue.put((before, after))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="harmony4-notes", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what waits, now or never."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(_LAST)
        if self._thread.is_alive():
            _LOG.error("lines of the audit log are lost: its disk does not answer")

    def _run(self) -> None:
        while True:
            try:
                waits = any(log.waiting for log in self._logs.values())
                found = self._queue.get(timeout=_RETRY if waits else None)
            except queue.Empty:
                for log in self._logs.values():
                    log.retry()
                    self._leave(log)
                continue
            if found is None:
                break
            try:
                self._note(*found)
            except (HarmonyError, OSError) as error:
                _LOG.error("the audit log cannot be told of new settings: %s", error)
        for log in self._logs.values():
            log.close()

    def _note(self, before: Config, after: Config) -> None:
        old, new = ({one["key"]: one["value"] for one in effective(each, {})} for each in (before, after))
        changed = {key: [old[key], new[key]] for key in new if old[key] != new[key]}
        state = State.of(after.state, after.library)
        # A folder of its own is not made for this: what has no state yet has no tokens and no changes.
        if changed and state.path.exists():
            log = self._logs.setdefault(state.path, AuditLog(state))
            log.record("settings", changed=changed)
            self._leave(log)

    def _leave(self, log: AuditLog) -> None:
        try:
            log.leave()
        except StorageError:
            pass  # said already, and tried again
        publish_waiting(self._shared, sum(one.waiting for one in self._logs.values()))
