"""What operators run beside what is measured elsewhere: everything switched on, and nginx before it.

The other tables are of a server with its access log and nothing else. This one has, in the same rounds,
the same server with tokens, keyring, JSON log, metrics that are read each second, scrubbing, limits, a proxy
that is believed and its facts in SQLite; and that one behind nginx with `deploy/nginx.conf`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import Connection, Target, drive, status, warm, wrk_program
from bench.long import MINUTES, micros, ten_hours
from bench.measure import Place, Table, harmony4, median, percentile, run, spread, whole
from bench.operated_rest import rest
from bench.ranges import GIB, KIB, MIB, Layout, layout, size
from bench.ranges import Plan as OfRanges
from bench.servers import Server, behind, cores, nginx_program, ours, peer
from bench.streams import all_of, arriving, film, first_token, get, sound


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    seconds: int = 2
    files: int = 4
    size: int = 64 * MIB
    minutes: int = MINUTES
    events: int = 200_000
    firsts: int = 200
    sound: int = 1800
    """Seconds of it."""
    upload: int = 512
    """MiB."""
    lengths: tuple[int, ...] = (KIB, 64 * KIB, MIB, 16 * MIB)


PLANS = (
    Plan(),
    Plan(rounds=2, seconds=1, minutes=10, events=50_000, firsts=40, sound=120, upload=64),
    Plan(1, 1, 2, 2 * MIB, 2, 5000, 5, 10, 4, (64 * KIB, MIB)),
)


@dataclass(frozen=True, slots=True)
class All:
    """The servers, by what they are called in the table."""

    plain: Server
    full: Server
    """With everything."""
    kept: Server
    """nginx before it, which keeps what was asked for."""
    passed: Server
    """nginx before it, which keeps nothing."""
    mirror_kept: Server
    """nginx before itself, with the same settings."""
    mirror_passed: Server
    token: str
    """What the full one wants from whoever changes something."""

    @property
    def fields(self) -> str:
        return f"Authorization: Bearer {self.token}\r\n"


def operated(place: Place) -> Table:
    """All of it; each ratio is of one round."""
    table, plan, pair = Table(), PLANS[place.quick], cores()
    if wrk_program() is None or nginx_program() is None or pair is None:
        table.notes.append("Not measured: it needs wrk, nginx and a second core.")
        return table
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="operated-", dir=place.cache)))
        home.chmod(0o755)  # whoever nginx's worker runs as
        library, mirror = home / "library", home / "mirror"
        for folder in (library, mirror, home / "plain"):
            folder.mkdir()
        each = layout("raw", OfRanges(files=plan.files, size=plan.size), place.cache, mirror, library)
        # Under the names that containers have.
        each = replace(each, plain=[path.rename(path.with_suffix(".h4mk")) for path in each.plain])
        _more(library, home, plan, place.cache)
        one = stack.enter_context(_servers(library, mirror, home, pair[0]))
        mine = os.sched_getaffinity(0)
        warm(sorted(library.iterdir()))
        _of_ranges(table, plan, one, each, home, pair[1])
        _of_seeks(table, plan, one, home, pair, mirror)
        os.sched_setaffinity(0, {pair[1]})
        stack.callback(os.sched_setaffinity, 0, mine)
        _of_streams(table, plan, one, place.cache, place.quick)
        _of_uploads(table, plan, one, home, library)
        servers = {"as measured above": one.plain, "everything": one.full, "behind nginx": one.passed}
        source = ten_hours(place.cache, min(plan.minutes, 60))
        rest(table, place, plan.minutes, plan.events, servers, one.fields, home, library, source)
    table.notes.append(
        f"{plan.rounds} rounds of {plan.seconds} s, 8 connections; all servers of a row are on one core, "
        "nginx and the one behind it together. Everything: tokens with `public_read`, `keyring`, "
        "`access_log` as JSON, `cache`, `state` (audit log), `scrub_rate` 4 MiB/s, all limits, "
        "`trusted_proxies`, `cors_origins`, and `/metrics` read each second."
    )
    return table


def _more(library: Path, home: Path, plan: Plan, cache: Path) -> None:
    """Containers for seeks, tokens and masks."""
    for name, fragmented in (("long", False), ("fragments", True)):  # there are playlists of the latter
        source = ten_hours(cache, plan.minutes, fragmented=fragmented)
        run([harmony4(), "export", "-q", source, "-o", library / f"{name}.h4mk"])
    (home / "near.bin").write_bytes(os.urandom(64 * plan.events))
    raw = [harmony4(), "export", "-q", "--raw"]
    run([*raw, "--block-size", "64", home / "near.bin", "-o", library / "near.h4mk"])
    (home / "near.bin").unlink()
    key = home / "keys" / "bench.key"
    key.parent.mkdir(mode=0o700)
    run([harmony4(), "keygen", "-q", "-o", key])
    run([harmony4(), "mask", "-q", library / "raw0.h4mk", "-o", library / "masked.h4mk", "--key-file", key])


@contextlib.contextmanager
def _servers(library: Path, mirror: Path, home: Path, core: int) -> Iterator[All]:
    """All of them; those that serve nobody at the moment cost little."""
    config = home / "harmony4.toml"
    folders = {name: home / name for name in ("state", "cache", "full")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    config.write_text(
        f"""[server]
