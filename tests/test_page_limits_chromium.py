"""Where the page meets more than it shows at once, in Debian's Chromium: times, keyframes, chunks."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route

from harmony4.h4mk import H4MKReader, TrackInfo
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import needs_chromium, needs_ffmpeg
from pagelib import FRAME, NUMBERS, SHOWN, ffmpeg, jump, open_container, page_on, says, sought
from processes import until
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

DATA = TrackInfo(kind="data", media_type="application/octet-stream")
MANY = 100_001
"""Keyframes: one more than the page fetches."""
STEP = 40_000


def seeks(page: Page) -> list[str]:
    """The seeks of the player from now on, as they come; those of the library's pictures name no track."""
    found: list[str] = []

    def note(one: Request) -> None:
        if "/video/seek?" in one.url and "track=" in one.url:
            found.append(one.url)

    page.on("request", note)
    return found


# -- times


def test_a_link_to_the_beginning(page: Page, server: Server) -> None:
    """`#t=0`, and no fragment at all, are the beginning; a fragment about something else is no time."""
    open_container(page, server, "signed.h4mk", "#t=12.5")
    page.evaluate(SHOWN)
    page.evaluate("location.hash = '#t=0'")
    sought(page, 0)
    assert page.evaluate(FRAME)["time"] < 0.01
    page.evaluate("location.hash = '#t=7.000001'")
    sought(page, 7_000_001)
    page.evaluate("location.hash = '#view'")
    page.evaluate("location.hash = '#t=8'")
    sought(page, 8_000_000)
    page.evaluate("location.hash = ''")
    sought(page, 0)
    assert page.evaluate(FRAME)["time"] < 0.01


def test_a_fragment_about_something_else_moves_nothing(page: Page, server: Server) -> None:
    open_container(page, server, "signed.h4mk", "#t=12.5")
    page.evaluate(SHOWN)
    asked = seeks(page)
    page.evaluate("location.hash = '#view'")
    page.evaluate("location.hash = '#t=3'")
    sought(page, 3_000_000)
    assert len(asked) == 1


def test_a_link_while_the_container_is_being_opened(page: Page, server: Server) -> None:
    """The later link is the one that counts."""
    held: list[Route] = []
    page.route("**/video/info?*", lambda route: held.append(route))
    page.goto(f"{server.url}/?name=signed.h4mk#t=5")
    until(lambda: page.evaluate("1") and held, "the page asks for the container")
    page.evaluate("location.hash = '#t=11'")
    for route in held:
        route.continue_()
    page.unroute("**/video/info?*")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    assert page.evaluate(FRAME)["time"] == pytest.approx(11, abs=0.01)


def test_a_link_into_what_cannot_be_played(page: Page, server: Server) -> None:
    """Without a clock of its own the timeline still says the place, and where one goes from there."""
    page.goto(f"{server.url}/?name=masked.h4mk#t=7")
    page.wait_for_selector("#key")
    assert page.get_attribute("#timeline", "aria-valuenow") == "7"
    page.evaluate("location.hash = '#t=11.5'")
    page.wait_for_selector('#numbers:not([hidden])[data-asked="11500000"]')
    assert page.get_attribute("#timeline", "aria-valuenow") == "11"
    assert str(page.get_attribute("#timeline", "aria-valuetext")).startswith("0:11.5 of ")


@pytest.mark.parametrize(
    ("text", "pts"),
    [
        ("9007199254740991", 2**53 - 1),
        ("9007199254.740991s", 2**53 - 1),
        ("2501999:47:34.740991", 2**53 - 1),
        ("4503599627.370497 s", 4_503_599_627_370_497),
        ("0000000000000000000000003500000", 3_500_000),
        ("3.4999999s", 3_499_999),  # cut off, as everywhere
        ("0:00.0000019", 1),
    ],
)
def test_times_are_exact(page: Page, server: Server, text: str, pts: int) -> None:
    """To the last microsecond that the page can tell from its neighbours, in the seek and in the address."""
    open_container(page, server, "sound.h4mk")
    page.evaluate(SHOWN)
    page.fill("#pts", text)
    page.press("#pts", "Enter")
    page.wait_for_selector(f'#numbers:not([hidden])[data-asked="{pts}"]')
    assert not page.is_visible("#seek-problem")


