"""Adding a final signature or its time stamp to a sealed container (H4MK 13.4, 13.6, 17.9).

A signature stands behind VERI, so every byte before stays where and what it is, and only TAIL is made anew.
The file is copied all the same, for a crash midway must not leave it without a TAIL; where the file system
can share blocks between files the copy costs no space and next to no time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Final

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import SealError, SourceChangedError, StorageError, UsageError
from harmony4.h4mk.edits.target import AtomicFile, Writable, write_all
from harmony4.h4mk.layout import CHUNK_SIZE, chunk_header, head_bytes
from harmony4.h4mk.opening import Opened, open_container
from harmony4.h4mk.proofs.signature import (
    FINAL,
    MOST_SIGNATURES,
    Signature,
    SignPayload,
    final_chunks,
    final_signatures,
)
from harmony4.h4mk.source import FileSource, ReadAt, read_exact
from harmony4.h4mk.verify import verify

if TYPE_CHECKING:
    from harmony4.crypto.timestamp import TimeStamp

__all__ = ["SignReport", "sign_container", "sign_file", "stamp_container", "stamp_file"]

_PIECE: Final = 2**20


@dataclass(frozen=True, slots=True)
class SignReport:
    """What came of it."""

    head: bytes
    signature: Signature
    added: bool
    """False where this very signature stood there already."""
    signatures: int
    """Final signatures now."""
    length: int
    """File length, bytes."""


def sign_file(
    path: str | PathLike[str], signer: SignPayload, *, progress: Callable[[int], object] | None = None
) -> SignReport:
    """Sign the container under `path` where it stands; its mode stays.

    The file is there at every moment, as it was or signed. Raises as `sign_container` does, StorageError
    where someone else signs it at the same time, SourceChangedError where another file took its place.
    """
    return _in_place(path, lambda source: _plan(source, signer, progress))


def sign_container(
    source: ReadAt, out: Writable, signer: SignPayload, *, progress: Callable[[int], object] | None = None
) -> SignReport:
    """Write the container in `source` with one more final signature, or as it is if it has that already.

    Everything is checked before it is signed. Raises SealError where the container is not sealed and sound,
    SourceChangedError where it changed meanwhile, UsageError for too many signatures, SourceError,
    StorageError.
    """
    return _copied(source, out, _plan(source, signer, progress))


def stamp_file(path: str | PathLike[str], stamp: TimeStamp) -> SignReport:
    """Put a time stamp behind the signature of the container under `path` that it is over.

    It is taken as it is: `TimeStamp.check` says whether an authority made it. Raises as `stamp_container`
    does.
    """
    return _in_place(path, lambda source: _stamped(source, stamp))


def stamp_container(source: ReadAt, out: Writable, stamp: TimeStamp) -> SignReport:
    """Write the container in `source` with the time stamp, or as it is if it has that already (H4MK 13.6).

    Raises SealError where no final signature is the one that was stamped, UsageError where it has another
    time stamp; FormatError and its kin, SourceChangedError, SourceError, StorageError.
    """
    return _copied(source, out, _stamped(source, stamp))


@dataclass(frozen=True, slots=True)
class _Plan:
    keep: int
    """Bytes that stay, from the front."""
    rest: bytes
    """What follows them."""
    report: SignReport
    before: tuple[int, int] | None


def _in_place(path: str | PathLike[str], plan_of: Callable[[FileSource], _Plan]) -> SignReport:
    source = FileSource(path)
    try:
        _lock(source)
        plan = plan_of(source)
        if not plan.report.added:
            return plan.report
        file = AtomicFile(path)
        try:
            file.keep_mode(source.fileno())
            file.take(source.fileno(), plan.keep)
            write_all(file, plan.rest)
            _check_unchanged(source, plan)
            _check_in_place(path, source)
            file.commit()
        finally:
            file.abort()
        return plan.report
    finally:
        source.close()


def _lock(source: FileSource) -> None:
    """Let no other process sign the same file meanwhile. Raises StorageError where one does."""
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(source.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError("the container is being signed by someone else: try again") from None
        except OSError:  # pragma: no cover - a file system that has no locks
            return


def _check_in_place(path: str | PathLike[str], source: FileSource) -> None:
    """Raise SourceChangedError where another file, or other bytes, stand under `path` by now."""
    try:
        there: os.stat_result | None = os.stat(path)  # noqa: PTH116 - it may be any kind of path
    except OSError:
        there = None
    if there is None or _identity(there) != _identity(os.fstat(source.fileno())):
        raise SourceChangedError("another file took the container's place while it was signed")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copied(source: ReadAt, out: Writable, plan: _Plan) -> SignReport:
    for at in range(0, plan.keep, _PIECE):
        write_all(out, read_exact(source, at, min(_PIECE, plan.keep - at)))
    write_all(out, plan.rest)
    _check_unchanged(source, plan)
    return plan.report


def _stamped(source: ReadAt, stamp: TimeStamp) -> _Plan:
    from harmony4.crypto.timestamp import imprint_of  # takes its time, and few need it

    before = _facts(source)
    tail = open_container(source).tail
    if tail is None:
        raise SealError("the container is not sealed, so nothing in it is signed")
    end = tail.length - CHUNK_SIZE - len(tail.pack())
    for info, payload in final_chunks(partial(read_exact, source), tail):
        if info.tag == "SIGN" and imprint_of(payload) == stamp.imprint:
            signature = Signature.unpack(payload, FINAL)
            break
    else:
        raise SealError("the time stamp is not over a signature of this container", found=stamp.imprint.hex())
    behind = read_exact(source, info.end, tail.length - info.end)
    chunk = chunk_header(b"time", len(stamp.token), crc32(stamp.token)) + stamp.token
    if behind.startswith(chunk):
        report = SignReport(tail.head, signature, False, tail.signs, tail.length)
        return _Plan(info.end, behind, report, before)
    if behind.startswith(b"time"):
        raise UsageError("the signature has another time stamp already", where=info.end)
    new = replace(tail, length=tail.length + len(chunk))
    rest = chunk + behind[: end - info.end] + chunk_header(b"TAIL", len(new.pack()), crc32(new.pack()))
    report = SignReport(tail.head, signature, True, tail.signs, new.length)
    return _Plan(info.end, rest + new.pack(), report, before)


def _plan(source: ReadAt, signer: SignPayload, progress: Callable[[int], object] | None) -> _Plan:
    before = _facts(source)
    # Whoever signs says that this is what he means: so it must be what it says it is.
    report = verify(source, progress=progress)
    if report.state != "sealed" or not report.ok:
        first = report.problems[0] if report.problems else None
        raise SealError(
            f"the container is not sound, and is not signed: {first or report.state}", found=report.state
        )
    opened = open_container(source)
    tail, head = opened.tail, _head(opened)
    assert tail is not None
    if sha256(head) != report.head:
        raise SourceChangedError("the container changed while it was read")
    payload = signer(FINAL, head)
    signature = Signature.unpack(payload, FINAL)
    known = list(final_signatures(partial(read_exact, source), tail))
    end = tail.length - CHUNK_SIZE - len(tail.pack())
    if signature in known:
        same = read_exact(source, end, tail.length - end)
        return _Plan(end, same, SignReport(tail.head, signature, False, tail.signs, tail.length), before)
    if tail.signs >= MOST_SIGNATURES:  # a proof could not show one more
        said = "the container has as many signatures as it may"
        raise UsageError(said, expected=f"< {MOST_SIGNATURES}", found=tail.signs)
    chunk = chunk_header(b"SIGN", len(payload), crc32(payload)) + payload
    new = replace(tail, length=tail.length + len(chunk), signs=tail.signs + 1)
    rest = chunk + chunk_header(b"TAIL", len(new.pack()), crc32(new.pack())) + new.pack()
    return _Plan(end, rest, SignReport(tail.head, signature, True, new.signs, new.length), before)


def _head(opened: Opened) -> bytes:
    """HEAD, 128 bytes, of a sealed container."""
    assert opened.tail is not None and opened.meta is not None
    tail = opened.tail
    return head_bytes(tail.blocks, tail.duration, tail.root, opened.trak.pack(), opened.meta.pack())


def _facts(source: ReadAt) -> tuple[int, int] | None:
    if not isinstance(source, FileSource):
        return None
    status = os.fstat(source.fileno())
    return status.st_size, status.st_mtime_ns


def _check_unchanged(source: ReadAt, plan: _Plan) -> None:
    if _facts(source) != plan.before:
        raise SourceChangedError("the container changed while it was copied")
