"""KEYS: a file's own key, wrapped once for each master key that may open it (H4MK 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import ChecksumError, FormatError, KeyRefusedError
from harmony4.crypto.mask import FileKey, MasterKey
from harmony4.h4mk.layout import CHUNK_SIZE, HEADER_SIZE, KEYS_SIZE, ChunkInfo
from harmony4.h4mk.seals import check_keys
from harmony4.h4mk.source import ReadAt, read_exact

__all__ = ["Slot", "open_slots", "pack_keys", "pack_slots", "parse_keys", "read_keys"]

_ID: Final = 16
_WRAPPED: Final = 40
_SLOT: Final = 64

Slot = tuple[bytes, bytes]
"""Key id, 16 bytes, and the wrapped file key, 40 bytes."""


def pack_slots(slots: Iterable[Slot]) -> bytes:
    """The 520 bytes of KEYS with 1 to 8 slots, of different key ids."""
    found = sorted(slots)
    data = bytes([len(found)]) + bytes(7) + b"".join(b"".join(slot).ljust(_SLOT, b"\0") for slot in found)
    return data.ljust(KEYS_SIZE, b"\0")


def pack_keys(key: FileKey, masters: Iterable[MasterKey]) -> bytes:
    """KEYS with `key` in a slot for each of 1 to 8 master keys."""
    return pack_slots((master.id, master.wrap(key)) for master in masters)


def parse_keys(data: bytes) -> list[Slot]:
    """The used slots. Raises FormatError, OrderError."""
    check_keys(data)
    starts = range(8, 8 + data[0] * _SLOT, _SLOT)
    return [(data[at : at + _ID], data[at + _ID : at + _ID + _WRAPPED]) for at in starts]


def open_slots(slots: Sequence[Slot], commit: bytes, masters: Iterable[MasterKey]) -> FileKey:
    """The file key, by the first of `masters` that has a slot.

    Raises KeyRefusedError where none has, and for a slot that does not open to the key that TRAK's `commit`
    stands for.
    """
    known = dict(slots)
    for master in masters:
        wrapped = known.get(master.id)
        if wrapped is not None:
            return master.unwrap(wrapped, commit)
    raise KeyRefusedError(
        "none of the keys given opens this container",
        expected="key " + " or ".join(name.hex() for name, _ in slots),
    )


def read_keys(source: ReadAt, trak: int) -> list[Slot]:
    """The slots of a file whose TRAK has `trak` bytes. Raises FormatError and its kin, SourceError."""
    at = HEADER_SIZE + CHUNK_SIZE + trak
    info = ChunkInfo.unpack(read_exact(source, at, CHUNK_SIZE), at, source.size())
    if (info.tag, info.size) != ("KEYS", KEYS_SIZE):
        raise FormatError("a masked container without KEYS", where=at, found=info.tag)
    data = read_exact(source, info.payload, KEYS_SIZE)
    if crc32(data) != info.crc:
        raise ChecksumError("chunk KEYS fails its CRC", where=at)
    return parse_keys(data)
