"""KEYS and SIGN: their layout, for the checks that need no key (H4MK 7, 13.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from harmony4.crypto.errors import CriticalError, FormatError, OrderError
from harmony4.h4mk.layout import SIGN_SIZE

__all__ = ["CHECKPOINT", "FINAL", "check_keys", "check_sign"]

FINAL: Final = 1
CHECKPOINT: Final = 2
_ECDSA_P256: Final = 1
_SLOT: Final = 64
_SLOTS: Final = 8


def check_keys(data: bytes) -> None:
    """Check the 520 bytes of KEYS: 1 to 8 slots, sorted by key id, zero where unused.

    Raises FormatError, OrderError.
    """
    count = data[0]
    if not 1 <= count <= _SLOTS or any(data[1:8]):
        raise FormatError("KEYS has an impossible count or a reserved byte set", found=data[:8].hex())
    slots = [data[at : at + _SLOT] for at in range(8, 8 + _SLOT * _SLOTS, _SLOT)]
    if any(any(slot[56:]) for slot in slots) or any(map(any, slots[count:])):
        raise FormatError("KEYS is not zero where it must be")
    names = [slot[:16] for slot in slots[:count]]
    if any(after <= before for before, after in pairwise(names)):
        raise OrderError("key slots are not sorted by key id")


def check_sign(data: bytes, kind: int) -> None:
    """Check a SIGN payload that stands where signatures of `kind` stand; says nothing of its truth.

    Raises CriticalError for an unknown kind or algorithm, OrderError for a kind at the wrong place,
    FormatError for reserved bytes and certificates that do not fill the chunk.
    """
    if data[0] not in (FINAL, CHECKPOINT) or data[1] != _ECDSA_P256:
        raise CriticalError("unknown signature kind or algorithm", found=data[:2].hex())
    if data[0] != kind:
        raise OrderError("a signature of this kind cannot stand here", expected=kind, found=data[0])
    if any(data[2:8]) or data[8] >> 7:
        raise FormatError("SIGN has a reserved byte set or a revision beyond 2^63")
    at = SIGN_SIZE
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        at += 4 + size
        if not size or at > len(data):
            raise FormatError("SIGN's certificates do not fill it", expected=len(data), found=at)
