"""The token of a frame of sound, what profiles keep in it, and its record.

A written token is a record of its profile's size, big-endian, that needs nothing else to be understood:

    0:1   version, 1                    8:4   rate of the sound, Hz
    1:1   profile: 1 structure,         12:4  zero
          2 detail                      16:8  index within the channel, from 0
    2:1   flags: 1 EXACT                24:8  pts, µs
    3:1   bins that are kept, n         32:8  end, µs: the next token's pts
    4:2   channel, 2^16-1: the mix      40:   for each bin its number (2) and its level (1), by number;
    6:1   log2 of frame                       zero from 40 + 3 n to the end
    7:1   log2 of step

Bin k stands for the frequency k · rate / (frame · step) Hz.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, Final

from harmony4.crypto.errors import CriticalError, FormatError, OrderError, TruncatedError, VersionError
from harmony4.crypto.token import MAX_VALUE
from harmony4.tokenize.samples import MAX_CHANNELS, MAX_RATE
from harmony4.tokenize.spectrum import FRAMES
from harmony4.tokenize.tokens import Token

__all__ = ["DETAIL", "PROFILES", "STRUCTURE", "AudioToken", "Bins", "Profile", "Shape"]

Bins = tuple[tuple[int, int], ...]
"""(bin, level) pairs."""

_VERSION: Final = 1
_EXACT: Final = 1
_MIX: Final = 2**16 - 1
_HEAD: Final = struct.Struct(">BBBBHBBIIQQQ")
_REFERENCE: Final = 48_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How a sound is cut into frames."""

    frame: int
    """Samples of a frame, after averaging; one of spectrum.FRAMES."""
    hop: int
    """Samples from the start of one frame to the next one's, after averaging."""
    step: int
    """Samples of the sound that are averaged into one of these; a power of two, 1 up to rates of 48 kHz."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What tokens keep of a sound."""

    name: str
    code: int
    """The profile's byte in a record."""
    span: int
    """A frame lasts at least as long as `span` samples at 48 kHz, and less than twice as long."""
    overlap: int
    """Frames that each moment lies in."""
    bins: int
    """Most bins that are kept of a frame."""
    top: int
    """The level of a frame's largest bin; the others are relative to it."""
    structure_only: bool
    """Whether both attacks of docs/SECURITY.md leave speech unintelligible."""

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return _HEAD.size + 3 * self.bins

    def shape(self, rate: int) -> Shape:
        """The frames at `rate` Hz: the shortest power of two that lasts long enough, of at least 256 samples.

        Beyond 16 384 samples, `step` samples of the sound are averaged into one: the frame lasts as long.
        """
        return _shape(self.span, self.overlap, rate)


