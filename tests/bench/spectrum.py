"""Bit-exact spectra beside `numpy.fft.rfft` and `abs`, in one process on one core.

`python -m bench.spectrum ROUNDS SECONDS CORE` is that process. JSON on stdout: for each length of a frame,
the rounds' seconds a frame: ours, numpy's, numpy's with the window.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import ROOT, Place, Table, median, spread
from bench.servers import cores
from harmony4.tokenize.spectrum import FRAMES, LOUDEST, Spectrum

MOST = 3.5
"""Times numpy's time."""
PLANS = ((9, 0.5), (3, 0.1), (1, 0.01))
"""Rounds, and seconds that each side of a round gets, for each length."""
RATE = 48_000
"""Samples/s that "real time" means."""
SAMPLES = 2**19
"""In one call of ours."""
AT_ONCE = 2**16
"""In one call of numpy's, which is fastest so: with more, what it makes leaves the cache."""


def spectrum(place: Place) -> Table:
    """Each round runs both sides; the figure is the median of the rounds' ratios."""
    rounds, seconds = PLANS[place.quick]
    pair = cores()
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "bench.spectrum",
            str(rounds),
            str(seconds),
            str(pair[-1] if pair else 0),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    table = Table()
    for frame, found in json.loads(done.stdout).items():
        ours, theirs, windowed = (median(times) for times in zip(*found, strict=True))
        ratios, whole = ([one[0] / one[peer] for one in found] for peer in (1, 2))
        table.add(
            f"frames of {frame}: time ÷ that of `rfft` and `abs`",
            f"{spread(ratios)}; {ours * 1e6:.2f} µs",
            f"≤ {MOST}",
            f"{theirs * 1e6:.2f} µs",
            median(ratios) <= MOST,
        )
        table.add(
            f"frames of {frame}: time ÷ that of window, `rfft` and `abs`",
            spread(whole),
            "",
            f"{windowed * 1e6:.2f} µs",
        )
        if frame == "2048":
            rate = f"{1024 / RATE / ours:,.0f}".replace(",", " ")
            table.notes.append(
                f"Frames of 2048, 1024 apart at {RATE} samples/s: {rate} times as fast as they are played."
            )
    table.notes.append(
        f"{rounds} rounds after one to warm up; times are for one frame; one core, one thread of BLAS."
    )
    return table


def measure(rounds: int, seconds: float) -> dict[int, list[tuple[float, ...]]]:
    """Seconds a frame, for each length and round: ours, numpy's, and numpy's with the window before it."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for frame in FRAMES:
        samples = np.random.default_rng(frame).integers(
            -LOUDEST, LOUDEST, (SAMPLES // frame, frame), np.int32
        )
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
        sides = (
            partial(Spectrum(frame).magnitudes, samples),
            partial(_numpy, samples * window, None),
            partial(_numpy, samples, window),
        )
        for side in sides:
            timed(side, seconds)
        found[frame] = [tuple(timed(side, seconds) / len(samples) for side in sides) for _ in range(rounds)]
    return found


def _numpy(samples: NDArray[Any], window: NDArray[np.float64] | None) -> None:
    at_once = AT_ONCE // samples.shape[1]
    for start in range(0, len(samples), at_once):
        some = samples[start : start + at_once]
        np.abs(np.fft.rfft(some if window is None else some * window))


def timed(call: Callable[[], None], seconds: float) -> float:
    """Mean seconds of a call, called for about as long as is wanted."""
    before, count = perf_counter(), 0
    while (took := perf_counter() - before) < seconds or not count:
        call()
        count += 1
    return took / count


if __name__ == "__main__":
    rounds_, seconds_, core = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    print(json.dumps(measure(int(rounds_), float(seconds_))))
