"""Programs that others wrote fetch real videos by ranges: the same SHA-256, whoever asks and however.

ffmpeg, curl, aria2c and Chromium ask the server itself, on each event loop; nginx stands before it as a
caching proxy, with the example of docs/DEPLOYMENT.md, and the others ask that.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Page

from chromium import chromium
from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import media
from needs import BUNNY, needs_aria2, needs_chromium, needs_curl, needs_ffmpeg, needs_nginx
from programs import command, documented, environment, nginx, run_program
from serving import LOOPS, Server, running

pytestmark = needs_ffmpeg

NAMES = ("bigbuckbunny", "large", "large-moovend")
"""Real videos: 1 MB with a single keyframe and its index at the end; 30 MB for streaming, and 30 MB with the
index at the end."""
FETCHED = NAMES[:2]
"""Where only the bytes count."""
SLICE = 2**20
"""Bytes that nginx asks for at a time."""


@pytest.fixture(scope="module")
def sources() -> dict[str, Path]:
    found = {name: BUNNY if name == "bigbuckbunny" else media(f"{name}.mp4") for name in NAMES}
    assert all(path.stat().st_size > 20 * 2**20 for path in found.values() if path != BUNNY)
    return found


@pytest.fixture(scope="module")
def library(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for name, path in sources.items():
        export(path, root / f"{name}.h4mk", ExportOptions())
    return root


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, library: Path) -> Iterator[Server]:
    with running(library, loop=request.param) as one:
        yield one


def target(server: Server, name: str) -> str:
    """The path and query of a stream, as the server hands it out: with its version."""
    return str(server.get(f"/video/info?name={name}.h4mk").json["tracks"][0]["range_url"])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cuts(size: int, count: int, seed: object) -> list[tuple[int, int]]:
    """`size` bytes in `count` pieces (start, stop) that follow one another, cut where `seed` says."""
    places = sorted(random.Random(f"{seed}").sample(range(1, size), count - 1))
    return list(zip([0, *places], [*places, size], strict=True))


# -- ffmpeg


@pytest.mark.parametrize("name", FETCHED)
def test_ffmpeg_copies(server: Server, sources: dict[str, Path], name: str, tmp_path: Path) -> None:
    """The stream in pieces, by ffmpeg's own HTTP client."""
    size = sources[name].stat().st_size
    got = hashlib.sha256()
    for start, stop in cuts(size, 3, name):
        piece = ("-offset", start, "-end_offset", stop, "-f", "data", "-i", server.url + target(server, name))
        done = run_program(
            "ffmpeg", "-v", "error", *piece, "-map", 0, "-c", "copy", "-f", "data", "-", folder=tmp_path
        )
        assert len(done.out) == stop - start
        got.update(done.out)
    assert got.hexdigest() == sha(sources[name].read_bytes())


def frames(source: str, folder: Path, *, at: float = 0, count: int = 0) -> bytes:
    """Digests of packets, or of `count` decoded frames from `at` s on, as ffmpeg prints them."""
    picked: tuple[object, ...] = ("-frames:v", count, "-an", "-f", "framemd5") if count else ()
    picked = picked or ("-map", 0, "-c", "copy", "-f", "framehash")
    seek = ("-ss", at) if at else ()
    return run_program("ffmpeg", "-v", "error", *seek, "-i", source, *picked, "-", folder=folder).out


@cache
def expected(source: Path, *, at: float = 0, count: int = 0) -> bytes:
    """The same of a file."""
    return frames(str(source), source.parent, at=at, count=count)


