"""server/ranges.py: all rows about single ranges that RFC 9110 §13-14 and our table ask for; an oracle."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from harmony4.server.ranges import ByteRange, Decision, Representation, decide, parse_range

SIZE = 1000
DATE = 1_700_000_000
WHAT = Representation(SIZE, "abc", DATE)
WHOLE = ByteRange(0, SIZE)


def ask(
    *headers: tuple[str, str], what: Representation = WHAT, method: str = "GET"
) -> tuple[Decision, dict[str, str]]:
    decision = decide(method, CIMultiDict(headers), what)
    return decision, dict(decision.headers)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=-10", 990, 1000),
        ("bytes=990-", 990, 1000),
        ("bytes=0-", 0, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("BYTES=0-9", 0, 10),
        ("bytes= 0-9", 0, 10),
        ("bytes=0-9\t", 0, 10),
        ("bytes=0-9,", 0, 10),
        ("bytes=,0-9", 0, 10),
        ("bytes=0-1", 0, 2),  # Safari's probe
        ("bytes=999-999", 999, 1000),
        ("bytes=5-" + "9" * 400, 5, 1000),
        ("bytes=-" + "9" * 400, 0, 1000),
        ("bytes=0-9,5000-6000", 0, 10),  # the only one that exists
        ("bytes=0-9,junk", 0, 10),
        ("bytes=00-009", 0, 10),
    ],
)
def test_satisfiable(value: str, start: int, stop: int) -> None:
    decision, headers = ask(("Range", value))
    assert decision.status == 206
    assert decision.parts == (ByteRange(start, stop),)
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert headers["Content-Length"] == str(stop - start)
    assert headers["ETag"] == '"abc"'
    assert headers["Last-Modified"] == formatdate(DATE, usegmt=True)
    assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    "value",
    [
        "bytes=-0",
        "bytes=1000-",
        "bytes=1000-1001",
        "bytes=9-3",
        "bytes=abc",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=0 - 9",
        "bytes=0-9-9",
        "bytes=+0-9",
        "bytes=0x0-0x9",
        "bytes=٠-٩",  # digits, but not ASCII
        "bytes=18446744073709551616-",
        "bytes=9-3,abc,2000-",
    ],
)
def test_unsatisfiable(value: str) -> None:
    decision, headers = ask(("Range", value))
    assert (decision.status, decision.parts) == (416, ())
    assert headers == {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{SIZE}"}


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Range", "items=0-9")],
        [("Range", "bytes")],
        [("Range", "abc")],
        [("Range", "")],
        [("Range", "bytes=0-9"), ("Range", "bytes=0-9")],
        [("Range", "bytes=0-9,20-29")],
        [("Range", "bytes=" + ",".join("0-" for _ in range(17)))],  # CVE-2011-3192
        [("Range", "bytes=" + ",".join(f"{n}-{n}" for n in range(17)))],
        [("Range", "bytes=0-" + "9" * 1020)],
    ],
)
def test_whole(fields: list[tuple[str, str]]) -> None:
    decision, headers = ask(*fields)
    assert (decision.status, decision.parts) == (200, (WHOLE,))
    assert headers["Content-Length"] == str(SIZE)
    assert headers["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in headers


@pytest.mark.parametrize("value", ["bytes=0-9", "bytes=0-", "bytes=-1", "bytes=-0", "bytes=abc", "bytes=1-"])
def test_empty_payload(value: str) -> None:
    decision, headers = ask(("Range", value), what=Representation(0, "abc"))
    assert (decision.status, decision.parts, headers["Content-Length"]) == (200, (ByteRange(0, 0),), "0")


def test_head_ignores_range() -> None:
    decision, headers = ask(("Range", "bytes=0-9"), method="HEAD")
    assert (decision.status, headers["Content-Length"]) == (200, str(SIZE))
    assert ask(("Range", "bytes=5000-"), method="HEAD")[0].status == 200


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"abc"', 206),
        ('"old"', 200),
        ('W/"abc"', 200),
        ("abc", 200),
        ("*", 200),
        ('"abc", "old"', 200),
        (formatdate(DATE, usegmt=True), 206),
        (formatdate(DATE + 1, usegmt=True), 200),
        (formatdate(DATE - 1, usegmt=True), 200),
        ("no date", 200),
    ],
)
def test_if_range(value: str, status: int) -> None:
    assert ask(("Range", "bytes=0-9"), ("If-Range", value))[0].status == status


def test_if_range_comes_before_satisfiability() -> None:
    assert ask(("Range", "bytes=5000-"), ("If-Range", '"old"'))[0].status == 200
    assert ask(("Range", "bytes=5000-"), ("If-Range", '"abc"'))[0].status == 416
    twice = (("If-Range", '"abc"'), ("If-Range", '"abc"'))
    assert ask(("Range", "bytes=0-9"), *twice)[0].status == 200
    assert ask(("Range", "bytes=0-9"), ("If-Range", '"abc"'), what=Representation(SIZE))[0].status == 200


BEFORE, SAME, AFTER = (formatdate(DATE + step, usegmt=True) for step in (-10, 0, 10))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("If-Match", '"abc"')], 200),
        ([("If-Match", '"old"')], 412),
        ([("If-Match", 'W/"abc"')], 412),
        ([("If-Match", '"old", "abc"')], 200),
        ([("If-Match", '"old"'), ("If-Match", '"abc"')], 200),
        ([("If-Match", "*")], 200),
        ([("If-Match", "abc")], 412),
        ([("If-Match", '"a,b", "abc"')], 200),
        ([("If-None-Match", '"abc"')], 304),
        ([("If-None-Match", 'W/"abc"')], 304),
        ([("If-None-Match", '"old", "abc"')], 304),
        ([("If-None-Match", '"old"')], 200),
        ([("If-None-Match", "*")], 304),
        ([("If-Unmodified-Since", SAME)], 200),
        ([("If-Unmodified-Since", BEFORE)], 412),
        ([("If-Unmodified-Since", "no date")], 200),
        ([("If-Modified-Since", SAME)], 304),
        ([("If-Modified-Since", AFTER)], 304),
        ([("If-Modified-Since", BEFORE)], 200),
        ([("If-Modified-Since", "no date")], 200),
        ([("If-Modified-Since", SAME), ("If-Modified-Since", SAME)], 200),
        # Entity tags come before dates, and matching before not matching (RFC 9110 §13.2.2).
        ([("If-Match", '"abc"'), ("If-Unmodified-Since", BEFORE)], 200),
        ([("If-None-Match", '"old"'), ("If-Modified-Since", AFTER)], 200),
        ([("If-Match", '"old"'), ("If-None-Match", '"abc"')], 412),
        # All of them come before Range.
        ([("If-None-Match", '"abc"'), ("Range", "bytes=0-9")], 304),
        ([("If-None-Match", '"abc"'), ("Range", "bytes=5000-")], 304),
        ([("If-Match", '"old"'), ("Range", "bytes=0-9")], 412),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_preconditions(fields: list[tuple[str, str]], status: int, method: str) -> None:
    decision, headers = ask(*fields, method=method)
    assert decision.status == status
    assert (not decision.parts) == (status != 200)
    if status == 304:
        assert headers["ETag"] == '"abc"'
        assert "Content-Length" not in headers


def test_without_validators() -> None:
    growing = Representation(SIZE)
    decision, headers = ask(what=growing)
    assert decision.status == 200
    assert headers.keys() == {"Accept-Ranges", "Content-Length", "Content-Type"}
    assert ask(("If-Match", "*"), what=growing)[0].status == 200
    assert ask(("If-Match", '"abc"'), what=growing)[0].status == 412
    assert ask(("If-Modified-Since", AFTER), what=growing)[0].status == 200
    assert ask(("If-Unmodified-Since", BEFORE), what=growing)[0].status == 200


def oracle(first: int | None, last: int | None, size: int) -> tuple[ByteRange, ...]:
    """The bytes that RFC 9110 §14.1.2 describes, counted out one by one."""
    if first is None:
        chosen = list(range(size))[-(last or 0) or size :]
    else:
        chosen = [byte for byte in range(size) if first <= byte <= (size if last is None else last)]
    return (ByteRange(chosen[0], chosen[-1] + 1),) if chosen else ()


@given(st.none() | st.integers(0, 60), st.none() | st.integers(0, 60), st.integers(1, 50))
def test_against_oracle(first: int | None, last: int | None, size: int) -> None:
    if first is None and last is None:
        return
    spec = f"{'' if first is None else first}-{'' if last is None else last}"
    assert parse_range([f"bytes={spec}"], size) == oracle(first, last, size)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=16), st.integers(1, 50))
def test_several_against_oracle(specs: list[tuple[int, int]], size: int) -> None:
    expected = tuple(one for first, last in specs for one in oracle(first, last, size))
    assert parse_range(["bytes=" + ",".join(f"{a}-{b}" for a, b in specs)], size) == expected


NAMES = st.sampled_from(
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]
)
VALUES = st.text(max_size=30) | st.text('bytes=0123456789-, "W/abc*', max_size=30)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=4), st.integers(0, 2**64), st.sampled_from(["GET", "HEAD"])
)
def test_any_headers(fields: list[tuple[str, str]], size: int, method: str) -> None:
    decision = decide(method, CIMultiDict(fields), Representation(size, "abc", DATE))
    assert decision.status in {200, 206, 304, 412, 416}
    assert ("Accept-Ranges", "bytes") in decision.headers
    for body in decision.parts:
        assert isinstance(body, ByteRange)
        assert 0 <= body.start <= body.stop <= size
        assert (decision.status == 206) == ("Content-Range" in dict(decision.headers))
        assert int(dict(decision.headers)["Content-Length"]) == body.length
