"""Whole containers: masking, unmasking, and changing who may open one (H4MK 21.6)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import SealError, UsageError
from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.crypto.merkle import MerkleTree, leaf_hash
from harmony4.crypto.token import MASKED, TokenRecord
from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.documents import HistoryEntry, Meta, Trak
from harmony4.h4mk.edits.rewrite import PART, Progress, Target, builder_on, file_order, in_order, lost_tracks
from harmony4.h4mk.masks.masking import Masking, Plain, Rehearsal, shown_history
from harmony4.h4mk.masks.unmasked import Unmasked
from harmony4.h4mk.proofs.signature import SignPayload
from harmony4.h4mk.reader import H4MKReader

__all__ = ["MaskReport", "mask_container", "unmask_container"]

_PLAINTEXT = "plaintext"
"""The history's word for plain copies beside the masked tracks."""


@dataclass(frozen=True, slots=True)
class MaskReport:
    """What came of masking or unmasking."""

    seal: Seal
    signed: bool
    """Whether signatures were dropped: they sign the other bytes."""
    parts: int
    """Ancillary chunks that were dropped, as they hold digests of plain media."""
    exact: bool = False
    """Of unmasking: whether it is bit for bit the container that was masked, as its hidden head proves."""
    whole: bool = False
    """Of unmasking: whether it is proven that no block is missing since it was masked."""


def mask_container(
    reader: H4MKReader,
    out: Target,
    spec: MaskSpec,
    *,
    progress: Progress | None = None,
    signer: SignPayload | None = None,
    sign_every: int = 0,
) -> MaskReport:
    """Write the container with all its tracks masked; the same content, options and first key give the same
    bytes, unless `spec` is random. `signer` and `sign_every` are H4MKBuilder's.

    Raises UsageError for one that is not sealed or is masked already; ChecksumError, SealError and their kin
    for a damaged one; SourceChangedError, StorageError.
    """
    meta = _sealed(reader, "masked")
    if reader.trak.mask is not None:
        raise UsageError("the container is masked already; unmask it, or change its keys with rekey")
    kept = [one for one in reader.ancillary() if one[0] != PART]
    parts = len(meta.ancillary) - len(kept)
    count = len(reader.tracks)
    copies = count if spec.keep_plaintext else 0
    trak = replace(reader.trak, tracks=reader.trak.tracks * (2 if copies else 1))
    gone = lost_tracks(meta.lost)
    with Rehearsal() as rehearsal, ExitStack() as stack:
        plain = _plain_of(reader, trak, None if parts else reader.head, rehearsal)
        masking = Masking.of(spec, plain, tracks=range(count) if copies else None)
        builder = stack.enter_context(
            _builder(out, trak, meta, masking=masking, signer=signer, sign_every=sign_every)
        )
        blocks = _in_order(reader, partial(_stored, reader), range(count), copies)
        _add(builder, blocks, progress, sum(one.bytes for one in reader.tracks) * (2 if copies else 1))
        seal = builder.finish(
            steps=in_order(
                (*meta.steps, *(replace(one, track=one.track + count) for one in meta.steps if copies))
            ),
            history=meta.history,
            ancillary=kept,
            structure_only=meta.structure_only,
            gone=(*gone, *(number + count for number in gone if copies)),
            mask_args={_PLAINTEXT: True} if copies else {},
        )
    return MaskReport(seal, reader.is_signed(), parts)


def unmask_container(
    reader: H4MKReader, out: Target, masters: Iterable[MasterKey], *, progress: Progress | None = None
) -> MaskReport:
    """Write the container as it was before it was masked.

    Where nothing happened to it since, that is bit for bit the same container, and the head that the mask
    hides is compared with what comes out. Raises KeyRefusedError, UsageError, SealError and its kin,
    StorageError.
    """
    meta = _sealed(reader, "unmasked")
    unmasked = Unmasked(reader, masters)
    before, mask, after = shown_history(meta.history, unmasked.key)
    assert reader.head is not None
    undone = HistoryEntry("unmask", {}, ({"head": reader.head.hex()},))
    history = before if not after else (*before, mask, *after, undone)
    known = [bytes.fromhex(one["head"]) for one in mask.inputs]
    kept = range(len(reader.tracks))
    if not after and mask.args.get(_PLAINTEXT):
        kept = range(_beside(reader))
    trak = Trak(
        tuple(replace(reader.trak.tracks[number], masked=False) for number in kept),
        reader.trak.origin,
        reader.trak.block,
        reader.trak.order,
        reader.trak.rule,
    )
    with _builder(out, trak, meta) as builder:
        blocks = _in_order(reader, partial(_opened, unmasked), kept)
        _add(builder, blocks, progress, sum(reader.tracks[number].bytes for number in kept))
        seal = builder.finish(
            steps=[one for one in meta.steps if one.track in kept],
            history=history,
            ancillary=reader.ancillary(),
            structure_only=meta.structure_only,
            gone=[number for number in lost_tracks(meta.lost) if number in kept],
            head=known[0] if known and not after else None,
        )
    return MaskReport(seal, reader.is_signed(), 0, exact=bool(known) and not after, whole=unmasked.whole)


