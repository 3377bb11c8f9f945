"""What the page shows of a container, in Debian's Chromium: timeline, keys, tokens, chunks."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from harmony4.h4mk import H4MKReader, TrackInfo
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from lying import lying
from needs import BUNNY, ROOT, needs_chromium, needs_ffmpeg
from pagelib import (
    FRAME,
    HOURS,
    LOST,
    SHOWN,
    ffmpeg,
    grey,
    jump,
    open_container,
    page_on,
    says,
    sought,
)
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
PLAYS = """() => new Promise((resolve) => {
  const video = document.querySelector("video");
  if (video.paused) video.addEventListener("playing", resolve);
  else resolve();
})"""


def time(page: Page) -> float:
    return float(page.evaluate("document.querySelector('video, audio').currentTime"))


# -- the player


def test_ten_hours(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    assert server.get("/video/keyframes?name=ten-hours.h4mk&limit=1").json["count"] == HOURS * 1800
    numbers = jump(page, "7:03:31.4", 25_411_400_000)
    assert (numbers["asked"], numbers["keyframe found"]) == ("7:03:31.4", "7:03:30")
    frame = page.evaluate(FRAME)
    assert abs(frame["time"] - 25411.4) < 0.01
    assert abs(frame["mean"] - grey(25411.4)) < 3
    says(page, "[data-fact='picture after']", "ms")
    shown = float(page.get_attribute("#numbers", "data-shown") or "nan")
    assert shown == pytest.approx(25411.4, abs=0.001)  # the very picture
    # All of the timeline is ticks: no pixel of their row is empty for long.
    row = page.evaluate(
        """() => {
          const canvas = document.querySelector("#ticks");
          const data = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
          let ticks = 0;
          for (let at = 4; at < data.length; at += 4) ticks += data[at] !== data[at - 4];
          return [ticks, canvas.width];
        }"""
    )
    assert row[0] > row[1] * 0.6


def test_keys(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.evaluate(SHOWN)
    page.wait_for_selector("#tab-facts")
    for key, seconds in [
        ("5", 18000),
        ("l", 18010),
        ("j", 18000),
        ("ArrowRight", 18005),
        ("ArrowLeft", 18000),
    ]:
        page.keyboard.press(key)
        sought(page, seconds * 10**6)
        assert time(page) == pytest.approx(seconds, abs=0.01), key
    page.keyboard.press("Shift+ArrowRight")
    sought(page, 18_002_000_000)
    page.keyboard.press("Shift+ArrowLeft")
    sought(page, 18_000_000_000)
    page.keyboard.press("k")
    page.evaluate(PLAYS)
    page.keyboard.press("k")
    assert page.evaluate("document.querySelector('video').paused")
    # In a field they are letters.
    page.fill("#search", "")
    page.type("#search", "5jkl")
    assert page.input_value("#search") == "5jkl"
    assert time(page) < 18003
    # And whoever does not want them turns them off.
    page.click("#keys-button")
    page.wait_for_selector("#keys[open]")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.focus("#tab-facts")
    page.keyboard.press("9")
    assert time(page) < 18003


def test_one_picture_back_and_on(browser: Browser, tmp_path: Path) -> None:
    """Steps are as long as the pictures themselves: 29.97 a second, 60, and no fixed rate at all."""
    often = "select='not(mod(n,2))+lt(mod(n,7),2)'"
    films = {
        "ntsc": (["-r", "30000/1001"], [0, 33_367, 66_733, 100_100, 133_467]),
        "sixty": (["-r", "60"], [0, 16_667, 33_333, 50_000, 66_667]),
        "uneven": (
            ["-vf", often, "-fps_mode", "vfr"],
            [0, 20_000, 40_000, 80_000, 120_000, 140_000, 160_000],
        ),
    }
    for name, (arguments, _) in films.items():
        film = tmp_path / f"{name}.mp4"
        rate = arguments[1] if arguments[0] == "-r" else "50"
        code = ["-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p", *arguments]
        ffmpeg("-f", "lavfi", "-i", f"testsrc=size=160x90:rate={rate}:duration=2", *code, film)
        export(film, tmp_path / f"{name}.h4mk", ExportOptions())
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        for name, (_, times) in films.items():
            open_container(page, server, f"{name}.h4mk")
            page.evaluate(SHOWN)
            for key, expected in [(".", times[1:]), (",", times[-2::-1])]:
                for pts in expected:
                    page.keyboard.press(key)
                    sought(page, pts)
                    says(page, "[data-fact='picture after']", "ms")
                    assert int(page.inner_text("[data-fact='picture after'] dd").removesuffix(" ms")) > 0
                    assert float(str(page.get_attribute("#numbers", "data-shown"))) * 1e6 == pytest.approx(
                        pts, abs=1
                    )
            # Before the first picture there is none; quick presses are all counted, and playing ends.
            page.keyboard.press(",")
            for _ in range(3):
                page.keyboard.press(".")
            sought(page, times[3])
        page.keyboard.press("k")
        page.evaluate(PLAYS)
        page.keyboard.press(".")
        assert page.evaluate("document.querySelector('video').paused")


def test_drag_and_what_the_address_says(page: Page, server: Server) -> None:
    open_container(page, server, "bigbuckbunny.h4mk")
    page.evaluate(SHOWN)
    box = page.query_selector("#timeline").bounding_box()  # type: ignore[union-attr]
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 10)
    page.mouse.down()
    for part in (0.3, 0.4, 0.5):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + 10)
    assert "keyframe 0:00" in page.inner_text("#tip")
    page.mouse.up()
    page.wait_for_selector("#numbers:not([hidden])")
    page.evaluate(SHOWN)
    assert time(page) == pytest.approx(2.65, abs=0.1)
    page.wait_for_url(f"**/?name=bigbuckbunny.h4mk#t={time(page):.3f}".rstrip("0"))
    page.reload()
    page.wait_for_selector("#stage video")
    page.evaluate(SHOWN)
    assert time(page) == pytest.approx(2.65, abs=0.1)
    assert page.get_attribute("#timeline", "aria-valuenow") == "2"


def test_what_was_fetched_is_on_the_timeline(page: Page, server: Server) -> None:
    """The parts that the browser says it has, and no others."""
    open_container(page, server, "ten-hours.h4mk", "#t=18000")
    page.evaluate(SHOWN)
    page.wait_for_selector("#tab-facts")
    wrong, there, not_there = page.evaluate(
        """() => new Promise((resolve) => {
          const video = document.querySelector("video");
          const canvas = document.querySelector("#ticks");
          const paint = document.createElement("canvas").getContext("2d");
          paint.fillStyle = getComputedStyle(canvas).getPropertyValue("--wash");
          paint.fillRect(0, 0, 1, 1);
          const wash = paint.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
          const check = () => {
            const row = canvas.getContext("2d").getImageData(0, 8, canvas.width, 1).data;
            const colour = (x) => row.slice(4 * x, 4 * x + 3).join();
            const painted = Array.from({ length: canvas.width }, (_, x) => colour(x) === wash);
            const scale = canvas.width / 36000;
            const parts = Array.from({ length: video.buffered.length }, (_, n) =>
              [video.buffered.start(n) * scale, video.buffered.end(n) * scale]);
            const inside = (x) => parts.some(([from, to]) => from <= x + 1 && x <= to + 1);
            const wrong = painted.map((one, x) => one && !inside(x)).filter(Boolean).length;
            const found = painted.filter(Boolean).length;
            if (parts.length && found) resolve([wrong, found, painted.length - found]);
            else setTimeout(check, 20);
          };
          check();
        })"""
    )
    assert wrong == 0
    assert there > 0
    assert not_there > 0


# -- the library


def test_ten_thousand(browser: Browser, tmp_path: Path) -> None:
    """Only what is seen are elements; the last of ten thousand is one key away."""
    export_one(tmp_path / "00000.h4mk")
    for number in range(1, 10_000):
        (tmp_path / f"{number:05}.h4mk").hardlink_to(tmp_path / "00000.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        page.wait_for_selector("#items a.item")
        assert page.inner_text("#count") == "10,000 containers"
        assert page.locator("#items li").count() < 60
        page.focus("#items a.item")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.dataset.name") == "00001.h4mk"
        page.keyboard.press("End")
        page.wait_for_selector('#items a[data-name="09999.h4mk"]', timeout=60_000)
        assert page.locator("#items li").count() < 80
        assert page.get_attribute('#items li:has(a[data-name="09999.h4mk"])', "aria-posinset") == "10000"
        page.fill("#search", "0777")
        says(page, "#count", "11 containers")
        page.wait_for_selector('#items a[data-name="07770.h4mk"]')


def export_one(path: Path) -> None:
    export(ROOT / "LICENSE", path, ExportOptions())


def test_what_the_library_says(page: Page, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#items a.item")
    assert "signed" in page.inner_text('#items a[data-name="signed.h4mk"]')
    assert page.query_selector('#items a[data-name="masked.h4mk"] img[alt="masked"]')
    # Each gets its picture, one after the other: a frame, a spectrum, or the rate of its blocks.
    page.evaluate(
        """() => new Promise((resolve) => {
          const count = () => document.querySelectorAll("#items canvas.drawn").length;
          const check = () => count() === 7 ? resolve() : setTimeout(check, 20);
          check();
        })"""
    )
    colours = page.evaluate(
        """() => [...document.querySelectorAll("#items canvas")].map((canvas) => {
          const { data, width, height } =
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const found = new Set();
          for (let at = 0; at < data.length; at += 4) found.add(data.slice(at, at + 4).join());
          const middle = 4 * (width * height / 2 + width / 2);
          return [found.size, [...data.slice(middle, middle + 4)]];
        })"""
    )
    # In the order of their names.
    counts = [count for count, _ in colours]
    assert [count > least for count, least in zip(counts, (100, 0, 1, 1, 0, 10, 1), strict=True)] == [
        True
    ] * 7
    # The pictures of the grey films are one grey, that of a tenth of them, and not what an empty canvas has.
    for _, (red, green, blue, opaque) in (colours[1], colours[4]):
        assert opaque == 255
        assert max(red, green, blue) - min(red, green, blue) < 4
        assert abs(green - grey(2)) < 3


# -- tokens


def test_tokens_follow_the_player(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk", "#t=100")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    page.wait_for_selector("#tokens tr[aria-current]")
    says(page, "#tokens tr[aria-current]", "1:40")
    jump(page, "5:00:01", 18_001_000_000)
    says(page, "#tokens tr[aria-current]", "5:00:00")
    index = page.inner_text("#tokens tr[aria-current] td")
    token = next(
        one
        for one in map(
            json.loads,
            server.get(
                "/video/stream?name=ten-hours.h4mk&from=18001000000", Accept="application/x-ndjson"
            ).body.splitlines(),
        )
        if one["event"] == "token" and not one["data"]["header"]
    )["data"]
    assert index == str(token["index"])
    assert token["digest"][:12] in page.inner_text("#tokens tr[aria-current]")
    # It waits ahead of the player instead of reading ten hours.
    says(page, ".tokens-panel .live", "ahead of the player")


def test_tokens_come_again_when_the_connection_was_lost(browser: Browser, server: Server) -> None:
    """A proxy breaks the stream off in the middle, once: the rest comes behind what was there."""
    asked: list[str] = []

    def half(path: str, _: int, body: bytes) -> bytes:
        if path.startswith("/video/stream"):
            asked.append(path)
            if len(asked) == 1:
                return body[: body.index(b"event: token", len(body) // 2)]
        return body

    with lying(server.url, half) as url, page_on(browser, url, LOST) as page:
        page.goto(f"{url}/?name=signed.h4mk")
        page.click("#tab-tokens")
        says(page, ".tokens-panel .live", "all of them are here")
        says(page, ".tokens-panel .live b", "10")  # all but the header; it is painted with the next frame
        assert len(asked) == 2


def test_bars(page: Page, server: Server, page_library: Path) -> None:
    """Blocks are as high as they are large; a click goes to the time below the pointer."""
    with H4MKReader(page_library / "signed.h4mk") as reader:
        sizes = [entry.size for entry in list(reader.range_map(0))[1:]]  # but for the header
    open_container(page, server, "signed.h4mk")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    says(page, ".tokens-panel .live", "all of them are here")
    says(page, ".tokens-panel .live b", str(len(sizes)))
    heights = page.evaluate(
        """(count) => {
          const canvas = document.querySelector("canvas.bars");
          const paint = document.createElement("canvas").getContext("2d");
          paint.fillStyle = getComputedStyle(canvas).getPropertyValue("--accent");
          paint.fillRect(0, 0, 1, 1);
          const accent = paint.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
          const blocks = Math.round(canvas.height * 0.62);
          return Array.from({ length: count }, (_, n) => {
            const x = Math.round(((n + 0.6) / count) * canvas.width);
            const column = canvas.getContext("2d").getImageData(x, 0, 1, blocks).data;
            let high = 0;
            for (let y = 0; y < blocks; y += 1) high += column.slice(4 * y, 4 * y + 3).join() === accent;
            return high;
          });
        }""",
        len(sizes),
    )
    most = max(heights)
    assert most > 50
    for height, size in zip(heights, sizes, strict=True):
        assert height == pytest.approx(most * size / max(sizes), abs=2)
    box = page.query_selector("canvas.bars").bounding_box()  # type: ignore[union-attr]
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + 40)
    page.wait_for_selector("#numbers:not([hidden])")
    page.evaluate(SHOWN)
    assert time(page) == pytest.approx(16, abs=0.1)


FULL_SPECTRUM = """(most) => new Promise((resolve) => {
  const canvas = document.querySelector("canvas.spectrum");
  const check = () => Number(canvas.dataset.tokens) > most ? resolve() : setTimeout(check, 20);
  check();
})"""
HEIGHTS = """(place) => {
  const canvas = document.querySelector("canvas.spectrum");
  const x = Math.round(canvas.width * place);
  const data = canvas.getContext("2d").getImageData(x, 0, 1, canvas.height).data;
  const { height } = canvas;
  const rows = Array.from({ length: height }, (_, y) => [data[4 * y + 3], 1 - y / height]);
  return rows.filter(([value]) => value > 200).map(([, y]) => 50 * (16000 / 50) ** y);
}"""
"""Hz of what is drawn at a place: the scale is logarithmic, from 50 Hz to 16 kHz."""


def test_spectrum(page: Page, server: Server) -> None:
    open_container(page, server, "sound.h4mk", "#t=12")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    page.wait_for_selector("canvas.spectrum")
    page.evaluate(FULL_SPECTRUM, 60)
    # The tone of 440 Hz is a line, at its height.
    heights = page.evaluate(HEIGHTS, 0.4)
    assert any(400 < hertz < 480 for hertz in heights), heights


CURSORS = """() => ["bars", "spectrum"].map((name) => {
  const canvas = document.querySelector(`canvas.${name}`);
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const paint = document.createElement("canvas").getContext("2d");
  paint.fillStyle = getComputedStyle(canvas).getPropertyValue("--text");
  paint.fillRect(0, 0, 1, 1);
  const text = paint.getImageData(0, 0, 1, 1).data.join();
  const columns = Array.from({ length: width }, (_, x) => x);
  const of = (x, y) => data.slice(4 * (y * width + x), 4 * (y * width + x) + 4).join();
  return columns.find((x) => [2, height / 2, height - 2].every((y) => of(x, Math.round(y)) === text));
})"""
"""Where the position is drawn in either chart."""


def test_both_charts_show_the_same_time(browser: Browser, page_library: Path, tmp_path: Path) -> None:
    """Of a short sound all of it, from edge to edge; of a longer one as much as is chosen."""
    ffmpeg("-f", "lavfi", "-i", "sine=440:d=5.3", tmp_path / "short.flac")
    export(tmp_path / "short.flac", tmp_path / "short.h4mk", ExportOptions())
    shutil.copy(page_library / "sound.h4mk", tmp_path / "sound.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "short.h4mk")
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum")
        says(page, ".sound .live", "all of them are here")
        page.evaluate(FRAMES)
        assert page.evaluate(CURSORS) == [0, 0]
        for place in (0.1, 0.9):
            heights = page.evaluate(HEIGHTS, place)
            assert any(400 < hertz < 480 for hertz in heights), (place, heights)
        open_container(page, server, "sound.h4mk", "#t=12")
        page.evaluate(SHOWN)
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum")
        for seconds, at in (("30", 0.4), ("10", 1 / 3)):
            page.select_option("[aria-label='Time shown']", seconds)
            says(page, ".sound .live", "all of them are here")
            page.evaluate(FRAMES)
            bars, spectrum = page.evaluate(CURSORS)
            assert bars == spectrum
            width = page.evaluate("document.querySelector('canvas.bars').width")
            assert bars == pytest.approx(at * width, abs=2)
            heights = page.evaluate(HEIGHTS, at / 2)
            assert any(400 < hertz < 480 for hertz in heights), (seconds, heights)


def test_spectrum_of_fast_sound(browser: Browser, tmp_path: Path) -> None:
    """Beyond 48 kHz a token's frame is made of every second sample, and its bins are half as wide."""
    ffmpeg("-f", "lavfi", "-i", "sine=3000:r=96000:d=10", tmp_path / "fast.flac")
    export(tmp_path / "fast.flac", tmp_path / "fast.h4mk", ExportOptions())
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "fast.h4mk")
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum")
        page.evaluate(FULL_SPECTRUM, 20)
        heights = page.evaluate(HEIGHTS, 0.6)
        assert any(2800 < hertz < 3200 for hertz in heights), heights
        assert not any(5500 < hertz < 6500 for hertz in heights), heights


