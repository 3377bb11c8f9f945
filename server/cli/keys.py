"""Keys on the command line: read without echo, written for their owner alone; and whom to trust."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from harmony4.crypto.errors import HarmonyError, SourceError, StorageError, UsageError
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.trust import Accepted, Trust, TrustedKey
from harmony4.server.cli.options import usage
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.streams import STANDARD
from harmony4.server.cli.values import plain

if TYPE_CHECKING:
    from harmony4.crypto.signing import PublicKey
    from harmony4.crypto.timestamp import Certificate

__all__ = [
    "Authorities",
    "Certificates",
    "Head",
    "KeyFile",
    "PassphraseFile",
    "Remember",
    "Revision",
    "Revoked",
    "Subject",
    "Trusted",
    "accepted_facts",
    "find_authorities",
    "first_line",
    "make_signing_key",
    "make_trust",
    "read_file",
    "read_signer",
    "write_new",
]

_MOST: Final = 2**20
_ENCRYPTED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


def _hex_head(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("a head is 64 hex digits: `harmony4 inspect` shows it")
    return text.lower()


KeyFile = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY.pem", help="The private key to sign with (PEM).", show_default=False),
]
PassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Its first line is the key's passphrase; otherwise the terminal is asked.",
        show_default=False,
    ),
]
Subject = Annotated[
    str | None,
    typer.Option(
        "--subject",
        metavar="TEXT",
        help="What the container is an edition of; only its hash is stored.",
        show_default=False,
    ),
]
Revision = Annotated[
    int,
    typer.Option(
        "--revision",
        metavar="N",
        min=0,
        max=2**63 - 1,
        help="The edition of the subject: goes up with each new one; the lowest that is accepted.",
    ),
]
Certificates = Annotated[
    str | None,
    typer.Option(
        "--cert",
        metavar="CHAIN.pem",
        help="Certificates to go with the signature, the key's own first.",
        show_default=False,
    ),
]
_VALID: Final = re.compile(r"(.+)@([0-9]{4}-[0-9]{2}-[0-9]{2})?\.\.([0-9]{4}-[0-9]{2}-[0-9]{2})?")
_DAY: Final = 86_400

Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PUB.pem",
        help="A public key (PEM, one or more) whose signature is required. May be repeated. "
        "PUB.pem@2026-01-01..2027-12-31: believed on these days only (UTC); either may be left out.",
        show_default=False,
    ),
]
Revoked = Annotated[
    list[str] | None,
    typer.Option(
        "--revoked",
        metavar="PUB.pem",
        help="Public keys that are not believed any more. May be repeated.",
        show_default=False,
    ),
]
Remember = Annotated[
    str | None,
    typer.Option(
        "--remember",
        metavar="FILE",
        help="Refuse editions before the latest one that FILE knows of; what is believed is kept there.",
        show_default=False,
    ),
]
Authorities = Annotated[
    list[str] | None,
    typer.Option(
        "--authority",
        metavar="CA.pem",
        help="Root certificates of authorities whose time stamps (RFC 3161) are believed. May be repeated.",
        show_default=False,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="HEX",
        parser=usage(_hex_head),
        help="The one container that it must be: its head, as `harmony4 inspect` shows it.",
        show_default=False,
    ),
]


def read_file(path: str, what: str, most: int = _MOST) -> bytes:
    """A file of `most` bytes at most. Raises SourceError that names it."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"cannot read {what} {path}: {reason}") from error
    if len(data) > most:
        raise SourceError(f"{path} is too large for {what}", expected=f"<= {most} bytes")
    return data


def read_signer(
    key: str | None, subject: str | None, revision: int, certificates: str | None, passphrase_file: str | None
) -> Signer:
    """Who signs. Raises SourceError, UsageError, SealError; no text of them holds a secret."""
    from harmony4.crypto.signing import SigningKey, read_certificates  # takes its time, and few need it

    if key is None:
        raise UsageError("a signature needs a key", expected="--key KEY.pem")
    data = read_file(key, "the key")
    passphrase: bytes | None = None
    if passphrase_file is not None:
        passphrase = first_line(passphrase_file).encode("utf-8", "surrogateescape")
    elif any(mark in data for mark in _ENCRYPTED):
        passphrase = _asked(f"Passphrase of {key}: ")
    try:
        secret = SigningKey.from_pem(data, passphrase)
    except UsageError as error:
        raise UsageError(f"{key}: {error.message}") from None
    chain = () if certificates is None else read_certificates(read_file(certificates, "the certificates"))
    return Signer(secret, subject, revision, chain)


