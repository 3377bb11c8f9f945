"""`/video/proof`, and `/video/seek` with `proof=1`: answers that need no trust in the server."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Final

from aiohttp import web

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import NotFoundError, UsageError
from harmony4.h4mk.proofs.proof import Proof
from harmony4.server.errors import Problem
from harmony4.server.folder import facts
from harmony4.server.folder.facts import SeekCard
from harmony4.server.folder.library import Container
from harmony4.server.keys import LIBRARY
from harmony4.server.query import REVALIDATE, asked_track, cache_control, container_name, natural
from harmony4.server.reading.ranges import Representation, decide

__all__ = ["asked_proof", "get_proof", "proof_answer", "proven_seek", "routes"]

_RANGE: Final = re.compile(r"bytes=([0-9]{1,19})-([0-9]{0,19})", re.ASCII)


def routes() -> list[web.RouteDef]:
    """The routes of this module."""
    return [web.get("/video/proof", get_proof)]


def asked_proof(request: web.Request) -> bool:
    """Whether a request asks for a proof of its answer. Raises UsageError."""
    value = request.query.get("proof", "0")
    if value not in ("0", "1"):
        raise UsageError("proof is not valid", expected="0 or 1", found=value[:40])
    return value == "1"


async def get_proof(request: web.Request) -> web.Response:
    """The proof of the blocks that a byte range of a track's stream is in: 200, 400, 404, 410, 413."""
    name = container_name(request)
    start, stop = _range(request)
    with await request.app[LIBRARY].open(name) as container:
        track = asked_track(request, container.reader)
        cache_control(request, container.reader.etag(track))

        def find() -> bytes:
            # Without an end: to that of the stream, or what shows that it ends before.
            end = max(container.reader.stream_size(track), start + 1) if stop is None else stop
            return container.prover().range(start, end, track).pack()

        return proof_answer(request, await asyncio.to_thread(find))


def proof_answer(request: web.Request, data: bytes) -> web.Response:
    """A proof as it is sent, or 304. Whatever `v` says it is asked for again each time: a container that is
    signed once more is the same container, and its proofs are other ones. Raises Problem (412).
    """
    tag = sha256(data).hex()
    decision = decide("HEAD", request.headers, Representation(len(data), tag))
    if decision.status == 412:
        raise Problem("precondition", "the proof is another one by now")
    headers = {"Cache-Control": REVALIDATE, "ETag": f'"{tag}"'}
    if decision.status == 304:
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, headers=headers | {"Content-Type": "application/json; charset=utf-8"})


def _range(request: web.Request) -> tuple[int, int | None]:
    """First byte, and the one behind the last. Raises UsageError."""
    text = request.query.get("range")
    match = _RANGE.fullmatch(text or "")
    if text is None or match is None:
        found = None if text is None else text[:40]
        raise UsageError(
            "range is missing or not valid", expected="bytes=FIRST-LAST or bytes=FIRST-", found=found
        )
    start = natural("range", match[1])
    stop = natural("range", match[2]) + 1 if match[2] else None
    if stop is not None and stop <= start:
        raise UsageError("range is not valid", expected="LAST >= FIRST", found=text)
    return start, stop


def proven_seek(container: Container, track: int, targets: list[int], card: SeekCard, *, many: bool) -> str:
    """The answers to one time or several with one proof of all of them, as JSON text.

    Where no keyframe is that early, the proof says so. Raises NotFoundError, LimitError, SealError and its
    kin.
    """
    proof = _json(container.prover().seek(targets, track)) if targets else "null"
    results = []
    for pts in targets:
        try:
            results.append(facts.seek_text(container.reader, pts, card))
        except NotFoundError as error:
            results.append(facts.seek_miss(pts, error))
    if not many:
        return f'{results[0][:-1]}, "proof": {proof}}}'
    return f'{{"results": [{", ".join(results)}], "proof": {proof}}}'


def _json(proof: Proof) -> str:
    return json.dumps(json.loads(proof.pack()))
