"""The page plays masked media in Debian's Chromium: it unmasks them itself, and nobody else has the key."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

import independent
from chromium import QUIET, chromium
from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.h4mk import H4MKReader, recover
from harmony4.server.exporting.ingest import ExportOptions, export
from masking import keyring
from media_factory import media
from needs import needs_chromium, needs_ffmpeg, needs_nginx, program
from pagelib import CLIPS, FRAME, SHOWN, sought
from programs import nginx
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

KEY, OTHER = MasterKey(bytes(range(100, 132))), MasterKey(bytes(range(200, 232)))
HEX = KEY.reveal().hex()
MASKED = ExportOptions(mask=MaskSpec((KEY,)))
LARGE = ("large.mp4", "large-moovend.mp4")
"""Some 30 MB in 8 s: more than one answer, and the index behind the media."""
EXPECTED = [
    f"Failed to load resource: the server responded with a status of {code} ()" for code in (404, 416)
]
"""What Chromium logs of answers that a test asks for."""
PLAYING = "--autoplay-policy=no-user-gesture-required"


@pytest.fixture(scope="module")
def sources(clips: dict[str, Path]) -> dict[str, Path]:
    return {name: media(name) for name in (*LARGE, "tone.flac", "plain.ts")} | clips


@pytest.fixture(scope="module")
def library(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for name, path in sources.items():
        export(path, root / f"{name}.h4mk", MASKED)
    export(sources["webm"], root / "another key.h4mk", ExportOptions(mask=MaskSpec((OTHER,))))
    export(sources["webm"], root / "open.h4mk", ExportOptions())
    return root


@pytest.fixture(scope="module")
def server(library: Path) -> Iterator[Server]:
    with running(library) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A name that leads here, and is no localhost to the browser.
    name = ("--host-resolver-rules=MAP films.test 127.0.0.1", "--disable-features=LocalNetworkAccessChecks")
    with chromium(PLAYING, *name) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page that must log no error, throw nothing, and ask nobody but our server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    with watched(context, server.url) as one:
        yield one


@contextmanager
def watched(context: BrowserContext, url: str) -> Iterator[Page]:
    page = context.new_page()
    faults: list[str] = []
    page.on(
        "console",
        lambda one: faults.append(one.text) if one.type == "error" and one.text not in EXPECTED else None,
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else faults.append(request.url))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert faults == []


def visit(page: Page, server: Server, name: str) -> None:
    page.goto(f"{server.url}/?name={quote(name)}.h4mk")


ORIGIN = """async () => {
  const name = new URLSearchParams(location.search).get("name");
  const answer = await fetch(`video/info?${new URLSearchParams({ name })}`);
  return Number((await answer.json()).origin) / 1e6;
}"""


def unlock(page: Page, text: str = HEX) -> None:
    page.fill("#key", text)
    page.press("#key", "Enter")


def playing(page: Page) -> None:
    page.wait_for_selector("#stage video, #stage audio")
    page.evaluate(SHOWN)


def move(page: Page, seconds: float) -> dict[str, Any]:
    """Go to a time on the page; gives back the frame that is shown."""
    page.fill("#pts", f"{seconds}s")
    page.press("#pts", "Enter")
    sought(page, round(seconds * 1e6))
    found: dict[str, Any] = page.evaluate(FRAME)
    assert abs(found["time"] - page.evaluate(ORIGIN) - seconds) <= 0.05  # its clock is the medium's
    return found


def grey(seconds: float) -> float:
    """What the frame of this time looks like: luma 40 + 30 · second, limited range, as full-range RGB."""
    return (40 + 30 * int(seconds) - 16) * 255 / 219


@pytest.mark.parametrize("clip", CLIPS)
def test_clips(page: Page, server: Server, sources: dict[str, Path], clip: str) -> None:
    """The frame after a seek is the right one, and bytes at any offset are those of the source."""
    visit(page, server, clip)
    unlock(page)
    playing(page)
    for seconds in (3.5, 0.5, 5.5, 2.02):
        frame = move(page, seconds)
        assert (frame["width"], frame["height"]) == (320, 180)
        assert abs(frame["mean"] - grey(seconds)) < 12, (seconds, frame)
    # A frame was composed of what was decoded, and it plays on by itself.
    page.evaluate(
        """() => new Promise((resolve) => {
          const video = document.querySelector("video");
          const next = () => video.requestVideoFrameCallback(look);
          const look = (_, frame) => frame.mediaTime > 2.5 ? resolve() : next();
          video.muted = true;
          next();
          video.play();
        })"""
    )
    check_ranges(page, sources[clip].read_bytes())


ASK = """async ([url, ranges]) => {
  const answers = [];
  for (const range of ranges) {
    const response = await fetch(url, { headers: range ? { Range: range } : {} });
    const bytes = new Uint8Array(await response.arrayBuffer());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const { status, headers } = response;
    const named = ["Content-Range", "Content-Length", "Content-Type", "Accept-Ranges", "Cache-Control"];
    const hex = [...digest].map((one) => one.toString(16).padStart(2, "0")).join("");
    answers.push([status, bytes.length, hex, named.map((name) => headers.get(name))]);
  }
  return answers;
}"""


def check_ranges(page: Page, expected: bytes) -> None:
    """Ask for ranges of what plays, as a media element does."""
    size = len(expected)
    url = page.evaluate("document.querySelector('video, audio').src")
    ranges: list[tuple[int, int]] = [(0, 2), (0, size), (size - 1, size), (size // 3, size // 2 + 1)]
    ranges += [(at, at + 17) for at in range(1, size - 17, size // 7)]
    asked = [f"bytes={start}-{stop - 1}" for start, stop in ranges]
    for (start, stop), (status, length, digest, headers) in zip(
        ranges, page.evaluate(ASK, [url, asked]), strict=True
    ):
        assert (status, length) == (206, stop - start)
        assert digest == independent.sha(expected[start:stop]).hex()
        assert headers[:2] == [f"bytes {start}-{stop - 1}/{size}", str(stop - start)]
        assert headers[3:] == ["bytes", "no-store"]
    odd = ["", "bytes=-5", f"bytes={size}-", "bytes=5-2", f"bytes={size - 5}-", "pages=1-2"]
    answers = page.evaluate(ASK, [url, odd])
    assert [(one[0], one[1]) for one in answers] == [
        (200, size), (206, 5), (416, 0), (200, size), (206, 5), (200, size)
    ]  # fmt: skip
    assert answers[0][2] == independent.sha(expected).hex()
    assert answers[1][2] == answers[4][2] == independent.sha(expected[-5:]).hex()
    assert answers[2][3][0] == f"bytes */{size}"


@pytest.mark.parametrize("name", LARGE)
def test_large(page: Page, server: Server, sources: dict[str, Path], name: str) -> None:
    visit(page, server, name)
    unlock(page)
    playing(page)
    for seconds in (6.5, 1.2, 4.04):
        frame = move(page, seconds)
        assert frame["width"] == 640
        assert frame["most"] - frame["least"] > 100
    # To the end, through answers of 2 MiB each.
    page.evaluate(
        """() => new Promise((resolve, reject) => {
          const video = document.querySelector("video");
          video.addEventListener("ended", resolve);
          video.addEventListener("error", () => reject(new Error(video.error.message)));
          Object.assign(video, { muted: true, playbackRate: 4 });
          video.play();
        })"""
    )
    check_ranges(page, sources[name].read_bytes())


def test_sound(page: Page, server: Server, sources: dict[str, Path]) -> None:
    visit(page, server, "tone.flac")
    unlock(page)
    playing(page)
    page.fill("#pts", "3.5s")
    page.press("#pts", "Enter")
    sought(page, 3_500_000)
    assert abs(page.evaluate("document.querySelector('audio').currentTime") - 3.5) <= 0.05
    check_ranges(page, sources["tone.flac"].read_bytes())


def test_wrong_keys(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    locks = page.eval_on_selector_all(
        "#items a:has(img[alt='masked'])", "(all) => all.map((one) => one.dataset.name)"
    )
    assert "webm.h4mk" in locks
    assert "open.h4mk" not in locks
    page.click("#items a[data-name='webm.h4mk']")
    page.wait_for_selector("#unlock")
    assert page.get_by_label("Key", exact=True).get_attribute("type") == "password"
    for text, words in [
        (OTHER.reveal().hex(), "This key does not open the container"),
        ("hello", "This is no key: it must be 64 hexadecimal digits"),
        ("h4mk-key-v1-scrypt:15:8:1:00:00", "locked by a passphrase"),
    ]:
        unlock(page, text)
        alert = page.get_by_role("alert").and_(page.locator("#key-problem"))
        alert.get_by_text(words).wait_for()
        assert page.evaluate("document.activeElement.id") == "key"
        assert page.get_attribute("#key", "aria-invalid") == "true"
        assert page.query_selector("#stage video") is None
    # The page answers while it is locked, and a position waits for the key.
    page.fill("#pts", "2.5s")
    page.press("#pts", "Enter")
    page.wait_for_selector('#numbers:not([hidden])[data-asked="2500000"]')
    unlock(page)
    playing(page)
    assert abs(move(page, 4.5)["mean"] - grey(4.5)) < 12


def test_a_key_is_asked_for_once(page: Page, server: Server, tmp_path: Path) -> None:
    """A key file, with the line end that editors leave; other containers of that key open with it."""
    path = tmp_path / "film.key"
    path.write_text(f"h4mk-key-v1:{HEX}\n", encoding="ascii")
    (tmp_path / "large").write_bytes(bytes(5000))
    visit(page, server, "webm")
    page.wait_for_selector("#unlock")
    page.set_input_files("#key-file", tmp_path / "large")
    page.wait_for_selector("#key-problem:not([hidden])")
    page.set_input_files("#key-file", path)
    playing(page)
    page.click("#items a[data-name='fragmented.h4mk']")
    page.wait_for_selector("#title:text('fragmented')")
    playing(page)
    assert abs(move(page, 1.5)["mean"] - grey(1.5)) < 12
    page.click("#items a[data-name='another key.h4mk']")
    page.wait_for_selector("#unlock")
    page.click("#items a[data-name='open.h4mk']")
    playing(page)
    page.reload()  # the page forgets
    page.click("#items a[data-name='webm.h4mk']")
    page.wait_for_selector("#unlock")
    unlock(page)
    playing(page)


def test_a_server_that_has_the_key(browser: Browser, library: Path, tmp_path: Path) -> None:
    """It unmasks for whoever may use the key, and nobody is asked for one."""
    ring = keyring(tmp_path / "ring", films=KEY)
    with (
        running(library, keyring=ring) as server,
        watched(browser.new_context(), server.url) as page,
    ):
        visit(page, server, "fragmented")
        playing(page)
        assert "/video/range/0.mp4?" in page.evaluate("document.querySelector('video').src")
        assert abs(move(page, 3.5)["mean"] - grey(3.5)) < 12
        page.click("#items a[data-name='another key.h4mk']")
        page.wait_for_selector("#unlock")
        assert page.query_selector("#items a[data-name='fragmented.h4mk'] img[alt='masked']") is not None


def test_what_may_be_incomplete(browser: Browser, library: Path, tmp_path: Path) -> None:
    """Somebody sealed it anew: the key shows that no block was changed, and not that none is missing."""
    with (tmp_path / "again.h4mk").open("w+b") as out:
        recover(library / "webm.h4mk", out)
    shutil.copy(library / "webm.h4mk", tmp_path)
    with running(tmp_path) as server, watched(browser.new_context(), server.url) as page:
        visit(page, server, "again")
        unlock(page)
        playing(page)
        assert page.inner_text("#state") == "sealed · masked, may be incomplete"
        page.click("#items a[data-name='webm.h4mk']")
        page.wait_for_selector("#title:text('webm')")
        playing(page)
        assert page.inner_text("#state") == "sealed · masked"


def test_what_browsers_do_not_play(page: Page, server: Server, library: Path) -> None:
    visit(page, server, "plain.ts")
    unlock(page)
    page.wait_for_selector("#stage:has-text('harmony4 unmask')")
    with page.expect_download() as download:
        page.click("#stage a")
    assert Path(download.value.path()).read_bytes() == (library / "plain.ts.h4mk").read_bytes()


def test_the_worker_may_be_stopped(page: Page, server: Server) -> None:
    """Browsers do so whenever they like. It knows nothing, so nothing is lost."""
    visit(page, server, LARGE[0])
    unlock(page)
    playing(page)
    browser = page.context.new_cdp_session(page)
    browser.send("ServiceWorker.enable")
    for seconds in (6.5, 2.5):
        browser.send("ServiceWorker.stopAllWorkers")
        assert move(page, seconds)["most"] > 100


def test_addresses_end_with_the_page(page: Page, server: Server) -> None:
    visit(page, server, "webm")
    unlock(page)
    playing(page)
    url = page.evaluate("document.querySelector('video').src")
    ask = "(url) => fetch(url).then((response) => response.status)"
    assert url.startswith(f"{server.url}/unmasked/")
    assert page.evaluate(ask, url) == 200
    other = page.context.new_page()
    other.goto(server.url)
    answer = other.goto(url)  # opened by itself
    assert answer is not None
    assert answer.status == 404
    other.close()
    assert server.get(url.removeprefix(server.url)).status == 404
    page.click("#items a[data-name='open.h4mk']")
    playing(page)


@pytest.mark.parametrize("tag", [b"SAFE", b"TOKN", b"KEYS", b"TRAK", b"RMAP", b"META", b"TAIL"])
def test_a_flipped_bit(browser: Browser, library: Path, tmp_path: Path, tag: bytes) -> None:
    data = bytearray((library / "fragmented.h4mk").read_bytes())
    at = [one.at for one in independent.walk(bytes(data)) if one.tag == tag][-1]
    data[at + 12 + (63 if tag == b"TOKN" else 8)] ^= 1  # min_pts, of which nothing else is derived
    if tag == b"TOKN":  # whoever does it on purpose mends the CRC: only the tag tells then
        data[at : at + 140] = independent.chunk(tag, bytes(data[at + 12 : at + 140]))
    (tmp_path / "damaged.h4mk").write_bytes(data)
    with running(tmp_path) as server:
        page = browser.new_page()
        page.goto(f"{server.url}/?name=damaged.h4mk")
        page.wait_for_selector("#unlock, .note .lead:not(:empty)")
        if page.query_selector("#unlock"):
            unlock(page)
        words = {
            b"SAFE": "Block 6 of track 0 is not what its token says",
            b"TOKN": "The tag of block 6 of track 0 is not one of this key",
            b"KEYS": "KEYS fails its CRC",
            b"TAIL": "the container is not sealed",
        }
        page.wait_for_selector(f"text=/{words.get(tag, 'fails its CRC|cannot be opened')}/i")
        assert page.query_selector("#stage video") is None
        page.close()


class Listener:
    """A relay to a server that keeps every byte that clients send."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.heard: list[bytearray] = []
        self.refused = 0
        """How many of the next connections are closed at once."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(30)
        for one in self._sockets:
            one.close()

    def drop(self) -> None:
        """End all connections that there are."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _start(self, *call: Any) -> None:
        thread = threading.Thread(target=call[0], args=call[1:], daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refused:
                self.refused -= 1
                client.close()
                continue
            heard = bytearray()
            self.heard.append(heard)
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            self._start(self._carry, client, server, heard)
            self._start(self._carry, server, client, bytearray())

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := one.recv(2**16):
                kept += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_a_network_that_fails_for_a_moment(browser: Browser, server: Server) -> None:
    listener = Listener(server.address)
    context = browser.new_context()
    page = context.new_page()  # Chromium logs refused connections as errors
    page.goto(f"{listener.url}/?name={LARGE[0]}.h4mk")
    unlock(page)
    playing(page)
    listener.refused = 3
    listener.drop()
    page.evaluate("document.querySelector('video').currentTime = 6.5")
    page.evaluate(SHOWN)
    assert abs(page.evaluate(FRAME)["time"] - 6.5) <= 0.05
    assert listener.refused == 0
    listener.refused = 1000
    listener.drop()
    page.evaluate("document.querySelector('video').currentTime = 3")
    page.wait_for_selector("text=The server cannot be reached")
    context.close()
    listener.close()


def forms(secret: bytes) -> set[bytes]:
    """How 32 secret bytes might stand somewhere."""
    plain = secret.hex().encode()
    coded = {base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"=")}
    commas = ",".join(map(str, secret)).encode()
    return {secret, plain, plain.upper(), plain.decode().encode("utf-16-le"), commas, *coded}


