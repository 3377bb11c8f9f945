"""Edits that decode nothing: a time cut out, containers put together, tracks kept (H4MK 17.5 to 17.8).

    with H4MKReader("film.h4mk") as film:
        cut(film, "scene.h4mk", 60_000_000, 90_000_000)
        keep_tracks(film, "sound.h4mk", [1])
    with H4MKReader("one.h4mk") as one, H4MKReader("two.h4mk") as two:
        concat([one, two], "both.h4mk")

Payloads stay as they are, and are checked while they are read; tokens get their new numbers and times.
META's history says what was done to what. Memory holds one block per track, the tables of the inputs
(40 bytes a block up to 8 MiB each, pages beyond), and their ancillary chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from harmony4.crypto.errors import NotFoundError, SealError, UsageError
from harmony4.crypto.token import HEADER, KEY, LAST, MAX_VALUE, TokenRecord
from harmony4.h4mk.builder import Seal
from harmony4.h4mk.documents import HistoryEntry, Meta, Step
from harmony4.h4mk.edits.concat import concat
from harmony4.h4mk.edits.rewrite import (
    Block,
    Progress,
    Target,
    by_track,
    check_alone,
    in_order,
    inputs_of,
    kept_ancillary,
    lost_tracks,
    moved,
    renumbered,
    rewritable,
    stored_blocks,
    write_edited,
)
from harmony4.h4mk.reader import H4MKReader

__all__ = ["CutReport", "Span", "concat", "cut", "keep_tracks"]


@dataclass(frozen=True, slots=True)
class Span:
    """What a cut took of a track, in µs of the timeline that it was taken from."""

    pts: int
    """PTS of its first KEY block."""
    end: int
    """From `pts` to here all is shown."""
    following: int | None
    """PTS of the first KEY block behind it; None: there is none."""


@dataclass(frozen=True, slots=True)
class CutReport:
    """What a cut took."""

    seal: Seal
    start: int
    """The moment of the source that is 0 in the cut, µs."""
    spans: tuple[Span | None, ...]
    """One a track; None where the track has nothing in that time."""


def cut(
    reader: H4MKReader,
    out: Target,
    start: int = 0,
    end: int | None = None,
    *,
    title: str | None = None,
    progress: Progress | None = None,
) -> CutReport:
    """Write the groups that show [start, end) µs, without `end` all from `start` on (H4MK 17.6).

    Every track keeps its HEADER blocks; one with nothing in that time is empty then. `title`: default the
    source's. A path appears complete or not at all. Raises UsageError for what cannot be cut and for times
    that are no interval, NotFoundError where no track has anything in that time, and what reading and
    H4MKBuilder raise.
    """
    meta = rewritable(reader, "cut")
    if start < 0 or (end is not None and not start < end <= MAX_VALUE):
        raise UsageError("a cut begins at 0 or later and ends after it begins", found=f"{start} to {end}")
    check_alone(reader, "cut")
    numbers = range(len(reader.tracks))
    pieces = [_piece(reader, track, start, end) for track in numbers]
    taken = [piece for piece in pieces if piece is not None]
    if not taken:
        until = "the end" if end is None else f"{end} µs"
        raise NotFoundError("no track has anything in that time", found=f"{start} µs to {until}")
    zero = min(piece.least for piece in taken)
    origin, steps = _cut_steps(reader, meta, taken, zero)
    # Of a track with holes nobody knows what they showed: it is not empty, it is lost.
    holed = {hole.track for hole in meta.lost}
    arguments = {"at": zero, "from": start} | ({} if end is None else {"to": end})
    seal = write_edited(
        out,
        replace(reader.trak, origin=origin),
        replace(
            meta,
            title=meta.title if title is None else title,
            steps=steps,
            history=(*meta.history, HistoryEntry("cut", arguments, inputs_of([reader]))),
        ),
        [_cut_blocks(reader, piece, zero) for piece in taken],
        ancillary=kept_ancillary([reader]),
        gone=[track for track in numbers if pieces[track] is None and track in holed],
        progress=progress,
        total=sum(piece.bytes for piece in taken),
    )
    return CutReport(seal, zero, tuple(None if piece is None else piece.span for piece in pieces))


def keep_tracks(
    reader: H4MKReader,
    out: Target,
    tracks: Iterable[int],
    *,
    title: str | None = None,
    progress: Progress | None = None,
) -> Seal:
    """Write the tracks named, whole and in the container's order, whatever order they are named in.

    Blocks, times and holes stay as they are (H4MK 17.8). `title`: default the source's. A path appears
    complete or not at all. Raises UsageError, NotFoundError for a track that does not exist, and what
    reading and H4MKBuilder raise.
    """
    meta = rewritable(reader, "filtered")
    kept = sorted(set(tracks))
    if not kept:
        raise UsageError("at least one track must be kept")
    for track in (kept[0], kept[-1]):
        if not 0 <= track < len(reader.tracks):
            raise NotFoundError("no such track", expected=f"0 to {len(reader.tracks) - 1}", found=track)
    number = {track: new for new, track in enumerate(kept)}
    infos = tuple(reader.trak.tracks[track] for track in kept)
    lost = [replace(one, track=number[one.track]) for one in meta.lost if one.track in number]
    named = ",".join(str(track) for track in kept)
    return write_edited(
        out,
        replace(reader.trak, tracks=infos),
        replace(
            meta,
            title=meta.title if title is None else title,
            steps=tuple(replace(one, track=number[one.track]) for one in meta.steps if one.track in number),
            lost=tuple(lost),
            structure_only=meta.structure_only or all(info.kind != "tokens" for info in infos),
            history=(*meta.history, HistoryEntry("filter", {"tracks": named}, inputs_of([reader]))),
        ),
        [renumbered(stored_blocks(reader, track), number[track]) for track in kept],
        ancillary=kept_ancillary([reader]),
        gone=lost_tracks(lost),
        progress=progress,
        total=sum(reader.tracks[track].bytes for track in kept),
    )


# -- cut


@dataclass(frozen=True, slots=True)
class _Piece:
    """The rows of a track that a cut takes: its HEADER blocks, and consecutive ones from `row` on."""

    track: int
    headers: int
    """HEADER blocks stand in the rows before this one."""
    row: int
    rows: int
    first: TokenRecord
    """Of the KEY block in `row`."""
    least: int
    """Least PTS in the first group, µs."""
    shown: int | None
    """Where the last block ends if the next one follows at once; None: as it says itself."""
    span: Span
    bytes: int


def _piece(reader: H4MKReader, track: int, start: int, end: int | None) -> _Piece | None:
    """What shows [start, end) of a track. None where nothing does."""
    try:
        found = reader.time_range(start, end, track)
    except NotFoundError:
        return None
    located = reader.locate(found.pts, track)
    first = reader.token(located.block_index, track) if located else None
    rmap = reader.range_map(track)
    row, last = rmap.at_offset(found.start), rmap.at_offset(found.stop - 1)
    rows = last - row + 1
    if first is None or not first.flags & KEY or rows < 1:
        raise SealError("SEEK does not point at a KEY block", where=f"track {track}", found=found.pts)
    headers = 0
    for number in range(min(row, rmap.at_time(0) + 1)):  # their PTS is 0
        if rmap[number].flags & HEADER:
            headers = number + 1
    least = min(first.pts, first.min_pts)
    for token in islice(reader.tokens(track, first.index), 1, rows):
        if token.flags & KEY:
            break
        least = min(least, token.min_pts)
    following = None if found.last else rmap[last + 1]
    assert found.end_pts is not None
    before = rmap[last]
    # Where blocks are lost before the next one, they are what is lost at the end now.
    at_once = following is not None and before.offset + before.size == following.offset
    return _Piece(
        track=track,
        headers=headers,
        row=row,
        rows=rows,
        first=first,
        least=least,
        shown=found.end_pts if at_once else None,
        span=Span(found.pts, found.end_pts, None if following is None else following.pts),
        bytes=found.stop - found.start + sum(size for _, size in found.header_ranges),
    )


def _cut_blocks(reader: H4MKReader, piece: _Piece, zero: int) -> Iterator[Block]:
    """The blocks of a piece with the numbers and times that they have in the cut."""
    headers = islice(stored_blocks(reader, piece.track), piece.headers)
    body = islice(stored_blocks(reader, piece.track, piece.first.index), piece.rows)
    index = offset = 0  # of the next block, if nothing is lost before it
    row_behind = index_behind = offset_behind = 0  # behind the block taken last, in the source
    rows = chain(range(piece.headers), range(piece.row, piece.row + piece.rows))
    for row, (token, payload) in zip(rows, chain(headers, body), strict=False):
        if row < piece.row and not token.flags & HEADER:
            continue
        if row == row_behind:  # what is missing between two blocks that stay together stays missing
            index += token.index - index_behind
            offset += token.offset - offset_behind
        row_behind, index_behind, offset_behind = row + 1, token.index + 1, token.offset + token.size
        if row >= piece.row:
            new = moved(token, index - token.index, offset - token.offset, -zero)
        elif row + 1 == piece.headers < piece.row:
            new = replace(token, index=index, offset=offset, end=piece.first.pts - zero)
        else:
            new = replace(token, index=index, offset=offset, end=max(0, token.end - zero))
        if row + 1 == piece.row + piece.rows and piece.shown is not None:
            new = replace(new, flags=new.flags | LAST, end=max(new.pts, piece.shown - zero))
        yield new, payload
        index += 1
        offset += token.size


def _cut_steps(
    reader: H4MKReader, meta: Meta, taken: Sequence[_Piece], zero: int
) -> tuple[int, tuple[Step, ...]]:
    """Origin and steps of a cut.

    Steps before it go into the origin; where tracks differ in them, a step at 0 says so.
    """
    own_steps = by_track(meta.steps)
    before, steps = {}, []
    for piece in taken:
        own = own_steps[piece.track]
        before[piece.track] = sum(one.shift for one in own if one.pts <= piece.first.pts)
        behind = piece.span.following
        steps += [
            replace(one, pts=one.pts - zero)
            for one in own
            if piece.first.pts < one.pts and (behind is None or one.pts < behind)
        ]
    least = min(before.values())
    steps += [Step(0, shift - least, track) for track, shift in before.items() if shift > least]
    return reader.trak.origin + zero - least, in_order(steps)
