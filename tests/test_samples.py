"""Samples of all encodings as integers of 24 bits, against sums in fractions."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harmony4.crypto.errors import LimitError, MediaError
from harmony4.tokenize.samples import ENCODINGS, MAX_CHANNELS, MAX_RATE, PIECE, SCALE, SoundFormat, pieces


def ours(encoding: str, data: bytes) -> list[int]:
    found = ENCODINGS[encoding].convert(data)
    assert found.dtype == np.int32
    assert found.shape == (len(data) // ENCODINGS[encoding].width,)
    return found.tolist()


def of_float(x: float) -> int:
    if math.isnan(x):
        return 0
    if math.isinf(x):
        return SCALE if x > 0 else -SCALE
    return max(-SCALE, min(SCALE, round(Fraction(x) * SCALE)))  # round: halves to even, as in IEEE 754


@given(st.binary(max_size=64))
def test_integers(data: bytes) -> None:
    assert ours("u8", data) == [(x - 128) * 2**16 for x in data]
    for encoding, width in (("s16le", 2), ("s24le", 3), ("s32le", 4)):
        whole = data[: len(data) // width * width]
        values = [
            int.from_bytes(whole[i : i + width], "little", signed=True) for i in range(0, len(whole), width)
        ]
        expected = [math.floor(Fraction(x * 2**24, 2 ** (8 * width)) + Fraction(1, 2)) for x in values]
        assert ours(encoding, whole) == expected


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (2**31 - 1, SCALE),
        (-(2**31), -SCALE),
        (127, 0),
        (128, 1),
        (-128, 0),
        (-129, -1),
        (384, 2),
        (-384, -1),
        (-1, 0),
    ],
)
def test_s32_is_rounded_to_the_nearest_and_halves_upwards(x: int, expected: int) -> None:
    assert ours("s32le", struct.pack("<i", x)) == [expected]


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=16))
@example([struct.pack("<I", bits) for bits in (0x7FC00000, 0xFFC00001, 0x7F800001, 0xFFFFFFFF)])  # NaNs
@example([struct.pack("<f", x) for x in (math.inf, -math.inf, 1.0, -1.0, 1e38, -1e38, 1e-45, -0.0)])
@example([struct.pack("<f", x / 2**24) for x in (1, 3, 5, -1, -3, -5)])  # halves
@example([struct.pack("<f", 1 - 2**-24), struct.pack("<f", -1 + 2**-24)])
def test_f32(words: list[bytes]) -> None:
    values = [struct.unpack("<f", word)[0] for word in words]
    assert ours("f32le", b"".join(words)) == [of_float(x) for x in values]


@given(st.lists(st.binary(min_size=8, max_size=8) | st.floats(-1.1, 1.1).map(lambda x: struct.pack("<d", x))))
@example([struct.pack("<Q", bits) for bits in (0x7FF8 << 48, 0xFFF8 << 48 | 1, 0x7FF0 << 48 | 1)])
@example(
    [struct.pack("<d", x) for x in (math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.5 / 2**23, 1.5 / 2**23)]
)
def test_f64(words: list[bytes]) -> None:
    values = [struct.unpack("<d", word)[0] for word in words]
    assert ours("f64le", b"".join(words)) == [of_float(x) for x in values]


def test_the_same_with_other_instructions() -> None:
    """The conversion of 3 MB (words that a product of integers makes) without AVX2, FMA and so on."""
    code = """
import hashlib, numpy as np
from harmony4.tokenize.samples import ENCODINGS
words = np.arange(786_432, dtype=np.uint64) * 0x9E3779B97F4A7C15
data = (words >> 32).astype("<u4").tobytes()
digest = hashlib.sha256()
for name in sorted(ENCODINGS):
    digest.update(ENCODINGS[name].convert(data[: len(data) // 24 * 24]).astype("<i4").tobytes())
print(digest.hexdigest())
"""
    digests = set()
    for disabled in (
        "",
        "X86_V4",
        "X86_V3 X86_V4",
        "AVX2 FMA3",
        "AVX512F AVX512_SKX AVX2 FMA3 F16C AVX SSE42",
    ):
        # Names that this processor or this numpy does not have are warned of, which is no matter here.
        environment = {"NPY_DISABLE_CPU_FEATURES": disabled} if disabled else {}
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_formats() -> None:
    SoundFormat(MAX_RATE, MAX_CHANNELS, "s16le", True, -5)
    for rate in (0, -1, MAX_RATE + 1):
        with pytest.raises(MediaError, match="sample rate"):
            SoundFormat(rate, 1, "s16le", True, 0)
    with pytest.raises(MediaError, match="no channel"):
        SoundFormat(8000, 0, "s16le", True, 0)
    with pytest.raises(LimitError, match="too many channels"):
        SoundFormat(8000, 10_000, "s16le", True, 0)


@pytest.mark.parametrize("channels", [1, 2, 6, MAX_CHANNELS])
def test_pieces(channels: int) -> None:
    samples = np.arange(300_000 // channels * channels, dtype=np.int32).reshape(-1, channels)
    found = pieces(samples)
    assert all(0 < piece.size <= PIECE for piece in found)
    assert np.array_equal(np.concatenate(found), samples)
    assert pieces(samples[:0]) == []