def test_an_address_has_every_digit(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    page.evaluate(
        """() => {
          window.addresses = [];
          const before = history.replaceState;
          history.replaceState = (...given) => (addresses.push(given[2]), before.apply(history, given));
        }"""
    )
    jump(page, "30000000001", 30_000_000_001)
    jump(page, "10000000", 10_000_000)
    found = page.evaluate("addresses")
    assert [one.split("#")[1] for one in found if one.endswith(("01", "t=10"))][:2] == [
        "t=30000.000001",
        "t=10",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740992",
        "99999999999999999",
        "9007199254.740992s",
        "2501999:47:34.740992",
        "9" * 60,
        "9" * 50 + "s",
    ],
)
def test_times_that_are_too_late_are_refused(page: Page, server: Server, text: str) -> None:
    open_container(page, server, "signed.h4mk")
    page.evaluate(SHOWN)
    jump(page, "5s", 5_000_000)
    asked = seeks(page)
    page.fill("#pts", text)
    page.press("#pts", "Enter")
    says(page, "#seek-problem", "There is no time that late: the last one is 9007199254740991 µs.")
    assert page.evaluate(FRAME)["time"] == pytest.approx(5, abs=0.01)
    assert asked == []
    assert page.evaluate("location.hash") != f"#t={text}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("9007199254.740992", "no time that late"),
        ("99999999999999999999", "no time that late"),
        ("9" * 70, "not valid"),
        ("1e3", "not valid"),
        ("-5", "not valid"),
        ("Infinity", "not valid"),
        ("", "not valid"),
    ],
)
def test_links_with_a_wrong_time_are_refused(page: Page, server: Server, text: str, problem: str) -> None:
    """Both when the page is opened by them, and when it is open already."""
    open_container(page, server, "signed.h4mk", f"#t={text}")
    says(page, "#seek-problem", problem)
    page.evaluate(SHOWN)
    assert page.evaluate(FRAME)["time"] == 0
    jump(page, "5s", 5_000_000)
    assert not page.is_visible("#seek-problem")
    page.evaluate("(text) => (location.hash = `#t=${text}`)", text)
    says(page, "#seek-problem", problem)
    assert page.evaluate(FRAME)["time"] == pytest.approx(5, abs=0.01)


# -- many of them


def test_ticks_of_more_keyframes_than_are_fetched(browser: Browser, tmp_path: Path) -> None:
    """It is said that there are more, ticks reach to the end, and each keyframe that is named is one."""
    write_container(tmp_path / "many.h4mk", [b"x"] * MANY, info=DATA, step=STEP)
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        asked: list[str] = []
        page.on("request", lambda one: asked.append(urlsplit(one.url).path))
        page.goto(f"{server.url}/?name=many.h4mk")
        says(page, "#some", "There are 100,001 keyframes; the timeline has ticks for 2,000 of them")
        assert "/video/keyframes" not in asked
        left, right = page.evaluate(
            """() => {
              const canvas = document.querySelector("#ticks");
              const row = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
              const columns = Array.from({ length: canvas.width }, (_, x) => x);
              const drawn = columns.filter((x) => row[4 * x + 3] === 255);
              return [drawn.at(0) / canvas.width, drawn.at(-1) / canvas.width];
            }"""
        )
        assert left < 0.01
        assert right > 0.99
        box = page.query_selector("#timeline").bounding_box()  # type: ignore[union-attr]
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 10)
        says(page, "#tip", "keyframe 1:00:0")
        # Keys go to the very next one, wherever ticks are.
        page.keyboard.press("Escape")
        jump_to = 3_000_000_000
        page.fill("#pts", str(jump_to))
        page.press("#pts", "Enter")
        page.wait_for_selector(f'#numbers:not([hidden])[data-asked="{jump_to}"]')
        page.focus("#link")
        for key, pts in [("Right", jump_to + STEP), ("Left", jump_to), ("Left", jump_to - STEP)]:
            page.keyboard.press(f"Shift+Arrow{key}")
            page.wait_for_selector(f'#numbers:not([hidden])[data-asked="{pts}"]')
        assert page.evaluate(NUMBERS)["keyframe found"] == "49:59.96"


def test_nothing_is_left_out_of_fewer_keyframes(page: Page, server: Server) -> None:
    held: list[Route] = []
    page.route("**/video/keyframes?*", lambda route: held.append(route))
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    page.hover("#timeline")
    says(page, "#tip", "5:00:0")
    assert "keyframe" not in page.inner_text("#tip")  # nobody knows yet
    until(lambda: page.evaluate("1") and held, "the page asks for the keyframes")
    for route in held:
        route.continue_()
    says(page, "#tip", "keyframe 5:00:0")  # and the pointer did not move
    assert not page.is_visible("#some")


