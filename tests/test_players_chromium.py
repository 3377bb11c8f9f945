"""Playlists in players that people use: Chromium's own HLS, hls.js, and Shaka Player for HLS and DASH.

Every picture shows its number (see `media_factory`), so a seek is right when the picture is. hls.js and Shaka
Player are in tests/vendor, as they were released.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from chromium import chromium
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.edits.edit import concat
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.keys import CONFIG
from media_factory import media
from needs import ROOT, needs_chromium, needs_ffmpeg
from processes import until
from serving import Server, running

pytestmark = [needs_ffmpeg, needs_chromium]

VENDOR: Final = ROOT / "tests" / "vendor"
HLS_JS: Final = VENDOR / "hls.js" / "hls.min.js"
SHAKA: Final = VENDOR / "shaka-player" / "shaka-player.compiled.js"
RATE: Final = 25
TARGETS: Final = (13.3, 3.1, 19.5, 0.0, 8.0)
"""Where to seek, s: within groups, back and forth, near the end, and onto a keyframe."""

OFF: Final = {
    ("muxed", "native"): 2,
    ("remuxed", "native"): 2,
    ("transport", "native"): 2,
    ("transport", "hls.js"): 2,
    ("transport", "shaka"): 2,
    ("joined", "hls.js"): 2,  # behind the joint
}
"""Pictures by which a player may be off: these take *decoding* times for the beginning (docs/API.md)."""

TAKEN_APART: Final = {
    "demuxed": "numbered.mp4",
    "late sound": "numbered-late-audio.mp4",
    "late pictures": "numbered-late-video.mp4",
}
SOURCES: Final = {
    "muxed": ("numbered-fragments.mp4",),
    "tracks": ("numbered-video.mp4", "numbered-audio.mp4", "second-audio.mp4"),
    "transport": ("numbered.ts",),
    "variable": ("numbered-variable.mp4",),
    "webm": ("numbered.webm",),
    "mp3": ("bare.mp3",),
}

CAPTIONS: Final = """WEBVTT

00:00:01.000 --> 00:00:04.000
first line

00:00:10.000 --> 00:00:14.500
second line
"""
CUES: Final = """
    () => [...document.querySelector("video").textTracks].flatMap(
      track => [...track.cues ?? []].map(cue => [cue.startTime, cue.endTime, cue.text])
    )
"""

START: Final = {
    "native": """
        url => { document.querySelector("video").src = url; }
    """,
    "hls.js": """
        url => {
          const player = new Hls({enableWorker: false});
          player.on(Hls.Events.ERROR, (event, data) => { if (data.fatal) errors.push(data.details); });
          player.loadSource(url);
          player.attachMedia(document.querySelector("video"));
          window.player = player;
        }
    """,
    "shaka": """
        async url => {
          const player = new shaka.Player();
          await player.attach(document.querySelector("video"));
          player.addEventListener("error", event => errors.push(String(event.detail.code)));
          window.player = player;
          await player.load(url);
        }
    """,
}

SEEK: Final = """
    async seconds => {
      const video = document.querySelector("video");
      const late = new Promise((_, no) => setTimeout(() => no(new Error("no end: " + errors)), 15000));
      const seeked = new Promise(yes => video.addEventListener("seeked", yes, {once: true}));
      video.currentTime = seconds;
      // Chromium's own HLS has lost a seek once in some hundred, on a busy machine; a person would try again.
      const again = setTimeout(() => { video.currentTime = seconds; }, 8000);
      await Promise.race([seeked, late]);
      clearTimeout(again);
    }
"""
NUMBER: Final = """
    () => {
      const video = document.querySelector("video");
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      const context = canvas.getContext("2d");
      context.drawImage(video, 0, 0);
      let number = 0;
      for (let bit = 0; bit < 16; bit++) {
        const x = (bit + 0.5) * canvas.width / 16;
        if (context.getImageData(x, canvas.height / 2, 1, 1).data[1] > 128) number += 1 << bit;
      }
      return number;
    }
"""


def check_seek(page: Page, seconds: float, wanted: set[int]) -> None:
    """Seek, and wait until one of these pictures shows: it may come a moment after the event."""
    page.evaluate(SEEK, seconds)
    until(lambda: page.evaluate(NUMBER) in wanted, f"picture {wanted} at {seconds} s", 5)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--autoplay-policy=no-user-gesture-required") as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    for name, sources in SOURCES.items():
        made = root / f"{name}.h4mk"
        if len(sources) == 1:
            export(media(sources[0]), made)
        else:
            bundle_files([media(source) for source in sources], made)
    for name, source in TAKEN_APART.items():
        bundle_files([media(source)], root / f"{name}.h4mk", demux=True)
    export(media("numbered.mp4"), root / "remuxed.h4mk", ExportOptions(remux=True))
    (root / "lines.vtt").write_text(CAPTIONS)
    bundle_files([media("numbered.mp4"), root / "lines.vtt"], root / "captioned.h4mk", demux=True)
    with ExitStack() as stack:
        twice = [stack.enter_context(H4MKReader(root / "demuxed.h4mk")) for _ in range(2)]
        concat(twice, root / "joined.h4mk")
    with running(root) as one:
        yield one


def started(browser: Browser, server: Server, player: str, url: str) -> Page:
    """As `opened`; it has its first picture or sound."""
    page = opened(browser, server, player, url)
    page.wait_for_function("document.querySelector('video').readyState >= 2", timeout=15_000)
    return page


def opened(browser: Browser, server: Server, player: str, url: str) -> Page:
    """A page on the server's origin in which a player knows its media."""
    page = browser.new_context(bypass_csp=True).new_page()
    page.goto(f"{server.url}/health")
    page.evaluate("() => { window.errors = []; document.body.innerHTML = '<video muted></video>'; }")
    if player == "hls.js":
        page.add_script_tag(path=HLS_JS)
    elif player == "shaka":
        page.add_script_tag(path=SHAKA)
    page.evaluate(START[player], url)
    page.wait_for_function("document.querySelector('video').readyState >= 1", timeout=15_000)
    return page


def address(server: Server, name: str, key: str) -> str:
    """What `/video/info` says."""
    url: str = server.get(f"/video/info?name={quote(name)}.h4mk").json[f"{key}_url"]
    return url


def expected(server: Server, name: str, seconds: float, off: int = 0) -> set[int]:
    """The pictures that may show at a time: on the boundary of two, either."""
    at = (seconds - first(server, name)) * RATE
    return {*range(max(0, int(at - 0.02) - off), max(0, int(at + 0.02)) + off + 1)}


def first(server: Server, name: str) -> float:
    """When the first picture shows, s."""
    with H4MKReader(server.app[CONFIG].library / f"{name}.h4mk") as reader:
        return reader.seek_table()[0].pts / 1e6


@pytest.mark.parametrize(
    ("name", "player", "key"),
    [
        *((name, player, "hls") for name in ("muxed", "tracks", "transport") for player in START),
        *((name, player, "hls") for name in ("remuxed", "demuxed") for player in START),
        *((name, "shaka", "dash") for name in ("muxed", "tracks", "webm", "remuxed", "demuxed")),
    ],
)
def test_seeks_land_on_the_right_picture(
    browser: Browser, server: Server, name: str, player: str, key: str
) -> None:
    page = started(browser, server, player, address(server, name, key))
    try:
        for seconds in TARGETS:
            # Before the first picture there is none to wait for.
            at = max(seconds, first(server, name))
            check_seek(page, at, expected(server, name, at, OFF.get((name, player), 0)))
        assert abs(page.evaluate("document.querySelector('video').duration") - 20) < 0.3 or name == "tracks"
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


@pytest.mark.parametrize(
    ("name", "player", "key"),
    [
        *(("late sound", player, "hls") for player in START),
        *(("late pictures", player, "hls") for player in START if player != "hls.js"),
        *((name, "shaka", "dash") for name in ("late sound", "late pictures")),
    ],
)
def test_tracks_that_start_late(browser: Browser, server: Server, name: str, player: str, key: str) -> None:
    """By 4.5 s: they stay where they were. (hls.js takes the first picture for the beginning.)"""
    page = opened(browser, server, player, address(server, name, key))
    try:
        for seconds in (13.3, 7.1, 19.5, 8.0):
            check_seek(page, seconds, expected(server, name, seconds))
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


