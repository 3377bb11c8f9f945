"""`/video/export` and programs that others wrote: whoever sends, and however, the container is what `harmony4
export` makes; and who is refused hears why, even one that sends everything before it reads.

curl, aiohttp, requests and `http.client`, straight and through nginx with the example of docs/DEPLOYMENT.md.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import io
import json
import random
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import pytest
import requests

from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import media
from needs import BUNNY, needs_curl, needs_ffmpeg, needs_nginx
from processes import until
from programs import documented, nginx, run_program
from serving import Server, running, write_container

EXAMPLE: Final = "".join(documented("## Behind nginx")[1:])
MEDIA: Final = {
    "index-last": lambda: BUNNY,
    "fragments": lambda: media("fragmented.mp4"),
    "stream": lambda: media("plain.ts"),
    "large": lambda: media("large-moovend.mp4"),
}
"""An MP4 with its index last, which must be there whole before the first packet; media that are demuxed as
they come; 30 MB with their index last."""
MOST: Final = 40 * 2**20
"""Bytes that the server takes in one upload."""
PIECE: Final = 70_001
Answered = TypeVar("Answered")
TIME: Final = 60
"""Seconds that a client waits for anything."""


@dataclass(frozen=True)
class Sending:
    """What a client is to send."""

    url: str
    """Where the server is."""
    file: Path
    folder: Path
    """The client's own."""
    name: str | None
    """None: the container comes back."""

    @property
    def target(self) -> str:
        """Path and query; the query is none where the name is not asked for."""
        return "/video/export" + ("" if self.name is None else f"?{urlencode({'name': self.name})}")

    @property
    def data(self) -> bytes:
        return self.file.read_bytes()

    def pieces(self) -> Iterator[bytes]:
        """The file in pieces."""
        with self.file.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


@dataclass(frozen=True)
class Said:
    """What a client was told."""

    status: int
    body: bytes

    @property
    def problem(self) -> str:
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        return str(found["type"]).removeprefix("urn:harmony4:problem:")


Client = Callable[[Sending], Said]


# -- curl


def curl(one: Sending, *arguments: object, feed: bytes | None = None) -> Said:
    answer = one.folder / "answer"
    answer.unlink(missing_ok=True)
    fixed = ("-q", "-sS", "-m", TIME, "-o", answer, "-w", "%{http_code}")
    done = run_program("curl", *fixed, *arguments, folder=one.folder, feed=feed)
    return Said(int(done.out), answer.read_bytes())


def curl_file(one: Sending) -> Said:
    """`-T`: asks first (`Expect: 100-continue`), and says how much it is."""
    return curl(one, "-X", "POST", "-T", one.file, one.url + one.target)


def curl_at_once(one: Sending) -> Said:
    """The same without asking."""
    return curl(one, "-X", "POST", "-H", "Expect:", "-T", one.file, one.url + one.target)


def curl_chunked(one: Sending) -> Said:
    """A file in chunks."""
    chunked = ("-H", "Transfer-Encoding: chunked")
    return curl(one, "-X", "POST", *chunked, "-T", one.file, one.url + one.target)


def curl_pipe(one: Sending) -> Said:
    """What comes through a pipe, of a length that curl does not know."""
    return curl(one, "-X", "POST", "-T", "-", one.url + one.target, feed=one.data)


def curl_form(one: Sending) -> Said:
    """`-F`, the name among the fields."""
    named = () if one.name is None else ("-F", f"name={one.name}")
    return curl(one, *named, "-F", f"file=@{one.file}", f"{one.url}/video/export")


def curl_form_pipe(one: Sending) -> Said:
    """A form in chunks, as its length is not known either."""
    named = () if one.name is None else ("-F", f"name={one.name}")
    return curl(one, *named, "-F", "file=@-;filename=a.mp4", f"{one.url}/video/export", feed=one.data)


# -- aiohttp


def _aiohttp(url: str, data: object) -> Said:
    async def post() -> Said:
        time = aiohttp.ClientTimeout(total=TIME)
        async with aiohttp.ClientSession(timeout=time) as session, session.post(url, data=data) as answer:
            return Said(answer.status, await answer.read())

    return run(post())


