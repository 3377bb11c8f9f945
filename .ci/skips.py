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


def results(junit: Path) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Test -> how many times it ran (parameters), and test -> the reasons it was skipped with."""
    # The file was written by pytest a moment ago, on this machine.
    ran: dict[str, int] = {}
    skipped: dict[str, list[str]] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        module, name = case.get("classname", ""), case.get("name", "").partition("[")[0]
        test = f"{module.replace('.', '/')}.py::{name}"
        ran[test] = ran.get(test, 0) + 1
        for skip in case.iter("skipped"):
            skipped.setdefault(test, []).append(skip.get("message") or "")
    return ran, skipped


def main(junit: str, allow_list: str) -> int:
    ran, skipped = results(Path(junit))
    permitted = allowed(Path(allow_list).read_text(encoding="utf-8"))
    problems = [
        f"skipped: {test}: {reasons[0]}" for test, reasons in skipped.items() if test not in permitted
    ]
    problems += [
        f"allowed to be skipped, but there is no such test: {test}" for test in permitted.keys() - ran.keys()
    ]
    if not ran:
        problems.append("no test ran")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    count = sum(map(len, skipped.values()))
    print(f"{sum(ran.values())} tests, {count} skipped, {len(permitted)} allowed to be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
