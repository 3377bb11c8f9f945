"""What commands that make a container say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harmony4.h4mk import Seal
from harmony4.server.cli.output import say, say_json
from harmony4.server.cli.streams import STANDARD
from harmony4.server.cli.values import format_count, format_duration, format_size, plain

__all__ = ["report_seal"]


def report_seal(
    seal: Seal,
    output: str,
    facts: Mapping[str, object],
    line: str,
    notes: Iterable[str] = (),
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Say what came of it: as JSON with the command's own `facts`, or as its own `line` and `notes`.

    On standard error where the container itself goes to standard output.
    """
    to_stderr = output == STANDARD
    if json:
        known: dict[str, object] = {
            "output": None if to_stderr else output,
            "head": seal.head.hex(),
            "root": seal.root.hex(),
            "blocks": seal.blocks,
            "duration": seal.duration,
            "size": seal.length,
        }
        say_json({**known, **facts}, to_stderr=to_stderr)
    elif not quiet:
        say(
            f"{'standard output' if to_stderr else plain(output)}: {line}, {format_duration(seal.duration)}, "
            f"{format_count(seal.blocks, 'block')}, {format_size(seal.length)}",
            f"head {seal.head.hex()}",
            *(f"note: {plain(note)}" for note in notes),
            to_stderr=to_stderr,
        )
