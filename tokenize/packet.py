"""What a demuxer says of a packet. Loads nothing: each demuxer is a process with this in it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Packet"]


class Packet(NamedTuple):
    """What the cutting rule knows of a packet; times in ticks of its stream, sizes in bytes."""

    stream: int
    pos: int | None
    pts: int | None
    dts: int | None
    duration: int
    size: int
    key: bool
