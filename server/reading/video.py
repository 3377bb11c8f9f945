"""One container's bytes and facts: `/video/range`, `/video/keyframes`, `/video/info`, `/container`."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from aiohttp import web

from harmony4.crypto.errors import NotFoundError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.folder import facts
from harmony4.server.keys import CONFIG, GUARD, LIBRARY, SCRUB
from harmony4.server.masking.unmasking import can_unmask, shows_unmasked, unmasked_for, wants_masked
from harmony4.server.players.presentation import player_urls
from harmony4.server.query import (
    REVALIDATE,
    asked_track,
    cache_control,
    container_name,
    integer,
    json_response,
    json_text,
)
from harmony4.server.reading import payload
from harmony4.server.reading.resource import file_resource, stream_resource
from harmony4.server.reading.timed import asked_time, timed_resource

__all__ = ["get_container", "get_info", "get_keyframes", "get_range", "routes"]

_KEYFRAMES: Final = 100_000
_PART: Final = 1000


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/video/range", get_range),
        web.get("/video/range/{track:[0-9]{1,5}}.{ext:[a-z0-9]{1,8}}", get_range),
        web.get("/video/keyframes", get_keyframes),
        web.get("/video/info", get_info),
        web.get("/container", get_container),
    ]


async def get_range(request: web.Request) -> web.StreamResponse:
    """A track's stream or the blocks of a time, whole or a range: 200 to 416.

    Of a masked track unmasked bytes, or with `masked=1` those that are stored.
    """
    time = asked_time(request)
    with await request.app[LIBRARY].open(container_name(request)) as container:
        reader = container.reader
        track = asked_track(request, reader)
        ext = request.match_info.get("ext")
        media_type = reader.tracks[track].info.media_type
        if ext is not None and ext != facts.extension(media_type):
            raise NotFoundError(
                "the track is of another type", expected=facts.extension(media_type), found=ext
            )
        unmasked = None
        if not wants_masked(request) and reader.tracks[track].info.masked:
            unmasked = await unmasked_for(request, container)
        if time is None:
            resource = stream_resource(container, track, unmasked)
        else:
            resource = await timed_resource(request, container, track, time, unmasked)
        return await payload.respond(request, resource)


async def get_container(request: web.Request) -> web.StreamResponse:
    """The sealed file itself, whole or one range of it: 200, 206, 304, 404, 410, 412, 416."""
    with await request.app[LIBRARY].open(container_name(request)) as container:
        return await payload.respond(request, file_resource(container))


async def get_keyframes(request: web.Request) -> web.Response:
    """A track's keyframes, up to 100 000 at a time: what a timeline draws."""
    name = container_name(request)
    start, limit = integer(request, "start") or 0, integer(request, "limit")
    limit = _KEYFRAMES if limit is None else limit
    if not 1 <= limit <= _KEYFRAMES:
        raise UsageError("limit is not valid", expected=f"1 to {_KEYFRAMES}", found=limit)
    with await request.app[LIBRARY].open(name) as container:
        track = asked_track(request, container.reader)
        cache = cache_control(request, *facts.etags(container.reader, track))
        # In a thread: so many entries take a while to put together.
        return json_text(await asyncio.to_thread(_keyframes, container.reader, track, start, limit), cache)


def _keyframes(reader: H4MKReader, track: int, start: int, limit: int) -> str:
    """`keyframe_facts` as JSON text. In parts: json.dumps lets no other thread run until it is done."""
    answer = facts.keyframe_facts(reader, track, start=start, limit=limit)
    columns = {name: answer.pop(name) for name in ("pts", "offset")}
    text = [json.dumps(answer)[:-1]]
    for name, values in columns.items():
        parts = (json.dumps(values[at : at + _PART])[1:-1] for at in range(0, len(values), _PART))
        text.append(f', "{name}": [{", ".join(parts)}]')
    return "".join([*text, "}"])


async def get_info(request: web.Request) -> web.Response:
    """Structure, tracks, metadata and integrity state of a container."""
    name = container_name(request)
    inherited = request.app[GUARD].inherited
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        cache = cache_control(request, *facts.etags(reader, 0))
        unmasked = shows_unmasked(request, container)
        answer = {"name": name, **await asyncio.to_thread(facts.info_facts, reader)}
        if answer["mask"] is not None:
            answer["mask"]["unmaskable"] = can_unmask(request, container)
            cache = REVALIDATE  # another caller, or another day, has another answer
        size, modified = container.identity.size, container.identity.mtime_ns // 10**9
        verified = await asyncio.to_thread(request.app[SCRUB].of, name, size, modified)
        if verified is not None:
            answer["verified"] = verified
        if verified is not None or request.app[CONFIG].scrub_rate:
            cache = REVALIDATE  # the next reading may find something else
        for number, track in enumerate(answer["tracks"]):
            url = facts.range_url(reader, name, number, unmasked=unmasked)
            track["range_url"] = inherited(request, url)
        for key, url in player_urls(reader, name).items():
            answer[key] = inherited(request, url)
        return json_response(answer, cache)
