"""`fetch`: download, and believe nothing that is not signed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from harmony4.crypto.errors import FormatError, UsageError
from harmony4.server.cli.editions import Editions
from harmony4.server.cli.keys import (
    Head,
    Remember,
    Revision,
    Revoked,
    Subject,
    Trusted,
    accepted_facts,
    make_trust,
    read_file,
)
from harmony4.server.cli.options import EPILOG, Json, Output, Quiet, flag, prose
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.streams import STANDARD, noted
from harmony4.server.cli.values import format_count, format_size, plain

__all__ = ["register"]

LOST: Final = 3


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("fetch", rich_help_panel="Check", epilog=EPILOG, help=prose(fetch_command))(fetch_command)


def fetch_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="http://HOST/video/range?name=NAME, or another address of the container.",
            show_default=False,
        ),
    ],
    output: Output,
    trust: Trusted = None,
    head: Head = None,
    subject: Subject = None,
    revision: Revision = 0,
    revoked: Revoked = None,
    remember: Remember = None,
    container: Annotated[
        bool, flag("--container", help="Bring the sealed container, and not a track's stream.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, max=64, help="Requests at the same time.")
    ] = 4,
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="A file with the token that the server asks for; without it, the variable HARMONY4_TOKEN.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a track's stream, or the container, and accept only what a trusted key signed.

    Every block is compared with its signed hash before it is written. OUT appears when all of it is there;
    until then the blocks that have come are in OUT.part, and the next attempt goes on from them. A server
    that changes one bit is named, with the block that it lied about.

    Exit status 0: all of it is there and proven. 3: the server lied, or proves nothing. 1: refused.
    """
    from harmony4.server.upstream.fetching import fetch_container, fetch_stream

    editions = Editions(remember)
    latest = editions.latest if remember else None
    wanted = make_trust(trust, head=head, subject=subject, revision=revision, revoked=revoked, latest=latest)
    if wanted is None:
        raise UsageError("whom to believe? Give --trust PUB.pem, or --head HEX")
    if output == STANDARD:
        raise UsageError("parts come in any order, so they are written to a file: use -o FILE")
    bring = fetch_container if container else fetch_stream
    path = os.path.realpath(output)
    try:
        with noted(path), Meter("fetching", quiet=quiet) as meter:
            found = bring(url, Path(path), wanted, jobs=jobs, progress=meter, token=_token(token_file))
    except FormatError as error:
        say(f"error: {plain(error)}", to_stderr=True)
        raise typer.Exit(LOST) from None
    if json:
        say_json(
            {
                "output": output,
                "size": found.size,
                "blocks": found.blocks,
                "received": found.received,
                "head": found.head.hex(),
                "signature": None if found.accepted is None else accepted_facts(found.accepted),
            }
        )
    elif not quiet:
        lines = [
            f"{plain(output)}: {format_size(found.size)}, {format_count(found.blocks, 'block')}, proven",
            f"head {found.head.hex()}",
        ]
        if found.accepted is not None:
            edition = "" if found.accepted.subject is None else f", revision {found.accepted.revision}"
            lines.append(f"signed by {found.accepted.key.fingerprint.hex()}{edition}")
        if head is None and subject is None:
            lines.append("note: any container by this key passes; --head or --subject say which one is meant")
        say(*lines)
    editions.remember([found.accepted])


def _token(path: str | None) -> str | None:
    """What the server is shown, if anything; no error quotes it. Raises SourceError, UsageError."""
    if path is None:
        return os.environ.get("HARMONY4_TOKEN") or None
    try:
        return read_file(path, "the token").decode("ascii").strip()
    except UnicodeDecodeError:
        raise UsageError("that is no token", where=path) from None
