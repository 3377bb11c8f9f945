"""What the page shows of a container, in Debian's Chromium: timeline, keys, tokens, chunks, checks.

And whether everybody can use it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from chromium import chromium
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKReader, TrackInfo
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from lying import lying
from needs import BUNNY, ROOT, needs_chromium, needs_ffmpeg
from pagelib import AXE, BAD_BLOCK, HOURS, MASTER, SIGNING, grey, library, page_on, violations
from serving import Server, running, write_container
from test_page_chromium import FRAME, SCREENSHOTS, SHOWN, jump, open_container, sought

pytestmark = [needs_chromium, needs_ffmpeg]

LOST = ("Failed to load resource",)
"""What Chromium logs of connections that break."""
TICKS = """() => new Promise((resolve) => {
  const canvas = document.querySelector("#ticks");
  const check = () => {
    const row = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
    const found = new Set(row);
    if (found.size > 6) resolve();
    else setTimeout(check, 20);
  };
  check();
})"""
"""Wait until the keyframes are on the timeline."""
GREEN = """() => {
  const canvas = document.querySelector("#ticks");
  const row = canvas.getContext("2d").getImageData(0, canvas.height - 2, canvas.width, 1).data;
  const one = document.createElement("canvas").getContext("2d");
  one.fillStyle = getComputedStyle(canvas).getPropertyValue("--good");
  one.fillRect(0, 0, 1, 1);
  const good = one.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
  const columns = Array.from({ length: canvas.width }, (_, x) => x);
  return columns.filter((x) => row.slice(4 * x, 4 * x + 3).join() === good).map((x) => x / canvas.width);
}"""
"""Where the timeline is green, as parts of its width."""
UPLOAD = re.compile(r"/uploads/\w+$")
PLAYS = """() => new Promise((resolve) => {
  const video = document.querySelector("video");
  if (video.paused) video.addEventListener("playing", resolve);
  else resolve();
})"""
PEM = SIGNING.public.pem().decode()
UNTIL = """([selector, text]) => new Promise((resolve, reject) => {
  const said = () => document.querySelector(selector)?.innerText;
  const check = () => said()?.includes(text) ? resolve() : setTimeout(check, 20);
  setTimeout(() => reject(new Error(`${selector} says ${said()}, not ${text}`)), 30000);
  check();
})"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with running(root) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--autoplay-policy=no-user-gesture-required") as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url) as one:
        yield one


def says(page: Page, selector: str, text: str) -> None:
    """Wait until an element says so."""
    page.evaluate(UNTIL, [selector, text])


def time(page: Page) -> float:
    return float(page.evaluate("document.querySelector('video, audio').currentTime"))


# -- the player


def test_ten_hours(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    assert server.get("/video/keyframes?name=ten-hours.h4mk&limit=1").json["count"] == HOURS * 1800
    numbers = jump(page, "7:03:31.4", 25_411_400_000)
    assert (numbers["asked"], numbers["keyframe found"]) == ("7:03:31.4", "7:03:30")
    frame = page.evaluate(FRAME)
    assert abs(frame["time"] - 25411.4) < 0.01
    assert abs(frame["mean"] - grey(25411.4)) < 3
    says(page, "[data-fact='picture after']", "ms")
    shown = float(page.get_attribute("#numbers", "data-shown") or "nan")
    assert shown == pytest.approx(25411.4, abs=0.001)  # the very picture
    # All of the timeline is ticks: no pixel of their row is empty for long.
    row = page.evaluate(
        """() => {
          const canvas = document.querySelector("#ticks");
          const data = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
          let ticks = 0;
          for (let at = 4; at < data.length; at += 4) ticks += data[at] !== data[at - 4];
          return [ticks, canvas.width];
        }"""
    )
    assert row[0] > row[1] * 0.6


def test_keys(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    page.wait_for_selector("#tab-facts")
    for key, seconds in [
        ("5", 18000),
        ("l", 18010),
        ("j", 18000),
        ("ArrowRight", 18005),
        ("ArrowLeft", 18000),
    ]:
        page.keyboard.press(key)
        sought(page, seconds * 10**6)
        assert time(page) == pytest.approx(seconds, abs=0.01), key
    page.keyboard.press("Shift+ArrowRight")
    sought(page, 18_002_000_000)
    page.keyboard.press("Shift+ArrowLeft")
    sought(page, 18_000_000_000)
    page.keyboard.press("k")
    page.evaluate(PLAYS)
    page.keyboard.press("k")
    assert page.evaluate("document.querySelector('video').paused")
    # In a field they are letters.
    page.fill("#search", "")
    page.type("#search", "5jkl")
    assert page.input_value("#search") == "5jkl"
    assert time(page) < 18003
    # And whoever does not want them turns them off.
    page.click("#keys-button")
    page.wait_for_selector("#keys[open]")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.focus("#tab-facts")
    page.keyboard.press("9")
    assert time(page) < 18003


def test_drag_and_what_the_address_says(page: Page, server: Server) -> None:
    open_container(page, server, "bigbuckbunny.h4mk")
    page.evaluate(SHOWN)
    box = page.query_selector("#timeline").bounding_box()  # type: ignore[union-attr]
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 10)
    page.mouse.down()
    for part in (0.3, 0.4, 0.5):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + 10)
    assert "keyframe 0:00" in page.inner_text("#tip")
    page.mouse.up()
    page.wait_for_selector("#numbers:not([hidden])")
    page.evaluate(SHOWN)
    assert time(page) == pytest.approx(2.65, abs=0.1)
    page.wait_for_url(f"**/?name=bigbuckbunny.h4mk#t={time(page):.3f}".rstrip("0"))
    page.reload()
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    assert time(page) == pytest.approx(2.65, abs=0.1)
    assert page.get_attribute("#timeline", "aria-valuenow") == "2"