def test_the_key_goes_nowhere(browser: Browser, server: Server, library: Path, tmp_path: Path) -> None:
    """Not into a request, nor into an address, a storage, or anything else that the browser writes down."""
    with H4MKReader(library / "webm.h4mk") as reader:
        (slot,) = reader.key_slots()
        assert reader.trak.mask is not None
        file_key = KEY.unwrap(slot[1], bytes.fromhex(reader.trak.mask["commit"]))
    secrets = forms(KEY.reveal()) | forms(file_key.reveal())
    listener = Listener(server.address)
    profile = tmp_path / "profile"
    context = browser.browser_type.launch_persistent_context(
        profile, executable_path=program("chromium"), args=[*QUIET, PLAYING]
    )
    requests: list[bytes] = []
    context.on(
        "request",
        lambda one: requests.append(f"{one.url} {one.headers}".encode() + (one.post_data_buffer or b"")),
    )
    with watched(context, listener.url) as page:
        page.goto(f"{listener.url}/?name=webm.h4mk")
        unlock(page, OTHER.reveal().hex())
        page.wait_for_selector("#key-problem:not([hidden])")
        unlock(page)
        playing(page)
        move(page, 3.5)
        page.click("#link")
        stored = page.evaluate(
            """async () => ({
              local: localStorage.length, session: sessionStorage.length, caches: await caches.keys(),
              databases: await indexedDB.databases(), cookie: document.cookie, state: history.state,
            })"""
        )
        seen = (page.url + page.content()).encode()
    listener.close()
    assert stored == {"local": 0, "session": 0, "caches": [], "databases": [], "cookie": "", "state": None}
    sent = b"\n".join(listener.heard)
    assert sent.count(b"GET /container?name=webm.h4mk") > 3
    assert b"GET /unmasked/" not in sent
    assert any(b"/unmasked/" in one for one in requests)
    files = [path.read_bytes() for path in profile.rglob("*") if path.is_file()]
    assert any(b"name=webm.h4mk" in one for one in files)  # so they are what the browser keeps
    for secret in secrets | forms(OTHER.reveal()):
        assert secret not in sent
        assert secret not in seen
        assert not any(secret in one for one in (*requests, *files)), secret


