"""`inspect`, `seek`, `tokens`: what is in a container, without changing or checking it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from harmony4.crypto.errors import NotFoundError, TruncatedError
from harmony4.h4mk import ChunkInfo, H4MKReader
from harmony4.server.cli.options import EPILOG, File, Json, Track, flag, prose, usage
from harmony4.server.cli.output import (
    columns,
    compact,
    fields,
    json_text,
    say,
    say_json,
    say_json_list,
    write,
)
from harmony4.server.cli.streams import open_container, shown
from harmony4.server.cli.values import format_count, format_duration, format_size, hole_text, parse_pts
from harmony4.server.folder.facts import info_facts, mask_facts, seek_facts, token_facts

__all__ = ["register", "state_text"]

_BATCH = 4096
"""Lines written at once: a system call a line would be most of the time of a long list."""

_FOR_KEYS = {("mask", "heads"), ("mask", "whole")}
"""Arguments in a history that say nothing to anybody without the key."""

_LONG = 400
"""Characters of a foreign metadata text that are shown."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    panel = "Look"
    app.command(rich_help_panel=panel, epilog=EPILOG, help=prose(inspect))(inspect)
    app.command(rich_help_panel=panel, epilog=EPILOG, help=prose(seek))(seek)
    app.command(rich_help_panel=panel, epilog=EPILOG, help=prose(tokens))(tokens)


