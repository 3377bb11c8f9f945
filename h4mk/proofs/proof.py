"""Proofs: what a block of a container is, shown without the container (H4MK 22).

    answer = verify_seek(proof, 90_000_000, 0, Trust((public_key,), subject="talk", revision=3))

Nothing here reads a container; `prove.py` makes what is checked here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Self

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import JSONError, SealError, UsageError
from harmony4.crypto.merkle import EMPTY_ROOT, inclusion_root, leaf_hash
from harmony4.crypto.token import LAST, MAX_BLOCKS, MAX_VALUE, NONE, TOKEN_SIZE, TokenRecord
from harmony4.h4mk import canonical
from harmony4.h4mk.documents import Meta
from harmony4.h4mk.layout import JSON_LIMIT
from harmony4.h4mk.proofs.signature import CHECKPOINT, FINAL, MOST_SIGNATURES, NO_SUBJECT, Signature
from harmony4.h4mk.proofs.trust import Accepted, Trust

__all__ = [
    "MOST_SIGNATURES",
    "CheckedProof",
    "Proof",
    "SeekAnswer",
    "check_proof",
    "verify_range",
    "verify_seek",
]

_FORMAT: Final = "h4mk proof 1"
_NO_META: Final = bytes(32)
_NO_TAG: Final = bytes(32)
_HINT: Final = 4
"""Bytes of a key's fingerprint that a proof names it by; the verifier has the key, and with it the rest."""


def _hexadecimal(*sizes: int) -> canonical.Check:
    """Lower-case hex of one of these sizes (bytes)."""
    pattern = "|".join(f"[0-9a-f]{{{2 * size}}}" for size in sizes)

    def check(value: Any, path: str) -> bytes:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            wanted = " or ".join(str(2 * size) for size in sizes)
            raise JSONError("must be lower-case hex", where=path, expected=f"{wanted} digits")
        return bytes.fromhex(value)

    return check


def _named(value: Any, path: str) -> bytes:
    """A digest of something: where there is nothing the member is left out, so that a proof has one form."""
    found = canonical.digest(value, path)
    if not any(found):
        raise JSONError("a digest of nothing is left out", where=path)
    return found


