"""Media that become containers by the page, in Debian's Chromium: progress, lost connections, refusals."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, needs_chromium
from pagelib import LOST, SHOWN, page_on
from processes import until
from serving import Server, running

pytestmark = needs_chromium

UPLOAD = re.compile(r"/uploads/\w+$")


@pytest.fixture(scope="module")
def server(page_library: Path) -> Iterator[Server]:
    with running(page_library) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url) as one:
        yield one


def test_upload(page: Page, tmp_path_factory: pytest.TempPathFactory, server: Server) -> None:
    """A file that is chosen becomes a container that plays; a name that is taken is said, and replaced."""
    film = tmp_path_factory.mktemp("upload") / "new film.mp4"
    film.write_bytes(BUNNY.read_bytes())
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.set_input_files("#files", film)
    link = page.wait_for_selector("#uploads .upload a")
    assert link is not None
    assert "sealed" in page.inner_text("#uploads .more-facts")
    page.wait_for_selector('#items a[data-name="new film.mp4.h4mk"]')
    link.click()
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    assert server.get("/video/range?name=new%20film.mp4.h4mk").body == BUNNY.read_bytes()
    assert server.get("/container?name=new%20film.mp4.h4mk").body == exported(BUNNY)
    page.set_input_files("#files", film)
    page.wait_for_selector("#uploads .upload:nth-child(2) .bad")
    page.click("#uploads .upload:nth-child(2) button:text('Replace')")
    page.wait_for_selector("#uploads .upload:nth-child(2) a")
    (old,) = server.get("/media/trash").json["items"]
    assert old["name"] == "new film.mp4.h4mk"


def test_drop_and_cancel(page: Page, server: Server) -> None:
    """A file that is dropped, made in the page: large enough to be cancelled while it is sent."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(3000)], "small.bin"));
          data.items.add(new File(Array(400).fill(new Uint8Array(2 ** 20)), "large.bin"));
          for (const name of ["dragenter", "dragover", "drop"])
            dispatchEvent(new DragEvent(name, { dataTransfer: data, cancelable: true, bubbles: true }));
        }"""
    )
    large = "#uploads .upload:nth-child(2)"
    page.wait_for_selector(f"{large} .more-facts:text-matches('of 400 MiB sent')")
    assert 0 < page.eval_on_selector(f"{large} progress", "(bar) => bar.value / bar.max") < 1
    page.click(f"{large} button")
    page.wait_for_selector(f"{large} .bad")
    assert "Cancelled" in page.inner_text("#uploads .upload:nth-child(2) .bad")
    page.wait_for_selector("#uploads .upload:nth-child(1) a")
    until(
        lambda: not any(one["state"] == "receiving" for one in server.get("/jobs").json["jobs"]),
        "no job runs",
    )
    names = [one["name"] for one in server.get("/media").json["items"]]
    assert "small.bin.h4mk" in names
    assert "large.bin.h4mk" not in names


def exported(path: Path) -> bytes:
    out = io.BytesIO()
    export(path, out, ExportOptions())
    return out.getvalue()


def test_an_upload_goes_on_after_a_lost_connection(browser: Browser, tmp_path: Path) -> None:
    """The connection breaks twice: the page goes on by itself, and all of the file arrives."""
    with running(tmp_path) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        cut: list[str] = []

        def once(route: Any) -> None:
            if route.request.method == "PATCH" and len(cut) < 2:
                cut.append(route.request.headers["upload-offset"])
                route.abort("connectionreset")
            else:
                route.continue_()

        page.route(UPLOAD, once)
        page.set_input_files("#files", BUNNY)
        page.wait_for_selector("#uploads .waits")
        page.wait_for_selector("#uploads .upload a")
        assert len(cut) == 2
        assert server.get("/video/range?name=bigbuckbunny.mp4.h4mk").body == BUNNY.read_bytes()


def test_an_upload_goes_on_after_a_reload(browser: Browser, tmp_path: Path) -> None:
    media = tmp_path / "film.mp4"
    media.write_bytes(BUNNY.read_bytes())
    root = tmp_path / "library"
    root.mkdir()
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route(UPLOAD, lambda route: route.abort("connectionreset"))
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .waits")
        page.unroute(UPLOAD)
        page.reload()
        page.wait_for_selector("text=The library is empty")
        methods: list[str] = []
        page.on("request", lambda one: methods.append(one.method) if "/uploads/" in one.url else None)
        page.set_input_files("#files", media)
        page.wait_for_selector("#uploads .upload a")
        assert methods == ["HEAD", "PATCH"]
        assert server.get("/video/range?name=film.mp4.h4mk").body == BUNNY.read_bytes()
