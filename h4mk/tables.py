"""SEEK, RMAP and MERK as they grow, block by block, in memory that does not follow the file.

The builder writes them; `verify` derives them a second time and compares. Each table spills to an unnamed
temporary file once it is large.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import IO

from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import LimitError, StorageError
from harmony4.crypto.merkle import MerkleTree, leaf_hash
from harmony4.crypto.token import KEY, MAX_BLOCKS, TokenRecord
from harmony4.h4mk.layout import RMAP_ENTRY, RMAP_HEAD, SEEK_ENTRY, SEEK_HEAD, RangeEntry

__all__ = ["Spill", "Tables"]

_PIECE = 2**18


class Spill:
    """Append-only bytes: in memory up to `limit`, then in an unnamed temporary file."""

    def __init__(self, limit: int, folder: str | None) -> None:
        # Unnamed, so there is nothing to clean up after a crash.
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(limit, dir=folder)  # noqa: SIM115
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add bytes. Raises StorageError."""
        try:
            self._file.write(data)
        except OSError as error:
            raise StorageError(f"cannot write a temporary file: {error.strerror}") from error
        self.size += len(data)

    def pieces(self) -> Iterator[bytes]:
        """Everything, from the front. Raises StorageError."""
        try:
            self._file.seek(0)
            while piece := self._file.read(_PIECE):
                yield piece
        except OSError as error:
            raise StorageError(f"cannot read a temporary file: {error.strerror}") from error

    def close(self) -> None:
        """Forget the bytes."""
        with suppress(OSError):  # it flushes first, which fails where the disk is full
            self._file.close()


class _TrackTables:
    def __init__(self, limit: int, folder: str | None) -> None:
        self.seek = Spill(limit, folder)
        self.rmap = Spill(limit, folder)
        self.blocks = 0
        self.keyframes = 0
        self.bytes = 0


class Tables:
    """All derived tables of one container. A context manager."""

    def __init__(self, tracks: int, *, limit: int = 2**20, folder: str | None = None) -> None:
        """`limit`: bytes of each table kept in memory; `folder`: where larger ones spill."""
        self.tracks = [_TrackTables(limit, folder) for _ in range(tracks)]
        self.tree = MerkleTree()
        self._levels: list[Spill] = []
        self._limit = limit
        self._folder = folder

    def add(self, token: TokenRecord, packed: bytes, position: int) -> None:
        """Add a block whose payload stands at file offset `position`. Raises LimitError, StorageError."""
        leaf = self.tree.size
        if leaf >= MAX_BLOCKS:
            raise LimitError("too many blocks in one container", expected=f"<= {MAX_BLOCKS}")
        for level, node in enumerate(self.tree.append(leaf_hash(packed))):
            if level == len(self._levels):
                self._levels.append(Spill(self._limit, self._folder))
            self._levels[level].append(node)
        track = self.tracks[token.track]
        track.blocks += 1
        track.bytes += token.size
        track.rmap.append(RangeEntry(token.pts, token.offset, position, leaf, token.size, token.flags).pack())
        if token.flags & KEY:
            track.keyframes += 1
            track.seek.append(SEEK_ENTRY.pack(token.pts, token.offset))

    def seek(self, track: int) -> Iterator[bytes]:
        """The payload of SEEK, in pieces."""
        yield SEEK_HEAD.pack(self.tracks[track].keyframes)
        yield from self.tracks[track].seek.pieces()

    def rmap(self, track: int) -> Iterator[bytes]:
        """The payload of RMAP, in pieces."""
        yield RMAP_HEAD.pack(track, RMAP_ENTRY.size, 0, self.tracks[track].blocks)
        yield from self.tracks[track].rmap.pieces()

    def merk(self) -> Iterator[bytes]:
        """The payload of MERK, in pieces."""
        yield self.tree.size.to_bytes(8)
        for level in self._levels:
            yield from level.pieces()

    @staticmethod
    def measure(pieces: Iterator[bytes]) -> tuple[int, int]:
        """Size and CRC-32 of a payload given in pieces."""
        size = crc = 0
        for piece in pieces:
            size += len(piece)
            crc = crc32(piece, crc)
        return size, crc

    def close(self) -> None:
        """Forget everything."""
        for track in self.tracks:
            track.seek.close()
            track.rmap.close()
        for level in self._levels:
            level.close()

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
