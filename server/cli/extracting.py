"""A track's original bytes out of a container, each block checked on its way."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from harmony4.crypto.digest import Buffer, DigestLane
from harmony4.crypto.errors import KeyRefusedError, NotFoundError, SealError, StorageError, TruncatedError
from harmony4.crypto.mask import MasterKey
from harmony4.crypto.token import LAST, TokenRecord
from harmony4.h4mk import H4MKReader, Unmasked
from harmony4.h4mk.edits.target import AtomicFile, Writable

__all__ = ["Extracted", "extract"]

_ZEROS: Final = bytes(2**20)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written."""

    track: int
    media_type: str
    size: int
    sha256: bytes
    blocks: int
    missing: int
    """Bytes that stand as zeros because their blocks are lost."""
    complete: bool
    """Whether the stream that went in came out, whole."""
    proven: bool | None = None
    """Of a masked track: whether the key shows that no block is missing since it was masked."""


def extract(
    reader: H4MKReader,
    target: BinaryIO | str,
    track: int = 0,
    *,
    masters: Iterable[MasterKey] = (),
    partial: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Extracted:
    """Write a track's stream to `target`: a path (atomically) or anything with `write`.

    Every block's CRC-32 and SHA-256 is checked before it is written, at the end the SHA-256 of the whole
    stream: a damaged container leaves nothing behind. `partial`: what an incomplete or recovered container
    still has, with zeros where blocks are lost, so that every byte keeps its offset. `progress` is called
    with bytes done and bytes in all. Memory: a few blocks.

    A masked track is unmasked with one of `masters`, every block's tag checked before it is written; META
    knows no digest of its stream then, so the tags alone say that it is whole and in order.

    Raises NotFoundError (no such track), TruncatedError (incomplete or lost, without `partial`),
    KeyRefusedError (a masked track, and no key of its), ChecksumError, SealError and their kin, StorageError.
    """
    if not 0 <= track < len(reader.tracks):
        raise NotFoundError("there is no such track", expected=f"0 to {len(reader.tracks) - 1}", found=track)
    state = reader.tracks[track]
    unmasked = _unmasked(reader, masters, track) if state.info.masked else None
    whole = reader.state != "incomplete" and not any(hole.track == track for hole in reader.lost)
    if not whole and not partial:
        why = "its end is missing" if reader.state == "incomplete" else "it was recovered with losses"
        raise TruncatedError(f"the original cannot be had whole: {why}; --partial takes what is there")
    with _opened(target) as out:
        return _copy(reader, unmasked, out, track, whole, progress)


def _unmasked(reader: H4MKReader, masters: Iterable[MasterKey], track: int) -> Unmasked:
    known = tuple(masters)
    if not known:
        raise KeyRefusedError(f"track {track} is masked, and its bytes cannot be had without a key")
    return Unmasked(reader, known)


@contextlib.contextmanager
def _opened(target: BinaryIO | str) -> Iterator[Writable]:
    if not isinstance(target, str):
        yield target
        return
    file = AtomicFile(target)
    try:
        yield file
        file.commit()
    finally:
        file.abort()


def _copy(
    reader: H4MKReader,
    unmasked: Unmasked | None,
    out: Writable,
    track: int,
    whole: bool,
    progress: Callable[[int, int], object] | None,
) -> Extracted:
    state = reader.tracks[track]
    size = reader.stream_size(track)
    stream = hashlib.sha256()
    stored = hashlib.sha256()  # what META gives: without the zeros that stand for lost blocks
    done = blocks = missing = 0
    last: TokenRecord | None = None
    with DigestLane() as lane:
        for token, payload in _blocks(reader, unmasked, track):
            if token is not None:
                gap = token.offset - done
                if gap < 0 or (gap and whole):
                    raise SealError("blocks do not follow each other", where=_place(token), found=gap)
                missing += gap
                while gap:
                    zeros = _ZEROS[:gap]
                    lane.put(stream.update, zeros)
                    _write(out, zeros)
                    done += len(zeros)
                    gap -= len(zeros)
            # The lane hashes this block for the stream while it is written and the next one is read.
            lane.put(stream.update, payload)
            if not whole:
                lane.put(stored.update, payload)
            _write(out, payload)
            done += len(payload)
            blocks += 1
            last = token
            if progress is not None:
                progress(done, size)
        lane.flush()
    digest = stream.digest() if whole else stored.digest()
    if unmasked is not None and whole and last is not None and not last.flags & LAST:
        raise SealError("the track goes on behind its last block", where=_place(last))
    if unmasked is None and state.sha256 is not None and digest != state.sha256:
        raise SealError(
            "the stream is not the one that was sealed",
            where=f"track {track}",
            expected=state.sha256.hex(),
            found=digest.hex(),
        )
    if blocks != state.blocks:
        raise SealError("blocks are missing", expected=state.blocks, found=blocks)
    proven = None if unmasked is None else unmasked.whole
    return Extracted(track, state.info.media_type, done, stream.digest(), blocks, missing, whole, proven)


def _blocks(
    reader: H4MKReader, unmasked: Unmasked | None, track: int
) -> Iterator[tuple[TokenRecord | None, Buffer]]:
    if unmasked is not None:
        yield from unmasked.blocks(track)
        return
    for block in reader.blocks(track):
        yield block.token, block.payload


def _place(token: TokenRecord) -> str:
    return f"track {token.track} block {token.index}"


def _write(out: Writable, data: Buffer) -> None:
    view = memoryview(data)
    try:
        while len(view):
            written = out.write(view)
            view = view[len(view) if written is None else written :]
    except OSError as error:
        raise StorageError(f"cannot write the media: {error.strerror}") from error
