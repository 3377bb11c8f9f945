"""The page in Debian's Chromium: a real video out of a container plays, seeks and shows the right frame."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, ORIGINAL, ROOT, needs_chromium, needs_ffmpeg, program
from pagelib import CLIPS, FRAME, SHOWN, jump, open_container, page_on, sought
from processes import until
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]


LATE = ("fragmented", "webm")
"""Clips that are there with a clock that begins at ten seconds, too. (Chromium takes a plain MP4 of that kind
to end before it begins.)"""
EVIL = "<img src=x onerror=alert(1)> & ünï.h4mk"


@pytest.fixture(scope="module")
def server(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, media = tmp_path_factory.mktemp("library"), tmp_path_factory.mktemp("media")
    (root / "clips").mkdir()
    export(BUNNY, root / "bigbuckbunny.h4mk", ExportOptions())
    for name, clip in clips.items():
        export(clip, root / "clips" / f"{name}.h4mk", ExportOptions())
    for name in LATE:
        late = media / f"late{clips[name].suffix}"
        flags = CLIPS[name][1][-2:] if "-movflags" in CLIPS[name][1] else []
        command = [str(program("ffmpeg")), "-v", "error", "-i", str(clips[name]), "-c", "copy"]
        subprocess.run([*command, "-output_ts_offset", "10", *flags, str(late)], check=True, timeout=60)
        export(late, root / "clips" / f"late {name}.h4mk", ExportOptions())
        late.unlink()
    tone = media / "tone.flac"
    ffmpeg = program("ffmpeg")
    assert ffmpeg is not None
    subprocess.run(
        [ffmpeg, "-v", "error", "-f", "lavfi", "-i", "sine=440:d=5", str(tone)], check=True, timeout=60
    )
    export(tone, root / "tone.h4mk", ExportOptions())
    export(ROOT / "LICENSE", root / "opaque.h4mk", ExportOptions())
    write_container(root / EVIL, [b"x"], title="<script>alert(2)</script>")
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    (root / "broken.h4mk").write_bytes(b"H4MK but not really")
    (root / os.fsdecode(b"\xff.h4mk")).touch()
    with running(root) as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with page_on(browser, server.url) as one:
        yield one


def test_big_buck_bunny(page: Page, server: Server) -> None:
    requests: list[tuple[str, str | None]] = []
    page.on("request", lambda request: requests.append((request.url, request.headers.get("range"))))
    page.goto(server.url)
    page.click("text=bigbuckbunny")
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    numbers = jump(page, "3500000", 3_500_000)
    frame: dict[str, Any] = page.evaluate(FRAME)
    assert (frame["width"], frame["height"]) == (1280, 720)
    assert abs(frame["time"] - 3.5) <= 0.05
    assert abs(frame["duration"] - 5.3) <= 0.1
    assert frame["most"] - frame["least"] > 100  # a picture, not a grey area
    assert (numbers["asked"], numbers["keyframe found"]) == ("0:03.5", "0:00")
    assert numbers["took"].endswith(" ms")
    # It plays on from there.
    page.evaluate(
        """() => new Promise((resolve) => {
          const video = document.querySelector("video");
          video.muted = true;
          video.addEventListener("timeupdate", () => video.currentTime > 3.9 && resolve());
          video.play();
        })"""
    )
    ranged = [url for url, value in requests if "/video/range/0.mp4" in url and value]
    assert ranged
    assert all("&v=" in url for url in ranged)


@pytest.mark.parametrize("clip", CLIPS)
def test_clips(page: Page, server: Server, clip: str) -> None:
    """The grey level of the frame says which second of the film it is from."""
    name = f"clips/{clip}.h4mk"
    keyframes = server.get(f"/video/keyframes?name={quote(name)}").json
    assert keyframes["count"] >= 5
    origin = int(server.get(f"/video/info?name={quote(name)}").json["origin"]) / 1e6
    open_container(page, server, name)
    page.evaluate(SHOWN)
    for seconds in (3.5, 0.5, 5.5, 2.02):
        numbers = jump(page, f"{seconds}s", round(seconds * 1e6))
        frame = page.evaluate(FRAME)
        assert (frame["width"], frame["height"]) == (320, 180)
        assert abs(frame["time"] - origin - seconds) <= 0.05  # the browser's clock is the medium's
        # Luma 40 + 30 · second, limited range, as full-range RGB.
        expected = (40 + 30 * int(seconds) - 16) * 255 / 219
        assert abs(frame["mean"] - expected) < 12, (seconds, frame)
        asked = server.get(f"/video/seek?name={quote(name)}&pts={round(seconds * 1e6)}").json
        assert numbers["offset"].replace(",", "") == str(asked["offset"])


@pytest.mark.parametrize("clip", LATE)
def test_media_that_begin_late(page: Page, server: Server, clip: str) -> None:
    """Browsers play by the media's own clock; a container's begins at 0, and so does the page's."""
    name = f"clips/late {clip}.h4mk"
    assert server.get(f"/video/info?name={quote(name)}").json["duration"] in ("6000000", 6_000_000)
    open_container(page, server, name, "#t=2.5")
    page.evaluate(SHOWN)
    for seconds in (2.5, 4.5, 0.5):
        if seconds != 2.5:
            numbers = jump(page, f"{seconds}s", round(seconds * 1e6))
            assert numbers["picture shown"].startswith(f"0:0{int(seconds)}.")
        expected = (40 + 30 * int(seconds) - 16) * 255 / 219
        assert abs(page.evaluate(FRAME)["mean"] - expected) < 12, seconds
    assert page.get_attribute("#timeline", "aria-valuenow") == "0"


