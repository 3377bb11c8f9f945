"""The page in a browser: first paint, weight, seeks in ten hours, scrolling through ten thousand."""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.long import MINUTES, ten_hours
from bench.measure import ROOT, Place, Table, harmony4, median, percentile, run
from bench.servers import cores, ours
from chromium import chromium

PAINT, WEIGHT, PICTURE, FRAMES = 0.3, 150_000, 0.25, 50
PATIENCE = 20.0
"""Seconds for one seek."""
STANDS = 0.1
"""Seconds: no picture of the film stands longer."""
PLANS = ((20, MINUTES, 40, 10_000), (3, 10, 5, 1000), (1, 2, 2, 200))
"""Loads, minutes of video, seeks, containers."""
LOADED = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const all = performance.getEntriesByType("resource");
  const parts = all.filter((one) => one.name.includes("/static/"));
  const sum = (of, name) => of.reduce((total, one) => total + one[name], page[name]);
  return {
    paint: performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000,
    rows: window.rowsAt / 1000,
    wire: sum(parts, "transferSize"),
    plain: sum(parts, "decodedBodySize"),
    names: parts.map((one) => new URL(one.name).pathname.split("/").at(-1)),
    list: sum(all.filter((one) => !one.name.includes("/video/range")), "transferSize"),
  };
}"""
"""`transferSize` is what came, headers included."""
OPEN = """(name) => {
  history.pushState(null, "", `?name=${name}`);
  dispatchEvent(new PopStateEvent("popstate"));
}"""
"""Go to another container in the same page, which keeps what it has loaded."""
WORKER = "fetch('static/unmask-worker.js', { cache: 'reload' }).then((answer) => answer.text())"
"""What a page's service worker is made of is in no entry of the page's own; this puts it there."""
ROWS = """new MutationObserver((_, observer) => {
  if (!document.querySelector("#items a.item")) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => (window.rowsAt = performance.now())));
}).observe(document, { subtree: true, childList: true });"""
"""Note when the frame with the library's first rows is over."""
SCROLL = """() => new Promise((resolve) => {
  const box = document.querySelector("#library");
  const frames = [];
  let last = null;
  let bare = 0;
  const step = (now) => {
    if (last !== null) frames.push((now - last) / 1000);
    last = now;
    const { top, bottom } = box.getBoundingClientRect();
    const middle = document.elementFromPoint(60, (top + bottom) / 2);
    bare += !middle?.closest("a.item");
    box.scrollTop += 240;
    if (frames.length < 180) requestAnimationFrame(step);
    else resolve([frames, bare]);
  };
  requestAnimationFrame(step);
})"""
TWICE = """() => new Promise((resolve) => {
  const check = () => window.rowsAt ? resolve() : setTimeout(check, 5);
  check();
})"""
SETTLED = """([asked, patience]) => new Promise((resolve, reject) => {
  const numbers = document.querySelector("#numbers");
  setTimeout(() => reject(new Error(`no picture of ${asked}: ${numbers.innerText}`)), patience * 1000);
  const check = () => {
    if (numbers.dataset.asked === asked && numbers.innerText.match(/picture after\\n(\\d+) ms/)) {
      resolve([Number(numbers.dataset.ms) / 1000, Number(numbers.dataset.shown)]);
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
        key = _sounds(library, home)
        for number in range(containers - 3):
            (library / f"{number:05}.h4mk").hardlink_to(library / "long.h4mk")
        server = stack.enter_context(ours(library, home, pair[0] if pair is not None else 0))
        browser = stack.enter_context(chromium("--autoplay-policy=no-user-gesture-required"))
        url = f"http://127.0.0.1:{server.port}/"
        found = [load(browser, url) for _ in range(loads)]
        paints = [one["paint"] for one in found]
        table.add(
            f"first contentful paint, {containers:,} containers",
            f"{median(paints) * 1e3:.0f} ms, worst {max(paints) * 1e3:.0f} ms",
            f"< {PAINT * 1e3:.0f} ms",
            f"its first rows after {median([one['rows'] for one in found]) * 1e3:.0f} ms",
            median(paints) < PAINT,
        )
        whole = _weight(browser, f"{url}?name=long.h4mk", key)
        table.add(
            "the page over the wire: when it opens, and with every panel",
            f"{found[0]['wire'] / 1000:.0f} KB, {whole['wire'] / 1000:.0f} KB",
            f"< {WEIGHT // 1000} KB",
            f"with headers, and with what masked media need; {found[0]['list'] / 1000:.0f} KB with the list; "
            f"{whole['plain'] / 1000:.0f} KB without gzip",
            whole["wire"] < WEIGHT,
        )
        shown = seek(browser, f"{url}?name=long.h4mk", minutes * 60, seeks)
        table.add(
            f"a seek to a random time in {minutes / 60:.3g} hours, from the key to the picture",
            f"{median(shown) * 1e3:.0f} ms, p90 {percentile(shown, 0.9) * 1e3:.0f} ms",
            f"< {PICTURE * 1e3:.0f} ms",
            "640×360, a keyframe each 2 s",
            median(shown) < PICTURE,
        )
        frames, bare = _scroll(browser, url)
        rate = len(frames) / sum(frames)
        table.add(
            f"scrolling through {containers:,} containers, four rows a frame",
            f"{rate:.0f} frames/s, longest {max(frames) * 1e3:.0f} ms",
            f"> {FRAMES} frames/s",
            f"rows that were still to come in {bare / (len(frames) + 1):.0%} of the frames",
            rate > FRAMES,
        )
    return table


def _sounds(library: Path, home: Path) -> str:
    """A sound and a masked one, for the modules that only they need; the key of the latter."""
    sound, key = home / "tone.flac", home / "keys" / "page.key"
    run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "sine=440:d=5", sound])
    run([harmony4(), "export", "-q", sound, "-o", library / "sound.h4mk"])
    key.parent.mkdir(mode=0o700)
    run([harmony4(), "keygen", "-q", "-o", key])
    run([harmony4(), "mask", "-q", library / "sound.h4mk", "-o", library / "veiled.h4mk", "--key-file", key])
    return key.read_text(encoding="utf-8").strip()


def load(browser: Any, url: str) -> dict[str, Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.add_init_script(ROWS)
    tab.goto(url)
    tab.wait_for_selector("#items a.item")
    tab.evaluate(TWICE)
    found: dict[str, Any] = tab.evaluate(LOADED)
    context.close()
    return found


def _weight(browser: Any, url: str, key: str) -> dict[str, Any]:
    """Raises RuntimeError where a part of the page was not needed for any of it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#stage video")
    for panel in ("tokens", "container", "check"):
        tab.click(f"#tab-{panel}")
        tab.wait_for_selector(f".{panel}-panel :not(.waiting)")
    tab.click("#tab-tokens")
    tab.evaluate(OPEN, "sound.h4mk")
    tab.wait_for_selector("canvas.spectrum")
    tab.evaluate(OPEN, "veiled.h4mk")
    tab.fill("#key", key)
    tab.press("#key", "Enter")
    tab.wait_for_selector("#stage audio")
    tab.evaluate(WORKER)
    found: dict[str, Any] = tab.evaluate(LOADED)
    context.close()
    parts = {one.name for one in (ROOT / "static").iterdir() if one.suffix in {".js", ".css"}}
    if left := parts - set(found["names"]):
        raise RuntimeError(f"the page did not load {', '.join(sorted(left))}")
    return found


def seek(browser: Any, url: str, seconds: int, count: int) -> list[float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#stage video")
    choose, found = random.Random(9), []
    for _ in range(count):
        asked = choose.randrange(seconds * 1_000_000)
        tab.fill("#pts", str(asked))
        tab.press("#pts", "Enter")
        took, shown = tab.evaluate(SETTLED, [str(asked), PATIENCE])
        if not -1e-6 <= asked / 1e6 - shown <= STANDS:
            raise RuntimeError(f"a seek to {asked} µs showed the picture of {shown} s")
        found.append(float(took))
    context.close()
    return found


def _scroll(browser: Any, url: str) -> tuple[list[float], int]:
    """Seconds of each frame, and in how many the middle of the list was not there yet."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("#items a.item")
    frames, bare = tab.evaluate(SCROLL)
    context.close()
    return frames, bare
