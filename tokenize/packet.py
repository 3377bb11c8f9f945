"""What a demuxer says of a packet. Loads nothing: each demuxer is a process with this in it."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["NOTHING", "RECORD", "Packet", "known"]

RECORD = struct.Struct("<6q")
"""A packet: stream, pos, pts, duration, size, flags (1: keyframe)."""
NOTHING = -(2**63)
"""A position or time that is missing."""


class Packet(NamedTuple):
    """What the cutting rule knows of a packet; times in ticks of its stream, sizes in bytes."""

    stream: int
    pos: int | None
    pts: int | None
    duration: int
    size: int
    key: bool


def known(value: int) -> int | None:
    """A position or time of a record as a Packet has it."""
    return None if value == NOTHING else value
