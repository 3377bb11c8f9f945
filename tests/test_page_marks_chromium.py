"""Marks that say what is chosen, what is meant and what is awaited, in Debian's Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import Browser

from needs import needs_chromium, needs_ffmpeg
from pagelib import page_on
from serving import running

pytestmark = [needs_chromium, needs_ffmpeg]


def test_a_right_press_holds_no_list(browser: Browser, page_library: Path, tmp_path: Path) -> None:
    """A menu opens, and the page never hears that the button is let go."""
    shutil.copy(page_library / "signed.h4mk", tmp_path / "signed.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.hover("#items a[data-name='signed.h4mk']")
        page.mouse.down(button="right")
        shutil.copy(page_library / "sound.h4mk", tmp_path / "a.h4mk")
        page.evaluate("document.querySelector('#tools').requestSubmit()")
        page.wait_for_selector("#items a[data-name='a.h4mk']")
