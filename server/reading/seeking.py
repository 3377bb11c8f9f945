"""`/video/seek`: the keyframe at or before a time, or before each of many; in one track or in all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiohttp import web

from harmony4.crypto.errors import LimitError, NotFoundError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.source import NotResidentError, impatient
from harmony4.server.errors import Problem
from harmony4.server.folder import facts
from harmony4.server.folder.facts import SeekCard
from harmony4.server.folder.library import Container
from harmony4.server.keys import CONFIG, GUARD, LIBRARY
from harmony4.server.masking.unmasking import shows_unmasked
from harmony4.server.query import (
    REVALIDATE,
    asked_track,
    cache_control,
    container_name,
    json_text,
    natural,
)
from harmony4.server.reading.express import offer_seek
from harmony4.server.reading.proving import asked_proof, proof_answer, proven_seek

__all__ = ["MAX_TARGETS", "get_seek", "parse_targets", "post_seek", "routes"]

MAX_TARGETS: Final = 10_000
"""Most times in one request."""
_MAX_BODY: Final = 2**18
"""Longest body, bytes: so many times of 19 digits, quoted, with a comma and a line break."""
_FEW: Final = 32
"""So many answers are found on the event loop: a thread would take longer."""
_ALL: Final = "*"
"""The `track` that means all of them."""
_BODY: Final = '{"pts": [MICROSECONDS, …]}'


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/video/seek", get_seek), web.post("/video/seek", post_seek)]


async def get_seek(request: web.Request) -> web.Response:
    """The keyframe at or before `pts`: 200, 404 where there is none. For `pts=1,2,3` a list of answers."""
    name = container_name(request)
    text = request.query.get("pts")
    if text is None:
        raise UsageError("pts is missing", expected="microseconds")
    # A target is two characters at least, so no request line holds more than a batch may have.
    targets = [natural("pts", one) for one in text.split(",")]
    with await request.app[LIBRARY].open(name) as container:
        if asked_proof(request):
            return await _proven(request, container, targets, many=len(targets) > 1)
        if request.query.get("track") == _ALL:
            cache = _cache(request, container, 0)
            return json_text(await _aligned(request, container, targets), cache)
        track = asked_track(request, container.reader)
        cache = _cache(request, container, track)
        answer = _one if len(targets) == 1 else _many
        own = _addressing(request)
        unmasked = shows_unmasked(request, container)
        found = None
        # Without a card the header blocks are still to be looked up.
        if len(targets) <= _FEW and (track, unmasked) in container.cards:
            with suppress(NotResidentError), impatient():
                found = answer(container.reader, targets, own(container.card(track, unmasked=unmasked)))
        if found is None:
            card = await asyncio.to_thread(partial(container.card, track, unmasked=unmasked))
            found = await asyncio.to_thread(answer, container.reader, targets, own(card))
        if len(targets) == 1:
            offer_seek(request, container, container.card(track, unmasked=unmasked))
        return json_text(found, cache)


async def post_seek(request: web.Request) -> web.Response:
    """The same for up to 10 000 times in a JSON body: 200, 400, 404, 408, 410, 413, 415."""
    name = container_name(request)
    data = await _body(request)
    targets = await asyncio.to_thread(parse_targets, data)
    with await request.app[LIBRARY].open(name) as container:
        if asked_proof(request):
            return await _proven(request, container, targets, many=True)
        if request.query.get("track") == _ALL:
            _cache(request, container, 0)
            return json_text(await _aligned(request, container, targets, many=True), "no-store")
        track = asked_track(request, container.reader)
        _cache(request, container, track)
        own, unmasked = _addressing(request), shows_unmasked(request, container)
        card = await asyncio.to_thread(partial(container.card, track, unmasked=unmasked))
        return json_text(await asyncio.to_thread(_many, container.reader, targets, own(card)), "no-store")


def _cache(request: web.Request, container: Container, track: int) -> str:
    """How long an answer may be kept: where media are masked the address in it depends on the caller and the
    keys that are here. Raises as `cache_control` does.
    """
    cache = cache_control(request, *facts.etags(container.reader, track))
    return cache if container.reader.trak.mask is None else REVALIDATE


def parse_targets(data: bytes) -> list[int]:
    """The times in a body, µs; those beyond 2^53 may be decimal strings, as in answers.

    Strict JSON: no fractions, no other member, none twice. Raises UsageError, LimitError.
    """
    try:
        # Counted first, for a body of nothing but brackets would be a deep one.
        if data.count(b"{") != 1 or data.count(b"[") != 1:
            raise ValueError
        (key, values), *more = json.loads(data.decode(), object_pairs_hook=list, parse_float=_no_float)
        if key != "pts" or more or not isinstance(values, list):
            raise ValueError
    except (ValueError, TypeError):
        raise UsageError("the body is not valid", expected=_BODY) from None
    if len(values) > MAX_TARGETS:
        raise LimitError("too many times in one request", expected=f"<= {MAX_TARGETS}", found=len(values))
    return [natural("pts", _digits(value)) for value in values]


def _digits(value: object) -> str:
    # type(): true and false are integers to isinstance.
    return str(value) if type(value) in (int, str) else json.dumps(value)


def _no_float(text: str) -> Any:
    raise ValueError


async def _body(request: web.Request) -> bytes:
    """The body of a JSON request. Raises Problem (415), LimitError, HTTPRequestTimeout."""
    plain = request.headers.get("Content-Encoding", "identity").lower() == "identity"
    utf8 = (request.charset or "utf-8").lower() in ("utf-8", "utf8")
    if request.content_type != "application/json" or not plain or not utf8:
        raise Problem(
            "content-type", f"expected application/json: {_BODY}", headers={"Accept": "application/json"}
        )
    data = bytearray()
    try:
        async with asyncio.timeout(request.app[CONFIG].write_timeout):
            if (request.content_length or 0) <= _MAX_BODY:
                async for piece in request.content.iter_any():
                    data += piece
                    if len(data) > _MAX_BODY:
                        break
                else:
                    return bytes(data)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    raise LimitError("the body is too long", expected=f"<= {_MAX_BODY} bytes")


_Card = Callable[[SeekCard], SeekCard]


def _addressing(request: web.Request) -> _Card:
    """What makes a container's card that of this request: the address in it inherits its signature.

    The card that all requests share stays as it is.
    """
    guard = request.app[GUARD]

    def readdress(card: SeekCard) -> SeekCard:
        url = guard.inherited(request, card.range_url)
        return card if url is card.range_url else facts.readdressed(card, url)

    return readdress


async def _aligned(
    request: web.Request, container: Container, targets: list[int], *, many: bool = False
) -> str:
    """The answers of all tracks as JSON text, found in a thread; `many`: a list even for one time."""
    tracks, unmasked = len(container.reader.tracks), shows_unmasked(request, container)
    if len(targets) > max(1, MAX_TARGETS // tracks):
        raise LimitError(
            "too many times for so many tracks in one request",
            expected=f"<= {max(1, MAX_TARGETS // tracks)}",
            found=len(targets),
        )
    own = _addressing(request)

    def find() -> str:
        cards = [own(container.card(track, unmasked=unmasked)) for track in range(tracks)]
        if len(targets) == 1 and not many:
            return facts.aligned_text(container.reader, targets[0], cards)
        results = []
        for pts in targets:
            try:
                results.append(facts.aligned_text(container.reader, pts, cards))
            except NotFoundError as error:
                results.append(facts.seek_miss(pts, error))
        return f'{{"results": [{", ".join(results)}]}}'

    return await asyncio.to_thread(find)


async def _proven(
    request: web.Request, container: Container, targets: list[int], *, many: bool
) -> web.Response:
    """The answers of one track, and a proof of all of them, found in a thread."""
    if request.query.get("track") == _ALL:
        raise UsageError("a proof is of one track", expected="track=0, 1, …")
    track = asked_track(request, container.reader)
    _cache(request, container, track)
    own, unmasked = _addressing(request), shows_unmasked(request, container)

    def find() -> str:
        card = own(container.card(track, unmasked=unmasked))
        return proven_seek(container, track, targets, card, many=many)

    text = await asyncio.to_thread(find)
    return json_text(text, "no-store") if request.method == "POST" else proof_answer(request, text.encode())


def _one(reader: H4MKReader, targets: list[int], card: SeekCard) -> str:
    return facts.seek_text(reader, targets[0], card)


def _many(reader: H4MKReader, targets: list[int], card: SeekCard) -> str:
    """The answers in the order asked, as JSON text; whatever has none says so in its place."""
    results = []
    for pts in targets:
        try:
            results.append(facts.seek_text(reader, pts, card))
        except NotFoundError as error:
            results.append(facts.seek_miss(pts, error))
    return f'{{"results": [{", ".join(results)}]}}'