BELOW = """
server {
    listen 80;
    # /var/cache/nginx/harmony4
    location /films/ {
        proxy_pass http://127.0.0.1:8000/;
    }
}
"""


@needs_nginx
def test_below_a_prefix(browser: Browser, server: Server, tmp_path: Path) -> None:
    """The page, its worker and what it serves stay where a proxy has put them."""
    with (
        nginx(tmp_path / "nginx", BELOW, server.address) as proxy,
        watched(browser.new_context(), f"{proxy.url}/films/") as page,
    ):
        page.goto(f"{proxy.url}/films/?name=webm.h4mk")
        unlock(page)
        playing(page)
        assert abs(move(page, 3.5)["mean"] - grey(3.5)) < 12
        scopes = page.evaluate(
            "navigator.serviceWorker.getRegistrations().then((all) => all.map((one) => one.scope))"
        )
        assert scopes == [f"{proxy.url}/films/"]


def test_without_cryptography(browser: Browser, library: Path) -> None:
    """Plain http to anything but this machine: the page says why it cannot."""
    with running(library, allowed_hosts=("films.test",)) as server:
        page = browser.new_page()
        page.goto(server.url.replace("127.0.0.1", "films.test") + "/?name=webm.h4mk")
        page.wait_for_selector("#stage:has-text('Cannot unmask here')")
        page.close()
