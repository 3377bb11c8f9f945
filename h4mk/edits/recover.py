"""recover: a sealed container from a cut or damaged one (H4MK 20).

It never invents, joins or changes a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import FormatError, KeyRefusedError, LimitError, TruncatedError, UsageError
from harmony4.crypto.token import MASKED, MAX_BLOCK, TOKEN_SIZE, TokenRecord
from harmony4.h4mk.builder import H4MKBuilder, Seal
from harmony4.h4mk.documents import HistoryEntry, Lost, Meta, TrackInfo, Trak, steps_fit
from harmony4.h4mk.edits.target import Writable
from harmony4.h4mk.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    MOST_ANCILLARY,
    ChunkInfo,
    is_critical,
    known,
    parse_header,
)
from harmony4.h4mk.masks.keyslots import pack_slots, read_keys
from harmony4.h4mk.masks.masking import KeptMask
from harmony4.h4mk.opening import read_directory
from harmony4.h4mk.source import ReadAt, open_source
from harmony4.h4mk.walk import payload_of

__all__ = ["RecoverReport", "recover"]

_WINDOW = 2**20
_GENERIC_TRACKS = 4000
"""Hardly more fit into META (1 MiB): a token of a higher number is forged and must not stop a recovery."""
_TOKN = b"TOKN" + TOKEN_SIZE.to_bytes(4)


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What was kept and what was not."""

    seal: Seal
    blocks: int
    """Blocks kept, each with its token as it was."""
    lost: tuple[Lost, ...]
    left_out: int
    """Sound blocks that do not fit where they were found: doubled, misplaced, or forged inside media."""
    signatures: int
    """SIGN chunks that were dropped."""
    trak_rebuilt: bool
    """TRAK was destroyed: media type, codec and time base are unknown now."""

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not (self.lost or self.left_out or self.signatures or self.trak_rebuilt)


def recover(
    source: str | PathLike[str] | bytes | ReadAt,
    out: str | PathLike[str] | Writable,
    *,
    progress: Callable[[int], object] | None = None,
) -> RecoverReport:
    """Copy every complete block of `source` into a new container at `out` (a path: atomically).

    `progress` is called with the file offset reached. Raises FormatError where the source is no container
    of this specification at all, KeyRefusedError where all of it is masked and KEYS is lost, SourceError,
    StorageError.
    """
    opened, owned = open_source(source)
    try:
        return _recover(opened, out, progress)
    finally:
        if owned:
            opened.close()


def _recover(
    source: ReadAt, out: str | PathLike[str] | Writable, progress: Callable[[int], object] | None
) -> RecoverReport:
    _check_profile(source)
    trak = _read_trak(source)
    rebuilt = trak is None
    if trak is None:
        trak = _generic_trak(source)
    masking = _kept_mask(source, trak)
    if masking is None:
        trak = _unmasked(trak)
    directory = read_directory(source)
    meta, head = directory or (None, None)
    # Where META is lost, TRAK still says that it was masked, and unmasking asks the history.
    history = meta.history if meta else (HistoryEntry("mask", {}, ()),) if masking else ()
    inputs = ({"head": head.hex()},) if head else ()
    args: dict[str, str | int | bool] = {"trak": "rebuilt"} if rebuilt else {}
    found = _Found(source)
    make = partial(H4MKBuilder.to_path, out) if isinstance(out, str | PathLike) else partial(H4MKBuilder, out)
    with make(
        trak.tracks,
        origin=trak.origin,
        block=trak.block,
        order=trak.order,
        rule=trak.rule,
        title=meta.title if meta else None,
        gaps=True,
        masking=masking,
    ) as builder:
        kept = left_out = 0
        seen = set()
        for token, payload, end in found.blocks():
            try:
                builder.add_token(token, payload)
            except (FormatError, LimitError):
                left_out += 1
            else:
                kept += 1
                seen.add(token.track)
            if progress is not None:
                progress(end)
        seal = builder.finish(
            steps=meta.steps if meta and steps_fit(meta.steps, len(trak.tracks)) else (),
            history=(*history, HistoryEntry("recover", args, inputs)),
            ancillary=found.ancillary,
            structure_only=(
                meta.structure_only if meta else all(track.kind != "tokens" for track in trak.tracks)
            ),
            gone=sorted(set(range(len(trak.tracks))) - _never_had_blocks(meta) - seen),
        )
    return RecoverReport(seal, kept, seal.lost, left_out, found.signatures, rebuilt)


