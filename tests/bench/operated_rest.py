"""More of `operated`: playlists, crowds, uploads and the page, with everything on and behind nginx."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from bench import intake, page, slow, streams
from bench.load import Connection, status
from bench.long import micros
from bench.measure import Place, Table, median, percentile
from bench.servers import Server
from big_container import build
from chromium import chromium

FULL, BEHIND = "everything", "behind nginx"
PLANS = (
    (20, 1000, 1000, 10 * 2**10, 30.0, 64, 20, 20),
    (5, 200, 200, 1024, 5.0, 8, 3, 3),
    (2, 20, 20, 64, 1.0, 1, 1, 1),
)
"""Playlists, subscribers, slow clients, their container's blocks of 1 MiB, seconds; MiB of each upload; loads
and seeks of the page."""
AT_ONCE, BESIDE = 20, 4


def rest(
    table: Table,
    place: Place,
    minutes: int,
    events: int,
    servers: Mapping[str, Server],
    fields: str,
    home: Path,
    library: Path,
    film: Path,
) -> None:
    """`servers`: as `operated` calls them; `fields`: what changes need; `film`: what is sent.

    `minutes` are those of `long.h4mk`.
    """
    plan = PLANS[place.quick]
    count, subscribers, readers, blocks, seconds, each, loads, seeks = plan
    _playlists(table, servers, library, count)
    for name in (FULL, BEHIND):
        served, slowest, peak = streams.thousand(servers[name], subscribers, events)
        memory = f"; resident {peak / 2**20:.0f} MiB at most" if name == FULL else ""  # else it is nginx's
        table.add(
            f"{subscribers} subscribers of one container at once, {name}",
            f"{served} served whole, the slowest first byte after {slowest:.2f} s{memory}",
            "< 1 s, < 300 MiB",
            "",
            served == subscribers and slowest < streams.SOON and (name == BEHIND or peak < streams.MEMORY),
        )
    made = build(library / "big.h4mk", blocks)
    samples, _ = slow.read(servers[FULL], made.stream, readers, seconds)
    peak = {key: max(one[key] for _, one in samples) for key in ("VmRSS", "RssAnon")}
    table.add(
        f"peak resident memory, {readers} slow clients, {FULL}",
        f"{peak['VmRSS'] / 2**20:.0f} MiB, {peak['RssAnon'] / 2**20:.0f} MiB of it anonymous",
        "< 300 MiB",
        f"{seconds:.0f} s",
        peak["VmRSS"] < slow.MEMORY,
    )
    (library / "big.h4mk").unlink()
    _uploads(table, servers, home, library, film, minutes, each, fields)
    _page(table, servers, minutes, loads, seeks)


def _playlists(table: Table, servers: Mapping[str, Server], library: Path, count: int) -> None:
    took: dict[str, list[float]] = {}
    for name, server in servers.items():
        with Connection(server.port) as line:
            for number in range(count):
                # Another name each time: what was made once is kept.
                container = library / f"list-{name.replace(' ', '-')}-{number}.h4mk"
                container.hardlink_to(library / "fragments.h4mk")
                for path in ("/video/info", "/video/hls/0.m3u8"):  # opening it is in another table
                    request = line.request(f"{path}?name={container.name}")
                    began = time.perf_counter()
                    head, _ = line.ask(request)
                    spent = time.perf_counter() - began
                    if status(head) != 200:
                        raise SystemExit(f"error: {request!r}: {head!r}")
                took.setdefault(name, []).append(spent)
                container.unlink()
    table.add(
        "playlist of ten hours, the first time",
        f"{micros(took[FULL])}; behind nginx {micros(took[BEHIND])}",
        "≤ 20 ms",
        f"as measured above: {micros(took['as measured above'])}",
        median(took[FULL]) <= 20e-3,
    )


def _uploads(
    table: Table,
    servers: Mapping[str, Server],
    home: Path,
    library: Path,
    film: Path,
    minutes: int,
    each: int,
    fields: str,
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        return
    small = home / "small.bin"
    intake.noise(small, each)
    peak = 0
    with intake.uploading(servers[BEHIND], curl, library, small, film, AT_ONCE, fields) as over:
        while not over.wait(0.1):
            peak = max(peak, servers[FULL].memory(alone=True)["VmRSS"])
    table.add(
        f"peak resident memory of the server, {AT_ONCE} uploads at once, {BEHIND}",
        f"{peak / 2**20:.0f} MiB",
        f"< {intake.MEMORY // 2**20} MiB",
        f"half of them {each} MiB of noise, half the film",
        peak < intake.MEMORY,
    )
    for name in (FULL, BEHIND):
        with intake.uploading(servers[name], curl, library, small, film, BESIDE, fields) as over:
            busy = intake.seeks(
                servers[name], "long.h4mk", minutes, lambda done, over=over: not over.is_set()
            )
        table.add(
            f"p99 of `/video/seek` while {BESIDE} uploads run, {name}",
            f"{percentile(busy, 0.99) * 1e3:.1f} ms, of {len(busy)} seeks",
            f"< {intake.PATIENCE * 1e3:.0f} ms" if name == FULL else "",
            "server, demuxers and nginx on one core",
            percentile(busy, 0.99) < intake.PATIENCE if name == FULL else None,
        )


def _page(table: Table, servers: Mapping[str, Server], minutes: int, loads: int, seeks: int) -> None:
    with chromium("--autoplay-policy=no-user-gesture-required") as browser:
        for name in (FULL, BEHIND):
            url = f"http://127.0.0.1:{servers[name].port}/"
            paints = [page.load(browser, url)["paint"] for _ in range(loads)]
            shown = page.seek(browser, f"{url}?name=long.h4mk", minutes * 60, seeks)
            table.add(
                f"the page, {name}: first contentful paint",
                f"{median(paints) * 1e3:.0f} ms",
                f"< {page.PAINT * 1e3:.0f} ms",
                f"worst {max(paints) * 1e3:.0f} ms",
                median(paints) < page.PAINT,
            )
            table.add(
                f"the page, {name}: a seek in {minutes / 60:.3g} hours, from the key to the picture",
                f"{median(shown) * 1e3:.0f} ms",
                f"< {page.PICTURE * 1e3:.0f} ms",
                f"p90 {percentile(shown, 0.9) * 1e3:.0f} ms",
                median(shown) < page.PICTURE,
            )