_SIGNATURE: Final = canonical.members(
    {"key": _hexadecimal(_HINT), "revision": canonical.integer(), "value": _hexadecimal(64)},
    {"subject": _named},
)
_SCHEMA: Final = canonical.members(
    {
        "blocks": canonical.integer(0, MAX_BLOCKS),
        "duration": canonical.integer(),
        "format": canonical.choice(_FORMAT),
        "signatures": canonical.items(_SIGNATURE),
        "trak": canonical.digest,
    },
    {
        "directory": canonical.text,
        "leaves": canonical.items(canonical.integer(0, MAX_BLOCKS - 1), least=1),
        "meta": _named,
        "path": canonical.items(canonical.digest),
        "root": canonical.digest,
        "tokens": canonical.items(_hexadecimal(TOKEN_SIZE - len(_NO_TAG), TOKEN_SIZE), least=1),
    },
)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof document (H4MK 22.5): blocks, where they are in the tree, and what is signed of it.

    Either `tokens` with `leaves` and `path`; or `directory` with `root`, for tracks that have no block; or
    `root` alone, which says nothing of any block (H4MK 22.7).
    """

    blocks: int
    duration: int
    """µs."""
    trak: bytes
    """SHA-256 of TRAK."""
    meta: bytes
    """SHA-256 of META; zero in a checkpoint."""
    signatures: tuple[Signature, ...] = ()
    """Their `key` is the first 4 bytes of a fingerprint, and they have no certificates."""
    leaves: tuple[int, ...] = ()
    tokens: tuple[TokenRecord, ...] = ()
    path: tuple[bytes, ...] = ()
    directory: bytes | None = None
    """META."""
    root: bytes = EMPTY_ROOT
    """Of the tree; where there are tokens it follows from them, and is not stored."""

    def pack(self) -> bytes:
        """Canonical JSON. Raises LimitError beyond 1 MiB."""
        document: dict[str, object] = {
            "blocks": self.blocks,
            "duration": self.duration,
            "format": _FORMAT,
            "signatures": [_signature_json(one) for one in self.signatures],
            "trak": self.trak.hex(),
        }
        if self.tokens:
            document |= {
                "leaves": list(self.leaves),
                "path": [node.hex() for node in self.path],
                "tokens": [_short(token).hex() for token in self.tokens],
            }
        else:
            document["root"] = self.root.hex()
        if self.directory is not None:
            document["directory"] = self.directory.decode()
        elif self.meta != _NO_META:
            document["meta"] = self.meta.hex()
        return canonical.encode(document, "a proof")

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Parse a document; says nothing of its truth. Raises JSONError, FormatError and its kin."""
        if len(data) > JSON_LIMIT:
            raise JSONError("a proof is too long", expected=f"<= {JSON_LIMIT} bytes", found=len(data))
        found = canonical.decode(data, "proof", _SCHEMA)
        if len(found["signatures"]) > MOST_SIGNATURES:
            raise JSONError("too many signatures", where="proof.signatures", expected=f"<= {MOST_SIGNATURES}")
        parts = {"leaves", "tokens", "path", "root"} & found.keys()
        if parts not in ({"root"}, {"leaves", "tokens", "path"}):
            raise JSONError("a proof has either tokens, leaves and path, or root", where="proof")
        if "directory" in found and (parts != {"root"} or "meta" in found):
            raise JSONError("directory goes with root, and in place of meta", where="proof.directory")
        directory = found["directory"].encode() if "directory" in found else None
        meta = sha256(directory) if directory is not None else found.get("meta", _NO_META)
        kind = CHECKPOINT if meta == _NO_META else FINAL
        if len(found.get("leaves", ())) != len(found.get("tokens", ())):
            raise JSONError("there must be one leaf for each token", where="proof.leaves")
        return cls(
            blocks=found["blocks"],
            duration=found["duration"],
            trak=found["trak"],
            meta=meta,
            signatures=tuple(
                Signature(kind, one["revision"], one.get("subject", NO_SUBJECT), one["key"], one["value"])
                for one in found["signatures"]
            ),
            leaves=found.get("leaves", ()),
            tokens=tuple(_token(one, number) for number, one in enumerate(found.get("tokens", ()))),
            path=found.get("path", ()),
            directory=directory,
            root=found.get("root", EMPTY_ROOT),
        )

    @classmethod
    def of(cls, value: Mapping[str, object]) -> Self:
        """The same from what a JSON parser made of a document, such as a part of an HTTP answer."""
        try:
            return cls.unpack(canonical.encode(value, "a proof"))
        except UsageError as error:
            raise JSONError(error.message, where="proof") from None

    def head(self) -> bytes:
        """HEAD, 128 bytes, of the container that these blocks are in. Raises SealError."""
        root = self.root
        if self.tokens:
            if any(after <= before for before, after in pairwise(self.leaves)):
                raise SealError("the leaves of a proof must increase")
            hashes = {
                leaf: leaf_hash(token.pack()) for leaf, token in zip(self.leaves, self.tokens, strict=True)
            }
            root = inclusion_root(hashes, self.blocks, self.path)
        return struct.pack(
            ">16sQQ32s32s32s", b"H4MK head v1", self.blocks, self.duration, root, self.trak, self.meta
        )

    def raw_size(self) -> int:
        """Bytes of what the document says, without names and hex."""
        tokens = sum(len(_short(token)) for token in self.tokens)
        signatures = sum(
            _HINT + 8 + len(one.value) + 32 * (one.subject != NO_SUBJECT) for one in self.signatures
        )
        rest = 4 + 8 + len(self.trak) + len(self.meta) + len(self.directory or b"")
        return tokens + 4 * len(self.leaves) + 32 * len(self.path) + signatures + rest


def _short(token: TokenRecord) -> bytes:
    packed = token.pack()
    return packed if token.tag != _NO_TAG else packed[: -len(_NO_TAG)]


def _token(data: bytes, number: int) -> TokenRecord:
    if len(data) == TOKEN_SIZE and data.endswith(_NO_TAG):
        raise JSONError("a tag of zeros is left out", where=f"proof.tokens[{number}]")
    return TokenRecord.unpack(data.ljust(TOKEN_SIZE, b"\0"))


def _signature_json(one: Signature) -> dict[str, object]:
    subject = {} if one.subject == NO_SUBJECT else {"subject": one.subject.hex()}
    return {"key": one.key[:_HINT].hex(), "revision": one.revision, "value": one.value.hex()} | subject


