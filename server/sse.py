"""Server-sent events (WHATWG HTML, "Server-sent events"): text for a stream of them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["HEADERS", "PING", "around", "compact", "event", "retry"]

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream",
    # no-transform: a proxy that compresses would collect events; nginx is told by a header of its own.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
PING: Final = b": ping\n\n"
"""A comment: keeps proxies from taking a quiet stream for a dead one."""
_FIELD: Final = re.compile(r"[!-~]*", re.ASCII)
"""What may stand in a name or an id: CR and LF would end the field, NUL makes clients ignore an id."""


def event(name: str, data: object, *, number: str | None = None) -> bytes:
    """One event with JSON data, whose text has no line breaks.

    Raises ValueError for a name or a number that is not visible ASCII.
    """
    before, behind = around(name)
    head = b"" if number is None else b"id: %b\n" % _checked(number)
    return b"%b%b%b%b" % (head, before, compact(data), behind)


def around(name: str) -> tuple[bytes, bytes]:
    """What stands before and behind the data of an event, which must be one line. Raises ValueError."""
    return b"event: %b\ndata: " % _checked(name), b"\n\n"


def retry(milliseconds: int) -> bytes:
    """How long a client waits until it comes back after a lost connection."""
    return b"retry: %d\n\n" % milliseconds


def compact(data: object) -> bytes:
    """JSON without spaces and in ASCII: control characters and line breaks become escapes."""
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def _checked(text: str) -> bytes:
    if not _FIELD.fullmatch(text):
        raise ValueError(f"not a name for a field: {text!r}")
    return text.encode("ascii")