def make_signing_key(output: str, passphrase: str | None, *, json: bool, quiet: bool) -> None:
    """`keygen --signing`: KEY.pem for its owner, KEY.pub.pem for all. Raises UsageError, StorageError."""
    from harmony4.crypto.signing import SigningKey  # takes its time, and few need it

    if output == STANDARD:
        raise UsageError("a key to sign with is two files: use -o KEY.pem")
    key = SigningKey.generate()
    beside = output.removesuffix(".pem") + ".pub.pem"
    secret = key.pem(None if passphrase is None else passphrase.encode("utf-8", "surrogateescape"))
    write_new({output: (secret, 0o600), beside: (key.public.pem(), 0o644)})
    name = key.public.fingerprint.hex()
    if json:
        say_json({"output": output, "kind": "sign", "public": beside, "key": name})
    elif not quiet:
        say(f"{plain(output)}: keep it to yourself", f"{plain(beside)}: for everybody", f"key {name}")


def first_line(path: str) -> str:
    """The passphrase in a file. Raises SourceError, UsageError."""
    data = read_file(path, "the passphrase").split(b"\n")[0].removesuffix(b"\r")
    if not data:
        raise UsageError(f"the first line of {path} is empty, and is no passphrase")
    return data.decode("utf-8", "surrogateescape")


def _asked(prompt: str) -> bytes:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the passphrase at: use --passphrase-file")
    text = getpass.getpass(prompt)
    if not text:
        raise UsageError("the passphrase is empty")
    return text.encode()


def write_new(files: dict[str, tuple[bytes, int]]) -> None:
    """Write files that must not exist yet (name: data and mode), all of them or none. Raises StorageError."""
    made: list[Path] = []
    try:
        for name, (data, mode) in files.items():
            path = Path(name)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                made.append(path)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except FileExistsError:
                raise StorageError(f"{name} exists; a key is never written over") from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise StorageError(f"cannot write {name}: {reason}") from error
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def make_trust(
    trusted: list[str] | None,
    *,
    head: str | None = None,
    subject: str | None = None,
    revision: int = 0,
    revoked: list[str] | None = None,
    authorities: list[str] | None = None,
    latest: Mapping[tuple[bytes, bytes], int] | None = None,
) -> Trust | None:
    """What must hold, as the options say; None where none is given. Raises UsageError, SourceError.

    `latest`: the editions that were seen; None where nobody keeps them.
    """
    if latest is not None and not trusted:
        raise UsageError("what was seen is of a key: --remember needs --trust PUB.pem")
    if not trusted and head is None:
        if subject is not None or revision or revoked or authorities:
            raise UsageError("whose signature is required? Give --trust PUB.pem")
        return None
    keys = tuple(dict.fromkeys(key for text in trusted or () for key in _trusted(text)))
    gone = frozenset(key.fingerprint for path in revoked or () for key in _public(path))
    pinned = None if head is None else bytes.fromhex(head)
    stamps = find_authorities(authorities)
    return Trust(keys, pinned, subject, revision, gone, int(time.time()), stamps, latest or {})


def find_authorities(paths: list[str] | None) -> tuple[Certificate, ...]:
    """The certificates in these files. Raises SourceError, UsageError."""
    from harmony4.crypto.timestamp import read_authorities  # as above

    found: list[Certificate] = []
    for path in paths or ():
        try:
            found += read_authorities(read_file(path, "the certificates"))
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}") from None
    return tuple(dict.fromkeys(found))


def _trusted(text: str) -> Iterator[PublicKey | TrustedKey]:
    """The keys of `PUB.pem`, or of `PUB.pem@FIRST..LAST`: days (UTC) on which they are believed."""
    match = _VALID.fullmatch(text)
    if match is None:
        yield from _public(text)
        return
    path, first, last = match.groups()
    try:
        since, until = (None if not day else _seconds(day) for day in (first, last))
    except ValueError:
        raise UsageError("a key's validity is no days", where=text, expected="PUB.pem@FIRST..LAST") from None
    if until is not None:
        until += _DAY - 1
    if since is not None and until is not None and until < since:
        raise UsageError("a key's validity ends before it begins", where=text)
    for key in _public(path):
        yield TrustedKey(key, since, until)


def _seconds(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def _public(path: str) -> tuple[PublicKey, ...]:
    from harmony4.crypto.signing import read_public_keys

    data = read_file(path, "the public key")
    try:
        return read_public_keys(data)
    except HarmonyError as error:
        raise UsageError(f"{path}: {error.message}") from None


def accepted_facts(accepted: Accepted) -> dict[str, object]:
    """A signature that was believed, as JSON has it."""
    return {
        "key": accepted.key.fingerprint.hex(),
        "subject": None if accepted.subject is None else accepted.subject.hex(),
        "revision": accepted.revision,
        "time": None if accepted.time is None else accepted.time.isoformat().replace("+00:00", "Z"),
    }
