"""`/video/range` over real sockets, on each event loop: the payload takes another path on each."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import logging
import os
import random
import re
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo
from harmony4.server.reading import payload
from needs import ORIGINAL
from serving import LOOPS, VIDEO, Server, running, write_container

BLOCKS = [
    random.Random(n).randbytes(size) for n, size in enumerate([70_000, 1, 300_000, 5, 4_000_000, 80_000])
]
STREAM = b"".join(BLOCKS)
SIZE = len(STREAM)
TINY = [bytes([n % 256]) * (1 + n % 3) for n in range(5000)]
URL = "/video/range?name=a.h4mk"


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=2)
    write_container(root / "tiny.h4mk", TINY)
    write_container(root / "empty.h4mk", [])
    write_container(root / "deep" / "ä b&c=d+e%20.h4mk", [b"odd name"])
    for kind in ("text/html", "image/svg+xml", "video/mp4\r\nX-Evil: 1", "audio/ogg", "VIDEO/MP4", "-"):
        write_container(root / f"{sum(kind.encode())}.h4mk", [b"x"], info=replace(VIDEO, media_type=kind))
    two = [TrackInfo(kind="video", media_type="video/webm"), TrackInfo(kind="audio", media_type="audio/flac")]
    with H4MKBuilder.to_path(root / "two.h4mk", two, order="arrival") as builder:
        for number in range(4):
            builder.add_block(b"video%d" % number, number, key=True)
            builder.add_block(b"audio%d" % number, number, track=1, key=True)
        builder.finish()
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    whole = (root / "a.h4mk").read_bytes()
    (root / "cut.h4mk").write_bytes(whole[: len(whole) // 2])
    with running(root, loop=request.param) as one:
        yield one


def etag_of(server: Server, name: str = "a.h4mk") -> str:
    return str(server.request("HEAD", f"/video/range?name={name}").headers["ETag"])


def test_whole(server: Server) -> None:
    answer = server.get(URL)
    assert answer.status == 200
    assert answer.body == STREAM
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["ETag"])
    assert answer.headers["Last-Modified"].endswith(" GMT")
    assert "Content-Encoding" not in answer.headers
    assert "aiohttp" not in answer.headers["Server"]


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=-10", SIZE - 10, SIZE),
        ("bytes=69999-70001", 69_999, 70_002),  # across two block boundaries
        ("bytes=70000-70000", 70_000, 70_001),
        ("bytes=0-", 0, SIZE),
        ("bytes=100000-99999999", 100_000, SIZE),
        ("BYTES= 5-6", 5, 7),
    ],
)
def test_single_range(server: Server, value: str, start: int, stop: int) -> None:
    answer = server.get(URL, Range=value)
    assert answer.status == 206
    assert answer.body == STREAM[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"


def test_random_ranges_on_one_connection(server: Server) -> None:
    rng = random.Random(4)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for _ in range(150):
        start = rng.randrange(SIZE)
        stop = min(SIZE, start + rng.choice([1, 1000, 70_000, 2_000_000]))
        connection.request("GET", URL, headers={"Range": f"bytes={start}-{stop - 1}"})
        answer = connection.getresponse()
        assert answer.read() == STREAM[start:stop]
    connection.close()


def test_many_small_blocks(server: Server) -> None:
    stream = b"".join(TINY)
    assert server.get("/video/range?name=tiny.h4mk").body == stream
    assert server.get("/video/range?name=tiny.h4mk", Range="bytes=1001-8999").body == stream[1001:9000]


def test_small_blocks_leave_others_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes so little at once, and then nothing makes the server wait for it."""
    write_container(tmp_path / "a.h4mk", [b"x"] * 6400)
    turn = 0
    seen = []
    take = payload._Pieces.take

    def watched(*args: Any) -> list[tuple[int, int]]:
        seen.append(turn)
        return take(*args)

    async def count() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async def ask(server: Server) -> bytes:
        counting = asyncio.get_running_loop().create_task(count())
        try:
            return (await asyncio.to_thread(server.get, URL)).body
        finally:
            counting.cancel()

    monkeypatch.setattr(payload._Pieces, "take", watched)
    with running(tmp_path) as server:
        assert asyncio.run_coroutine_threadsafe(ask(server), server.loop).result(60) == b"x" * 6400
    assert len(seen) >= 100
    assert len(set(seen)) >= len(seen) - 1  # the second is looked up before the first has had its turn


