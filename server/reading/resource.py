"""What a request for bytes may name: a `Resource`, a run of bytes that lies in one container's file.

A track's stream, the blocks of a time and the sealed file itself are all resources: `ranges.decide` sees
their size and validators, `payload.send` their pieces of the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from harmony4.h4mk import Unmasked
from harmony4.h4mk.layout import COPY_LIMIT, RMAP_ENTRY, RMAP_HEAD
from harmony4.server.folder import facts
from harmony4.server.folder.library import Container
from harmony4.server.reading.ranges import Representation

__all__ = [
    "Checked",
    "Fill",
    "Pieces",
    "Resource",
    "file_resource",
    "in_memory",
    "last_modified",
    "stream_resource",
]

Pieces = Callable[[int, int], Iterable[tuple[int, int]]]
"""(start, length) → the (file offset, size) pieces that hold these bytes, in order. Raises HarmonyError."""

Checked = Callable[[int, int], Iterator[memoryview]]
"""(start, length) → these bytes, from blocks that match CRC and digest. Reads files; raises HarmonyError."""


Fill = Callable[[int, memoryview], int]
"""(start, buffer) → how many bytes from there on are in the buffer now, one at least. As `Checked`."""

Soon = Callable[[int, memoryview], bool]
"""(start, buffer) → whether the buffer holds the bytes from there on, which exist. Waits for nothing."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Bytes of one container's file. Holds no lease: whoever sends it keeps the container open."""

    container: Container
    size: int
    """Bytes."""
    etag: str | None
    """Strong entity tag without quotes; None where the content may still grow."""
    content_type: str
    pieces: Pieces
    in_memory: bool
    """Whether `pieces` reads no file, so that it may be called on the event loop."""
    digest: bytes | None = None
    """SHA-256 of all the bytes, where the container says it."""
    checked: Checked | None = None
    """The same bytes as `pieces`, out of blocks that were checked; None where nothing can be checked."""
    extension: str | None = None
    """How a download's file name ends, without the dot; None keeps the container's own name."""
    fill: Fill | None = None
    """Where the file holds other bytes than these, masked ones: what gives these. So does `checked`."""
    soon: Soon | None = None
    """The same as `fill` on the event loop, of bytes that are at hand."""
    versions: tuple[str | None, ...] = ()
    """Entity tags whose beginnings an address may name as its version (`v`), where there are more than one.
    """
    kept: bool = True
    """Whether anybody may keep an answer, or compare it with an older one."""

    def representation(self) -> Representation:
        """What `ranges.decide` needs to know."""
        modified = last_modified(self.container) if self.kept else None
        return Representation(self.size, self.etag, modified, self.content_type, self.digest)


def last_modified(container: Container) -> int | None:
    """Seconds since the epoch; None for a file from the future (RFC 9110 §8.8.2.1 forbids to say so)."""
    seconds = container.identity.mtime_ns // 10**9
    return seconds if 0 <= seconds <= time.time() else None


def stream_resource(container: Container, track: int, unmasked: Unmasked | None = None) -> Resource:
    """A track's whole stream, as it is stored or `unmasked`.

    Raises NotFoundError for a track that is not there, FormatError and its kin.
    """
    reader = container.reader
    facts.check_track(reader, track)
    state = reader.tracks[track]
    size = reader.stream_size(track)
    flat = reader.flat_map(track)
    pieces: Pieces = lambda start, length: reader.extents(start, length, track)  # noqa: E731 - one of two
    if flat is not None:
        pieces = flat.pieces
    return Resource(
        container,
        size,
        reader.etag(track, unmasked=unmasked is not None),
        facts.content_type(state.info.media_type),
        pieces,
        in_memory(container, track),
        # META's digest is of the blocks that are stored: of the stream only where none is lost.
        digest=state.sha256 if state.bytes == size and unmasked is None else None,
        checked=lambda start, length: (unmasked.pieces if unmasked else reader.read_checked)(
            start, length, track
        ),
        extension=facts.extension(state.info.media_type),
        fill=None if unmasked is None else lambda start, out: unmasked.read_into(start, out, track),
        soon=None if unmasked is None else lambda start, out: unmasked.read_soon(start, out, track),
        versions=facts.etags(reader, track),
    )


def file_resource(container: Container) -> Resource:
    """The container's own file, byte for byte."""
    reader = container.reader
    return Resource(
        container,
        reader.size,
        reader.file_etag(),
        facts.CONTAINER_TYPE,
        lambda start, length: iter([(start, length)]),
        in_memory=True,
    )


def in_memory(container: Container, track: int) -> bool:
    """Whether a track's tables are in memory, so that looking something up in them never reads the disk."""
    reader = container.reader
    size = RMAP_HEAD.size + reader.tracks[track].blocks * RMAP_ENTRY.size
    return reader.state != "sealed" or size <= COPY_LIMIT
