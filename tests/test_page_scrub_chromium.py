"""What the page says of containers that the server has read by itself (scrubbing), in Debian's Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from harmony4.h4mk import H4MKReader
from needs import needs_chromium, needs_ffmpeg
from pagelib import BAD_BLOCK, PEM, open_container, page_on, says, violations
from processes import until
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

READ = "server: verified"


@pytest.fixture
def root(tmp_path: Path, page_library: Path) -> Path:
    for name in ("signed", "corrupt"):
        shutil.copy(page_library / f"{name}.h4mk", tmp_path / f"{name}.h4mk")
    return tmp_path


def row(page: Page, name: str) -> str:
    return page.inner_text(f"#items a[data-name='{name}.h4mk']")


def scrubbed(server: Server) -> None:
    """Wait until the server has read everything."""
    until(lambda: all("verified" in one for one in server.get("/media").json["items"]), "a round")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_scrubbing_found(browser: Browser, root: Path, scheme: str) -> None:
    """Damage is said in the list and in the facts, with its place; so is that all was right."""
    with H4MKReader(root / "corrupt.h4mk") as reader:
        place = reader.range_map(0)[BAD_BLOCK].position - 12  # of the chunk's header
    damage = f"chunk CORE fails its CRC at offset {place}"
    with (
        running(root, scrub_rate=2**30, scrub_pause=3600) as server,
        page_on(browser, server.url, color_scheme=scheme) as page,
    ):
        scrubbed(server)
        open_container(page, server, "corrupt.h4mk")
        page.wait_for_selector("#items a.item")
        assert "damaged " + damage in row(page, "corrupt")
        assert READ not in row(page, "corrupt")
        assert damage in str(page.get_attribute("[data-name='corrupt.h4mk'] .bad:not(.mark)", "title"))
        assert page.inner_text("#state").startswith("sealed · damaged")
        assert page.get_attribute("#state", "class") == "state warn"
        says(page, "#facts", f"damaged: {damage}")
        says(page, "#facts", "; read by the server ")
        assert violations(page) == []
        # What the server has read, and what was checked here, are two things.
        assert READ in row(page, "signed")
        assert "here" not in row(page, "signed")
        open_container(page, server, "signed.h4mk")
        says(page, "#facts", "verified; read by the server ")
        assert "in this window" not in page.inner_text("#facts")
        assert "damaged" not in page.inner_text("#state")
        page.click("#tab-check")
        page.fill("#pem", PEM)
        page.click("#check-go")
        says(page, "#items a[data-name='signed.h4mk']", "verified here")
        assert READ in row(page, "signed")
        page.click("#tab-facts")
        says(page, "#facts", "verified here")
        assert violations(page) == []


def test_what_is_incomplete_says_both(browser: Browser, root: Path) -> None:
    whole = (root / "signed.h4mk").read_bytes()
    (root / "cut.h4mk").write_bytes(whole[: len(whole) // 2])
    with (
        running(root, scrub_rate=2**30, scrub_pause=3600) as server,
        page_on(browser, server.url) as page,
    ):
        scrubbed(server)
        open_container(page, server, "cut.h4mk")
        says(page, "#items a[data-name='cut.h4mk']", "incomplete damaged the file ends inside a chunk")
        assert page.inner_text("#state").startswith("incomplete · damaged")


def test_where_nothing_is_scrubbed_nothing_is_said(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url) as page:
        open_container(page, server, "corrupt.h4mk")
        says(page, "#facts", "duration")
        page.wait_for_selector("#items a.item")
        assert "damaged" not in page.inner_text("body")
        assert READ not in page.inner_text("body")


def test_facts_are_not_kept_where_they_may_change(root: Path) -> None:
    """Not even those of an address that names the version: the next reading may find something else."""
    with running(root) as server:
        etag = server.get("/video/info?name=signed.h4mk").json["tracks"][0]["etag"]
        target = f"/video/info?name=signed.h4mk&v={etag[:16]}"
        assert "immutable" in str(server.get(target).headers["Cache-Control"])
        assert "verified" not in server.get(target).json
    with running(root, scrub_rate=2**30, scrub_pause=3600) as server:
        assert server.get(target).headers["Cache-Control"] == "no-cache"
        scrubbed(server)
        assert server.get(target).json["verified"]["ok"]
