"""The page in Debian's Chromium: a real video out of a container plays, seeks and shows the right frame."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from chromium import chromium
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, ORIGINAL, ROOT, needs_chromium, needs_ffmpeg, program
from processes import until
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

SCREENSHOTS = ROOT / "tests" / "screenshots"

# name: (extension, encoder arguments). 6 s, 25 frames a second, a keyframe a second unless said otherwise.
CLIPS = {
    "closed GOP with B-frames": ("mp4", ["-c:v", "libx264", "-g", "25", "-bf", "2", "-flags", "+cgop"]),
    # Three leading pictures behind each keyframe. With several reference frames or a pyramid of B-frames
    # Chromium cannot seek in an open GOP at all, whoever serves the file (PIPELINE_ERROR_DECODE).
    "open GOP": (
        "mp4",
        ["-c:v", "libx264", "-x264-params", "keyint=24:open-gop=1:bframes=3:b-adapt=0:b-pyramid=none:ref=1"],
    ),
    "moov in front": ("mp4", ["-c:v", "libx264", "-g", "25", "-movflags", "+faststart"]),
    "fragmented": ("mp4", ["-c:v", "libx264", "-g", "25", "-movflags", "frag_keyframe+empty_moov"]),
    "webm": (
        "webm",
        ["-c:v", "libvpx", "-g", "25", "-b:v", "400k", "-deadline", "realtime", "-cluster_time_limit", "900"],
    ),
}
EVIL = "<img src=x onerror=alert(1)> & ünï.h4mk"


def make_clip(path: Path, arguments: list[str]) -> None:
    """Six seconds of 320x180 test picture whose grey level says the second: luma 40 + 30 · second."""
    ffmpeg = program("ffmpeg")
    assert ffmpeg is not None
    picture = "color=black:s=320x180:r=25:d=6,format=yuv420p,geq=lum='40+30*floor(N/25)':cb=128:cr=128"
    command = [
        ffmpeg,
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        picture,
        "-pix_fmt",
        "yuv420p",
        *arguments,
        str(path),
    ]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, media = tmp_path_factory.mktemp("library"), tmp_path_factory.mktemp("media")
    (root / "clips").mkdir()
    export(BUNNY, root / "bigbuckbunny.h4mk", ExportOptions())
    for name, (extension, arguments) in CLIPS.items():
        make_clip(media / f"{name}.{extension}", arguments)
        export(media / f"{name}.{extension}", root / "clips" / f"{name}.h4mk", ExportOptions())
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--autoplay-policy=no-user-gesture-required") as one:
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page that must log no error, throw nothing, open no dialog, and ask nobody but our server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    # That a name is taken is an answer like any other to the page, but Chromium logs it as an error.
    page.on(
        "console",
        lambda message: (
            faults.append(message.text) if message.type == "error" and "409 (" not in message.text else None
        ),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on(
        "request", lambda request: None if request.url.startswith(server.url) else faults.append(request.url)
    )
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert faults == []


# The page's policy forbids `eval`, which Playwright's wait_for_function needs; evaluate does not.
SHOWN = """() => new Promise((resolve, reject) => {
  const player = document.querySelector("video, audio");
  const check = () => {
    if (player.error) reject(new Error(player.error.message));
    else if (player.readyState >= 2 && !player.seeking) resolve();
    else setTimeout(check, 10);
  };
  check();
})"""
FRAME = """() => {
  const video = document.querySelector("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0, least = 255, most = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    sum += pixels[i]; least = Math.min(least, pixels[i]); most = Math.max(most, pixels[i]);
  }
  return {
    width: video.videoWidth, height: video.videoHeight, time: video.currentTime, duration: video.duration,
    mean: sum / (pixels.length / 4), least, most,
  };
}"""


def open_container(page: Page, server: Server, name: str, at: str = "") -> None:
    page.goto(f"{server.url}/?name={quote(name)}{at}")
    page.wait_for_selector("#stage video, #stage audio, #stage .note")


def jump(page: Page, text: str, pts: int) -> dict[str, str]:
    """Type a time, press Enter, and give back the seek's numbers."""
    page.fill("#pts", text)
    page.press("#pts", "Enter")
    sought(page, pts)
    rows = page.query_selector_all("#numbers div")
    return {str(row.get_attribute("data-fact")): row.query_selector("dd").inner_text() for row in rows}  # type: ignore[union-attr]


def sought(page: Page, pts: int) -> None:
    """Wait until the numbers of this seek are there, and then its frame."""
    page.wait_for_selector(f'#numbers:not([hidden])[data-asked="{pts}"]')
    page.evaluate(SHOWN)


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
    open_container(page, server, name)
    page.evaluate(SHOWN)
    for seconds in (3.5, 0.5, 5.5, 2.02):
        numbers = jump(page, f"{seconds}s", round(seconds * 1e6))
        frame = page.evaluate(FRAME)
        assert (frame["width"], frame["height"]) == (320, 180)
        assert abs(frame["time"] - seconds) <= 0.05
        # Luma 40 + 30 · second, limited range, as full-range RGB.
        expected = (40 + 30 * int(seconds) - 16) * 255 / 219
        assert abs(frame["mean"] - expected) < 12, (seconds, frame)
        asked = server.get(f"/video/seek?name={quote(name)}&pts={round(seconds * 1e6)}").json
        assert numbers["offset"].replace(",", "") == str(asked["offset"])


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
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 10)
    assert page.inner_text("#tip").startswith("0:04.")
    assert "keyframe 0:04" in page.inner_text("#tip")
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
    assert page.inner_text("#count") == f"{len(CLIPS) + 7} containers"
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