def run(work: Coroutine[Any, Any, Answered]) -> Answered:
    """In an event loop of its own.

    A client that is answered before it has sent all leaves its connection to the garbage collector.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
        answered = asyncio.run(work)
        gc.collect()
    return answered


def aiohttp_stream(one: Sending) -> Said:
    """A body that an asynchronous generator makes."""

    async def body() -> AsyncIterator[bytes]:
        for piece in one.pieces():
            yield piece

    return _aiohttp(one.url + one.target, body())


def aiohttp_file(one: Sending) -> Said:
    with one.file.open("rb") as file:
        return _aiohttp(one.url + one.target, file)


def aiohttp_form(one: Sending) -> Said:
    form = aiohttp.FormData()
    if one.name is not None:
        form.add_field("name", one.name)
    with one.file.open("rb") as file:
        form.add_field("file", file, filename=one.file.name, content_type="video/mp4")
        return _aiohttp(f"{one.url}/video/export", form)


# -- clients that send everything before they read


def _requests(one: Sending, target: str, **body: object) -> Said:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(one.url + target, timeout=TIME, **body)  # type: ignore[arg-type]
        return Said(answer.status_code, answer.content)


def requests_file(one: Sending) -> Said:
    with one.file.open("rb") as file:
        return _requests(one, one.target, data=file)


def requests_chunked(one: Sending) -> Said:
    return _requests(one, one.target, data=one.pieces())


def requests_form(one: Sending) -> Said:
    named = {} if one.name is None else {"name": one.name}
    with one.file.open("rb") as file:
        return _requests(one, "/video/export", data=named, files={"file": (one.file.name, file)})


def _http_client(one: Sending, **body: object) -> Said:
    parts = urlsplit(one.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIME)
    try:
        # This returns when the kernel has all of it: nothing is read before.
        connection.request("POST", one.target, **body)  # type: ignore[arg-type]
        answer = connection.getresponse()
        return Said(answer.status, answer.read())
    finally:
        connection.close()


def http_client(one: Sending) -> Said:
    return _http_client(one, body=one.data)


def http_client_chunked(one: Sending) -> Said:
    return _http_client(one, body=one.pieces(), encode_chunked=True)


CURL: Final = (curl_file, curl_at_once, curl_chunked, curl_pipe, curl_form, curl_form_pipe)
OTHERS: Final = (
    *(aiohttp_stream, aiohttp_file, aiohttp_form),
    *(requests_file, requests_chunked, requests_form, http_client, http_client_chunked),
)


def _parameters(*clients: Client) -> list[Any]:
    return [
        pytest.param(one, marks=[needs_curl] if one in CURL else [], id=one.__name__)  # type: ignore[attr-defined]
        for one in clients
    ]


each_client = pytest.mark.parametrize("client", _parameters(*CURL, *OTHERS))


# -- where they send to


@dataclass(frozen=True)
class Place:
    """A server, and where clients reach it."""

    server: Server
    url: str
    root: Path

    def library(self) -> set[str]:
        """The names of all containers, and of whatever else stands beside them."""
        return {path.name for path in self.root.iterdir() if path.name != ".harmony4"}

    def spools(self) -> list[Path]:
        return list((self.root / ".harmony4" / "spool").glob("*"))

    def job_states(self) -> dict[str, str]:
        return {one["id"]: one["state"] for one in self.server.get("/jobs").json["jobs"]}


@pytest.fixture(scope="module", params=["straight", pytest.param("nginx", marks=needs_nginx)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    root = folder / "library"
    write_container(root / "there.h4mk", [b"x"])
    with ExitStack() as stack:
        server = stack.enter_context(running(root, min_free=0, max_upload=MOST))
        url = server.url
        if request.param == "nginx":
            url = stack.enter_context(nginx(folder / "nginx", EXAMPLE, server.address)).url
        yield Place(server, url, root)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bytes]]:
    """Each medium, and its container."""
    found = {}
    for name, find in MEDIA.items():
        out = io.BytesIO()
        export(find(), out, ExportOptions())
        found[name] = find(), out.getvalue()
    return found


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than the server takes, and not all of one kind."""
    path = tmp_path_factory.mktemp("large") / "film.mp4"
    path.write_bytes(random.Random(4).randbytes(2**20) * (MOST // 2**20 + 20))
    return path


# -- what comes of it


@needs_ffmpeg
@each_client
def test_the_same_container(
    place: Place, sources: dict[str, tuple[Path, bytes]], client: Client, tmp_path: Path
) -> None:
    for kind, (source, expected) in sources.items():
        name = f"{client.__name__}-{kind}.h4mk"  # type: ignore[attr-defined]
        said = client(Sending(place.url, source, tmp_path, name))
        assert said.status == 201, said
        assert json.loads(said.body)["timing"] == "demux"
        assert (place.root / name).read_bytes() == expected, kind
        job = place.server.get(f"/jobs/{json.loads(said.body)['job']}").json
        assert (job["state"], job["received"]) == ("done", source.stat().st_size)
        (place.root / name).unlink()
    assert place.spools() == []


@needs_ffmpeg
@pytest.mark.parametrize(
    "client", _parameters(curl_file, curl_pipe, curl_form, aiohttp_stream, requests_form, http_client)
)
def test_the_container_comes_back(
    place: Place, sources: dict[str, tuple[Path, bytes]], client: Client, tmp_path: Path
) -> None:
    for kind, (source, expected) in sources.items():
        said = client(Sending(place.url, source, tmp_path, None))
        assert said.status == 200, said.body[:1000]
        assert said.body == expected, kind
    assert place.library() == {"there.h4mk"}
    until(lambda: place.spools() == [], "the removal of the spool")


@needs_ffmpeg
@each_client
def test_a_name_that_is_taken(
    place: Place, sources: dict[str, tuple[Path, bytes]], client: Client, tmp_path: Path
) -> None:
    """Known before the body, of which 30 MB come all the same unless the client asks first or listens."""
    before = place.job_states(), (place.root / "there.h4mk").read_bytes()
    said = client(Sending(place.url, sources["large"][0], tmp_path, "there.h4mk"))
    assert (said.status, said.problem) == (409, "exists")
    assert (place.job_states(), (place.root / "there.h4mk").read_bytes()) == before
    assert place.library() == {"there.h4mk"}
    assert place.spools() == []


@each_client
def test_too_much(place: Place, too_large: Path, client: Client, tmp_path: Path) -> None:
    """Refused before the body where its length is known, else in its middle: the client is told."""
    before = place.job_states()
    said = client(Sending(place.url, too_large, tmp_path, "much.h4mk"))
    assert (said.status, said.problem) == (413, "limit")
    new = place.job_states().keys() - before.keys()
    assert {place.job_states()[one] for one in new} <= {"failed"}
    assert place.library() == {"there.h4mk"}
    until(lambda: place.spools() == [], "the removal of the spool")


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["requests", "aiohttp"])
def test_a_session_goes_on(
    place: Place, sources: dict[str, tuple[Path, bytes]], too_large: Path, kind: str
) -> None:
    """A client that keeps its connections is refused in different ways, and then sends what is taken."""
    source, expected = sources["stream"]
    targets = [
        ("/video/export?name=there.h4mk", too_large, 409),
        ("/video/export?name=../a.h4mk", too_large, 400),
        ("/video/export?name=a.h4mk", too_large, 413),
        ("/video/export/nowhere", too_large, 404),
        (f"/video/export?name={kind}.h4mk", source, 201),
        (f"/video/export?name={kind}.h4mk", too_large, 409),
        (f"/video/export?name={kind}-2.h4mk", source, 201),
    ]

    def with_requests() -> list[int]:
        with requests.Session() as session:
            session.trust_env = False
            found = []
            for target, path, _ in targets:
                with path.open("rb") as file:
                    found.append(session.post(place.url + target, data=file, timeout=TIME).status_code)
            return found

    async def with_aiohttp() -> list[int]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIME)) as session:
            found = []
            for target, path, _ in targets:
                data = io.BytesIO(path.read_bytes())
                async with session.post(place.url + target, data=data) as answer:
                    await answer.read()
                    found.append(answer.status)
            return found

    found = with_requests() if kind == "requests" else run(with_aiohttp())
    assert found == [status for _, _, status in targets]
    for name in (f"{kind}.h4mk", f"{kind}-2.h4mk"):
        assert (place.root / name).read_bytes() == expected
        (place.root / name).unlink()
    assert place.library() == {"there.h4mk"}
