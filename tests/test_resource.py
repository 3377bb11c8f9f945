"""server/reading/resource.py: what a request for bytes names is made once for each container and track."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.h4mk.source import FileSource
from serving import LOOPS, VIDEO, running

URL = "/video/range?name=a.h4mk"


def make(path: Path, damaged: str) -> range:
    """Two tracks; a bit of the first one's table is flipped. Returns the bytes of the file it fills."""
    with H4MKBuilder.to_path(path, [VIDEO, VIDEO], order="arrival") as builder:
        for number in range(50):
            for track in range(2):
                builder.add_block(b"%d:%02d" % (track, number), number * 1000, track=track, key=True)
        builder.finish(ends={0: 50_000, 1: 50_000})
    with H4MKReader(path) as reader:
        table = next(one for one in reader.chunks() if one.tag == damaged)
    with path.open("r+b") as file:
        file.seek(table.payload + table.size - 1)
        last = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([last ^ 1]))
    return range(table.payload, table.payload + table.size)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_damaged_map_is_not_read_for_each_request(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the container is opened, and once more for the first who asks; all get the same problem."""
    table = make(tmp_path / "a.h4mk", "RMAP")
    reads: list[int] = []
    real = FileSource.read_at

    def read_at(self: FileSource, offset: int, count: int) -> bytes:
        if 0 < offset < table.stop and offset + count > table.start:  # at 0 the whole small file
            reads.append(offset)
        return real(self, offset, count)

    monkeypatch.setattr(FileSource, "read_at", read_at)
    with running(tmp_path, loop=loop) as server:
        first = server.get(URL)
        assert (first.status, first.problem) == (500, "checksum")
        assert "RMAP" in first.json["detail"]
        assert 1 <= len(reads) <= 2
        before = len(reads)
        for _ in range(5):
            for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=0-1,5-9"}):
                assert server.get(URL, **headers).json == first.json
            assert server.get("/video/range/0.mp4?name=a.h4mk").json == first.json
            assert server.request("HEAD", URL).status == 500
        assert len(reads) == before
        sound = server.get(f"{URL}&track=1")
        assert (sound.status, sound.body[:8]) == (200, b"1:001:01")
        # What is known is known of this file: another one under its name is looked at.
        monkeypatch.setattr(FileSource, "read_at", real)
        make(tmp_path / "b.part", "SEEK")
        (tmp_path / "b.part").replace(tmp_path / "a.h4mk")
        assert server.get(URL).body[:8] == b"0:000:01"
