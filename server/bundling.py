"""Bundles of files: containers and media side by side in one container, and apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import SourceError
from harmony4.crypto.token import TokenRecord
from harmony4.h4mk import H4MKReader, HistoryEntry, Lost, Seal, Step, TrackInfo
from harmony4.h4mk.bundle import ContainerInput, Input, Progress, bundle
from harmony4.h4mk.layout import MAGIC
from harmony4.h4mk.target import Writable
from harmony4.server.ingest import (
    ExportOptions,
    OpenedSource,
    export_arguments,
    make_tokenizer,
    open_source,
    track_info,
)
from harmony4.tokenize.video import VideoBlockToken

__all__ = ["MediaInput", "bundle_files"]


class MediaInput:
    """A medium that goes into a bundle: one track, cut as `export` cuts it. A context manager."""

    def __init__(self, source: OpenedSource, options: ExportOptions) -> None:
        """Reads up to the first block. Raises MediaError, SourceError, StorageError, UsageError."""
        self._source = source
        self._options = options
        self._tokenizer = make_tokenizer(options)
        self._tokens: Iterator[VideoBlockToken] = self._tokenizer.encode(source.file)
        try:
            self._first = next(self._tokens, None)  # before it nobody knows what it is
        except BaseException:
            self.close()
            raise
        self.tracks: Sequence[TrackInfo] = [track_info(self._tokenizer)]
        self.origin = self._tokenizer.origin
        self.block = options.block_size

    def blocks(self, track: int) -> Iterator[tuple[TokenRecord, Buffer]]:
        """The blocks of its only track, once.

        Raises MediaError, SourceError, SourceChangedError, StorageError.
        """
        if self._first is not None:
            yield self._first.record, self._first.data
            self._first = None
        for token in self._tokens:
            yield token.record, token.data
        self._source.check(self._tokenizer.consumed)

    def steps(self) -> Iterable[Step]:
        """Clock jumps that were taken out, so far."""
        return [Step(step.pts, step.shift, 0) for step in self._tokenizer.steps]

    def lost(self) -> Iterable[Lost]:
        """Nothing is."""
        return ()

    def history(self) -> Iterable[HistoryEntry]:
        """That it was exported."""
        return [HistoryEntry("export", export_arguments(self._options, self.tracks[0]))]

    def part(self) -> None:
        """The stream is all there is."""

    def close(self) -> None:
        """End the demuxer's process."""
        cast(Any, self._tokens).close()

    def __enter__(self) -> MediaInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bundle_files(
    sources: Iterable[str | PathLike[str]],
    out: str | PathLike[str] | Writable,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Seal:
    """Put containers and media into one container; `options` are for the media, and its title.

    What is called .h4mk and is no container is refused. Raises SourceError, MediaError, FormatError and its
    kin, UsageError, StorageError. After an error nothing stands under the path `out` that was not there
    before.
    """
    options = options or ExportOptions()
    with ExitStack() as stack:
        inputs = [stack.enter_context(_input(source, options)) for source in sources]
        return bundle(inputs, out, title=options.title, progress=progress)


@contextmanager
def _input(source: str | PathLike[str], options: ExportOptions) -> Iterator[Input]:
    if _is_container(source):
        with H4MKReader(source) as reader:
            yield ContainerInput(reader)
    elif Path(source).suffix.lower() == ".h4mk":  # as opaque bytes it would go in, and nobody would notice
        raise SourceError(f"{Path(source).name} is called a container (.h4mk), and is none")
    else:
        with open_source(source) as opened, MediaInput(opened, options) as media:
            yield media


def _is_container(source: str | PathLike[str]) -> bool:
    try:
        with Path(source).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"cannot open the source: {reason}") from error
