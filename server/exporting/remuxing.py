"""Media that players cannot take by segments, as fragmented MP4 on their way into a container.

What plays so already stays as it is: fragmented MP4, WebM, MPEG-TS, MP3. Of anything else `Sandbox.remux`
makes fragmented MP4, in a process of its own; a second one demuxes that as it comes. A source that is not a
file is put on disk first, so that a file and a pipe give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from harmony4.crypto.errors import MediaError
from harmony4.h4mk.edits.bundle import bundle
from harmony4.server.exporting.bundling import MediaInput
from harmony4.server.exporting.ingest import ExportOptions, ExportResult, Progress, joined, run_export
from harmony4.server.exporting.remux import StreamNote
from harmony4.server.exporting.sources import OpenedSource, on_disk
from harmony4.server.sandboxing.sandbox import Remuxer, Sandbox
from harmony4.tokenize.demux import Demuxer
from harmony4.tokenize.feed import SeekableFile
from harmony4.tokenize.media import missing_note
from harmony4.tokenize.scan import missing
from harmony4.tokenize.sniff import SNIFF_SIZE, Format, sniff
from harmony4.tokenize.video import VideoTransportTokenizer

if TYPE_CHECKING:
    from harmony4.tokenize.decode import SoundDecoder

__all__ = ["cut_off", "export_remuxed", "left_out", "plays_alone", "recognize", "remuxed"]

_PACKET: Final = 188
"""Bytes of an MPEG-TS packet; those of 192 (M2TS) no player takes by segments."""
_BOX: Final = struct.Struct(">I4s")
_BOXES: Final = 1024
"""So many boxes in a row are looked at; the first fragment comes soon behind the `moov`."""
_NAMED: Final = 8
"""So many streams that are left out are named."""


def export_remuxed(
    source: OpenedSource,
    target: Path | BinaryIO,
    tokenizer: VideoTransportTokenizer,
    options: ExportOptions,
    progress: Progress | None,
    demuxer: Demuxer | None = None,
    decoder: SoundDecoder | None = None,
    spool_folder: str | PathLike[str] | None = None,
) -> ExportResult:
    """`ingest.export` with `remux`; a sandbox as `demuxer` remuxes as well, within its limits.

    A spectrum is that of the sound in the first track. Raises MediaError where nobody knows the format, and
    as `export` does.
    """
    sandbox = demuxer if isinstance(demuxer, Sandbox) else Sandbox()
    with on_disk(source, spool_folder) as file:
        found = recognize(file)
        if found is None:
            raise MediaError("it is in no known media format, so it cannot be remuxed")
        if plays_alone(found, file):
            if options.spectrum is not None:
                from harmony4.server.exporting.spectra import (
                    export_spectrum,  # NumPy takes its time, and few need it
                )

                result = export_spectrum(
                    [file], file, target, options, progress, demuxer, decoder, spool_folder
                )
            else:
                result = run_export(file, target, tokenizer, options, progress)
            kept = "kept as it is" + (": its blocks play alone already" if result.track.self_framing else "")
            return replace(result, note=joined(result.note, kept))
        short = cut_off(file, found)
        with remuxed(file, found, sandbox=sandbox) as (moved, notes):
            left = left_out(notes)
            if options.spectrum is not None:
                from harmony4.server.exporting.spectra import export_spectrum  # as above

                sources = [moved, file] if options.keep_original else [moved]
                with remuxed(file, found, sandbox=sandbox) as (again, _):
                    result = export_spectrum(
                        sources, again, target, options, progress, demuxer, decoder, spool_folder
                    )
                return replace(result, note=joined(result.note, short, left))
            if not options.keep_original:
                result = run_export(moved, target, tokenizer, options, progress)
                return replace(result, note=joined(result.note, short, left))
            with ExitStack() as stack:
                inputs = [
                    stack.enter_context(MediaInput(one, options, demuxer, spool_folder))
                    for one in (moved, file)
                ]
                told = None if progress is None else lambda done, _: progress(done, None)
                seal = bundle(
                    inputs,
                    target,
                    title=options.title,
                    masking=options.masking,
                    progress=told,
                    signer=options.signer,
                    sign_every=options.sign_every,
                )
                track = inputs[0].tracks[0]
                note = joined(*dict.fromkeys([*(one.note() for one in inputs), short, left]))
                return ExportResult(seal, track, track.timing, note)


def recognize(source: OpenedSource) -> Format | None:
    """The format of a file. Raises SourceError."""
    return sniff(_file(source).read(SNIFF_SIZE))


def plays_alone(found: Format, source: OpenedSource) -> bool:
    """Whether players can take such a file by segments as it is."""
    if found.name == "mp4":
        return found.video_type == "video/mp4" and _is_fragmented(_file(source), source.size or 0)
    if found.name == "mpegts":
        return found.packet == _PACKET
    return found.name == "mp3" or found.video_type == "video/webm"


@contextmanager
def remuxed(
    source: OpenedSource,
    found: Format,
    streams: Collection[int] | None = None,
    *,
    sandbox: Sandbox | None = None,
) -> Iterator[tuple[OpenedSource, tuple[StreamNote, ...]]]:
    """Streams of a file (None: all that fit) as one fragmented MP4, read once, and notes of all its streams.

    Raises MediaError, SourceError, StorageError.
    """
    with (sandbox or Sandbox()).remux(_file(source), found.name, streams) as worker:
        yield _Remuxed(worker, source), worker.notes


class _Remuxed(OpenedSource):
    """What comes out of a remuxer, and goes wrong as its source does."""

    def __init__(self, worker: Remuxer, source: OpenedSource) -> None:
        super().__init__(iter(worker), source.size, None, {"remux": True})
        self._source = source
        self._worker = worker

    def broken(self) -> str | None:
        """As OpenedSource."""
        stopped = self._worker.stopped
        return None if stopped is None else f"the media break off, and the rest is left out: {stopped}"

    def check(self, consumed: int) -> None:
        """Raise SourceChangedError unless the source is still what it was."""
        assert self._source.size is not None
        self._source.check(self._source.size)


def left_out(notes: Collection[StreamNote]) -> str | None:
    """What a user should know of streams that do not go into MP4; None where all do."""
    names = [f"{note.kind} {note.index} ({note.codec})" for note in notes if not note.fits]
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    listed = ", ".join(names[:_NAMED] + more)
    return f"left out, for MP4 does not hold them: {listed}" if names else None


def cut_off(source: OpenedSource, found: Format) -> str | None:
    """What a user should know of a file that ends too early; None if it does not. Raises SourceError."""
    assert source.size is not None
    note = missing_note(missing(_file(source), source.size, found.name))
    return note and f"the media break off: {note}"


def _file(source: OpenedSource) -> SeekableFile:
    """A cursor of its own in the source's file."""
    assert source.size is not None
    return SeekableFile(cast(BinaryIO, source.file), source.size)


def _is_fragmented(file: SeekableFile, size: int) -> bool:
    """Whether an MP4 says so in its `moov` (`mvex`, ISO/IEC 14496-12 §8.8.1) and has a `moof` behind it."""
    promised = False
    for kind, start, stop in _boxes(file, 0, size):
        if kind == b"moov":
            promised = any(inner == b"mvex" for inner, _, _ in _boxes(file, start, stop))
        elif kind == b"moof":
            return promised
    return False


def _boxes(file: SeekableFile, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, stop) of the contents of the boxes in a row, as far as they are whole."""
    for _ in range(_BOXES):
        file.seek(at)
        head = file.read(min(16, stop - at))
        if len(head) < _BOX.size:
            return
        size, kind = _BOX.unpack_from(head)
        begin = at + _BOX.size
        if size == 1 and len(head) == 16:
            size, begin = int.from_bytes(head[8:]), at + 16
        elif size == 0:
            size = stop - at
        if not begin <= at + size <= stop:
            return
        yield kind, begin, at + size
        at += size
