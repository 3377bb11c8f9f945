"""Several ranges, digests and downloads of `/video/range` over real sockets, on each event loop."""

from __future__ import annotations

import http.client
import random
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from byteranges import parts_of
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, recover
from harmony4.server.keys import EXPRESS
from harmony4.server.reading import express, fields
from needs import ORIGINAL, needs_curl
from serving import LOOPS, Answer, Server, running, write_container

BLOCKS = [
    random.Random(n).randbytes(size) for n, size in enumerate([70_000, 1, 300_000, 5, 4_000_000, 80_000])
]
STREAM = b"".join(BLOCKS)
SIZE = len(STREAM)
URL = "/video/range?name=a.h4mk"
ODD = 'deep/ä "b"\r\n100%.h4mk'
ODD_URL = "/video/range?name=deep/%C3%A4%20%22b%22%0D%0A100%25.h4mk"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=2)
    write_container(root / "empty.h4mk", [])
    write_container(root / "film.mp4.h4mk", [b"film"])
    write_container(root / ODD, [b"odd name"])
    two = [TrackInfo(kind="video", media_type="video/webm"), TrackInfo(kind="audio", media_type="audio/flac")]
    with H4MKBuilder.to_path(root / "two.h4mk", two, order="arrival") as builder:
        for number in range(4):
            builder.add_block(b"video%d" % number, number, key=True)
            builder.add_block(b"audio%d" % number, number, track=1, key=True)
        builder.finish()
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    damaged = bytearray((root / "two.h4mk").read_bytes())
    damaged[damaged.index(b"audio1")] ^= 1
    recover(bytes(damaged), root / "lost.h4mk")
    whole = (root / "a.h4mk").read_bytes()
    (root / "cut.h4mk").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, library: Path) -> Iterator[Server]:
    with running(library, loop=request.param) as one:
        yield one


def digest_of(body: bytes) -> str:
    return f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"


