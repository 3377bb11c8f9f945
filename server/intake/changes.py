"""Changes to the library: `DELETE /media`, `/media/restore`, `/media/rename`, `/media/trash`."""

from __future__ import annotations

from dataclasses import asdict
from urllib.parse import quote

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.server.intake.exports import match_of
from harmony4.server.keys import DESK
from harmony4.server.query import container_name, json_response

__all__ = ["routes"]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.delete("/media", delete_media),
        web.post("/media/restore", post_restore),
        web.post("/media/rename", post_rename),
        web.get("/media/trash", get_trash),
        web.delete("/media/trash", delete_trash),
    ]


async def delete_media(request: web.Request) -> web.Response:
    """Move a container into the trash: 200 and what it is called there, 404, 412."""
    name = container_name(request)
    shelf = request.app[DESK].shelf
    found = await shelf.call(shelf.delete, name, match_of(request))
    return json_response(asdict(found), "no-store")


async def post_restore(request: web.Request) -> web.Response:
    """Take the container `id` out of the trash, under its old name or as `to`: 200, 404, 409."""
    shelf = request.app[DESK].shelf
    name = await shelf.call(shelf.restore, _id(request), request.query.get("to"))
    return _moved(name)


async def post_rename(request: web.Request) -> web.Response:
    """Give the container `name` the name `to`: 200, 404, 409, 412."""
    name, to = container_name(request), request.query.get("to")
    if not to:
        raise UsageError("to is missing", expected="the new name")
    shelf = request.app[DESK].shelf
    await shelf.call(shelf.rename, name, to, match_of(request))
    return _moved(to)


async def get_trash(request: web.Request) -> web.Response:
    """What lies in the trash, the last deleted first."""
    shelf = request.app[DESK].shelf
    found = await shelf.call(shelf.trash)
    return json_response({"items": [asdict(one) for one in found]}, "no-store")


async def delete_trash(request: web.Request) -> web.Response:
    """Remove the container `id` from the trash for good: 204, 404."""
    shelf = request.app[DESK].shelf
    await shelf.call(shelf.purge, _id(request))
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def _id(request: web.Request) -> str:
    number = request.query.get("id")
    if not number:
        raise UsageError("id is missing", expected="the `id` that deleting gave")
    return number


def _moved(name: str) -> web.Response:
    response = json_response({"name": name}, "no-store")
    response.headers["Location"] = f"/video/info?name={quote(name, safe='/')}"
    return response
