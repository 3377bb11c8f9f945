"""Spectral tokens of sound: which frequencies stand out in a frame, and by how much; no phase, no loudness.

`AudioFFTTokenizer` reads sound once, in order, cuts it into frames and keeps, of each frame's spectrum
(`spectrum.py`), the few largest bins as integers (`audiotoken.py`). Samples cannot be computed from tokens.
How much of speech can be guessed from them all the same was measured for each profile: docs/SECURITY.md says
what was tried, and what is not claimed.

All arithmetic is on integers, so the same samples give the same tokens on every machine.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from harmony4.crypto.errors import MediaError, UsageError
from harmony4.crypto.token import MAX_VALUE
from harmony4.tokenize.audiotoken import DETAIL, PROFILES, STRUCTURE, AudioToken, Bins, Profile, Shape
from harmony4.tokenize.decode import SoundDecoder, decode
from harmony4.tokenize.feed import Spool
from harmony4.tokenize.samples import SoundFormat
from harmony4.tokenize.sound import PcmSpec, Sound, open_sound
from harmony4.tokenize.spectrum import Spectrum
from harmony4.tokenize.tokens import Source, Tokenizer

__all__ = ["DETAIL", "PROFILES", "STRUCTURE", "AudioFFTTokenizer", "AudioToken", "Profile", "Shape"]

_ROWS = 2**17
"""About so many samples are transformed at a time."""
_LANES = 16
"""Channels of which a frame is copied at a time."""


class AudioFFTTokenizer(Tokenizer[AudioToken]):
    """Cuts sound into frames and keeps the largest bins of each one's spectrum.

    One tokenizer reads one source. `format`, `shape` and `note` are set once the first token has come, or the
    iterator has ended without one (then as far as the source has told).
    """

    def __init__(
        self,
        *,
        profile: str = STRUCTURE.name,
        channels: str = "mix",
        pcm: PcmSpec | None = None,
        decoder: SoundDecoder = decode,
        max_samples: int | None = None,
        stream: int | None = None,
        spool: Spool = io.BytesIO,
    ) -> None:
        """`profile`: a name of PROFILES. `channels`: "mix", or "each" for tokens of every channel by itself.

        `pcm` says what raw PCM is; `decoder`, `max_samples`, `stream` and `spool` are those of `open_sound`.
        Raises UsageError.
        """
        if profile not in PROFILES:
            raise UsageError("there is no such profile", expected=", ".join(PROFILES), found=profile[:40])
        if channels not in ("mix", "each"):
            raise UsageError(
                "what to do with channels is unclear", expected="mix or each", found=channels[:40]
            )
        self.profile = PROFILES[profile]
        self.structure_only = self.profile.structure_only
        self.format: SoundFormat | None = None
        self._each = channels == "each"
        self._pcm = pcm
        self._decoder = decoder
        self._max_samples = max_samples
        self._stream = stream
        self._spool = spool
        self._begun = False
        self._sound: Sound | None = None

    @property
    def shape(self) -> Shape | None:
        """The frames' length, hop and step."""
        return self.profile.shape(self.format.rate) if self.format else None

    @property
    def frame(self) -> int | None:
        """`shape.frame`."""
        return self.shape.frame if self.shape else None

    @property
    def hop(self) -> int | None:
        """`shape.hop`."""
        return self.shape.hop if self.shape else None

    @property
    def bit_exact(self) -> bool | None:
        """Whether these tokens are the same on every machine."""
        return self.format.bit_exact if self.format else None

    @property
    def note(self) -> str | None:
        """Why the sound ended before its source did, or where a header did not tell the truth."""
        return self._sound.note if self._sound else None

    def encode(self, source: Source) -> Iterator[AudioToken]:
        """Read `source` once and yield the tokens of its sound, frame by frame, and in a frame by channel.

        Frames begin with the first sample, `hop` samples after each other, as long as there are samples; the
        last ones go on with zeros. A token comes as soon as its frame's samples have come. Memory follows one
        frame of all channels and what the source gives at a time.

        Raises MediaError for what holds no sound, LimitError beyond `max_samples`, SourceError, StorageError,
        UsageError for a second source.
        """
        if self._begun:
            raise UsageError("a tokenizer reads one source; make another one")
        self._begun = True
        return self._encode(source)

    def decode(self, data: bytes) -> list[AudioToken]:
        """Parse concatenated records. Raises FormatError and its kin, whatever the bytes."""
        tokens, at = [], 0
        while at < len(data):
            tokens.append(AudioToken.parse(data, at))
            at += tokens[-1].profile.size
        return tokens

    def _encode(self, source: Source) -> Iterator[AudioToken]:
        sound = self._sound = open_sound(
            source,
            pcm=self._pcm,
            decoder=self._decoder,
            max_samples=self._max_samples,
            stream=self._stream,
            spool=self._spool,
        )
        analysis: _Analysis | None = None
        for samples in sound:
            if analysis is None:
                self.format = sound.format
                analysis = _Analysis(self.profile, sound.format, each=self._each)
            yield from analysis.feed(samples)
        if analysis is not None:
            yield from analysis.finish()
        else:
            with suppress(UsageError):  # a sound without samples may not have said what it is
                self.format = sound.format


