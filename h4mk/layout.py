"""The wire: every constant, limit and fixed-size record of H4MK v1 (docs/H4MK.md), and nothing else.

Records are frozen dataclasses; `pack` stands beside `unpack`. All integers are big-endian and unsigned.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from harmony4.crypto.errors import (
    CriticalError,
    FormatError,
    LimitError,
    OrderError,
    TruncatedError,
    VersionError,
)
from harmony4.crypto.token import MAX_BLOCK, MAX_BLOCKS, MAX_VALUE, TOKEN_SIZE

__all__ = [
    "CHUNK",
    "CHUNK_SIZE",
    "COPY_LIMIT",
    "FIRST_READ",
    "HEADER_ORIGINAL",
    "HEADER_SIZE",
    "HEADER_V1",
    "JSON_LIMIT",
    "KEYS_SIZE",
    "MAGIC",
    "MOST_ANCILLARY",
    "RMAP_ENTRY",
    "RMAP_HEAD",
    "SEEK_ENTRY",
    "SEEK_HEAD",
    "SIGN_SIZE",
    "TAIL_CHUNK",
    "ChunkInfo",
    "RangeEntry",
    "Tail",
    "check_tag",
    "chunk_header",
    "head_bytes",
    "head_of_digests",
    "is_critical",
    "known",
    "parse_header",
    "table_count",
]

MAGIC: Final = b"H4MK"
HEADER_SIZE: Final = 8
HEADER_V1: Final = MAGIC + b"\0\0\0\1"
HEADER_ORIGINAL: Final = MAGIC + b"\0\1\0\0"

CHUNK: Final = struct.Struct(">4sII")
"""tag, size of the payload in bytes, CRC-32 of the payload."""
CHUNK_SIZE: Final = CHUNK.size

JSON_LIMIT: Final = 2**20
"""Largest JSON chunk, bytes."""
MOST_ANCILLARY: Final = JSON_LIMIT // 100
"""More ancillary chunks than this META cannot list: 100 bytes of JSON is the least for one."""
FIRST_READ: Final = 64 * 2**10
"""Bytes read at the front of a file when it is opened: header and TRAK."""
COPY_LIMIT: Final = 8 * 2**20
"""Tables up to this size are copied into memory; larger ones are read by pages (bytes)."""

KEYS_SIZE: Final = 520
SIGN_SIZE: Final = 144
DIGEST_SIZE: Final = 32

SEEK_HEAD: Final = struct.Struct(">I")
SEEK_ENTRY: Final = struct.Struct(">QQ")
RMAP_HEAD: Final = struct.Struct(">HHIQ")
RMAP_ENTRY: Final = struct.Struct(">QQQQIHH")

_ANY_SIZE: Final = 2**32 - 1
_LIMITS: Final = {
    b"TRAK": (2, JSON_LIMIT),
    b"META": (2, JSON_LIMIT),
    b"KEYS": (KEYS_SIZE, KEYS_SIZE),
    b"TOKN": (TOKEN_SIZE, TOKEN_SIZE),
    b"CORE": (1, MAX_BLOCK),
    b"SAFE": (1, MAX_BLOCK),
    b"SIGN": (SIGN_SIZE, JSON_LIMIT),
    b"SEEK": (SEEK_HEAD.size, SEEK_HEAD.size + SEEK_ENTRY.size * MAX_BLOCKS),
    b"RMAP": (RMAP_HEAD.size, RMAP_HEAD.size + RMAP_ENTRY.size * MAX_BLOCKS),
    b"MERK": (8, _ANY_SIZE),
    b"VERI": (DIGEST_SIZE, DIGEST_SIZE),
    b"TAIL": (128, 128),
    b"time": (1, JSON_LIMIT),
}
"""Tags of this specification, with the least and greatest payload size (H4MK 3.2)."""
_ORIGINAL_LIMITS: Final = {
    b"CORE": (0, _ANY_SIZE),
    b"SEEK": (SEEK_HEAD.size, _ANY_SIZE),
    b"META": (2, JSON_LIMIT),
    b"SAFE": (2, JSON_LIMIT),
    b"VERI": (DIGEST_SIZE, DIGEST_SIZE),
}
"""The same for files of the original implementation, which have no other tags (H4MK 23)."""


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """Where a chunk is and what its header says."""

    tag: str
    offset: int
    """File offset of the tag, bytes."""
    size: int
    """Payload size, bytes."""
    crc: int
    """CRC-32 of the payload as the header has it."""

    @property
    def payload(self) -> int:
        """File offset of the payload."""
        return self.offset + CHUNK_SIZE

    @property
    def end(self) -> int:
        """File offset just behind the payload."""
        return self.offset + CHUNK_SIZE + self.size

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int, limit: int) -> ChunkInfo:
        """Parse the 12 bytes that stand at file offset `offset` of a file of `limit` bytes.

        Raises TruncatedError where header or payload reach past `limit`, FormatError for an impossible tag.
        """
        if len(data) < CHUNK_SIZE:
            raise TruncatedError("the file ends inside a chunk header", where=offset)
        tag, size, crc = CHUNK.unpack_from(data)
        info = cls(check_tag(tag, offset), offset, size, crc)
        if info.end > limit:
            raise TruncatedError(
                f"chunk {info.tag} reaches past the end of the file",
                where=offset,
                expected=limit,
                found=info.end,
            )
        return info

    def check_size(self, *, original: bool = False) -> None:
        """Raise LimitError where a tag of this specification has a size it cannot have."""
        limits = _ORIGINAL_LIMITS if original else _LIMITS
        least, most = limits.get(self.tag.encode(), (0, _ANY_SIZE))
        if not least <= self.size <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise LimitError(
                f"chunk {self.tag} has an impossible size",
                where=self.offset,
                expected=wanted,
                found=self.size,
            )


def check_tag(tag: bytes, offset: int) -> str:
    """A tag as text. Raises FormatError unless it is four ASCII letters (H4MK 3.2)."""
    if not tag.isalpha():  # of bytes: ASCII letters only
        raise FormatError("not a chunk tag", where=offset, expected="four ASCII letters", found=tag.hex())
    return tag.decode("ascii")


def is_critical(tag: str) -> bool:
    """A tag whose first letter is upper case must be understood (H4MK 3.2)."""
    return tag[0].isupper()


def known(tag: str, *, original: bool = False) -> bool:
    """Whether a tag belongs to this specification (`original`: to the original implementation's files)."""
    return tag.encode() in (_ORIGINAL_LIMITS if original else _LIMITS)


def chunk_header(tag: bytes, size: int, crc: int) -> bytes:
    """The 12 bytes before a payload."""
    return CHUNK.pack(tag, size, crc)


def parse_header(data: bytes | bytearray | memoryview) -> bool:
    """Check the 8 header bytes; True for this specification, False for the original implementation's profile.

    Raises TruncatedError, VersionError.
    """
    head = bytes(data[:HEADER_SIZE])
    if head[:4] != MAGIC[: len(head)]:
        raise VersionError(
            "not an H4MK container", where=0, expected=MAGIC.hex(), found=head[:4].hex() or "nothing"
        )
    if len(head) < HEADER_SIZE:
        raise TruncatedError("the file ends inside its header", where=len(head))
    if head == HEADER_V1:
        return True
    if head == HEADER_ORIGINAL:
        return False
    raise VersionError("unknown H4MK version", where=4, expected="00000001", found=head[4:].hex())


@dataclass(frozen=True, slots=True)
class RangeEntry:
    """One block in the range map (RMAP), 40 bytes."""

    pts: int
    offset: int
    """Logical offset in the track's stream, bytes."""
    position: int
    """File offset of the payload."""
    leaf: int
    """Leaf number: the block's place in file order."""
    size: int
    flags: int

    def pack(self) -> bytes:
        """The 40 bytes of the entry."""
        return RMAP_ENTRY.pack(self.pts, self.offset, self.position, self.leaf, self.size, self.flags, 0)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> RangeEntry:
        """Parse an entry. Raises FormatError for reserved bits or values of 2^63 and more."""
        pts, offset, position, leaf, size, flags, zero = RMAP_ENTRY.unpack(data)
        if zero or max(pts, offset, position, leaf) > MAX_VALUE:
            raise FormatError("an RMAP entry has a reserved bit set or a value beyond 2^63")
        return cls(pts, offset, position, leaf, size, flags)


def table_count(info: ChunkInfo, head: bytes | bytearray | memoryview, track: int) -> int:
    """The number of entries in a SEEK or RMAP chunk, from the first bytes of its payload.

    The count must fill the chunk exactly. Raises FormatError, CriticalError, TruncatedError.
    """
    if info.tag == "SEEK":
        (count,) = SEEK_HEAD.unpack_from(head)
        size = SEEK_HEAD.size + count * SEEK_ENTRY.size
    else:
        number, entry, zero, count = RMAP_HEAD.unpack_from(head)
        if entry != RMAP_ENTRY.size or zero:
            raise CriticalError(
                "unknown RMAP entry layout", where=info.offset, expected=RMAP_ENTRY.size, found=entry
            )
        if number != track:
            raise OrderError("RMAP of another track", where=info.offset, expected=track, found=number)
        size = RMAP_HEAD.size + count * RMAP_ENTRY.size
    if size != info.size:
        raise FormatError(
            f"{info.tag} count does not fill its chunk", where=info.offset, expected=info.size, found=size
        )
    return int(count)


_TAIL = struct.Struct(">QQQQQQQHHI32s32s")
TAIL_CHUNK: Final = CHUNK_SIZE + _TAIL.size
"""TAIL with its chunk header: the last bytes of every sealed file."""


@dataclass(frozen=True, slots=True)
class Tail:
    """TAIL, 128 bytes: where everything is, and the container's identity."""

    length: int
    """File length, bytes."""
    index: int
    """File offset of the first chunk after the last block."""
    meta: int
    merk: int
    veri: int
    """Chunk offsets."""
    blocks: int
    duration: int
    """Greatest `end`, µs."""
    tracks: int
    signs: int
    """Number of final SIGN chunks."""
    root: bytes
    head: bytes

    def pack(self) -> bytes:
        """The 128 payload bytes."""
        return _TAIL.pack(
            self.length,
            self.index,
            self.meta,
            self.merk,
            self.veri,
            self.blocks,
            self.duration,
            self.tracks,
            0,
            self.signs,
            self.root,
            self.head,
        )

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Tail:
        """Parse the 128 payload bytes. Raises FormatError, LimitError, OrderError (H4MK 14.1)."""
        length, index, meta, merk, veri, blocks, duration, tracks, zero, signs, root, head = _TAIL.unpack(
            data
        )
        tail = cls(length, index, meta, merk, veri, blocks, duration, tracks, signs, root, head)
        if zero or max(length, duration) > MAX_VALUE:
            raise FormatError("TAIL has a reserved bit set or a value beyond 2^63")
        if blocks > MAX_BLOCKS:
            raise LimitError("TAIL counts too many blocks", expected=f"<= {MAX_BLOCKS}", found=blocks)
        order = (HEADER_SIZE, index, meta, merk, veri, length - TAIL_CHUNK)
        steps = (CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE + 2, CHUNK_SIZE + 8, CHUNK_SIZE + DIGEST_SIZE)
        if any(
            after - before < step for before, after, step in zip(order[:-1], order[1:], steps, strict=True)
        ):
            raise OrderError("TAIL names offsets that cannot be")
        return tail


def head_bytes(blocks: int, duration: int, root: bytes, trak: bytes, meta: bytes | None) -> bytes:
    """HEAD, 128 bytes: what a signature signs and what `head` is the SHA-256 of (H4MK 12).

    `trak` and `meta` are chunk payloads; `meta` is None in a checkpoint.
    """
    digests = hashlib.sha256(trak).digest(), bytes(32) if meta is None else hashlib.sha256(meta).digest()
    return head_of_digests(blocks, duration, root, *digests)


def head_of_digests(blocks: int, duration: int, root: bytes, trak: bytes, meta: bytes) -> bytes:
    """HEAD of the SHA-256 of TRAK and of META (zeros in a checkpoint)."""
    return struct.pack(">16sQQ32s32s32s", b"H4MK head v1", blocks, duration, root, trak, meta)