@lru_cache(256)
def _shape(span: int, overlap: int, rate: int) -> Shape:
    frame = 1 << (max(FRAMES[0], -(-span * rate // _REFERENCE)) - 1).bit_length()
    step = max(1, frame // FRAMES[-1])
    return Shape(frame // step, frame // step // overlap, step)


STRUCTURE: Final = Profile("structure", 1, 16_384, 1, 8, 255, True)
"""341 ms a frame and more, no overlap, few bins: the default."""
DETAIL: Final = Profile("detail", 2, 2048, 2, 32, 255, False)
"""43 ms a frame and more, half overlapping, 32 bins: speech can be made out of these again."""
PROFILES: Final = {profile.name: profile for profile in (STRUCTURE, DETAIL)}
_CODES: Final = {profile.code: profile for profile in PROFILES.values()}


@dataclass(frozen=True, slots=True)
class AudioToken(Token):
    """What stands out in one frame of one channel."""

    profile: Profile
    rate: int
    """Of the sound, Hz."""
    exact: bool
    """Whether the samples were the same on every machine (`SoundFormat.bit_exact`)."""
    channel: int | None
    """None: all channels, mixed."""
    index: int
    """Counts frames from 0, in each channel."""
    pts: int
    """µs where the frame starts."""
    end: int
    """µs where the next one starts; of the last one, where the sound ends."""
    bins: Bins
    """(bin, level), by bin; bin 1 … frame / 2, level 1 … profile.top. None at all: the frame is silent."""

    @property
    def shape(self) -> Shape:
        """How long the frame is."""
        return self.profile.shape(self.rate)

    def metadata(self) -> dict[str, Any]:
        """The token as JSON values: times in µs, `rate` in Hz, `frame` and `step` in samples."""
        shape = self.shape
        return {
            "index": self.index,
            "pts": self.pts,
            "end": self.end,
            "channel": self.channel,
            "profile": self.profile.name,
            "structure_only": self.profile.structure_only,
            "bit_exact": self.exact,
            "rate": self.rate,
            "frame": shape.frame,
            "step": shape.step,
            "bins": [list(one) for one in self.bins],
        }

    def serialize(self) -> bytes:
        """The record of `profile.size` bytes. Raises FormatError, OrderError for values that no token has."""
        self.check()
        shape = self.shape
        head = _HEAD.pack(
            _VERSION,
            self.profile.code,
            _EXACT if self.exact else 0,
            len(self.bins),
            _MIX if self.channel is None else self.channel,
            shape.frame.bit_length() - 1,
            shape.step.bit_length() - 1,
            self.rate,
            0,
            self.index,
            self.pts,
            self.end,
        )
        bins = struct.pack(_pairs(len(self.bins)), *chain.from_iterable(self.bins))
        return (head + bins).ljust(self.profile.size, b"\0")

    @classmethod
    def parse(cls, data: bytes, at: int = 0) -> AudioToken:
        """The record at offset `at`. Raises FormatError and its kin, whatever the bytes."""
        head = data[at : at + _HEAD.size]
        if head and head[0] != _VERSION:
            raise VersionError(
                "not a token of sound", where=at, expected=f"version {_VERSION}", found=head[0]
            )
        if len(head) < _HEAD.size:
            raise TruncatedError(
                "a token is cut off", where=at, expected=f">= {_HEAD.size} bytes", found=len(head)
            )
        _, code, flags, count, channel, frame, step, rate, zero, index, pts, end = _HEAD.unpack(head)
        profile = _CODES.get(code)
        if profile is None:
            raise CriticalError("unknown profile", where=at, expected=f"1 to {len(_CODES)}", found=code)
        if flags & ~_EXACT:
            raise CriticalError("unknown token flags", where=at, expected="0 or 1", found=flags)
        record = data[at : at + profile.size]
        if len(record) < profile.size:
            raise TruncatedError(
                "a token is cut off", where=at, expected=f"{profile.size} bytes", found=len(record)
            )
        if count > profile.bins:
            raise FormatError(
                "a token has too many bins", where=at, expected=f"<= {profile.bins}", found=count
            )
        values = struct.unpack_from(_pairs(count), record, _HEAD.size)
        used = _HEAD.size + 3 * count
        if zero or any(record[used:]):
            raise FormatError("a token's unused bytes are not zero", where=at)
        token = cls(
            profile=profile,
            rate=rate,
            exact=bool(flags),
            channel=None if channel == _MIX else channel,
            index=index,
            pts=pts,
            end=end,
            bins=tuple(zip(values[::2], values[1::2], strict=True)),
        )
        token.check(at)
        if (1 << frame, 1 << step) != (token.shape.frame, token.shape.step):
            raise FormatError(
                "a token's frame is not its profile's",
                where=at,
                expected=f"{token.shape.frame} samples, step {token.shape.step}",
                found=f"{1 << frame}, step {1 << step}",
            )
        return token

    def check(self, where: int | None = None) -> None:
        """Check what a token must satisfy by itself (`where`: its offset). Raises FormatError, OrderError."""
        channel = 0 if self.channel is None else self.channel
        for name, value, least, greatest in (
            ("rate", self.rate, 1, MAX_RATE),
            ("channel", channel, 0, MAX_CHANNELS - 1),
            ("index", self.index, 0, MAX_VALUE),
            ("pts", self.pts, 0, MAX_VALUE),
            ("end", self.end, 0, MAX_VALUE),
            ("number of bins", len(self.bins), 0, self.profile.bins),
        ):
            if not least <= value <= greatest:
                raise FormatError(
                    f"a token's {name} is out of range",
                    where=where,
                    expected=f"{least} to {greatest}",
                    found=value,
                )
        if self.end < self.pts:
            raise OrderError(
                "a token ends before it starts", where=where, expected=f">= {self.pts}", found=self.end
            )
        if self.bins:
            self._check_bins(where)

    def _check_bins(self, where: int | None) -> None:
        most, top = self.shape.frame // 2, self.profile.top
        bins, levels = zip(*self.bins, strict=True)
        if min(levels) < 1 or max(levels) != top:
            raise FormatError(
                "levels are out of range, or none is the largest",
                where=where,
                expected=f"1 to {top}, and {top}",
                found=levels,
            )
        if any(after <= before for before, after in pairwise((0, *bins, most + 1))):
            raise OrderError("bins do not rise", where=where, expected=f"1 to {most}", found=bins)


def _pairs(count: int) -> str:
    return ">" + "HB" * count
