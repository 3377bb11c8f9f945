"""A source as blocks: demuxed and cut at keyframes, or opaque and cut by size (H4MK, "Time").

Both are iterators of (Block, bytes) that read the source once; what they know of the track stands in their
attributes once the first block has come or the iterator has ended without one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np

from harmony4.crypto.errors import MediaError, StorageError
from harmony4.tokenize.cut import Block, Cutter
from harmony4.tokenize.demux import BUFFER, Demuxed, Demuxer, StreamFacts, clock_of
from harmony4.tokenize.feed import Feed, SeekableFile, Spool, discard, regular_file
from harmony4.tokenize.packet import Packet
from harmony4.tokenize.packettable import PacketTable
from harmony4.tokenize.scan import WALKERS, Boxes, Packets, Samples, Scanner
from harmony4.tokenize.sniff import Format
from harmony4.tokenize.timeline import Step, Timeline, micros, unroll
from harmony4.tokenize.tokens import Source

__all__ = [
    "AUDIO_SPAN",
    "MEMORY",
    "Blocks",
    "MediaBlocks",
    "OpaqueBlocks",
    "TrackFacts",
    "index_last",
    "missing_note",
    "spooled",
]

AUDIO_SPAN = 1_000_000
"""Least distance of KEY blocks where sound is the clock, µs: each of its packets is a keyframe."""
MEMORY = 32 * 2**20
"""Bytes that may wait in memory for a decision; more go to the spool."""
_AT_ONCE = 4 * 2**20  # read before a look at packets that came together
_PIECE = 2**20  # read at a time once no demuxer sets the pace


@dataclass(frozen=True, slots=True)
class TrackFacts:
    """What TRAK says about the track (H4MK, TRAK)."""

    codec: str
    """FFmpeg's codec names in stream order, joined by commas; empty if opaque."""
    kind: str
    """video, audio, text, tokens or data."""
    media_type: str
    self_framing: bool
    """Header blocks and any KEY group play alone."""
    span: int
    """Least distance of KEY blocks, µs."""
    start_ticks: int
    start_num: int
    start_den: int
    stream: int
    """Index of the clock stream in the source."""
    timing: str
    """demux, or hint for opaque blocks."""


