"""A container of ten hours: how long exporting, opening and seeking take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.measure import Place, Table, harmony4, median, percentile, run

MINUTES = 600
PROCESSES = 40
OPENING = 5e-3
SEEKING = 10e-6
LIKE = "-f lavfi -i testsrc2=size=640x360:rate=30 -f lavfi -i sine=440:sample_rate=48000 -t 60"
CODE = "-c:v libx264 -preset veryfast -b:v 200k -pix_fmt yuv420p -g 60 -sc_threshold 0 -c:a aac -b:a 64k"


def long(place: Place) -> Table:
    """The source is a clip of one minute, repeated without encoding; it is kept in the cache."""
    source = ten_hours(place.cache)
    container = place.fast / "long.h4mk"
    made = run([harmony4(), "export", "-q", source, "-o", container])
    table = Table()
    size = source.stat().st_size
    facts = ask("about", container)
    table.add(
        "export, ten hours of H.264 and AAC in MP4",
        f"{made.wall:.1f} s ({size / 2**20 / made.wall:.0f} MiB/s)",
        peer=f"{size / 2**30:.2f} GiB, {facts['blocks']} blocks, {facts['keyframes']} keyframes",
    )
    table.add("peak resident memory of that export, both processes", f"{made.peak / 2**20:.0f} MiB")
    first = [ask("first", container) for _ in range(PROCESSES)]
    cold = [one["open"] for one in first]
    table.add(
        "opening it, first thing in a new process",
        micros(cold),
        "< 5 ms",
        "",
        percentile(cold, 0.99) < OPENING,
    )
    warm = ask("open", container)["open"]
    table.add("opening it again and again", micros(warm), "< 5 ms", "", percentile(warm, 0.99) < OPENING)
    table.add(
        "the first seek, which loads the table, in a new process", micros([one["seek"] for one in first])
    )
    seek = ask("seek", container)["seek"]
    table.add("`H4MKReader.seek`, copied table", micros(seek), "< 10 µs", "", median(seek) < SEEKING)
    table.add("`H4MKReader.locate` (what `/video/seek` asks)", micros(ask("locate", container)["locate"]))
    table.notes.append(
        f"Median, then the 99th percentile, of {PROCESSES} processes, {len(warm)} openings, {len(seek)} "
        "seeks to random times. Each call is timed alone; reading the clock, 0.1 µs, is part of the figure."
    )
    container.unlink()
    return table


def ask(what: str, path: Path, *more: str) -> dict[str, object] | list[float]:
    """What a fresh process (`child.py`) measures."""
    command = [sys.executable, "-m", "bench.child", what, os.fspath(path), *more]
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=tests, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def micros(seconds: list[float]) -> str:
    """Median and 99th percentile in a unit that suits them."""
    middle, far = median(seconds), percentile(seconds, 0.99)
    if middle >= 1e-3:
        return f"{middle * 1e3:.2f} ms, p99 {far * 1e3:.2f} ms"
    return f"{middle * 1e6:.1f} µs, p99 {far * 1e6:.1f} µs"


def ten_hours(cache: Path, minutes: int = MINUTES, *, fragmented: bool = False) -> Path:
    """The MP4 of ten hours (or of so many minutes), made once; `fragmented`: the same packets, a fragment
    for each group of pictures, so that the blocks of a container of it decode alone."""
    path = cache / ("ten-hours" if minutes == MINUTES else f"{minutes}-minutes")
    path = path.with_suffix(".frag.mp4" if fragmented else ".mp4")
    if not path.exists():
        clip, part = cache / "minute.mp4", path.with_suffix(".part")
        quiet = ["ffmpeg", "-v", "error", "-y"]
        if not clip.exists():
            subprocess.run([*quiet, *LIKE.split(), *CODE.split(), os.fspath(clip)], check=True)
        repeat = ["-stream_loop", str(minutes - 1), "-i", os.fspath(clip), "-c", "copy"]
        flags = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"] if fragmented else []
        subprocess.run([*quiet, *repeat, *flags, "-f", "mp4", os.fspath(part)], check=True)
        part.rename(path)
    return path
