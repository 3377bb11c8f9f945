"""An open container as a file: its documents, its identity, its chunks. What it holds is `reader.py`'s."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Final, Self

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import NotFoundError, SealError
from harmony4.h4mk.documents import Digest, Lost, Meta, TrackInfo, Trak
from harmony4.h4mk.layout import CHUNK_SIZE, HEADER_SIZE, KEYS_SIZE, ChunkInfo, Tail
from harmony4.h4mk.opening import open_container
from harmony4.h4mk.proofs.signature import final_signatures
from harmony4.h4mk.source import FileSource, ReadAt, open_source, read_exact
from harmony4.h4mk.tokenrows import BEFORE
from harmony4.h4mk.walk import payload_of, walk

__all__ = ["OpenFile", "TrackState"]

SEAL_LIMIT: Final = 16 * 2**20
"""Most bytes from VERI to the end of the file that are read for an entity tag (H4MK 12.3)."""


@dataclass(frozen=True, slots=True)
class TrackState:
    """One track: what TRAK says of it, and what the file holds of it."""

    info: TrackInfo
    blocks: int
    bytes: int
    """Stored payload bytes."""
    keyframes: int
    sha256: Digest | None
    """SHA-256 of the stored stream; None unless the file is sealed."""


class OpenFile:
    """One open container, and what it says of itself. A context manager."""

    def __init__(self, source: str | PathLike[str] | bytes | bytearray | memoryview | ReadAt) -> None:
        """As H4MKReader."""
        self._source, self._owned = open_source(source)
        try:
            self._opened = open_container(self._source)
        except BaseException:
            self.close()
            raise
        opened = self._opened
        self.state: str = opened.state
        self.size: int = self._source.size()
        self.trak: Trak = opened.trak
        self.meta: Meta | None = opened.meta
        self.tail: Tail | None = opened.tail
        self.original_meta: dict[str, object] | None = opened.original_meta
        self.head: bytes | None = opened.tail.head if opened.tail else None
        self.root: bytes | None = opened.tail.root if opened.tail else None
        self.duration: int = opened.duration
        self.block_count: int = opened.blocks
        self.lost: tuple[Lost, ...] = opened.lost
        digests = [one.sha256 for one in opened.meta.tracks] if opened.meta else [None] * len(opened.sizes)
        self.tracks: tuple[TrackState, ...] = tuple(
            TrackState(info, *sizes, digest)
            for info, sizes, digest in zip(opened.trak.tracks, opened.sizes, digests, strict=True)
        )
        self._etags: dict[tuple[int, bool], str] = {}
        self._file_etag: str | None = None

    def is_signed(self) -> bool:
        """Whether a sealed file holds signatures, checkpoints among its blocks included."""
        opened = self._opened
        if opened.tail is None:
            return False
        blocks = self.block_count * BEFORE + sum(track.bytes for track in self.tracks)
        keys = CHUNK_SIZE + KEYS_SIZE if self.trak.mask is not None else 0
        start = HEADER_SIZE + CHUNK_SIZE + len(self.trak.pack()) + keys
        return opened.tail.signs > 0 or opened.tail.index != start + blocks

    def signers(self) -> tuple[Digest, ...]:
        """SHA-256 of the SubjectPublicKeyInfo of each key that a sealed file names as one it is signed with.

        In file order, 1000 at most; no signature is checked. Raises FormatError and its kin.
        """
        tail = self.tail
        if tail is None:
            return ()
        read = partial(read_exact, self._source)
        return tuple(one.key for one in final_signatures(read, tail))

    def is_plain(self) -> bool:
        """Whether a sealed file has neither a mask nor signatures."""
        return self._opened.tail is not None and self.trak.mask is None and not self.is_signed()

    @property
    def veri_offset(self) -> int:
        """File offset of VERI. Raises SealError where there is no seal."""
        if self._opened.tail is None:
            raise SealError("there is no seal", found=self.state)
        return self._opened.tail.veri

    def veri(self) -> bytes:
        """The payload of VERI: SHA-256 of all chunks before it (H4MK 11.3).

        Raises SealError where there is no seal, ChecksumError and its kin.
        """
        at = self.veri_offset
        info = ChunkInfo.unpack(read_exact(self._source, at, CHUNK_SIZE), at, self.size)
        return payload_of(self._source, info)

    def ancillary(self) -> Iterator[tuple[str, bytes]]:
        """(tag, payload) of the ancillary chunks that META lists, in file order (H4MK 14.2); none without a
        seal.

        Raises ChecksumError, SealError where one is not what META says.
        """
        if self.meta is None or self._opened.tail is None:
            return
        at = self._opened.tail.index
        for listed in self.meta.ancillary:
            info = ChunkInfo.unpack(read_exact(self._source, at, CHUNK_SIZE), at, self.size)
            payload = payload_of(self._source, info) if info.size == listed.size else b""
            if (info.tag, info.size) != (listed.tag, listed.size) or sha256(payload) != listed.sha256:
                raise SealError("an ancillary chunk is not the one that META lists", where=at)
            yield listed.tag, payload
            at = info.end

    def chunks(self) -> Iterator[ChunkInfo]:
        """Every chunk of the file in order, from the headers alone. Raises FormatError and its kin."""
        return walk(self._source)

    def etag(self, track: int = 0, *, unmasked: bool = False) -> str | None:
        """The strong entity tag of a track's stream, 32 hex digits (H4MK 12.3); None without a seal."""
        self._check_track(track)
        if self._opened.identity is not None and (track, unmasked) not in self._etags:
            message = b"h4mk etag\0" + self._opened.identity + track.to_bytes(2) + bytes([unmasked])
            self._etags[track, unmasked] = sha256(message)[:16].hex()
        return self._etags.get((track, unmasked))

    def file_etag(self) -> str | None:
        """The strong entity tag of the whole file, 32 hex digits (H4MK 12.3); None without a seal.

        Read once. Raises SourceError, TruncatedError.
        """
        start = self._opened.veri
        if start is not None and self._file_etag is None and self.size - start <= SEAL_LIMIT:
            data = read_exact(self._source, start, self.size - start)
            self._file_etag = sha256(b"h4mk file\0" + data)[:16].hex()
        return self._file_etag

    @property
    def mapping(self) -> mmap.mmap | None:
        """The mapped file, for the kernel to send from (see FileSource); None for other sources."""
        return self._source.mapping if isinstance(self._source, FileSource) else None

    def fileno(self) -> int | None:
        """The file's descriptor; None for other sources."""
        return self._source.fileno() if isinstance(self._source, FileSource) else None

    def close(self) -> None:
        """Close what the reader opened. Safe to call twice."""
        if self._owned:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_track(self, track: int) -> None:
        if not 0 <= track < len(self.tracks):
            raise NotFoundError("no such track", expected=f"0 to {len(self.tracks) - 1}", found=track)
