"""Spectra are the same integers under all settings of the CPU (tests/vectors/spectrum); floating-point ones
are not.

Each setting has a process of its own, since numpy, OpenBLAS and the C library choose their code when they are
loaded.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spectrum_child
from harmony4.server.serving import workers
from harmony4.tokenize import spectrum
from make_vectors.spectrum import NAME, digest, frames_of, magnitudes, signals
from needs import ROOT, VECTORS

PINNED = json.loads((VECTORS / NAME).read_bytes())


def without(*beginnings: str) -> str:
    """Those of numpy's names for groups of instructions that begin so, as far as this CPU has them."""
    return " ".join(name for name in spectrum_child.simd() if name.startswith(beginnings))


AVX512 = ("X86_V4", "AVX512")
AVX2 = ("X86_V3", "AVX2", "FMA3", *AVX512)
KERNELS = {
    "Prescott": ("SSE3", True),
    "Sandybridge": ("AVX without FMA", without(*AVX2)),
    "Haswell": ("AVX2 and FMA", without(*AVX2)),
    "SkylakeX": ("AVX-512", without(*AVX512)),
}
"""OpenBLAS's name for a CPU, what its kernels use, and whether this CPU has it: else it might crash."""
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "numpy without AVX-512": {"NPY_DISABLE_CPU_FEATURES": without(*AVX512)},
    "numpy without AVX2 and FMA": {"NPY_DISABLE_CPU_FEATURES": without(*AVX2)},
    **{
        f"OpenBLAS for {core} ({uses})": {"OPENBLAS_CORETYPE": core}
        for core, (uses, able) in KERNELS.items()
        if able
    },
    "one thread": {"OPENBLAS_NUM_THREADS": "1"},
    # As it is no product is large enough for a second thread to help with.
    "two threads": {"OPENBLAS_NUM_THREADS": "2"},
    "two threads and products for both": {"OPENBLAS_NUM_THREADS": "2", "LARGE_PRODUCTS": "1"},
    # Alone where there is a switch for it: numpy 2.4 has one for AVX2 and FMA together, older ones had two.
    "AVX2 and no FMA": {
        "NPY_DISABLE_CPU_FEATURES": without("FMA3"),
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4",
        **({"OPENBLAS_CORETYPE": "Sandybridge"} if KERNELS["Sandybridge"][1] else {}),
    },
    "the C library without AVX2 and FMA": {
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4"
    },
    "no vector instructions that can be done without": {
        "NPY_DISABLE_CPU_FEATURES": without(""),
        "OPENBLAS_CORETYPE": "Prescott",
        "OPENBLAS_NUM_THREADS": "1",
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spectrum") / "signals.npz"
    np.savez(path, **signals())
    return path


@pytest.fixture(scope="module")
def found(inputs: Path) -> Callable[[str], dict[str, Any]]:
    """What a process under one of the settings computes; asked for once."""

    @cache
    def ask(setting: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "spectrum_child", inputs],
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")} | SETTINGS[setting],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return ask


def test_the_signals_are_the_pinned_ones() -> None:
    assert {name: digest(signal) for name, signal in signals().items()} == PINNED["signals"]
    for name, signal in signals().items():
        clipped = np.count_nonzero(np.abs(signal) == spectrum.LOUDEST)
        assert (clipped > 0) == (name == "extremes"), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_digests_are_the_pinned_ones(setting: str, found: Callable[[str], dict[str, Any]]) -> None:
    assert found(setting)["spectrum"] == {
        f"{name}, {frame}": value for frame, ours in PINNED["frames"].items() for name, value in ours.items()
    }


@pytest.mark.skipif(not spectrum_child.blas(), reason="numpy has no OpenBLAS of its own that could be asked")
def test_settings_take_effect(found: Callable[[str], dict[str, Any]]) -> None:
    """So the test above does compare different machine code."""
    state = {setting: found(setting)["settings"] for setting in SETTINGS}
    assert not set(state["numpy without AVX-512"]) & set(without(*AVX512).split())
    assert not set(state["numpy without AVX2 and FMA"]) & set(without(*AVX2).split())
    kernels = {core for *_, core in state.values()}
    if platform.machine() == "x86_64":
        # Prescott's are what is left where no others fit, and OpenBLAS calls them by another name.
        named = {core for core, (_, able) in KERNELS.items() if able} - {"Prescott"}
        assert named <= kernels and kernels - set(KERNELS) | kernels & {"Prescott"}, kernels


@pytest.mark.skipif(not spectrum_child.blas(), reason="numpy has no OpenBLAS of its own that could be asked")
def test_threads_help_where_they_are_to(found: Callable[[str], dict[str, Any]]) -> None:
    """So one of the settings above does compare sums that two threads have shared; as it is none is."""
    one, two, both = map(found, ("one thread", "two threads", "two threads and products for both"))
    most = min(2, workers.count(0))
    assert (one["threads"], two["threads"], both["threads"]) == (1, most, most)
    assert one["helped"] < 1_000_000
    if most == 2:
        assert both["helped"] > 10_000_000
        # A thread that looks for work may do so for a moment, where it had to wait for the processor.
        assert two["helped"] < both["helped"] / 4


@pytest.mark.parametrize("kind", [kind for kind in spectrum_child.KINDS if kind != "spectrum"])
def test_floating_point_fails_the_same_test(kind: str, found: Callable[[str], dict[str, Any]]) -> None:
    """What numpy computes of the same signals changes under some of the settings, so the test above can fail.

    Where this one fails, the settings reach nothing of what numpy does on that CPU or with that C library,
    and the test above shows less there than it means to.
    """
    usual = found("as it is")[kind]
    changed = [setting for setting in SETTINGS if found(setting)[kind] != usual]
    assert changed, f"no setting changes the digests of numpy's {kind} here"


def test_the_independent_integers_agree_in_this_process() -> None:
    """Not only digests: where something differs, this shows what."""
    for frame in spectrum.FRAMES:
        for signal in signals().values():
            samples = frames_of(signal, frame)[-3:]
            assert (spectrum.Spectrum(frame).magnitudes(samples) == magnitudes(samples)).all()
