"""Proof that a stream only grew: what was signed first begins what was signed later (H4MK 22.7)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Self

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import (
    ChecksumError,
    JSONError,
    NotFoundError,
    SealError,
    TruncatedError,
    UsageError,
)
from harmony4.crypto.merkle import Node, check_consistency, consistency_proof, node_at
from harmony4.crypto.token import TOKEN_SIZE, TokenRecord
from harmony4.h4mk import canonical
from harmony4.h4mk.edits.diff import differences, open_tree
from harmony4.h4mk.layout import JSON_LIMIT, ChunkInfo
from harmony4.h4mk.proofs.proof import MOST_SIGNATURES, Proof, check_proof
from harmony4.h4mk.proofs.signature import CHECKPOINT, Signature, final_signatures
from harmony4.h4mk.proofs.trust import Accepted, Trust
from harmony4.h4mk.reader import H4MKReader

__all__ = ["GROWTH_FORMAT", "Grown", "Growth", "checkpoints", "prove_growth", "verify_growth"]

GROWTH_FORMAT: Final = "h4mk growth 1"
_NO_META: Final = bytes(32)


def _part(value: Any, path: str) -> Proof:
    """A head and its signatures, without any block."""
    if not isinstance(value, dict):
        raise JSONError("must be an object", where=path, found=type(value).__name__)
    proof = Proof.of(value)
    if proof.tokens or proof.directory is not None:
        raise JSONError("must be a head without blocks", where=path)
    return proof


_SCHEMA: Final = canonical.members(
    {
        "first": _part,
        "format": canonical.choice(GROWTH_FORMAT),
        "path": canonical.items(canonical.digest),
        "second": _part,
    }
)


@dataclass(frozen=True, slots=True)
class Grown:
    """What is proven: the first `blocks` of the second are those of the first, all of them."""

    blocks: tuple[int, int]
    final: tuple[bool, bool]
    """Whether each is a whole container, and not the beginning of one."""
    accepted: tuple[Accepted, Accepted]


@dataclass(frozen=True, slots=True)
class Growth:
    """The document: two signed heads, and the path from one tree to the other (RFC 9162, 2.1.4)."""

    first: Proof
    second: Proof
    path: tuple[bytes, ...]

    def pack(self) -> bytes:
        """Canonical JSON."""
        document = {
            "first": json.loads(self.first.pack()),
            "format": GROWTH_FORMAT,
            "path": [node.hex() for node in self.path],
            "second": json.loads(self.second.pack()),
        }
        return canonical.encode(document, "a proof")

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Parse a document; says nothing of its truth. Raises JSONError, CriticalError."""
        if len(data) > JSON_LIMIT:
            raise JSONError("a proof is too long", expected=f"<= {JSON_LIMIT} bytes", found=len(data))
        found = canonical.decode(data, "proof", _SCHEMA)
        return cls(found["first"], found["second"], found["path"])


def verify_growth(proof: Growth | bytes, trust: Trust) -> Grown:
    """Check that a stream only grew. Both heads must be signed as `trust` asks; a pin is of the second.

    Raises SealError where something does not hold, UsageError without keys, and as `unpack` does.
    """
    proof = Growth.unpack(proof) if isinstance(proof, bytes) else proof
    if not trust.keys:
        raise UsageError("that a stream grew is shown by signatures, and there is no key to check them with")
    checked = check_proof(proof.first, replace(trust, head=None)), check_proof(proof.second, trust)
    first, second = checked[0].accepted, checked[1].accepted
    assert first is not None and second is not None
    if (first.key, first.subject, first.revision) != (second.key, second.subject, second.revision):
        raise SealError("the two signatures are for different editions, or by different keys")
    if proof.first.trak != proof.second.trak or proof.first.duration > proof.second.duration:
        raise SealError("the two heads are not of one stream")
    sizes = proof.first.blocks, proof.second.blocks
    check_consistency(sizes[0], proof.first.root, sizes[1], proof.second.root, proof.path)
    return Grown(sizes, (checked[0].final, checked[1].final), (first, second))


def checkpoints(reader: H4MKReader, tree: Node | None = None) -> Iterator[Proof]:
    """The checkpoints of a container, in order, each as the head that was signed. Reads all tokens.

    Raises FormatError and its kin.
    """
    tree = open_tree(reader) if tree is None else tree
    trak, blocks, duration = sha256(reader.trak.pack()), 0, 0
    for chunk in _until_the_end(reader):
        if chunk.tag == "TOKN":
            token = TokenRecord.unpack(reader.read_file(chunk.payload, TOKEN_SIZE))
            duration, blocks = max(duration, token.end), blocks + 1
        elif chunk.tag == "SIGN":
            payload = reader.read_file(chunk.payload, chunk.size)
            if crc32(payload) != chunk.crc:
                raise ChecksumError("chunk SIGN fails its CRC", where=chunk.offset)
            root = node_at(blocks.bit_length(), 0, blocks, tree)
            yield Proof(blocks, duration, trak, _NO_META, (Signature.unpack(payload, CHECKPOINT),), root=root)


def _until_the_end(reader: H4MKReader) -> Iterator[ChunkInfo]:
    """The chunks up to the last whole block of a file, and its checkpoint."""
    blocks = 0
    try:
        for chunk in reader.chunks():
            blocks += chunk.tag in ("CORE", "SAFE")
            if blocks == reader.block_count and chunk.tag not in ("CORE", "SAFE", "SIGN"):
                return
            yield chunk
    except TruncatedError:
        if reader.tail is not None:
            raise


def _final(reader: H4MKReader) -> Proof | None:
    """The head of a signed container."""
    if reader.tail is None or reader.meta is None or not reader.tail.signs:
        return None
    tail = reader.tail
    signatures = tuple(islice(final_signatures(reader.read_file, tail), MOST_SIGNATURES))
    trak, meta = sha256(reader.trak.pack()), sha256(reader.meta.pack())
    return Proof(tail.blocks, tail.duration, trak, meta, signatures, root=tail.root)


def prove_growth(first: H4MKReader, second: H4MKReader) -> Growth:
    """The proof that the second container goes on from the last checkpoint of the first that both have.

    Its other end is the second's final signature, else its last checkpoint. Reads all tokens of both. Raises
    NotFoundError where there are no two such signatures, and as `diff` does.
    """
    trees = open_tree(first), open_tree(second)
    least = min(first.block_count, second.block_count)
    common = next(differences(*trees, first.block_count, second.block_count), least)
    begun = [one for one in checkpoints(first, trees[0]) if one.blocks <= common]
    ended = _final(second) or max(checkpoints(second, trees[1]), key=lambda one: one.blocks, default=None)
    if not begun or ended is None or ended.blocks < begun[-1].blocks:
        raise NotFoundError("there is no checkpoint that the other container goes on from")
    path = consistency_proof(begun[-1].blocks, ended.blocks, trees[1])
    return Growth(begun[-1], ended, tuple(path))
