"""Two hundred clients of all kinds at once, behind nginx: what `make test-system` does, as figures."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench.measure import Place, Table
from crowd import KINDS, anonymous, behind_nginx, crowd, descriptors, quantile, slope
from crowd_clients import make_film

P99 = 0.05
PLANS = ((5, 120.0, 1), (3, 10.0, 4), (1, 2.0, 10))
"""Films of 12 MiB, seconds, so many times fewer clients."""


def system(place: Place) -> Table:
    """The crowd is on the same machine, and takes more of it than the server and nginx do."""
    table = Table()
    number, seconds, fewer = PLANS[place.quick]
    kinds = {kind: max(1, count // fewer) for kind, count in KINDS.items()}
    with tempfile.TemporaryDirectory(prefix="system-", dir=place.cache) as folder:
        library = Path(folder) / "library"
        films = [make_film(library / f"film{n}.h4mk", n) for n in range(number)]
        with behind_nginx(library, Path(folder)) as served:
            workers = served.server.workers()
            before = sum(map(descriptors, workers))
            memory: list[float] = []
            watch = lambda: memory.append(float(sum(map(anonymous, workers))))  # noqa: E731 - short
            seen = asyncio.run(crowd(served.url, films, seconds, watch, kinds))
            after = sum(map(descriptors, workers))
            died = workers != served.server.workers()
            served.server.process.terminate()  # its workers end before the folder goes
            served.server.process.wait(60)
    half = memory[len(memory) // 2 :]
    clients = sum(kinds.values())
    table.add(
        f"answers that were wrong, failed or did not come, of {clients} clients behind nginx",
        f"{len(seen.wrong) + died} of {seen.counts.total():,}",
        "0",
        "",
        not seen.wrong and not died,
    )
    for kind in kinds:
        if kind == "listen":  # they stay as long as they like
            continue
        times = seen.times[kind]
        last = quantile(times, 0.99)
        table.add(
            f"{_WHAT[kind]}: p99",
            f"{last * 1000:.1f} ms",
            "< 50 ms" if kind == "seek" else "",
            f"median {quantile(times, 0.5) * 1000:.1f} ms, {len(times):,} times",
            last < P99 if kind == "seek" else None,
        )
    table.add(
        "memory of both workers, anonymous: growth in the second half",
        f"{slope(half) * len(half) / 2**20:+.1f} MiB",
        "≈ 0",
        f"from {memory[0] / 2**20:.0f} to {memory[-1] / 2**20:.0f} MiB in all",
    )
    table.add("descriptors of both workers, before and after", f"{before}, {after}")
    if seen.wrong:
        table.notes.append(f"Wrong: {'; '.join(seen.wrong)}"[:1000])
    table.notes.append(
        f"{seconds:.0f} s, two workers, access log, scrubbing; clients pause up to 0.5 s between requests, "
        "those that send films up to 8 s. What they ask for, and how answers are checked, is in "
        "`tests/crowd_clients.py`. They run in one process on this machine, so times hold its pauses, too."
    )
    return table


_WHAT = {
    "range": "a range of up to 256 KiB",
    "seek": "a seek",
    "tokens": "tokens of a container, from anywhere to the end or to the middle",
    "send": "a film of 1 MiB sent to `/video/stream`, until its last token",
    "upload": "an upload (bytes, film, or resumable), its bytes read again, deleted and purged",
    "page": "the page, lists, descriptions and metrics",
}
