"""Sound in every format, from the file through a container to players over HTTP."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator

import av
import pytest

from harmony4.server.exporting.ingest import export
from harmony4.tokenize.video import VideoTokenizer
from media_factory import media
from needs import needs_espeak, needs_ffmpeg
from serving import Server, running

pytestmark = [needs_ffmpeg, needs_espeak]

SOUNDS = {
    "tone.mp3": ("audio/mpeg", "mp3"),
    "bare.mp3": ("audio/mpeg", "mp3"),
    "cover.mp3": ("audio/mpeg", "mp3"),
    "tone.flac": ("audio/flac", "flac"),
    "tone.wav": ("audio/wav", "wav"),
    "speech.wav": ("audio/wav", "wav"),
    "opus.ogg": ("audio/ogg", "ogg"),
    "vorbis.ogg": ("audio/ogg", "ogg"),
    "audio.m4a": ("audio/mp4", "m4a"),
    "audio.webm": ("audio/webm", "webm"),
    "audio.ts": ("video/mp2t", "ts"),
}
each_sound = pytest.mark.parametrize("name", SOUNDS)
SECOND = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("library")
    for name in SOUNDS:
        export(media(name), folder / f"{name}.h4mk")
    with running(folder) as found:
        yield found


def decoded(place: str) -> str:
    """A digest of all samples and their times."""
    digest = hashlib.sha256()
    with av.open(place) as sound:
        for frame in sound.decode(audio=0):
            digest.update(json.dumps([frame.pts, frame.samples]).encode())
            digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


@each_sound
def test_info_names_what_it_is(name: str, server: Server) -> None:
    info = server.get(f"/video/info?name={name}.h4mk").json
    facts = info["tracks"][0]
    kind, extension = SOUNDS[name]
    assert (facts["kind"], facts["media_type"], facts["timing"]) == ("audio", kind, "demux")
    assert f".{extension}?" in facts["range_url"]
    answer = server.request("HEAD", facts["range_url"])
    assert answer.headers["Content-Type"] == kind
    assert int(answer.headers["Content-Length"]) == media(name).stat().st_size
    with av.open(media(name)) as sound:
        assert sound.duration is not None
        assert abs(info["duration"] - sound.duration) < SECOND // 2  # FFmpeg estimates some of them


@each_sound
def test_it_sounds_the_same_over_http(name: str, server: Server) -> None:
    target = server.get(f"/video/info?name={name}.h4mk").json["tracks"][0]["range_url"]
    assert decoded(server.url + target) == decoded(str(media(name)))


@each_sound
def test_keyframes_are_at_least_a_second_apart(name: str, server: Server) -> None:
    """Each packet of sound is a keyframe; one block a packet would be all index and no sound."""
    times = server.get(f"/video/keyframes?name={name}.h4mk").json["pts"]
    assert times
    assert all(later - earlier >= SECOND for earlier, later in itertools.pairwise(times))
    for asked in (0, 1_500_000, 3 * SECOND, 10**9):
        answer = server.get(f"/video/seek?name={name}.h4mk&pts={asked}")
        if asked < times[0]:
            assert answer.problem == "not-found"
        else:
            assert answer.json["pts"] == max(time for time in times if time <= asked)


@each_sound
def test_tokens_cover_every_byte(name: str) -> None:
    source = media(name).read_bytes()
    records = [token.record for token in VideoTokenizer().tokens(source)]
    ends = itertools.accumulate(one.size for one in records)
    assert [one.offset + one.size for one in records] == list(ends)
    assert sum(one.size for one in records) == len(source)
    assert all(a.end == b.pts for a, b in itertools.pairwise(records))