def test_link_with_a_position(page: Page, server: Server) -> None:
    open_container(page, server, "clips/moov in front.h4mk", "#t=4.2")
    page.evaluate(SHOWN)
    assert abs(page.evaluate(FRAME)["time"] - 4.2) <= 0.05
    page.evaluate("location.hash = '#t=1.4'")
    sought(page, 1_400_000)
    assert abs(page.evaluate(FRAME)["time"] - 1.4) <= 0.05


def test_click_on_the_timeline(page: Page, server: Server) -> None:
    open_container(page, server, "clips/moov in front.h4mk")
    page.evaluate(SHOWN)
    box = page.query_selector("#timeline").bounding_box()  # type: ignore[union-attr]
    assert box is not None
    place = box["x"] + box["width"] * 0.75, box["y"] + 10

    def tip() -> str:
        page.mouse.move(place[0], place[1] + 1)
        page.mouse.move(*place)
        return page.inner_text("#tip")

    until(lambda: "keyframe 0:04" in tip(), "keyframes")
    assert tip().startswith("0:04.")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#numbers:not([hidden])")
    page.evaluate(SHOWN)
    assert abs(page.evaluate(FRAME)["time"] - 4.5) <= 0.1
    page.press("#timeline", "Home")
    sought(page, 0)
    page.evaluate(SHOWN)
    assert page.evaluate(FRAME)["time"] == 0
    ticks = page.evaluate(
        """() => {
          const canvas = document.querySelector("#ticks");
          const row = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
          let count = 0;
          for (let i = 4; i < row.length; i += 4) count += row[i + 3] === 255 && row[i] !== row[i - 4];
          return count;
        }"""
    )
    assert ticks >= 5


def test_audio(page: Page, server: Server) -> None:
    open_container(page, server, "tone.h4mk")
    page.evaluate(SHOWN)
    jump(page, "0:03.5", 3_500_000)
    assert abs(page.evaluate("document.querySelector('audio').currentTime") - 3.5) <= 0.05


def test_names_are_text(page: Page, server: Server) -> None:
    open_container(page, server, EVIL)
    assert page.inner_text("#title") == "<script>alert(2)</script>"
    assert EVIL.removesuffix(".h4mk") in page.inner_text("#items")
    assert page.query_selector("main img, main script") is None


def test_states(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#items li")
    assert page.inner_text("#count") == f"{len(CLIPS) + len(LATE) + 7} containers"
    assert "(unreadable name)" in page.inner_text("#items")
    assert "Choose a container" in page.inner_text("#view-note")
    page.fill("#search", "OPEN")
    page.wait_for_selector("#items li:only-child")
    page.fill("#search", "no such thing")
    page.wait_for_selector("text=Nothing found")
    page.fill("#search", "opaque")
    page.click("#items a:has-text('opaque')")
    page.wait_for_selector("text=These bytes are no audio or video")
    page.fill("#pts", "soon")
    page.press("#pts", "Enter")
    page.wait_for_selector("text=Type microseconds")
    page.go_back()
    page.wait_for_selector("text=Choose a container")


def test_what_cannot_be_opened(browser: Browser, server: Server) -> None:
    # Chromium logs failed requests as console errors, so this page stands outside of the `page` fixture.
    page = browser.new_page()
    page.goto(f"{server.url}/?name=none.h4mk")
    page.wait_for_selector("text=There is no such container")
    page.goto(f"{server.url}/?name=broken.h4mk")
    page.wait_for_selector("text=This container cannot be opened")
    page.goto(f"{server.url}/?name=original.h4mk")
    page.wait_for_selector("text=This browser cannot play application/octet-stream")
    page.close()


def test_empty_library(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path) as empty:
        page = browser.new_page()
        page.goto(empty.url)
        page.wait_for_selector("text=The library is empty")
        page.close()
