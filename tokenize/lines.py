"""Text as blocks, cut at its cues or lines (H4MK 16.10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harmony4.tokenize.cut import Block
from harmony4.tokenize.feed import Feed
from harmony4.tokenize.media import AUDIO_SPAN, Blocks, TrackFacts
from harmony4.tokenize.sniff import Format
from harmony4.tokenize.text import Cues, Entry, Records, TextScanner

__all__ = ["TEXT", "TextBlocks"]

_VTT: Final = "webvtt"
TEXT: Final = (_VTT, "jsonl")
"""Names of the formats that are cut here."""
_PIECE: Final = 2**16


class TextBlocks(Blocks):
    """Blocks of text: those before the first entry are headers, and entries a span apart open KEY blocks."""

    def __init__(self, feed: Feed, found: Format, size: int) -> None:
        """Blocks of at most `size` bytes."""
        super().__init__(feed)
        cues = found.name == _VTT
        kind = "text" if cues else "tokens"
        self.track = TrackFacts(
            found.name,
            kind,
            found.video_type,
            True,
            AUDIO_SPAN,
            0,
            1,
            1000 if cues else 1_000_000,
            0,
            "demux",
        )
        self._scanner: TextScanner = Cues() if cues else Records()
        self._size = size
        self._start = 0  # of the open block
        self._pts = 0
        self._key = False
        self._header = True
        self._least: int | None = None  # least time of an entry in it
        self._last = 0  # time of the last KEY block
        self._seen = 0  # greatest time of an entry so far

    def __iter__(self) -> Iterator[tuple[Block, bytes]]:
        """Raises SourceError, StorageError."""
        feed, scanner = self._feed, self._scanner
        scanned = 0
        while scanned < feed.size or not feed.ended:
            feed.pull(scanned + _PIECE)
            piece = feed.peek(scanned, _PIECE)
            scanned += len(piece)
            for entry in scanner.feed(piece):
                yield from self._entry(entry)
            yield from self._continue(scanner.settled)
        for entry in scanner.finish():
            yield from self._entry(entry)
        yield from self._continue(scanned)
        yield self._close(scanned)  # not empty: nothing that is empty is recognised as text

    def _entry(self, entry: Entry) -> Iterator[tuple[Block, bytes]]:
        opens = self._header or entry.pts >= self._last + AUDIO_SPAN
        # A block may not end where one opens by itself; what opens none belongs to the block that holds it.
        yield from self._continue(entry.start if opens else entry.start + 1)
        if opens:
            if entry.start > self._start:
                yield self._close(entry.start)
            self._key, self._header = True, False
            self._pts = self._last = entry.pts
        self._least = entry.pts if self._least is None else min(self._least, entry.pts)
        self._seen = max(self._seen, entry.pts)
        self.end = max(self.end, entry.end)

    def _continue(self, before: int) -> Iterator[tuple[Block, bytes]]:
        """Blocks of the greatest size that end before a byte."""
        while self._start + self._size < before:
            yield self._close(self._start + self._size)

    def _close(self, boundary: int) -> tuple[Block, bytes]:
        """End the open block at `boundary`; the next one continues it until a key opens."""
        size = boundary - self._start
        block = Block(self._start, size, self._pts, self._key, self._header, self._least)
        self._start, self._key, self._least = boundary, False, None
        self._pts = max(self._pts, self._seen)
        return block, self._feed.take(size)
