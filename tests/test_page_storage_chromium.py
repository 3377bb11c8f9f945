"""The page where the browser keeps nothing for it, or something that is not the page's."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from needs import needs_chromium
from pagelib import PEM, open_container, page_on, says
from serving import running

pytestmark = needs_chromium

BLOCKED = """for (const area of ["localStorage", "sessionStorage"]) Object.defineProperty(window, area, {
  get() { throw new DOMException("The operation is insecure.", "SecurityError"); },
});"""
FOREIGN = """for (const area of [localStorage, sessionStorage]) {
  for (const key of ["keys", "verified", "upload:a", "trust", "editions"]) area[`harmony4-${key}`] = "{";
}
localStorage["harmony4-upload:b"] = "3";"""


@pytest.mark.parametrize("script", [BLOCKED, FOREIGN], ids=["blocked", "no JSON"])
def test_the_page_without_storage(browser: Browser, page_library: Path, script: str) -> None:
    with running(page_library) as server, page_on(browser, server.url) as page:
        page.add_init_script(script)
        page.goto(server.url)
        page.wait_for_selector("#items a.item")
        assert page.is_checked("#keys-on")
        open_container(page, server, "signed.h4mk")
        page.click("#keys-button")
        page.uncheck("#keys-on")
        page.click("#keys button")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.click("#check-go")
        says(page, "#verdict", "are right")
