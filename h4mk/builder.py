"""H4MKBuilder: blocks in, a sealed container out, written as it goes (H4MK 17.2).

Nothing is ever sought or rewritten, so the target may be a pipe. Memory holds one block per track, a few
buffers on their way through the digests, and 1 MiB of each table.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from types import TracebackType

from harmony4.crypto.digest import Buffer, DigestLane, crc32, sha256
from harmony4.crypto.errors import LimitError, SealError, UsageError
from harmony4.crypto.merkle import leaf_hash
from harmony4.crypto.token import DEFAULT_BLOCK, MASKED, MAX_BLOCK, TokenRecord, TokenSequencer
from harmony4.h4mk import sequence
from harmony4.h4mk.documents import (
    AncillaryInfo,
    HistoryEntry,
    Lost,
    Meta,
    Step,
    StoredTrack,
    TrackInfo,
    Trak,
    steps_fit,
)
from harmony4.h4mk.edits.target import AtomicFile, Writable, write_all
from harmony4.h4mk.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    HEADER_V1,
    TAIL_CHUNK,
    Tail,
    chunk_header,
    head_bytes,
)
from harmony4.h4mk.masks.masking import KeptMask, Masker, Masking, Rehearsal
from harmony4.h4mk.proofs.signature import CHECKPOINT, FINAL, SignPayload
from harmony4.h4mk.tables import Tables

__all__ = ["H4MKBuilder", "Seal"]


@dataclass(frozen=True, slots=True)
class Seal:
    """What a finished container is known by."""

    head: bytes
    root: bytes
    blocks: int
    duration: int
    """µs."""
    length: int
    """File length, bytes."""
    lost: tuple[Lost, ...] = ()
    trak: bytes = b""
    """SHA-256 of TRAK, which `head` is made of."""


class H4MKBuilder:
    """Writes one container, for one thread. A context manager: leaving it without `finish` aborts."""

    def __init__(
        self,
        out: Writable,
        tracks: Sequence[TrackInfo],
        *,
        origin: int = 0,
        block: int = DEFAULT_BLOCK,
        order: str = "end",
        rule: int = 1,
        title: str | None = None,
        gaps: bool = False,
        spill: str | None = None,
        streams: Sequence[bytes] | None = None,
        masking: Masking | KeptMask | Rehearsal | None = None,
        signer: SignPayload | None = None,
        sign_every: int = 0,
    ) -> None:
        """Begin a container on `out` (anything with `write`).

        `block`: greatest payload, 1 byte to 16 MiB. `gaps`: tokens may skip indices (recovered files); the
        holes go into META.lost. `spill`: folder for large tables, default the system's. `streams`: the
        SHA-256 of each track's stream, which is not computed then: for those who check the whole (`finish`).
        `masking`: blocks come plain and are masked here, or they are masked already (KeptMask), or they are
        looked at before they are masked (Rehearsal).
        `signer`: makes the final signature, and a checkpoint after every `sign_every` blocks (0: none).
        Raises UsageError, LimitError, JSONError or CriticalError for impossible facts, StorageError.
        """
        if not 1 <= block <= MAX_BLOCK:
            raise LimitError("block size out of range", expected=f"1 to {MAX_BLOCK} bytes", found=block)
        if not tracks:
            raise UsageError("a container needs at least one track")
        if not isinstance(masking, KeptMask) and any(track.masked for track in tracks):
            raise UsageError("masked tracks need their mask")
        if streams is not None and len(streams) != len(tracks):
            raise UsageError("a digest for each track", expected=len(tracks), found=len(streams))
        if sign_every < 0 or (sign_every and signer is None):
            raise UsageError("checkpoints need a signer, and a number of blocks from one to the next")
        self._signer, self._sign_every = signer, sign_every
        self._out = out
        self._file: AtomicFile | None = None
        plain = Trak(tuple(tracks), origin, block, order, rule)
        self._rehearsal = masking if isinstance(masking, Rehearsal) else None
        keys = None if masking is None or isinstance(masking, Rehearsal) else masking.keys
        self._trak = plain
        if masking is not None and not isinstance(masking, Rehearsal):
            self._trak = replace(plain, mask=masking.mask)
        if isinstance(masking, Masking):
            self._trak = replace(self._trak, tracks=masking.infos(tracks))
        self._title = title
        # An impossible title is refused now and not after hours.
        Meta(0, 0, (StoredTrack(0, 0, 0, 0, 0, bytes(32)),), title=title).pack()
        self._trak_bytes = self._trak.pack()
        self._masker = Masker(masking, plain, self._trak_bytes) if isinstance(masking, Masking) else None
        self._sequence = sequence.Sequence(self._trak, gaps=gaps)
        self._sequencers = [TokenSequencer(number) for number in range(len(tracks))]
        self._held: list[Buffer] = [b""] * len(tracks)
        self._tables = Tables(len(tracks), folder=spill)
        self._known = streams
        self._streams = [hashlib.sha256() for _ in tracks]
        self._veri = hashlib.sha256()
        self._length = 0
        # Two lanes: the digest of the whole file and those of the streams cost the same, and hashlib
        # releases the GIL, so they use the core that this thread leaves free.
        self._veri_lane = DigestLane()
        self._stream_lane = DigestLane()
        self._done = False
        try:
            write_all(out, HEADER_V1)
            self._length = HEADER_SIZE
            self._chunk(b"TRAK", self._trak_bytes)
            if keys is not None:
                self._chunk(b"KEYS", keys)
        except BaseException:
            self.abort()
            raise

    @classmethod
    def to_path(
        cls,
        path: str | PathLike[str],
        tracks: Sequence[TrackInfo],
        *,
        origin: int = 0,
        block: int = DEFAULT_BLOCK,
        order: str = "end",
        rule: int = 1,
        title: str | None = None,
        gaps: bool = False,
        streams: Sequence[bytes] | None = None,
        ahead: bool = False,
        masking: Masking | KeptMask | Rehearsal | None = None,
        signer: SignPayload | None = None,
        sign_every: int = 0,
    ) -> H4MKBuilder:
        """A builder for a file that appears under `path` complete or not at all; `ahead`: see AtomicFile."""
        file = AtomicFile(path, ahead=ahead)
        try:
            builder = cls(
                file,
                tracks,
                origin=origin,
                block=block,
                order=order,
                rule=rule,
                title=title,
                gaps=gaps,
                spill=str(file.path.parent),
                streams=streams,
                masking=masking,
                signer=signer,
                sign_every=sign_every,
            )
        except BaseException:
            file.abort()
            raise
        builder._file = file
        return builder

    @classmethod
    def in_memory(
        cls,
        tracks: Sequence[TrackInfo],
        *,
        origin: int = 0,
        block: int = DEFAULT_BLOCK,
        order: str = "end",
        title: str | None = None,
        masking: Masking | KeptMask | Rehearsal | None = None,
        signer: SignPayload | None = None,
        sign_every: int = 0,
    ) -> H4MKBuilder:
        """A builder whose bytes come from `getvalue()` after `finish`."""
        return cls(
            io.BytesIO(),
            tracks,
            origin=origin,
            block=block,
            order=order,
            title=title,
            masking=masking,
            signer=signer,
            sign_every=sign_every,
        )

    def getvalue(self) -> bytes:
        """The finished container of an in-memory builder. Raises UsageError otherwise."""
        if not isinstance(self._out, io.BytesIO) or not self._done:
            raise UsageError("only a finished in-memory builder has a value")
        return self._out.getvalue()

    def add_block(
        self,
        payload: Buffer,
        pts: int,
        *,
        track: int = 0,
        key: bool = False,
        header: bool = False,
        min_pts: int | None = None,
    ) -> None:
        """Add the next block of a track: 1 byte to `block` bytes that begin at `pts` µs.

        The block before it is written now, when its `end` is known; with the order "end" and several tracks
        the calls must therefore come in the order of `pts`. Raises OrderError, FormatError, LimitError,
        UsageError, StorageError.
        """
        self._check_track(track)
        payload = _fixed(payload)
        if len(payload) > self._trak.block:
            raise LimitError("a block exceeds cut.block", expected=self._trak.block, found=len(payload))
        token = self._sequencers[track].push(
            len(payload), sha256(payload), pts, key=key, header=header, min_pts=min_pts
        )
        before, self._held[track] = self._held[track], payload
        if token is not None:
            self._write(token, before)

    def end_track(self, track: int, end: int | None = None) -> None:
        """Say that a track given by `add_block` has no more blocks and ends at `end` µs.

        Its last block is written now: a track that ends before the others must not wait for `finish`.
        Raises as `add_block` does.
        """
        self._check_track(track)
        token = self._sequencers[track].finish(end)
        if token is not None:
            self._write(token, self._held[track])

    def add_token(self, token: TokenRecord, payload: Buffer, crc: int | None = None) -> None:
        """Add a block whose complete token is known already, as tokenizers make them.

        `payload` must be what `token.digest` was computed from: it is not hashed again for the token. `crc`:
        its CRC-32, where that has been computed. Do not mix with `add_block` on one track. Raises OrderError,
        FormatError, LimitError, UsageError, StorageError.
        """
        self._check_open()
        payload = _fixed(payload)
        if len(payload) != token.size:
            raise UsageError("payload and token differ in size", expected=token.size, found=len(payload))
        token.check()
        self._write(token, payload, crc)

    def finish(
        self,
        *,
        ends: Mapping[int, int] | None = None,
        steps: Iterable[Step] = (),
        history: Iterable[HistoryEntry] = (),
        ancillary: Iterable[tuple[str, bytes]] = (),
        structure_only: bool = True,
        gone: Iterable[int] = (),
        head: bytes | None = None,
        streams: Mapping[int, bytes] | None = None,
        veri: bytes | None = None,
        mask_args: Mapping[str, str | int | bool] | None = None,
    ) -> Seal:
        """Write tables, META and the seal; put a file in its place.

        `ends`: where tracks given by `add_block` and not ended yet end, µs. `ancillary`: (tag, payload)
        pairs, in any order. `structure_only`: see H4MK 10.1. `gone`: tracks whose blocks are lost. `head`:
        the identity that the container must have, `veri`: the payload of its VERI. `streams`: the SHA-256
        that the streams of some tracks must have. `mask_args`: what the history says of the mask. Raises as
        `add_block` does, SealError where it has another one, and SourceChangedError where the mask is one of
        other blocks; after an error the target is as it was before.
        """
        self._check_open()
        try:
            steps = tuple(steps)
            if not steps_fit(steps, len(self._trak.tracks)):
                raise UsageError("steps must be in order of (pts, track), of tracks that exist")
            self._write_held(ends or {})
            lost = tuple(self._sequence.finish(gone))
            self._check_streams(streams or {})
            if self._masker is not None:
                history = self._masker.finish(
                    history, mask_args or {}, self._sequence.leaf, self._tables.tree.root()
                )
            return self._seal(
                Meta(
                    blocks=self._sequence.leaf,
                    duration=self._sequence.duration,
                    tracks=(),
                    history=tuple(history),
                    steps=steps,
                    lost=lost,
                    structure_only=structure_only,
                    title=self._title,
                ),
                sorted({(tag, sha256(payload)): payload for tag, payload in ancillary}.items()),
                head,
                veri,
            )
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: a file under construction is removed. Safe to call at any time."""
        self._done = True
        self._veri_lane.close()
        self._stream_lane.close()
        self._tables.close()
        if self._file is not None:
            self._file.abort()

    def __enter__(self) -> H4MKBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            self.abort()

    def _check_open(self) -> None:
        if self._done:
            raise UsageError("the container is finished")

    def _check_track(self, track: int) -> None:
        self._check_open()
        if not 0 <= track < len(self._sequencers):
            raise UsageError("no such track", expected=f"0 to {len(self._sequencers) - 1}", found=track)

    def _check_streams(self, wanted: Mapping[int, bytes]) -> None:
        self._stream_lane.flush()
        for track, digest in wanted.items():
            found = self._streams[track].digest()
            if found != digest:
                raise SealError(
                    "a stream is not the one that was sealed",
                    where=f"track {track}",
                    expected=digest.hex(),
                    found=found.hex(),
                )

    def _seal(
        self,
        meta: Meta,
        ancillary: list[tuple[tuple[str, bytes], bytes]],
        expected: bytes | None,
        expected_veri: bytes | None,
    ) -> Seal:
        """Write everything behind the last block; `meta` lacks what only the tables and offsets tell."""
        index = self._length
        for (tag, _), payload in ancillary:
            self._chunk(tag.encode(), payload)
        numbers = range(len(self._trak.tracks))
        seeks = [self._table(b"SEEK", partial(self._tables.seek, number)) for number in numbers]
        rmaps = [self._table(b"RMAP", partial(self._tables.rmap, number)) for number in numbers]
        digests = [stream.digest() for stream in self._streams] if self._known is None else self._known
        tracks = zip(self._tables.tracks, seeks, rmaps, digests, strict=True)
        meta = replace(
            meta,
            tracks=tuple(
                StoredTrack(one.blocks, one.bytes, one.keyframes, rmap, seek, digest)
                for one, seek, rmap, digest in tracks
            ),
            ancillary=tuple(AncillaryInfo(digest, len(data), tag) for (tag, digest), data in ancillary),
        )
        meta_bytes = meta.pack()
        root = self._tables.tree.root()
        whole = head_bytes(meta.blocks, meta.duration, root, self._trak_bytes, meta_bytes)
        head = sha256(whole)
        if expected is not None and head != expected:
            raise SealError("another container has come out", expected=expected.hex(), found=head.hex())
        at_meta = self._chunk(b"META", meta_bytes)
        at_merk = self._table(b"MERK", self._tables.merk)
        self._veri_lane.flush()
        veri = self._veri.digest()
        if expected_veri not in (None, veri):
            raise SealError(
                "another container has come out", expected=(expected_veri or b"").hex(), found=veri.hex()
            )
        at_veri = self._chunk(b"VERI", veri)
        if self._signer is not None:
            self._chunk(b"SIGN", self._signer(FINAL, whole))
        tail = Tail(
            length=self._length + TAIL_CHUNK,
            index=index,
            meta=at_meta,
            merk=at_merk,
            veri=at_veri,
            blocks=meta.blocks,
            duration=meta.duration,
            tracks=len(self._trak.tracks),
            signs=int(self._signer is not None),
            root=root,
            head=head,
        )
        self._chunk(b"TAIL", tail.pack())
        if self._file is not None:
            self._file.commit()
        self.abort()  # everything is in place: this only gives back threads and tables
        trak = sha256(self._trak_bytes)
        return Seal(head, root, tail.blocks, tail.duration, tail.length, meta.lost, trak)

    def _write_held(self, ends: Mapping[int, int]) -> None:
        rest = [
            (token, self._held[number])
            for number, sequencer in enumerate(self._sequencers)
            if (token := sequencer.finish(ends.get(number))) is not None
        ]
        for token, payload in sorted(rest, key=lambda one: (one[0].end, one[0].track)):
            self._write(token, payload)

    def _write(self, token: TokenRecord, payload: Buffer, crc: int | None = None) -> None:
        if self._masker is not None:
            stored, data = self._masker.block(token, payload)
            crc = crc if data is payload else None
            token, payload = stored, data
        self._sequence.accept(token)
        packed = token.pack()
        if self._rehearsal is not None:
            self._rehearsal.add(leaf_hash(packed))
        self._chunk(b"TOKN", packed)
        tag = b"SAFE" if token.flags & MASKED else b"CORE"
        position = self._chunk(tag, payload, crc) + CHUNK_SIZE
        self._tables.add(token, packed, position)
        if self._known is None:
            self._stream_lane.put(self._streams[token.track].update, payload)
        if self._signer is not None and self._sign_every and self._sequence.leaf % self._sign_every == 0:
            blocks, duration, root = self._sequence.leaf, self._sequence.duration, self._tables.tree.root()
            head = head_bytes(blocks, duration, root, self._trak_bytes, None)
            self._chunk(b"SIGN", self._signer(CHECKPOINT, head))

    def _table(self, tag: bytes, pieces: Callable[[], Iterator[bytes]]) -> int:
        """Write a chunk whose payload comes in pieces, twice the same; returns its file offset."""
        at = self._length
        size, crc = Tables.measure(pieces())
        self._emit(chunk_header(tag, size, crc))
        for piece in pieces():
            self._emit(piece)
        return at

    def _chunk(self, tag: bytes, payload: Buffer, crc: int | None = None) -> int:
        """Write one chunk; returns its file offset."""
        at = self._length
        self._emit(chunk_header(tag, len(payload), crc32(payload) if crc is None else crc))
        self._emit(payload)
        return at

    def _emit(self, data: Buffer) -> None:
        write_all(self._out, data)
        self._length += len(data)
        self._veri_lane.put(self._veri.update, data)


def _fixed(payload: Buffer) -> Buffer:
    """Bytes that nobody can change while the digests still read them."""
    if isinstance(payload, bytes):
        return payload
    view = memoryview(payload)
    # A read-only view may still be of something that changes.
    return view.cast("B") if isinstance(view.obj, bytes) and view.c_contiguous else bytes(view)
