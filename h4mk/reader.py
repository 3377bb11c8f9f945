"""H4MKReader: open a container, seek in it, read tokens, byte ranges and streams (H4MK 18.1)."""

from __future__ import annotations

import copy
import io
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from os import PathLike
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import numpy as np

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import ChecksumError, FormatError, NotFoundError, SealError, UsageError
from harmony4.crypto.token import HEADER, TOKEN_SIZE, TokenRecord
from harmony4.h4mk.blockfile import BlockFile
from harmony4.h4mk.chunks import CoreChunk
from harmony4.h4mk.edits.openfile import OpenFile, TrackState
from harmony4.h4mk.holes import Holes
from harmony4.h4mk.layout import CHUNK_SIZE, HEADER_SIZE, ChunkInfo, RangeEntry
from harmony4.h4mk.masks.keyslots import Slot, read_keys
from harmony4.h4mk.rangemap import FlatMap, KeyMap, RangeMap
from harmony4.h4mk.seek import Playing, SeekEntry, SeekResult, SeekTable
from harmony4.h4mk.source import ReadAt, read_exact, read_into
from harmony4.h4mk.timerange import TimeRange, find_time_range
from harmony4.h4mk.tokenrows import BEFORE, TOKEN_DTYPE, read_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TOKEN_DTYPE", "H4MKReader", "SeekResult", "TrackState"]

_T = TypeVar("_T")


