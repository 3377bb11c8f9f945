"""Fail on every skipped (or expected-to-fail) test that the allow-list does not name, and on an empty run.

Usage: skips.py ALLOWED.txt JUNIT.xml... A line of the allow-list is `tests/test_x.py::test_name: reason`; the
name stands for all parameters of the test. Each file of results must be there and have tests in it; beside
`x.xml` its `x.again.xml` is read where there is one: what was tried once more.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
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


def results(junit: Path) -> tuple[Counter[str], dict[str, list[str]]]:
    """Test -> how many times it ran (parameters), and test -> the reasons it was skipped with."""
    # The file was written by pytest a moment ago, on this machine.
    ran: Counter[str] = Counter()
    skipped: dict[str, list[str]] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        module, name = case.get("classname", ""), case.get("name", "").partition("[")[0]
        test = f"{module.replace('.', '/')}.py::{name}"
        ran[test] += 1
        for skip in case.iter("skipped"):
            skipped.setdefault(test, []).append(skip.get("message") or "")
    return ran, skipped


def main(allow_list: str, *junits: str) -> int:
    permitted = allowed(Path(allow_list).read_text(encoding="utf-8"))
    problems: list[str] = []
    ran: Counter[str] = Counter()
    count = 0
    for junit in map(Path, junits):
        again = junit.with_suffix(".again.xml")
        if not junit.exists():
            problems.append(f"no results: {junit}")
            continue
        for file in (junit, again) if again.exists() else (junit,):
            found, skipped = results(file)
            if not found:
                problems.append(f"no test ran: {file}")
            ran |= found  # what was tried once more is no other test
            count += sum(map(len, skipped.values()))
            problems += [
                f"skipped: {test}: {reasons[0]}" for test, reasons in skipped.items() if test not in permitted
            ]
    problems += [
        f"allowed to be skipped, but there is no such test: {test}" for test in permitted.keys() - ran.keys()
    ]
    if not junits:
        problems.append("no results were named")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{ran.total()} tests, {count} skipped, {len(permitted)} allowed to be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
