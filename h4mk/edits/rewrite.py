"""What operations on whole containers share: which may be rewritten, and blocks in the order of a file."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Final

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import UsageError
from harmony4.crypto.token import NONE, TokenRecord
from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.documents import Lost, Meta, Step, StoredTrack, TrackInfo, Trak
from harmony4.h4mk.edits.target import Writable
from harmony4.h4mk.reader import H4MKReader

__all__ = [
    "PART",
    "Block",
    "Progress",
    "Target",
    "add_blocks",
    "builder_on",
    "by_track",
    "check_alone",
    "file_order",
    "in_order",
    "inputs_of",
    "kept_ancillary",
    "lost_tracks",
    "moved",
    "renumbered",
    "rewritable",
    "stored_blocks",
    "write_edited",
]

PART: Final = "part"
"""Tag of the ancillary chunk that keeps what a container's blocks do not say of it (H4MK 14.3)."""

Block = tuple[TokenRecord, Buffer]
Target = str | PathLike[str] | Writable
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
            f"a masked container cannot be {done}, as its blocks are bound to their numbers; "
            "`harmony4 unmask` makes the plain one first",
            where=where,
        )
    if not reader.is_plain():
        raise UsageError(
            f"a signed container cannot be {done}: what is signed is the file as it is", where=where
        )
    return meta


def builder_on(out: Target, tracks: Sequence[TrackInfo], **options: Any) -> H4MKBuilder:
    """A builder for a path or for anything with `write`; `options` as it takes them."""
    if isinstance(out, str | PathLike):
        return H4MKBuilder.to_path(out, tracks, ahead=True, **options)
    return H4MKBuilder(out, tracks, **options)


def add_blocks(
    builder: H4MKBuilder,
    streams: Iterable[Iterator[Block]],
    progress: Progress | None,
    total: int | None = None,
) -> None:
    """All blocks in the order of a file; each stream is one track's, in order of index."""
    done = 0
    for token, payload in heapq.merge(*streams, key=file_order):
        builder.add_token(token, payload)
        done += token.size
        if progress is not None:
            progress(done, total)


def file_order(block: tuple[TokenRecord, *tuple[Any, ...]]) -> tuple[int, int, int]:
    """A block's place in a file (H4MK 17.1); its token comes first."""
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


def write_edited(
    out: Target,
    trak: Trak,
    meta: Meta,
    streams: Iterable[Iterator[Block]],
    *,
    ancillary: Sequence[tuple[str, bytes]],
    gone: Sequence[int],
    progress: Progress | None,
    total: int,
) -> Seal:
    """Write the container with what `trak` and `meta` say that the blocks do not; an edit's last step.

    Raises what H4MKBuilder raises, and before anything is written LimitError for more than META holds.
    """
    nothing = StoredTrack(0, 0, 0, 0, 0, bytes(32))
    replace(meta, tracks=(nothing,) * len(trak.tracks), lost=(), ancillary=()).pack()
    options = {"origin": trak.origin, "block": trak.block, "rule": trak.rule, "title": meta.title}
    with builder_on(out, trak.tracks, gaps=bool(meta.lost), **options) as builder:
        add_blocks(builder, streams, progress, total)
        return builder.finish(
            steps=meta.steps,
            history=meta.history,
            ancillary=ancillary,
            structure_only=meta.structure_only,
            gone=gone,
        )


def inputs_of(readers: Iterable[H4MKReader]) -> tuple[dict[str, str], ...]:
    """What history says of containers that were read (H4MK 10.3)."""
    return tuple({"head": reader.head.hex()} for reader in readers if reader.head is not None)


def kept_ancillary(readers: Iterable[H4MKReader]) -> list[tuple[str, bytes]]:
    """The ancillary chunks, but for those that say of blocks what is not true any more (H4MK 14.3)."""
    return [one for reader in readers for one in reader.ancillary() if one[0] != PART]


def check_alone(reader: H4MKReader, done: str, place: str = "") -> None:
    """Raise UsageError where groups of blocks say nothing to a decoder; opaque blocks never do."""
    for number, track in enumerate(reader.trak.tracks):
        if track.timing == "demux" and not track.self_framing:
            raise UsageError(
                f"{place}track {number} cannot be {done}: its blocks do not decode alone; "
                "`harmony4 export --remux` makes a container of the media whose blocks do"
            )


def by_track(steps: Iterable[Step]) -> defaultdict[int, list[Step]]:
    """The steps of each track."""
    found: defaultdict[int, list[Step]] = defaultdict(list)
    for step in steps:
        found[step.track].append(step)
    return found


def in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Steps as META holds them."""
    return tuple(sorted(steps, key=lambda step: (step.pts, step.track)))


def moved(token: TokenRecord, indices: int, size: int, time: int) -> TokenRecord:
    """A token `indices` blocks, `size` bytes and `time` µs later."""
    grouped = token.key_offset != NONE
    return replace(
        token,
        index=token.index + indices,
        offset=token.offset + size,
        pts=token.pts + time,
        end=token.end + time,
        min_pts=max(0, token.min_pts + time),
        key_pts=token.key_pts + time if grouped else NONE,
        key_offset=token.key_offset + size if grouped else NONE,
    )
