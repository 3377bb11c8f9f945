"""Sound out of media through PyAV (FFmpeg's decoders), as integers of 24 bits.

Which decoders give the same bits on every machine:

- `aac_fixed`, `ac3_fixed`, `mp1`, `mp2` and `mp3` calculate in integers. What FFmpeg itself takes for these
  codecs is mostly a float decoder, whose sums differ with the width of the registers; so they are asked for
  by name.
- FLAC, ALAC, WavPack, TTA, Monkey's Audio, Shorten, TAK, MLP and TrueHD are lossless; PCM of all kinds is
  copied; ADPCM, G.722, G.726 and GSM 06.10 are defined in integers.
- All others (Vorbis, Opus, E-AC-3, DTS, LATM, …) calculate in floats: they are used, and marked not exact.

tests/test_decode.py shows it: the same digests with FFmpeg's SIMD switched off, and others for the float
decoders. The tables of the fixed-point decoders are made when they are opened, in doubles that are rounded to
integers: the same within one build, not promised between versions of FFmpeg (5.1 and 8.1 do differ).

Each decoder runs in one thread with FFmpeg's `bitexact` flag. Its samples are taken in the form that it
gives, and converted by the rules of `samples.py`: FFmpeg's own conversion is not exact for floats.

Encoder delay and padding: where the container declares them (an MP4 edit list, an Xing/LAME or iTunSMPB tag,
Matroska's CodecDelay and DiscardPadding, Ogg's granule positions), FFmpeg's demuxer tells its decoder which
samples to leave out, and they do not come. Otherwise nothing is left out. What pads an MP3 at its end, less
than a frame or two, comes: FFmpeg takes it away only where it can seek, and a pipe is to give the same as a
file.

A packet that cannot be decoded is left out and counted in `stopped`. Gaps in the time stamps are not filled:
what tells a sample's time is `start` and the number of samples before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from types import TracebackType
from typing import Any, Final, Protocol

import av
import av.audio.codeccontext
import av.audio.frame
import av.audio.plane
import av.audio.stream
import av.stream
import numpy as np
from numpy.typing import NDArray

from harmony4.crypto.errors import HarmonyError, MediaError
from harmony4.tokenize.demux import Readable, end_of, open_medium, stream_kind
from harmony4.tokenize.samples import ENCODINGS, SoundFormat, pieces
from harmony4.tokenize.timeline import micros

__all__ = ["Decoded", "SoundDecoder", "bit_exact", "decode", "undecodable"]

_FIXED: Final = {"aac": "aac_fixed", "ac3": "ac3_fixed", "mp1": "mp1", "mp2": "mp2", "mp3": "mp3"}
"""Codec -> its decoder that calculates in integers."""
_EXACT: Final = frozenset(_FIXED.values()) | {
    *("flac", "alac", "wavpack", "tta", "ape", "shorten", "tak", "mlp", "truehd"),
    *("g722", "g726", "g726le", "gsm", "gsm_ms"),
}
_EXACT_FAMILIES: Final = ("pcm_", "adpcm_")
_KINDS: Final = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}
"""FFmpeg's sample formats, packed -> numpy's type in the machine's byte order."""
_LITTLE: Final = {"u1": "u8", "i2": "s16le", "i4": "s32le", "f4": "f32le", "f8": "f64le"}
_USAC: Final = "xHE-AAC"
"""The profile of AAC that only the float decoder knows."""
_GENPTS: Final = 1
_BITEXACT: Final = 1 << 23  # AV_CODEC_FLAG_BITEXACT


class Decoded(Protocol):
    """An opened sound: its samples, once."""

    format: SoundFormat
    """Set once the first array has come, or the iterator has ended without one."""
    stopped: str | None
    """Why the samples ended before the medium did, or which are missing; None if none are."""

    def __iter__(self) -> Iterator[NDArray[np.int32]]: ...


SoundDecoder = Callable[[Readable, str, int | None], AbstractContextManager[Decoded]]
"""`decoder(reader, format, stream)`: opens a medium's sound (None: its first one), or raises MediaError."""


def decode(source: Readable, name: str, stream: int | None = None) -> AbstractContextManager[Decoded]:
    """Open the sound of `source`, a medium of format `name`, in this process.

    `stream` is the index of a stream as `demux` gives it. Arrays are of shape (n, channels), at most
    `samples.PIECE` samples each. Raises MediaError.
    """
    return _Decoding(source, name, stream)


def undecodable(reason: str, where: str) -> MediaError:
    """The error for a medium whose sound FFmpeg does not give."""
    return MediaError(f"its sound cannot be decoded: {reason}", where=where)


