"""The page in a browser: first paint, weight, seeks in ten hours, scrolling through ten thousand."""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.long import MINUTES, ten_hours
from bench.measure import Place, Table, harmony4, median, percentile, run
from bench.servers import cores, ours
from chromium import chromium

PAINT, WEIGHT, PICTURE, FRAMES = 0.3, 150 * 1024, 0.25, 50
PLANS = ((20, MINUTES, 40, 10_000), (3, 10, 5, 1000), (1, 2, 2, 200))
"""Loads, minutes of video, seeks, containers."""
LOADED = """() => {
  const { encodedBodySize, decodedBodySize } = performance.getEntriesByType("navigation")[0];
  const parts = performance.getEntriesByType("resource").filter((one) => one.name.includes("/static/"));
  return {
    paint: performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000,
    wire: parts.reduce((sum, one) => sum + one.encodedBodySize, encodedBodySize),
    plain: parts.reduce((sum, one) => sum + one.decodedBodySize, decodedBodySize),
  };
}"""
SCROLL = """() => new Promise((resolve) => {
  const box = document.querySelector("#library");
  const frames = [];
  let last = null;
  const step = (now) => {
    if (last !== null) frames.push((now - last) / 1000);
    last = now;
    box.scrollTop += 240;
    if (frames.length < 180) requestAnimationFrame(step);
    else resolve(frames);
  };
  requestAnimationFrame(step);
})"""
SETTLED = """(asked) => new Promise((resolve) => {
  const numbers = document.querySelector("#numbers");
  const check = () => {
    if (numbers.dataset.asked === asked && numbers.innerText.match(/picture after\\n(\\d+) ms/)) {
      resolve(Number(numbers.dataset.ms) / 1000);
    } else setTimeout(check, 10);
  };
  check();
})"""


def page(place: Place) -> Table:
    """Each load is in a browser context of its own, with nothing in its cache."""
    table, pair = Table(), cores()
    loads, minutes, seeks, containers = PLANS[place.quick]
    source = ten_hours(place.cache, minutes)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="page-", dir=place.cache)))
        library = home / "library"
        library.mkdir()
        run([harmony4(), "export", "-q", source, "-o", library / "long.h4mk"])
        for number in range(containers - 1):
            (library / f"{number:05}.h4mk").hardlink_to(library / "long.h4mk")
        server = stack.enter_context(ours(library, home, pair[0] if pair is not None else 0))
        browser = stack.enter_context(chromium("--autoplay-policy=no-user-gesture-required"))
        url = f"http://127.0.0.1:{server.port}/"
        found = [_load(browser, url) for _ in range(loads)]
        paints = [one["paint"] for one in found]
        table.add(
            f"first contentful paint, {containers:,} containers",
            f"{median(paints) * 1e3:.0f} ms, worst {max(paints) * 1e3:.0f} ms",
            f"< {PAINT * 1e3:.0f} ms",
            "",
            median(paints) < PAINT,
        )
        whole = _weight(browser, f"{url}?name=long.h4mk")
        table.add(
            "the page over the wire: when it opens, and with every panel",
            f"{found[0]['wire'] / 1024:.0f} KiB, {whole['wire'] / 1024:.0f} KiB",
            f"< {WEIGHT // 1024} KiB",
            f"{whole['plain'] / 1024:.0f} KiB without gzip",
            whole["wire"] < WEIGHT,
        )
        shown = _seek(browser, f"{url}?name=long.h4mk", minutes * 60, seeks)
        table.add(
            f"a seek to a random time in {minutes / 60:.3g} hours, from the key to the picture",
            f"{median(shown) * 1e3:.0f} ms, p90 {percentile(shown, 0.9) * 1e3:.0f} ms",
            f"< {PICTURE * 1e3:.0f} ms",
            "640×360, a keyframe each 2 s",
            median(shown) < PICTURE,
        )
        frames = _scroll(browser, url)
        rate = len(frames) / sum(frames)
        table.add(
            f"scrolling through {containers:,} containers, four rows a frame",
            f"{rate:.0f} frames/s, longest {max(frames) * 1e3:.0f} ms",
            f"> {FRAMES} frames/s",
            "",
            rate > FRAMES,
        )
    return table


def _load(browser: Any, url: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#items a.item")
    found: dict[str, float] = tab.evaluate(LOADED)
    context.close()
    return found


def _weight(browser: Any, url: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#stage video")
    for panel in ("tokens", "container", "check"):
        tab.click(f"#tab-{panel}")
        tab.wait_for_selector(f".{panel}-panel :not(.waiting)")
    found: dict[str, float] = tab.evaluate(LOADED)
    context.close()
    return found


def _seek(browser: Any, url: str, seconds: int, count: int) -> list[float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#stage video")
    choose, found = random.Random(9), []
    for _ in range(count):
        asked = str(choose.randrange(seconds * 1_000_000))
        tab.fill("#pts", asked)
        tab.press("#pts", "Enter")
        found.append(float(tab.evaluate(SETTLED, asked)))
    context.close()
    return found


def _scroll(browser: Any, url: str) -> list[float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#items a.item")
    frames: list[float] = tab.evaluate(SCROLL)
    context.close()
    return frames