class H4MKReader(OpenFile):
    """One open container. A context manager.

    All methods may be called from several threads at once, and none of them moves a shared position.
    `state` is `sealed`, `incomplete` (no valid TAIL: opened by walking, every complete block is there) or
    `original` (written by the original implementation, which this specification only reads).
    """

    def __init__(self, source: str | PathLike[str] | bytes | bytearray | memoryview | ReadAt) -> None:
        """Open a path, bytes in memory, or anything that satisfies ReadAt (which stays the caller's).

        Raises SourceError, or FormatError and its kin.
        """
        super().__init__(source)
        self._lock = threading.Lock()
        self._holes: defaultdict[int, Holes] = defaultdict(Holes)
        for number, lost in groupby(self.lost, attrgetter("track")):
            self._holes[number] = Holes(lost)
        self._byte_holes: dict[int, list[tuple[int, int]]] = {}
        self._flat: dict[int, FlatMap | None] = {}
        self._headers: dict[int, tuple[tuple[int, int], ...]] = {}
        self._sizes: dict[int, int] = {}
        self._damaged: dict[tuple[str, int], FormatError] = {}

    def seek(self, pts: int, track: int = 0) -> SeekEntry | None:
        """The keyframe with the largest PTS ≤ `pts` µs, None where all are later. O(log n)."""
        return (self._opened.seeks.get(track) or self.seek_table(track)).seek(pts)

    def locate(self, pts: int, track: int = 0) -> SeekResult | None:
        """`seek`, and what a client needs to fetch the group of blocks that the keyframe opens.

        Raises NotFoundError for an unknown track, SealError where the track's tables do not fit each other.
        """
        table = self.seek_table(track)
        number = table.find(pts)
        if number < 0:
            return None
        found, offset = table.pair(number)
        if number + 1 < len(table):
            following, end = table.pair(number + 1)
        else:
            following, end = None, max(self.stream_size(track), offset)
        row = max(self._row_of_key(offset, track), 0)
        index = self._holes[track].index_of(row)
        return SeekResult(found, offset, index, following, end - offset, self.header_ranges(track))

    def at(self, pts: int) -> tuple[Playing | None, ...]:
        """What every track plays at `pts` µs, in track order; None before its first keyframe and from its end
        on.

        O(log n) a track. Raises UsageError for a negative time; SealError and its kin where tables and tokens
        do not fit each other.
        """
        _natural(pts, "a time")
        return tuple(self._at(pts, track) for track in range(len(self.tracks)))

    def _at(self, pts: int, track: int) -> Playing | None:
        found = self.locate(pts, track)
        if found is None:
            return None
        if self.state == "original":
            return Playing(track, found, None) if pts < self.duration else None
        rmap = self.range_map(track)
        row = rmap.at_time(pts)
        if row < 0:
            raise SealError("SEEK does not point at a block", where=f"track {track}", found=found.offset)
        token = self._check_entry(row, rmap[row], track)
        return Playing(track, found, token) if pts < token.end else None

    def time_range(self, pts: int, end_pts: int | None = None, track: int = 0) -> TimeRange:
        """The blocks that show all of [pts, end_pts) µs, or everything from `pts` on (H4MK 18.4).

        O(log n), and the tokens of the few keyframes around the end. Raises UsageError for times that are no
        interval; NotFoundError for an unknown track, where no keyframe is that early, and past the track's
        end; SealError and its kin where tables and tokens do not fit each other.
        """
        plain = self.state == "original"  # no tokens
        return find_time_range(
            self.seek_table(track),
            pts,
            end_pts,
            size=self.stream_size(track),
            least=lambda entry: entry.pts if plain else self._min_pts(entry, track),
            end=lambda: None if plain else self.end(track),
            header_ranges=lambda: self.header_ranges(track),
        )

    def header_ranges(self, track: int = 0) -> tuple[tuple[int, int], ...]:
        """(offset, size) of the HEADER blocks, joined where they touch (H4MK 18.4). Found once."""
        if track not in self._headers:
            rmap = self.range_map(track)
            found: list[tuple[int, int]] = []
            for row in range(rmap.at_time(0) + 1):  # their PTS is 0
                entry = rmap[row]
                if not entry.flags & HEADER:
                    continue
                if found and sum(found[-1]) == entry.offset:
                    found[-1] = (found[-1][0], found[-1][1] + entry.size)
                else:
                    found.append((entry.offset, entry.size))
            self._headers[track] = tuple(found)
        return self._headers[track]

    def seek_table(self, track: int = 0) -> SeekTable:
        """The track's SEEK table, loaded once. Raises NotFoundError, FormatError and its kin."""
        self._check_track(track)
        seeks = self._opened.seeks
        return seeks[track] if track in seeks else self._load("SEEK", seeks, self._opened.load_seek, track)

    def range_map(self, track: int = 0) -> RangeMap:
        """The track's range map, loaded once. Raises NotFoundError, FormatError and its kin."""
        self._check_track(track)
        rmaps = self._opened.rmaps
        return rmaps[track] if track in rmaps else self._load("RMAP", rmaps, self._opened.load_rmap, track)

    def _load(self, tag: str, kept: dict[int, _T], load: Callable[[ReadAt, int], _T], track: int) -> _T:
        """Load a table once; one that is damaged is not read again, either."""
        with self._lock:
            known = self._damaged.get((tag, track))
            if known is not None:
                raise copy.copy(known)
            try:
                # Another thread may have loaded it while this one waited.
                kept[track] = kept[track] if track in kept else load(self._source, track)
            except FormatError as error:
                self._damaged[tag, track] = copy.copy(error)  # without its traceback
                raise
            return kept[track]

    def token(self, index: int, track: int = 0) -> TokenRecord:
        """The token of block `index` of a track. Raises NotFoundError where there is none."""
        self._check_tokens()
        rmap = self.range_map(track)
        row = self._holes[track].row_of(index)
        if self._holes[track].is_lost(index):
            raise NotFoundError("that block is lost", where=f"track {track} block {index}")
        if not 0 <= row < len(rmap):
            raise NotFoundError("no such block", where=f"track {track}", found=index)
        return self._check_entry(row, rmap[row], track)

    def leaf(self, row: int, track: int = 0) -> tuple[int, TokenRecord]:
        """Leaf number and token of a stored block, by its row in the range map. Raises as `token` does."""
        entry = self.range_map(track)[row]
        return entry.leaf, self._check_entry(row, entry, track)

    def tokens(self, track: int = 0, start: int = 0) -> Iterator[TokenRecord]:
        """The tokens of a track from index `start` on, read as they are asked for. Raises as `token` does."""
        self._check_tokens()
        rmap = self.range_map(track)
        for row in range(self._holes[track].row_of(_natural(start)), len(rmap)):
            yield self._check_entry(row, rmap[row], track)

    def token_rows(self, track: int = 0, start: int = 0, count: int = 1024) -> NDArray[np.void]:
        """The tokens of the next blocks from index `start` on, as a NumPy array of TOKEN_DTYPE.

        (n,), 1 ≤ n ≤ `count`: as many as are sound and stand before a hole; (0,) behind the last block. What
        follows begins behind the last one's index. Raises as `token` does where the first is not sound.
        """
        self._check_tokens()
        rmap, holes = self.range_map(track), self._holes[track]
        row = holes.row_of(_natural(start))
        first = holes.index_of(row)
        count = min(holes.run(row, count), len(rmap) - row)
        if count <= 0:
            return np.empty(0, TOKEN_DTYPE)
        masked = self.tracks[track].info.masked
        found = read_rows(self._source, rmap, row, count, track=track, first=first, masked=masked)
        return found if len(found) else self._packed(row, rmap[row], track)

    def block_at(self, pts: int, track: int = 0) -> int:
        """The index of the first block that ends after `pts` µs; behind the last where the track has ended.

        O(log n). Raises UsageError for a negative time, and as `token` does.
        """
        self._check_tokens()
        rmap, holes = self.range_map(track), self._holes[track]
        row = rmap.at_time(_natural(pts, "a time"))
        if row < 0:
            return holes.index_of(0)
        return holes.index_of(row) + (pts >= self._check_entry(row, rmap[row], track).end)

    def _packed(self, row: int, entry: RangeEntry, track: int) -> NDArray[np.void]:
        """One token the slow way, which says what is wrong with it."""
        return np.frombuffer(self._check_entry(row, entry, track).pack(), TOKEN_DTYPE)

    def token_array(self, track: int = 0) -> NDArray[np.void]:
        """All tokens of a track as one NumPy array of TOKEN_DTYPE (128 bytes a block). Raises as `token`."""
        found, at = [], 0
        while len(rows := self.token_rows(track, at)):
            found.append(rows.tobytes())
            at = int(rows["index"][-1]) + 1
        return np.frombuffer(b"".join(found), TOKEN_DTYPE)  # joined by NumPy they would turn little-endian

    def blocks(self, track: int = 0, start: int = 0, *, digests: bool = True) -> Iterator[CoreChunk]:
        """The blocks of a track from index `start` on, each checked against its CRC and its token's digest.

        Without `digests` only against its CRC, for callers that hash the whole stream anyway. Memory: one
        block at a time. Raises ChecksumError, SealError and their kin at a damaged block.
        """
        rmap = self.range_map(track)
        for row in range(self._holes[track].row_of(_natural(start)), len(rmap)):
            yield self._block(row, rmap[row], track, digest=digests)

    def stored(self, row: int, track: int = 0) -> TokenRecord:
        """The token of the `row`-th stored block. Raises SealError and its kin."""
        return self._check_entry(row, self.range_map(track)[row], track)

    def stored_block(self, row: int, track: int = 0) -> CoreChunk:
        """The `row`-th stored block, checked as `blocks` does."""
        return self._block(row, self.range_map(track)[row], track)

    def key_slots(self) -> list[Slot]:
        """Who may open a masked container. Raises FormatError and its kin, SourceError."""
        return read_keys(self._source, len(self.trak.pack()))

    def stream_size(self, track: int = 0) -> int:
        """Length in bytes of the track's stream, holes included. Found once."""
        if track not in self._sizes:
            rmap = self.range_map(track)
            last = rmap[len(rmap) - 1] if len(rmap) else None
            self._sizes[track] = 0 if last is None else last.offset + last.size
        return self._sizes[track]

    def end(self, track: int = 0) -> int:
        """Where the track ends, µs: 0 without blocks. Reads the last token; raises SealError and its kin.

        Files of the original implementation say it of all tracks together.
        """
        rmap = self.range_map(track)
        if not len(rmap):
            if len(self.seek_table(track)):
                raise SealError("SEEK does not point at a block", where=f"track {track}")
            return 0
        if self.state == "original":
            return self.duration
        return self._check_entry(len(rmap) - 1, rmap[len(rmap) - 1], track).end

    def extents(self, start: int, length: int, track: int = 0) -> Iterator[tuple[int, int]]:
        """The (file offset, size) pieces that hold bytes `start` … `start + length` of the track's stream.

        Cut to the end of the stream. Raises, before the first piece, UsageError for negative numbers and
        NotFoundError where the range touches a hole of a recovered file.
        """
        if start < 0 or length < 0:
            raise UsageError("a range must not be negative", found=(start, length))
        flat = self.flat_map(track)
        if flat is not None:
            end = min(start + length, flat.end)
            return iter(flat.pieces(start, end - start) if start < end else ())
        end = min(start + length, self.stream_size(track))
        for hole_start, hole_end in self.byte_holes(track):
            if start < hole_end and hole_start < end:
                raise NotFoundError(f"bytes {hole_start} to {hole_end - 1} of track {track} are lost")
        return self._pieces(start, end, track)

    def byte_holes(self, track: int = 0) -> Sequence[tuple[int, int]]:
        """(start, stop) of the bytes of a track's stream that are lost, in order. Found once."""
        if track not in self._byte_holes:
            self._byte_holes[track] = list(self._holes[track].byte_ranges(self.range_map(track)))
        return self._byte_holes[track]

    def read(self, start: int, length: int, track: int = 0) -> bytes:
        """A byte range of the track's stream as one bytes object. Raises as `extents` does."""
        return b"".join(
            self.read_file(position, size) for position, size in self.extents(start, length, track)
        )

    def flat_map(self, track: int = 0) -> FlatMap | None:
        """The track's range map as columns, where it is in memory, checked and without holes; else None.

        Raises NotFoundError, FormatError and its kin.
        """
        if track not in self._flat:
            rmap = self.range_map(track)
            whole = track in self._opened.trusted and all(one.track != track for one in self.lost)
            self._flat[track] = rmap.flat(self.size) if whole else None
        return self._flat[track]

    def key_map(self, track: int = 0) -> KeyMap | None:
        """What `locate` says of a time, from memory alone; None where `flat_map` is None or SEEK is paged.

        Raises NotFoundError, FormatError and its kin.
        """
        flat, columns = self.flat_map(track), self.seek_table(track).columns()
        return None if flat is None or columns is None else KeyMap(*columns, flat)

    def read_file(self, position: int, size: int) -> bytes:
        """Bytes of the container's own file, as `extents` names them. Raises TruncatedError, SourceError."""
        return read_exact(self._source, position, size)

    def read_file_into(self, position: int, out: memoryview) -> None:
        """Fill `out`, which is writable, with bytes of the container's own file; raises as `read_file`."""
        read_into(self._source, position, out)

    def read_checked(self, start: int, length: int, track: int = 0) -> Iterator[memoryview]:
        """The pieces of a byte range, out of blocks that are read whole and checked as `blocks` does.

        Memory: one block at a time. Raises, before the first piece, as `extents` does; then as `blocks` does.
        """
        for position, size in self.extents(start, length, track):
            rmap = self.range_map(track)
            row = rmap.at_offset(start)
            block = self._block(row, rmap[row], track)
            skip = position - block.position
            yield memoryview(block.payload)[skip : skip + size]
            start += size

    def open(self, track: int = 0) -> BinaryIO:
        """The track's stream as a read-only, seekable, buffered file object.

        It shares the reader's source: close it first. It has a position of its own, so use one per thread.
        """
        self._check_track(track)
        return cast(BinaryIO, io.BufferedReader(BlockFile(self, track), 2**18))

    def _check_tokens(self) -> None:
        if self.state == "original":
            raise NotFoundError("files of the original implementation hold no tokens")

    def _pieces(self, start: int, end: int, track: int) -> Iterator[tuple[int, int]]:
        rmap = self.range_map(track)
        trusted = track in self._opened.trusted
        row = max(rmap.at_offset(start), 0)
        skip = start - rmap[row].offset if start < end else 0
        free = HEADER_SIZE
        while start < end:
            entry = rmap[row]
            # A CRC is no promise: whoever wrote the table may lie, but not make one byte count twice.
            fits = entry.offset + skip == start and 0 <= skip < entry.size
            if not fits or entry.position < free or entry.position + entry.size > self.size:
                raise SealError("RMAP is not a map of the stream", where=f"track {track}", found=entry)
            if not trusted:
                self._check_entry(row, entry, track)
            size = min(entry.size - skip, end - start)
            yield entry.position + skip, size
            free = entry.position + entry.size
            start += size
            row += 1
            skip = 0

    def _block(self, row: int, entry: RangeEntry, track: int, *, digest: bool = True) -> CoreChunk:
        """A block, checked against its CRC and its token's digest. Raises ChecksumError, SealError."""
        at = entry.position - CHUNK_SIZE
        token: TokenRecord | None = None
        if self.state == "original":
            info = ChunkInfo.unpack(read_exact(self._source, at, CHUNK_SIZE), at, self.size)
        else:
            token, info = self._checked(row, entry, track)
        # By itself: cut off from its header it would be copied.
        payload = read_exact(self._source, entry.position, entry.size)
        if crc32(payload) != info.crc:
            raise ChecksumError(f"block {row} of track {track} fails its CRC", where=at)
        if digest and token is not None and sha256(payload) != token.digest:
            raise SealError(f"block {row} of track {track} fails its digest", where=at)
        return CoreChunk(token, payload, entry.position, info.crc)

    def _row_of_key(self, offset: int, track: int) -> int:
        """The row of the block at an offset that SEEK names. Raises SealError where there is none."""
        rmap = self.range_map(track)
        row = rmap.at_offset(offset)
        if self.state != "original" and (row < 0 or rmap.offset_of(row) != offset):
            raise SealError("SEEK does not point at a block", where=f"track {track}", found=offset)
        return row

    def _min_pts(self, entry: SeekEntry, track: int) -> int:
        row = self._row_of_key(entry.offset, track)
        return self._check_entry(row, self.range_map(track)[row], track).min_pts

    def _check_entry(self, row: int, entry: RangeEntry, track: int) -> TokenRecord:
        """The token that stands before an entry's payload; both must agree. Raises SealError and its kin."""
        return self._checked(row, entry, track)[0]

    def _checked(self, row: int, entry: RangeEntry, track: int) -> tuple[TokenRecord, ChunkInfo]:
        """The same, and the header of the payload's chunk."""
        self._check_tokens()
        at = entry.position - BEFORE
        data = read_exact(self._source, max(at, 0), BEFORE)
        info = ChunkInfo.unpack(data, at, self.size)
        packed = data[CHUNK_SIZE : CHUNK_SIZE + TOKEN_SIZE]
        if info.tag != "TOKN" or info.size != TOKEN_SIZE:
            raise SealError("RMAP does not point at a block", where=entry.position)
        if crc32(packed) != info.crc:
            raise ChecksumError("chunk TOKN fails its CRC", where=at)
        token = TokenRecord.unpack(packed)
        payload = ChunkInfo.unpack(data[CHUNK_SIZE + TOKEN_SIZE :], entry.position - CHUNK_SIZE, self.size)
        wanted = (track, self._holes[track].index_of(row), entry.pts, entry.offset, entry.size, entry.flags)
        found = (token.track, token.index, token.pts, token.offset, token.size, token.flags)
        tag = "SAFE" if self.tracks[track].info.masked else "CORE"
        if wanted != found or (payload.tag, payload.size) != (tag, entry.size):
            raise SealError("RMAP and TOKN differ", where=entry.position, expected=wanted, found=found)
        return token, payload


def _natural(value: int, what: str = "a block index") -> int:
    if value < 0:
        raise UsageError(f"{what} must not be negative", found=value)
    return value
