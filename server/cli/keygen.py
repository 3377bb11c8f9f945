"""`keygen`: new keys."""

from __future__ import annotations

from typing import Annotated

import typer

from harmony4.crypto.errors import UsageError
from harmony4.server.cli.keys import PassphraseFile, new_passphrase, write_new
from harmony4.server.cli.options import EPILOG, Json, Quiet, flag, prose, target_name
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.streams import STANDARD
from harmony4.server.cli.values import plain

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
    if output == STANDARD:
        raise UsageError("a key is written to a file: use -o KEY.pem")
    from harmony4.crypto.signing import SigningKey  # takes its time, and few need it

    key = SigningKey.generate()
    beside = output.removesuffix(".pem") + ".pub.pem"
    secret = key.pem(new_passphrase(passphrase, passphrase_file))
    write_new({output: (secret, 0o600), beside: (key.public.pem(), 0o644)})
    if json:
        say_json({"output": output, "public": beside, "key": key.public.fingerprint.hex()})
    elif not quiet:
        say(
            f"{plain(output)}: keep it to yourself",
            f"{plain(beside)}: for everybody",
            f"key {key.public.fingerprint.hex()}",
        )
