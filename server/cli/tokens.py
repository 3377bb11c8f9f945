"""`token` and `sign-url`: who may use a server, and addresses that open one thing for a while."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from harmony4.crypto.errors import SourceError, UsageError
from harmony4.server.audit import AuditLog, Head
from harmony4.server.cli.interrupts import deferred
from harmony4.server.cli.noting import PATIENCE, by_command
from harmony4.server.cli.options import EPILOG, Json, prose, usage
from harmony4.server.cli.output import columns, fields, say, say_json
from harmony4.server.cli.values import format_count, parse_lifetime, plain
from harmony4.server.config import load_config
from harmony4.server.guard.scopes import parse_scopes
from harmony4.server.guard.secret import load_secret, secret_path
from harmony4.server.guard.tokens import Token, TokenFile, new_token
from harmony4.server.logs import without_signature
from harmony4.server.state import State

__all__ = ["register"]

_PANEL = "Operate"

Library = Annotated[
    Path | None,
    typer.Option(
        "--library",
        "-l",
        metavar="DIR",
        help="Folder that the server serves \\[default: as for serve, the current one].",
        show_default=False,
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The server's settings (TOML).", show_default=False),
]
Expires = Annotated[
    int | None,
    typer.Option(
        "--expires",
        parser=usage(parse_lifetime),
        metavar="TIME",
        help="How long it holds: 90s, 30min, 12h, 30d, 2w \\[default: until it is revoked].",
        show_default=False,
    ),
]

_token = typer.Typer(
    help=(
        "Make, list and revoke tokens.\n\n"
        "A token is what a program sends as `Authorization: Bearer TOKEN`, and what a page signs in with. "
        "The server keeps only a hash of it. Servers that run notice changes within a second."
    ),
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


_audit = typer.Typer(
    help="The audit log: who changed what, line by line.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for name, command in (("add", add), ("list", list_tokens), ("revoke", revoke)):
        _token.command(name, epilog=EPILOG, help=prose(command))(command)
    app.add_typer(_token, name="token", rich_help_panel=_PANEL)
    _audit.command("verify", epilog=EPILOG, help=prose(verify_audit))(verify_audit)
    app.add_typer(_audit, name="audit", rich_help_panel=_PANEL)
    app.command("sign-url", rich_help_panel=_PANEL, epilog=EPILOG, help=prose(sign_url))(sign_url)


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.", show_default=False)],
    scope: Annotated[
        Any,
        typer.Option(
            "--scope",
            "-s",
            parser=usage(parse_scopes),
            metavar="SCOPES",
            help="What it allows: read, write (and read), mask, admin (all), metrics; several with commas.",
        ),
    ] = "read",
    expires: Expires = None,
    library: Library = None,
    config: Settings = None,
    json: Json = False,
) -> None:
    """Make a token and print it.

    It is shown this once: only its hash is kept.
    """
    now = time.time()
    token, text = new_token(name, scope, now, None if expires is None else int(now) + expires)
    state = _state(library, config)
    with deferred():
        TokenFile(state).add(token)
        by_command(
            state, "token-add", id=token.id, name=token.name, scopes=list(token.scopes), expires=token.expires
        )
    if json:
        say_json({"token": text, **_facts(token)})
    else:
        say(text)
        say(*fields(_shown(token)), "It is not shown again.", to_stderr=True)


def list_tokens(library: Library = None, config: Settings = None, json: Json = False) -> None:
    """List the tokens there are, in the order they were made: never their secrets."""
    found = list(TokenFile(_state(library, config)).read().values())
    if json:
        say_json({"tokens": [_facts(one) for one in found]})
        return
    if found:
        rows = [[value for _, value in _shown(one)] for one in found]
        say(*columns(rows, head=["id", "name", "scopes", "created", "expires"]))
    else:
        say(format_count(0, "token"))


def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.", show_default=False)],
    library: Library = None,
    config: Settings = None,
    json: Json = False,
) -> None:
    """Take a token back, and every session that began with it."""
    state = _state(library, config)
    with deferred():
        token = TokenFile(state).revoke(id)
        by_command(state, "token-revoke", id=token.id, name=token.name)
    if json:
        say_json({"revoked": _facts(token)})
    else:
        say(f"revoked {token.id}")


def sign_url(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="The address, whole or from its path on: /video/range?name=…",
            show_default=False,
        ),
    ],
    expires: Annotated[
        int,
        typer.Option(
            "--expires",
            parser=usage(parse_lifetime),
            metavar="TIME",
            help="How long it holds: 90s, 30min, 12h, 30d, 2w.",
        ),
    ] = "1h",  # type: ignore[assignment]  # goes through the parser
    client: Annotated[
        str | None,
        typer.Option(
            "--client",
            metavar="ADDRESS",
            help="The only IP address that may use it \\[default: any].",
            show_default=False,
        ),
    ] = None,
    library: Library = None,
    config: Settings = None,
    json: Json = False,
) -> None:
    """Sign an address, so that whoever has it can read what it names, for a while and without a token.

    The addresses that the server puts into its answer (range_url) are signed the same way. Such an address
    cannot be taken back: keep its time short.
    """
    from harmony4.server.guard import signing  # loads yarl

    try:
        ip = None if client is None else signing.plain_address(client)
    except ValueError as error:
        raise UsageError("the client's address is no IP address", found=repr(client)) from error
    signature = signing.Signature(int(time.time()) + expires, ip)
    state = _state(library, config)
    is_new = not secret_path(state).exists()
    key = signing.key_of(load_secret(state))
    try:
        signed = signing.signed_url(key, url, signature)
    except ValueError as error:
        raise UsageError(f"the address cannot be signed: {error}") from error
    # The address, not what opens it.
    by_command(state, "sign-url", url=without_signature(url), expires=signature.exp, client=signature.ip)
    if is_new:
        say(
            f"note: no server has used {plain(state.path)} yet; its secret was made just now",
            to_stderr=True,
        )
    if json:
        say_json({"url": signed, "exp": signature.exp, "ip": signature.ip})
    else:
        say(signed)


def verify_audit(
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="N:HASH",
            help="A line that was noted before: the log must still go through it.",
            show_default=False,
        ),
    ] = None,
    library: Library = None,
    config: Settings = None,
    json: Json = False,
) -> None:
    """Check that no line of the audit log was changed, removed or inserted.

    Prints the number and the hash of the last line. Keep them where whoever can write the log cannot: with
    `--head` a later check also finds lines that were taken off the end, and a log that was written anew.
    """
    log = AuditLog(_state(library, config))
    found = log.verify(None if head is None else _head(head))
    waiting = log.left()
    if json:
        say_json({"lines": found.number, "head": f"{found.number}:{found.digest}", "waiting": waiting})
    else:
        say(f"{format_count(found.number, 'line')}, unbroken: {found.number}:{found.digest}")
        if waiting:
            say(f"note: {format_count(waiting, 'line')} beside it, not added yet", to_stderr=True)


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdigit() and re.fullmatch(r"[0-9a-f]{64}", digest)):
        raise UsageError("the head is not valid", expected="N:HASH, as it was printed", found=text[:80])
    return Head(int(number), digest)


def _state(library: Path | None, config: Path | None) -> State:
    """The folder of the server that these options, or the environment, mean. Raises HarmonyError."""
    settings = load_config(file=config, environ=os.environ, flags={"library": library})
    try:
        root = Path(os.path.realpath(settings.library, strict=True))
        if not root.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        raise SourceError(
            f"cannot read the library: {error.strerror}", where=str(settings.library)
        ) from error
    return State.of(settings.state, root, patience=PATIENCE)


def _facts(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": list(token.scopes),
        "created": token.created,
        "expires": token.expires,
    }


def _shown(token: Token) -> list[tuple[str, str]]:
    return [
        ("id", token.id),
        ("name", token.name),
        ("scopes", ",".join(token.scopes)),
        ("created", _date(token.created)),
        ("expires", "never" if token.expires is None else _date(token.expires)),
    ]


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
