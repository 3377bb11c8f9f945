"""Spectral tokens of fixed sounds: PCM out of integers, and the records that it must give.

Made as tests/vectors/README.md and tokenize/audiotoken.py describe them, from the spectra of
`make_vectors.spectrum`, frame by frame and bin by bin. Nothing of the project is imported.
"""

import hashlib
import json

import numpy as np

from make_vectors.spectrum import magnitudes

__all__ = ["CASES", "NAME", "files", "pcm", "records"]

NAME = "sound/tokens.json"
MASK = 2**32 - 1
PROFILES = {"structure": (1, 16_384, 1, 8), "detail": (2, 2048, 2, 32)}
"""Name -> code, samples of a frame at 48 kHz, overlap, bins."""
CASES = [
    {"rate": rate, "channels": channels, "encoding": encoding, "samples": samples, "each": each}
    for rate, channels, encoding, samples, each in (
        (8000, 1, "u8", 7000, False),
        (11_025, 1, "s16le", 9001, False),
        (16_000, 2, "s16le", 17_000, False),
        (22_050, 1, "f32le", 20_480, False),
        (44_100, 2, "s16le", 40_000, True),
        (48_000, 1, "s24le", 50_000, False),
        (48_000, 6, "s24le", 17_000, False),
        (96_000, 1, "s32le", 40_000, False),
        (192_000, 2, "s24le", 66_001, False),
    )
]


# -- sound


def pcm(case):
    """The bytes of a case."""
    lanes = [_lane(case["samples"], case["rate"], channel) for channel in range(case["channels"])]
    return _encode(np.stack(lanes, axis=1).ravel(), case["encoding"])


def _lane(count, rate, channel):
    """One channel: integers of 24 bits."""
    n = np.arange(count, dtype=np.int64)
    value = _triangle(n, 220 * (channel + 2), rate) // 2
    value += _triangle(n, 1000 + 700 * channel, rate) // 4
    value += _noise(n, channel) // 64
    value >>= 2 * (4 * n // count)  # quieter with each quarter
    value[(n > count // 3) & (n < count // 2)] = 0
    return value


def _triangle(n, frequency, rate):
    """Down from 2^23 - 1 to -2^23 and up again, `frequency` times a second."""
    phase = n * (frequency * 2**32 // rate) & MASK
    return np.abs((phase >> 7) - 2**24) - 2**23 - (phase < 2**7)


def _noise(n, channel):
    """From -2^23 to 2^23 - 1."""
    x = (n + channel * 40_503) * 2_654_435_761 & MASK
    x = (x ^ x >> 15) * 2_246_822_519 & MASK
    return ((x ^ x >> 13) >> 8) - 2**23


def _encode(value, encoding):
    if encoding == "u8":
        return ((value >> 16) + 128).astype("u1").tobytes()
    if encoding == "s16le":
        return (value >> 8).astype("<i2").tobytes()
    if encoding == "s24le":
        return value.astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    if encoding == "s32le":
        return (value << 8).astype("<i4").tobytes()
    assert encoding == "f32le"
    return (value.astype("<f4") / np.float32(2**23)).tobytes()


def _heard(case):
    """(samples, channels), as they are decoded: what an encoding keeps of 24 bits."""
    lost = {"u8": 16, "s16le": 8}.get(case["encoding"], 0)
    lanes = [_lane(case["samples"], case["rate"], channel) for channel in range(case["channels"])]
    return np.stack(lanes, axis=1) >> lost << lost


# -- tokens


def records(case, profile):
    """The records, in order."""
    code, span, overlap, most = PROFILES[profile]
    rate, samples = case["rate"], _heard(case)
    length = len(samples)
    if case["each"]:
        channels = list(range(case["channels"]))
    else:
        channels = [2**16 - 1]
        count = case["channels"]
        samples = (2 * samples.sum(axis=1, keepdims=True) + count) // (2 * count)
    frame, step = 256, 1
    while frame * step * 48_000 < span * rate:
        frame, step = (frame * 2, step) if frame < 16_384 else (frame, step * 2)
    if step > 1:
        samples = np.concatenate([samples, np.zeros((-length % step, len(channels)), np.int64)])
        samples = (samples.reshape(-1, step, len(channels)).sum(axis=1) + step // 2) // step
    hop = frame // overlap
    made = []
    for index in range(-(-len(samples) // hop)):
        start = index * hop
        cut = samples[start : start + frame]
        cut = np.concatenate([cut, np.zeros((frame - len(cut), len(channels)), np.int64)])
        pts = start * step * 10**6 // rate
        end = min((start + hop) * step, length) * 10**6 // rate
        for channel, row in zip(channels, magnitudes(cut.T).tolist(), strict=True):
            bins = _strongest(row, most)
            record = bytes([1, code, 1, len(bins)]) + channel.to_bytes(2)
            record += bytes([frame.bit_length() - 1, step.bit_length() - 1]) + rate.to_bytes(4) + bytes(4)
            record += index.to_bytes(8) + pts.to_bytes(8) + end.to_bytes(8)
            record += b"".join(number.to_bytes(2) + bytes([level]) for number, level in bins)
            made.append(record.ljust(40 + 3 * most, b"\0"))
    return made


def _strongest(row, most):
    """(bin, level) of a frame, by bin."""
    numbers = sorted(range(1, len(row)), key=lambda number: (-row[number], number))[:most]
    largest = row[numbers[0]]
    if not largest:
        return []
    levels = [(number, (row[number] * 255 + largest // 2) // largest) for number in sorted(numbers)]
    return [(number, level) for number, level in levels if level]


# -- vectors


def files():
    """The one file."""
    cases = []
    for case in CASES:
        for profile in PROFILES:
            made = records(case, profile)
            cases.append(
                case
                | {"profile": profile, "pcm": hashlib.sha256(pcm(case)).hexdigest(), "tokens": len(made)}
                | {
                    "first": made[0].hex(),
                    "last": made[-1].hex(),
                    "sha256": hashlib.sha256(b"".join(made)).hexdigest(),
                }
            )
    return {NAME: json.dumps({"cases": cases}, indent=2).encode() + b"\n"}
