"""Samples of any encoding as integers of 24 bits, by rules that give the same bits on every machine.

    u8          (x - 128) · 2^16
    s16         x · 2^8
    s24         x
    s32         floor((x + 2^7) / 2^8): to the nearest, halves upwards
    f32, f64    x · 2^23, to the nearest, halves to even, clipped to ±2^23; NaN is 0

Integers never leave integers. Of floats, a NaN is found by its bits before any arithmetic, and what follows
are single IEEE operations: a clip, an exact product with a power of two, `rint`. Only s32 and floats reach
2^23 itself, where their full scale is rounded to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harmony4.crypto.errors import LimitError, MediaError

__all__ = [
    "ENCODINGS",
    "MAX_CHANNELS",
    "MAX_RATE",
    "PIECE",
    "SCALE",
    "Encoding",
    "SoundFormat",
    "pieces",
]

MAX_RATE: Final = 2**31 - 1
"""Greatest sample rate, Hz."""
MAX_CHANNELS: Final = 512
"""Most channels; FFmpeg's decoders have the same bound."""
SCALE: Final = 2**23
"""Full scale: no sample is greater, in either direction."""
PIECE: Final = 2**16
"""Most samples of an array, all channels together."""

Samples = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """What the samples of a sound are. Raises MediaError, LimitError for what no sound can be."""

    rate: int
    """Hz, 1 … MAX_RATE."""
    channels: int
    """1 … MAX_CHANNELS."""
    encoding: str
    """s16le, s24le, s32le, f32le, f64le, u8, or FFmpeg's name of the decoder."""
    bit_exact: bool
    """Whether these samples are the same on every machine; False: the decoder calculates in floats."""
    start: int
    """µs on the source's own clock where the first sample plays."""

    def __post_init__(self) -> None:
        if not 1 <= self.rate <= MAX_RATE:
            raise MediaError("the sample rate cannot be", expected=f"1 to {MAX_RATE} Hz", found=self.rate)
        if self.channels < 1:
            raise MediaError("there is no channel", expected=f"1 to {MAX_CHANNELS}", found=self.channels)
        if self.channels > MAX_CHANNELS:
            raise LimitError("too many channels", expected=f"<= {MAX_CHANNELS}", found=self.channels)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How samples stand in bytes."""

    width: int
    """Bytes of one."""
    convert: Callable[[Any], Samples]
    """A buffer of whole samples as integers of 24 bits, shape (samples,)."""


def _u8(data: Any) -> Samples:
    return (np.frombuffer(data, "u1").astype(np.int32) - 128) << 16


def _s16(data: Any) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.int32) << 8


def _s24(data: Any) -> Samples:
    three = np.frombuffer(data, "u1").reshape(-1, 3)
    four = np.zeros((len(three), 4), "u1")
    four[:, 1:] = three
    return four.view("<i4")[:, 0].astype(np.int32) >> 8


def _s32(data: Any) -> Samples:
    x = np.frombuffer(data, "<i4").astype(np.int32)
    # The same as (x + 128) >> 8, without a carry out of the 32 bits.
    return (x >> 8) + ((x >> 7) & 1)


def _f32(data: Any) -> Samples:
    bits = np.frombuffer(data, "<u4")
    finite = np.where((bits & 0x7FFF_FFFF) > 0x7F80_0000, np.uint32(0), bits)
    return _floats(finite.astype(np.uint32).view(np.float32).astype(np.float64))


def _f64(data: Any) -> Samples:
    bits = np.frombuffer(data, "<u8")
    nan = (bits & 0x7FFF_FFFF_FFFF_FFFF) > 0x7FF0_0000_0000_0000
    return _floats(np.where(nan, np.uint64(0), bits).astype(np.uint64).view(np.float64))


def _floats(x: NDArray[np.float64]) -> Samples:
    return np.rint(np.clip(x, -1.0, 1.0) * SCALE).astype(np.int32)


ENCODINGS: Final = {
    "u8": Encoding(1, _u8),
    "s16le": Encoding(2, _s16),
    "s24le": Encoding(3, _s24),
    "s32le": Encoding(4, _s32),
    "f32le": Encoding(4, _f32),
    "f64le": Encoding(8, _f64),
}
"""Those of raw PCM, and f64le, which decoders give and WAVE may hold."""


def pieces(samples: Samples) -> list[Samples]:
    """An array of shape (n, channels) as arrays of at most PIECE samples."""
    step = PIECE // samples.shape[1]
    return [samples[i : i + step] for i in range(0, len(samples), step)]
