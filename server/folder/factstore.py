"""The facts of containers on disk: a cache in one SQLite file, shared by processes, rebuilt when in doubt.

A row is believed only if its seal fits: the CRC-32 of its content and of this program's version. So what
another version wrote, or a disk damaged, is read from the container again. Nothing here raises: a file that
is no database is replaced by a new one, and where a folder cannot be written, the disk is full or the
database stays locked, facts are just not kept.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

from harmony4.crypto.digest import crc32, sha256
from harmony4.server.folder.library import Identity

try:
    import sqlite3
except ImportError:  # pragma: no cover - a Python that was built without it
    sqlite3 = None  # type: ignore[assignment]

__all__ = ["FORM", "FactStore", "Known"]

_LOG: Final = logging.getLogger("harmony4.server")

FORM: Final = 4
"""To be raised when what a listing says of a container changes."""
_BUSY: Final = 2.0
"""Seconds to wait for another process that writes."""
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS facts (
    raw BLOB PRIMARY KEY, identity TEXT NOT NULL, item TEXT NOT NULL, seal INTEGER NOT NULL
) WITHOUT ROWID
"""

Known = tuple[Identity, dict[str, Any]]
_T = TypeVar("_T")


class FactStore:
    """The facts of one library. Thread-safe; every method may wait for the disk, so call them in threads."""

    def __init__(self, folder: Path, root: Path) -> None:
        """`folder` is made if it is not there; it may serve several libraries, told apart by `root`."""
        name = sha256(os.fsencode(root)).hex()[:16]
        self.path: Final = folder / f"facts-{name}.sqlite"
        self._lock = threading.Lock()
        self._version = f"{FORM} {version('harmony4')}".encode()
        self._database: sqlite3.Connection | None = None
        self._off = sqlite3 is None

    def fetch(self, names: Iterable[bytes]) -> dict[bytes, Known]:
        """What is known of these containers."""
        wanted = list(names)

        def work(database: sqlite3.Connection) -> dict[bytes, Known]:
            found: dict[bytes, Known] = {}
            query = "SELECT identity, item, seal FROM facts WHERE raw = ?"
            for raw in wanted:
                row = database.execute(query, (raw,)).fetchone()
                if row is not None and row[2] == self._seal(raw, row[0], row[1]):
                    found[raw] = (Identity(*json.loads(row[0])), json.loads(row[1]))
            return found

        return self._do(work) or {}

    def save(self, known: Mapping[bytes, Known]) -> None:
        """Keep these facts, all or none of them."""
        rows = []
        for raw, (one, item) in known.items():
            texts = (json.dumps([one.device, one.inode, one.size, one.mtime_ns]), json.dumps(item))
            rows.append((raw, *texts, self._seal(raw, *texts)))

        def work(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)

        self._do(work)

    def forget_others(self, names: Iterable[bytes]) -> None:
        """Drop what is kept of containers that are not among these."""
        alive = set(names)

        def work(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                gone = [row for row in database.execute("SELECT raw FROM facts") if row[0] not in alive]
                database.executemany("DELETE FROM facts WHERE raw = ?", gone)

        self._do(work)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._off = True
            self._close()

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Do a piece of work, again with a new file if this one turns out to be broken. None: not done."""
        with self._lock:
            for _ in range(2):
                if self._off:
                    return None
                try:
                    return work(self._open())
                except sqlite3.Error as error:
                    if not self._goes_on(error):
                        return None
                except OSError as error:
                    self._give_up(str(error.strerror))
                except (ValueError, TypeError):
                    self._remove()  # a row that has the right seal, and is none of ours
        return None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Transactions are begun by hand; the lock above keeps threads apart.
            self._database = sqlite3.connect(
                self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            self._database.execute(_TABLE)
        return self._database

    def _goes_on(self, error: sqlite3.Error) -> bool:
        """Deal with an error; whether another attempt makes sense."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return False
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            self._remove()
            return True
        self._give_up(str(error))
        return False

    def _remove(self) -> None:
        """Begin anew. A process that has the old file open goes on with it, and nobody else sees that one."""
        self._close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self.path}{suffix}").unlink()

    def _give_up(self, why: str) -> None:
        _LOG.warning("what is known of the library's containers is not kept: %s", why)
        self._off = True
        self._close()

    def _close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _seal(self, raw: bytes, identity: object, item: object) -> int:
        return crc32(b"\0".join((self._version, raw, str(identity).encode(), str(item).encode())))
