"""Download that accepts nothing but what a trusted key signed: in parallel ranges, and resumable.

Every block is compared with its token before it is written, and every token with the signed tree. What is in
the unfinished file is checked in the same way when a download goes on, so nothing has to be remembered.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import HarmonyError, SealError, SourceError, StorageError, UsageError
from harmony4.crypto.merkle import MerkleTree, leaf_hash
from harmony4.crypto.token import LAST, TOKEN_SIZE, TokenRecord
from harmony4.h4mk import H4MKReader, verify
from harmony4.h4mk.edits.target import sync_folder
from harmony4.h4mk.layout import CHUNK_SIZE, head_bytes
from harmony4.h4mk.proofs.proof import MOST_SIGNATURES, check_proof
from harmony4.h4mk.proofs.signature import final_signatures
from harmony4.h4mk.proofs.trust import Accepted, Trust
from harmony4.h4mk.tokenrows import BEFORE
from harmony4.server.upstream.exchange import Exchange, target_of
from harmony4.server.upstream.remote import HTTPSource

__all__ = ["Fetched", "LyingServerError", "fetch_container", "fetch_stream"]

Progress = Callable[[int, int | None], object]
"""(bytes that are there, of how many)."""

_PIECE: Final = 8 * 2**20
"""Bytes of one request."""
_ASK: Final = 2**30
"""Bytes of the stream that one proof is asked for, at first."""
_MOST_PROOF: Final = 2**20 + 1
_TIMEOUT: Final = 30.0
_AHEAD: Final = 64 * 2**20
"""Bytes after which the file is synced while more of it comes."""
_sync = getattr(os, "fdatasync", os.fsync)
_FRAMING: Final = 64 * 2**20
_ROUTE: Final = re.compile(
    r"(?P<root>.*)/(?:video/range(?:/(?P<track>[0-9]{1,5})\.[A-Za-z0-9]+)?|video/(?:seek|info|proof)|container)"
)


class LyingServerError(SealError):
    """Bytes that came are not those that were signed."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was brought."""

    size: int
    """Bytes of the file."""
    blocks: int
    received: int
    """Bytes that had to be asked for; the rest was there from an earlier attempt."""
    head: bytes
    accepted: Accepted | None


@dataclass(frozen=True, slots=True)
class _Block:
    start: int
    """Where its bytes begin, in what is fetched."""
    size: int
    check: Callable[[memoryview], bool] | None
    """Whether these are the right bytes; None where only the whole can be checked, at the end."""
    name: str


@dataclass(frozen=True, slots=True)
class _Address:
    root: str
    name: str
    track: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """Of a container's stream, or of the container. Raises UsageError."""
        try:
            parts = urlsplit(url)
            match = _ROUTE.fullmatch(parts.path)
            query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            track = (match and match["track"]) or query.get("track", ["0"])[0]
            name = query.get("name", [""])[0]
            if match is None or parts.scheme not in ("http", "https") or not name or not track.isdecimal():
                raise ValueError
        except ValueError:
            expected = "http://HOST/video/range?name=NAME, or …/container?name=NAME"
            raise UsageError("not an address of a container", where=url, expected=expected) from None
        return cls(urlunsplit((parts.scheme, parts.netloc, match["root"], "", "")), name, int(track))

    def url(self, route: str, query: str = "") -> str:
        return f"{self.root}/{route}?name={quote(self.name, safe='')}{query}"


def fetch_stream(
    url: str,
    out: Path,
    trust: Trust,
    *,
    jobs: int = 4,
    progress: Progress | None = None,
    token: str | None = None,
) -> Fetched:
    """Bring a track's stream: the address is that of `/video/range`, or any other of the container.

    It is what the container stores and a signature is over: of masked media the masked bytes, whatever keys
    the server has.

    Raises LyingServerError (which block it lied about), SealError for proofs that do not hold, SourceError,
    UsageError, StorageError. What has come stays beside `out` as `NAME.part`, for the next attempt.
    """
    address = _Address.parse(url)
    stream = address.url("video/range", f"&track={address.track}&masked=1")
    with (
        HTTPSource(stream, timeout=_TIMEOUT, token=token) as source,
        _Proofs(address, trust, token) as proofs,
    ):
        with _Part(out, source, jobs, progress) as part:
            blocks = at = 0
            for block in proofs.tokens():
                part.take(_token_block(block))
                blocks, at = blocks + 1, block.offset + block.size
            part.finish(at)
        return Fetched(at, blocks, part.received, proofs.head, proofs.accepted)


