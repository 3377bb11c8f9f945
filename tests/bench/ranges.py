"""Random byte ranges over loopback: `harmony4 serve` beside nginx, aiohttp and Starlette, on one payload."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load import CONNECTIONS, Connection, Rate, Target, drive, status, warm, wrk_program
from bench.long import ask
from bench.measure import Grid, Place, Table, harmony4, median
from bench.plot import Line, Panel, plot
from bench.servers import BEST, SENDFILE, Server, cores, installed, nginx, nginx_program, ours, peer

KIB, MIB, GIB = 2**10, 2**20, 2**30
BYTES = 4
"""Random ranges compared with the source: so many in each file, at each server and size."""
SLACK = 40
"""By how much two heads of one server may differ: digits of positions, the date."""
PLOT = "performance-ranges.svg"
CLIP = "-f lavfi -i testsrc2=size=1280x720:rate=30 -f lavfi -i sine=440:sample_rate=48000 -t 20"
CODE = (
    "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 30 -sc_threshold 0 -b:v 1150k -minrate 1150k "
    "-maxrate 1150k -bufsize 1150k -x264-params nal-hrd=cbr -c:a aac -b:a 64k"
)
SECOND = 150 * KIB
"""About what a second of these clips takes."""

LABELS = {
    "nginx-best": "nginx, its best",
    "nginx-sendfile": "nginx, sendfile",
    "aiohttp": "aiohttp",
    "starlette": "Starlette",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    layouts: tuple[str, ...] = ("raw", "video")
    files: int = 4
    size: int = 256 * MIB
    """Of each file, about."""
    lengths: tuple[int, ...] = (KIB, 64 * KIB, MIB, 16 * MIB)
    rounds: int = 7
    seconds: int = 3
    check: bool = False
    """Whether the rounds themselves look at every answer, instead of a run before them."""


PLANS = (
    Plan(),
    Plan(size=64 * MIB, rounds=2, seconds=1),
    Plan(layouts=("raw",), files=2, size=2 * MIB, lengths=(64 * KIB,), rounds=1, seconds=1, check=True),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of payload: the plain files, and the containers of the same bytes."""

    title: str
    plain: list[Path]
    sealed: list[Path]

    def targets(self, server: str, length: int) -> list[Target]:
        """Where a server has these bytes."""
        sizes = [path.stat().st_size - length for path in self.plain]
        if server in ("ours", "strict", "reading"):
            names = [f"/video/range?name={path.name}" for path in self.sealed]
        else:
            names = [f"/{path.name}" for path in self.plain]
        return [Target(name, size) for name, size in zip(names, sizes, strict=True)]


def wanted(length: int, name: str) -> float | None:
    """The least ratio that is a target, where there is one."""
    targets = {"nginx-best": 1.0, "aiohttp": 1.5} if length >= MIB else {"nginx-best": 0.7, "aiohttp": 4.0}
    if length < MIB:
        targets["starlette"] = 10.0
    return targets.get(name)


def ranges(place: Place) -> Table:
    """All sizes and layouts; the figure is the median of the rounds' ratios."""
    table, plan, pair = Table(), PLANS[place.quick], cores()
    if wrk_program() is None or nginx_program() is None or pair is None:
        table.notes.append("Not measured: it needs wrk, nginx and a second core.")
        return table
    ratios = (f"÷ {label}" for label in LABELS.values())
    head = ("blocks", "range", "ours", *ratios, "per CPU second ÷ nginx, its best")
    table.grid = Grid(head, [])
    panels = []
    busy: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ranges-", dir=place.cache)))
        library, plain = home / "library", home / "plain"
        library.mkdir()
        plain.mkdir()
        home.chmod(0o755)  # whoever nginx's worker runs as
        layouts = [layout(kind, plan, place.cache, plain, library) for kind in plan.layouts]
        servers = list(started(stack, plain, library, home, pair[0], table))
        for number, each in enumerate(layouts):
            panel = Panel(each.title, [Line(LABELS.get(one.name, "HarmonyØ4"), []) for one in servers])
            for length in plan.lengths:
                rates = measure(plan, servers, each, length, home, pair[1], number)
                add(table, each, length, rates)
                for line, server in zip(panel.lines, servers, strict=True):
                    per_second = median([one.per_second for one in rates[server.name]])
                    line.points.append((length, per_second * length))
                    busy.setdefault(server.name, []).extend(one.busy for one in rates[server.name])
            panels.append(panel)
    table.notes += notes(plan, busy)
    labels = [(length, size(length)) for length in plan.lengths]
    table.files[PLOT] = plot(panels, labels)
    table.notes.append(f"![Bytes a second over the size of the ranges, for each server]({PLOT})")
    return table


