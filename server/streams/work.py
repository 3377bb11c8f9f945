"""What makes tokens out of bytes, and what there is to say about them: of video, and of sound."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from harmony4.crypto.errors import SourceError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.config import Config
from harmony4.server.exporting.ingest import ExportOptions, export_note, make_tokenizer, track_info
from harmony4.server.exporting.sources import make_spool
from harmony4.server.exporting.spectra import read_tokens
from harmony4.server.folder import facts
from harmony4.server.intake.body import Options, check_names, parse_asked, switch
from harmony4.server.query import natural
from harmony4.server.sandboxing.sandbox import Limits, default_demuxer
from harmony4.server.sandboxing.sandbox_sound import default_decoder
from harmony4.tokenize.audio import PROFILES, STRUCTURE, AudioFFTTokenizer, AudioToken
from harmony4.tokenize.sound import PcmSpec
from harmony4.tokenize.tokens import Token
from harmony4.tokenize.video import VideoBlockToken

__all__ = ["SOUND", "VIDEO", "SoundAsked", "SoundWork", "StoredSound", "VideoWork", "Work", "parse_sound"]

_T = TypeVar("_T", bound=Token)

_AHEAD: Final = 2**21
"""Bytes of blocks whose tokens may wait for the event loop."""
_MOST_AHEAD: Final = 256
"""Tokens that may wait."""


class Work(ABC, Generic[_T]):
    """One source's tokens. `gone` is set when nobody wants them any more."""

    def __init__(self, config: Config) -> None:
        self.gone = threading.Event()
        self.limits = Limits(memory=config.demux_memory, cpu=config.demux_cpu, samples=config.decode_samples)

    def look(self) -> None:
        """In the threads that wait for a demuxer or a decoder. Raises SourceError."""
        if self.gone.is_set():
            raise SourceError("nobody wants the tokens any more")

    @abstractmethod
    def batches(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[_T]]:
        """The tokens, as they become certain."""

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """What is known once the first token has come."""

    @abstractmethod
    def data(self, token: _T) -> object:
        """A token's JSON values."""

    @abstractmethod
    def done(self, last: _T | None) -> dict[str, Any]:
        """What is known in the end."""