# -- the container


def test_chunks(page: Page, server: Server, page_library: Path) -> None:
    with H4MKReader(page_library / "signed.h4mk") as reader:
        chunks = list(reader.chunks())
    open_container(page, server, "signed.h4mk")
    page.click("#tab-container")
    page.wait_for_selector("#chunks [data-tag=TRAK]")
    assert f"{len(chunks)} chunks" in page.inner_text(".container-panel .live")
    page.focus("#chunks button")
    seen: list[str] = []
    for chunk in chunks:
        button = f"#chunks li[aria-posinset='{len(seen) + 1}'] button"
        page.wait_for_selector(f"{button}[data-tag]")
        cells = page.locator(f"{button} span").all_inner_texts()
        assert cells[:4] == [
            chunk.tag,
            f"at {chunk.offset:,}",
            f"bytes {chunk.size:,}",
            f"CRC {chunk.crc:08x}",
        ]
        seen.append(chunk.tag)
        page.keyboard.press("ArrowDown")
    assert "SIGN" in seen
    # The last one as bytes.
    page.keyboard.press("Enter")
    says(page, "#hex .header", "54 41 49 4c")  # TAIL
    page.fill("#offset", "0x0")
    page.press("#offset", "Enter")
    says(page, "#hex", "48 34 4d 4b 00 00 00 01")
    text = page.inner_text("#hex")
    data = (page_library / "signed.h4mk").read_bytes()[:4096]
    digits = "".join(line[10:58].replace(" ", "") for line in text.splitlines())
    assert bytes.fromhex(digits) == data
    # TRAK and META as trees.
    page.click(".trees summary:has-text('tracks') >> nth=0")
    page.click(".trees details details details summary >> nth=0")
    says(page, ".trees", "video/mp4")


