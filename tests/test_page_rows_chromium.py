"""What the rows of uploads say, and what can be done with them, in Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from needs import needs_chromium, needs_ffmpeg
from pagelib import LISTEN, LOST, ffmpeg, page_on, says, violations
from serving import Server, running

pytestmark = [needs_chromium, needs_ffmpeg]

DROP = """(files) => {
  const data = new DataTransfer();
  for (const [name, text] of files) data.items.add(new File([text], name));
  for (const type of ["dragenter", "dragover", "drop"])
    dispatchEvent(new DragEvent(type, { dataTransfer: data, cancelable: true, bubbles: true }));
}"""
"""Drop files with these names and texts."""
FOCUSED = (
    "document.activeElement.closest('li')?.querySelector('.name').innerText ?? document.activeElement.id"
)
SAID = """(text) => new Promise((resolve) => {
  const look = () => {
    const found = window.said.findLast((one) => one.startsWith(text));
    if (found) resolve(found);
    else setTimeout(look, 20);
  };
  look();
})"""
"""Wait until something that begins so is said."""
OVERRIDE = "film\u202egnp.mp4"
"""Which would be shown as "film4pm.png"."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with running(tmp_path / "served") as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url, LOST) as one:
        one.goto(server.url)
        one.wait_for_selector("text=The library is empty")
        yield one


def row(number: int) -> str:
    return f"#uploads .upload:nth-child({number})"


def test_what_does_not_play_says_so(
    page: Page, server: Server, clips: dict[str, Path], tmp_path: Path
) -> None:
    """A text is kept, and nothing plays; of a film that is cut off one sees what is left, and what lacks."""
    page.evaluate(DROP, [["notes.txt", "hello " * 300]])
    says(page, row(1), "1 block sealed")
    says(page, row(1), "nothing of it plays")
    page.click(f"{row(1)} a")
    says(page, "#facts", "counted at an assumed frame rate")
    assert "was given" not in page.inner_text("#facts")
    cut = tmp_path / "cut.webm"
    whole = clips["webm"].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    page.set_input_files("#files", cut)
    page.wait_for_selector(f"{row(2)} a")
    assert "sealed · 0:02." in page.inner_text(row(2))  # of six
    says(page, row(2), f"The media break off: {len(whole) - len(whole) // 2} bytes are missing at the end.")
    assert "plays" not in page.inner_text(row(2))


def test_what_browsers_do_not_play_says_so(page: Page, clips: dict[str, Path], tmp_path: Path) -> None:
    """Subtitles, formats and codecs that they do not know; and a film of which only the sound is heard."""
    film, sound = clips["closed GOP with B-frames"], ("-f", "lavfi", "-i", "sine=d=2")
    (tmp_path / "said.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none\n", encoding="utf-8")
    ffmpeg("-i", film, "-c", "copy", tmp_path / "stream.ts")
    ffmpeg("-i", film, "-t", "1", "-c:v", "libx265", tmp_path / "hevc.mp4")
    ffmpeg("-i", film, *sound, "-t", "1", "-c:v", "libx265", "-c:a", "aac", tmp_path / "heard.mp4")
    expected = {
        "said.vtt": "These bytes are no audio or video.",
        "stream.ts": "This browser cannot play video/mp2t (h264).",
        "hevc.mp4": "This browser cannot play video/mp4 (hevc).",
        "heard.mp4": "This browser plays the sound of video/mp4 (hevc + aac), and shows no picture.",
    }
    page.set_input_files("#files", [tmp_path / name for name in expected])
    for name, text in expected.items():
        says(page, f"#uploads .upload:has([title='{name}'])", f"{text} The bytes are kept as they are.")
        if name == "heard.mp4":
            continue
        page.click(f"#uploads .upload:has([title='{name}']) a")  # and the player says the same
        says(page, "#stage", text.removesuffix("."))


def test_what_plays_does_not_say_that_it_does_not(page: Page, clips: dict[str, Path], tmp_path: Path) -> None:
    ffmpeg("-i", clips["closed GOP with B-frames"], "-c", "copy", tmp_path / "film.mkv")
    page.evaluate(LISTEN, "body")
    page.set_input_files("#files", tmp_path / "film.mkv")
    page.wait_for_selector(f"{row(1)} a")
    said = page.evaluate(SAID, "film.mkv: ")
    assert said.endswith("iB")
    assert page.is_hidden(f"{row(1)} .waits")


def test_an_empty_file_says_so(page: Page, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    page.set_input_files("#files", tmp_path / "empty.mp4")
    page.wait_for_selector(f"{row(1)} a")
    assert page.inner_text(f"{row(1)} .more-facts") == "This file is empty."
    page.click(f"{row(1)} a")
    says(page, "#stage", "This track is empty")


def test_why_a_name_is_refused(page: Page, server: Server) -> None:
    files = [["n" * 260, "too long"], [".hidden", "a dot"], ["a\\b.txt", "a backslash"]]
    page.evaluate(DROP, files)
    for number, why in enumerate(
        ("265 bytes with its ending, of 255", "begins with a dot", "holds a backslash"), 1
    ):
        says(page, row(number), why)
    assert server.get("/media").json["items"] == []


def test_names_do_not_turn_around(page: Page) -> None:
    page.evaluate(DROP, [[OVERRIDE, "no film"]])
    page.wait_for_selector(f"{row(1)} a")
    shown = "film⟨U+202E⟩gnp.mp4"
    assert page.inner_text(f"{row(1)} .name") == shown
    page.click("#items a")
    says(page, "#title", shown)
    says(page, "#facts", shown)
    assert page.inner_text("#items .name") == shown
    assert "\u202e" not in page.inner_text("body")
    assert "\u202e" not in page.title()
    assert "\u202e" not in (page.get_attribute("#items .name", "title") or "")
    assert page.eval_on_selector("#title", "(one) => getComputedStyle(one).unicodeBidi") == "isolate"


def test_a_folder_is_no_file(page: Page, server: Server, tmp_path: Path) -> None:
    """Dropped as from a file manager, beside a file."""
    folder = tmp_path / "films"
    folder.mkdir()
    note = tmp_path / "note.txt"
    note.write_text("hello")
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(folder), str(note)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})
    says(page, row(1), "This is a folder: drop the files that are in it.")
    page.wait_for_selector(f"{row(2)} a")
    (made,) = server.get("/media").json["items"]
    assert made["name"] == "note.txt.h4mk"


