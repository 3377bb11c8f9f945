"""`/openapi.json`: the description of the routes (OpenAPI 3.1). A test holds it against the application's
routes."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from harmony4.server.catalogue import SORTS
from harmony4.server.errors import PROBLEM_TYPE, PROBLEMS

__all__ = ["document", "routes"]

_TITLES: Final = {
    "304": "What the client has is still right",
    "400": "The request is not valid",
    "404": "No such container, track or keyframe",
    "410": "`v` names a version that is gone",
    "412": "A precondition does not hold",
    "416": "No byte of the range exists",
    "500": "The container is damaged",
    "503": "The container cannot be read at the moment, or the server stops",
}


def routes() -> list[web.RouteDef]:
    """The route of this module."""
    data = json.dumps(document(), indent=1).encode("ascii")

    async def get_document(request: web.Request) -> web.Response:
        return web.Response(
            body=data, headers={"Content-Type": "application/json", "Cache-Control": "no-cache"}
        )

    return [web.get("/openapi.json", get_document)]


def document() -> dict[str, Any]:
    """The description as a JSON value."""
    seek = _answer("The keyframe at or before `pts`", "Seek")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HarmonyØ4",
            "version": "1",
            "description": "H4MK containers over HTTP: byte ranges, seeking, facts. Times are microseconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/video/range": _both(
                "range", "A track's stream, whole or ranges of it", [_NAME, _TRACK, _VERSION, _DOWNLOAD]
            ),
            "/video/range/{track}.{ext}": _both(
                "range_named",
                "The same under a path that ends in the media's true extension",
                [_path("track", "integer"), _path("ext", "string"), _NAME, _VERSION, _DOWNLOAD],
            ),
            "/video/seek": {
                "get": _operation(
                    "seek",
                    "The keyframe at or before a time",
                    [
                        _NAME,
                        _query("pts", "Microseconds", {"type": "integer", "minimum": 0}, True),
                        _TRACK,
                        _VERSION,
                    ],
                    {"200": seek, **_problems("400", "404", "410", "500", "503")},
                )
            },
            "/video/keyframes": {
                "get": _operation(
                    "keyframes",
                    "A track's keyframes, as two columns",
                    [
                        _NAME,
                        _TRACK,
                        _query("start", "Number of the first one", {"type": "integer", "minimum": 0}),
                        _query(
                            "limit", "How many at most", {"type": "integer", "minimum": 1, "maximum": 100_000}
                        ),
                        _VERSION,
                    ],
                    {
                        "200": _answer("The keyframes", "Keyframes"),
                        **_problems("400", "404", "410", "500", "503"),
                    },
                )
            },
            "/video/info": {
                "get": _operation(
                    "info",
                    "Structure, tracks, metadata and integrity state",
                    [_NAME, _VERSION],
                    {"200": _answer("The facts", "Info"), **_problems("400", "404", "410", "500", "503")},
                )
            },
            "/media": {
                "get": _operation(
                    "media",
                    "The library, page by page",
                    [
                        _query("cursor", "`next` of an earlier answer", {"type": "string"}),
                        _query("limit", "Items a page", {"type": "integer", "minimum": 1, "maximum": 1000}),
                        _query("q", "Text to find in names, in any case", {"type": "string"}),
                        _query(
                            "sort",
                            "Order; with - in reverse",
                            {"enum": [m + s for s in SORTS for m in ("", "-")]},
                        ),
                    ],
                    {"200": _answer("A page of the library", "Media"), **_problems("400")},
                )
            },
            "/health": {
                "get": _operation("health", "The process answers", [], {"200": _answer("It does", "Status")})
            },
            "/ready": {
                "get": _operation(
                    "ready",
                    "The library can be read",
                    [],
                    {"200": _answer("It can", "Status"), **_problems("503")},
                )
            },
            "/": {"get": _file("page", "The page", "text/html", [])},
            "/static/{file}": {
                "get": _file("static", "A file of the page", "*/*", [_path("file", "string")])
            },
            "/openapi.json": {"get": _file("openapi", "This description", "application/json", [])},
        },
        "components": {"schemas": _SCHEMAS},
    }


def _operation(name: str, summary: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "parameters": parameters, "responses": responses}


def _both(name: str, summary: str, parameters: list[Any]) -> dict[str, Any]:
    """GET and HEAD of a stream."""
    answers: dict[str, Any] = {
        "200": {"description": "The whole stream", "headers": _STREAM_HEADERS, "content": _BYTES},
        "206": {
            "description": "One range; several as multipart/byteranges, with Content-Range in each part",
            "headers": {**_STREAM_HEADERS, "Content-Range": _HEADER},
            "content": {**_BYTES, "multipart/byteranges": {}},
        },
        "304": {"description": _TITLES["304"]},
        **_problems("400", "404", "410", "412", "416", "500", "503"),
    }
    ranges = [_request_header(one) for one in ("Range", "If-Range", "Want-Content-Digest")]
    conditions = [_request_header("If-None-Match"), _request_header("If-Match")]
    # Range is defined for GET only (RFC 9110 §14.2), and a HEAD has no content to digest.
    head = {
        code: {"description": one["description"]}
        for code, one in answers.items()
        if code not in ("206", "416")
    }
    return {
        "get": _operation(name, summary, parameters + ranges + conditions, answers),
        "head": _operation(f"{name}_head", f"{summary}: the headers alone", parameters + conditions, head),
    }


def _query(name: str, text: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "required": required, "schema": schema}


def _path(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}


def _request_header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}


def _answer(text: str, schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": text, "content": {"application/json": {"schema": reference}}}


def _problems(*codes: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": _TITLES[code], "content": content} for code in codes}


def _file(name: str, summary: str, kind: str, parameters: list[Any]) -> dict[str, Any]:
    answers = {"200": {"description": summary, "content": {kind: {}}}}
    return _operation(name, summary, parameters, answers | (_problems("404") if parameters else {}))


_NAME: Final = _query("name", "Path of the container below the library", {"type": "string"}, True)
_TRACK: Final = _query("track", "Number of the track", {"type": "integer", "minimum": 0, "default": 0})
_VERSION: Final = _query(
    "v", "First 16 digits of the ETag: the answer may be kept for ever", {"type": "string"}
)
_DOWNLOAD: Final = _query("download", "1: the answer is to be saved as a file", {"enum": ["0", "1"]})
_HEADER: Final = {"schema": {"type": "string"}}
_STREAM_HEADERS: Final = dict.fromkeys(
    (
        "Accept-Ranges",
        "ETag",
        "Last-Modified",
        "Cache-Control",
        "Content-Disposition",
        "Repr-Digest",
        "Content-Digest",
    ),
    _HEADER,
)
_BYTES: Final[dict[str, Any]] = {"*/*": {}}

_INT: Final = {"type": ["integer", "string"], "description": "A decimal string beyond 2^53 - 1"}
_TEXT: Final = {"type": "string"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


_SCHEMAS: Final = {
    "Problem": _object(
        {
            "type": {"enum": [f"urn:harmony4:problem:{code}" for code in PROBLEMS]},
            "title": _TEXT,
            "status": {"type": "integer"},
        },
        detail=_TEXT,
        where={"type": "integer"},
        expected=_TEXT,
        found=_TEXT,
    ),
    "Seek": _object(
        {
            "track": {"type": "integer"},
            "asked": _INT,
            "pts": _INT,
            "offset": _INT,
            "block_index": {"type": ["integer", "null"]},
            "next_pts": {"type": ["integer", "string", "null"]},
            "size": _INT,
            "header_ranges": {"type": "array", "items": {"type": "array", "items": _INT}},
            "range_url": _TEXT,
        }
    ),
    "Keyframes": _object(
        {
            "track": {"type": "integer"},
            "count": {"type": "integer"},
            "start": {"type": "integer"},
            "pts": {"type": "array", "items": _INT},
            "offset": {"type": "array", "items": _INT},
        }
    ),
    "Info": _object(
        {
            "name": _TEXT,
            "state": {"enum": ["sealed", "incomplete", "original"]},
            "size": _INT,
            "duration": _INT,
            "blocks": {"type": "integer"},
            "tracks": {"type": "array", "items": {"type": "object"}},
        }
    ),
    "Media": _object(
        {
            "items": {
                "type": "array",
                "items": _object({"name": {"type": ["string", "null"]}, "size": {"type": "integer"}}),
            },
            "next": {"type": ["string", "null"]},
        }
    ),
    "Status": _object({"status": _TEXT}),
}
