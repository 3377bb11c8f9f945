"""The routes that stream tokens."""

from __future__ import annotations

from typing import Any

from harmony4.server.openapi.parts import NAME, TEXT, TRACK, operation, problems, query, request_header
from harmony4.server.streams.forms import FORMS

__all__ = ["paths"]


def paths() -> dict[str, Any]:
    """Path -> path item."""
    tokens = {
        "description": "The tokens, in the form that `Accept` asks for",
        "content": {form: {} for form in FORMS},
    }
    opaque = [
        query("block_size", "Greatest size of a block, such as 512KiB", TEXT),
        query("raw", "1: do not look inside", {"enum": ["0", "1"]}),
        query("fps_hint", "Frames per second of opaque media", TEXT),
        query("gop", "Frames from keyframe to keyframe of opaque media", {"type": "integer", "minimum": 1}),
    ]
    return {
        "/video/stream": {
            "get": operation(
                "stream",
                "The tokens of a container's track, from a time on, or behind the last one received",
                [
                    NAME,
                    TRACK,
                    query(
                        "from", "µs; begins with the block that plays then", {"type": "integer", "minimum": 0}
                    ),
                    query(
                        "last_event_id", "The same as Last-Event-ID, for a page that was loaded anew", TEXT
                    ),
                    request_header("Last-Event-ID"),
                ],
                {
                    "200": tokens,
                    "204": {"description": "The client has all of them"},
                    **problems("400", "404", "406", "500", "503"),
                },
            ),
            "post": operation(
                "stream_media",
                "Media in, their tokens out, while they are still arriving",
                opaque,
                {
                    "200": tokens,
                    **problems("400", "406", "408", "413", "415", "422", "429", "500", "503", "507"),
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
            },
        }
    }
