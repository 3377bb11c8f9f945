"""Opening: TAIL, header and TRAK, META. Three small reads for any length of file (H4MK 18.1).

A file without a valid TAIL is walked instead, and is then `incomplete`, never sealed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import ChecksumError, FormatError, LimitError, OrderError, SealError
from harmony4.h4mk.documents import Lost, Meta, TrackInfo, Trak
from harmony4.h4mk.layout import (
    CHUNK_SIZE,
    COPY_LIMIT,
    FIRST_READ,
    HEADER_SIZE,
    RMAP_ENTRY,
    RMAP_HEAD,
    SEEK_ENTRY,
    SEEK_HEAD,
    TAIL_CHUNK,
    ChunkInfo,
    Tail,
    head_bytes,
    parse_header,
    table_count,
)
from harmony4.h4mk.rangemap import RangeMap
from harmony4.h4mk.seek import PagedTable, SeekTable
from harmony4.h4mk.source import ReadAt, read_exact
from harmony4.h4mk.walk import payload_of, walk_blocks, walk_original

__all__ = ["Opened", "open_container", "read_directory"]


@dataclass(slots=True)
class Opened:
    """What opening found; the tables of sealed files are loaded when they are first asked for."""

    state: str
    trak: Trak
    blocks: int
    duration: int
    tail: Tail | None = None
    meta: Meta | None = None
    original_meta: dict[str, object] | None = None
    identity: bytes | None = None
    """`head`, or the original implementation's VERI: what an ETag is made from."""
    veri: int | None = None
    """Chunk offset of VERI, where there is one."""
    lost: tuple[Lost, ...] = ()
    sizes: list[tuple[int, int, int]] = field(default_factory=list)
    """(blocks, bytes, keyframes) of each track."""
    seeks: dict[int, SeekTable] = field(default_factory=dict)
    rmaps: dict[int, RangeMap] = field(default_factory=dict)
    trusted: set[int] = field(default_factory=set)
    """Tracks whose range map needs no check against tokens: made by walking, or CRC-checked."""

    def load_seek(self, source: ReadAt, track: int) -> SeekTable:
        """The SEEK table of a sealed file's track. Raises FormatError and its kin."""
        assert self.meta is not None
        stored = self.meta.tracks[track]
        info = _table_info(source, "SEEK", stored.seek, self.tail)
        if info.size <= COPY_LIMIT:
            data = payload_of(source, info)
            count = table_count(info, data, track)
            table = SeekTable.copied(data[SEEK_HEAD.size :])
        else:
            count = table_count(info, read_exact(source, info.payload, SEEK_HEAD.size), track)
            table = SeekTable(PagedTable(source, info.payload + SEEK_HEAD.size, SEEK_ENTRY.size, count))
        _check_count("SEEK", info, stored.keyframes, count)
        return table

    def load_rmap(self, source: ReadAt, track: int) -> RangeMap:
        """The range map of a sealed file's track. Raises FormatError and its kin."""
        assert self.meta is not None
        stored = self.meta.tracks[track]
        info = _table_info(source, "RMAP", stored.rmap, self.tail)
        if info.size <= COPY_LIMIT:
            data = payload_of(source, info)
            count = table_count(info, data, track)
            table = RangeMap.copied(data[RMAP_HEAD.size :])
            self.trusted.add(track)
        else:
            count = table_count(info, read_exact(source, info.payload, RMAP_HEAD.size), track)
            table = RangeMap(PagedTable(source, info.payload + RMAP_HEAD.size, RMAP_ENTRY.size, count))
        _check_count("RMAP", info, stored.blocks, count)
        return table


def open_container(source: ReadAt) -> Opened:
    """Open a container. Raises FormatError and its kin, SourceError."""
    size = source.size()
    tail = _tail(source.read_at(max(0, size - TAIL_CHUNK), TAIL_CHUNK), size)
    front = source.read_at(0, FIRST_READ)
    if not parse_header(front):
        return _open_original(source)
    if tail is None:
        return _open_walked(source)
    trak_bytes = _trak(source, front, size)
    meta_bytes = _meta(source, tail)
    if tail.head != sha256(head_bytes(tail.blocks, tail.duration, tail.root, trak_bytes, meta_bytes)):
        raise SealError("TRAK, META and TAIL do not belong together", where="TAIL.head")
    trak, meta = Trak.unpack(trak_bytes), Meta.unpack(meta_bytes)
    counts = (len(trak.tracks), tail.blocks, tail.duration, sum(one.blocks for one in meta.tracks))
    if counts != (len(meta.tracks), meta.blocks, meta.duration, meta.blocks) or tail.tracks != len(
        trak.tracks
    ):
        raise SealError("TRAK, META and TAIL count differently", where="META")
    return Opened(
        "sealed",
        trak,
        tail.blocks,
        tail.duration,
        tail=tail,
        meta=meta,
        identity=tail.head,
        veri=tail.veri,
        lost=meta.lost,
        sizes=[(one.blocks, one.bytes, one.keyframes) for one in meta.tracks],
    )


