"""Edits that decode nothing: a time cut out, containers put together, tracks kept (H4MK 17.5 to 17.8).

    with H4MKReader("film.h4mk") as film:
        cut(film, "scene.h4mk", 60_000_000, 90_000_000)
        keep_tracks(film, "sound.h4mk", [1])
    with H4MKReader("one.h4mk") as one, H4MKReader("two.h4mk") as two:
        concat([one, two], "both.h4mk")

Payloads stay as they are, and are checked while they are read; tokens get their new numbers and times. META's
history says what was done to what. Memory holds one block per track.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from os import PathLike
from typing import Final

from harmony4.crypto.errors import NotFoundError, SealError, UsageError
from harmony4.crypto.token import HEADER, KEY, LAST, NONE, TokenRecord
from harmony4.h4mk.builder import Seal
from harmony4.h4mk.bundle import PART
from harmony4.h4mk.documents import HistoryEntry, Meta, Step, StoredTrack, Trak
from harmony4.h4mk.reader import H4MKReader
from harmony4.h4mk.rewrite import (
    Block,
    Progress,
    add_blocks,
    builder_on,
    lost_tracks,
    renumbered,
    rewritable,
    stored_blocks,
)
from harmony4.h4mk.target import Writable

__all__ = ["CutReport", "Span", "concat", "cut", "keep_tracks"]

Target = str | PathLike[str] | Writable


@dataclass(frozen=True, slots=True)
class Span:
    """What a cut took of a track, in µs of the timeline that it was taken from."""

    pts: int
    """PTS of its first KEY block."""
    end: int
    """From `pts` to here all is shown."""
    following: int | None
    """PTS of the KEY block behind it: a cut from there goes on where this one ends. None: there is none."""


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
    if start < 0 or (end is not None and end <= start):
        raise UsageError("a cut begins at 0 or later and ends after it begins", found=f"{start} to {end}")
    _check_alone(reader, "cut")
    numbers = range(len(reader.tracks))
    pieces = [_piece(reader, track, start, end) for track in numbers]
    taken = [piece for piece in pieces if piece is not None]
    if not taken:
        raise NotFoundError("no track has anything in that time", found=f"{start} to {end}")
    zero = min(piece.least for piece in taken)
    origin, steps = _cut_steps(reader, meta, taken, zero)
    # Of a track with holes nobody knows what they showed: it is not empty, it is lost.
    holed = {hole.track for hole in meta.lost}
    arguments = {"from": start} if end is None else {"from": start, "to": end}
    seal = _write(
        out,
        replace(reader.trak, origin=origin),
        replace(
            meta,
            title=meta.title if title is None else title,
            steps=steps,
            history=(*meta.history, HistoryEntry("cut", arguments, _inputs([reader]))),
        ),
        [_cut_blocks(reader, piece, zero) for piece in taken],
        ancillary=_ancillary([reader]),
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
    return _write(
        out,
        replace(reader.trak, tracks=infos),
        replace(
            meta,
            title=meta.title if title is None else title,
            steps=tuple(replace(one, track=number[one.track]) for one in meta.steps if one.track in number),
            lost=tuple(lost),
            structure_only=meta.structure_only or all(info.kind != "tokens" for info in infos),
            history=(*meta.history, HistoryEntry("filter", {"tracks": named}, _inputs([reader]))),
        ),
        [renumbered(stored_blocks(reader, track), number[track]) for track in kept],
        ancillary=_ancillary([reader]),
        gone=lost_tracks(lost),
        progress=progress,
        total=sum(reader.tracks[track].bytes for track in kept),
    )


def concat(
    readers: Sequence[H4MKReader],
    out: Target,
    *,
    title: str | None = None,
    progress: Progress | None = None,
) -> Seal:
    """Write the inputs behind each other, each from where all of the one before has ended (H4MK 17.7).

    They need the same tracks with the same HEADER bytes, which stand once in the result. `title`: default
    that of the inputs, if they agree. A path appears complete or not at all. Raises UsageError for inputs
    that do not fit together, and what reading and H4MKBuilder raise.
    """
    if not readers:
        raise UsageError("there is nothing to put together")
    metas = [rewritable(reader, "put together", _input(place)) for place, reader in enumerate(readers)]
    numbers = range(len(readers[0].tracks))
    if len(readers) > 1:
        for place, reader in enumerate(readers):
            _check_alone(reader, "put together", f"{_input(place)}, ")
            _check_alike(readers[0], reader, place)
            _check_ends(metas[place], place, last=place == len(readers) - 1)
    starts = _starts(readers)
    runs = [_runs(readers, starts, track) for track in numbers]
    first = readers[0].trak
    titles = {meta.title for meta in metas}
    history = {_text(entry): entry for meta in metas for entry in meta.history}
    return _write(
        out,
        replace(first, block=max(reader.trak.block for reader in readers)),
        replace(
            metas[0],
            title=title if title is not None or len(titles) > 1 else titles.pop(),
            steps=_joined_steps(metas, runs, starts, [reader.trak.origin for reader in readers]),
            lost=tuple(chain.from_iterable(meta.lost for meta in metas)),
            structure_only=all(meta.structure_only for meta in metas),
            history=(*history.values(), HistoryEntry("concat", {}, _inputs(readers))),
        ),
        [_joined_blocks(track) for track in runs],
        ancillary=_ancillary(readers),
        gone=lost_tracks(metas[0].lost),
        progress=progress,
        total=sum(run.bytes for run in chain.from_iterable(runs)),
    )


# -- what all of them do


def _write(
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
    # What META cannot hold is refused now and not after hours.
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


def _inputs(readers: Iterable[H4MKReader]) -> tuple[dict[str, str], ...]:
    return tuple({"head": reader.head.hex()} for reader in readers if reader.head is not None)


def _ancillary(readers: Iterable[H4MKReader]) -> list[tuple[str, bytes]]:
    """The ancillary chunks, but for those that say of blocks what is not true any more (H4MK 14.3)."""
    return [one for reader in readers for one in reader.ancillary() if one[0] != PART]


def _check_alone(reader: H4MKReader, done: str, place: str = "") -> None:
    """Raise UsageError where groups of blocks say nothing to a decoder; opaque blocks never do."""
    for number, track in enumerate(reader.trak.tracks):
        if track.timing == "demux" and not track.self_framing:
            raise UsageError(
                f"{place}track {number} cannot be {done}: its blocks do not decode alone; "
                "`harmony4 export --remux` makes a container of the media whose blocks do"
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
    assert located is not None
    first = reader.token(located.block_index, track)
    if not first.flags & KEY:
        raise SealError("SEEK does not point at a KEY block", where=f"track {track}", found=found.pts)
    rmap = reader.range_map(track)
    row, last = rmap.at_offset(found.start), rmap.at_offset(found.stop - 1)
    rows = last - row + 1
    headers = 0
    for number in range(min(row, rmap.at_time(0) + 1)):  # their PTS is 0
        if rmap[number].flags & HEADER:
            headers = number + 1
    group = [first.pts, first.min_pts]
    for token in islice(reader.tokens(track, first.index), 1, rows):
        if token.flags & KEY:
            break
        group = [min(*group, token.min_pts)]
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
        least=min(group),
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
            new = _moved(token, index - token.index, offset - token.offset, -zero)
        elif row + 1 == piece.headers < piece.row:
            new = replace(token, index=index, offset=offset, end=piece.first.pts - zero)
        else:
            new = replace(token, index=index, offset=offset, end=max(0, token.end - zero))
        if row + 1 == piece.row + piece.rows and piece.shown is not None:
            new = replace(new, flags=new.flags | LAST, end=max(new.pts, piece.shown - zero))
        yield new, payload
        index += 1
        offset += token.size


def _moved(token: TokenRecord, indices: int, size: int, time: int) -> TokenRecord:
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


def _cut_steps(
    reader: H4MKReader, meta: Meta, taken: Sequence[_Piece], zero: int
) -> tuple[int, tuple[Step, ...]]:
    """Origin and steps of a cut.

    Steps before it go into the origin; where tracks differ in them, a step at 0 says so.
    """
    by_track = _by_track(meta.steps)
    before, steps = {}, []
    for piece in taken:
        own = by_track[piece.track]
        before[piece.track] = sum(one.shift for one in own if one.pts <= piece.first.pts)
        behind = piece.span.following
        steps += [
            replace(one, pts=one.pts - zero)
            for one in own
            if piece.first.pts < one.pts and (behind is None or one.pts < behind)
        ]
    least = min(before.values())
    steps += [Step(0, shift - least, track) for track, shift in before.items() if shift > least]
    return reader.trak.origin + zero - least, _sorted(steps)


def _by_track(steps: Iterable[Step]) -> defaultdict[int, list[Step]]:
    found: defaultdict[int, list[Step]] = defaultdict(list)
    for step in steps:
        found[step.track].append(step)
    return found


def _sorted(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(sorted(steps, key=lambda step: (step.pts, step.track)))


# -- concat


_ALIKE: Final = ("codec", "kind", "media_type", "self_framing", "timing")
"""What TRAK says of a track and must say of the same track of each input."""


@dataclass(frozen=True, slots=True)
class _Run:
    """The blocks that one input gives to a track."""

    reader: H4MKReader
    place: int
    """Which input it is."""
    track: int
    headers: int
    """HEADER blocks at its beginning."""
    first: TokenRecord | None
    """Of the first block behind them."""
    start: int
    """µs of the result that are 0 in the input."""
    bytes: int


def _text(entry: HistoryEntry) -> str:
    """The same for entries that say the same."""
    return json.dumps([entry.op, dict(entry.args), *map(dict, entry.inputs)], sort_keys=True)


def _check_alike(one: H4MKReader, other: H4MKReader, place: int) -> None:
    """Raise UsageError unless the tracks of both are of the same kinds."""
    if len(one.tracks) != len(other.tracks):
        raise UsageError(
            "the inputs differ in their number of tracks",
            where=_input(place),
            expected=len(one.tracks),
            found=len(other.tracks),
        )
    for track, (wanted, found) in enumerate(zip(one.trak.tracks, other.trak.tracks, strict=True)):
        for name in _ALIKE:
            if getattr(wanted, name) != getattr(found, name):
                raise UsageError(
                    f"the inputs differ in the {name} of a track",
                    where=f"{_input(place)}, track {track}",
                    expected=getattr(wanted, name),
                    found=getattr(found, name),
                )


def _check_ends(meta: Meta, place: int, *, last: bool) -> None:
    """Raise UsageError where blocks are lost and nobody knows how many, but at the very end."""
    for hole in meta.lost:
        if not hole.count and not (last and hole.first):
            raise UsageError(
                "the end of a track is lost: nothing can be put behind it",
                where=f"{_input(place)}, track {hole.track}",
            )


def _input(place: int) -> str:
    return f"input {place + 1}"


def _starts(readers: Sequence[H4MKReader]) -> list[int]:
    """Where each input begins, µs: at the end of the one before, and later than all of its keyframes."""
    starts, start = [], 0
    for reader in readers:
        starts.append(start)
        for track in range(len(reader.tracks)):
            table = reader.seek_table(track)
            if len(table):
                start = max(start, starts[-1] + table[len(table) - 1].pts + 1)
        start = max(start, starts[-1] + reader.duration)
    return starts


def _runs(readers: Sequence[H4MKReader], starts: Sequence[int], track: int) -> list[_Run]:
    """What each input gives to a track. Raises UsageError where it does not go on what was before."""
    runs: list[_Run] = []
    wanted = b""
    for place, (reader, start) in enumerate(zip(readers, starts, strict=True)):
        rmap = reader.range_map(track)
        headers = 0
        while headers < len(rmap) and rmap[headers].flags & HEADER:
            headers += 1
        first = next(islice(reader.tokens(track), headers, None), None)
        if not len(rmap):
            continue
        size = reader.tracks[track].bytes
        if runs:
            size -= sum(one for _, one in reader.header_ranges(track))
        run = _Run(reader, place, track, headers, first, start, size)
        if len(readers) > 1 and first is not None and first.index != headers:
            raise UsageError(
                "the beginning of a track is lost: nothing can be put before or behind it", where=_place(run)
            )
        digest = _header_digest(run) if len(readers) > 1 else wanted
        if not runs:
            wanted = digest
            runs.append(run)
            continue
        if digest != wanted:
            raise UsageError(
                "the inputs differ in what a decoder needs first, as with other settings of an encoder",
                where=_place(run),
            )
        if first is not None:
            if not first.flags & KEY:
                raise UsageError("a track does not begin with a keyframe", where=_place(run))
            runs.append(run)
    return runs


def _place(run: _Run) -> str:
    return f"{_input(run.place)}, track {run.track}"


def _header_digest(run: _Run) -> bytes:
    """Of the HEADER blocks' bytes, however they are cut into blocks."""
    digest = hashlib.sha256()
    for _, payload in islice(stored_blocks(run.reader, run.track), run.headers):
        digest.update(payload)
    return digest.digest()