library = "{library}"
state = "{folders["state"]}"
cache = "{folders["cache"]}"
keyring = "{home / "keys"}"
public_read = true
access_log = true
log_format = "json"
trusted_proxies = ["127.0.0.1"]
cors_origins = ["https://media.example.org"]
max_streams = 100000
max_streams_per_client = 100000
max_connections_per_client = 100000
max_upload = {2**36}
quota = {2**40}
scrub_rate = {4 * MIB}
scrub_pause = 0.05
""",
        encoding="utf-8",
    )
    made = subprocess.run(
        [harmony4(), "token", "add", "bench", "--scope", "admin", "--config", config, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    token = json.loads(made.stdout)["token"]
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(ours(library, home, core))
        full = stack.enter_context(ours(library, folders["full"], core, "--config", os.fspath(config)))
        found = [
            stack.enter_context(behind(name, mirror, home, core, port, keep=keep))
            for name, port, keep in (
                ("kept", full.port, True),
                ("passed", full.port, False),
                ("mirror-kept", None, True),
                ("mirror-passed", None, False),
            )
        ]
        one = All(plain, full, *found, token)
        stack.enter_context(_scraped(one))
        yield one


@contextlib.contextmanager
def _scraped(one: All) -> Iterator[None]:
    """Read the metrics each second, as Prometheus does at its most eager."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1):
            with Connection(one.full.port) as line:
                head, _ = line.ask(line.request("/metrics", one.fields))
                assert status(head) == 200, head

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _rates(
    plan: Plan,
    asked: dict[str, tuple[Server, list[Target], str]],
    length: int,
    home: Path,
    core: int,
) -> dict[str, list[float]]:
    """Answers a second of each, round by round."""
    rates: dict[str, list[float]] = {name: [] for name in asked}
    for server, targets, fields in asked.values():
        drive(server, targets, length, 1, 999, core, home, check=True, fields=fields)
    names = list(asked)
    for turn in range(plan.rounds):
        first = turn % len(names)  # another one is first in each round
        for name in names[first:] + names[:first]:
            server, targets, fields = asked[name]
            rate = drive(server, targets, length, plan.seconds, 1 + turn + length, core, home, fields=fields)
            rates[name].append(rate.per_second)
    return rates


def _ratio(rates: dict[str, list[float]], mine: str, other: str) -> str:
    return spread([a / b for a, b in zip(rates[mine], rates[other], strict=True)])


def _of_ranges(table: Table, plan: Plan, one: All, each: Layout, home: Path, core: int) -> None:
    for server in (one.kept, one.mirror_kept):
        for target in each.targets("ours", 0):  # all slices into the cache
            url = f"http://127.0.0.1:{server.port}{target.path}"
            subprocess.run(["curl", "-sSf", "-o", os.devnull, url], check=True)
    for length in plan.lengths:
        targets = each.targets("ours", length)
        masked = [Target("/video/range?name=masked.h4mk", targets[0].span)]
        asked = {
            "plain": (one.plain, targets, ""),
            "full": (one.full, targets, ""),
            "token": (one.full, targets, one.fields),
            "open": (one.full, targets[:1], one.fields),
            "masked": (one.full, masked, one.fields),
            "kept": (one.kept, targets, ""),
            "mirror kept": (one.mirror_kept, targets, ""),
            "passed": (one.passed, targets, ""),
            "mirror passed": (one.mirror_passed, targets, ""),
        }
        if length > 2 * MIB:  # wrk keeps one answer to a connection, and a slice is 1 MiB
            asked.pop("masked")
            asked.pop("open")
        rates = _rates(plan, asked, length, home, core)
        title, speed = f"ranges of {size(length)}", {name: _said(rates[name], length) for name in rates}
        table.add(
            f"{title}: everything ÷ as measured above", _ratio(rates, "full", "plain"), "", speed["full"]
        )
        table.add(f"{title}, with a token ÷ without", _ratio(rates, "token", "full"), "", speed["token"])
        if "masked" in asked:
            parts = [a / b for a, b in zip(rates["masked"], rates["open"], strict=True)]
            table.add(
                f"{title}, masked ÷ plain", spread(parts), "≥ 0.3", speed["masked"], median(parts) >= 0.3
            )
        for way, said in (("kept", "slices that nginx keeps"), ("passed", "nothing kept")):
            table.add(
                f"{title}, behind nginx, {said}: ÷ nginx before itself",
                _ratio(rates, way, f"mirror {way}"),
                "",
                speed[way],
            )


def _said(rates: list[float], length: int) -> str:
    return f"{whole(rates)}/s, {median(rates) * length / GIB:.2f} GiB/s"


