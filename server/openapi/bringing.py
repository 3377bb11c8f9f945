"""The routes that bring media in and change the library."""

from __future__ import annotations

from typing import Any, Final

from harmony4.server.folder.facts import CONTAINER_TYPE
from harmony4.server.intake.tusfields import CHUNK_TYPE
from harmony4.server.intake.tusfields import VERSION as TUS_VERSION
from harmony4.server.openapi.parts import (
    CUT,
    HEADER,
    MASK,
    NAME,
    NEW_NAME,
    TEXT,
    TITLE,
    TITLES,
    answer,
    file,
    operation,
    path,
    problems,
    query,
    request_header,
)

__all__ = ["paths"]


def paths() -> dict[str, Any]:
    """Path -> path item. `/media` has its GET elsewhere."""
    return {
        "/video/export": {
            "post": operation(
                "export",
                "Media in, a container out",
                [
                    query(
                        "name", "Path of the new container; without it the container is sent back", NEW_NAME
                    ),
                    *_EXPORT,
                    *MASK,
                    query("job", "1: answer when the body has arrived, and go on", {"enum": ["0", "1"]}),
                    request_header("If-Match"),
                ],
                {
                    "200": {"description": "The container itself", "content": {CONTAINER_TYPE: {}}},
                    "201": answer("The container is in the library", "Exported"),
                    "202": answer("The container will be in the library", "Job"),
                    **problems(
                        *("400", "403", "408", "409", "412", "413", "415", "422", "429", "500", "503", "507")
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
            "options": operation("tus_options", "What the server can do of tus 1.0", [], _TUS_OPTIONS),
            "post": operation(
                "tus_create",
                "A new upload, which becomes a container when its last byte has come (tus 1.0)",
                [
                    _TUS,
                    request_header("Upload-Length", True, _BYTES),
                    request_header("Upload-Metadata", True),
                    _CHECKSUM,
                    request_header("If-Match"),
                ],
                {
                    "201": _tus("Its address", "Location", *_TUS_PROGRESS),
                    **problems(
                        *("400", "403", "408", "409", "412", "413", "415", "429", "460", "503", "507"),
                    ),
                },
            )
            | {"requestBody": {"required": False, "content": {CHUNK_TYPE: {}}}},
        },
        "/uploads/{id}": {
            "options": operation("tus_options_one", "The same", [path("id", TEXT)], _TUS_OPTIONS),
            "head": operation(
                "tus_head",
                "How far an upload is (tus 1.0)",
                [path("id", TEXT), _TUS],
                {
                    "200": _SO_FAR,
                    "404": {"description": "There is no such upload, or it has expired"},
                    "412": {"description": TITLES["412"]},
                },
            ),
            "patch": operation(
                "tus_patch", "Bytes at the end of an upload (tus 1.0)", _TUS_PATCH, _TUS_PATCHED
            )
            | {"requestBody": {"required": True, "content": {CHUNK_TYPE: {}}}},
            "post": operation(
                "tus_post",
                "The same, and the others, for clients that can only POST",
                [
                    request_header(
                        "X-HTTP-Method-Override", True, {"enum": ["DELETE", "HEAD", "OPTIONS", "PATCH"]}
                    ),
                    *_TUS_PATCH,
                ],
                {"200": _SO_FAR, **_TUS_PATCHED, **problems("405")},
            )
            | {"requestBody": {"required": False, "content": {CHUNK_TYPE: {}}}},
            "delete": operation(
                "tus_delete",
                "Give an upload up (tus 1.0)",
                [path("id", TEXT), _TUS],
                {"204": _tus("It is gone"), **problems("404", "412", "423", "507")},
            ),
        },
        "/jobs": {
            "get": operation(
                "jobs",
                "Exports that are known, page by page",
                [
                    query(
                        "cursor",
                        "`next` of an earlier answer",
                        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                    ),
                    query("limit", "Items a page", {"type": "integer", "minimum": 1, "maximum": 1000}),
                ],
                {"200": answer("A page of them", "Jobs"), **problems("400")},
            )
        },
        "/jobs/{id}": {
            "get": operation(
                "job",
                "How far an export is",
                [path("id", TEXT)],
                {"200": answer("What is known of it", "Job"), **problems("404")},
            ),
            "delete": operation(
                "cancel",
                "Cancel an export",
                [path("id", TEXT)],
                {
                    "200": answer("It has ended already", "Job"),
                    "202": answer("It will be", "Job"),
                    **problems("404", "507"),
                },
            ),
        },
        "/events": {"get": file("events", "What happens, as it happens", "text/event-stream", [])},
        "/media": {
            "delete": operation(
                "delete",
                "Move a container into the trash",
                [NAME, request_header("If-Match")],
                {
                    "200": answer("What it is called there", "Trashed"),
                    **problems("400", "404", "412", "507"),
                },
            ),
        },
        "/media/trash": {
            "get": operation("trash", "What was deleted", [], {"200": answer("The trash", "Trash")}),
            "delete": operation(
                "purge",
                "Remove a container from the trash for good",
                [_ID],
                {"204": {"description": "It is gone"}, **problems("400", "404", "507")},
            ),
        },
        "/media/restore": {
            "post": operation(
                "restore",
                "Take a container out of the trash",
                [_ID, query("to", "Another name than it had", NEW_NAME)],
                {"200": answer("Its name", "Named"), **problems("400", "404", "409", "507")},
            )
        },
        "/media/rename": {
            "post": operation(
                "rename",
                "Give a container another name",
                [NAME, query("to", "The new name", NEW_NAME, True), request_header("If-Match")],
                {"200": answer("Its name", "Named"), **problems("400", "404", "409", "412", "507")},
            )
        },
    }


def _tus(text: str, *headers: str) -> dict[str, Any]:
    """An answer by tus: all that it says is in its headers."""
    return {"description": text, "headers": dict.fromkeys(("Tus-Resumable", *headers), HEADER)}


_BYTES: Final = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_CHECKSUM: Final = request_header(
    "Upload-Checksum",
    schema={"type": "string", "pattern": "^sha(1 [A-Za-z0-9+/]{27}|256 [A-Za-z0-9+/]{43})=$"},
)
_OVERRIDE: Final = request_header(
    "X-HTTP-Method-Override", True, {"enum": ["DELETE", "HEAD", "OPTIONS", "PATCH"]}
)
_TUS: Final = request_header("Tus-Resumable", True, {"const": TUS_VERSION})
_ID: Final = query(
    "id", "What it is called in the trash", {"type": "string", "pattern": "^[0-9a-f]{16}$"}, True
)
_EXPORT: Final = [
    *CUT,
    TITLE,
    query("remux", "1: fragmented MP4 of media whose blocks would not play alone", {"enum": ["0", "1"]}),
    query("keep_original", "1, with remux: the source's bytes as a second track", {"enum": ["0", "1"]}),
    query(
        "spectrum", "The profile of tokens of the sound as one more track", {"enum": ["structure", "detail"]}
    ),
]
_TUS_PROGRESS: Final = ("Upload-Offset", "Upload-Expires", "Harmony4-Job")
_SO_FAR: Final = _tus("So far", "Upload-Length", "Upload-Metadata", *_TUS_PROGRESS)
_TUS_OPTIONS: Final = {
    "204": _tus("In the headers", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
}
_TUS_PATCH: Final = [
    path("id", TEXT),
    _TUS,
    request_header("Upload-Offset", True, _BYTES),
    _CHECKSUM,
]
_TUS_PATCHED: Final[dict[str, Any]] = {
    "204": _tus("The bytes are there", *_TUS_PROGRESS),
    **problems(*("400", "404", "408", "409", "412", "413", "415", "423", "429", "460", "503", "507")),
}
