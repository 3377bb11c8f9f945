"""Master keys for commands: from key files or the environment, never from an argument; passphrases."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from harmony4.crypto.errors import KeyRefusedError
from harmony4.crypto.mask import MasterKey
from harmony4.server.cli.options import target_name
from harmony4.server.cli.values import plain
from harmony4.server.masking.keys import (
    KEY,
    KEY_FILE,
    PASSPHRASE,
    Passphrase,
    parse_key,
    passphrase_from,
    read_key_file,
)

__all__ = ["KeyFiles", "NewKey", "find_masters", "need_masters", "new_passphrase", "read_masters"]

_HOW: Final = f"--key-file, or {KEY_FILE} or {KEY} in the environment"

KeyFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--key-file",
        "-k",
        metavar="KEY",
        help=f"A file with a master key, as `harmony4 keygen` makes it; more than once for several keys. "
        f"Without it, {KEY_FILE} names one, or {KEY} is the key itself.",
        show_default=False,
    ),
]
NewKey = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        parser=target_name,
        metavar="KEY",
        help="The file to write, or - for standard output. It must be new: keys are never written over.",
        show_default=False,
    ),
]


def read_masters(files: Sequence[str]) -> tuple[MasterKey, ...]:
    """The keys in these files, in their order. Raises SourceError, KeyRefusedError."""
    return tuple(read_key_file(file, _passphrase(file)) for file in files)


def find_masters(files: Sequence[str] | None) -> tuple[MasterKey, ...]:
    """The keys in these files or, where there are none, in the environment; empty if there is none either.

    Raises SourceError, KeyRefusedError.
    """
    if files:
        return read_masters(files)
    found = []
    if text := os.environ.get(KEY):
        try:
            found.append(parse_key(text, _passphrase(KEY)))
        except KeyRefusedError as error:
            raise KeyRefusedError(
                error.message, where=KEY, expected=error.expected, found=error.found
            ) from None
    if path := os.environ.get(KEY_FILE):
        found += read_masters([path])
    return tuple(dict.fromkeys(found))


def need_masters(files: Sequence[str] | None, why: str) -> tuple[MasterKey, ...]:
    """The same, at least one; `why` begins the error, a KeyRefusedError, that says that there is none."""
    found = find_masters(files)
    if not found:
        raise KeyRefusedError(f"{why} needs a key", expected=_HOW)
    return found


def new_passphrase() -> str:
    """A passphrase for a new key: what the environment says, else what somebody types twice.

    Raises KeyRefusedError where there is neither, and where both times are not the same.
    """
    known = passphrase_from(os.environ)
    if known is not None:
        return known()
    if not _terminal():
        raise KeyRefusedError(f"there is no terminal to ask for a passphrase; {PASSPHRASE} can hold it")
    first = _ask("Passphrase: ")
    if not first:
        raise KeyRefusedError("an empty passphrase protects nothing")
    if _ask("The same again: ") != first:
        raise KeyRefusedError("the two passphrases differ")
    return first


def _passphrase(name: str) -> Passphrase | None:
    known = passphrase_from(os.environ)
    if known is not None or not _terminal():
        return known
    return lambda: _ask(f"Passphrase of {plain(name)}: ")


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise KeyRefusedError("no passphrase was given") from None


def _terminal() -> bool:
    """Whether somebody can be asked. Without a terminal, getpass would show what is typed."""
    if os.name != "posix":
        return sys.stdin is not None and sys.stdin.isatty()
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return sys.stdin is not None and sys.stdin.isatty()
    return True