def started(
    stack: contextlib.ExitStack, plain: Path, library: Path, home: Path, core: int, table: Table
) -> Iterator[Server]:
    """All servers; those that do not serve at the moment wait, and cost nothing."""
    yield stack.enter_context(ours(library, home, core))
    yield stack.enter_context(nginx("nginx-best", plain, home, core, BEST))
    yield stack.enter_context(nginx("nginx-sendfile", plain, home, core, SENDFILE))
    yield stack.enter_context(peer("aiohttp", plain, home, core))
    if installed("starlette") and installed("uvicorn") and installed("httptools"):
        yield stack.enter_context(peer("starlette", plain, home, core))
    else:
        table.notes.append("Starlette was not measured: it is not installed (`make bench` does that).")


def layout(kind: str, plan: Plan, cache: Path, plain: Path, library: Path) -> Layout:
    """Plain files and containers of one kind."""
    sources = [plain / f"{kind}{number}{'.mp4' if kind == 'video' else ''}" for number in range(plan.files)]
    sealed = [library / f"{kind}{number}.h4mk" for number in range(plan.files)]
    for number, (source, container) in enumerate(zip(sources, sealed, strict=True)):
        if kind == "video":
            _film(source, number, plan.size, cache)
        else:
            numbers = random.Random(number)
            with source.open("wb") as file:
                for _ in range(plan.size // MIB):
                    file.write(numbers.randbytes(MIB))
        raw = ["--raw"] if kind == "raw" else []
        subprocess.run([harmony4(), "export", "-q", *raw, source, "-o", container], check=True)
    facts = [ask("about", path) for path in sealed]
    average = sum(one["bytes"] for one in facts) / sum(one["blocks"] for one in facts)
    named = "1 MiB" if kind == "raw" else f"{average / KIB:.0f} KiB (GOPs of a video)"
    return Layout(named, sources, sealed)


def _film(path: Path, number: int, wanted_size: int, cache: Path) -> None:
    """20 s of H.264 and AAC, a keyframe each second, repeated without encoding; each file another picture."""
    clip = cache / f"gops-{number}.mp4"
    quiet = ["ffmpeg", "-v", "error", "-y"]
    if not clip.exists():
        part = clip.with_suffix(".part")
        colour = ["-vf", f"hue=h={90 * number},noise=alls=12:allf=t"]
        made = [*quiet, *CLIP.split(), *colour, *CODE.split(), "-f", "mp4", os.fspath(part)]
        subprocess.run(made, check=True)
        part.rename(clip)
    times = max(1, wanted_size // clip.stat().st_size)
    repeat = ["-stream_loop", str(times - 1), "-i", os.fspath(clip), "-c", "copy"]
    subprocess.run([*quiet, *repeat, os.fspath(path)], check=True)


def measure(
    plan: Plan, servers: list[Server], each: Layout, length: int, home: Path, core: int, number: int
) -> dict[str, list[Rate]]:
    """The rounds of one size; a server that answers with other bytes ends the run."""
    print(f"  {each.title}, {size(length)} ...", file=sys.stderr, flush=True)
    files = [*each.plain, *each.sealed]
    warm(files)
    heads = {one.name: compare(one, each, length) for one in servers}
    if not plan.check:
        for one in servers:
            drive(one, each.targets(one.name, length), length, 1, 999, core, home, check=True)
    rates: dict[str, list[Rate]] = {one.name: [] for one in servers}
    for turn in range(plan.rounds):
        warm(files)
        # Another one is first in each round: what comes after a rest is not always treated the same.
        first = turn % len(servers)
        for one in servers[first:] + servers[:first]:
            targets = each.targets(one.name, length)
            seed = 1 + turn + 100 * number + length  # the same requests for every server
            rate = drive(one, targets, length, plan.seconds, seed, core, home, check=plan.check)
            plausible(one, rate, length, heads[one.name])
            rates[one.name].append(rate)
        for one in servers:
            if not one.log.stat().st_size:
                raise SystemExit(f"error: {one.name} has written no access log")
            os.truncate(one.log, 0)  # all of them append; a full disk would stop the comparison
    return rates


def compare(server: Server, each: Layout, length: int) -> int:
    """Random ranges against the source. Returns the length of a head. Raises SystemExit."""
    numbers = random.Random(length)
    heads = []
    for target, path in zip(each.targets(server.name, length), each.plain, strict=True):
        with Connection(server.port) as connection, path.open("rb") as file:
            for at in [0, target.span, *(numbers.randint(0, target.span) for _ in range(BYTES))]:
                asked = connection.request(target.path, f"Range: bytes={at}-{at + length - 1}\r\n")
                head, body = connection.ask(asked)
                file.seek(at)
                if status(head) != 206 or body != file.read(length):
                    raise SystemExit(f"error: {server.name}: wrong bytes: {asked!r} {head!r}")
                heads.append(len(head) + 4)
    return max(heads)


def plausible(server: Server, rate: Rate, length: int, head: int) -> None:
    """Whether what wrk read is what so many answers of this length take. Raises SystemExit.

    wrk counts answers, whatever they hold, and bytes; those of answers that were under way at the end are
    in the bytes alone.
    """
    least = rate.requests * (length + head - SLACK)
    most = (rate.requests + CONNECTIONS) * (length + head + SLACK)
    if not least <= rate.bytes <= most:
        raise SystemExit(f"error: {server.name}: {rate} for ranges of {length}, heads of {head}")


def add(table: Table, each: Layout, length: int, rates: dict[str, list[Rate]]) -> None:
    """A line: our rate, and the ratios."""
    assert table.grid is not None
    own = [one.per_second for one in rates["ours"]]
    rate = f"{median(own):,.0f}/s".replace(",", " ")
    if length >= 64 * KIB:
        rate += f", {median(own) * length / GIB:.2f} GiB/s"
    cells = [each.title, size(length), rate]
    for name, label in LABELS.items():
        if name not in rates:
            cells.append("")
            continue
        ratios = [mine / one.per_second for mine, one in zip(own, rates[name], strict=True)]
        target, found = wanted(length, name), median(ratios)
        cell = f"{found:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        if target is not None:
            cell += f", wanted ≥ {target}"
            if found < target:
                cell += " **(missed)**"
                table.missed.append(f"{each.title} blocks, {size(length)} ÷ {label}: {found:.2f}")
        cells.append(cell)
    pairs = zip(rates["ours"], rates["nginx-best"], strict=True)
    computed = [mine.per_cpu_second / theirs.per_cpu_second for mine, theirs in pairs]
    cells.append(f"{median(computed):.2f}")
    table.grid.lines.append(tuple(cells))
    print("  " + " | ".join(cells), file=sys.stderr, flush=True)


def notes(plan: Plan, busy: dict[str, list[float]]) -> Iterator[str]:
    """What else this run has to say."""
    shares = ", ".join(f"{LABELS.get(name, name)} {min(one):.0%}" for name, one in busy.items())
    yield (
        f"{plan.rounds} rounds of {plan.seconds} s, {CONNECTIONS} connections, {plan.files} files of "
        f"{size(plan.size)} each. Every ratio is of one round; the figure is their median, with the least "
        f"and the greatest. Least use of its core by each server in any run: {shares}; where it is well "
        "below 100 %, wrk was the limit (or the machine had other work), and the last column, which compares "
        "answers for each second that the servers computed, says more."
    )


def size(count: int) -> str:
    """64 KiB, 1 MiB."""
    return f"{count // MIB} MiB" if count >= MIB else f"{count // KIB} KiB"
