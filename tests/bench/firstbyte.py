"""From asking for a time to the first byte: ten hours of video, and nginx's mp4 module with `?start=`."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.load import Connection, status, warm
from bench.long import MINUTES, micros, ten_hours
from bench.measure import Place, Table, harmony4, median, run, spread
from bench.servers import BEST, MP4, Server, cores, nginx, nginx_program, ours

FASTER = 10.0
SPAN = 10_000_000
"""µs of media asked for at a time; nginx is asked for the rest of the file, for which it has no other way."""
FIRST = 1_000_000
"""µs: the least time asked for. The fragmented film's first frame is not at 0, where nothing is shown."""
PLANS = ((7, 40, MINUTES), (2, 10, 10), (1, 3, 2))
"""Rounds, requests in each, minutes of video."""


def firstbyte(place: Place) -> Table:
    """The same random times for everybody, one after the other, each on a connection that is open already."""
    table, pair = Table(), cores()
    rounds, count, minutes = PLANS[place.quick]
    if pair is None or not _module():
        table.notes.append("Not measured: it needs an nginx with its mp4 module, and a second core.")
        return table
    plain, split = ten_hours(place.cache, minutes), ten_hours(place.cache, minutes, fragmented=True)
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstbyte-", dir=place.cache)))
        home.chmod(0o755)
        library, folder = home / "library", home / "plain"
        library.mkdir()
        folder.mkdir()
        (folder / "long.mp4").symlink_to(plain)
        for name, source in (("fragments", split), ("whole", plain)):
            run([harmony4(), "export", "-q", source, "-o", library / f"{name}.h4mk"])
        warm([plain, *library.iterdir()])
        server = stack.enter_context(ours(library, home, pair[0]))
        module = stack.enter_context(nginx("nginx-mp4", folder, home, pair[0], BEST, MP4))
        known = _knows_times(server)
        asks: dict[str, Callable[[int], float]] = {
            "time": (lambda at: _timed(server, at)) if known else lambda at: _sought(server, "fragments", at),
            "sought": lambda at: _sought(server, "whole", at),
            "nginx": lambda at: _started(module, at),
        }
        os.sched_setaffinity(0, {pair[1]})
        try:
            took = _rounds(asks, rounds, count, minutes * 60_000_000 - SPAN)
            media = [
                _started(module, at, media=True) for at in _times(99, count, minutes * 60_000_000 - SPAN)
            ]
        finally:
            os.sched_setaffinity(0, before)
    peer = micros([one for each in took["nginx"] for one in each])
    asked = "`/video/range?pts=&end_pts=&init=1`" if known else "`/video/seek`, then `/video/range`"
    for name, title in (
        ("time", f"{asked}, fragmented MP4"),
        ("sought", "`/video/seek`, then `/video/range`: two requests, one after the other; plain MP4"),
    ):
        ratios = [median(a) / median(b) for a, b in zip(took["nginx"], took[name], strict=True)]
        table.add(
            f"nginx's time ÷ ours: {title}",
            f"{spread(ratios, 1)}; {micros([one for each in took[name] for one in each])}",
            f"≥ {FASTER:.0f}" if name == "time" else "",
            f"nginx {peer}",
            median(ratios) >= FASTER if name == "time" else None,
        )
    table.add("nginx, until the first byte of the media itself", micros(media))
    if not known:
        table.notes.append("This server does not know times in `/video/range`: it was asked in two requests.")
    table.notes.append(
        f"{rounds} rounds of {count} random times, {plain.stat().st_size / 2**20:.0f} MiB of MP4; the ratio "
        "is of a round's medians; times: the median, then the 99th percentile. nginx's first byte is that of "
        "the tables it has rewritten for this time, which a player must read before any media: the last row "
        "says how long that takes."
    )
    return table


def _module() -> bool:
    program = nginx_program()
    if program is None:
        return False
    return "http_mp4_module" in subprocess.run([program, "-V"], capture_output=True, text=True).stderr


def _times(seed: int, count: int, most: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(FIRST, most) for _ in range(count)]


def _rounds(
    asks: dict[str, Callable[[int], float]], rounds: int, count: int, most: int
) -> dict[str, list[list[float]]]:
    took: dict[str, list[list[float]]] = {name: [] for name in asks}
    for turn in range(rounds + 1):  # the first one warms up
        found: dict[str, list[float]] = {name: [] for name in asks}
        # One server after the other: nginx goes on with an answer that nobody waits for any more, and would
        # keep the next server from the core that they share.
        for name, ask in asks.items():
            for at in _times(turn, count, most):
                found[name].append(ask(at))
        if turn:
            for name, each in found.items():
                took[name].append(each)
    return took


def _timed_path(at: int) -> str:
    return f"/video/range?name=fragments.h4mk&pts={at}&end_pts={at + SPAN}&init=1"


def _knows_times(server: Server) -> bool:
    """Whether `pts` means something to this server: it answers with less than the stream, and says where."""
    with Connection(server.port) as connection:
        head, _ = connection.begin(connection.request(_timed_path(FIRST)))
    return status(head) in (200, 206) and b"content-location:" in head.lower()


def _timed(server: Server, at: int) -> float:
    with Connection(server.port) as connection:
        request = connection.request(_timed_path(at))
        before = time.perf_counter()
        head, _ = connection.begin(request)
        took = time.perf_counter() - before
    if status(head) not in (200, 206) or b"content-location:" not in head.lower():
        raise SystemExit(f"error: {request!r}: {head!r}")
    return took


def _sought(server: Server, name: str, at: int) -> float:
    """The keyframe's byte, then the bytes from there: over one connection, the second needs the first."""
    with Connection(server.port) as connection:
        request = connection.request(f"/video/seek?name={name}.h4mk&pts={at}")
        before = time.perf_counter()
        found, body = connection.ask(request)
        place = json.loads(body)
        wanted = f"Range: bytes={place['offset']}-{place['offset'] + place['size'] - 1}\r\n"
        head, _ = connection.begin(connection.request(f"/video/range?name={name}.h4mk", wanted))
        took = time.perf_counter() - before
    if status(found) != 200 or status(head) != 206:
        raise SystemExit(f"error: {request!r}: {found!r} {head!r}")
    return took


def _started(server: Server, at: int, *, media: bool = False) -> float:
    """Until the first byte of the body, or of the media behind the tables."""
    with Connection(server.port) as connection:
        request = connection.request(f"/long.mp4?start={at / 1e6:.3f}")
        before = time.perf_counter()
        head, body = connection.begin(request)
        if media:
            connection.until(re.compile(rb"....mdat.", re.DOTALL), body)
        took = time.perf_counter() - before
    if status(head) != 200:
        raise SystemExit(f"error: {request!r}: {head!r}")
    return took
