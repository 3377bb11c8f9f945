"""`/video/seek` beside the least that an aiohttp handler can do; in containers of very different lengths."""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.load import Connection, Rate, Target, drive, status, warm, wrk_program
from bench.long import MINUTES, ask, ten_hours
from bench.measure import Place, Table, median, run, spread, whole
from bench.measure import harmony4 as program
from bench.servers import Server, cores, ours, peer

ENOUGH = 0.7
BLOCKS = 600_000
"""Of the container whose tables are too large to be kept in memory, each a second; more than 524 288."""
BLOCK = 64
PLANS = ((9, 3, MINUTES), (2, 1, 10), (1, 1, 2))
"""Rounds, seconds, minutes of the long one."""


def seeking(place: Place) -> Table:
    """Rounds of all three; each ratio is of one round."""
    table, pair = Table(), cores()
    rounds, seconds, minutes = PLANS[place.quick]
    if wrk_program() is None or pair is None:
        table.notes.append("Not measured: it needs wrk and a second core.")
        return table
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seeking-", dir=place.cache)))
        library = home / "library"
        library.mkdir()
        for name, length in (("long", minutes), ("short", 1)):
            source = ten_hours(place.cache, length)
            run([program(), "export", "-q", source, "-o", library / f"{name}.h4mk"])
        (home / "paged.bin").write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK))
        raw = ["--raw", "--block-size", str(BLOCK)]
        run([program(), "export", "-q", *raw, home / "paged.bin", "-o", library / "paged.h4mk"])
        microseconds = {"long": minutes * 60_000_000, "short": 60_000_000, "paged": BLOCKS * 1_000_000}
        warm([library / f"{name}.h4mk" for name in microseconds])
        server = stack.enter_context(ours(library, home, pair[0]))
        body = _answer(server, "long", minutes)
        bare = stack.enter_context(peer("constant", home, home, pair[0], body))
        asked = {
            name: (server, [Target(f"/video/seek?name={name}.h4mk&pts=", length - 1)])
            for name, length in microseconds.items()
        }
        asked["bare"] = (bare, [Target("/video/seek?name=long.h4mk&pts=", minutes * 60_000_000 - 1)])
        rates: dict[str, list[float]] = {name: [] for name in asked}
        for one, targets in asked.values():
            drive(one, targets, 0, 1, 999, pair[1], home, check=True)
        last: list[Rate] = []
        names = list(asked)
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                one, targets = asked[name]
                last.append(drive(one, targets, 0, seconds, 1 + turn, pair[1], home))
                rates[name].append(last[-1].per_second)
        blocks = {name: ask("about", library / f"{name}.h4mk")["blocks"] for name in microseconds}
    titles = {
        "long": f"{minutes / 60:.3g} hours",
        "short": "one minute",
        "paged": f"{BLOCKS / 3600:.0f} hours, tables read by pages",
    }
    for name, title in titles.items():
        ratios = _ratios(rates[name], rates["bare"])
        table.add(
            f"`/video/seek`, container of {title} ({blocks[name]} blocks), ÷ a handler with a constant body",
            f"{spread(ratios)}; {whole(rates[name])} requests/s",
            f"≥ {ENOUGH}",
            f"bare aiohttp {whole(rates['bare'])}",
            median(ratios) >= ENOUGH,
        )
    same = _ratios(rates["long"], rates["short"])
    table.add("the one of ten hours ÷ the one of a minute", spread(same))
    table.notes.append(
        f"{rounds} rounds of {seconds} s, 8 connections; the constant body has {len(body)} bytes, as the "
        f"answer has. Least use of its core by a server in any run: {min(one.busy for one in last):.0%}."
    )
    return table


def _answer(server: Server, name: str, minutes: int) -> str:
    with Connection(server.port) as connection:
        path = f"/video/seek?name={name}.h4mk&pts={minutes * 30_000_000}"
        head, body = connection.ask(connection.request(path))
    if status(head) != 200:
        raise SystemExit(f"error: {path}: {head!r}")
    return body.decode()


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
