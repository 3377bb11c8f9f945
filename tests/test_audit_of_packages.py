"""`make audit`: what is said of a report of pip-audit, and that no data is not taken for no flaw."""

from __future__ import annotations

import importlib.util
import json
import subprocess
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


@pytest.mark.parametrize(
    ("says", "status", "said"),
    [
        ("no route to host", 3, "not audited: no route to host"),
        ("ERROR:x:Could not connect to the service", 3, "not audited: ERROR:x:Could not connect"),
        ("503 Server Error: Service Unavailable for url", 3, "not audited: 503"),
        ("unrecognized arguments: --disable-pip", 1, "failed with status 1: unrecognized arguments"),
        ("requirements.lock: invalid requirement", 1, "failed with status 1: requirements.lock"),
        ("", 1, "pip-audit failed with status 1: ?"),
    ],
)
def test_a_program_without_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], says: str, status: int, said: str
) -> None:
    program = tmp_path / "reporter"
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    program.chmod(0o755)
    assert AUDIT.main(str(program), "lock") == status
    assert said in capsys.readouterr().out


def test_a_check_without_the_program_is_said_to_be_none(tmp_path: Path) -> None:
    """The step of .ci/run, where pip-audit cannot be installed: `make` fails for want of a registry."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    step = "audit() {" + script.split("\naudit() {", 1)[1].split("\n}\n", 1)[0] + "\n}\naudit\n"
    (tmp_path / "Makefile").write_text(".build/audit/.ready:\n\t@false\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not audited: pip-audit could not be installed here" in done.stdout
