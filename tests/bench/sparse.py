"""A container of 4 TiB with 4 million blocks, nearly all of it holes."""

from __future__ import annotations

import shutil
import time

from bench.long import ask, micros
from bench.measure import Place, Table, median, percentile
from big_container import build

BLOCKS = 2**22
SIZE = 2**20
ROOM = 20 * 2**30
"""Bytes on disk: a page for every block's token, and the tables."""
MEMORY = 100 * 2**20
OPENING = 5e-3
SEEKING = 40e-6
PROCESSES = 20


def sparse(place: Place) -> Table:
    """Built anew each time and removed afterwards: it takes 17 GB on disk."""
    if shutil.disk_usage(place.cache).free < ROOM:
        raise SystemExit(f"error: {place.cache} needs {ROOM / 2**30:.0f} GiB free")
    path = place.cache / "sparse.h4mk"
    try:
        before = time.perf_counter()
        made = build(path, BLOCKS, SIZE)
        took = time.perf_counter() - before
        table = Table()
        stored = path.stat().st_blocks * 512
        table.add(
            f"making it: {made.stream / 2**40:.0f} TiB, {made.blocks} blocks, each a keyframe",
            f"{took:.0f} s, {stored / 2**30:.1f} GiB on disk",
        )
        ends = [ask("end", path) for _ in range(PROCESSES)]
        opened = [one["open"] for one in ends]
        table.add(
            "opening it, first thing in a new process",
            micros(opened),
            "< 5 ms",
            "",
            percentile(opened, 0.99) < OPENING,
        )
        peak = max(one["peak"] for one in ends)
        table.add(
            "peak resident memory: open, map, seek and read 1 MiB at its end",
            f"{peak / 2**20:.0f} MiB",
            "< 100 MiB",
            "",
            peak < MEMORY,
        )
        table.add("first seek, to its end, in a new process", micros([one["seek"] for one in ends]))
        table.add(
            "first byte range, across two blocks at its end, to file positions",
            micros([one["range"] for one in ends]),
        )
        found = ask("paged", path)
        table.add(
            "`H4MKReader.seek`, table read by pages (64 MiB)",
            f"{micros(found['seek'])}; {found['each']:.2f} reads of 64 KiB each",
            "< 40 µs",
            "",
            median(found["seek"]) < SEEKING,
        )
        table.add("the same, one second further each time", micros(found["near"]))
        table.notes.append(
            f"Opening takes {found['opened']} reads; the first seek {found['once']}: two for the table's "
            "header, then the first entries of the pages that it passes, and one page. "
            f"{len(found['seek'])} seeks to random times."
        )
        return table
    finally:
        path.unlink(missing_ok=True)
