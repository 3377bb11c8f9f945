"""Sound as integer samples of 24 bits: raw PCM, WAVE as it arrives, and anything else through a decoder.

    sound = open_sound(source, pcm=None, decoder=decode)
    for samples in sound:       # int32, shape (n, channels), |x| <= 2^23
        ...
    sound.format, sound.note

Raw PCM and WAVE need no decoder: their samples are converted by `samples.py`, and come as soon as their bytes
do. Memory follows one piece and never the source.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from harmony4.crypto.errors import LimitError, MediaError, UsageError
from harmony4.tokenize.decode import SoundDecoder
from harmony4.tokenize.demux import BUFFER, Readable
from harmony4.tokenize.feed import Feed, SeekableFile, Spool, discard, regular_file
from harmony4.tokenize.lines import TEXT
from harmony4.tokenize.media import MEMORY, index_last, spooled
from harmony4.tokenize.samples import ENCODINGS, MAX_CHANNELS, MAX_RATE, PIECE, SoundFormat
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.tokens import Source
from harmony4.tokenize.wav import CHUNK, WavFormat, data_size, ds64_size, parse_format

__all__ = ["PCM_ENCODINGS", "PcmSpec", "Sound", "SoundFormat", "open_sound"]

PCM_ENCODINGS: Final = ("s16le", "s24le", "s32le", "f32le", "u8")
"""Encodings of raw PCM; channels are interleaved."""

_RIFF: Final = 12  # bytes before the first chunk of a WAVE file
_HEAD: Final = 16 * 2**20
"""Bytes of a WAVE file within which its `fmt ` must come: they are kept, in case a decoder needs them."""
_FMT: Final = 4096
"""Longest `fmt ` or `ds64`."""

Arrays = Generator[NDArray[np.int32], None, None]


@dataclass(frozen=True, slots=True)
class PcmSpec:
    """What raw PCM is. Raises UsageError for what cannot be."""

    encoding: str
    """One of PCM_ENCODINGS."""
    rate: int
    """Hz, 1 … MAX_RATE."""
    channels: int
    """1 … MAX_CHANNELS."""

    def __post_init__(self) -> None:
        if self.encoding not in PCM_ENCODINGS:
            expected = ", ".join(PCM_ENCODINGS)
            raise UsageError("the encoding is not one of PCM", expected=expected, found=self.encoding[:40])
        for name, value, most in (("rate", self.rate, MAX_RATE), ("channels", self.channels, MAX_CHANNELS)):
            if not 1 <= value <= most:
                raise UsageError(f"{name} is out of range", expected=f"1 to {most}", found=value)


class Sound(ABC):
    """The samples of one source, once: an iterator of arrays of shape (n, channels), n >= 1."""

    def __init__(self, feed: Feed, max_samples: int | None) -> None:
        self._feed = feed
        self._most = max_samples
        self._begun = False
        self._format: SoundFormat | None = None
        self.note: str | None = None
        """Why it stopped before the source ended, or where a header did not tell the truth."""

    @property
    def format(self) -> SoundFormat:
        """What the samples are. Raises UsageError before the first array has come."""
        if self._format is None:
            raise UsageError("what a sound is, is known once its first samples have come")
        return self._format

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """Raises LimitError, MediaError, SourceError, StorageError; UsageError the second time."""
        if self._begun:
            raise UsageError("a sound is read once; open it again")
        self._begun = True
        return self._limited()

    def _limited(self) -> Arrays:
        count = 0
        with closing(self._feed), closing(self._arrays()) as arrays:
            for samples in arrays:
                count += samples.size
                if self._most is not None and count > self._most:
                    raise LimitError("it holds more sound than it may", expected=f"<= {self._most} samples")
                yield samples

    @abstractmethod
    def _arrays(self) -> Arrays:
        """The samples."""


def open_sound(
    source: Source,
    *,
    pcm: PcmSpec | None,
    decoder: SoundDecoder,
    max_samples: int | None = None,
    stream: int | None = None,
    spool: Spool = io.BytesIO,
) -> Sound:
    """The samples of `source`: raw PCM as `pcm` says, or what its first bytes show it to be.

    `max_samples`, all channels together, is how much it may hold (LimitError while reading); `stream` is the
    index of the stream that is wanted, None for the first one with sound; `spool` makes a file for an MP4
    out of a pipe whose index comes last. Reads up to 4 KiB, of a WAVE file until its `fmt ` has come.

    Raises MediaError for what holds no sound and for what nobody recognises, SourceError, UsageError.
    """
    feed = Feed(source, spool, memory=MEMORY)
    if pcm is not None:
        return _Pcm(feed, pcm, max_samples)
    feed.pull(SNIFF_SIZE)
    found = sniff(feed.peek(0, SNIFF_SIZE))
    if found is None:
        raise MediaError("nobody knows this format (of raw PCM say the encoding, the rate and the channels)")
    if found.name in TEXT:
        raise MediaError("it holds no sound", where=found.name)
    if found.name == "wav" and not stream:
        head = _Head(feed)
        if head.format.encoding is not None:
            return _Wav(feed, head, max_samples)
    return _Decoded(feed, source, found.name, decoder, max_samples, stream, spool)


# -- PCM, raw and in WAVE


def _whole(
    feed: Feed, encoding: str, channels: int, size: int | None
) -> Generator[NDArray[np.int32], None, int]:
    """`size` bytes of samples, or all that come; returns how many came."""
    found = ENCODINGS[encoding]
    frame = found.width * channels
    most = PIECE // channels * frame
    rest, came = b"", 0
    while size is None or came < size:
        data = feed.some(most - len(rest) if size is None else min(most - len(rest), size - came))
        if not data:
            break
        came += len(data)
        data = rest + data
        cut = len(data) - len(data) % frame
        rest = data[cut:]
        if cut:
            yield found.convert(data[:cut]).reshape(-1, channels)
    if rest:
        raise MediaError(
            "its last sample is cut off",
            expected=f"a multiple of {frame} bytes ({channels} channels, {encoding})",
            found=f"{came} bytes",
        )
    return came


class _Pcm(Sound):
    """Raw PCM: what it is, the caller says."""

    def __init__(self, feed: Feed, spec: PcmSpec, max_samples: int | None) -> None:
        super().__init__(feed, max_samples)
        self._format = SoundFormat(spec.rate, spec.channels, spec.encoding, True, 0)

    def _arrays(self) -> Arrays:
        yield from _whole(self._feed, self.format.encoding, self.format.channels, None)


class _Head:
    """A WAVE file up to its `fmt `, which waits in the feed."""

    format: WavFormat
    ds64: int | None = None
    """Bytes of samples, as `ds64` says."""

    def __init__(self, feed: Feed) -> None:
        """Raises MediaError, SourceError."""
        at = _RIFF
        while True:
            head = _peek(feed, at, CHUNK.size)
            if at > _HEAD or len(head) < CHUNK.size:
                raise MediaError("it has no fmt", where="wav", expected=f"one in its first {_HEAD} bytes")
            name, size = CHUNK.unpack(head)
            at += CHUNK.size
            if name == b"data":
                raise MediaError("its samples come before its fmt", where=at - CHUNK.size)
            if name == b"ds64":
                self.ds64 = ds64_size(_peek(feed, at, min(size, _FMT)), at)
            if name == b"fmt ":
                break
            at += size + size % 2
        self.format = parse_format(_peek(feed, at, min(size, _FMT)), at)
        self.end = at + size + size % 2
        """Offset of the next chunk."""


def _peek(feed: Feed, at: int, n: int) -> bytes:
    """Bytes of a source of which nothing has been taken; fewer only at its end, or beyond _HEAD."""
    feed.pull(min(at, _HEAD) + n)
    return feed.peek(at, n)


class _Wav(Sound):
    """RIFF/WAVE, RF64 or BW64 with samples that need no decoder."""

    def __init__(self, feed: Feed, head: _Head, max_samples: int | None) -> None:
        super().__init__(feed, max_samples)
        self._head = head
        said = head.format
        assert said.encoding is not None
        self._format = SoundFormat(said.rate, said.channels, said.encoding, True, 0)

    def _arrays(self) -> Arrays:
        self._skip(self._head.end)
        size = self._find()
        came = yield from _whole(self._feed, self.format.encoding, self.format.channels, size)
        if size is None and came:
            self.note = "its header does not say how much sound there is: all that came was taken"
        elif size is not None and came < size:
            self.note = f"its header says {size} bytes of sound, of which {came} came"
        while self._feed.some(
            BUFFER
        ):  # chunks behind the samples: not for us, but the source is read to its end
            pass

    def _find(self) -> int | None:
        """Go to the first byte of the samples; how many there are said to be, None if that is not said."""
        while len(head := self._feed.next(CHUNK.size)) == CHUNK.size:
            name, size = CHUNK.unpack(head)
            if name == b"data":
                return data_size(size, self._head.ds64)
            self._skip(size + size % 2)
        raise MediaError("it ends before its samples begin", where=self._feed.size)

    def _skip(self, n: int) -> None:
        while n and (data := self._feed.next(min(n, BUFFER))):
            n -= len(data)


# -- anything else


class _Passing:
    """A feed as the reader of a decoder: what has been read does not wait."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def read(self, n: int, /) -> bytes:
        data = self._feed.read(n)
        self._feed.take(len(data))
        return data


