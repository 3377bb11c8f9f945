"""Where tokens become a container: the one export behind the HTTP route and the command line.

One pass over the source, memory that follows the block, with the digests overlapped: the token's
on a thread of the tokenizer, the stream's and the file's on threads of the builder, reading and CRC here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import SourceError, UsageError
from harmony4.crypto.mask import MaskSpec
from harmony4.crypto.token import DEFAULT_BLOCK
from harmony4.h4mk import (
    FileSource,
    H4MKBuilder,
    H4MKReader,
    HistoryEntry,
    Masking,
    Rehearsal,
    Seal,
    Start,
    Step,
    TrackInfo,
    mask_container,
)
from harmony4.h4mk.proofs.signature import SignPayload
from harmony4.server.exporting.sources import (
    OpenedSource,
    make_spool,
    on_disk,
    open_source,
    opened_target,
    put_piece,
    refuse_same,
)
from harmony4.server.sandboxing.sandbox import default_demuxer
from harmony4.tokenize.demux import Demuxer
from harmony4.tokenize.feed import discard
from harmony4.tokenize.media import TrackFacts
from harmony4.tokenize.video import DEFAULT_FPS, DEFAULT_GOP, VideoTransportTokenizer

if TYPE_CHECKING:
    from harmony4.tokenize.decode import SoundDecoder

__all__ = [
    "ExportOptions",
    "ExportResult",
    "Progress",
    "export",
    "export_arguments",
    "export_note",
    "joined",
    "make_tokenizer",
    "run_export",
    "track_info",
]


Progress = Callable[[int, int | None], object]
"""Called with bytes read so far and the source's size (None: unknown)."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What decides a container besides its source; the same options give the same bytes."""

    block_size: int = DEFAULT_BLOCK
    """Greatest payload of a block, 1 byte to 16 MiB."""
    raw: bool = False
    """Do not look inside: opaque blocks cut by size."""
    fps_hint: Fraction | None = None
    """Frames per second of opaque blocks; None: 30."""
    gop: int | None = None
    """Frames per opaque block; None: 30."""
    title: str | None = None
    remux: bool = False
    """Make fragmented MP4 of media whose blocks would not play alone."""
    keep_original: bool = False
    """With `remux`: the source's own bytes as a second track, where they are not the first."""
    spectrum: str | None = None
    """The profile of the spectral tokens of the media's sound that are stored as the last track."""
    mask: MaskSpec | None = field(default=None, repr=False)
    """Mask every track. In the deterministic mode the source is read twice."""
    masking: Masking | Rehearsal | None = field(default=None, repr=False)
    """The one mask of the one container that `export` makes of `mask`; not for its callers."""
    signer: SignPayload | None = field(default=None, repr=False)
    """Signs the container."""
    sign_every: int = 0
    """With `signer`: a checkpoint after so many blocks, and again; 0: none."""

    def __post_init__(self) -> None:
        """Raises UsageError for options that exclude each other, and for a profile that is none."""
        if self.raw and self.remux:
            raise UsageError("opaque bytes cannot be remuxed: raw and remux exclude each other")
        if self.keep_original and not self.remux:
            raise UsageError("the original is all there is without remux")
        if self.spectrum is not None:
            self._check_spectrum(self.spectrum)

    def _check_spectrum(self, name: str) -> None:
        from harmony4.tokenize.audiotoken import PROFILES  # NumPy takes its time, and few need it

        if self.raw:
            raise UsageError("nobody hears opaque bytes: raw and spectrum exclude each other")
        if name not in PROFILES:
            raise UsageError("spectrum is not valid", expected=" or ".join(PROFILES), found=name[:40])
        if self.block_size < PROFILES[name].size:
            raise UsageError(
                "a block is to hold a token of the spectrum",
                expected=f">= {PROFILES[name].size} bytes",
                found=self.block_size,
            )


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What came of it."""

    seal: Seal
    track: TrackInfo
    timing: str
    """demux: times come from the media; hint: from fps and gop."""
    note: str | None = None
    """What a user should know: media that break off, or that nobody recognised."""
    lost: bool = False
    """Whether bytes of the source are in no track, though they should be."""


def export(
    source: str | PathLike[str] | BinaryIO,
    out: str | PathLike[str] | BinaryIO,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
    demuxer: Demuxer | None = None,
    decoder: SoundDecoder | None = None,
    spool_folder: str | PathLike[str] | None = None,
) -> ExportResult:
    """Build a container from a medium, in one pass; with `options.spectrum` in two, side by side, and with
    `options.mask` twice, but for a random one.

    `source`: a path, or a binary stream that is read from where it stands (to its end; not closed).
    `out`: a path, which appears complete or not at all (an existing FIFO or device is written directly), or
    an object with `write`. `demuxer`, and `decoder` for a spectrum: default confined processes
    (`sandbox.py`, `sandbox_sound.py`). `spool_folder`: for bytes that must wait, as a stream does that is to
    be read twice; default the system's temporary folder.

    Raises SourceError, SourceChangedError, MediaError, StorageError, UsageError, LimitError. After an error
    nothing stands under the path `out` that was not there before.
    """
    options = options or ExportOptions()
    how = (demuxer, decoder, spool_folder)
    with open_source(source) as opened:
        refuse_same(cast(BinaryIO, opened.file), out)
        with opened_target(out) as target:
            if options.mask is None:
                return _export(opened, target, options, progress, *how)
            if options.mask.keep_plaintext:
                return _export_beside(opened, target, options, options.mask, progress, *how)
            plain = replace(options, mask=None)
            if options.mask.mode == "random":
                masked = replace(plain, masking=Masking.of(options.mask, None))
                return _export(opened, target, masked, progress, *how)
            folder = None if spool_folder is None else os.fspath(spool_folder)
            with on_disk(opened, spool_folder) as file, Rehearsal(folder) as rehearsal:
                first, second = _halves(progress)
                # What signs signs the masked container, and a checkpoint moves the blocks behind it.
                bare = replace(plain, signer=None, sign_every=0, masking=rehearsal)
                seal = _export(file, cast(BinaryIO, _Nowhere()), bare, first, *how).seal
                _rewind(file)
                known = rehearsal.plain(seal.trak, seal.blocks, seal.root, seal.head)
                masked = replace(plain, masking=Masking.of(options.mask, known))
                return _export(file, target, masked, second, *how)


def _export(
    source: OpenedSource,
    target: Path | BinaryIO,
    options: ExportOptions,
    progress: Progress | None,
    demuxer: Demuxer | None,
    decoder: SoundDecoder | None,
    spool_folder: str | PathLike[str] | None,
) -> ExportResult:
    """One reading of a source."""
    tokenizer = make_tokenizer(options, demuxer, spool_folder)
    # What is imported here stands on this module.
    if options.remux:
        from harmony4.server.exporting.remuxing import export_remuxed

        return export_remuxed(source, target, tokenizer, options, progress, demuxer, decoder, spool_folder)
    if options.spectrum is not None:
        from harmony4.server.exporting.spectra import export_spectrum

        with on_disk(source, spool_folder) as file:
            return export_spectrum([file], file, target, options, progress, demuxer, decoder, spool_folder)
    return run_export(source, target, tokenizer, options, progress)


def _export_beside(
    source: OpenedSource,
    target: Path | BinaryIO,
    options: ExportOptions,
    spec: MaskSpec,
    progress: Progress | None,
    demuxer: Demuxer | None,
    decoder: SoundDecoder | None,
    spool_folder: str | PathLike[str] | None,
) -> ExportResult:
    """Masked tracks with plain ones beside them: out of a plain container, which waits on disk."""
    spool = make_spool(spool_folder)
    try:
        first, second = _halves(progress)
        plain = replace(options, mask=None, signer=None, sign_every=0)
        made = _export(source, spool, plain, first, demuxer, decoder, spool_folder)
        put_piece(spool, b"")
        with H4MKReader(FileSource(os.dup(spool.fileno()))) as reader:
            report = mask_container(
                reader, target, spec, progress=second, signer=options.signer, sign_every=options.sign_every
            )
        return replace(made, seal=report.seal)
    finally:
        discard(spool)


class _Nowhere:
    """Takes a container of which only the seal is wanted."""

    def write(self, data: Buffer) -> int:
        """Forget it."""
        return len(data)


def _halves(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """Two readings as one progress."""
    if progress is None:
        return None, None

    def first(done: int, size: int | None) -> None:
        progress(done, None if size is None else 2 * size)

    def second(done: int, size: int | None) -> None:
        progress(done + (size or 0), None if size is None else 2 * size)

    return first, second


def _rewind(source: OpenedSource) -> None:
    try:
        cast(BinaryIO, source.file).seek(0)
    except OSError as error:
        raise SourceError(f"reading the source failed: {error.strerror or error}") from error


def make_tokenizer(
    options: ExportOptions,
    demuxer: Demuxer | None = None,
    spool_folder: str | PathLike[str] | None = None,
) -> VideoTransportTokenizer:
    """A tokenizer for one source; the arguments are those of `export`. Raises UsageError."""
    return VideoTransportTokenizer(
        block_size=options.block_size,
        raw=options.raw,
        fps_hint=options.fps_hint,
        gop=options.gop,
        demuxer=demuxer or default_demuxer(),
        spool=lambda: make_spool(spool_folder),
    )


def run_export(
    source: OpenedSource,
    target: Path | BinaryIO,
    tokenizer: VideoTransportTokenizer,
    options: ExportOptions,
    progress: Progress | None,
) -> ExportResult:
    """`export` of what is open already."""
    tokens = tokenizer.encode(source.file)
    builder: H4MKBuilder | None = None
    try:
        for token in tokens:
            if builder is None:
                builder = _builder(target, tokenizer, options)
            builder.add_token(token.record, token.data)
            if progress is not None:
                progress(tokenizer.consumed, source.size)
        if builder is None:  # an empty source
            builder = _builder(target, tokenizer, options)
        source.check(tokenizer.consumed)
        track = track_info(tokenizer)
        seal = builder.finish(
            steps=[Step(step.pts, step.shift, 0) for step in tokenizer.steps],
            history=[HistoryEntry("export", export_arguments(options, track) | source.arguments)],
            structure_only=track.kind != "tokens",
        )
    finally:
        cast(Any, tokens).close()  # ends the demuxer's process now, not when the collector gets to it
        if builder is not None:
            builder.abort()  # does nothing after `finish`
    broken = source.broken()
    note = joined(export_note(tokenizer, options, track), broken)
    return ExportResult(seal, track, track.timing, note, broken is not None)


def _builder(
    target: Path | BinaryIO, tokenizer: VideoTransportTokenizer, options: ExportOptions
) -> H4MKBuilder:
    tracks = [track_info(tokenizer)]
    make = partial(H4MKBuilder.to_path, target) if isinstance(target, Path) else partial(H4MKBuilder, target)
    return make(
        tracks,
        origin=tokenizer.origin,
        block=options.block_size,
        title=options.title,
        masking=options.masking,
        signer=options.signer,
        sign_every=options.sign_every,
    )


def track_info(tokenizer: VideoTransportTokenizer) -> TrackInfo:
    """What TRAK says of the track that a tokenizer has begun."""
    facts = cast(TrackFacts, tokenizer.track)
    return TrackInfo(
        codec=facts.codec,
        kind=facts.kind,
        media_type=facts.media_type,
        self_framing=facts.self_framing,
        span=facts.span,
        start=Start(facts.start_ticks, facts.start_num, facts.start_den),
        stream=facts.stream,
        timing=facts.timing,
    )


def export_arguments(options: ExportOptions, track: TrackInfo) -> dict[str, str | int | bool]:
    """META.history's `args` (H4MK 10.3)."""
    if track.timing == "demux":
        return {} if options.spectrum is None else {"spectrum": options.spectrum}
    fps = options.fps_hint or DEFAULT_FPS
    arguments: dict[str, str | int | bool] = {
        "fps": f"{fps.numerator}/{fps.denominator}",
        "gop": options.gop or DEFAULT_GOP,
    }
    return arguments | {"raw": True} if options.raw else arguments


def export_note(tokenizer: VideoTransportTokenizer, options: ExportOptions, track: TrackInfo) -> str | None:
    """What a user should know of a source that has been tokenized: that it breaks off, or is opaque."""
    if tokenizer.note is not None:
        return f"the media break off: {tokenizer.note}"
    if track.timing == "hint" and not options.raw and tokenizer.consumed:
        return "no known media format: opaque blocks, timed by hint"
    return None


def joined(*notes: str | None) -> str | None:
    """Several notes in one."""
    return "; ".join(note for note in notes if note) or None
