"""Playlists of ten hours: how long HLS and DASH take the first time, again, and as 304."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.load import Connection, status, warm
from bench.long import MINUTES, micros, ten_hours
from bench.measure import Place, Table, harmony4, median, run
from bench.servers import cores, ours

ASKED = 20e-3
PLANS = ((40, MINUTES), (5, 10), (2, 2))
"""Requests, minutes of video."""
PATHS = (
    ("`/video/hls/0.m3u8`", "/video/hls/0.m3u8"),
    ("`/video/hls` (the list of lists)", "/video/hls/index.m3u8"),
    ("`/video/dash`", "/video/dash/manifest.mpd"),
)


def playlists(place: Place) -> Table:
    """Each first request is for a name that the server has not seen: links to one container."""
    table, pair = Table(), cores()
    count, minutes = PLANS[place.quick]
    source = ten_hours(place.cache, minutes, fragmented=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="playlists-", dir=place.cache)))
        library = home / "library"
        library.mkdir()
        container = library / "long.h4mk"
        run([harmony4(), "export", "-q", source, "-o", container])
        names = [f"{kind}-{number}" for kind in range(len(PATHS)) for number in range(count)]
        for name in names:
            (library / f"{name}.h4mk").hardlink_to(container)
        warm([container])
        server = stack.enter_context(ours(library, home, pair[0] if pair is not None else 0))
        with Connection(server.port) as connection:
            for kind, (title, path) in enumerate(PATHS):
                first, size, tag = [], 0, ""
                for number in range(count):
                    address = f"{path}?name={kind}-{number}.h4mk"
                    # Opened before: what opening takes is in another table.
                    _ask(connection, f"/video/info?name={kind}-{number}.h4mk")
                    took, size, tag = _ask(connection, address)
                    first.append(took)
                again = [_ask(connection, address)[0] for _ in range(count)]
                same = [_ask(connection, address, f"If-None-Match: {tag}\r\n")[0] for _ in range(count)]
                table.add(
                    f"{title}, the first time",
                    micros(first),
                    f"≤ {ASKED * 1e3:.0f} ms",
                    f"{size / 1024:.0f} KiB",
                    median(first) <= ASKED,
                )
                table.add(f"{title}, again", micros(again))
                table.add(f"{title}, again with its ETag (304)", micros(same))
    table.notes.append(
        f"{minutes} minutes of H.264 and AAC in fragmented MP4, a group every two seconds, over one "
        "connection; the median, then the 99th percentile, until the last byte. The container is open."
    )
    return table


def _ask(connection: Connection, path: str, headers: str = "") -> tuple[float, int, str]:
    """How long it took (s), the answer's bytes, and its ETag."""
    request = connection.request(path, headers)
    before = time.perf_counter()
    head, body = connection.ask(request)
    took = time.perf_counter() - before
    if status(head) not in (200, 304):
        raise SystemExit(f"error: {path}: {head!r}")
    tag = next((line[6:] for line in head.decode().split("\r\n") if line.lower().startswith("etag: ")), "")
    return took, len(body), tag
