"""The routes of one container: `/video/range`, `/video/seek`, `/video/keyframes`, `/video/info`."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final

from aiohttp import web

from harmony4.crypto.errors import NotFoundError, UsageError
from harmony4.crypto.token import MAX_VALUE
from harmony4.h4mk import H4MKReader
from harmony4.server import facts, payload
from harmony4.server.errors import Problem
from harmony4.server.keys import CONFIG, LIBRARY
from harmony4.server.library import Container
from harmony4.server.ranges import Representation, decide

__all__ = ["container_name", "get_info", "get_keyframes", "get_range", "get_seek", "json_response", "routes"]

IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATE: Final = "no-cache"
_KEYFRAMES: Final = 100_000
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/video/range", get_range),
        web.get("/video/range/{track:[0-9]{1,5}}.{ext:[a-z0-9]{1,8}}", get_range),
        web.get("/video/seek", get_seek),
        web.get("/video/keyframes", get_keyframes),
        web.get("/video/info", get_info),
    ]


async def get_range(request: web.Request) -> web.StreamResponse:
    """A track's stream, whole or one range of it: 200, 206, 304, 404, 410, 412, 416."""
    with await request.app[LIBRARY].open(container_name(request)) as container:
        reader = container.reader
        track = _track(request, reader)
        ext = request.match_info.get("ext")
        media_type = reader.tracks[track].info.media_type
        if ext is not None and ext != facts.extension(media_type):
            raise NotFoundError(
                "the track is of another type", expected=facts.extension(media_type), found=ext
            )
        etag = reader.etag(track)
        cache = _cache_control(request, etag)
        what = Representation(reader.stream_size(track), etag, _last_modified(container))
        decision = decide(request.method, request.headers, what)
        if decision.body is None and decision.status != 304:
            if decision.status == 416:
                raise Problem("range", "no byte of the range exists", headers=dict(decision.headers))
            raise Problem(
                "precondition", "the container is another one by now", headers=dict(decision.headers)
            )
        response = web.StreamResponse(status=decision.status, headers=decision.headers)
        response.headers["Cache-Control"] = cache
        if decision.body is None:
            return response
        response.headers["Content-Type"] = facts.content_type(media_type)
        limit = request.app[CONFIG].write_timeout
        return await payload.send(request, response, container, track, decision.body, limit=limit)


async def get_seek(request: web.Request) -> web.Response:
    """The keyframe at or before `pts`: 200, 404 where there is none."""
    name = container_name(request)
    pts = _integer(request, "pts")
    if pts is None:
        raise UsageError("pts is missing", expected="microseconds")
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        track = _track(request, reader)
        etag = reader.etag(track)
        cache = _cache_control(request, etag)
        if container.in_memory(track):
            answer = facts.seek_facts(reader, pts, track)
        else:
            answer = await asyncio.to_thread(facts.seek_facts, reader, pts, track)
        answer["range_url"] = facts.range_url(reader, name, track)
        return json_response(answer, cache)


async def get_keyframes(request: web.Request) -> web.Response:
    """A track's keyframes, up to 100 000 at a time: what a timeline draws."""
    name = container_name(request)
    start, limit = _integer(request, "start") or 0, _integer(request, "limit")
    limit = _KEYFRAMES if limit is None else limit
    if not 1 <= limit <= _KEYFRAMES:
        raise UsageError("limit is not valid", expected=f"1 to {_KEYFRAMES}", found=limit)
    with await request.app[LIBRARY].open(name) as container:
        track = _track(request, container.reader)
        cache = _cache_control(request, container.reader.etag(track))
        # In a thread: so many entries take a while to put together.
        answer = await asyncio.to_thread(
            facts.keyframe_facts, container.reader, track, start=start, limit=limit
        )
        return json_response(answer, cache)


async def get_info(request: web.Request) -> web.Response:
    """Structure, tracks, metadata and integrity state of a container."""
    name = container_name(request)
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        cache = _cache_control(request, reader.etag(0))
        answer = {"name": name, **facts.info_facts(reader)}
        for number, track in enumerate(answer["tracks"]):
            track["range_url"] = facts.range_url(reader, name, number)
        return json_response(answer, cache)


def container_name(request: web.Request) -> str:
    """The `name` in the query. Raises UsageError if it is missing."""
    name = request.query.get("name")
    if not name:
        raise UsageError("name is missing", expected="a container's path below the library")
    return name


def json_response(value: object, cache: str) -> web.Response:
    """A JSON answer; non-ASCII text goes out as escapes, because names may hold what UTF-8 cannot."""
    return web.json_response(value, headers={"Cache-Control": cache})


def _integer(request: web.Request, key: str) -> int | None:
    """A whole number in the query, None if it is not given. Raises UsageError."""
    text = request.query.get(key)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or int(text) > MAX_VALUE:
        raise UsageError(f"{key} is not valid", expected="a whole number below 2^63", found=text[:40])
    return int(text)


def _track(request: web.Request, reader: H4MKReader) -> int:
    """The track that the path or the query names; 0 if neither does. Raises UsageError, NotFoundError."""
    asked = _integer(request, "track")
    in_path = request.match_info.get("track")
    if in_path is not None:
        if asked is not None and asked != int(in_path):
            raise UsageError("path and query name different tracks", expected=in_path, found=asked)
        asked = int(in_path)
    track = 0 if asked is None else asked
    facts.check_track(reader, track)
    return track


def _cache_control(request: web.Request, etag: str | None) -> str:
    """How long an answer may be kept. Raises Problem (410) for an address that names another version."""
    version = request.query.get("v")
    if version is None:
        return REVALIDATE
    if etag is None or version != etag[:16]:
        raise Problem("stale", "the container was replaced", headers={"Cache-Control": "no-store"})
    return IMMUTABLE


def _last_modified(container: Container) -> int | None:
    """Seconds since the epoch; None for a file from the future (RFC 9110 §8.8.2.1 forbids to say so)."""
    seconds = container.identity.mtime_ns // 10**9
    return seconds if 0 <= seconds <= time.time() else None
