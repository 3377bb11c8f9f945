"""`/video/hls`, `/video/dash`: what players read first, made out of tables that are there already."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final
from xml.sax.saxutils import escape

from aiohttp import web

from harmony4.crypto.digest import sha256
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import Problem
from harmony4.server.folder import facts
from harmony4.server.folder.library import Container, Library
from harmony4.server.guard.caller import CALLER
from harmony4.server.keys import GUARD, LIBRARY, PLAYLISTS
from harmony4.server.players import dash, hls
from harmony4.server.players.presentation import (
    DASH_TYPES,
    HLS_TYPES,
    Rendition,
    playable,
    rendition,
    renditions,
)
from harmony4.server.query import REVALIDATE, asked_track, cache_control, container_name
from harmony4.server.reading.ranges import Representation, decide

__all__ = ["Playlists", "Text", "routes"]

_BUDGET: Final = 32 * 2**20
"""Bytes of playlists that are kept."""
_TURNS: Final = 2
"""So many are made at a time; other requests want threads, too."""


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get("/video/hls", get_hls),
        web.get("/video/hls/index.m3u8", get_hls),
        web.get("/video/hls/{track:[0-9]{1,5}}.m3u8", get_hls_track),
        web.get("/video/dash", get_dash),
        web.get("/video/dash/manifest.mpd", get_dash),
    ]


@dataclass(frozen=True, slots=True)
class Text:
    """A playlist, with the addresses as they are without a signature."""

    data: bytes
    tag: str
    """Its entity tag."""
    addresses: tuple[str, ...] = ()
    """Those in it, as they stand there."""


_Make = Callable[[Container], tuple[str, Iterable[str]]]
"""A playlist's text, and the addresses in it."""


class Playlists:
    """Playlists that were made lately, by what decides their bytes. For one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Text] = OrderedDict()
        self._making: dict[Hashable, asyncio.Task[Text]] = {}
        self._turns = asyncio.Semaphore(_TURNS)
        self._size = 0

    def get(self, key: Hashable) -> Text | None:
        """The playlist, if it is still there."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, text: Text) -> None:
        """Keep a playlist, and let go of the ones that were not asked for for longest."""
        old = self._kept.pop(key, None)
        self._size += len(text.data) - (0 if old is None else len(old.data))
        self._kept[key] = text
        while self._size > _BUDGET:
            _, old = self._kept.popitem(last=False)
            self._size -= len(old.data)

    async def made(self, key: Hashable, library: Library, name: str, make: _Make) -> Text:
        """The playlist, made once however many ask for it at the same time. Raises as `make` does."""
        kept = self.get(key)
        if kept is not None:
            return kept
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._build(key, library, name, make))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        # Who asked first may leave; the others still wait for it.
        return await asyncio.shield(task)

    async def _build(self, key: Hashable, library: Library, name: str, make: _Make) -> Text:
        # With a lease of its own: it outlives the request that it was begun for.
        async with self._turns:
            with await library.open(name) as container:
                text = await asyncio.to_thread(_built, make, container)
        self.put(key, text)
        return text


def _built(make: _Make, container: Container) -> Text:
    text, addresses = make(container)
    data = text.encode()
    return Text(data, sha256(data)[:16].hex(), tuple(dict.fromkeys(addresses)))


def _signed(text: Text, own: Callable[[str], str], xml: bool) -> Text:
    """The same with a caller's addresses. Only what the server put in is replaced, not what looks like it."""
    into = {
        (escape(url) if xml else url).encode(): (escape(own(url)) if xml else own(url)).encode()
        for url in text.addresses
    }
    # Longest first: without a version, one may be the beginning of another.
    pattern = re.compile(b"|".join(re.escape(one) for one in sorted(into, key=len, reverse=True)))
    data = pattern.sub(lambda found: into[found[0]], text.data)
    return Text(data, sha256(data)[:16].hex())


async def get_hls(request: web.Request) -> web.Response:
    """The master playlist: 200, 304, 404, 409 where nothing can be played by segments, 410, 412."""
    return await _answer(request, None, "hls", hls.MEDIA_TYPE, _master)


async def get_hls_track(request: web.Request) -> web.Response:
    """One track's playlist: 200, 304, 404, 409, 410, 412."""
    return await _answer(request, asked_track, "track", hls.MEDIA_TYPE, _track_list)


async def get_dash(request: web.Request) -> web.Response:
    """The MPD: 200, 304, 404, 409 where nothing can be played by segments, 410, 412."""
    return await _answer(request, None, "dash", dash.MEDIA_TYPE, _manifest)


def _master(container: Container, _track: int) -> tuple[str, Iterable[str]]:
    found = _found(container, HLS_TYPES)
    addresses = {one.track: _track_url(container, one.track) for one in found}
    return hls.master_playlist(found, addresses.__getitem__), addresses.values()


def _track_list(container: Container, track: int) -> tuple[str, Iterable[str]]:
    reader = container.reader
    one = rendition(reader, container.name, track) if playable(reader, track, HLS_TYPES) else None
    if one is None:
        raise _unplayable()
    return hls.media_playlist(one), [one.url]


def _manifest(container: Container, _track: int) -> tuple[str, Iterable[str]]:
    found = _found(container, DASH_TYPES)
    return dash.manifest(found), [one.url for one in found]


def _found(container: Container, types: tuple[str, ...]) -> list[Rendition]:
    found = renditions(container.reader, container.name, types)
    if all(one.kind == "text" for one in found):
        raise _unplayable()
    return found


def _track_url(container: Container, track: int) -> str:
    return facts.versioned(f"/video/hls/{track}.m3u8", container.reader, container.name, track)


def _unplayable() -> Problem:
    return Problem(
        "self-framing",
        "no track can be played by segments: its blocks would have to decode alone, in a format that players "
        "know; `harmony4 export --remux` makes fragmented MP4",
    )


async def _answer(
    request: web.Request,
    asked: Callable[[web.Request, H4MKReader], int] | None,
    what: str,
    media_type: str,
    make: Callable[[Container, int], tuple[str, Iterable[str]]],
) -> web.Response:
    """A playlist as text, made in a thread unless it is still there."""
    name, app = container_name(request), request.app
    with await app[LIBRARY].open(name) as container:
        track = 0 if asked is None else asked(request, container.reader)
        cache_control(request, container.reader.etag(track))
        # The identity as well: an entity tag says nothing of SEEK, out of which playlists are made.
        key = (name, container.identity, container.reader.etag(track), what, track)
    text = await app[PLAYLISTS].made(key, app[LIBRARY], name, lambda container: make(container, track))
    if request[CALLER].signed is not None and text.addresses:
        own = partial(app[GUARD].inherited, request)
        text = await asyncio.to_thread(_signed, text, own, media_type == dash.MEDIA_TYPE)
    decision = decide("HEAD", request.headers, Representation(len(text.data), text.tag))
    if decision.status == 412:
        raise Problem("precondition", "the playlist is another one by now")
    # Whatever `v` says: it names the container's version, and a playlist also follows from the server's.
    headers = {"Cache-Control": REVALIDATE, "ETag": f'"{text.tag}"'}
    if decision.status == 304:
        return web.Response(status=304, headers=headers)
    return web.Response(body=text.data, headers=headers | {"Content-Type": media_type})
