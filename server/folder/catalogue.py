"""What the library holds, for listings: every container with its facts, read once per file and version.

The facts are a cache and nothing else: each is kept under its container's name and identity, so one whose
file is another one by now is read again. They are in memory, and where the settings name a cache folder also
on disk (`factstore`), where other workers and the next start find them. `fill` reads what is missing ahead of
time. A container that cannot be opened is listed with its error.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import HarmonyError, SourceChangedError, SourceError
from harmony4.h4mk import H4MKReader
from harmony4.server.folder import facts
from harmony4.server.folder.factstore import FactStore, Known
from harmony4.server.folder.library import Identity, holds
from harmony4.server.folder.listing import Entry, Listing

__all__ = ["SORTS", "Catalogue", "Page"]

SORTS: Final = ("name", "size", "modified", "duration")
"""What a listing can be ordered by; with a minus in front in reverse."""

_BATCH: Final = 64
_SHARE: Final = 0.25
"""How much of the time filling may take: requests go first."""

Key = tuple[int, bytes]
Page = tuple[list[dict[str, Any]], Key | None, int]
_Order = list[tuple[Key, Entry]]


class _StoppedError(Exception):
    """Filling is to end at once."""


class Catalogue:
    """The listing of one library. Its methods read the disk: call them in threads, from as many as you
    like."""

    def __init__(self, root: Path, *, without: Path | None = None, cache: Path | None = None) -> None:
        """`cache` is a folder for facts that outlive the process; without one they are kept in memory.

        `without`: the real path of a folder whose files are not listed.
        """
        self._root = root
        self._without = without
        self._store = FactStore(cache, root) if cache is not None else None
        self._lock = threading.Lock()
        self._facts: dict[bytes, Known] = {}
        self._looking = threading.Lock()
        self._sorting = {column: threading.Lock() for column in SORTS}
        self._listing: Listing | None = None
        self._orders: dict[str, _Order] = {}

    def page(self, *, query: str, sort: str, after: Key | None, limit: int) -> Page:
        """Up to `limit` items after the key `after`, the key of the last one if more follow, and how many
        containers fit in all.

        `query` is looked for in names, without regard to case. `sort` is one of SORTS, with `-` for reverse.
        Keys are values to sort by, so a page is right even if containers came or went since the one before.
        """
        order = self._order(sort.removeprefix("-"))
        if query:
            wanted = query.casefold()
            order = [one for one in order if wanted in one[1].raw.decode(errors="replace").casefold()]
        found: Iterable[tuple[Key, Entry]] = order
        if sort.startswith("-"):
            found = (one for one in reversed(order) if after is None or one[0] < after)
        elif after is not None:
            found = (one for one in order if one[0] > after)
        chosen = list(islice(found, limit + 1))
        more = len(chosen) > limit
        chosen = chosen[:limit]
        items = self._items([entry for _, entry in chosen])
        return items, chosen[-1][0] if more else None, len(order)

    def fill(self, stop: threading.Event) -> None:
        """Read what is not known yet of any container, a little at a time, until `stop` is set."""
        entries = Listing(self._root, self._without).entries
        # Workers begin at different places: each finds on disk what the others have read.
        first = os.getpid() * 7919 % len(entries) if entries else 0
        entries = entries[first:] + entries[:first]
        began = time.monotonic()

        def rest() -> None:
            # After each container: one is so short that requests need not wait for their turn of the GIL.
            nonlocal began
            if stop.wait((time.monotonic() - began) * (1 / _SHARE - 1)):
                raise _StoppedError
            began = time.monotonic()

        try:
            for at in range(0, len(entries), _BATCH):
                self._items(entries[at : at + _BATCH], rest)
                rest()
        except _StoppedError:
            return
        if self._store is not None:
            self._store.forget_others(entry.raw for entry in entries)

    def close(self) -> None:
        """Let go of the cache folder; facts are kept in memory from here on."""
        if self._store is not None:
            self._store.close()

    def _order(self, column: str) -> _Order:
        """All containers in ascending order."""
        with self._looking:
            if self._listing is None or not self._listing.is_fresh():
                self._listing = Listing(self._root, self._without)
                self._orders = {}
                self._forget(self._listing.entries)
            entries, orders = self._listing.entries, self._orders
        # The durations of a library that nobody has looked at yet take a while: the other orders do not wait.
        with self._sorting[column]:
            if column not in orders:
                order = list(zip(self._keys(entries, column), entries, strict=True))
                order.sort(key=itemgetter(0))
                orders[column] = order
            return orders[column]

    def _keys(self, entries: Sequence[Entry], column: str) -> list[Key]:
        if column == "size":
            return [(one.identity.size, one.raw) for one in entries]
        if column == "modified":
            return [(one.identity.mtime_ns, one.raw) for one in entries]
        if column == "duration":
            items = self._items(entries)
            return [
                (int(item.get("duration", -1)), one.raw) for item, one in zip(items, entries, strict=True)
            ]
        return [(0, one.raw) for one in entries]

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Drop what is known of files that are gone."""
        with self._lock:
            if len(self._facts) > len(entries):
                alive = {entry.raw for entry in entries}
                self._facts = {raw: known for raw, known in self._facts.items() if raw in alive}

    def _items(
        self, entries: Sequence[Entry], rest: Callable[[], object] | None = None
    ) -> list[dict[str, Any]]:
        """The items of these containers: from memory, from disk, or from the containers themselves.

        `rest` is called after each one that was read.
        """
        items = {one.raw: known[1] for one in entries if (known := self._known(one)) is not None}
        missing = [one for one in entries if one.raw not in items]
        if missing:
            kept = self._store.fetch(one.raw for one in missing) if self._store is not None else {}
            learnt: dict[bytes, Known] = {}
            for one in missing:
                known = kept.get(one.raw)
                if known is None or known[0] != one.identity:
                    item, lasting = self._read(one)
                    known = (one.identity, item)
                    if rest is not None:
                        rest()
                    if lasting:
                        learnt[one.raw] = known
                else:
                    lasting = True
                items[one.raw] = known[1]
                if lasting:
                    with self._lock:
                        self._facts[one.raw] = known
            if learnt and self._store is not None:
                self._store.save(learnt)
        return [items[one.raw] for one in entries]

    def _known(self, entry: Entry) -> Known | None:
        known = self._facts.get(entry.raw)
        return known if known is not None and known[0] == entry.identity else None

    def _read(self, entry: Entry) -> tuple[dict[str, Any], bool]:
        """An item of the listing, and whether it holds as long as the file stays the same."""
        item: dict[str, Any] = {
            "name": entry.name,
            "size": entry.identity.size,
            "modified": entry.identity.mtime_ns // 10**9,
        }
        if entry.name is None:
            message = f"the file's name is not UTF-8: {entry.raw.decode(errors='replace')}"
            return item | {"error": {"code": "name", "message": message}}, True
        lasting = True
        try:
            with H4MKReader(entry.path) as reader:
                descriptor = reader.fileno()
                if descriptor is not None:
                    if not holds(descriptor, self._root, self._without):
                        raise SourceChangedError("the file was replaced")
                    lasting = Identity.of(os.fstat(descriptor)) == entry.identity
                item |= facts.summary_facts(reader)
                if reader.tracks:
                    item["range_url"] = facts.range_url(reader, entry.name)
                    if item["mask"] is not None:
                        item["mask"]["range_url"] = facts.range_url(reader, entry.name, unmasked=True)
        except SourceError as error:
            return item | {"error": {"code": error.code, "message": "the file cannot be read"}}, False
        except HarmonyError as error:
            return item | {"error": {"code": error.code, "message": str(error)}}, True
        return item, lasting
