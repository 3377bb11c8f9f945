"""Bundles: the tracks of several sources in one container, and the sources out of it again (H4MK 17.4).

    bundle([ContainerInput(one), ContainerInput(other)], "both.h4mk")
    for part in parts(reader):
        split(reader, part, f"{part.number}.h4mk")

Memory holds one block per track. A container among the sources leaves a `part` chunk behind, from which
`split` makes it again, bit for bit; of anything else the track's stream is what went in.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final, Protocol

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import FormatError, SealError, TruncatedError, UsageError
from harmony4.crypto.merkle import MerkleTree, leaf_hash
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.documents import HistoryEntry, Lost, Meta, Step, TrackInfo, Trak
from harmony4.h4mk.edits.rewrite import (
    PART,
    Block,
    Progress,
    builder_on,
    file_order,
    lost_tracks,
    rewritable,
    stored_blocks,
)
from harmony4.h4mk.edits.target import Writable
from harmony4.h4mk.masks.masking import Masking, Rehearsal
from harmony4.h4mk.proofs.signature import SignPayload
from harmony4.h4mk.reader import H4MKReader

__all__ = ["PART", "ContainerInput", "Input", "Part", "bundle", "parts", "split"]

_Stored = tuple[TokenRecord, Buffer, int | None, bytes]
"""A block, the CRC-32 of its payload where that is known, and its leaf in the tree that it comes from."""


class Input(Protocol):
    """What goes into a bundle: tracks with complete tokens, numbered from 0."""

    tracks: Sequence[TrackInfo]
    origin: int
    """µs that were subtracted from every source time (H4MK 15.1)."""
    block: int
    """Greatest payload, bytes."""

    @property
    def structure_only(self) -> bool:
        """False where a track of tokens holds more than structure, or may (H4MK 10.1)."""

    def blocks(self, track: int) -> Iterator[Block]:
        """The blocks of a track in order of index."""

    def steps(self) -> Iterable[Step]:
        """Clock jumps taken out; asked for when all blocks have been read."""

    def lost(self) -> Iterable[Lost]:
        """Holes."""

    def history(self) -> Iterable[HistoryEntry]:
        """What led to it; asked for when all blocks have been read."""

    def part(self) -> Part | None:
        """What `split` needs besides the blocks; None where the stream is all there was."""


@dataclass(frozen=True, slots=True)
class Part:
    """A container inside a bundle: which tracks are its, and everything of it that its blocks do not say."""

    head: bytes
    """Its identity (H4MK 12.2), 32 bytes."""
    veri: bytes
    """The payload of its VERI, 32 bytes: what comes out again is compared with it."""
    trak: bytes
    meta: bytes
    """The payloads of its TRAK and META."""
    ancillary: tuple[tuple[str, bytes], ...] = ()
    """Its ancillary chunks, in file order."""
    number: int = 0
    """Which of the sources it was, from 0."""
    first: int = 0
    """Its first track in the bundle."""

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """Its tracks. Raises JSONError, CriticalError."""
        return Trak.unpack(self.trak).tracks

    def pack(self) -> bytes:
        """The payload of its `part` chunk."""
        sizes = (len(self.trak), len(self.meta), len(self.ancillary))
        pieces = [_PART.pack(self.number, self.first, 0, self.head, self.veri, *sizes), self.trak, self.meta]
        for tag, payload in self.ancillary:
            pieces += [_CHUNK.pack(tag.encode("ascii"), len(payload)), payload]
        return b"".join(pieces)

    @classmethod
    def unpack(cls, data: bytes) -> Part:
        """Parse a `part` chunk's payload. Raises FormatError and its kin."""
        rest = _Rest(data)
        number, first, zero, head, veri, *sizes = _PART.unpack(rest.take(_PART.size))
        trak_size, meta_size, count = sizes
        if zero:
            raise FormatError("reserved bytes of a part are not zero")
        trak, meta = rest.take(trak_size), rest.take(meta_size)
        ancillary = []
        for _ in range(count):
            tag, size = _CHUNK.unpack(rest.take(_CHUNK.size))
            ancillary.append((tag.decode("latin-1"), rest.take(size)))
        if rest.left:
            raise FormatError("a part is followed by something else", found=rest.left)
        return cls(head, veri, trak, meta, tuple(ancillary), number, first)


