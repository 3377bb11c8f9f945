"""`/video/hls`, `/video/dash`: what players read first, made out of tables that are there already."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from harmony4.crypto.digest import sha256
from harmony4.server import facts
from harmony4.server.errors import Problem
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import GUARD, LIBRARY, PLAYLISTS
from harmony4.server.library import Container
from harmony4.server.players import dash, hls
from harmony4.server.players.presentation import (
    DASH_TYPES,
    HLS_TYPES,
    Rendition,
    playable,
    rendition,
    renditions,
)
from harmony4.server.query import asked_track, cache_control, container_name
from harmony4.server.reading.ranges import Representation, decide

__all__ = ["Playlists", "routes"]

_BUDGET: Final = 32 * 2**20
"""Bytes of playlists that are kept."""

_Address = Callable[[str], str]


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/video/hls", get_hls),
        web.get("/video/hls/index.m3u8", get_hls),
        web.get("/video/hls/{track:[0-9]{1,5}}.m3u8", get_hls_track),
        web.get("/video/dash", get_dash),
        web.get("/video/dash/manifest.mpd", get_dash),
    ]


class Playlists:
    """Playlists that were made lately, by what decides their bytes. For one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[str, ...]) -> bytes | None:
        """The bytes, if they are still there."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: tuple[str, ...], data: bytes) -> None:
        """Keep bytes, and let go of the ones that were not asked for for longest."""
        self._size += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        while self._size > _BUDGET:
            _, old = self._kept.popitem(last=False)
            self._size -= len(old)


async def get_hls(request: web.Request) -> web.Response:
    """The master playlist: 200, 304, 404, 409 where nothing can be played by segments, 410, 412."""

    def make(container: Container, own: _Address) -> str:
        found = _found(container, HLS_TYPES, own)
        return hls.master_playlist(found, lambda track: own(_track_url(container, track)))

    with await request.app[LIBRARY].open(container_name(request)) as container:
        return await _answer(request, container, 0, "hls", hls.MEDIA_TYPE, make)


async def get_hls_track(request: web.Request) -> web.Response:
    """One track's playlist: 200, 304, 404, 409, 410, 412."""
    with await request.app[LIBRARY].open(container_name(request)) as container:
        track = asked_track(request, container.reader)

        def make(container: Container, own: _Address) -> str:
            one = (
                rendition(container.reader, container.name, track)
                if playable(container.reader, track, HLS_TYPES)
                else None
            )
            if one is None:
                raise _unplayable()
            return hls.media_playlist(_addressed(one, own))

        return await _answer(request, container, track, f"hls {track}", hls.MEDIA_TYPE, make)


async def get_dash(request: web.Request) -> web.Response:
    """The MPD: 200, 304, 404, 409 where nothing can be played by segments, 410, 412."""

    def make(container: Container, own: _Address) -> str:
        return dash.manifest(_found(container, DASH_TYPES, own))

    with await request.app[LIBRARY].open(container_name(request)) as container:
        return await _answer(request, container, 0, "dash", dash.MEDIA_TYPE, make)


def _found(container: Container, types: tuple[str, ...], own: _Address) -> list[Rendition]:
    found = renditions(container.reader, container.name, types)
    if all(one.kind == "text" for one in found):
        raise _unplayable()
    return [_addressed(one, own) for one in found]


def _track_url(container: Container, track: int) -> str:
    return facts.versioned(f"/video/hls/{track}.m3u8", container.reader, container.name, track)


def _addressed(one: Rendition, own: _Address) -> Rendition:
    return replace(one, url=own(one.url))


def _unplayable() -> Problem:
    return Problem(
        "self-framing",
        "no track can be played by segments: its blocks would have to decode alone, in a format that players "
        "know; `harmony4 export --remux` makes fragmented MP4",
    )


async def _answer(
    request: web.Request,
    container: Container,
    track: int,
    what: str,
    media_type: str,
    make: Callable[[Container, _Address], str],
) -> web.Response:
    """A playlist as text, made in a thread unless it is still there."""
    etag = container.reader.etag(track)
    cache = cache_control(request, etag)
    guard, kept = request.app[GUARD], request.app[PLAYLISTS]
    own: _Address = lambda url: guard.inherited(request, url)  # noqa: E731
    # A signature is part of the addresses in it: what is made for one caller is not for the next.
    shared = request[CALLER].signed is None and etag is not None
    key = (container.name, etag or "", what)
    data = kept.get(key) if shared else None
    if data is None:
        data = (await asyncio.to_thread(make, container, own)).encode()
        if shared:
            kept.put(key, data)
    tag = sha256(data)[:16].hex()
    decision = decide("HEAD", request.headers, Representation(len(data), tag))
    if decision.status == 412:
        raise Problem("precondition", "the playlist is another one by now")
    headers = {"Cache-Control": cache, "ETag": f'"{tag}"'}
    if decision.status == 304:
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, headers=headers | {"Content-Type": media_type})
