"""/openapi.json is true: schemathesis, which knows little else, tries every operation on a running server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import run
from harmony4.crypto.mask import MaskSpec
from harmony4.server.openapi import document
from masking import ONE, keyring, masked_container
from needs import BUNNY, MEDIA
from processes import served
from serving import write_container

HERE = Path(__file__).parent / "openapi"
ENDLESS = "/events"  # has no end that could be waited for; test_changes_http.py reads it
CASES = 2000
"""How many requests it makes at least, so that a description which it cannot read does not pass."""


def fill(library: Path) -> None:
    """A container of each kind, and some to be deleted."""
    for name, *options in (
        ("bunny", BUNNY),
        ("sound", MEDIA / "numbers.flac"),
        ("spectrum", MEDIA / "numbers.flac", "--spectrum", "structure"),
    ):
        assert run("export", *options, "-o", library / f"{name}.h4mk").status == 0
    write_container(library / "opaque.h4mk", [b"one", b"two" * 1000])
    masked_container(library / "masked.h4mk", library / "opaque.h4mk", MaskSpec((ONE,)))
    whole = (library / "opaque.h4mk").read_bytes()
    (library / "cut.h4mk").write_bytes(whole[:-100])
    (library / "damaged.h4mk").write_bytes(whole.replace(b"two" * 1000, b"Two" * 1000))
    for number in range(8):
        write_container(library / f"spare-{number}.h4mk", [b"spare"])


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """No 5xx, no status, type or schema that is not described, nothing taken that is not valid, no valid
    request that is refused as one which is not."""
    library = tmp_path / "library"
    library.mkdir()
    fill(library)
    keys = keyring(tmp_path / "keys", films=ONE)
    with served(library, "--keyring", keys, "--workers", 2, HARMONY4_MIN_FREE="0") as server:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "schemathesis.cli",
                    "--config-file",
                    HERE / "schemathesis.toml",
                ),
                *("run", f"{server.url}openapi.json", "--exclude-path", ENDLESS),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "hooks"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        status, err = server.stop()
    assert (done.returncode, status) == (0, 0), done.stdout[-20_000:] + err
    assert "Traceback" not in err
    operations = sum(len(item) for item in document()["paths"].values())
    # All but the endless one, and the description itself, where it leaves alone what it was given.
    assert f"Tested: {operations - 2}" in done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    assert int(generated[1]) >= CASES