def test_a_row_that_waits_gives_its_focus_on(browser: Browser, server: Server) -> None:
    """Only two are sent at once, and those are held."""
    with page_on(browser, server.url, LOST) as page:
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        page.route("**/uploads/", lambda route: None)
        page.evaluate(DROP, [[f"{number}.txt", "hello"] for number in range(4)])
        says(page, row(4), "waits")
        page.press(f"{row(3)} button", "Enter")
        assert page.evaluate(FOCUSED) == "3.txt"
        page.keyboard.press("Enter")
        assert page.evaluate(FOCUSED) == "1.txt"
        assert page.locator("#uploads .upload").count() == 2


def test_many_rows_are_closed_at_once(page: Page, server: Server) -> None:
    """And they leave room for the list."""
    page.evaluate(DROP, [[f"{number:02}.txt", "hello"] for number in range(12)])
    page.wait_for_selector(".upload:nth-child(12) a")
    says(page, "#closing", "12 uploads over")
    box = page.locator("#items").bounding_box()
    assert box is not None
    assert box["y"] < 600
    page.evaluate(DROP, [["00.txt", "hello"]])
    says(page, row(13), "is there already")
    says(page, "#closing", "13 uploads over")  # this one as well, although it could be replaced
    page.route("**/uploads/", lambda route: None)
    page.evaluate(DROP, [["new.txt", "hello"]])
    says(page, row(14), "Cancel")
    page.click("#close-all")
    assert page.locator("#uploads .upload").count() == 1
    assert page.inner_text(f"{row(1)} button") == "Cancel"
    assert page.evaluate(FOCUSED) == "new.txt"
    assert page.is_hidden("#closing")


def test_what_is_refused_or_cancelled_can_be_closed(page: Page, server: Server) -> None:
    """Without being replaced, or tried again."""
    page.evaluate(DROP, [["a.txt", "hello"]])
    page.wait_for_selector(f"{row(1)} a")
    page.evaluate(DROP, [["a.txt", "another"]])
    says(page, row(2), "is there already")
    assert page.locator(f"{row(2)} button").all_inner_texts() == ["Replace", "Close"]
    page.route("**/uploads/", lambda route: None)
    page.evaluate(DROP, [["b.txt", "hello"]])
    page.click(f"{row(3)} button:text('Cancel')")
    says(page, row(3), "Cancelled.")
    assert page.locator(f"{row(3)} button").all_inner_texts() == ["Try again", "Close"]
    assert violations(page) == []
    page.click(f"{row(2)} button:text('Close')")
    assert page.evaluate(FOCUSED) == "b.txt"
    page.click(f"{row(2)} button:text('Try again')")
    assert page.locator(f"{row(2)} button:visible").all_inner_texts() == ["Cancel"]
    page.click(f"{row(2)} button")
    page.click(f"{row(2)} button:text('Close')")
    page.click(f"{row(1)} button:text('Close')")
    assert page.locator("#uploads .upload").count() == 0
    assert page.evaluate(FOCUSED) == "files"
    (kept,) = server.get("/media").json["items"]
    assert server.get(f"/video/range?name={kept['name']}").body == b"hello"


def test_a_lost_connection_gathers_no_listeners(browser: Browser, server: Server) -> None:
    counted = """(() => {
      window.online = 0;
      const add = EventTarget.prototype.addEventListener;
      EventTarget.prototype.addEventListener = function (type, listener, options) {
        if (type === "online") {
          online += 1;
          options?.signal?.addEventListener("abort", () => (online -= 1), { once: true });
        }
        return add.call(this ?? window, type, listener, options);
      };
    })()"""
    with page_on(browser, server.url, LOST) as page:
        page.add_init_script(counted)
        page.goto(server.url)
        page.wait_for_selector("text=The library is empty")
        asked: list[str] = []
        page.route(
            "**/uploads/", lambda route: (asked.append(route.request.url), route.abort("connectionrefused"))
        )
        page.evaluate(DROP, [["a.txt", "hello"]])
        says(page, row(1), "The connection was lost")
        while len(asked) < 3:
            with page.expect_request("**/uploads/"):
                page.evaluate("dispatchEvent(new Event('online'))")
            page.evaluate("new Promise((done) => setTimeout(done))")
        assert page.evaluate("online") <= 1
        page.unroute_all(behavior="wait")
        page.wait_for_selector(f"{row(1)} a")
        assert page.evaluate("online") == 0
