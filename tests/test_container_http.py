"""`/container`: the sealed file itself, by ranges, over real sockets on each event loop."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import independent
from harmony4.h4mk import H4MKReader, verify
from harmony4.server.keys import LIBRARY
from harmony4.server.upstream.remote import HTTPSource
from needs import ORIGINAL
from serving import LOOPS, Server, running, write_container

BLOCKS = [random.Random(n).randbytes(size) for n, size in enumerate([70_000, 1, 3_000_000, 5])]
URL = "/container?name=a.h4mk"


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=2)
    write_container(root / "deep" / "ä b.h4mk", BLOCKS[:2])
    write_container(root / "empty.h4mk", [])
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    whole = (root / "a.h4mk").read_bytes()
    (root / "cut.h4mk").write_bytes(whole[:-1])
    (root / "broken.h4mk").write_bytes(b"H4MK" + bytes(300))
    (root / "short.h4mk").write_bytes(b"")
    (root / "film.mp4").write_bytes(b"no container")
    (root / ".hidden.h4mk").write_bytes(whole)
    (root / "folder.h4mk").mkdir()
    os.mkfifo(root / "fifo.h4mk")
    (root / "out.h4mk").symlink_to("/etc/hostname")
    with running(root, loop=request.param) as one:
        yield one


def stored(server: Server, name: str = "a.h4mk") -> bytes:
    return (server.app[LIBRARY].root / name).read_bytes()


def test_the_file(server: Server) -> None:
    whole = stored(server)
    answer = server.get(URL)
    assert (answer.status, answer.body) == (200, whole)
    headers = answer.headers
    assert headers["Content-Type"] == "application/x-h4mk"
    assert headers["Content-Length"] == str(len(whole))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Last-Modified"].endswith(" GMT")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["ETag"] == f'"{independent.file_etag(whole)}"'
    assert headers["ETag"] != server.request("HEAD", "/video/range?name=a.h4mk").headers["ETag"]
    head = server.request("HEAD", URL, {"Range": "bytes=0-9"})
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified"):
        assert head.headers[name] == headers[name]


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (0, 4_000_000), (69_000, 2_500_000), (-140, None)])
def test_ranges(server: Server, start: int, stop: int | None) -> None:
    whole = stored(server)
    answer = server.get(URL, Range=f"bytes={start}" if stop is None else f"bytes={start}-{stop - 1}")
    assert (answer.status, answer.body) == (206, whole[start:stop])
    beyond = server.get(URL, Range=f"bytes={len(whole)}-")
    assert (beyond.status, beyond.problem) == (416, "range")


def test_validators(server: Server) -> None:
    tag = server.request("HEAD", URL).headers["ETag"]
    stream = server.request("HEAD", "/video/range?name=a.h4mk").headers["ETag"]
    assert server.get(URL, If_None_Match=tag).status == 304
    assert server.get(URL, If_None_Match=stream).status == 200
    assert server.get(URL, If_Match=stream).problem == "precondition"
    assert server.get(URL, Range="bytes=0-9", If_Range=tag).status == 206
    assert server.get(URL, Range="bytes=0-9", If_Range=stream).status == 200
    fresh = server.get(f"{URL}&v={tag[1:17]}")
    assert (fresh.status, fresh.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
    for version in (stream[1:17], "0123456789abcdef"):
        assert server.get(f"{URL}&v={version}").problem == "stale"


def test_without_a_seal(server: Server) -> None:
    answer = server.get("/container?name=cut.h4mk")
    assert (answer.status, answer.body) == (200, stored(server)[:-1])
    assert "ETag" not in answer.headers  # it may grow
    assert server.get("/container?name=cut.h4mk&v=0123456789abcdef").problem == "stale"


def test_original(server: Server) -> None:
    answer = server.get("/container?name=original.h4mk")
    assert (answer.status, answer.body) == (200, ORIGINAL.read_bytes())
    assert answer.headers["ETag"] == f'"{independent.file_etag(answer.body)}"'


def test_other_names(server: Server) -> None:
    assert server.get("/container?name=empty.h4mk").body == stored(server, "empty.h4mk")
    odd = server.get("/container?name=deep/%C3%A4%20b.h4mk")
    assert odd.body == stored(server, "deep/ä b.h4mk")


@pytest.mark.parametrize(
    "name",
    [
        "none.h4mk",
        "film.mp4",
        ".hidden.h4mk",
        "folder.h4mk",
        "fifo.h4mk",
        "out.h4mk",
        "../a.h4mk",
        "deep/../a.h4mk",
        "%2e%2e/a.h4mk",
        "%252e%252e/a.h4mk",
        "/etc/passwd",
        "/a.h4mk",
        "a.h4mk%00",
        "%00a.h4mk",
        "deep//a.h4mk",
        "deep/",
        "a.h4mk/",
        "%ff.h4mk",
        "x" * 300 + ".h4mk",
    ],
)
def test_names_that_lead_nowhere(server: Server, name: str) -> None:
    answer = server.get(f"/container?name={name}")
    assert (answer.status, answer.problem) == (404, "not-found")


def test_only_what_opens_is_served(server: Server) -> None:
    assert server.get("/container?name=broken.h4mk").status == 500
    assert server.get("/container?name=short.h4mk").problem == "truncated"
    assert server.get("/container").problem == "usage"
    assert server.get("/container?name=").problem == "usage"


def test_the_reader_over_http(server: Server) -> None:
    """The same container, opened by its address: three small reads, then what is asked for."""
    with HTTPSource(server.url + URL) as source, H4MKReader(source) as reader:
        assert (reader.state, reader.size) == ("sealed", len(stored(server)))
        assert reader.read(0, 10**9) == b"".join(BLOCKS)
        assert reader.seek(2_500_000) == H4MKReader(stored(server)).seek(2_500_000)
        assert reader.time_range(0, 1_500_000).stop == 70_001
        assert verify(source).ok
    with HTTPSource(f"{server.url}/container?name=original.h4mk") as source, H4MKReader(source) as reader:
        assert reader.state == "original"


def test_a_file_that_was_signed_anew_has_another_tag(tmp_path: Path) -> None:
    """What stands behind VERI changes the file and not the head."""
    write_container(tmp_path / "a.h4mk", BLOCKS)
    whole = bytearray((tmp_path / "a.h4mk").read_bytes())
    with H4MKReader(bytes(whole)) as reader:
        stream, file = reader.etag(), reader.file_etag()
    whole[whole.rindex(b"VERI") + 20] ^= 1  # as KEYS or a signature would
    with H4MKReader(bytes(whole)) as reader:
        assert reader.etag() == stream
        assert reader.file_etag() != file
