"""Many tokens of a track at once, as one NumPy array, with every check that one of them gets (H4MK 6, 9).

A token at a time costs some 10 µs, most of it Python objects that nobody keeps. Here the reads are a tight
loop and the checks are columns. Nothing is decided here that `H4MKReader._checked` would decide otherwise:
rows that do not pass are left to it, and it says what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from harmony4.crypto.digest import crc32
from harmony4.crypto.token import (
    HEADER,
    KEY,
    LAST,
    MASKED,
    MAX_BLOCK,
    MAX_BLOCKS,
    MAX_VALUE,
    NONE,
    TOKEN_SIZE,
)
from harmony4.h4mk.layout import CHUNK_SIZE
from harmony4.h4mk.source import ReadAt, read_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harmony4.h4mk.rangemap import RangeMap

__all__ = ["BEFORE", "TOKEN_DTYPE", "read_rows"]

BEFORE: Final = CHUNK_SIZE + TOKEN_SIZE + CHUNK_SIZE
"""Bytes from the start of a block's TOKN chunk to its payload."""

TOKEN_DTYPE: Final = np.dtype(
    [
        ("track", ">u2"),
        ("flags", ">u2"),
        ("size", ">u4"),
        ("index", ">u8"),
        ("pts", ">u8"),
        ("end", ">u8"),
        ("offset", ">u8"),
        ("key_pts", ">u8"),
        ("key_offset", ">u8"),
        ("min_pts", ">u8"),
        ("digest", "V32"),
        ("tag", "V32"),
    ]
)
"""A TOKN payload as a NumPy record (H4MK 6.1)."""

_CHUNK: Final = [("tag", "S4"), ("size", ">u4"), ("crc", ">u4")]
_BEFORE: Final = np.dtype([("chunk", _CHUNK), ("token", TOKEN_DTYPE), ("payload", _CHUNK)])
_ENTRY: Final = np.dtype(
    [
        ("pts", ">u8"),
        ("offset", ">u8"),
        ("position", ">u8"),
        ("leaf", ">u8"),
        ("size", ">u4"),
        ("flags", ">u2"),
        ("zero", ">u2"),
    ]
)
_VALUES: Final = ("index", "pts", "end", "offset", "min_pts")


def read_rows(
    source: ReadAt, rmap: RangeMap, row: int, count: int, *, track: int, first: int, masked: bool
) -> NDArray[np.void]:
    """The tokens of stored rows `row` … `row + count` of a track, up to the first that does not pass.

    (n,) of TOKEN_DTYPE, n ≤ `count`. `first` is the block index of `row`; no hole lies between the rows.
    Raises SourceError.
    """
    entries = np.frombuffer(rmap.packed(row, count), _ENTRY)
    starts = entries["position"].astype(np.int64) - BEFORE
    size = source.size()
    sound = (entries["zero"] == 0) & (entries["leaf"] <= MAX_VALUE) & (starts >= 0)
    sound &= entries["position"] + entries["size"] <= size  # 2^63 and more became negative above
    data = read_places(source, starts[: _passed(sound)].tolist(), BEFORE)
    found = np.frombuffer(data, _BEFORE, len(data) // BEFORE)
    entries = entries[: len(found)]
    tokens = found["token"]
    good = (found["chunk"]["tag"] == b"TOKN") & (found["chunk"]["size"] == TOKEN_SIZE)
    good &= _sums(data, len(found)) == found["chunk"]["crc"]
    good &= (found["payload"]["tag"] == (b"SAFE" if masked else b"CORE")) & (
        found["payload"]["size"] == entries["size"]
    )
    for name in ("pts", "offset", "size", "flags"):
        good &= tokens[name] == entries[name]
    good &= (tokens["track"] == track) & (tokens["index"] == np.arange(first, first + len(found)))
    good &= _by_itself(tokens)
    return tokens[: _passed(good)]


def _passed(good: NDArray[np.bool_]) -> int:
    """How many come before the first that is not."""
    return len(good) if good.all() else int(np.argmin(good))


def _sums(data: bytes, count: int) -> NDArray[np.int64]:
    view = memoryview(data)
    places = range(CHUNK_SIZE, count * BEFORE, BEFORE)
    return np.array([crc32(view[at : at + TOKEN_SIZE]) for at in places], np.int64)


def _by_itself(tokens: NDArray[np.void]) -> NDArray[np.bool_]:
    """What `TokenRecord.check` asks of each (H4MK 6.2)."""
    column = {name: tokens[name].astype(np.uint64) for name in (*_VALUES, "key_pts", "key_offset")}
    flags, size = tokens["flags"].astype(np.uint16), tokens["size"]
    key, header = flags & KEY != 0, flags & HEADER != 0
    pts, offset, key_pts, key_offset = (column[one] for one in ("pts", "offset", "key_pts", "key_offset"))
    good = (flags & ~np.uint16(KEY | MASKED | LAST | HEADER) == 0) & (size > 0) & (size <= MAX_BLOCK)
    for name in _VALUES:
        good &= column[name] <= MAX_VALUE
    good &= (column["index"] < MAX_BLOCKS) & (column["end"] >= pts)
    good &= ~key | (~header & (key_pts == pts) & (key_offset == offset))
    grouped = key_offset != NONE
    good &= grouped == (key_pts != NONE)
    good &= ~grouped | ((key_pts <= MAX_VALUE) & (key_offset <= MAX_VALUE) & (key_pts <= pts))
    good &= ~grouped | (key_offset + ~key <= offset)
    good &= ~header | (~grouped & (pts == 0))
    plain = flags & MASKED == 0
    tags = np.ascontiguousarray(tokens["tag"]).view(np.uint64).reshape(-1, 4)
    good &= ~plain | ~tags.any(axis=1)
    return np.asarray(good, np.bool_)