def slices_of(answer: Answer) -> list[bytes]:
    """The bodies of a multipart answer, each checked against what it says of itself."""
    assert answer.status == 206
    assert "Content-Range" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(answer.body))
    parts = parts_of(answer.headers["Content-Type"], answer.body)
    for part in parts:
        assert (part.size, part.content_type) == (SIZE, "video/mp4")
        assert part.body == STREAM[part.start : part.stop]
    return [part.body for part in parts]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes=0-9,20-29", [(0, 10), (20, 30)]),
        ("bytes=-10,0-9", [(SIZE - 10, SIZE), (0, 10)]),
        ("bytes=69999-70001,4000000-4400000,0-0", [(69_999, 70_002), (4_000_000, 4_400_001), (0, 1)]),
        ("bytes=100-199,150-249,99999999-", [(100, 200), (150, 250)]),
        (f"bytes=0-2000000,2000001-{SIZE}", [(0, 2_000_001), (2_000_001, SIZE)]),
        (
            "bytes=" + ",".join(f"{n * 1000}-{n * 1000 + 9}" for n in range(16)),
            [(n, n + 10) for n in range(0, 16_000, 1000)],
        ),
    ],
)
def test_several_ranges(server: Server, value: str, found: list[tuple[int, int]]) -> None:
    answer = server.get(URL, Range=value)
    assert slices_of(answer) == [STREAM[start:stop] for start, stop in found]
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == server.request("HEAD", URL).headers["ETag"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_random_ranges_on_one_connection(server: Server) -> None:
    """Lengths are exact: every answer begins where the one before has ended."""
    rng = random.Random(5)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for _ in range(60):
        starts = rng.sample(range(0, SIZE, SIZE // 40), rng.randint(2, 16))
        asked = [(start, min(SIZE, start + rng.choice([1, 1000, 70_000]))) for start in starts]
        value = "bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in asked)
        connection.request("GET", URL, headers={"Range": value})
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        assert slices_of(answer) == [STREAM[start:stop] for start, stop in asked]
    connection.close()


@pytest.mark.parametrize(
    ("value", "status", "length"),
    [
        ("bytes=0-9,99999999-", 206, 10),
        ("bytes=9-3,abc", 416, None),
        ("bytes=0-,0-", 200, SIZE),
        ("bytes=0-9,5-14,10-19", 200, SIZE),
        ("bytes=" + ",".join(["0-0"] * 17), 200, SIZE),
        ("bytes=" + ",".join(["0-"] * 1300), 200, SIZE),  # CVE-2011-3192
        ("bytes=" + ",".join(f"{n}-{n}0" for n in range(100)), 200, SIZE),  # CVE-2025-62727
    ],
)
def test_ranges_that_do_not_make_a_multipart_answer(
    server: Server, value: str, status: int, length: int | None
) -> None:
    answer = server.get(URL, Range=value)
    assert answer.status == status
    assert length is None or len(answer.body) == length
    assert "multipart" not in answer.headers["Content-Type"]


def test_several_ranges_and_conditions(server: Server) -> None:
    etag = server.request("HEAD", URL).headers["ETag"]
    value = "bytes=0-9,20-29"
    assert slices_of(server.get(URL, Range=value, If_Range=etag)) == [STREAM[:10], STREAM[20:30]]
    assert server.get(URL, Range=value, If_Range='"old"').body == STREAM
    assert server.get(URL, Range=value, If_None_Match=etag).status == 304
    assert server.get(URL, Range=value, If_Match='"old"').status == 412
    head = server.request("HEAD", URL, {"Range": value})
    assert (head.status, head.headers["Content-Length"], head.headers["Content-Type"]) == (
        200,
        str(SIZE),
        "video/mp4",
    )
    immutable = server.get(f"{URL}&v={etag[1:17]}", Range=value)
    assert immutable.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_without_etag_several_ranges_get_the_whole(server: Server) -> None:
    answer = server.get("/video/range?name=cut.h4mk", Range="bytes=0-9,20-29")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "video/mp4")
    assert len(answer.body) == sum(map(len, BLOCKS[:4]))


def test_replicas_send_the_same_bytes(server: Server, tmp_path: Path) -> None:
    write_container(tmp_path / "b.h4mk", BLOCKS, key_every=2)
    with running(tmp_path) as other:
        ours, theirs = (
            one.get(f"/video/range?name={name}.h4mk", Range="bytes=-5,0-9")
            for one, name in ((server, "a"), (other, "b"))
        )
    assert ours.body == theirs.body
    assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]


def test_http_1_0(server: Server) -> None:
    request = f"GET {URL} HTTP/1.0\r\nRange: bytes=0-9,20-29\r\n\r\n".encode()
    head, _, body = server.raw(request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 206 ")
    kind = re.search(rb"Content-Type: (.*?)\r\n", head)
    assert kind is not None
    assert [part.body for part in parts_of(kind[1].decode(), body)] == [STREAM[:10], STREAM[20:30]]


@needs_curl
def test_curl(server: Server) -> None:
    command = ["curl", "-sSi", "-r", "0-9,70000-70009,-3", server.url + URL]
    head, _, body = subprocess.run(command, capture_output=True, check=True).stdout.partition(b"\r\n\r\n")
    kind = re.search(rb"(?i)content-type: (.*?)\r\n", head)
    assert kind is not None
    assert [part.body for part in parts_of(kind[1].decode(), body)] == [
        STREAM[:10],
        STREAM[70_000:70_010],
        STREAM[-3:],
    ]


def test_repr_digest(server: Server) -> None:
    expected = digest_of(STREAM)
    assert server.get(URL).headers["Repr-Digest"] == expected
    assert server.request("HEAD", URL).headers["Repr-Digest"] == expected
    assert server.get(URL, Range="bytes=0-9").headers["Repr-Digest"] == expected
    assert server.get(URL, Range="bytes=0-9,20-29").headers["Repr-Digest"] == expected
    etag = server.get(URL).headers["ETag"]
    assert "Repr-Digest" not in server.get(URL, Range="bytes=0-9", If_Range=etag).headers
    assert "Repr-Digest" not in server.get(URL, If_None_Match=etag).headers
    assert "Repr-Digest" not in server.get(URL, Range="bytes=99999999-").headers


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("name=two.h4mk", b"video0video1video2video3"),
        ("name=two.h4mk&track=1", b"audio0audio1audio2audio3"),
        ("name=empty.h4mk", b""),
    ],
)
def test_repr_digest_of_each_track(server: Server, target: str, body: bytes) -> None:
    answer = server.get(f"/video/range?{target}")
    assert (answer.body, answer.headers["Repr-Digest"]) == (body, digest_of(body))


