"""`/uploads/` and the reference clients: tuspy, and tus-js-client in Chromium; straight and through nginx.

tus-js-client is in tests/vendor, as it was released.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from chromium import chromium
from harmony4.server.exporting.ingest import ExportOptions, export
from media_factory import media
from needs import BUNNY, ROOT, needs_chromium, needs_ffmpeg, needs_nginx
from processes import until
from programs import ROOM, documented, nginx
from serving import Server, running

EXAMPLE = "".join(documented("## Behind nginx")[1:])
PIECE = 3 * 2**20
SLOW = 20 * 2**20
"""Bytes a second that a browser may send where it is to be interrupted."""


@dataclass(frozen=True)
class Place:
    """A server, and where clients reach it."""

    server: Server
    url: str
    root: Path

    def container(self, target: str, name: str) -> bytes:
        """The container that came of an upload, when its job is done."""
        answer = self.server.request(
            "HEAD", "/uploads/" + target.rpartition("/")[2], {"Tus-Resumable": "1.0.0"}
        )
        assert answer.status == 200
        job = f"/jobs/{answer.headers['Harmony4-Job']}"
        until(
            lambda: self.server.get(job).json["state"] not in ("receiving", "sealing"), "the end of the job"
        )
        assert self.server.get(job).json["state"] == "done", self.server.get(job).json
        return (self.root / name).read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A film of 30 MB, and its container."""
    made = tmp_path_factory.mktemp("expected") / "large.h4mk"
    export(media("large.mp4"), made, ExportOptions())
    return media("large.mp4"), made.read_bytes()


