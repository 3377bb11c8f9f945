"""Who sends a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from harmony4.server.guard.signing import Signature

__all__ = ["CALLER", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and what they may do."""

    token_id: str | None
    """The id of the token that was shown, or that the session stands for; None: nobody in particular."""
    scopes: frozenset[str]
    """Everything that is allowed, implied scopes included."""
    expires: float | None
    """When that ends, seconds since the epoch; None: not by itself."""
    signed: Signature | None = None
    """The signature in the URL, where that is what opens it."""
    url_key: bytes = b""
    """The key that it was checked with: what the answer signs must not outlive it."""
    by_token: bool = False
    """Whether the token itself was shown, and not a session."""


CALLER: Final = web.RequestKey("caller", Caller)
"""Set on every request that reaches a handler."""
