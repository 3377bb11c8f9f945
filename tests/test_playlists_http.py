"""`/video/hls` and `/video/dash`: what is in them, read by other people's parsers, ffmpeg and mpv."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import av
import m3u8
import pytest
from mpegdash.parser import MPEGDASHParser

from harmony4.h4mk import H4MKBuilder, H4MKReader, Step, TrackInfo
from harmony4.server.exporting.bundling import bundle_files
from harmony4.server.exporting.ingest import export
from harmony4.server.keys import CONFIG, PLAYLISTS
from harmony4.server.players import dash, hls
from harmony4.server.players.presentation import DASH_TYPES, HLS_TYPES, Rendition, renditions
from harmony4.server.players.routes import Playlists, Text
from harmony4.server.players.segments import LEAST, MOST, find_segments
from media_factory import media
from needs import BUNNY, ORIGINAL, needs_ffmpeg, needs_mpv, program
from processes import until
from serving import LOOPS, Server, running

MP4: Final = TrackInfo(codec="h264", kind="video", media_type="video/mp4", self_framing=True, timing="demux")
SOUND: Final = TrackInfo(codec="aac", kind="audio", media_type="audio/mp4", self_framing=True, timing="demux")
CAPTIONS: Final = TrackInfo(codec="webvtt", kind="text", media_type="text/vtt", timing="demux", lang="de")
SOURCES: Final = {
    "fragmented": ["fragmented.mp4"],
    "tracks": ["numbered-video.mp4", "numbered-audio.mp4", "second-audio.mp4"],
    "transport": ["broadcast.ts"],
    "numbered": ["numbered.ts"],
    "muxed": ["numbered-fragments.mp4"],
    "pictures": ["numbered-video.mp4"],
    "wrap": ["wrap.ts"],
    "webm": ["numbered.webm"],
    "mp3": ["bare.mp3"],
    "m2ts": ["plain.m2ts"],
}


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    for name, sources in SOURCES.items():
        bundle_files([media(source) for source in sources], root / f"{name}.h4mk")
    export(BUNNY, root / "plain.h4mk")
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    with running(root, loop=request.param) as one:
        yield one


def reader(server: Server, name: str) -> H4MKReader:
    return H4MKReader(server.app[CONFIG].library / f"{name}.h4mk")


def text(server: Server, url: str) -> str:
    answer = server.get(url)
    assert answer.status == 200, answer
    return answer.body.decode()


def built(tracks: Sequence[tuple[TrackInfo, list[int], int]], *, steps: Sequence[Step] = ()) -> bytes:
    """A container of tracks with a keyframe at each of these times, µs, and where they end."""
    events = [
        (pts, number, b"%d %d" % (number, pts))
        for number, (_, times, _) in enumerate(tracks)
        for pts in times
    ]
    events += [(end, number, b"") for number, (_, times, end) in enumerate(tracks) if times]
    with H4MKBuilder.in_memory([info for info, _, _ in tracks]) as builder:
        for pts, number, payload in sorted(events, key=lambda one: one[:2]):
            if payload:
                builder.add_block(payload, pts, track=number, key=True)
            else:
                builder.end_track(number, pts)
        builder.finish(steps=steps)
        return builder.getvalue()


# -- by other people's parsers


@needs_ffmpeg
@pytest.mark.parametrize("name", ["fragmented", "tracks", "transport", "wrap", "mp3"])
def test_hls_says_what_the_tables_say(server: Server, name: str) -> None:
    """Every segment is a whole run of groups; together they are the stream, its times and its length."""
    url = server.get(f"/video/info?name={name}.h4mk").json["hls_url"]
    master = m3u8.loads(text(server, url))
    assert master.is_variant
    listed = [one.uri for one in (*master.playlists, *master.media) if one.uri]
    with reader(server, name) as container:
        assert len(set(listed)) == len(container.tracks)
        for address in listed:
            track = int(re.findall(r"/(\d+)\.m3u8", address)[0])
            one = m3u8.loads(text(server, address))
            assert one.is_endlist and one.playlist_type == "vod" and one.media_sequence == 0
            assert round(max(s.duration for s in one.segments)) <= one.target_duration
            begin = container.seek_table(track)[0].offset
            if one.segment_map:
                assert one.segment_map[0].byterange == f"{begin}@0"
            pts, spoken = Fraction(container.seek_table(track)[0].pts, 1_000_000), 0
            for segment in one.segments:
                size, offset = map(int, segment.byterange.split("@"))
                found = container.seek_table(track).seek(
                    max(int(pts * 1_000_000), container.seek_table(track)[0].pts)
                )
                assert found is not None and found.offset == offset == begin + spoken
                spoken += size
                pts += Fraction(str(segment.duration))
                assert parse_qs(urlsplit(segment.uri).query)["v"] == [(container.etag(track) or "")[:16]]
            assert begin + spoken == container.stream_size(track)
            assert int(pts * 1_000_000) == container.end(track)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["fragmented", "tracks", "webm"])
def test_dash_says_what_the_tables_say(server: Server, name: str) -> None:
    body = text(server, server.get(f"/video/info?name={name}.h4mk").json["dash_url"])
    manifest = MPEGDASHParser.parse(body)
    assert manifest.type == "static"
    sets = manifest.periods[0].adaptation_sets
    with reader(server, name) as container:
        assert len(sets) == len(container.tracks)
        for one in (representation for each in sets for representation in each.representations):
            track = int(one.id)
            found = find_segments(container, track)
            (listed,) = one.segment_lists
            spans = [tuple(map(int, url.media_range.split("-"))) for url in listed.segment_urls]
            assert found is not None
            assert [first for first, _ in spans] == found.offsets.tolist()
            assert [last - first + 1 for first, last in spans] == found.sizes.tolist()
            assert listed.initializations[0].range == f"0-{spans[0][0] - 1}"
    # The schema's order of elements, and no attribute that is empty.
    names = [element.tag.rpartition("}")[2] for element in ET.fromstring(body).iter()]
    assert names.index("Initialization") < names.index("SegmentTimeline") < names.index("SegmentURL")
    assert '=""' not in body


@needs_ffmpeg
def test_codecs_and_sizes(server: Server) -> None:
    """What a player needs to decide whether it can play, before it fetches media."""
    (variant,) = m3u8.loads(text(server, "/video/hls?name=tracks.h4mk")).playlists
    assert variant.stream_info.codecs == "avc1.64000B,mp4a.40.2"
    average = variant.stream_info.average_bandwidth
    assert variant.stream_info.resolution == (320, 96)
    assert [one.channels for one in variant.media] == ["2", "2"]
    (variant,) = m3u8.loads(text(server, "/video/hls?name=transport.h4mk")).playlists
    assert re.fullmatch(r"avc1\.[0-9A-F]{6},mp4a\.40\.2", variant.stream_info.codecs)
    with reader(server, "tracks") as container:
        video, *sounds = renditions(container, "tracks.h4mk", HLS_TYPES)
        assert video.average == -(-(container.tracks[0].bytes - video.init) * 8 // 20)
    assert average == video.average + max(one.average for one in sounds)
    manifest = text(server, "/video/dash?name=webm.h4mk")
    assert 'mimeType="video/webm"' in manifest and 'codecs="vp8"' in manifest


# -- as HTTP


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["hls", "dash"])
def test_http(server: Server, kind: str) -> None:
    plain = server.get(f"/video/{kind}?name=tracks.h4mk")
    path, media_type = {
        "hls": ("/video/hls/index.m3u8", "application/vnd.apple.mpegurl"),
        "dash": ("/video/dash/manifest.mpd", "application/dash+xml"),
    }[kind]
    assert plain.headers["Content-Type"] == media_type
    assert plain.headers["Cache-Control"] == "no-cache"
    named = server.get(f"{path}?name=tracks.h4mk")
    assert (named.body, named.headers["ETag"]) == (plain.body, plain.headers["ETag"])
    tag = plain.headers["ETag"]
    again = server.get(f"{path}?name=tracks.h4mk", If_None_Match=tag)
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert server.get(f"{path}?name=tracks.h4mk", If_Match='"x"').problem == "precondition"
    url = server.get("/video/info?name=tracks.h4mk").json[f"{kind}_url"]
    assert url.startswith(path) and server.get(url).headers["Cache-Control"] == "no-cache"
    assert server.get(re.sub("v=.*", "v=feedfeedfeedfeed", url)).status == 410
    head = server.request("HEAD", path + "?name=tracks.h4mk")
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", tag)
    assert server.get(f"/video/{kind}?name=none.h4mk").status == 404
    assert server.get(f"/video/{kind}").status == 400


@needs_ffmpeg
def test_what_cannot_be_played_so(server: Server) -> None:
    """Plain MP4, formats that HLS or DASH does not know, files of the original implementation."""
    for url in (
        *("/video/hls?name=plain.h4mk", "/video/dash?name=plain.h4mk", "/video/hls/0.m3u8?name=plain.h4mk"),
        *("/video/hls?name=m2ts.h4mk", "/video/hls/0.m3u8?name=m2ts.h4mk"),
        *("/video/hls?name=webm.h4mk", "/video/dash?name=transport.h4mk", "/video/hls?name=original.h4mk"),
    ):
        answer = server.get(url)
        assert (answer.status, answer.problem) == (409, "self-framing"), url
        assert "export --remux" in answer.json["detail"]
    for name in ("plain", "original"):
        assert not {"hls_url", "dash_url"} & set(server.get(f"/video/info?name={name}.h4mk").json)
    assert server.get("/video/hls/7.m3u8?name=tracks.h4mk").status == 404
    assert server.get("/video/hls/1.m3u8?name=tracks.h4mk&track=0").status == 400


def test_kept_while_there_is_room() -> None:
    kept = Playlists()
    kept.put("first", Text(bytes(20 * 2**20), "a"))
    kept.put("second", Text(bytes(10 * 2**20), "b"))
    assert kept.get("first") is not None
    kept.put("third", Text(bytes(10 * 2**20), "c"))
    assert [kept.get(one) is not None for one in ("first", "second", "third")] == [True, False, True]
    kept.put("first", Text(b"", "d"))
    kept.put("second", Text(bytes(20 * 2**20), "b"))
    assert [kept.get(one) is not None for one in ("first", "second", "third")] == [True, True, True]
    kept.put("huge", Text(bytes(33 * 2**20), "e"))
    assert kept.get("huge") is None


def test_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for it at a time, and whoever leaves; errors are told to all, and not kept."""
    (tmp_path / "a.h4mk").write_bytes(built([(MP4, [0, 2_000_000], 4_000_000)]))
    (tmp_path / "none.h4mk").write_bytes(built([(CAPTIONS, [0], 1)]))
    made: list[str] = []
    go_on = threading.Event()
    write = hls.media_playlist

    def slow(one: Rendition) -> str:
        made.append(one.url)
        assert go_on.wait(20)
        return write(one)

    monkeypatch.setattr(hls, "media_playlist", slow)
    url = "/video/hls/0.m3u8?name=a.h4mk"
    with running(tmp_path) as server:
        with socket.create_connection(server.address) as first:
            first.sendall(f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: bool(made), "the first request is at work")
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(server.get, url) for _ in range(8)]
            until(lambda: len(server.app[PLAYLISTS]._making) == 1, "others wait")
            go_on.set()
            assert len({answer.result().body for answer in answers}) == 1
        assert len(made) == 1
        assert server.app[PLAYLISTS]._making == {}
        for _ in range(2):
            assert server.get("/video/hls?name=none.h4mk").problem == "self-framing"