class _Analysis:
    """Samples in, tokens out; knows nothing of where samples come from."""

    def __init__(self, profile: Profile, sound: SoundFormat, *, each: bool) -> None:
        if sound.start > MAX_VALUE // 2:
            raise MediaError("it starts too late", expected=f"<= {MAX_VALUE // 2} µs", found=sound.start)
        self._profile = profile
        self._sound = sound
        self._channels: list[int | None] = list(range(sound.channels)) if each else [None]
        shape = profile.shape(sound.rate)
        self._advance = shape.hop * shape.step
        self._frames = _Frames(shape, len(self._channels))
        self._spectrum = Spectrum(shape.frame)
        self._samples = 0
        self._index = 0

    def feed(self, samples: NDArray[np.int32]) -> Iterator[AudioToken]:
        """The tokens that the next samples, (n, channels), complete."""
        self._samples += len(samples)
        if len(self._channels) != samples.shape[1]:
            samples = _mix(samples)
        return self._tokens(self._frames.feed(samples))

    def finish(self) -> Iterator[AudioToken]:
        """Those of the frames that go on behind the last sample."""
        return self._tokens(self._frames.finish())

    def _tokens(self, groups: Iterable[NDArray[np.int32]]) -> Iterator[AudioToken]:
        """The frames of some lanes after the others, each (n, lanes, frame) -> the tokens, frame by frame."""
        for frame in zip(*map(self._kept_of, groups), strict=True):
            first = self._index * self._advance
            pts, end = self._time(first), self._time(min(first + self._advance, self._samples))
            for channel, bins in zip(self._channels, chain.from_iterable(frame), strict=True):
                yield AudioToken(
                    profile=self._profile,
                    rate=self._sound.rate,
                    exact=self._sound.bit_exact,
                    channel=channel,
                    index=self._index,
                    pts=pts,
                    end=end,
                    bins=bins,
                )
            self._index += 1

    def _kept_of(self, frames: NDArray[np.int32]) -> list[list[Bins]]:
        """(n, lanes, frame) -> of each frame, each lane's bins."""
        lanes = frames.shape[1]
        rows = frames.reshape(-1, frames.shape[2])
        most = max(_LANES, _ROWS // frames.shape[2])
        kept = [bins for i in range(0, len(rows), most) for bins in self._kept(rows[i : i + most])]
        return [kept[i : i + lanes] for i in range(0, len(kept), lanes)]

    def _time(self, sample: int) -> int:
        """µs of a sample; what lies before 0 on the source's own clock (an encoder's delay) is at 0."""
        return max(0, self._sound.start + sample * 1_000_000 // self._sound.rate)

    def _kept(self, frames: NDArray[np.int32]) -> list[Bins]:
        """(n, frame) -> each frame's bins: of equal ones the lower comes first."""
        most, top = self._profile.bins, self._profile.top
        magnitudes = self._spectrum.magnitudes(frames)
        magnitudes[:, 0] = 0  # a constant is no frequency
        least = np.partition(magnitudes, magnitudes.shape[1] - most, axis=1)[:, -most].tolist()
        found: list[Bins] = []
        for row, limit, largest in zip(magnitudes, least, magnitudes.max(axis=1).tolist(), strict=True):
            bins = np.flatnonzero(row >= limit)
            if len(bins) > most:
                equal = row[bins] == limit
                bins = bins[~equal | (equal.cumsum() <= most - np.count_nonzero(~equal))]
            levels = (row[bins] * top + largest // 2) // max(largest, 1)
            pairs = zip(bins.tolist(), levels.tolist(), strict=True)
            found.append(tuple((bin, level) for bin, level in pairs if level))
        return found


class _Frames:
    """Cuts samples of lanes into frames: it holds one frame of all of them, and copies of a few lanes."""

    def __init__(self, shape: Shape, lanes: int) -> None:
        self._shape = shape
        self._sums = np.zeros(lanes, np.int64)
        self._summed = 0  # samples in these sums: less than a step
        self._parts: deque[NDArray[np.int32]] = deque()
        self._count = 0

    def feed(self, samples: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
        """(n, lanes) samples -> the m frames that they complete, (m, k, frame) of k lanes after the others.

        To be read to its end before the next samples.
        """
        self._hold(self._averaged(samples) if self._shape.step > 1 else samples)
        complete = max(0, (self._count - self._shape.frame) // self._shape.hop + 1)
        if complete:
            yield from self._cut(complete)
            self._let_go(complete * self._shape.hop)

    def finish(self) -> Iterator[NDArray[np.int32]]:
        """The frames that begin within what is left, filled up with zeros, as `feed` gives them."""
        frame, hop, step = self._shape.frame, self._shape.hop, self._shape.step
        if self._summed:
            self._hold(_rounded(self._sums[np.newaxis], step))
        begun = -(-self._count // hop)
        if begun:
            self._hold(np.broadcast_to(np.zeros(1, np.int32), (frame, len(self._sums))))
            yield from self._cut(begun)

    def _averaged(self, samples: NDArray[np.int32]) -> NDArray[np.int32]:
        """(n, lanes) -> (m, lanes): the means of the steps that they complete."""
        step, lanes = self._shape.step, samples.shape[1]
        missing = -self._summed % step  # of the step that has begun
        begun, rest = samples[:missing], samples[missing:]
        self._sums = self._sums + begun.sum(axis=0, dtype=np.int64)
        self._summed += len(begun)
        if self._summed % step:
            return np.empty((0, lanes), np.int32)
        first = self._sums[np.newaxis][: self._summed // step]
        whole = len(rest) - len(rest) % step
        sums = rest[:whole].reshape(-1, step, lanes).sum(axis=1, dtype=np.int64)
        self._sums = rest[whole:].sum(axis=0, dtype=np.int64)
        self._summed = len(rest) - whole
        return _rounded(np.concatenate([first, sums]), step)

    def _hold(self, samples: NDArray[np.int32]) -> None:
        self._parts.append(samples)
        self._count += len(samples)

    def _cut(self, frames: int) -> Iterator[NDArray[np.int32]]:
        """So many frames of what is held, a few lanes at a time."""
        for lane in range(0, len(self._sums), _LANES):
            held = np.concatenate([part[:, lane : lane + _LANES] for part in self._parts])
            yield sliding_window_view(held, self._shape.frame, axis=0)[:: self._shape.hop][:frames]

    def _let_go(self, count: int) -> None:
        """Drop the first samples, of those that are held."""
        self._count -= count
        while self._parts and count >= len(self._parts[0]):
            count -= len(self._parts.popleft())
        if count:
            self._parts[0] = self._parts[0][count:]


def _rounded(sums: NDArray[np.int64], step: int) -> NDArray[np.int32]:
    """Means of `step` values, to the nearest integer, halves upwards."""
    return ((sums + step // 2) // step).astype(np.int32)


def _mix(samples: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n, channels) -> (n, 1): the mean, to the nearest integer, halves upwards."""
    channels = samples.shape[1]
    sums = samples.sum(axis=1, dtype=np.int64, keepdims=True)
    mean: NDArray[np.int32] = ((2 * sums + channels) // (2 * channels)).astype(np.int32)
    return mean