# -- the library


def test_ten_thousand(browser: Browser, tmp_path: Path) -> None:
    """Only what is seen are elements; the last of ten thousand is one key away."""
    export_one(tmp_path / "00000.h4mk")
    for number in range(1, 10_000):
        (tmp_path / f"{number:05}.h4mk").hardlink_to(tmp_path / "00000.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.wait_for_selector("#items a.item")
        assert page.inner_text("#count") == "10,000 containers"
        assert page.locator("#items li").count() < 60
        page.focus("#items a.item")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.dataset.name") == "00001.h4mk"
        page.keyboard.press("End")
        page.wait_for_selector('#items a[data-name="09999.h4mk"]')
        assert page.locator("#items li").count() < 80
        assert page.get_attribute('#items li:has(a[data-name="09999.h4mk"])', "aria-posinset") == "10000"
        page.fill("#search", "0777")
        says(page, "#count", "11 containers")
        page.wait_for_selector('#items a[data-name="07770.h4mk"]')


def export_one(path: Path) -> None:
    export(ROOT / "LICENSE", path, ExportOptions())


def test_what_the_library_says(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    assert "signed" in page.inner_text('#items a[data-name="signed.h4mk"]')
    assert page.query_selector('#items a[data-name="masked.h4mk"] img[alt="masked"]')
    # Each gets its picture, one after the other: a frame, a spectrum, or the rate of its blocks.
    page.evaluate(
        """() => new Promise((resolve) => {
          const count = () => document.querySelectorAll("#items canvas.drawn").length;
          const check = () => count() === 6 ? resolve() : setTimeout(check, 20);
          check();
        })"""
    )
    colours = page.evaluate(
        """() => [...document.querySelectorAll("#items canvas")].map((canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const found = new Set();
          for (let at = 0; at < data.length; at += 4) found.add(data.slice(at, at + 4).join());
          return found.size;
        })"""
    )
    # bigbuckbunny, corrupt, masked, signed, sound, ten-hours; the pictures of the grey films are grey.
    assert [count > least for count, least in zip(colours, (100, 0, 1, 0, 10, 1), strict=True)] == [True] * 6


# -- tokens


def test_tokens_follow_the_player(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk", "#t=100")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    page.wait_for_selector("#tokens tr[aria-current]")
    says(page, "#tokens tr[aria-current]", "1:40")
    jump(page, "5:00:01", 18_001_000_000)
    says(page, "#tokens tr[aria-current]", "5:00:00")
    index = page.inner_text("#tokens tr[aria-current] td")
    token = next(
        one
        for one in map(
            json.loads,
            server.get(
                "/video/stream?name=ten-hours.h4mk&from=18001000000", Accept="application/x-ndjson"
            ).body.splitlines(),
        )
        if one["event"] == "token" and not one["data"]["header"]
    )["data"]
    assert index == str(token["index"])
    assert token["digest"][:12] in page.inner_text("#tokens tr[aria-current]")
    # It waits ahead of the player instead of reading ten hours.
    says(page, ".tokens-panel .live", "ahead of the player")


def test_tokens_come_again_when_the_connection_was_lost(browser: Browser, server: Server) -> None:
    """A proxy breaks the stream off in the middle, once: the rest comes behind what was there."""
    asked: list[str] = []

    def half(path: str, _: int, body: bytes) -> bytes:
        if path.startswith("/video/stream"):
            asked.append(path)
            if len(asked) == 1:
                return body[: body.index(b"event: token", len(body) // 2)]
        return body

    with lying(server.url, half) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name=signed.h4mk")
        page.click("#tab-tokens")
        says(page, ".tokens-panel .live", "all of them are here")
        says(page, ".tokens-panel .live b", "10")  # all but the header; it is painted with the next frame
        assert len(asked) == 2


def test_spectrum(page: Page, server: Server) -> None:
    open_container(page, server, "sound.h4mk", "#t=12")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    page.wait_for_selector("canvas.spectrum")
    page.evaluate(
        """() => new Promise((resolve) => {
          const canvas = document.querySelector("canvas.spectrum");
          const check = () => Number(canvas.dataset.tokens) > 60 ? resolve() : setTimeout(check, 20);
          check();
        })"""
    )
    # The tone of 440 Hz is a line, at its height on a logarithmic scale from 50 Hz to 16 kHz.
    heights = page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas.spectrum");
          const x = Math.round(canvas.width * 0.4);
          const data = canvas.getContext("2d").getImageData(x, 0, 1, canvas.height).data;
          const { height } = canvas;
          const rows = Array.from({ length: height }, (_, y) => [data[4 * y + 3], 1 - y / height]);
          return rows.filter(([value]) => value > 200).map(([, y]) => 50 * (16000 / 50) ** y);
        }"""
    )
    assert any(400 < hertz < 480 for hertz in heights), heights


# -- the container


def test_chunks(page: Page, server: Server, root: Path) -> None:
    with H4MKReader(root / "signed.h4mk") as reader:
        chunks = list(reader.chunks())
    open_container(page, server, "signed.h4mk")
    page.click("#tab-container")
    page.wait_for_selector("#chunks [data-tag=TRAK]")
    assert f"{len(chunks)} chunks" in page.inner_text(".container-panel .live")
    page.focus("#chunks button")
    seen: list[str] = []
    for chunk in chunks:
        button = f"#chunks li[aria-posinset='{len(seen) + 1}'] button"
        page.wait_for_selector(f"{button}[data-tag]")
        cells = page.locator(f"{button} span").all_inner_texts()
        assert cells[:4] == [chunk.tag, f"{chunk.offset:,}", f"{chunk.size:,}", f"{chunk.crc:08x}"]
        seen.append(chunk.tag)
        page.keyboard.press("ArrowDown")
    assert "SIGN" in seen
    # The last one as bytes.
    page.keyboard.press("Enter")
    says(page, "#hex .header", "54 41 49 4c")  # TAIL
    page.fill("#offset", "0x0")
    page.press("#offset", "Enter")
    says(page, "#hex", "48 34 4d 4b 00 00 00 01")
    text = page.inner_text("#hex")
    data = (root / "signed.h4mk").read_bytes()[:4096]
    digits = "".join(line[10:58].replace(" ", "") for line in text.splitlines())
    assert bytes.fromhex(digits) == data
    # TRAK and META as trees.
    page.click(".trees summary:has-text('tracks') >> nth=0")
    page.click(".trees details details details summary >> nth=0")
    says(page, ".trees", "video/mp4")


def test_map_of_ten_hours(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.click("#tab-container")
    page.wait_for_selector("#chunks [data-tag=TRAK]")
    for scale in ("linear", "log"):
        page.check(f".scale input[value={scale}]")
        box = page.query_selector("canvas.map").bounding_box()  # type: ignore[union-attr]
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        says(page, ".maptip", "blocks")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    page.wait_for_selector("#chunks [aria-current]")
    assert page.inner_text("#chunks [aria-current] .tag") == "TOKN"
    says(page, "#hex .header", "54 4f 4b 4e")


# -- the check


@pytest.mark.parametrize("key", [True, False])
def test_check(page: Page, server: Server, key: bool) -> None:
    open_container(page, server, "signed.h4mk", "#t=9")
    page.click("#tab-check")
    page.fill("#pem", PEM if key else "")
    page.click("#check-go")
    says(page, "#verdict", "All 11 blocks")
    assert page.get_attribute("#verdict", "class") == "verdict good"
    assert (SIGNING.public.fingerprint[:4].hex() in page.inner_text("#verdict")) == key
    green, red = painted(page)
    assert green > 0.95
    assert red == 0
    if key:
        page.click("#items a[data-name='bigbuckbunny.h4mk']")
        page.reload()
        says(page, "#items a[data-name='signed.h4mk']", "verified")
    # And it would notice: a bit that is another one.
    else:
        page.check("#lie")
        page.click("#check-go")
        says(page, "#verdict", "1 block is not what the root says")
        assert page.get_attribute("#verdict", "class") == "verdict fault"


def test_check_of_a_flipped_bit_on_the_disk(page: Page, server: Server) -> None:
    open_container(page, server, "corrupt.h4mk")
    page.click("#tab-check")
    page.fill("#pem", PEM)
    page.click("#check-go")
    says(page, "#verdict", f"block {BAD_BLOCK}.")
    green, red = painted(page)
    assert 0.8 < green < 0.95
    assert 0.05 < red < 0.15


def test_check_of_a_lying_server(browser: Browser, server: Server) -> None:
    def lie(path: str, at: int, body: bytes) -> bytes:
        place = 2000 - at  # always the same byte of the stream
        if not path.startswith("/video/range") or not 0 <= place < len(body):
            return body
        return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]

    with lying(server.url, lie) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name=signed.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.click("#check-go")
        says(page, "#verdict", "not what the root says")


def test_check_refuses_another_key_and_what_is_none(page: Page, server: Server) -> None:
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    page.fill("#pem", SigningKey.from_number(7).public.pem().decode())
    page.click("#check-go")
    says(page, "#verdict", "by a key that is trusted")
    page.fill("#pem", "a key")
    page.click("#check-go")
    says(page, "#verdict", "no public key")


def test_check_of_ten_hours(page: Page, server: Server) -> None:
    """It begins where the player is, goes along with it, and can be stopped."""
    open_container(page, server, "ten-hours.h4mk", "#t=18000")
    page.evaluate(SHOWN)
    page.wait_for_selector("#tab-check")
    page.evaluate(TICKS)
    page.click("#tab-check")
    page.fill("#pem", "")
    page.click("#check-go")
    says(page, ".check-panel .live", " blocks, ")
    page.click("button:text('Stop')")
    says(page, "#verdict", "all of them right")
    where = page.evaluate(GREEN)
    assert 0.49 < min(where) < 0.51


def test_check_of_masked_media(page: Page, server: Server) -> None:
    """What is stored can be checked without a key; the player asks for one."""
    open_container(page, server, "masked.h4mk")
    page.click("#tab-check")
    page.fill("#pem", "")
    page.click("#check-go")
    says(page, "#verdict", "All 11 blocks")
    page.fill("#key", MASTER.reveal().hex())
    page.press("#key", "Enter")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    jump(page, "13.4s", 13_400_000)
    assert abs(page.evaluate(FRAME)["mean"] - grey(13.4)) < 3


def painted(page: Page) -> tuple[float, float]:
    """Which parts of the timeline's bottom are green, and red."""
    found: list[float] = page.evaluate(
        """() => {
          const canvas = document.querySelector("#ticks");
          const style = getComputedStyle(canvas);
          const wanted = ["--good", "--bad"].map((name) => {
            const one = document.createElement("canvas").getContext("2d");
            one.fillStyle = style.getPropertyValue(name);
            one.fillRect(0, 0, 1, 1);
            return one.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
          });
          const row = canvas.getContext("2d").getImageData(0, canvas.height - 2, canvas.width, 1).data;
          const count = [0, 0];
          for (let at = 0; at < row.length; at += 4) {
            const index = wanted.indexOf(row.slice(at, at + 3).join());
            if (index >= 0) count[index] += 1;
          }
          return count.map((one) => one / canvas.width);
        }"""
    )
    return found[0], found[1]


# -- uploads


def test_an_upload_goes_on_after_a_lost_connection(browser: Browser, tmp_path: Path) -> None:
    """The connection breaks twice: the page goes on by itself, and all of the file arrives."""
    with running(tmp_path) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        cut: list[str] = []

        def once(route: Any) -> None:
            if route.request.method == "PATCH" and len(cut) < 2:
                cut.append(route.request.headers["upload-offset"])
                route.abort("connectionreset")
            else:
                route.continue_()

        page.route(UPLOAD, once)
        page.set_input_files("#files", BUNNY)
        page.wait_for_selector("#uploads .waits")
        page.wait_for_selector("#uploads .upload a")
        assert len(cut) == 2
        assert server.get("/video/range?name=bigbuckbunny.mp4.h4mk").body == BUNNY.read_bytes()


def test_an_upload_goes_on_after_a_reload(browser: Browser, tmp_path: Path) -> None:
    media = tmp_path / "film.mp4"
    media.write_bytes(BUNNY.read_bytes())
    root = tmp_path / "library"
    root.mkdir()
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(UPLOAD, lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .waits")
        page.unroute(UPLOAD)
        page.reload()
        page.wait_for_selector("text=The library is empty")
        methods: list[str] = []
        page.on("request", lambda one: methods.append(one.method) if "/uploads/" in one.url else None)
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .upload a")
        assert methods == ["HEAD", "PATCH"]
        assert server.get("/video/range?name=film.mp4.h4mk").body == BUNNY.read_bytes()


# -- containers of other kinds


def test_texts_of_files_are_text(browser: Browser, tmp_path: Path) -> None:
    """In every panel: what a file says of itself makes no element."""
    evil = "<img src=x onerror=alert(1)>"
    info = TrackInfo(codec=evil, kind="data", media_type=evil, name=evil, lang=evil)
    write_container(tmp_path / "evil.h4mk", [b"<script>alert(2)</script>", b"y"], info=info, title=evil)
    bundle_files([tmp_path / "evil.h4mk", tmp_path / "evil.h4mk"], tmp_path / f"{evil.replace('/', '')}.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        for name in [item["name"] for item in server.get("/media").json["items"]]:
            page.click(f'#items a[data-name="{name}"]')
            page.wait_for_selector("#stage .note")
            assert evil in page.inner_text("#facts")
            page.click("#tab-tokens")
            page.wait_for_selector("#tokens tr[aria-current]")
            page.click("#tab-container")
            page.wait_for_selector("#chunks [data-tag=TRAK]")
            page.click(".trees summary:has-text('tracks') >> nth=0")
            page.click(".trees details details details summary >> nth=0")
            says(page, ".trees", evil)
            says(page, "#hex", "<img src=x")
            page.click("#tab-check")
            page.click("#check-go")
            says(page, "#verdict", "All 2 blocks")
            page.click("#tab-facts")
            assert page.query_selector("main img:not([alt]), main script, [onerror]") is None
            assert page.locator("#track option").count() == (1 if name == "evil.h4mk" else 2)


def test_what_is_not_sealed(browser: Browser, root: Path, tmp_path: Path) -> None:
    """The chunks that are there are shown; there is nothing to check them against."""
    data = (root / "signed.h4mk").read_bytes()
    (tmp_path / "cut.h4mk").write_bytes(data[:2500])
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(f"{server.url}/?name=cut.h4mk")
        says(page, "#state", "incomplete")
        page.click("#tab-container")
        page.wait_for_selector("#chunks [data-tag=CORE]")
        page.click("#tab-check")
        says(page, ".check-panel", "not sealed")


def test_several_tracks(browser: Browser, tmp_path: Path) -> None:
    """A film with subtitles: the player has them, each track can be chosen, all chunks are in the list."""
    subtitles = tmp_path / "subs.vtt"
    subtitles.write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none\n\n00:03.000 --> 00:04.000\ntwo")
    bundle_files([BUNNY, subtitles], tmp_path / "film.h4mk")
    with H4MKReader(tmp_path / "film.h4mk") as reader:
        chunks = [one.tag for one in reader.chunks()]
        blocks = reader.tracks[1].blocks
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "film.h4mk")
        page.evaluate(SHOWN)
        assert page.evaluate("document.querySelector('video').textTracks.length") == 1
        page.click("#tab-container")
        page.focus("#chunks button")
        for number, tag in enumerate(chunks, 1):
            page.wait_for_selector(f"#chunks li[aria-posinset='{number}'] button[data-tag={tag}]")
            page.keyboard.press("ArrowDown")
        page.click("#tab-check")
        page.select_option("#track", "1")
        page.wait_for_selector("#stage .note")
        page.click("#check-go")
        says(page, "#verdict", f"All {blocks} block")


# -- everybody


def test_by_keyboard_alone(page: Page, server: Server) -> None:
    """From the address to the check, without a pointer."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")

    def until_focus(selector: str) -> None:
        for _ in range(30):
            if page.evaluate("(one) => document.activeElement.matches(one)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(page.evaluate("document.activeElement.outerHTML"))

    page.keyboard.press("/")
    page.keyboard.type("signed")
    says(page, "#count", "1 container")
    until_focus("#items a[data-name='signed.h4mk']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    until_focus("#timeline")
    page.keyboard.press("ArrowRight")
    sought(page, 5_000_000)
    until_focus("#pts")
    page.keyboard.type("0:08")
    page.keyboard.press("Enter")
    sought(page, 8_000_000)
    until_focus("#tab-facts")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#check-go")
    until_focus("#check-go")
    page.keyboard.press("Enter")
    says(page, "#verdict", "All 11 blocks")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_every_view(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    """axe-core finds nothing, nothing sticks out, and there are pictures of it for people to look at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    size = {"width": width, "height": 900}
    with page_on(browser, server.url, viewport=size, color_scheme=scheme) as page:

        def look(view: str) -> None:
            page.screenshot(path=SCREENSHOTS / f"{view}-{scheme}-{width}.png", full_page=width < 800)
            if width > 800:  # the same document, and each look takes a second
                assert violations(page, "color-contrast" if scheme == "dark" else None) == [], view
            assert page.evaluate("document.documentElement.scrollWidth") == width, view

        page.goto(server.url)
        page.wait_for_selector("#items canvas.drawn")
        look("library")
        open_container(page, server, "signed.h4mk", "#t=9")
        page.evaluate(SHOWN)
        jump(page, "0:11.5", 11_500_000)
        look("player")
        page.click("#tab-tokens")
        says(page, ".tokens-panel .live", "all of them are here")
        look("tokens")
        page.click("#tab-container")
        page.wait_for_selector("#chunks [data-tag=TRAK]")
        look("container")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.check("#lie")
        page.click("#check-go")
        says(page, "#verdict", "not what the root says")
        look("check")
        page.click("#keys-button")
        look("keys")
        page.keyboard.press("Escape")
        open_container(page, server, "masked.h4mk")
        page.wait_for_selector("#unlock")
        look("masked")
        open_container(page, server, "sound.h4mk", "#t=5")
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum[data-tokens]")
        look("sound")


def test_still_where_motion_is_unwelcome(browser: Browser, server: Server) -> None:
    with page_on(browser, server.url, reduced_motion="reduce") as page:
        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        moving = page.evaluate(
            """() => [...document.querySelectorAll("*")].map(getComputedStyle).filter(
              (one) => parseFloat(one.transitionDuration) > 0 || one.animationName !== "none").length"""
        )
        assert moving == 0


def test_sharp_at_any_size(browser: Browser, server: Server) -> None:
    for width, height, scale in ((360, 640, 3), (3840, 2160, 1)):
        with page_on(
            browser, server.url, viewport={"width": width, "height": height}, device_scale_factor=scale
        ) as page:
            open_container(page, server, "signed.h4mk")
            page.evaluate(SHOWN)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            canvas = page.evaluate(
                "(() => { const c = document.querySelector('#ticks'); return [c.width, c.clientWidth]; })()"
            )
            assert canvas[0] == canvas[1] * scale
            page.screenshot(path=SCREENSHOTS / f"size-{width}.png")


def test_weight(server: Server) -> None:
    """What goes over the wire for the page, with every part of it that is loaded when it is needed."""
    names = [path.name for path in (ROOT / "static").iterdir() if path.suffix in {".js", ".css", ".svg"}]
    sizes = {}
    for name in ("", *(f"static/{one}" for one in names)):
        answer = server.get(f"/{name}", Accept_Encoding="gzip, br")
        assert answer.headers["Content-Encoding"] == "gzip"
        plain = server.get(f"/{name}")
        assert plain.headers["Content-Encoding"] is None
        assert plain.headers["ETag"] != answer.headers["ETag"]
        assert gzip.decompress(answer.body) == plain.body
        sizes[name] = len(answer.body)
    assert server.get("/", Accept_Encoding="gzip;q=0").headers["Content-Encoding"] is None
    etag = str(server.get("/", Accept_Encoding="gzip").headers["ETag"])
    assert server.get("/", Accept_Encoding="gzip", If_None_Match=etag).status == 304
    assert sum(sizes.values()) < 100_000, sizes


def test_vendored_axe_is_what_it_says() -> None:
    about = json.loads((AXE.parent / "about.json").read_text(encoding="utf-8"))
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((AXE.parent / name).read_bytes()).hexdigest() == digest
    assert {path.name for path in AXE.parent.iterdir()} == {*about["sha256"], "about.json"}
