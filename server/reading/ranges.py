"""What a request for bytes gets: RFC 9110 §13 (preconditions) and §14 (ranges) as pure decisions.

`decide` takes what the client sent and what the representation is, and returns a `Decision`: the status, the
headers that follow from it and the bytes to send. It touches no socket, clock or file, so that every row of
the table in docs/API.md is a line in a test.

One satisfiable range gets 206, several get 206 as multipart/byteranges. Requests that would cost more than
they are worth (RFC 9110 §17.15) get the whole with 200, which §14.2 allows as the answer to any of them.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Final

from multidict import MultiMapping

__all__ = [
    "MAX_OVERLAPPING",
    "MAX_RANGES",
    "MAX_RANGE_HEADER",
    "ByteRange",
    "Decision",
    "Representation",
    "boundary",
    "decide",
    "digest_field",
    "is_excessive",
    "matcher",
    "parse_range",
]

MAX_RANGE_HEADER: Final = 1024
"""A longer `Range` header is ignored, bytes."""
MAX_RANGES: Final = 16
"""With more ranges than this in one header the whole is sent, decided before any of them is looked at."""

MAX_OVERLAPPING: Final = 2
"""With more ranges than this that share a byte with another one the whole is sent (RFC 9110 §14.2)."""

_SPEC: Final = re.compile(r"(\d*)-(\d*)", re.ASCII)
_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"')
_OWS: Final = " \t"
_CRLF: Final = "\r\n"


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
    digest: bytes | None = None
    """SHA-256 of all its bytes, where that is known already."""


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
    and Content-Type on 200 and 206; Repr-Digest on 200, and on 206 unless the client asked with If-Range;
    Content-Range on 416 and on a 206 of one range. Cache-Control is the caller's.
    """
    accept = ("Accept-Ranges", "bytes")
    status = _precondition(headers, what)
    if status == 412:
        return Decision(412, (accept,))
    validators = _validators(what)
    if status == 304:
        # Nothing more: RFC 9110 §15.4.5 wants only what guides the update of a cache.
        return Decision(304, (accept, *validators))
    # Range is defined for GET only (RFC 9110 §14.2): HEAD describes the whole.
    ranges = None
    if method == "GET" and "Range" in headers and _if_range(headers, what):
        ranges = parse_range(headers.getall("Range"), what.size)
    if ranges is not None and len(ranges) > 1 and (what.etag is None or is_excessive(ranges, what.size)):
        ranges = None
    if ranges is None:
        whole = (ByteRange(0, what.size),)
        return Decision(200, (accept, *_content(whole, what), *validators, *_digest(what)), whole)
    if not ranges:
        return Decision(416, (accept, ("Content-Range", f"bytes */{what.size}")))
    # After If-Range the client has the other headers from before (RFC 9110 §15.3.7), else a 206 has those of
    # the 200: Repr-Digest is of the whole on both (RFC 9530 §3), so that put together, parts can be checked.
    digest = () if "If-Range" in headers else _digest(what)
    if len(ranges) == 1:
        where = ("Content-Range", _content_range(ranges[0], what))
        return Decision(206, (accept, *_content(ranges, what), where, *validators, *digest), ranges)
    parts, fields = _multipart(ranges, what)
    return Decision(206, (accept, *fields, *validators, *digest), parts)


