"""GET `/audio/stream`: spectral tokens of a container's sound, stored ones, or computed while they are read.

A client that comes back gets what follows its last token; what comes before is computed again, and not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from aiohttp import web

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import NotFoundError
from harmony4.h4mk import H4MKReader, Unmasked
from harmony4.server.exporting.spectra import stored_tokens
from harmony4.server.folder import facts
from harmony4.server.intake.admission import LOOK, Room
from harmony4.server.intake.exports import admitted
from harmony4.server.keys import CONFIG, DESK, LIBRARY, STATE, STATUS
from harmony4.server.masking.unmasking import unmasked_for
from harmony4.server.query import asked_track, container_name, integer
from harmony4.server.state import Spool
from harmony4.server.streams.forms import END, Records, chosen
from harmony4.server.streams.kept import get_kept
from harmony4.server.streams.making import Making
from harmony4.server.streams.outlet import Outlet, last_position
from harmony4.server.streams.work import SoundAsked, SoundWork, StoredSound, Work, parse_sound
from harmony4.tokenize.audio import AudioToken

__all__ = ["routes"]

_WHAT: Final = ("profile", "each", "stream")


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    return [web.get("/audio/stream", get_sound, allow_head=False)]


async def get_sound(request: web.Request) -> web.StreamResponse:
    """Spectral tokens of a track: 200, 204 where a client comes back that has all of them.

    Refused before the first token: 400, 403, 404, 406, 422, 429, 503; 404 as well for a track with a hole.
    """
    if "job" in request.query:
        return await get_kept(request)
    name = container_name(request)
    form = chosen(request.headers.getall("Accept", []))
    fields = {key: value for key, value in request.query.items() if key in _WHAT}
    asked, start, last = parse_sound(fields), integer(request, "from"), last_position(request)
    with await request.app[LIBRARY].open(name) as container:
        reader = container.reader
        track = asked_track(request, reader) if "track" in request.query else _sounding(reader)
        unmasked = await unmasked_for(request, container) if reader.tracks[track].info.masked else None
        plain = "track" not in request.query and asked.stream is None and not asked.each
        stored = stored_tokens(reader, asked.profile) if plain else None
        seal = _seal(reader, asked)
        replaced = last is not None and (last.seal, last.track) != (seal, track)
        if last is not None and not replaced and last.index == END:
            return web.Response(status=204, headers={"Cache-Control": "no-cache"})
        if request.app[STATUS].stopping and form is not Records:
            # After a 503 an EventSource would never come back.
            async with Outlet(request, form(seal, track)) as outlet:
                await outlet.write(outlet.form.begin())
                await outlet.say_goodbye()
            return outlet.response
        after = -1 if last is None or replaced else last.index

        def wanted(number: int, token: AudioToken) -> bool:
            # Tokens have the times of the source's own clock.
            return number > after and (start is None or token.end - reader.trak.origin > start)

        about = {"name": name, "track": track, "media_type": reader.tracks[track].info.media_type}

        async def answer(work: Work[AudioToken], folder: Path) -> web.StreamResponse:
            making = Making(
                request,
                form(seal, track),
                work,
                folder,
                about=about | {"stored": stored is not None},
                wanted=wanted,
                replaced=replaced,
                resumable=True,
            )
            making.patient = True
            return await making.run(_pieces(unmasked or reader, track, request.app[DESK].room))

        config = request.app[CONFIG]
        if stored is not None:  # nothing is computed, and nothing written
            return await answer(StoredSound(config, reader, stored), request.app[STATE].path)
        await asyncio.to_thread(_check_holes, reader, track)
        async with admitted(request, None, "listeners"):
            spool = await asyncio.to_thread(Spool, request.app[STATE])
            try:
                return await answer(SoundWork(config, asked, spool.path), spool.path)
            finally:
                await asyncio.to_thread(spool.close)


def _sounding(reader: H4MKReader) -> int:
    """The first track with sound; else the first one, which may have it beside its pictures."""
    kinds = [track.info.kind for track in reader.tracks]
    facts.check_track(reader, 0)
    return kinds.index("audio") if "audio" in kinds else 0


def _check_holes(reader: H4MKReader, track: int) -> None:
    """Raise NotFoundError where bytes of a track are lost, wherever they are: all of it is decoded.

    A decoder would take what stands around a hole for one piece, and whatever follows would have another time
    (H4MK 18.5). An end that is missing moves nothing.
    """
    for start, stop in reader.byte_holes(track):
        raise NotFoundError(f"bytes {start} to {stop - 1} of track {track} are lost")


def _seal(reader: H4MKReader, asked: SoundAsked) -> str:
    """Eight digits for the container and what was asked of it: an index counts in these tokens alone."""
    head = reader.head or b""
    what = f"{asked.profile} {asked.each:d} {asked.stream}".encode()
    return sha256(b"h4mk spectrum\0" + what + b"\0" + head)[:4].hex()


async def _pieces(source: H4MKReader | Unmasked, track: int, room: Room) -> AsyncIterator[bytes]:
    """The track's stream, block by block, each checked; unmasked where it has to be."""
    payloads, read, looked = _payloads(source, track), 0, 0
    while (payload := await asyncio.to_thread(next, payloads, None)) is not None:
        read += len(payload)
        if read - looked >= LOOK:
            looked = read  # all of it may have to be spooled
            await asyncio.to_thread(room.check, roughly=True)
        yield payload


def _payloads(source: H4MKReader | Unmasked, track: int) -> Iterator[bytes]:
    if isinstance(source, H4MKReader):
        for block in source.blocks(track):
            yield block.payload
    else:
        for _, payload in source.blocks(track):
            yield bytes(payload)
