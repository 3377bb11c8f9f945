"""`/media`: the library, page by page."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.server.catalogue import SORTS, Key
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import CATALOGUE, GUARD, SCRUB
from harmony4.server.query import REVALIDATE, json_response, page_limit
from harmony4.server.scrubbing import Findings

__all__ = ["get_media", "routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/media", get_media)]


async def get_media(request: web.Request) -> web.Response:
    """`{"items", "next"}`; `next` is the cursor of the following page, null on the last one."""
    query = request.query
    sort = query.get("sort", "name")
    if sort.removeprefix("-") not in SORTS:
        raise UsageError(
            "sort is not valid", expected=", ".join(SORTS) + ", with - for reverse", found=sort[:40]
        )
    limit = page_limit(request)
    after = _parse_cursor(query["cursor"]) if "cursor" in query else None
    items, last = await asyncio.to_thread(
        request.app[CATALOGUE].page, query=query.get("q", ""), sort=sort, after=after, limit=limit
    )
    findings = request.app[SCRUB]
    items = await asyncio.to_thread(_with_findings, items, findings)
    if request[CALLER].signed is not None:
        inherited = request.app[GUARD].inherited
        # Copies: the catalogue keeps its own for the next request.
        items = [
            item | {"range_url": inherited(request, item["range_url"])} if "range_url" in item else item
            for item in items
        ]
    return json_response({"items": items, "next": None if last is None else _cursor(last)}, REVALIDATE)


def _with_findings(items: list[dict[str, Any]], findings: Findings) -> list[dict[str, Any]]:
    """The items with what scrubbing found of those that it has seen as they are; in a thread."""
    found = [(item, findings.of(item["name"], item["size"], item["modified"])) for item in items]
    return [item if verified is None else item | {"verified": verified} for item, verified in found]


def _cursor(key: Key) -> str:
    """A key as URL-safe text. File names of any bytes fit in."""
    return base64.urlsafe_b64encode(b"%d:%b" % key).decode("ascii").rstrip("=")


def _parse_cursor(text: str) -> Key:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        value, colon, raw = data.partition(b":")
        if not colon or len(value) > 20:
            raise ValueError
        return int(value), raw
    except (ValueError, binascii.Error):
        raise UsageError(
            "cursor is not valid", expected="`next` of an earlier answer", found=text[:40]
        ) from None
