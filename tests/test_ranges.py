"""server/reading/ranges.py: every row of the table in docs/API.md, an oracle, evidence of bounded work."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from byteranges import parts_of
from harmony4.server.reading import ranges
from harmony4.server.reading.ranges import (
    MAX_OVERLAPPING,
    MAX_RANGE_HEADER,
    MAX_RANGES,
    ByteRange,
    Decision,
    Representation,
    boundary,
    decide,
    digest_field,
    is_excessive,
    parse_range,
)
from needs import ROOT

SIZE = 1000
DATE = 1_700_000_000
WHAT = Representation(SIZE, "abc", DATE)
GROWING = Representation(SIZE)
EMPTY = Representation(0, "abc")
HUGE = Representation(2**64 + 5, "abc")
EARLIER, SAME, LATER = (formatdate(DATE + step, usegmt=True) for step in (-10, 0, 10))

Fields = list[tuple[str, str]]
WHOLE = "whole"


@dataclass(frozen=True)
class Case:
    """A request and what it gets; `found` are (start, stop) of the ranges that are sent."""

    fields: Fields
    status: int
    found: tuple[tuple[int, int], ...] = ()
    what: Representation = WHAT
    method: str = "GET"


def one(value: str, start: int, stop: int, *more: tuple[str, str], what: Representation = WHAT) -> Case:
    return Case([("Range", value), *more], 206, ((start, stop),), what)


def several(value: str, *found: tuple[int, int], what: Representation = WHAT) -> Case:
    return Case([("Range", value)], 206, found, what)


def none(value: str, what: Representation = WHAT) -> Case:
    return Case([("Range", value)], 416, (), what)


def whole(*values: str, what: Representation = WHAT, more: Fields | None = None, method: str = "GET") -> Case:
    fields = [("Range", value) for value in values] + (more or [])
    return Case(fields, 200, ((0, what.size),), what, method)


def if_range(value: str, status: int, what: Representation = WHAT) -> Case:
    fields = [("Range", "bytes=0-9"), ("If-Range", value)]
    return Case(fields, status, ((0, 10) if status == 206 else (0, SIZE),), what)


def condition(status: int, *fields: tuple[str, str], what: Representation = WHAT) -> list[Case]:
    found = ((0, SIZE),) if status == 200 else ()
    return [Case(list(fields), status, found, what, method) for method in ("GET", "HEAD")]


def header_of(count: int, spec: str = "{0}-{0}") -> str:
    return "bytes=" + ",".join(spec.format(number) for number in range(count))


# The keys are the first column of the table in docs/API.md.
ROWS: dict[str, list[Case]] = {
    "`bytes=0-9`, `bytes=-10`, an end past the size, `BYTES=`, `bytes= 0-9`": [
        one("bytes=0-9", 0, 10),
        one("bytes=-10", 990, 1000),
        one("bytes=990-", 990, 1000),
        one("bytes=0-", 0, 1000),
        one("bytes=990-5000", 990, 1000),
        one("bytes=-5000", 0, 1000),
        one("BYTES=0-9", 0, 10),
        one("bytes= 0-9", 0, 10),
        one("bytes=0-9\t", 0, 10),
        one("bytes=0-9,", 0, 10),  # empty elements of a list: RFC 9110 §5.6.1
        one("bytes=,0-9", 0, 10),
        one("bytes=999-999", 999, 1000),
        one("bytes=00-009", 0, 10),
        one("bytes=5-" + "9" * 1000, 5, 1000),
        one("bytes=-" + "9" * 1000, 0, 1000),
        one("bytes=0-9" + "0" * (MAX_RANGE_HEADER - 9), 0, 1000),
        one("bytes=" + "0" * 1000 + "5-6", 5, 7),
        one("bytes=9223372036854775807-9223372036854775808", 2**63 - 1, 2**63 + 1, what=HUGE),
        one("bytes=18446744073709551616-", 2**64, 2**64 + 5, what=HUGE),
        one("bytes=-18446744073709551617", 4, 2**64 + 5, what=HUGE),
    ],
    "`bytes=-0`, a start past the size, `9-3`, `abc`": [
        none("bytes=-0"),
        none("bytes=-000"),
        none("bytes=1000-"),
        none("bytes=1000-1001"),
        none("bytes=9-3"),
        none("bytes=abc"),
        none("bytes="),
        none("bytes=-"),
        none("bytes=,"),
        none("bytes=0 - 9"),
        none("bytes=0-9-9"),
        none("bytes=+0-9"),
        none("bytes=0x0-0x9"),
        none("bytes=٠-٩"),  # digits, but not ASCII
        none("bytes=1_0-2_0"),
        none("bytes=9223372036854775808-"),
        none("bytes=18446744073709551616-"),
        none("bytes=" + "9" * 1000 + "-"),
        none("bytes=18446744073709551621-", HUGE),
    ],
    "any range of an empty stream": [
        whole(value, what=EMPTY)
        for value in ("bytes=0-9", "bytes=0-", "bytes=-1", "bytes=-0", "bytes=abc", "bytes=1-", "bytes=0-,1-")
    ],
    "several ranges": [
        several("bytes=0-9,20-29", (0, 10), (20, 30)),
        several("bytes=20-29, 0-9", (20, 30), (0, 10)),  # the client's order
        several("bytes=-1,0-0", (999, 1000), (0, 1)),
        several("bytes=0-9,9-3,abc,2000-,20-29", (0, 10), (20, 30)),  # bad ones dropped
        several("bytes=0-499,500-999", (0, 500), (500, 1000)),  # all bytes, but not more
        several("bytes=0-9,10-19", (0, 10), (10, 20)),  # not joined
        several("bytes=0-9,5-14", (0, 10), (5, 15)),  # two may overlap
        several("bytes=0-9,0-9", (0, 10), (0, 10)),
        several("bytes=0-9,5-14,100-109", (0, 10), (5, 15), (100, 110)),
        several(header_of(16), *((n, n + 1) for n in range(16))),
        several("bytes=0-0,9223372036854775808-9223372036854775808", (0, 1), (2**63, 2**63 + 1), what=HUGE),
        one("bytes=0-9,5000-6000", 0, 10),  # the only one that exists
        one("bytes=5000-6000,0-9", 0, 10),
        one("bytes=0-9,junk", 0, 10),
        none("bytes=9-3,abc,2000-"),
        none("bytes=5000-,6000-"),
    ],
    "more than 16 ranges, more bytes than there are, or more than two ranges that overlap": [
        whole(header_of(17)),
        whole(header_of(17, "5000-")),  # counted before any of them is looked at
        whole("bytes=" + ",".join(["0-"] * 17)),  # CVE-2011-3192
        whole("bytes=0-,0-"),
        whole("bytes=0-500,500-999"),  # one byte too many
        whole("bytes=0-899,-200"),
        whole("bytes=0-9,5-14,10-19"),  # three in a chain
        whole("bytes=0-0,0-0,0-0"),
        whole("bytes=0-99,0-0,99-99"),  # two within one
        whole("bytes=0-9,5-14,100-109,105-114"),  # two pairs
        whole("bytes=99-99,0-0,0-99"),  # in any order
        whole("bytes=0-99,200-200,50-50,60-60"),
    ],
    "several ranges of a stream without ETag, which may still grow": [
        whole("bytes=0-9,20-29", what=GROWING),
        one("bytes=0-9,5000-", 0, 10, what=GROWING),
        none("bytes=4000-,5000-", what=GROWING),
    ],
    "an unknown unit; two `Range` headers": [
        whole("items=0-9"),
        whole("bytes"),
        whole("abc"),
        whole(""),
        whole("bytes 0-9"),
        whole("bytes=0-9", "bytes=0-9"),
        whole("bytes=0-9", "bytes=20-29"),
    ],
    "`HEAD` with `Range`": [
        whole(value, method="HEAD") for value in ("bytes=0-9", "bytes=5000-", "bytes=abc", "bytes=0-9,20-29")
    ],
    "`If-Range` with the strong ETag that matches": [
        if_range('"abc"', 206),
        if_range('"old"', 200),
        if_range('W/"abc"', 200),
        if_range("abc", 200),
        if_range("*", 200),
        if_range('"abc", "old"', 200),
        if_range(SAME, 206),
        if_range(LATER, 200),
        if_range(EARLIER, 200),
        if_range("no date", 200),
        if_range('"abc"', 200, GROWING),
        if_range(SAME, 200, GROWING),
        whole("bytes=5000-", more=[("If-Range", '"old"')]),  # before a range is looked at
        Case([("Range", "bytes=5000-"), ("If-Range", '"abc"')], 416),
        whole("bytes=0-9", more=[("If-Range", '"abc"')] * 2),
        whole("bytes=0-9,20-29", more=[("If-Range", '"old"')]),
        Case([("Range", "bytes=0-9,20-29"), ("If-Range", '"abc"')], 206, ((0, 10), (20, 30))),
        Case([("If-Range", '"old"')], 200, ((0, SIZE),)),
    ],
    "`If-None-Match` / `If-Match`": [
        *condition(200, ("If-Match", '"abc"')),
        *condition(412, ("If-Match", '"old"')),
        *condition(412, ("If-Match", 'W/"abc"')),
        *condition(200, ("If-Match", '"old", "abc"')),
        *condition(200, ("If-Match", '"old"'), ("If-Match", '"abc"')),
        *condition(200, ("If-Match", "*")),
        *condition(412, ("If-Match", "abc")),
        *condition(200, ("If-Match", '"a,b", "abc"')),
        *condition(304, ("If-None-Match", '"abc"')),
        *condition(304, ("If-None-Match", 'W/"abc"')),
        *condition(304, ("If-None-Match", '"old", "abc"')),
        *condition(200, ("If-None-Match", '"old"')),
        *condition(304, ("If-None-Match", "*")),
        *condition(200, ("If-Unmodified-Since", SAME)),
        *condition(412, ("If-Unmodified-Since", EARLIER)),
        *condition(200, ("If-Unmodified-Since", "no date")),
        *condition(304, ("If-Modified-Since", SAME)),
        *condition(304, ("If-Modified-Since", LATER)),
        *condition(200, ("If-Modified-Since", EARLIER)),
        *condition(200, ("If-Modified-Since", "no date")),
        *condition(200, ("If-Modified-Since", "1 Jan " + "9" * 5000 + " 00:00:00 GMT")),
        *condition(200, ("If-Modified-Since", SAME), ("If-Modified-Since", SAME)),
        # Entity tags come before dates, and matching before not matching (RFC 9110 §13.2.2).
        *condition(200, ("If-Match", '"abc"'), ("If-Unmodified-Since", EARLIER)),
        *condition(200, ("If-None-Match", '"old"'), ("If-Modified-Since", LATER)),
        *condition(412, ("If-Match", '"old"'), ("If-None-Match", '"abc"')),
        # All of them come before Range.
        *condition(304, ("If-None-Match", '"abc"'), ("Range", "bytes=0-9")),
        *condition(304, ("If-None-Match", '"abc"'), ("Range", "bytes=5000-")),
        *condition(304, ("If-None-Match", '"abc"'), ("Range", "bytes=0-9,20-29")),
        *condition(412, ("If-Match", '"old"'), ("Range", "bytes=0-9")),
        *condition(200, ("If-Match", "*"), what=GROWING),
        *condition(412, ("If-Match", '"abc"'), what=GROWING),
        *condition(200, ("If-Modified-Since", LATER), what=GROWING),
        *condition(200, ("If-Unmodified-Since", EARLIER), what=GROWING),
    ],
    "`ETag`": [Case([], 200, ((0, SIZE),)), one("bytes=0-9", 0, 10), *condition(304, ("If-None-Match", "*"))],
    "`Accept-Ranges: bytes`": [
        Case([], 200, ((0, SIZE),)),
        Case([], 200, ((0, SIZE),), method="HEAD"),
        one("bytes=0-9", 0, 10),
        none("bytes=5000-"),
        *condition(304, ("If-None-Match", "*")),
        *condition(412, ("If-Match", '"old"')),
    ],
    "`Accept-Encoding`": [
        Case([("Accept-Encoding", "gzip, br, zstd, identity;q=0")], 200, ((0, SIZE),)),
        one("bytes=0-9", 0, 10, ("Accept-Encoding", "gzip")),
    ],
    "Safari's probe `bytes=0-1`": [one("bytes=0-1", 0, 2)],
    "more than 1 KiB in `Range`": [
        whole("bytes=0-" + "9" * (MAX_RANGE_HEADER - 7)),
        whole("bytes=0-9" + " " * 1024),
        whole("bytes=0-" + "9" * 5000),  # more digits than Python converts
        whole("bytes=" + "0" * 5000 + "-9"),
        whole("bytes=-" + "9" * 5000),
        whole(header_of(10_000)),
        whole(header_of(10_000, "0-")),  # CVE-2011-3192
        whole(header_of(10_000, "{0}-{0}0")),  # CVE-2025-62727
    ],
}


def test_every_row_of_the_table_has_cases() -> None:
    section = (ROOT / "docs" / "API.md").read_text(encoding="utf-8").split("### `/video/range`\n")[1]
    table = re.findall(r"^\| (.+?) \| .* \|$", section.split("\n### ")[0], re.MULTILINE)
    assert table == ["request", *ROWS]
    assert all(ROWS.values())


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{row}-{n}") for row, cases in ROWS.items() for n, case in enumerate(cases)],
)
def test_row(case: Case) -> None:
    decision = decide(case.method, CIMultiDict(case.fields), case.what)
    headers = dict(decision.headers)
    assert len(headers) == len(decision.headers)
    sent = tuple((part.start, part.stop) for part in decision.parts if isinstance(part, ByteRange))
    assert (decision.status, sent) == (case.status, case.found)
    assert headers["Accept-Ranges"] == "bytes"
    assert "Content-Encoding" not in headers
    if case.status in (200, 206, 304):
        assert headers.get("ETag") == (None if case.what.etag is None else '"abc"')
        expected = None if case.what.last_modified is None else SAME
        assert headers.get("Last-Modified") == expected
    if case.status == 416:
        assert headers == {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{case.what.size}"}
    elif case.status == 304:
        assert headers.keys() == {"Accept-Ranges", "ETag", "Last-Modified"}
    elif case.status == 412:
        assert headers.keys() == {"Accept-Ranges"}
    elif len(sent) == 1:
        (start, stop), size = sent[0], case.what.size
        assert headers["Content-Length"] == str(stop - start)
        assert headers["Content-Type"] == "application/octet-stream"
        expected = f"bytes {start}-{stop - 1}/{size}" if case.status == 206 else None
        assert headers.get("Content-Range") == expected
        assert len(decision.parts) == 1
    else:
        # RFC 9110 §15.3.7.2: no Content-Range beside a multipart body, but one in each part.
        assert "Content-Range" not in headers
        assert headers["Content-Length"] == str(length_of(decision))
        assert headers["Content-Type"] == f"multipart/byteranges; boundary={boundary('abc')}"


def length_of(decision: Decision) -> int:
    return sum(len(part) if isinstance(part, bytes) else part.length for part in decision.parts)


def test_multipart_byte_by_byte() -> None:
    what = Representation(26, "abc", content_type="text/plain")
    decision = decide("GET", CIMultiDict({"Range": "bytes=-1,0-2"}), what)
    mark = sha256(b"harmony4 byteranges\0abc").hexdigest().encode()
    letters = b"abcdefghijklmnopqrstuvwxyz"
    assert render(decision, letters) == (
        b"--" + mark + b"\r\nContent-Type: text/plain\r\nContent-Range: bytes 25-25/26\r\n\r\nz\r\n"
        b"--" + mark + b"\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-2/26\r\n\r\nabc\r\n"
        b"--" + mark + b"--\r\n"
    )


def render(decision: Decision, content: bytes) -> bytes:
    """The body that a decision describes."""
    return b"".join(
        part if isinstance(part, bytes) else content[part.start : part.stop] for part in decision.parts
    )


def test_boundary_is_the_content_s() -> None:
    assert boundary("abc") == boundary("abc") != boundary("abd")
    assert re.fullmatch(r"[0-9a-f]{64}", boundary("\udc80"))  # RFC 2046 §5.1.1: up to 70 characters
    with_same_ranges = {"Range": "bytes=0-9,20-29"}
    one, other = (decide("GET", CIMultiDict(with_same_ranges), Representation(99, tag)) for tag in "ab")
    assert one.parts[0] != other.parts[0]


DIGEST = sha256(b"whole").digest()


@pytest.mark.parametrize(
    ("fields", "status", "there"),
    [
        ([], 200, True),
        ([("Range", "bytes=0-9")], 206, True),  # RFC 9110 §15.3.7: what a 200 would have
        ([("Range", "bytes=0-9,20-29")], 206, True),
        ([("Range", "bytes=0-9"), ("If-Range", '"abc"')], 206, False),  # but for what the client has
        ([("Range", "bytes=0-9,20-29"), ("If-Range", '"abc"')], 206, False),
        ([("Range", "bytes=0-9"), ("If-Range", '"old"')], 200, True),
        ([("If-None-Match", '"abc"')], 304, False),
        ([("If-Match", '"old"')], 412, False),
        ([("Range", "bytes=5000-")], 416, False),
    ],
)
def test_repr_digest(fields: Fields, status: int, there: bool) -> None:
    decision = decide("GET", CIMultiDict(fields), replace(WHAT, digest=DIGEST))
    assert decision.status == status
    expected = f"sha-256=:{b64encode(DIGEST).decode()}:" if there else None
    assert dict(decision.headers).get("Repr-Digest") == expected
    without = decide("GET", CIMultiDict(fields), WHAT)
    assert without.parts == decision.parts
    assert "Repr-Digest" not in dict(without.headers)


def test_repr_digest_of_head() -> None:
    decision = decide("HEAD", CIMultiDict({"Range": "bytes=0-9"}), replace(WHAT, digest=DIGEST))
    assert dict(decision.headers)["Repr-Digest"] == digest_field(DIGEST)


# The oracle: RFC 9110 §14.1.2 and our limits, counted out byte by byte.


def chosen(first: int | None, last: int | None, size: int) -> list[int]:
    if first is None:
        return list(range(size))[-(last or 0) or size :]
    return [byte for byte in range(size) if first <= byte <= (size if last is None else last)]


def oracle(specs: list[tuple[int | None, int | None]], content: bytes) -> list[bytes] | None:
    """The slices that are sent; None for the whole."""
    found = [bytes_ for spec in specs if (bytes_ := chosen(*spec, len(content)))]
    shared = [any(set(a) & set(b) for b in found[:n] + found[n + 1 :]) for n, a in enumerate(found)]
    if not content or len(specs) > 16 or sum(map(len, found)) > len(content) or sum(shared) > 2:
        return None
    return [bytes(content[byte] for byte in bytes_) for bytes_ in found]


NUMBER = st.integers(0, 60)
SPEC = st.tuples(NUMBER, NUMBER) | st.tuples(NUMBER, st.none()) | st.tuples(st.none(), NUMBER)
SMALL = st.integers(0, 60).flatmap(lambda start: st.tuples(st.just(start), st.integers(start, start + 3)))


@given(
    st.lists(SPEC, min_size=1, max_size=4) | st.lists(SMALL, min_size=1, max_size=18), st.binary(max_size=60)
)
@example([(0, 0), (2, 2)], b"\r\n\r")
@example([(0, 2), (3, 5)], b"\n--\n\r\n")
def test_against_oracle(specs: list[tuple[int | None, int | None]], content: bytes) -> None:
    text = ",".join(f"{'' if a is None else a}-{'' if b is None else b}" for a, b in specs)
    what = Representation(len(content), "abc", content_type="video/mp4")
    decision = decide("GET", CIMultiDict({"Range": f"bytes={text}"}), what)
    headers = dict(decision.headers)
    expected = oracle(specs, content)
    body = render(decision, content)
    if expected is None:
        assert (decision.status, body) == (200, content)
    elif not expected:
        assert (decision.status, body) == (416, b"")
    elif len(expected) == 1:
        assert (decision.status, body) == (206, expected[0])
    else:
        assert decision.status == 206
        parts = parts_of(headers["Content-Type"], body)
        assert [part.body for part in parts] == expected
        assert all(content[part.start : part.stop] == part.body for part in parts)
        assert {(part.size, part.content_type) for part in parts} == {(len(content), "video/mp4")}
    if decision.status != 416:
        assert headers["Content-Length"] == str(len(body))


NAMES = st.sampled_from(
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]
)
VALUES = st.text(max_size=30) | st.text('bytes=0123456789-, "W/abc*', max_size=30)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.integers(0, 2**70),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["abc", None]),
)
def test_any_headers(fields: Fields, size: int, method: str, etag: str | None) -> None:
    decision = decide(method, CIMultiDict(fields), Representation(size, etag, DATE))
    assert decision.status in {200, 206, 304, 412, 416}
    assert ("Accept-Ranges", "bytes") in decision.headers
    bodies = [part for part in decision.parts if isinstance(part, ByteRange)]
    for body in bodies:
        assert 0 <= body.start <= body.stop <= size
    assert sum(body.length for body in bodies) <= size
    headers = dict(decision.headers)
    assert ("Content-Range" in headers) == (
        decision.status == 416 or (decision.status, len(bodies)) == (206, 1)
    )
    if bodies:
        assert int(headers["Content-Length"]) == length_of(decision)


# Bounded work, shown by counting it: no clock.


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The range-specs that were parsed."""
    specs: list[str] = []
    parse = ranges._parse_spec

    def counting(spec: str, size: int) -> ByteRange | None:
        specs.append(spec)
        return parse(spec, size)

    monkeypatch.setattr(ranges, "_parse_spec", counting)
    yield specs


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (header_of(16), 16),
        (header_of(17), 0),
        (header_of(10_000), 0),
        (header_of(10_000, "0-"), 0),  # CVE-2011-3192
        (header_of(10_000, "{0}-{0}0"), 0),  # CVE-2025-62727
        ("bytes=" + ",".join(["0-"] * 339), 0),  # as many as fit into a header that is looked at
        ("bytes=" + "," * 1000 + "0-", 1),
    ],
)
def test_ranges_that_are_looked_at(value: str, count: int, looked_at: list[str]) -> None:
    decision = decide("GET", CIMultiDict({"Range": value}), WHAT)
    assert len(looked_at) == count
    assert len(decision.parts) <= 2 * MAX_RANGES + 1
    assert length_of(decision) <= SIZE + MAX_RANGES * 250