def _tail(data: bytes, size: int) -> Tail | None:
    """TAIL, if these are the bytes of one; a damaged one is treated as none, so that the file is walked."""
    if len(data) != TAIL_CHUNK:
        return None
    tag, length, crc = struct.unpack_from(">4sII", data)
    if tag != b"TAIL" or length != TAIL_CHUNK - CHUNK_SIZE or crc32(data[CHUNK_SIZE:]) != crc:
        return None
    try:
        tail = Tail.unpack(data[CHUNK_SIZE:])
    except (FormatError, LimitError):
        return None
    return tail if tail.length == size else None


def read_directory(source: ReadAt) -> tuple[Meta, bytes] | None:
    """META and the head, from a file whose TAIL and META are sound, whatever else is damaged."""
    size = source.size()
    try:
        tail = _tail(source.read_at(max(0, size - TAIL_CHUNK), TAIL_CHUNK), size)
        return None if tail is None else (Meta.unpack(_meta(source, tail)), tail.head)
    except (FormatError, LimitError):
        return None


def _meta(source: ReadAt, tail: Tail) -> bytes:
    info = ChunkInfo("META", tail.meta, tail.merk - tail.meta - CHUNK_SIZE, 0)
    info.check_size()
    data = read_exact(source, info.offset, CHUNK_SIZE + info.size)
    found = ChunkInfo.unpack(data, info.offset, tail.length)
    if (found.tag, found.size) != (info.tag, info.size):
        raise OrderError(
            "TAIL does not point at META", where=info.offset, expected=info.size, found=found.size
        )
    if crc32(data[CHUNK_SIZE:]) != found.crc:
        raise ChecksumError("chunk META fails its CRC", where=info.offset)
    return data[CHUNK_SIZE:]


def _trak(source: ReadAt, front: bytes, size: int) -> bytes:
    info = ChunkInfo.unpack(front[HEADER_SIZE : HEADER_SIZE + CHUNK_SIZE], HEADER_SIZE, size)
    if info.tag != "TRAK":
        raise OrderError("the first chunk is not TRAK", where=HEADER_SIZE, found=info.tag)
    info.check_size()
    if info.end > len(front):
        return payload_of(source, info)
    data = front[info.payload : info.end]
    if crc32(data) != info.crc:
        raise ChecksumError("chunk TRAK fails its CRC", where=info.offset)
    return data


def _table_info(source: ReadAt, tag: str, offset: int, tail: Tail | None) -> ChunkInfo:
    assert tail is not None
    if not tail.index <= offset < tail.meta:
        raise OrderError(f"META names an impossible place for {tag}", where="META.tracks", found=offset)
    info = ChunkInfo.unpack(source.read_at(offset, CHUNK_SIZE), offset, tail.meta)
    if info.tag != tag:
        raise OrderError(f"META does not point at {tag}", where=offset, expected=tag, found=info.tag)
    info.check_size()
    return info


def _check_count(tag: str, info: ChunkInfo, expected: int, count: int) -> None:
    if count != expected:
        raise SealError(
            f"{tag} and META count differently", where=info.offset, expected=expected, found=count
        )


def _open_walked(source: ReadAt) -> Opened:
    trak, tracks, sequence = walk_blocks(source)
    return Opened(
        "incomplete",
        trak,
        sequence.leaf,
        sequence.duration,
        lost=tuple(sequence.finish()),
        sizes=[(one.blocks, one.bytes, one.keyframes) for one in tracks],
        seeks={number: SeekTable.copied(one.seek) for number, one in enumerate(tracks)},
        rmaps={number: RangeMap.copied(one.rmap) for number, one in enumerate(tracks)},
        trusted=set(range(len(tracks))),
    )


def _open_original(source: ReadAt) -> Opened:
    file = walk_original(source)
    domain = (file.meta or {}).get("domain")
    seek = file.seek
    duration = seek[len(seek) - 1].pts if len(seek) else 0
    kind = domain if domain in ("video", "audio") else "data"
    return Opened(
        "original",
        Trak((TrackInfo(kind=str(kind)),)),
        file.track.blocks,
        duration,
        original_meta=file.meta,
        identity=file.veri,
        veri=None if file.veri is None else source.size() - len(file.veri) - CHUNK_SIZE,
        sizes=[(file.track.blocks, file.track.bytes, len(seek))],
        seeks={0: seek},
        rmaps={0: RangeMap.copied(file.track.rmap)},
        trusted={0},
    )
