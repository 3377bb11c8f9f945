"""Whole files through the real command line: export --raw, verify, extract; beside `openssl dgst -sha256`."""

from __future__ import annotations

import random
from pathlib import Path

from bench.measure import Place, Run, Table, harmony4, median, run, spread

SIZE = 2 * 2**30
ROUNDS = 7
ENOUGH = 0.4
MEMORY = 200 * 2**20


def bulk(place: Place) -> Table:
    """Alternating rounds; each figure is a ratio to the openssl run before it, over the same bytes."""
    source, container, back = (place.fast / name for name in ("source", "source.h4mk", "back"))
    _make(source)
    ratios: dict[str, list[float]] = {"export": [], "verify": [], "extract": []}
    runs: dict[str, list[Run]] = {"export": [], "verify": [], "extract": [], "openssl": []}
    same = True
    for number in range(ROUNDS + 1):  # the first one warms up
        for path in (container, back):
            path.unlink(missing_ok=True)  # freeing 2 GiB of pages is not what is measured
        commands: dict[str, tuple[Path, list[str | Path]]] = {
            "export": (source, ["export", "--raw", "-q", source, "-o", container]),
            "verify": (container, ["verify", "-q", container]),
            "extract": (source, ["extract", "-q", container, "-o", back]),
        }
        for name, (file, arguments) in commands.items():
            peer = run(["openssl", "dgst", "-sha256", "-r", file])
            ours = run([harmony4(), *arguments])
            if number:
                runs["openssl"].append(peer)
                runs[name].append(ours)
                ratios[name].append(peer.wall / ours.wall)
        wanted = run(["openssl", "dgst", "-sha256", "-r", source]).output.split()[0]
        same = same and run(["openssl", "dgst", "-sha256", "-r", back]).output.split()[0] == wanted
    for path in (source, container, back):
        path.unlink()
    table = Table()
    peer_rate = f"openssl {_rate(runs['openssl'])}"
    for name, label in (
        ("export", "`export --raw`, 2 GiB"),
        ("verify", "`verify` of that container"),
        ("extract", "`extract` of it"),
    ):
        wanted_ratio = name != "extract"
        table.add(
            f"{label}: throughput ÷ openssl's",
            f"{spread(ratios[name])}; {_rate(runs[name])}",
            f"≥ {ENOUGH}" if wanted_ratio else "",
            peer_rate,
            median(ratios[name]) >= ENOUGH if wanted_ratio else None,
        )
        peak = max(one.peak for one in runs[name])
        table.add(f"{label}: peak resident memory", f"{peak / 2**20:.0f} MiB", "< 200 MiB", "", peak < MEMORY)
    table.add(
        "SHA-256 of what `extract` gives", "equal" if same else "NOT EQUAL", "the source's", "openssl", same
    )
    cpu = {name: median([one.user + one.system for one in runs[name]]) for name in runs}
    table.notes.append(
        f"CPU seconds for 2 GiB, user and system: openssl {cpu['openssl']:.1f}, export {cpu['export']:.1f}, "
        f"verify {cpu['verify']:.1f}, extract {cpu['extract']:.1f}. {ROUNDS} rounds "
        f"after one to warm up; files on {'a tmpfs' if place.in_memory else 'disk, in the page cache'}."
    )
    return table


def _make(path: Path) -> None:
    """2 GiB that no compression helps with, the same in every run."""
    numbers = random.Random(1)
    with path.open("wb") as file:
        for _ in range(SIZE // 2**20):
            file.write(numbers.randbytes(2**20))


def _rate(runs: list[Run]) -> str:
    return f"{SIZE / 2**20 / median([one.wall for one in runs]):.0f} MiB/s"
