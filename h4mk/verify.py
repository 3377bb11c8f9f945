"""verify: every check there is, in one pass over a file or a pipe (H4MK 19).

Tables, tree and totals are derived a second time from the blocks and compared with what the file stores.
Memory follows one block; large derived tables spill to disk. Digest threads run beside the parser.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO, Protocol, cast

from harmony4.crypto.digest import Buffer, DigestLane, sha256
from harmony4.crypto.errors import (
    ChecksumError,
    FormatError,
    HarmonyError,
    LimitError,
    OrderError,
    SealError,
    TruncatedError,
)
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk import canonical
from harmony4.h4mk.chunks import ChunkEnd, ChunkInfo, ChunkStream, Event, Header
from harmony4.h4mk.documents import AncillaryInfo, Meta, StoredTrack, Trak
from harmony4.h4mk.layout import Tail, chunk_header, head_bytes, is_critical
from harmony4.h4mk.seals import CHECKPOINT, FINAL, check_keys, check_sign
from harmony4.h4mk.seek import SeekTable
from harmony4.h4mk.sequence import Sequence, check_payload
from harmony4.h4mk.source import ReadAt, open_source
from harmony4.h4mk.tables import Tables

__all__ = ["VerifyReport", "verify"]

_READ = 2**20
_SMALL = frozenset(("TRAK", "KEYS", "TOKN", "META", "VERI", "SIGN", "TAIL"))
"""Chunks that are looked at as a whole; none may exceed 1 MiB."""
_MOST = 100
"""Problems that are kept; a file that is damaged everywhere says nothing new after that."""


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and what is wrong."""

    state: str
    """sealed, incomplete, original, or unreadable where not even header and TRAK are sound."""
    problems: tuple[HarmonyError, ...]
    """In file order, at most 100 of a kind."""
    blocks: int
    bytes: int
    """Bytes of the file that were read."""
    chunks: int
    duration: int
    """µs."""
    head: Digest | None
    root: Digest | None
    """Of a sealed file, as recomputed."""
    signatures: int
    """SIGN chunks. They are counted here, not checked."""
    holes: int
    """Holes that a recovered container admits to."""

    @property
    def ok(self) -> bool:
        """Whether the file is sealed (or original) and nothing is wrong."""
        return not self.problems and self.state in ("sealed", "original")


Digest = bytes


def verify(
    source: str | PathLike[str] | bytes | ReadAt | BinaryIO,
    *,
    progress: Callable[[int], object] | None = None,
) -> VerifyReport:
    """Check a container, whole. Content never makes it raise: what is wrong stands in the report.

    A stream (anything with `read` and no `read_at`) is read once, in order. `progress` is called with the
    number of bytes read so far. Raises SourceError where the source cannot be read, StorageError where a
    large derived table cannot be spilled.
    """
    if hasattr(source, "read") and not hasattr(source, "read_at"):
        return _Verifier().run(_read_stream(cast(_Readable, source)), None, progress)
    opened, owned = open_source(cast(ReadAt, source))
    try:
        return _Verifier().run(_read_source(opened), opened.size(), progress)
    finally:
        if owned:
            opened.close()


def _read_stream(stream: _Readable) -> Iterator[bytes]:
    while data := stream.read(_READ):
        yield data


def _read_source(source: ReadAt) -> Iterator[bytes]:
    offset = 0
    while data := source.read_at(offset, _READ):
        yield data
        offset += len(data)


