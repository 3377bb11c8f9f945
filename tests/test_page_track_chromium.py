"""The page in Debian's Chromium where the track or the container is changed."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from harmony4.server.exporting.bundling import bundle_files
from needs import BUNNY, needs_chromium, needs_ffmpeg
from pagelib import SHOWN, jump, open_container, page_on
from serving import running

pytestmark = [needs_chromium, needs_ffmpeg]


def test_a_track_that_is_not_played_keeps_the_place(browser: Browser, tmp_path: Path) -> None:
    """To the subtitles and back: one is where one was, and no numbers of the other track stay."""
    subtitles = tmp_path / "subs.vtt"
    subtitles.write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none\n\n00:03.000 --> 00:04.000\ntwo")
    bundle_files([BUNNY, subtitles], tmp_path / "film.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "film.h4mk")
        page.evaluate(SHOWN)
        jump(page, "3s", 3_000_000)
        page.select_option("#track", "1")
        page.wait_for_selector("#stage .note")
        assert page.is_hidden("#numbers")
        page.select_option("#track", "0")
        page.wait_for_selector("#stage video")
        page.evaluate(SHOWN)
        assert abs(page.evaluate("document.querySelector('video').currentTime") - 3) < 0.1


def test_a_time_that_was_typed_is_of_its_container(browser: Browser, page_library: Path) -> None:
    with running(page_library) as server, page_on(browser, server.url) as page:
        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        jump(page, "3s", 3_000_000)
        page.click('#items a[href*="sound.h4mk"]')
        page.wait_for_selector("#stage audio")
        assert page.input_value("#pts") == ""