def test_digest_where_blocks_are_lost(server: Server, library: Path) -> None:
    """META's digest of such a track is of the blocks that are left, which is no stream that is served."""
    with H4MKReader(library / "lost.h4mk") as reader:
        assert [hole.track for hole in reader.lost] == [1]
        assert reader.tracks[1].sha256 is not None
    url = "/video/range?name=lost.h4mk"
    assert server.get(url).headers["Repr-Digest"] == digest_of(b"video0video1video2video3")
    assert "Repr-Digest" not in server.request("HEAD", f"{url}&track=1").headers
    left = server.get(f"{url}&track=1", Range="bytes=0-5", Want_Content_Digest="sha-256=1")
    assert (left.body, left.headers["Content-Digest"]) == (b"audio0", digest_of(b"audio0"))
    for hole in ("bytes=6-7", "bytes=0-1,6-7"):  # found before the first byte goes out
        assert server.get(f"{url}&track=1", Range=hole).problem == "not-found"
        wish = {"Range": hole, "Want-Content-Digest": "sha-256=1"}
        assert server.request("GET", f"{url}&track=1", wish).problem == "not-found"


@pytest.mark.parametrize("name", ["cut.h4mk", "original.h4mk"])
def test_unknown_digest(server: Server, name: str) -> None:
    """No Repr-Digest where the container does not say it; a Content-Digest for whoever asks."""
    url = f"/video/range?name={name}"
    answer = server.get(url, Want_Content_Digest="sha-256=1")
    assert "Repr-Digest" not in answer.headers
    assert answer.headers["Content-Digest"] == digest_of(answer.body)
    assert "Content-Digest" not in server.get(url).headers


@pytest.mark.parametrize(
    "value", ["bytes=0-9", "bytes=69999-4000000", "bytes=-1", "bytes=0-9,20-29", "bytes=-70000,69999-4000000"]
)
def test_content_digest_of_ranges(server: Server, value: str) -> None:
    answer = server.get(URL, Range=value, Want_Content_Digest="sha-512=10, sha-256=3")
    assert answer.status == 206
    assert answer.headers["Content-Digest"] == digest_of(answer.body)
    assert answer.headers["Repr-Digest"] == digest_of(STREAM)
    assert answer.body == server.get(URL, Range=value).body


def test_content_digest_of_the_whole_is_not_computed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_DIGESTED", -1)
    answer = server.get(URL, Want_Content_Digest="sha-256=10")
    assert answer.headers["Content-Digest"] == answer.headers["Repr-Digest"] == digest_of(STREAM)


@pytest.mark.parametrize("wish", ["", "sha-256=0", "sha-512=1", "sha-256", "sha-256=11", "md5=1,"])
def test_content_digest_that_is_not_wanted(server: Server, wish: str) -> None:
    for value in ("bytes=0-9", "bytes=0-9,20-29", "items=0-9"):
        answer = server.get(URL, Range=value, Want_Content_Digest=wish)
        assert answer.status in (200, 206)
        assert "Content-Digest" not in answer.headers


def test_content_digest_is_not_kept(server: Server) -> None:
    """A cache would send it with other bytes of the stream, and to clients that never asked."""
    etag = server.request("HEAD", URL).headers["ETag"].strip('"')
    for value in ("bytes=0-9", "bytes=0-9,20-29", "items=0-9"):
        for url in (URL, f"{URL}&v={etag[:16]}"):
            answer = server.get(url, Range=value, Want_Content_Digest="sha-256=10")
            assert "Content-Digest" in answer.headers
            assert answer.headers["Cache-Control"] == "no-store"
            assert server.get(url, Range=value).headers["Cache-Control"] != "no-store"


def test_content_digest_not_without_content(server: Server) -> None:
    wish = {"Want-Content-Digest": "sha-256=10"}
    head = server.request("HEAD", URL, wish)
    assert head.headers["Repr-Digest"] == digest_of(STREAM)
    assert "Content-Digest" not in head.headers
    assert "Content-Digest" not in server.request("GET", URL, {**wish, "If-None-Match": "*"}).headers
    assert server.request("GET", URL, {**wish, "Range": "bytes=99999999-"}).problem == "range"


