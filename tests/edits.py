"""Containers for the tests of edits, and edits that are checked on the way: `cut_of`, `joined`, `kept`.

What comes out passes two verifiers, and is what a second implementation makes (`independent_edits`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from hypothesis import strategies as st

import independent
import independent_edits
from harmony4.crypto.token import HEADER, TokenRecord
from harmony4.h4mk import H4MKBuilder, H4MKReader, HistoryEntry, Lost, Step, TrackInfo, recover, verify
from harmony4.h4mk.edits.bundle import ContainerInput, bundle
from harmony4.h4mk.edits.edit import CutReport, concat, cut, keep_tracks
from samples import VIDEO

AUDIO = TrackInfo(codec="flac", kind="audio", media_type="audio/flac", self_framing=True, timing="demux")
OPAQUE = TrackInfo()
STRUCTURE = TrackInfo(kind="tokens", media_type="application/x-h4mk-tokens")


class Block(NamedTuple):
    """A block of a test's track; its payload says which one it is."""

    pts: int
    key: bool = True
    min_pts: int | None = None
    size: int = 3


def made(
    blocks: Sequence[Block],
    *,
    end: int | None = None,
    headers: Sequence[bytes] = (),
    info: TrackInfo = VIDEO,
    origin: int = 0,
    title: str | None = None,
    steps: Sequence[Step] = (),
    ancillary: Sequence[tuple[str, bytes]] = (),
    name: str = "",
) -> bytes:
    """A sealed container of one track."""
    with H4MKBuilder.in_memory([info], origin=origin, title=title) as builder:
        for payload in headers:
            builder.add_block(payload, 0, header=True)
        for number, one in enumerate(blocks):
            payload = f"{name}{number} ".encode() * one.size
            builder.add_block(payload, one.pts, key=one.key, min_pts=one.min_pts)
        last = blocks[-1].pts if blocks else 0
        history = [HistoryEntry("export")]
        builder.finish(
            ends={0: last if end is None else end}, steps=steps, history=history, ancillary=ancillary
        )
        return builder.getvalue()


def bundled(*sources: bytes) -> bytes:
    out = io.BytesIO()
    with ExitStack() as stack:
        bundle([ContainerInput(stack.enter_context(H4MKReader(one))) for one in sources], out)
    return out.getvalue()


def sound(data: bytes) -> bytes:
    """The container, which passes all checks of two verifiers."""
    report = verify(data)
    assert report.ok, report.problems
    independent.check(data)
    return data


def cut_of(
    data: bytes, start: int = 0, end: int | None = None, title: str | None = None
) -> tuple[bytes, CutReport]:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        report = cut(reader, out, start, end, title=title)
        if not reader.lost and title is None:
            assert out.getvalue() == independent_edits.cut(data, start, end)
    return sound(out.getvalue()), report


def joined(*sources: bytes, title: str | None = None) -> bytes:
    out = io.BytesIO()
    with ExitStack() as stack:
        readers = [stack.enter_context(H4MKReader(one)) for one in sources]
        concat(readers, out, title=title)
        if not any(reader.lost for reader in readers) and title is None:
            assert out.getvalue() == independent_edits.concat(*sources)
    return sound(out.getvalue())


def kept(data: bytes, *tracks: int, title: str | None = None) -> bytes:
    out = io.BytesIO()
    with H4MKReader(data) as reader:
        keep_tracks(reader, out, tracks, title=title)
        if not reader.lost and title is None:
            assert out.getvalue() == independent_edits.keep_tracks(data, *tracks)
    return sound(out.getvalue())


def streams(data: bytes) -> list[bytes]:
    with H4MKReader(data) as reader:
        return [b"".join(one.payload for one in reader.blocks(track)) for track in range(len(reader.tracks))]


def tokens(data: bytes, track: int = 0) -> list[TokenRecord]:
    with H4MKReader(data) as reader:
        return list(reader.tokens(track))


def body(data: bytes, track: int = 0) -> list[TokenRecord]:
    return [token for token in tokens(data, track) if not token.flags & HEADER]


def source_times(data: bytes, track: int = 0) -> list[int]:
    """What the source's clock said at the beginning of each block: `pts` and steps lead back (H4MK 15.4)."""
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        steps = [step for step in reader.meta.steps if step.track == track]
        return [
            token.pts + reader.trak.origin - sum(step.shift for step in steps if step.pts <= token.pts)
            for token in reader.tokens(track)
            if not token.flags & HEADER
        ]


def history(data: bytes) -> tuple[HistoryEntry, ...]:
    with H4MKReader(data) as reader:
        assert reader.meta is not None
        return reader.meta.history


def head(data: bytes) -> str:
    with H4MKReader(data) as reader:
        assert reader.head is not None
        return reader.head.hex()


OPEN = made(
    [
        Block(0, min_pts=0),
        Block(50, key=False, min_pts=40),
        Block(100, min_pts=80),
        Block(150, key=False, min_pts=140),
        Block(200, min_pts=170),
        Block(250, key=False, min_pts=240),
    ],
    end=300,
    headers=[b"ftyp", b"moov!"],
    origin=1_000_000,
    title="Film",
)


blocks_of_a_track = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), min_size=1, max_size=3), max_size=6
)


def random_track(
    groups: list[list[tuple[int, int]]],
    late: int = 0,
    lead: int = 0,
    headers: Sequence[bytes] = (),
    steps: Sequence[Step] = (),
    origin: int = 0,
    name: str = "",
) -> bytes:
    """Each group is its blocks' (µs behind the block before, size); leading pictures reach back `lead` µs."""
    blocks, now = [], late
    for group in groups:
        for number, (gap, size) in enumerate(group):
            now += gap + (lead if not number else 0)
            least = max(now - lead, 0)
            blocks.append(Block(now, not number, least if not number else None, size))
    return made(blocks, end=now + 10, headers=headers, steps=steps, origin=origin, name=name, info=VIDEO)


def holed(data: bytes, *places: tuple[int, int]) -> bytes:
    """The container without some (track, index), as `recover` makes it."""
    broken = bytearray(data)
    with H4MKReader(data) as reader:
        for track, index in places:
            broken[reader.range_map(track)[index].position] ^= 1
    out = io.BytesIO()
    recover(bytes(broken), out)
    return sound(out.getvalue())


def lost(data: bytes) -> tuple[Lost, ...]:
    with H4MKReader(data) as reader:
        return reader.lost


GROUPS = made([Block(number * 10, not number % 3) for number in range(12)], end=120, headers=[b"h0", b"h1"])
"""Two HEADER blocks and four groups of three: KEY blocks have the indices 2, 5, 8 and 11."""