@dataclass(frozen=True, slots=True)
class SeekAnswer:
    """What is proven of a time in a track."""

    pts: int
    """The time that was asked for, µs."""
    place: str
    """`inside` a block; `before` the first one; `after` the track's end; `empty`: the track has no block."""
    token: TokenRecord | None
    """The block that holds the time; the first one, or the last one; None in an empty track."""
    final: bool = True
    """Whether a whole container is proven; else its beginning, by a checkpoint."""

    @property
    def keyframe(self) -> tuple[int, int] | None:
        """PTS (µs) and logical offset of the keyframe at or before the time; None where there is none."""
        if self.token is None or self.place == "before" or self.token.key_pts == NONE:
            return None
        return self.token.key_pts, self.token.key_offset


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """A proof that was checked: its blocks are in a container that is trusted."""

    proof: Proof
    head: bytes
    """SHA-256 of HEAD: the container's identity, or the checkpoint's."""
    accepted: Accepted | None
    """The signature that was believed; None where only a head was asked for."""

    @property
    def final(self) -> bool:
        """Whether it is about a whole container, and not about its beginning (a checkpoint)."""
        return self.proof.meta != _NO_META

    def seek(self, pts: int, track: int = 0) -> SeekAnswer:
        """What is proven of a time. Raises SealError where nothing is, UsageError for a negative time."""
        if not 0 <= pts <= MAX_VALUE:
            raise UsageError("a time is out of range", expected=f"0 to {MAX_VALUE}", found=pts)
        if self.proof.directory is not None:
            self._check_empty(track)
            return SeekAnswer(pts, "empty", None, self.final)
        found = [
            SeekAnswer(pts, place, token, self.final)
            for token in self.tokens(track)
            for place in ("before", "inside", "after")
            if _answers(token, pts, place)
        ]
        if len(found) != 1:
            said = "the proof contradicts itself" if found else "the proof does not answer that time"
            raise SealError(said, where=f"track {track}", found=pts)
        return found[0]

    def range(self, start: int, stop: int, track: int = 0) -> tuple[TokenRecord, ...]:
        """The blocks that bytes `start` … `stop` (exclusive) of a track's stream are in, in order.

        All of them, up to the end of the stream: fewer bytes are proven only where the last one is LAST.
        Raises SealError where the proof lacks one, UsageError for numbers that are no range.
        """
        if not 0 <= start < stop:
            raise UsageError("that is no range of bytes", found=(start, stop))
        if self.proof.directory is not None:
            self._check_empty(track)
            return ()
        tokens, at = self.tokens(track), start
        if tokens and tokens[-1].flags & LAST and tokens[-1].offset + tokens[-1].size <= start:
            return ()
        found = []
        for token in tokens:
            end = token.offset + token.size
            if end <= at or at >= stop:
                continue
            if token.offset > at:
                break
            found.append(token)
            at = end
        if at < stop and not (found and found[-1].flags & LAST):
            raise SealError("the proof lacks a block of that range", where=f"track {track}", found=at)
        return tuple(found)

    def tokens(self, track: int) -> list[TokenRecord]:
        """The proven blocks of a track. Raises SealError where they cannot follow each other."""
        found = [token for token in self.proof.tokens if token.track == track]
        for one, after in pairwise(found):
            gap = after.index - one.index - 1
            apart = after.offset - one.offset - one.size
            if (
                gap < 0
                or apart < gap
                or (not gap and apart)
                or after.pts < one.end
                or (not gap and after.pts > one.end)
            ):
                raise SealError("the blocks of a proof do not follow each other", where=f"track {track}")
        return found

    def _check_empty(self, track: int) -> None:
        meta = Meta.unpack(self.proof.directory or b"")
        lost = any(one.track == track for one in meta.lost)
        if not 0 <= track < len(meta.tracks) or meta.tracks[track].blocks or lost:
            raise SealError("the proof does not say that this track is empty", where=f"track {track}")


def _answers(token: TokenRecord, pts: int, place: str) -> bool:
    if place == "before":
        return token.index == 0 and pts < token.pts
    if place == "inside":
        return token.pts <= pts < token.end
    return bool(token.flags & LAST) and token.end <= pts


def check_proof(proof: Proof | Buffer, trust: Trust) -> CheckedProof:
    """Check everything in a proof but what it answers. Needs no container, no clock and no network.

    Raises SealError where something does not hold; JSONError, FormatError and its kin for a document that is
    none.
    """
    proof = proof if isinstance(proof, Proof) else Proof.unpack(bytes(memoryview(proof)))
    head = proof.head()
    candidates = [replace(one, key=name) for one in proof.signatures for name in trust.named(one.key[:_HINT])]
    if proof.signatures and not candidates and trust.keys:
        trust.check_head(head)
        names = ", ".join(one.key.hex() for one in proof.signatures)
        raise SealError("no signature of the proof is by a key that is trusted", found=names)
    return CheckedProof(proof, sha256(head), trust.check(head, candidates))


def verify_seek(proof: Proof | Buffer, pts: int, track: int, trust: Trust) -> SeekAnswer:
    """What answers a time (µs) in a track, proven (H4MK 22.2). Raises as `check_proof` and `seek` do."""
    return check_proof(proof, trust).seek(pts, track)


def verify_range(
    proof: Proof | Buffer, start: int, stop: int, track: int, trust: Trust
) -> tuple[TokenRecord, ...]:
    """The blocks that a byte range of a track's stream is in, proven (H4MK 22.3).

    Their `digest`, `offset` and `size` say what the bytes are. Raises as `check_proof` and `range` do.
    """
    return check_proof(proof, trust).range(start, stop, track)
