"""The page in Debian's Chromium in trouble: servers and containers that go away, slow lines, two tabs."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from commands import started
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, needs_chromium, needs_ffmpeg
from pagelib import LOST, SHOWN, film, jump, page_on, says, sought
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

PLAYS_ON = """(from) => new Promise((resolve) => {
  const video = document.querySelector("video");
  const check = () => video.currentTime > from && !video.error ? resolve() : setTimeout(check, 20);
  check();
})"""

FETCHED = """() => new Promise((resolve) => {
  const video = document.querySelector("video");
  const whole = () => video.buffered.length === 1 && video.buffered.end(0) > video.duration - 0.1;
  const check = () => whole() ? resolve() : setTimeout(check, 20);
  check();
})"""
MOVED = """() => new Promise((resolve) => {
  const video = document.querySelector("video");
  video.addEventListener("seeked", resolve, { once: true });
  video.currentTime = 8.5;
})"""


@pytest.fixture
def root(tmp_path: Path, page_library: Path) -> Path:
    """A folder of which a test may change everything."""
    made = tmp_path / "library"
    made.mkdir()
    for name in ("signed", "sound", "bigbuckbunny"):
        shutil.copy(page_library / f"{name}.h4mk", made / f"{name}.h4mk")
    return made


@contextmanager
def serve(root: Path, port: int) -> Iterator[int]:
    """A server in a process of its own, which is killed at the end of the block; gives its port."""
    with started("serve", root, "--port", port, "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        try:
            yield int(url.rstrip("/").rpartition(":")[2])
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_a_server_that_is_killed_and_comes_back(browser: Browser, root: Path, tmp_path: Path) -> None:
    """While a film plays: seeks say what is wrong, and once the server is there again it plays on."""
    source = tmp_path / "long.mp4"
    noise = (
        "-vf",
        "noise=alls=100:allf=t",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "25",
        "-b:v",
        "4M",
    )
    film(source, (320, 180), "25", [60] * 1500, *noise)
    export(source, root / "long.h4mk", ExportOptions())
    port = free_port()
    with page_on(browser, f"http://127.0.0.1:{port}", LOST) as page:
        with serve(root, port):
            page.goto(f"http://127.0.0.1:{port}/?name=long.h4mk")
            page.wait_for_selector("#stage video")
            page.evaluate(SHOWN)
            page.evaluate("document.querySelector('video').muted = true")
            page.keyboard.press("k")
            page.evaluate(PLAYS_ON, 0.2)
        page.keyboard.press("8")
        says(page, "#seek-problem", "The server cannot be reached.")
        with serve(root, port):
            page.evaluate(PLAYS_ON, 48.2)
            page.wait_for_selector("#seek-problem", state="hidden")
            page.keyboard.press("k")
            page.keyboard.press("5")
            sought(page, 30_000_000)
            page.wait_for_selector("#numbers:not([hidden])")


def test_a_server_that_is_away_while_the_film_goes_on(browser: Browser, root: Path) -> None:
    """What the browser has of it plays; that the server cannot be reached stays said until it answers."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=signed.h4mk")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        page.evaluate(FETCHED)
        page.route("**/*", lambda route: route.abort("connectionrefused"))
        page.click("#timeline", position={"x": 100, "y": 20})
        says(page, "#seek-problem", "The server cannot be reached.")
        with page.expect_event("requestfailed"):
            page.evaluate(MOVED)  # as the element's own controls do
        page.keyboard.press("k")
        page.evaluate(PLAYS_ON, 9)
        assert page.is_visible("#seek-problem")
        page.keyboard.press("k")
        page.unroute_all(behavior="wait")
        page.keyboard.press("k")
        page.wait_for_selector("#seek-problem", state="hidden")


@pytest.mark.parametrize("retry", ["#panel button", "#tab-container"])
def test_a_panel_that_cannot_be_loaded(browser: Browser, root: Path, retry: str) -> None:
    """Says so in words, and comes by a button, or by its tab, when the server is back."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=signed.h4mk")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        page.route("**/*", lambda route: route.abort("connectionrefused"))
        page.click("#tab-container")
        says(page, "#panel", "The server cannot be reached.")
        assert "import" not in page.inner_text("#panel")
        page.click(retry)
        says(page, "#panel", "The server cannot be reached.")
        page.unroute_all(behavior="wait")
        # A browser may remember that there was no such module: then only the page as a whole helps.
        page.route("**/static/container.js", lambda route: route.abort("connectionrefused"))
        page.click(retry)
        says(page, "#panel button", "Load the page again")
        page.unroute_all(behavior="wait")
        if retry == "#tab-container":
            page.click(retry)
        else:
            with page.expect_navigation():
                page.click(retry)
            page.click("#tab-container")
        page.wait_for_selector("#chunks [data-tag=TRAK]")


def test_a_spectrum_that_cannot_be_loaded(browser: Browser, root: Path) -> None:
    """Below the tokens, which stay, stands why."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=sound.h4mk")
        page.wait_for_selector("#stage audio")
        page.route("**/static/spectrogram.js", lambda route: route.abort("connectionrefused"))
        page.click("#tab-tokens")
        says(page, "#panel .sound", "A part of the page could not be loaded.")
        page.wait_for_selector("#tokens tbody tr")
        page.unroute_all(behavior="wait")
        with page.expect_navigation():
            page.click("#panel .sound button:text('Load the page again')")
        page.click("#tab-tokens")
        page.wait_for_selector("#panel .sound canvas")


