"""CORS (fetch.spec.whatwg.org §3.2): which headers pages of the allowed origins may send and see. Pure.

Credentials are never allowed: such pages use tokens or signed URLs, and the cookie stays with the server's
own page.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALLOW", "EXPOSE", "METHODS", "answer_headers", "is_preflight", "preflight_headers"]

METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOW: Final = (
    "Range, If-Range, If-None-Match, If-Match, Authorization, Last-Event-ID, Content-Type, "
    "Want-Content-Digest, Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Checksum, "
    "Upload-Defer-Length, Upload-Concat, X-HTTP-Method-Override, Harmony4-Salt, Harmony4-Master-Key"
)
EXPOSE: Final = (
    "Content-Range, Accept-Ranges, ETag, Content-Length, Location, Retry-After, Repr-Digest, Content-Digest, "
    "Content-Location, Content-Disposition, Harmony4-PTS, Harmony4-End-PTS, WWW-Authenticate, "
    "Harmony4-Job, Harmony4-Salt, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Expires, "
    "Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm"
)
_KEPT: Final = "600"
"""Seconds that a browser may remember a preflight's answer."""


def is_preflight(method: str, origin: str | None, asked: str | None) -> bool:
    """Whether a request only asks if another one may be made; `asked` is Access-Control-Request-Method."""
    return method == "OPTIONS" and origin is not None and asked is not None


def preflight_headers() -> dict[str, str]:
    """What a preflight's answer says beside `answer_headers`."""
    return {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ALLOW,
        "Access-Control-Max-Age": _KEPT,
    }


def answer_headers(origin: str) -> dict[str, str]:
    """What every answer to a page of an allowed origin says."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSE}
