"""`/openapi.json`: the description of the routes (OpenAPI 3.1). A test holds it against the application's
routes."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from harmony4.server.catalogue import SORTS
from harmony4.server.errors import PROBLEM_TYPE, PROBLEMS
from harmony4.server.facts import CONTAINER_TYPE
from harmony4.server.guard.policy import needed_scope
from harmony4.server.guard.scopes import SCOPES
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.intake.tusfields import CHUNK_TYPE
from harmony4.server.seeking import MAX_TARGETS

__all__ = ["document", "routes"]

_TITLES: Final = {
    "304": "What the client has is still right",
    "400": "The request is not valid",
    "401": "A token is needed, or what was shown does not hold",
    "403": "The token does not allow this, or the page that asks is of another origin",
    "404": "No such container, track or keyframe",
    "405": "The route does not know this method",
    "408": "The body did not come in time",
    "409": "The name is taken, or the blocks of the track do not decode alone",
    "410": "`v` names a version that is gone",
    "412": "A precondition does not hold",
    "413": "More than is taken at once",
    "415": "The body is of another type",
    "422": "The media cannot be read",
    "423": "Somebody else is at the upload",
    "460": "The bytes do not have the checksum",
    "507": "There is no room for it",
    "416": "No byte of the range exists",
    "421": "The server is not called as `Host` says",
    "429": "Too many uploads at once, or too many wrong tokens, from this address; see `Retry-After`",
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
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HarmonyØ4",
            "version": "1",
            "description": "H4MK containers over HTTP: byte ranges, seeking, facts. Times are microseconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _guarded(
            _uploads()
            | {
                "/video/range": _both(
                    "range",
                    "A track's stream or the blocks of a time, whole or ranges of it",
                    [_NAME, _TRACK, *_TIME, _VERSION, _DOWNLOAD],
                    _TIME_HEADERS,
                    "409",
                ),
                "/video/range/{track}.{ext}": _both(
                    "range_named",
                    "The same under a path that ends in the media's true extension",
                    [_path("track", "integer"), _path("ext", "string"), _NAME, *_TIME, _VERSION, _DOWNLOAD],
                    _TIME_HEADERS,
                    "409",
                ),
                "/container": _both(
                    "container",
                    "The sealed file itself, whole or ranges of it",
                    [_NAME, _VERSION, _DOWNLOAD],
                    {},
                ),
                "/video/seek": {
                    "get": _operation(
                        "seek",
                        "The keyframe at or before a time, or before each of several",
                        [
                            _NAME,
                            _query(
                                "pts",
                                "Microseconds; several with commas between them",
                                {"type": "string", "pattern": "^[0-9]{1,19}(,[0-9]{1,19})*$"},
                                True,
                            ),
                            _TRACK,
                            _VERSION,
                        ],
                        {
                            "200": _answer("The keyframe at or before `pts`", "Seek", "Seeks"),
                            **_problems("400", "404", "410", "500", "503"),
                        },
                    ),
                    "post": _operation(
                        "seek_many",
                        "The keyframes at or before up to 10 000 times, in the order asked",
                        [_NAME, _TRACK, _VERSION],
                        {
                            "200": _answer("The keyframes", "Seeks"),
                            **_problems("400", "404", "408", "410", "413", "415", "500", "503"),
                        },
                    )
                    | {"requestBody": {"required": True, "content": _json("Targets")}},
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
                                "limit",
                                "How many at most",
                                {"type": "integer", "minimum": 1, "maximum": 100_000},
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
                    "delete": _operation(
                        "delete",
                        "Move a container into the trash",
                        [_NAME, _request_header("If-Match")],
                        {
                            "200": _answer("What it is called there", "Trashed"),
                            **_problems("400", "404", "412", "507"),
                        },
                    ),
                    "get": _operation(
                        "media",
                        "The library, page by page",
                        [
                            _query("cursor", "`next` of an earlier answer", {"type": "string"}),
                            _query(
                                "limit", "Items a page", {"type": "integer", "minimum": 1, "maximum": 1000}
                            ),
                            _query("q", "Text to find in names, in any case", {"type": "string"}),
                            _query(
                                "sort",
                                "Order; with - in reverse",
                                {"enum": [m + s for s in SORTS for m in ("", "-")]},
                            ),
                        ],
                        {"200": _answer("A page of the library", "Media"), **_problems("400")},
                    ),
                },
                "/health": {
                    "get": _operation(
                        "health", "The process answers", [], {"200": _answer("It does", "Status")}
                    )
                },
                "/ready": {
                    "get": _operation(
                        "ready",
                        "The library can be read",
                        [],
                        {"200": _answer("It can", "Status"), **_problems("503")},
                    )
                },
                "/session": {
                    "get": _operation(
                        "session",
                        "The server's mode, and what the caller may do",
                        [],
                        {"200": _answer("What the caller may do", "Session"), **_problems("401", "429")},
                    ),
                    "post": _operation(
                        "sign_in",
                        "A cookie for whoever shows a token",
                        [],
                        {
                            "200": _answer("What the caller may do", "Session")
                            | {"headers": {"Set-Cookie": _HEADER}},
                            **_problems("401", "403", "429"),
                        },
                    ),
                    "delete": _operation(
                        "sign_out",
                        "Take the cookie away",
                        [],
                        {"204": {"description": "It is gone"}, **_problems("403")},
                    ),
                },
                "/": {"get": _file("page", "The page", "text/html", [])},
                "/static/{file}": {
                    "get": _file("static", "A file of the page", "*/*", [_path("file", "string")])
                },
                "/openapi.json": {"get": _file("openapi", "This description", "application/json", [])},
            }
        ),
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`harmony4 token add`"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "signature": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "sig",
                    "description": "With `exp` and perhaps `ip`: `harmony4 sign-url`. For GET and HEAD",
                },
            },
        },
    }


def _operation(name: str, summary: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "parameters": parameters, "responses": responses}


def _uploads() -> dict[str, Any]:
    """What brings media in and changes the library, but for `/media` itself."""
    return {
        "/video/export": {
            "post": _operation(
                "export",
                "Media in, a container out",
                [
                    _query("name", "Path of the new container; without it the container is sent back", _TEXT),
                    *_EXPORT,
                    _query("job", "1: answer when the body has arrived, and go on", {"enum": ["0", "1"]}),
                    _request_header("If-Match"),
                ],
                {
                    "200": {"description": "The container itself", "content": {CONTAINER_TYPE: {}}},
                    "201": _answer("The container is in the library", "Exported"),
                    "202": _answer("The container will be in the library", "Job"),
                    **_problems(
                        *("400", "408", "409", "412", "413", "415", "422", "429", "500", "503", "507")
                    ),
                },
            )
            | {
                "requestBody": {
                    "required": True,
                    "content": {
                        "*/*": {},
                        "multipart/form-data": {
                            "schema": {"type": "object", "properties": {"file": {}}, "required": ["file"]}
                        },
                    },
                }
            }
        },
        "/uploads/": {
            "options": _operation("tus_options", "What the server can do of tus 1.0", [], _TUS_OPTIONS),
            "post": _operation(
                "tus_create",
                "A new upload, which becomes a container when its last byte has come (tus 1.0)",
                [
                    _request_header("Tus-Resumable", True),
                    _request_header("Upload-Length", True),
                    _request_header("Upload-Metadata", True),
                    _request_header("Upload-Checksum"),
                    _request_header("If-Match"),
                ],
                {
                    "201": _tus("Its address", "Location", *_TUS_PROGRESS),
                    **_problems(
                        *("400", "408", "409", "412", "413", "415", "429", "460", "503", "507"),
                    ),
                },
            )
            | {"requestBody": {"required": False, "content": {CHUNK_TYPE: {}}}},
        },
        "/uploads/{id}": {
            "options": _operation("tus_options_one", "The same", [_path("id", "string")], _TUS_OPTIONS),
            "head": _operation(
                "tus_head",
                "How far an upload is (tus 1.0)",
                [_path("id", "string"), _request_header("Tus-Resumable", True)],
                {
                    "200": _tus("So far", "Upload-Length", "Upload-Metadata", *_TUS_PROGRESS),
                    "404": {"description": "There is no such upload, or it has expired"},
                    "412": {"description": _TITLES["412"]},
                },
            ),
            "patch": _operation(
                "tus_patch", "Bytes at the end of an upload (tus 1.0)", _TUS_PATCH, _TUS_PATCHED
            )
            | {"requestBody": {"required": True, "content": {CHUNK_TYPE: {}}}},
            "post": _operation(
                "tus_post",
                "The same, and the others, for clients that can only POST",
                [_request_header("X-HTTP-Method-Override", True), *_TUS_PATCH],
                {**_TUS_PATCHED, **_problems("405")},
            )
            | {"requestBody": {"required": False, "content": {CHUNK_TYPE: {}}}},
            "delete": _operation(
                "tus_delete",
                "Give an upload up (tus 1.0)",
                [_path("id", "string"), _request_header("Tus-Resumable", True)],
                {"204": _tus("It is gone"), **_problems("404", "412", "423", "507")},
            ),
        },
        "/jobs": {
            "get": _operation("jobs", "Exports that are known", [], {"200": _answer("They are", "Jobs")})
        },
        "/jobs/{id}": {
            "get": _operation(
                "job",
                "How far an export is",
                [_path("id", "string")],
                {"200": _answer("What is known of it", "Job"), **_problems("404")},
            ),
            "delete": _operation(
                "cancel",
                "Cancel an export",
                [_path("id", "string")],
                {
                    "200": _answer("It has ended already", "Job"),
                    "202": _answer("It will be", "Job"),
                    **_problems("404", "507"),
                },
            ),
        },
        "/events": {"get": _file("events", "What happens, as it happens", "text/event-stream", [])},
        "/media/trash": {
            "get": _operation("trash", "What was deleted", [], {"200": _answer("The trash", "Trash")}),
            "delete": _operation(
                "purge",
                "Remove a container from the trash for good",
                [_ID],
                {"204": {"description": "It is gone"}, **_problems("400", "404", "507")},
            ),
        },
        "/media/restore": {
            "post": _operation(
                "restore",
                "Take a container out of the trash",
                [_ID, _query("to", "Another name than it had", _TEXT)],
                {"200": _answer("Its name", "Named"), **_problems("400", "404", "409", "507")},
            )
        },
        "/media/rename": {
            "post": _operation(
                "rename",
                "Give a container another name",
                [_NAME, _query("to", "The new name", _TEXT, True), _request_header("If-Match")],
                {"200": _answer("Its name", "Named"), **_problems("400", "404", "409", "412", "507")},
            )
        },
    }


def _guarded(paths: dict[str, Any]) -> dict[str, Any]:
    """The paths with what the guard adds: who may, and its problems."""
    for path, item in paths.items():
        for method, operation in item.items():
            responses = operation["responses"]
            codes = ["421"]
            scope = needed_scope(method.upper(), path)
            if scope is not None:
                # Only where the server's mode asks for it, so nothing (`{}`) may do as well.
                operation["security"] = [{}, {"token": [scope]}, {"session": [scope]}]
                operation["security"] += [{"signature": []}] if method in ("get", "head") else []
                codes += ["401", "403", "429"]
            for code in codes:
                responses.setdefault(code, _problems(code)[code])
            operation["responses"] = dict(sorted(responses.items()))
    return paths


def _both(
    name: str, summary: str, parameters: list[Any], more: dict[str, Any], *codes: str
) -> dict[str, Any]:
    """GET and HEAD of bytes; `more` headers and status codes than all of them have."""
    headers = {**_STREAM_HEADERS, **more}
    answers: dict[str, Any] = {
        "200": {"description": "The whole", "headers": headers, "content": _BYTES},
        "206": {
            "description": "One range; several as multipart/byteranges, with Content-Range in each part",
            "headers": {**headers, "Content-Range": _HEADER},
            "content": {**_BYTES, "multipart/byteranges": {}},
        },
        "304": {"description": _TITLES["304"]},
        **_problems(*sorted(("400", "404", "410", "412", "416", "500", "503", *codes))),
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


def _request_header(name: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": {"type": "string"}}


def _tus(text: str, *headers: str) -> dict[str, Any]:
    """An answer by tus: all that it says is in its headers."""
    return {"description": text, "headers": dict.fromkeys(("Tus-Resumable", *headers), _HEADER)}


def _answer(text: str, *schemas: str) -> dict[str, Any]:
    return {"description": text, "content": _json(*schemas)}


def _json(*schemas: str) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"oneOf": references}}}


def _problems(*codes: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": _TITLES[code], "content": content} for code in codes}


def _file(name: str, summary: str, kind: str, parameters: list[Any]) -> dict[str, Any]:
    answers = {"200": {"description": summary, "content": {kind: {}}}}
    return _operation(name, summary, parameters, answers | (_problems("404") if parameters else {}))


_NAME: Final = _query("name", "Path of the container below the library", {"type": "string"}, True)
_TRACK: Final = _query("track", "Number of the track", {"type": "integer", "minimum": 0, "default": 0})
_ID: Final = _query("id", "What it is called in the trash", {"type": "string"}, True)
_EXPORT: Final = [
    _query("block_size", "Greatest size of a block, such as 512KiB", {"type": "string"}),
    _query("raw", "1: do not look inside", {"enum": ["0", "1"]}),
    _query("fps_hint", "Frames per second of opaque media", {"type": "string"}),
    _query("gop", "Frames from keyframe to keyframe of opaque media", {"type": "integer", "minimum": 1}),
    _query("title", "A title, kept in the metadata", {"type": "string"}),
]
_VERSION: Final = _query(
    "v", "First 16 digits of the ETag: the answer may be kept for ever", {"type": "string"}
)
_DOWNLOAD: Final = _query("download", "1: the answer is to be saved as a file", {"enum": ["0", "1"]})
_TIME: Final = [
    _query("pts", "The blocks that show this time, microseconds", {"type": "integer", "minimum": 0}),
    _query("end_pts", "Up to this time instead of the end", {"type": "integer", "minimum": 1}),
    _query("init", "Whether the header bytes come first", {"enum": [0, 1], "default": 0}),
]
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
_TIME_HEADERS: Final = dict.fromkeys(("Content-Location", "Harmony4-PTS", "Harmony4-End-PTS"), _HEADER)
_BYTES: Final[dict[str, Any]] = {"*/*": {}}

_TUS_PROGRESS: Final = ("Upload-Offset", "Upload-Expires", "Harmony4-Job")
_TUS_OPTIONS: Final = {
    "204": _tus("In the headers", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
}
_TUS_PATCH: Final = [
    _path("id", "string"),
    _request_header("Tus-Resumable", True),
    _request_header("Upload-Offset", True),
    _request_header("Upload-Checksum"),
]
_TUS_PATCHED: Final[dict[str, Any]] = {
    "204": _tus("The bytes are there", *_TUS_PROGRESS),
    **_problems(*("400", "404", "408", "409", "412", "413", "415", "423", "429", "460", "503", "507")),
}

_INT: Final = {"type": ["integer", "string"], "description": "A decimal string beyond 2^53 - 1"}
_TEXT: Final = {"type": "string"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


_SEEK: Final = _object(
    {
        "track": {"type": "integer"},
        "asked": _INT,
        "pts": _INT,
        "offset": _INT,
        "block_index": {"type": "integer"},
        "next_pts": {"type": ["integer", "string", "null"]},
        "size": _INT,
        "header_ranges": {"type": "array", "items": {"type": "array", "items": _INT}},
        "range_url": _TEXT,
    }
)
_MISS: Final = _object({"asked": _INT, "error": _object({"code": _TEXT, "message": _TEXT})})

_EXPORTED: Final = {
    "head": _TEXT,
    "root": _TEXT,
    "blocks": {"type": "integer"},
    "duration": _INT,
    "size": _INT,
    "codec": _TEXT,
    "kind": _TEXT,
    "media_type": _TEXT,
    "timing": {"enum": ["demux", "hint"]},
    "note": {"type": ["string", "null"]},
}
_JOB: Final = _object(
    {
        "id": _TEXT,
        "state": {"enum": ["receiving", "sealing", "done", "failed", "cancelled"]},
        "name": {"type": ["string", "null"]},
        "received": {"type": "integer"},
        "size": {"type": ["integer", "null"]},
        "blocks": {"type": "integer"},
        "problem": {"type": ["object", "null"]},
        "result": {"type": ["object", "null"]},
    }
)
_TRASHED: Final = _object(
    {"id": _TEXT, "name": _TEXT, "size": {"type": "integer"}, "deleted": {"type": "integer"}}
)

_SCHEMAS: Final = {
    "Exported": _object({"job": _TEXT, "name": _TEXT, **_EXPORTED}),
    "Job": _JOB,
    "Jobs": _object({"jobs": {"type": "array", "items": _JOB}}),
    "Trashed": _TRASHED,
    "Trash": _object({"items": {"type": "array", "items": _TRASHED}}),
    "Named": _object({"name": _TEXT}),
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
    "Seek": _SEEK,
    "Seeks": _object({"results": {"type": "array", "items": {"oneOf": [_SEEK, _MISS]}}}),
    "Targets": _object({"pts": {"type": "array", "maxItems": MAX_TARGETS, "items": _INT | {"minimum": 0}}})
    | {"additionalProperties": False},
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
    "Session": _object(
        {
            "mode": {"enum": ["open", "public_read", "auth"]},
            "name": {"type": ["string", "null"]},
            "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
            "expires": {"type": ["integer", "null"]},
        }
    ),
}
