"""`python -m bench` (in tests/): run all benchmarks, or those that are named, and write docs/PERFORMANCE.md.

Only the tables between `<!-- bench:name -->` and `<!-- /bench -->` are replaced; the text around them is
written by hand. `--print` shows them and writes nothing; `--quick` is for trying: smaller, shorter, and never
written; given twice, only to see that it runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.bulk import bulk
from bench.bundles import bundles
from bench.checked import checked
from bench.cold import cold
from bench.firstbyte import firstbyte
from bench.intake import intake
from bench.long import long
from bench.mask import mask
from bench.measure import ROOT, Others, Place, Table
from bench.operated import operated
from bench.page import page
from bench.playlists import playlists
from bench.proofs import proofs
from bench.ranges import ranges
from bench.seeking import seeking
from bench.slow import slow
from bench.sparse import sparse
from bench.spectrum import spectrum
from bench.streams import streams
from bench.system import system

BENCHES: dict[str, Callable[[Place], Table]] = {
    "bulk": bulk,
    "bundles": bundles,
    "long": long,
    "sparse": sparse,
    "ranges": ranges,
    "checked": checked,
    "mask": mask,
    "seeking": seeking,
    "firstbyte": firstbyte,
    "cold": cold,
    "slow": slow,
    "intake": intake,
    "playlists": playlists,
    "page": page,
    "streams": streams,
    "spectrum": spectrum,
    "proofs": proofs,
    "operated": operated,
    "system": system,
}
QUICK = (
    "ranges",
    "checked",
    "mask",
    "seeking",
    "firstbyte",
    "cold",
    "slow",
    "intake",
    "playlists",
    "page",
    "bundles",
    "streams",
    "spectrum",
    "proofs",
    "operated",
    "system",
)
"""Those that know a quick way."""
DOCUMENT = ROOT / "docs" / "PERFORMANCE.md"
DISTURBED = 0.05
"""Part of the CPU time that others may take before the document says so."""
ROOM = 8 * 2**30
"""Bytes that the fast place must have free: source, container, and what is extracted, 2 GiB each."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; default all")
    parser.add_argument("--print", action="store_true", help="show the tables, do not write the document")
    parser.add_argument(
        "--quick", action="count", default=0, help=f"small and short, with --print; of {', '.join(QUICK)}"
    )
    parser.add_argument("--check", action="store_true", help="end with status 1 where a target is missed")
    options = parser.parse_args()
    unknown = set(options.names) - BENCHES.keys()
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if options.quick and not options.print:
        parser.error("--quick needs --print: such figures are not for the document")
    if options.quick and (others := set(options.names) - set(QUICK)):
        parser.error(f"no quick way for {', '.join(sorted(others))}")
    wanted = options.names or (QUICK if options.quick else BENCHES)
    cache = ROOT / ".build" / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    tables = {"machine": machine()}
    missed: list[str] = []
    files: dict[str, str] = {}
    place = _place(cache, min(options.quick, 2))
    place.fast.mkdir(exist_ok=True)
    try:
        for name, bench in BENCHES.items():
            if name in wanted:
                print(f"{name} ...", file=sys.stderr, flush=True)
                others = Others()
                table = bench(place)
                if (share := others.share()) > DISTURBED:
                    table.notes.append(
                        f"Other processes took {share:.0%} of the machine's CPU time meanwhile."
                    )
                missed += [f"{name}: {row.figure}" for row in table.rows if row.met is False]
                missed += [f"{name}: {one}" for one in table.missed]
                files |= table.files
                tables[name] = markdown(table)
                print(tables[name], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(place.fast)
    if not options.print:
        text = DOCUMENT.read_text(encoding="utf-8")
        for name, table in tables.items():
            text = replaced(text, name, table)
        DOCUMENT.write_text(text, encoding="utf-8")
        for name, contents in files.items():
            (DOCUMENT.parent / name).write_text(contents, encoding="utf-8")
    for figure in missed:
        print(f"missed: {figure}", file=sys.stderr)
    return bool(missed and options.check)


def replaced(text: str, name: str, table: str) -> str:
    """The document with one table in its place."""
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    text, found = pattern.subn(lambda match: match[1] + table + match[2], text)
    if found != 1:
        raise SystemExit(f"error: {DOCUMENT.name} needs one pair of markers for {name}, and has {found}")
    return text


def markdown(table: Table) -> str:
    """A table and its notes."""
    lines = []
    if table.grid is not None:
        lines += [_cells(table.grid.head), _cells(["---"] * len(table.grid.head))]
        lines += [_cells(line) for line in table.grid.lines]
    if table.rows:
        lines += ["| figure | target | measured | peer |", "|---|---|---|---|"]
    for row in table.rows:
        missed = " **(missed)**" if row.met is False else ""
        lines.append(f"| {row.figure} | {row.target} | {row.measured}{missed} | {row.peer} |")
    text = "\n".join(lines) + "\n" if lines else ""
    return text + "".join(f"\n{note}\n" for note in table.notes)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
        if "sha_ni" in cpuinfo.read_text(encoding="utf-8"):
            model += " (with SHA instructions)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "av", "numpy", "uvloop")]
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return "".join(
        f"- {line}\n"
        for line in (
            f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory; {platform.system()} "
            f"{platform.release().split('-')[0]}",
            f"{python} with {' '.join(ssl.OPENSSL_VERSION.split()[:2])} and zlib "
            f"{zlib.ZLIB_RUNTIME_VERSION}; the openssl program is {openssl.split()[1]}",
            ", ".join(versions),
        )
    )


def _place(cache: Path, quick: int) -> Place:
    """A tmpfs if it has room and the machine has the memory for it; else a folder on disk."""
    shm = Path("/dev/shm")
    if shm.is_dir():
        info = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(re.findall(r"^MemAvailable:\s+(\d+)", info, re.MULTILINE)[0]) * 1024
        if min(available * 3 // 4, shutil.disk_usage(shm).free) >= ROOM:
            return Place(cache, shm / f"harmony4-bench-{os.getpid()}", True, quick)
    return Place(cache, cache / "fast", False, quick)


if __name__ == "__main__":
    sys.exit(main())
