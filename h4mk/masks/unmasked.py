"""A masked container's media, for whoever has a key (H4MK 21)."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, cast

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import HarmonyError, SealError, UsageError
from harmony4.crypto.mac import equal
from harmony4.crypto.mask import FileKey, MasterKey, xor_mask, xor_mask_into
from harmony4.crypto.token import MASKED, TOKEN_SIZE, TokenRecord
from harmony4.h4mk.blockfile import BlockFile
from harmony4.h4mk.layout import CHUNK_SIZE
from harmony4.h4mk.masks.keyslots import open_slots
from harmony4.h4mk.masks.masking import is_whole
from harmony4.h4mk.reader import H4MKReader
from harmony4.h4mk.source import impatient

__all__ = ["Unmasked"]

_Place = tuple[int, int, int]
"""A row of the range map, a byte in its block, and where that stands in the file."""
_STEP: Final = 2**18
"""Bytes that are read and unmasked at a time, while they are in the processor's cache."""
_KEYS: Final = 2048
"""Blocks of each track whose keys are kept: some 400 bytes each."""
_BLOCKS: Final = 32
"""Most blocks of one `read_soon`: each costs some 10 µs, and they may be as small as a byte."""
_PIECE: Final = 2**20
"""Bytes of the largest piece that `pieces` gives."""