def test_what_was_replaced_is_made_anew(tmp_path: Path) -> None:
    """Also where the entity tag is the same: it says nothing of SEEK."""
    data = built([(MP4, [0, 2_000_000, 4_000_000], 6_000_000)])
    (tmp_path / "a.h4mk").write_bytes(with_seek(data, 2, 5_000_000, 12))
    with running(tmp_path) as server:
        before = server.get("/video/hls/0.m3u8?name=a.h4mk")
        (tmp_path / "new").write_bytes(data)
        (tmp_path / "new").replace(tmp_path / "a.h4mk")
        after = server.get("/video/hls/0.m3u8?name=a.h4mk")
    assert [durations(one.body.decode()) for one in (before, after)] == [
        *([2_000_000, 3_000_000, 1_000_000], [2_000_000] * 3)
    ]


def chunk(data: bytes, tag: str) -> tuple[int, bytes]:
    """Where the first chunk of that tag begins, and its payload."""
    with H4MKReader(data) as container:
        found = next(one for one in container.chunks() if one.tag == tag)
    return found.offset, data[found.offset + 12 : found.offset + 12 + found.size]


def with_chunk(data: bytes, tag: str, payload: bytes) -> bytes:
    """The file with another payload of the same length, and its CRC."""
    at, old = chunk(data, tag)
    assert len(old) == len(payload)
    return data[: at + 8] + zlib.crc32(payload).to_bytes(4) + payload + data[at + 12 + len(payload) :]