_PART: Final = struct.Struct(">HHI32s32sIII")
_CHUNK: Final = struct.Struct(">4sI")


class _Rest:
    """What is left of bytes that are taken apart."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises TruncatedError."""
        if size > len(self._data):
            raise TruncatedError("a part ends inside something that began", expected=size, found=self.left)
        taken, self._data = bytes(self._data[:size]), self._data[size:]
        return taken


class ContainerInput:
    """A container that goes into a bundle; the reader stays the caller's."""

    def __init__(self, reader: H4MKReader) -> None:
        """Raises UsageError for what cannot go into a bundle."""
        meta = rewritable(reader, "bundled")
        if reader.trak.order != "end" and len(reader.tracks) > 1:
            raise UsageError("the tracks of a container in order of arrival cannot be bundled")
        self._reader = reader
        self._meta = meta
        self.tracks: Sequence[TrackInfo] = reader.trak.tracks
        self.structure_only = meta.structure_only
        self.origin = reader.trak.origin
        self.block = reader.trak.block

    def blocks(self, track: int) -> Iterator[Block]:
        """As Input. Raises ChecksumError, SealError and their kin at a damaged block."""
        return stored_blocks(self._reader, track)

    def stored(self, track: int) -> Iterator[_Stored]:
        """The same, checked against their CRC alone: what `streams` says is for the rest."""
        for block in self._reader.blocks(track, digests=False):
            assert block.token is not None
            yield block.token, block.payload, block.crc, leaf_hash(block.token.pack())

    def streams(self, tree: MerkleTree) -> list[bytes]:
        """The SHA-256 that each track's stream must have.

        Raises SealError unless `tree`, of the leaves of all blocks in the order of the file, is the sealed
        one.
        """
        if tree.root() != self._reader.root:
            raise SealError("the tokens are not those that were sealed")
        return [track.sha256 for track in self._meta.tracks]

    def steps(self) -> Iterable[Step]:
        """As Input."""
        return self._meta.steps

    def lost(self) -> Iterable[Lost]:
        """As Input."""
        return self._meta.lost

    def history(self) -> Iterable[HistoryEntry]:
        """As Input."""
        return self._meta.history

    def part(self) -> Part:
        """As Input."""
        head = self._reader.head
        assert head is not None
        ancillary = tuple(self._reader.ancillary())
        return Part(head, self._reader.veri(), self._reader.trak.pack(), self._meta.pack(), ancillary)


def bundle(
    inputs: Sequence[Input],
    out: str | PathLike[str] | Writable,
    *,
    title: str | None = None,
    masking: Masking | Rehearsal | None = None,
    progress: Progress | None = None,
    signer: SignPayload | None = None,
    sign_every: int = 0,
) -> Seal:
    """Write one container with all tracks of the inputs, in their order; each keeps its own beginning at 0.

    `masking`: for inputs that are no containers, whose parts would tell what is masked. `signer` and
    `sign_every` are H4MKBuilder's. A path appears complete or not at all. Raises UsageError, and what reading
    and H4MKBuilder raise.
    """
    if not inputs:
        raise UsageError("a bundle needs at least one source")
    # The latest one, so that every other source has µs added, which a step can say (H4MK 17.4).
    origin = max(one.origin for one in inputs)
    firsts = []
    tracks: list[TrackInfo] = []
    for one in inputs:
        firsts.append(len(tracks))
        tracks += one.tracks
    block = max(one.block for one in inputs)
    lost = [
        replace(hole, track=first + hole.track)
        for first, one in zip(firsts, inputs, strict=True)
        for hole in one.lost()
    ]
    options: dict[str, Any] = {"origin": origin, "block": block, "title": title, "masking": masking}
    options |= {"signer": signer, "sign_every": sign_every}
    with builder_on(out, tracks, gaps=bool(lost), **options) as builder:
        streams = [
            _renumbered(_stored(one, number), first + number)
            for first, one in zip(firsts, inputs, strict=True)
            for number in range(len(one.tracks))
        ]
        trees = [MerkleTree() for _ in inputs]
        _add(
            builder,
            streams,
            progress,
            [tree for tree, one in zip(trees, inputs, strict=True) for _ in one.tracks],
        )
        steps: list[Step] = []
        found = []
        digests: dict[int, bytes] = {}
        for number, (first, one) in enumerate(zip(firsts, inputs, strict=True)):
            if isinstance(one, ContainerInput):
                digests |= dict(enumerate(one.streams(trees[number]), first))
            shift = origin - one.origin
            steps += [Step(0, shift, first + track) for track in range(len(one.tracks)) if shift]
            steps += [replace(step, track=first + step.track) for step in one.steps()]
            part = one.part()
            if part is not None:
                found.append(replace(part, number=number, first=first))
        return builder.finish(
            steps=sorted(steps, key=lambda step: (step.pts, step.track)),
            history=[*inputs[0].history(), _entry(found)],
            ancillary=[(PART, part.pack()) for part in found],
            structure_only=all(one.structure_only for one in inputs),
            gone=lost_tracks(lost),
            streams=digests,
        )


