"""Debian's Chromium for tests, without its own traffic.

@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from playwright.sync_api import Browser, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError

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
_STARTS: Final = 2
"""Starts that may fail."""


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser until the block is left, started with these arguments besides its usual ones."""
    with sync_playwright() as playwright:
        browser = _launched(playwright, [*QUIET, *arguments])
        yield browser
        browser.close()


def _launched(playwright: Playwright, arguments: list[str]) -> Browser:
    # On a busy machine it now and then dies of SIGSEGV while it starts, before it has seen anything of ours.
    for _ in range(_STARTS):
        with suppress(PlaywrightError):
            return playwright.chromium.launch(executable_path=program("chromium"), args=arguments)
    return playwright.chromium.launch(executable_path=program("chromium"), args=arguments)