def test_content_digest_has_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields.MAX_DIGESTED == 64 * 2**20  # as docs/API.md says
    monkeypatch.setattr(fields, "MAX_DIGESTED", 1000)
    for last, there in ((999, True), (1000, False)):
        answer = server.get(URL, Range=f"bytes=0-{last}", Want_Content_Digest="sha-256=10")
        assert answer.body == STREAM[: last + 1]
        assert ("Content-Digest" in answer.headers) == there
    # The frame of a multipart answer counts.
    answer = server.get(URL, Range="bytes=0-499,500-999", Want_Content_Digest="sha-256=10")
    assert (answer.status, "Content-Digest" in answer.headers) == (206, False)


def test_download(server: Server) -> None:
    assert "Content-Disposition" not in server.get(URL).headers
    assert "Content-Disposition" not in server.get(f"{URL}&download=0").headers
    for value in ("items=0", "bytes=0-9", "bytes=0-9,20-29"):
        answer = server.get(f"{URL}&download=1", Range=value)
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a.mp4"'
    assert "Content-Disposition" in server.request("HEAD", f"{URL}&download=1").headers
    assert "Content-Disposition" not in server.get(f"{URL}&download=1", If_None_Match="*").headers
    assert "Content-Disposition" not in server.get(f"{URL}&download=1", Range="bytes=99999999-").headers
    for wrong in ("2", "yes", "", "%0D%0A"):
        assert server.get(f"{URL}&download={wrong}").problem == "usage"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/video/range?name=film.mp4.h4mk", '"film.mp4"'),
        ("/video/range?name=two.h4mk", '"two.webm"'),
        ("/video/range/1.flac?name=two.h4mk", '"two.flac"'),
        (ODD_URL, "\"_ _b___100_.mp4\"; filename*=UTF-8''%C3%A4%20%22b%22__100%25.mp4"),
    ],
)
def test_name_of_a_download(server: Server, target: str, name: str) -> None:
    answer = server.get(f"{target}&download=1")
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == f"attachment; filename={name}"


def test_the_short_way_says_the_same(server: Server) -> None:
    """Requests that differ in one number are answered by `express.py` from the second on: same headers."""
    etag = server.request("HEAD", URL).headers["ETag"]
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    wishes: list[dict[str, str]] = [{}, {"If-Range": etag}, {"Want-Content-Digest": "sha-256=1"}]
    for url in (URL, f"{URL}&download=1"):
        for more in wishes:
            seen, before = [], server.app[EXPRESS].answered
            for start in (0, 70_000, 400_000, 5):
                connection.request("GET", url, headers={"Range": f"bytes={start}-{start + 99}", **more})
                answer = connection.getresponse()
                body = answer.read()
                assert (answer.status, body) == (206, STREAM[start : start + 100])
                assert answer.headers["Repr-Digest"] == (None if "If-Range" in more else digest_of(STREAM))
                wanted = digest_of(body) if "Want-Content-Digest" in more else None
                assert answer.headers["Content-Digest"] == wanted
                seen.append(sorted(answer.headers.keys()))
            assert seen == [seen[0]] * 4
            if "Want-Content-Digest" in more:
                assert server.app[EXPRESS].answered == before
            else:  # nothing in the answer keeps it from being learned from
                assert {name.lower() for name in seen[0]} <= express._STEADY | express._MADE
    for value in ("bytes=0-9,20-29", "bytes=5-14,30-39"):
        connection.request("GET", URL, headers={"Range": value})
        answer = connection.getresponse()
        assert len(slices_of(Answer(answer.status, answer.headers, answer.read()))) == 2
    connection.close()


def test_a_wish_beyond_the_limit_is_not_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_DIGESTED", 1000)
    for last, there in ((1000, False), (999, True), (1001, False), (5, True)):
        answer = server.get(URL, Range=f"bytes=0-{last}", Want_Content_Digest="sha-256=10")
        assert ("Content-Digest" in answer.headers) == there