class _Decoded(Sound):
    """A medium that somebody else reads."""

    def __init__(
        self,
        feed: Feed,
        source: Source,
        name: str,
        decoder: SoundDecoder,
        max_samples: int | None,
        stream: int | None,
        spool: Spool,
    ) -> None:
        super().__init__(feed, max_samples)
        self._source = source
        self._name = name
        self._decoder = decoder
        self._stream = stream
        self._spool = spool

    def _arrays(self) -> Arrays:
        if self._name != "mp4" or not index_last(self._feed):
            yield from self._run(_Passing(self._feed))
            return
        size = regular_file(self._source, self._feed.size)
        if size is not None:
            yield from self._run(SeekableFile(cast(BinaryIO, self._source), size))
            return
        spool = self._spool()
        try:
            size = spooled(self._feed, spool)
            yield from self._run(SeekableFile(spool, size))
        finally:
            discard(spool)

    def _run(self, reader: Readable) -> Arrays:
        feed = self._feed
        try:
            with self._decoder(reader, self._name, self._stream) as decoded:
                for samples in decoded:
                    self._format = decoded.format
                    yield samples
                self._format = decoded.format
            if feed.error is not None:  # FFmpeg took it for the end
                raise feed.error
        except MediaError as error:
            if feed.error is not None:
                raise feed.error from error
            raise
        self.note = decoded.stopped
