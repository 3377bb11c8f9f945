"""The token record: 128 bytes that say everything about one block except its bytes (H4MK 6.1).

It is what a leaf of the hash tree is made of, so it stands in the lowest tier: tokenizers make it, the
container stores it, and neither may import the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from harmony4.crypto.errors import CriticalError, FormatError, LimitError, OrderError, UsageError

__all__ = [
    "DEFAULT_BLOCK",
    "HEADER",
    "KEY",
    "LAST",
    "MASKED",
    "MAX_BLOCK",
    "MAX_BLOCKS",
    "MAX_VALUE",
    "NONE",
    "TOKEN_SIZE",
    "TokenRecord",
    "TokenSequencer",
]

KEY = 1
MASKED = 2
LAST = 4
HEADER = 8

NONE = 2**64 - 1
"""`key_pts` and `key_offset` of a block that belongs to no keyframe."""
MAX_VALUE = 2**63 - 1
MAX_TRACK = 2**16 - 1
MAX_BLOCK = 16 * 2**20
"""Largest payload of a block, bytes."""
DEFAULT_BLOCK = 2**20
MAX_BLOCKS = 2**26 - 1
"""Most blocks in one container: a leaf number has 26 bits, and the tree still fits a 32-bit chunk size."""

_TOKEN = struct.Struct(">HHIQQQQQQQ32s32s")
TOKEN_SIZE = _TOKEN.size
_NO_TAG = bytes(32)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One block's token. Times are µs on the container's timeline, offsets and sizes bytes."""

    track: int
    flags: int
    """Sum of KEY 1, MASKED 2, LAST 4, HEADER 8."""
    size: int
    """Payload size, 1 … 16 MiB."""
    index: int
    """Counts from 0 within the track."""
    pts: int
    end: int
    """The next block's `pts` in the track."""
    offset: int
    """Logical offset of the payload in the track's stream."""
    key_pts: int
    """`pts` of the KEY block that opens the group, or NONE."""
    key_offset: int
    min_pts: int
    """Least PTS of a clock packet in the block; `pts` if there is none."""
    digest: bytes
    """SHA-256 of the stored payload."""
    tag: bytes = _NO_TAG
    """HMAC of a masked block; zero if plain."""

    def pack(self) -> bytes:
        """The 128 bytes of a TOKN payload."""
        return _TOKEN.pack(
            self.track,
            self.flags,
            self.size,
            self.index,
            self.pts,
            self.end,
            self.offset,
            self.key_pts,
            self.key_offset,
            self.min_pts,
            self.digest,
            self.tag,
        )

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> TokenRecord:
        """Parse and check one TOKN payload on its own.

        Raises FormatError (size, ranges), CriticalError (unknown flags), LimitError (block size, index),
        OrderError (impossible times).
        """
        if len(data) != TOKEN_SIZE:
            raise FormatError("TOKN has the wrong size", expected=TOKEN_SIZE, found=len(data))
        record = cls(*_TOKEN.unpack(data))
        record.check()
        return record

    def check(self) -> None:
        """Check what a token must satisfy by itself (H4MK 6.2). Raises as `unpack` does."""
        flags = self.flags
        if not 0 <= self.track <= MAX_TRACK or len(self.digest) != 32 or len(self.tag) != 32:
            raise FormatError("a token's track, digest or tag does not fit its field")
        if flags & ~(KEY | MASKED | LAST | HEADER):
            raise CriticalError("unknown token flags", expected="flags 0 to 15", found=flags)
        if not 0 < self.size <= MAX_BLOCK:
            raise LimitError("a block's size is out of range", expected=f"1 to {MAX_BLOCK}", found=self.size)
        values = (self.index, self.pts, self.end, self.offset, self.min_pts)
        if min(values) < 0 or max(values) > MAX_VALUE:
            raise FormatError("a token value is negative or 2^63 or more")
        if self.index >= MAX_BLOCKS:
            raise LimitError("a block index is out of range", expected=f"< {MAX_BLOCKS}", found=self.index)
        if self.end < self.pts:
            raise OrderError("a block ends before it starts", expected=f">= {self.pts}", found=self.end)
        if flags & KEY and (flags & HEADER or (self.key_pts, self.key_offset) != (self.pts, self.offset)):
            raise OrderError("a KEY block is not its own keyframe")
        grouped = self.key_offset != NONE
        if grouped != (self.key_pts != NONE) or (
            grouped and not (0 <= self.key_pts <= MAX_VALUE and 0 <= self.key_offset <= MAX_VALUE)
        ):
            raise FormatError("a token names half a keyframe", found=(self.key_pts, self.key_offset))
        if grouped and (self.key_offset > self.offset - (not flags & KEY) or self.key_pts > self.pts):
            raise OrderError("a token's keyframe does not lie before it")
        if flags & HEADER and (grouped or self.pts):
            raise OrderError("a HEADER block belongs to a keyframe or has a time")
        if not flags & MASKED and self.tag != _NO_TAG:
            raise FormatError("a plain block carries a tag")


class TokenSequencer:
    """Turns blocks of one track, in order, into complete tokens, one block late.

    A token needs its successor's `pts` for `end` and the end of the track for LAST, so `push` gives back
    the previous block's token (None at first) and `finish` the last one (None for an empty track).
    """

    def __init__(self, track: int = 0, *, masked: bool = False) -> None:
        self._track = track
        self._base = MASKED if masked else 0
        self._held: TokenRecord | None = None
        self._index = 0
        self._offset = 0
        self._key = (NONE, NONE)
        self._finished = False

    def push(
        self,
        size: int,
        digest: bytes,
        pts: int,
        *,
        key: bool = False,
        header: bool = False,
        min_pts: int | None = None,
        tag: bytes = _NO_TAG,
    ) -> TokenRecord | None:
        """Add a block of `size` bytes that begins at `pts` µs; returns the previous block's token.

        Raises UsageError or OrderError where the sequence breaks H4MK 6.2, LimitError for sizes, FormatError
        for values that no field holds; the sequence then is as it was before.
        """
        if self._finished:
            raise UsageError("a block after the end of the track", where=f"track {self._track}")
        before = self._held
        if before is not None and pts < before.pts:
            raise OrderError("block times run backwards", expected=f">= {before.pts}", found=pts)
        if header and (key or self._key[0] != NONE):
            raise OrderError("a HEADER block must stand before the first keyframe")
        if key and self._key[0] != NONE and pts <= self._key[0]:
            raise OrderError("keyframe times must increase", expected=f"> {self._key[0]}", found=pts)
        key_pts, key_offset = (pts, self._offset) if key else self._key
        record = TokenRecord(
            track=self._track,
            flags=self._base | (KEY if key else 0) | (HEADER if header else 0),
            size=size,
            index=self._index,
            pts=pts,
            end=pts,
            offset=self._offset,
            key_pts=key_pts,
            key_offset=key_offset,
            min_pts=pts if min_pts is None else min_pts,
            digest=digest,
            tag=tag,
        )
        record.check()
        self._held = record
        self._key = (key_pts, key_offset)
        self._index += 1
        self._offset += size
        return None if before is None else replace(before, end=pts)

    def finish(self, end: int | None = None) -> TokenRecord | None:
        """The last block's token, with LAST; `end` (µs) is where the track ends, at least its `pts`.

        Raises FormatError for an `end` of 2^63 and more.
        """
        self._finished = True
        if self._held is None:
            return None
        last, self._held = self._held, None
        last = replace(last, end=max(last.pts, end or 0), flags=last.flags | LAST)
        last.check()
        return last
