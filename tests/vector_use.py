"""What the project makes of a container, in the words of a vector's twin: for vector and fuzz tests."""

import io
import json

from harmony4.crypto import HarmonyError
from harmony4.h4mk import H4MKReader, recover, verify
from needs import VECTORS


def opening(source, sound=False):
    """The state or the error class; then what reading everything says (empty where it does not open).

    Where the container is `sound`, what was read is compared with what the directory says.
    """
    try:
        reader = H4MKReader(source)
    except HarmonyError as error:
        return error.code, ""
    with reader:
        try:
            read_all(reader, sound)
        except HarmonyError as error:
            return reader.state, error.code
        return reader.state, "ok"


def read_all(reader, sound=False):
    """Ask a reader for everything it has. Raises HarmonyError."""
    for track, state in enumerate(reader.tracks):
        reader.etag(track)
        table, _ = reader.seek_table(track), reader.range_map(track)
        for entry in table:
            assert reader.seek(entry.pts, track) == entry
        for time in (0, reader.duration // 2, reader.duration):
            reader.locate(time, track)
        count = len(reader.token_array(track)) if reader.state != "original" else state.blocks
        stored = b"".join(block.payload for block in reader.blocks(track))
        gaps = any(hole.track == track and hole.count for hole in reader.lost)
        again = stored if gaps else reader.read(0, len(stored) + 1, track)
        if not gaps:
            with reader.open(track) as stream:
                assert stream.read(len(stored)) == again[: len(stored)]
        if sound:
            assert (count, len(stored), again) == (state.blocks, state.bytes, stored)


def verifying(source):
    """(ok or the set of classes found, state)."""
    report = verify(source)
    codes = {problem.code for problem in report.problems}
    assert report.ok == (not codes and report.state in ("sealed", "original"))
    return codes or {"ok"}, report.state


def recovering(source):
    """({"blocks", "lost", "left_out"}, the container), or (the error class, None)."""
    out = io.BytesIO()
    try:
        report = recover(source, out)
    except HarmonyError as error:
        return error.code, None
    lost = [{"count": one.count, "first": one.first, "track": one.track} for one in report.lost]
    return {"blocks": report.blocks, "lost": lost, "left_out": report.left_out}, out.getvalue()


def media_vectors():
    """Media that name other files: (twin, content) of each (vectors/README.md)."""
    twins = [json.loads(path.read_bytes()) for path in sorted((VECTORS / "media").glob("*.json"))]
    return [(twin, (VECTORS / "media" / twin["file"]).read_bytes()) for twin in twins]
