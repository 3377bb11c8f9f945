"""Write requirements.lock, requirements-dev.lock and tests/bench/requirements.txt from pyproject.toml
(`make lock`).

Every package is pinned to one version and to the SHA-256 of every file that PyPI lists for it, so one lock
serves all platforms. Only PyPI itself is asked, whatever package sources the machine is configured with, and
no address is recorded: who installs decides where from. Run by the oldest supported Python, because a newer
one needs fewer packages (conditional requirements), never others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
LOCAL_SOURCES = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


def group(project: dict, name: str) -> list[str]:
    """The requirements of a dependency group, those of groups in it included."""
    found = []
    pending = [name]
    while pending:
        for entry in project["dependency-groups"][pending.pop()]:
            if isinstance(entry, str):
                found.append(entry)
            else:
                pending.append(entry["include-group"])
    return found


def compile_lock(name: str, wanted: list[str], constraint: Path | None) -> Path:
    target = ROOT / name
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
    }
    env["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wanted.in"
        source.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        output = Path(folder) / "lock.txt"
        if target.exists():
            output.write_bytes(
                target.read_bytes()
            )  # keep versions that still fit; delete the lock to upgrade
        options = ["--generate-hashes", "--allow-unsafe", "--strip-extras", "--no-header", "--no-annotate"]
        options += ["--no-emit-options", "--no-config", "--quiet", "--resolver=backtracking"]
        if constraint is not None:
            options += ["--constraint", str(constraint)]
        command = [
            sys.executable,
            "-m",
            "piptools",
            "compile",
            *options,
            "--output-file",
            str(output),
            str(source),
        ]
        subprocess.run(command, env=env, check=True)
        text = output.read_text(encoding="utf-8")
    if "://" in text:
        raise SystemExit(f"{name}: the lock contains an address")
    target.write_text(f"# Written by `make lock` from pyproject.toml.\n{text}", encoding="utf-8")
    return target


def main() -> None:
    if sys.version_info[:2] != OLDEST:
        raise SystemExit(
            f"the lock is made by Python {OLDEST[0]}.{OLDEST[1]}, this is {sys.version.split()[0]}"
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    own = project["project"]["dependencies"]
    runtime = compile_lock("requirements.lock", own + group(project, "build"), None)
    dev = compile_lock("requirements-dev.lock", own + group(project, "dev"), runtime)
    compile_lock("tests/bench/requirements.txt", group(project, "bench"), dev)


if __name__ == "__main__":
    main()
