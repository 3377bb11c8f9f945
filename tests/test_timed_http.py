"""`/video/range?pts=&end_pts=`: the blocks of a time as a resource, over real sockets on each event loop."""

from __future__ import annotations

import hashlib
import http.client
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, recover
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.keys import LIBRARY
from harmony4.server.reading import timed
from media_factory import media, probe
from needs import ORIGINAL, needs_ffmpeg
from serving import LOOPS, VIDEO, Answer, Server, running, write_container

FRAMED = replace(VIDEO, media_type="video/webm", self_framing=True)
AUDIO = TrackInfo(kind="audio", media_type="audio/flac", self_framing=True, span=1_000_000)
URL = "/video/range?name=a.h4mk"
HEAD, BLOCKS = b"header", [bytes([65 + n]) * (50_000 + n) for n in range(10)]
"""Of a.h4mk: groups at 0, 2, 4, 6, 8 s of two blocks each; the pictures from 3.9 s on lie behind 4 s."""


def group(first: int, stop: int = 5) -> bytes:
    return b"".join(BLOCKS[2 * first : 2 * stop])


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    with H4MKBuilder.to_path(root / "a.h4mk", [FRAMED]) as builder:
        builder.add_block(HEAD, 0, header=True)
        for number, payload in enumerate(BLOCKS):
            at, key = number * 1_000_000, number % 2 == 0
            builder.add_block(payload, at, key=key, min_pts=at - 100_000 if key and number else at)
        builder.finish(ends={0: 10_000_000})
    with H4MKBuilder.to_path(root / "two.h4mk", [FRAMED, AUDIO], order="arrival") as builder:
        for number in range(4):
            builder.add_block(b"video%d" % number, 500_000 + number * 1_000_000, key=True)
            builder.add_block(b"audio%d" % number, number * 1_000_000, track=1, key=True)
        builder.finish(ends={0: 4_500_000, 1: 4_000_000})
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    write_container(root / "plain.h4mk", BLOCKS)
    write_container(root / "empty.h4mk", [], info=FRAMED)
    whole = bytearray((root / "a.h4mk").read_bytes())
    (root / "cut.h4mk").write_bytes(whole[: len(whole) // 2])
    whole[whole.index(BLOCKS[5])] ^= 1
    (root / "damaged").write_bytes(whole)
    recover(root / "damaged", root / "saved.h4mk")
    with running(root, loop=request.param) as one:
        yield one


def etag_of(answer: Answer) -> str:
    return str(answer.headers["ETag"]).strip('"')


@pytest.mark.parametrize(
    ("query", "body", "canonical", "end"),
    [
        ("pts=0&end_pts=1", group(0, 1), "pts=0&end_pts=1900000", "1900000"),
        ("pts=1999999&end_pts=2000000", group(0, 2), "pts=0&end_pts=3900000", "3900000"),
        ("pts=2000000&end_pts=3900000", group(1, 2), "pts=2000000&end_pts=3900000", "3900000"),
        ("pts=2500000&end_pts=3900001", group(1, 3), "pts=2000000&end_pts=5900000", "5900000"),
        ("pts=2500000&end_pts=3900001&init=0", group(1, 3), "pts=2000000&end_pts=5900000", "5900000"),
        (
            "pts=2500000&end_pts=3900001&init=1",
            HEAD + group(1, 3),
            "pts=2000000&end_pts=5900000&init=1",
            "5900000",
        ),
        ("pts=8500000", group(4), "pts=8000000", "10000000"),
        ("pts=0&init=1", HEAD + group(0), "pts=0&init=1", "10000000"),
        (f"pts=9999999&end_pts={2**63 - 1}", group(4), "pts=8000000", "10000000"),
    ],
)
@pytest.mark.parametrize("path", ["/video/range", "/video/range/0.webm"])
def test_a_time(server: Server, path: str, query: str, body: bytes, canonical: str, end: str) -> None:
    answer = server.get(f"{path}?name=a.h4mk&{query}")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["Content-Type"] == "video/webm"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Last-Modified"].endswith(" GMT")
    assert (answer.headers["Harmony4-PTS"], answer.headers["Harmony4-End-PTS"]) == (
        re.findall(r"\d+", canonical)[0],
        end,
    )
    version = etag_of(answer)[:16]
    where = answer.headers["Content-Location"]
    assert where == f"/video/range/0.webm?name=a.h4mk&v={version}&{canonical}"
    # The canonical address has the same bytes, the same tag and the same opinion of itself.
    again = server.get(where)
    assert (again.status, again.body, etag_of(again)) == (200, body, etag_of(answer))
    assert again.headers["Content-Location"] == where
    assert again.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_one_version_and_many_tags(server: Server) -> None:
    stream = etag_of(server.request("HEAD", URL))
    tags = {stream}
    for query in ("pts=0", "pts=0&init=1", "pts=2000000", "pts=0&end_pts=1", "pts=0&end_pts=3000000"):
        tag = etag_of(server.request("HEAD", f"{URL}&{query}"))
        assert re.fullmatch("[0-9a-f]{32}", tag)
        # So the `v` of a seek answer's range_url stays right with a time behind it.
        assert tag[:16] == stream[:16]
        answer = server.get(f"{URL}&v={stream[:16]}&{query}")
        assert (answer.status, etag_of(answer)) == (200, tag)
        assert "immutable" in answer.headers["Cache-Control"]
        tags.add(tag)
    assert len(tags) == 6
    assert etag_of(server.get(f"{URL}&pts=1&end_pts=2")) in tags
    stale = server.get(f"{URL}&pts=0&v=0123456789abcdef")
    assert (stale.status, stale.problem) == (410, "stale")
    # docs/API.md says what the tag is made of.
    place = b"h4mk time\0" + len(HEAD).to_bytes(8) + len(HEAD + group(0, 1)).to_bytes(8)
    for init in (0, 1):
        tag = etag_of(server.get(f"{URL}&pts=0&end_pts=1&init={init}"))
        assert tag == stream[:16] + hashlib.sha256(place + bytes([init])).hexdigest()[:16]


def test_head_and_preconditions(server: Server) -> None:
    url = f"{URL}&pts=2500000&end_pts=3000000&init=1"
    whole = server.get(url)
    head = server.request("HEAD", url, {"Range": "bytes=0-9"})
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "ETag", "Content-Location", "Harmony4-PTS", "Harmony4-End-PTS"):
        assert head.headers[name] == whole.headers[name]
    kept = server.get(url, If_None_Match=whole.headers["ETag"])
    assert (kept.status, kept.body) == (304, b"")
    assert kept.headers["Content-Location"] == whole.headers["Content-Location"]
    stream = server.request("HEAD", URL).headers["ETag"]
    for tag, status in ((whole.headers["ETag"], 200), (stream, 412)):
        assert server.get(url, If_Match=tag).status == status
    refused = server.get(url, If_Match=stream)
    assert (refused.problem, refused.headers["Content-Location"]) == ("precondition", None)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 6), (0, 7), (5, 6), (5, 60_000), (6, 7), (60_000, 200_000), (200_008, 200_011)]
)
def test_ranges_within(server: Server, start: int, stop: int) -> None:
    """A part of a part: across the seam behind the header bytes, and across blocks."""
    url = f"{URL}&pts=2500000&end_pts=4500000&init=1"
    body = HEAD + group(1, 3)
    answer = server.get(url, Range=f"bytes={start}-{stop - 1}")
    stop = min(stop, len(body))
    assert (answer.status, answer.body) == (206, body[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(body)}"
    assert answer.headers["Content-Location"].endswith("&pts=2000000&end_pts=5900000&init=1")
    tag = answer.headers["ETag"]
    assert server.get(url, Range="bytes=0-9", If_Range=tag).status == 206
    other = server.request("HEAD", URL).headers["ETag"]
    assert server.get(url, Range="bytes=0-9", If_Range=other).body == body
    beyond = server.get(url, Range=f"bytes={len(body)}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(body)}")


def test_tracks(server: Server) -> None:
    url = "/video/range?name=two.h4mk"
    assert server.get(f"{url}&pts=1600000&end_pts=2000000").body == b"video1"
    audio = server.get(f"{url}&pts=1600000&end_pts=2000000&track=1")
    assert (audio.body, audio.headers["Content-Type"]) == (b"audio1", "audio/flac")
    assert audio.headers["Content-Location"].startswith("/video/range/1.flac?name=two.h4mk&v=")
    assert server.get(f"{url}&pts=0&end_pts=500000").problem == "not-found"  # the first keyframe is at 0.5 s
    assert server.get(f"{url}&pts=0&end_pts=500001").body == b"video0"
    assert server.get(f"{url}&pts=4000000&track=1").problem == "not-found"
    assert server.get(f"{url}&pts=4000000").body == b"video3"
    assert server.get(f"{url}&pts=0&track=2").problem == "not-found"
    # There are no header bytes to put first: the same bytes have the same address and tag.
    plain, first = (server.get(f"{url}&pts=600000&init={init}") for init in (0, 1))
    assert plain.headers["Content-Location"] == first.headers["Content-Location"]
    assert etag_of(plain) == etag_of(first)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("pts=", 400, "usage"),
        ("pts=x", 400, "usage"),
        ("pts=-1", 400, "usage"),
        ("pts=1,2", 400, "usage"),
        ("pts=9223372036854775808", 400, "usage"),
        ("pts=5&end_pts=5", 400, "usage"),
        ("pts=5&end_pts=4", 400, "usage"),
        ("pts=5&end_pts=", 400, "usage"),
        ("end_pts=5", 400, "usage"),
        ("init=1", 400, "usage"),
        ("pts=5&init=2", 400, "usage"),
        ("pts=5&init=", 400, "usage"),
        ("pts=5&init=true", 400, "usage"),
        ("pts=10000000", 404, "not-found"),
        (f"pts={2**63 - 1}", 404, "not-found"),
        ("pts=0&name=other", 200, None),
    ],
)
def test_wrong_times(server: Server, query: str, status: int, code: str | None) -> None:
    for method in ("GET", "HEAD"):
        answer = server.request(method, f"{URL}&{query}")
        assert answer.status == status
        if method == "GET" and code:
            assert answer.problem == code
            assert "Content-Location" not in answer.headers


