"""Debian's Chromium for tests, without its own traffic.

@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from needs import program

QUIET: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Processes are much of what a page costs here: one for all pages, and none for a GPU that is not there.
    "--in-process-gpu",
    "--renderer-process-limit=1",
)
"""Its usual arguments."""


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser until the block is left, started with these arguments besides its usual ones."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=[*QUIET, *arguments])
        yield browser
        browser.close()