def bit_exact(decoder: str) -> bool:
    """Whether FFmpeg's decoder of this name gives the same samples on every machine."""
    return decoder in _EXACT or decoder.startswith(_EXACT_FAMILIES)


class _Decoding:
    """PyAV behind `Decoded`."""

    format: SoundFormat

    def __init__(self, source: Readable, name: str, stream: int | None) -> None:
        self.stopped: str | None = None
        self._name = name
        self._described = False
        self._damaged = 0
        self._reason = ""
        self._container = open_medium(source, name, undecodable)
        try:
            self._container.flags = self._container.flags & ~_GENPTS
            self._stream = _chosen(self._container.streams, stream, name)
            self._context = _context(self._stream, name)
            for other in self._container.streams:
                if other is not self._stream:
                    other.discard = av.stream.Discard.all
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> _Decoding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        for packet in chain(self._packets(), (None,)):  # None: what the decoder still holds
            for frame in self._frames(packet):
                if not self._described:
                    self._describe(frame.sample_rate, frame.layout.nb_channels, self._starts(frame))
                if (frame.sample_rate, frame.layout.nb_channels) != (self.format.rate, self.format.channels):
                    self._stop(
                        f"its sound changes from {self.format.channels} channels at {self.format.rate} Hz to "
                        f"{frame.layout.nb_channels} at {frame.sample_rate} Hz: what follows is left out"
                    )
                    return
                yield from pieces(_samples(frame, self._name))
        if self._damaged and not self._described:
            raise undecodable(self._reason, self._name)
        if self._damaged:
            self._stop(f"packets that could not be decoded are left out: {self._damaged} ({self._reason})")
        if not self._described:
            declared = self._stream.codec_context
            self._describe(declared.sample_rate, declared.layout.nb_channels, 0)

    def _describe(self, rate: int, channels: int, start: int) -> None:
        name = self._context.name
        self.format = SoundFormat(rate, channels, name, bit_exact(name), start)
        self._described = True

    def _stop(self, why: str) -> None:
        self.stopped = why if self.stopped is None else f"{self.stopped}; {why}"

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except HarmonyError:
                raise
            except Exception as error:  # AVERROR of any kind: what was read so far stands
                self._stop(end_of(error, self._name, undecodable))
                return
            if packet.size:  # else one of PyAV's flushing packets
                yield packet

    def _frames(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = self._context.decode(packet)
        except Exception as error:
            self._reason = end_of(error, self._name, undecodable)
            self._damaged += 1
            return []
        return frames

    def _starts(self, frame: Any) -> int:
        """When the first sample of the first frame plays, µs.

        FFmpeg counts what is skipped into a stream's start; the PTS of a frame knows of it for some decoders
        only.
        """
        ticks = self._stream.start_time
        if ticks is None or self._damaged:
            ticks = frame.pts
        base = self._stream.time_base
        return micros(ticks or 0, base.numerator, base.denominator)


def _chosen(streams: Any, wanted: int | None, name: str) -> Any:
    sounds = [stream for stream in streams if stream_kind(stream) == "audio"]
    if not sounds:
        raise MediaError("it holds no sound", where=name)
    for stream in sounds:
        if wanted is None or stream.index == wanted:
            return stream
    raise MediaError(
        "that stream is no sound of it",
        where=name,
        expected=", ".join(str(stream.index) for stream in sounds),
        found=wanted,
    )


def _context(stream: Any, name: str) -> Any:
    """A decoder for a stream, not yet opened."""
    context = stream.codec_context
    if context is None:
        raise undecodable("nobody here knows its codec", name)
    fixed = _FIXED.get(context.codec.canonical_name, "")
    if fixed in av.codecs_available and context.profile != _USAC:
        given, context = context, av.CodecContext.create(fixed, "r")
        context.extradata = given.extradata
    context.thread_count = 1
    context.flags |= _BITEXACT
    return context


def _samples(frame: Any, name: str) -> NDArray[np.int32]:
    """A frame as integers of 24 bits, shape (n, channels)."""
    kind = _KINDS.get(frame.format.packed.name)
    if kind is None:
        raise undecodable(f"its samples are {frame.format.name}", name)
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    convert = ENCODINGS[_LITTLE[kind]].convert
    count = frame.samples * (1 if planar else channels)
    # Not `frame.planes`: from 8 channels on PyAV looks for its end behind the end.
    planes = [av.audio.plane.AudioPlane(frame, i) for i in range(channels if planar else 1)]
    found = [
        convert(np.frombuffer(memoryview(plane), kind, count).astype(f"<{kind}", copy=False))
        for plane in planes
    ]
    return np.stack(found, axis=1) if planar else found[0].reshape(-1, channels)
