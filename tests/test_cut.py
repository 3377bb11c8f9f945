"""The cutting rule and the timeline (H4MK 15, 16), against the independent implementation and by hand."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import independent
from harmony4.tokenize import cut
from harmony4.tokenize.cut import Block, Cutter
from harmony4.tokenize.packet import Packet
from harmony4.tokenize.scan import Packets, Samples
from harmony4.tokenize.timeline import WRAP, Step, Timeline, micros, unroll

MIB = 2**20


@dataclass
class Units:
    """A scanner that knows its units beforehand and must not be asked about bytes it has not seen."""

    starts: list[int]
    reads: bool = True
    bare: bool = False
    fed: int = 0

    def feed(self, data: bytes) -> None:
        self.fed += len(data)

    def unit(self, pos: int) -> int:
        assert pos < self.fed
        return max((one for one in self.starts if one <= pos), default=pos)

    def forget(self, before: int) -> None:
        assert before > 0


def run(
    packets: list[Packet],
    length: int,
    limit: int,
    *,
    units: list[int] | None = None,
    span: int = 0,
    in_order: bool = True,
    ahead: random.Random | None = None,
    timeline: Timeline | None = None,
) -> tuple[list[Block], Timeline]:
    """Feed bytes just in time or further `ahead`, in odd pieces, and collect the blocks."""
    timeline = timeline or Timeline(1, 1000, origin=0)
    scanner = Units(units or [])
    cutter = Cutter(limit, scanner, timeline, clock=0, span=span, in_order=in_order)
    blocks: list[Block] = []
    fed = 0

    def feed(size: int) -> None:
        nonlocal fed
        while fed < size:
            step = min(size - fed, ahead.randrange(1, 40)) if ahead else size - fed
            blocks.extend(cutter.feed(bytes(step)))
            fed += step

    for packet in packets:
        if packet.pos is not None:
            want = min(length, packet.pos + packet.size)
            feed(min(length, want + (ahead.randrange(60) if ahead else 0)))
        blocks += cutter.packet(packet)
    blocks += cutter.packets_end()
    feed(length)
    blocks += cutter.finish()
    assert timeline.end == cutter.end
    return blocks, timeline


def key(pos: int | None, pts: int | None, duration: int = 40, stream: int = 0, size: int = 1) -> Packet:
    return Packet(stream, pos, pts, duration, size, True)


def delta(pos: int | None, pts: int | None, duration: int = 40, stream: int = 0, size: int = 1) -> Packet:
    return Packet(stream, pos, pts, duration, size, False)


def shown(blocks: list[Block]) -> list[tuple[int, int, int, str]]:
    return [(one.start, one.size, one.pts, "K" if one.key else "H" if one.header else "-") for one in blocks]


packets = st.lists(
    st.builds(
        lambda stream, step, pts, duration, size, is_key, hide, late: (
            stream,
            step,
            pts,
            duration,
            size,
            is_key,
            hide,
            late,
        ),
        st.sampled_from([0, 0, 0, 1]),
        st.integers(0, 12),
        st.one_of(st.none(), st.integers(-50, 400)),
        st.integers(-5, 60),
        st.integers(1, 6),
        st.booleans(),
        st.sampled_from([False] * 6 + [True]),
        st.sampled_from([0] * 8 + [15]),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    packets,
    st.integers(1, 30),
    st.sets(st.integers(0, 200), max_size=12),
    st.sampled_from([0, 0, 90_000]),
    st.booleans(),
    st.integers(0, 2**16),
    st.integers(0, 10),
)
def test_against_the_specification(
    drawn: list[tuple[int, int, int | None, int, int, bool, bool, int]],
    limit: int,
    starts: set[int],
    span: int,
    in_order: bool,
    seed: int,
    tail: int,
) -> None:
    """An implementation made from docs/H4MK.md alone gives the same blocks, whatever the pieces were."""
    pos = 0
    made = []
    for stream, step, pts, duration, size, is_key, hide, late in drawn:
        pos += step
        here = None if hide else max(0, pos - late)
        made.append(Packet(stream, here, pts, duration, size, is_key))
    length = pos + tail + 6
    units = sorted(starts)
    theirs = independent.Timeline(1, 1000, 0)
    expected = independent.Cut(
        length,
        limit,
        0,
        theirs,
        lambda p, decided: max((one for one in units if one <= p), default=p),
        span,
        not in_order,
    ).read([independent.Packet(one.stream, one.pts, one.duration, one.pos, one.key) for one in made])
    for ahead in (None, random.Random(seed), random.Random(seed + 1)):
        blocks, timeline = run(made, length, limit, units=units, span=span, in_order=in_order, ahead=ahead)
        assert [
            {
                "offset": one.start,
                "size": one.size,
                "pts": one.pts,
                "key": one.key,
                "header": one.header,
                "min_pts": one.pts if one.min_pts is None else one.min_pts,
            }
            for one in blocks
        ] == expected
        assert timeline.end == theirs.end
        assert [{"pts": s.pts, "shift": s.shift, "track": 0} for s in timeline.steps] == theirs.steps
        # What a container demands of them (H4MK 6.2).
        assert sum(one.size for one in blocks) == length
        assert all(0 < one.size <= limit for one in blocks)
        times = [one.pts for one in blocks]
        assert times == sorted(times)
        keys = [one.pts for one in blocks if one.key]
        assert all(a < b and b - a >= span for a, b in itertools.pairwise(keys))


def test_the_specifications_example() -> None:  # H4MK A.6
    made = [
        *(key(12, 0), delta(16, 0, 20, stream=1), delta(20, 120), delta(26, 40)),
        *(key(30, 160), delta(33, 140), delta(37, 200), delta(41, 80, 20, stream=1)),
        *(key(44, -20), delta(55, 20)),
    ]
    blocks, timeline = run(made, 60, 10, units=[10, 20, 26, 28, 33, 37, 41, 42, 55])
    assert shown(blocks) == [
        *((0, 10, 0, "H"), (10, 10, 0, "K"), (20, 8, 0, "-")),
        *((28, 10, 160_000, "K"), (38, 4, 200_000, "-"), (42, 10, 240_000, "K"), (52, 8, 240_000, "-")),
    ]
    assert timeline.steps == [Step(240_000, 260_000)]
    assert timeline.end == 320_000


def test_empty() -> None:
    assert run([], 0, 10)[0] == []


def test_no_packets_and_no_keyframe() -> None:
    assert shown(run([], 25, 10)[0]) == [(0, 10, 0, "H"), (10, 10, 0, "H"), (20, 5, 0, "H")]
    blocks, timeline = run([delta(3, 0), delta(14, 40)], 25, 10)
    assert shown(blocks) == [(0, 10, 0, "H"), (10, 10, 0, "H"), (20, 5, 0, "H")]
    assert [one.min_pts for one in blocks] == [0, 40_000, None]
    assert timeline.end == 80_000


def test_keyframe_at_the_first_byte() -> None:
    assert shown(run([key(0, 7)], 5, 10)[0]) == [(0, 5, 7000, "K")]


def test_missing_pts() -> None:
    blocks, _ = run([key(2, None), key(5, 40), key(9, None), key(12, 120)], 20, 100)
    assert shown(blocks) == [(0, 5, 0, "H"), (5, 7, 40_000, "K"), (12, 8, 120_000, "K")]


def test_a_packet_without_a_place() -> None:
    # MPEG-TS: later frames of a PES packet lie where it starts; before the first there is nowhere.
    blocks, timeline = run([key(None, 0), delta(4, 40), key(None, 80)], 20, 100)
    assert shown(blocks) == [(0, 4, 0, "H"), (4, 16, 80_000, "K")]
    assert timeline.end == 120_000
    assert shown(run([key(99, 0, size=0), key(-3, 0)], 20, 100)[0]) == [(0, 20, 0, "H")]


def test_span() -> None:
    made = [key(i * 10, i * 400, 400) for i in range(8)]
    keys = [one.pts for one in run(made, 80, 1000, span=1_000_000)[0] if one.key]
    assert keys == [0, 1_200_000, 2_400_000]


def test_keyframe_inside_its_unit() -> None:
    # The unit's start opens the block, with its earlier packets; one keyframe a unit.
    made = [key(10, 0), delta(50, 40), key(60, 80), key(70, 120), key(110, 160)]
    blocks, _ = run(made, 120, 1000, units=[5, 40, 100])
    assert shown(blocks) == [(0, 5, 0, "H"), (5, 35, 0, "K"), (40, 60, 80_000, "K"), (100, 20, 160_000, "K")]
    assert blocks[2].min_pts == 40_000


def test_continuations_wait_for_their_unit() -> None:
    made = [key(10, 0), delta(45, 40), delta(75, 80), key(85, 120)]
    assert shown(run(made, 100, 20, units=[5, 40])[0]) == [
        *((0, 5, 0, "H"), (5, 20, 0, "K"), (25, 15, 0, "-")),
        *((40, 20, 120_000, "K"), (60, 20, 120_000, "-"), (80, 20, 120_000, "-")),
    ]


def test_open_gop() -> None:
    made = [key(0, 40), delta(5, 160), key(20, 280), delta(25, 200), delta(30, 240)]
    blocks, _ = run(made, 40, 12)
    assert [(one.start, one.pts, one.min_pts) for one in blocks] == [
        *((0, 40_000, 40_000), (12, 160_000, None)),
        *((20, 280_000, 200_000), (32, 280_000, None)),
    ]


def test_other_streams_move_the_frontier_late() -> None:
    scanner = Samples()
    cutter = Cutter(10, scanner, Timeline(1, 1000, origin=0), clock=0)
    assert cutter.skip(5 * MIB) == []
    assert cutter.packet(key(0, 0)) == []
    assert cutter.packet(key(cut.LAG, 0, stream=1)) == []
    assert len(cutter.packet(key(cut.LAG + 11, 0, stream=1))) == 1
    jumping = Cutter(10, scanner, Timeline(1, 1000, origin=0), clock=0, in_order=False)
    assert jumping.skip(5 * MIB) == []
    assert jumping.packet(key(cut.LAG + 100, 0, stream=1)) == []


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MAX_UNIT", 50)
    cutter = Cutter(20, Units([10], fed=1000), Timeline(1, 1000, origin=0), clock=0)
    assert cutter.skip(1000) == []
    assert cutter.packet(delta(60, 0)) == []
    # 51 bytes behind its unit's start a keyframe opens nothing, and nothing waits for it any more.
    assert [one.start for one in cutter.packet(key(61, 40))] == [0, 20, 40]
    assert all(one.header for one in cutter.finish())


def test_bytes_after_the_last_packet_come_at_once() -> None:
    cutter = Cutter(10, Samples(), Timeline(1, 1000, origin=0), clock=0)
    cutter.feed(bytes(5))
    cutter.packet(key(0, 0))
    assert cutter.packets_end() == []
    assert [one.start for one in cutter.feed(bytes(26))] == [0, 10, 20]
    assert shown(cutter.finish()) == [(30, 1, 0, "-")]


def test_transport_stream_falls_back_to_the_packet() -> None:
    # One PAT before two keyframes: the second opens at its own packet.
    pat = b"\x47\x40\0\x10" + bytes(184)
    other = b"\x47\x41\x01\x10" + bytes(184)
    video = b"\x47\x41\0\x10" + bytes(184)
    data = pat + other + video + other + video
    cutter = Cutter(10**6, Packets(256), Timeline(1, 1000, origin=0), clock=0)
    cutter.feed(data)
    blocks = cutter.packet(key(376, 0)) + cutter.packet(key(752, 40)) + cutter.finish()
    assert shown(blocks) == [(0, 752, 0, "K"), (752, 188, 40_000, "K")]


class TestTimeline:
    def test_floor(self) -> None:
        assert (micros(1, 1, 3), micros(-1, 1, 3), micros(2, 1001, 30000)) == (333_333, -333_334, 66_733)

    def test_origin_and_negative_start(self) -> None:
        line = Timeline(1, 1000, origin=-20_000)
        assert [line.place(ticks, 10, False) for ticks in (-30, -20, 0, None)] == [0, 0, 20_000, None]
        assert line.end == 30_000

    @pytest.mark.parametrize("start", [None, WRAP - 90_000])
    def test_wrap(self, start: int | None) -> None:
        first = WRAP - 90_000
        line = Timeline(1, 90_000, origin=micros(first, 1, 90_000), wraps=True, start=start)
        ticks = [first, 90_000, WRAP - 3_000, 180_000]  # a B-frame crosses back
        assert [line.place(one % WRAP, 3000, one != ticks[2]) for one in ticks] == [
            *(0, 2_000_000),
            *(966_667, 3_000_000),
        ]
        assert line.steps == []

    def test_unroll(self) -> None:
        assert unroll(5, None) == 5
        assert unroll(5, WRAP - 5) == WRAP + 5
        assert unroll(WRAP - 5, 5) == -5
        assert unroll(7, 3 * WRAP) == 3 * WRAP + 7

    def test_step(self) -> None:
        line = Timeline(1, 1000, origin=0)
        times = [(0, True), (100, True), (0, False), (40, True), (80, False), (20, True)]
        assert [line.place(ticks, 40, is_key) for ticks, is_key in times] == [
            *(0, 100_000, 0),
            *(140_000, 180_000, 220_000),
        ]
        assert line.steps == [Step(140_000, 100_000), Step(220_000, 100_000)]
        assert line.end == 260_000

    def test_absurd_times(self) -> None:
        line = Timeline(1, 1, origin=0)
        for ticks, duration in ((2**62, 0), (-(2**62), 0), (0, 2**62)):
            assert line.place(ticks, duration, True) is None
        assert (line.place(5, -3, True), line.end) == (5_000_000, 5_000_000)