def with_seek(data: bytes, number: int, pts: int, offset: int) -> bytes:
    """The file with another entry in its SEEK."""
    _, seek = chunk(data, "SEEK")
    at = 4 + 16 * number
    return with_chunk(data, "SEEK", seek[:at] + pts.to_bytes(8) + offset.to_bytes(8) + seek[at + 16 :])


@pytest.mark.parametrize("offset", [2**62, 7, 2**63 - 1])
def test_seek_tables_that_lie(tmp_path: Path, offset: int) -> None:
    """No player is sent where no block begins, and one damaged track does not stop the others."""
    data = built([(MP4, [0, 2_000_000], 4_000_000), (SOUND, [0, 2_000_000], 4_000_000)])
    (tmp_path / "a.h4mk").write_bytes(with_seek(data, 1, 2_000_000, offset))
    alone = built([(MP4, [0, 2_000_000], 4_000_000)])
    (tmp_path / "alone.h4mk").write_bytes(with_seek(alone, 1, 2_000_000, offset))
    with running(tmp_path) as server:
        assert server.get("/video/hls/0.m3u8?name=a.h4mk").problem == "seal"
        master_list = m3u8.loads(text(server, "/video/hls?name=a.h4mk"))
        assert [one.uri.partition("?")[0] for one in master_list.playlists] == ["/video/hls/1.m3u8"]
        assert '<Representation id="1"' in text(server, "/video/dash?name=a.h4mk")
        for kind in ("hls", "dash"):
            assert server.get(f"/video/{kind}?name=alone.h4mk").problem == "seal"


