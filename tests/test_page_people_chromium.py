"""Whether everybody can use the page, in Debian's Chromium: keyboard, screen readers, sizes, motion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from needs import BUNNY, needs_chromium, needs_ffmpeg
from pagelib import (
    FRAME,
    LISTEN,
    LOST,
    MASTER,
    PEM,
    SCREENSHOTS,
    SHOWN,
    grey,
    jump,
    open_container,
    page_on,
    says,
    sought,
    violations,
)
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

PLAYED = """() => new Promise((resolve) => {
  const video = document.querySelector("video");
  const enough = () => video.currentTime > 12.6 && (video.pause(), resolve());
  video.addEventListener("timeupdate", enough);
  video.muted = true;
  video.play();
})"""
HEARD = """() => new Promise((resolve) => {
  const canvas = document.querySelector("canvas.spectrum");
  const check = () => Number(canvas.dataset.tokens) > 30 ? resolve() : setTimeout(check, 20);
  check();
})"""
FILES = """(() => {
  const data = new DataTransfer();
  data.items.add(new File(["x"], "small.bin"));
  return data;
})()"""


@pytest.fixture(scope="module")
def server(page_library: Path) -> Iterator[Server]:
    with running(page_library) as one:
        yield one


@pytest.fixture(scope="module")
def demonstration(page_library: Path) -> Iterator[Server]:
    with running(page_library, lying=True) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url) as one:
        yield one


def focus(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus."""
    page.wait_for_selector(selector)
    for _ in range(40):
        if page.evaluate("(one) => document.activeElement.matches(one)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(page.evaluate("document.activeElement.outerHTML"))


def test_by_keyboard_alone(page: Page, server: Server) -> None:
    """From the address to the check, without a pointer."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.keyboard.press("/")
    page.keyboard.type("signed")
    says(page, "#count", "1 container")
    focus(page, "#items a[data-name='signed.h4mk']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    focus(page, "#timeline")
    page.keyboard.press("ArrowRight")
    sought(page, 5_000_000)
    focus(page, "#pts")
    page.keyboard.type("0:08")
    page.keyboard.press("Enter")
    sought(page, 8_000_000)
    focus(page, "#tab-facts")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#check-go")
    focus(page, "#check-go")
    page.keyboard.press("Enter")
    says(page, "#verdict", "All 11 blocks")


def test_unlocking_by_keyboard_alone(page: Page, server: Server) -> None:
    """A key that is none first: the field has the focus still, and what was typed is selected."""
    page.goto(server.url)
    focus(page, "#items a[data-name='masked.h4mk']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#unlock")
    focus(page, "#key")
    page.keyboard.type("00" * 32)
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-problem:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type(MASTER.reveal().hex())
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    focus(page, "#timeline")
    page.keyboard.press("5")
    sought(page, 10_000_000)
    assert abs(page.evaluate(FRAME)["mean"] - grey(10)) < 3


def test_what_a_screen_reader_finds(page: Page, server: Server) -> None:
    """Roles and names, in the order in which they are read."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    found = page.locator("body").aria_snapshot()
    wanted = [
        'link "Skip the library"',
        'heading "HarmonyØ4" [level=1]',
        "status: 7 containers",
        'button "Add media"',
        'navigation "Library"',
        'searchbox "Search names"',
        'combobox "Order"',
        'list "Containers"',
        'link "corrupt 0:20 signed by 1b96ce94 h264 · 8.12 KiB · 10 keyframes"',
        'link "masked masked 0:20 h264 · 8.86 KiB · 10 keyframes"',
        'region "Container"',
    ]
    in_order(found, wanted)
    open_container(page, server, "signed.h4mk")
    page.evaluate(SHOWN)
    wanted = [
        'region "signed"',
        'article "signed"',
        'slider "Position"',
        'heading "signed" [level=2]',
        "sealed · signed by 1b96ce94",
        'textbox "Jump to"',
        'button "Go"',
        'tablist "Inside the container"',
        'tab "Facts" [selected]',
        'tab "Check"',
        'tabpanel "Facts"',
        'rowheader "head"',
    ]
    in_order(page.locator("#view").aria_snapshot(), wanted)
    assert page.get_attribute("#stage video", "aria-label") == "video of signed"
    assert page.get_attribute("#timeline", "aria-valuetext") == "0:00 of 0:20"
    page.click("#tab-tokens")
    page.wait_for_selector("#tokens tr[aria-current]")
    in_order(
        page.locator("#panel").aria_snapshot(), ['tabpanel "Tokens"', 'table "Tokens around the position"']
    )
    page.click("#tab-container")
    page.wait_for_selector("#chunks [data-tag=TRAK]")
    chunk = 'button "TRAK at 8 bytes 242 CRC feb5c81d what the tracks are"'
    wanted = ['group "Scale of the map"', 'radio "to scale" [checked]', 'list "Chunks"', chunk]
    in_order(page.locator("#panel").aria_snapshot(), wanted)
    page.click("#tab-check")
    page.wait_for_selector("#check-go")
    wanted = [
        'textbox "Public key of whom you trust"',
        'button "Check what is played"',
        'progressbar "Checked"',
    ]
    in_order(page.locator("#panel").aria_snapshot(), wanted)
    open_container(page, server, "masked.h4mk")
    page.wait_for_selector("#unlock")
    wanted = ['form "This container is masked"', 'textbox "Key"', 'button "Unlock"', 'button "Key file"']
    in_order(page.locator("#stage").aria_snapshot(), wanted)


def in_order(found: str, wanted: list[str]) -> None:
    at = 0
    for one in wanted:
        place = found.find(one, at)
        assert place >= 0, f"{one} is not behind {at} in:\n{found}"
        at = place


def test_where_the_focus_goes(page: Page, server: Server) -> None:
    """Into what opens, and back to where one came from."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")

    def focus() -> str:
        return str(page.evaluate("document.activeElement.dataset.name ?? document.activeElement.id"))

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip the library"
    page.keyboard.press("Enter")
    assert focus() == "view"
    page.focus("#items a[data-name='signed.h4mk']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage video")
    assert focus() == "view"
    page.evaluate(SHOWN)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#view') !== null")
    page.focus("#tab-facts")
    page.keyboard.press("Escape")
    assert focus() == "signed.h4mk"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage audio")
    page.go_back()
    page.wait_for_selector("#stage video")
    assert focus() == "view"
    page.go_back()
    page.wait_for_selector("text=Choose a container")
    assert focus() == "signed.h4mk"
    page.click("text=sound")
    page.wait_for_selector("#stage audio")
    page.click("#keys-button")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    assert focus() == "keys-button"


def test_what_is_said(page: Page, server: Server) -> None:
    """A seek that was typed is one sentence; while a film plays and tokens come nothing is said."""
    open_container(page, server, "signed.h4mk")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    page.wait_for_selector("#tokens tr[aria-current]")
    page.evaluate(LISTEN, "body")
    jump(page, "0:11.5", 11_500_000)
    says(page, "[data-fact='picture after']", "ms")
    page.evaluate(PLAYED)
    assert page.evaluate("window.said") == ["At 0:11.5, from the keyframe at 0:10."]


@contextmanager
def looking(
    browser: Browser, url: str, scheme: Any, width: int, expected: Sequence[str] = ()
) -> Iterator[Any]:
    """A page, and what looks at it: axe-core finds nothing, nothing sticks out, and people have a picture."""
    SCREENSHOTS.mkdir(exist_ok=True)
    size = {"width": width, "height": 900}
    with page_on(browser, url, expected, viewport=size, color_scheme=scheme) as page:

        def look(view: str) -> None:
            page.screenshot(path=SCREENSHOTS / f"{view}-{scheme}-{width}.png", full_page=width < 800)
            assert violations(page) == [], view
            assert page.evaluate("document.documentElement.scrollWidth") == width, view

        yield page, look


SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
WIDTHS = pytest.mark.parametrize("width", [390, 1440])


@SCHEMES
@WIDTHS
def test_every_view(browser: Browser, demonstration: Server, scheme: Any, width: int) -> None:
    server = demonstration
    with looking(browser, server.url, scheme, width) as (page, look):
        page.goto(server.url)
        page.wait_for_selector("#items canvas.drawn")
        look("library")
        page.fill("#search", "no such thing")
        page.wait_for_selector("text=Nothing found")
        look("nothing-found")
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
        page.click("#check-go")
        says(page, "#verdict", "All 11 blocks")
        look("check")
        page.check("#lie")
        page.click("#check-go")
        says(page, "#verdict", "not what the root says")
        look("check-lies")
        page.click("#keys-button")
        look("keys")
        page.keyboard.press("Escape")
        open_container(page, server, "masked.h4mk")
        page.wait_for_selector("#unlock")
        look("masked")
        page.fill("#key", "00" * 32)
        page.press("#key", "Enter")
        page.wait_for_selector("#key-problem:not([hidden])")
        look("masked-wrong-key")
        open_container(page, server, "corrupt.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.click("#check-go")
        says(page, "#verdict", "not what the root says")
        look("corrupt")
        open_container(page, server, "recovered.h4mk")
        page.click("#tab-check")
        page.fill("#pem", "")
        page.click("#check-go")
        says(page, "#verdict", "that are left")
        look("recovered")
        open_container(page, server, "sound.h4mk", "#t=5")
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum[data-tokens]")
        page.evaluate(HEARD)
        look("sound")


@SCHEMES
@WIDTHS
def test_every_state(browser: Browser, tmp_path: Path, scheme: Any, width: int) -> None:
    """Nothing there yet, nothing any more, nothing allowed; and what uploads go through."""
    root, film = tmp_path / "library", tmp_path / "a film with a name that is longer than a row.mp4"
    root.mkdir()
    film.write_bytes(BUNNY.read_bytes())
    # Answers that are errors are what this is about, and Chromium logs them.
    with running(root) as server, looking(browser, server.url, scheme, width, LOST) as (page, look):
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        look("empty")
        page.evaluate("dispatchEvent(new DragEvent('dragenter', { dataTransfer: " + FILES + " }))")
        look("drop")
        page.evaluate("dispatchEvent(new DragEvent('dragleave', { dataTransfer: " + FILES + " }))")
        page.route("**/uploads/*", lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", film)
        page.wait_for_selector("#uploads .waits")
        look("upload-waits")
        page.unroute("**/uploads/*")
        page.wait_for_selector("#uploads .upload a")
        look("upload-done")
        page.set_input_files("#files", film)
        page.wait_for_selector("#uploads .bad")
        look("upload-refused")
        line = page.context.new_cdp_session(page)
        line.send("Network.enable")
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
        line.send("Network.emulateNetworkConditions", slow)
        large = tmp_path / "large.bin"
        large.write_bytes(bytes(3 * 2**20))
        page.set_input_files("#files", large)
        says(page, "#uploads .upload:last-child", "of 3.00 MiB sent")
        look("upload-sends")
        page.click("#uploads .upload:last-child button")
        says(page, "#uploads .upload:last-child", "Cancelled")
        line.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
        page.goto(f"{server.url}/?name=none.h4mk")
        page.wait_for_selector("text=There is no such container")
        look("error-missing")
        (root / "broken.h4mk").write_bytes(b"H4MK but not really")
        page.goto(f"{server.url}/?name=broken.h4mk")
        page.wait_for_selector("text=This container cannot be opened")
        look("error-broken")
        page.route("**/media?*", lambda route: None)
        page.route("**/video/info?*", lambda route: None)
        page.goto(f"{server.url}/?name=a%20film.h4mk")
        page.wait_for_selector(".opening")
        page.wait_for_selector("#items .coming")
        look("loading")
        page.unroute("**/media?*")
        page.route("**/media?*", lambda route: route.abort("connectionrefused"))
        page.goto(server.url)
        page.wait_for_selector("text=The library cannot be shown")
        look("error-server")
    with (
        running(root, auth=True) as server,
        looking(browser, server.url, scheme, width, LOST) as (page, look),
    ):
        page.goto(server.url)
        page.wait_for_selector("#sign-in[open]")
        page.wait_for_selector("text=Sign in to see the library")
        look("sign-in")


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
