"""How long one client's seeks take while another client streams a container that is not in memory."""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.load import Connection, chill, status, warm
from bench.long import micros, ten_hours
from bench.measure import Place, Table, harmony4, median, percentile, run, spread
from bench.servers import Server, cores, ours

SLOWER = 3.0
MINUTES = 60
"""Of the container that is sought in."""
PLANS = ((7, 4000, 2048), (2, 500, 256), (1, 50, 16))
"""Rounds, seeks on the quiet server, MiB of the container that is streamed."""
FEW = 300
"""Seeks below which a 99th percentile says little."""
STAYED = 0.02
"""Part of the streamed file that may be in memory before it."""


def cold(place: Place) -> Table:
    """Every round starts its own server: what one has sent stays mapped in it, and cannot be dropped."""
    table, pair = Table(), cores()
    rounds, count, mebibytes = PLANS[place.quick]
    if pair is None:
        table.notes.append("Not measured: it needs a second core.")
        return table
    phases: dict[str, list[list[float]]] = {"quiet": [], "cold": [], "warm": []}
    speeds: dict[str, list[float]] = {"cold": [], "warm": []}
    fetched, before = [], os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="cold-", dir=place.cache) as folder:
        home = Path(folder)
        library = home / "library"
        library.mkdir()
        _library(library, place.cache, mebibytes)
        big, size = library / "big.h4mk", mebibytes * 2**20
        for turn in range(rounds):
            with ExitStack() as stack:
                server = stack.enter_context(ours(library, home, pair[0]))
                warm([library / "small.h4mk"])
                os.sched_setaffinity(0, {pair[1]})
                stack.callback(os.sched_setaffinity, 0, before)
                _seeks(server, turn, lambda done: done < count // 4)
                phases["quiet"].append(_seeks(server, turn, lambda done: done < count))
                if (stayed := chill(big)) > STAYED:
                    raise SystemExit(f"error: {stayed:.0%} of {big} stays in memory")
                for phase in ("cold", "warm"):
                    read = server.disk()
                    took, found = _streamed(server, size, turn)
                    phases[phase].append(found)
                    speeds[phase].append(size / 2**20 / took)
                    if phase == "cold":
                        fetched.append((server.disk() - read) / size)
                        warm([big])
    p99 = {name: [percentile(each, 0.99) for each in found] for name, found in phases.items()}
    for phase, title, target in (
        ("cold", "a container that is not in memory", True),
        ("warm", "the same one again, from memory", False),
    ):
        ratios = [one / quiet for one, quiet in zip(p99[phase], p99["quiet"], strict=True)]
        table.add(
            f"p99 of `/video/seek` while another client streams {title} ÷ p99 on the quiet server",
            f"{spread(ratios)}; {micros([one for each in phases[phase] for one in each])}",
            f"≤ {SLOWER:.0f}" if target else "",
            f"quiet: {micros([one for each in phases['quiet'] for one in each])}",
            median(ratios) <= SLOWER if target else None,
        )
    few = min(len(each) for found in phases.values() for each in found)
    table.notes.append(
        f"{rounds} rounds; streamed {mebibytes} MiB at {median(speeds['cold']):.0f} MiB/s, then at "
        f"{median(speeds['warm']):.0f} MiB/s from memory. The server had {median(fetched):.0%} of the cold "
        f"bytes fetched from the disk itself; at least {few} seeks in each phase."
        + (" That is too few for a 99th percentile." if few < FEW else "")
    )
    return table


def _library(library: Path, cache: Path, mebibytes: int) -> None:
    """A film to seek in, and incompressible bytes on the disk: a hole would need no disk."""
    run([harmony4(), "export", "-q", ten_hours(cache, MINUTES), "-o", library / "small.h4mk"])
    numbers, source = random.Random(1), library / "big.bin"
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(numbers.randbytes(2**20))
    run([harmony4(), "export", "--raw", "-q", source, "-o", library / "big.h4mk"])
    source.unlink()


def _seeks(server: Server, seed: int, more: Callable[[int], bool]) -> list[float]:
    """Seconds of each seek, one after the other over one connection, as long as `more(done)` says."""
    numbers, took = random.Random(seed), []
    gc.disable()
    try:
        with Connection(server.port) as connection:
            while more(len(took)):
                at = numbers.randrange(MINUTES * 60_000_000)
                request = connection.request(f"/video/seek?name=small.h4mk&pts={at}")
                before = time.perf_counter()
                head, _ = connection.ask(request)
                took.append(time.perf_counter() - before)
                if status(head) != 200:
                    raise SystemExit(f"error: {request!r}: {head!r}")
    finally:
        gc.enable()
    return took


def _streamed(server: Server, size: int, seed: int) -> tuple[float, list[float]]:
    """Seconds that streaming took, and those of the seeks meanwhile."""
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-P", "-m", "bench.cold", str(server.port), str(size)]
    environment = os.environ | {"PYTHONPATH": os.fspath(tests)}
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        reader.stdout.readline()  # it has started; imports are not part of the phase
        reader.stdin.write(b"go\n")
        reader.stdin.flush()
        found = _seeks(server, seed, lambda done: reader.poll() is None)
        said = reader.stdout.read()
        if reader.wait():
            raise SystemExit("error: streaming failed")
        return float(json.loads(said)), found
    finally:
        reader.kill()
        reader.wait()
        reader.stdin.close()
        reader.stdout.close()


def _stream(port: int, size: int) -> float:
    """The whole of big.h4mk's stream, as fast as it comes; seconds."""
    buffer, there = bytearray(2**20), 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        before = time.perf_counter()
        connection.sendall(
            b"GET /video/range?name=big.h4mk HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        while count := connection.recv_into(buffer):
            there += count
        took = time.perf_counter() - before
    if not size < there < size + 4096:
        raise SystemExit(f"error: {there} bytes of {size} came")
    return took


if __name__ == "__main__":
    os.nice(19)  # it shares a core with the client whose time is taken, and must not be what is measured
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_stream(int(sys.argv[1]), int(sys.argv[2]))), flush=True)
