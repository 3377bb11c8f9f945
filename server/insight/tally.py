"""Counts of one process, cheap enough for the express lane: plain lists of numbers, added up when asked.

A time or a size is counted by its number of binary digits, so that the place of a value in a histogram is
one `int.bit_length`. For one event loop, but for `fail` and `note`, which may lose a count between threads.

`Shares` puts the numbers of several processes together: each writes a snapshot of its own to a folder.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from harmony4.server.state import held, hold

__all__ = ["DIGITS", "Cell", "Shares", "Snapshot", "Tally", "merge", "publish_waiting"]

DIGITS: Final = 48
"""Places of a histogram: place n holds values of n binary digits, the last one all that are longer, too."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_WORST: Final = frozenset({"damaged_containers", "lag|events", "lag|tokens"})
"""Gauges that are not added up over processes: all know of the same damage."""

_WAITING: Final = "waiting"

Cell = list[int]
"""Of one route, method and status: requests, bytes of bodies."""
Snapshot = dict[str, Any]
"""`requests`: lists of route, method, status, requests, bytes; `sizes` and `seeks`: places of a histogram;
`size_sum`, `seek_sum`: sums of it (bytes, ns); `counts` and `gauges`: numbers by name."""


class Tally:
    """What one process has counted."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, int], Cell] = {}
        self.sizes = [0] * (DIGITS + 1)
        """Answers with bytes of a stream, by their size."""
        self.size_sum = 0
        self.seeks = [0] * (DIGITS + 1)
        """Answers to seeks, by the nanoseconds that they took."""
        self.seek_sum = 0
        self.counts: Counter[str] = Counter()
        """Events by name; a name with a label is `name|value`."""
        self.gauges: dict[str, Callable[[], float]] = {}
        """What is asked when somebody looks."""

    def cell(self, route: str, method: str, status: int) -> Cell:
        """Where requests of a kind are counted: whoever keeps it adds to it."""
        key = (route, method if method in _METHODS else "other", status)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = [0, 0]
        return found

    def size(self, length: int) -> None:
        """An answer has `length` bytes of a stream."""
        self.sizes[min(length.bit_length(), DIGITS)] += 1
        self.size_sum += length

    def seek(self, seconds: float) -> None:
        """A seek was answered in so many seconds."""
        nanoseconds = max(0, int(seconds * 1e9))
        self.seeks[min(nanoseconds.bit_length(), DIGITS)] += 1
        self.seek_sum += nanoseconds

    def count(self, name: str, by: int = 1) -> None:
        """Something happened `by` times."""
        self.counts[name] += by

    def snapshot(self) -> Snapshot:
        """All of it as a JSON value."""
        return {
            "requests": [[*key, *cell] for key, cell in self._cells.items()],
            "sizes": list(self.sizes),
            "size_sum": self.size_sum,
            "seeks": list(self.seeks),
            "seek_sum": self.seek_sum,
            "counts": dict(self.counts),
            "gauges": {name: look() for name, look in self.gauges.items()},
        }


def merge(snapshots: Iterator[tuple[Snapshot, bool]]) -> Snapshot:
    """Snapshots added up; gauges are those of processes that live (True) alone."""
    requests: dict[tuple[str, str, int], Cell] = {}
    whole = Tally().snapshot()
    counts: Counter[str] = Counter()
    gauges: defaultdict[str, float] = defaultdict(float)
    for one, lives in snapshots:
        for route, method, status, number, size in one["requests"]:
            cell = requests.setdefault((route, method, status), [0, 0])
            cell[0] += number
            cell[1] += size
        for name in ("sizes", "seeks"):
            whole[name] = [a + b for a, b in zip(whole[name], one[name], strict=True)]
            total = f"{name.removesuffix('s')}_sum"
            whole[total] += one[total]
        counts.update(one["counts"])
        if lives:
            for name, number in one["gauges"].items():
                # The slowest of all, where everything else is a number of something.
                gauges[name] = max(gauges[name], number) if name in _WORST else gauges[name] + number
            gauges["workers"] += 1
    whole["requests"] = [[*key, *cell] for key, cell in sorted(requests.items())]
    whole["counts"], whole["gauges"] = dict(counts), dict(gauges)
    return whole


def publish_waiting(folder: str, lines: int) -> None:
    """Let the workers that share their numbers in `folder` see how many lines their parent has waiting."""
    with suppress(OSError):
        part = Path(folder, f"{_WAITING}.part")
        part.write_bytes(b"%d" % lines)
        part.replace(Path(folder, _WAITING))


class Shares:
    """The snapshots of all processes of one server, in a folder that the first of them made.

    What a process has counted stays when it has died: counters must never go back. Its gauges do not.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder` None: there is one process."""
        self._folder = folder
        self._path = None if folder is None else folder / f"{os.getpid()}-{os.urandom(4).hex()}.json"
        self._live = -1
        if self._path is not None:
            with suppress(OSError):
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
                self._live = os.open(self._path.with_suffix(".live"), flags, 0o600)
                hold(self._live)

    @property
    def several(self) -> bool:
        """Whether there may be other processes."""
        return self._folder is not None

    def living(self) -> int:
        """How many processes serve; in a thread."""
        if self._folder is None:
            return 1
        return sum(held(path) for path in self._folder.glob("*.live"))

    def together(self, own: Snapshot) -> Snapshot:
        """Everybody's numbers; `own` is written first, so that the next one who looks sees no less.

        Touches files where there are several processes: call it in a thread.
        """
        if self._folder is None:
            return merge(iter([(own, True)]))
        self.publish(own)
        return merge(self._others(own))

    def waiting(self) -> int:
        """Lines of the audit log that wait in the parent of all of them."""
        if self._folder is not None:
            with suppress(OSError, ValueError):
                return int((self._folder / _WAITING).read_bytes())
        return 0

    def publish(self, own: Snapshot) -> None:
        """Let the others see it. A folder that cannot be written costs numbers, never the server."""
        if self._path is None:
            return
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps(own), "ascii")
            part.replace(self._path)

    def _others(self, own: Snapshot) -> Iterator[tuple[Snapshot, bool]]:
        assert self._folder is not None
        yield own, True
        for path in sorted(self._folder.glob("*.json")):
            if path != self._path:
                with suppress(OSError, ValueError):
                    yield json.loads(path.read_bytes()), held(path.with_suffix(".live"))

    def close(self) -> None:
        """This process counts no more."""
        if self._live >= 0:
            os.close(self._live)
            self._live = -1
