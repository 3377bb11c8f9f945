"""Spectra of fixed signals, in integers only: no floating-point product, and no table of the project.

The signals are made by integer arithmetic, too. What is computed is docs/ARCHITECTURE.md, "The spectrum",
from its formulas: cosines by Decimal's Taylor series, sums in int64 (numpy's own loops; BLAS knows no
integers), rounding by shifts.
"""

import hashlib
import json
import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

__all__ = [
    "FRAMES",
    "ROWS",
    "cosine",
    "cosines",
    "digest",
    "files",
    "frames_of",
    "magnitudes",
    "signals",
    "tables",
]

ROWS = {256: 16, 512: 16, 1024: 16, 2048: 32, 4096: 64, 8192: 128, 16384: 256}
"""Frame -> rows."""
FRAMES = tuple(ROWS)
SIZE = 4 * 16384
"""Samples of a signal."""
FULL = 2**23
NAME = "spectrum/digests.json"

# ---- signals ---------------------------------------------------------------------------------------------


@cache
def signals():
    """Name -> samples, int32 of 24 bits."""
    return {"noise": _noise(), "tones": _tones(), "voice": _voice(), "extremes": _extremes()}


def _noise(size=SIZE):
    """SplitMix64, its upper 24 bits."""
    state = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(40)).astype(np.int32) - np.int32(FULL)


def _tones(size=SIZE):
    """Three sines as integer recurrences s[n] = 2 cos(w) s[n-1] - s[n-2], the third beyond 16 bits of the
    first."""
    total = np.zeros(size, np.int64)
    for twice_cosine, start in ((2_140_000_000, 400_000), (1_700_000_000, 60_000), (-900_000_000, 23)):
        before, now = 0, start
        for index in range(size):
            total[index] += now
            before, now = now, (twice_cosine * now >> 30) - before
    return np.clip(total, -FULL, FULL).astype(np.int32)


def _voice(size=SIZE):
    """Pulses of a gliding pitch through three resonators (two poles each): a vowel, and a little noise."""
    noise = _noise(size) >> 14
    # -r^2 and 2 r cos(w), times 2^14: about 600, 1200 and 2500 Hz at 48 000 samples/s
    formants = ((16_100, 32_380), (15_950, 31_930), (15_700, 30_400))
    memory = [[0, 0] for _ in formants]
    found, period, left = [], 300, 0
    for index in range(size):
        value = int(noise[index])
        if left == 0:
            value += 60_000
            period = 300 + 120 * (index % 24_000) // 24_000
            left = period
        left -= 1
        for (square, twice), past in zip(formants, memory, strict=True):
            value = (value << 14) + twice * past[0] - square * past[1] + (1 << 13) >> 14
            past[0], past[1] = value, past[0]
            value >>= 2
        found.append(max(-FULL, min(FULL, value)))
    return np.array(found, np.int32)


def _extremes(size=SIZE):
    """The ends of the range: constants, square waves of several periods, single pulses, silence."""
    found = np.empty(size, np.int32)
    index = np.arange(size)
    part = size // 8
    for number, period in enumerate((0, 2, 4, 6, 64, 1000)):
        up = index % period < period // 2 if period else index >= 0
        found[number * part : (number + 1) * part] = np.where(up, FULL, -FULL)[
            number * part : (number + 1) * part
        ]
    found[6 * part :] = 0
    found[6 * part :: 511] = -FULL
    found[7 * part :] = 0
    return found