def test_map_of_ten_hours(page: Page, server: Server) -> None:
    open_container(page, server, "ten-hours.h4mk")
    page.click("#tab-container")
    page.wait_for_selector("#chunks [data-tag=TRAK]")
    for scale in ("linear", "log"):
        page.check(f".scale input[value={scale}]")
        box = page.query_selector("canvas.map").bounding_box()  # type: ignore[union-attr]
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        says(page, ".maptip", "blocks")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    page.wait_for_selector("#chunks [aria-current]")
    assert page.inner_text("#chunks [aria-current] .tag") == "TOKN"
    says(page, "#hex .header", "54 4f 4b 4e")


# -- the check


# -- uploads


# -- containers of other kinds


def test_texts_of_files_are_text(browser: Browser, tmp_path: Path) -> None:
    """In every panel: what a file says of itself makes no element."""
    evil = "<img src=x onerror=alert(1)>"
    info = TrackInfo(codec=evil, kind="data", media_type=evil, name=evil, lang=evil)
    write_container(tmp_path / "evil.h4mk", [b"<script>alert(2)</script>", b"y"], info=info, title=evil)
    bundle_files([tmp_path / "evil.h4mk", tmp_path / "evil.h4mk"], tmp_path / f"{evil.replace('/', '')}.h4mk")
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(server.url)
        for name in [item["name"] for item in server.get("/media").json["items"]]:
            page.click(f'#items a[data-name="{name}"]')
            page.wait_for_selector("#stage .note")
            assert evil in page.inner_text("#facts")
            page.click("#tab-tokens")
            page.wait_for_selector("#tokens tr[aria-current]")
            page.click("#tab-container")
            page.wait_for_selector("#chunks [data-tag=TRAK]")
            page.click(".trees summary:has-text('tracks') >> nth=0")
            page.click(".trees details details details summary >> nth=0")
            says(page, ".trees", evil)
            says(page, "#hex", "<img src=x")
            page.click("#tab-check")
            page.click("#check-go")
            says(page, "#verdict", "All 2 blocks")
            page.click("#tab-facts")
            assert page.query_selector("main img:not([alt]), main script, [onerror]") is None
            assert page.locator("#track option").count() == (1 if name == "evil.h4mk" else 2)


