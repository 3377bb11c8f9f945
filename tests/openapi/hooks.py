"""What schemathesis cannot know: what there is in the library, and which values only go together."""

import re

import schemathesis
from schemathesis import GenerationMode

READ = ["bunny.h4mk", "sound.h4mk", "masked.h4mk", "opaque.h4mk", "damaged.h4mk", "cut.h4mk", "spectrum.h4mk"]


def number(text, count):
    """One of so many, the same for the same text."""
    return sum(map(ord, text)) % count


@schemathesis.hook
def map_query(context, query):
    """Most names are those of containers that are there; changes get some of their own."""
    name = (query or {}).get("name")
    if isinstance(name, str) and name and context.operation.path != "/video/export":
        which = number(name, 8)
        if which < len(READ):
            reads = context.operation.method in ("get", "head") or context.operation.path == "/video/seek"
            query["name"] = READ[which] if reads else f"spare-{which}.h4mk"
    return query


@schemathesis.hook
def map_path_parameters(context, parameters):
    """Files and tracks that there are."""
    if not parameters:
        return parameters
    if isinstance(file := parameters.get("file"), str):
        parameters["file"] = ["app.js", "style.css", file][number(file, 3)]
    if isinstance(track := parameters.get("track"), int):
        parameters["track"] = [0, 1, track][track % 3]
    return parameters


@schemathesis.hook
def before_call(context, case, kwargs):
    """Of what is right parameter by parameter, make what is right as a whole."""
    if case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    query = case.query
    for name in ("Last-Event-ID", "Upload-Checksum"):
        # Headers that are optional and have a pattern are filled with this, whatever the pattern says.
        if (case.headers or {}).get(name) == "0":
            del case.headers[name]
    streams = case.operation.path in ("/video/stream", "/audio/stream") and case.operation.method == "get"
    if streams and "job" not in query:
        query.setdefault("name", READ[0])
    if str(query.get("track")) == "*":
        query.pop("proof", None)
    if "end_pts" in query or "init" in query:
        query.setdefault("pts", 0)
    if int(query.get("end_pts", 1)) <= int(query.get("pts", 0) if str(query.get("pts", 0)).isdigit() else 0):
        query.pop("end_pts", None)
    if match := re.fullmatch(r"bytes=(\d+)-(\d+)", str(query.get("range"))):
        query["range"] = f"bytes={min(map(int, match.groups()))}-{max(map(int, match.groups()))}"
    if case.operation.path == "/video/seek" and isinstance(case.body, dict):
        # JSON Schema calls 5.0 an integer; the server does not.
        case.body["pts"] = [int(one) if isinstance(one, float) else one for one in case.body["pts"]]
    if case.operation.path == "/media":
        query.pop("cursor", None)  # only the server makes them


@schemathesis.serializer("application/offset+octet-stream")
def chunk(context, value):
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
