"""Marks that say what is chosen, what is meant and what is awaited, in Debian's Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from harmony4.h4mk import TrackInfo
from needs import needs_chromium, needs_ffmpeg
from pagelib import SHOWN, open_container, page_on, says, sought
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u202e\u2060\ufeff"
"""Characters that nobody sees."""
JOINED = "\u0646\u200c\u0647 \U0001f469\u200d\U0001f680"
"""A word and a sign that are others without their joiners."""
COLOURS = """([selector, property, pseudo]) =>
  [...document.querySelectorAll(selector)].map((one) => getComputedStyle(one, pseudo)[property])"""
SYSTEM = """(name) => {
  const one = document.createElement("i");
  one.style.color = name;
  document.body.append(one);
  const found = getComputedStyle(one).color;
  one.remove();
  return found;
}"""
"""What a colour of the system's is here."""
SEEK = """(seconds) => new Promise((resolve) => {
  const video = document.querySelector("video");
  video.addEventListener("seeked", resolve, { once: true });
  video.currentTime = seconds;
})"""


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


def test_a_tap_on_the_map_says_what_lies_there(browser: Browser, server: Server) -> None:
    with page_on(browser, server.url, has_touch=True) as page:
        open_container(page, server, "signed.h4mk")
        page.tap("#tab-container")
        page.wait_for_selector("#chunks [data-tag=TRAK]")
        page.check(".scale input[value=log]")
        page.tap("canvas.map", position={"x": 2, "y": 20})
        says(page, ".maptip", "TRAK")
        assert page.inner_text("#chunks [aria-current] .tag") == "TRAK"


def test_what_does_not_show_is_written_out(browser: Browser, tmp_path: Path) -> None:
    """In names, and in the documents of a container; but for joiners, which change what is seen."""
    text = f"a{UNSEEN}b{JOINED}"
    written = "a" + "".join(f"⟨U+{ord(one):04X}⟩" for one in UNSEEN) + f"b{JOINED}"
    info = TrackInfo(codec=text, kind="data", media_type="x/y", name=text, lang=text)
    write_container(tmp_path / f"{text}.h4mk", [b"x"], info=info, title=text)
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.click("#items a")
        says(page, "#title", written)
        assert page.inner_text("#items .name") == written
        page.click("#tab-container")
        page.click(".trees summary:has-text('tracks') >> nth=0")
        page.click(".trees details details details summary >> nth=0")
        says(page, ".trees", written)
        assert not set(UNSEEN) & set(page.inner_text("body"))


def test_a_time_that_was_asked_for_goes_with_the_next_seek(page: Page, server: Server) -> None:
    """Of a link, or typed. What is being typed stays, and so does what was asked for just now."""
    field = page.locator("#pts")
    open_container(page, server, "signed.h4mk", "#t=4.5")
    page.evaluate(SHOWN)
    assert field.input_value() == "4500000"
    page.focus("#timeline")
    page.keyboard.press("ArrowRight")
    sought(page, 9_500_000)
    assert field.input_value() == ""
    field.fill("0:03")
    page.click("#jump button:text('Go')")
    sought(page, 3_000_000)
    assert field.input_value() == "0:03"
    page.evaluate(SEEK, 12)  # as the element's own controls do
    expect(field).to_have_value("")
    field.fill("0:0")
    page.evaluate(SEEK, 15)
    assert field.input_value() == "0:0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_chosen_where_a_system_has_its_own_colours(
    browser: Browser, server: Server, scheme: Any
) -> None:
    """Of borders that are unseen elsewhere only the chosen one's is seen; legends keep their colours."""
    with page_on(browser, server.url, forced_colors="active", color_scheme=scheme) as page:

        def marked(selector: str, property: str, chosen: str) -> None:
            """Only what is chosen has the colour of what is chosen, all else that of the ground."""
            ground, mark = page.evaluate(SYSTEM, "Canvas"), page.evaluate(SYSTEM, "Highlight")
            found = page.evaluate(COLOURS, [selector, property, None])
            assert len(found) > 1
            assert sorted(found) == sorted([mark] + [ground] * (len(found) - 1)), selector
            assert page.evaluate(COLOURS, [chosen, property, None]) == [mark], chosen

        def meant(count: int) -> None:
            found = page.evaluate(COLOURS, [".legend span", "backgroundColor", "::before"])
            assert len(set(found)) == count

        open_container(page, server, "signed.h4mk")
        page.evaluate(SHOWN)
        page.wait_for_selector("#items [aria-current]")
        marked("#items .item", "borderLeftColor", "#items [aria-current]")
        page.click("#tab-tokens")
        page.wait_for_selector("#tokens tr[aria-current]")
        page.mouse.move(0, 0)
        marked("#tabs button", "borderBottomColor", "#tab-tokens")
        # Else the text of the tab would stand on a plate of the ground's colour.
        assert page.evaluate(COLOURS, ["#tab-tokens", "forcedColorAdjust", None]) == ["none"]
        marked("#tokens td:first-child", "borderLeftColor", "#tokens [aria-current] td:first-child")
        meant(3)
        page.click("#tab-container")
        page.click("#chunks li[aria-posinset='2'] button[data-tag]")
        page.wait_for_selector("#chunks [aria-current]")
        page.focus("#tab-container")
        mark = page.evaluate(SYSTEM, "Highlight")
        assert page.evaluate(COLOURS, ["#chunks [aria-current]", "outlineColor", None]) == [mark]
        assert page.evaluate(COLOURS, ["#chunks [aria-current]", "outlineStyle", None]) == ["solid"]
        meant(4)


@pytest.mark.parametrize("at", ["", "#t=7"])
def test_a_picture_is_awaited(browser: Browser, server: Server, at: str) -> None:
    """Until it is there, or the one that was asked for, it is said that one comes; without any motion."""
    with page_on(browser, server.url, reduced_motion="reduce") as page:
        held: list[Route] = []
        opened: list[bool] = []
        page.route("**/video/range/**", lambda route: route.continue_() if opened else held.append(route))
        open_container(page, server, "signed.h4mk", at)
        sign = page.locator("#stage .loading")
        expect(sign).to_be_visible()
        assert sign.inner_text() == "Loading"
        assert sign.evaluate("(one) => getComputedStyle(one).animationName") == "none"
        stage, place = page.locator("#stage video").bounding_box(), sign.bounding_box()
        assert stage is not None
        assert place is not None
        middle = place["y"] + place["height"] / 2
        assert middle == pytest.approx(stage["y"] + stage["height"] / 2, abs=1)
        opened.append(True)
        for route in held:
            route.continue_()
        page.evaluate(SHOWN)
        expect(sign).to_have_count(0)
        page.evaluate(SEEK, 15)
        expect(sign).to_have_count(0)
