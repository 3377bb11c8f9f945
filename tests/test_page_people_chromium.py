"""Whether everybody can use the page, in Debian's Chromium: keyboard, screen readers, sizes, motion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from needs import needs_chromium, needs_ffmpeg
from pagelib import PEM, SCREENSHOTS, SHOWN, jump, open_container, page_on, says, sought, violations
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]


@pytest.fixture(scope="module")
def server(page_library: Path) -> Iterator[Server]:
    with running(page_library) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url) as one:
        yield one


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