_Placed = tuple[int, TokenRecord, Buffer]
"""A block's leaf number, its plain token and its payload."""


def _beside(reader: H4MKReader) -> int:
    """How many tracks have a plain copy among the tracks behind them. Raises SealError.

    The history is no proof of that: whoever changes it must not make tracks disappear.
    """
    masked = [track.info.masked for track in reader.tracks]
    count = len(masked) // 2
    if masked != [True] * count + [False] * count:
        raise SealError("the history tells of plain copies that are not there", where="META.history")
    return count


def _sealed(reader: H4MKReader, done: str) -> Meta:
    if reader.meta is None:
        raise UsageError(f"only a sealed container can be {done}", found=reader.state)
    return reader.meta


def _builder(out: Target, trak: Trak, meta: Meta, **more: Any) -> H4MKBuilder:
    return builder_on(
        out,
        trak.tracks,
        origin=trak.origin,
        block=trak.block,
        order=trak.order,
        rule=trak.rule,
        title=meta.title,
        gaps=bool(meta.lost),
        **more,
    )


def _plain_of(reader: H4MKReader, trak: Trak, head: bytes | None, rehearsal: Rehearsal) -> Plain:
    """What the masked container will have been, `trak` being its TRAK without the mask.

    Out of the tokens that are there, not of what the file says about them: a root that lies would make the
    key of other content. Raises SealError and its kin where they are not those that were sealed.
    """
    count, copies = len(reader.tracks), len(trak.tracks) - len(reader.tracks)
    tree = MerkleTree()
    for _, token, _ in _in_order(reader, partial(_tokens, reader), range(count), copies):
        leaf = leaf_hash(token.pack())
        tree.append(leaf)
        rehearsal.add(leaf)
    if not copies and tree.root() != reader.root:
        raise SealError("the tokens are not those that were sealed", found=tree.root().hex())
    return rehearsal.plain(sha256(trak.pack()), tree.size, tree.root(), head)


def _tokens(reader: H4MKReader, track: int) -> Iterator[_Placed]:
    rmap = reader.range_map(track)
    for row, token in enumerate(reader.tokens(track)):
        yield rmap[row].leaf, token, b""


def _stored(reader: H4MKReader, track: int) -> Iterator[_Placed]:
    rmap = reader.range_map(track)
    for row, block in enumerate(reader.blocks(track)):
        assert block.token is not None
        yield rmap[row].leaf, block.token, block.payload


def _opened(unmasked: Unmasked, track: int) -> Iterator[_Placed]:
    rmap = unmasked.reader.range_map(track)
    for row, (token, payload) in enumerate(unmasked.blocks(track)):
        if token.flags & MASKED:
            token = replace(token, flags=token.flags & ~MASKED, digest=sha256(payload), tag=bytes(32))
        yield rmap[row].leaf, token, payload


def _in_order(
    reader: H4MKReader, blocks: Callable[[int], Iterator[_Placed]], tracks: Sequence[int], copies: int = 0
) -> Iterator[_Placed]:
    """The blocks of some tracks in the order that TRAK asks for; the first `copies` of them twice, the second
    time as tracks behind the last."""
    streams = [blocks(number) for number in tracks]
    streams += [_renumbered(blocks(number), len(tracks) + number) for number in range(copies)]
    if reader.trak.order == "end":
        return heapq.merge(*streams, key=lambda one: file_order(one[1:]))
    return heapq.merge(*streams, key=lambda one: (one[0], one[1].track))


def _renumbered(blocks: Iterator[_Placed], track: int) -> Iterator[_Placed]:
    for leaf, token, payload in blocks:
        yield leaf, replace(token, track=track), payload


def _add(builder: H4MKBuilder, blocks: Iterator[_Placed], progress: Progress | None, total: int) -> None:
    done = 0
    for _, token, payload in blocks:
        builder.add_token(token, payload)
        done += token.size
        if progress is not None:
            progress(done, total)
