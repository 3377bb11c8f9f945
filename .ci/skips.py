"""Fail on every skipped (or expected-to-fail) test that the allow-list does not name, and on an empty run.

Usage: skips.py JUNIT.xml ALLOWED.txt. A line of the allow-list is `tests/test_x.py::test_name: reason`; the
name stands for all parameters of the test.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def allowed(text: str) -> dict[str, str]:
    rows = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for row in rows:
        name, separator, reason = row.partition(": ")
        if not separator or not reason.strip():
            raise SystemExit(f"error: allowed skip without a reason: {row}")
        found[name] = reason
    return found


def skipped(junit: Path) -> tuple[int, dict[str, list[str]]]:
    """How many tests there were, and test -> the reasons it was skipped with."""
    # The file was written by pytest a moment ago, on this machine.
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    found: dict[str, list[str]] = {}
    for case in cases:
        for skip in case.iter("skipped"):
            module, name = case.get("classname", ""), case.get("name", "").partition("[")[0]
            found.setdefault(f"{module.replace('.', '/')}.py::{name}", []).append(skip.get("message") or "")
    return len(cases), found


def main(junit: str, allow_list: str) -> int:
    total, found = skipped(Path(junit))
    permitted = allowed(Path(allow_list).read_text(encoding="utf-8"))
    problems = [f"skipped: {test}: {reasons[0]}" for test, reasons in found.items() if test not in permitted]
    problems += [f"allowed, but not skipped: {test}" for test in permitted if test not in found]
    if not total:
        problems.append("no test ran")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{total} tests, {sum(map(len, found.values()))} skipped, {len(permitted)} allowed")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
