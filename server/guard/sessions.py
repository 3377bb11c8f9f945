"""Sessions: what a browser has instead of a token, for `<video>` and `EventSource` send no headers. Pure.

The cookie's value is `ID.EXPIRES.MAC`: a token's id, when the session ends (seconds since the epoch), and an
HMAC-SHA256 over both and the token's stored digest. Nothing is kept on the server. A session ends with its
token, at the latest after LIFETIME.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

from harmony4.crypto.mac import derive, equal, mac
from harmony4.server.guard.tokens import Token

__all__ = ["COOKIE", "LIFETIME", "check", "key_of", "make"]

COOKIE: Final = "harmony4_session"
LIFETIME: Final = 12 * 3600
"""Seconds."""
_VALUE: Final = re.compile(r"([0-9a-f]{16})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)


def key_of(secret: bytes) -> bytes:
    """The key for cookies: another one than that for URLs."""
    return derive(secret, b"harmony4 session 1")


def make(key: bytes, token: Token, now: float) -> tuple[str, int]:
    """A cookie's value for whoever showed this token, and when it ends: seconds since the epoch."""
    ends = int(now) + LIFETIME
    if token.expires is not None:
        ends = min(ends, token.expires)
    return f"{token.id}.{ends}.{_mac(key, token, ends)}", ends


def check(key: bytes, value: str, tokens: Mapping[str, Token], now: float) -> tuple[Token, int] | None:
    """The token that a cookie stands for, and when the session ends; None where it stands for none any
    more."""
    found = _VALUE.fullmatch(value)
    token = tokens.get(found[1]) if found is not None else None
    if found is None or token is None:
        return None
    ends = int(found[2])
    whole = equal(_mac(key, token, ends).encode("ascii"), found[3].encode("ascii"))
    return (token, ends) if whole and now < ends and not token.has_expired(now) else None


def _mac(key: bytes, token: Token, ends: int) -> str:
    message = f"{token.id}.{ends}.{token.digest}".encode("ascii")
    return base64.urlsafe_b64encode(mac(key, message)).decode("ascii").rstrip("=")