def test_a_long_header_is_not_even_split() -> None:
    class Untouched(str):
        def partition(self, *_: object) -> tuple[str, str, str]:
            raise AssertionError("the header was looked at")

        split = strip = lower = partition  # type: ignore[assignment]

    assert parse_range([Untouched(header_of(10_000))], SIZE) is None


@pytest.mark.parametrize("shape", ["apart", "nested", "equal", "chain", "backwards"])
def test_overlaps_are_found_in_n_log_n(shape: str) -> None:
    """CVE-2025-62727 compared every range with every other: 10^8 comparisons for 10 000 ranges."""

    class Counted(int):
        compared = 0

        def __lt__(self, other: int) -> bool:
            Counted.compared += 1
            return int.__lt__(self, other)

        def __gt__(self, other: int) -> bool:
            Counted.compared += 1
            return int.__gt__(self, other)

    many = 10_000
    bounds = {
        "apart": lambda n: (n * 10, n * 10 + 1),
        "nested": lambda n: (n, 3 * many - n),
        "equal": lambda n: (0, 10),
        "chain": lambda n: (n * 10, n * 10 + 11),
        "backwards": lambda n: ((many - n) * 10, (many - n) * 10 + 1),
    }[shape]
    asked = [ByteRange(Counted(start), Counted(stop)) for start, stop in map(bounds, range(many))]
    assert is_excessive(asked, 10**12) == (shape not in ("apart", "backwards"))
    assert 0 < Counted.compared < many * 20


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=16))
def test_overlaps_against_every_pair(found: list[tuple[int, int]]) -> None:
    asked = [ByteRange(start, start + length) for start, length in found]
    bytes_of = [set(range(one.start, one.stop)) for one in asked]
    shared = [any(a & b for m, b in enumerate(bytes_of) if m != n) for n, a in enumerate(bytes_of)]
    assert is_excessive(asked, 10**6) == (sum(shared) > MAX_OVERLAPPING)
    assert is_excessive(asked, sum(one.length for one in asked) - 1)


def test_digits_within_the_lowest_limit_of_python() -> None:
    """The environment may lower int()'s limit to 640 digits; a header that is looked at may have more."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        for spec, found in (
            ("0-" + "9" * 1000, (0, SIZE)),
            ("-" + "9" * 1000, (0, SIZE)),
            ("0" * 1000 + "7-7", (7, 8)),
        ):
            assert parse_range([f"bytes={spec}"], SIZE) == (ByteRange(*found),)
        assert parse_range(["bytes=" + "9" * 1000 + "-"], SIZE) == ()
    finally:
        sys.set_int_max_str_digits(limit)
