"""Where text that has times of its own may be cut: the cues of WebVTT, the lines of JSON (H4MK 16.10).

Scanners take a source's bytes in pieces of any length and give back the entries that begin in them. They hold
a part of one line, never more, and refuse nothing: what is no entry belongs to the entry before.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import ClassVar, Final, NamedTuple, NoReturn

__all__ = ["CUE_LINE", "JSON_DEPTH", "JSON_LINE", "Cues", "Entry", "Records", "TextScanner", "record"]

CUE_LINE: Final = 1024
"""Bytes of a line of WebVTT that are looked at."""
JSON_LINE: Final = 2**16
"""A line of JSON with as many bytes, or more, has no time."""
JSON_DEPTH: Final = 64
"""Levels of arrays and objects in a line of JSON, its own object among them; a deeper one has no time."""
_FAR: Final = 2**62
"""µs; nothing beyond it is a time."""


class Entry(NamedTuple):
    """Something that begins at a byte of the source and at a time."""

    start: int
    """Offset in the source, bytes."""
    pts: int
    end: int
    """µs; at least `pts`."""


class TextScanner(ABC):
    """Lines, and what a kind of text makes of them."""

    LINE: ClassVar[int]
    _PIECES: ClassVar[re.Pattern[bytes]]
    """Lines with their ends, and what is left of the last one."""
    _ENDS: ClassVar[bytes]

    def __init__(self) -> None:
        self._fed = 0
        self._start = 0  # of the line that has not ended
        self._head = b""  # its first LINE bytes
        self._told = False  # whether they have been looked at
        self._return = False  # the last byte was a CR
        self._out: list[Entry] = []

    def feed(self, data: bytes) -> list[Entry]:
        """The next bytes of the source."""
        if not data:
            return []
        if self._return and data[:1] == b"\n":  # the line ended with CR LF
            self._fed += 1
            self._start += 1
            data = data[1:]
        self._return = data[-1:] == b"\r" and b"\r" in self._ENDS
        for piece in self._PIECES.findall(data):
            text = piece.rstrip(self._ENDS)
            self._head += text[: self.LINE - len(self._head)]
            self._fed += len(piece)
            ended = len(text) < len(piece)
            if ended or len(self._head) == self.LINE:
                self._tell()
            if ended:
                self._start, self._head, self._told = self._fed, b"", False
        return self._take()

    def finish(self) -> list[Entry]:
        """No byte will follow."""
        if self._fed > self._start:
            self._tell()
        return self._take()

    @property
    def settled(self) -> int:
        """No later entry begins before this byte."""
        return self._fed if self._told else self._start

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._line(self._start, self._head)

    def _take(self) -> list[Entry]:
        out, self._out = self._out, []
        return out

    @abstractmethod
    def _line(self, start: int, text: bytes) -> None:
        """A line that begins at byte `start`: its first LINE bytes, without its end."""


class Cues(TextScanner):
    """The cues of WebVTT, found as browsers find them (WebVTT, "WebVTT parser algorithm")."""

    LINE = CUE_LINE
    _PIECES = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
    _ENDS = b"\r\n"

    def __init__(self) -> None:
        super().__init__()
        self._number = 2  # of the line in its block; the signature is followed by lines that name no cue
        self._arrow = True  # whether the block had an arrow
        self._name: int | None = None  # where the line begins that may be the identifier of a cue

    @property
    def settled(self) -> int:
        """As TextScanner: a cue begins at its identifier."""
        settled = super().settled
        return settled if self._name is None else min(self._name, settled)

    def _line(self, start: int, text: bytes) -> None:
        name, self._name = self._name, None
        if not start:  # the signature
            return
        if b"-->" not in text:
            self._number = self._number + 1 if text else 0
            if self._number == 1:
                self._arrow = False
                self._name = start if len(text) < self.LINE else None
            return
        if self._number == 1 and not self._arrow:
            self._number = 2
            start = start if name is None else name
        else:
            self._number = 1  # of this block, or of another one that begins here
        self._arrow = True
        times = _TIMES.match(text)
        if times is not None:
            begin, end = _micros(times[1], times[2]), _micros(times[3], times[4])
            if begin is not None and end is not None:
                self._out.append(Entry(start, begin, max(begin, end)))


_CLOCK: Final = rb"(?:(\d+):)?([0-9]{2}:[0-9]{2}\.[0-9]{3})"
_TIMES: Final = re.compile(rb"[ \t\f]*" + _CLOCK + rb"[ \t\f]*-->[ \t\f]*" + _CLOCK + rb"(?!\d)")


def _micros(hours: bytes | None, rest: bytes) -> int | None:
    """A time stamp in µs; None where it is none."""
    minutes, seconds = int(rest[:2]), int(rest[3:5])
    value = ((int(hours or b"0") * 60 + minutes) * 60 + seconds) * 1000 + int(rest[6:])
    return value * 1000 if minutes < 60 and seconds < 60 and value * 1000 <= _FAR else None


class Records(TextScanner):
    """JSON Lines whose objects have a `pts`."""

    LINE = JSON_LINE
    _PIECES = re.compile(rb"[^\n]*\n+|[^\n]+")  # empty lines with the one before: they are no records
    _ENDS = b"\n"

    def _line(self, start: int, text: bytes) -> None:
        found = record(text) if len(text) < self.LINE else None
        if found is not None:
            self._out.append(Entry(start, *found))


def record(line: bytes) -> tuple[int, int] | None:
    """`pts` and end in µs of a line that is a JSON object with an integer `pts` of 0 … 2^62; else None.

    `end` counts where it is such an integer, too, and later.
    """
    # What cannot be one is seen without parsing: a refusal costs more than a record.
    if not line.lstrip(b" \t\r").startswith(b"{") or not (b'"pts"' in line or b"\\" in line):
        return None
    try:
        value = json.loads(line.decode("utf-8"), parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if line.count(b"[") + line.count(b"{") > JSON_DEPTH and _too_deep(value):
        return None
    pts, end = _time(value.get("pts")), _time(value.get("end"))
    return None if pts is None else (pts, max(pts, end or 0))


def _time(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _FAR:
        return None
    return value


def _integer(text: str) -> int | None:
    """None for what is no time anyway: how long an integer may be is the interpreter's affair."""
    return int(text) if len(text) < 20 else None


def _too_deep(value: object) -> bool:
    """Whether arrays and objects stand more than JSON_DEPTH levels deep; the parser's limit is no rule."""
    level = [value]
    for _ in range(JSON_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, dict | list) for one in level)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
