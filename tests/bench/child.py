"""What a fresh process measures about one container: `python -m bench.child WHAT PATH`; JSON on stdout."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from harmony4.h4mk import FileSource, H4MKReader

OPENINGS = 2_000
SEEKS = 200_000
PAGED = 50_000
MEGABYTE = 2**20


def timed(call: Callable[[int], object], arguments: list[int]) -> list[float]:
    """Seconds of each single call."""
    found = []
    for argument in arguments:
        before = perf_counter()
        call(argument)
        found.append(perf_counter() - before)
    return found


def times(reader: H4MKReader, count: int) -> list[int]:
    numbers = random.Random(1)
    return [numbers.randrange(reader.duration) for _ in range(count)]


def about(path: str) -> object:
    with H4MKReader(path) as reader:
        (track,) = reader.tracks
        return {"blocks": track.blocks, "keyframes": track.keyframes, "bytes": track.bytes}


def first(path: str) -> object:
    before = perf_counter()
    reader = H4MKReader(path)
    opened = perf_counter()
    reader.seek(reader.duration // 2)
    sought = perf_counter()
    reader.close()
    return {"open": opened - before, "seek": sought - opened}


def opening(path: str) -> object:
    found = []
    for _ in range(OPENINGS):
        before = perf_counter()
        reader = H4MKReader(path)
        found.append(perf_counter() - before)
        reader.close()
    return {"open": found}


def seek(path: str) -> object:
    with H4MKReader(path) as reader:
        reader.seek(0)
        return {"seek": timed(reader.seek, times(reader, SEEKS))}


def locate(path: str) -> object:
    with H4MKReader(path) as reader:
        reader.locate(0)
        return {"locate": timed(reader.locate, times(reader, PAGED))}


class Counted(FileSource):
    """A file that counts its reads."""

    reads = 0

    def read_at(self, offset: int, count: int) -> bytes:
        self.reads += 1
        return super().read_at(offset, count)


def paged(path: str) -> object:
    """Seeks in a table that is read by pages: in time, and how many reads they take."""
    with H4MKReader(path) as reader:
        targets = times(reader, PAGED)
        cold = timed(reader.seek, targets[:1])
        timed(reader.seek, targets[: len(targets) // 10])  # fence keys come in
        took = timed(reader.seek, targets)
        near = timed(reader.seek, [targets[0] + step * 1_000_000 for step in range(1_000)])
    source = Counted(path)
    with H4MKReader(source) as reader:
        opened = source.reads
        reader.seek(targets[0])
        once = source.reads - opened
        for target in targets[: len(targets) // 10]:
            reader.seek(target)
        before = source.reads
        for target in targets:
            reader.seek(target)
        each = (source.reads - before) / len(targets)
    source.close()
    return {"first": cold, "seek": took, "near": near, "opened": opened, "once": once, "each": each}


def end(path: str) -> object:
    """Open, seek and read at the very end, with the file mapped as the server maps it; then the peak."""
    before = perf_counter()
    with H4MKReader(path) as reader:
        opened = perf_counter()
        assert reader.mapping is not None
        last = reader.seek(reader.duration)
        sought = perf_counter()
        size = reader.stream_size()
        assert last is not None
        assert last.offset == size - MEGABYTE
        began = perf_counter()
        pieces = list(reader.extents(size - MEGABYTE - 1000, MEGABYTE + 1000))
        ranged = perf_counter()
        assert sum(length for _, length in pieces) == MEGABYTE + 1000
        assert reader.read(size - MEGABYTE - 1000, MEGABYTE + 1000) == bytes(MEGABYTE + 1000)
        token = reader.token(reader.block_count - 1)
        assert token.offset == last.offset
        found = reader.locate(reader.duration - 1)
        assert found is not None
        assert (found.offset, found.size) == (last.offset, MEGABYTE)
    with Path("/proc/self/status").open(encoding="ascii") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return {"open": opened - before, "seek": sought - opened, "range": ranged - began, "peak": peak}


KINDS: dict[str, Callable[[str], object]] = {
    "about": about,
    "first": first,
    "open": opening,
    "seek": seek,
    "locate": locate,
    "paged": paged,
    "end": end,
}

if __name__ == "__main__":
    json.dump(KINDS[sys.argv[1]](os.fspath(sys.argv[2])), sys.stdout)
