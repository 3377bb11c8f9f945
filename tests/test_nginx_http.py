"""deploy/nginx.conf before a real server: who a client is, how much it may ask for, uploads as they come, and
segments of HLS out of the cache.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import m3u8
import pytest

from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.state import FOLDER
from media_factory import media
from needs import ROOT, needs_ffmpeg, needs_nginx
from processes import Line, until
from programs import Proxy, nginx
from serving import Server, running, write_container

pytestmark = needs_nginx

NGINX = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
ONE, OTHER = "127.0.0.2", "127.0.0.3"
"""Clients: nginx listens on 127.0.0.1, and asks the server from there."""


@contextmanager
def front(server: Server, folder: Path, text: str = NGINX) -> Iterator[Proxy]:
    text = text.replace("/var/log/nginx/harmony4.log", str(folder / "access.log"))
    with nginx(folder / "nginx", text, server.address, connections=512) as proxy:
        yield proxy


def client(proxy: Proxy, address: str = ONE) -> Line:
    """A connection from an address of loopback."""
    return Line(socket.create_connection(proxy.address, timeout=30, source_address=(address, 0)))


def fetch(proxy: Proxy, target: str, *fields: str, address: str = ONE) -> tuple[int, dict[str, str], bytes]:
    with client(proxy, address) as line:
        line.ask(target, "Connection: close", *fields)
        status, headers = line.head()
        return status, headers, line.body(2**30)


@contextmanager
def listening(proxy: Proxy, address: str) -> Iterator[int]:
    """The status of an answer that does not end, while it does not."""
    with client(proxy, address) as line:
        line.ask("/events")
        yield line.head()[0]


def test_the_server_knows_who_connected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By each location: in its log, and in its limits for one client."""
    write_container(tmp_path / "library" / "a.h4mk", [b"one", b"two"])
    targets = ("/media", "/video/info?name=a.h4mk", "/video/range?name=a.h4mk", "/container?name=a.h4mk")
    settings = {"trusted_proxies": ("127.0.0.1",), "access_log": True, "max_streams_per_client": 1}
    with running(tmp_path / "library", **settings) as server, front(server, tmp_path) as proxy:
        for target in targets:
            assert fetch(proxy, target, "X-Forwarded-For: 6.6.6.6")[0] == 200, target
        assert fetch(proxy, "/metrics")[0] == 403
        assert fetch(proxy, "/metrics", address="127.0.0.1")[0] == 200
        with ExitStack() as stack:
            found = [stack.enter_context(listening(proxy, one)) for one in (ONE, ONE, OTHER)]
            assert found == [200, 429, 200]
        until(lambda: (tmp_path / "access.log").read_text().count("/events") == 3, "nginx's log")
    theirs = (tmp_path / "access.log").read_text()
    ours = capfd.readouterr().err
    for log in (theirs, ours):
        for target in targets:
            path = target.partition("?")[0]
            assert [line.split()[0] for line in log.splitlines() if f'"GET {path}' in line] == [ONE], log
        found = sorted(line.split()[0] for line in log.splitlines() if '"GET /events' in line)
        assert found == [ONE, ONE, OTHER]
        assert "6.6.6.6" not in log


def test_connections_of_one_client(tmp_path: Path) -> None:
    """So many as the file says, and nobody else is refused for them."""
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library") as server, front(server, tmp_path) as proxy, ExitStack() as stack:
        for _ in range(64):
            assert stack.enter_context(listening(proxy, ONE)) == 200
        for target in ("/health", "/events", "/video/range?name=none.h4mk"):
            assert fetch(proxy, target)[0] == 429, target
        assert fetch(proxy, "/health", address=OTHER)[0] == 200
        stack.close()
        until(lambda: fetch(proxy, "/health")[0] == 200, "a place that was left")


def test_requests_with_a_token(tmp_path: Path) -> None:
    """Tokens are guessed more slowly than media are asked for; another client is not held up."""
    slow = NGINX.replace("rate=50r/s", "rate=1r/m").replace("burst=200", "burst=2")
    assert slow.count("rate=1r/m") == slow.count("burst=2 ") == 1
    write_container(tmp_path / "library" / "a.h4mk", [b"one", b"two"])
    guess = "Authorization: Bearer guess"
    with running(tmp_path / "library") as server, front(server, tmp_path, slow) as proxy:
        for target in ("/media", "/video/range?name=a.h4mk") * 3:
            assert fetch(proxy, target)[0] == 200  # none: not counted
        targets = (
            "/media",
            "/video/range?name=a.h4mk",
            "/container?name=a.h4mk",
            "/media",
            "/container?name=a.h4mk",
        )
        assert [fetch(proxy, target, guess)[0] for target in targets] == [200, 200, 200, 429, 429]
        assert fetch(proxy, "/media")[0] == 200
        assert fetch(proxy, "/media", guess, address=OTHER)[0] == 200


