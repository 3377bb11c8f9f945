"""`/video/seek`: the keyframe at or before a time, and the address of the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urljoin

import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.server.folder.facts import seek_facts
from needs import ORIGINAL
from serving import VIDEO, Server, running, write_container

URL = "/video/seek?name=a.h4mk"
BLOCKS = [bytes([65 + n]) * (n + 1) for n in range(9)]  # KEY at 0, 3, 6 s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=3)
    write_container(root / "empty.h4mk", [])
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    with H4MKBuilder.to_path(root / "header.h4mk", [VIDEO, VIDEO]) as builder:
        builder.add_block(b"header", 0, header=True)
        builder.add_block(b"key", 2_000_000, key=True)
        builder.add_block(b"late", 5_000_000, track=1, key=True)
        builder.finish(ends={0: 3_000_000, 1: 2**62})
    with H4MKBuilder.to_path(root / "far.h4mk", [VIDEO]) as builder:
        builder.add_block(b"far", 2**60, key=True)
        builder.finish()
    with running(root) as one:
        yield one


@pytest.mark.parametrize(
    ("pts", "found", "offset", "block", "following", "size"),
    [
        (0, 0, 0, 0, 3_000_000, 6),
        (2_999_999, 0, 0, 0, 3_000_000, 6),
        (3_000_000, 3_000_000, 6, 3, 6_000_000, 15),
        (5_999_999, 3_000_000, 6, 3, 6_000_000, 15),
        (6_000_000, 6_000_000, 21, 6, None, 24),
        (2**63 - 1, 6_000_000, 21, 6, None, 24),
    ],
)
def test_seek(
    server: Server, pts: int, found: int, offset: int, block: int, following: int | None, size: int
) -> None:
    answer = server.get(f"{URL}&pts={pts}")
    assert answer.status == 200
    seek = answer.json
    assert seek["asked"] == (pts if pts < 2**53 else str(pts))
    assert (seek["pts"], seek["offset"], seek["block_index"]) == (found, offset, block)
    assert (seek["next_pts"], seek["size"], seek["header_ranges"]) == (following, size, [])
    assert answer.headers["Cache-Control"] == "no-cache"
    # The address works, names the version, and the offset is what goes into Range.
    target = urljoin(URL, seek["range_url"])
    assert target.startswith("/video/range/0.mp4?name=a.h4mk&v=")
    piece = server.get(target, Range=f"bytes={offset}-{offset + size - 1}")
    assert piece.body == b"".join(BLOCKS)[offset : offset + size]
    assert "immutable" in piece.headers["Cache-Control"]


def test_header_and_tracks(server: Server) -> None:
    url = "/video/seek?name=header.h4mk"
    seek = server.get(f"{url}&pts=2500000").json
    assert (seek["offset"], seek["header_ranges"]) == (6, [[0, 6]])
    late = server.get(f"{url}&pts=5000000&track=1").json
    assert (late["track"], late["pts"], late["header_ranges"]) == (1, 5_000_000, [])
    assert "/video/range/1.mp4?" in late["range_url"]
    assert server.get(f"{url}&pts=1999999").problem == "not-found"
    assert server.get(f"{url}&pts=4999999&track=1").problem == "not-found"
    assert server.get(f"{url}&pts=0&track=2").problem == "not-found"


def test_numbers_beyond_javascript(server: Server) -> None:
    seek = server.get(f"/video/seek?name=far.h4mk&pts={2**61}").json
    assert (seek["asked"], seek["pts"]) == (str(2**61), str(2**60))


def test_original(server: Server) -> None:
    url = "/video/seek?name=original.h4mk"
    stored = [(0, 0), (1_000_000, 3_000), (2_000_000, 9_000)]
    for pts, expected in ((0, 0), (999_999, 0), (1_500_000, 1), (99_000_000, 2)):
        seek = server.get(f"{url}&pts={pts}").json
        assert (seek["pts"], seek["offset"]) == stored[expected]


def test_no_keyframe(server: Server) -> None:
    answer = server.get("/video/seek?name=empty.h4mk&pts=0")
    assert (answer.status, answer.problem) == (404, "not-found")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "pts=",
        "pts=-1",
        "pts=1.5",
        "pts=1e3",
        "pts=x",
        "pts=%D9%A3",
        "pts=9223372036854775808",
        "pts=+1",
        "pts=0x1",
    ],
)
def test_wrong_times(server: Server, query: str) -> None:
    answer = server.get(f"{URL}&{query}")
    assert (answer.status, answer.problem) == (400, "usage")
    assert "pts" in answer.json["detail"]


def test_version(server: Server) -> None:
    version = server.request("HEAD", "/video/range?name=a.h4mk").headers["ETag"].strip('"')[:16]
    assert "immutable" in server.get(f"{URL}&pts=0&v={version}").headers["Cache-Control"]
    assert server.get(f"{URL}&pts=0&v=feedfeedfeedfeed").problem == "stale"


def test_same_facts_as_the_library(server: Server) -> None:
    with H4MKReader(ORIGINAL) as reader:
        expected = seek_facts(reader, 1_500_000)
    answer = server.get("/video/seek?name=original.h4mk&pts=1500000").json
    assert {key: answer[key] for key in expected} == expected


def test_keyframes(server: Server) -> None:
    url = "/video/keyframes?name=a.h4mk"
    assert server.get(url).json == {
        "track": 0,
        "count": 3,
        "start": 0,
        "pts": [0, 3_000_000, 6_000_000],
        "offset": [0, 6, 21],
    }
    page = server.get(f"{url}&start=1&limit=1").json
    assert (page["count"], page["pts"], page["offset"]) == (3, [3_000_000], [6])
    assert server.get(f"{url}&start=3").json["pts"] == []
    assert server.get(f"{url}&start={2**62}").json["pts"] == []
    assert server.get("/video/keyframes?name=empty.h4mk").json["count"] == 0
    assert server.get("/video/keyframes?name=header.h4mk&track=1").json["pts"] == [5_000_000]
    for wrong in ("limit=0", "limit=100001", "start=-1", "limit=x"):
        assert server.get(f"{url}&{wrong}").problem == "usage"
