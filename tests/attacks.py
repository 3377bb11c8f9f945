"""Attempts to get speech back out of spectral tokens, and to tell who spoke (docs/SECURITY.md).

Nothing here is part of the product: it stands on the other side. An attack knows the records
(`Spectra`) and what it has learned from other recordings, and gives sound at RATE.

How intelligible that is, is estimated by STOI (Taal et al., "An Algorithm for Intelligibility Prediction of
Time-Frequency Weighted Noisy Speech", 2011) and extended STOI (Jensen and Taal, "An Algorithm for
Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers", 2016), as pystoi computes them.
The original has 1 in both. Sound that knows nothing of the original has 0 in the extended one, but up to
0.5 in the plain one (`steady`, `white`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pystoi import stoi as pystoi

if TYPE_CHECKING:
    from harmony4.tokenize.audio import AudioToken

RATE = 10_000
"""Hz; STOI looks at nothing above 5 kHz."""
HOP = 128
"""Samples between the spectra that STOI compares."""
WINDOW = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spectra:
    """What the tokens of one channel say."""

    centres: Floats
    """(n,): s, the middle of each frame."""
    frequencies: Floats
    """(k,): Hz, of all bins that occur below RATE / 2."""
    levels: Floats
    """(n, k): 0 … 1."""
    seconds: float
    """How long a frame is."""
    duration: float


def spectra(tokens: Sequence[AudioToken]) -> Spectra:
    """Read tokens as somebody does who has nothing else."""
    shape, rate = tokens[0].shape, tokens[0].rate
    seconds = shape.frame * shape.step / rate
    spacing = 1 / seconds
    bins = sorted({bin for token in tokens for bin, _ in token.bins if bin * spacing < RATE / 2})
    column = {bin: i for i, bin in enumerate(bins)}
    levels = np.zeros((len(tokens), len(bins)))
    for row, token in zip(levels, tokens, strict=True):
        for bin, level in token.bins:
            if bin in column:
                row[column[bin]] = level / token.profile.top
    starts = np.array([token.pts for token in tokens]) / 1e6
    return Spectra(
        starts - starts[0] + seconds / 2,
        np.array(bins, float) * spacing,
        levels,
        seconds,
        (tokens[-1].end - tokens[0].pts) / 1e6,
    )


def intelligibility(original: Floats, made: Floats, *, extended: bool = False) -> float:
    """STOI of sound at RATE."""
    length = min(len(original), len(made))
    return float(pystoi(original[:length], made[:length], RATE, extended=extended))


# -- what knows nothing


def white(length: int, seed: int = 0) -> Floats:
    """Noise."""
    return np.random.default_rng(seed).standard_normal(length)


def steady(length: int) -> Floats:
    """Fifteen tones that never change, one in each band of STOI."""
    return vocoder(np.ones((length // HOP + 1, 15)))


# -- loudness: tokens have none, so an attack has to guess it


def flat(heard: Spectra) -> Floats:
    """(n,): the levels as they are."""
    return np.ones(len(heard.levels))


def equal_power(heard: Spectra) -> Floats:
    """Every frame as loud as every other."""
    power = (heard.levels**2).sum(axis=1)
    return 1 / np.sqrt(np.maximum(power, 1e-9))


def peaked(heard: Spectra) -> Floats:
    """Louder where few bins stand out (a voice), quieter where many are alike (noise)."""
    return equal_power(heard) ** 3


def low(heard: Spectra) -> Floats:
    """Louder where the energy lies low (a voice), quieter where it lies high (hiss)."""
    power = heard.levels**2
    total = np.maximum(power.sum(axis=1), 1e-9)
    centre = (power * heard.frequencies).sum(axis=1) / total
    return np.where(power.any(axis=1), 1 / (1 + (centre / 700) ** 2), 0)


GAINS = {"equal power": equal_power, "peaked": peaked, "low": low}


# -- carriers


def envelopes(heard: Spectra, gain: Floats, times: Floats, *, curve: str = "linear") -> Floats:
    """(len(times), k): levels between the middles of the frames."""
    levels = heard.levels * gain[:, None]
    if curve == "hold":
        return levels[np.clip(np.searchsorted(heard.centres + heard.seconds / 2, times), 0, len(levels) - 1)]
    place = np.interp(times, heard.centres, np.arange(len(levels)))
    before = np.minimum(place.astype(int), len(levels) - 1)
    after = np.minimum(before + 1, len(levels) - 1)
    part = (place - before)[:, None]
    if curve == "cosine":
        part = (1 - np.cos(np.pi * part)) / 2
    if curve == "log":
        floor = 1e-2
        mixed = np.log(levels[before] + floor) * (1 - part) + np.log(levels[after] + floor) * part
        return np.maximum(np.exp(mixed) - floor, 0)
    return levels[before] * (1 - part) + levels[after] * part


def oscillators(
    heard: Spectra, gain: Floats | None = None, *, curve: str = "linear", seed: int = 0, merge: bool = False
) -> Floats:
    """A bank of sines, one for each bin that occurs, as loud as its levels, interpolated between the frames.

    `merge`: neighbouring bins are one partial, at the frequency between them that their levels suggest.
    """
    gain = flat(heard) if gain is None else gain
    times = np.arange(int(heard.duration * RATE)) / RATE
    grid = np.arange(0, heard.duration + 0.01, 0.004)
    source = merged(heard) if merge else heard
    amplitudes = envelopes(source, gain, grid, curve=curve)
    random = np.random.default_rng(seed)
    made = np.zeros(len(times))
    for frequency, amplitude in zip(source.frequencies, amplitudes.T, strict=True):
        made += np.interp(times, grid, amplitude) * np.sin(2 * np.pi * (frequency * times + random.random()))
    return made


def merged(heard: Spectra) -> Spectra:
    """Neighbouring bins (the main lobe of one partial) as one, at their weighted mean, to half a bin."""
    spacing = 1 / heard.seconds
    found: list[dict[int, float]] = []
    for row in heard.levels:
        partials: dict[int, float] = {}
        used = np.flatnonzero(row)
        for group in np.split(used, np.flatnonzero(np.diff(heard.frequencies[used]) > 1.5 * spacing) + 1):
            if len(group):
                power = row[group] ** 2
                centre = (power * heard.frequencies[group]).sum() / power.sum()
                partials[round(2 * centre / spacing)] = float(np.sqrt(power.sum()))
        found.append(partials)
    places = sorted({place for partials in found for place in partials})
    levels = np.array([[partials.get(place, 0.0) for place in places] for partials in found])
    frequencies = np.array(places) * spacing / 2
    return Spectra(heard.centres, frequencies, levels, heard.seconds, heard.duration)


def stft(sound: Floats, window: int = WINDOW, hop: int = HOP) -> NDArray[np.complex128]:
    """(n, window // 2 + 1), Hann."""
    shape = np.hanning(window + 2)[1:-1]
    count = max(0, (len(sound) - window) // hop + 1)
    frames = np.stack([sound[i * hop : i * hop + window] for i in range(count)])
    return np.fft.rfft(frames * shape)


def istft(spectrum: NDArray[np.complex128], window: int = WINDOW, hop: int = HOP) -> Floats:
    """The sound whose `stft` comes nearest."""
    shape = np.hanning(window + 2)[1:-1]
    made = np.zeros((len(spectrum) - 1) * hop + window)
    weight = np.full(len(made), 1e-9)
    for i, frame in enumerate(np.fft.irfft(spectrum, window)):
        made[i * hop : i * hop + window] += frame * shape
        weight[i * hop : i * hop + window] += shape**2
    return made / weight


def griffin_lim(
    heard: Spectra,
    gain: Floats | None = None,
    *,
    window: int = 1024,
    rounds: int = 30,
    curve: str = "linear",
    seed: int = 0,
) -> Floats:
    """Phases that fit the magnitudes of the tokens, interpolated onto overlapping spectra: Griffin and Lim,
    "Signal Estimation from Modified Short-Time Fourier Transform" (1984).

    `window` is the length of those spectra in samples at RATE; each begins a quarter of it after the other.
    """
    gain = flat(heard) if gain is None else gain
    hop = window // 4
    count = int(heard.duration * RATE) // hop + 1
    levels = envelopes(heard, gain, (np.arange(count) * hop + window / 2) / RATE, curve=curve)
    wanted = np.zeros((count, window // 2 + 1))
    places = np.rint(heard.frequencies * window / RATE).astype(int)
    for place, level in zip(places, levels.T, strict=True):
        wanted[:, place] = np.hypot(wanted[:, place], level)
    phases = np.exp(2j * np.pi * np.random.default_rng(seed).random(wanted.shape))
    made = istft(wanted * phases, window, hop)
    for _ in range(rounds):
        again = stft(made, window, hop)
        made = istft(wanted * again / np.maximum(np.abs(again), 1e-9), window, hop)
    return made


# -- what STOI listens to: fifteen thirds of an octave from 150 Hz


def thirds() -> NDArray[np.bool_]:
    """(15, 257): which frequencies of a spectrum of 512 points are in each band."""
    frequencies = np.arange(257) * RATE / 512
    centres = 150 * 2 ** (np.arange(15) / 3)
    low, high = centres * 2 ** (-1 / 6), centres * 2 ** (1 / 6)
    return (frequencies >= low[:, None]) & (frequencies < high[:, None])


CENTRES = 150 * 2 ** (np.arange(15) / 3)


def bands(sound: Floats) -> Floats:
    """(n, 15): power of each band every HOP samples."""
    shape = np.hanning(WINDOW + 2)[1:-1]
    count = max(0, (len(sound) - WINDOW) // HOP + 1)
    frames = np.stack([sound[i * HOP : i * HOP + WINDOW] for i in range(count)])
    return (np.abs(np.fft.rfft(frames * shape, 512)) ** 2) @ thirds().T


def vocoder(power: Floats, carrier: str = "sines", seed: int = 0) -> Floats:
    """Sound whose bands have these powers (n, 15): from sines in the middle of each band, or from noise."""
    length = (len(power) - 1) * HOP + WINDOW
    times = np.arange(length) / RATE
    random = np.random.default_rng(seed)
    made = np.zeros(length)
    middles = (np.arange(len(power)) * HOP + WINDOW / 2) / RATE
    for centre, row in zip(CENTRES, np.sqrt(power).T, strict=True):
        amplitude = np.interp(times, middles, row)
        if carrier == "sines":
            made += amplitude * np.sin(2 * np.pi * (centre * times + random.random()))
        else:
            spectrum = np.fft.rfft(random.standard_normal(length))
            frequencies = np.fft.rfftfreq(length, 1 / RATE)
            spectrum[np.abs(np.log2(np.maximum(frequencies, 1) / centre)) > 1 / 6] = 0
            noise = np.fft.irfft(spectrum, length)
            made += amplitude * noise / noise.std() / np.sqrt(2)
    return made


def band_levels(heard: Spectra) -> Floats:
    """(n, 15): power of the kept bins in each band."""
    place = np.clip(np.rint(3 * np.log2(np.maximum(heard.frequencies, 1) / 150)).astype(int), 0, 14)
    found = np.zeros((len(heard.levels), 15))
    for band, column in zip(place, (heard.levels**2).T, strict=True):
        found[:, band] += column
    return found


def filled(heard: Spectra) -> Floats:
    """The kept bins as bands, on a floor of steady tones: what knows nothing helps where nothing is known."""
    times = (np.arange(int(heard.duration * RATE) // HOP + 1) * HOP) / RATE
    power = band_levels(heard)
    return vocoder(np.stack([np.interp(times, heard.centres, band) for band in power.T], axis=1) + 0.02)


def together(several: Sequence[Spectra], shifts: Sequence[float]) -> Spectra:
    """Tokens of the same sound, made with so much silence (s) before it, as if they were of one."""
    frequencies = np.unique(np.concatenate([one.frequencies for one in several]))
    centres = np.concatenate([one.centres - shift for one, shift in zip(several, shifts, strict=True)])
    levels = np.zeros((len(centres), len(frequencies)))
    row = 0
    for one in several:
        columns = np.searchsorted(frequencies, one.frequencies)
        levels[row : row + len(one.levels), columns] = one.levels
        row += len(one.levels)
    order = np.argsort(centres)
    seconds = several[0].seconds / len(several)
    return Spectra(centres[order], frequencies, levels[order], seconds, several[0].duration)


# -- an attack that has learned from other recordings


def _features(heard: Spectra, count: int) -> Floats:
    """(count, f): what the tokens around each moment of STOI's grid say."""
    times = (np.arange(count) * HOP + WINDOW / 2) / RATE
    power = band_levels(heard)
    columns = [np.log(power + 1e-3), np.log((heard.levels > 0).sum(axis=1, keepdims=True) + 1)]
    columns += [np.log(equal_power(heard))[:, None] * (power.sum(axis=1, keepdims=True) > 0)]
    each = np.concatenate(columns, axis=1)
    around = []
    for offset in (-2, -1, -0.5, 0, 0.5, 1, 2):
        at = times + offset * heard.seconds
        around.append(np.stack([np.interp(at, heard.centres, column) for column in each.T], axis=1))
    found = np.concatenate(around, axis=1)
    return np.concatenate([found, np.ones((count, 1))], axis=1)


@dataclass(frozen=True)
class Regression:
    """Band powers out of tokens, linear in what `_features` finds, learned from pairs of tokens and sound."""

    weights: Floats
    mean: Floats
    scale: Floats

    @classmethod
    def learn(cls, pairs: Sequence[tuple[Spectra, Floats]], ridge: float = 30.0) -> Regression:
        """From recordings (sound at RATE) and their tokens."""
        inputs, targets = [], []
        for heard, sound in pairs:
            power = bands(sound)
            inputs.append(_features(heard, len(power)))
            targets.append(np.log(power / power.mean() + 1e-4))
        x, y = np.concatenate(inputs), np.concatenate(targets)
        mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
        mean[-1], scale[-1] = 0, 1
        x = (x - mean) / scale
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
        return cls(weights, mean, scale)

    def render(self, heard: Spectra, *, sharpen: float = 1.0, carrier: str = "sines") -> Floats:
        """Sound for tokens that it has not seen."""
        count = (int(heard.duration * RATE) - WINDOW) // HOP + 1
        guess = ((_features(heard, count) - self.mean) / self.scale) @ self.weights
        return vocoder(np.exp(sharpen * guess), carrier)


@dataclass(frozen=True)
class Patchwork:
    """Pieces of other recordings whose tokens look alike, put behind each other."""

    tokens: Floats
    sounds: Floats
    length: int

    @classmethod
    def learn(cls, pairs: Sequence[tuple[Spectra, Floats]]) -> Patchwork:
        """From recordings (sound at RATE) and their tokens."""
        rows, pieces = [], []
        length = int(pairs[0][0].seconds * RATE)
        for heard, sound in pairs:
            features = _context(heard)
            padded = np.concatenate([np.zeros(length), sound, np.zeros(3 * length)])
            for row, centre in zip(features, heard.centres, strict=True):
                middle = int(centre * RATE) + length
                rows.append(row)
                pieces.append(padded[middle - length : middle + length])
        return cls(np.array(rows), np.array(pieces), length)

    def render(self, heard: Spectra) -> Floats:
        """Sound for tokens that it has not seen."""
        made = np.zeros(int(heard.duration * RATE) + 4 * self.length)
        fade = np.hanning(2 * self.length)
        for row, centre in zip(_context(heard), heard.centres, strict=True):
            best = int(((self.tokens - row) ** 2).sum(axis=1).argmin())
            start = int(centre * RATE)
            made[start : start + 2 * self.length] += fade * self.sounds[best]
        return made[self.length : self.length + int(heard.duration * RATE)]


def _context(heard: Spectra) -> Floats:
    each = np.sqrt(band_levels(heard))
    padded = np.pad(each, ((1, 1), (0, 0)))
    return np.concatenate([0.5 * padded[:-2], each, 0.5 * padded[2:]], axis=1)


# -- who speaks


def portrait(tokens: Sequence[AudioToken]) -> Floats:
    """The average of many tokens on a scale of semitones from 60 Hz: pitch and timbre of a voice."""
    heard = spectra(tokens)
    place = np.rint(12 * np.log2(np.maximum(heard.frequencies, 1) / 60)).astype(int)
    found = np.zeros(78)
    for i, column in zip(place, heard.levels.T, strict=True):
        if 0 <= i < len(found):
            found[i] += column.sum()
    smooth = np.convolve(found, [0.25, 0.5, 0.25], mode="same")
    smooth = np.sqrt(smooth)
    return smooth / (np.linalg.norm(smooth) + 1e-9)


def identified(known: Sequence[Floats], asked: Sequence[Floats]) -> float:
    """Share of `asked[i]` whose likest portrait of all known ones is `known[i]`."""
    likeness = np.array(asked) @ np.array(known).T
    return float((likeness.argmax(axis=1) == np.arange(len(asked))).mean())