@pytest.mark.parametrize("query", ["pts=0", "pts=0&end_pts=1", "pts=0&init=1", "pts=99000000"])
def test_blocks_that_do_not_decode_alone(server: Server, query: str) -> None:
    answer = server.get(f"/video/range?name=plain.h4mk&{query}")
    assert (answer.status, answer.problem) == (409, "self-framing")
    assert "fragmented MP4" in answer.json["detail"]
    assert server.get("/video/range/0.webm?name=plain.h4mk&pts=0").problem == "not-found"


def test_past_the_end_a_seek_still_names_the_access_point(server: Server) -> None:
    assert server.get("/video/seek?name=a.h4mk&pts=10000000").json["pts"] == 8_000_000
    problem = server.get(f"{URL}&pts=10000000").json
    assert (problem["expected"], problem["found"]) == ("< 10000000", "10000000")
    assert server.get("/video/range?name=empty.h4mk&pts=0").problem == "not-found"


def test_incomplete(server: Server) -> None:
    url = "/video/range?name=cut.h4mk"
    answer = server.get(f"{url}&pts=2000000&end_pts=3000000&init=1")
    assert (answer.status, answer.body) == (200, HEAD + group(1, 2))
    assert "ETag" not in answer.headers  # it may grow
    assert answer.headers["Content-Location"] == (
        "/video/range/0.webm?name=cut.h4mk&pts=2000000&end_pts=3900000&init=1"
    )
    rest = server.get(f"{url}&pts=4000000")
    assert (rest.status, rest.body) == (200, BLOCKS[4])
    assert rest.headers["Harmony4-End-PTS"] == "5000000"
    assert server.get(f"{url}&pts=5000000").status == 404
    assert server.get(f"{url}&pts=0&v=0123456789abcdef").status == 410


