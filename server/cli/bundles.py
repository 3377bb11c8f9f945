"""`bundle`, `split`: several tracks in one container, and what was put in out of it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harmony4.crypto.errors import SourceError, StorageError, UsageError
from harmony4.h4mk.edits.bundle import parts, split
from harmony4.server.cli.extracting import extract
from harmony4.server.cli.heap import keep_heap
from harmony4.server.cli.options import (
    EPILOG,
    BlockSize,
    File,
    Json,
    Output,
    Quiet,
    Title,
    prose,
    source_name,
)
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.seals import report_seal
from harmony4.server.cli.streams import STANDARD, check_not_same, noted, open_container, shown, sink
from harmony4.server.cli.values import (
    format_count,
    format_size,
    plain,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    panel = "Edit"
    app.command("bundle", rich_help_panel=panel, epilog=EPILOG, help=prose(bundle_command))(bundle_command)
    app.command("split", rich_help_panel=panel, epilog=EPILOG, help=prose(split_command))(split_command)


def bundle_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            parser=source_name,
            metavar="INPUT...",
            help="Media, WebVTT, JSON lines with times, containers (.h4mk), in the order of their tracks.",
            show_default=False,
        ),
    ],
    output: Output,
    block_size: BlockSize = "1MiB",  # type: ignore[assignment]
    title: Title = None,
    demux: Annotated[
        bool,
        typer.Option(
            "--demux",
            help="Take muxed media apart: one track of fragmented MP4 for each stream, so that a player can "
            "choose. Nothing is decoded; the muxed file itself is not kept.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put media and containers side by side into one container, each with its tracks.

    Every input keeps its own beginning at time 0; the blocks of all tracks stand in the order of their times.
    Nothing is decoded or changed: `harmony4 split` gives every input back, bit for bit. Media and text are
    cut as `harmony4 export` cuts them, and containers are checked on the way.
    """
    from harmony4.server.exporting.bundling import bundle_files  # loads PyAV: not for `--help`
    from harmony4.server.exporting.ingest import ExportOptions

    for source in sources:
        if source == STANDARD:
            raise UsageError("a bundle is made of files with names", found=shown(source))
        check_not_same(source, output)
    keep_heap()
    options = ExportOptions(block_size=block_size, title=title)
    notes: list[str] = []
    with sink(output) as target, Meter("bundling", quiet=quiet) as meter:
        seal = bundle_files(sources, target, options, demux=demux, progress=meter, say=notes.append)
    facts = {"inputs": len(sources), "notes": notes}
    line = format_count(len(sources), "input")
    report_seal(seal, output, facts, line, notes, json=json, quiet=quiet)


def split_command(
    file: File,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder to write into; made if it is missing. Nothing in it is replaced.",
            show_default=False,
        ),
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write everything that was put into a bundle, bit for bit.

    Containers come out as 00.h4mk, 01.h4mk, …, media under the extension of their type (00.mp4); the numbers
    are those of the inputs. Everything is checked on its way; a file appears complete or not at all.
    """
    from harmony4.server.folder.facts import extension

    keep_heap()
    made: list[dict[str, object]] = []
    with open_container(file) as reader:
        if reader.state != "sealed":
            raise SourceError(f"only a sealed container can be split; {plain(shown(file))} is {reader.state}")
        if reader.trak.mask is not None:
            raise UsageError(
                "a masked container cannot be split; `harmony4 unmask` makes the plain one first"
            )
        found = {part.first: part for part in parts(reader)}
        _make_folder(output)
        track = number = 0
        while track < len(reader.tracks):
            part = found.get(track)
            kind = "h4mk" if part else extension(reader.tracks[track].info.media_type)
            path = output / f"{number:02}.{kind}"
            if path.exists():
                raise StorageError(f"cannot write {path}: it is there already")
            written = noted(os.path.realpath(path))
            with written, Meter(f"writing {plain(path)}", quiet=quiet) as meter:
                if part is not None:
                    seal = split(reader, part, path, progress=meter)
                    made.append({"output": str(path), "head": seal.head.hex(), "size": seal.length})
                else:
                    done = extract(reader, str(path), track, progress=meter)
                    made.append({"output": str(path), "sha256": done.sha256.hex(), "size": done.size})
            track += len(part.tracks) if part else 1
            number += 1
    if json:
        say_json({"files": made})
    elif not quiet:
        for one in made:
            size = one["size"]
            assert isinstance(size, int)
            say(f"{plain(one['output'])}: {format_size(size)}")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror}") from error