def interrupted(page: Page, server: Server) -> None:
    """Open a film whose server goes away as it is asked for the media."""

    def away(route: Route) -> None:
        page.route("**/video/info?*", lambda other: other.abort("connectionrefused"))
        route.abort("connectionrefused")

    page.route("**/video/range/**", away)
    page.goto(f"{server.url}/?name=signed.h4mk#t=4")
    says(page, "#stage", "Playing was interrupted")


def test_a_server_that_goes_away_before_a_film_begins(browser: Browser, root: Path) -> None:
    """No film is called unplayable for that; one button goes on."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        interrupted(page, server)
        says(page, "#stage", "The connection to the server was lost.")
        page.click("#items a[data-name='sound.h4mk']")
        says(page, "#view-note", "The server cannot be reached.")
        page.unroute_all(behavior="wait")
        page.click("#view-note button")
        page.wait_for_selector("#stage audio")
        page.evaluate(SHOWN)


def test_a_film_that_was_interrupted_goes_on(browser: Browser, root: Path) -> None:
    """Where it was, by one button."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        interrupted(page, server)
        page.unroute_all(behavior="wait")
        page.click("#stage button")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(4, abs=0.1)


def test_a_container_that_is_deleted_while_it_is_open(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=signed.h4mk")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        (root / "signed.h4mk").unlink()
        page.keyboard.press("9")
        says(page, "#seek-problem", "The container was deleted or moved meanwhile.")
        page.wait_for_selector("#items a[data-name='signed.h4mk']", state="detached")
        page.click("#items a[data-name='bigbuckbunny.h4mk']")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        jump(page, "2s", 2_000_000)
        assert page.is_hidden("#seek-problem")


def test_a_container_that_is_replaced_while_it_is_open(browser: Browser, root: Path) -> None:
    """Its numbers would be those of another one: that is said, and the new one is a button away."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=signed.h4mk")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        new = root / "new.part"
        export(BUNNY, new, ExportOptions())
        new.replace(root / "signed.h4mk")
        page.keyboard.press("5")
        says(page, "#seek-problem", "The container was replaced by another one meanwhile.")
        page.click("#seek-problem button")
        says(page, "#facts", "1 keyframe")
        page.evaluate(SHOWN)
        jump(page, "2s", 2_000_000)
        assert page.evaluate("document.querySelector('video').videoWidth") == 1280


def test_two_tabs(browser: Browser, root: Path) -> None:
    """Each plays what it plays; what one has added the other sees when somebody comes back to it."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=signed.h4mk")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        other = page.context.new_page()
        other.goto(f"{server.url}/?name=sound.h4mk#t=7")
        other.wait_for_selector("#stage audio")
        other.evaluate(SHOWN)
        other.set_input_files("#files", BUNNY)
        other.wait_for_selector("#uploads .upload a")
        page.bring_to_front()
        page.evaluate("dispatchEvent(new Event('focus'))")
        page.wait_for_selector("#items a[data-name='bigbuckbunny.mp4.h4mk']")
        jump(page, "4s", 4_000_000)
        assert other.evaluate("document.querySelector('audio').currentTime") == pytest.approx(7, abs=0.01)


def test_a_slow_line(browser: Browser, root: Path) -> None:
    """Half a second a request: the page says what it does, and whoever leaves does not wait for it."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        slowly(page, 500)
        page.goto(f"{server.url}/?name=bigbuckbunny.h4mk")
        says(page, "#stage", "Opening")
        page.wait_for_selector("#items a.item")
        page.click("#items a[data-name='sound.h4mk']")
        page.wait_for_selector("#stage audio")
        assert page.inner_text("#title") == "sound"
        for pts in (3, 9, 5):  # of quick jumps the last one counts
            page.fill("#pts", f"{pts}s")
            page.press("#pts", "Enter")
        sought(page, 5_000_000)
        assert page.evaluate("document.querySelector('audio').currentTime") == pytest.approx(5, abs=0.01)
        assert page.get_attribute("#numbers", "data-asked") == "5000000"


def slowly(page: Page, latency: int) -> None:
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    slow = {"offline": False, "latency": latency, "downloadThroughput": 200_000, "uploadThroughput": 50_000}
    line.send("Network.emulateNetworkConditions", slow)
