"""The checks of `verify`, chunk by chunk, as the parser's events come in (H4MK 19). No I/O of its own.

Tables, tree and totals are derived a second time from the blocks and compared with what the file stores.
Digest threads run beside the parser.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from types import TracebackType
from typing import Any

from harmony4.crypto.digest import Buffer, DigestLane, sha256
from harmony4.crypto.errors import (
    ChecksumError,
    FormatError,
    HarmonyError,
    LimitError,
    OrderError,
    SealError,
)
from harmony4.crypto.mask import MasterKey
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk import canonical
from harmony4.h4mk.chunks import ChunkEnd, ChunkInfo, Event, Header
from harmony4.h4mk.documents import AncillaryInfo, Meta, StoredTrack, Trak, steps_fit
from harmony4.h4mk.layout import MOST_ANCILLARY, Tail, chunk_header, head_of_digests, is_critical
from harmony4.h4mk.masks.tags import Tags
from harmony4.h4mk.proofs.signature import Signature
from harmony4.h4mk.proofs.trust import SignatureAudit, Trust
from harmony4.h4mk.seals import CHECKPOINT, FINAL
from harmony4.h4mk.seek import SeekTable
from harmony4.h4mk.sequence import Sequence, check_payload
from harmony4.h4mk.tables import Tables

__all__ = ["Checker"]

_MOST = 100
"""Problems that are kept; a file that is damaged everywhere says nothing new after that."""
_SMALL = frozenset(("TRAK", "KEYS", "TOKN", "META", "VERI", "SIGN", "time", "TAIL"))
"""Chunks that are looked at as a whole; none may exceed 1 MiB."""
_DERIVED = frozenset(("SEEK", "RMAP", "MERK"))
"""Chunks that the blocks alone give; they are compared as they come."""


class _Body:
    """What follows from TRAK and the blocks so far."""

    def __init__(self, data: bytes) -> None:
        self.trak = Trak.unpack(data)
        self.trak_digest = sha256(data)
        # Holes are allowed here and compared with META.lost later.
        self.sequence = Sequence(self.trak, gaps=True)
        self.tables = Tables(len(self.trak.tracks))
        self.streams = [hashlib.sha256() for _ in self.trak.tracks]
        self.broken = False
        """The sequence of blocks is lost: what is derived from it says nothing any more."""


class Checker:
    """Takes the events of one ChunkStream. A context manager: leaving it ends its threads."""

    def __init__(self, masters: Iterable[MasterKey] = (), trust: Trust | None = None) -> None:
        """`masters`: with one that opens a masked container, the tags of its blocks are checked as well."""
        self.tags = Tags(masters)
        self.head: bytes | None = None
        """As recomputed."""
        self.seals = SignatureAudit(trust) if trust is not None else None
        self.chunks = 0
        self.signatures = 0
        """SIGN chunks."""
        self.holes = 0
        self._final_signatures = 0
        self._cores = 0
        self._last = 0
        self._problems: list[tuple[int, HarmonyError]] = []  # with the offset of the chunk
        self._damaged: list[tuple[int, HarmonyError]] = []  # the same, found by the digest thread
        self._original = False
        self._offsets: dict[str, list[int]] = {}
        self._after_blocks = 0
        # What the current chunk is collected, hashed or compared into.
        self._info = ChunkInfo("NONE", 0, 0, 0)
        self._collected = bytearray()
        self._digest = hashlib.sha256()
        self._expected: _Pieces | None = None
        self._body: _Body | None = None
        self._token: TokenRecord | None = None
        self._ancillary: list[AncillaryInfo] = []
        self._meta_bytes: bytes | None = None
        self._meta_digest = bytes(32)
        self._tail: Tail | None = None
        self._veri = hashlib.sha256()
        self._veri_lane = DigestLane()
        self._block_lane = DigestLane()
        self._stream_lane = DigestLane()

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in (self._veri_lane, self._block_lane, self._stream_lane):
            lane.close()
        if self._body is not None:
            self._body.tables.close()

    @property
    def blocks(self) -> int:
        """Blocks that were read whole."""
        return self._body.tables.tree.size if self._body else self._cores

    @property
    def duration(self) -> int:
        """Greatest end of these blocks, µs; of an original file the last PTS in SEEK."""
        return self._last

    @property
    def root(self) -> bytes | None:
        """Root of the tree over these blocks."""
        return self._body.tables.tree.root() if self._body else None

    @property
    def masked(self) -> bool:
        """Whether TRAK says that something is masked."""
        return self._body is not None and self._body.trak.mask is not None

    def problem(self, error: HarmonyError) -> None:
        """Note what is wrong with the current chunk or behind it."""
        if len(self._problems) < _MOST:
            self._problems.append((self._info.offset, error))

    def incomplete(self, error: HarmonyError) -> None:
        """Note that the last chunk is missing, unless something that was noted already says why."""
        if not self._problems:
            self.problem(error)

    def require(self) -> None:
        """Note that what is to be trusted has not shown itself in a file that is whole (H4MK 19, V22)."""
        # One of the original implementation has no signatures, and is not what somebody pinned either.
        if self.seals is None or not (self._original or self._tail):
            return
        try:
            self.seals.require(self.head)
        except SealError as error:
            error.where = self._info.offset
            self.problem(error)

    def conclude(self) -> tuple[HarmonyError, ...]:
        """Everything that is wrong, in file order."""
        self._block_lane.flush()
        try:
            self.tags.require()
        except SealError as error:
            self.problem(error)
        return tuple(error for _, error in sorted(self._problems + self._damaged, key=itemgetter(0)))

    def state(self, length: int) -> str:
        """The state of a file of `length` bytes (H4MK 2.2); `unreadable` without a sound header and TRAK."""
        if self._original:
            return "original"
        if self._body is None:
            return "unreadable"
        return "sealed" if self._tail is not None and self._tail.length == length else "incomplete"

    def event(self, event: Event) -> None:
        """Go on. Raises FormatError and its kin where nothing behind means anything any more."""
        if isinstance(event, memoryview):
            self._piece(event)
        elif isinstance(event, ChunkEnd):
            self._end(event)
        elif isinstance(event, Header):
            self._original = event.original
        else:
            self._begin(event)

    @property
    def _sealed(self) -> bool:
        """Whether VERI has begun: it covers what stands before it."""
        return "VERI" in self._offsets

    def _begin(self, info: ChunkInfo) -> None:
        self._info = info
        self._count(info)
        if not self._sealed:
            self._veri_lane.put(self._veri.update, chunk_header(info.tag.encode(), info.size, info.crc))
        self._collected = bytearray()
        self._expected = None
        if info.tag == "TOKN":
            self._token = None
        self._digest = hashlib.sha256()
        if not self._after_blocks and (info.tag == "SEEK" or not is_critical(info.tag)):
            self._after_blocks = info.offset
        if self._body is not None and not self._body.broken and info.tag in _DERIVED:
            self._expected = self._derived(info.tag, self._body.tables)

    def _count(self, info: ChunkInfo) -> None:
        self.chunks += 1
        if info.tag == "SIGN":
            self.signatures += 1
            self._final_signatures += self._sealed
        elif info.tag == "CORE":
            self._cores += 1
        elif info.tag not in ("TOKN", "SAFE"):
            # Memory must not follow what a hostile file repeats: one too many is enough to know.
            places = self._offsets.setdefault(info.tag, [])
            if len(places) < self._most_tables:
                places.append(info.offset)

    @property
    def _most_tables(self) -> int:
        return len(self._body.streams) + 1 if self._body else 1

    def _derived(self, tag: str, tables: Tables) -> _Pieces | None:
        if tag == "MERK":
            return _Pieces(tables.merk())
        track = len(self._offsets[tag]) - 1
        if track >= len(tables.tracks):
            return None  # one too many: counted when META comes
        return _Pieces(tables.seek(track) if tag == "SEEK" else tables.rmap(track))

    def _piece(self, piece: memoryview) -> None:
        if not self._sealed:
            self._veri_lane.put(self._veri.update, piece)
        tag = self._info.tag
        if self._expected is not None:
            self._expected.compare(piece)
        elif tag in _SMALL or (self._original and tag != "CORE"):
            self._collected += piece
        elif self._body is not None and self._token is not None and tag in ("CORE", "SAFE"):
            self._block_lane.put(self._digest.update, piece)
            if not self._body.broken:
                self._stream_lane.put(self._body.streams[self._token.track].update, piece)
        elif not is_critical(tag):
            self._digest.update(piece)

    def _end(self, event: ChunkEnd) -> None:
        info = event.info
        try:
            if event.crc != info.crc:
                damage = ChecksumError(
                    f"chunk {info.tag} fails its CRC",
                    where=info.offset,
                    expected=f"{info.crc:08x}",
                    found=f"{event.crc:08x}",
                )
                if is_critical(info.tag) and info.tag not in ("CORE", "SAFE"):
                    raise damage  # what a damaged chunk says is not worth a second complaint
                self.problem(damage)
            if self._original:
                self._check_original(info.tag, bytes(self._collected))
            else:
                self._check(info, bytes(self._collected))
        except (FormatError, LimitError) as error:
            error.where = info.offset if error.where is None else error.where
            if info.tag == "TRAK":
                raise  # without it nothing else means anything
            self.problem(error)
            if self._body is not None and info.tag == "TOKN":
                self._body.broken = True

    def _check(self, info: ChunkInfo, data: bytes) -> None:
        if info.tag == "TRAK":
            self._body = _Body(data)
            return
        body = self._body
        assert body is not None  # the grammar: TRAK comes first, and a bad one ends the run
        if info.tag == "TOKN":
            self._token = TokenRecord.unpack(data)
            if not body.broken:
                body.sequence.accept(self._token)
            try:
                self.tags.check(self._token, data)
            except SealError as error:  # which says nothing against the sequence
                self.problem(error)
        elif info.tag in ("CORE", "SAFE"):
            self._check_block(info, body)
        elif info.tag in _DERIVED:
            if self._expected is not None and not self._expected.equal():
                raise SealError(f"{info.tag} is not what the blocks give", where=info.offset)
        elif info.tag == "KEYS":
            self.tags.open(data, body.trak)
        elif info.tag == "SIGN":
            self._check_sign(Signature.unpack(data, FINAL if self._sealed else CHECKPOINT), body)
        elif info.tag == "time" and self.seals is not None:
            self.seals.stamp(data)
        elif info.tag == "META":
            self._check_meta(data, body)
        elif info.tag == "VERI":
            self._check_veri(data)
        elif info.tag == "TAIL":
            self._check_tail(data, body)
        elif not self._sealed and len(self._ancillary) <= MOST_ANCILLARY:
            self._ancillary.append(AncillaryInfo(self._digest.digest(), info.size, info.tag))

    def _check_block(self, info: ChunkInfo, body: _Body) -> None:
        token, digest = self._token, self._digest
        if token is None:  # it was damaged
            return
        if not body.broken:
            self._last = max(self._last, token.end)
            body.tables.add(token, token.pack(), info.payload)
        check_payload(token, info)

        def compare(_: Buffer) -> None:
            if digest.digest() != token.digest and len(self._damaged) < _MOST:
                error = SealError("a block fails its digest", where=info.offset)
                self._damaged.append((info.offset, error))

        self._block_lane.put(compare, b"")

    def _check_sign(self, signature: Signature, body: _Body) -> None:
        # Where the blocks or META are unsound there is no HEAD to check with; that is a problem already.
        if self.seals is None or body.broken or (self._sealed and self._meta_bytes is None):
            return
        if not self.seals.wants(signature):
            return
        blocks, duration = body.sequence.leaf, body.sequence.duration
        # Hashed once: there may be thousands of signatures.
        meta = self._meta_digest if self._sealed else bytes(32)
        head = head_of_digests(blocks, duration, body.tables.tree.root(), body.trak_digest, meta)
        self.seals.take(signature, blocks, head)

    def _check_meta(self, data: bytes, body: _Body) -> None:
        meta = Meta.unpack(data)
        self._meta_bytes = data
        self._meta_digest = sha256(data)
        self.holes = len(meta.lost)
        names = [(one.tag, one.sha256) for one in self._ancillary]
        if names != sorted(set(names)):
            self.problem(OrderError("ancillary chunks are not sorted", where=self._after_blocks))
        if (body.trak.mask is not None) != ("KEYS" in self._offsets):
            self.problem(OrderError("KEYS and TRAK.mask must come together", where=self._info.offset))
        count = len(body.streams)
        for tag in ("SEEK", "RMAP"):
            if len(self._offsets[tag]) != count:
                raise OrderError(f"one {tag} per track", expected=count, found=len(self._offsets[tag]))
        if not steps_fit(meta.steps, count):
            self.problem(SealError("META.steps is not in order", where=self._info.offset))
        if body.broken:
            return
        try:
            self.tags.check_whole(meta.history, body.sequence.leaf, body.tables.tree.root())
        except SealError as error:
            self.problem(error)
        self._stream_lane.flush()
        tracks = zip(
            body.tables.tracks, self._offsets["RMAP"], self._offsets["SEEK"], body.streams, strict=True
        )
        wanted = dataclasses.replace(
            meta,
            blocks=body.sequence.leaf,
            duration=body.sequence.duration,
            tracks=tuple(
                StoredTrack(one.blocks, one.bytes, one.keyframes, rmap, seek, stream.digest())
                for one, rmap, seek, stream in tracks
            ),
            ancillary=tuple(self._ancillary),
        )
        self._same("META", meta, wanted)
        # A track without blocks shows no hole: only META knows whether it was empty or all of it is gone.
        gone = {one.track for one in meta.lost if (one.count, one.first) == (0, 0)}
        if meta.lost != tuple(body.sequence.finish(gone - body.sequence.seen)):
            self.problem(OrderError("META.lost does not name the holes", where=self._info.offset))

    def _check_veri(self, data: bytes) -> None:
        self._veri_lane.flush()
        if self._veri.digest() != data:
            raise SealError(
                "VERI is not the digest of what stands before it", expected=self._veri.hexdigest()
            )

    def _check_tail(self, data: bytes, body: _Body) -> None:
        try:
            self._tail = tail = Tail.unpack(data)
        except (FormatError, LimitError) as error:
            raise SealError("TAIL is not what the file gives", where=self._info.offset) from error
        if body.broken or self._meta_bytes is None:
            return
        root = body.tables.tree.root()
        blocks, duration = body.sequence.leaf, body.sequence.duration
        head = head_of_digests(blocks, duration, root, body.trak_digest, self._meta_digest)
        self.head = sha256(head)
        wanted = Tail(
            length=self._info.end,
            index=self._after_blocks,
            meta=self._offsets["META"][0],
            merk=self._offsets["MERK"][0],
            veri=self._offsets["VERI"][0],
            blocks=blocks,
            duration=duration,
            tracks=len(body.streams),
            signs=self._final_signatures,
            root=root,
            head=self.head,
        )
        self._same("TAIL", tail, wanted)

    def _same(self, tag: str, found: Any, wanted: Any) -> None:
        for field in dataclasses.fields(found):
            is_now, should_be = getattr(found, field.name), getattr(wanted, field.name)
            if is_now != should_be:
                shown = [one if isinstance(one, int) else None for one in (should_be, is_now)]
                self.problem(
                    SealError(
                        f"{tag} is not what the file gives: {field.name}",
                        where=self._info.offset,
                        expected=shown[0],
                        found=shown[1],
                    )
                )

    def _check_original(self, tag: str, data: bytes) -> None:
        if tag in ("META", "SAFE"):
            canonical.loose(data, tag)
        elif tag == "SEEK":
            table = SeekTable.original(data)
            self._last = table[len(table) - 1].pts if len(table) else 0
        elif tag == "VERI":
            self._check_veri(data)


class _Pieces:
    """Compares a payload that arrives in pieces with one that is derived in other pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._same = True

    def compare(self, piece: memoryview) -> None:
        while len(piece) and self._same:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    self._same = False
                    return
            count = min(len(piece), len(self._rest))
            self._same = piece[:count] == self._rest[:count]
            piece, self._rest = piece[count:], self._rest[count:]

    def equal(self) -> bool:
        return self._same and not self._rest and not next(self._pieces, b"")
