"""Subtitles out of a bundle in Debian's Chromium, as a page's <track>."""

from __future__ import annotations

from pathlib import Path

from chromium import chromium
from harmony4.server.exporting.bundling import bundle_files
from needs import BUNNY, needs_chromium
from serving import running

VTT = """WEBVTT

STYLE
::cue { color: yellow }

00:01.000 --> 00:02.500 align:left
one

last
00:03.000 --> 00:04.000
<i>two</i>"""

SHOW = """url => new Promise((resolve, reject) => {
  const video = document.createElement("video"), track = document.createElement("track");
  track.src = url;
  track.kind = "subtitles";
  track.onload = () => resolve(
    [...track.track.cues].map(cue => [cue.id, cue.startTime, cue.endTime, cue.text]));
  track.onerror = () => reject(new Error("refused"));
  video.append(track);
  document.body.append(video);
  track.track.mode = "showing";
})"""


@needs_chromium
def test_a_track_of_subtitles(tmp_path: Path) -> None:
    (tmp_path / "subs.vtt").write_text(VTT, encoding="utf-8")
    bundle_files([BUNNY, tmp_path / "subs.vtt"], tmp_path / "film.h4mk")
    with running(tmp_path) as server, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{server.url}/")
        cues = page.evaluate(SHOW, "/video/range/1.vtt?name=film.h4mk")
        assert cues == [["", 1, 2.5, "one"], ["last", 3, 4, "<i>two</i>"]]
