"""`verify_on_read`: of a damaged block nothing is sent, by whatever address under /video/; sound ones are.

Each block is a run of one byte value that no other block has, so a byte says which block it is of.
"""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from byteranges import parts_of
from harmony4.h4mk import H4MKBuilder, H4MKReader, verify
from harmony4.server.upstream.remote import HTTPSource
from serving import LOOPS, VIDEO, Server, running

FRAMED = replace(VIDEO, media_type="video/webm", self_framing=True)
HEAD = b"\xc0" * 5000
BLOCKS = [bytes([0xD0 + n]) * (100_000 + n) for n in range(10)]
"""Groups of two blocks, at 0, 2, 4, 6, 8 s, after a header. No byte here is ASCII; all headers are."""
STREAM = HEAD + b"".join(BLOCKS)
SECOND = 1_000_000
DAMAGED = 5
"""The second block of the group at 4 s."""
FLIPPED = 0xD0 + DAMAGED ^ 1 << 3
"""What the damaged byte is now: a value that nothing else has."""
URL = "/video/range?name=a.h4mk"


def group(first: int, stop: int) -> bytes:
    return b"".join(BLOCKS[2 * first : 2 * stop])


def at(number: int) -> int:
    """Where a block begins in the stream."""
    return len(HEAD) + sum(map(len, BLOCKS[:number]))


def damage(path: Path, offset: int) -> None:
    """Flip a bit of a byte of the track's stream."""
    with H4MKReader(path) as reader:
        ((position, _),) = reader.extents(offset, 1)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << 3]))


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    for name, offset in (("a", at(DAMAGED) + 40_000), ("head", 100), ("sound", None)):
        with H4MKBuilder.to_path(root / f"{name}.h4mk", [FRAMED]) as builder:
            builder.add_block(HEAD, 0, header=True)
            for number, payload in enumerate(BLOCKS):
                builder.add_block(payload, number * SECOND, key=number % 2 == 0)
            builder.finish(ends={0: 10 * SECOND})
        if offset is not None:
            damage(root / f"{name}.h4mk", offset)
    with running(root, loop=request.param, verify_on_read=True) as one:
        yield one


@dataclass(frozen=True)
class Torn:
    """What came of an answer that broke off."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def torn(server: Server, target: str, **headers: str) -> Torn:
    """An answer that does not come whole: what came of it before the connection broke."""
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    received = b""
    try:
        while piece := answer.read1(2**16):
            received += piece
    except ConnectionError:
        pass
    connection.close()
    assert answer.length  # there was to be more
    return Torn(answer.status, answer.headers, received)


def test_the_file_is_damaged(server: Server) -> None:
    """Each test below rests on this: without the setting the byte would be sent."""
    file = server.get("/container?name=a.h4mk").body
    assert file.count(FLIPPED) >= 1
    with H4MKReader(file) as reader:
        assert (
            reader.read(0, len(STREAM))
            == STREAM[: at(DAMAGED) + 40_000] + bytes([FLIPPED]) + (STREAM[at(DAMAGED) + 40_001 :])
        )


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("pts=0&end_pts=4000000", group(0, 2)),
        ("pts=0&end_pts=4000000&init=1", HEAD + group(0, 2)),
        ("pts=6000000", group(3, 5)),
        ("pts=6500000&end_pts=7000000&init=1", HEAD + group(3, 4)),
        ("pts=8000000&init=1", HEAD + group(4, 5)),
    ],
)
def test_times_of_sound_blocks(server: Server, query: str, body: bytes) -> None:
    for _ in range(2):
        answer = server.get(f"{URL}&{query}")
        assert (answer.status, answer.body) == (200, body)
    part = server.get(f"{URL}&{query}", Range="bytes=4990-105009")
    assert (part.status, part.body) == (206, body[4990:105_010])


@pytest.mark.parametrize(
    ("query", "sound"),
    [
        ("pts=4000000&end_pts=5000000", BLOCKS[4]),
        ("pts=5999999&end_pts=6000000&init=1", HEAD + BLOCKS[4]),
        ("pts=0", group(0, 2) + BLOCKS[4]),
        ("pts=0&init=1", HEAD + group(0, 2) + BLOCKS[4]),
        ("pts=2000000&end_pts=9000000&init=1", HEAD + group(1, 2) + BLOCKS[4]),
    ],
)
def test_times_with_a_damaged_block(
    server: Server, query: str, sound: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The blocks before it may have gone out; of itself and behind it nothing has."""
    with caplog.at_level(logging.WARNING, "harmony4.server"):
        answer = torn(server, f"{URL}&{query}")
    assert answer.status == 200
    assert sound.startswith(answer.body)
    assert "fails its CRC" in caplog.text


