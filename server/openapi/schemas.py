"""The JSON that the routes answer and take, as JSON Schema."""

from __future__ import annotations

from typing import Final

from harmony4.crypto.mask import MODES
from harmony4.server.errors import PROBLEMS
from harmony4.server.guard.scopes import SCOPES
from harmony4.server.openapi.parts import INT, NATURAL, TEXT, object_of
from harmony4.server.reading.seeking import MAX_TARGETS

__all__ = ["SCHEMAS"]

_ASKED_TIME: Final = {
    "oneOf": [NATURAL, {"type": "string", "pattern": "^[0-9]{1,19}$"}],
    "description": "Below 2^63; a decimal string beyond 2^53 - 1",
}
_SEEK: Final = object_of(
    {
        "track": {"type": "integer"},
        "asked": INT,
        "pts": INT,
        "offset": INT,
        "block_index": {"type": "integer"},
        "next_pts": {"type": ["integer", "string", "null"]},
        "size": INT,
        "header_ranges": {"type": "array", "items": {"type": "array", "items": INT}},
        "range_url": TEXT,
    }
)
_MISS: Final = object_of({"asked": INT, "error": object_of({"code": TEXT, "message": TEXT})})
_ALIGNED: Final = object_of(
    {
        "asked": INT,
        "tracks": {
            "type": "array",
            "items": {"oneOf": [_SEEK, object_of({"track": {"type": "integer"}, **_MISS["properties"]})]},
        },
    }
)
_DIGEST: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_PROOF: Final = object_of(
    {
        "format": {"const": "h4mk proof 1"},
        "blocks": {"type": "integer"},
        "duration": INT,
        "trak": _DIGEST,
        "signatures": {
            "type": "array",
            "items": object_of({"key": TEXT, "revision": INT, "value": TEXT}, subject=_DIGEST),
        },
    },
    meta=_DIGEST,
    leaves={"type": "array", "items": {"type": "integer"}},
    tokens={"type": "array", "items": TEXT},
    path={"type": "array", "items": _DIGEST},
    directory=TEXT,
    root=_DIGEST,
)
_RESULTS: Final = {"type": "array", "items": {"oneOf": [_SEEK, _MISS]}}
_EXPORTED: Final = {
    "head": TEXT,
    "root": TEXT,
    "blocks": {"type": "integer"},
    "duration": INT,
    "size": INT,
    "codec": TEXT,
    "kind": TEXT,
    "media_type": TEXT,
    "timing": {"enum": ["demux", "hint"]},
    "note": {"type": ["string", "null"]},
}
_MASK: Final = {
    "oneOf": [
        {"type": "null"},
        object_of(
            {
                "mode": {"enum": list(MODES)},
                "keys": {"type": ["array", "null"], "items": TEXT},
                "unmaskable": {"type": "boolean"},
            }
        ),
    ]
}
_JOB: Final = object_of(
    {
        "id": TEXT,
        "state": {"enum": ["receiving", "sealing", "done", "failed", "cancelled"]},
        "name": {"type": ["string", "null"]},
        "received": {"type": "integer"},
        "size": {"type": ["integer", "null"]},
        "blocks": {"type": "integer"},
        "problem": {"type": ["object", "null"]},
        "result": {"type": ["object", "null"]},
    }
)
_TRASHED: Final = object_of(
    {"id": TEXT, "name": TEXT, "size": {"type": "integer"}, "deleted": {"type": "integer"}}
)
_VERIFIED: Final = object_of({"ok": {"type": "boolean"}, "at": INT, "problem": {"type": ["string", "null"]}})
"""What scrubbing found."""
SCHEMAS: Final = {
    "Exported": object_of({"job": TEXT, "name": TEXT, **_EXPORTED}),
    "Job": _JOB,
    "Jobs": object_of({"jobs": {"type": "array", "items": _JOB}, "next": {"type": ["string", "null"]}}),
    "Trashed": _TRASHED,
    "Trash": object_of({"items": {"type": "array", "items": _TRASHED}}),
    "Kept": object_of({"id": TEXT, "url": TEXT}),
    "Named": object_of({"name": TEXT}),
    "Problem": object_of(
        {
            "type": {"enum": [f"urn:harmony4:problem:{code}" for code in PROBLEMS]},
            "title": TEXT,
            "status": {"type": "integer"},
        },
        detail=TEXT,
        where={"type": "integer"},
        expected=TEXT,
        found=TEXT,
    ),
    "Seek": _SEEK,
    "Seeks": object_of({"results": {"type": "array", "items": {"oneOf": [_SEEK, _MISS, _ALIGNED]}}}),
    "Aligned": _ALIGNED,
    "Proof": _PROOF,
    "Proven": {
        "oneOf": [object_of({**one["properties"], "proof": _PROOF}) for one in (_SEEK, _MISS)],
    },
    "ManyProven": object_of({"results": _RESULTS, "proof": {"oneOf": [_PROOF, {"type": "null"}]}}),
    "Targets": object_of({"pts": {"type": "array", "maxItems": MAX_TARGETS, "items": _ASKED_TIME}})
    | {"additionalProperties": False},
    "Keyframes": object_of(
        {
            "track": {"type": "integer"},
            "count": {"type": "integer"},
            "start": {"type": "integer"},
            "pts": {"type": "array", "items": INT},
            "offset": {"type": "array", "items": INT},
        }
    ),
    "Info": object_of(
        {
            "name": TEXT,
            "state": {"enum": ["sealed", "incomplete", "original"]},
            "size": INT,
            "duration": INT,
            "blocks": {"type": "integer"},
            "mask": _MASK,
            "tracks": {"type": "array", "items": {"type": "object"}},
        },
        verified=_VERIFIED,
    ),
    "Media": object_of(
        {
            "items": {
                "type": "array",
                "items": object_of(
                    {"name": {"type": ["string", "null"]}, "size": {"type": "integer"}},
                    mask=_MASK,
                    verified=_VERIFIED,
                ),
            },
            "next": {"type": ["string", "null"]},
            "total": {"type": "integer"},
        }
    ),
    "Status": object_of({"status": TEXT}),
    "Session": object_of(
        {
            "mode": {"enum": ["open", "public_read", "auth"]},
            "name": {"type": ["string", "null"]},
            "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
            "expires": {"type": ["integer", "null"]},
            "lies": {"type": ["string", "null"]},
        }
    ),
}
