"""The blocks of a time as a resource of its own: `/video/range?name=&pts=&end_pts=&init=` (docs/API.md).

Whatever times are asked for, the answer is a run of whole groups, so many questions have one answer. It has
one canonical address, which `Content-Location` names: the times of the access points it was resolved to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from aiohttp import web

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import UsageError
from harmony4.h4mk import TimeRange, Unmasked
from harmony4.server.errors import Problem
from harmony4.server.folder import facts
from harmony4.server.folder.library import Container
from harmony4.server.keys import GUARD
from harmony4.server.query import integer
from harmony4.server.reading.resource import Fill, Resource, in_memory

__all__ = ["AskedTime", "asked_time", "name_time", "time_etag", "timed_resource"]

_HEADERS: Final = web.RequestKey("time_headers", dict[str, str])
_KNOWN: Final = 1024
"""Answers remembered for an open container: players come back to one address with many ranges."""


@dataclass(frozen=True, slots=True)
class AskedTime:
    """What a request asks for, µs."""

    pts: int
    end_pts: int | None
    """None: to the end of the stream."""
    init: bool
    """Whether the header bytes come first."""


def asked_time(request: web.Request) -> AskedTime | None:
    """The time in the query; None where none is given. Raises UsageError."""
    query = request.query
    pts, end_pts, init = integer(request, "pts"), integer(request, "end_pts"), query.get("init")
    if pts is None:
        if end_pts is not None or init is not None:
            raise UsageError("pts is missing", expected="microseconds, where end_pts or init is given")
        return None
    if end_pts is not None and end_pts <= pts:
        raise UsageError("end_pts is not valid", expected=f"> {pts}", found=end_pts)
    if init not in (None, "0", "1"):
        raise UsageError("init is not valid", expected="0 or 1", found=init[:40])
    return AskedTime(pts, end_pts, init == "1")


async def timed_resource(
    request: web.Request,
    container: Container,
    track: int,
    asked: AskedTime,
    unmasked: Unmasked | None = None,
) -> Resource:
    """The blocks that show a time, as they are stored or `unmasked`. The answer to `request` will name them
    (see `name_time`).

    Raises Problem (409) where the track's blocks do not decode alone, NotFoundError where nothing shows the
    time, FormatError and its kin.
    """
    reader = container.reader
    info = reader.tracks[track].info
    # The original implementation did not say; whoever reads its files knows what they hold.
    if not info.self_framing and reader.state != "original":
        raise Problem(
            "self-framing",
            "the blocks of this track do not decode alone, not even behind its first bytes: read the whole "
            "by byte ranges, which players can seek in, or export the media as fragmented MP4, WebM or TS",
        )
    found = container.times.get((track, asked.pts, asked.end_pts))
    if found is None:
        # In a thread: tokens are read from the file.
        found = await asyncio.to_thread(reader.time_range, asked.pts, asked.end_pts, track)
        container.times[track, asked.pts, asked.end_pts] = found
        if len(container.times) > _KNOWN:
            del container.times[next(iter(container.times))]
    init = asked.init and bool(found.header_ranges)
    headers = _headers(container.card(track, unmasked=unmasked is not None).range_url, found, init)
    headers["Content-Location"] = request.app[GUARD].inherited(request, headers["Content-Location"])
    request[_HEADERS] = headers
    segments = [*(found.header_ranges if init else ()), (found.start, found.stop - found.start)]
    return Resource(
        container,
        sum(size for _, size in segments),
        time_etag(reader.etag(track, unmasked=unmasked is not None), found, init),
        facts.content_type(info.media_type),
        lambda start, length: chain.from_iterable(
            [reader.extents(*run, track) for run in _runs(segments, start, length)]
        ),
        in_memory(container, track),
        checked=lambda start, length: chain.from_iterable(
            (unmasked.pieces if unmasked else reader.read_checked)(*run, track)
            for run in _runs(segments, start, length)
        ),
        extension=facts.extension(info.media_type),
        fill=None if unmasked is None else _filling(unmasked, segments, track),
        versions=facts.etags(reader, track),
    )


async def name_time(request: web.Request, response: web.StreamResponse) -> None:
    """Say in an answer which bytes these are; a signal handler, for 304 has to say it as well."""
    headers = request.get(_HEADERS)
    if headers is not None and response.status < 400:
        response.headers.update(headers)


def time_etag(stream: str | None, found: TimeRange, init: bool) -> str | None:
    """The strong entity tag: 16 digits of the stream's, so that `v` is the same for both, and 16 digits for
    the bytes; None where the stream has none."""
    if stream is None:
        return None
    place = b"h4mk time\0" + found.start.to_bytes(8) + found.stop.to_bytes(8) + bytes([init])
    return stream[:16] + sha256(place)[:8].hex()


def _headers(url: str, found: TimeRange, init: bool) -> dict[str, str]:
    end = "" if found.last else f"&end_pts={found.end_pts}"
    headers = {
        "Content-Location": f"{url}&pts={found.pts}{end}{'&init=1' if init else ''}",
        "Harmony4-PTS": str(found.pts),
    }
    if found.end_pts is not None:
        headers["Harmony4-End-PTS"] = str(found.end_pts)
    return headers


def _filling(unmasked: Unmasked, segments: list[tuple[int, int]], track: int) -> Fill:
    def fill(start: int, out: memoryview) -> int:
        # Where a segment ends there are fewer bytes: the next ones come with the next call.
        offset, size = next(_runs(segments, start, len(out)))
        return unmasked.read_into(offset, out[:size], track)

    return fill


def _runs(segments: list[tuple[int, int]], start: int, length: int) -> Iterator[tuple[int, int]]:
    """The (offset, size) runs of the track's stream that hold `length` bytes of these segments, joined."""
    for offset, size in segments:
        skip = min(start, size)
        take = min(length, size - skip)
        if take:
            yield offset + skip, take
        start -= skip
        length -= take
