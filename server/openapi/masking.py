"""The route that masks what is sent to it."""

from __future__ import annotations

from typing import Any

from harmony4.server.folder.facts import CONTAINER_TYPE, OPAQUE
from harmony4.server.masking.streams import FORMATS, MASTER, SALT
from harmony4.server.openapi.parts import CUT, HEADER, TEXT, TITLE, operation, problems, query, request_header

__all__ = ["paths"]


def paths() -> dict[str, Any]:
    """Path -> path item."""
    answers = {
        "200": {
            "description": "The body, masked or unmasked",
            "headers": {SALT: HEADER},
            "content": {CONTAINER_TYPE: {}, OPAQUE: {}},
        },
        **problems(*("400", "403", "408", "413", "415", "422", "429", "500", "503", "507")),
    }
    form = {
        "schema": {
            "type": "object",
            "properties": {"master_key": TEXT, "file": {}},
            "required": ["file"],
        }
    }
    return {
        "/audio/mask": {
            "post": operation(
                "mask",
                "Any body through a mask, and back, while it is still arriving",
                [
                    query("key", "Ids or names of keys of the server, with commas between them", TEXT),
                    query("format", "A container, or as many bytes", {"enum": list(FORMATS)}),
                    query("inverse", "1: unmask", {"enum": ["0", "1"]}),
                    *CUT,
                    TITLE,
                    request_header(MASTER),
                    request_header(SALT),
                ],
                answers,
            )
            | {"requestBody": {"required": True, "content": {"*/*": {}, "multipart/form-data": form}}},
        }
    }
