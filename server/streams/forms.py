"""The three forms of a stream of tokens: server-sent events, JSON lines, and the tokens' own records.

    text/event-stream         `meta` once, `token` each, `done`; `problem` and `reset` where they are needed
    application/x-ndjson      the same, a line each: {"event", "id", "data"}
    application/octet-stream  `Token.serialize()` of each, one behind the other, and nothing else

An id is `SEAL-TRACK-INDEX`: the first eight hexadecimal digits of what the tokens belong to, the track, and
the token's index in it. `done` has the id `SEAL-TRACK-end`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from harmony4.server import sse
from harmony4.server.errors import Problem
from harmony4.server.streams.lines import token_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harmony4.tokenize.tokens import Token

__all__ = ["END", "FORMS", "Form", "Position", "Records", "chosen", "parse_position"]

_RETRY: Final = 2000
"""Milliseconds that a client waits until it comes back."""
END: Final = -1
"""The index that stands for the end of a track."""
_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,5})-([0-9]{1,19}|end)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream of tokens, as an id says it."""

    seal: str
    track: int
    index: int
    """END behind the last."""

    def __str__(self) -> str:
        return f"{self.seal}-{self.track}-{'end' if self.index == END else self.index}"


def parse_position(text: str) -> Position | None:
    """An id as it was sent; None for what is none."""
    found = _ID.fullmatch(text)
    if found is None:
        return None
    seal, track, index = found.groups()
    return Position(seal, int(track), END if index == "end" else int(index))


class Form(ABC):
    """How events become bytes, for one stream."""

    content_type: ClassVar[str]
    ping: ClassVar[bytes] = b""
    """Bytes that say nothing, for a quiet stream; none where the form has no such thing."""

    def __init__(self, seal: str, track: int) -> None:
        self._seal = seal
        self._track = track

    def _id(self, index: int) -> str:
        return str(Position(self._seal, self._track, index))

    def begin(self) -> bytes:
        """What comes first of all."""
        return b""

    def reset(self) -> bytes:
        """To a client that comes back to something that is gone."""
        return self.event("reset", {"detail": "the container was replaced"})

    def event(self, name: str, data: object, *, index: int | None = None) -> bytes:
        """An event; with `index` it has an id."""
        return self.entry(name, sse.compact(data), index)

    @abstractmethod
    def entry(self, name: str, text: bytes, index: int | None, record: bytes = b"") -> bytes:
        """The same of data that is JSON already; of a token, `record` is its own."""

    @abstractmethod
    def rows(self, rows: NDArray[np.void]) -> bytes:
        """The tokens of blocks, (n,) of TOKEN_DTYPE, n >= 1."""

    def token(self, token: Token, index: int, data: object) -> bytes:
        """A token of any kind; `data`: its JSON values."""
        return self.entry("token", sse.compact(data), index)


class Events(Form):
    """Server-sent events."""

    content_type = "text/event-stream"
    ping = sse.PING

    def begin(self) -> bytes:
        return sse.retry(_RETRY)

    def entry(self, name: str, text: bytes, index: int | None, record: bytes = b"") -> bytes:
        before, behind = sse.around(name)
        number = b"" if index is None else f"id: {self._id(index)}\n".encode()
        return b"".join((number, before, text, behind))

    def rows(self, rows: NDArray[np.void]) -> bytes:
        before, behind = sse.around("token")
        return token_lines(rows, f"id: {self._seal}-{self._track}-".encode(), b"\n" + before, behind)


class Lines(Form):
    """JSON lines."""

    content_type = "application/x-ndjson"

    def entry(self, name: str, text: bytes, index: int | None, record: bytes = b"") -> bytes:
        number = "" if index is None else f'"id":"{self._id(index)}",'
        return b"".join((f'{{"event":"{name}",{number}"data":'.encode(), text, b"}\n"))

    def rows(self, rows: NDArray[np.void]) -> bytes:
        before = f'{{"event":"token","id":"{self._seal}-{self._track}-'.encode()
        return token_lines(rows, before, b'","data":', b"}\n")


class Records(Form):
    """The tokens' records."""

    content_type = "application/octet-stream"

    def entry(self, name: str, text: bytes, index: int | None, record: bytes = b"") -> bytes:
        return record

    def token(self, token: Token, index: int, data: object) -> bytes:
        return token.serialize()

    def rows(self, rows: NDArray[np.void]) -> bytes:
        return rows.tobytes()


FORMS: Final[dict[str, type[Form]]] = {one.content_type: one for one in (Events, Lines, Records)}
"""By media type; the first is what a client gets that does not care."""


def chosen(accept: Sequence[str]) -> type[Form]:
    """The form that the `Accept` fields of a request ask for (RFC 9110 §12.5.1). Raises Problem (406)."""
    best: tuple[float, type[Form]] | None = None
    ranges = [_range(one) for one in ",".join(accept).split(",") if one.strip()] or [("*/*", 1.0)]
    for kind, form in FORMS.items():
        # The most exact range that fits says how much it is wanted.
        fitting = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        wanted = next((weight for name in fitting for one, weight in ranges if one == name), 0.0)
        if wanted and (best is None or wanted > best[0]):
            best = wanted, form
    if best is None:
        raise Problem("accept", f"tokens are there as {', '.join(FORMS)}")
    return best[1]


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [one[2:] for one in parameters if one.startswith("q=")]
    try:
        weight = float(weights[0]) if weights else 1.0
        return name, weight if 0 <= weight <= 1 else 0.0
    except ValueError:
        return name, 0.0
