"""Packets in bulk: columns instead of objects, for a demuxer that has many of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harmony4.tokenize.packet import Packet, known

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PacketTable"]

_KEY = 1


@dataclass(frozen=True, slots=True)
class PacketTable:
    """Consecutive packets in the demuxer's order, at least one; NOTHING where a Packet has None."""

    table: NDArray[np.int64]
    """(n, 6): stream, pos, pts, duration, size, flags."""

    @classmethod
    def unpack(cls, data: bytes) -> PacketTable:
        """Of RECORDs, one after the other. Raises ValueError for a part of one."""
        return cls(np.frombuffer(data, "<i8").astype(np.int64, copy=False).reshape(-1, 6))

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Packet]:
        """One by one."""
        for stream, pos, pts, duration, size, flags in self.table.tolist():
            yield Packet(stream, known(pos), known(pts), duration, size, bool(flags & _KEY))

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> PacketTable:
        """Some of them."""
        return PacketTable(self.table[part])

    @property
    def stream(self) -> NDArray[np.int64]:
        """(n,): the index of the stream of each."""
        return self.table[:, 0]

    @property
    def pos(self) -> NDArray[np.int64]:
        """(n,): where each lies."""
        return self.table[:, 1]

    @property
    def pts(self) -> NDArray[np.int64]:
        """(n,): when each shows, in ticks of its stream."""
        return self.table[:, 2]

    @property
    def duration(self) -> NDArray[np.int64]:
        """(n,): how long each shows, in ticks."""
        return self.table[:, 3]

    @property
    def size(self) -> NDArray[np.int64]:
        """(n,): bytes of each."""
        return self.table[:, 4]

    @property
    def key(self) -> NDArray[np.bool_]:
        """(n,): whether each is a keyframe."""
        found: NDArray[np.bool_] = self.table[:, 5] & _KEY != 0
        return found

    @property
    def first(self) -> Packet:
        """The first one."""
        return next(iter(self[:1]))
