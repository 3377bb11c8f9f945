"""Spectral tokens of sound beside the media in a container (H4MK 16.11): `export` writes them, `read_tokens`
reads them.

    track = stored_tokens(reader, "structure")
    for token in read_tokens(reader, track):
        ...

A track of them is the records of `AudioToken.serialize()`, one behind the other. Their times are those of the
source's own clock; the blocks' are on the container's timeline, as the blocks of the media are. Media and
tokens are read side by side, each in a pass of its own, so memory holds a block of each and never the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import FormatError, MediaError, NotFoundError
from harmony4.crypto.token import TokenRecord, TokenSequencer
from harmony4.h4mk import H4MKReader, HistoryEntry, Lost, Start, Step, TrackInfo
from harmony4.h4mk.edits.bundle import bundle
from harmony4.server.exporting.bundling import MediaInput
from harmony4.server.exporting.ingest import ExportOptions, ExportResult, Progress, joined
from harmony4.server.exporting.sources import OpenedSource, make_spool
from harmony4.server.sandboxing.sandbox_sound import SoundSandbox, default_decoder
from harmony4.tokenize.audio import PROFILES, AudioFFTTokenizer, AudioToken
from harmony4.tokenize.decode import SoundDecoder
from harmony4.tokenize.demux import Demuxer
from harmony4.tokenize.feed import SeekableFile
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.tokens import Source

__all__ = ["SPECTRUM_TYPE", "SpectrumInput", "export_spectrum", "read_tokens", "stored_tokens"]

SPECTRUM_TYPE: Final = "application/x-h4mk-spectrum"
"""The media type of a track of records. Not registered, so not in the vendors' tree (RFC 6838 §3.2)."""
_BLOCK: Final = 2**16
"""Greatest payload of a block of records, bytes: 10 s of `detail` and more."""
_SPAN: Final = 4_000_000
"""Least distance of two KEY blocks, µs."""


