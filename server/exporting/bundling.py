"""Bundles of files: containers and media side by side in one container, and apart again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import LimitError, MediaError, SourceError, UsageError
from harmony4.crypto.token import HEADER, NONE, TokenRecord
from harmony4.h4mk import H4MKReader, HistoryEntry, Lost, Seal, Step, TrackInfo
from harmony4.h4mk.edits.bundle import ContainerInput, Input, bundle
from harmony4.h4mk.edits.rewrite import Progress
from harmony4.h4mk.edits.target import Writable
from harmony4.h4mk.layout import MAGIC
from harmony4.server.exporting.ingest import (
    ExportOptions,
    export_arguments,
    export_note,
    joined,
    make_tokenizer,
    track_info,
)
from harmony4.server.exporting.sources import OpenedSource, on_disk, open_source
from harmony4.tokenize.demux import Demuxer
from harmony4.tokenize.feed import SeekableFile
from harmony4.tokenize.video import VideoBlockToken

__all__ = ["MediaInput", "bundle_files"]

_STREAMS: Final = 32
"""Most streams that one source is taken apart into: each has two processes at work."""
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")
_NAME: Final = 200
"""Longest title of a stream that is kept, characters."""


class MediaInput:
    """A medium that goes into a bundle: one track, cut as `export` cuts it. A context manager."""

    def __init__(
        self,
        source: OpenedSource,
        options: ExportOptions,
        demuxer: Demuxer | None = None,
        spool_folder: str | PathLike[str] | None = None,
    ) -> None:
        """Reads up to the first block; `demuxer` and `spool_folder` as `export` takes them.

        Raises MediaError, SourceError, StorageError, UsageError.
        """
        self._source = source
        self._options = options
        self._tokenizer = make_tokenizer(options, demuxer, spool_folder)
        self._tokens: Iterator[VideoBlockToken] = self._tokenizer.encode(source.file)
        try:
            self._first = next(self._tokens, None)  # before it nobody knows what it is
        except BaseException:
            self.close()
            raise
        self.tracks: Sequence[TrackInfo] = [track_info(self._tokenizer)]
        self.origin = self._tokenizer.origin
        self.block = options.block_size
        self._shift = 0

    @property
    def structure_only(self) -> bool:
        """Nobody looks into tokens that come from elsewhere."""
        return self.tracks[0].kind != "tokens"

    @property
    def consumed(self) -> int:
        """Bytes of the source read so far."""
        return self._tokenizer.consumed

    def align(self, origin: int) -> None:
        """Put its blocks on a clock that begins at `origin` µs, not later than its own: as others' are.

        Before any block is asked for.
        """
        self._shift += self.origin - origin
        self.origin = origin

    def named(self, lang: str | None, name: str | None) -> None:
        """Say of its track what its stream's language and title are; what TRAK does not take is left out."""
        (track,) = self.tracks
        lang = lang if lang is not None and _LANGUAGE.fullmatch(lang) and lang != "und" else None
        name = name if name is not None and 0 < len(name) <= _NAME and name.isprintable() else None
        self.tracks = [replace(track, lang=lang, name=name)]

    def blocks(self, track: int) -> Iterator[tuple[TokenRecord, Buffer]]:
        """The blocks of its only track, once.

        Raises MediaError, SourceError, SourceChangedError, StorageError.
        """
        for token in chain([self._first] if self._first is not None else [], self._tokens):
            self._first = None
            yield _later(token.record, self._shift), token.data
        self._source.check(self._tokenizer.consumed)

    def steps(self) -> Iterable[Step]:
        """Clock jumps that were taken out, so far."""
        return [Step(step.pts + self._shift, step.shift, 0) for step in self._tokenizer.steps]

    def lost(self) -> Iterable[Lost]:
        """Nothing is."""
        return ()

    def history(self) -> Iterable[HistoryEntry]:
        """That it was exported."""
        arguments = export_arguments(self._options, self.tracks[0]) | self._source.arguments
        return [HistoryEntry("export", arguments)]

    def part(self) -> None:
        """The stream is all there is."""

    def note(self) -> str | None:
        """What a user should know of it; asked for when all blocks have been read."""
        return joined(export_note(self._tokenizer, self._options, self.tracks[0]), self._source.broken())

    def close(self) -> None:
        """End the demuxer's process."""
        cast(Any, self._tokens).close()

    def __enter__(self) -> MediaInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _later(record: TokenRecord, shift: int) -> TokenRecord:
    """The same block `shift` µs later; header blocks begin at 0 wherever the first picture is (H4MK 16.6)."""
    if not shift:
        return record
    known = record.key_pts != NONE
    header = bool(record.flags & HEADER)
    return replace(
        record,
        pts=record.pts if header else record.pts + shift,
        end=record.end + shift,
        key_pts=record.key_pts + shift if known else NONE,
        min_pts=record.min_pts if header else record.min_pts + shift,
    )