DATA = random.Random(3).randbytes(200_000)
HALF = 120_000
SENDING = {
    "length": ("POST /video/export?name=a.h4mk&raw=1", f"Content-Length: {len(DATA)}", 201),
    "chunks": ("POST /video/export?name=a.h4mk&raw=1", "Transfer-Encoding: chunked", 201),
    "tus": (
        "POST /uploads/",
        f"Content-Length: {len(DATA)}\r\nTus-Resumable: 1.0.0\r\nUpload-Length: {len(DATA)}\r\n"
        "Content-Type: application/offset+octet-stream\r\nUpload-Metadata: name YS5oNG1r,raw MQ==",
        201,
    ),
}


@pytest.mark.parametrize("way", SENDING)
def test_uploads_arrive_as_they_are_sent(tmp_path: Path, way: str) -> None:
    """Half of one is with the server before the other half has been sent: nginx collects nothing."""
    library = tmp_path / "library"
    library.mkdir()
    request, fields, status = SENDING[way]

    def framed(piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if way == "chunks" else piece

    def has_half() -> bool:
        found = [one["received"] for one in server.get("/jobs").json["jobs"]]
        found += [one.stat().st_size for one in (library / FOLDER / "uploads").glob("*")]
        return any(HALF <= size < len(DATA) for size in found)

    with (
        running(library, min_free=0) as server,
        front(server, tmp_path) as proxy,
        client(proxy) as line,
    ):
        line.send(f"{request} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n".encode())
        line.send(framed(DATA[:HALF]))
        until(has_half, "the first half's arrival")
        line.send(framed(DATA[HALF:]) + (b"0\r\n\r\n" if way == "chunks" else b""))
        assert line.head()[0] == status
        until(lambda: (library / "a.h4mk").exists(), "the container")
        assert fetch(proxy, "/video/range?name=a.h4mk")[2] == DATA


@needs_ffmpeg
def test_what_hls_names_comes_from_the_cache(tmp_path: Path) -> None:
    """A playlist is the server's own, each time; segments are ranges, and the second viewer's are nginx's."""
    library = tmp_path / "library"
    library.mkdir()
    bundle_files([media("numbered-video.mp4"), media("numbered-audio.mp4")], library / "film.h4mk")
    with running(library) as server, front(server, tmp_path) as proxy:

        def playlist(target: str) -> m3u8.M3U8:
            status, headers, body = fetch(proxy, target)
            assert (status, body) == (200, server.get(target).body)
            assert headers["content-type"] == "application/vnd.apple.mpegurl"
            assert headers["cache-control"] == "no-cache"
            assert "x-cache-status" not in headers
            return m3u8.loads(body.decode())

        def view() -> tuple[dict[tuple[str, str], bytes], list[str]]:
            """What a player fetches, and whence it came."""
            found, states = {}, []
            whole = playlist(top)
            places = [one.uri for one in (*whole.playlists, *whole.media) if one.uri]
            for place in places:
                url = urljoin(top, place)
                track = playlist(url)
                for part in (*track.segment_map, *track.segments):
                    size, _, start = part.byterange.partition("@")
                    span = f"{start}-{int(start) + int(size) - 1}"
                    target = urljoin(url, part.uri)
                    status, headers, body = fetch(proxy, target, f"Range: bytes={span}")
                    assert (status, len(body)) == (206, int(size))
                    assert headers["content-range"].startswith(f"bytes {span}/")
                    found[target, span] = body
                    states.append(headers["x-cache-status"])
            return found, states

        top = json.loads(fetch(proxy, "/video/info?name=film.h4mk")[2])["hls_url"]
        first, states = view()
        targets = {target for target, _ in first}
        assert len(targets) == 2
        # All of it is in the first MiB of a track: who asks for any of that has asked for the slice.
        assert sorted(states) == ["HIT"] * (len(states) - 2) + ["MISS"] * 2
        second, states = view()
        assert second == first
        assert states == ["HIT"] * len(first)
        for target in targets:
            whole = server.get(target).body
            assert len(whole) < 2**20
            for (one, span), body in first.items():
                start, _, last = span.partition("-")
                assert one != target or body == whole[int(start) : int(last) + 1]
        assert all(urlsplit(target).path.startswith("/video/range/") for target in targets)