def test_chunks_of_what_is_not_sealed(browser: Browser, tmp_path: Path) -> None:
    """No table says where they are: it is said how far they are known, the rest comes when it is wanted."""
    write_container(tmp_path / "whole.h4mk", [b"x"] * 2100, info=DATA)
    with H4MKReader(tmp_path / "whole.h4mk") as reader:
        chunks = list(reader.chunks())
    wanted = [one for one in chunks if one.tag in ("TRAK", "TOKN", "CORE")]
    assert len(wanted) == 4201
    last = wanted[-1]
    stop = last.offset + 12 + last.size
    (tmp_path / "cut.h4mk").write_bytes((tmp_path / "whole.h4mk").read_bytes()[:stop] + b"TOKN\0\0")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(f"{server.url}/?name=cut.h4mk")
        page.click("#tab-container")
        says(page, ".container-panel .live", "2,000 chunks so far")
        says(page, ".container-panel .rest", "The first 2,000 chunks;")
        says(page, ".container-panel .rest", f"bytes from {wanted[2000].offset:,} on are still to be looked")
        for count, more in [("4,000 chunks so far", True), ("4,201 chunks", False)]:
            page.click("text=Show more")
            says(page, ".container-panel .live", count)
            assert page.is_visible("text=Show more") is more
        says(page, ".container-panel .rest", f"The last 6 bytes from {stop:,} on are no whole chunk.")
        assert "so far" not in page.inner_text(".container-panel .live")
        page.focus("#chunks button")
        page.keyboard.press("End")
        page.wait_for_selector("#chunks li[aria-posinset='4201'] button[data-tag=CORE]")
        # A whole one says nothing of the kind.
        page.goto(f"{server.url}/?name=whole.h4mk")
        page.click("#tab-container")
        says(page, ".container-panel .live", f"{len(chunks):,} chunks")
        assert not page.is_visible(".container-panel .rest")


# -- until there is a picture


def test_no_controls_until_there_is_a_picture(page: Page, server: Server) -> None:
    """Chromium's own are a spinner on grey until then."""
    held: list[Route] = []
    opened: list[bool] = []
    page.route("**/video/range/**", lambda route: route.continue_() if opened else held.append(route))
    page.goto(f"{server.url}/?name=signed.h4mk")
    page.wait_for_selector("#stage video")
    until(lambda: page.evaluate("1") and held, "the media element asks for its media")
    assert page.get_attribute("#stage video", "controls") is None
    opened.append(True)
    for route in held:
        route.continue_()
    page.wait_for_selector("#stage video[controls]")
    page.evaluate(SHOWN)
    page.goto(f"{server.url}/?name=sound.h4mk")
    page.wait_for_selector("#stage audio[controls]")


# -- pictures of the library


TALLEST = """() => {
  const canvas = document.querySelector("canvas.thumb");
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const ground = data.slice(0, 3).join();
  const rows = Array.from({ length: height }, (_, y) => {
    const pixel = (x) => data.slice(4 * (y * width + x), 4 * (y * width + x) + 3).join();
    return Array.from({ length: width }, (_, x) => x).filter((x) => pixel(x) !== ground).length;
  });
  return [rows.indexOf(Math.max(...rows)), Math.max(...rows), height, width];
}"""
"""The row of a picture with the most that is no ground: its number, how much, and the picture's size."""


@pytest.mark.parametrize(("profile", "most"), [("structure", 130_000), ("detail", 230_000)])
def test_pictures_of_stored_spectra_read_little(
    browser: Browser, tmp_path: Path, profile: str, most: int
) -> None:
    """Of half an hour a few tokens for each column, and the tone is where it was: at 1 kHz, all along."""
    tone = tmp_path / "tone.flac"
    ffmpeg("-f", "lavfi", "-i", "sine=1000:r=8000:d=1800", tone)
    library = tmp_path / "library"
    library.mkdir()
    options = ExportOptions(spectrum=profile)
    export(tone, library / "tone.h4mk", options)
    with running(library) as server, page_on(browser, server.url) as page:
        (item,) = server.get("/media").json["items"]
        stored = next(one["bytes"] for one in item["tracks"] if one["kind"] == "tokens")
        assert stored > 1.5 * most
        ends: list[Request] = []
        page.on("requestfinished", lambda one: ends.append(one))
        page.goto(server.url)
        page.wait_for_selector("canvas.drawn")
        row, wide, height, width = page.evaluate(TALLEST)
        assert wide == width
        expected = height * (1 - math.log2(1000 / 60) / math.log2(12_000 / 60))
        assert abs(row - expected) <= 3  # its mark is three rows high
        read = [one for one in ends if "/video/range/" in one.url or "/audio/" in one.url]
        assert not any("/audio/stream" in one.url for one in read)
        assert 0 < sum(one.sizes()["responseBodySize"] for one in read) < most