class SpectrumInput:
    """The spectral tokens of a medium's sound, all channels mixed: a track of a bundle. A context manager."""

    def __init__(
        self,
        source: OpenedSource,
        options: ExportOptions,
        origin: int,
        decoder: SoundDecoder | None = None,
        spool_folder: str | PathLike[str] | None = None,
    ) -> None:
        """Reads up to the first token. `options.spectrum`: the profile; `origin`: that of the media, µs.

        A regular file stays where it stands for others. `decoder`: default a confined process; the samples
        that a given one may make are as many as PCM may hold, which needs no decoder.
        Raises MediaError for what holds no sound, LimitError, SourceError, StorageError, UsageError.
        """
        assert options.spectrum is not None
        self._source = source
        self._tokenizer = AudioFFTTokenizer(
            profile=options.spectrum,
            decoder=decoder or default_decoder(),
            max_samples=decoder.limits.samples if isinstance(decoder, SoundSandbox) else None,
            spool=lambda: make_spool(spool_folder),
        )
        self._tokens = self._tokenizer.encode(_side(source))
        try:
            self._first = next(self._tokens, None)
        except BaseException:
            self.close()
            raise
        self.tracks: Sequence[TrackInfo] = [
            TrackInfo(
                codec=options.spectrum,
                kind="tokens",
                media_type=SPECTRUM_TYPE,
                self_framing=True,
                span=_SPAN,
                start=Start(self._first.pts if self._first else 0),
                timing="demux",
            )
        ]
        self.origin = origin
        self.block = options.block_size
        self.structure_only = self._tokenizer.structure_only

    def blocks(self, track: int) -> Iterator[tuple[TokenRecord, Buffer]]:
        """The blocks of its only track, once.

        Raises LimitError, MediaError, SourceError, SourceChangedError, StorageError.
        """
        sequencer = TokenSequencer()
        held = b""
        end = 0
        for tokens, key in self._runs():
            payload = b"".join(token.serialize() for token in tokens)
            pts = self._time(tokens[0].pts)
            record = sequencer.push(len(payload), sha256(payload), pts, key=key)
            if record is not None:
                yield record, held
            held, end = payload, self._time(tokens[-1].end)
        record = sequencer.finish(end)
        if record is not None:
            yield record, held
        self._source.check(cast(int, self._source.size))

    def _runs(self) -> Iterator[tuple[list[AudioToken], bool]]:
        """The tokens of each block, and whether it is a KEY block."""
        most = max(1, min(self.block, _BLOCK) // self._tokenizer.profile.size)
        run: list[AudioToken] = []
        key = False
        last: int | None = None  # time of the last KEY block
        for token in chain([self._first] if self._first is not None else [], self._tokens):
            self._first = None
            pts = self._time(token.pts)
            opens = last is None or pts >= last + _SPAN
            if run and (opens or len(run) == most):
                yield run, key
                run = []
            if not run:
                key = opens
            if opens:
                last = pts
            run.append(token)
        if run:
            yield run, key

    def _time(self, pts: int) -> int:
        """A time of the source on the container's timeline (H4MK 15.1), µs."""
        return max(0, pts - self.origin)

    def steps(self) -> Iterable[Step]:
        """None: sound is timed by its samples, whatever jumps in the source's clock."""
        return ()

    def lost(self) -> Iterable[Lost]:
        """Nothing is."""
        return ()

    def history(self) -> Iterable[HistoryEntry]:
        """What the media's export says is all there is to say."""
        return ()

    def part(self) -> None:
        """The stream is all there is."""

    def note(self) -> str | None:
        """What a user should know of it; asked for when all blocks have been read."""
        note = self._tokenizer.note
        exact = self._tokenizer.bit_exact is not False
        return joined(
            None if note is None else f"the spectrum: {note}",
            None if exact else "the spectrum: this sound's decoder may give other tokens on another machine",
        )

    def close(self) -> None:
        """End the decoder's process."""
        cast(Any, self._tokens).close()

    def __enter__(self) -> SpectrumInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Side(SeekableFile):
    """A cursor of its own in a file that others read, and which a tokenizer knows for a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, size)
        self._whole = file

    def fileno(self) -> int:
        """As files do."""
        return self._whole.fileno()


def _side(source: OpenedSource) -> Source:
    """What a second reader of a source reads. Raises MediaError where nobody knows the format."""
    if source.before is None:  # made for this reader alone
        return source.file
    file, size = cast(BinaryIO, source.file), cast(int, source.size)
    if sniff(SeekableFile(file, size).read(SNIFF_SIZE)) is None:
        raise MediaError("it is in no known media format, so nobody finds sound in it")
    return cast(Source, _Side(file, size))  # a tokenizer needs no more of a file


def export_spectrum(
    sources: Sequence[OpenedSource],
    sound: OpenedSource,
    target: Path | BinaryIO,
    options: ExportOptions,
    progress: Progress | None,
    demuxer: Demuxer | None = None,
    decoder: SoundDecoder | None = None,
    spool_folder: str | PathLike[str] | None = None,
) -> ExportResult:
    """`export` of media that are files, or read by nobody else, each a track, and of the tokens of `sound`.

    The tokens are the last track, on the clock of the first one. Raises as `ingest.export` does, MediaError
    for what holds no sound before anything is written.
    """
    with ExitStack() as stack:
        media = [stack.enter_context(MediaInput(one, options, demuxer, spool_folder)) for one in sources]
        clock = media[0]
        spectrum = stack.enter_context(SpectrumInput(sound, options, clock.origin, decoder, spool_folder))
        told = None if progress is None else lambda _done, _: progress(clock.consumed, sources[0].size)
        seal = bundle(
            [*media, spectrum],
            target,
            title=options.title,
            masking=options.masking,
            progress=told,
            signer=options.signer,
            sign_every=options.sign_every,
        )
        note = joined(*dict.fromkeys(one.note() for one in media), spectrum.note())
        track = clock.tracks[0]
        return ExportResult(seal, track, track.timing, note, sources[0].broken() is not None)


# -- reading


def stored_tokens(reader: H4MKReader, profile: str | None) -> int | None:
    """The first track of whole spectral tokens of `profile` (None: of any); None where there is none.

    A track of which blocks are lost is not whole, nor is one of a container that is not sealed.
    """
    if reader.meta is None:
        return None
    holed = {hole.track for hole in reader.lost}
    for number, track in enumerate(reader.tracks):
        info = track.info
        found = info.kind == "tokens" and info.media_type == SPECTRUM_TYPE and info.codec in PROFILES
        if found and profile in (None, info.codec) and number not in holed and not info.masked:
            return number
    return None


def read_tokens(reader: H4MKReader, track: int, start_pts: int = 0) -> Iterator[AudioToken]:
    """The tokens of a track that `stored_tokens` has found, from the one on that holds `start_pts`.

    `start_pts`: µs on the container's timeline; tokens have the times of the source's clock. Each block is
    checked against its CRC, its digest, and what H4MK 16.11 says of its records. Memory: one block. Raises
    NotFoundError for another track, UsageError for a negative time, FormatError and its kin for a block that
    is damaged or lies.
    """
    if not 0 <= track < len(reader.tracks) or reader.tracks[track].info.media_type != SPECTRUM_TYPE:
        raise NotFoundError("no such track of spectral tokens", found=track)
    first = reader.block_at(start_pts, track) if start_pts else 0
    codec = reader.tracks[track].info.codec
    for block in reader.blocks(track, first):
        assert block.token is not None
        tokens = _records(block.payload, codec, f"track {track} block {block.token.index}")
        # Records keep their times when a container is cut or put behind another; blocks do not.
        later = block.token.pts - tokens[0].pts
        yield from (token for token in tokens if not start_pts or token.end + later > start_pts)


def _records(payload: Buffer, codec: str, where: str) -> list[AudioToken]:
    """The tokens of a block. Raises FormatError and its kin."""
    if len(payload) > _BLOCK:
        raise FormatError(
            "a block of records is too large", where=where, expected=f"<= {_BLOCK}", found=len(payload)
        )
    try:
        tokens = AudioFFTTokenizer().decode(bytes(payload))
    except FormatError as error:
        place = f"{where} byte {error.where}"
        raise type(error)(error.message, where=place, expected=error.expected, found=error.found) from error
    for token in tokens:
        if token.profile.name != codec or token.channel is not None:
            channel = "all channels mixed" if token.channel is None else f"channel {token.channel}"
            raise FormatError(
                "a token is not what its track holds",
                where=where,
                expected=f"{codec}, all channels mixed",
                found=f"{token.profile.name}, {channel}",
            )
    for one, other in pairwise(tokens):
        expected = one.rate, one.exact, one.index + 1, one.end
        found = other.rate, other.exact, other.index, other.pts
        if found != expected:
            raise FormatError(
                "a token does not follow the one before", where=where, expected=expected, found=found
            )
    return tokens
