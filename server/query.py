"""What requests say in their query, and JSON answers to them."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.crypto.token import MAX_VALUE
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import Problem
from harmony4.server.folder import facts

__all__ = [
    "IMMUTABLE",
    "REVALIDATE",
    "asked_track",
    "cache_control",
    "container_name",
    "integer",
    "json_response",
    "json_text",
    "natural",
    "page_limit",
]

IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATE: Final = "no-cache"
_DEFAULT_LIMIT: Final = 100
_MAX_LIMIT: Final = 1000
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


def container_name(request: web.Request) -> str:
    """The `name` in the query. Raises UsageError if it is missing."""
    name = request.query.get("name")
    if not name:
        raise UsageError("name is missing", expected="a container's path below the library")
    return name


def json_response(value: object, cache: str) -> web.Response:
    """A JSON answer; non-ASCII text goes out as escapes, because names may hold what UTF-8 cannot."""
    return web.json_response(value, headers={"Cache-Control": cache})


def json_text(text: str, cache: str) -> web.Response:
    """A JSON answer whose text, ASCII, is there already."""
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": cache}
    return web.Response(body=text.encode("ascii"), headers=headers)


def integer(request: web.Request, key: str) -> int | None:
    """A whole number in the query, None if it is not given. Raises UsageError."""
    text = request.query.get(key)
    return None if text is None else natural(key, text)


def natural(key: str, text: str) -> int:
    """`text` as a whole number below 2^63. Raises UsageError."""
    if not _NUMBER.fullmatch(text) or (value := int(text)) > MAX_VALUE:
        raise UsageError(f"{key} is not valid", expected="a whole number below 2^63", found=text[:40])
    return value


def page_limit(request: web.Request) -> int:
    """How many items a page may have. Raises UsageError."""
    text = request.query.get("limit", str(_DEFAULT_LIMIT))
    if not (_NUMBER.fullmatch(text) and 1 <= int(text) <= _MAX_LIMIT):
        raise UsageError("limit is not valid", expected=f"1 to {_MAX_LIMIT}", found=text[:40])
    return int(text)


def asked_track(request: web.Request, reader: H4MKReader) -> int:
    """The track that the path or the query names; 0 if neither does. Raises UsageError, NotFoundError."""
    asked = integer(request, "track")
    in_path = request.match_info.get("track")
    if in_path is not None:
        if asked is not None and asked != int(in_path):
            raise UsageError("path and query name different tracks", expected=in_path, found=asked)
        asked = int(in_path)
    track = 0 if asked is None else asked
    facts.check_track(reader, track)
    return track


def cache_control(request: web.Request, *etags: str | None) -> str:
    """How long an answer may be kept. Raises Problem (410) for an address that names another version.

    `etags`: those of all forms that the address may mean.
    """
    version = request.query.get("v")
    if version is None:
        return REVALIDATE
    if all(etag is None or version != etag[:16] for etag in etags):
        raise Problem("stale", "the container was replaced", headers={"Cache-Control": "no-store"})
    return IMMUTABLE
