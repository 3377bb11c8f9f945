"""`keygen`: a new key, in a file that only its owner may read."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harmony4.crypto.errors import StorageError
from harmony4.crypto.mask import MasterKey
from harmony4.server.cli.keyfiles import NewKey, new_passphrase
from harmony4.server.cli.keys import PassphraseFile, first_line, make_signing_key
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
    signing: Annotated[
        bool,
        flag(
            "--signing", help="A key to sign with: ECDSA P-256, PKCS#8 in PEM, and its public half beside it."
        ),
    ] = False,
    passphrase: Annotated[
        bool,
        flag(
            "--passphrase",
            help="Lock the key with a passphrase: HARMONY4_KEY_PASSPHRASE, or what is typed twice.",
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a new key: to mask with or, with --signing, to sign with.

    A master key for masking is 32 random bytes, as one line of text. Whoever has it can unmask what it masks;
    without it nobody can, so keep a copy in another place. The key id is public: it stands in every container
    that the key opens.

    With --signing: KEY.pem, and KEY.pub.pem beside it, which is for everybody who is to check what was signed
    (`harmony4 verify --trust KEY.pub.pem`).

    The file can be read by its owner only, and none is ever written over.
    """
    word = None
    if passphrase_file is not None:
        word = first_line(passphrase_file)
    elif passphrase:
        word = new_passphrase()
    (make_signing_key if signing else _master_key)(output, word, json=json, quiet=quiet)


def _master_key(output: str, word: str | None, *, json: bool, quiet: bool) -> None:
    key = MasterKey.generate()
    text = format_key(key, word)
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
            "passphrase": word is not None,
        }
        say_json(facts, to_stderr=to_stdout)
    elif not quiet:
        say(
            f"{'standard output' if to_stdout else plain(output)}: a key for masking"
            f"{', locked by a passphrase' if word is not None else ''}",
            f"key id {key.id.hex()}",
            "note: what a lost key masks is lost with it; keep a copy in another place",
            to_stderr=to_stdout,
        )