@pytest.mark.parametrize(("player", "key"), [*((player, "hls") for player in START), ("shaka", "dash")])
def test_one_behind_the_other(browser: Browser, server: Server, player: str, key: str) -> None:
    """What `concat` makes: the media's clock begins anew in the middle, the container's goes on."""
    page = opened(browser, server, player, address(server, "joined", key))
    try:
        for seconds in (23.3, 3.1, 38.5, 20.5, 13.3):
            off = OFF.get(("joined", player), 0)
            check_seek(page, seconds, expected(server, "joined", seconds % 20, off))
        assert abs(page.evaluate("document.querySelector('video').duration") - 40) < 0.3
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


@pytest.mark.parametrize(("player", "key"), [("native", "hls"), ("hls.js", "hls"), ("shaka", "dash")])
def test_a_variable_rate(browser: Browser, server: Server, player: str, key: str) -> None:
    """The picture that shows is the last one whose time is not later, or its neighbour: Chromium takes the
    length of a picture from decoding times."""
    begin = first(server, "variable")
    kept = [n for n in range(20 * RATE) if n % 7 == 0 or n % 3 == 0]
    page = started(browser, server, player, address(server, "variable", key))
    try:
        for seconds in (13.3, 3.1, 18.5):
            at = (seconds - begin) * RATE
            row = max(number for number, n in enumerate(kept) if n <= at + 0.02)
            wanted = {*kept[row - 1 : row + 2]}
            check_seek(page, seconds, wanted)
    finally:
        page.context.close()


@pytest.mark.parametrize("player", ["hls.js", "shaka"])
def test_sounds_to_choose_from(browser: Browser, server: Server, player: str) -> None:
    """Both sounds are offered; the other one plays when it is chosen, and seeks go on to be right."""
    page = started(browser, server, player, address(server, "tracks", "hls"))
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    try:
        page.evaluate("document.querySelector('video').play()")
        page.wait_for_function("document.querySelector('video').currentTime > 0.2")
        if player == "hls.js":
            assert page.evaluate("player.audioTracks.length") == 2
            page.evaluate("player.audioTrack = 1")
            page.wait_for_function("player.audioTrack == 1")
        else:
            assert page.evaluate("player.getAudioTracks().length") == 2
            page.evaluate("player.selectAudioTrack(player.getAudioTracks().find(track => !track.active))")
        page.wait_for_function("document.querySelector('video').currentTime > 1.2")
        until(lambda: _fetched(page, fetched, "/video/range/2.m4a"), "the other sound is fetched")
        page.evaluate("document.querySelector('video').pause()")
        check_seek(page, 11.5, expected(server, "tracks", 11.5))
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


@pytest.mark.parametrize(("player", "key"), [("hls.js", "hls"), ("shaka", "hls"), ("shaka", "dash")])
def test_subtitles(browser: Browser, server: Server, player: str, key: str) -> None:
    """Every line at its time. (Chromium's own HLS knows no subtitles.)"""
    page = started(browser, server, player, address(server, "captioned", key))
    try:
        if player == "hls.js":
            page.evaluate("player.subtitleTrack = 0")
            page.evaluate("player.subtitleDisplay = true")
        else:
            page.evaluate("player.selectTextTrack(player.getTextTracks()[0])")
        check_seek(page, 11.0, expected(server, "captioned", 11.0))
        wanted = [[1, 4, "first line"], [10, 14.5, "second line"]]
        until(lambda: page.evaluate(CUES) == wanted, "both lines are there")
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


@pytest.mark.parametrize("player", ["hls.js", "shaka"])
def test_mp3(browser: Browser, server: Server, player: str) -> None:
    """Segments are the source's own bytes, without time stamps: it plays, and goes where it is sent.

    (Not in Chromium's own HLS.)
    """
    page = started(browser, server, player, address(server, "mp3", "hls"))
    try:
        page.evaluate(SEEK, 3.5)
        page.evaluate("document.querySelector('video').play()")
        page.wait_for_function("document.querySelector('video').currentTime > 4.2")
        assert page.evaluate("errors") == []
    finally:
        page.context.close()


def _fetched(page: Page, urls: list[str], part: str) -> bool:
    page.evaluate("null")  # lets what has happened be told
    return any(part in url for url in urls)
