"""Many tokens as text: the JSON of `facts.token_facts`, without a dictionary for each.

One format for the whole line takes 1.1 µs a token. Out of columns, as a matrix of characters, it was 1.3 µs
in batches of 512, and 0.2 ms however small they were.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from harmony4.crypto.token import HEADER, KEY, LAST, MASKED, NONE
from harmony4.server.folder.facts import SAFE_INTEGER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["token_lines"]

_FLAGS: Final = (("key", KEY), ("header", HEADER), ("last", LAST), ("masked", MASKED))
_ROW: Final = struct.Struct(">HHIQQQQQQQ32s32s")
_SWITCHES: Final = [
    ",".join(f'"{name}":{"true" if flags & bit else "false"}' for name, bit in _FLAGS).encode()
    for flags in range((KEY | MASKED | LAST | HEADER) + 1)
]
"""The text of each set of flags."""
_JSON: Final = (
    b'{"track":%d,"index":%d,"pts":%b,"end":%b,"offset":%b,"size":%d,%b,"key_pts":%b,"key_offset":%b,'
    b'"min_pts":%b,"digest":"%b","tag":%b}'
)


def token_lines(rows: NDArray[np.void], before: bytes, between: bytes, behind: bytes) -> bytes:
    """A piece of text for each row: `before`, its index, `between`, the token's JSON, `behind`.

    `rows`: (n,) of TOKEN_DTYPE. The JSON is that of `facts.token_facts`, without spaces.
    """
    before, between, behind = (part.replace(b"%", b"%%") for part in (before, between, behind))
    line = b"".join((before, b"%d", between, _JSON, behind))
    found = []
    for row in _ROW.iter_unpack(rows.tobytes()):
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
