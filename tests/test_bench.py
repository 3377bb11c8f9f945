"""The benchmarks run: the one that compares servers, end to end, with little data and one short round."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from needs import ROOT, needs_nginx, needs_wrk


@needs_wrk
@needs_nginx
def test_ranges_run_end_to_end() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for the server and one for wrk")
    document = ROOT / "docs" / "PERFORMANCE.md"
    before = document.read_bytes()
    command = [sys.executable, "-P", "-m", "bench", "--quick", "--quick", "--print", "ranges"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, timeout=90, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("| 1 MiB | 64 KiB |")]
    assert len(lines) == 1, done.stderr
    # Its rate and three ratios at least; how good they are is no matter on a machine that tests share.
    assert sum(cell.strip() != "" for cell in lines[0].strip("|").split("|")) >= 6, lines
    assert document.read_bytes() == before
