"""The page's list while it is shown anew, in Debian's Chromium: presses, the focus, pictures, failures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from harmony4.server.exporting.ingest import ExportOptions, export
from needs import ROOT, needs_chromium, needs_ffmpeg
from pagelib import LOST, SHOWN, open_container, page_on, says, violations
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

SIGNED = "#items a[data-name='signed.h4mk']"
LIST = "**/media?*"
BACK = "dispatchEvent(new Event('focus'))"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
FOCUSED = "document.activeElement.dataset.name"


@pytest.fixture
def root(tmp_path: Path, page_library: Path) -> Path:
    """A folder of which a test may change everything."""
    made = tmp_path / "library"
    made.mkdir()
    for name in ("signed", "sound"):
        shutil.copy(page_library / f"{name}.h4mk", made / f"{name}.h4mk")
    return made


def hold(page: Page) -> list[Route]:
    """The next request for the list, which waits."""
    held: list[Route] = []
    page.route(LIST, lambda route: route.continue_() if held else held.append(route))
    return held


def shown(page: Page, server: Server) -> None:
    """Show the list, with all of its pictures."""
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    page.wait_for_selector("#items canvas.drawn")
    page.wait_for_selector("#items canvas:not(.drawn)", state="detached")


def come_back(page: Page) -> Route:
    """Come back to the page, which asks for its list: the request, which waits."""
    held = hold(page)
    with page.expect_request(LIST):
        page.evaluate(BACK)
    page.evaluate(FRAMES)
    return held[0]


def answered(page: Page, held: Route) -> None:
    with page.expect_response(LIST) as told:
        held.continue_()
    told.value.finished()
    page.evaluate(FRAMES)


def test_a_press_opens_what_it_began_on(browser: Browser, root: Path) -> None:
    """Although the list is shown anew between the press and its end, with another container in front."""
    with running(root) as server, page_on(browser, server.url) as page:
        shown(page, server)
        held = come_back(page)
        shutil.copy(root / "sound.h4mk", root / "a.h4mk")
        page.hover(SIGNED)
        page.mouse.down()
        answered(page, held)
        page.mouse.up()
        page.wait_for_selector("#stage video")
        says(page, "#title", "signed")
        page.wait_for_selector("#items a[data-name='a.h4mk']")


def test_rows_that_are_the_same_stay(browser: Browser, root: Path) -> None:
    """With the focus that they got meanwhile, and their pictures, also behind one that is new."""
    with running(root) as server, page_on(browser, server.url) as page:
        shown(page, server)
        page.evaluate(f"""window.old = document.querySelector("{SIGNED}")""")
        for name in (None, "a.h4mk"):
            held = come_back(page)
            if name is not None:
                shutil.copy(root / "sound.h4mk", root / name)
            page.focus(SIGNED)
            answered(page, held)
            if name is not None:
                page.wait_for_selector(f"#items a[data-name='{name}']")
            assert page.evaluate(f"""old === document.querySelector("{SIGNED}")""")
            assert page.evaluate(FOCUSED) == "signed.h4mk"
            assert page.evaluate("old.querySelector('canvas').classList.contains('drawn')")
            page.evaluate("document.activeElement.blur()")
        places = "[...document.querySelectorAll('#items li')].map((li) => [li.ariaPosInSet, li.ariaSetSize])"
        assert page.evaluate(places) == [["1", "3"], ["2", "3"], ["3", "3"]]


def test_a_list_that_cannot_be_shown_anew_stays(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        open_container(page, server, "sound.h4mk")
        page.wait_for_selector(SIGNED)
        page.route(LIST, lambda route: route.abort())
        page.evaluate(BACK)
        says(page, "#library-note", "The library cannot be shown")
        assert page.locator("#items a").count() == 2
        assert page.inner_text("#count") == "2 containers"
        note = page.locator("#library-note").bounding_box()
        assert note is not None
        assert note["y"] + note["height"] <= 900
        page.unroute_all(behavior="wait")
        page.click("#library-note button")
        page.wait_for_selector("#library-note", state="hidden")
        # What answers another question does not stay.
        page.route(LIST, lambda route: route.abort())
        page.fill("#search", "so")
        says(page, "#library-note", "The library cannot be shown")
        assert page.locator("#items a").count() == 0


def test_the_focus_stays_when_the_list_is_longer_than_it_was(browser: Browser, tmp_path: Path) -> None:
    export(ROOT / "LICENSE", tmp_path / "m000.h4mk", ExportOptions())
    for number in range(1, 150):
        os.link(tmp_path / "m000.h4mk", tmp_path / f"m{number:03}.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        says(page, "#count", "150")
        os.link(tmp_path / "m000.h4mk", tmp_path / "n.h4mk")
        page.focus("#items a[data-name='m000.h4mk']")
        for number in range(1, 70):
            page.keyboard.press("ArrowDown")
            assert page.evaluate(FOCUSED) == f"m{number:03}.h4mk"
        says(page, "#count", "151")
        assert page.evaluate(FOCUSED) == "m069.h4mk"


def test_pictures_ask_for_no_facts(page_library: Path, browser: Browser) -> None:
    """The list has said already whether blocks are lost."""
    with running(page_library) as server, page_on(browser, server.url) as page:
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        shown(page, server)
        assert any("/video/range" in url for url in asked)
        assert not any("/video/info" in url for url in asked)
        assert not any("/video/range" in url and "name=recovered" in url for url in asked)


def picture(page: Page, row: int) -> None:
    page.wait_for_selector(f"#items [data-row='{row}'] canvas.drawn")


def test_pictures_come_when_the_window_is_larger(browser: Browser, page_library: Path) -> None:
    with (
        running(page_library) as server,
        page_on(browser, server.url, viewport={"width": 1280, "height": 200}) as page,
    ):
        page.goto(server.url)
        picture(page, 1)
        assert page.locator("#items canvas.drawn").count() < 4
        page.set_viewport_size({"width": 800, "height": 900})
        picture(page, 6)


def test_pictures_come_when_a_panel_is_shorter(browser: Browser, page_library: Path) -> None:
    """On a phone the list is below it."""
    with (
        running(page_library) as server,
        page_on(browser, server.url, viewport={"width": 390, "height": 1300}) as page,
    ):
        held = hold(page)
        open_container(page, server, "ten-hours.h4mk")
        page.evaluate(SHOWN)
        page.click("#tab-container")
        page.wait_for_selector("#chunks [data-tag=TRAK]")
        answered(page, held[0])
        says(page, "#count", "containers")
        top = "document.querySelector('#items').getBoundingClientRect().top"
        assert page.evaluate(top) > 1300
        page.click("#tab-facts")
        says(page, "#facts", "duration")
        assert page.evaluate(top) < 1200
        assert page.evaluate("scrollY") == 0
        picture(page, 0)


def test_pictures_come_when_uploads_are_closed(browser: Browser, root: Path) -> None:
    """They stand above the list, of which the first row is seen."""
    files = [{"name": f"{one}.h4mk", "mimeType": "", "buffer": b"H4MK"} for one in range(8)]
    size = {"width": 1280, "height": 260}
    with running(root) as server, page_on(browser, server.url, viewport=size) as page:
        held = hold(page)
        page.goto(server.url)
        page.set_input_files("#files", files)
        says(page, "#closing", "8 uploads over")
        answered(page, held[0])
        picture(page, 0)
        page.evaluate(FRAMES)
        assert page.locator("#items canvas.drawn").count() == 1
        page.click("#close-all")
        picture(page, 1)


def test_it_is_busy_until_the_last_one_is_open(browser: Browser, root: Path) -> None:
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector(SIGNED)
        held: list[Route] = []
        page.route("**/video/info?*", lambda route: held.append(route))
        for name in ("signed", "sound"):
            with page.expect_request("**/video/info?*"):
                page.click(f"#items a[data-name='{name}.h4mk']")
        page.evaluate(FRAMES)
        assert page.get_attribute("#player", "aria-busy") == "true"
        held[-1].continue_()
        page.wait_for_selector("#player:not([aria-busy])")
        page.wait_for_selector("#stage audio")
        page.evaluate(SHOWN)


def test_the_arrows_pass_what_is_broken(browser: Browser, root: Path) -> None:
    """Whoever uses keys or a finger goes to such a row as to any other, and learns all of what is wrong."""
    (root / "a-broken.h4mk").write_bytes(b"H4MK but not really")
    (root / os.fsdecode(b"n\xff.h4mk")).touch()
    (root / "z-broken.h4mk").touch()
    here = "document.activeElement.closest('li')?.dataset.row"
    with running(root) as server, page_on(browser, server.url, LOST) as page:
        shown(page, server)
        page.focus(SIGNED)
        rows = [page.evaluate(here)]
        for key in ("Home", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "Home", "End", "ArrowUp"):
            page.keyboard.press(key)
            rows.append(page.evaluate(here))
        of_signed, *went = map(int, rows)
        assert went == [0, 1, 2, 3, 4, 0, 4, 3]
        assert 0 < of_signed < 4
        page.keyboard.press("Home")
        assert page.evaluate(FOCUSED) == "a-broken.h4mk"
        (broken,) = [one for one in server.get("/media").json["items"] if one.get("name") == "a-broken.h4mk"]
        page.keyboard.press("Enter")
        says(page, "#view-note", broken["error"]["message"][1:])
        assert page.get_attribute("#items [data-name='a-broken.h4mk']", "aria-current") == "true"
        # What has no name cannot be asked for: it says what is wrong beside the list.
        page.locator("#items button").focus()
        page.keyboard.press("Enter")
        says(page, "#library-note", "not UTF-8")
        assert page.is_visible("#items")
        assert violations(page) == []
