"""verify: every check there is, in one pass over a file or a pipe (H4MK 19).

The checks themselves are in `checks`. Memory follows one block; large derived tables spill to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import BinaryIO, Protocol, cast

from harmony4.crypto.errors import FormatError, HarmonyError, LimitError, SourceError, TruncatedError
from harmony4.crypto.mask import MasterKey
from harmony4.h4mk.checks import Checker
from harmony4.h4mk.chunks import ChunkStream
from harmony4.h4mk.documents import Digest
from harmony4.h4mk.proofs.trust import Accepted, Trust
from harmony4.h4mk.source import ReadAt, open_source

__all__ = ["VerifyReport", "verify"]

_READ = 2**20


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and what is wrong."""

    state: str
    """sealed, incomplete, original, or unreadable where not even header and TRAK are sound."""
    problems: tuple[HarmonyError, ...]
    """In file order, at most 100 of a kind."""
    blocks: int
    bytes: int
    """Bytes of the file that were read."""
    chunks: int
    duration: int
    """µs."""
    head: Digest | None
    root: Digest | None
    """Of a sealed file, as recomputed."""
    signatures: int
    """SIGN chunks, whoever made them."""
    holes: int
    """Holes that a recovered container admits to."""
    masked: bool
    """Whether anything is masked: then only a key shows who made the blocks."""
    tags: int
    """Blocks whose tag is what a key gives; none without a key."""
    whole: bool
    """Whether the key shows that no masked block is missing; not where something was done to it since."""
    checked: int = 0
    """Of the signatures, those that hold and are by keys that are trusted."""
    covered: int = 0
    """Blocks that these cover, from the first on."""
    accepted: tuple[Accepted, ...] = ()
    """The final ones among them."""

    @property
    def ok(self) -> bool:
        """Whether the file is sealed (or original) and nothing is wrong."""
        return not self.problems and self.state in ("sealed", "original")


def verify(
    source: str | PathLike[str] | bytes | ReadAt | BinaryIO,
    *,
    masters: Iterable[MasterKey] = (),
    progress: Callable[[int], object] | None = None,
    trust: Trust | None = None,
) -> VerifyReport:
    """Check a container, whole. Content never makes it raise: what is wrong stands in the report.

    `masters`: for the tags of a masked container, which say that whoever made it had the key. With `trust`,
    all that it wants must hold, and all signatures by its keys. A stream (anything with `read` and no
    `read_at`) is read once, in order. `progress` is called with the number of bytes read so far. Raises
    KeyRefusedError where none of `masters` is one of the container's, SourceError where the source cannot be
    read, StorageError where a large derived table cannot be spilled.
    """
    if hasattr(source, "read") and not hasattr(source, "read_at"):
        return _run(_read_stream(cast(_Readable, source)), None, masters, progress, trust)
    opened, owned = open_source(cast(ReadAt, source))
    try:
        return _run(_read_source(opened), opened.size(), masters, progress, trust)
    finally:
        if owned:
            opened.close()


def _read_stream(stream: _Readable) -> Iterator[bytes]:
    try:
        while data := stream.read(_READ):
            yield data
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"cannot read the source: {reason}") from error


def _read_source(source: ReadAt) -> Iterator[bytes]:
    offset = 0
    while data := source.read_at(offset, _READ):
        yield data
        offset += len(data)


def _run(
    pieces: Iterator[bytes],
    length: int | None,
    masters: Iterable[MasterKey],
    progress: Callable[[int], object] | None,
    trust: Trust | None,
) -> VerifyReport:
    done = 0
    stream = ChunkStream(length)
    with Checker(masters, trust) as checker:
        try:
            for data in pieces:
                stream.feed(data)
                done += len(data)
                for event in stream.events():
                    checker.event(event)
                if progress is not None:
                    progress(done)
            stream.close()
        except (FormatError, LimitError) as error:
            checker.problem(error)
        grammar = stream.grammar
        finished = grammar is not None and grammar.finished
        if not finished:
            expects = grammar.expects if grammar is not None else "a header"
            checker.incomplete(TruncatedError("the file ends too early", where=done, expected=expects))
        checker.require()
        problems = checker.conclude()
        state = checker.state(done)
        return VerifyReport(
            state=state,
            problems=problems,
            blocks=checker.blocks,
            bytes=done,
            chunks=checker.chunks,
            duration=checker.duration,
            head=checker.head,
            root=checker.root if state == "sealed" else None,
            signatures=checker.signatures,
            holes=checker.holes,
            masked=checker.masked,
            tags=checker.tags.count,
            checked=checker.seals.checked if checker.seals else 0,
            covered=checker.seals.covered if checker.seals else 0,
            accepted=tuple(checker.seals.accepted) if checker.seals else (),
            whole=checker.tags.whole,
        )