@pytest.mark.parametrize("name", NAMES)
def test_ffmpeg_plays(server: Server, sources: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Every packet is the source's, and so is a frame after a seek."""
    url = server.url + target(server, name)
    assert frames(url, tmp_path) == expected(sources[name])
    assert frames(url, tmp_path, at=2, count=1) == expected(sources[name], at=2, count=1)


# -- curl


@needs_curl
@pytest.mark.parametrize("name", FETCHED)
def test_curl_in_pieces(server: Server, sources: dict[str, Path], name: str, tmp_path: Path) -> None:
    """`-r`: pieces on a connection each, and all of them on one connection."""
    url = server.url + target(server, name)
    pieces = cuts(sources[name].stat().st_size, 8, name)
    got = hashlib.sha256()
    for start, stop in pieces:
        done = run_program("curl", "-sS", "-f", "-r", f"{start}-{stop - 1}", url, folder=tmp_path)
        got.update(done.out)
    one: list[object] = []
    for number, (start, stop) in enumerate(pieces):
        status = ("-w", "%{stderr}%{http_code} %{num_connects}\n")
        one += [*(["--next"] if number else []), "-sS", "-f", *status, "-r", f"{start}-{stop - 1}", url]
    done = run_program("curl", *one, folder=tmp_path)
    assert done.err.splitlines() == ["206 1"] + ["206 0"] * 7
    assert got.hexdigest() == sha(done.out) == sha(sources[name].read_bytes())


@needs_curl
@pytest.mark.parametrize("name", FETCHED)
def test_curl_resumes(server: Server, sources: dict[str, Path], name: str, tmp_path: Path) -> None:
    """`-C -` on what is there already: nothing, a byte, a part, all but a byte, everything."""
    url = server.url + target(server, name)
    whole = sources[name].read_bytes()
    for there in (0, 1, len(whole) // 3, len(whole) - 1, len(whole)):
        file = tmp_path / "got"
        file.write_bytes(whole[:there])
        done = run_program(
            "curl", "-sS", "-C", "-", "-o", file, "-w", "%{size_download}", url, folder=tmp_path
        )
        if there < len(whole):
            assert int(done.out) == len(whole) - there
        assert sha(file.read_bytes()) == sha(whole)


@needs_curl
def test_curl_is_interrupted(server: Server, sources: dict[str, Path], tmp_path: Path) -> None:
    """A download that ends in its middle, because its reader leaves, and is taken up again."""
    url = server.url + target(server, "large")
    file = tmp_path / "got"
    with subprocess.Popen(
        command("curl", "-sS", url),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        file.write_bytes(process.stdout.read(5_000_000))
        process.stdout.close()
        assert process.wait(30) == 23  # it cannot write any more
    run_program("curl", "-sS", "-f", "-C", "-", "-o", file, url, folder=tmp_path)
    assert sha(file.read_bytes()) == sha(sources["large"].read_bytes())


@needs_curl
def test_curl_does_not_resume_into_another_version(
    sources: dict[str, Path], library: Path, tmp_path: Path
) -> None:
    """curl does not compare ETags when it resumes: it is `v=` that keeps two versions apart."""
    root = tmp_path / "library"
    file = tmp_path / "got"
    whole = sources["large-moovend"].read_bytes()
    replaced = Replaced(root, library)
    with running(root) as server:
        url = server.url + target(server, "a")
        run_program("curl", "-sS", "-f", "-r", "0-999999", "-o", file, url, folder=tmp_path)
        replaced()
        done = run_program("curl", "-sS", "-f", "-C", "-", "-o", file, url, folder=tmp_path, status=22)
        assert "410" in done.err
        assert file.read_bytes() == sources["large"].read_bytes()[:1_000_000]
        url = server.url + target(server, "a")
        run_program("curl", "-sS", "-f", "-o", file, url, folder=tmp_path)
        assert sha(file.read_bytes()) == sha(whole)


class Replaced:
    """A container `a.h4mk` in `root` that another one takes the place of when it is called."""

    def __init__(self, root: Path, library: Path) -> None:
        root.mkdir()
        self._file = root / "a.h4mk"
        self._file.write_bytes((library / "large.h4mk").read_bytes())
        self._next = root / "next"
        self._next.write_bytes((library / "large-moovend.h4mk").read_bytes())

    def __call__(self) -> None:
        self._next.replace(self._file)


# -- aria2c

ARIA2 = ("--no-conf", "--no-netrc", "--file-allocation=none", "--max-tries=1", "-x8", "-s8", "-k1M")
ARIA2 += ("--console-log-level=error", "--summary-interval=0", "--log-level=info", "--log=aria2.log")


@needs_aria2
@pytest.mark.parametrize(
    ("name", "more"),
    [*((name, ()) for name in FETCHED), ("large", ("--enable-http-pipelining=true",))],
    ids=[*FETCHED, "pipelined"],
)
def test_aria2c_with_eight_connections(
    server: Server, sources: dict[str, Path], name: str, more: Sequence[str], tmp_path: Path
) -> None:
    whole = sources[name].read_bytes()
    url = server.url + target(server, name)
    run_program("aria2", *ARIA2, *more, f"--checksum=sha-256={sha(whole)}", "-o", "got", url, folder=tmp_path)
    assert sha((tmp_path / "got").read_bytes()) == sha(whole)
    if len(whole) > 8 * 2**20:
        log = (tmp_path / "aria2.log").read_text()
        asked = re.findall(r"CUID#(\d+) - Requesting:\n(?:.+\n)*?Range: bytes=\d+-", log)
        assert len(set(asked)) >= 7  # the first connection asks without a range


@needs_aria2
def test_aria2c_continues(server: Server, sources: dict[str, Path], tmp_path: Path) -> None:
    whole = sources["large"].read_bytes()
    (tmp_path / "got").write_bytes(whole[:3_333_333])
    run_program("aria2", *ARIA2, "-c", "-o", "got", server.url + target(server, "large"), folder=tmp_path)
    assert sha((tmp_path / "got").read_bytes()) == sha(whole)


# -- Chromium

ASSEMBLE = """async ([url, size, groups]) => {
  const got = new Uint8Array(size);
  let filled = 0;
  const put = (start, bytes) => { got.set(bytes, start); filled += bytes.length; };
  const fetchGroup = async (group) => {
    const answer = await fetch(url, {headers: {Range: "bytes=" + group.map(([a, b]) => `${a}-${b - 1}`)}});
    const body = new Uint8Array(await answer.arrayBuffer());
    if (answer.status !== 206) throw new Error(`HTTP ${answer.status}`);
    const range = /^bytes (\\d+)-(\\d+)\\/(\\d+)$/;
    if (group.length === 1) {
      const [, first, last, all] = range.exec(answer.headers.get("Content-Range")).map(Number);
      if (first !== group[0][0] || last + 1 !== group[0][1] || all !== size) throw new Error("another range");
      put(first, body);
      return;
    }
    const mark = /^multipart\\/byteranges; boundary=(\\w+)$/.exec(answer.headers.get("Content-Type"))[1];
    const text = (from, to) => new TextDecoder("latin1").decode(body.subarray(from, to));
    let at = 0;
    for (const [start, stop] of group) {
      const head = text(at, at + 400).split("\\r\\n\\r\\n", 1)[0];
      if (!head.startsWith(`${at ? "\\r\\n" : ""}--${mark}\\r\\n`)) throw new Error("no boundary");
      const [, first, last, all] = range.exec(/Content-Range: (.+)$/.exec(head)[1]).map(Number);
      if (first !== start || last + 1 !== stop || all !== size) throw new Error("another part");
      at += head.length + 4;
      put(start, body.subarray(at, at + stop - start));
      at += stop - start;
    }
    if (text(at) !== `\\r\\n--${mark}--\\r\\n`) throw new Error("no end");
  };
  const queue = groups.slice();
  const work = async () => { while (queue.length) await fetchGroup(queue.pop()); };
  await Promise.all(Array.from({length: 6}, work));
  if (filled !== size) throw new Error(`${filled} of ${size} bytes`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", got));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}"""
PIECE = """async ([url, range]) => {
  const answer = await fetch(url, {headers: {Range: range}});
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await answer.arrayBuffer()));
  return [answer.status, Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")];
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        yield browser.new_page()


@needs_chromium
@pytest.mark.parametrize("name", FETCHED)
def test_chromium_fetches(server: Server, sources: dict[str, Path], page: Page, name: str) -> None:
    """The page's origin, ranges in any order, six at a time, alone and several in one request; then again,
    when the browser's cache has some of them."""
    page.goto(server.url)
    whole = sources[name].read_bytes()
    for seed in range(2):
        pieces = cuts(len(whole), 60, seed)
        rng = random.Random(seed)
        rng.shuffle(pieces)
        groups = [[one] for one in pieces[:30]] + [pieces[at : at + 10] for at in range(30, 60, 10)]
        rng.shuffle(groups)
        assert page.evaluate(ASSEMBLE, [target(server, name), len(whole), groups]) == sha(whole)


@needs_chromium
def test_chromiums_cache_and_another_version(
    sources: dict[str, Path], library: Path, page: Page, tmp_path: Path
) -> None:
    """What the browser kept of a version is not put together with another one."""
    old, new = sources["large"].read_bytes(), sources["large-moovend"].read_bytes()
    replaced = Replaced(tmp_path / "library", library)
    with running(tmp_path / "library") as server:
        page.goto(server.url)
        urls = [target(server, "a"), "/video/range?name=a.h4mk"]
        for url in urls:
            assert page.evaluate(PIECE, [url, "bytes=0-999999"]) == [206, sha(old[:1_000_000])]
        replaced()
        versioned, plain = (page.evaluate(PIECE, [url, "bytes=500000-1499999"]) for url in urls)
        # Chromium shows what it has of the old version, meets the 410 for the rest, and ends there.
        assert versioned == [206, sha(old[500_000:1_000_000])]
        assert plain == [206, sha(new[500_000:1_500_000])]
        assert page.evaluate(PIECE, [urls[0], "bytes=2000000-2000009"])[0] == 410


# -- nginx

EXAMPLE = "".join(documented("## Behind nginx")[1:])
CARELESS = EXAMPLE.replace("slice 1m;", "slice 1m; proxy_ignore_headers Cache-Control;").replace(
    "proxy_cache_bypass $harmony4_fresh;", ""
)
"""A proxy that keeps what it was told not to keep."""


def ask(
    address: tuple[str, int], url: str, start: int, stop: int, more: Mapping[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Bytes `start` to `stop` in one exchange."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request("GET", url, headers={"Range": f"bytes={start}-{stop - 1}", **(more or {})})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def broken(answer: http.client.HTTPResponse) -> bytes:
    """All that comes of a body that must end too early."""
    got = bytearray()
    with suppress(ConnectionError):
        while piece := answer.read(2**16):
            got += piece
    assert len(got) < int(answer.headers["Content-Length"])
    return bytes(got)


@needs_nginx
@needs_curl
@pytest.mark.parametrize("name", NAMES)
def test_nginx_keeps_slices(library: Path, sources: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Random ranges, the whole, and the whole again without a server behind the proxy."""
    whole = sources[name].read_bytes()
    size = len(whole)
    rng = random.Random(name)
    with ExitStack() as stack:
        upstream = stack.enter_context(ExitStack())
        server = upstream.enter_context(running(library))
        url = target(server, name)
        etag = server.request("HEAD", url).headers["ETag"]
        proxy = stack.enter_context(nginx(tmp_path / "nginx", EXAMPLE, server.address))
        seen = set()
        for _ in range(40):
            start = rng.randrange(size)
            stop = min(size, start + rng.choice([1, 1000, SLICE, 3 * SLICE]))
            answer, body = ask(proxy.address, url, start, stop)
            assert (answer.status, body) == (206, whole[start:stop])
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert answer.headers["ETag"] == etag
            seen.add(answer.headers["X-Cache-Status"])
        assert seen == {"MISS", "HIT"}
        fetch = ("curl", "-sS", "-f", proxy.url + url)
        assert sha(run_program(*fetch, folder=tmp_path).out) == sha(whole)
        # Nothing is kept under an address that names no version.
        for _ in range(2):
            answer, body = ask(proxy.address, f"/video/range?name={name}.h4mk", 5, 50_005)
            assert (answer.status, body, answer.headers["X-Cache-Status"]) == (206, whole[5:50_005], "BYPASS")
        upstream.close()
        for start in range(0, size, SLICE):
            stop = min(size, start + 2 * SLICE)
            answer, body = ask(proxy.address, url, start, stop)
            assert (answer.status, body, answer.headers["X-Cache-Status"]) == (206, whole[start:stop], "HIT")
        assert sha(run_program(*fetch, folder=tmp_path).out) == sha(whole)
        assert ask(proxy.address, f"/video/range?name={name}.h4mk", 5, 50_005)[0].status == 502


@needs_nginx
@needs_aria2
@needs_curl
def test_nginx_before_other_programs(library: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """aria2c's eight connections on an empty cache, curl's pieces, ffmpeg's seeks, the container itself."""
    with running(library) as server, nginx(tmp_path / "nginx", EXAMPLE, server.address) as proxy:
        whole = sources["large"].read_bytes()
        url = proxy.url + target(server, "large")
        run_program("aria2", *ARIA2, "-o", "got", url, folder=tmp_path)
        assert sha((tmp_path / "got").read_bytes()) == sha(whole)
        (tmp_path / "got").write_bytes(whole[:3_333_333])
        run_program("curl", "-sS", "-f", "-C", "-", "-o", "got", url, folder=tmp_path)
        assert sha((tmp_path / "got").read_bytes()) == sha(whole)
        for name, source in sources.items():
            url = proxy.url + target(server, name)
            assert frames(url, tmp_path, at=2, count=1) == expected(source, at=2, count=1)
        sealed = (library / "large.h4mk").read_bytes()
        done = run_program("curl", "-sS", "-f", proxy.url + "/container?name=large.h4mk", folder=tmp_path)
        assert sha(done.out) == sha(sealed)


@needs_nginx
@pytest.mark.parametrize(
    "line", ["", 'proxy_set_header Want-Content-Digest "";'], ids=["as documented", "left out"]
)
def test_nginx_keeps_no_digest_of_a_slice(
    library: Path, sources: dict[str, Path], line: str, tmp_path: Path
) -> None:
    """What `Want-Content-Digest` gets is about a slice; `Repr-Digest` is about the whole and stays."""
    whole = base64.b64encode(hashlib.sha256(sources["large"].read_bytes()).digest()).decode()
    assert line in EXAMPLE
    text = EXAMPLE.replace(line, "")
    with running(library) as server, nginx(tmp_path / "nginx", text, server.address) as proxy:
        url = target(server, "large")
        for wish in ({"Want-Content-Digest": "sha-256=10"}, None):
            answer, _ = ask(proxy.address, url, 5, 2 * SLICE, wish)
            assert answer.headers["Repr-Digest"] == f"sha-256=:{whole}:"
            # Without that line whoever asks is told the slice's; nobody else is.
            assert ("Content-Digest" in answer.headers) == bool(line and wish)


@needs_nginx
def test_nginx_and_a_container_that_was_replaced(
    sources: dict[str, Path], library: Path, tmp_path: Path
) -> None:
    """Half of the old version is kept when the new one comes: each is delivered, and never one of both."""
    old, new = sources["large"].read_bytes(), sources["large-moovend"].read_bytes()
    replaced = Replaced(tmp_path / "library", library)
    half = 15 * SLICE
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", EXAMPLE, server.address) as proxy,
    ):
        before = target(server, "a")
        assert ask(proxy.address, before, 0, half)[1] == old[:half]
        replaced()
        after = target(server, "a")
        assert after != before
        # What is kept is right for ever, as its address names the old version.
        for start, stop in ((0, half), (5, 10), (7 * SLICE - 5, 9 * SLICE)):
            answer, body = ask(proxy.address, before, start, stop)
            assert (answer.headers["X-Cache-Status"], body) == ("HIT", old[start:stop])
        # The rest is gone: 410 where that is the first thing to say, else the answer breaks off.
        for _ in range(2):
            answer, body = ask(proxy.address, before, half, half + 10)
            assert answer.status == 410
            assert json.loads(body)["type"] == "urn:harmony4:problem:stale"
        with opened(proxy.address, before) as whole:
            assert whole.status == 200
            assert old[:half].startswith(broken(whole))
        assert "unexpected status code 410 in slice response" in proxy.errors
        for _ in range(2):
            with opened(proxy.address, after) as whole:
                assert sha(whole.read()) == sha(new)


@needs_nginx
def test_a_careless_proxy_mixes_nothing(sources: dict[str, Path], library: Path, tmp_path: Path) -> None:
    """One that keeps slices of an address without version, against our word: the ETags stop it."""
    old, new = sources["large"].read_bytes(), sources["large-moovend"].read_bytes()
    replaced = Replaced(tmp_path / "library", library)
    half, url = 15 * SLICE, "/video/range?name=a.h4mk"
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", CARELESS, server.address) as proxy,
    ):
        first, body = ask(proxy.address, url, 0, half)
        assert body == old[:half]
        replaced()
        kept, body = ask(proxy.address, url, 100, half)
        assert (kept.headers["X-Cache-Status"], body) == ("HIT", old[100:half])
        with opened(proxy.address, url) as whole:
            assert old[:half].startswith(broken(whole))
        assert "etag mismatch in slice response" in proxy.errors
        # Slices of the new version are told from the old by their ETag, and so is what If-Range asks for.
        rest, body = ask(proxy.address, url, half, half + 999)
        assert body == new[half : half + 999]
        assert rest.headers["ETag"] != first.headers["ETag"] == kept.headers["ETag"]
        tag = str(first.headers["ETag"])
        with (
            suppress(ConnectionError),
            opened(proxy.address, url, Range=f"bytes={half}-", If_Range=tag) as rest,
        ):
            assert old[half:].startswith(broken(rest))


@needs_nginx
@pytest.mark.parametrize("text", [EXAMPLE, CARELESS], ids=["as documented", "careless"])
@pytest.mark.parametrize("versioned", [True, False])
def test_replaced_while_nginx_streams(
    sources: dict[str, Path], library: Path, text: str, versioned: bool, tmp_path: Path
) -> None:
    """A reader takes a part and waits: the proxy asks for the rest when the other version is there."""
    old, new = sources["large"].read_bytes(), sources["large-moovend"].read_bytes()
    replaced = Replaced(tmp_path / "library", library)
    with (
        running(tmp_path / "library") as server,
        nginx(tmp_path / "nginx", text, server.address) as proxy,
    ):
        url = target(server, "a") if versioned else "/video/range?name=a.h4mk"
        with opened(proxy.address, url) as answer:
            start = answer.read(100_000)
            replaced()
            got = start + broken(answer)
        assert old.startswith(got)
        again = target(server, "a") if versioned else f"{url}&track=0"
        with opened(proxy.address, again) as answer:
            assert sha(answer.read()) == sha(new)


@contextmanager
def opened(address: tuple[str, int], url: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer whose body is still to be read, over a connection that holds little of it meanwhile."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    connection.sock.settimeout(30)
    connection.sock.connect(address)
    try:
        connection.request(
            "GET", url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        yield connection.getresponse()
    finally:
        connection.close()