def _of_seeks(table: Table, plan: Plan, one: All, home: Path, pair: tuple[int, int], mirror: Path) -> None:
    targets = [Target("/video/seek?name=long.h4mk&pts=", plan.minutes * 60_000_000 - 1)]
    with Connection(one.plain.port) as line:
        _, body = line.ask(line.request(f"{targets[0].path}{plan.minutes * 30_000_000}"))
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(peer("constant", home, home, pair[0], body.decode()))
        fronted = stack.enter_context(behind("constant-behind", mirror, home, pair[0], bare.port, keep=False))
        asked = {
            "plain": (one.plain, targets, ""),
            "full": (one.full, targets, ""),
            "bare": (bare, targets, ""),
            "proof": (one.full, [Target("/video/seek?proof=1&name=long.h4mk&pts=", targets[0].span)], ""),
            "behind": (one.passed, targets, ""),
            "bare behind": (fronted, targets, ""),
        }
        rates = _rates(plan, asked, 0, home, pair[1])
    table.add(
        "seeks: everything ÷ as measured above",
        _ratio(rates, "full", "plain"),
        "",
        f"{whole(rates['full'])}/s",
    )
    table.add("seeks: everything ÷ a handler with a constant body", _ratio(rates, "full", "bare"), "≥ 0.7")
    table.add(
        "seeks with a proof ÷ without", _ratio(rates, "proof", "full"), "", f"{whole(rates['proof'])}/s"
    )
    table.add(
        "seeks behind nginx ÷ that handler behind the same nginx",
        _ratio(rates, "behind", "bare behind"),
        "",
        f"{whole(rates['behind'])}/s",
    )


def _of_streams(table: Table, plan: Plan, one: All, cache: Path, quick: int) -> None:
    servers = {"as measured above": one.plain, "everything": one.full, "behind nginx": one.passed}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(plan.rounds + 1):
        for name, server in servers.items():
            took = all_of(get(server, "/video/stream?name=near.h4mk"))
            if turn:
                rates[name].append(plan.events / took)
    table.add(
        "tokens of a container over SSE",
        f"{whole(rates['everything'])} events/s; behind nginx {whole(rates['behind nginx'])}",
        "≥ 300 000",
        f"as measured above: {whole(rates['as measured above'])}",
        median(rates["everything"]) >= 300_000,
    )
    firsts = {name: [first_token(server) for _ in range(plan.firsts)] for name, server in servers.items()}
    table.add(
        "first token, from the request on a new connection",
        f"{micros(firsts['everything'])}; behind nginx {micros(firsts['behind nginx'])}",
        "≤ 5 ms at p99",
        f"as measured above: {micros(firsts['as measured above'])}",
        percentile(firsts["everything"], 0.99) <= 5e-3,
    )
    moving, recording = film(cache, "30 Mbit/s", quick), sound(cache, plan.sound)
    long = ten_hours(cache, plan.minutes, fragmented=True)
    warm([moving, recording, long])
    for title, path, source, over, unit in (
        ("`POST /video/stream` of 30 Mbit/s", "/video/stream", moving, moving.stat().st_size / 1e6, "MB/s"),
        ("`POST /video/stream` of ten hours", "/video/stream", long, long.stat().st_size / 1e6, "MB/s"),
        ("`POST /audio/stream` of WAV", "/audio/stream", recording, plan.sound, "times real time"),
        (
            "`POST /audio/stream?profile=detail` of WAV",
            "/audio/stream?profile=detail",
            recording,
            plan.sound,
            "times real time",
        ),
    ):
        found = {
            name: [over / arriving(server, source, path, one.fields)[0] for _ in range(min(3, plan.rounds))]
            for name, server in servers.items()
        }
        table.add(
            title,
            f"{spread(found['everything'])} {unit}; behind nginx {spread(found['behind nginx'])}",
            "≥ 300" if "video" in path else "≥ 150",
            f"as measured above: {spread(found['as measured above'])}",
            median(found["everything"]) >= (300 if "video" in path else 150),
        )


def _of_uploads(table: Table, plan: Plan, one: All, home: Path, library: Path) -> None:
    source = home / "upload.bin"
    with source.open("wb") as file:
        for _ in range(plan.upload):
            file.write(os.urandom(MIB))
    speeds: dict[str, list[float]] = {"plain": [], "full": [], "passed": []}
    for turn in range(min(3, plan.rounds) + 1):
        for name, server in (("plain", one.plain), ("full", one.full), ("passed", one.passed)):
            warm([source])
            url = f"http://127.0.0.1:{server.port}/video/export?name=sent.h4mk&raw=1"
            command = ["curl", "-sSf", "-X", "POST", "-T", source, "-o", os.devnull, url]
            began = time.perf_counter()
            subprocess.run([*command, "-H", f"Authorization: Bearer {one.token}"], check=True)
            if turn:
                speeds[name].append(plan.upload / (time.perf_counter() - began))
            (library / "sent.h4mk").unlink()
    table.add(
        "uploads: everything ÷ as measured above",
        _ratio(speeds, "full", "plain"),
        "",
        f"{whole(speeds['full'])} MiB/s",
    )
    table.add(
        "uploads behind nginx ÷ as measured above",
        _ratio(speeds, "passed", "plain"),
        "",
        f"{whole(speeds['passed'])} MiB/s",
    )
