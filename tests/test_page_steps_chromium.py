"""Steps, jumps and what is said of them, in Debian's Chromium, where something comes in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from harmony4.h4mk import H4MKBuilder
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import needs_chromium, needs_ffmpeg
from pagelib import LOST, NUMBERS, SHOWN, film, jump, open_container, page_on, says, sought
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

TIME = "document.querySelector('video, audio').currentTime"
REJECTED = "addEventListener('unhandledrejection', (event) => (window.rejected = String(event.reason)))"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
NATIVE = """(seconds) => new Promise((done) => {
  const media = document.querySelector("video, audio");
  media.addEventListener("seeked", () => done(), { once: true });
  media.currentTime = seconds;
})"""
"""What the element's own controls do."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`late.h4mk`: begins at 1.001 s of its own clock, 25 pictures a second, each second another grey."""
    folder = tmp_path_factory.mktemp("late")
    media = tmp_path_factory.mktemp("media") / "late.webm"
    code = ("-c:v", "libvpx", "-g", "25", "-b:v", "400k", "-deadline", "realtime", "-output_ts_offset", "1.001")
    film(media, (320, 180), "25", [40 + 30 * (number // 25) for number in range(150)], *code)
    export(media, folder / "late.h4mk", ExportOptions())
    return folder


@pytest.fixture(scope="module")
def late(library: Path) -> Iterator[Server]:
    with running(library) as one:
        yield one


def test_steps_are_whole_microseconds(browser: Browser, late: Server) -> None:
    """Where a medium begins at a time that is none in binary; and they say how long they took."""
    assert late.get("/video/info?name=late.h4mk").json["origin"] == "1001000"
    with page_on(browser, late.url) as page:
        open_container(page, late, "late.h4mk")
        page.evaluate(SHOWN)
        for key, times in ((".", range(40_000, 400_001, 40_000)), (",", range(360_000, -1, -40_000))):
            for pts in times:
                page.keyboard.press(key)
                sought(page, pts)
                says(page, "[data-fact='picture after']", "ms")
                assert page.is_hidden("#seek-problem")
                assert int(page.evaluate(NUMBERS)["picture after"].removesuffix(" ms")) > 0


def test_a_jump_before_the_media_are_there_counts(browser: Browser, late: Server) -> None:
    for name, hold in (("#t=5", "**/video/range/**"), ("", "**/video/range/**")):
        with page_on(browser, late.url) as page:
            held: list[Route] = []
            page.route(hold, lambda route, held=held: held.append(route))
            with page.expect_request(hold):
                open_container(page, late, "late.h4mk", name)
            page.fill("#pts", "3s")
            page.press("#pts", "Enter")
            page.wait_for_selector("#numbers:not([hidden])[data-asked='3000000']")
            page.click("#link")  # knows the place already
            assert page.evaluate("location.hash") == "#t=3"
            page.unroute_all()
            for one in held:
                one.continue_()
            page.evaluate(SHOWN)
            assert page.evaluate(TIME) == pytest.approx(4.001, abs=0.001)


def test_a_browser_without_steps_says_so(browser: Browser, late: Server) -> None:
    with page_on(browser, late.url) as page:
        page.add_init_script("delete globalThis.VideoFrame")
        open_container(page, late, "late.h4mk")
        page.evaluate(SHOWN)
        page.keyboard.press(".")
        says(page, "#seek-problem", "This browser does not say where a picture begins")
        jump(page, "3s", 3_000_000)
        assert page.is_hidden("#seek-problem")


def test_a_step_that_fails_leaves_the_next_one_alone(browser: Browser, late: Server) -> None:
    with page_on(browser, late.url) as page:
        page.add_init_script(REJECTED)
        open_container(page, late, "late.h4mk")
        page.evaluate(SHOWN)
        page.evaluate(
            """() => {
              const video = document.querySelector("video");
              Object.defineProperty(video, "duration", { configurable: true, get() { throw new Error("torn") } });
            }"""
        )
        page.keyboard.press(".")
        says(page, "#seek-problem", "Torn.")
        page.evaluate("delete document.querySelector('video').duration")
        page.keyboard.press(".")
        sought(page, 40_000)
        assert page.evaluate("window.rejected ?? null") is None


def test_escape_in_a_field_stays_there(browser: Browser, late: Server) -> None:
    with page_on(browser, late.url) as page:
        open_container(page, late, "late.h4mk")
        page.wait_for_selector("#items a")
        page.click("#tab-check")
        for field in ("#pts", "#pem"):
            page.focus(field)
            page.keyboard.press("Escape")
            assert page.evaluate("`#${document.activeElement.id}`") == field
        page.focus("#link")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.dataset.name") == "late.h4mk"


def test_the_players_own_controls_end_what_is_said_of_a_seek(browser: Browser, late: Server) -> None:
    with page_on(browser, late.url, ("400 (",)) as page:
        open_container(page, late, "late.h4mk")
        page.evaluate(SHOWN)
        jump(page, "3s", 3_000_000)
        page.evaluate(NATIVE, 2)
        page.wait_for_selector("#numbers", state="hidden")
        page.fill("#pts", "soon")
        page.press("#pts", "Enter")
        page.wait_for_selector("#seek-problem:not([hidden])")
        page.evaluate(NATIVE, 4)
        page.wait_for_selector("#seek-problem", state="hidden")
        # A jump beyond the end is the page's own, wherever it ends.
        page.fill("#pts", "9s")
        page.press("#pts", "Enter")
        page.wait_for_selector("#numbers:not([hidden])[data-asked='9000000']")
        page.evaluate(SHOWN)
        page.evaluate(FRAMES)
        assert page.is_visible("#numbers")


def test_another_track_has_no_problem_of_the_first(browser: Browser, page_library: Path, tmp_path: Path) -> None:
    _two_tracks(tmp_path / "two.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "two.h4mk")
        page.fill("#pts", "soon")
        page.press("#pts", "Enter")
        page.wait_for_selector("#seek-problem:not([hidden])")
        page.select_option("#track", "1")
        page.wait_for_selector("#seek-problem", state="hidden")


def test_a_stream_that_is_refused_is_not_asked_again(browser: Browser, late: Server) -> None:
    """While a film plays on: once for good, or ever more rarely."""
    for status, most in ((404, 1), (500, 3)):
        with page_on(browser, late.url, (f"{status} (",)) as page:
            asked: list[str] = []

            def refuse(route: Route, status: int = status, asked: list[str] = asked) -> None:
                asked.append(route.request.url)
                route.fulfill(status=status, content_type="application/problem+json", body='{"detail": "torn"}')

            page.route("**/video/stream?*", refuse)
            open_container(page, late, "late.h4mk")
            page.evaluate(SHOWN)
            page.click("#tab-tokens")
            says(page, ".tokens-panel .live", "torn")
            page.evaluate(
                """() => new Promise((done) => {
                  const video = document.querySelector("video");
                  video.muted = true;
                  video.playbackRate = 2;
                  video.addEventListener("ended", () => done(), { once: true });
                  video.play();
                })"""
            )
            assert len(asked) <= most


def replaced(path: Path, payload: bytes) -> None:
    """Put an unsealed container of one block in its place."""
    new = path.with_suffix(".part")
    _unsealed(new, payload)
    os.replace(new, path)


def test_unsealed_containers_are_told_apart(browser: Browser, tmp_path: Path) -> None:
    """They have no head; and the button tries the one that is there by then."""
    for name in ("one", "two"):
        assert name
