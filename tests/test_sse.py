"""server/sse.py: events as a client of the specification finds them (WHATWG HTML 9.2)."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.server.sse import HEADERS, PING, event, retry

LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
DATA = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
BREAKS = ["\n", "\r", "\r\n", "\n\n", "\u2028", "\u0085", "a\ndata: b\n\nevent: c", "\0", "\ufeff"]


def parse(stream: bytes) -> list[tuple[str, str, str]]:
    """Type, data and last id of each event (WHATWG HTML 9.2.6)."""
    events, kind, number = [], "", ""
    data: list[str] = []
    text = stream.decode().removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)
    assert lines.pop() == "", "the stream ends inside a line"
    for line in lines:
        if not line:
            if data:
                events.append((kind or "message", "\n".join(data), number))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            number = value
        else:
            assert name == "", f"a field that no client knows: {line}"
    assert not kind
    assert not data
    return events


def test_the_bytes() -> None:
    assert event("media", {"name": "ö.h4mk", "size": None}) == (
        b'event: media\ndata: {"name":"\\u00f6.h4mk","size":null}\n\n'
    )
    assert event("token", [1, 2], number="5eal-0-7") == b"id: 5eal-0-7\nevent: token\ndata: [1,2]\n\n"
    assert event("done", {}, number="") == b"id: \nevent: done\ndata: {}\n\n"


@pytest.mark.parametrize("text", [*BREAKS, "ä", "日本", "😀", "\ud800", "\x7f", '"\\'])
def test_text_stays_in_its_line(text: str) -> None:
    data = {text: [text]}
    sent = event("job", data) + event("job", text, number="1")
    assert sent.isascii()
    assert sent.count(b"\n") == 7
    assert b"\r" not in sent
    first, second = parse(sent)
    assert (json.loads(first[1]), json.loads(second[1])) == (data, text)
    assert [first[0], first[2], second[0], second[2]] == ["job", "", "job", "1"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["job", "media"]), DATA, st.none() | st.from_regex(r"\w+", fullmatch=True))
    )
)
def test_what_goes_in_comes_out(sent: list[tuple[str, object, str | None]]) -> None:
    sent = [(name, data, None if number is None else number.encode().hex()) for name, data, number in sent]
    stream = PING.join(event(name, data, number=number) for name, data, number in sent)
    last, found = "", parse(PING + stream + PING)
    assert len(found) == len(sent)
    for (name, data, number), (kind, text, got) in zip(sent, found, strict=True):
        last = last if number is None else number
        assert (kind, json.loads(text), got) == (name, data, last)


def test_a_ping_is_no_event() -> None:
    assert parse(PING) == []
    assert parse(PING + event("a", 1) + PING) == [("a", "1", "")]


def test_headers() -> None:
    assert HEADERS["Content-Type"] == "text/event-stream"
    assert "no-cache" in HEADERS["Cache-Control"]
    assert "no-transform" in HEADERS["Cache-Control"]
    assert HEADERS["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize("text", [*BREAKS, " ", "ä", "\x7f"])
def test_names_and_numbers_that_no_field_holds(text: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        event(text, 1)
    with pytest.raises(ValueError, match="not a name"):
        event("token", 1, number=text)


def test_retry() -> None:
    assert retry(2000) == b"retry: 2000\n\n"
