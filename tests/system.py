"""The whole of it under load, for real: `make test-system` (SYSTEM_TIME=seconds of load, 120).

200 clients at once, of all kinds, come through an nginx with deploy/nginx.conf to a server with two workers
and with everything switched on that costs something: access log as JSON, scrubbing, limits, a proxy that is
believed.
Every byte of every answer is checked. Figures are printed (`-s`) and written to .build/system.json.

Not part of `make test`: the name of this file keeps it out.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from harmony4.h4mk import H4MKReader
from harmony4.server.folder.facts import range_url
from needs import ROOT, needs_nginx
from processes import Served, alive, needs_proc, served, until
from programs import nginx
from serving import write_container

pytestmark = [needs_nginx, needs_proc, pytest.mark.timeout(900)]

SECONDS: Final = float(os.environ.get("SYSTEM_TIME", "120"))
P99: Final = float(os.environ.get("SYSTEM_P99", "0.05"))
"""Seconds that 99 of 100 seeks may take at most."""
KINDS: Final = {"range": 110, "seek": 50, "listen": 20, "upload": 10, "page": 10}
BLOCK: Final = 2**19
BLOCKS: Final = 24
OPTIONS: Final = ("--workers", "2", "--access-log")
ENVIRONMENT: Final = {
    "HARMONY4_LOG_FORMAT": "json",
    "HARMONY4_SCRUB_RATE": str(4 * 2**20),
    "HARMONY4_SCRUB_PAUSE": "1",
    "HARMONY4_TRUSTED_PROXIES": "127.0.0.1",
    "HARMONY4_MAX_STREAMS": "5000",
    "HARMONY4_MAX_STREAMS_PER_CLIENT": "5000",
    "HARMONY4_MAX_CONNECTIONS_PER_CLIENT": "5000",
    "HARMONY4_STOP_DELAY": "1",
}


@dataclass
class Seen:
    """What the clients have seen."""

    counts: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    wrong: list[str] = field(default_factory=list)

    def check(self, fits: bool, what: str) -> None:
        if not fits and len(self.wrong) < 20:
            self.wrong.append(what)


@dataclass(frozen=True)
class Film:
    """A container, and what is in it."""

    name: str
    data: bytes
    keys: list[int]
    version: str


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    """A library of five films of 12 MiB."""
    folder = tmp_path_factory.mktemp("system")
    found = []
    for number in range(5):
        blocks = [random.Random(number * 100 + n).randbytes(BLOCK) for n in range(BLOCKS)]
        path = folder / f"film{number}.h4mk"
        write_container(path, blocks, key_every=3)
        with H4MKReader(path) as reader:
            keys = [entry.pts for entry in reader.seek_table(0)]
            version = parse_qs(urlsplit(range_url(reader, path.name)).query)["v"][0]
            found.append(Film(str(path), b"".join(blocks), keys, version))
    return found


@dataclass
class Place:
    """A server, an nginx before it."""

    server: Served
    url: str


@pytest.fixture
def place(films: list[Film], tmp_path: Path) -> Iterator[Place]:
    library = Path(films[0].name).parent
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    text = text.replace("/var/log/nginx/harmony4.log", str(tmp_path / "access.log"))
    # All clients are one address here.
    for old, new in (
        ("rate=200r/s", "rate=100000r/s"),
        ("burst=800", "burst=100000"),
        ("limit_conn harmony4_clients 64;", "limit_conn harmony4_clients 10000;"),
    ):
        assert old in text
        text = text.replace(old, new)
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        server = stack.enter_context(served(library, *OPTIONS, log=log, **ENVIRONMENT))
        proxy = stack.enter_context(nginx(tmp_path / "nginx", text, server.address, connections=4096))
        yield Place(server, proxy.url)


# -- clients


Client = Callable[[aiohttp.ClientSession, str, Film, random.Random, Seen], Awaitable[None]]


async def get_range(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    start = dice.randrange(len(film.data))
    stop = min(len(film.data), start + dice.randrange(1, 2**18))
    version = f"&v={film.version}" if dice.random() < 0.5 else ""
    target = f"{url}/video/range?name={Path(film.name).name}{version}"
    async with session.get(target, headers={"Range": f"bytes={start}-{stop - 1}"}) as answer:
        body = await answer.read()
        seen.check(answer.status == 206, f"{target}: {answer.status}")
        if answer.status == 206:
            seen.check(body == film.data[start:stop], f"{target} {start}-{stop}: wrong bytes")


async def get_seek(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    pts = dice.randrange(BLOCKS * 1_000_000)
    async with session.get(f"{url}/video/seek?name={Path(film.name).name}&pts={pts}") as answer:
        found = await answer.json()
        expected = max(key for key in film.keys if key <= pts)
        seen.check(answer.status == 200 and found["pts"] == expected, f"seek {pts}: {answer.status} {found}")


async def get_events(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    async with session.get(f"{url}/events") as answer:
        seen.check(answer.status == 200, f"/events: {answer.status}")
        for _ in range(dice.randrange(2, 20)):
            line = await answer.content.readline()
            seen.check(line == b"\n" or line.startswith((b"event:", b"data:", b":")), f"/events: {line!r}")


async def upload(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    name, body = f"up{dice.randrange(2**60):x}.h4mk", dice.randbytes(dice.randrange(1, 2**18))
    async with session.post(f"{url}/video/export?name={name}&raw=1", data=body) as answer:
        text = await answer.text()
        seen.check(answer.status == 201, f"export: {answer.status} {text}")
        if answer.status != 201:
            return
    async with session.get(f"{url}/video/range?name={name}") as answer:
        seen.check(await answer.read() == body, f"{name}: wrong bytes")
    async with session.delete(f"{url}/media?name={name}") as answer:
        number = (await answer.json()).get("id")
        seen.check(answer.status == 200, f"delete: {answer.status}")
    async with session.delete(f"{url}/media/trash?id={number}") as answer:
        seen.check(answer.status == 204, f"purge: {answer.status}")


async def get_page(
    session: aiohttp.ClientSession, url: str, film: Film, dice: random.Random, seen: Seen
) -> None:
    name = Path(film.name).name
    target = dice.choice(["/", "/media", f"/video/info?name={name}", "/openapi.json", "/ready", "/metrics"])
    async with session.get(url + target) as answer:
        await answer.read()
        seen.check(answer.status == 200, f"{target}: {answer.status}")


CLIENTS: Final[dict[str, Client]] = {
    "range": get_range,
    "seek": get_seek,
    "listen": get_events,
    "upload": upload,
    "page": get_page,
}


async def crowd(place: Place, films: list[Film], seconds: float, watch: Callable[[], None]) -> Seen:
    """All clients at once until the time is over; each pauses for some milliseconds between requests."""
    seen = Seen()
    clock = asyncio.get_running_loop().time
    until_then = clock() + seconds
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
    ) as session:

        async def live(kind: str, number: int) -> None:
            dice = random.Random(f"{kind} {number}")
            while clock() < until_then:
                await asyncio.sleep(dice.random() * 0.5)
                started = clock()
                try:
                    limit = max(0.1, until_then - clock()) if kind == "listen" else 60
                    async with asyncio.timeout(limit):
                        await CLIENTS[kind](session, place.url, dice.choice(films), dice, seen)
                except TimeoutError:
                    seen.check(kind == "listen", f"{kind}: no answer in time")
                except (aiohttp.ClientError, OSError) as error:
                    seen.check(False, f"{kind}: {type(error).__name__} {error}")
                seen.times[kind].append(clock() - started)
                seen.counts[kind] += 1

        async def look() -> None:
            while clock() < until_then:
                await asyncio.to_thread(watch)
                await asyncio.sleep(1)

        lives = [live(kind, number) for kind, most in KINDS.items() for number in range(most)]
        await asyncio.gather(*lives, look())
    return seen


# -- what is measured


def anonymous(pid: int) -> int:
    """Bytes of memory that are a process's own: pages of containers, which are mapped, are the kernel's."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Anonymous:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(values: list[float]) -> float:
    """Change per step, by least squares."""
    middle = (len(values) - 1) / 2
    over = sum((n - middle) ** 2 for n in range(len(values)))
    return sum((n - middle) * value for n, value in enumerate(values)) / over if over else 0.0


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def test_two_hundred_clients(place: Place, films: list[Film]) -> None:
    workers = place.server.workers()
    before = sum(map(descriptors, workers))
    memory: list[float] = []
    seen = asyncio.run(
        crowd(place, films, SECONDS, lambda: memory.append(float(sum(map(anonymous, workers)))))
    )
    half = memory[len(memory) // 2 :]
    growth = slope(half) * len(half)
    figures: dict[str, Any] = {
        "seconds": SECONDS,
        "answers": dict(seen.counts),
        "p50": {kind: round(quantile(times, 0.5), 4) for kind, times in seen.times.items()},
        "p99": {kind: round(quantile(times, 0.99), 4) for kind, times in seen.times.items()},
        "memory_MiB": [round(value / 2**20, 1) for value in memory[:: max(1, len(memory) // 10)]],
        "growth_in_second_half_MiB": round(growth / 2**20, 2),
        "wrong": seen.wrong,
    }
    (ROOT / ".build").mkdir(exist_ok=True)
    (ROOT / ".build" / "system.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    assert not seen.wrong
    assert place.server.workers() == workers  # none of them died
    assert growth < 16 * 2**20
    # nginx keeps 64 connections; containers stay open.
    until(
        lambda: sum(map(descriptors, workers)) <= before + 64 + 40 * len(workers),
        "descriptors that are given back",
    )
    assert quantile(seen.times["seek"], 0.99) < P99


def test_sigterm_under_load(films: list[Film], tmp_path: Path) -> None:
    """What has begun ends whole, `/ready` turns first, and the server is gone in time."""
    library = Path(films[0].name).parent
    with (
        (tmp_path / "log").open("wb") as log,
        served(library, *OPTIONS, log=log, **ENVIRONMENT) as server,
    ):
        lines = [server.connect(small=True) for _ in range(40)]
        for number, line in enumerate(lines):
            line.ask(f"/video/range?name={Path(films[number % 5].name).name}")
            assert line.head()[0] == 200
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/ready")[0] == 503, "/ready, which turns first")
        assert server.get("/health")[0] == 200  # and everything is answered still
        for number, line in enumerate(lines):
            assert line.body(BLOCK * BLOCKS) == films[number % 5].data
            line.close()
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 1 + 10 + 5 + 5


def test_a_worker_is_killed_under_load(place: Place, films: list[Film]) -> None:
    """Only what it was answering fails; nginx asks another one for what can be asked again."""
    victim = place.server.workers()[0]

    def kill() -> None:
        with suppress(ProcessLookupError):
            if alive(victim):
                os.kill(victim, signal.SIGKILL)

    seen = asyncio.run(crowd(place, films, min(SECONDS, 10), kill))
    assert not any("wrong bytes" in one for one in seen.wrong)
    assert len(seen.wrong) < sum(KINDS.values()) / 2
    until(lambda: len(place.server.workers()) == 2, "its successor")
    seen = asyncio.run(crowd(place, films, min(SECONDS, 5), lambda: None))
    assert not seen.wrong


def test_two_thousand_idle_connections(films: list[Film], tmp_path: Path) -> None:
    """And a slowloris beside them: others are answered meanwhile, and the slow ones are sent away."""
    library = Path(films[0].name).parent
    environment = ENVIRONMENT | {"HARMONY4_READ_TIMEOUT": "2", "HARMONY4_KEEPALIVE_TIMEOUT": "4"}
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        server = stack.enter_context(served(library, *OPTIONS, log=log, descriptors=8192, **environment))
        lines = [stack.enter_context(server.connect()) for _ in range(2000)]
        slow = [stack.enter_context(server.connect()) for _ in range(50)]
        for line in slow:
            line.send(b"GET /health HTTP/1.1\r\nHost: local")
        times = []
        for _ in range(200):
            started = time.monotonic()
            assert server.get("/health")[0] == 200
            times.append(time.monotonic() - started)
        print(f"with 2050 idle connections: p99 {quantile(times, 0.99) * 1000:.1f} ms")
        for line in slow:
            assert line.head()[0] == 408
        for line in lines[::100]:
            line.socket.settimeout(30)
            assert line.socket.recv(1) == b""  # closed as idle
