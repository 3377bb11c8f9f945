"""`cut`, `concat`, `filter`: a time, several containers as one, some of the tracks; nothing is decoded."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Final

import typer

from harmony4.crypto.errors import HarmonyError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.edits.edit import Span, concat, cut, keep_tracks
from harmony4.server.cli.options import (
    EPILOG,
    File,
    Json,
    Output,
    Quiet,
    Title,
    prose,
    source_name,
    usage,
)
from harmony4.server.cli.progress import Meter
from harmony4.server.cli.seals import report_seal
from harmony4.server.cli.streams import STANDARD, check_not_same, open_container, shown, sink
from harmony4.server.cli.values import format_count, format_duration, parse_pts, plain
from harmony4.server.serving.descriptors import raise_limit

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for name, command in (("cut", cut_command), ("concat", concat_command), ("filter", filter_command)):
        app.command(name, rich_help_panel="Edit", epilog=EPILOG, help=prose(command))(command)


_MANY: Final = 100
"""Inputs above which the usual limit of open files may be too low."""
_TIME = "90s, 1:30, 1:02:03.5, or whole microseconds"


def cut_command(
    file: File,
    output: Output,
    start: Annotated[
        int,
        typer.Option(
            "--from",
            metavar="TIME",
            parser=usage(parse_pts),
            help=f"The first moment that is shown: {_TIME}.",
        ),
    ] = "0",  # type: ignore[assignment]
    end: Annotated[
        int | None,
        typer.Option(
            "--to",
            metavar="TIME",
            parser=usage(parse_pts),
            help="What is shown ends here, or with the group of frames that holds this. Default: the end.",
            show_default=False,
        ),
    ] = None,
    title: Title = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a time out of a container: whole groups of frames, from keyframe to keyframe, as they are.

    Each track keeps the groups that show the time, so that it begins at or before --from and ends at or
    after --to, and the bytes that a decoder needs first. The cut begins at time 0. "next" is where to go on:
    a cut --from there and this one can be put together again.
    """
    check_not_same(file, output)
    with open_container(file) as reader, sink(output) as target, Meter("cutting", quiet=quiet) as meter:
        made = cut(reader, target, start, end, title=title, progress=meter)
        had = [number for number, track in enumerate(reader.tracks) if track.blocks]
    ends = [span for span in made.spans if span is not None]
    following = end if any(span.following is not None for span in ends) else None
    facts = {
        "start": made.start,
        "end": max(span.end for span in ends),
        "next": following,
        "tracks": [_span(number, span) for number, span in enumerate(made.spans)],
    }
    until = "" if following is None else f", next {format_duration(following)}"
    line = f"{format_duration(made.start)} to {format_duration(max(span.end for span in ends))}{until}"
    empty = [str(number) for number in had if made.spans[number] is None]
    if empty:
        line += f", nothing of track {', '.join(empty)}"
    report_seal(made.seal, output, facts, line, json=json, quiet=quiet)


def _span(number: int, span: Span | None) -> dict[str, object]:
    if span is None:
        return {"track": number, "pts": None, "end": None, "next": None}
    return {"track": number, "pts": span.pts, "end": span.end, "next": span.following}


def concat_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            parser=source_name,
            metavar="FILE...",
            help="The containers (.h4mk), in the order of time.",
            show_default=False,
        ),
    ],
    output: Output,
    title: Title = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put containers behind each other into one: the media of each track go on with those of the next.

    All need the same tracks, of the same codecs and settings. Each container begins where the one before it
    has ended; where the media's own clock jumps there, the metadata say so. Of cuts of one container that
    meet, one --to T and the next --from T, what both hold stands once: they give its media back.
    """
    for source in sources:
        if source == STANDARD:
            raise UsageError("containers are put together from files with names", found=shown(source))
        check_not_same(source, output)
    if len(sources) > _MANY:
        raise_limit()
    with ExitStack() as stack:
        readers = [_named(stack, source) for source in sources]
        target = stack.enter_context(sink(output))
        meter = stack.enter_context(Meter("putting together", quiet=quiet))
        seal = concat(readers, target, title=title, progress=meter)
    facts = {"inputs": len(sources)}
    report_seal(seal, output, facts, format_count(len(sources), "input"), json=json, quiet=quiet)


def _named(stack: ExitStack, source: str) -> H4MKReader:
    """A reader; of several inputs the error says which one could not be opened."""
    try:
        return stack.enter_context(open_container(source))
    except HarmonyError as error:
        if plain(source) in str(error):
            raise
        raise type(error)(
            f"{plain(source)}: {error.message}", where=error.where, expected=error.expected, found=error.found
        ) from error


def filter_command(
    file: File,
    output: Output,
    tracks: Annotated[
        list[int],
        typer.Option(
            "--track",
            "-t",
            metavar="N",
            min=0,
            max=2**16 - 1,
            help="A track to keep, counted from 0; once for each of them.",
            show_default=False,
        ),
    ],
    title: Title = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep some of the tracks of a container, whole and as they are.

    They stand in the order of the container, whatever the order of the options, numbered from 0 again.
    """
    check_not_same(file, output)
    with open_container(file) as reader, sink(output) as target, Meter("filtering", quiet=quiet) as meter:
        seal = keep_tracks(reader, target, tracks, title=title, progress=meter)
        kept = sorted(set(tracks))
    report_seal(seal, output, {"tracks": kept}, format_count(len(kept), "track"), json=json, quiet=quiet)
