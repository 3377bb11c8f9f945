"""What the descriptions of routes are built of (OpenAPI 3.1): parameters, answers, problems."""

from __future__ import annotations

from typing import Any, Final

from harmony4.crypto.token import MAX_VALUE
from harmony4.server.errors import PROBLEM_TYPE

__all__ = [
    "CUT",
    "DOWNLOAD",
    "HEADER",
    "INT",
    "MASK",
    "MASKED",
    "NAME",
    "NATURAL",
    "NEW_NAME",
    "TEXT",
    "TIME",
    "TIME_HEADERS",
    "TITLE",
    "TITLES",
    "TRACK",
    "TRACKS",
    "VERSION",
    "answer",
    "both",
    "file",
    "json_of",
    "object_of",
    "operation",
    "path",
    "playlist",
    "problems",
    "query",
    "request_header",
]

TITLES: Final = {
    "304": "What the client has is still right",
    "400": "The request is not valid",
    "401": "A token is needed, or what was shown does not hold",
    "403": "The token does not allow this, a key is not there, or the page that asks is of another origin",
    "404": "No such container, track or keyframe",
    "405": "The route does not know this method",
    "406": "There is no such form of it",
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
HEADER: Final = {"schema": {"type": "string"}}
TEXT: Final = {"type": "string"}
INT: Final = {"type": ["integer", "string"], "description": "A decimal string beyond 2^53 - 1"}
NATURAL: Final = {"type": "integer", "minimum": 0, "maximum": MAX_VALUE}
_PART: Final = r"[^\x00-\x1f\x7f-\x9f\\/.][^\x00-\x1f\x7f-\x9f\\/]*"
NEW_NAME: Final = {"type": "string", "pattern": rf"^{_PART}(/{_PART})*\.h4mk$"}
"""What `check_new_name` takes, but for how long it may be."""
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
    HEADER,
)
_BYTES: Final[dict[str, Any]] = {"*/*": {}}


def operation(name: str, summary: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "parameters": parameters, "responses": responses}


def both(name: str, summary: str, parameters: list[Any], more: dict[str, Any], *codes: str) -> dict[str, Any]:
    """GET and HEAD of bytes; `more` headers and status codes than all of them have."""
    headers = {**_STREAM_HEADERS, **more}
    answers: dict[str, Any] = {
        "200": {"description": "The whole", "headers": headers, "content": _BYTES},
        "206": {
            "description": "One range; several as multipart/byteranges, with Content-Range in each part",
            "headers": {**headers, "Content-Range": HEADER},
            "content": {**_BYTES, "multipart/byteranges": {}},
        },
        "304": {"description": TITLES["304"]},
        **problems(*sorted(("400", "404", "410", "412", "416", "500", "503", *codes))),
    }
    ranges = [request_header(one) for one in ("Range", "If-Range", "Want-Content-Digest")]
    conditions = [request_header("If-None-Match"), request_header("If-Match")]
    # Range is defined for GET only (RFC 9110 §14.2), and a HEAD has no content to digest.
    head = {
        code: {"description": one["description"]}
        for code, one in answers.items()
        if code not in ("206", "416")
    }
    return {
        "get": operation(name, summary, parameters + ranges + conditions, answers),
        "head": operation(f"{name}_head", f"{summary}: the headers alone", parameters + conditions, head),
    }


def file(name: str, summary: str, kind: str, parameters: list[Any]) -> dict[str, Any]:
    answers = {"200": {"description": summary, "content": {kind: {}}}}
    return operation(name, summary, parameters, answers | (problems("404") if parameters else {}))


def playlist(name: str, summary: str, kind: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    """GET of what players read first."""
    answers: dict[str, Any] = {
        "200": {
            "description": summary,
            "headers": dict.fromkeys(("ETag", "Cache-Control"), HEADER),
            "content": {kind: {"schema": {"type": "string"}}},
        },
        "304": {"description": TITLES["304"]},
        **problems("400", "404", "409", "410", "412", "500", "503"),
    }
    conditions = [request_header("If-None-Match"), request_header("If-Match")]
    return {"get": operation(name, summary, [*parameters, NAME, VERSION, *conditions], answers)}


def answer(text: str, *schemas: str) -> dict[str, Any]:
    return {"description": text, "content": json_of(*schemas)}


def json_of(*schemas: str) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"oneOf": references}}}


def problems(*codes: str) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": TITLES[code], "content": content} for code in codes}


def query(name: str, text: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "required": required, "schema": schema}


def path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def request_header(name: str, required: bool = False, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema or TEXT}


def object_of(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


NAME: Final = query(
    "name", "Path of the container below the library", {"type": "string", "minLength": 1}, True
)
TRACK: Final = query("track", "Number of the track", {**NATURAL, "default": 0})
TRACKS: Final = query(
    "track",
    "Number of the track; * for all of them at once",
    {"oneOf": [NATURAL, {"const": "*"}], "default": 0},
)
VERSION: Final = query(
    "v",
    "First 16 digits of the ETag: the answer may be kept for ever",
    {"type": "string", "pattern": "^[0-9a-f]{16}$"},
)
TITLE: Final = query("title", "A title, kept in the metadata", {"type": "string", "minLength": 1})
PROOF: Final = query("proof", "1: a proof of the answer comes with it", {"enum": ["0", "1"]})
DOWNLOAD: Final = query("download", "1: the answer is to be saved as a file", {"enum": ["0", "1"]})
MASKED: Final = query(
    "masked",
    "1: of masked media the bytes as they are stored; 0, which a signed address has to say: as they were",
    {"enum": ["0", "1"]},
)
MASK: Final = [
    query("mask", "Ids or names of keys of the server, with commas: mask the media with them", TEXT),
    query("random_salt", "1, with mask: a random key for the file, in one pass", {"enum": ["0", "1"]}),
    query("keep_plaintext", "1, with mask: every track a second time, not masked", {"enum": ["0", "1"]}),
]
TIME: Final = [
    query("pts", "The blocks that show this time, microseconds", NATURAL),
    query("end_pts", "Up to this time instead of the end, and behind `pts`", {**NATURAL, "minimum": 1}),
    query("init", "Whether the header bytes come first", {"enum": [0, 1], "default": 0}),
]
TIME_HEADERS: Final = dict.fromkeys(("Content-Location", "Harmony4-PTS", "Harmony4-End-PTS"), HEADER)
CUT: Final = [
    query(
        "block_size",
        "Greatest size of a block, such as 512KiB: 1 byte to 16 MiB",
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([bB]|[kKmMgG]([iI]?[bB])?)?$"},
    ),
    query("raw", "1: do not look inside", {"enum": ["0", "1"]}),
    query(
        "fps_hint",
        "Frames per second of opaque media, above 0: 30, 30000/1001 or 29.97",
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+|/[0-9]+)?$"},
    ),
    query(
        "gop",
        "Frames from keyframe to keyframe of opaque media",
        {"type": "integer", "minimum": 1, "maximum": 10**6},
    ),
]
"""How media are cut into blocks."""