@pytest.mark.parametrize(
    "value", ["bytes=-0", f"bytes={SIZE}-", "bytes=9-3", "bytes=abc", "bytes=9223372036854775808-"]
)
def test_unsatisfiable(server: Server, value: str) -> None:
    answer = server.get(URL, Range=value)
    assert answer.status == 416
    assert answer.problem == "range"
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    "value",
    [
        "items=0-9",
        "bytes=" + ",".join(["0-"] * 1300),  # CVE-2011-3192, over 1 KiB
        "bytes=" + ",".join(["0-"] * 100),
        "bytes=" + ",".join(f"{n}-{n + 5}" for n in range(100)),  # CVE-2025-62727
    ],
)
def test_answered_with_the_whole(server: Server, value: str) -> None:
    answer = server.get(URL, Range=value)
    assert (answer.status, len(answer.body)) == (200, SIZE)


def test_ten_thousand_ranges(server: Server) -> None:
    # aiohttp takes header lines up to 8 KiB: what is longer is refused before it is a request.
    answer = server.get(URL, Range="bytes=" + ",".join(["0-0"] * 10_000))
    assert answer.status == 400
    assert answer.problem == "http"


def test_two_range_headers(server: Server) -> None:
    answer = server.request("GET", URL, [("Range", "bytes=0-9"), ("Range", "bytes=0-9")])
    assert (answer.status, answer.body) == (200, STREAM)


def test_head(server: Server) -> None:
    whole = server.get(URL)
    for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=99999999-"}):
        answer = server.request("HEAD", URL, headers)
        assert (answer.status, answer.body) == (200, b"")
        for name in (
            "Content-Length",
            "Content-Type",
            "ETag",
            "Last-Modified",
            "Accept-Ranges",
            "Cache-Control",
        ):
            assert answer.headers[name] == whole.headers[name]


def test_validators(server: Server) -> None:
    etag = etag_of(server)
    modified = server.request("HEAD", URL).headers["Last-Modified"]
    for headers in ({"If-None-Match": etag}, {"If-None-Match": f"W/{etag}"}, {"If-Modified-Since": modified}):
        answer = server.request("GET", URL, headers)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert answer.headers["Cache-Control"] == "no-cache"
    stale = server.get(URL, If_Match='"old"', Range="bytes=0-9")
    assert (stale.status, stale.problem) == (412, "precondition")
    assert server.get(URL, If_Match=etag, Range="bytes=0-9").status == 206
    for value, status in ((etag, 206), ('"old"', 200), (f"W/{etag}", 200), (modified, 206)):
        assert server.get(URL, Range="bytes=0-9", If_Range=value).status == status


def test_etag_is_of_the_content(server: Server, tmp_path: Path) -> None:
    write_container(tmp_path / "elsewhere.h4mk", BLOCKS, key_every=2)
    os.utime(tmp_path / "elsewhere.h4mk", (1, 1))
    with running(tmp_path) as other:
        assert etag_of(other, "elsewhere.h4mk") == etag_of(server)


def test_version(server: Server) -> None:
    version = etag_of(server).strip('"')[:16]
    for url in (f"{URL}&v={version}", f"/video/range/0.mp4?name=a.h4mk&v={version}"):
        answer = server.get(url, Range="bytes=0-9")
        assert (answer.status, answer.body) == (206, STREAM[:10])
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    answer = server.get(f"{URL}&v=0123456789abcdef")
    assert (answer.status, answer.problem) == (410, "stale")


def test_named_path(server: Server) -> None:
    assert server.get("/video/range/0.mp4?name=a.h4mk").body == STREAM
    assert server.request("HEAD", "/video/range/0.mp4?name=a.h4mk").headers["Content-Length"] == str(SIZE)
    assert server.get("/video/range/0.webm?name=a.h4mk").problem == "not-found"
    assert server.get("/video/range/1.mp4?name=a.h4mk").problem == "not-found"
    assert server.get("/video/range/0.mp4?name=a.h4mk&track=1").problem == "usage"
    assert server.get("/video/range/99999.mp4?name=a.h4mk").status == 404
    assert server.get("/video/range/x.mp4?name=a.h4mk").problem == "no-route"


