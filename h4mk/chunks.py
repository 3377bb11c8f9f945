"""Chunks: the order they come in, a parser that takes bytes as they arrive, and blocks (H4MK 3).

The parser is sans-I/O: `feed` it bytes of any size, ask for `events`, call `close` at the end. It consumes,
raises, or asks for more; what it hands out are views of what it was fed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harmony4.crypto.digest import Buffer, crc32
from harmony4.crypto.errors import CriticalError, OrderError, TruncatedError
from harmony4.crypto.token import MAX_VALUE, TokenRecord
from harmony4.h4mk.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    MAGIC,
    ChunkInfo,
    is_critical,
    known,
    parse_header,
)

__all__ = ["ChunkEnd", "ChunkInfo", "ChunkStream", "CoreChunk", "Event", "Grammar", "Header"]

_ANY = "ancillary"
_V1 = {
    # state: what may follow, and the state after it
    "start": {"TRAK": "body"},
    "body": {"KEYS": "blocks", "TOKN": "token", _ANY: "ancillary", "SEEK": "seek"},
    "blocks": {"TOKN": "token", _ANY: "ancillary", "SEEK": "seek"},
    "token": {"CORE": "block", "SAFE": "block"},
    "block": {"TOKN": "token", "SIGN": "blocks", _ANY: "ancillary", "SEEK": "seek"},
    "ancillary": {_ANY: "ancillary", "SEEK": "seek"},
    "seek": {"SEEK": "seek", "RMAP": "rmap"},
    "rmap": {"RMAP": "rmap", "META": "meta"},
    "meta": {"MERK": "merk"},
    "merk": {"VERI": "veri"},
    "veri": {"SIGN": "sign", "TAIL": "end"},
    "sign": {"SIGN": "sign", "time": "time", "TAIL": "end"},
    "time": {"SIGN": "sign", "TAIL": "end"},
    "end": {},
}
_ORIGINAL = {
    "start": {"CORE": "start", "SEEK": "seek", "META": "meta", "SAFE": "safe", "VERI": "end"},
    "seek": {"META": "meta", "SAFE": "safe", "VERI": "end"},
    "meta": {"SAFE": "safe", "VERI": "end"},
    "safe": {"VERI": "end"},
    "end": {},
}


class Grammar:
    """The order of chunks, as a state machine over tags (H4MK 3.3; `original`: H4MK 23)."""

    def __init__(self, *, original: bool = False) -> None:
        self.original = original
        self.state = "start"
        self._table = _ORIGINAL if original else _V1

    @property
    def finished(self) -> bool:
        """Whether the last chunk of the grammar has been seen."""
        return self.state == "end"

    @property
    def expects(self) -> str:
        """The tags that may come now."""
        return " or ".join(self._table[self.state]) or "the end of the file"

    def step(self, info: ChunkInfo) -> None:
        """Go on over one chunk.

        Raises CriticalError for an unknown critical tag, OrderError for a misplaced one, LimitError for a
        size that the tag cannot have.
        """
        following = self._table[self.state]
        tag = info.tag
        if not known(tag, original=self.original):
            if self.original or is_critical(tag):
                raise CriticalError("unknown critical chunk", where=info.offset, found=tag)
            tag = _ANY
        if tag not in following:
            raise OrderError(
                "a chunk is out of order", where=info.offset, expected=self.expects, found=info.tag
            )
        info.check_size(original=self.original)
        self.state = following[tag]


@dataclass(frozen=True, slots=True)
class CoreChunk:
    """A block: a CORE (or SAFE) chunk and the token that stands before it."""

    token: TokenRecord | None
    """None in files of the original implementation, which have no tokens."""
    payload: bytes
    position: int
    """File offset of the payload."""
    crc: int
    """CRC-32 of the payload."""


@dataclass(frozen=True, slots=True)
class Header:
    """Event: the file header was read."""

    original: bool
    """Whether the original implementation wrote the file."""


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """Event: the last payload byte of a chunk was handed out."""

    info: ChunkInfo
    crc: int
    """CRC-32 of what was handed out; differs from `info.crc` where the chunk is damaged."""


Event = Header | ChunkInfo | memoryview | ChunkEnd


class ChunkStream:
    """Bytes in, events out: Header, then for each chunk ChunkInfo, payload views, ChunkEnd.

    Checks framing and order, and leaves CRCs to be compared by the caller, who may want to read on.
    Views are valid as long as the fed buffer is.
    """

    def __init__(self, length: int | None = None) -> None:
        """`length`: the file's length in bytes if it is known, to refuse sizes that lie at once."""
        self.grammar: Grammar | None = None
        self.offset = 0
        """File offset of the next byte that no event has covered."""
        self._length = MAX_VALUE if length is None else length
        self._views: list[memoryview] = []
        self._buffered = 0
        self._info: ChunkInfo | None = None
        self._left = 0
        self._crc = 0

    def feed(self, data: Buffer) -> None:
        """Take more bytes of the file; they are not copied, so they must not change."""
        view = memoryview(data).cast("B")
        if len(view):
            self._views.append(view)
            self._buffered += len(view)

    def events(self) -> Iterator[Event]:
        """Everything that can be said so far. Raises FormatError and its kin; then the stream is unusable."""
        if self.grammar is None:
            if self._buffered < HEADER_SIZE:
                self._peek_magic()
                return
            original = not parse_header(self._take(HEADER_SIZE))
            self.grammar = Grammar(original=original)
            yield Header(original)
        while True:
            if self._info is None:
                if self._buffered < CHUNK_SIZE:
                    return
                at = self.offset
                info = ChunkInfo.unpack(self._take(CHUNK_SIZE), at, self._length)
                self.grammar.step(info)
                self._info, self._left, self._crc = info, info.size, 0
                yield info
            while self._left and self._views:
                piece = self._next(self._left)
                self._left -= len(piece)
                self._crc = crc32(piece, self._crc)
                yield piece
            if self._left:
                return
            info, self._info = self._info, None
            yield ChunkEnd(info, self._crc)

    def close(self) -> None:
        """Say that the file ended. Raises TruncatedError unless it ended behind a chunk."""
        if self.grammar is None:
            parse_header(b"".join(self._views))
        if self._info is not None or self._buffered:
            raise TruncatedError("the file ends inside a chunk", where=self.offset + self._buffered)

    def _peek_magic(self) -> None:
        start = b"".join(self._views)
        if not MAGIC.startswith(start[: len(MAGIC)]):
            parse_header(start)  # refuses: no need to wait for the rest

    def _next(self, most: int) -> memoryview:
        view = self._views[0]
        if len(view) <= most:
            self._views.pop(0)
        else:
            self._views[0] = view[most:]
            view = view[:most]
        self._buffered -= len(view)
        self.offset += len(view)
        return view

    def _take(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(self._next(count))
            count -= len(parts[-1])
        return b"".join(parts)
