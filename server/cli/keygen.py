"""`keygen`: new keys."""

from __future__ import annotations

from typing import Annotated

import typer

from harmony4.crypto.errors import UsageError
from harmony4.server.cli.keys import PassphraseFile, make_signing_key
from harmony4.server.cli.options import EPILOG, Json, Quiet, flag, prose, target_name

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("keygen", rich_help_panel="Keys", epilog=EPILOG, help=prose(keygen_command))(keygen_command)


def keygen_command(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            parser=target_name,
            metavar="KEY",
            help="The file to write. One that exists is never written over.",
            show_default=False,
        ),
    ],
    signing: Annotated[
        bool, flag("--signing", help="A key to sign with: ECDSA P-256, PKCS#8 in PEM, and its public half.")
    ] = False,
    passphrase: Annotated[
        bool, flag("--passphrase", help="Ask for a passphrase, and encrypt with it.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a new key.

    With --signing: KEY.pem, which only its owner can read, and KEY.pub.pem beside it, which is for everybody
    who is to check what was signed (`harmony4 verify --trust KEY.pub.pem`).
    """
    if not signing:
        raise UsageError("only keys to sign with are made here", expected="--signing")
    make_signing_key(output, passphrase, passphrase_file, json=json, quiet=quiet)
