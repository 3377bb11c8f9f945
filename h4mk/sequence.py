"""What one track's tokens must satisfy next to each other (H4MK 6.2). Builder, reader, verifier share it."""

from __future__ import annotations

from collections.abc import Iterable

from harmony4.crypto.errors import LimitError, OrderError
from harmony4.crypto.token import HEADER, KEY, LAST, MASKED, NONE, TokenRecord
from harmony4.h4mk.documents import Lost, Trak
from harmony4.h4mk.layout import ChunkInfo

__all__ = ["Sequence", "check_payload"]


def check_payload(token: TokenRecord, info: ChunkInfo) -> None:
    """Raise OrderError unless the chunk's header fits the token before it (H4MK 6.2, 6.3)."""
    if info.size != token.size or info.tag != ("SAFE" if token.flags & MASKED else "CORE"):
        raise OrderError("a payload does not fit its token", where=info.offset, found=info.size)


class _Track:
    __slots__ = ("end", "index", "key", "last", "offset")

    def __init__(self) -> None:
        self.index = 0
        self.offset = 0
        self.end: int | None = None
        self.key = (NONE, NONE)
        self.last = False


class Sequence:
    """Takes the tokens of all tracks in file order and refuses the first that does not fit.

    With `gaps`, indices may be skipped (a recovered file); `lost` then says where.
    """

    def __init__(self, trak: Trak, *, gaps: bool = False) -> None:
        self.lost: list[Lost] = []
        self.leaf = 0
        """Tokens accepted so far."""
        self.duration = 0
        self._trak = trak
        self._gaps = gaps
        self.seen: set[int] = set()
        """Tracks that had a block."""
        self._tracks = [_Track() for _ in trak.tracks]
        self._order = (-1, -1, -1)

    def check(self, token: TokenRecord) -> None:
        """Raise OrderError or LimitError where the token cannot follow; changes nothing."""
        if token.track >= len(self._tracks):
            raise OrderError(
                "a block of an unknown track", expected=f"< {len(self._tracks)}", found=token.track
            )
        if token.size > self._trak.block:
            raise LimitError("a block exceeds cut.block", expected=f"<= {self._trak.block}", found=token.size)
        if bool(token.flags & MASKED) != self._trak.tracks[token.track].masked:
            raise OrderError("a block is masked where its track is not, or the other way round")
        track = self._tracks[token.track]
        where = f"track {token.track} block {token.index}"
        if track.last:
            raise OrderError("a block after the last of its track", where=where)
        gap = token.index - track.index
        if gap < 0 or (gap and not self._gaps):
            raise OrderError("block index", where=where, expected=track.index)
        # Every lost block had at least one byte and at most cut.block (H4MK 10.2).
        if not track.offset + gap <= token.offset <= track.offset + gap * self._trak.block:
            raise OrderError("logical offset", where=where, expected=track.offset, found=token.offset)
        if track.end is not None and (token.pts < track.end or (not gap and token.pts > track.end)):
            raise OrderError("block time", where=where, expected=track.end, found=token.pts)
        self._check_key(token, track, gap, where)
        order = (token.end, token.track, token.index)
        if self._trak.order == "end" and order <= self._order:
            raise OrderError("blocks are not in order of (end, track, index)", where=where)

    def _check_key(self, token: TokenRecord, track: _Track, gap: int, where: str) -> None:
        key_pts, key_offset = track.key
        if token.flags & HEADER:
            if key_offset != NONE:
                raise OrderError("a HEADER block after a keyframe", where=where)
        elif token.flags & KEY:
            if key_offset != NONE and token.pts <= key_pts:
                raise OrderError("keyframe times must increase", where=where, expected=f"> {key_pts}")
        elif (token.key_pts, token.key_offset) != track.key:
            # Behind a hole a block may name a KEY block that lies in the hole, later than the last one known.
            inside = gap and track.offset <= token.key_offset != NONE
            if not inside or (key_offset != NONE and token.key_pts <= key_pts):
                raise OrderError("a block names the wrong keyframe", where=where, expected=track.key)

    def accept(self, token: TokenRecord) -> None:
        """Check the token and go on behind it."""
        self.check(token)
        track = self._tracks[token.track]
        if token.index > track.index:
            self.lost.append(Lost(token.index - track.index, track.index, token.track))
        track.index = token.index + 1
        track.offset = token.offset + token.size
        track.end = token.end
        track.key = (token.key_pts, token.key_offset)
        track.last = bool(token.flags & LAST)
        self._order = (token.end, token.track, token.index)
        self.seen.add(token.track)
        self.leaf += 1
        self.duration = max(self.duration, token.end)

    def finish(self, gone: Iterable[int] = ()) -> list[Lost]:
        """All holes, those at the ends of tracks included, in order of (track, first).

        A track without any block is empty, unless it is among `gone`: then all its blocks are lost. Raises
        OrderError for a missing end unless `gaps`.
        """
        self.lost.extend(Lost(0, 0, number) for number in gone)
        for number, track in enumerate(self._tracks):
            if track.index and not track.last:
                if not self._gaps:
                    raise OrderError("the last block of a track is missing", where=f"track {number}")
                self.lost.append(Lost(0, track.index, number))
        self.lost.sort(key=lambda hole: (hole.track, hole.first))
        return self.lost
