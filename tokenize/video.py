"""Video (and audio) transport tokens: opaque blocks with an explicit time, cut at keyframes.

`VideoTransportTokenizer` reads a medium once, in order, and yields its blocks with complete token records,
each one block late (a token names where its successor starts). `VideoTokenizer` is the same over a whole
buffer. Nothing here decodes, opens files, or talks to a network.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import FormatError, UsageError
from harmony4.crypto.token import (
    DEFAULT_BLOCK,
    HEADER,
    KEY,
    LAST,
    MASKED,
    MAX_BLOCK,
    NONE,
    TOKEN_SIZE,
    TokenRecord,
    TokenSequencer,
)
from harmony4.tokenize.demux import Demuxer, demux
from harmony4.tokenize.feed import Feed, Spool
from harmony4.tokenize.lines import TEXT, TextBlocks
from harmony4.tokenize.media import MEMORY, Blocks, MediaBlocks, OpaqueBlocks, TrackFacts
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.timeline import Step
from harmony4.tokenize.tokens import Source, Token, Tokenizer

__all__ = ["DEFAULT_FPS", "DEFAULT_GOP", "VideoBlockToken", "VideoTokenizer", "VideoTransportTokenizer"]

DEFAULT_FPS = Fraction(30)
DEFAULT_GOP = 30

_INLINE = 2**16  # below this a digest costs less than handing it to a thread
_PENDING = bytes(32)


@dataclass(frozen=True, slots=True)
class VideoBlockToken(Token):
    """One block of a medium: its record, and its bytes as an opaque payload."""

    record: TokenRecord
    data: bytes

    def metadata(self) -> dict[str, Any]:
        """The record as JSON values; times in µs, sizes in bytes."""
        record = self.record
        return {
            "track": record.track,
            "index": record.index,
            "pts": record.pts,
            "end": record.end,
            "offset": record.offset,
            "size": record.size,
            "key": bool(record.flags & KEY),
            "header": bool(record.flags & HEADER),
            "masked": bool(record.flags & MASKED),
            "last": bool(record.flags & LAST),
            "key_pts": None if record.key_pts == NONE else record.key_pts,
            "key_offset": None if record.key_offset == NONE else record.key_offset,
            "min_pts": record.min_pts,
            "sha256": record.digest.hex(),
        }

    def serialize(self) -> bytes:
        """The 128 bytes of TOKN; no byte of the media."""
        return self.record.pack()


class VideoTransportTokenizer(Tokenizer[VideoBlockToken]):
    """Cuts a medium into blocks at its keyframes (H4MK, "Time").

    One tokenizer reads one source. `track`, `origin`, `steps` and `note` are set once the first token has
    come, or the iterator has ended without one.
    """

    def __init__(
        self,
        *,
        block_size: int = DEFAULT_BLOCK,
        raw: bool = False,
        fps_hint: Fraction | None = None,
        gop: int | None = None,
        demuxer: Demuxer = demux,
        spool: Spool = io.BytesIO,
    ) -> None:
        """Blocks of at most `block_size` bytes (1 … 16 MiB).

        `raw`: opaque blocks cut by size, timed by `fps_hint` frames/s (30) and `gop` frames a block (30),
        which also time what no sniffer knows. `demuxer` opens recognised media; `spool` makes a file for
        bytes that wait longer than memory should hold them. Raises UsageError.
        """
        if not 0 < block_size <= MAX_BLOCK:
            raise UsageError("the block size is out of range", expected=f"1 to {MAX_BLOCK}", found=block_size)
        fps = DEFAULT_FPS if fps_hint is None else fps_hint
        frames = DEFAULT_GOP if gop is None else gop
        if fps <= 0 or frames < 1:
            raise UsageError("fps and gop must be positive", found=f"fps {fps}, gop {frames}")
        num, den = fps.denominator * frames, fps.numerator  # seconds a block
        if max(num, den) >= 2**31 or num * 1_000_000 < den:
            raise UsageError("fps and gop give no sensible block duration", found=f"fps {fps}, gop {frames}")
        self._size = block_size
        self._raw = raw
        self._num, self._den = num, den
        self._demuxer = demuxer
        self._spool = spool
        self._feed: Feed | None = None
        self._blocks: Blocks | None = None

    @property
    def track(self) -> TrackFacts | None:
        """What TRAK says about the track."""
        return self._blocks.track if self._blocks else None

    @property
    def origin(self) -> int:
        """µs on the source's own clock where the container's timeline starts."""
        return self._blocks.origin if self._blocks else 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """Where the timeline departs from the source's own PTS, so far."""
        return tuple(self._blocks.steps) if self._blocks else ()

    @property
    def note(self) -> str | None:
        """Why the demuxer stopped too early, or how much the source lacks; None if all is there."""
        return self._blocks.note if self._blocks else None

    @property
    def spooled(self) -> bool:
        """Whether all of the source was needed for the first token: an MP4 with its index at the end."""
        return self._blocks.spooled if self._blocks else False

    @property
    def consumed(self) -> int:
        """Bytes of the source read so far."""
        return self._feed.size if self._feed else 0

    def encode(self, source: Source) -> Iterator[VideoBlockToken]:
        """Read `source` (a binary file or pieces of bytes) once and yield its tokens.

        Raises MediaError where a recognised format cannot be demuxed, SourceError, StorageError (the spool),
        UsageError for a second source.
        """
        if self._feed is not None:
            raise UsageError("a tokenizer reads one source; make another one")
        self._feed = Feed(source, self._spool, memory=MEMORY)
        return self._encode(source, self._feed)

    def decode(self, data: bytes) -> list[VideoBlockToken]:
        """Parse concatenated token records; their payloads are empty. Raises FormatError and its kin."""
        if len(data) % TOKEN_SIZE:
            raise FormatError(
                "not a whole number of tokens", expected=f"n × {TOKEN_SIZE} bytes", found=len(data)
            )
        return [
            VideoBlockToken(TokenRecord.unpack(data[i : i + TOKEN_SIZE]), b"")
            for i in range(0, len(data), TOKEN_SIZE)
        ]

    def _encode(self, source: Source, feed: Feed) -> Iterator[VideoBlockToken]:
        # One thread for digests: a block's is computed while the next one is read and cut.
        with closing(feed), ThreadPoolExecutor(1, "harmony4-token") as hasher:
            feed.pull(SNIFF_SIZE)
            found = sniff(feed.peek(0, SNIFF_SIZE))
            if self._raw or found is None:
                media_type = found.video_type if found else "application/octet-stream"
                blocks: Blocks = OpaqueBlocks(feed, self._size, media_type, self._num, self._den)
            elif found.name in TEXT:
                blocks = TextBlocks(feed, found, self._size)
            else:
                blocks = MediaBlocks(
                    feed, source, found, size=self._size, demuxer=self._demuxer, spool=self._spool
                )
            self._blocks = blocks
            yield from _tokens(blocks, hasher)