def parse_range(values: Sequence[str], size: int) -> tuple[ByteRange, ...] | None:
    """What `Range` headers ask of `size` bytes: the satisfiable ranges in the client's order, () for none.

    None means that the headers are to be ignored: none or two of them, another unit than bytes, more than
    1 KiB, more than 16 ranges, or a representation without bytes (of which no range exists).
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


def is_excessive(ranges: Sequence[ByteRange], size: int) -> bool:
    """Whether several ranges ask for so much that the whole is the better answer. O(n log n).

    That is: for more bytes than there are, or with more than two ranges that share a byte with another one.
    RFC 9110 §14.2 and §17.15 name both as signs of an attack or of a broken client. Two that overlap are
    allowed; they are sent as they were asked for, as joining them would take the parts' order away.
    """
    if sum(one.length for one in ranges) > size:
        return True
    ordered = sorted(ranges, key=attrgetter("start"))
    # In this order a range overlaps a later one if and only if it overlaps the next, and an earlier one if
    # and only if it begins before the furthest end so far. Nothing is compared with everything: that was
    # CVE-2025-62727.
    overlapping = [later.start < one.stop for one, later in pairwise(ordered)] + [False]
    furthest = 0
    for number, one in enumerate(ordered):
        overlapping[number] |= one.start < furthest
        furthest = max(furthest, one.stop)
    return sum(overlapping) > MAX_OVERLAPPING


def boundary(etag: str) -> str:
    """What stands between the parts of a multipart body, 64 characters; the same on every replica.

    It must not occur in the parts (RFC 2046 §5.1.1), which cannot be searched for it. The strong entity tag
    is a digest of the content, so a content that holds the SHA-256 of its own tag cannot be made.
    """
    return hashlib.sha256(b"harmony4 byteranges\0" + etag.encode("utf-8", "surrogatepass")).hexdigest()


def digest_field(digest: bytes) -> str:
    """A SHA-256 as the value of Repr-Digest or Content-Digest (RFC 9530 §2)."""
    return f"sha-256=:{b64encode(digest).decode('ascii')}:"


def _content(ranges: Sequence[ByteRange], what: Representation) -> tuple[tuple[str, str], ...]:
    """Content-Length and Content-Type of one range."""
    return ("Content-Length", str(ranges[0].length)), ("Content-Type", what.content_type)


def _content_range(one: ByteRange, what: Representation) -> str:
    return f"bytes {one.start}-{one.stop - 1}/{what.size}"


def _multipart(
    ranges: Sequence[ByteRange], what: Representation
) -> tuple[tuple[bytes | ByteRange, ...], tuple[tuple[str, str], ...]]:
    """The body of RFC 9110 §14.6 with its Content-Length and Content-Type."""
    mark = boundary(what.etag or "")
    parts: list[bytes | ByteRange] = []
    length = 0
    opening = f"--{mark}{_CRLF}Content-Type: {what.content_type}{_CRLF}Content-Range: "
    for one in ranges:
        # The line break before a boundary belongs to the boundary, and the first one needs none.
        start = _CRLF if parts else ""
        frame = f"{start}{opening}{_content_range(one, what)}{_CRLF}{_CRLF}".encode()
        parts += (frame, one)
        length += len(frame) + one.length
    end = f"{_CRLF}--{mark}--{_CRLF}".encode()
    fields = (
        ("Content-Length", str(length + len(end))),
        # Content-Range stands in the parts only (RFC 9110 §15.3.7.2).
        ("Content-Type", f"multipart/byteranges; boundary={mark}"),
    )
    return (*parts, end), fields


def _digest(what: Representation) -> tuple[tuple[str, str], ...]:
    return (("Repr-Digest", digest_field(what.digest)),) if what.digest is not None else ()


def _parse_spec(spec: str, size: int) -> ByteRange | None:
    """One range-spec, clipped to `size`; None if it is malformed or no byte of it exists."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = _number(first, size)
        stop = min(_number(last, size) + 1, size) if last else size
    elif last:
        start, stop = size - _number(last, size), size
    else:
        return None
    return ByteRange(start, stop) if start < stop else None


def _number(digits: str, size: int) -> int:
    """`digits` as a number, `size` for one that is larger: nothing beyond the end makes a difference.

    Python refuses to convert more digits than a limit that the environment may set as low as 640.
    """
    digits = digits.lstrip("0") or "0"
    return size if len(digits) > len(str(size)) else min(int(digits), size)


def _validators(what: Representation) -> list[tuple[str, str]]:
    fields = []
    if what.etag is not None:
        fields.append(("ETag", f'"{what.etag}"'))
    if what.last_modified is not None:
        fields.append(("Last-Modified", _http_date(what.last_modified)))
    return fields


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    """Seconds since the epoch as an HTTP-date; the same few over and over again."""
    return formatdate(seconds, usegmt=True)


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


def matcher(values: Sequence[str]) -> Callable[[str | None], bool]:
    """Whether an entity tag, None for what has none, is one that `If-Match` names (RFC 9110 §13.1.1)."""
    return lambda etag: _listed(values, etag, weak=False)


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
    """The one date in a header; None if it is missing, doubled or no date: then RFC 9110 ignores it."""
    values = headers.getall(name, ())
    return _parse_date(values[0]) if len(values) == 1 else None


def _parse_date(text: str) -> int | None:
    """An HTTP-date as seconds since the epoch, or None."""
    try:
        date = parsedate_to_datetime(text)
        return int(date.timestamp()) if date.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
