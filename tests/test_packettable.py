"""Packets in bulk against the same packets one by one."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.tokenize.cut import LAG, Cutter
from harmony4.tokenize.packet import NOTHING, RECORD, Packet
from harmony4.tokenize.packettable import PacketTable
from harmony4.tokenize.scan import Samples
from harmony4.tokenize.timeline import Timeline
from test_cut import Units


def table(packets: list[Packet]) -> PacketTable:
    return PacketTable.unpack(
        b"".join(
            RECORD.pack(
                one.stream,
                NOTHING if one.pos is None else one.pos,
                NOTHING if one.pts is None else one.pts,
                one.duration,
                one.size,
                one.key,
            )
            for one in packets
        )
    )


def test_records() -> None:
    packets = [Packet(3, 5, -7, 40, 10, True), Packet(0, None, None, -1, 0, False)]
    found = table(packets)
    assert len(found) == 2
    assert list(found) == packets
    assert found.first == packets[0]
    assert list(found[1:]) == packets[1:]
    assert list(found[found.key]) == packets[:1]
    assert found.stream.tolist() == [3, 0]
    assert found.pos.tolist() == [5, NOTHING]
    assert found.pts.tolist() == [-7, NOTHING]
    assert found.duration.tolist() == [40, -1]
    assert found.size.tolist() == [10, 0]


def test_a_part_of_a_record() -> None:
    for size in (1, RECORD.size - 8, RECORD.size + 1):
        with pytest.raises(ValueError, match=r"."):
            PacketTable.unpack(bytes(size))


packets = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 0, 1]),
        st.integers(0, 12),
        st.sampled_from([0] * 20 + [15]),
        st.one_of(st.integers(-60, 90), st.sampled_from([None, -3000, 2**62])),
        st.integers(-5, 60),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([False] * 30 + [True]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    packets,
    st.integers(1, 60),
    st.sets(st.integers(0, 300), max_size=12),
    st.sampled_from([0, 90_000]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_bulk_decides_as_one_by_one(
    drawn: list[tuple[int, int, int, int | None, int, bool, bool]],
    limit: int,
    starts: set[int],
    span: int,
    in_order: bool,
    wraps: bool,
    seed: int,
) -> None:
    """Whatever the batches are, and whether each can be taken at once or not."""
    pos = 0
    made = []
    for number, (stream, step, late, pts, duration, key, hide) in enumerate(drawn):
        pos += step
        # Mostly a film: times that grow with the packets, so that batches can be taken at once.
        time = None if pts is None else pts if abs(pts) > 1000 else number * 40 + pts
        made.append(Packet(stream, None if hide else max(0, pos - late), time, duration, 1, key))
    length = pos + 7

    def run(parts: list[list[Packet]], bulk: bool) -> object:
        timeline = Timeline(1, 1000, origin=-20, wraps=wraps)
        cutter = Cutter(limit, Units(sorted(starts)), timeline, clock=0, span=span, in_order=in_order)
        blocks = cutter.feed(bytes(length))
        for part in parts:
            if bulk:
                blocks += cutter.packets(table(part))
            else:
                blocks += [block for one in part for block in cutter.packet(one)]
        return blocks + cutter.packets_end() + cutter.finish(), timeline.end, timeline.steps

    rng = random.Random(seed)
    cuts = sorted({0, len(made), *(rng.randrange(len(made) + 1) for _ in range(3))})
    parts = [made[a:b] for a, b in pairwise(cuts)]
    assert run(parts, bulk=True) == run([made], bulk=False)


def test_a_film_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at one by one, but keyframes and what completes a block."""
    made = [
        Packet(number % 3 == 1, 100 * number, 40 * number, 40, 100, number % 30 == 0) for number in range(300)
    ]
    cutter = Cutter(5000, Units([]), Timeline(1, 1000, origin=0), clock=0)
    cutter.feed(bytes(30_000))
    monkeypatch.setattr(cutter, "packet", None)
    blocks = cutter.packets(table(made[:200])) + cutter.packets(table(made[200:]))
    blocks += cutter.finish()
    assert [one.start for one in blocks if one.key] == list(range(0, 30_000, 3000))
    assert sum(one.size for one in blocks) == 30_000
    assert cutter.packets(table([Packet(1, 29_999, 0, 40, 1, False)])) == []


def test_other_streams_move_the_frontier_late() -> None:
    cutter = Cutter(10, Samples(), Timeline(1, 1000, origin=0), clock=0)
    assert cutter.skip(LAG + 100) == []
    assert cutter.packets(table([Packet(0, 0, 0, 40, 1, True), Packet(1, LAG, 0, 40, 1, True)])) == []
    assert len(cutter.packets(table([Packet(1, LAG + 11, 0, 40, 1, True)]))) == 1


@pytest.mark.parametrize(
    ("timeline", "ticks"),
    [
        (Timeline(2**60, 1, origin=0), 0),
        (Timeline(1, 2**60, origin=0), 0),
        (Timeline(1, 1000, origin=2**60), 0),
        (Timeline(1, 1000, origin=0), 2**60),
        (Timeline(1, 1000, origin=0), -(2**60)),
        (Timeline(1, 1000, origin=0), NOTHING),
        (Timeline(1, 90_000, origin=0, wraps=True), 0),
    ],
)
def test_times_that_need_more_than_64_bits(timeline: Timeline, ticks: int) -> None:
    one = np.array([ticks], np.int64)
    assert timeline.place_all(one, np.array([1], np.int64), np.array([True])) is None
    assert timeline.end == 0


def test_times_at_once() -> None:
    timeline = Timeline(1, 3, origin=-10)
    places = timeline.place_all(np.array([-1, 2, 1]), np.array([1, -9, 1]), np.array([True, False, False]))
    assert places is not None
    assert places.tolist() == [0, 666_676, 333_343]
    assert timeline.end == 666_676
    keys = np.array([True])
    assert timeline.place_all(np.array([-2]), np.array([1]), keys) is not None  # both are shown at 0
    assert timeline.place_all(np.array([2]), np.array([1]), keys) is not None
    assert timeline.place_all(np.array([1]), np.array([1]), keys) is None  # a step
    assert timeline.place_all(np.array([3, 2]), np.array([1, 1]), np.array([True, True])) is None
    assert timeline.steps == []