def test_tracks(server: Server) -> None:
    url = "/video/range?name=two.h4mk"
    assert server.get(url).body == server.get(f"{url}&track=0").body == b"video0video1video2video3"
    audio = server.get(f"{url}&track=1", Range="bytes=5-8")
    assert (audio.body, audio.headers["Content-Type"]) == (b"0aud", "audio/flac")
    assert audio.headers["ETag"] != etag_of(server, "two.h4mk")
    assert server.get("/video/range/1.flac?name=two.h4mk").body == b"audio0audio1audio2audio3"
    assert server.get(f"{url}&track=2").problem == "not-found"
    for wrong in ("-1", "x", "1.0", "%D9%A3", "9" * 30):
        assert server.get(f"{url}&track={wrong}").problem in ("usage", "http")


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("video/mp4\r\nX-Evil: 1", "application/octet-stream"),
        ("VIDEO/MP4", "application/octet-stream"),
        ("-", "application/octet-stream"),
        ("audio/ogg", "audio/ogg"),
    ],
)
def test_content_type_is_audio_video_or_opaque(server: Server, kind: str, served: str) -> None:
    answer = server.get(f"/video/range?name={sum(kind.encode())}.h4mk")
    assert (answer.status, answer.headers["Content-Type"]) == (200, served)
    assert "X-Evil" not in answer.headers


def test_empty(server: Server) -> None:
    for headers in ({}, {"Range": "bytes=0-0"}, {"Range": "bytes=-5"}):
        answer = server.request("GET", "/video/range?name=empty.h4mk", headers)
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


def test_odd_name(server: Server) -> None:
    assert server.get("/video/range?name=deep/%C3%A4%20b%26c%3Dd%2Be%2520.h4mk").body == b"odd name"
    assert server.get("/video/range?name=deep%2F%C3%A4+b%26c%3Dd%2Be%2520.h4mk").body == b"odd name"


def test_original(server: Server) -> None:
    with H4MKReader(ORIGINAL) as reader:
        stream = reader.read(0, reader.stream_size())
    answer = server.get("/video/range?name=original.h4mk")
    assert (answer.status, answer.body) == (200, stream)
    assert server.get("/video/range?name=original.h4mk", Range="bytes=8-12").body == stream[8:13]
    assert answer.headers["ETag"]


def test_incomplete(server: Server) -> None:
    answer = server.get("/video/range?name=cut.h4mk")
    assert answer.status == 200
    assert STREAM.startswith(answer.body)
    assert len(answer.body) == sum(map(len, BLOCKS[:4]))
    assert "ETag" not in answer.headers  # it may grow
    assert server.get("/video/range?name=cut.h4mk", Range="bytes=70000-70000").body == BLOCKS[1]
    assert server.get("/video/range?name=cut.h4mk&v=0123456789abcdef").status == 410


def test_http_1_0(server: Server) -> None:
    # nginx proxies with HTTP/1.0 by default.
    head, _, body = server.raw(f"GET {URL} HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n".encode()).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.0 206 ")
    assert body == STREAM[:10]


def test_pipelining(server: Server) -> None:
    one = f"GET {URL} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=%d-%d\r\n\r\n"
    last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    received = server.raw((one % (0, 999_999) + one % (5, 9) + last % (70_000, 70_004)).encode())
    bodies = re.split(rb"HTTP/1\.1 206 .*?\r\n\r\n", received, flags=re.S)[1:]
    assert bodies == [STREAM[:1_000_000], STREAM[5:10], STREAM[70_000:70_005]]


def test_client_that_leaves(server: Server) -> None:
    for _ in range(5):
        with socket.create_connection(server.address) as connection:
            connection.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connection.recv(100)
    assert server.get(URL).body == STREAM


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_client_is_cut_off(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"\0" * 2**20] * 40)
    with running(tmp_path, loop=loop, write_timeout=0.2) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(server.address)
        client.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        poll = select.poll()
        poll.register(client, select.POLLERR | select.POLLHUP)
        assert poll.poll(30_000), "the server still waits"  # nothing is read until it gives up
        received = 0
        with pytest.raises(ConnectionResetError):
            while piece := client.recv(2**20):
                received += len(piece)
        assert received < 40 * 2**20


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_client_that_makes_progress(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [random.Random(7).randbytes(2**20)] * 12)
    with running(tmp_path, loop=loop, write_timeout=0.3) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.settimeout(30)
        client.connect(server.address)
        client.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = 0
        while piece := client.recv(50_000):
            received += len(piece)
        assert received > 12 * 2**20