def _token_block(token: TokenRecord) -> _Block:
    def check(data: memoryview) -> bool:
        return sha256(data) == token.digest

    return _Block(token.offset, token.size, check, f"block {token.index} of track {token.track}")


class _Proofs:
    """All tokens of a track, proven in parts; all parts are of one container."""

    def __init__(self, address: _Address, trust: Trust, token: str | None) -> None:
        self._address = address
        self._exchange = Exchange(address.root, timeout=_TIMEOUT, token=token)
        self._trust = trust
        self.head = b""
        self.accepted: Accepted | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange.close()

    def tokens(self) -> Iterator[TokenRecord]:
        track, at, ask = self._address.track, 0, _ASK
        while True:
            data = self._ask(at, at + ask)
            if data is None:
                if ask == 1:
                    raise SourceError("the server has no proof of a single byte", where=at)
                ask = max(ask // 4, 1)
                continue
            checked = check_proof(data, self._trust)
            if not checked.final:
                raise SealError("the server proves a beginning of a container only")
            # Whatever comes later must be of this very container: another edition is another one.
            self._trust = replace(self._trust, head=checked.head)
            self.head, self.accepted = checked.head, checked.accepted
            found = checked.range(at, at + ask, track)
            if not found:
                if at:
                    raise SealError("the proofs of a stream contradict each other", where=f"track {track}")
                return
            before = at
            for token in found:
                if token.offset >= at:  # the first one may be known already
                    yield token
                    at = token.offset + token.size
            if at == before:
                raise SealError("the proofs of a stream contradict each other", where=f"track {track}")
            if found[-1].flags & LAST:
                return

    def _ask(self, start: int, stop: int) -> bytes | None:
        """A proof document; None where it is too long for one."""
        query = f"&track={self._address.track}&range=bytes={start}-{stop - 1}"
        target = target_of(self._address.url("video/proof", query))
        status, _, data = self._exchange.request("GET", target, {}, _MOST_PROOF, whole=False)
        if status == 413:
            return None
        if status != 200:
            raise SourceError("the server has no proof of that stream", found=f"HTTP {status}")
        return bytes(data)


def fetch_container(
    url: str,
    out: Path,
    trust: Trust,
    *,
    jobs: int = 4,
    progress: Progress | None = None,
    token: str | None = None,
) -> Fetched:
    """Bring the sealed file itself; at the end every check of `verify` is made. Raises as `fetch_stream`."""
    address = _Address.parse(url)
    with ExitStack() as stack:
        source = stack.enter_context(HTTPSource(address.url("container"), timeout=_TIMEOUT, token=token))
        reader = stack.enter_context(H4MKReader(source))
        tail, meta = reader.tail, reader.meta
        if tail is None or meta is None:
            raise SealError("the container is not sealed", found=reader.state)
        head = head_bytes(tail.blocks, tail.duration, tail.root, reader.trak.pack(), meta.pack())
        trust.check(head, islice(final_signatures(reader.read_file, tail), MOST_SIGNATURES))
        if tail.length - tail.index > _FRAMING + 256 * tail.blocks:
            raise SealError("the container's index is longer than its blocks can make it")
        part = stack.enter_context(_Part(out, source, jobs, progress))
        at = 0
        for block in _file_blocks(reader, _leaves(reader)):
            if block.start < at:
                raise SealError("RMAP is not a map of the file", where=block.name)
            part.take_framing(at, block.start)
            part.take(block)
            at = block.start + block.size
        part.take_framing(at, tail.length)
        found: list[Accepted] = []
        pinned = replace(trust, head=tail.head)
        part.finish(tail.length, lambda path: found.extend(_check_whole(path, pinned)))
        latest = max(found, key=lambda one: one.revision, default=None)
        return Fetched(tail.length, tail.blocks, part.received, tail.head, latest)


def _check_whole(path: Path, trust: Trust) -> tuple[Accepted, ...]:
    """What is accepted of the file on disk, which is the one thing that counts."""
    report = verify(path, trust=trust)
    if not report.ok:
        first = report.problems[0] if report.problems else report.state
        raise LyingServerError(f"what came is not sound: {first}")
    return report.accepted


def _leaves(reader: H4MKReader) -> bytearray:
    """All leaf hashes, compared with the root that is signed. Raises SealError."""
    tail = reader.tail
    assert tail is not None
    tree, start, found = MerkleTree(), tail.merk + CHUNK_SIZE + 8, bytearray(32 * tail.blocks)
    step = 32 * (_PIECE // 32)
    for at in range(0, 32 * tail.blocks, step):
        piece = reader.read_file(start + at, min(step, 32 * tail.blocks - at))
        found[at : at + len(piece)] = piece
        for place in range(0, len(piece), 32):
            tree.append(piece[place : place + 32])
    if tree.root() != tail.root:
        raise SealError("MERK is not the tree that was signed", where=tail.merk)
    return found


def _file_blocks(reader: H4MKReader, leaves: bytearray) -> Iterator[_Block]:
    """The blocks in file order, each with the headers before its payload."""
    count = 0
    for leaf, position, size, row, track in merge(*(_rows(reader, one) for one in range(len(reader.tracks)))):
        if leaf != count or count == len(leaves) // 32:
            raise SealError("RMAP is not a map of the file", where=f"block {row} of track {track}")
        count += 1
        wanted = bytes(leaves[32 * leaf : 32 * leaf + 32])

        def check(data: memoryview, wanted: bytes = wanted) -> bool:
            token = bytes(data[CHUNK_SIZE : CHUNK_SIZE + TOKEN_SIZE])
            if leaf_hash(token) != wanted:
                return False
            return TokenRecord.unpack(token).digest == sha256(data[BEFORE:])

        yield _Block(position - BEFORE, BEFORE + size, check, f"block {row} of track {track}")
    if count != len(leaves) // 32:
        raise SealError("RMAP is not a map of the file")


def _rows(reader: H4MKReader, track: int) -> Iterator[tuple[int, int, int, int, int]]:
    for row, entry in enumerate(reader.range_map(track)):
        yield entry.leaf, entry.position, entry.size, row, track


class _Part:
    """The unfinished file, and the requests for what it lacks. A context manager: it ends its threads."""

    def __init__(self, out: Path, source: HTTPSource, jobs: int, progress: Progress | None) -> None:
        self._out = out
        self._path = out.with_name(out.name + ".part")
        self._source = source
        self._progress = progress
        self._jobs = jobs
        self._waiting: list[_Block] = []
        self._running: deque[Future[tuple[int, int]]] = deque()
        self._done = 0
        self.received = 0
        self._placed = False
        if out.is_dir():
            raise StorageError("cannot write the file: it is a folder")
        self._fd = _open_own(self._path)
        self._lock()
        self._there = os.fstat(self._fd).st_size
        self._pool = ThreadPoolExecutor(jobs, "harmony4-fetch")
        self._disk = ThreadPoolExecutor(1, "harmony4-sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self._local = threading.local()

    def _lock(self) -> None:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._fd)
                raise StorageError("another fetch writes the same file") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._disk.shutdown(cancel_futures=True)
        if not self._placed and not os.fstat(self._fd).st_size:  # nothing to go on from
            with suppress(OSError):
                self._path.unlink()
        os.close(self._fd)

    def take(self, block: _Block) -> None:
        """Have one more block fetched, if it is not there; those that follow each other come together."""
        last = self._waiting[-1] if self._waiting else None
        if last is not None and (last.start + last.size != block.start or self._size() + block.size > _PIECE):
            self._submit()
        self._waiting.append(block)

    def take_framing(self, start: int, stop: int) -> None:
        """Bytes between blocks, which only the whole file's check proves."""
        for at in range(start, stop, _PIECE):
            self.take(_Block(at, min(_PIECE, stop - at), None, "what stands between the blocks"))

    def finish(self, length: int, check: Callable[[Path], None] | None = None) -> None:
        """Wait for everything, and put the file in its place."""
        self._submit()
        while self._running:
            self._collect(length)
        try:
            self._check_synced()
            os.ftruncate(self._fd, length)
            if check is not None:
                check(self._path)
            os.fsync(self._fd)
            self._path.replace(self._out)
            self._placed = True
            sync_folder(self._out.parent)
        except OSError as error:
            raise StorageError(f"cannot write the file: {error.strerror}") from error

    def _size(self) -> int:
        return sum(one.size for one in self._waiting)

    def _submit(self) -> None:
        if self._waiting:
            blocks, self._waiting = self._waiting, []
            self._running.append(self._pool.submit(self._bring, blocks))
        while len(self._running) > 2 * self._jobs:
            self._collect(None)

    def _collect(self, total: int | None) -> None:
        size, received = self._running.popleft().result()
        self._done += size
        self.received += received
        self._unsynced += received
        if self._unsynced >= _AHEAD and (self._syncing is None or self._syncing.done()):
            # Let the disk work meanwhile: at the end there is little to wait for.
            self._check_synced()
            self._syncing = self._disk.submit(_sync, self._fd)
            self._unsynced = 0
        if self._progress is not None:
            self._progress(self._done, total or self._source.size())

    def _bring(self, blocks: list[_Block]) -> tuple[int, int]:
        """In a thread: fetch what is not there, check it, write it. (bytes, bytes that were fetched)."""
        start, size = blocks[0].start, sum(one.size for one in blocks)
        try:
            if all(map(self._is_there, blocks)):
                return size, 0
            data = self._buffer(size)
            data = data[: self._source.read_into(start, data)]
            for one in blocks:
                part = data[one.start - start : one.start - start + one.size]
                if len(part) != one.size or not _holds(one, part):
                    bytes_ = f"bytes {one.start} to {one.start + one.size - 1}"
                    raise LyingServerError(
                        f"the server lied about {one.name}: {bytes_} are not what was signed"
                    )
                os.pwrite(self._fd, part, one.start)
        except OSError as error:
            raise StorageError(f"cannot write the file: {error.strerror}") from error
        return size, size

    def _buffer(self, size: int) -> memoryview:
        """This thread's own; memory that is used again costs less than new one."""
        known: bytearray | None = getattr(self._local, "buffer", None)
        if known is None or len(known) < size:
            known = self._local.buffer = bytearray(max(size, _PIECE))
        return memoryview(known)[:size]

    def _check_synced(self) -> None:
        """Wait for the disk. Raises StorageError: no later sync would tell again."""
        if self._syncing is not None:
            try:
                self._syncing.result()
            except OSError as error:
                raise StorageError(f"cannot write the file: {error.strerror}") from error

    def _is_there(self, block: _Block) -> bool:
        """Whether an earlier attempt has left the right bytes."""
        if block.check is None or block.start + block.size > self._there:
            return False
        data = os.pread(self._fd, block.size, block.start)
        return len(data) == block.size and _holds(block, memoryview(data))


def _open_own(path: Path) -> int:
    """Open or make a file of ours, to read and write. Raises StorageError for what leads somewhere else."""
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_CLOEXEC", "O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    try:
        fd = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise StorageError(
                "the unfinished file is a link, and is not followed", where=path.name
            ) from None
        raise StorageError(f"cannot write the file: {getattr(error, 'strerror', error)}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        said = "the unfinished file is no regular file"
    elif status.st_nlink != 1:
        said = "the unfinished file has another name, and what has it would be overwritten"
    elif hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        said = "the unfinished file is someone else's"
    else:
        return fd
    os.close(fd)
    raise StorageError(said, where=path.name)


def _holds(block: _Block, data: memoryview) -> bool:
    try:
        return block.check is None or block.check(data)
    except HarmonyError:  # bytes that are no token
        return False
