"""`/video/seek` beside the least that an aiohttp handler can do; in a long and in a short container."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.load import Connection, Rate, Target, drive, status, warm, wrk_program
from bench.long import MINUTES, ask, ten_hours
from bench.measure import Place, Table, median, run, spread, whole
from bench.measure import harmony4 as program
from bench.servers import Server, cores, ours, peer

ENOUGH = 0.7
SAME = 0.9
"""What the long container must reach of the short one's rate to count as independent of the length."""
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
        warm([library / "long.h4mk", library / "short.h4mk"])
        server = stack.enter_context(ours(library, home, pair[0]))
        body = _answer(server, "long", minutes)
        bare = stack.enter_context(peer("constant", home, home, pair[0], body))
        asked = {
            name: (server, [Target(f"/video/seek?name={name}.h4mk&pts=", length * 60_000_000 - 1)])
            for name, length in (("long", minutes), ("short", 1))
        }
        asked["bare"] = (bare, [Target("/video/seek?name=long.h4mk&pts=", minutes * 60_000_000 - 1)])
        rates: dict[str, list[float]] = {name: [] for name in asked}
        for one, targets in asked.values():
            drive(one, targets, 0, 1, 999, pair[1], home, check=True)
        last: list[Rate] = []
        names = list(asked)
        for turn in range(rounds):
            for name in names[turn % 3 :] + names[: turn % 3]:
                one, targets = asked[name]
                last.append(drive(one, targets, 0, seconds, 1 + turn, pair[1], home))
                rates[name].append(last[-1].per_second)
        blocks = {name: ask("about", library / f"{name}.h4mk")["blocks"] for name in ("long", "short")}
    for name, title in (("long", f"{minutes / 60:.3g} hours"), ("short", "one minute")):
        ratios = _ratios(rates[name], rates["bare"])
        table.add(
            f"`/video/seek`, container of {title} ({blocks[name]} blocks), ÷ a handler with a constant body",
            f"{spread(ratios)}; {whole(rates[name])} requests/s",
            f"≥ {ENOUGH}",
            f"bare aiohttp {whole(rates['bare'])}",
            median(ratios) >= ENOUGH,
        )
    same = _ratios(rates["long"], rates["short"])
    table.add("the long one ÷ the short one", spread(same), f"≥ {SAME}", "", median(same) >= SAME)
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
