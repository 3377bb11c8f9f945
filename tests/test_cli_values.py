"""What people type on the command line: times, sizes and frame rates, exactly (docs/API.md, "Commands")."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.server.cli import values


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0", 0),
        ("90000000", 90_000_000),
        ("90s", 90_000_000),
        ("1.5s", 1_500_000),
        ("0.000001s", 1),
        ("0.0000019s", 1),  # cut off, never rounded up
        ("500ms", 500_000),
        ("0.5ms", 500),
        ("7us", 7),
        ("7µs", 7),
        ("7μs", 7),
        ("2min", 120_000_000),
        ("1.5h", 5_400_000_000),
        ("1:30", 90_000_000),
        ("90:00", 5_400_000_000),
        ("1:02:03.5", 3_723_500_000),
        ("0:00:00.000001", 1),
        ("100:00:00", 360_000_000_000),
        (" 90s ", 90_000_000),
        ("9007199254740993", 2**53 + 1),
        ("9007199254.740993s", 2**53 + 1),  # a float would give an even number
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_times(text: str, microseconds: int) -> None:
    assert values.parse_pts(text) == microseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "1.5",
        ".5",
        "abc",
        "1e6",
        "1_000",
        "٣s",  # digits, but not ours
        "1:60",
        "1:60:00",
        "1:2:3:4",
        "1:",
        ":30",
        "5 s",
        "5days",
        str(2**63),
        "9999999999999h",
        "1" * 10_000,
        "inf",
        "nan",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|microsecond|59"):
        values.parse_pts(text)


@given(st.integers(0, 2**63 - 1))
def test_every_time_can_be_written_with_a_unit(pts: int) -> None:
    whole, rest = divmod(pts, 10**6)
    assert values.parse_pts(f"{whole}.{rest:06}s") == pts
    assert values.parse_pts(f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}.{rest:06}") == pts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 2**20),
        ("1MiB", 2**20),
        ("1M", 2**20),
        ("1m", 2**20),
        ("512KiB", 512 * 1024),
        ("512 KiB", 512 * 1024),
        ("0.5MiB", 2**19),
        ("1MB", 10**6),
        ("100kB", 100_000),
        ("7B", 7),
        ("1", 1),
        ("16MiB", 2**24),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_block_size(text) == size


@pytest.mark.parametrize(
    "text", ["0", "-1", "17MiB", "16777217", "1.5", "MiB", "1MiBB", "", "1e3", "9" * 100, "1TiB"]
)
def test_what_is_no_block_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|byte"):
        values.parse_block_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("30", Fraction(30)),
        ("30000/1001", Fraction(30000, 1001)),
        ("29.97", Fraction(2997, 100)),
        ("0.5", Fraction(1, 2)),
        ("24000/1001", Fraction(24000, 1001)),
    ],
)
def test_frame_rates(text: str, rate: Fraction) -> None:
    assert values.parse_fps(text) == rate


@pytest.mark.parametrize("text", ["0", "0/5", "5/0", "-1", "", "abc", "1/2/3", "1e3", "1." + "3" * 30, "nan"])
def test_what_is_no_frame_rate(text: str) -> None:
    with pytest.raises(ValueError, match="frame rate"):
        values.parse_fps(text)


def test_durations_sizes_and_counts_for_people() -> None:
    assert values.format_duration(0) == "0:00:00.000"
    assert values.format_duration(3_723_500_999) == "1:02:03.500"
    assert values.format_duration(360_000_000_000) == "100:00:00.000"
    assert [values.format_size(n) for n in (0, 1023, 1024, 1536, 2**20, 2**42)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 MiB",
        "4.0 TiB",
    ]
    assert values.format_count(1, "block") == "1 block"
    assert values.format_count(18_000, "block") == "18 000 blocks"
    assert values.hole_text(0, 3, 1) == "block 3 of track 0"
    assert values.hole_text(1, 3, 2) == "blocks 3 to 4 of track 1"
    assert values.hole_text(0, 3, 0) == "the end of track 0, from block 3 on"


def test_text_from_files_cannot_steer_the_terminal() -> None:
    assert values.plain("a\x1b[2Jb\nc\u202ed") == r"a\x1b[2Jb\nc\u202ed"
    assert values.plain("Häuser Ø4 漢字") == "Häuser Ø4 漢字"
    assert values.plain("\udcff") == r"\udcff"
