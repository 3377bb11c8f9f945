"""How a container comes to be masked: its key, what it was before, and the heads its history does not show.

H4MK 21. `H4MKBuilder` takes a `Masking` and masks block by block; readers are in `unmasked.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import SealError, SourceChangedError, UsageError
from harmony4.crypto.mac import equal
from harmony4.crypto.mask import SALT_SIZE, FileKey, MaskSpec, MasterKey, xor_mask
from harmony4.crypto.merkle import MerkleTree, leaf_hash
from harmony4.crypto.token import MASKED, TokenRecord
from harmony4.h4mk.documents import HistoryEntry, TrackInfo, Trak
from harmony4.h4mk.masks.keyslots import pack_keys
from harmony4.h4mk.tables import Spill

__all__ = ["KeptMask", "Masker", "Masking", "Plain", "Rehearsal", "is_whole", "shown_history"]

_LEAF: Final = 32
_IN_MEMORY: Final = 2**20
"""Bytes of leaves that stay in memory."""
_HIDDEN: Final = "00" * 32
"""What stands in a masked container's history where a head would tell what the media are."""


@dataclass(frozen=True, slots=True)
class Plain:
    """What a container is, or would be, with nothing masked."""

    trak: bytes
    """SHA-256 of its TRAK payload."""
    blocks: int
    root: bytes
    """Of the tree over the plain tokens."""
    head: bytes | None = None
    """Its identity, where that is known."""
    leaves: Spill | None = field(default=None, repr=False, compare=False)
    """The leaves of that tree in file order, 32 bytes each: what the blocks are held to, one by one."""

    def digest(self) -> bytes:
        """D, which the file key follows from in the deterministic mode (H4MK 21.3), 32 bytes."""
        return sha256(b"h4mk/1 plain\0" + self.trak + self.blocks.to_bytes(8) + self.root)


class Rehearsal:
    """A first reading: `H4MKBuilder(…, masking=rehearsal)` masks nothing, and the leaves are kept.

    A context manager; what `plain` gave is of no use once it is left.
    """

    def __init__(self, folder: str | None = None) -> None:
        """`folder`: where many leaves go, default the system's temporary one."""
        self._leaves = Spill(_IN_MEMORY, folder)

    def add(self, leaf: bytes) -> None:
        """Keep a leaf. Raises StorageError."""
        self._leaves.append(leaf)

    def plain(self, trak: bytes, blocks: int, root: bytes, head: bytes | None) -> Plain:
        """What was read, as Plain has it."""
        return Plain(trak, blocks, root, head, self._leaves)

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaves.close()


@dataclass(frozen=True, slots=True)
class KeptMask:
    """A mask that blocks have already: they are written as they are."""

    mask: Mapping[str, str]
    """TRAK's `mask`."""
    keys: bytes
    """The payload of KEYS."""


@dataclass(frozen=True, slots=True)
class Masking:
    """A mask for one new container; never use one twice."""

    key: FileKey = field(repr=False)
    mode: str
    keys: bytes = field(repr=False)
    """The payload of KEYS."""
    plain: Plain | None
    """What the container must turn out to be without the mask; None where nobody knows yet."""
    tracks: frozenset[int] | None = None
    """Which tracks are masked; None: all."""

    @classmethod
    def of(cls, spec: MaskSpec, plain: Plain | None, *, tracks: Iterable[int] | None = None) -> Masking:
        """The mask that `spec` asks for. Raises UsageError where the deterministic mode has no `plain` with
        leaves: without them a source that changes would have its new blocks masked under the old key."""
        first: MasterKey = spec.keys[0]
        if spec.mode == "random":
            key = first.file_key(secrets.token_bytes(SALT_SIZE))
        else:
            if plain is None or plain.leaves is None:
                raise UsageError("the deterministic mode needs a first reading")
            key = first.file_key(first.salt(plain.digest()))
        chosen = None if tracks is None else frozenset(tracks)
        return cls(key, spec.mode, pack_keys(key, spec.keys), plain, chosen)

    @property
    def mask(self) -> dict[str, str]:
        """TRAK's `mask`."""
        return {"commit": self.key.commit.hex(), "mode": self.mode}

    def masks(self, track: int) -> bool:
        """Whether a track is masked."""
        return self.tracks is None or track in self.tracks

    def infos(self, tracks: Sequence[TrackInfo]) -> tuple[TrackInfo, ...]:
        """The tracks as TRAK describes them then."""
        return tuple(replace(one, masked=self.masks(number)) for number, one in enumerate(tracks))