@pytest.fixture(params=["straight", pytest.param("nginx", marks=needs_nginx)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "library"
    root.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(running(root, min_free=0, stop_timeout=1))
        url = server.url
        if request.param == "nginx":
            url = stack.enter_context(nginx(tmp_path / "nginx", EXAMPLE, server.address)).url
        yield Place(server, url, root)


# -- tuspy


# In a process of its own: it closes neither its files nor its connections.
TUSPY = """
import json, sys
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
asked = json.loads(sys.argv[1])
try:
    one = TusClient(asked["endpoint"]).uploader(asked["file"], **asked["options"])
    start = one.offset
    one.upload(stop_at=asked["stop"])
    print(json.dumps({"url": one.url, "start": start, "offset": one.offset}))
except TusCommunicationError as error:
    print(json.dumps({"status": error.status_code, "body": error.response_content.decode()}))
"""


def tuspy(place: Place, source: Path, *, stop: int | None = None, **options: object) -> dict[str, Any]:
    """What tuspy has to say when it has uploaded a file up to `stop`."""
    asked = {"endpoint": f"{place.url}/uploads/", "file": str(source), "stop": stop, "options": options}
    command = [sys.executable, "-P", "-c", TUSPY, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, timeout=ROOM, check=False, text=True)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@needs_ffmpeg
def test_tuspy(place: Place, large: tuple[Path, bytes]) -> None:
    """In chunks, given up in the middle, taken up by another client that knows the address alone."""
    source, expected = large
    values = {"filename": "large.mp4", "filetype": ""}
    first = tuspy(place, source, stop=2 * PIECE, chunk_size=PIECE, metadata=values)
    assert (first["start"], first["offset"]) == (0, 2 * PIECE)
    assert first["url"].startswith(f"{place.url}/uploads/")
    second = tuspy(place, source, url=first["url"], chunk_size=PIECE, upload_checksum=True)
    assert (second["start"], second["offset"]) == (2 * PIECE, source.stat().st_size)
    assert place.container(first["url"], "large.h4mk") == expected


def test_tuspy_is_refused(place: Place) -> None:
    for values, status in (({"name": "../a.h4mk"}, 400), ({}, 400)):
        said = tuspy(place, BUNNY, metadata=values)
        assert said["status"] == status
        assert json.loads(said["body"])["type"] == "urn:harmony4:problem:usage"


# -- tus-js-client

ATTACH = """() => {
  document.body.append(Object.assign(document.createElement("input"), {type: "file", id: "file"}));
}"""
UPLOAD = """([options, breaks]) => new Promise((resolve, reject) => {
  const file = document.getElementById("file").files[0];
  const seen = {starts: [], progress: 0, breaks: 0};
  const places = [...breaks];
  // As a page does that was closed and is opened again: what it remembers is in localStorage.
  const begin = async () => {
    let ended = false;
    const upload = new tus.Upload(file, {
      endpoint: "/uploads/",
      metadata: {filename: file.name, filetype: file.type},
      retryDelays: [0, 100, 300, 1000, 1000, 1000],
      ...options,
      onProgress: (sent) => {
        seen.progress = sent;
        if (ended || !places.length || sent < places[0] * file.size) return;
        ended = true;
        places.shift();
        seen.breaks += 1;
        setTimeout(() => upload.abort().then(begin).catch(reject));
      },
      onSuccess: ({lastResponse}) => {
        resolve({...seen, url: upload.url, job: lastResponse.getHeader("Harmony4-Job")});
      },
      onError: reject,
      onBeforeRequest: (request) => {
        const offset = request.getHeader("Upload-Offset");
        if (offset !== undefined) seen.starts.push(Number(offset));
      },
    });
    const previous = await upload.findPreviousUploads();
    if (previous.length !== (seen.breaks ? 1 : 0)) throw new Error(`${previous.length} are remembered`);
    if (previous.length) upload.resumeFromPreviousUpload(previous[0]);
    upload.start();
  };
  begin().catch(reject);
})"""
TERMINATE = """() => new Promise((resolve, reject) => {
  const file = document.getElementById("file").files[0];
  const upload = new tus.Upload(file, {
    endpoint: "/uploads/",
    metadata: {filename: file.name},
    chunkSize: 100000,
    onError: reject,
    onChunkComplete: () => upload.abort(true).then(() => resolve(upload.url)).catch(reject),
  });
  upload.start();
})"""
ERROR = """([values]) => new Promise((resolve, reject) => {
  const file = document.getElementById("file").files[0];
  new tus.Upload(file, {
    endpoint: "/uploads/",
    metadata: values,
    onSuccess: () => reject(new Error("it was taken")),
    onError: (error) => resolve([error.originalResponse.getStatus(), error.originalResponse.getBody()]),
  }).start();
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser: Any, place: Place) -> Iterator[Page]:
    """The server's own page, with its policy, in which the client runs."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(place.url)
    page.evaluate((ROOT / "tests" / "vendor" / "tus-js-client" / "tus.min.js").read_text())
    page.evaluate(ATTACH)
    yield page
    context.close()


@needs_chromium
@needs_ffmpeg
@pytest.mark.parametrize(
    ("options", "breaks"),
    [
        ({}, []),
        ({}, [0.1, 0.5, 0.9]),
        ({"chunkSize": PIECE}, [0.3, 0.6]),
        ({"chunkSize": PIECE, "uploadDataDuringCreation": True}, [0.5]),
        ({"chunkSize": PIECE, "overridePatchMethod": True}, [0.5]),
    ],
    ids=["at once", "at once, aborted", "chunks", "creation with upload", "only POST"],
)
def test_tus_js_client(
    place: Place, page: Page, large: tuple[Path, bytes], options: dict[str, Any], breaks: list[float]
) -> None:
    """A real film out of a real browser, aborted in its middle and taken up again."""
    source, expected = large
    page.set_input_files("#file", source)
    if breaks:  # over loopback all of it may be gone before the page hears of a byte
        session = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": SLOW}
        session.send("Network.emulateNetworkConditions", slow)
    seen = page.evaluate(UPLOAD, [options, breaks])
    assert seen["breaks"] == len(breaks)
    assert seen["progress"] == source.stat().st_size
    assert seen["job"]
    assert seen["url"].startswith("/uploads/")
    assert seen["starts"] == sorted(seen["starts"])
    if not options and not breaks:
        assert seen["starts"] == [0]
    if "chunkSize" in options:
        assert {start % PIECE for start in seen["starts"][:2]} == {0}
    assert place.container(seen["url"], "large.h4mk") == expected


@needs_chromium
def test_tus_js_client_gives_up(place: Place, page: Page) -> None:
    page.set_input_files("#file", BUNNY)
    url = page.evaluate(TERMINATE)
    answer = place.server.request("HEAD", "/uploads/" + url.rpartition("/")[2], {"Tus-Resumable": "1.0.0"})
    assert answer.status == 404
    assert list((place.root / ".harmony4" / "uploads").iterdir()) == []


@needs_chromium
def test_tus_js_client_is_refused(place: Place, page: Page) -> None:
    page.set_input_files("#file", BUNNY)
    for values, status in (({"name": "../a.h4mk"}, 400), ({"filename": "x.mp4", "gop": "0"}, 400)):
        found, body = page.evaluate(ERROR, [values])
        assert found == status
        assert json.loads(body)["type"] == "urn:harmony4:problem:usage"