def test_original(server: Server) -> None:
    """Its tokens are missing, so a keyframe's own time is where a range ends, and no end is known."""
    answer = server.get("/video/range?name=original.h4mk&pts=5&end_pts=1000000&init=1")
    with H4MKReader(ORIGINAL) as reader:
        assert (answer.status, answer.body) == (200, reader.read(0, 130))
    assert answer.headers["Harmony4-End-PTS"] == "1000000"
    far = server.get(f"/video/range?name=original.h4mk&pts={2**62}")
    assert (far.status, far.body) == (200, b"")
    assert "Harmony4-End-PTS" not in far.headers
    assert far.headers["ETag"]


def test_holes(server: Server) -> None:
    url = "/video/range?name=saved.h4mk"
    assert server.get(f"{url}&pts=2000000&end_pts=3000000").body == group(1, 2)
    for query in ("pts=4500000&end_pts=5000000", "pts=5500000&end_pts=5600000", "pts=0"):
        answer = server.get(f"{url}&{query}&init=1")
        assert (answer.status, answer.problem) == (404, "not-found")
        assert "lost" in answer.json["detail"]
    # What is there of it can be had by ranges, as of the whole stream.
    piece = server.get(f"{url}&pts=4500000&end_pts=5000000", Range="bytes=0-49999")
    assert (piece.status, piece.body) == (206, BLOCKS[4][:50_000])


