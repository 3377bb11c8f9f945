"""h4mk/blockfile.py: `reader.open(track)` is a file to libraries that know nothing of containers."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
import pandas
import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo
from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import PLAIN, media
from needs import BUNNY, needs_ffmpeg

SMALL = ExportOptions(block_size=20_000)
"""So that packets lie across the borders of blocks."""


def packets(source: Path | BinaryIO, seek: int | None = None) -> list[tuple[Any, ...]]:
    """All that PyAV finds, from the beginning or from a time in µs."""
    with av.open(source) as found:
        if seek is not None:
            found.seek(seek)
        return [
            (one.stream_index, one.pts, one.dts, one.duration, one.pos, one.is_keyframe, bytes(one))
            for one in found.demux()
            if one.size
        ]


def compare(path: Path, folder: Path) -> None:
    export(path, folder / "a.h4mk", SMALL)
    with H4MKReader(folder / "a.h4mk") as reader:
        assert reader.tracks[0].blocks > 2
        expected = packets(path)
        assert len(expected) > 30
        with reader.open(0) as stream:
            assert packets(stream) == expected
        for time in (3_000_000, 1_000_000):
            with reader.open(0) as stream:
                assert packets(stream, time) == packets(path, time)


def test_pyav_demuxes_it(tmp_path: Path) -> None:
    compare(BUNNY, tmp_path)


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_pyav_demuxes_every_format(name: str, tmp_path: Path) -> None:
    compare(media(name), tmp_path)


def test_pyav_decodes_it(tmp_path: Path) -> None:
    export(BUNNY, tmp_path / "a.h4mk", SMALL)

    def pictures(source: Path | BinaryIO) -> list[bytes]:
        with av.open(source) as found:
            return [frame.to_ndarray().tobytes() for frame in islice(found.decode(video=0), 20)]

    with H4MKReader(tmp_path / "a.h4mk") as reader, reader.open(0) as stream:
        assert pictures(stream) == pictures(BUNNY)


ROWS = 5000


@pytest.mark.parametrize("block", [7, 1000, 2**20])
def test_pandas_reads_it(tmp_path: Path, block: int) -> None:
    """A table in a data track, cut wherever a block is full: in numbers, quoted text, characters."""
    lines = ['time,level,"said, by whom"']
    lines += [f'{number},{number / 7!r},"ä, ""{number}"" 映画\n{number}"' for number in range(ROWS)]
    table = "\n".join([*lines, ""]).encode()
    (tmp_path / "table.csv").write_bytes(table)
    info = TrackInfo(kind="data", media_type="text/csv")
    with H4MKBuilder.to_path(
        tmp_path / "a.h4mk", [TrackInfo(kind="audio"), info], order="arrival"
    ) as builder:
        builder.add_block(b"no table", 0, key=True)
        for at in range(0, len(table), block):
            builder.add_block(table[at : at + block], at, track=1, key=True)
        builder.finish(ends={0: 1, 1: len(table)})
    expected = pandas.read_csv(tmp_path / "table.csv")
    assert (expected.shape, list(expected["time"])) == ((ROWS, 3), list(range(ROWS)))
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        with reader.open(1) as stream:
            pandas.testing.assert_frame_equal(pandas.read_csv(stream), expected, check_exact=True)
        with reader.open(1) as stream:  # in parts, as for tables that do not fit into memory
            parts = list(pandas.read_csv(stream, chunksize=700))
            pandas.testing.assert_frame_equal(pandas.concat(parts), expected, check_exact=True)
        with reader.open(1) as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
            assert text.read() == table.decode()
