"""Spectra (docs/ARCHITECTURE.md, "The spectrum"): their bounds, their agreement with numpy.fft, their
refusals.

tests/test_spectrum_exact.py asks whether they are the same integers everywhere.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harmony4.crypto.errors import SealError, UsageError
from harmony4.tokenize import spectrum as module
from harmony4.tokenize.spectrum import FRAMES, LOUDEST, Spectrum
from make_vectors import spectrum as exact

Samples = NDArray[np.int32]
each_frame = pytest.mark.parametrize("frame", FRAMES)


def noise(count: int, frame: int, loudest: int = LOUDEST, seed: int = 1) -> Samples:
    return np.random.default_rng(seed).integers(-loudest, loudest, (count, frame), np.int32, endpoint=True)


def shifts(frame: int) -> tuple[int, int, int]:
    """By how many bits the products with window, first and second table are shifted right."""
    size, high = frame.bit_length() - 1, exact.ROWS[frame].bit_length() - 1
    return 28 - (9 - high), 21 + size - high, 26


# ---- agreement -------------------------------------------------------------------------------------------


def bound(samples: NDArray[Any], frame: int) -> NDArray[np.float64]:
    """ARCHITECTURE, "The spectrum": how far each frame's magnitudes may be off, in their units."""
    rows = exact.ROWS[frame]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    loudness = np.abs(samples * window).sum(axis=1)
    constant = 16 * (rows / 1024 + 2**-6) + 2**-5.5 * frame / rows + 0.5**0.5 + 0.5
    return 1.001 * (2**-20.5 * 16 / frame * loudness + constant)


def errors(samples: Samples) -> NDArray[np.float64]:
    frame = samples.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    wanted = np.abs(np.fft.rfft(samples * window)) * (16 / frame)
    return np.abs(Spectrum(frame).magnitudes(samples) - wanted).max(axis=1)


@each_frame
def test_it_agrees_with_numpy_within_the_bound(frame: int) -> None:
    position = np.arange(frame)
    tones = [
        np.rint(amplitude * np.cos(2 * np.pi * frequency * position / frame + phase))
        for amplitude in (LOUDEST, 2**15, 40)
        for frequency in (1, 7.3, frame / 8, frame / 4 + 0.5, frame / 3, frame / 2 - 1)
        for phase in (0, 1)
    ]
    samples = np.concatenate(
        [
            noise(40, frame),
            noise(20, frame, 100),
            np.array(tones, np.int32),
            np.full((1, frame), LOUDEST, np.int32),
            *(exact.frames_of(signal, frame)[:20] for signal in exact.signals().values()),
        ]
    )
    assert (errors(samples) <= bound(samples, frame)).all()


@each_frame
def test_the_error_is_small_beside_a_loud_tone(frame: int) -> None:
    """At most -130 dB of the tone's magnitude in any bin."""
    position = np.arange(frame)
    tone = np.rint(LOUDEST * np.sin(2 * np.pi * (frame / 5) * position / frame))[None].astype(np.int32)
    assert errors(tone)[0] <= 10 ** (-130 / 20) * 4 * LOUDEST


