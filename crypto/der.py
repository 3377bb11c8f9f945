"""As much of DER (X.690) as putting a time stamp's certificates in order takes (H4MK 13.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["SEQUENCE", "children", "join", "sort_certificates"]

SEQUENCE: Final = 0x30
_TAGGED: Final = 0xA0
"""[0], constructed."""


def sort_certificates(token: bytes) -> bytes:
    """A TimeStampToken (RFC 3161, RFC 5652) whose certificates stand in the order of DER, X.690 11.6.

    The set is not signed, and authorities that send a chain write it as the chain goes. Raises ValueError for
    bytes that are no such thing.
    """
    kind, content = children(token, SEQUENCE)
    (signed,) = children(content, _TAGGED)
    fields = [
        join(_TAGGED, sorted(children(one, _TAGGED))) if one[0] == _TAGGED else one
        for one in children(signed, SEQUENCE)
    ]
    return join(SEQUENCE, [kind, join(_TAGGED, [join(SEQUENCE, fields)])])


def children(data: bytes, tag: int) -> list[bytes]:
    """The values inside a value of this tag that fills `data`. Raises ValueError."""
    start, stop = _bounds(data, 0)
    if data[0] != tag or stop != len(data):
        raise ValueError("not that value")
    return list(_split(data, start))


def _split(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data):
        stop = _bounds(data, at)[1]
        yield data[at:stop]
        at = stop


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the value at `at` begin and end; lengths are as short as they can be."""
    head = data[at : at + 2]
    if len(head) < 2 or head[0] & 0x1F == 0x1F:
        raise ValueError("no value with a short tag")
    count = head[1] & 0x7F if head[1] & 0x80 else 0
    number = data[at + 2 : at + 2 + count]
    size = int.from_bytes(number) if count else head[1]
    start = at + 2 + count
    if head[1] & 0x80 and (len(number) < count or not any(number[:1]) or size < 0x80):
        raise ValueError("not a length in DER")
    if start + size > len(data):
        raise ValueError("a value is longer than what it is in")
    return start, start + size


def join(tag: int, parts: Sequence[bytes]) -> bytes:
    """A value with this tag (one byte) of others."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body
