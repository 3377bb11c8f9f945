"""Time and memory of child processes, and what is said about many samples."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Grid",
    "Others",
    "Place",
    "Row",
    "Run",
    "Table",
    "harmony4",
    "median",
    "percentile",
    "quietly",
    "run",
    "spread",
    "tree",
    "whole",
]

PATIENCE = 20
"""Seconds that a server gets to end before it is killed."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table in docs/PERFORMANCE.md."""

    figure: str
    target: str
    measured: str
    peer: str = ""
    met: bool | None = None
    """None where there is no target."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table with columns of its own, for a benchmark that compares with several peers at once."""

    head: tuple[str, ...]
    lines: list[tuple[str, ...]]


@dataclass(slots=True)
class Table:
    """What one benchmark found."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences below the table, each about this very run."""
    grid: Grid | None = None
    """Instead of, or above, the rows."""
    missed: list[str] = field(default_factory=list)
    """Targets missed in the grid; rows know it themselves."""
    files: dict[str, str] = field(default_factory=dict)
    """Plots: name in docs/ -> contents. Written where the document is."""

    def add(
        self, figure: str, measured: str, target: str = "", peer: str = "", met: bool | None = None
    ) -> None:
        """Add a row."""
        self.rows.append(Row(figure, target, measured, peer, met))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a benchmark may write."""

    cache: Path
    """Kept between runs: sources that take long to make. On disk."""
    fast: Path
    """A tmpfs where there is one with enough room, removed at the end; otherwise a folder on disk."""
    in_memory: bool
    """Whether `fast` is a tmpfs."""
    quick: int = 0
    """1: small and short, for trying; 2: only to see that it runs. Never for the document."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program."""

    wall: float
    """Seconds."""
    user: float
    system: float
    """CPU seconds of the process and all its children."""
    peak: int
    """Resident bytes: the sum of the high-water marks of every process in the tree."""
    output: bytes


def harmony4() -> str:
    """The real command of this environment."""
    return str(Path(sys.executable).with_name("harmony4"))


def run(command: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None) -> Run:
    """Run a program to its end and measure it. Raises CalledProcessError."""
    marks: dict[int, int] = {}
    before = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=cwd)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, marks, over), daemon=True)
    watcher.start()
    assert process.stdout is not None
    output = process.stdout.read()
    # wait4, not wait: it alone gives the CPU time of this child and its children.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    over.set()
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(wall, usage.ru_utime, usage.ru_stime, sum(marks.values()), output)


def _watch(root: int, marks: dict[int, int], over: threading.Event) -> None:
    """Keep each process's VmHWM, which only grows. `ru_maxrss` will not do: a child inherits its parent's."""
    while True:
        for pid in tree(root):
            with contextlib.suppress(OSError, StopIteration):
                text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
                line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
                marks[pid] = max(marks.get(pid, 0), int(line.split()[1]) * 1024)
        if over.wait(0.02):
            return


def tree(pid: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from tree(int(child))


@contextlib.contextmanager
def quietly(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a server when the block is left."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Others:
    """How much of the machine's CPU time went to processes that are not ours."""

    def __init__(self) -> None:
        self._before = self._now()

    def share(self) -> float:
        """Part (0 … 1) of the time since this object was made, of all cores."""
        busy, ours, wall = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return max(0.0, busy - ours) / (wall * (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(one) for one in line.split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy, sum(one.ru_utime + one.ru_stime for one in usage), time.perf_counter()


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` (0 … 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and least to greatest in brackets."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def whole(values: Sequence[float]) -> str:
    """The same for large numbers, in whole ones."""
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})".replace(",", " ")