def _stored(one: Input, track: int) -> Iterator[_Stored]:
    if isinstance(one, ContainerInput):
        yield from one.stored(track)
    else:
        for token, payload in one.blocks(track):
            yield token, payload, None, b""


def _entry(found: Iterable[Part]) -> HistoryEntry:
    return HistoryEntry("bundle", {}, tuple({"head": part.head.hex()} for part in found))


def parts(reader: H4MKReader) -> tuple[Part, ...]:
    """The containers inside a bundle, in their order. Raises FormatError and its kin where they overlap."""
    found = sorted(
        (Part.unpack(payload) for tag, payload in reader.ancillary() if tag == PART),
        key=lambda part: part.number,
    )
    track = number = 0
    for part in found:
        if part.number < number or part.first < track:
            raise FormatError("the parts of a bundle overlap", found=part.number)
        number, track = part.number + 1, part.first + len(part.tracks)
    if track > len(reader.tracks):
        raise FormatError("a part has tracks that the bundle lacks", expected=len(reader.tracks), found=track)
    return tuple(found)


def split(
    reader: H4MKReader,
    part: Part,
    out: str | PathLike[str] | Writable,
    *,
    progress: Progress | None = None,
) -> Seal:
    """Write the container that a part was, bit for bit.

    Raises SealError where something else would come out; a path is left as it was then.
    """
    trak, meta = Trak.unpack(part.trak), Meta.unpack(part.meta)
    if len(meta.tracks) != len(trak.tracks):
        raise FormatError("META and TRAK of a part differ", expected=len(trak.tracks), found=len(meta.tracks))
    options: dict[str, Any] = {"origin": trak.origin, "block": trak.block, "order": trak.order}
    # Its own digests are believed while it is written: VERI says in the end whether all of it is right.
    options |= {"rule": trak.rule, "streams": [track.sha256 for track in meta.tracks]}
    with builder_on(out, trak.tracks, title=meta.title, gaps=bool(meta.lost), **options) as builder:
        whole = ContainerInput(reader)
        streams = [
            _renumbered(whole.stored(part.first + number), number) for number in range(len(trak.tracks))
        ]
        _add(builder, streams, progress)
        return builder.finish(
            steps=meta.steps,
            history=meta.history,
            ancillary=part.ancillary,
            structure_only=meta.structure_only,
            gone=lost_tracks(meta.lost),
            head=part.head,
            veri=part.veri,
        )


def _add(
    builder: H4MKBuilder,
    streams: Iterable[Iterator[_Stored]],
    progress: Progress | None,
    trees: Sequence[MerkleTree] = (),
) -> None:
    """All blocks in the order of a file; `trees`, one for each track, get their leaves."""
    done = 0
    for token, payload, crc, leaf in heapq.merge(*streams, key=file_order):
        builder.add_token(token, payload, crc)
        if trees:
            trees[token.track].append(leaf)
        done += token.size
        if progress is not None:
            progress(done, None)


def _renumbered(blocks: Iterator[_Stored], track: int) -> Iterator[_Stored]:
    for token, payload, crc, leaf in blocks:
        yield token if token.track == track else replace(token, track=track), payload, crc, leaf