def test_range_maps_that_lie(tmp_path: Path) -> None:
    """Sums of what stands in them must not overflow into something that looks sound."""
    data = built([(MP4, [0, 2_000_000], 4_000_000)])
    _, rmap = chunk(data, "RMAP")
    for value in (2**63 - 1, 2**63 - 4, len(data)):
        lying = rmap[:-24] + value.to_bytes(8) + rmap[-16:]
        assert len(lying) == len(rmap)
        (tmp_path / "a.h4mk").write_bytes(with_chunk(data, "RMAP", lying))
        with running(tmp_path) as server:
            for wanted in ("bytes=3-", "bytes=0-"):
                answer = server.get("/video/range?name=a.h4mk", Range=wanted)
                assert (answer.status, answer.problem) == (500, "seal"), value


# -- what is in them


def playlist(data: bytes, track: int = 0) -> str:
    with H4MKReader(data) as container:
        (one,) = [one for one in renditions(container, "a.h4mk", HLS_TYPES) if one.track == track]
        return hls.media_playlist(one)


def master(data: bytes) -> str:
    with H4MKReader(data) as container:
        return hls.master_playlist(renditions(container, "a.h4mk", HLS_TYPES), lambda track: f"{track}.m3u8")


def durations(written: str) -> list[int]:
    return [round(Fraction(one) * 1_000_000) for one in re.findall(r"#EXTINF:([\d.]+),", written)]


def test_short_groups_share_a_segment() -> None:
    """A film of nothing but keyframes: 25 of them in a second."""
    frame = 40_000
    data = built([(MP4, [n * frame for n in range(100)], 100 * frame)])
    assert durations(playlist(data)) == [920_000] * 4 + [320_000]
    assert all(one >= LEAST for one in durations(playlist(data))[:-1])


