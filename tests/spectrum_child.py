"""Digests of spectra in a process of its own, whose CPU settings stand in its environment.

    python -m spectrum_child SIGNALS.npz

JSON on stdout: the `settings` that took effect (SIMD of numpy, kernels of OpenBLAS), how many `threads`
OpenBLAS has, and the ns that others than the main one have `helped` with the spectra; and for each of KINDS
the digests by signal and frame: our `spectrum`, numpy's `rfft` and `abs` of it, and, for the shortest frame,
a DFT as a `product` of matrices in floating point.

Products of `spectrum` stay below the size from which OpenBLAS starts threads. With LARGE_PRODUCTS in the
environment they do not, so that there is a sum for threads to share.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmony4.tokenize import spectrum as module
from harmony4.tokenize.spectrum import FRAMES, Spectrum
from make_vectors.spectrum import digest, frames_of

KINDS = ("spectrum", "rfft", "abs", "product")


def simd() -> list[str]:
    """What numpy dispatches on and found enabled."""
    from numpy._core import _multiarray_umath as umath

    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]


def _openblas() -> ctypes.CDLL | None:
    """Numpy's own; None where it was built with something else."""
    for folder in ("numpy.libs", "numpy/.dylibs"):
        for path in (Path(np.__file__).parents[1] / folder).glob("*openblas64*"):
            return ctypes.CDLL(str(path))
    return None


def blas() -> str:
    """The kernels that OpenBLAS chose; empty where numpy has none of its own."""
    library = _openblas()
    if library is None:
        return ""
    name = library.scipy_openblas_get_corename64_
    name.restype = ctypes.c_char_p
    return str(name().decode())


def threads() -> int:
    """How many OpenBLAS may use; 0 where it cannot be asked."""
    library = _openblas()
    return 0 if library is None else int(library.scipy_openblas_get_num_threads64_())


def prepare() -> None:
    """Do what the environment says of the size of products."""
    if "LARGE_PRODUCTS" in os.environ:
        assert module._THREADED < 2**40
        module._THREADED = 2**40  # type: ignore[misc]


def others() -> int:
    """CPU time of all threads but this one, ns, to some microseconds: two clocks are not read at once."""
    return time.process_time_ns() - time.thread_time_ns()


def rest() -> int:
    """`others`, once they have stopped looking for work: OpenBLAS's spin for a while when they begin."""
    seen = [others()]
    while len(seen) < 5 or max(seen[-5:]) - min(seen[-5:]) > 1_000_000:
        time.sleep(0.01)  # only to leave them the processor
        seen.append(others())
    return seen[-1]


def main(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"settings": [*simd(), blas()], "threads": threads()}
    found |= {kind: {} for kind in KINDS}
    signals = np.load(path)
    prepare()
    before = rest()
    for frame in FRAMES:
        spectrum = Spectrum(frame)
        for name in signals:
            samples = frames_of(signals[name], frame)
            found["spectrum"][f"{name}, {frame}"] = digest(spectrum.magnitudes(samples))
    found["helped"] = others() - before
    for frame in FRAMES:
        angles = 2 * np.pi * np.arange(frame) / frame
        window = 0.5 - 0.5 * np.cos(angles)
        for name in signals:
            samples = frames_of(signals[name], frame)
            windowed = samples * window
            transformed = np.fft.rfft(windowed)
            one = f"{name}, {frame}"
            found["rfft"][one] = sha256(transformed)
            found["abs"][one] = sha256(np.abs(transformed))
            if frame == FRAMES[0]:
                found["product"][one] = sha256(windowed @ np.cos(np.outer(angles, np.arange(frame))))
    return found


def sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
