"""The routes that stream tokens."""

from __future__ import annotations

from typing import Any, Final

from harmony4.server.openapi.parts import (
    CUT,
    NAME,
    NATURAL,
    TRACK,
    answer,
    operation,
    problems,
    query,
    request_header,
)
from harmony4.server.streams.forms import FORMS
from harmony4.tokenize.audio import PROFILES, STRUCTURE
from harmony4.tokenize.samples import MAX_CHANNELS, MAX_RATE
from harmony4.tokenize.sound import PCM_ENCODINGS

__all__ = ["paths"]


_LAST: Final = {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9]{1,5}-([0-9]{1,19}|end)$"}
_NUMBER: Final = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_JOB: Final = {"type": "string", "pattern": "^([01]|[0-9a-f]{32})$"}


def paths() -> dict[str, Any]:
    """Path -> path item."""
    tokens = {
        "description": "The tokens, in the form that `Accept` asks for",
        "content": {form: {} for form in FORMS},
    }
    sound = [
        query("profile", "What tokens keep of a frame", {"enum": list(PROFILES), "default": STRUCTURE.name}),
        query("each", "1: tokens of every channel by itself", {"enum": ["0", "1"]}),
        query(
            "stream",
            "Index of the stream; default the first one with sound",
            NATURAL,
        ),
    ]
    pcm = [
        query("pcm", "Encoding of raw PCM", {"enum": list(PCM_ENCODINGS)}),
        query("rate", "Its rate, Hz", {"type": "integer", "minimum": 1, "maximum": MAX_RATE}),
        query("channels", "Its channels", {"type": "integer", "minimum": 1, "maximum": MAX_CHANNELS}),
    ]
    start = query("from", "µs; begins with what plays then", NATURAL)
    last = [
        query("last_event_id", "The same as Last-Event-ID, for a page that was loaded anew", _LAST),
        request_header("Last-Event-ID", schema=_LAST),
    ]
    job = query("job", "1, or 32 hexadecimal digits: the tokens are read at an address of their own", _JOB)
    read = query("job", "In place of `name`: the number of tokens that are kept", _NUMBER)
    kept = answer("Where the tokens are", "Kept")
    name = NAME | {"required": False}  # not with `job`
    again = {"description": "The client has all of them"}
    body: dict[str, Any] = {
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
    arriving = {
        "200": tokens,
        "202": kept,
        **problems("400", "406", "408", "409", "413", "415", "422", "429", "500", "503", "507"),
    }
    return {
        "/video/stream": {
            "get": operation(
                "stream",
                "The tokens of a container's track, from a time on, or behind the last one received",
                [name, TRACK, start, *last, read],
                {"200": tokens, "204": again, **problems("400", "404", "406", "500", "503")},
            ),
            "post": operation(
                "stream_media",
                "Media in, their tokens out, while they are still arriving",
                [*CUT, job],
                arriving,
            )
            | body,
        },
        "/audio/stream": {
            "get": operation(
                "stream_sound",
                "The spectral tokens of a container's sound",
                [name, TRACK, start, *last, *sound, read],
                {
                    "200": tokens,
                    "204": again,
                    **problems("400", "403", "404", "406", "413", "422", "429", "500", "503", "507"),
                },
            ),
            "post": operation(
                "stream_arriving_sound",
                "Sound in, its spectral tokens out, while it is still arriving",
                [*sound, *pcm, job],
                arriving,
            )
            | {"requestBody": {**body["requestBody"], "required": False}},  # of nothing there are no tokens
        },
    }