def test_what_is_not_sealed(browser: Browser, page_library: Path, tmp_path: Path) -> None:
    """The chunks that are there are shown; there is nothing to check them against."""
    data = (page_library / "signed.h4mk").read_bytes()
    (tmp_path / "cut.h4mk").write_bytes(data[:2500])
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        page.goto(f"{server.url}/?name=cut.h4mk")
        says(page, "#state", "incomplete")
        page.click("#tab-container")
        page.wait_for_selector("#chunks [data-tag=CORE]")
        page.click("#tab-check")
        says(page, ".check-panel", "not sealed")


def test_several_tracks(browser: Browser, tmp_path: Path) -> None:
    """A film with subtitles: the player has them, each track can be chosen, all chunks are in the list."""
    subtitles = tmp_path / "subs.vtt"
    subtitles.write_text("WEBVTT\n\n00:01.000 --> 00:02.500\none\n\n00:03.000 --> 00:04.000\ntwo")
    bundle_files([BUNNY, subtitles], tmp_path / "film.h4mk")
    with H4MKReader(tmp_path / "film.h4mk") as reader:
        chunks = [one.tag for one in reader.chunks()]
        blocks = reader.tracks[1].blocks
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "film.h4mk")
        page.evaluate(SHOWN)
        assert page.evaluate("document.querySelector('video').textTracks.length") == 1
        page.click("#tab-container")
        page.focus("#chunks button")
        for number, tag in enumerate(chunks, 1):
            page.wait_for_selector(f"#chunks li[aria-posinset='{number}'] button[data-tag={tag}]")
            page.keyboard.press("ArrowDown")
        page.click("#tab-check")
        page.select_option("#track", "1")
        page.wait_for_selector("#stage .note")
        page.click("#check-go")
        says(page, "#verdict", f"All {blocks} block")


