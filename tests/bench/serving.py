"""The server over loopback, one core for it and the other for wrk: a first look, without a peer yet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

from bench.measure import Place, Table, harmony4, median, quietly
from big_container import SECOND, build

ROUNDS = 5
SECONDS = 3
CONNECTIONS = 8
BLOCKS = 1024
SIZE = 2**20

SCRIPT = """
local base, span, length = %(base)s, %(span)d, %(length)d
math.randomseed(1)
request = function()
  local at = math.random(0, span)
  if length == 0 then return wrk.format("GET", base .. at) end
  return wrk.format("GET", base, {["Range"] = "bytes=" .. at .. "-" .. (at + length - 1)})
end
"""


def serving(place: Place) -> Table:
    """Random ranges and random times in a container of 1 GiB with blocks of 1 MiB."""
    table = Table()
    wrk = shutil.which("wrk")
    if wrk is None or shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        table.notes.append("Not measured: it needs wrk, taskset and a second core.")
        return table
    library = place.fast / "library"
    library.mkdir()
    build(library / "a.h4mk", BLOCKS, SIZE)
    command = [harmony4(), "serve", os.fspath(library), "--port", "0", "--json", "--access-log"]
    errors = place.fast / "access.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=subprocess.PIPE, stderr=log)
        with quietly(process):
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"].rstrip("/")
            span = BLOCKS * SIZE
            for label, path, most, length in (
                ("64 KiB", "/video/range?name=a.h4mk", span - 2**16, 2**16),
                ("1 MiB", "/video/range?name=a.h4mk", span - 2**20, 2**20),
                ("seek", "/video/seek?name=a.h4mk&pts=", BLOCKS * SECOND, 0),
            ):
                with urlopen(f"{url}{path}{most if not length else ''}") as answer:
                    answer.read(1)  # it answers at all; wrk counts errors below
                rates = [_wrk(wrk, url, path, most, length, place.fast / "wrk.lua") for _ in range(ROUNDS)]
                if length:
                    bytes_rate = median(rates) * length / 2**20
                    table.add(
                        f"`/video/range`, {label} at random offsets",
                        f"{_whole(rates)} requests/s; {bytes_rate:.0f} MiB/s",
                    )
                else:
                    table.add("`/video/seek` at random times", f"{_whole(rates)} requests/s")
    table.notes.append(
        f"{CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s; server on one core, wrk on the "
        f"other; access log on, into a file; the container on {'a tmpfs' if place.in_memory else 'disk'}, "
        "its payload a hole."
    )
    shutil.rmtree(library)
    return table


def _wrk(wrk: str, url: str, path: str, span: int, length: int, script: Path) -> float:
    """Requests per second. Raises SystemExit where one failed."""
    script.write_text(SCRIPT % {"base": json.dumps(path), "span": span, "length": length}, encoding="ascii")
    flags = ["-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", os.fspath(script)]
    command = ["taskset", "-c", "1", wrk, *flags, url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"error: {path}: {text}")
    return float(re.findall(r"Requests/sec:\s*([\d.]+)", text)[0])


def _whole(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})".replace(",", " ")