def test_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist stays one that can be read; tables that are read by pages give the same one."""
    times = [n * 10_000_000 for n in range(60_000)]
    data = built([(MP4, times, 600_000_000_000)])
    found = durations(playlist(data))
    assert len(found) <= MOST and set(found) == {20_000_000}
    from harmony4.h4mk import seek

    whole = playlist(data)
    monkeypatch.setattr(seek.SeekTable, "columns", lambda self: None)
    assert playlist(data) == whole


def test_a_track_that_starts_late() -> None:
    """Its first segment begins at 0, so that the times of all tracks are the same ones."""
    data = built([(MP4, [0, 2_000_000], 4_000_000), (SOUND, [3_000_000, 5_000_000], 7_500_000)])
    assert durations(playlist(data, 1)) == [5_000_000, 2_500_000]
    assert "#EXT-X-TARGETDURATION:5\n" in playlist(data, 1)
    with H4MKReader(data) as container:
        manifest = dash.manifest(renditions(container, "a.h4mk", DASH_TYPES))
    assert '<S t="3000000" d="2000000"/>' in manifest
    assert 'mediaPresentationDuration="PT7.500000S"' in manifest


def test_a_clock_that_jumps() -> None:
    """The segment after a jump says so; so does a short one, which would have shared its segment."""
    times = [0, 2_000_000, 2_500_000, 4_000_000]
    data = built([(MP4, times, 6_000_000)], steps=[Step(2_500_000, 7)])
    lines = playlist(data).splitlines()
    assert durations(playlist(data)) == [2_000_000, 500_000, 1_500_000, 2_000_000]
    mark = lines.index("#EXT-X-DISCONTINUITY")
    assert lines[mark + 1] == "#EXTINF:1.500000," and lines.count("#EXT-X-DISCONTINUITY") == 1
    # What `bundle` says of a track that begins earlier on its own clock is no jump (H4MK 17.4).
    assert "DISCONTINUITY" not in playlist(built([(MP4, times, 6_000_000)], steps=[Step(0, 5)]))


def test_periods() -> None:
    """Where the clock jumps, in all tracks or in one, DASH begins a period with another offset."""
    steps = [Step(4_000_000, 3_900_000, 0), Step(4_010_000, 3_900_000, 1), Step(8_000_000, -5_000_000, 0)]
    video, sound = [0, 2_000_000, 4_000_000, 6_000_000, 8_000_000], [0, 2_000_000, 4_010_000, 6_000_000]
    data = built([(MP4, video, 10_000_000), (SOUND, sound, 10_000_000)], steps=steps)
    with H4MKReader(data) as container:
        written = dash.manifest(renditions(container, "a.h4mk", DASH_TYPES))
    periods = MPEGDASHParser.parse(written).periods
    assert re.findall(r'<Period id="\d" start="([^"]+)">', written) == [
        "PT0.000000S",
        "PT4.000000S",
        "PT8.000000S",
    ]
    lists = [
        [
            representation.segment_lists[0]
            for one in period.adaptation_sets
            for representation in one.representations
        ]
        for period in periods
    ]
    assert [[len(one.segment_urls) for one in each] for each in lists] == [[2, 2], [2, 2], [1]]
    # In the second period the media's clock is at 0.1 s; in the third it is 5 s ahead.
    assert [[one.presentation_time_offset for one in each] for each in lists] == [
        *([None, None], [100_000, 100_000], [9_100_000])
    ]
    assert [[one.segment_timelines[0].Ss[0].t for one in each] for each in lists] == [
        *([0, 0], [100_000, 110_000], [9_100_000])
    ]


def test_where_its_clock_begins() -> None:
    """DASH says which time of the media is the container's 0."""
    with H4MKBuilder.in_memory([MP4, SOUND], origin=7_000) as builder:
        builder.add_block(b"a", 0, key=True)
        builder.add_block(b"b", 0, key=True, track=1)
        builder.finish(ends={0: 1_000_000, 1: 1_000_000}, steps=[Step(0, 2_000, 1)])
        data = builder.getvalue()
    with H4MKReader(data) as container:
        found = renditions(container, "a.h4mk", DASH_TYPES)
    assert [one.media_time(0) for one in found] == [7_000, 5_000]
    assert 'presentationTimeOffset="5000"' in dash.manifest(found)