class VideoTokenizer(Tokenizer[VideoBlockToken]):
    """The simple one: a whole buffer in, a list of tokens out."""

    def __init__(self, **options: Any) -> None:
        """The options of `VideoTransportTokenizer`."""
        self._options = options
        VideoTransportTokenizer(**options)  # wrong ones are refused here, not later

    def encode(self, source: Source) -> Iterator[VideoBlockToken]:
        """As `VideoTransportTokenizer.encode`, any number of times."""
        return VideoTransportTokenizer(**self._options).encode(source)

    def tokens(self, data: bytes | bytearray | memoryview) -> list[VideoBlockToken]:
        """All tokens of a whole medium. Raises MediaError."""
        return list(self.encode(io.BytesIO(data)))

    def decode(self, data: bytes) -> list[VideoBlockToken]:
        """As `VideoTransportTokenizer.decode`."""
        return VideoTransportTokenizer().decode(data)


def _tokens(blocks: Blocks, hasher: ThreadPoolExecutor) -> Iterator[VideoBlockToken]:
    sequencer = TokenSequencer()
    held: tuple[bytes, Future[bytes] | bytes] | None = None
    for block, data in blocks:
        digest = sha256(data) if len(data) < _INLINE else hasher.submit(sha256, data)
        # The sequencer gives back the block before, whose digest is known by now or very soon.
        record = sequencer.push(
            block.size, _PENDING, block.pts, key=block.key, header=block.header, min_pts=block.min_pts
        )
        if record is not None and held is not None:
            yield _complete(record, *held)
        held = data, digest
    record = sequencer.finish(blocks.end)
    if record is not None and held is not None:
        yield _complete(record, *held)


def _complete(record: TokenRecord, data: bytes, digest: Future[bytes] | bytes) -> VideoBlockToken:
    value = digest if isinstance(digest, bytes) else digest.result()
    return VideoBlockToken(replace(record, digest=value), data)
