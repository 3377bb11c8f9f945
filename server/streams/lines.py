"""Many tokens as text at once: the JSON of `facts.token_facts`, out of columns instead of objects.

A dictionary and `json.dumps` take several µs a token; the same text out of a matrix of characters takes
one. Each field is a column of digits, right-aligned; a second matrix says which characters stand.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from harmony4.crypto.token import HEADER, KEY, LAST, MASKED, NONE
from harmony4.server.facts import SAFE_INTEGER

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["token_lines"]

_FLAGS: Final = (("key", KEY), ("header", HEADER), ("last", LAST), ("masked", MASKED))
_NUMBERS: Final = ("pts", "end", "offset", "key_pts", "key_offset", "min_pts")
_FEW: Final = 192
"""Fewer than this are written faster one by one: a matrix takes 0.4 ms, however small it is."""
_ROW: Final = struct.Struct(">HHIQQQQQQQ32s32s")
_SWITCHES: Final = [
    ",".join(f'"{name}":{"true" if flags & bit else "false"}' for name, bit in _FLAGS).encode()
    for flags in range(2 * LAST * HEADER)
]
"""The text of each set of flags."""
_JSON: Final = (
    b'{"track":%d,"index":%d,"pts":%b,"end":%b,"offset":%b,"size":%d,%b,"key_pts":%b,"key_offset":%b,'
    b'"min_pts":%b,"digest":"%b","tag":%b}'
)
_TEN: Final = np.uint64(10)
_ZERO: Final = np.uint8(ord("0"))


def token_lines(rows: NDArray[np.void], before: bytes, between: bytes, behind: bytes) -> bytes:
    """A piece of text for each row: `before`, its index, `between`, the token's JSON, `behind`.

    `rows`: (n,) of TOKEN_DTYPE, n >= 1. The JSON is that of `facts.token_facts`, without spaces.
    """
    masked = rows["flags"].astype(np.uint16) & MASKED != 0
    mixed = bool(masked.any()) and not masked.all()  # which only a hostile file has
    if len(rows) < _FEW or mixed or any(_greatest(rows[name]) > SAFE_INTEGER for name in _NUMBERS):
        return _one_by_one(rows.tobytes(), before, between, behind)
    page = _Page(len(rows))
    page.text(before)
    page.number(rows["index"])
    page.text(between + b'{"track":')
    page.number(rows["track"])
    for name in ("index", "pts", "end", "offset", "size"):
        page.text(f',"{name}":'.encode())
        page.number(rows[name])
    flags = rows["flags"].astype(np.uint16)
    for name, bit in _FLAGS:
        page.text(f',"{name}":'.encode())
        page.switch(flags & bit != 0)
    for name in ("key_pts", "key_offset"):
        page.text(f',"{name}":'.encode())
        page.number(rows[name], null=NONE)
    page.text(b',"min_pts":')
    page.number(rows["min_pts"])
    page.text(b',"digest":"')
    page.digest(rows["digest"])
    if masked.all():
        page.text(b'","tag":"')
        page.digest(rows["tag"])
        page.text(b'"}' + behind)
    else:
        page.text(b'","tag":null}' + behind)
    return page.written()


def _greatest(values: NDArray[np.unsignedinteger]) -> int:
    return int(np.where(values == NONE, 0, values).max())


def _one_by_one(data: bytes, before: bytes, between: bytes, behind: bytes) -> bytes:
    before, between, behind = (part.replace(b"%", b"%%") for part in (before, between, behind))
    line = b"".join((before, b"%d", between, _JSON, behind))
    found = []
    for row in _ROW.iter_unpack(data):
        track, flags, size, index, pts, end, offset, key_pts, key_offset, min_pts, digest, tag = row
        found.append(
            line
            % (
                *(index, track, index, _number(pts), _number(end), _number(offset), size, _SWITCHES[flags]),
                *(_number(key_pts), _number(key_offset), _number(min_pts), digest.hex().encode("ascii")),
                b'"%b"' % tag.hex().encode("ascii") if flags & MASKED else b"null",
            )
        )
    return b"".join(found)


def _number(value: int) -> bytes:
    if value > SAFE_INTEGER:
        return b"null" if value == NONE else b'"%d"' % value
    return b"%d" % value


class _Page:
    """Rows of text that grow to the right, all at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._columns: list[NDArray[np.uint8]] = []
        self._stands: list[NDArray[np.bool_]] = []

    def _add(self, column: NDArray[np.uint8], stands: NDArray[np.bool_] | None = None) -> None:
        self._columns.append(column)
        self._stands.append(np.broadcast_to(np.True_, column.shape) if stands is None else stands)

    def text(self, text: bytes) -> None:
        """The same in all rows."""
        self._add(np.broadcast_to(np.frombuffer(text, np.uint8), (self._count, len(text))))

    def number(self, values: NDArray[np.unsignedinteger], null: int | None = None) -> None:
        """Decimal digits; `null` where a value is that."""
        values = values.astype(np.uint64)
        if null is not None:
            nulls = values == null
            values = np.where(nulls, np.uint64(0), values)
        width = max(len(str(int(values.max(initial=0)))), 1 if null is None else 4)
        digits = np.empty((self._count, width), np.uint8)
        left = values
        for place in range(width - 1, -1, -1):
            rest = left // _TEN
            digits[:, place] = left - rest * _TEN
            left = rest
        stands = np.logical_or.accumulate(digits != 0, axis=1)
        stands[:, -1] = True
        digits += _ZERO
        if null is not None and nulls.any():
            digits[nulls, -4:] = np.frombuffer(b"null", np.uint8)
            stands[nulls] = np.arange(width) >= width - 4
        self._add(digits, stands)

    def switch(self, values: NDArray[np.bool_]) -> None:
        """`true` or `false`."""
        words = np.array([list(b"false"), list(b" true")], np.uint8)
        stands = np.ones((self._count, 5), np.bool_)
        stands[:, 0] = ~values
        self._add(words[values.astype(np.uint8)], stands)

    def digest(self, values: NDArray[np.void]) -> None:
        """Lower-case hexadecimal digits."""
        text = np.ascontiguousarray(values).tobytes().hex().encode("ascii")
        self._add(np.frombuffer(text, np.uint8).reshape(self._count, 2 * values.dtype.itemsize))

    def written(self) -> bytes:
        """The rows behind each other."""
        return np.concatenate(self._columns, axis=1)[np.concatenate(self._stands, axis=1)].tobytes()
