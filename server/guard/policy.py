"""Which scope a route asks for: the one table of it.

Routes are named as `openapi.json` names them: by the canonical form of the resource that the router found,
never by the path as it was sent, so there are no two opinions on which route a path means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harmony4.server.guard.scopes import ADMIN, MASK, METRICS, READ, WRITE

__all__ = ["EXCEPTIONS", "OPEN", "SAFE", "needed_scope"]

OPEN: Final = frozenset({"/", "/static/{file}", "/openapi.json", "/health", "/ready", "/session"})
"""Routes that ask nobody for anything: the page holds no secrets, and `/session` looks for itself."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 §9.2.1). Whatever is not one of them is checked for its origin."""
EXCEPTIONS: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/video/seek"): READ,
    # It changes nothing, and is done with keys.
    ("POST", "/audio/mask"): MASK,
    # What those see who bring media in: names that are not there yet, failures, what was deleted.
    ("GET", "/events"): WRITE,
    ("GET", "/jobs"): WRITE,
    ("GET", "/jobs/{id}"): WRITE,
    ("GET", "/media/trash"): WRITE,
    # How much is going on; a token of its own kind, so that what watches the server can do nothing else.
    ("GET", "/metrics"): METRICS,
    # The one operation that cannot be reversed.
    ("DELETE", "/media/trash"): ADMIN,
}
"""(method, route) to a scope, where it is not `read` for GET and HEAD and `write` for everything else; GET
stands for HEAD, too."""


def needed_scope(method: str, route: str | None) -> str | None:
    """The scope that a request needs; None where it needs none. `route` is None for a path that has none."""
    if route in OPEN or method == "OPTIONS":
        return None
    listed = "GET" if method == "HEAD" else method
    if route is not None and (scope := EXCEPTIONS.get((listed, route))) is not None:
        return scope
    return READ if method in SAFE else WRITE