class VideoWork(Work[VideoBlockToken]):
    """Blocks of media."""

    def __init__(self, config: Config, options: ExportOptions, folder: Path) -> None:
        """`folder`: for bytes that must wait."""
        super().__init__(config)
        self._options = options
        self._tokenizer = make_tokenizer(options, default_demuxer(self.limits, self.look), folder)

    def batches(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[VideoBlockToken]]:
        ahead = max(1, min(_AHEAD // self._options.block_size, _MOST_AHEAD))
        return self._tokenizer.batches(pieces, ahead=ahead)

    def meta(self) -> dict[str, Any]:
        track = track_info(self._tokenizer)
        return {
            "track": 0,
            "kind": track.kind,
            "codec": track.codec,
            "media_type": track.media_type,
            "self_framing": track.self_framing,
            "timing": track.timing,
            "origin": str(self._tokenizer.origin),
            "spooled": self._tokenizer.spooled,
        }

    def data(self, token: VideoBlockToken) -> object:
        return facts.token_facts(token.record)

    def done(self, last: VideoBlockToken | None) -> dict[str, Any]:
        tokenizer = self._tokenizer
        return {
            "bytes": tokenizer.consumed,
            "duration": 0 if last is None else last.record.end,
            "steps": [{"pts": one.pts, "shift": one.shift} for one in tokenizer.steps],
            "note": export_note(tokenizer, self._options, track_info(tokenizer)),
        }


@dataclass(frozen=True, slots=True)
class SoundAsked:
    """What a stream of spectral tokens is to be."""

    profile: str
    each: bool
    """Tokens of every channel by itself, instead of the mix."""
    pcm: PcmSpec | None = None
    stream: int | None = None
    """Index of the stream in the source; None: the first one with sound."""


class SoundWork(Work[AudioToken]):
    """Spectral tokens of sound."""

    def __init__(self, config: Config, asked: SoundAsked, folder: Path) -> None:
        """`folder`: for bytes that must wait. Raises UsageError for a profile that is none."""
        super().__init__(config)
        self._tokenizer = AudioFFTTokenizer(
            profile=asked.profile,
            channels="each" if asked.each else "mix",
            pcm=asked.pcm,
            decoder=default_decoder(self.limits, self.look),
            max_samples=config.decode_samples,
            stream=asked.stream,
            spool=lambda: make_spool(folder),
        )

    def batches(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[AudioToken]]:
        return self._tokenizer.batches(pieces, ahead=_MOST_AHEAD)

    def meta(self) -> dict[str, Any]:
        tokenizer, form = self._tokenizer, self._tokenizer.format
        shape = tokenizer.shape
        return {
            "kind": "tokens",
            "profile": tokenizer.profile.name,
            "structure_only": tokenizer.structure_only,
            "bit_exact": tokenizer.bit_exact,
            "encoding": None if form is None else form.encoding,
            "rate": None if form is None else form.rate,
            "channels": None if form is None else form.channels,
            "start": None if form is None else form.start,
            "frame": None if shape is None else shape.frame,
            "hop": None if shape is None else shape.hop,
            "step": None if shape is None else shape.step,
        }

    def data(self, token: AudioToken) -> object:
        return token.metadata()

    def done(self, last: AudioToken | None) -> dict[str, Any]:
        return {"duration": 0 if last is None else last.end, "note": self._tokenizer.note}


class StoredSound(Work[AudioToken]):
    """Spectral tokens that a container has as a track (H4MK 16.11)."""

    def __init__(self, config: Config, reader: H4MKReader, track: int) -> None:
        super().__init__(config)
        self._reader = reader
        self._track = track
        self._one: AudioToken | None = None

    async def batches(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[AudioToken]]:
        tokens = read_tokens(self._reader, self._track)
        while batch := await asyncio.to_thread(lambda: list(islice(tokens, _MOST_AHEAD))):
            self._one = batch[0]
            yield batch

    def meta(self) -> dict[str, Any]:
        profile, one = PROFILES[self._reader.tracks[self._track].info.codec], self._one
        return {
            "kind": "tokens",
            "profile": profile.name,
            "structure_only": profile.structure_only,
            "bit_exact": None if one is None else one.exact,
            "rate": None if one is None else one.rate,
            "frame": None if one is None else one.shape.frame,
            "hop": None if one is None else one.shape.hop,
            "step": None if one is None else one.shape.step,
        }

    def data(self, token: AudioToken) -> object:
        return token.metadata()

    def done(self, last: AudioToken | None) -> dict[str, Any]:
        return {"duration": 0 if last is None else last.end, "note": None}


_CUT: Final = ("block_size", "raw", "fps_hint", "gop")


def _parse_cut(fields: Mapping[str, str]) -> ExportOptions:
    fields = _without_job(fields)
    check_names(fields, _CUT)
    return parse_asked(fields).options


def _without_job(fields: Mapping[str, str]) -> dict[str, str]:
    """`job` stands in the query alone, and is the route's: the address is needed before the body."""
    return {name: text for name, text in fields.items() if name != "job"}


_WHAT: Final = ("profile", "each", "stream", "pcm", "rate", "channels")
_PCM: Final = ("pcm", "rate", "channels")


def parse_sound(fields: Mapping[str, str]) -> SoundAsked:
    """Options as text. Raises UsageError."""
    fields = _without_job(fields)
    check_names(fields, _WHAT)
    given = [name for name in _PCM if name in fields]
    if given and len(given) < len(_PCM):
        missing = next(name for name in _PCM if name not in fields)
        raise UsageError(f"{missing} is missing", expected="all of pcm, rate and channels, or none of them")
    pcm = None
    if given:
        pcm = PcmSpec(fields["pcm"], natural("rate", fields["rate"]), natural("channels", fields["channels"]))
    stream = fields.get("stream")
    return SoundAsked(
        fields.get("profile", STRUCTURE.name),
        switch(fields, "each"),
        pcm,
        None if stream is None else natural("stream", stream),
    )


VIDEO: Final = Options(_CUT, _parse_cut)
"""What POST `/video/stream` can be told."""
SOUND: Final = Options(_WHAT, parse_sound)
"""What POST `/audio/stream` can be told."""
