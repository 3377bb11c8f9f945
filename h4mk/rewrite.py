"""What operations on whole containers share: which may be rewritten, and blocks in the order of a file."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import UsageError
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk.builder import H4MKBuilder
from harmony4.h4mk.documents import Lost, Meta, TrackInfo
from harmony4.h4mk.reader import H4MKReader
from harmony4.h4mk.target import Writable

__all__ = [
    "Block",
    "Progress",
    "add_blocks",
    "builder_on",
    "lost_tracks",
    "renumbered",
    "rewritable",
    "stored_blocks",
]

Block = tuple[TokenRecord, Buffer]
Progress = Callable[[int, int | None], object]
"""Called with payload bytes written so far, and how many there will be, None where nobody knows."""


def rewritable(reader: H4MKReader, done: str, where: str | None = None) -> Meta:
    """META of a container whose blocks may be written anew; `done` and `where` are for the error.

    Raises UsageError for one that is not sealed, masked or signed.
    """
    meta = reader.meta
    if meta is None:
        raise UsageError(f"only a sealed container can be {done}", where=where, found=reader.state)
    if any(track.info.masked for track in reader.tracks):
        raise UsageError(
            f"a masked container cannot be {done}: its blocks are bound to their numbers", where=where
        )
    if not reader.is_plain():
        raise UsageError(
            f"a signed container cannot be {done}: what is signed is the file as it is", where=where
        )
    return meta


def builder_on(
    out: str | PathLike[str] | Writable, tracks: Sequence[TrackInfo], **options: Any
) -> H4MKBuilder:
    """A builder for a path or for anything with `write`; `options` as it takes them."""
    if isinstance(out, str | PathLike):
        return H4MKBuilder.to_path(out, tracks, **options)
    return H4MKBuilder(out, tracks, **options)


def add_blocks(
    builder: H4MKBuilder,
    streams: Iterable[Iterator[Block]],
    progress: Progress | None,
    total: int | None = None,
) -> None:
    """All blocks in the order of a file; each stream is one track's, in order of index."""
    done = 0
    for token, payload in heapq.merge(*streams, key=_place):
        builder.add_token(token, payload)
        done += token.size
        if progress is not None:
            progress(done, total)


def _place(block: Block) -> tuple[int, int, int]:
    """A block's place in a file (H4MK 17.1)."""
    return block[0].end, block[0].track, block[0].index


def stored_blocks(reader: H4MKReader, track: int, start: int = 0) -> Iterator[Block]:
    """A track's blocks from index `start` on, as they are. Raises ChecksumError, SealError and their kin."""
    for block in reader.blocks(track, start):
        assert block.token is not None
        yield block.token, block.payload


def renumbered(blocks: Iterator[Block], track: int) -> Iterator[Block]:
    """The same blocks as those of another track."""
    for token, payload in blocks:
        yield replace(token, track=track), payload


def lost_tracks(lost: Iterable[Lost]) -> list[int]:
    """Tracks whose blocks are all lost."""
    return [hole.track for hole in lost if (hole.count, hole.first) == (0, 0)]
