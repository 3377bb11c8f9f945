"""`make audit`: what is said of a report of pip-audit, and that no data is not taken for no flaw."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from needs import ROOT


def load() -> Any:
    spec = importlib.util.spec_from_file_location("audit_of_packages", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AUDIT = load()
SOUND = {"name": "a", "version": "1", "vulns": []}
FLAWED = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SOUND, SOUND], 0, "2 packages, no known vulnerability"),
        ([SOUND, FLAWED], 1, "b 2: PYSEC-1, mended in 3"),
        ([SOUND, SKIPPED], 1, "c: not looked up: not found"),
        ([FLAWED, SKIPPED], 1, "b 2: PYSEC-1, mended in 3"),
        ([SKIPPED, SKIPPED], 3, "not audited: no vulnerability data for any of 2 packages here"),
    ],
)
def test_what_a_report_amounts_to(packages: list[dict[str, Any]], status: int, said: str) -> None:
    assert AUDIT.judge({"dependencies": packages, "fixes": []})[0] == status
    assert AUDIT.judge({"dependencies": packages, "fixes": []})[1][0] == said


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(SOUND, SOUND, 0), (SOUND, SKIPPED, 3), (SKIPPED, FLAWED, 1), (FLAWED, SOUND, 1)],
)
def test_the_worst_of_all_locks_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: Any, second: Any, status: int
) -> None:
    program = tmp_path / "reporter"
    # Stands where pip-audit does, whose words depend on what the package index knows today.
    program.write_text('#!/bin/sh\neval "lock=\\${$#}"\ncat "$lock"\n')
    program.chmod(0o755)
    locks = [tmp_path / "one", tmp_path / "two"]
    for lock, one in zip(locks, (first, second), strict=True):
        lock.write_text(json.dumps({"dependencies": [one], "fixes": []}))
    assert AUDIT.main(str(program), *map(str, locks)) == status
    assert capsys.readouterr().out.count("\n") == 2


def test_a_program_without_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "reporter"
    program.write_text("#!/bin/sh\necho no route to host >&2\nexit 1\n")
    program.chmod(0o755)
    assert AUDIT.main(str(program), "lock") == 3
    assert "not audited: no route to host" in capsys.readouterr().out
