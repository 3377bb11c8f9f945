"""The third-party JavaScript that tests run: it is what the table says, and nothing else is taken."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from needs import ROOT

VENDOR = ROOT / "tests" / "vendor"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vendor_fetch", VENDOR / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VENDOR, tmp_path / "vendor"))


def test_every_file_is_what_the_table_says() -> None:
    """By the command, as a person calls it; it needs no network."""
    command = [sys.executable, VENDOR / "fetch.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table(script: ModuleType) -> None:
    """A version that is pinned, a licence, its text, and somebody who uses it."""
    for module in script.table():
        assert module.version.count(".") == 2
        assert module.licence in ("MIT", "Apache-2.0", "MPL-2.0")
        assert {"LICENSE", "package.json"} <= module.files.keys()
        assert module.name in (ROOT / module.used_by).read_text(encoding="utf-8")
    assert not [path for path in (ROOT / "static").iterdir() if path.name in str(script.table())]


@pytest.mark.parametrize("fault", ["a bit", "missing", "more"])
def test_what_is_another_file_is_named(script: ModuleType, copy: Path, fault: str) -> None:
    assert script.check(copy) == []
    path = copy / "hls.js" / ("more.js" if fault == "more" else "hls.min.js")
    if fault == "missing":
        path.unlink()
    else:
        data = path.read_bytes() if path.exists() else b"x"
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (line,) = script.check(copy)
    assert str(path) in line


@pytest.mark.parametrize("field", ["version", "licence", "files"])
def test_a_table_that_was_changed_alone_is_noticed(script: ModuleType, copy: Path, field: str) -> None:
    """The files are still those of the row before: only their package.json can tell."""
    path = copy / "modules.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    row = next(one for one in rows if one["name"] == "hls.js")
    if field == "files":
        del row["files"]["package.json"]
    else:
        row[field] = {"version": "1.7.5", "licence": "MIT"}[field]
    path.write_text(json.dumps(rows), encoding="utf-8")
    wrong = script.check(copy)
    assert wrong
    assert all(str(copy / "hls.js" / "package.json") in line for line in wrong)
    if field != "files":
        assert row[field] in wrong[0]
    # Whoever runs the copied command is told so as well, by its exit status too.
    command = [sys.executable, copy / "fetch.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert wrong[0] in done.stderr


def package(module: Any, change: dict[str, bytes]) -> bytes:
    """What npm would send of a module, made of the files that are here."""
    files = {place: (VENDOR / module.name / Path(place).name).read_bytes() for place in module.files}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in (files | change).items():
            if data:
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"LICENSE": b"other"}, "LICENSE of hls.js 1.7.4 has the SHA-256"),
        ({"dist/hls.min.js": b""}, "has no file dist/hls.min.js"),
        ({"package.json": b'{"name": "hls.js", "version": "1.7.5"}'}, "1.7.5"),
        ({"../../escape.js": b"x", "dist/hls.js": b"y"}, None),
    ],
)
def test_only_the_pinned_files_are_taken(
    script: ModuleType, tmp_path: Path, change: dict[str, bytes], says: str | None
) -> None:
    module = next(one for one in script.table() if one.name == "hls.js")
    tarball = tmp_path / "sent.tgz"
    tarball.write_bytes(package(module, change))
    if says is not None:
        with pytest.raises(script.VendorError, match=says):
            script.take(module, tarball)
        return
    taken = script.take(module, tarball)
    names = ("hls.min.js", "LICENSE", "package.json")
    assert taken == {name: (VENDOR / "hls.js" / name).read_bytes() for name in names}
