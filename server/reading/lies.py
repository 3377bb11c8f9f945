"""`/demo/lies`: a track's stream with one bit wrong, so that people can see who notices.

The route is there only in the application that `harmony4 demo` makes for a loopback address: no setting,
variable, header or query of any other server leads to it. It keeps no state, so nobody's lie is anybody
else's, and it is an address of its own, whose answers have no validator and may be kept nowhere: what is
known of `/video/range`, here, in proxies and in browsers, stays true.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from harmony4.h4mk import H4MKReader
from harmony4.server.keys import LIBRARY
from harmony4.server.query import asked_track, container_name
from harmony4.server.reading import payload
from harmony4.server.reading.resource import Resource, stream_resource

__all__ = ["ROUTE", "get_lies", "lying_resource", "routes", "wrong_byte"]

ROUTE = "/demo/lies"


def routes() -> list[web.RouteDef]:
    """The route of this module, for a server that is a demonstration."""
    return [web.get(ROUTE, get_lies)]


async def get_lies(request: web.Request) -> web.StreamResponse:
    """A track's stored stream with one bit wrong, whole or a range: 200, 206, 404, 416."""
    with await request.app[LIBRARY].open(container_name(request)) as container:
        track = asked_track(request, container.reader)
        return await payload.respond(request, lying_resource(stream_resource(container, track), track))


def lying_resource(resource: Resource, track: int) -> Resource:
    """What `resource` has, stored bytes of a track, with one bit wrong, and no word that would tell."""
    reader = resource.container.reader

    def read(start: int, length: int) -> memoryview:
        out = bytearray(reader.read(start, length, track))
        place = wrong_byte(reader, track) - start
        if 0 <= place < len(out):
            out[place] ^= 1
        return memoryview(out)

    def fill(start: int, out: memoryview) -> int:
        piece = read(start, len(out))
        out[: len(piece)] = piece
        return len(piece)

    return replace(
        resource,
        etag=None,
        digest=None,
        versions=(),
        checked=lambda start, length: iter([read(start, length)]),
        fill=fill,
        kept=False,
    )


def wrong_byte(reader: H4MKReader, track: int) -> int:
    """Where the bit is: in the middle of the block in the middle of a track's stream, which is not empty."""
    rmap = reader.range_map(track)
    entry = rmap[len(rmap) // 2]
    return entry.offset + entry.size // 2
