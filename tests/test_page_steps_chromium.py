"""Steps, jumps and what is said of them, in Debian's Chromium, where something comes in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, needs_chromium, needs_ffmpeg
from pagelib import LOST, NUMBERS, SHOWN, film, jump, open_container, page_on, says, sought
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

TIME = "document.querySelector('video, audio').currentTime"
RANGES = "**/video/range/**"
REJECTED = "addEventListener('unhandledrejection', (event) => (window.rejected = String(event.reason)))"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
NATIVE = """(seconds) => new Promise((done) => {
  const media = document.querySelector("video, audio");
  media.addEventListener("seeked", () => done(), { once: true });
  media.currentTime = seconds;
})"""
"""What the element's own controls do."""


class Held(list[Route]):
    """Requests that wait until they are let go."""

    over = False


def hold(page: Page) -> Held:
    """The requests for media from now on."""
    held = Held()
    page.route(RANGES, lambda route: route.continue_() if held.over else held.append(route))
    return held


def let_go(held: Held) -> None:
    held.over = True
    for one in held:
        one.continue_()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`late.h4mk`: begins at 1.001 s of its own clock, 25 pictures a second, each second another grey."""
    folder = tmp_path_factory.mktemp("late")
    media = tmp_path_factory.mktemp("media") / "late.webm"
    code = (
        "-c:v",
        "libvpx",
        "-g",
        "25",
        "-b:v",
        "400k",
        "-deadline",
        "realtime",
        "-output_ts_offset",
        "1.001",
    )
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


@pytest.mark.parametrize("at", ["#t=5", ""])
def test_a_jump_before_the_media_are_there_counts(browser: Browser, late: Server, at: str) -> None:
    with page_on(browser, late.url) as page:
        held = hold(page)
        with page.expect_request(RANGES):
            open_container(page, late, "late.h4mk", at)
        page.fill("#pts", "3s")
        page.press("#pts", "Enter")
        page.wait_for_selector("#numbers:not([hidden])[data-asked='3000000']")
        page.click("#link")  # knows the place already
        assert page.evaluate("location.hash") == "#t=3"
        let_go(held)
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
              const get = () => { throw new Error("torn"); };
              Object.defineProperty(video, "duration", { configurable: true, get });
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
        page.evaluate(NATIVE, 5)
        page.wait_for_selector("#seek-problem", state="hidden")
        # A jump beyond the end is the page's own, wherever it ends.
        page.fill("#pts", "9s")
        page.press("#pts", "Enter")
        page.wait_for_selector("#numbers:not([hidden])[data-asked='9000000']")
        page.evaluate(SHOWN)
        page.evaluate(FRAMES)
        assert page.is_visible("#numbers")


def test_another_track_has_no_problem_of_the_first(browser: Browser, tmp_path: Path) -> None:
    subtitles = tmp_path / "subs.vtt"
    subtitles.write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none")
    bundle_files([BUNNY, subtitles], tmp_path / "two.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "two.h4mk")
        page.fill("#pts", "soon")
        page.press("#pts", "Enter")
        page.wait_for_selector("#seek-problem:not([hidden])")
        page.select_option("#track", "1")
        page.wait_for_selector("#seek-problem", state="hidden")


@pytest.mark.parametrize(("status", "most"), [(404, 1), (500, 3)])
def test_a_stream_that_is_refused_is_not_asked_again(
    browser: Browser, late: Server, status: int, most: int
) -> None:
    """While a film plays on: never, or ever more rarely."""
    with page_on(browser, late.url, (f"{status} (",)) as page:
        asked: list[str] = []

        def refuse(route: Route) -> None:
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
        assert 1 <= len(asked) <= most


def test_unsealed_containers_are_told_apart(browser: Browser, library: Path, tmp_path: Path) -> None:
    """They have no head. Whoever tries again gets the one that is there by then."""
    other = tmp_path / "other.webm"
    code = ("-c:v", "libvpx", "-g", "25", "-b:v", "400k", "-deadline", "realtime")
    film(other, (160, 90), "25", [200 - 30 * (number // 25) for number in range(100)], *code)
    export(other, tmp_path / "other.part", ExportOptions())
    wide = (library / "late.h4mk").read_bytes()[:-40]
    small = (tmp_path / "other.part").read_bytes()[:-40]
    served = tmp_path / "served"
    served.mkdir()
    width = "document.querySelector('video').videoWidth"

    def replace(content: bytes) -> None:
        (tmp_path / "new.part").write_bytes(content)
        (tmp_path / "new.part").replace(served / "film.h4mk")

    replace(wide)
    with running(served) as server, page_on(browser, server.url, LOST) as page:
        open_container(page, server, "film.h4mk")
        says(page, "#state", "incomplete")
        page.evaluate(SHOWN)
        assert page.evaluate(width) == 320
        # While the media are on their way.
        held = hold(page)
        with page.expect_request(RANGES):
            page.reload()
        page.evaluate(FRAMES)
        replace(small)
        held.over = True
        for one in held:
            one.abort("connectionreset")
        says(page, "#stage", "It was replaced by another one meanwhile.")
        page.click("#stage button")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        assert page.evaluate(width) == 160
        # After the connection was lost.

        def away(route: Route) -> None:
            page.route("**/video/info?*", lambda other: other.abort("connectionrefused"))
            route.abort("connectionrefused")

        page.route(RANGES, away)
        page.reload()
        says(page, "#stage", "The connection to the server was lost.")
        replace(wide)
        page.unroute_all(behavior="wait")
        page.click("#stage button")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        assert page.evaluate(width) == 320
