"""server/streams/lines.py: text by one format is what `json.dumps` makes of each token."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import HEADER, KEY, LAST, MASKED, NONE, TokenRecord
from harmony4.h4mk import TOKEN_DTYPE
from harmony4.server.folder.facts import token_facts
from harmony4.server.streams.lines import token_lines

NUMBER = st.one_of(
    st.integers(0, 2**63 - 1),
    st.sampled_from([0, 9, 10, 99, 100, 2**53 - 1, 2**53, 2**63 - 1]),
    st.integers(0, 999),
)


@st.composite
def records(draw: st.DrawFn, *, masked: bool) -> TokenRecord:
    key, header = draw(st.sampled_from([(True, False), (False, True), (False, False)]))
    pts = 0 if header else draw(NUMBER)
    offset = draw(NUMBER)
    grouped = draw(st.booleans()) and offset > 0 and not header
    key_pts, key_offset = (pts, offset) if key else (NONE, NONE)
    if grouped and not key:
        key_pts, key_offset = draw(st.integers(0, pts)), draw(st.integers(0, offset - 1))
    flags = KEY * key | HEADER * header | MASKED * masked | LAST * draw(st.booleans())
    return TokenRecord(
        track=draw(st.integers(0, 2**16 - 1)),
        flags=flags,
        size=draw(st.integers(1, 2**24)),
        index=draw(st.integers(0, 2**26 - 2)),
        pts=pts,
        end=draw(st.integers(pts, 2**63 - 1)),
        offset=offset,
        key_pts=key_pts,
        key_offset=key_offset,
        min_pts=draw(NUMBER),
        digest=draw(st.binary(min_size=32, max_size=32)),
        tag=draw(st.binary(min_size=32, max_size=32)) if masked else bytes(32),
    )


@given(
    st.booleans().flatmap(lambda masked: st.lists(records(masked=masked), min_size=1, max_size=9)),
    st.sampled_from([1, 200]),
)
def test_the_same_text(found: list[TokenRecord], times: int) -> None:
    """A few of them, and many."""
    found = found * times
    for record in found:
        record.check()
    rows = np.frombuffer(b"".join(record.pack() for record in found), TOKEN_DTYPE)
    lines = token_lines(rows, b"<", b"|", b">\n")
    expected = [
        f"<{record.index}|{json.dumps(token_facts(record), separators=(',', ':'))}>\n" for record in found
    ]
    assert lines.decode() == "".join(expected)
