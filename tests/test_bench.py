"""Benchmarks run end to end, with little data and one short round: servers compared, bundles, spectra."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from needs import ROOT, needs_chromium, needs_curl, needs_nginx, needs_wrk
from processes import needs_proc


def told(name: str) -> list[str]:
    """The lines of a benchmark's table; how good its figures are is no matter where tests share a machine."""
    document = ROOT / "docs" / "PERFORMANCE.md"
    before = document.read_bytes()
    command = [sys.executable, "-P", "-m", "bench", "--quick", "--quick", "--print", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, timeout=90, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert document.read_bytes() == before
    return [line for line in done.stderr.splitlines() if line.startswith("|")]


@needs_wrk
@needs_nginx
def test_ranges_run_end_to_end() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for the server and one for wrk")
    lines = [line for line in told("ranges") if line.startswith("| 1 MiB | 64 KiB |")]
    assert len(lines) == 1, lines
    # Its rate and three ratios at least.
    assert sum(cell.strip() != "" for cell in lines[0].strip("|").split("|")) >= 6, lines


def test_bundles_run_end_to_end() -> None:
    lines = told("bundles")
    assert sum("÷ that of `cp`" in line for line in lines) == 2, lines
    assert "| what `split` gives | the two containers | equal | cmp |" in lines


def test_spectra_run_end_to_end() -> None:
    lines = told("spectrum")
    assert sum("time ÷ that of `rfft` and `abs`" in line for line in lines) == 7, lines


@needs_wrk
def test_masking_runs_end_to_end() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for the server and one for wrk")
    lines = told("mask")
    assert sum("blocks of 1 MiB, one core" in line for line in lines) == 4, lines
    assert sum("rate of masked containers ÷ of plain ones" in line for line in lines) == 2, lines
    assert sum("peak resident memory" in line for line in lines) == 3, lines


@needs_curl
def test_proofs_run_end_to_end() -> None:
    lines = told("proofs")
    assert sum("one proof" in line for line in lines) == 3, lines
    assert sum("signing" in line for line in lines) == 2, lines
    assert sum("÷ that of curl" in line for line in lines) == 1, lines


@needs_chromium
def test_the_page_runs_end_to_end() -> None:
    lines = told("page")
    assert (
        sum(unit in line for line in lines for unit in ("paint", "over the wire", "picture", "frames/s")) >= 4
    )


@needs_nginx
@needs_proc
def test_the_whole_runs_end_to_end() -> None:
    (line,) = (one for one in told("system") if one.startswith("| answers that were wrong"))
    assert re.search(r"\| 0 of \d+", line), line
