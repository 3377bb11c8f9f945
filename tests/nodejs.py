"""npm's packages of `tests/node/package-lock.json`, and programs there that use them.

    heard = json.loads(run_node("listen.js", url).out)

They are installed once, below `.build/`: after that nobody needs the network for them. npm finds its source
of packages in its own settings, as pip does.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from needs import ROOT
from programs import ROOM, Ended, command, run_program

_HERE: Final = ROOT / "tests" / "node"
_FILES: Final = ("package.json", "package-lock.json")


def _installed() -> Path:
    """The folder whose `node_modules` are those of the lock."""
    digest = hashlib.sha256(b"".join((_HERE / name).read_bytes() for name in _FILES)).hexdigest()
    folder = ROOT / ".build" / "node" / digest[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            new = Path(name) / "new"
            new.mkdir()
            for one in _FILES:
                shutil.copy(_HERE / one, new)
            quiet = (
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-update-notifier",
                "--prefer-offline",
            )
            done = subprocess.run(
                command("npm", "ci", *quiet),
                cwd=new,
                capture_output=True,
                text=True,
                timeout=ROOM,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            new.rename(folder)  # whole or not at all
    return folder


def run_node(script: str, *arguments: object) -> Ended:
    """Run a script of `tests/node/` to its end."""
    # From its standard input: a module finds packages beside the folder in which it runs.
    text = (_HERE / script).read_bytes()
    return run_program("node", "--input-type=module", "-", *arguments, folder=_installed(), feed=text)
