"""`export`, `extract`, `recover`: media into a container, out of it again, and the rest of a damaged one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from harmony4.crypto.errors import SourceError, UsageError
from harmony4.h4mk import RecoverReport, recover
from harmony4.server.cli.extracting import Extracted, extract
from harmony4.server.cli.keyfiles import KeyFiles, find_masters
from harmony4.server.cli.keys import (
    Certificates,
    KeyFile,
    PassphraseFile,
    Revision,
    Subject,
    read_signer,
)
from harmony4.server.cli.masking import (
    KeepPlaintext,
    RandomSalt,
    make_spec,
    spec_facts,
    spec_line,
    spec_notes,
)
from harmony4.server.cli.options import (
    EPILOG,
    BlockSize,
    File,
    Json,
    Output,
    Quiet,
    Title,
    Track,
    flag,
    prose,
    source_name,
    usage,
)
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.streams import (
    STANDARD,
    check_not_same,
    named,
    open_container,
    sequential,
    shown,
    sink,
    spooled,
)
from harmony4.server.cli.values import (
    format_count,
    format_duration,
    format_size,
    hole_text,
    parse_fps,
    parse_profile,
    plain,
)

__all__ = ["register"]

LOST: Final = 3


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    panel = "Make"
    app.command("export", rich_help_panel=panel, epilog=EPILOG, help=prose(export_command))(export_command)
    app.command("extract", rich_help_panel=panel, epilog=EPILOG, help=prose(extract_command))(extract_command)
    app.command("recover", rich_help_panel=panel, epilog=EPILOG, help=prose(recover_command))(recover_command)


def export_command(
    source: Annotated[
        str,
        typer.Argument(
            parser=source_name,
            metavar="INPUT",
            help="The media file: any format. - reads standard input.",
            show_default=False,
        ),
    ],
    output: Output,
    block_size: BlockSize = "1MiB",  # type: ignore[assignment]
    raw: Annotated[
        bool, flag("--raw", help="Do not look inside: opaque blocks cut by size, timed by hint.")
    ] = False,
    fps_hint: Annotated[
        Fraction | None,
        typer.Option(
            "--fps-hint",
            metavar="RATE",
            parser=usage(parse_fps),
            help=r"Frames per second of opaque media: 30, 30000/1001, 29.97 (exactly) \[default: 30].",
            show_default=False,
        ),
    ] = None,
    gop: Annotated[
        int | None,
        typer.Option(
            "--gop",
            metavar="FRAMES",
            min=1,
            max=10**6,
            help=r"Frames from keyframe to keyframe of opaque media \[default: 30].",
            show_default=False,
        ),
    ] = None,
    title: Title = None,
    remux: Annotated[
        bool,
        flag(
            "--remux",
            help="Make fragmented MP4 of media whose blocks would not play alone (plain MP4, Matroska), so "
            "that players can take them by segments. Nothing is decoded.",
        ),
    ] = False,
    keep_original: Annotated[
        bool, flag("--keep-original", help="With --remux: the source's own bytes as a second track.")
    ] = False,
    spectrum: Annotated[
        str | None,
        typer.Option(
            "--spectrum",
            metavar="PROFILE",
            parser=usage(parse_profile),
            help="Store which frequencies stand out in the sound, as one more track: structure, or detail "
            "(speech can be made again out of that). The sound is decoded for it, and the input is read "
            "twice: a pipe is put on disk first.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        bool,
        flag(
            "--mask",
            help="Mask the media, so that only who has a key can read them. The input is read twice (a pipe "
            "is put on disk first), with --random-salt once.",
        ),
    ] = False,
    key_file: KeyFiles = None,
    random_salt: RandomSalt = False,
    keep_plaintext: KeepPlaintext = False,
    sign: Annotated[bool, flag("--sign", help="Sign the container with --key.")] = False,
    key: KeyFile = None,
    subject: Subject = None,
    revision: Revision = 0,
    cert: Certificates = None,
    sign_every: Annotated[
        int | None,
        typer.Option(
            "--sign-every",
            metavar="N",
            min=1,
            max=2**26,
            help="Sign after every N blocks too (checkpoints), for those who read while it is written.",
            show_default=False,
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a container from a media file.

    MP4, fragmented MP4, WebM, Matroska, MPEG-TS, MP3, FLAC, WAV and Ogg are cut at their keyframes; nothing
    is changed, and nothing decoded but for --spectrum. Anything else, or everything with --raw, becomes
    opaque blocks whose times follow from --fps-hint and --gop. The same input and options give the same
    container, from a file or a pipe.

    A file appears under its name when it is complete and on disk, never before; what stood there is kept
    until then. `harmony4 extract` gives the media back, bit for bit.

    With --mask it is what `harmony4 mask` makes of the container that would come out without.
    """
    from harmony4.server.exporting.ingest import ExportOptions, export  # loads PyAV: not for `--help`
    from harmony4.server.folder.facts import export_facts

    check_not_same(source, output)
    if not mask and (key_file or random_salt or keep_plaintext):
        raise UsageError("keys and their options go with --mask")
    spec = make_spec(key_file, random_salt, keep_plaintext) if mask else None
    signer = None
    if sign or sign_every is not None:
        signer = read_signer(key, subject, revision, cert, passphrase_file)
    elif key is not None or subject is not None or cert is not None:
        raise UsageError("a key without anything to sign: give --sign or --sign-every")
    options = ExportOptions(
        block_size,
        raw,
        fps_hint,
        gop,
        title,
        remux,
        keep_original,
        spectrum,
        mask=spec,
        signer=signer,
        sign_every=sign_every or 0,
    )
    with (
        _media(source) as (media, size),
        sink(output) as target,
        Meter(f"exporting {plain(shown(source))}", size, quiet=quiet) as meter,
    ):
        try:
            result = export(media, target, options, progress=meter)
        except SourceError as error:
            raise named(error, source) from error
    seal, track = result.seal, result.track
    facts: dict[str, object] = {
        "output": None if output == STANDARD else output,
        **export_facts(result),
        **({} if spec is None else spec_facts(spec)),
    }
    if json:
        say_json(facts, to_stderr=output == STANDARD)
    elif not quiet:
        what = (
            f"{track.codec} ({track.media_type})"
            if result.timing == "demux"
            else "opaque blocks, timed by hint"
        )
        say(
            f"{_target(output)}: {plain(what)}, {format_duration(seal.duration)}, "
            f"{format_count(seal.blocks, 'block')}, {format_size(seal.length)}",
            f"head {seal.head.hex()}",
            *([] if spec is None else [spec_line(spec), *(f"note: {one}" for one in spec_notes(spec))]),
            *([f"note: {plain(result.note)}"] if result.note else []),
            to_stderr=output == STANDARD,
        )
    if result.lost:
        raise typer.Exit(LOST)


