"""What the library holds, for listings: every container with its facts, read once per file and version.

The facts are a cache and nothing else: they are rebuilt from the files after a restart, and an entry is read
again
when its file is another one. A container that cannot be opened is listed with its error.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import HarmonyError, SourceError
from harmony4.h4mk import H4MKReader
from harmony4.server import facts
from harmony4.server.library import Entry, Identity, scan

__all__ = ["SORTS", "Catalogue", "Page"]

SORTS: Final = ("name", "size", "modified", "duration")
"""What a listing can be ordered by; with a minus in front in reverse."""

Key = tuple[int, bytes]
Page = tuple[list[dict[str, Any]], Key | None]


class Catalogue:
    """The listing of one library. Its methods read the disk: call them in threads, from as many as you
    like."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._facts: dict[bytes, tuple[Identity, dict[str, Any]]] = {}

    def page(self, *, query: str, sort: str, after: Key | None, limit: int) -> Page:
        """Up to `limit` items after the key `after`, and the key of the last one if more follow.

        `query` is looked for in names, without regard to case. `sort` is one of SORTS, with `-` for reverse.
        Keys
        are values to sort by, so a page is right even if containers came or went since the one before.
        """
        entries = scan(self._root)
        self._forget(entries)
        if query:
            wanted = query.casefold()
            entries = [one for one in entries if wanted in one.raw.decode(errors="replace").casefold()]
        reverse = sort.startswith("-")
        column = sort.removeprefix("-")
        keyed = sorted(
            ((self._key(one, column), one) for one in entries), key=lambda pair: pair[0], reverse=reverse
        )
        if after is not None:
            keyed = [pair for pair in keyed if (pair[0] < after if reverse else pair[0] > after)]
        chosen = keyed[:limit]
        items = [self._item(one) for _, one in chosen]
        return items, chosen[-1][0] if len(keyed) > limit else None

    def _key(self, entry: Entry, column: str) -> Key:
        if column == "size":
            return entry.identity.size, entry.raw
        if column == "modified":
            return entry.identity.mtime_ns, entry.raw
        if column == "duration":
            return int(self._item(entry).get("duration", -1)), entry.raw
        return 0, entry.raw

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Drop what is known of files that are gone."""
        with self._lock:
            if len(self._facts) > len(entries):
                alive = {entry.raw for entry in entries}
                self._facts = {raw: known for raw, known in self._facts.items() if raw in alive}

    def _item(self, entry: Entry) -> dict[str, Any]:
        known = self._facts.get(entry.raw)
        if known is not None and known[0] == entry.identity:
            return known[1]
        item, lasting = _read(entry)
        if lasting:
            with self._lock:
                self._facts[entry.raw] = (entry.identity, item)
        return item


def _read(entry: Entry) -> tuple[dict[str, Any], bool]:
    """An item of the listing, and whether it holds as long as the file stays the same."""
    item: dict[str, Any] = {
        "name": entry.name,
        "size": entry.identity.size,
        "modified": entry.identity.mtime_ns // 10**9,
    }
    if entry.name is None:
        shown = entry.raw.decode(errors="replace")
        return item | {"error": {"code": "name", "message": f"the file's name is not UTF-8: {shown}"}}, True
    try:
        with H4MKReader(entry.path) as reader:
            item |= facts.summary_facts(reader)
            if reader.tracks:
                item["range_url"] = facts.range_url(reader, entry.name)
    except SourceError as error:
        return item | {"error": {"code": error.code, "message": "the file cannot be read"}}, False
    except HarmonyError as error:
        return item | {"error": {"code": error.code, "message": str(error)}}, True
    return item, True