def _never_had_blocks(meta: Meta | None) -> set[int]:
    """Tracks that were empty from the start, as far as anybody knows."""
    if meta is None:
        return set()
    gone = {hole.track for hole in meta.lost if (hole.count, hole.first) == (0, 0)}
    return {number for number, one in enumerate(meta.tracks) if not one.blocks} - gone


def _check_profile(source: ReadAt) -> None:
    try:
        current = parse_header(source.read_at(0, HEADER_SIZE))
    except FormatError:
        # A damaged header alone must not cost the blocks behind it.
        if next(_Found(source).blocks(), None) is None:
            raise
        return
    if not current:
        raise UsageError("files of the original implementation are only read, never written")


def _read_trak(source: ReadAt) -> Trak | None:
    try:
        info = ChunkInfo.unpack(source.read_at(HEADER_SIZE, CHUNK_SIZE), HEADER_SIZE, source.size())
        info.check_size()
        return Trak.unpack(payload_of(source, info)) if info.tag == "TRAK" else None
    except (FormatError, LimitError):
        return None


def _kept_mask(source: ReadAt, trak: Trak) -> KeptMask | None:
    """The mask that the blocks have; None where there is none, or no key could open it any more."""
    if trak.mask is None:
        return None
    try:
        return KeptMask(trak.mask, pack_slots(read_keys(source, len(trak.pack()))))
    except (FormatError, LimitError) as error:
        if all(track.masked for track in trak.tracks):
            raise KeyRefusedError(
                "KEYS is damaged: no key could open what is left", where=error.where
            ) from None
        return None


def _unmasked(trak: Trak) -> Trak:
    """TRAK without its mask: blocks that are masked do not fit any more, and their tracks are empty."""
    return replace(trak, mask=None, tracks=tuple(replace(track, masked=False) for track in trak.tracks))


def _generic_trak(source: ReadAt) -> Trak:
    found = {(token.track, token.flags & MASKED) for token, _, _ in _Found(source).blocks()}
    tracks = {number for number, masked in found if number < _GENERIC_TRACKS and not masked}
    if found and not tracks:
        raise TruncatedError("TRAK is damaged, and masked blocks say nothing without it", where=HEADER_SIZE)
    if not tracks:
        raise TruncatedError("neither TRAK nor a complete block is left", where=HEADER_SIZE)
    return Trak(tuple(TrackInfo() for _ in range(max(tracks) + 1)), 0, MAX_BLOCK, "arrival")


