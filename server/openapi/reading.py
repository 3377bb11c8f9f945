"""The routes that read, and those of the server itself."""

from __future__ import annotations

from typing import Any

from harmony4.server.folder.catalogue import SORTS
from harmony4.server.openapi.parts import (
    DOWNLOAD,
    HEADER,
    MASKED,
    NAME,
    NATURAL,
    PROOF,
    TEXT,
    TIME,
    TIME_HEADERS,
    TITLES,
    TRACK,
    TRACKS,
    VERSION,
    answer,
    both,
    file,
    json_of,
    operation,
    path,
    playlist,
    problems,
    query,
    request_header,
)
from harmony4.server.players.dash import MEDIA_TYPE as DASH
from harmony4.server.players.hls import MEDIA_TYPE as HLS

__all__ = ["paths"]


def paths() -> dict[str, Any]:
    """Path -> path item."""
    return {
        "/video/range": both(
            "range",
            "A track's stream or the blocks of a time, whole or ranges of it",
            [NAME, TRACK, *TIME, MASKED, VERSION, DOWNLOAD],
            TIME_HEADERS,
            "403",
            "409",
        ),
        "/video/range/{track}.{ext}": both(
            "range_named",
            "The same under a path that ends in the media's true extension",
            [path("track", NATURAL), path("ext", TEXT), NAME, *TIME, MASKED, VERSION, DOWNLOAD],
            TIME_HEADERS,
            "403",
            "409",
        ),
        "/container": both(
            "container",
            "The sealed file itself, whole or ranges of it",
            [NAME, VERSION, DOWNLOAD],
            {},
        ),
        "/video/seek": {
            "get": operation(
                "seek",
                "The keyframe at or before a time, or before each of several",
                [
                    NAME,
                    query(
                        "pts",
                        "Microseconds; several with commas between them",
                        {"type": "string", "pattern": "^[0-9]{1,19}(,[0-9]{1,19})*$"},
                        True,
                    ),
                    TRACKS,
                    PROOF,
                    MASKED,
                    VERSION,
                    request_header("If-None-Match"),
                    request_header("If-Match"),
                ],
                {
                    "200": answer(
                        "The keyframe at or before `pts`", "Seek", "Aligned", "Seeks", "Proven", "ManyProven"
                    ),
                    "304": {"description": TITLES["304"]},
                    **problems("400", "404", "410", "412", "413", "500", "503"),
                },
            ),
            "post": operation(
                "seek_many",
                "The keyframes at or before up to 10 000 times, in the order asked",
                [NAME, TRACKS, MASKED, PROOF, VERSION],
                {
                    "200": answer("The keyframes", "Seeks", "ManyProven"),
                    **problems("400", "404", "408", "410", "413", "415", "500", "503"),
                },
            )
            | {"requestBody": {"required": True, "content": json_of("Targets")}},
        },
        "/video/proof": {
            "get": operation(
                "proof",
                "The proof of the blocks that a byte range is in",
                [
                    NAME,
                    TRACK,
                    query(
                        "range",
                        "Bytes of the track's stream, as the header Range has them",
                        {"type": "string", "pattern": "^bytes=[0-9]{1,19}-[0-9]{0,19}$"},
                        True,
                    ),
                    VERSION,
                    request_header("If-None-Match"),
                    request_header("If-Match"),
                ],
                {
                    "200": answer("The proof", "Proof"),
                    "304": {"description": TITLES["304"]},
                    **problems("400", "404", "410", "412", "413", "500", "503"),
                },
            )
        },
        "/video/keyframes": {
            "get": operation(
                "keyframes",
                "A track's keyframes, as two columns",
                [
                    NAME,
                    TRACK,
                    query("start", "Number of the first one", NATURAL),
                    query(
                        "limit",
                        "How many at most",
                        {"type": "integer", "minimum": 1, "maximum": 100_000},
                    ),
                    VERSION,
                ],
                {
                    "200": answer("The keyframes", "Keyframes"),
                    **problems("400", "404", "410", "500", "503"),
                },
            )
        },
        "/video/info": {
            "get": operation(
                "info",
                "Structure, tracks, metadata and integrity state",
                [NAME, MASKED, VERSION],
                {"200": answer("The facts", "Info"), **problems("400", "404", "410", "500", "503")},
            )
        },
        "/video/hls": playlist("hls", "The HLS master playlist", HLS),
        "/video/hls/index.m3u8": playlist("hls_named", "The same under a path with its extension", HLS),
        "/video/hls/{track}.m3u8": playlist(
            "hls_track", "A track's HLS playlist: byte ranges of its stream", HLS, path("track", NATURAL)
        ),
        "/video/dash": playlist("dash", "The DASH manifest", DASH),
        "/video/dash/manifest.mpd": playlist("dash_named", "The same under a path with its extension", DASH),
        "/media": {
            "get": operation(
                "media",
                "The library, page by page",
                [
                    query("cursor", "`next` of an earlier answer", {"type": "string"}),
                    query("limit", "Items a page", {"type": "integer", "minimum": 1, "maximum": 1000}),
                    query("q", "Text to find in names, in any case", {"type": "string"}),
                    query(
                        "sort",
                        "Order; with - in reverse",
                        {"enum": [m + s for s in SORTS for m in ("", "-")]},
                    ),
                    MASKED,
                ],
                {"200": answer("A page of the library", "Media"), **problems("400")},
            ),
        },
        "/health": {
            "get": operation("health", "The process answers", [], {"200": answer("It does", "Status")})
        },
        "/metrics": {
            "get": operation(
                "metrics",
                "Numbers of all workers, for Prometheus",
                [],
                {
                    "200": {
                        "description": "Text of Prometheus, or OpenMetrics for who accepts it",
                        "content": {"text/plain": {}, "application/openmetrics-text": {}},
                    }
                },
            )
        },
        "/ready": {
            "get": operation(
                "ready",
                "The library can be read",
                [],
                {"200": answer("It can", "Status"), **problems("503")},
            )
        },
        "/session": {
            "get": operation(
                "session",
                "The server's mode, and what the caller may do",
                [],
                {"200": answer("What the caller may do", "Session"), **problems("401", "429")},
            ),
            "post": operation(
                "sign_in",
                "A cookie for whoever shows a token",
                [],
                {
                    "200": answer("What the caller may do", "Session") | {"headers": {"Set-Cookie": HEADER}},
                    **problems("401", "403", "429"),
                },
            ),
            "delete": operation(
                "sign_out",
                "Take the cookie away",
                [],
                {"204": {"description": "It is gone"}, **problems("403")},
            ),
        },
        "/": {"get": file("page", "The page", "text/html", [])},
        "/static/{file}": {"get": file("static", "A file of the page", "*/*", [path("file", TEXT)])},
        "/openapi.json": {"get": file("openapi", "This description", "application/json", [])},
    }