@contextlib.contextmanager
def _media(source: str) -> Iterator[tuple[Path | BinaryIO, int | None]]:
    """What to export from, and its size in bytes where it is known beforehand."""
    stream = sequential(source)
    if stream is None:
        try:
            size: int | None = Path(source).stat().st_size
        except (OSError, ValueError):
            size = None  # export says what is wrong with it
        yield Path(source), size
        return
    with stream as opened:
        status = os.fstat(opened.fileno())
        yield opened, status.st_size if stat.S_ISREG(status.st_mode) else None


def _target(output: str) -> str:
    return "standard output" if output == STANDARD else plain(output)


def extract_command(
    file: File,
    output: Output,
    track: Track = 0,
    key_file: KeyFiles = None,
    partial: Annotated[
        bool,
        flag(
            "--partial",
            help="Take what an incomplete or recovered container has, zeros for what is lost (status 3).",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the original media of a track: the bytes that went in, bit for bit.

    Every block is checked (CRC-32, SHA-256) as it is copied, and the whole stream at the end. A damaged
    container is refused and leaves no file behind; what was already sent to a pipe ends before the damage.
    A masked track needs a key, and its blocks' tags are checked as well.
    """
    check_not_same(file, output)
    masters = find_masters(key_file)
    with (
        open_container(file) as reader,
        sink(output) as target,
        Meter(f"extracting {plain(shown(file))}", quiet=quiet) as meter,
    ):
        done = extract(reader, target, track, masters=masters, partial=partial, progress=meter)
    _report_extract(done, output, json=json, quiet=quiet)
    if not done.complete:
        raise typer.Exit(LOST)


def _report_extract(done: Extracted, output: str, *, json: bool, quiet: bool) -> None:
    to_stderr = output == STANDARD
    if json:
        facts = {
            "output": None if to_stderr else output,
            "track": done.track,
            "media_type": done.media_type,
            "bytes": done.size,
            "blocks": done.blocks,
            "sha256": done.sha256.hex(),
            "complete": done.complete,
            "missing": done.missing,
            **({} if done.proven is None else {"whole": done.proven}),
        }
        say_json(facts, to_stderr=to_stderr)
    elif not quiet:
        lines = [
            f"{_target(output)}: {plain(done.media_type)}, {format_count(done.size, 'byte')}",
            f"sha256 {done.sha256.hex()}",
        ]
        if not done.complete:
            lines.append(
                f"note: not the whole original; {format_count(done.missing, 'byte')} inside stand as zeros"
            )
        if done.proven is False:
            lines.append("note: changed since it was masked, so nothing shows that no block is missing")
        say(*lines, to_stderr=to_stderr)


def recover_command(file: File, output: Output, json: Json = False, quiet: Quiet = False) -> None:
    """Make a sound container from one that was cut off or damaged.

    Every block that is complete and fits its own hash is kept; tables, hash tree and seal are made anew, and
    the metadata records what is lost. Works on the .part file of an export that was killed.

    Exit status 0: nothing is lost. 3: the container was made, and something is lost. 1: nothing to recover.
    """
    check_not_same(file, output)
    with (
        spooled(file) as source,
        sink(output) as target,
        Meter(f"recovering {plain(shown(file))}", source.size(), quiet=quiet) as meter,
    ):
        report = recover(source, target, progress=meter)
    _report_recover(report, output, json=json, quiet=quiet)
    if not report.complete:
        raise typer.Exit(LOST)


def _report_recover(report: RecoverReport, output: str, *, json: bool, quiet: bool) -> None:
    to_stderr = output == STANDARD
    seal = report.seal
    if json:
        facts = {
            "output": None if to_stderr else output,
            "complete": report.complete,
            "blocks": report.blocks,
            "lost": [{"track": one.track, "first": one.first, "count": one.count} for one in report.lost],
            "left_out": report.left_out,
            "signatures_dropped": report.signatures,
            "trak_rebuilt": report.trak_rebuilt,
            "head": seal.head.hex(),
            "root": seal.root.hex(),
            "duration": seal.duration,
            "size": seal.length,
        }
        say_json(facts, to_stderr=to_stderr)
    elif not quiet:
        lines = [
            f"{_target(output)}: {format_count(report.blocks, 'block')} kept, "
            f"{format_duration(seal.duration)}, {format_size(seal.length)}",
            f"head {seal.head.hex()}",
        ]
        lines += [f"lost: {hole_text(one.track, one.first, one.count)}" for one in report.lost]
        if report.left_out:
            lines.append(
                f"left out: {format_count(report.left_out, 'block')}, sound but doubled or out of place"
            )
        if report.signatures:
            lines.append(
                f"dropped: {format_count(report.signatures, 'signature')} over the container as it was"
            )
        if report.trak_rebuilt:
            lines.append("lost: TRAK, so that media type, codec and time base are unknown now")
        if report.complete:
            lines.append("nothing is lost")
        say(*lines, to_stderr=to_stderr)