class _Found:
    """Walks the chunks, and searches where the walk breaks."""

    def __init__(self, source: ReadAt) -> None:
        self.ancillary: list[tuple[str, bytes]] = []
        self.signatures = 0
        self._source = source
        self._size = source.size()
        self._patience = 64 * self._size
        self._cut: dict[int, TokenRecord] = {}

    def blocks(self) -> Iterator[tuple[TokenRecord, bytes, int]]:
        """(token, payload, end offset) of every complete block, in file order."""
        at = HEADER_SIZE
        walking = True
        while at < self._size:
            block = self._block(at)
            if block is not None:
                if not self._inside(block[0]):
                    yield block
                at = block[2]
                walking = True
            elif end := self._skip(at):
                at = end
            else:
                found = self._token(at) if walking else None
                if found is not None:
                    self._cut[found[0].track] = found[0]
                at = self._search(at + 1)
                walking = False

    def _inside(self, token: TokenRecord) -> bool:
        """Whether a block cannot lie behind the one whose payload is searched: then it is media."""
        cut = self._cut.get(token.track)
        return cut is not None and (token.index <= cut.index or token.offset < cut.offset + cut.size)

    def _block(self, at: int) -> tuple[TokenRecord, bytes, int] | None:
        found = self._token(at)
        if found is None:
            return None
        token, info = found
        payload = self._source.read_at(info.payload, info.size)
        if len(payload) < info.size or crc32(payload) != info.crc or sha256(payload) != token.digest:
            self._spend(len(payload), at)
            return None
        return token, payload, info.end

    def _spend(self, size: int, at: int) -> None:
        # Honest damage fails each byte a few times. Forged chunks that overlap would cost up to 4 GiB each.
        self._patience -= size
        if self._patience < 0:
            raise LimitError("too many chunks that overlap and fail their checks", where=at)

    def _token(self, at: int) -> tuple[TokenRecord, ChunkInfo] | None:
        """A sound token at `at`, and the header of the payload chunk that fits it."""
        data = self._source.read_at(at, CHUNK_SIZE + TOKEN_SIZE + CHUNK_SIZE)
        if len(data) < CHUNK_SIZE + TOKEN_SIZE + CHUNK_SIZE or not data.startswith(_TOKN):
            return None
        packed = data[CHUNK_SIZE:-CHUNK_SIZE]
        try:
            token = TokenRecord.unpack(packed)
            info = ChunkInfo.unpack(data[-CHUNK_SIZE:], at + CHUNK_SIZE + TOKEN_SIZE, 2**63)
        except (FormatError, LimitError):
            return None
        fits = info.tag == ("SAFE" if token.flags & MASKED else "CORE") and info.size == token.size
        return (token, info) if fits and crc32(packed) == int.from_bytes(data[8:12]) else None

    def _skip(self, at: int) -> int | None:
        """The end of what stands at `at`, if it can be told: a sound chunk, or one with a damaged payload."""
        found = self._token(at)
        if found is not None:
            return self._if_plausible(found[1].end)
        try:
            info = ChunkInfo.unpack(self._source.read_at(at, CHUNK_SIZE), at, self._size)
            info.check_size()
        except (FormatError, LimitError):
            return self._over(at)
        if is_critical(info.tag) and not known(info.tag):
            return self._over(at)
        keep = not is_critical(info.tag) and info.tag != "time"
        pieces = []
        crc = 0
        for start in range(info.payload, info.end, _WINDOW):
            piece = self._source.read_at(start, min(_WINDOW, info.end - start))
            crc = crc32(piece, crc)
            if keep:
                pieces.append(piece)
        if crc != info.crc:
            self._spend(info.size, at)
            return self._over(at)
        if info.tag == "TOKN":
            return self._over(at) or info.end
        self.signatures += info.tag == "SIGN"
        if keep:
            if len(self.ancillary) == MOST_ANCILLARY:
                raise LimitError("too many ancillary chunks", expected=MOST_ANCILLARY, where=at)
            self.ancillary.append((info.tag, b"".join(pieces)))
        return info.end

    def _over(self, at: int) -> int | None:
        """The end of the block at `at` if the headers of only its token or only its payload are damaged.

        The payload must not be searched then: it may hold what looks like blocks.
        """
        data = self._source.read_at(at, CHUNK_SIZE + TOKEN_SIZE + CHUNK_SIZE)
        packed = data[CHUNK_SIZE:-CHUNK_SIZE]
        payload = at + CHUNK_SIZE + TOKEN_SIZE + CHUNK_SIZE
        try:
            info = ChunkInfo.unpack(data[CHUNK_SIZE + TOKEN_SIZE :], payload - CHUNK_SIZE, self._size)
            info.check_size()
            if info.tag in ("CORE", "SAFE") and (end := self._if_plausible(info.end)):
                return end
        except (FormatError, LimitError):
            pass
        try:
            token = TokenRecord.unpack(packed)
        except (FormatError, LimitError):
            return None
        sound = data.startswith(_TOKN) and crc32(packed) == int.from_bytes(data[8:12])
        return self._if_plausible(payload + token.size) if sound else None

    def _if_plausible(self, end: int) -> int | None:
        return end if end == self._size or self._plausible(end) else None

    def _plausible(self, at: int) -> bool:
        """Whether a chunk of this specification seems to start at `at`: damage before it has not moved it."""
        try:
            info = ChunkInfo.unpack(self._source.read_at(at, CHUNK_SIZE), at, 2**63)
            info.check_size()
        except (FormatError, LimitError):
            return False
        return known(info.tag) or not is_critical(info.tag)

    def _search(self, at: int) -> int:
        """The next offset at which a token stands, or the end of the file."""
        while at < self._size:
            data = self._source.read_at(at, _WINDOW + len(_TOKN) - 1)
            hit = data.find(_TOKN)
            while hit >= 0:
                if self._token(at + hit) is not None:
                    return at + hit
                hit = data.find(_TOKN, hit + 1)
            at += _WINDOW
        return self._size
