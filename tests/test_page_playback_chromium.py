"""The panel of tokens while media play, in Debian's Chromium: rows, spectrum, groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from harmony4.server.exporting.ingest import ExportOptions, export
from needs import needs_chromium, needs_ffmpeg
from pagelib import SHOWN, ffmpeg, open_container, page_on, says
from serving import Server, running, write_container

pytestmark = [needs_chromium, needs_ffmpeg]

WHILE_PLAYING = """([until, selector, property]) => new Promise((resolve, reject) => {
  const media = document.querySelector("video, audio");
  const seen = [];
  const look = () => {
    const value = (PROPERTIES)[property](document.querySelector(selector));
    if (value !== null && value !== seen.at(-1)?.[1]) seen.push([media.currentTime, value]);
    if (media.currentTime < until) requestAnimationFrame(look);
    else (media.pause(), resolve(seen));
  };
  media.muted = true;
  media.playbackRate = 2;
  media.play().then(look, reject);
})""".replace(
    "PROPERTIES",
    """{
  text: (node) => node?.innerText ?? null,
  edge: (canvas) => {
    const { width, height } = canvas;
    const y = Math.round(height * (1 - Math.log(3000 / 50) / Math.log(16000 / 50)));
    const row = canvas.getContext("2d").getImageData(0, y, width, 1).data;
    const cursor = Math.round(width / 3);
    for (let x = 0; x < width; x += 1) {
      if (row[4 * x + 3] > 200 && Math.abs(x - cursor) > 2) return x / width;
    }
    return 1;
  },
}""",
)
"""Play until a time (s), twice as fast: [time, value] whenever the value is another one. `text`: what an
element says; `edge`: where in a canvas the first frequency around 3 kHz is, as a part of its width."""


def test_the_current_row_moves_while_the_film_plays(page: Page, server: Server) -> None:
    open_container(page, server, "signed.h4mk", "#t=3")
    page.evaluate(SHOWN)
    page.click("#tab-tokens")
    says(page, "#tokens tr[aria-current]", "0:02")
    rows = page.evaluate(WHILE_PLAYING, [11, "#tokens tr[aria-current] td", "text"])
    found = [int(text) for _, text in rows]
    assert found == sorted(found)
    assert found[0] == 2  # behind the header
    assert found[-1] >= 5
    assert len(found) >= 4
    for time, block in zip((one for one, _ in rows), found, strict=True):
        begin = 2 * (block - 1)
        assert begin - 0.2 <= time < begin + 3, rows
    # And it stands where the film does.
    page.evaluate(SHOWN)
    time = float(page.evaluate("document.querySelector('video').currentTime"))
    says(page, "#tokens tr[aria-current] td", str(int(time // 2) + 1))


def test_the_spectrum_scrolls_while_sound_plays(browser: Browser, tmp_path: Path) -> None:
    """From 20 s on the tone is another one: that comes from the right, and the position stays where it is."""
    tone = "aevalsrc=0.3*sin(2*PI*t*if(lt(t\\,20)\\,440\\,3000)):s=48000:d=30"
    ffmpeg("-f", "lavfi", "-i", tone, tmp_path / "tones.flac")
    export(tmp_path / "tones.flac", tmp_path / "tones.h4mk", ExportOptions())
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "tones.h4mk", "#t=12")
        page.evaluate(SHOWN)
        page.click("#tab-tokens")
        page.wait_for_selector("canvas.spectrum")
        page.select_option("[aria-label='Time shown']", "10")
        says(page, ".sound .live", "all of them are here")
        seen = page.evaluate(WHILE_PLAYING, [19, "canvas.spectrum", "edge"])
    assert seen[0][1] == 1  # it is not there yet
    edges = [edge for _, edge in seen]
    assert len(edges) > 10
    assert edges == sorted(edges, reverse=True)
    for time, edge in seen:
        assert edge == pytest.approx(min(1, (20 - (time - 10 / 3)) / 10), abs=0.06), seen


GROUPS = """() => {
  const canvas = document.querySelector("canvas.bars");
  const { width, height } = canvas;
  const split = Math.round(height * 0.62);
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const colour = (name) => {
    const paint = document.createElement("canvas").getContext("2d");
    paint.fillStyle = getComputedStyle(canvas).getPropertyValue(name);
    paint.fillRect(0, 0, 1, 1);
    return paint.getImageData(0, 0, 1, 1).data.join();
  };
  const at = (x, y) => data.slice(4 * (y * width + x), 4 * (y * width + x) + 4).join();
  const [wash, accent, tick] = ["--wash", "--accent", "--tick"].map(colour);
  const groups = [], blocks = [];
  for (let x = 1; x < width; x += 1) { // the position is at 0
    let high = 0;
    while (data[4 * ((height - 3 - high) * width + x) + 3]) high += 1;
    if (at(x, height - 4) !== wash) groups.push(null);
    else if (groups.at(-1)) groups.at(-1).to = x + 1;
    else groups.push({ from: x, to: x + 1, high });
    const kind = { [accent]: "key", [tick]: "other" }[at(x, split - 2)];
    if (kind !== blocks.at(-1)) blocks.push(kind);
  }
  return { width, groups: groups.filter(Boolean), blocks: blocks.filter(Boolean) };
}"""
"""Bars of groups with their place and height in pixels, and the kinds of the bars of blocks above."""


def test_bars_of_groups(browser: Browser, tmp_path: Path) -> None:
    """A group is as wide as the time of its blocks, and as high as all of them are large."""
    sizes = [3000, 500, 500, 1000, 2500, 2500, 700, 900, 400, 1000, 1000, 1500]
    write_container(tmp_path / "groups.h4mk", [bytes([65 + one % 26]) * one for one in sizes], key_every=3)
    with running(tmp_path) as server, page_on(browser, server.url) as page:
        open_container(page, server, "groups.h4mk")
        page.click("#tab-tokens")
        says(page, ".tokens-panel .live", "all of them are here")
        says(page, ".tokens-panel .live b", "12")
        found = page.evaluate(GROUPS)
    width, groups = found["width"], found["groups"]
    assert found["blocks"] == ["key", "other", "other"] * 4
    assert len(groups) == 4
    wanted = [sum(sizes[at : at + 3]) for at in range(0, 12, 3)]
    most = max(one["high"] for one in groups)
    assert most > 20
    for number, (group, size) in enumerate(zip(groups, wanted, strict=True)):
        assert group["from"] == pytest.approx(width * number / 4, abs=2)
        assert group["to"] == pytest.approx(width * (number + 1) / 4, abs=2)
        assert group["high"] == pytest.approx(most * size / max(wanted), abs=2), found