@pytest.mark.parametrize("loop", LOOPS)
def test_truncated_while_streaming(tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """A container that gets shorter costs the connections that read it, never the process (no SIGBUS)."""
    blocks = [random.Random(n).randbytes(2**20) for n in range(40)]
    write_container(tmp_path / "a.h4mk", blocks)
    write_container(tmp_path / "b.h4mk", blocks)
    with running(tmp_path, loop=loop) as server:
        victim = http.client.HTTPConnection(*server.address, timeout=30)
        bystander = http.client.HTTPConnection(*server.address, timeout=30)
        victim.request("GET", URL)
        bystander.request("GET", "/video/range?name=b.h4mk")
        cut, whole = victim.getresponse(), bystander.getresponse()
        first = cut.read(2**20)
        os.truncate(tmp_path / "a.h4mk", 2**20)
        with (
            caplog.at_level(logging.WARNING, "harmony4.server"),
            pytest.raises((http.client.IncompleteRead, OSError)),
        ):
            cut.read()
        assert first == blocks[0]
        assert hashlib.sha256(whole.read()).digest() == hashlib.sha256(b"".join(blocks)).digest()
        assert server.get("/health").status == 200
        victim.close()
        bystander.close()
    assert "was broken off" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_truncated_within_the_last_page(tmp_path: Path, loop: str) -> None:
    """What is missing of a page that is there in part would go out as zero bytes."""
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 40)
    size = (tmp_path / "a.h4mk").stat().st_size
    assert size % 4096 > 1
    with running(tmp_path, loop=loop) as server:
        victim = http.client.HTTPConnection(*server.address, timeout=30)
        victim.request("GET", "/container?name=a.h4mk")
        answer = victim.getresponse()
        answer.read(2**20)
        os.truncate(tmp_path / "a.h4mk", size - 1)
        with pytest.raises((http.client.IncompleteRead, OSError)):
            answer.read()
        victim.close()


def test_replaced_while_streaming(tmp_path: Path) -> None:
    """Whoever reads gets the old container to its end, whoever comes later the new one."""
    blocks = [random.Random(n).randbytes(2**20) for n in range(20)]
    write_container(tmp_path / "a.h4mk", blocks)
    with running(tmp_path) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("GET", URL)
        old = connection.getresponse()
        begin = old.read(100)
        write_container(tmp_path / "a.h4mk", [b"new"])
        assert server.get(URL).body == b"new"
        assert begin + old.read() == b"".join(blocks)
        connection.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_verify_on_read(tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a damaged block is sent: a problem where it comes first, a body that is too short later."""
    write_container(tmp_path / "a.h4mk", BLOCKS)
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        damaged = next(reader.extents(370_006 + 2_000_000, 1))[0]  # in the middle of the fifth block
    first = sum(map(len, BLOCKS[:4]))
    with running(tmp_path, loop=loop, verify_on_read=True) as server:
        assert server.get(URL, Range="bytes=60000-5000000").body == STREAM[60_000:]
    with (tmp_path / "a.h4mk").open("r+b") as file:
        file.seek(damaged)
        byte = file.read(1)
        file.seek(damaged)
        file.write(bytes([byte[0] ^ 1]))
    with running(tmp_path, loop=loop) as server:
        assert len(server.get(URL).body) == SIZE  # not asked to look
    with (
        running(tmp_path, loop=loop, verify_on_read=True) as server,
        caplog.at_level(logging.WARNING, "harmony4.server"),
    ):
        for _ in range(2):
            assert server.get(URL, Range=f"bytes={first}-{first + 9}").problem == "checksum"
            assert server.get(URL, Range=f"bytes=0-{first - 1}").body == STREAM[:first]
            assert server.get(URL, Range=f"bytes={SIZE - 9}-").body == STREAM[-9:]
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("GET", URL)
        answer = connection.getresponse()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
            answer.read()
        if isinstance(caught.value, http.client.IncompleteRead):
            assert STREAM[:first].startswith(caught.value.partial)
        connection.close()
    assert "fails its CRC" in caplog.text