def test_what_a_unit_is() -> None:
    """4 a for a sine of amplitude a in the middle of a bin, half of it beside; 8 a for a constant."""
    for frame in FRAMES:
        position = np.arange(frame)
        sine = np.rint(10_000 * np.sin(2 * np.pi * 20 * position / frame))
        found = Spectrum(frame).magnitudes(np.array([sine, np.full(frame, 10_000)], np.int32))
        assert np.abs(found[0, 18:23] - [0, 20_000, 40_000, 20_000, 0]).max() <= 12
        assert np.abs(found[1, :3] - [80_000, 40_000, 0]).max() <= 12
        assert found.shape == (2, frame // 2 + 1) and found.dtype == np.int64


@each_frame
def test_silence_and_one_pulse(frame: int) -> None:
    samples = np.zeros((2, frame), np.int32)
    samples[1, frame // 2] = LOUDEST
    found = Spectrum(frame).magnitudes(samples)
    assert not found[0].any()
    # A pulse at the window's peak is as loud at all frequencies.
    assert np.abs(found[1] - LOUDEST * 16 // frame).max() <= bound(samples, frame)[1]


# ---- every sum is exact ----------------------------------------------------------------------------------


@each_frame
def test_no_sum_reaches_2_53(frame: int) -> None:
    """The worst that any samples can do, in integers.

    The tables of the formulas stand for those of the module, which adds up the same products in another order
    (test_the_tables_are_those_of_the_formulas): any part of a sum is below the sum of absolute values.
    """
    window, first, second = exact.tables(frame)
    rows = exact.ROWS[frame]
    columns = frame // rows
    early, narrow, final = shifts(frame)
    assert LOUDEST * int(window.max()) < 2**53
    loudest = (LOUDEST * window >> early) + 1
    sums = np.abs(first) @ loudest.reshape(rows, columns)  # (2, lanes, columns)
    assert int(sums.max()) <= 2**52 + 2**40
    real, imaginary = (sums >> narrow) + 1
    assert (int(real.max()) + int(imaginary.max())) * columns * 2**21 < 2**63  # what follows is exact
    cosines, sines = np.abs(second)  # (lanes, columns, bins)
    totals = np.array(
        [
            [re @ cos + im @ sin, re @ sin + im @ cos]
            for re, im, cos, sin in zip(real, imaginary, cosines, sines, strict=True)
        ]
    )
    assert int(totals.max()) <= 2**52 + 2**45
    values = (totals >> final) + 1
    assert int((values**2).sum(axis=1).max()) < 2**53


@each_frame
def test_the_worst_inputs_give_what_integers_give(frame: int) -> None:
    """Samples with the signs of what they are multiplied with, so that everything adds up."""
    position = np.arange(frame)
    frequencies = (0, 1, frame // 8, frame // 4, frame // 4 + 1, frame // 2 - 1, frame // 2)
    signs = [
        np.where(np.cos(2 * np.pi * (frequency * position % frame) / frame - phase) >= 0, 1, -1)
        for frequency in frequencies
        for phase in (0, np.pi / 4, np.pi / 2)
    ]
    samples = (LOUDEST * np.array(signs)).astype(np.int32)
    found = Spectrum(frame).magnitudes(samples)
    assert (found == exact.magnitudes(samples)).all()
    assert found[0, 0] == 2**26 and found[-3, -1] == 2**26  # the greatest there is


@each_frame
def test_the_tables_are_those_of_the_formulas(frame: int) -> None:
    """Nearest integers by 50 digits of cosines from elsewhere, regrouped for butterflies."""
    tables = module._tables(frame)
    plan = module._PLANS[frame]
    assert plan.rows == exact.ROWS[frame]
    whole = [table * 2.0**shift for table, shift in zip(tables, shifts(frame), strict=True)]
    window, first, _ = exact.tables(frame)
    assert (whole[0] == window).all()
    lanes = plan.rows // plan.first // 2 + 1
    for part in range(plan.first):
        halves = whole[1][part].reshape(2, lanes, -1)
        assert (halves == np.array(first)[:, :lanes, part :: plan.first]).all()
    columns = frame // plan.rows
    cosines = exact.cosines(frame, 21)
    sines = np.roll(cosines, frame // 4)
    for part, lane in np.ndindex(whole[2].shape[:2]):
        turn, frequency = divmod(lane, lanes)
        bins = turn * (plan.rows // plan.first) + frequency + plan.rows * np.arange(columns // plan.second)
        angles = bins[:, None] * np.arange(part, columns, plan.second) % frame
        wanted = np.block([[cosines[angles], sines[angles]], [-sines[angles], cosines[angles]]])
        assert (whole[2][part, lane] == wanted).all()


def test_no_cosine_is_near_a_tie() -> None:
    """So an error of 2^-130 does not matter where they are rounded to 21 and 27 bits. The longest frame has
    all angles."""
    frame = FRAMES[-1]
    quarter = module._cosines(frame)
    for number in range(0, frame // 4 + 1, 16):
        assert abs(quarter[number] - Fraction(exact.cosine(number, frame)) * 2**160) < 2**30
    for bits in (21, 27):
        tie = 1 << (159 - bits)
        assert min(abs(value % (2 * tie) - tie) for value in quarter) > 2**100


@each_frame
def test_another_table_is_refused(frame: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_tables", module._tables.__wrapped__)
    Spectrum(frame)
    sound = module._cosines(frame)
    sound[3] += 1 << 160 - module._TABLE_BITS  # one cosine by one unit
    monkeypatch.setattr(module, "_cosines", lambda _: sound)
    with pytest.raises(SealError, match=f"not the pinned ones in frame {frame}"):
        Spectrum(frame)


def test_tables_are_made_once_and_cannot_be_written() -> None:
    assert module._tables(256) is module._tables(256)
    for table in module._tables(256):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


# ---- calls -----------------------------------------------------------------------------------------------


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 40), max_size=4),
    st.sampled_from(FRAMES[:4]),
    st.integers(0, 99),
)
def test_grouping_changes_nothing(count: int, cuts: list[int], frame: int, seed: int) -> None:
    samples = noise(count, frame, seed=seed)
    spectrum = Spectrum(frame)
    whole = spectrum.magnitudes(samples)
    places = sorted({0, count, *(min(cut, count) for cut in cuts)})
    parts = [spectrum.magnitudes(samples[a:b]) for a, b in pairwise(places)]
    assert (np.concatenate([whole[:0], *parts]) == whole).all()


@each_frame
def test_batches_do_not_show(frame: int) -> None:
    batch = module._PLANS[frame].batch
    samples = noise(2 * batch + 1, frame)
    spectrum = Spectrum(frame)
    whole = spectrum.magnitudes(samples)
    for index in (0, batch - 1, batch, 2 * batch):
        assert (spectrum.magnitudes(samples[index : index + 1]) == whole[index]).all()


def test_views_are_read_as_they_are_and_left_so() -> None:
    signal = noise(1, 4096)[0]
    kept = signal.copy()
    spectrum = Spectrum(256)
    overlapping = exact.frames_of(signal, 256)
    signal.flags.writeable = False
    found = spectrum.magnitudes(overlapping)
    assert (found == spectrum.magnitudes(overlapping.copy())).all()
    assert (found[::-1] == spectrum.magnitudes(overlapping[::-1])).all()
    assert (signal == kept).all()


def test_no_frames_give_no_magnitudes() -> None:
    assert Spectrum(512).magnitudes(np.empty((0, 512), np.int32)).shape == (0, 257)


def test_threads_share_a_spectrum() -> None:
    spectrum = Spectrum(1024)
    inputs = [noise(70, 1024, seed=seed) for seed in range(4)]
    wanted = [spectrum.magnitudes(samples) for samples in inputs]
    same = []

    def work(number: int) -> None:
        same.append(all((spectrum.magnitudes(inputs[number]) == wanted[number]).all() for _ in range(5)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 4


@given(st.integers(-1, 2**15).filter(lambda frame: frame not in FRAMES))
def test_other_lengths_are_refused(frame: int) -> None:
    with pytest.raises(UsageError):
        Spectrum(frame)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(256, np.int32),
        np.zeros((1, 1, 256), np.int32),
        np.zeros((1, 255), np.int32),
        np.zeros((1, 512), np.int32),
        np.zeros((1, 256), np.int64),
        np.zeros((1, 256), np.int16),
        np.zeros((1, 256), np.float64),
        np.zeros((1, 256), np.dtype(np.int32).newbyteorder()),
        [[0] * 256],
        None,
    ],
    ids=lambda samples: f"{getattr(samples, 'shape', '')}{getattr(samples, 'dtype', type(samples))}",
)
def test_other_arrays_are_refused(samples: Any) -> None:
    with pytest.raises(UsageError):
        Spectrum(256).magnitudes(samples)


@given(
    st.sampled_from([LOUDEST + 1, -LOUDEST - 1, 2**31 - 1, -(2**31)]),
    st.integers(0, 199),
    st.integers(0, 255),
)
def test_samples_beyond_24_bits_are_refused(value: int, frame: int, place: int) -> None:
    samples = np.zeros((200, 256), np.int32)
    samples[frame, place] = value
    with pytest.raises(UsageError, match="24 bits"):
        Spectrum(256).magnitudes(samples)
    samples[frame, place] = LOUDEST if value > 0 else -LOUDEST
    Spectrum(256).magnitudes(samples)
