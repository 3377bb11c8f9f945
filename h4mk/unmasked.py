"""A masked container's media, for whoever has a key (H4MK 21)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import SealError, UsageError
from harmony4.crypto.mac import equal
from harmony4.crypto.mask import FileKey, MasterKey, xor_mask
from harmony4.crypto.token import MASKED, TokenRecord
from harmony4.h4mk.blockfile import BlockFile
from harmony4.h4mk.keyslots import open_slots
from harmony4.h4mk.masking import is_whole
from harmony4.h4mk.reader import H4MKReader

__all__ = ["Unmasked"]


class Unmasked:
    """Reads the streams of one open container as they were before they were masked; plain tracks as they are.

    May be used from several threads. Every block's tag is checked whenever something of it is read, its
    SHA-256 and CRC the first time. It reads through `reader`, which stays the caller's.
    """

    def __init__(self, reader: H4MKReader, masters: Iterable[MasterKey]) -> None:
        """Raises KeyRefusedError where none of `masters` opens it, UsageError where nothing is masked,
        SealError where blocks are missing; FormatError and its kin."""
        if reader.trak.mask is None:
            raise UsageError("the container is not masked")
        commit = bytes.fromhex(reader.trak.mask["commit"])
        self.reader = reader
        self.key: FileKey = open_slots(reader.key_slots(), commit, masters)
        self._trak = sha256(reader.trak.pack())
        self.whole = self._is_whole()
        """Whether it is shown that no block is missing: not in a file that was cut off, or changed since."""
        self._checked: dict[int, bytearray] = {}

    def _is_whole(self) -> bool:
        meta, root = self.reader.meta, self.reader.root
        if meta is None or root is None:
            return False
        return is_whole(meta.history, self.key, self._trak, self.reader.block_count, root)

    def stream_size(self, track: int = 0) -> int:
        """As H4MKReader says it: masking changes no size."""
        return self.reader.stream_size(track)

    def blocks(self, track: int = 0, start: int = 0) -> Iterator[tuple[TokenRecord, Buffer]]:
        """The blocks of a track from index `start` on: the token as it is stored, the payload as it was.

        Memory: one block at a time. Raises ChecksumError, SealError and their kin at a damaged block.
        """
        for block in self.reader.blocks(track, start):
            assert block.token is not None
            yield block.token, self._open(block.token, block.payload)

    def pieces(self, start: int, length: int, track: int = 0) -> Iterator[memoryview]:
        """A byte range of a track's stream, block by block, each checked before anything of it is given.

        Cut to the end of the stream. Memory: one block at a time. Raises, before the first piece, as
        `H4MKReader.extents` does; then ChecksumError, SealError and their kin.
        """
        rmap = self.reader.range_map(track)
        checked = self._checked.setdefault(track, bytearray(-(-len(rmap) // 8)))
        for position, size in self.reader.extents(start, length, track):
            row = rmap.at_offset(start)
            bit = 1 << (row & 7)
            skip = start - rmap.offset_of(row)
            if checked[row >> 3] & bit:
                token = self.reader.stored(row, track)
                data = self._open(token, self.reader.read_file(position, size), skip)
                yield memoryview(data)
            else:
                block = self.reader.stored_block(row, track)
                assert block.token is not None
                data = self._open(block.token, memoryview(block.payload)[skip : skip + size], skip)
                checked[row >> 3] |= bit
                yield memoryview(data)
            start += size

    def read(self, start: int, length: int, track: int = 0) -> bytes:
        """`pieces` in one."""
        return b"".join(self.pieces(start, length, track))

    def open(self, track: int = 0) -> BinaryIO:
        """A track's stream as a read-only, seekable, buffered file object; see `H4MKReader.open`."""
        return cast(BinaryIO, io.BufferedReader(BlockFile(self, track), 2**18))

    def _open(self, token: TokenRecord, data: bytes | memoryview, skip: int = 0) -> Buffer:
        """Stored bytes from byte `skip` of a block on, as they were. Raises SealError for a wrong tag."""
        if not token.flags & MASKED:
            return data
        if not equal(self.key.tag(self._trak, token.pack()), token.tag):
            raise SealError(
                "a block's tag is not one of this key", where=f"track {token.track} block {token.index}"
            )
        return xor_mask(data, self.key.block_key(token.track, token.index), skip)
