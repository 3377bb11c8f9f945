"""Video in every format, from the file through a container to players over HTTP."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator

import av
import av.error
import pytest

from harmony4.server.exporting.ingest import export
from media_factory import key_times, media
from needs import needs_ffmpeg, program
from serving import Server, running

pytestmark = needs_ffmpeg

VIDEOS = (
    *("plain.mp4", "opengop.mp4", "moovend.mp4", "fragmented.mp4"),
    *("plain.mkv", "live.mkv", "plain.webm", "live.webm"),
    *("plain.ts", "opengop.ts", "theora.ogv"),
)
SECOND = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("library")
    for name in VIDEOS:
        export(media(name), folder / f"{name}.h4mk")
    with running(folder) as found:
        yield found


def track(server: Server, name: str) -> dict[str, object]:
    found: dict[str, object] = server.get(f"/video/info?name={name}.h4mk").json["tracks"][0]
    return found


def first_frame(place: str) -> bytes:
    """What ffmpeg shows of 2 s on: the digest of the decoded picture, with its size and times."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", "-ss", "2", "-i", place]
    command += ["-map", "0:v:0", "-frames:v", "1", "-f", "framemd5", "-"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("name", VIDEOS)
def test_ffmpeg_seeks_in_the_stream_as_in_the_file(name: str, server: Server) -> None:
    shown = first_frame(f"{server.url}{track(server, name)['range_url']}")
    assert shown == first_frame(str(media(name)))
    assert shown.count(b"\n0,") == 1


@pytest.mark.parametrize("name", VIDEOS)
def test_info_names_what_it_is(name: str, server: Server) -> None:
    facts = track(server, name)
    assert (facts["kind"], facts["timing"]) == ("video", "demux")
    answer = server.request("HEAD", str(facts["range_url"]))
    assert answer.headers["Content-Type"] == facts["media_type"]
    assert int(answer.headers["Content-Length"]) == media(name).stat().st_size


@pytest.mark.parametrize("name", VIDEOS)
def test_seek_finds_the_keyframe(name: str, server: Server) -> None:
    """The keyframes are those that ffprobe sees, one second apart in all of these."""
    listed = server.get(f"/video/keyframes?name={name}.h4mk").json
    times = key_times(media(name))
    apart = [round((time - times[0]) * SECOND) for time in times]
    assert len(listed["pts"]) == len(times)
    for pts, away in zip(listed["pts"], apart, strict=True):
        assert abs(pts - listed["pts"][0] - away) <= 1000  # Matroska counts in milliseconds
    for asked in (0, 2 * SECOND, 2_500_000, 10**9):
        answer = server.get(f"/video/seek?name={name}.h4mk&pts={asked}")
        if asked < listed["pts"][0]:  # sound begins before the picture does
            assert answer.problem == "not-found"
        else:
            assert answer.json["pts"] == max(pts for pts in listed["pts"] if pts <= asked)


def pictures(data: bytes) -> list[bytes]:
    """The pictures that decode, as a player gets them: it skips what it cannot decode yet."""
    found = []
    with av.open(io.BytesIO(data)) as part:
        for packet in part.demux(video=0):
            try:
                found += [frame.to_ndarray().tobytes() for frame in packet.decode()]
            except av.error.InvalidDataError:
                continue  # the rest of a group before, in the same Cluster, or a leading picture
    return found


# ffmpeg writes H.264's parameter sets into MPEG-TS only before IDR pictures, and an open GOP begins with
# another kind: a group of opengop.ts has the transport's framing, but no decoder can start in it, here or in
# the source.
@pytest.mark.parametrize("name", [name for name in VIDEOS if name != "opengop.ts"])
def test_a_group_plays_alone_where_the_container_says_so(name: str, server: Server) -> None:
    """The header's bytes and one group's, fetched by ranges, decode, the keyframe's picture too."""
    facts = track(server, name)
    if not facts["self_framing"]:
        assert name in {"plain.mp4", "opengop.mp4", "moovend.mp4"}
        return
    found = server.get(f"/video/seek?name={name}.h4mk&pts={3 * SECOND}").json
    pieces = [*found["header_ranges"], (found["offset"], found["size"])]
    data = b"".join(
        server.get(found["range_url"], Range=f"bytes={offset}-{offset + size - 1}").body
        for offset, size in pieces
    )
    shown = pictures(data)
    with av.open(media(name)) as whole:
        stream = whole.streams.video[0]
        starts = [one.start_time * one.time_base for one in whole.streams if one.start_time is not None]
        for frame in whole.decode(video=0):
            assert frame.pts is not None
            time = frame.pts * stream.time_base - min(starts)
            if frame.key_frame and abs(time * SECOND - found["pts"]) < 1000:
                assert frame.to_ndarray().tobytes() in shown
                return
    raise AssertionError(f"no keyframe of the source is at {found['pts']} µs")
