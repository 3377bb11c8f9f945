"""Masking: keystream and tags on one core, and `/video/range` of masked containers beside plain ones.

`python -m bench.mask` prints the first two as JSON: bytes a second of each way, in each round.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.load import Rate, Target, drive, warm, wrk_program
from bench.measure import Place, Table, harmony4, median, run, spread
from bench.ranges import GIB, KIB, MIB, PLANS, Layout, compare, layout, plausible, size
from bench.servers import Server, cores, ours
from harmony4.crypto.digest import sha256
from harmony4.crypto.mac import equal
from harmony4.crypto.mask import FileKey, xor_mask_into
from harmony4.crypto.token import MASKED, TokenRecord

LENGTHS = (KIB, 64 * KIB, MIB, 16 * MIB)
LEAST = 0.3
"""The ratio that is wanted, from `WANTED` bytes on."""
WANTED = MIB
GB = 1e9
MEMORY = 200 * MIB
"""As for plain containers."""
SPEEDS = {
    "mask": ("masking", 2.0),
    "unmask": ("unmasking", 2.0),
    "mask and tag": ("masking, with the payload's SHA-256 and the tag", 0.8),
    "check and unmask": ("unmasking, with the payload's SHA-256 and the tag checked", 0.8),
}
"""Way -> what it is, and the GB/s that are wanted."""
ROUNDS = 9


def mask(place: Place) -> Table:
    """The speeds, then rounds of both kinds of containers on both layouts; each ratio is of one round."""
    table, pair = Table(), cores()
    core = pair[0] if pair is not None else 0
    speeds(table, core, place.quick)
    memory(table, place)
    if wrk_program() is None or pair is None:
        table.notes.append("Ranges were not measured: they need wrk and a second core.")
        return table
    plan = replace(PLANS[place.quick], lengths=LENGTHS, rounds=min(5, PLANS[place.quick].rounds))
    if place.quick > 1:
        plan = replace(plan, lengths=(64 * KIB, MIB))
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mask-", dir=place.cache)))
        folders = [home / name for name in ("library", "plain", "masked", "keys")]
        for folder in folders:
            folder.mkdir(mode=0o700)
        library, plain, hidden, keys = folders
        key = keys / "bench.key"
        subprocess.run([harmony4(), "keygen", "-q", "-o", key], check=True)
        layouts = []
        for kind in plan.layouts:
            open_one = layout(kind, plan, place.cache, plain, library)
            sealed = [hidden / path.name for path in open_one.sealed]
            for source, target in zip(open_one.sealed, sealed, strict=True):
                command = [harmony4(), "mask", "-q", source, "-o", target, "--key-file", key]
                subprocess.run(command, check=True)
            layouts.append((open_one, Layout(open_one.title, open_one.plain, sealed)))
        log = [home / "open", home / "masked-log"]
        for folder in log:
            folder.mkdir()
        servers = (
            stack.enter_context(ours(library, log[0], pair[0])),
            stack.enter_context(ours(hidden, log[1], pair[0], "--keyring", os.fspath(keys))),
        )
        most = [0, 0]
        for number, both in enumerate(layouts):
            for length in plan.lengths:
                rates = measure(servers, both, length, plan.rounds, plan.seconds, home, pair[1], number, most)
                add(table, both[0].title, length, rates)
        table.add(
            "most memory of its own (RssAnon) of the server with masked containers",
            f"{most[1] / MIB:.0f} MiB",
            peer=f"with plain ones: {most[0] / MIB:.0f} MiB",
        )
    table.notes.append(
        f"{plan.rounds} rounds of {plan.seconds} s, 8 connections; one server for each kind, both on one "
        "core, asked in turns. Everything has been read once before, so each block's digest was checked by "
        "then; its token is compared for every answer."
    )
    return table


def speeds(table: Table, core: int, quick: int) -> None:
    """What keystream and tags take."""
    command = [sys.executable, "-P", "-m", "bench.mask", "1" if quick else str(ROUNDS)]
    environment = os.environ | {"PYTHONPATH": os.fspath(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    for way, (title, wanted) in SPEEDS.items():
        rates = [one / GB for one in found[way]]
        table.add(
            f"{title}, blocks of 1 MiB, one core",
            f"{spread(rates)} GB/s",
            f"≥ {wanted:.1f} GB/s",
            met=median(rates) >= wanted,
        )


def memory(table: Table, place: Place) -> None:
    """What the commands take for a large container, from and to the disk."""
    length = 32 * MIB if place.quick else GIB
    with tempfile.TemporaryDirectory(prefix="mask-", dir=place.cache) as home:
        source, plain, masked = (Path(home) / name for name in ("source", "plain.h4mk", "masked.h4mk"))
        key = Path(home) / "bench.key"
        with source.open("wb") as file:
            file.truncate(length)
        run([harmony4(), "keygen", "-q", "-o", key])
        run([harmony4(), "export", "-q", "--raw", source, "-o", plain])
        for name, command in {
            "mask": ("mask", "-q", plain, "-o", masked),
            "unmask": ("unmask", "-q", masked, "-o", os.devnull),
            "export --mask": ("export", "-q", "--raw", "--mask", source, "-o", os.devnull),
        }.items():
            peak = run([harmony4(), *command, "--key-file", key]).peak
            table.add(
                f"`{name}`, {length // MIB} MiB in blocks of 1 MiB: peak resident memory",
                f"{peak / MIB:.0f} MiB",
                f"< {MEMORY // MIB} MiB",
                met=peak < MEMORY,
            )


def measure(
    servers: tuple[Server, Server],
    both: tuple[Layout, Layout],
    length: int,
    rounds: int,
    seconds: int,
    home: Path,
    core: int,
    number: int,
    most: list[int],
) -> tuple[list[Rate], list[Rate]]:
    """The rates of plain and masked containers; `most`: memory, which grows."""
    found: tuple[list[Rate], list[Rate]] = ([], [])
    heads = []
    for server, each in zip(servers, both, strict=True):
        warm(each.sealed)
        read_whole(server, each)
        heads.append(compare(server, each, length))
    for turn in range(rounds):
        for kind in (0, 1) if turn % 2 else (1, 0):
            targets: list[Target] = both[kind].targets("ours", length)
            seed = 1 + turn + 100 * number + length
            with watched(servers[kind], most, kind):
                rate = drive(servers[kind], targets, length, seconds, seed, core, home)
            plausible(servers[kind], rate, length, heads[kind])
            found[kind].append(rate)
    return found


def read_whole(server: Server, each: Layout) -> None:
    """Every block once."""
    for target in each.targets("ours", 0):
        subprocess.run(
            ["curl", "-sSf", "-o", os.devnull, f"http://127.0.0.1:{server.port}{target.path}"], check=True
        )


@contextlib.contextmanager
def watched(server: Server, most: list[int], kind: int) -> Iterator[None]:
    """Keep the greatest memory of a server while the block lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            most[kind] = max(most[kind], server.memory()["RssAnon"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def add(table: Table, title: str, length: int, rates: tuple[list[Rate], list[Rate]]) -> None:
    """A row."""
    ratios = [mine.per_second / open_one.per_second for open_one, mine in zip(*rates, strict=True)]
    computed = [mine.per_cpu_second / open_one.per_cpu_second for open_one, mine in zip(*rates, strict=True)]
    wanted = length >= WANTED
    table.add(
        f"blocks of {title}, ranges of {size(length)}: rate of masked containers ÷ of plain ones",
        f"{spread(ratios)}, for a second that the server computes {median(computed):.2f}; "
        f"{said(rates[1], length)}",
        f"≥ {LEAST}" if wanted else "",
        f"plain: {said(rates[0], length)}",
        median(ratios) >= LEAST if wanted else None,
    )
    print(f"  {title}, {size(length)}: {spread(ratios)}", file=sys.stderr, flush=True)


def said(rates: list[Rate], length: int) -> str:
    per_second = median([one.per_second for one in rates])
    return f"{per_second:.0f}/s, {per_second * length / GIB:.2f} GiB/s"


def main() -> int:
    """Bytes a second."""
    rounds = int(sys.argv[1])
    numbers = random.Random(1)
    key = FileKey(numbers.randbytes(32))
    trak, block, out = numbers.randbytes(32), numbers.randbytes(MIB), bytearray(MIB)
    token = TokenRecord(0, MASKED, MIB, 7, 0, 1, 0, 0, 0, 0, sha256(block), bytes(32))
    tagged = replace(token, tag=key.tag(trak, token.pack()))

    def keystream() -> None:
        xor_mask_into(block, out, key.block_key(0, 7))

    def and_tag() -> None:
        keystream()
        made = replace(token, digest=sha256(out))
        replace(made, tag=key.tag(trak, made.pack()))

    def checked() -> None:
        if sha256(block) != tagged.digest or not equal(key.tag(trak, tagged.pack()), tagged.tag):
            raise SystemExit("error: the tag does not fit")
        keystream()

    ways: dict[str, Callable[[], None]] = {
        "mask": keystream,
        "unmask": keystream,
        "mask and tag": and_tag,
        "check and unmask": checked,
    }
    print(json.dumps({name: [rate(way) for _ in range(rounds)] for name, way in ways.items()}))
    return 0


def rate(way: Callable[[], None], seconds: float = 0.3) -> float:
    """Bytes a second of CPU time of something done to 1 MiB: whatever else the core does meanwhile."""
    began, times = time.process_time(), 0
    while (taken := time.process_time() - began) < seconds:
        way()
        times += 1
    return times * MIB / taken


if __name__ == "__main__":
    sys.exit(main())