def frames_of(signal, frame):
    """Frames of a signal, each half over the next; a view."""
    return np.lib.stride_tricks.sliding_window_view(signal, frame)[:: frame // 2]


# ---- the same in integers --------------------------------------------------------------------------------


@cache
def cosine(number, parts):
    """cos(2 pi number / parts), to 50 digits."""
    with localcontext() as context:
        context.prec = 60
        number %= parts
        if 2 * number > parts:
            number = parts - number
        if 4 * number > parts:
            return -cosine(parts // 2 - number, parts)
        angle = 2 * PI * number / parts
        square, term, total, index = -angle * angle, Decimal(1), Decimal(1), 0
        while abs(term) > Decimal(10) ** -58:
            index += 2
            term *= square / (index * (index - 1))
            total += term
        return total if 4 * number != parts else Decimal(0)


def _pi():
    """Machin's formula."""
    with localcontext() as context:
        context.prec = 70

        def arctangent(inverse):
            power, total, index = Decimal(1) / inverse, Decimal(0), 0
            while power > Decimal(10) ** -68:
                total += power / (2 * index + 1) * (-1) ** index
                power, index = power / inverse**2, index + 1
            return total

        return 4 * (4 * arctangent(5) - arctangent(239))


PI = _pi()


@cache
def cosines(frame, bits):
    """Nearest integers to 2^bits cos(2 pi j / frame), j = 0 … frame - 1."""
    values = [
        int((cosine(number, FRAMES[-1]) * 2**bits).to_integral_value())
        for number in range(0, FRAMES[-1], FRAMES[-1] // frame)
    ]
    return np.array(values, np.int64)


@cache
def tables(frame):
    """The window (28 fraction bits), first[a, row] and second[a, column, bin] (21): real and imaginary
    parts."""
    rows = ROWS[frame]
    columns = frame // rows
    window = 2**27 - cosines(frame, 27)
    real, imaginary = cosines(frame, 21), np.roll(cosines(frame, 21), frame // 4)
    a = np.arange(rows // 2 + 1)[:, None]
    angles = a * np.arange(rows) * columns % frame
    bins = a + rows * np.arange(columns)
    turned = np.arange(columns)[:, None] * bins[:, None, :] % frame
    return window, (real[angles], -imaginary[angles]), (real[turned], -imaginary[turned])


def magnitudes(samples):
    """(n, frame) samples -> (n, frame // 2 + 1) magnitudes."""
    count, frame = samples.shape
    rows = ROWS[frame]
    columns = frame // rows
    window, first, second = tables(frame)
    size, high = frame.bit_length() - 1, rows.bit_length() - 1
    windowed = _rounded(samples * window, 28 - (9 - high)).reshape(count, rows, columns)
    real, imaginary = (_rounded(part @ windowed, 21 + size - high) for part in first)
    found = np.zeros((count, frame // 2 + 1), np.int64)
    for a in range(rows // 2 + 1):
        re = _rounded(real[:, a] @ second[0][a] - imaginary[:, a] @ second[1][a], 26)
        im = _rounded(real[:, a] @ second[1][a] + imaginary[:, a] @ second[0][a], 26)
        values = np.array([[round(math.sqrt(one)) for one in line] for line in (re * re + im * im).tolist()])
        for index in range(columns):
            bin_ = a + rows * index
            found[:, min(bin_, frame - bin_)] = values[:, index]
    return found


def _rounded(values, bits):
    """values / 2^bits, to the nearest integer, halves to the even one; |values| < 2^53."""
    assert np.abs(values).max(initial=0) < 2**53
    half = np.int64(1 << bits - 1)
    odd = values >> np.int64(bits) & 1
    return values + half - 1 + odd >> np.int64(bits)


# ---- vectors ---------------------------------------------------------------------------------------------


def digest(values):
    """SHA-256 of integers as little-endian int64, in order."""
    return hashlib.sha256(np.ascontiguousarray(values, "<i8").tobytes()).hexdigest()


def files():
    """The one file."""
    twin = {
        "description": "SHA-256 of magnitudes as little-endian int64; each frame is half over the one before",
        "signals": {name: digest(signal) for name, signal in signals().items()},
        "frames": {
            str(frame): {
                name: digest(magnitudes(frames_of(signal, frame))) for name, signal in signals().items()
            }
            for frame in FRAMES
        },
    }
    return {NAME: json.dumps(twin, indent=2).encode() + b"\n"}
