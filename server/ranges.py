"""What a request for bytes gets: RFC 9110 §13 (preconditions) and §14 (ranges) as pure decisions.

`decide` takes what the client sent and what the representation is, and returns a `Decision`: the status, the
headers that follow from it and the bytes to send. It touches no socket, clock or file, so that every row of
the
table in docs/API.md is a line in a test.

A single satisfiable range gets 206. Several satisfiable ranges in one request get the whole with 200, which
RFC 9110
§14.2 allows a server to answer to any range request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from multidict import MultiMapping

__all__ = [
    "MAX_RANGES",
    "MAX_RANGE_HEADER",
    "ByteRange",
    "Decision",
    "Representation",
    "decide",
    "parse_range",
]

MAX_RANGE_HEADER: Final = 1024
"""A longer `Range` header is ignored, bytes."""
MAX_RANGES: Final = 16
"""With more ranges than this in one header the whole is sent, decided before any of them is looked at."""

_SPEC: Final = re.compile(r"(\d*)-(\d*)", re.ASCII)
_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"')
_OWS: Final = " \t"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop`, `stop` excluded."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes (not `__len__`: that could not tell more than 2^63)."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Representation:
    """The bytes that a request asks for."""

    size: int
    """Length of the whole, bytes."""
    etag: str | None = None
    """Strong entity tag without its quotes; None where the content may still grow."""
    last_modified: int | None = None
    """Seconds since the epoch."""
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a request for bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    parts: tuple[bytes | ByteRange, ...] = ()
    """What a GET sends, in order: ranges of the representation, and what frames them in a multipart body."""


def decide(method: str, headers: MultiMapping[str], what: Representation) -> Decision:
    """Answer a GET or HEAD for `what`, in the order of RFC 9110 §13.2.2; never raises.

    Headers of the decision: Accept-Ranges always; ETag and Last-Modified on 200, 206 and 304; Content-Length
    and Content-Type on 200 and 206; Content-Range on 206 and 416. Cache-Control is the caller's.
    """
    accept = ("Accept-Ranges", "bytes")
    status = _precondition(headers, what)
    if status == 412:
        return Decision(412, (accept,))
    validators = _validators(what)
    if status == 304:
        return Decision(304, (accept, *validators))
    kind = ("Content-Type", what.content_type)
    # Range is defined for GET only (RFC 9110 §14.2): HEAD describes the whole.
    ranges = None
    if method == "GET" and "Range" in headers and _if_range(headers, what):
        ranges = parse_range(headers.getall("Range"), what.size)
    if ranges is None or len(ranges) > 1:
        length = ("Content-Length", str(what.size))
        return Decision(200, (accept, length, kind, *validators), (ByteRange(0, what.size),))
    if not ranges:
        return Decision(416, (accept, ("Content-Range", f"bytes */{what.size}")))
    body = ranges[0]
    length = ("Content-Length", str(body.length))
    where = ("Content-Range", f"bytes {body.start}-{body.stop - 1}/{what.size}")
    return Decision(206, (accept, length, kind, where, *validators), (body,))


def parse_range(values: Sequence[str], size: int) -> tuple[ByteRange, ...] | None:
    """What `Range` headers ask of `size` bytes: the satisfiable ranges in the client's order, () if there are
    none.

    None means that the headers are to be ignored: none or two of them, another unit than bytes, more than 1
    KiB,
    more than 16 ranges, or a representation without bytes (of which no range exists).
    """
    if len(values) != 1 or len(values[0]) > MAX_RANGE_HEADER or size == 0:
        return None
    unit, equals, rest = values[0].partition("=")
    if not equals or unit.strip(_OWS).lower() != "bytes":
        return None
    # RFC 9110 §5.6.1: empty elements of a list are skipped by a recipient.
    specs = [spec for part in rest.split(",") if (spec := part.strip(_OWS))]
    if len(specs) > MAX_RANGES:
        return None
    return tuple(found for spec in specs if (found := _parse_spec(spec, size)) is not None)


def _parse_spec(spec: str, size: int) -> ByteRange | None:
    """One range-spec, clipped to `size`; None if it is malformed or no byte of it exists."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    return ByteRange(start, stop) if start < stop else None


def _validators(what: Representation) -> list[tuple[str, str]]:
    fields = []
    if what.etag is not None:
        fields.append(("ETag", f'"{what.etag}"'))
    if what.last_modified is not None:
        fields.append(("Last-Modified", formatdate(what.last_modified, usegmt=True)))
    return fields


def _precondition(headers: MultiMapping[str], what: Representation) -> int | None:
    """412, 304, or None where the request goes on (RFC 9110 §13.2.2, steps 1 to 4)."""
    if "If-Match" in headers:
        if not _listed(headers.getall("If-Match"), what.etag, weak=False):
            return 412
    else:
        until = _date(headers, "If-Unmodified-Since")
        if until is not None and what.last_modified is not None and what.last_modified > until:
            return 412
    if "If-None-Match" in headers:
        return 304 if _listed(headers.getall("If-None-Match"), what.etag, weak=True) else None
    since = _date(headers, "If-Modified-Since")
    if since is not None and what.last_modified is not None and what.last_modified <= since:
        return 304
    return None


def _listed(values: Sequence[str], etag: str | None, *, weak: bool) -> bool:
    """Whether a list of entity tags names `etag`; `weak` says which comparison of RFC 9110 §8.8.3.2 holds."""
    text = ",".join(values).strip(_OWS)
    if text == "*":
        return True  # a representation exists, with or without a tag
    return any((weak or not match[1]) and match[2] == etag for match in _ENTITY_TAG.finditer(text))


def _if_range(headers: MultiMapping[str], what: Representation) -> bool:
    """Whether `Range` may be looked at (RFC 9110 §13.1.5): a strong tag that matches, or exactly our date."""
    values = headers.getall("If-Range", ())
    if not values:
        return True
    if len(values) > 1:
        return False
    value = values[0].strip(_OWS)
    match = _ENTITY_TAG.fullmatch(value)
    if match is not None:
        return not match[1] and match[2] == what.etag
    return what.last_modified is not None and _parse_date(value) == what.last_modified


def _date(headers: MultiMapping[str], name: str) -> int | None:
    """The one date in a header; None if it is missing, doubled or no date (then RFC 9110 says to ignore
    it)."""
    values = headers.getall(name, ())
    return _parse_date(values[0]) if len(values) == 1 else None


def _parse_date(text: str) -> int | None:
    """An HTTP-date as seconds since the epoch, or None."""
    try:
        date = parsedate_to_datetime(text)
        return int(date.timestamp()) if date.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