class _Verifier:
    """One pass. Handlers are named after the chunks they check."""

    def __init__(self) -> None:
        self._problems: list[HarmonyError] = []
        self._damaged: list[HarmonyError] = []  # found by the digest thread, in file order
        self._original = False
        self._chunks = 0
        self._holes = 0
        self._offsets: dict[str, list[int]] = {}
        self._after_blocks: int | None = None
        # What the current chunk is collected, hashed or compared into.
        self._collected = bytearray()
        self._digest = hashlib.sha256()
        self._expected: _Pieces | None = None
        self._trak: Trak | None = None
        self._trak_bytes = b""
        self._sequence: Sequence | None = None
        self._tables: Tables | None = None
        self._streams: list[hashlib._Hash] = []
        self._broken = False  # the order of blocks is lost: what is derived from it says nothing any more
        self._token: TokenRecord | None = None
        self._ancillary: list[AncillaryInfo] = []
        self._meta: Meta | None = None
        self._meta_bytes = b""
        self._veri = hashlib.sha256()
        self._head: bytes | None = None
        self._tail: Tail | None = None

    def run(
        self, pieces: Iterator[bytes], length: int | None, progress: Callable[[int], object] | None
    ) -> VerifyReport:
        done = 0
        stream = ChunkStream(length)
        with (
            DigestLane() as self._veri_lane,
            DigestLane() as self._block_lane,
            DigestLane() as self._stream_lane,
        ):
            try:
                for data in pieces:
                    stream.feed(data)
                    done += len(data)
                    for event in stream.events():
                        self._event(event)
                    if progress is not None:
                        progress(done)
                stream.close()
            except (FormatError, LimitError) as error:
                self._problem(error)
            self._block_lane.flush()
            state = self._conclude(stream, done)
        sequence = self._sequence
        tables = self._tables
        report = VerifyReport(
            state=state,
            problems=tuple(sorted(self._problems + self._damaged, key=_place)),
            blocks=sequence.leaf if sequence else len(self._offsets.get("CORE", ())),
            bytes=done,
            chunks=self._chunks,
            duration=sequence.duration if sequence else 0,
            head=self._head,
            root=tables.tree.root() if tables and state == "sealed" else None,
            signatures=len(self._offsets.get("SIGN", ())),
            holes=self._holes,
        )
        if tables:
            tables.close()
        return report

    def _conclude(self, stream: ChunkStream, done: int) -> str:
        finished = stream.grammar is not None and stream.grammar.finished
        if not finished and not self._problems:
            expects = stream.grammar.expects if stream.grammar else "a header"
            self._problem(TruncatedError("the file ends too early", where=done, expected=expects))
        if self._original:
            return "original"
        if self._trak is None:
            return "unreadable"
        return "sealed" if finished and self._tail else "incomplete"

    def _problem(self, error: HarmonyError) -> None:
        if len(self._problems) < _MOST:
            self._problems.append(error)

    def _event(self, event: Event) -> None:
        if isinstance(event, memoryview):
            self._piece(event)
        elif isinstance(event, ChunkEnd):
            self._end(event)
        elif isinstance(event, Header):
            self._original = event.original
        else:
            self._begin(event)

    def _begin(self, info: ChunkInfo) -> None:
        self._info = info
        self._chunks += 1
        if not self._original or info.tag == "CORE":
            self._offsets.setdefault(info.tag, []).append(info.offset)
        if not self._sealed:
            self._veri_lane.put(self._veri.update, chunk_header(info.tag.encode(), info.size, info.crc))
        self._collected = bytearray()
        self._expected = None
        if info.tag == "TOKN":
            self._token = None
        self._digest = hashlib.sha256()
        if self._original:
            return
        if info.tag not in ("TRAK", "KEYS", "TOKN", "CORE", "SAFE", "SIGN") and self._after_blocks is None:
            self._after_blocks = info.offset
        if info.tag in ("SEEK", "RMAP", "MERK") and not self._broken:
            self._expected = self._derived(info.tag)

    @property
    def _sealed(self) -> bool:
        """Whether VERI has begun: it covers what stands before it."""
        return "VERI" in self._offsets or (self._original and self._info.tag == "VERI")

    def _derived(self, tag: str) -> _Pieces | None:
        assert self._tables is not None
        track = len(self._offsets[tag]) - 1
        if tag == "MERK":
            return _Pieces(self._tables.merk())
        if track >= len(self._tables.tracks):
            return None  # one too many: TAIL and META name the right ones
        return _Pieces(self._tables.seek(track) if tag == "SEEK" else self._tables.rmap(track))

    def _piece(self, piece: memoryview) -> None:
        if not self._sealed:
            self._veri_lane.put(self._veri.update, piece)
        tag = self._info.tag
        if self._expected is not None:
            self._expected.compare(piece)
        elif tag in _SMALL or (self._original and tag != "CORE"):
            self._collected += piece
        elif self._token is not None and tag in ("CORE", "SAFE"):
            self._block_lane.put(self._digest.update, piece)
            self._stream_lane.put(self._streams[self._token.track].update, piece)
        elif not is_critical(tag):
            self._digest.update(piece)

    def _end(self, event: ChunkEnd) -> None:
        info = event.info
        if event.crc != info.crc:
            self._problem(
                ChecksumError(
                    f"chunk {info.tag} fails its CRC",
                    where=info.offset,
                    expected=f"{info.crc:08x}",
                    found=f"{event.crc:08x}",
                )
            )
            # What a damaged chunk says is not worth a second complaint.
            self._broken = self._broken or info.tag in ("TRAK", "TOKN")
            if info.tag not in ("CORE", "SAFE"):
                return
        try:
            if self._original:
                self._check_original(info)
            else:
                self._check(info)
        except (FormatError, LimitError) as error:
            error.where = info.offset if error.where is None else error.where
            if info.tag == "TRAK":
                raise  # without it nothing else means anything
            self._problem(error)
            self._broken = self._broken or info.tag == "TOKN"

    def _check(self, info: ChunkInfo) -> None:
        data = bytes(self._collected)
        if info.tag == "TRAK":
            self._trak = Trak.unpack(data)
            self._trak_bytes = data
            # Holes are allowed here and compared with META.lost later.
            self._sequence = Sequence(self._trak, gaps=True)
            self._tables = Tables(len(self._trak.tracks))
            self._streams = [hashlib.sha256() for _ in self._trak.tracks]
        elif info.tag == "TOKN":
            self._token = self._check_token(data)
        elif info.tag in ("CORE", "SAFE"):
            self._check_block(info)
        elif info.tag in ("SEEK", "RMAP", "MERK"):
            if self._expected is not None and not self._expected.equal():
                raise SealError(f"{info.tag} is not what the blocks give", where=info.offset)
        elif info.tag == "KEYS":
            check_keys(data)
        elif info.tag == "SIGN":
            check_sign(data, FINAL if "VERI" in self._offsets else CHECKPOINT)
        elif info.tag == "META":
            self._check_meta(data)
        elif info.tag == "VERI":
            self._check_veri(data)
        elif info.tag == "TAIL":
            self._check_tail(data)
        elif not is_critical(info.tag) and info.tag != "time":
            self._ancillary.append(AncillaryInfo(self._digest.digest(), info.size, info.tag))

    def _check_token(self, data: bytes) -> TokenRecord | None:
        if self._broken or self._sequence is None:
            return None
        token = TokenRecord.unpack(data)
        self._sequence.accept(token)
        return token

    def _check_block(self, info: ChunkInfo) -> None:
        token, digest = self._token, self._digest
        if token is None or self._tables is None:
            return
        self._tables.add(token, token.pack(), info.payload)
        check_payload(token, info)

        def compare(_: Buffer) -> None:
            if digest.digest() != token.digest and len(self._damaged) < _MOST:
                self._damaged.append(SealError("a block fails its digest", where=info.offset))

        self._block_lane.put(compare, b"")

    def _check_meta(self, data: bytes) -> None:
        self._meta_bytes = data
        self._meta = meta = Meta.unpack(data)
        names = [(one.tag, one.sha256) for one in self._ancillary]
        if names != sorted(set(names)):
            self._problem(OrderError("ancillary chunks are not sorted", where=self._after_blocks))
        if (self._trak is not None and self._trak.mask is not None) != ("KEYS" in self._offsets):
            self._problem(OrderError("KEYS and TRAK.mask must come together", where=self._info.offset))
        if self._broken or self._sequence is None or self._tables is None:
            return
        self._holes = len(meta.lost)
        self._stream_lane.flush()
        # A table that is missing gets offset 0, which no table has.
        seeks, rmaps = ((self._offsets[tag] + [0] * len(self._streams)) for tag in ("SEEK", "RMAP"))
        wanted = dataclasses.replace(
            meta,
            blocks=self._sequence.leaf,
            duration=self._sequence.duration,
            tracks=tuple(
                StoredTrack(one.blocks, one.bytes, one.keyframes, rmap, seek, stream.digest())
                for one, rmap, seek, stream in zip(
                    self._tables.tracks, rmaps, seeks, self._streams, strict=False
                )
            ),
            ancillary=tuple(self._ancillary),
        )
        self._same("META", meta, wanted)
        # A track without blocks shows no hole: only META knows whether it was empty or all of it is gone.
        gone = [one.track for one in meta.lost if (one.count, one.first) == (0, 0)]
        if meta.lost != tuple(self._sequence.finish(set(gone) - self._sequence.seen)):
            self._problem(OrderError("META.lost does not name the holes", where=self._info.offset))
        times = [(one.pts, one.track) for one in meta.steps]
        if times != sorted(times) or any(one.track >= len(self._streams) for one in meta.steps):
            self._problem(SealError("META.steps is not in order", where=self._info.offset))
        for tag in ("SEEK", "RMAP"):
            if len(self._offsets[tag]) != len(self._streams):
                raise OrderError(
                    f"one {tag} per track", expected=len(self._streams), found=len(self._offsets[tag])
                )

    def _check_veri(self, data: bytes) -> None:
        self._veri_lane.flush()
        if self._veri.digest() != data:
            raise SealError(
                "VERI is not the digest of what stands before it", expected=self._veri.hexdigest()
            )

    def _check_tail(self, data: bytes) -> None:
        self._tail = tail = Tail.unpack(data)
        if self._broken or self._sequence is None or self._tables is None or self._meta is None:
            return
        root = self._tables.tree.root()
        blocks, duration = self._sequence.leaf, self._sequence.duration
        self._head = sha256(head_bytes(blocks, duration, root, self._trak_bytes, self._meta_bytes))
        wanted = Tail(
            length=self._info.end,
            index=self._after_blocks or 0,
            meta=self._offsets["META"][0],
            merk=self._offsets["MERK"][0],
            veri=self._offsets["VERI"][0],
            blocks=blocks,
            duration=duration,
            tracks=len(self._streams),
            signs=sum(offset > self._offsets["VERI"][0] for offset in self._offsets.get("SIGN", ())),
            root=root,
            head=self._head,
        )
        self._same("TAIL", tail, wanted)

    def _same(self, tag: str, found: Any, wanted: Any) -> None:
        for field in dataclasses.fields(found):
            is_now, should_be = getattr(found, field.name), getattr(wanted, field.name)
            if is_now != should_be:
                shown = [one if isinstance(one, int) else None for one in (should_be, is_now)]
                self._problem(
                    SealError(
                        f"{tag} is not what the file gives: {field.name}",
                        where=self._info.offset,
                        expected=shown[0],
                        found=shown[1],
                    )
                )

    def _check_original(self, info: ChunkInfo) -> None:
        data = bytes(self._collected)
        if info.tag in ("META", "SAFE"):
            canonical.loose(data, info.tag)
        elif info.tag == "SEEK":
            SeekTable.original(data)
        elif info.tag == "VERI":
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


def _place(error: HarmonyError) -> int:
    return error.where if isinstance(error.where, int) else 2**63