def bundle_files(
    sources: Iterable[str | PathLike[str]],
    out: str | PathLike[str] | Writable,
    options: ExportOptions | None = None,
    *,
    demux: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> Seal:
    """Put containers and media into one container; `options` are for the media, and its title.

    What is called .h4mk and is no container is refused. `demux`: media of several streams, plain MP4 and
    Matroska become one track of fragmented MP4 for each stream, on one clock. `say` is told what a user
    should know: which streams are left out.
    Raises SourceError, MediaError, FormatError and its kin, UsageError, StorageError, LimitError. After an
    error nothing stands under the path `out` that was not there before.
    """
    options = options or ExportOptions()
    if options.spectrum is not None:
        raise UsageError("a bundle stores no spectrum: export the media with it first")
    with ExitStack() as stack:
        inputs: list[Input] = []
        told = say or (lambda text: None)
        for source in sources:
            inputs += _inputs(stack, source, options, demux, told)
        seal = bundle(inputs, out, title=options.title, progress=progress)
        track = 0
        for one in inputs:
            note = one.note() if isinstance(one, MediaInput) else None
            if note is not None:
                told(f"track {track}: {note}")
            track += len(one.tracks)
        return seal


def _inputs(
    stack: ExitStack,
    source: str | PathLike[str],
    options: ExportOptions,
    demux: bool,
    say: Callable[[str], object],
) -> Sequence[Input]:
    """What one source puts in; all of it is open until the stack is left."""
    opened = stack.enter_context(open_source(source))
    # Opened once: what comes out of a pipe is gone when somebody has looked at it.
    file = stack.enter_context(on_disk(opened))
    if _is_container(file):
        if opened.before is None:
            raise SourceError("a container that goes into a bundle must be a file")
        return [ContainerInput(stack.enter_context(H4MKReader(source)))]
    if Path(source).suffix.lower() == ".h4mk":  # as opaque bytes it would go in, and nobody would notice
        raise SourceError(f"{Path(source).name} is called a container (.h4mk), and is none")
    if demux:
        parts = _demuxed(stack, file, options, say)
        if parts is not None:
            return parts
    return [stack.enter_context(MediaInput(file, options))]


def _demuxed(
    stack: ExitStack, file: OpenedSource, options: ExportOptions, say: Callable[[str], object]
) -> list[MediaInput] | None:
    """An input for each stream of a muxed source; None where it stays one."""
    from harmony4.server.exporting import remuxing  # which stands on this module

    found = remuxing.recognize(file)
    if found is None:
        return None
    with remuxing.remuxed(file, found, ()) as (_, notes):
        pass
    if len(notes) == 1 and found.name not in ("mp4", "matroska"):
        return None
    fitting = [note for note in notes if note.fits]
    if not fitting:
        raise MediaError("none of its streams can be put into MP4", where=found.name)
    if len(fitting) > _STREAMS:
        raise LimitError("too many streams to take apart", expected=f"<= {_STREAMS}", found=len(fitting))
    for told in (remuxing.cut_off(file, found), remuxing.left_out(notes)):
        if told is not None:
            say(told)
    parts = []
    for note in fitting:
        moved, _ = stack.enter_context(remuxing.remuxed(file, found, [note.index]))
        part = stack.enter_context(MediaInput(moved, options))
        part.named(note.lang, note.name)
        parts.append(part)
    origin = min(part.origin for part in parts)
    for part in parts:
        part.align(origin)
    return parts


def _is_container(file: OpenedSource) -> bool:
    assert file.size is not None
    return SeekableFile(cast(BinaryIO, file.file), file.size).read(len(MAGIC)) == MAGIC
