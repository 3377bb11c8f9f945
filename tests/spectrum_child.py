"""Digests of spectra in a process of its own, whose CPU settings stand in its environment.

    python -m spectrum_child SIGNALS.npz

JSON on stdout: the `settings` that took effect (SIMD of numpy, kernels of OpenBLAS), and for each of KINDS
the digests by signal and frame: our `spectrum`, numpy's `rfft` and `abs` of it, and, for the shortest frame,
a DFT as a `product` of matrices in floating point.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmony4.tokenize.spectrum import FRAMES, Spectrum
from make_vectors.spectrum import digest, frames_of

KINDS = ("spectrum", "rfft", "abs", "product")


def simd() -> list[str]:
    """What numpy dispatches on and found enabled."""
    from numpy._core import _multiarray_umath as umath

    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]


def blas() -> str:
    """The kernels that numpy's own OpenBLAS chose; empty where numpy was built with something else."""
    for folder in ("numpy.libs", "numpy/.dylibs"):
        for path in (Path(np.__file__).parents[1] / folder).glob("*openblas64*"):
            name = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
            name.restype = ctypes.c_char_p
            return str(name().decode())
    return ""


def main(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"settings": [*simd(), blas()]}
    found |= {kind: {} for kind in KINDS}
    signals = np.load(path)
    for frame in FRAMES:
        spectrum = Spectrum(frame)
        angles = 2 * np.pi * np.arange(frame) / frame
        window = 0.5 - 0.5 * np.cos(angles)
        for name in signals:
            samples = frames_of(signals[name], frame)
            windowed = samples * window
            transformed = np.fft.rfft(windowed)
            one = f"{name}, {frame}"
            found["spectrum"][one] = digest(spectrum.magnitudes(samples))
            found["rfft"][one] = sha256(transformed)
            found["abs"][one] = sha256(np.abs(transformed))
            if frame == FRAMES[0]:
                found["product"][one] = sha256(windowed @ np.cos(np.outer(angles, np.arange(frame))))
    return found


def sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
