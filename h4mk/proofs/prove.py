"""Making proofs out of a sealed container (H4MK 22).

A proof takes O(log n) small reads. The first one of a track takes its range map besides: one read of 40 bytes
a block up to 8 MiB (209 714 blocks), and of longer ones a few pages of 16 KiB (H4MK 18.3). Where a container
is not sealed yet all tokens are read once, and proofs are of its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import LimitError, NotFoundError, OrderError, SealError, UsageError
from harmony4.crypto.merkle import Node, inclusion_proof
from harmony4.crypto.token import LAST, TokenRecord
from harmony4.h4mk.layout import CHUNK_SIZE, ChunkInfo, Tail
from harmony4.h4mk.proofs.proof import MOST_SIGNATURES, Proof
from harmony4.h4mk.proofs.signature import final_signatures
from harmony4.h4mk.reader import H4MKReader

__all__ = ["MOST_BLOCKS", "Prover", "StoredTree", "prove_range", "prove_seek"]

MOST_BLOCKS: Final = 1024
"""Blocks in one proof; more would not fit 1 MiB of JSON."""
_NODE: Final = 32


class StoredTree:
    """The nodes of a container's tree, each read when it is asked for (H4MK 11.2)."""

    def __init__(self, reader: H4MKReader, tail: Tail) -> None:
        """One small read. Raises OrderError where MERK is not what TAIL says."""
        self._read = reader.read_file
        self._levels: list[int] = []
        at = tail.merk + CHUNK_SIZE + 8
        for level in range(tail.blocks.bit_length()):
            self._levels.append(at)
            at += _NODE * (tail.blocks >> level)
        head = reader.read_file(tail.merk, CHUNK_SIZE + 8)
        info = ChunkInfo.unpack(head, tail.merk, reader.size)
        if (info.tag, info.end, int.from_bytes(head[CHUNK_SIZE:])) != ("MERK", at, tail.blocks):
            raise OrderError("TAIL does not point at MERK", where=tail.merk)

    def __call__(self, level: int, index: int) -> bytes:
        """The root of the complete subtree of 2^level leaves from leaf index·2^level on. One read."""
        return self._read(self._levels[level] + _NODE * index, _NODE)


class Prover:
    """Makes proofs out of one open container. Safe for use from several threads."""

    def __init__(self, reader: H4MKReader) -> None:
        """Reads the final signatures; without a seal all tokens, and the last checkpoint.

        Raises NotFoundError where there is neither a seal nor a checkpoint, FormatError and its kin.
        """
        self._reader = reader
        self._directory: bytes | None = None
        self._tree: Node
        if reader.tail is None or reader.meta is None:
            self._bare, self._tree = _last_checkpoint(reader)
            self._head = sha256(self._bare.head())
            return
        self._directory = reader.meta.pack()
        self._tree = StoredTree(reader, reader.tail)
        self._head = reader.tail.head
        self._bare = Proof(
            blocks=reader.tail.blocks,
            duration=reader.tail.duration,
            trak=sha256(reader.trak.pack()),
            meta=sha256(self._directory),
            signatures=tuple(islice(final_signatures(reader.read_file, reader.tail), MOST_SIGNATURES)),
            root=reader.tail.root,
        )

    def seek(self, pts: int | Iterable[int], track: int = 0) -> Proof:
        """The proof of what answers one time or several (µs) in a track (H4MK 22.2); several share nodes.

        Raises UsageError for a negative time, NotFoundError for an unknown track and a time in a hole,
        LimitError for too many times, SealError and its kin for damage.
        """
        times = [pts] if isinstance(pts, int) else list(pts)
        if not times or min(times) < 0:
            raise UsageError("a proof is for one time or more, none negative")
        rmap = self._reader.range_map(track)
        if not len(rmap):
            return self._empty(track)
        rows = {one: max(rmap.at_time(one), 0) for one in times}
        found = self._entries(sorted(set(rows.values())), track)
        for one, row in rows.items():
            token = found[row][1]
            if token.index > 0 if one < token.pts else one >= token.end and not token.flags & LAST:
                raise NotFoundError("that time is in a hole", where=f"track {track}", found=one)
        return self._proof(found)

    def range(self, start: int, stop: int, track: int = 0) -> Proof:
        """The proof of the blocks that bytes `start` … `stop` (exclusive) of a track's stream are in
        (H4MK 22.3); behind the end of the stream, of the last block.

        Raises UsageError for numbers that are no range, and as `seek` does.
        """
        if not 0 <= start < stop:
            raise UsageError("that is no range of bytes", found=(start, stop))
        rmap = self._reader.range_map(track)
        if not len(rmap):
            return self._empty(track)
        for hole_start, hole_stop in self._reader.byte_holes(track):
            if start < hole_stop and hole_start < stop:
                raise NotFoundError(f"bytes {hole_start} to {hole_stop - 1} of track {track} are lost")
        rows = range(rmap.at_offset(start), rmap.at_offset(stop - 1) + 1)
        return self._proof(self._entries(rows, track))

    def _entries(self, rows: Sequence[int], track: int) -> dict[int, tuple[int, TokenRecord]]:
        """Leaf number and token of some rows of the track's range map."""
        if len(rows) > MOST_BLOCKS:
            raise LimitError("too many blocks for one proof", expected=f"<= {MOST_BLOCKS}", found=len(rows))
        return {row: self._reader.leaf(row, track) for row in rows}

    def _proof(self, found: dict[int, tuple[int, TokenRecord]]) -> Proof:
        tokens = dict(sorted(found.values()))
        leaves = tuple(tokens)
        if leaves[-1] >= self._bare.blocks:
            raise NotFoundError("no checkpoint covers that block yet", where=f"leaf {leaves[-1]}")
        path = tuple(inclusion_proof(leaves, self._bare.blocks, self._tree))
        return self._checked(leaves=leaves, tokens=tuple(tokens.values()), path=path)

    def _empty(self, track: int) -> Proof:
        if any(one.track == track for one in self._reader.lost):
            raise NotFoundError("all blocks of the track are lost", where=f"track {track}")
        if self._directory is None:
            raise NotFoundError("the track has no block yet, and a checkpoint does not say so", where=track)
        return self._checked(directory=self._directory)

    def _checked(self, **parts: Any) -> Proof:
        """With what is the same in all proofs of a container. One that does not hold is never given out."""
        proof = replace(self._bare, **parts)
        if sha256(proof.head()) != self._head:
            raise SealError("MERK is not the tree over the tokens")
        return proof


def _last_checkpoint(reader: H4MKReader) -> tuple[Proof, Node]:
    """The last checkpoint of a container that is not sealed, as the head that was signed, and its tree."""
    from harmony4.h4mk.edits.diff import open_tree  # these make use of this module
    from harmony4.h4mk.proofs.growth import checkpoints

    if reader.state != "incomplete":
        raise NotFoundError("only a sealed container has proofs", found=reader.state)
    tree, last = open_tree(reader), None
    for one in checkpoints(reader, tree):
        last = one
    if last is None:
        said = "only a sealed container, or one with checkpoints, has proofs"
        raise NotFoundError(said, found=reader.state)
    return last, tree


def prove_seek(reader: H4MKReader, pts: int | Iterable[int], track: int = 0) -> Proof:
    """One proof of what answers one time or several (µs) in a track. Raises as `Prover` does."""
    return Prover(reader).seek(pts, track)


def prove_range(reader: H4MKReader, start: int, stop: int, track: int = 0) -> Proof:
    """One proof of the blocks that a byte range of a track's stream is in. Raises as `Prover` does."""
    return Prover(reader).range(start, stop, track)
