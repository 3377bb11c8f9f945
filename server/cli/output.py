"""Facts for people and for programs: aligned text, or JSON, on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TextIO

from rich.cells import cell_len

from harmony4.crypto.errors import StorageError
from harmony4.server.cli.streams import FACTS_GONE, ReaderGone
from harmony4.server.cli.values import plain

__all__ = ["columns", "compact", "fields", "json_text", "say", "say_json", "say_json_list", "write"]

_SAFE: Final = 2**53 - 1


def say(*lines: str, to_stderr: bool = False) -> None:
    """Print lines. Raises ReaderGone where the reader has seen enough, StorageError (a full disk)."""
    write("".join(line + "\n" for line in lines), sys.stderr if to_stderr else sys.stdout)


def write(text: str, stream: TextIO | None) -> None:
    """Write text to a standard stream and flush it, so that errors show up here and not at exit."""
    if stream is None:
        raise StorageError("standard output is closed")
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        raise ReaderGone(FACTS_GONE) from error
    except OSError as error:
        reason = error.strerror or str(error)
        # What could not be written stays in the buffer and would fail again, noisily, at exit.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise StorageError(f"cannot write standard output: {reason}") from error


def _encoder(indent: int | None) -> json.JSONEncoder:
    """Readable text where the terminal's encoding has it, escapes where not."""
    ascii_only = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    separators = (",", ":") if indent is None else None
    return json.JSONEncoder(indent=indent, ensure_ascii=ascii_only, separators=separators)


def _safe(value: object) -> object:
    """The value with integers beyond ±(2^53 - 1), which JavaScript would round, as decimal strings."""
    if isinstance(value, Mapping):
        return {key: _safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(item) for item in value]
    if isinstance(value, int) and abs(value) > _SAFE:
        return str(value)
    return value


def json_text(value: object, *, indent: int | None = 2) -> str:
    """JSON as it is printed; `indent` None: on one line."""
    return _encoder(indent).encode(_safe(value))


def compact() -> Callable[[object], str]:
    """A function that turns many values into one line of JSON each."""
    return _encoder(None).encode


def say_json(value: object, *, to_stderr: bool = False) -> None:
    """Print one JSON value."""
    say(json_text(value), to_stderr=to_stderr)


def say_json_list(head: Mapping[str, object], key: str, items: Iterable[object]) -> None:
    """Print one JSON object whose last member is a list too long to hold in memory."""
    opening = json_text(head)
    comma = ",\n" if head else "\n"
    write(opening.removesuffix("}").rstrip() + comma + f"  {json.dumps(key)}: [", sys.stdout)
    between = "\n"
    batch: list[str] = []
    for item in items:
        batch.append(between + "    " + json_text(item, indent=None))
        between = ",\n"
        if len(batch) >= 4096:
            write("".join(batch), sys.stdout)
            batch.clear()
    write("".join(batch) + ("\n  ]\n}\n" if between != "\n" else "]\n}\n"), sys.stdout)


def fields(pairs: Iterable[tuple[str, object]], *, indent: str = "") -> list[str]:
    """`name   value` lines with the values under each other; values are made safe for a terminal."""
    rows = [(name, plain(value)) for name, value in pairs if value is not None]
    width = max((cell_len(name) for name, _ in rows), default=0)
    return [f"{indent}{name}{' ' * (width - cell_len(name))}  {value}".rstrip() for name, value in rows]


def columns(
    rows: Sequence[Sequence[object]], *, head: Sequence[str], right: Iterable[int] = (), indent: str = ""
) -> list[str]:
    """A table of text: columns as wide as they must be, those in `right` flush right."""
    flush_right = set(right)
    table = [list(head), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(head))]
    lines = []
    for row in table:
        cells = []
        for column, cell in enumerate(row):
            gap = " " * (widths[column] - cell_len(cell))
            cells.append(gap + cell if column in flush_right else cell + gap)
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines
