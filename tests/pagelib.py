"""A library for the page's tests, with each kind of container, and what a person does with the page.

library(folder)    # bigbuckbunny, corrupt, masked, recovered, signed, sound, ten-hours: `.h4mk`
with page_on(browser, server.url) as page: ...

The fixtures `page_library` and `clips` make them once for all tests of a process, which only read them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKReader, recover
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, ROOT, program
from serving import Server

AXE: Final = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
SIGNING: Final = SigningKey.from_number(20261128)
MASTER: Final = MasterKey(bytes(range(60, 92)))
BAD_BLOCK: Final = 7
"""The block of `corrupt.h4mk` in which a bit is another one."""
LOST_BLOCKS: Final = (4, 7)
"""Blocks that `recovered.h4mk` has no more."""
HOURS: Final = 10
SCREENSHOTS: Final = ROOT / "tests" / "screenshots"
LOST = ("Failed to load resource",)
"""What Chromium logs of connections that break."""

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

PEM: Final = SIGNING.public.pem().decode()
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

TICKS = """() => new Promise((resolve) => {
  const canvas = document.querySelector("#ticks");
  const check = () => {
    const row = canvas.getContext("2d").getImageData(0, canvas.height - 3, canvas.width, 1).data;
    const found = new Set(row);
    if (found.size > 6) resolve();
    else setTimeout(check, 20);
  };
  check();
})"""
"""Wait until the keyframes are on the timeline."""

GREEN = """() => {
  const canvas = document.querySelector("#ticks");
  const row = canvas.getContext("2d").getImageData(0, canvas.height - 2, canvas.width, 1).data;
  const one = document.createElement("canvas").getContext("2d");
  one.fillStyle = getComputedStyle(canvas).getPropertyValue("--good");
  one.fillRect(0, 0, 1, 1);
  const good = one.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
  const columns = Array.from({ length: canvas.width }, (_, x) => x);
  return columns.filter((x) => row.slice(4 * x, 4 * x + 3).join() === good).map((x) => x / canvas.width);
}"""
"""Where the timeline is green, as parts of its width."""

LISTEN: Final = """(selector) => {
  window.said = [];
  const told = (node) => {
    const from = node.nodeType === 1 ? node : node.parentElement;
    const region = from?.closest("[role=status], [role=alert], [aria-live]");
    const text = region?.innerText.trim();
    if (text && window.said.at(-1) !== text) window.said.push(text);
  };
  const all = { subtree: true, childList: true, characterData: true, attributes: true };
  new MutationObserver((found) => found.forEach((one) => told(one.target)))
    .observe(document.querySelector(selector), all);
}"""
"""Note what live regions below an element say, as screen readers would."""
NUMBERS: Final = """() => Object.fromEntries([...document.querySelectorAll("#numbers div")].map(
  (one) => [one.dataset.fact, one.querySelector("dd").innerText]))"""
SETTLED: Final = f"""() => new Promise((resolve) => {{
  const check = () => Object.values(({NUMBERS})()).includes("…") ? setTimeout(check, 20) : resolve();
  check();
}})"""
"""Wait until nothing of a seek's numbers is still to come."""
UNTIL = """([selector, text]) => new Promise((resolve, reject) => {
  const said = () => document.querySelector(selector)?.innerText;
  const check = () => said()?.includes(text) ? resolve() : setTimeout(check, 20);
  setTimeout(() => reject(new Error(`${selector} says ${said()}, not ${text}`)), 30000);
  check();
})"""


def library(folder: Path) -> Path:
    """Make the containers below `folder`, and return it."""
    export(BUNNY, folder / "bigbuckbunny.h4mk", ExportOptions())
    clip = folder.parent / f"{folder.name}-clip.mp4"
    _film(clip, 20)
    export(clip, folder / "signed.h4mk", ExportOptions())
    sign_file(folder / "signed.h4mk", Signer(SIGNING, "a film", 1))
    export(clip, folder / "masked.h4mk", ExportOptions(mask=MaskSpec((MASTER,))))
    (folder / "corrupt.h4mk").write_bytes((folder / "signed.h4mk").read_bytes())
    flip(folder / "corrupt.h4mk", BAD_BLOCK)
    damaged = folder.parent / f"{folder.name}-damaged.h4mk"
    damaged.write_bytes((folder / "signed.h4mk").read_bytes())
    for block in LOST_BLOCKS:
        flip(damaged, block)
    recover(damaged, folder / "recovered.h4mk")
    sound = folder.parent / f"{folder.name}-tone.flac"
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:beep_factor=3:d=30", sound)
    export(sound, folder / "sound.h4mk", ExportOptions())
    ten_hours(folder / "ten-hours.h4mk")
    return folder


