"""`verify`: every check there is, and what came of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final

import typer

from harmony4.crypto.errors import HarmonyError
from harmony4.h4mk import ReadAt, VerifyReport, verify
from harmony4.server.cli.editions import Editions
from harmony4.server.cli.keyfiles import KeyFiles, find_masters
from harmony4.server.cli.keys import (
    Authorities,
    Head,
    Remember,
    Revision,
    Revoked,
    Subject,
    Trusted,
    accepted_facts,
    make_trust,
)
from harmony4.server.cli.options import EPILOG, File, Json, Quiet, prose
from harmony4.server.cli.output import fields, say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.streams import open_file, sequential, shown
from harmony4.server.cli.values import format_count, format_duration, plain

__all__ = ["problem_facts", "register"]

LOST: Final = 3

_CHECKS: Final = {
    "sealed": (
        "header, and the order, size and CRC-32 of every chunk",
        "every block: SHA-256, times, offsets, keyframes and flags against its token and its neighbours",
        "SEEK, RMAP and the hash tree (MERK): derived again from the blocks, equal byte for byte",
        "TRAK and META: canonical, and every count, sum and stream digest as recomputed",
        "VERI, the root, the head and the file length (TAIL): as recomputed",
    ),
    "incomplete": (
        "header, and the order, size and CRC-32 of every chunk that is there",
        "every complete block: SHA-256, times, offsets, keyframes and flags against its token",
    ),
    "original": (
        "header, and the order, size and CRC-32 of every chunk",
        "SEEK: complete and sorted; META: well-formed",
        "VERI: the SHA-256 of all chunks above it",
    ),
    "unreadable": ("header and the first chunk",),
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("verify", rich_help_panel="Check", epilog=EPILOG, help=prose(verify_command))(verify_command)


def verify_command(
    file: File,
    key_file: KeyFiles = None,
    trust: Trusted = None,
    head: Head = None,
    subject: Subject = None,
    revision: Revision = 0,
    revoked: Revoked = None,
    remember: Remember = None,
    authority: Authorities = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a container.

    CRC-32 of each chunk, SHA-256 of each block, the order and times of all blocks; the tables, the hash tree
    and the totals are derived again from the blocks and compared; then the seal. Every problem is listed with
    the place, what was expected and what was found. One pass: a pipe does (`-`).

    Of a masked container everybody can check all of this. With a key the tag of each block is checked as
    well: it shows that the block is the one, in its place, that somebody with the key masked.

    With --trust the signatures by these keys are checked too, and a final one is required: without it a
    container fails. With --authority their time stamps are checked as well: the signature was there by then.

    Exit status 0: sealed and sound. 3: something is wrong or missing. 1: the file cannot be read at all.
    """
    masters = find_masters(key_file)
    editions = Editions(remember)
    wanted = make_trust(
        trust,
        head=head,
        subject=subject,
        revision=revision,
        revoked=revoked,
        authorities=authority,
        latest=editions.latest if remember else None,
    )
    with _source(file) as (source, size), Meter("verifying", size, quiet=quiet) as meter:
        report = verify(source, masters=masters, progress=meter, trust=wanted)
    if json:
        say_json(_facts(report))
    elif not report.ok or not quiet:
        say(*_text(report, file, asked=bool(trust)))
    if not report.ok:
        raise typer.Exit(LOST)
    editions.remember(report.accepted)


@contextlib.contextmanager
def _source(file: str) -> Iterator[tuple[ReadAt | BinaryIO, int | None]]:
    """A file to read at offsets, or a stream to read once, and its size if it has one."""
    stream = sequential(file)
    if stream is None:
        with contextlib.closing(open_file(file)) as source:
            yield source, source.size()
        return
    with stream as opened:
        status = os.fstat(opened.fileno())
        yield opened, status.st_size if stat.S_ISREG(status.st_mode) else None


def _facts(report: VerifyReport) -> dict[str, object]:
    return {
        "ok": report.ok,
        "state": report.state,
        "problems": [problem_facts(one) for one in report.problems],
        "checks": list(_checks(report)),
        "blocks": report.blocks,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "duration": report.duration,
        "head": report.head.hex() if report.head else None,
        "root": report.root.hex() if report.root else None,
        "holes": report.holes,
        "masked": report.masked,
        "tags": report.tags,
        "whole": report.whole,
        "signatures": {
            "found": report.signatures,
            "checked": report.checked,
            "covered": report.covered,
            "accepted": [accepted_facts(one) for one in report.accepted],
        },
    }


def _checks(report: VerifyReport) -> tuple[str, ...]:
    tags = f"the tags of masked blocks with the key: {format_count(report.tags, 'is', 'are')} right"
    return (*_CHECKS.get(report.state, ()), *([tags] if report.tags else []))


def problem_facts(error: HarmonyError) -> dict[str, object]:
    """What is wrong, as JSON has it."""
    return {
        "code": error.code,
        "message": error.message,
        "where": error.where,
        "expected": _value(error.expected),
        "found": _value(error.found),
    }


def _value(value: object) -> object:
    return value if value is None or isinstance(value, int) else str(value)


def _text(report: VerifyReport, file: str, *, asked: bool) -> list[str]:
    count = len(report.problems)
    if report.ok:
        verdict = f"sound: {report.state}, nothing is wrong"
    else:
        verdict = f"NOT sound: {report.state}, {format_count(count, 'problem')}"
    lines = [f"{plain(shown(file))}: {verdict}"]
    for number, error in enumerate(report.problems, 1):
        lines.append(f"  {number}. {error.code}: {plain(error.message)}")
        where = f"offset {error.where}" if isinstance(error.where, int) else error.where
        pairs = [("where", where), ("expected", error.expected), ("found", error.found)]
        lines += fields(pairs, indent="     ")
    checks = _checks(report)
    lines += fields(
        [
            ("read", f"{format_count(report.bytes, 'byte')}, {format_count(report.chunks, 'chunk')}"),
            ("blocks", format_count(report.blocks, "")),
            ("duration", format_duration(report.duration)),
            ("head", report.head.hex() if report.head and report.ok else None),
            *(("" if number else "checked", check) for number, check in enumerate(checks)),
        ]
    )
    if report.holes:
        lines.append(f"note: this container was recovered and admits to {format_count(report.holes, 'hole')}")
    if report.tags and not report.whole:
        lines.append("note: changed since it was masked, so nothing shows that no masked block is missing")
    if report.masked and not report.tags and not report.whole:
        lines.append("note: the blocks are masked; their tags can only be checked with a key (--key-file)")
    if report.signatures and not asked:
        lines.append(f"note: {format_count(report.signatures, 'signature')} found, not checked")
    elif asked:
        lines.append(
            f"signatures: {report.checked} of {report.signatures} by keys that are trusted, and they hold; "
            f"they cover {format_count(report.covered, 'block')}"
        )
    for one in report.accepted:
        edition = "" if one.subject is None else f", revision {one.revision}"
        stamped = "" if one.time is None else f", not later than {one.time:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"signed by {one.key.fingerprint.hex()}{edition}{stamped}")
    return lines
