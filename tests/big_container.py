"""Sparse containers of any size: real tokens, tables, hash tree and seal, and holes for payload.

A container of 4 TiB cannot be written or hashed in a sitting. This tool drives the same parts as
`H4MKBuilder` (token sequencer, tables, documents, TAIL) and seeks over each payload, which the file system
then reads as zero bytes. A payload's CRC-32 and SHA-256 are those of zero bytes, computed once per size.

Everything in the file is what the builder would have written, except two digests that cover every payload
byte in a row: VERI, and `sha256` of the track in META. They are computed only with `real_digests=True`, for
files small enough; then the file equals the builder's byte for byte (`test_big_container.py`). Otherwise
both are taken over the same bytes without the payloads: such a file opens, seeks and serves like any other,
and `verify` reports exactly these two.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harmony4.crypto import TokenRecord, TokenSequencer, crc32, sha256
from harmony4.h4mk import TrackInfo
from harmony4.h4mk.documents import Meta, StoredTrack, Trak
from harmony4.h4mk.layout import (
    HEADER_SIZE,
    HEADER_V1,
    TAIL_CHUNK,
    Tail,
    chunk_header,
    head_bytes,
)
from harmony4.h4mk.proofs.signature import FINAL, SignPayload
from harmony4.h4mk.tables import Tables

TRACK = TrackInfo(kind="video", media_type="video/mp4")
SECOND = 1_000_000
"""Distance of blocks, µs."""


@dataclass(frozen=True, slots=True)
class Big:
    """What was built."""

    head: bytes
    root: bytes
    blocks: int
    duration: int
    """µs; block i begins at i seconds."""
    stream: int
    """Bytes of the track."""
    length: int
    """Length of the file, bytes."""


class _File:
    """Appends to a file, and to its VERI as far as that is computed."""

    def __init__(self, path: Path, real_digests: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._real = real_digests
        self.at = 0
        self.veri = hashlib.sha256()
        self.stream = hashlib.sha256()

    def write(self, data: bytes) -> None:
        if self.at >= HEADER_SIZE:
            self.veri.update(data)
        while data:  # one write takes 2 GiB at most
            done = os.pwrite(self._fd, data, self.at)
            self.at += done
            data = data[done:]

    def chunk(self, tag: bytes, payload: bytes) -> int:
        at = self.at
        self.write(chunk_header(tag, len(payload), crc32(payload)) + payload)
        return at

    def table(self, tag: bytes, once: Iterator[bytes], again: Iterator[bytes]) -> int:
        at = self.at
        self.write(chunk_header(tag, *Tables.measure(once)))
        for piece in again:
            self.write(piece)
        return at

    def hole(self, size: int) -> None:
        if self._real:
            zeros = bytes(size)
            self.veri.update(zeros)
            self.stream.update(zeros)
        self.at += size

    def close(self) -> None:
        os.close(self._fd)


@lru_cache(16)
def _zeros(size: int) -> tuple[bytes, int]:
    """SHA-256 and CRC-32 of `size` zero bytes."""
    data = bytes(size)
    return sha256(data), crc32(data)


def build(
    path: Path,
    blocks: int,
    size: int = 2**20,
    *,
    last: int | None = None,
    real_digests: bool = False,
    signer: SignPayload | None = None,
) -> Big:
    """Write a container of `blocks` KEY blocks of `size` zero bytes each (`last`: the size of the last).

    Needs a file system with holes: a page for each block is all that is stored, besides the tables.
    """
    trak = Trak((TRACK,), block=size).pack()
    sequencer = TokenSequencer()
    with Tables(1, folder=str(path.parent)) as tables, closing(_File(path, real_digests)) as file:
        file.write(HEADER_V1)
        file.chunk(b"TRAK", trak)

        def write(token: TokenRecord) -> None:
            packed = token.pack()
            header = chunk_header(b"CORE", token.size, _zeros(token.size)[1])
            file.write(chunk_header(b"TOKN", len(packed), crc32(packed)) + packed + header)
            tables.add(token, packed, file.at)
            file.hole(token.size)

        for number in range(blocks):
            length = size if last is None or number < blocks - 1 else last
            token = sequencer.push(length, _zeros(length)[0], number * SECOND, key=True)
            if token is not None:
                write(token)
        token = sequencer.finish(blocks * SECOND)
        if token is not None:
            write(token)

        index = file.at
        seek = file.table(b"SEEK", tables.seek(0), tables.seek(0))
        rmap = file.table(b"RMAP", tables.rmap(0), tables.rmap(0))
        (track,) = tables.tracks
        stored = StoredTrack(track.blocks, track.bytes, track.keyframes, rmap, seek, file.stream.digest())
        meta = Meta(blocks=blocks, duration=blocks * SECOND, tracks=(stored,)).pack()
        at_meta = file.chunk(b"META", meta)
        at_merk = file.table(b"MERK", tables.merk(), tables.merk())
        at_veri = file.chunk(b"VERI", file.veri.digest())
        root = tables.tree.root()
        whole = head_bytes(blocks, blocks * SECOND, root, trak, meta)
        head = sha256(whole)
        signature = b"" if signer is None else signer(FINAL, whole)
        if signature:
            file.chunk(b"SIGN", signature)
        tail = Tail(
            length=file.at + TAIL_CHUNK,
            index=index,
            meta=at_meta,
            merk=at_merk,
            veri=at_veri,
            blocks=blocks,
            duration=blocks * SECOND,
            tracks=1,
            signs=int(bool(signature)),
            root=root,
            head=head,
        )
        file.chunk(b"TAIL", tail.pack())
        return Big(head, root, blocks, blocks * SECOND, track.bytes, file.at)


def sparse(path: Path) -> bool:
    """Whether the file takes less room than it is long."""
    status = path.stat()
    return status.st_blocks * 512 < status.st_size