def test_ranges_of_a_time_with_a_damaged_block(server: Server) -> None:
    """The part that is asked for counts, not the rest of the time."""
    url = f"{URL}&pts=4000000&end_pts=6000000&init=1"
    seam = len(HEAD) + len(BLOCKS[4])
    good = server.get(url, Range=f"bytes=0-{seam - 1}")
    assert (good.status, good.body) == (206, HEAD + BLOCKS[4])
    for first, last in ((0, 0), (0, 10), (40_000, 40_000), (90_000, 90_001)):
        bad = server.get(url, Range=f"bytes={seam + first}-{seam + last}")
        assert (bad.status, bad.problem) == (500, "checksum")
        assert "Content-Range" not in bad.headers
    cut = torn(server, url, Range=f"bytes=10-{seam + 5}")
    assert cut.status == 206
    assert (HEAD[10:] + BLOCKS[4]).startswith(cut.body)


def test_a_damaged_header(server: Server) -> None:
    """It comes first, so there is a problem, and no answer that begins well; without it all is sound."""
    url = "/video/range?name=head.h4mk"
    for query in ("pts=0&init=1", "pts=4000000&end_pts=5000000&init=1"):
        bad = server.get(f"{url}&{query}")
        assert (bad.status, bad.problem) == (500, "checksum")
    assert server.get(f"{url}&pts=0").body == group(0, 5)
    assert server.get(f"{url}&pts=4000000&end_pts=5000000&init=0").body == group(2, 3)


def wanted(*ranges: tuple[int, int]) -> str:
    return "bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in ranges)


def test_several_sound_ranges(server: Server) -> None:
    asked = [(10, 20), (at(3) - 5, at(3) + 5), (at(6), at(7)), (len(STREAM) - 7, len(STREAM))]
    for name in ("a", "sound"):
        answer = server.get(f"/video/range?name={name}.h4mk", Range=wanted(*asked))
        assert answer.status == 206
        found = parts_of(answer.headers["Content-Type"], answer.body)
        assert [(one.start, one.stop) for one in found] == asked
        assert [one.body for one in found] == [STREAM[start:stop] for start, stop in asked]


@pytest.mark.parametrize("query", ["", "&pts=0&init=1"])
def test_several_ranges_with_a_damaged_block(
    server: Server, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its range comes first there is a problem; else the answer breaks off before it."""
    bad = (at(DAMAGED) + 39_000, at(DAMAGED) + 41_000)
    answer = server.get(f"{URL}{query}", Range=wanted(bad, (0, 10)))
    assert (answer.status, answer.problem) == (500, "checksum")
    # Of a block that fails nothing is sent, not even those bytes that nobody damaged.
    for start, stop in (bad, (at(DAMAGED) + 10, at(DAMAGED) + 20), (at(DAMAGED) - 50_000, at(DAMAGED) + 1)):
        ranges = wanted((0, 10), (at(2), at(2) + 90_000), (start, stop), (at(8), at(9)))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "harmony4.server"):
            cut = torn(server, f"{URL}{query}", Range=ranges)
        assert cut.status == 206
        assert cut.headers.get_content_type() == "multipart/byteranges"
        payload = bytes(byte for byte in cut.body if byte >= 0x80)
        good = STREAM[:10] + STREAM[at(2) : at(2) + 90_000] + STREAM[start : at(DAMAGED)]
        assert good.startswith(payload)
        assert "fails its CRC" in caplog.text


def test_the_file_itself_is_sent_as_it_is(server: Server, tmp_path: Path) -> None:
    """docs/DEPLOYMENT.md: whoever fetches it can verify it, and finds the damage."""
    for name, ok in (("a", False), ("head", False), ("sound", True)):
        answer = server.get(f"/container?name={name}.h4mk")
        assert answer.status == 200
        (tmp_path / name).write_bytes(answer.body)
        assert verify(tmp_path / name).ok is ok
        with HTTPSource(f"{server.url}/container?name={name}.h4mk") as source:
            assert verify(source).ok is ok
        part = server.get(f"/container?name={name}.h4mk", Range="bytes=1000-900000")
        assert part.body == answer.body[1000:900_001]
    with H4MKReader(tmp_path / "a") as reader:
        (position,) = (place for place, _ in reader.extents(at(DAMAGED) + 40_000, 1))
    assert server.get("/container?name=a.h4mk", Range=f"bytes={position}-{position}").body == bytes([FLIPPED])
    assert any("CRC" in str(problem) for problem in verify(tmp_path / "a").problems)
