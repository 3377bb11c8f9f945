"""What a request for bytes may name: a `Resource`, a run of bytes that lies in one container's file.

A track's stream, the blocks of a time and the sealed file itself are all resources: `ranges.decide` sees
their size and validators, `payload.send` their pieces of the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harmony4.h4mk.layout import COPY_LIMIT, RMAP_ENTRY
from harmony4.server import facts
from harmony4.server.library import Container
from harmony4.server.ranges import Representation

__all__ = ["Pieces", "Resource", "file_resource", "in_memory", "last_modified", "stream_resource"]

Pieces = Callable[[int, int], Iterator[tuple[int, int]]]
"""(start, length) → the (file offset, size) pieces that hold these bytes, in order. Raises HarmonyError."""


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

    def representation(self) -> Representation:
        """What `ranges.decide` needs to know."""
        return Representation(self.size, self.etag, last_modified(self.container), self.content_type)


def last_modified(container: Container) -> int | None:
    """Seconds since the epoch; None for a file from the future (RFC 9110 §8.8.2.1 forbids to say so)."""
    seconds = container.identity.mtime_ns // 10**9
    return seconds if 0 <= seconds <= time.time() else None


def stream_resource(container: Container, track: int) -> Resource:
    """A track's whole stream. Raises NotFoundError for a track that is not there, FormatError and its kin."""
    reader = container.reader
    facts.check_track(reader, track)
    return Resource(
        container,
        reader.stream_size(track),
        reader.etag(track),
        facts.content_type(reader.tracks[track].info.media_type),
        lambda start, length: reader.extents(start, length, track),
        in_memory(container, track),
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
    return reader.state != "sealed" or reader.tracks[track].blocks * RMAP_ENTRY.size < COPY_LIMIT
