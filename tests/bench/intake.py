"""Uploads: their throughput beside the command's, memory with many at once, seeks meanwhile."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.load import Connection, status, warm
from bench.long import ten_hours
from bench.measure import Place, Table, harmony4, median, percentile, run, spread
from bench.servers import Server, everywhere

ENOUGH, MEMORY, PATIENCE = 0.6, 200 * 2**20, 0.020
AT_ONCE, BESIDE = 20, 4
PLANS = ((5, 2048, 600, 256), (2, 256, 60, 64), (1, 8, 1, 2))
"""Rounds; MiB of the opaque source; minutes of the film; MiB of each of the many uploads."""
MIB = 2**20
MINUTES = 60
"""Of the container that is sought in."""


def intake(place: Place) -> Table:
    """curl sends, as a user would; the server runs on all cores, as the command does."""
    table = Table()
    rounds, mebibytes, minutes, each = PLANS[place.quick]
    curl = shutil.which("curl")
    if curl is None:
        table.notes.append("Not measured: it needs curl.")
        return table
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intake-", dir=place.fast)))
        library = home / "library"
        library.mkdir()
        opaque, film = home / "source.bin", ten_hours(place.cache, minutes)
        hour = ten_hours(place.cache, MINUTES)
        noise(opaque, mebibytes)
        run([harmony4(), "export", "-q", hour, "-o", library / "seek.h4mk"])
        server = stack.enter_context(everywhere(library, home))
        for source, more, title, target in (
            (opaque, "&raw=1", f"opaque, {mebibytes} MiB", ENOUGH),
            (film, "", f"H.264 and AAC in MP4, {film.stat().st_size // MIB} MiB", ENOUGH),
        ):
            ratios, speeds = _compare(server, curl, home, library, source, more, rounds)
            table.add(
                f"an upload, {title}: throughput ÷ that of `harmony4 export`",
                f"{spread(ratios)}; {median(speeds):.0f} MiB/s",
                f"≥ {target}",
                "",
                median(ratios) >= target,
            )
        small = home / "small.bin"
        noise(small, each)
        _many(table, server, curl, library, small, hour)
        quiet = seeks(server, "seek.h4mk", MINUTES, lambda done: done < 3000)
        with uploading(server, curl, library, opaque, film, BESIDE) as over:
            busy = seeks(server, "seek.h4mk", MINUTES, lambda done: not over.is_set())
        table.add(
            f"p99 of `/video/seek` while {BESIDE} uploads run",
            f"{percentile(busy, 0.99) * 1e3:.1f} ms, of {len(busy)} seeks",
            f"< {PATIENCE * 1e3:.0f} ms",
            f"alone: {percentile(quiet, 0.99) * 1e3:.2f} ms",
            percentile(busy, 0.99) < PATIENCE,
        )
    table.notes.append(f"{rounds} rounds; files on {'a tmpfs' if place.in_memory else 'a disk'}.")
    return table


def noise(path: Path, mebibytes: int) -> None:
    numbers = random.Random(7)
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(numbers.randbytes(MIB))


def _compare(
    server: Server, curl: str, home: Path, library: Path, source: Path, more: str, rounds: int
) -> tuple[list[float], list[float]]:
    ratios, speeds, size = [], [], source.stat().st_size
    raw = ["--raw"] if more else []
    for turn in range(rounds + 1):
        warm([source])
        alone = run([harmony4(), "export", "-q", *raw, source, "-o", home / "alone.h4mk"]).wall
        began = time.perf_counter()
        _send(server, curl, source, "sent.h4mk", more)
        took = time.perf_counter() - began
        if turn == 0 and not filecmp.cmp(library / "sent.h4mk", home / "alone.h4mk", shallow=False):
            raise SystemExit("error: the upload has become another container than the command makes")
        (library / "sent.h4mk").unlink()
        (home / "alone.h4mk").unlink()
        if turn:  # the first one warms up
            ratios.append(alone / took)
            speeds.append(size / MIB / took)
    return ratios, speeds


def _send(server: Server, curl: str, source: Path, name: str, more: str, fields: str = "") -> None:
    url = f"http://127.0.0.1:{server.port}/video/export?name={name}{more}"
    command = [
        curl,
        "-sS",
        "--max-time",
        "600",
        "-X",
        "POST",
        "-T",
        os.fspath(source),
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
        *(["-H", fields.strip()] if fields else []),
        url,
    ]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    if found.stdout != b"201":
        raise SystemExit(f"error: {url}: {found.stdout!r}")


def _many(table: Table, server: Server, curl: str, library: Path, small: Path, film: Path) -> None:
    """Half of them opaque, half of them film, so that demuxers run."""
    peak, anonymous, own = 0, 0, 0
    with uploading(server, curl, library, small, film, AT_ONCE) as over:
        while not over.wait(0.1):
            found = server.memory()
            peak, anonymous = max(peak, found["VmRSS"]), max(anonymous, found["RssAnon"])
            own = max(own, server.memory(alone=True)["VmRSS"])
    table.add(
        f"peak resident memory of the server, {AT_ONCE} uploads at once",
        f"{own / MIB:.0f} MiB",
        f"< {MEMORY // MIB} MiB",
        f"with all demuxers' processes: {peak / MIB:.0f} MiB, {anonymous / MIB:.0f} MiB of it anonymous",
        own < MEMORY,
    )


@contextmanager
def uploading(
    server: Server, curl: str, library: Path, opaque: Path, film: Path, count: int, fields: str = ""
) -> Iterator[threading.Event]:
    """Uploads that run beside the block; the event is set when all of them have ended."""
    over = threading.Event()
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            source, more = (film, "") if number % 2 else (opaque, "&raw=1")
            _send(server, curl, source, f"many{number}.h4mk", more, fields)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]

    def all_of_them() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()

    waiting = threading.Thread(target=all_of_them)
    waiting.start()
    try:
        yield over
    finally:
        waiting.join()
    if failed:
        raise SystemExit(f"error: an upload failed: {failed[0]}")
    for number in range(count):
        (library / f"many{number}.h4mk").unlink()


def seeks(server: Server, name: str, minutes: int, more: Callable[[int], bool]) -> list[float]:
    numbers, took = random.Random(3), []
    with Connection(server.port) as connection:
        while more(len(took)):
            request = connection.request(
                f"/video/seek?name={name}&pts={numbers.randrange(minutes * 60_000_000)}"
            )
            before = time.perf_counter()
            head, _ = connection.ask(request)
            took.append(time.perf_counter() - before)
            if status(head) != 200:
                raise SystemExit(f"error: {request!r}: {head!r}")
    return took
