"""Walking a file chunk by chunk: how files without a TAIL, and those of the original implementation, open.

Only headers and small chunks are read, so walking costs two small reads a block. The index that the file
does not have is built in memory: 40 bytes a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import ChecksumError, FormatError, LimitError, TruncatedError
from harmony4.crypto.token import KEY, TokenRecord
from harmony4.h4mk import canonical
from harmony4.h4mk.chunks import Grammar
from harmony4.h4mk.documents import Trak
from harmony4.h4mk.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    SEEK_ENTRY,
    SEEK_HEAD,
    ChunkInfo,
    RangeEntry,
    parse_header,
)
from harmony4.h4mk.seek import SeekTable
from harmony4.h4mk.sequence import Sequence, check_payload
from harmony4.h4mk.source import ReadAt, read_exact

__all__ = ["OriginalFile", "WalkedTrack", "payload_of", "walk", "walk_blocks", "walk_original"]


class WalkedTrack:
    """What walking finds out about one track."""

    def __init__(self) -> None:
        self.rmap = bytearray()
        self.seek = bytearray()
        self.blocks = 0
        self.bytes = 0
        self.keyframes = 0

    def add(self, entry: RangeEntry) -> None:
        """Add a block."""
        self.rmap += entry.pack()
        self.blocks += 1
        self.bytes += entry.size
        if entry.flags & KEY:
            self.keyframes += 1
            self.seek += SEEK_ENTRY.pack(entry.pts, entry.offset)


def payload_of(source: ReadAt, info: ChunkInfo) -> bytes:
    """A chunk's payload, its CRC checked. Raises ChecksumError, TruncatedError."""
    data = read_exact(source, info.payload, info.size)
    if crc32(data) != info.crc:
        raise ChecksumError(f"chunk {info.tag} fails its CRC", where=info.offset)
    return data


def walk(source: ReadAt) -> Iterator[ChunkInfo]:
    """The chunks of a file in order, from headers alone.

    Raises FormatError and its kin at the first header that cannot be; TruncatedError (with the chunks
    before it already given) where the file ends inside a chunk.
    """
    length = source.size()
    grammar = Grammar(original=not parse_header(source.read_at(0, HEADER_SIZE)))
    offset = HEADER_SIZE
    while offset < length:
        info = ChunkInfo.unpack(source.read_at(offset, CHUNK_SIZE), offset, length)
        grammar.step(info)
        yield info
        offset = info.end


def walk_blocks(source: ReadAt) -> tuple[Trak, list[WalkedTrack], Sequence]:
    """The complete blocks of a file of this specification whose end is missing.

    Reading stops at the first chunk that is missing, damaged or misplaced (H4MK 18.2). Returns TRAK, one
    entry a track, and the sequence behind the last block. Raises FormatError and its kin without a TRAK.
    """
    chunks = walk(source)
    first = next(chunks, None)
    if first is None:
        raise TruncatedError("the file ends before TRAK", where=HEADER_SIZE)
    trak = Trak.unpack(payload_of(source, first))
    tracks = [WalkedTrack() for _ in trak.tracks]
    # A recovered file may have holes; which, only the META says that is missing here.
    sequence = Sequence(trak, gaps=True)
    token: TokenRecord | None = None
    try:
        for info in chunks:
            if info.tag == "TOKN":
                token = TokenRecord.unpack(payload_of(source, info))
            elif info.tag in ("CORE", "SAFE") and token is not None:
                check_payload(token, info)
                position, leaf = info.payload, sequence.leaf
                sequence.accept(token)
                tracks[token.track].add(
                    RangeEntry(token.pts, token.offset, position, leaf, token.size, token.flags)
                )
    except (FormatError, LimitError):
        pass  # cut or damaged here: every block before it is complete
    return trak, tracks, sequence


@dataclass(frozen=True, slots=True)
class OriginalFile:
    """What a file of the original implementation holds."""

    track: WalkedTrack
    seek: SeekTable
    meta: dict[str, object] | None
    veri: bytes | None


def walk_original(source: ReadAt) -> OriginalFile:
    """Read a file of the original implementation (H4MK 23). Its CORE chunks have no times: they count as 0.

    Raises FormatError and its kin.
    """
    track = WalkedTrack()
    found: dict[str, bytes] = {}
    for info in walk(source):
        if info.tag != "CORE":
            found[info.tag] = payload_of(source, info)
        elif info.size:
            track.add(RangeEntry(0, track.bytes, info.payload, track.blocks, info.size, 0))
    seek = SeekTable.original(found.get("SEEK", SEEK_HEAD.pack(0)))
    meta = canonical.loose(found["META"], "META") if "META" in found else None
    return OriginalFile(track, seek, meta, found.get("VERI"))