def test_lost_blocks_are_gaps() -> None:
    with H4MKReader(built([(MP4, [0, 2_000_000, 4_000_000, 6_000_000], 8_000_000)])) as source:
        blocks = [(block.token, block.payload) for block in source.blocks()]
    out = io.BytesIO()
    with H4MKBuilder(out, [MP4], gaps=True) as builder:
        for number, (token, payload) in enumerate(blocks):
            if number != 2 and token is not None:
                builder.add_token(token, payload)
        builder.finish()
    lines = playlist(out.getvalue()).splitlines()
    gap = lines.index("#EXT-X-GAP")
    assert lines[1] == "#EXT-X-VERSION:8" and lines.count("#EXT-X-GAP") == 1
    assert lines[gap + 1].startswith("#EXTINF:")


def test_empty_tracks_are_left_out() -> None:
    data = built([(MP4, [0], 1_000_000), (SOUND, [], 0), (CAPTIONS, [], 0)])
    written = master(data)
    assert "TYPE=" not in written and "0.m3u8" in written
    with H4MKReader(built([(MP4, [], 0)])) as container:
        assert renditions(container, "a.h4mk", HLS_TYPES) == []


def test_header_bytes_elsewhere_than_in_front() -> None:
    """One EXT-X-MAP cannot name them, so the track is left out."""
    with H4MKBuilder.in_memory([MP4]) as builder:
        builder.add_block(b"key", 0, key=True)
        builder.finish(ends={0: 1})
        assert renditions(H4MKReader(builder.getvalue()), "a", HLS_TYPES) != []
    with H4MKBuilder.in_memory([MP4]) as builder:
        builder.add_block(b"h", 0, header=True)
        builder.add_block(b"continued", 0)
        builder.add_block(b"key", 1, key=True)
        builder.finish(ends={0: 2})
        data = builder.getvalue()
    with H4MKReader(data) as container:
        assert renditions(container, "a", HLS_TYPES) == []


def test_two_hundred_tracks() -> None:
    tracks = [(MP4, [0, 2_000_000], 4_000_000), *((SOUND, [0, 2_000_000], 4_000_000) for _ in range(199))]
    found = m3u8.loads(master(built(tracks)))  # type: ignore[arg-type]
    assert len({one.name for one in found.media}) == len(found.media) == 199
    assert [one.default for one in found.media].count("YES") == 1


def _entry(codec: int) -> bytes:
    """A `moov` of one stream of sound, of that object type."""
    inner = b"\5\2\x12\x10"
    config = bytes([4, 13 + len(inner), codec]) + bytes(12) + inner
    esds = box(b"esds", bytes(4) + bytes([3, 3 + len(config)]) + bytes(3) + config)
    entry = box(b"mp4a", bytes(8) + bytes(8) + b"\0\2" + bytes(10) + esds)
    stsd = box(b"stsd", bytes(4) + b"\0\0\0\1" + entry)
    return box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd)))))


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def test_many_kinds_of_sound() -> None:
    """Variants are a product: a small file must not make a long list of them."""
    tracks = [*[MP4] * 200, *[SOUND] * 200]
    with H4MKBuilder.in_memory(tracks) as builder:
        for number in range(400):
            builder.add_block(_entry(0x60 + number % 128), 0, track=number, header=True)
        for number in range(400):
            builder.add_block(b"x", 0, track=number, key=True)
        builder.finish(ends=dict.fromkeys(range(400), 1_000_000))
        data = builder.getvalue()
    written = master(data)
    found = m3u8.loads(written)
    assert len(found.playlists) == 200 and len(written) < 100_000
    assert all(one.stream_info.codecs is None for one in found.playlists)
    few = built([(MP4, [0], 1_000_000), (SOUND, [0], 1_000_000), (SOUND, [0], 1_000_000)])
    assert len(m3u8.loads(master(few)).playlists) == 1


def test_names_of_one_group_differ() -> None:
    names = ["A (4)", "A", "A", "A (4)", "A"]
    tracks = [(MP4, [0], 1), *((TrackInfo(**{**_fields(SOUND), "name": name}), [0], 1) for name in names)]
    assert len({one.name for one in m3u8.loads(master(built(tracks))).media}) == len(names)


def test_a_short_end_does_not_count_for_more() -> None:
    """Ten segments of the same size, the last of 40 ms: what must be fetched in a second is not a hundred."""
    sizes = [100_000] * 10
    with H4MKBuilder.in_memory([MP4]) as builder:
        for number, size in enumerate(sizes):
            builder.add_block(bytes(size), number * 2_000_000, key=True)
        builder.finish(ends={0: 18_040_000})
        data = builder.getvalue()
    with H4MKReader(data) as container:
        (one,) = renditions(container, "a", HLS_TYPES)
    assert 400_000 <= one.peak <= 800_000
    assert one.average == -(-8_000_000_000_000 // 18_040_000)
    short = playlist_of([0], 1_000)
    assert short.peak == short.average


def playlist_of(times: list[int], end: int) -> Rendition:
    with H4MKReader(built([(MP4, times, end)])) as container:
        (one,) = renditions(container, "a", HLS_TYPES)
    return one


def test_times_that_nobody_can_play() -> None:
    """285 years, and what is before 0 on the media's own clock."""
    with H4MKReader(built([(MP4, [0, 2**60], 2**60 + 1)])) as container:
        assert renditions(container, "a", HLS_TYPES) == []
    data = built([(MP4, [0, 2_000_000], 4_000_000)], steps=[Step(0, 7_000)])
    with H4MKReader(data) as container:
        written = dash.manifest(renditions(container, "a", DASH_TYPES))
    assert 't="0"' in written and '="-' not in written and "presentationTimeOffset" not in written


def test_many_holes() -> None:
    """As many as META holds: the work follows their number, not its square."""
    count = 12_000
    with H4MKReader(built([(MP4, [n * 2_000_000 for n in range(2 * count)], 4_000_000 * count)])) as source:
        blocks = [(block.token, block.payload) for block in source.blocks()]
    out = io.BytesIO()
    with H4MKBuilder(out, [MP4], gaps=True) as builder:
        for number, (token, payload) in enumerate(blocks):
            if number % 2 == 0 and token is not None:
                builder.add_token(token, payload)
        builder.finish()
    with H4MKReader(out.getvalue()) as container:
        (one,) = renditions(container, "a", HLS_TYPES)
        assert one.segments is not None and len(one.segments.gaps) == count - 1
        calls = _calls(lambda: find_segments(container, 0))
    assert calls < 40 * count


def _calls(work: Callable[[], object]) -> int:
    """How many calls of functions some work takes."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_captions() -> None:
    data = built([(MP4, [0], 4_000_000), (CAPTIONS, [500_000, 2_000_000], 3_500_000)])
    found = m3u8.loads(master(data))
    (one,) = found.media
    assert (one.type, one.language, one.uri, one.default) == ("SUBTITLES", "de", "1.m3u8", "NO")
    assert found.playlists[0].stream_info.subtitles == "subtitles"
    written = playlist(data, 1)
    assert durations(written) == [3_500_000] and "/video/range/1.vtt?name=a.h4mk" in written
    with H4MKReader(data) as container:
        manifest = dash.manifest(renditions(container, "a.h4mk", DASH_TYPES))
    assert 'contentType="text" mimeType="text/vtt" lang="de"' in manifest
    with H4MKReader(built([(CAPTIONS, [0], 1)])) as container:
        assert [one.kind for one in renditions(container, "a", HLS_TYPES)] == ["text"]


def test_sound_alone() -> None:
    one = built([(SOUND, [0], 1_000_000)])
    assert "#EXT-X-MEDIA" not in master(one) and "\n0.m3u8\n" in master(one)
    several = m3u8.loads(master(built([(SOUND, [0], 1_000_000), (SOUND, [0], 1_000_000)])))
    assert [one.uri for one in several.media] == ["0.m3u8", "1.m3u8"]
    assert [one.uri for one in several.playlists] == ["0.m3u8"]


@pytest.mark.parametrize("name", ['quote" and\nline', "<&>'\"", "\x07 bell", "Ünïcode Ø4"])
def test_names_from_outside(name: str) -> None:
    """A track's name is somebody's text: it ends no line, no string and no element."""
    tracks = [
        (MP4, [0], 1_000_000),
        (TrackInfo(**{**_fields(SOUND), "name": name, "lang": name}), [0], 1_000_000),
    ]
    try:
        data = built(tracks)
    except Exception as error:  # what TRAK does not take comes no further
        assert type(error).__name__ == "JSONError"
        return
    found = m3u8.loads(master(data))
    assert len(found.media) == 1
    assert "\n" not in found.media[0].name and '"' not in found.media[0].name
    with H4MKReader(data) as container:
        manifest = ET.fromstring(dash.manifest(renditions(container, "a&b.h4mk", DASH_TYPES)))
    assert len(list(manifest.iter("{urn:mpeg:dash:schema:mpd:2011}AdaptationSet"))) == 2


def _fields(info: TrackInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


# -- in programs that people use


KINDS: Final = [
    *((name, "hls/index.m3u8") for name in ("fragmented", "tracks", "transport", "wrap")),
    *((name, "dash/manifest.mpd") for name in ("fragmented", "tracks")),
]


@needs_ffmpeg
@pytest.mark.parametrize(("name", "path"), KINDS)
def test_ffmpeg_decodes_the_same_pictures(server: Server, name: str, path: str) -> None:
    """All of them, from the playlist as from the media themselves; and the right one after a seek.

    Debian's ffmpeg (5.1) cannot seek in fragmented MP4 by HLS, not even in its own playlists; newer ones can
    (see below).
    """
    url, source = f"{server.url}/video/{path}?name={name}.h4mk", str(media(SOURCES[name][0]))
    assert _pictures(url) == _pictures(source)
    if name in ("transport", "wrap"):
        assert _pictures(url, "-ss", "3.02") == _pictures(source, "-ss", "3.02")


def _pictures(source: str, *options: str) -> list[str]:
    """The digests of the decoded pictures, without their times: playlists begin at 0, media may not."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", *options, "-i", source]
    command += ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    out = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout
    found = [line.rpartition(",")[2].strip() for line in out.splitlines() if not line.startswith("#")]
    return found[:1] if options else found