def inspect(
    file: File,
    chunks: Annotated[
        bool, flag("--chunks", "-c", help="List every chunk: offset, size, CRC and tag.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a container's structure and metadata.

    Its state (sealed, incomplete, or original: written by the original implementation), identity (head),
    duration, tracks with codec and timing, blocks, keyframes and sizes. Only the index is read; use
    `harmony4 verify` to check every byte.
    """
    with open_container(file) as reader:
        if json:
            facts = info_facts(reader)
            if chunks:
                say_json_list(facts, "chunks", map(_chunk_facts, _chunks(reader)))
            else:
                say_json(facts)
            return
        say(*_overview(reader, file))
        if chunks:
            say("")
            _list_chunks(reader)


def _chunk_facts(chunk: ChunkInfo) -> dict[str, object]:
    return {"tag": chunk.tag, "offset": chunk.offset, "size": chunk.size, "crc": f"{chunk.crc:08x}"}


def _chunks(reader: H4MKReader) -> Iterator[ChunkInfo]:
    """The chunks; an incomplete file's list ends where the file does."""
    try:
        yield from reader.chunks()
    except TruncatedError:
        if reader.state == "sealed":
            raise


def _list_chunks(reader: H4MKReader) -> None:
    width = max(6, len(str(reader.size)))
    lines = [f"{'offset':>{width}}  {'size':>10}  {'crc-32':8}  tag"]
    for chunk in _chunks(reader):
        lines.append(f"{chunk.offset:>{width}}  {chunk.size:>10}  {chunk.crc:08x}  {chunk.tag}")
        if len(lines) >= _BATCH:
            say(*lines)
            lines.clear()
    say(*lines)


def state_text(state: str) -> str:
    """A state, and what it means for the reader."""
    return {
        "sealed": "sealed (H4MK 1; `harmony4 verify` checks every byte)",
        "incomplete": "incomplete (H4MK 1; its end is missing: cut off, or still being written)",
        "original": "original (made by the original implementation of the format; read only)",
    }.get(state, state)


def _overview(reader: H4MKReader, file: str) -> list[str]:
    meta = reader.meta
    hexadecimal = {"head": reader.head, "root": reader.root}
    lines = fields(
        [
            ("file", shown(file)),
            ("state", state_text(reader.state)),
            ("title", meta.title if meta else None),
            *((name, value.hex()) for name, value in hexadecimal.items() if value is not None),
            ("size", _bytes(reader.size)),
            ("duration", f"{format_duration(reader.duration)}  ({reader.duration} µs)"),
            ("blocks", format_count(reader.block_count, "block").partition(" block")[0]),
            ("masked", _mask(reader)),
            *_cut(reader),
            ("metadata", _original_meta(reader)),
            *((("history", _history(reader)),) if meta and meta.history else ()),
        ]
    )
    lines += ["", *_tracks(reader), *_notes(reader)]
    return lines


def _cut(reader: H4MKReader) -> Iterator[tuple[str, object]]:
    if reader.state == "original":
        return
    trak = reader.trak
    yield "cut", f"rule {trak.rule}, blocks up to {format_size(trak.block)}, order by {trak.order}"
    if trak.origin:
        yield "origin", f"{trak.origin} µs (the source's time at 0)"


def _mask(reader: H4MKReader) -> str | None:
    facts = mask_facts(reader)
    if facts is None:
        return None
    keys = " or ".join(facts["keys"]) if facts["keys"] else "nobody: the key slots are damaged"
    return f"{facts['mode']}, opened by {keys}"


def _original_meta(reader: H4MKReader) -> str | None:
    if reader.original_meta is None:
        return None
    text = json_text(reader.original_meta, indent=None)
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters; --json shows all)"


def _history(reader: H4MKReader) -> str:
    assert reader.meta is not None
    steps = []
    for entry in reader.meta.history:
        arguments = " ".join(
            f"{name}={value}"
            for name, value in sorted(entry.args.items())
            if (entry.op, name) not in _FOR_KEYS
        )
        steps.append(f"{entry.op} {arguments}".strip())
    return ", then ".join(steps)


def _bytes(size: int) -> str:
    exact = format_count(size, "byte")
    return exact if size < 1024 else f"{format_size(size)}  ({exact})"


def _tracks(reader: H4MKReader) -> list[str]:
    rows = []
    for number, track in enumerate(reader.tracks):
        info = track.info
        rows.append(
            (
                number,
                info.kind,
                info.codec or "-",
                info.media_type,
                info.timing,
                format_count(track.blocks, ""),
                format_count(track.keyframes, ""),
                format_size(track.bytes),
                " ".join(part for part in (info.lang, info.name, "masked" if info.masked else None) if part),
            )
        )
    head = ("track", "kind", "codec", "media type", "timing", "blocks", "keyframes", "size", "")
    return columns(rows, head=head, right=(0, 5, 6, 7))


def _notes(reader: H4MKReader) -> Iterator[str]:
    for number, track in enumerate(reader.tracks):
        info = track.info
        if reader.state != "original" and info.timing == "hint" and info.kind == "data":
            step = ""
            if info.start.num and info.start.den:
                step = f", a keyframe every {format_duration(info.start.num * 10**6 // info.start.den)}"
            yield (
                f"note: track {number} holds opaque blocks: nothing was read from the media, and its times "
                f"come from a frame rate hint{step}"
            )
    for hole in reader.lost:
        yield f"note: lost is {hole_text(hole.track, hole.first, hole.count)}"
    # One at 0 says how far the clocks of several sources were apart (H4MK 17.4).
    steps = sum(step.pts > 0 for step in reader.meta.steps) if reader.meta else 0
    if steps:
        yield f"note: the source's clock jumped {format_count(steps, 'time')}; the timeline goes on"
    if reader.state == "incomplete":
        yield "note: `harmony4 recover` makes a sealed container of what is here"


def seek(
    file: File,
    pts: Annotated[
        int,
        typer.Argument(
            metavar="PTS",
            parser=usage(parse_pts),
            show_default=False,
            help="Time in microseconds (90000000), or 90s, 1.5s, 500ms, 2min, 1:30, 1:02:03.5.",
        ),
    ],
    track: Track = 0,
    json: Json = False,
) -> None:
    """Find the keyframe at or before a time: where to start reading to show that moment.

    Prints the keyframe's time, the offset of its first byte in the track's stream (what a client puts into
    `Range: bytes=OFFSET-`), its block, and the bytes to the next keyframe. Exit status 1 if the first
    keyframe is later than the time.
    """
    with open_container(file) as reader:
        facts = seek_facts(reader, pts, track)
        if json:
            say_json(facts)
            return
        found, following = int(facts["pts"]), facts["next_pts"]
        ranges = ", ".join(f"{offset}-{offset + size - 1}" for offset, size in facts["header_ranges"])
        say(
            *fields(
                [
                    ("keyframe", f"{format_duration(found)}  (pts {found} µs, {pts - found} µs before)"),
                    ("offset", facts["offset"]),
                    ("block", facts["block_index"]),
                    ("size", f"{facts['size']} bytes to {'the next keyframe' if following else 'the end'}"),
                    (
                        "next",
                        f"{format_duration(int(following))}  (pts {following} µs)" if following else None,
                    ),
                    ("header", f"bytes {ranges} are needed too" if ranges else None),
                ]
            )
        )


def tokens(
    file: File,
    track: Track = 0,
    spectrum: Annotated[
        bool,
        flag(
            "--spectrum",
            help="Print the spectral tokens that a track of `export --spectrum` holds, not those of its "
            "blocks; default the first such track.",
        ),
    ] = False,
    json: Annotated[
        bool, flag("--json", help="Accepted for symmetry: tokens are always JSON, one a line.")
    ] = True,
) -> None:
    """Print the tokens of a track, one JSON object a line.

    A token says everything about a block but its bytes: index, time [pts, end), offset and size in the
    stream, the keyframe it belongs to, and its SHA-256. Times are microseconds, sizes bytes.
    """
    del json
    with open_container(file) as reader:
        if not 0 <= track < len(reader.tracks):
            raise NotFoundError(
                "there is no such track", expected=f"0 to {len(reader.tracks) - 1}", found=track
            )
        found = _spectral(reader, track) if spectrum else map(token_facts, reader.tokens(track))
        encode = compact()
        lines: list[str] = []
        for token in found:
            lines.append(encode(token))
            if len(lines) == _BATCH:
                write("\n".join(lines) + "\n", sys.stdout)
                lines.clear()
        if lines:
            write("\n".join(lines) + "\n", sys.stdout)


def _spectral(reader: H4MKReader, track: int) -> Iterator[object]:
    from harmony4.server.exporting.spectra import (  # with tokenizers: a third of the start
        read_tokens,
        stored_tokens,
    )

    found = track or stored_tokens(reader, None)
    if found is None:
        raise NotFoundError("it holds no spectral tokens, or not all: `export --spectrum` stores them")
    return (token.metadata() for token in read_tokens(reader, found))