# -- everybody


def test_what_the_page_begins_with_is_asked_for_at_once() -> None:
    """No module waits until another one that imports it is there."""
    static, wanted = ROOT / "static", ["app.js"]
    for name in wanted:
        found = re.findall(r'^import .*?from "\./(.+?)";$', (static / name).read_text(encoding="utf-8"), re.M)
        wanted += [one for one in dict.fromkeys(found) if one not in wanted]
    page = (static / "index.html").read_text(encoding="utf-8")
    asked = re.findall(r'<link rel="modulepreload" href="static/(.+?)">', page)
    assert asked == sorted(set(wanted) - {"app.js"})


def test_weight(server: Server) -> None:
    """What goes over the wire for the page, with every part of it that is loaded when it is needed."""
    names = [path.name for path in (ROOT / "static").iterdir() if path.suffix in {".js", ".css", ".svg"}]
    sizes = {}
    for name in ("", *(f"static/{one}" for one in names)):
        answer = server.get(f"/{name}", Accept_Encoding="gzip, br")
        assert answer.headers["Content-Encoding"] == "gzip"
        plain = server.get(f"/{name}")
        assert plain.headers["Content-Encoding"] is None
        assert plain.headers["ETag"] != answer.headers["ETag"]
        assert gzip.decompress(answer.body) == plain.body
        sizes[name] = len(answer.body)
    assert server.get("/", Accept_Encoding="gzip;q=0").headers["Content-Encoding"] is None
    etag = str(server.get("/", Accept_Encoding="gzip").headers["ETag"])
    assert server.get("/", Accept_Encoding="gzip", If_None_Match=etag).status == 304
    assert sum(sizes.values()) < 110_000, sizes
