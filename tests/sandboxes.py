"""What tests of both sandboxes share: what a worker may do, what a taken-over one says, who is left."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmony4.server.sandboxing import sandbox, sandbox_worker
from processes import demuxers, until

QUIET = 0.3
"""Seconds without a change after which a source is at rest."""


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Checks that no worker and no open file is left behind."""
    linux = sys.platform == "linux"
    before = set(Path("/proc/self/fd").iterdir()) if linux else set()
    yield
    if linux:
        # What a script in a worker's place has forked is called like it until it becomes another program.
        until(lambda: workers() == [], "no worker")
        # A thread may have one open for a moment yet.
        until(lambda: len(set(Path("/proc/self/fd").iterdir())) <= len(before), "no open file")


def workers() -> list[int]:
    """Our worker processes."""
    return demuxers(os.getpid())


def limits_of(pid: int, *names: str) -> dict[str, tuple[int, int]]:
    """What the kernel lets a process have (setrlimit(2)): soft and hard limit of each name."""
    return {name: resource.prlimit(pid, getattr(resource, name)) for name in names}


def frame(kind: bytes, payload: bytes) -> bytes:
    """A message as workers send it."""
    return sandbox_worker.FRAME.pack(kind, len(payload)) + payload


def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, *, linger: bool = False) -> None:
    """Put a program in the worker's place that writes `data`; `linger`: closes its output then, and stays."""
    (tmp_path / "data").write_bytes(data)
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\ncat {tmp_path}/data\n"
        + ("exec >&-\nexec sleep 1000\n" if linger else "cat >/dev/null\n")
    )
    script.chmod(0o755)
    monkeypatch.setattr(sandbox.sys, "executable", str(script))


def at_rest(value: Callable[[], int]) -> int:
    """A number once it does not change any more: how far a source has been read whose reader is held back."""
    before, deadline = -1, time.monotonic() + 10
    while (now := value()) != before and time.monotonic() < deadline:
        before = now
        threading.Event().wait(QUIET)
    return now
