"""Packets in bulk: columns instead of objects, for a demuxer that has many of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harmony4.tokenize.packet import NOTHING, RECORD, Packet

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PacketTable"]

_DTYPE = np.dtype(
    [
        ("stream", ">i4"),
        ("pos", ">i8"),
        ("pts", ">i8"),
        ("dts", ">i8"),
        ("duration", ">i8"),
        ("size", ">i8"),
        ("flags", "u1"),
    ]
)
_KEY = 1


@dataclass(frozen=True, slots=True)
class PacketTable:
    """Consecutive packets in the demuxer's order, at least one; NOTHING where a Packet has None."""

    table: NDArray[np.void]
    """(n,): the records' fields."""

    @classmethod
    def unpack(cls, data: bytes) -> PacketTable:
        """Of RECORDs, one after the other. Raises ValueError for a part of one."""
        return cls(np.frombuffer(data, _DTYPE))

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Packet]:
        """One by one."""
        for stream, pos, pts, dts, duration, size, flags in RECORD.iter_unpack(self.table.tobytes()):
            yield Packet(stream, _known(pos), _known(pts), _known(dts), duration, size, bool(flags & _KEY))

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> PacketTable:
        """Some of them."""
        return PacketTable(self.table[part])

    def column(self, name: str) -> NDArray[np.int64]:
        """(n,): `stream`, `pos`, `pts`, `duration` or `size` of each."""
        return self.table[name].astype(np.int64)

    @property
    def key(self) -> NDArray[np.bool_]:
        """(n,): whether each is a keyframe."""
        return self.table["flags"] & _KEY != 0

    @property
    def first(self) -> Packet:
        """The first one."""
        return next(iter(self[:1]))


def _known(value: int) -> int | None:
    return None if value == NOTHING else value
