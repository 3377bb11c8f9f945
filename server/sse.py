"""Server-sent events (WHATWG HTML, "Server-sent events"): text for a stream of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

__all__ = ["HEADERS", "PING", "event"]

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream",
    # no-transform: a proxy that compresses would collect events; nginx is told by a header of its own.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
PING: Final = b": ping\n\n"
"""A comment: keeps proxies from taking a quiet stream for a dead one."""


def event(name: str, data: object, *, number: str | None = None) -> bytes:
    """One event with JSON data, whose text has no line breaks; `name` and `number` must not have any."""
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")
