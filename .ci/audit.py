"""Look the pinned packages up in a list of known vulnerabilities (`make audit`), with pip-audit.

    python .ci/audit.py PIP_AUDIT LOCK…

Status 0: all of them were looked up, and nothing is known. 1: something is known, some could not be looked
up, or pip-audit failed. 3: there was nothing to look them up in, or it cannot be reached. Package indices
need not have vulnerability data: a mirror often has none, and then no package at all is found. That is no
result, and is never said to be one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

NOTHING_KNOWN, FOUND, NO_DATA = 0, 1, 3
ROOM = 75  # seconds for each lock
# What pip-audit, and what it asks with, say where the service cannot be reached or knows nothing of packages.
SILENT = re.compile(
    r"could not connect|connection (?:refused|reset|aborted|error)|connectionerror|failed to establish|"
    r"no route to host|network is unreachable|name or service not known|name resolution|max retries exceeded|"
    r"timed out|proxyerror|bad gateway|service unavailable|gateway time-?out|"
    r"\b50[234] server error|\b404 client error",
    re.IGNORECASE,
)


def judge(report: dict) -> tuple[int, list[str]]:
    """What a report of pip-audit (`--format json`) amounts to, and what to say of it."""
    packages = report["dependencies"]
    skipped = [one for one in packages if "skip_reason" in one]
    if len(skipped) == len(packages):
        return NO_DATA, [f"not audited: no vulnerability data for any of {len(packages)} packages here"]
    words = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'none'}"
        for one in packages
        for flaw in one.get("vulns", ())
    ]
    words += [f"{one['name']}: not looked up: {one['skip_reason']}" for one in skipped]
    if words:
        return FOUND, words
    return NOTHING_KNOWN, [f"{len(packages)} packages, no known vulnerability"]


def main(program: str, *locks: str) -> int:
    worst = NOTHING_KNOWN
    for lock in locks:
        # The lock is complete and hashed: nothing is resolved or installed.
        command = [
            program,
            "--disable-pip",
            "--require-hashes",
            "--format",
            "json",
            "--progress-spinner",
            "off",
        ]
        command += ["--timeout", "15", "-r", lock]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ROOM, check=False)
            status, words = judge(json.loads(done.stdout))
        except subprocess.TimeoutExpired:
            status, words = NO_DATA, [f"not audited: no answer within {ROOM} s"]
        except (ValueError, KeyError, TypeError):  # no report
            said = (done.stderr.strip().splitlines() or ["?"])[-1]
            if SILENT.search(said):
                status, words = NO_DATA, [f"not audited: {said}"]
            else:
                status, words = FOUND, [f"pip-audit failed with status {done.returncode}: {said}"]
        print(*(f"{lock}: {one}" for one in words), sep="\n")
        worst = FOUND if FOUND in (worst, status) else max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
