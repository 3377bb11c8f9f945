"""What the page does a second time, in Debian's Chromium: opens, checks, lists, follows a stream anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from harmony4.crypto.signing import SigningKey
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, ROOT, needs_chromium, needs_ffmpeg
from pagelib import LOST, PEM, SHOWN, SIGNING, ffmpeg, open_container, page_on, says
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

COUNTED = """(() => {
  window.counts = { window: 0, abort: 0, observed: 0 };
  const kind = (target, type) => target instanceof AbortSignal ? type === "abort" && "abort"
    : target === window && ["scroll", "resize"].includes(type) && "window";
  const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
  const taken = new WeakMap();
  EventTarget.prototype.addEventListener = function (type, listener, options) {
    const target = this ?? window;
    const counted = kind(target, type);
    if (counted) {
      counts[counted] += 1;
      if (options?.signal) add.call(options.signal, "abort", () => (counts[counted] -= 1), { once: true });
    }
    return add.call(target, type, listener, options);
  };
  EventTarget.prototype.removeEventListener = function (type, listener, options) {
    const counted = kind(this ?? window, type);
    if (counted) counts[counted] -= 1;
    return remove.call(this ?? window, type, listener, options);
  };
  const { observe, disconnect } = ResizeObserver.prototype;
  ResizeObserver.prototype.observe = function (...what) {
    counts.observed += 1;
    taken.set(this, (taken.get(this) ?? 0) + 1);
    return observe.apply(this, what);
  };
  ResizeObserver.prototype.disconnect = function () {
    counts.observed -= taken.get(this) ?? 0;
    taken.set(this, 0);
    return disconnect.call(this);
  };
})()"""
"""Count the listeners that would keep something alive, and what is observed."""

TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
CURRENT = "#tokens tr[aria-current]"


@pytest.fixture
def root(tmp_path: Path, page_library: Path) -> Path:
    """A folder of which a test may change everything."""
    made = tmp_path / "library"
    made.mkdir()
    shutil.copy(page_library / "signed.h4mk", made / "signed.h4mk")
    return made


def hold_two(page: Page, url: str) -> list[Route]:
    """The next two requests to there, which wait."""
    held: list[Route] = []
    page.route(url, lambda route: held.append(route) if len(held) < 2 else route.continue_())
    return held


def block(page: Page) -> int:
    return int(page.inner_text(f"{CURRENT} td"))


def test_tokens_of_a_film_of_keyframes(browser: Browser, tmp_path: Path) -> None:
    """7500 blocks in 300 s: those around the position are there, wherever it goes."""
    film = tmp_path / "film.mov"
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=64x36:r=25:d=300", "-c:v", "mjpeg", film)
    (tmp_path / "served").mkdir()
    export(film, tmp_path / "served" / "film.h4mk", ExportOptions())
    asked: list[str] = []
    with running(tmp_path / "served") as server, page_on(browser, server.url) as page:
        assert server.get("/video/info?name=film.h4mk").json["tracks"][0]["blocks"] > 7000
        page.on("request", lambda one: asked.append(one.url) if "/video/stream" in one.url else None)
        open_container(page, server, "film.h4mk")
        page.click("#tab-tokens")
        says(page, ".tokens-panel .live", "ahead of the player")
        says(page, CURRENT, "0:00")
        assert block(page) < 3
        for place, text in (("290s", "4:50"), ("10s", "0:10"), ("0:00:00", "0:00")):
            page.fill("#pts", place)
            page.press("#pts", "Enter")
            says(page, CURRENT, text)
        assert len(asked) <= 3


# -- opened


def test_a_container_that_was_not_there_and_then_is(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(f"{server.url}/?name=new.h4mk")
        says(page, "#view-note", "There is no such container")
        shutil.copy(root / "signed.h4mk", root / "new.h4mk")
        page.press("#search", "Enter")
        page.click("#items a[data-name='new.h4mk']")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)


def test_a_container_that_is_another_one_meanwhile(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        old = server.get("/video/info?name=signed.h4mk").json["head"]
        says(page, "#facts", old)
        page.evaluate("document.querySelector('video').id = 'same'")
        with page.expect_response("**/video/info?*"):
            page.click("#items a[data-name='signed.h4mk']")
        page.evaluate(TWO_FRAMES)
        assert page.query_selector("#same") is not None  # it is the same, and plays on
        export(BUNNY, root / "other.h4mk", ExportOptions())
        (root / "other.h4mk").replace(root / "signed.h4mk")
        page.click("#items a[data-name='signed.h4mk']")
        page.wait_for_selector("#same", state="detached")
        new = server.get("/video/info?name=signed.h4mk").json["head"]
        assert new != old
        says(page, "#facts", new)


def test_the_container_tab_leaves_nothing_behind(page: Page, server: Server) -> None:
    page.add_init_script(COUNTED)
    open_container(page, server, "signed.h4mk")
    page.wait_for_selector("#items a.item")
    found = []
    for _ in range(3):
        page.click("#tab-container")
        page.wait_for_selector("#hex span")
        page.click("#tab-facts")
        page.wait_for_selector("#facts")
        found.append(page.evaluate("[counts.window, counts.observed]"))
    assert found[0] == found[1] == found[2]


# -- checked


def test_check_again_while_it_runs(page: Page, server: Server) -> None:
    """What was broken off says nothing of the run that is under way."""
    held = hold_two(page, "**/video/proof?*")
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    for _ in range(2):
        with page.expect_request("**/video/proof?*"):
            page.click("#check-go")
    page.evaluate(TWO_FRAMES)
    assert page.is_hidden("#verdict")
    assert page.is_visible("button:text('Stop')")
    held[-1].continue_()
    says(page, "#verdict", "All 11 blocks")
    assert page.is_hidden("button:text('Stop')")


def test_a_check_that_fails_is_no_verified_container(page: Page, server: Server) -> None:
    row = "#items a[data-name='signed.h4mk']"
    open_container(page, server, "signed.h4mk")
    page.click("#tab-check")
    page.fill("#pem", PEM)
    page.click("#check-go")
    says(page, row, "verified")
    page.fill("#pem", "a key")
    page.click("#check-go")
    says(page, "#verdict", "no public key")
    assert "verified" in page.inner_text(row)  # nothing was checked
    page.fill("#pem", SigningKey.from_number(7).public.pem().decode())
    page.click("#check-go")
    says(page, "#verdict", "by a key that is trusted")
    assert "verified" not in page.inner_text(row)


def test_a_key_does_not_stand_for_another_container(browser: Browser, root: Path) -> None:
    """One that the same key has signed, and that took the name of the one that is open."""
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        open_container(page, server, "signed.h4mk")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        export(BUNNY, root / "other.h4mk", ExportOptions())
        sign_file(root / "other.h4mk", Signer(SIGNING, "a film", 1))
        (root / "other.h4mk").replace(root / "signed.h4mk")
        page.click("#check-go")
        says(page, "#verdict", "not the container that is pinned")


# -- followed


def test_a_stream_that_broke_or_was_empty_begins_again(page: Page, server: Server) -> None:
    answers = [
        {"status": 200, "content_type": "text/event-stream", "body": "event: done\ndata: null\n\n"},
        {
            "status": 200,
            "content_type": "text/event-stream",
            "body": 'event: problem\ndata: {"detail": "torn"}\n\n',
        },
    ]

    def answer(route: Route) -> None:
        if answers:
            route.fulfill(**answers.pop(0))  # type: ignore[arg-type]
        else:
            route.continue_()

    page.route("**/video/stream?*", answer)
    open_container(page, server, "ten-hours.h4mk", "#t=18000")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    says(page, ".tokens-panel .live", "all of them are here")
    page.fill("#pts", "9000s")
    page.press("#pts", "Enter")
    says(page, ".tokens-panel .live", "torn")
    page.fill("#pts", "9100s")
    page.press("#pts", "Enter")
    says(page, CURRENT, "2:31:40")
    assert answers == []


def test_a_stream_that_waits_gathers_no_listeners(page: Page, server: Server) -> None:
    page.add_init_script(COUNTED)
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    says(page, ".tokens-panel .live", "ahead of the player")
    before = page.evaluate("counts.abort")
    page.evaluate(
        """async () => {
          for (let turn = 0; turn < 50; turn += 1) {
            document.querySelector("video").dispatchEvent(new Event("timeupdate"));
            await new Promise((done) => setTimeout(done));
          }
        }"""
    )
    assert page.evaluate("counts.abort") <= before + 2


# -- listed


def test_an_upload_leaves_the_list_where_it_is(browser: Browser, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    export(ROOT / "LICENSE", served / "m000.h4mk", ExportOptions())
    for number in range(1, 150):
        os.link(served / "m000.h4mk", served / f"m{number:03}.h4mk")
    source = tmp_path / "a.txt"
    source.write_bytes((ROOT / "LICENSE").read_bytes())
    with running(served) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        says(page, "#count", "150")
        page.focus("#items a[data-name='m000.h4mk']")
        for _ in range(120):
            page.keyboard.press("ArrowDown")
        row = "#items a[data-name='m120.h4mk']"
        page.wait_for_selector(row)
        assert page.evaluate("document.activeElement.dataset.name") == "m120.h4mk"
        page.set_input_files("#files", source)
        page.wait_for_selector("#uploads .upload a")
        says(page, "#count", "151")
        page.evaluate(TWO_FRAMES)
        assert page.evaluate("document.activeElement.dataset.name") == "m120.h4mk"
        box = page.locator(row).bounding_box()
        assert box is not None
        assert 0 < box["y"] < 900
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.dataset.name") == "m121.h4mk"


def test_the_list_is_busy_until_the_last_load_ends(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    held = hold_two(page, "**/media?*")
    for _ in range(2):
        with page.expect_request("**/media?*"):
            page.press("#search", "Enter")
    page.evaluate(TWO_FRAMES)
    assert page.get_attribute("#items", "aria-busy") == "true"
    held[-1].continue_()
    page.wait_for_selector("#items:not([aria-busy])")


# -- keys


def test_arrows_scroll_what_is_wider_than_the_screen(browser: Browser, server: Server) -> None:
    with page_on(browser, server.url, viewport={"width": 340, "height": 800}) as page:
        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        for tab, place in (("tokens", ".wide"), ("container", "#hex")):
            page.click(f"#tab-{tab}")
            page.wait_for_selector("#tokens td" if tab == "tokens" else "#hex span")
            page.focus(place)
            page.keyboard.press("ArrowRight")
            page.evaluate(
                """(place) => new Promise((done, failed) => {
                  const box = document.querySelector(place);
                  if (box.scrollLeft) done();
                  box.addEventListener("scroll", done, { once: true });
                  setTimeout(() => failed(new Error("nothing was scrolled")), 10000);
                })""",
                place,
            )
            assert page.evaluate("document.querySelector('video').currentTime") == 0
        page.focus("#view")
        page.keyboard.press("ArrowRight")
        page.evaluate(SHOWN)
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(5, abs=0.01)
