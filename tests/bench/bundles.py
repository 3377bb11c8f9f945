"""`harmony4 bundle` and `split` beside `cp` of the same bytes, both until the bytes are on the disk."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.load import warm
from bench.measure import Place, Run, Table, harmony4, median, run, spread

ENOUGH, MEMORY = 0.5, 200 * 2**20
PLANS = ((7, 1536, 512), (3, 192, 64), (1, 6, 2))
"""Rounds; MiB of the two containers."""
MIB = 2**20


def bundles(place: Place) -> Table:
    """On the disk and in the page cache; on a tmpfs there would be nothing to wait for at the end."""
    rounds, *sizes = PLANS[place.quick]
    table = Table()
    ratios: dict[str, list[float]] = {"bundle": [], "split": []}
    speeds: dict[str, list[float]] = {"bundle": [], "split": [], "cp": []}
    runs: dict[str, list[Run]] = {"bundle": [], "split": []}
    with tempfile.TemporaryDirectory(prefix="bundles-", dir=place.cache) as name:
        home = Path(name)
        pair = [_container(home, number, size) for number, size in enumerate(sizes)]
        both, copies, apart = home / "both.h4mk", home / "copies", home / "apart"
        wanted = sum(path.stat().st_size for path in pair)
        for number in range(rounds + 1):  # the first one warms up
            for verb, sources, made, command in (
                ("bundle", pair, both, ["bundle", "-q", *pair, "-o", both]),
                ("split", [both], apart, ["split", "-q", both, "-o", apart]),
            ):
                warm(sources)
                peer = _timed(lambda sources=sources: _copy(sources, copies), copies)
                ours = _timed(lambda command=command, verb=verb: _ours(command, runs[verb]), made)
                if number:
                    ratios[verb].append(peer / ours)
                    speeds[verb].append(wanted / MIB / ours)
                    speeds["cp"].append(wanted / MIB / peer)
        same = all(
            filecmp.cmp(path, apart / f"{number:02}.h4mk", shallow=False) for number, path in enumerate(pair)
        )
    for verb, label in (
        ("bundle", f"`bundle` of two containers, {sizes[0]} and {sizes[1]} MiB"),
        ("split", "`split` of that bundle"),
    ):
        table.add(
            f"{label}: throughput ÷ that of `cp`",
            f"{spread(ratios[verb])}; {median(speeds[verb]):.0f} MiB/s",
            f"≥ {ENOUGH}",
            f"cp {median(speeds['cp']):.0f} MiB/s",
            median(ratios[verb]) >= ENOUGH,
        )
        peak = max(one.peak for one in runs[verb])
        table.add(f"{label}: peak resident memory", f"{peak / MIB:.0f} MiB", "< 200 MiB", "", peak < MEMORY)
    table.add("what `split` gives", "equal" if same else "NOT EQUAL", "the two containers", "cmp", same)
    cpu = {verb: median([one.user + one.system for one in runs[verb]]) for verb in runs}
    table.notes.append(
        f"CPU seconds, user and system: bundle {cpu['bundle']:.1f}, split {cpu['split']:.1f}. "
        f"{rounds} rounds after one to warm up; files in one folder on the disk and in the page cache, each "
        "output synced."
    )
    return table


def _container(home: Path, number: int, mebibytes: int) -> Path:
    numbers = random.Random(number)
    source, path = home / f"{number}.bin", home / f"{number}.h4mk"
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(numbers.randbytes(MIB))
    run([harmony4(), "export", "--raw", "-q", source, "-o", path])
    source.unlink()
    return path


def _timed(command: Callable[[], object], made: Path) -> float:
    """Seconds that it takes; what an earlier round made is gone before."""
    if made.is_dir():
        shutil.rmtree(made)
    made.unlink(missing_ok=True)
    began = time.perf_counter()
    command()
    return time.perf_counter() - began


def _copy(sources: list[Path], folder: Path) -> None:
    folder.mkdir()
    run(["cp", *sources, folder])
    for path in (*folder.iterdir(), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _ours(command: list[str | Path], runs: list[Run]) -> None:
    runs.append(run([harmony4(), *command]))