class Blocks(ABC):
    """What the two kinds have in common."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.track: TrackFacts | None = None
        self.origin = 0
        """µs on the source's own clock where the container's timeline starts."""
        self.steps: list[Step] = []
        self.note: str | None = None
        """Why the demuxer stopped before the source ended, or how much the source lacks at its end."""
        self.spooled = False
        """Whether all of the source was read before the first block."""
        self.end = 0
        """Where the track ends, µs; certain once the iterator has ended."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        """The blocks in order, with their bytes."""


class OpaqueBlocks(Blocks):
    """Blocks of equal size and equal duration, each its own keyframe."""

    def __init__(self, feed: Feed, size: int, media_type: str, num: int, den: int) -> None:
        """Blocks of `size` bytes and num/den s."""
        super().__init__(feed)
        self._size, self._num, self._den = size, num, den
        self.track = TrackFacts("", "data", media_type, False, 0, 0, num, den, 0, "hint")

    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        index = start = 0
        while data := self._feed.next(self._size):
            pts = micros(index, self._num, self._den)
            yield Block(start, len(data), pts, True, False, None), data
            start += len(data)
            index += 1
        self.end = micros(index, self._num, self._den)


class MediaBlocks(Blocks):
    """Blocks of a medium that a demuxer reads, cut by the rule of `cut.py`."""

    def __init__(
        self, feed: Feed, source: Source, found: Format, *, size: int, demuxer: Demuxer, spool: Spool
    ) -> None:
        """Blocks of at most `size` bytes; `source` is what `feed` reads."""
        super().__init__(feed)
        self._source = source
        self._found = found
        self._size = size
        self._demuxer = demuxer
        self._spool = spool
        self._scanned = 0
        self._cutter: Cutter
        self._scanner: Scanner

    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        """Raises MediaError, SourceError, StorageError."""
        if self._found.name != "mp4" or not index_last(self._feed):
            yield from self._run(None)
            return
        size = regular_file(self._source, self._feed.size)
        if size is not None:
            yield from self._run(SeekableFile(cast(BinaryIO, self._source), size))
            return
        # An MP4 with its index at the end, out of a pipe: all of it must be there before the first packet.
        self.spooled = True
        spool = self._spool()
        try:
            size = spooled(self._feed, spool)
            with closing(Feed(spool, self._spool, memory=MEMORY)) as self._feed:
                yield from self._run(SeekableFile(spool, size))
        finally:
            discard(spool)

    def _run(self, file: SeekableFile | None) -> Iterator[tuple[Block, bytes]]:
        feed = self._feed
        try:
            with self._demuxer(feed if file is None else file, self._found.name) as media:
                clock = self._open(media, in_order=file is None)
                for some in media:
                    first = some if isinstance(some, Packet) else some.first
                    if file is not None and first.stream == clock.index and first.pos is not None:
                        feed.pull(first.pos + first.size)
                    self._scan()
                    if self.track is None:
                        self._describe(media, clock, first.pos)
                    if isinstance(some, Packet):
                        blocks = self._cutter.packet(some)
                    elif file is None:
                        blocks = self._cutter.packets(some)
                    else:
                        yield from self._jumping(some, clock.index)
                        continue
                    for block in blocks:
                        yield self._cut(block)
            if feed.error is not None:  # FFmpeg took it for the end
                raise feed.error
        except MediaError as error:
            if feed.error is not None:
                raise feed.error from error
            raise
        self._scan()
        if self.track is None:
            self._describe(media, clock, None)
        yield from self._rest()
        self.note = media.stopped or missing_note(self._scanner.missing)

    def _jumping(self, packets: PacketTable, clock: int) -> Iterator[tuple[Block, bytes]]:
        """Packets out of a file that the demuxer reads by itself: with the bytes up to the end of each."""
        mine = packets.stream == clock
        ends = np.clip(packets.pos, 0, 2**62) + packets.size
        reach = np.maximum.accumulate(np.where(mine, ends, 0))
        done = 0
        while done < len(packets):
            stop = max(done + 1, int(np.searchsorted(reach, self._feed.size + _AT_ONCE, "right")))
            self._feed.pull(int(reach[stop - 1]))
            self._scan()
            for block in self._cutter.packets(packets[done:stop]):
                yield self._cut(block)
            done = stop

    def _rest(self) -> Iterator[tuple[Block, bytes]]:
        cutter, feed = self._cutter, self._feed
        for block in cutter.packets_end():
            yield self._cut(block)
        while not feed.ended:
            before = feed.size
            feed.pull(before + _PIECE)
            # No packet asks any more, but the end may tell that it comes too early.
            self._scanner.feed(feed.peek(before, feed.size - before))
            for block in cutter.skip(feed.size - before):
                yield self._cut(block)
        for block in cutter.finish():
            yield self._cut(block)
        self.end = cutter.end

    def _open(self, media: Demuxed, *, in_order: bool) -> StreamFacts:
        clock = clock_of(media.streams)
        if clock is None:
            raise MediaError(
                "it holds neither video nor audio (--raw would store it as it is)", where=self._found.name
            )
        wraps = self._found.name == "mpegts"
        self.origin = _origin(media.streams, clock, wraps)
        timeline = Timeline(clock.num, clock.den, origin=self.origin, wraps=wraps, start=clock.start)
        self.steps = timeline.steps
        self._scanner = _scanner(self._found, clock)
        self._cutter = Cutter(
            self._size,
            self._scanner,
            timeline,
            clock=clock.index,
            span=0 if clock.kind == "video" else AUDIO_SPAN,
            in_order=in_order,
        )
        return clock

    def _describe(self, media: Demuxed, clock: StreamFacts, first: int | None) -> None:
        """`first`: where the first packet lies. A fragment before it makes an MP4 a fragmented one."""
        video = clock.kind == "video"
        fragmented = isinstance(self._scanner, Boxes) and self._scanner.fragment_before(first)
        self.track = TrackFacts(
            codec=",".join(stream.codec for stream in media.streams),
            kind=clock.kind,
            media_type=self._found.video_type if video else self._found.audio_type,
            self_framing=self._found.name != "mp4" or fragmented,
            span=0 if video else AUDIO_SPAN,
            start_ticks=clock.start or 0,
            start_num=clock.num,
            start_den=clock.den,
            stream=clock.index,
            timing="demux",
        )

    def _scan(self) -> None:
        """Show the cutter what was read since the last time."""
        while self._scanned < self._feed.size:
            if self._scanner.reads:
                piece = self._feed.peek(self._scanned, _PIECE)
                self._cutter.feed(piece)
                self._scanned += len(piece)
            else:
                self._cutter.skip(self._feed.size - self._scanned)
                self._scanned = self._feed.size

    def _cut(self, block: Block) -> tuple[Block, bytes]:
        return block, self._feed.take(block.size)


def missing_note(size: int) -> str | None:
    """What `Scanner.missing` means for a user."""
    return f"{size} bytes are missing at the end" if size else None


def index_last(feed: Feed) -> bool:
    """Whether an MP4's media come before its index: read on until one of them has shown.

    Raises SourceError.
    """
    boxes = Boxes()
    at = 0
    while True:
        boxes.feed(feed.peek(at, feed.size - at))
        at = feed.size
        if boxes.order is not None or feed.ended:
            return boxes.order == "mdat"
        feed.pull(at + BUFFER)


def spooled(feed: Feed, spool: BinaryIO) -> int:
    """Put the rest of a source into `spool`; its size in bytes. Raises SourceError, StorageError."""
    size = 0
    while data := feed.next(_PIECE):
        with _spooling():
            spool.write(data)
        size += len(data)
    with _spooling():
        spool.flush()
        spool.seek(0)
    return size


@contextmanager
def _spooling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the source cannot be spooled: {error.strerror or error}") from error


def _origin(streams: tuple[StreamFacts, ...], clock: StreamFacts, wraps: bool) -> int:
    """The least start of a stream in floored µs; on a clock that wraps: nearest to the clock stream's."""
    return min(
        (
            micros(unroll(stream.start, clock.start) if wraps else stream.start, stream.num, stream.den)
            for stream in streams
            if stream.start is not None
        ),
        default=0,
    )


def _scanner(found: Format, clock: StreamFacts) -> Scanner:
    if found.name == "mpegts":
        return Packets(clock.id, found.packet)
    return WALKERS.get(found.name, Samples)()