class Masker:
    """Masks one container's blocks, in the order of the file."""

    def __init__(self, masking: Masking, plain: Trak, trak: bytes) -> None:
        """`plain` and `trak`: TRAK without the mask, and the payload of TRAK with it."""
        self._masking = masking
        self._plain_trak = sha256(plain.pack())
        self._trak = sha256(trak)
        self._tree = MerkleTree()
        leaves = masking.plain.leaves if masking.plain is not None else None
        self._known = None if leaves is None else _each(leaves)

    def block(self, token: TokenRecord, payload: Buffer) -> tuple[TokenRecord, Buffer]:
        """A block as it is stored; one of a track that is not masked stays as it is.

        Raises SourceChangedError for another one than the key was made for: under one key two contents of a
        block would give each other away, also in a file that is never finished.
        """
        masking = self._masking
        if masking.plain is not None:
            leaf = leaf_hash(token.pack())
            if self._known is not None and next(self._known, b"") != leaf:
                raise _changed(f"track {token.track} block {token.index}")
            self._tree.append(leaf)
        if not masking.masks(token.track):
            return token, payload
        stored = xor_mask(payload, masking.key.block_key(token.track, token.index))
        token = replace(token, flags=token.flags | MASKED, digest=sha256(stored))
        # The buffer is nobody else's: it may go to the digest threads as it is.
        return replace(token, tag=masking.key.tag(self._trak, token.pack())), stored

    def finish(
        self,
        history: Iterable[HistoryEntry],
        args: Mapping[str, str | int | bool],
        blocks: int,
        root: bytes,
    ) -> tuple[HistoryEntry, ...]:
        """The history of the masked container, `args` in its entry for the mask.

        `blocks` and `root`: how many there are in it, and the root over their tokens as they are stored.

        Raises SourceChangedError unless the blocks were those that the key was made for.
        """
        plain = self._masking.plain
        if plain is not None:
            found = (self._plain_trak, self._tree.size, self._tree.root())
            if found != (plain.trak, plain.blocks, plain.root):
                raise _changed(f"{self._tree.size} blocks")
        whole = self._masking.key.whole(self._trak, blocks, root).hex()
        return _hidden_history(history, self._masking, {**args, "whole": whole})


def _changed(where: str) -> SourceChangedError:
    return SourceChangedError("the source gave other blocks the second time", where=where)


def _each(leaves: Spill) -> Iterator[bytes]:
    for piece in leaves.pieces():
        for at in range(0, len(piece), _LEAF):
            yield piece[at : at + _LEAF]


def _hidden_history(
    history: Iterable[HistoryEntry], masking: Masking, args: Mapping[str, str | int | bool]
) -> tuple[HistoryEntry, ...]:
    """The history of a masked container: one more entry, and no head that tells what the media are.

    Heads are digests of plain media: whoever can guess these could make sure. They stay, wrapped, for
    whoever has the key (H4MK 21.6).
    """
    head = masking.plain.head if masking.plain is not None else None
    entries = [*history, HistoryEntry("mask", {}, () if head is None else ({"head": head.hex()},))]
    heads = [bytes.fromhex(one["head"]) for entry in entries for one in entry.inputs]
    hidden = [
        replace(entry, inputs=tuple({**one, "head": _HIDDEN} for one in entry.inputs)) for entry in entries
    ]
    wrapped = {"heads": masking.key.wrap_heads(heads).hex()} if heads else {}
    return (*hidden[:-1], replace(hidden[-1], args={**args, **wrapped}))


def shown_history(
    history: Sequence[HistoryEntry], key: FileKey
) -> tuple[tuple[HistoryEntry, ...], HistoryEntry, tuple[HistoryEntry, ...]]:
    """A masked container's history with its heads: what was before the mask, the mask, and what came after.

    Raises SealError where it does not say that it was masked or hides another number of heads,
    KeyRefusedError where `key` does not open them.
    """
    places = [number for number, entry in enumerate(history) if entry.op == "mask"]
    if not places:
        raise SealError("a masked container whose history does not say so", where="META.history")
    at = places[-1]
    entries, mask = history[: at + 1], history[at]
    wrapped = mask.args.get("heads")
    heads = key.unwrap_heads(_bytes(wrapped)) if wrapped is not None else []
    if len(heads) != sum(len(entry.inputs) for entry in entries):
        raise SealError("the history hides another number of heads", where="META.history", found=len(heads))
    left = iter(heads)
    shown = [
        replace(entry, inputs=tuple({**one, "head": next(left).hex()} for one in entry.inputs))
        for entry in entries
    ]
    return tuple(shown[:-1]), shown[-1], tuple(history[at + 1 :])


def is_whole(history: Sequence[HistoryEntry], key: FileKey, trak: bytes, blocks: int, root: bytes) -> bool:
    """Whether a masked container has the blocks that were masked, all of them, as its history proves.

    False where something happened to it since, so that nothing does. `trak` is the SHA-256 of TRAK. Raises
    SealError where blocks are missing.
    """
    if not history or history[-1].op != "mask":
        return False
    if not equal(key.whole(trak, blocks, root), _bytes(history[-1].args.get("whole", ""))):
        raise SealError("the container does not have the blocks that were masked", where="META.history")
    return True


def _bytes(value: object) -> bytes:
    try:
        return bytes.fromhex(str(value))
    except ValueError:
        raise SealError("the arguments of the mask are no hexadecimal digits", where="META.history") from None
