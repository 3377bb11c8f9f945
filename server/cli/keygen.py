"""`keygen`: a new key, in a file that only its owner may read."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harmony4.crypto.errors import StorageError
from harmony4.crypto.mask import MasterKey
from harmony4.server.cli.keyfiles import NewKey, new_passphrase
from harmony4.server.cli.options import EPILOG, Json, Quiet, flag, prose
from harmony4.server.cli.output import say, say_json, write
from harmony4.server.cli.streams import STANDARD
from harmony4.server.cli.values import plain
from harmony4.server.masking.keys import format_key, write_key_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("keygen", rich_help_panel="Keys", epilog=EPILOG, help=prose(keygen_command))(keygen_command)


def keygen_command(
    output: NewKey,
    passphrase: Annotated[
        bool,
        flag(
            "--passphrase",
            help="Lock the key with a passphrase: HARMONY4_KEY_PASSPHRASE, or what is typed twice.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a master key for masking: 32 random bytes, as one line of text.

    The file can be read by its owner only, and none is ever written over. Whoever has the key can unmask
    what it masks; without it nobody can, so keep a copy in another place. The key id is public: it stands in
    every container that the key opens.
    """
    _mask_key(output, passphrase, json=json, quiet=quiet)


def _mask_key(output: str, passphrase: bool, *, json: bool, quiet: bool) -> None:
    key = MasterKey.generate()
    text = format_key(key, new_passphrase() if passphrase else None)
    to_stdout = output == STANDARD
    if to_stdout:
        if sys.stdout is not None and sys.stdout.isatty():
            raise StorageError("a key is not shown on a terminal; use -o FILE or a pipe")
        write(text + "\n", sys.stdout)
    else:
        write_key_file(output, text)
    if json:
        facts = {
            "output": None if to_stdout else output,
            "kind": "mask",
            "id": key.id.hex(),
            "passphrase": passphrase,
        }
        say_json(facts, to_stderr=to_stdout)
    elif not quiet:
        say(
            f"{'standard output' if to_stdout else plain(output)}: a key for masking"
            f"{', locked by a passphrase' if passphrase else ''}",
            f"key id {key.id.hex()}",
            "note: what a lost key masks is lost with it; keep a copy in another place",
            to_stderr=to_stdout,
        )