def _joined_blocks(runs: Sequence[_Run]) -> Iterator[Block]:
    """The blocks of a track, those of each run behind those of the one before."""
    index = offset = 0
    for number, run in enumerate(runs):
        behind = runs[number + 1] if number + 1 < len(runs) else None
        begin = run.first if number else None
        indices = index - begin.index if begin else 0
        size = offset - begin.offset if begin else 0
        for token, payload in stored_blocks(run.reader, run.track, begin.index if begin else 0):
            if token.flags & HEADER:
                # Its time is 0 wherever it stands; it ends where the next block begins.
                whole = token.index + 1 >= run.headers
                new = replace(token, end=token.end + run.start) if whole else token
            else:
                new = _moved(token, indices, size, run.start)
            if behind is not None and token.flags & LAST:
                assert behind.first is not None
                new = replace(new, flags=new.flags & ~LAST, end=behind.first.pts + behind.start)
            yield new, payload
            index, offset = new.index + 1, new.offset + new.size


def _joined_steps(
    metas: Sequence[Meta], runs: Iterable[Sequence[_Run]], starts: Sequence[int], origins: Sequence[int]
) -> tuple[Step, ...]:
    """The inputs' steps, and one where an input's clock is not the one that went before (H4MK 17.7)."""
    own = [_by_track(meta.steps) for meta in metas]
    steps = list(metas[0].steps)
    for number, track in enumerate(runs):
        added = sum(one.shift for one in own[0][number])
        for run in track:
            if not run.place:
                continue
            at = run.first.pts if run.first is not None else 0
            mine = own[run.place][number]
            now = sum(one.shift for one in mine if one.pts <= at)
            # The source time of pts is pts + origin - shifts; both sides of this are that of the run's start.
            jump = origins[0] - origins[run.place] + starts[run.place] + now - added
            if jump:
                steps.append(Step(at + starts[run.place], jump, number))
            later = [one for one in mine if one.pts > at]
            steps += [replace(one, pts=one.pts + starts[run.place]) for one in later]
            added += jump + sum(one.shift for one in later)
    return _sorted(steps)
