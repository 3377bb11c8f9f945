"""What lies below the library's folder: the containers' names and identities, found by looking.

A look at ten thousand files takes a tenth of a second of processor time, so `Listing.is_fresh` says whether
the last one will do: no folder has changed since, and it is not old. A container that was added, removed or
replaced by renaming changes its folder; one that somebody wrote into in place is seen TRUST seconds later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harmony4.server.folder.library import SUFFIX, Identity, is_inside

__all__ = ["Entry", "Listing", "scan"]

TRUST: Final = 2.0
"""Seconds that a listing is believed in."""
_GRAIN: Final = 2 * 10**9
"""Nanoseconds: a folder that changed so short before the look may change again without a new time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A container that was found on disk. `raw` is its name as the file system has it, `/` between
    folders."""

    raw: bytes
    path: Path
    identity: Identity

    @property
    def name(self) -> str | None:
        """The name for requests; None if the file's name is not UTF-8."""
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None


class Listing:
    """One look at all containers below a folder; takes it when it is made, so make it in a thread.

    Folders that are links are not entered (they may form a circle), folders that cannot be read are left out.
    """

    def __init__(self, root: Path, without: Path | None = None) -> None:
        """`without`: the real path of a folder whose files are none of them."""
        self._root = root
        self._without = without
        self._taken = time.monotonic()
        self._lasting = True
        self._folders: dict[Path, int] = {}
        self.entries: list[Entry] = sorted(self._scan(), key=lambda entry: entry.raw)
        """Ordered by the bytes of their names."""

    def is_fresh(self) -> bool:
        """Whether another look would find the same; one `stat` for each folder."""
        if not self._lasting or time.monotonic() - self._taken > TRUST:
            return False
        try:
            return all(os.stat(folder).st_mtime_ns == at for folder, at in self._folders.items())  # noqa: PTH116
        except OSError:
            return False

    def _scan(self) -> Iterator[Entry]:
        folders = [(self._root, b"")]
        while folders:
            folder, prefix = folders.pop()
            try:
                changed = folder.stat().st_mtime_ns
                with os.scandir(folder) as found:
                    listing = [one for one in found if not one.name.startswith(".")]
            except OSError:
                self._lasting = False
                continue
            self._folders[folder] = changed
            self._lasting &= time.time_ns() - changed > _GRAIN
            for one in listing:
                raw = prefix + os.fsencode(one.name)
                try:
                    if one.is_dir(follow_symlinks=False):
                        if (inner := Path(one.path)) != self._without:
                            folders.append((inner, raw + b"/"))
                    elif one.name.endswith(SUFFIX) and one.is_file() and self._is_inside(one):
                        yield Entry(raw, Path(one.path), Identity.of(one.stat()))
                except OSError:
                    continue  # it vanished in the meantime

    def _is_inside(self, one: os.DirEntry[str]) -> bool:
        return not one.is_symlink() or is_inside(Path(os.path.realpath(one.path)), self._root, self._without)


def scan(root: Path, without: Path | None = None) -> list[Entry]:
    """All containers below `root` as they are now, ordered by the bytes of their names; in a thread."""
    return Listing(root, without).entries
