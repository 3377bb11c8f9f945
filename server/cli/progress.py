"""A progress bar for whoever watches a terminal, and for nobody else.

It appears after a second, on standard error, and only where standard error is a terminal and standard
output is not a pipe (the program behind the pipe may be writing onto the same terminal).
"""

from __future__ import annotations

import os
import stat
import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["Meter", "watched"]

_PATIENCE: Final = 1.0
"""Seconds until a bar is worth its flicker."""
_INTERVAL: Final = 0.1


def watched() -> bool:
    """Whether a person sees standard error and nothing else of ours is piped."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False


class Meter:
    """Counts what is done of a task that may take long: a context manager, and the callback for libraries."""

    def __init__(
        self, label: str, total: int | None = None, *, quiet: bool = False, unit: str | None = None
    ) -> None:
        """`label` says what is being done; `total` is how much there is to do, None where nobody knows.

        `unit` names what is counted if that is not bytes.
        """
        self._label = label
        self._total = total
        self._unit = unit
        self._on = not quiet and watched()
        self._next = time.monotonic() + _PATIENCE
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int | None = None) -> None:
        """`done` of `total` is done."""
        if not self._on:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        total = self._total if total is None else total
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *(_bytes_columns() if self._unit is None else _unit_columns(self._unit)),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._label, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)


def _bytes_columns() -> tuple[ProgressColumn, ...]:
    return DownloadColumn(binary_units=True), TransferSpeedColumn()


def _unit_columns(unit: str) -> tuple[ProgressColumn, ...]:
    return MofNCompleteColumn(), TextColumn(unit, markup=False)