@needs_ffmpeg
@pytest.mark.parametrize("name", ["pictures", "muxed", "numbered"])
def test_a_newer_ffmpeg_seeks(server: Server, name: str) -> None:
    """The one in PyAV. With sound in a playlist of its own it misses by a segment, in its own ones, too."""
    with av.open(f"{server.url}/video/hls/index.m3u8?name={name}.h4mk") as medium:
        (video, *_) = medium.streams.video
        begin, base = video.start_time or 0, video.time_base
        assert base is not None
        for seconds in (13.3, 3.02, 0.0, 8.0):
            medium.seek(begin + round(seconds / base), stream=video)
            for picture in medium.decode(video):
                assert picture.pts is not None
                if float((picture.pts - begin) * base) > seconds - 0.04 + 1e-6:
                    break
            row = picture.to_ndarray(format="gray")[48]
            number = sum(1 << bit for bit in range(16) if row[bit * 20 + 10] > 128)
            assert number in (int(seconds * 25 + 1e-6), int(seconds * 25 - 1e-6))


@needs_ffmpeg
@needs_mpv
@pytest.mark.parametrize("seconds", [None, 13.3, 8.0])
@pytest.mark.parametrize(("name", "path"), [("tracks", "dash/manifest.mpd"), ("numbered", "hls/index.m3u8")])
def test_mpv_shows_the_right_picture(
    server: Server, name: str, path: str, seconds: float | None, tmp_path: Path
) -> None:
    """Debian's mpv stands on Debian's ffmpeg: fragmented MP4 it seeks in by DASH."""
    command = [
        *(program("mpv") or "mpv", "--no-config", "--no-audio", "--vo=image", "--vo-image-format=png"),
        *(f"--vo-image-outdir={tmp_path}", "--frames=1", "--hr-seek=yes", "--load-scripts=no", "--ytdl=no"),
        *([] if seconds is None else [f"--start={seconds}"]),
        f"{server.url}/video/{path}?name={name}.h4mk",
    ]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (picture,) = tmp_path.iterdir()
    assert abs(_number(picture) - (seconds or 0) * 25) <= 1


def _number(picture: Path) -> int:
    """The number that a picture shows (see `media_factory`)."""
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-i", str(picture)]
    command += ["-vf", "format=gray,scale=16:1:flags=neighbor", "-f", "rawvideo", "-"]
    row = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return sum(1 << bit for bit, level in enumerate(row) if level > 128)
