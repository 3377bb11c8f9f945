"""concat: containers behind each other as one (H4MK 17.7).

What can be known from tables and a few tokens comes first: whether the inputs fit, when each begins, which
blocks it gives. The blocks then pass by one at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import Final

from harmony4.crypto.errors import UsageError
from harmony4.crypto.token import HEADER, KEY, LAST, TokenRecord
from harmony4.h4mk.builder import Seal
from harmony4.h4mk.documents import HistoryEntry, Meta, Step
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
    rewritable,
    stored_blocks,
    write_edited,
)
from harmony4.h4mk.reader import H4MKReader

__all__ = ["concat"]


def concat(
    readers: Sequence[H4MKReader],
    out: Target,
    *,
    title: str | None = None,
    progress: Progress | None = None,
) -> Seal:
    """Write the inputs behind each other, each from where all of the one before has ended (H4MK 17.7).

    They need the same tracks with the same HEADER bytes, which stand once in the result; so do the groups
    that two cuts share of which the second begins where the first was cut to. `title`: default that of the
    inputs, if they agree. A path appears complete or not at all. Raises UsageError for inputs that do not
    fit together, and what reading and H4MKBuilder raise.
    """
    if not readers:
        raise UsageError("there is nothing to put together")
    metas = [rewritable(reader, "put together", _input(place)) for place, reader in enumerate(readers)]
    numbers = range(len(readers[0].tracks))
    if len(readers) > 1:
        for place, reader in enumerate(readers):
            check_alone(reader, "put together", f"{_input(place)}, ")
            _check_alike(readers[0], reader, place)
            _check_ends(metas[place], place, last=place == len(readers) - 1)
    follows = [None, *(_goes_on(one, other) for one, other in pairwise(metas))]
    starts = _starts(readers, follows)
    runs = [_runs(readers, starts, follows, track) for track in numbers]
    first = readers[0].trak
    titles = {meta.title for meta in metas}
    history = {_text(entry): entry for meta in metas for entry in meta.history}
    return write_edited(
        out,
        replace(first, block=max(reader.trak.block for reader in readers)),
        replace(
            metas[0],
            title=title if title is not None or len(titles) > 1 else titles.pop(),
            steps=_joined_steps(metas, runs, starts, [reader.trak.origin for reader in readers]),
            lost=tuple(chain.from_iterable(meta.lost for meta in metas)),
            structure_only=all(meta.structure_only for meta in metas),
            history=(*history.values(), HistoryEntry("concat", {}, inputs_of(readers))),
        ),
        [_joined_blocks(track) for track in runs],
        ancillary=kept_ancillary(readers),
        gone=lost_tracks(metas[0].lost),
        progress=progress,
        total=sum(run.bytes for run in chain.from_iterable(runs)),
    )


_FAR: Final = re.compile("[1-9][0-9]{15,18}", re.ASCII)
_NOT_FROM_THERE: Final = "it is not cut from where the input before was cut to"
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


def _goes_on(one: Meta, other: Meta) -> int | None:
    """How much later `other` begins, µs, if it was cut from where `one` was cut to; None if it was not."""
    if not one.history or not other.history:
        return None
    first, second = one.history[-1], other.history[-1]
    if (first.op, second.op) != ("cut", "cut") or first.inputs != second.inputs:
        return None
    if "to" not in first.args or first.args["to"] != second.args.get("from"):
        return None
    before, after = (_micros(entry.args.get("at")) for entry in (first, second))
    return after - before if before is not None and after is not None else None


def _micros(value: object) -> int | None:
    """A time in a history, µs: a number, beyond 2^53 in decimal (H4MK 10.3)."""
    if isinstance(value, str) and _FAR.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _starts(readers: Sequence[H4MKReader], follows: Sequence[int | None]) -> list[int]:
    """Where each input begins, µs: as `follows` says; else when all before has ended, keyframes included."""
    starts: list[int] = []
    end = 0
    for place, (reader, later) in enumerate(zip(readers, follows, strict=True)):
        start = end if later is None else starts[-1] + later
        if start < 0:
            raise UsageError(_NOT_FROM_THERE, where=_input(place))
        starts.append(start)
        tables = [reader.seek_table(track) for track in range(len(reader.tracks))]
        keys = [start + table[len(table) - 1].pts + 1 for table in tables if len(table)]
        end = max(end, start + reader.duration, *keys)
    return starts


def _runs(
    readers: Sequence[H4MKReader], starts: Sequence[int], follows: Sequence[int | None], track: int
) -> list[_Run]:
    """What each input gives to a track. Raises UsageError where it does not go on what was before."""
    runs: list[_Run] = []
    wanted = b""
    known: int | None = None  # the last keyframe of the input before, and of those that it goes on with
    for place, (reader, start) in enumerate(zip(readers, starts, strict=True)):
        if follows[place] is None:
            known = None
        if not reader.tracks[track].blocks:
            continue
        run = _run(reader, place, track, start)
        if len(readers) > 1:
            if run.first is not None and run.first.index != run.headers:
                raise UsageError(
                    "the beginning of a track is lost: nothing can be put before or behind it",
                    where=_place(run),
                )
            digest = _header_digest(run)
            if not runs:
                wanted = digest
            elif digest != wanted:
                raise UsageError(
                    "the inputs differ in what a decoder needs first, as with other settings of an encoder",
                    where=_place(run),
                )
        if place and run.first is not None and not run.first.flags & KEY:
            raise UsageError("a track does not begin with a keyframe", where=_place(run))
        if runs:
            run = _rest(runs[-1], run, known)
        if not runs or run.first is not None:
            runs.append(run)
        table = reader.seek_table(track)
        if len(table):
            known = max(known or 0, table[len(table) - 1].pts + start)
    return runs


def _run(reader: H4MKReader, place: int, track: int, start: int) -> _Run:
    """All that an input has of a track."""
    rmap = reader.range_map(track)
    headers = 0
    while headers < len(rmap) and rmap[headers].flags & HEADER:
        headers += 1
    first = next(islice(reader.tokens(track), headers, None), None)
    return _Run(reader, place, track, headers, first, start, reader.tracks[track].bytes)


def _rest(before: _Run, run: _Run, known: int | None) -> _Run:
    """A run without HEADER blocks, and without the groups up to the keyframe at `known`, which were there."""
    reader, track = run.reader, run.track
    first = run.first
    table = reader.seek_table(track)
    number = -1 if known is None else table.find(known - run.start)
    if number >= 0:
        _check_same(before, run, number)
        located = reader.locate(table[number + 1].pts, track) if number + 1 < len(table) else None
        first = reader.token(located.block_index, track) if located else None
    last = before.reader.range_map(track)[len(before.reader.range_map(track)) - 1]
    if first is not None and first.pts + run.start < last.pts + before.start:
        raise UsageError(_NOT_FROM_THERE, where=_place(run))
    skipped = first.offset if first is not None else reader.stream_size(track)
    return replace(run, first=first, bytes=max(0, run.bytes - skipped))


def _check_same(before: _Run, run: _Run, number: int) -> None:
    """Raise UsageError unless the groups of `run` up to key `number` stand in `before`, at the same time."""
    table = run.reader.seek_table(run.track)
    stop = table[number + 1].offset if number + 1 < len(table) else run.reader.stream_size(run.track)
    at = table[0].pts + run.start - before.start
    located = before.reader.locate(at, before.track) if at >= 0 else None
    theirs = before.reader.tokens(before.track, located.block_index) if located else iter(())
    for token in run.reader.tokens(run.track, run.headers):
        if token.offset >= stop:
            return
        other = next(theirs, None)
        same = other is not None and (other.digest, other.pts + before.start) == (
            token.digest,
            token.pts + run.start,
        )
        if not same:
            raise UsageError(_NOT_FROM_THERE, where=_place(run))


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
                new = moved(token, indices, size, run.start)
            if behind is not None and token.flags & LAST:
                assert behind.first is not None
                new = replace(new, flags=new.flags & ~LAST, end=behind.first.pts + behind.start)
            yield new, payload
            index, offset = new.index + 1, new.offset + new.size


def _joined_steps(
    metas: Sequence[Meta], runs: Iterable[Sequence[_Run]], starts: Sequence[int], origins: Sequence[int]
) -> tuple[Step, ...]:
    """The inputs' steps, and one where an input's clock is not the one that went before (H4MK 17.7)."""
    own = [by_track(meta.steps) for meta in metas]
    steps: list[Step] = []
    for number, track in enumerate(runs):
        begun = [(run, run.first.pts) for run in track if run.place and run.first is not None]
        # A step behind the first block of a later input would be of media that have ended there.
        limits = [at + starts[run.place] for run, at in begun]
        mine = [one for one in own[0][number] if not limits or one.pts < limits[0]]
        steps += mine
        added = sum(one.shift for one in mine)
        for place, (run, at) in enumerate(begun):
            start = starts[run.place]
            until = limits[place + 1] if place + 1 < len(limits) else None
            mine = own[run.place][number]
            now = sum(one.shift for one in mine if one.pts <= at)
            # The source time of pts is pts + origin - shifts; both sides of this are that of the run's start.
            jump = origins[0] - origins[run.place] + start + now - added
            if jump:
                steps.append(Step(at + start, jump, number))
            later = [replace(one, pts=one.pts + start) for one in mine if one.pts > at]
            later = [one for one in later if until is None or one.pts < until]
            steps += later
            added += jump + sum(one.shift for one in later)
    return in_order(steps)