def test_many_times_of_one_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """More times than are remembered, on one connection."""
    monkeypatch.setattr(timed, "_KNOWN", 3)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for pts in (*range(0, 10_000_000, 700_000), *range(0, 10_000_000, 700_000)):
        connection.request("GET", f"{URL}&pts={pts}&end_pts={pts + 1}", headers={"Range": "bytes=0-0"})
        answer = connection.getresponse()
        assert answer.read() == group(pts // 2_000_000)[:1]
    connection.close()


# ---- real media ------------------------------------------------------------------------------------------

FILMS = (
    *("fragmented.mp4", "plain.webm", "live.webm", "plain.mkv", "mixed-clusters.mkv"),
    *("plain.ts", "broadcast.ts", "late.ts", "plain.m2ts", "theora.ogv"),
)
WINDOWS = (
    (Fraction("1.34"), Fraction("2.00")),
    (Fraction("3.02"), Fraction("4.98")),
    (Fraction("4.5"), None),
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("films")
    for name in (*FILMS, "plain.mp4", "tone.flac", "opus.ogg"):
        export(media(name), root / f"{name}.h4mk", ExportOptions())
    with running(root) as one:
        yield one


def frames(source: str, stream: str = "0:v:0") -> list[str]:
    """The digest of each decoded picture, in the order shown."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", source, "-map", stream]
    command += ["-fps_mode", "passthrough", "-f", "framemd5", "-"]
    out = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    return [line.rsplit(",", 1)[1].strip() for line in out.splitlines() if not line.startswith("#")]


def holds(run: list[str], part: list[str]) -> bool:
    """Whether `part` stands in `run` without a gap."""
    return any(run[at : at + len(part)] == part for at in range(len(run) - len(part) + 1))


@needs_ffmpeg
@pytest.mark.parametrize("name", FILMS)
def test_ffmpeg_decodes_the_pictures_of_a_time(films: Server, name: str) -> None:
    """Header bytes and the blocks of a time, read over HTTP, show the source's pictures of that time."""
    film, url = media(name), f"{films.url}/video/range?name={name}.h4mk"
    with H4MKReader(films.app[LIBRARY].root / f"{name}.h4mk") as reader:
        origin = Fraction(reader.trak.origin, 1_000_000)
    times = sorted(Fraction(one["pts_time"]) - origin for one in probe(film, "pts_time"))
    pictures = frames(str(film))
    assert len(pictures) == len(times) == len(set(pictures))
    for begin, end in WINDOWS:
        query = f"pts={int(begin * 10**6)}{f'&end_pts={int(end * 10**6)}' if end else ''}"
        answer = films.request("HEAD", f"/video/range?name={name}.h4mk&{query}&init=1")
        first = Fraction(answer.headers["Harmony4-PTS"]) / 10**6
        shown = Fraction(answer.headers["Harmony4-End-PTS"]) / 10**6
        assert first <= begin
        assert end is None or end <= shown
        # A microsecond is floored, a picture lasts 40 ms.
        tick = Fraction(1, 1000)
        wanted = [
            one for time, one in zip(times, pictures, strict=True) if first - tick <= time < shown - tick
        ]
        assert len(wanted) >= 18
        found = frames(f"{url}&{query}&init=1")
        assert holds(found, wanted), (name, query)
        # And not much more: no group before, one at most behind.
        assert len(found) <= len(wanted) + 30
        assert holds(frames(films.url + answer.headers["Content-Location"]), wanted)


@needs_ffmpeg
def test_ffmpeg_decodes_the_sound_of_a_time(films: Server) -> None:
    sound = frames(str(media("tone.flac")), "0:a:0")
    query = "pts=2500000&end_pts=3500000&init=1"
    answer = films.request("HEAD", f"/video/range?name=tone.flac.h4mk&{query}")
    first, shown = int(answer.headers["Harmony4-PTS"]), int(answer.headers["Harmony4-End-PTS"])
    assert 1_000_000 < first <= 2_500_000 < 3_500_000 <= shown < 5_000_000
    found = frames(f"{films.url}/video/range/0.flac?name=tone.flac.h4mk&{query}", "0:a:0")
    # FLAC frames of 4608 samples at 48 kHz.
    assert len(found) == round((shown - first) / 96_000)
    at = round(first / 96_000)
    assert found == sound[at : at + len(found)]
    assert frames(f"{films.url}/video/range/0.ogg?name=opus.ogg.h4mk&{query}", "0:a:0")


@needs_ffmpeg
def test_plain_mp4_by_time(films: Server) -> None:
    answer = films.get("/video/range?name=plain.mp4.h4mk&pts=2000000&init=1")
    assert (answer.status, answer.problem) == (409, "self-framing")


def test_a_name_that_is_no_ascii(tmp_path: Path) -> None:
    write_container(tmp_path / "ä b&c=d.h4mk", BLOCKS, info=FRAMED)
    with running(tmp_path) as server:
        answer = server.get("/video/range?name=%C3%A4%20b%26c%3Dd.h4mk&pts=1500000&end_pts=1600000")
        where = answer.headers["Content-Location"]
        assert where.startswith("/video/range/0.webm?name=%C3%A4%20b%26c%3Dd.h4mk&v=")
        assert server.get(where).body == answer.body == BLOCKS[1]
