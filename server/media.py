"""`/media`: the library, page by page."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.server.folder.catalogue import SORTS, Key
from harmony4.server.folder.scrubbing import Findings
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import CATALOGUE, GUARD, KEYRING, SCRUB
from harmony4.server.masking.unmasking import is_opened_by, may_use_keys, wants_masked
from harmony4.server.query import REVALIDATE, json_response, page_limit

__all__ = ["get_media", "routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/media", get_media)]


async def get_media(request: web.Request) -> web.Response:
    """`{"items", "next", "total"}`; `next` is the cursor of the following page, null on the last one."""
    query = request.query
    sort = query.get("sort", "name")
    if sort.removeprefix("-") not in SORTS:
        raise UsageError(
            "sort is not valid", expected=", ".join(SORTS) + ", with - for reverse", found=sort[:40]
        )
    limit = page_limit(request)
    wants_masked(request)  # said before anything is looked up
    after = _parse_cursor(query["cursor"]) if "cursor" in query else None
    items, last, total = await asyncio.to_thread(
        request.app[CATALOGUE].page, query=query.get("q", ""), sort=sort, after=after, limit=limit
    )
    items = await asyncio.to_thread(_with_findings, items, request.app[SCRUB])
    items = [_shown(request, item) for item in items]
    cursor = None if last is None else _cursor(last)
    return json_response({"items": items, "next": cursor, "total": total}, REVALIDATE)


def _with_findings(items: list[dict[str, Any]], findings: Findings) -> list[dict[str, Any]]:
    """The items with what scrubbing found of those that it has seen as they are; in a thread."""
    found = [(item, findings.of(item["name"], item["size"], item["modified"])) for item in items]
    return [item if verified is None else item | {"verified": verified} for item, verified in found]


def _shown(request: web.Request, item: dict[str, Any]) -> dict[str, Any]:
    """An item for one caller: a copy where it differs, for the catalogue keeps its own."""
    url, mask = item.get("range_url"), item.get("mask")
    if mask is not None:
        ids = tuple(bytes.fromhex(one) for one in mask["keys"] or ())
        opened = may_use_keys(request) and is_opened_by(request.app[KEYRING], ids) is not None
        url = mask.get("range_url", url) if opened and not wants_masked(request) else url
        item = item | {"mask": {"mode": mask["mode"], "keys": mask["keys"], "unmaskable": opened}}
        if url is not None:
            item["range_url"] = url
    if url is not None and request[CALLER].signed is not None:
        item = item | {"range_url": request.app[GUARD].inherited(request, url)}
    return item


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
