"""Third-party JavaScript that tests run: fetched from npm at pinned versions, compared with pinned hashes.

    python tests/vendor/fetch.py            # what is missing or another one
    python tests/vendor/fetch.py --check    # only look whether the files are these; no network

`modules.json` is the one table: name, version, licence, what uses it, and of each file its place in npm's
package and its SHA-256. One of the files is the package's own package.json: the version that it says must be
the table's. No part of it is installed with HarmonyØ4, and the page loads none of it. To upgrade one: change
its version, run this, look at the new files, and put the hashes that it names into the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Module", "check", "fetch", "table", "take"]

HERE = Path(__file__).resolve().parent
ABOUT = "package.json"


@dataclass(frozen=True, slots=True)
class Module:
    """A row of the table."""

    name: str
    version: str
    licence: str
    """SPDX."""
    used_by: str
    files: dict[str, str]
    """Place in the package to SHA-256 in hexadecimal digits; each file lies here under its last name."""


class VendorError(Exception):
    """What is there, or was sent, is not what the table says."""


def table(folder: Path = HERE) -> list[Module]:
    """The modules that belong below `folder`."""
    return [Module(**row) for row in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]


def check(folder: Path = HERE) -> list[str]:
    """What is wrong below `folder`, a line for each file: missing, another one, or in no row of the table."""
    wrong, known = [], {folder / "modules.json", folder / Path(__file__).name}
    for module in table(folder):
        for place, digest in module.files.items():
            path = folder / module.name / Path(place).name
            known.add(path)
            if not path.is_file():
                wrong.append(f"{path} is missing")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                wrong.append(f"{path} is not the file of {module.name} {module.version}")
            elif place == ABOUT and (fault := _other(module, path.read_bytes())):
                wrong.append(f"{path} {fault}")
        if ABOUT not in module.files:
            wrong.append(
                f"{folder / module.name / ABOUT} is not in the table: its version is known by nothing"
            )
    there = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return wrong + [f"{path} is in no row of the table" for path in there if path not in known]


def take(module: Module, tarball: Path) -> dict[str, bytes]:
    """The files of a module out of npm's package, by their last names. Raises VendorError."""
    found: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        if fault := _other(module, _member(archive, ABOUT, module)):
            raise VendorError(f"{tarball.name} {fault}")
        for place, digest in module.files.items():
            data = _member(archive, place, module)
            sent = hashlib.sha256(data).hexdigest()
            if sent != digest:
                raise VendorError(
                    f"{place} of {module.name} {module.version} has the SHA-256 {sent}, not {digest}"
                )
            found[Path(place).name] = data
    return found


def _other(module: Module, data: bytes) -> str | None:
    """How a package.json differs from its row of the table; None where it does not."""
    about: dict[str, Any] = json.loads(data)
    said = (about.get("name"), about.get("version"), about.get("license"))
    row = (module.name, module.version, module.licence)
    return None if said == row else f"says that it is {said}, and the table {row}"


def _member(archive: tarfile.TarFile, place: str, module: Module) -> bytes:
    try:
        file = archive.extractfile(f"package/{place}")
    except KeyError:
        file = None
    if file is None:
        raise VendorError(f"the package of {module.name} {module.version} has no file {place}")
    return file.read()


def fetch(module: Module, folder: Path = HERE) -> None:
    """Fetch a module with `npm pack`, and put its files below `folder`; nothing if it raises VendorError."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{module.name}@{module.version}"]
        done = subprocess.run(
            command, cwd=scratch, stdout=subprocess.PIPE, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise VendorError(f"npm cannot pack {module.name} {module.version}")
        files = take(module, Path(scratch) / done.stdout.split()[-1])
    target = folder / module.name
    target.mkdir(exist_ok=True)
    for name, data in files.items():
        part = target / f".{name}.part"
        part.write_bytes(data)
        part.replace(target / name)


def main() -> int:
    """Exit status 0 where all is as the table says, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="only look whether the files are these; no network"
    )
    if not parser.parse_args().check:
        wanted = " ".join(check())
        for module in table():
            if f"{HERE / module.name}{os.sep}" in wanted:
                print(f"fetching {module.name} {module.version}, {module.licence}")
                try:
                    fetch(module)
                except VendorError as error:
                    print(error, file=sys.stderr)
                    return 1
    wrong = check()
    print(
        "\n".join(wrong) or "every file is the one that the table names",
        file=sys.stderr if wrong else sys.stdout,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