def ten_hours(path: Path) -> None:
    """18 000 keyframes, two seconds apart; a picture's grey says which second of its minute it is from."""
    minute, whole = path.with_suffix(".minute.mp4"), path.with_suffix(".mp4")
    _film(minute, 60)
    ffmpeg("-stream_loop", str(HOURS * 60 - 1), "-i", minute, "-c", "copy", "-movflags", "+faststart", whole)
    export(whole, path, ExportOptions())
    minute.unlink()
    whole.unlink()


def grey(seconds: float) -> float:
    """The grey of the picture at a time, as pixels have it."""
    return (40 + 3 * (int(seconds) % 60) - 16) * 255 / 219


def flip(path: Path, block: int) -> None:
    """Change a bit in a block's payload."""
    with H4MKReader(path) as reader:
        entry = reader.range_map(0)[block]
    with path.open("r+b") as file:
        file.seek(entry.position + entry.size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def film(path: Path, size: tuple[int, int], rate: str, lumas: Iterable[int], *arguments: str) -> None:
    """A film of grey pictures, one of each luma, encoded by ffmpeg with these arguments."""
    width, height = size
    colour = bytes([128]) * (width * height // 2)
    pictures = b"".join(bytes([luma]) * (width * height) + colour for luma in lumas)
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    ffmpeg(*raw, *arguments, path, given=pictures)


def _film(path: Path, seconds: int) -> None:
    """Five pictures a second, a keyframe each two seconds."""
    code = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-sc_threshold", "0", "-bf", "0")
    film(path, (160, 90), "5", [40 + 3 * (number // 5) for number in range(5 * seconds)], *code)


def ffmpeg(*arguments: str | Path, given: bytes = b"") -> None:
    """Run ffmpeg, with something to read."""
    found = program("ffmpeg")
    assert found is not None
    command = [found, "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, input=given, check=True, timeout=120)


@contextmanager
def page_on(browser: Browser, url: str, expected: Sequence[str] = (), **options: Any) -> Iterator[Page]:
    """A page that must log no error, throw nothing, open no dialog, and ask nobody but the server at `url`.

    So must all other pages and workers of its context. Logged errors that contain one of `expected` are
    answers to the page like any others.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    faults: list[str] = []

    def log(one: ConsoleMessage) -> None:
        if one.type == "error" and not any(text in one.text for text in expected):
            faults.append(one.text)

    def asked(one: Request) -> None:
        if not one.url.startswith(f"{url}/"):
            faults.append(one.url)

    def opened(page: Page) -> None:
        page.on("websocket", lambda one: faults.append(one.url))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))

    context.on("console", log)
    context.on("weberror", lambda one: faults.append(str(one.error)))
    context.on("request", asked)
    context.on("page", opened)
    page = context.new_page()
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert faults == []


def violations(page: Page, rule: str | None = None) -> list[str]:
    """What axe-core finds on the page as it stands, one line each; by one of its rules, or by all."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "(rule) => axe.run({ resultTypes: ['violations'], ...(rule && { runOnly: [rule] }) })", rule
    )
    return [
        f"{one['id']}: {node['target']} {json.dumps(node['any'][:1] and node['any'][0].get('message'))}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def says(page: Page, selector: str, text: str) -> None:
    """Wait until an element says so."""
    page.evaluate(UNTIL, [selector, text])


def sought(page: Page, pts: int) -> None:
    """Wait until the numbers of this seek are there, and then its frame."""
    page.wait_for_selector(f'#numbers:not([hidden])[data-asked="{pts}"]')
    page.evaluate(SHOWN)


def jump(page: Page, text: str, pts: int) -> dict[str, str]:
    """Type a time, press Enter, and give back the seek's numbers."""
    page.fill("#pts", text)
    page.press("#pts", "Enter")
    sought(page, pts)
    page.evaluate(SETTLED)  # the picture comes after the place
    found: dict[str, str] = page.evaluate(NUMBERS)
    return found


def open_container(page: Page, server: Server, name: str, at: str = "") -> None:
    page.goto(f"{server.url}/?name={quote(name)}{at}")
    page.wait_for_selector("#stage video, #stage audio, #stage .note")


def make_clips(folder: Path) -> dict[str, Path]:
    """A file of each of `CLIPS`: 320x180, and the grey level says the second: luma 40 + 30 · second."""
    found = {}
    for name, (extension, arguments) in CLIPS.items():
        found[name] = folder / f"{name}.{extension}"
        film(found[name], (320, 180), "25", [40 + 30 * (number // 25) for number in range(150)], *arguments)
    return found