class Unmasked:
    """Reads the streams of one open container as they were before they were masked; plain tracks as they are.

    May be used from several threads. Every block's token is read whenever something of it is read, and its
    tag is checked unless the token is one whose tag was right; its SHA-256 and CRC the first time. It reads
    through `reader`, which stays the caller's.
    """

    def __init__(self, reader: H4MKReader, masters: Iterable[MasterKey], *, always: bool = False) -> None:
        """`always`: check the SHA-256 and CRC of a block each time, not only the first.

        Raises KeyRefusedError where none of `masters` opens it, UsageError where nothing is masked, SealError
        where blocks are missing; FormatError and its kin.
        """
        if reader.trak.mask is None:
            raise UsageError("the container is not masked")
        commit = bytes.fromhex(reader.trak.mask["commit"])
        self.reader = reader
        self.key: FileKey = open_slots(reader.key_slots(), commit, masters)
        self._trak = sha256(reader.trak.pack())
        self.whole = self._is_whole()
        """Whether it is shown that no block is missing: not in a file that was cut off, or changed since."""
        if not self.whole and not any(one.info.masked and one.blocks for one in reader.tracks):
            # Without a tag TRAK may be anybody's, and plain tracks in it anybody's media.
            raise SealError("nothing in the container shows that it was masked with this key")
        self._always = always
        self._checked: dict[int, bytearray] = {}
        self._keys: dict[tuple[int, int], tuple[int, bytes, bytes | None]] = {}
        """Of blocks by track and row, the last one of each remainder: the row, the token whose tag was found
        right, and the key."""

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

        Pieces have 1 MiB at most. Cut to the end of the stream. Memory: a piece, and a block the first time
        that something of it is read. Raises, before the first piece, as `H4MKReader.extents` does; then
        ChecksumError, SealError and their kin.
        """
        for place, size in self._places(start, length, track):
            for at in range(0, size, _PIECE):
                out = memoryview(bytearray(min(_PIECE, size - at)))
                self._fill(place, at, out, track)
                yield out

    def read_into(self, start: int, out: memoryview, track: int = 0) -> int:
        """Fill `out`, which is writable, with the bytes of a track's stream from `start` on.

        Returns how many there are: fewer at the end of the stream, and where a block behind the first one is
        damaged. Raises as `pieces` does where the first one is.
        """
        done = 0
        for place, size in self._places(start, len(out), track):
            try:
                self._fill(place, 0, out[done : done + size], track)
            except HarmonyError:
                if not done:
                    raise
                break
            done += size
        return done

    def read_soon(self, start: int, out: memoryview, track: int = 0) -> bool:
        """Fill `out` with bytes of a track's stream, which exist from `start` on, and wait for no disk.

        False where that cannot be: they are of many blocks, one of them was not read before, something is not
        in memory or is not as it should be. `pieces` and `read_into` get them then, or say what is wrong.
        Tags are checked.
        """
        checked = self._checked.get(track)
        flat = self.reader.flat_map(track)
        if checked is None or flat is None or self._always:
            return False
        row, done = bisect_right(flat.offsets, start) - 1, 0
        if bisect_right(flat.offsets, start + len(out) - 1) - row > _BLOCKS:
            return False
        try:
            with impatient():
                for position, size in flat.pieces(start, len(out)):
                    if not checked[row >> 3] & 1 << (row & 7):
                        return False
                    skip = start + done - flat.offsets[row]
                    key = self._known_key(row, position - skip, track)
                    part = out[done : done + size]
                    self.reader.read_file_into(position, part)
                    if key is not None:
                        xor_mask_into(part, part, key, skip)
                    done += size
                    row += 1
        except HarmonyError:
            return False
        return True

    def _places(self, start: int, length: int, track: int) -> Iterator[tuple[_Place, int]]:
        """The blocks that hold a byte range, where it begins in each, and how much of it is there."""
        rmap = self.reader.range_map(track)
        for position, size in self.reader.extents(start, length, track):
            row = rmap.at_offset(start)
            yield (row, start - rmap.offset_of(row), position), size
            start += size

    def _fill(self, place: _Place, at: int, out: memoryview, track: int) -> None:
        """Bytes of one block, from byte `at` behind a place on. `out` holds nothing of use after an error."""
        row, skip, position = place
        checked = self._checked.get(track)
        if checked is None:
            count = -(-len(self.reader.range_map(track)) // 8)
            checked = self._checked.setdefault(track, bytearray(count))
        bit = 1 << (row & 7)
        if checked[row >> 3] & bit and not self._always:
            key = self._known_key(row, position - skip, track)
            for done in range(0, len(out), _STEP):
                part = out[done : done + _STEP]
                self.reader.read_file_into(position + at + done, part)
                if key is not None:
                    xor_mask_into(part, part, key, skip + at + done)
        else:
            block = self.reader.stored_block(row, track)
            assert block.token is not None
            key = self._block_key(block.token)
            checked[row >> 3] |= bit
            out[:] = memoryview(block.payload)[skip + at : skip + at + len(out)]
            if key is not None:
                xor_mask_into(out, out, key, skip + at)

    def _known_key(self, row: int, payload: int, track: int) -> bytes | None:
        """`_block_key` of the `row`-th stored block, whose payload begins at a place of the file.

        The token's bytes are read each time; where they are those whose tag was found right, the tag is.
        """
        packed = self.reader.read_file(max(payload - CHUNK_SIZE - TOKEN_SIZE, 0), TOKEN_SIZE)
        place = track, row % _KEYS
        known = self._keys.get(place)
        if known is not None and known[0] == row and known[1] == packed:
            return known[2]
        token = self.reader.stored(row, track)
        key = self._block_key(token)
        self._keys[place] = row, token.pack(), key
        return key

    def read(self, start: int, length: int, track: int = 0) -> bytes:
        """`pieces` in one."""
        return b"".join(self.pieces(start, length, track))

    def open(self, track: int = 0) -> BinaryIO:
        """A track's stream as a read-only, seekable, buffered file object; see `H4MKReader.open`."""
        return cast(BinaryIO, io.BufferedReader(BlockFile(self, track), 2**18))

    def _open(self, token: TokenRecord, data: Buffer) -> Buffer:
        """A stored block as it was. Raises SealError for a wrong tag."""
        key = self._block_key(token)
        return data if key is None else xor_mask(data, key)

    def _block_key(self, token: TokenRecord) -> bytes | None:
        """The key of a block; None where it is not masked. Raises SealError for a wrong tag."""
        if not token.flags & MASKED:
            return None
        if not equal(self.key.tag(self._trak, token.pack()), token.tag):
            raise SealError(
                "a block's tag is not one of this key", where=f"track {token.track} block {token.index}"
            )
        return self.key.block_key(token.track, token.index)
