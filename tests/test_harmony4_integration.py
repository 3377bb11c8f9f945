"""The six suites of the founding document, end to end on real media: library, command line and HTTP agree.

1 export (determinism) · 2 round trip · 3 seeking · 4 byte ranges · 5 integrity · 6 tokens; then the rest of
the surface: facts, health, the original implementation's file.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest

from harmony4.crypto.errors import HarmonyError
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.edits.recover import recover
from harmony4.h4mk.verify import verify
from harmony4.server.cli.demo_media import Demo, make_media
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.tokenize.video import VideoTokenizer, VideoTransportTokenizer
from needs import BUNNY, ORIGINAL
from serving import Server, running

CLOCK = Demo("clock.mp4", "mp4", "A clock", 4, "libx264", "aac", gop=25)
TONES = Demo("tones.flac", "flac", "Tones", 3, None, "flac")
RADIO = Demo("clock.webm", "webm", "A clock", 3, "libvpx", "libopus", gop=25)


def harmony4(*arguments: object, feed: bytes = b"", status: int = 0) -> bytes:
    """Run the installed command; returns what it wrote to standard output."""
    program = Path(sys.executable).with_name("harmony4")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, input=feed, capture_output=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done.stdout


@dataclass(frozen=True)
class Library:
    """Real media, each as a file and as a container in `folder`, made by the library."""

    folder: Path
    sources: dict[str, Path]

    def container(self, name: str) -> Path:
        return self.folder / f"{name}.h4mk"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    media, folder = tmp_path_factory.mktemp("media"), tmp_path_factory.mktemp("library")
    sources = {BUNNY.name: BUNNY}
    for demo in (CLOCK, RADIO, TONES):
        sources[demo.name] = media / demo.name
        make_media(demo, sources[demo.name], lambda *_: None)
    for name, path in sources.items():
        export(path, folder / f"{name}.h4mk", ExportOptions())
    return Library(folder, sources)


@pytest.fixture(scope="module")
def server(library: Library) -> Iterator[Server]:
    with running(library.folder) as found:
        yield found


NAMES = [BUNNY.name, CLOCK.name, RADIO.name, TONES.name]
each_source = pytest.mark.parametrize("name", NAMES)


def keyframes(path: Path) -> list[int]:
    """The keyframes' times in µs, read from the packets by a program that knows no H4MK."""
    with av.open(path) as media:
        kind = "video" if media.streams.video else "audio"
        stream = next(one for one in media.streams if one.type == kind)
        starts = [one.start_time * one.time_base for one in media.streams if one.start_time is not None]
        packets = [one for one in media.demux(stream) if one.is_keyframe and one.pts is not None]
        return [int((one.pts * stream.time_base - min(starts)) * 10**6) for one in packets]


# 1 · export


@each_source
def test_same_container_from_everywhere(name: str, library: Library, tmp_path: Path) -> None:
    """Path, stream, command, pipe: one input, one container."""
    source, expected = library.sources[name], library.container(name).read_bytes()
    stream = io.BytesIO()
    with source.open("rb") as file:
        export(file, stream, ExportOptions())
    assert stream.getvalue() == expected
    harmony4("export", source, "-o", tmp_path / "elsewhere.h4mk", "--quiet")
    assert (tmp_path / "elsewhere.h4mk").read_bytes() == expected
    assert harmony4("export", "-", "-o", "-", feed=source.read_bytes()) == expected


# 2 · round trip


@each_source
def test_source_comes_back_bit_for_bit(name: str, library: Library, server: Server, tmp_path: Path) -> None:
    source = library.sources[name].read_bytes()
    with H4MKReader(library.container(name)) as reader, reader.open() as stream:
        assert stream.read() == source
        stored = reader.tracks[0].sha256
        assert stored is not None
        assert bytes(stored) == hashlib.sha256(source).digest()
    harmony4("extract", library.container(name), "-o", tmp_path / name)
    assert (tmp_path / name).read_bytes() == source
    assert harmony4("extract", "-", "-o", "-", feed=library.container(name).read_bytes()) == source
    assert server.get(f"/video/range?name={name}.h4mk").body == source


# 3 · seeking


@each_source
def test_seek_agrees_everywhere(name: str, library: Library, server: Server) -> None:
    """Library, command and route name the same keyframe: the one that the packets say is the last before."""
    true = keyframes(library.sources[name])
    with H4MKReader(library.container(name)) as reader:
        table = reader.seek_table()
        stored = [table[number].pts for number in range(len(table))]
        assert stored == [pts for pts in true if pts in set(stored)]
        if reader.tracks[0].info.kind == "video":
            assert stored == true
        for pts in {0, 1, 999_999, 1_000_000, 3_500_000, reader.duration, 2**62}:
            expected = max(one for one in stored if one <= pts)
            entry = reader.seek(pts)
            assert entry is not None
            assert entry.pts == expected
            facts = server.get(f"/video/seek?name={name}.h4mk&pts={pts}").json
            assert (facts["pts"], facts["offset"]) == (entry.pts, entry.offset)
            if pts == 3_500_000:
                printed = json.loads(harmony4("seek", library.container(name), "3.5s", "--json"))
                assert printed.items() <= facts.items()


# 4 · byte ranges


@each_source
def test_ranges_are_the_source(name: str, library: Library, server: Server) -> None:
    source = library.sources[name].read_bytes()
    info = server.get(f"/video/info?name={name}.h4mk").json
    target = info["tracks"][0]["range_url"]
    for first, last in ((0, 0), (0, 1), (len(source) // 3, 2 * len(source) // 3), (len(source) - 5, 10**12)):
        answer = server.get(target, Range=f"bytes={first}-{last}")
        assert answer.status == 206
        assert answer.body == source[first : last + 1]
        assert answer.headers["Content-Range"] == (
            f"bytes {first}-{min(last, len(source) - 1)}/{len(source)}"
        )
    assert server.get(target, Range="bytes=-100").body == source[-100:]
    assert server.get(target, Range=f"bytes={len(source)}-").status == 416
    revalidated = server.get(target, If_None_Match=answer.headers["ETag"])
    assert (revalidated.status, revalidated.body) == (304, b"")


@each_source
def test_a_player_reads_it_over_http(name: str, library: Library, server: Server) -> None:
    """FFmpeg's HTTP client and demuxer, seeking in the stream, find the same packets as in the source."""

    def packets(place: str) -> list[tuple[int | None, int, bytes]]:
        with av.open(place) as media:
            kept = [one for one in media.demux() if one.size]
            return [(one.pts, one.stream_index, hashlib.sha256(bytes(one)).digest()) for one in kept]

    target = server.get(f"/video/info?name={name}.h4mk").json["tracks"][0]["range_url"]
    assert packets(server.url + target) == packets(str(library.sources[name]))


# 5 · integrity


@each_source
def test_damage_is_found_and_recovered(name: str, library: Library, tmp_path: Path) -> None:
    sound = library.container(name)
    assert verify(sound).ok
    harmony4("verify", sound)
    data = bytearray(sound.read_bytes())
    for place in (3, len(data) // 2, len(data) - 1):
        damaged = tmp_path / f"{place}.h4mk"
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        report = verify(damaged)
        assert not report.ok
        assert all(isinstance(problem, HarmonyError) for problem in report.problems)
    harmony4("verify", tmp_path / f"{len(data) // 2}.h4mk", status=3)
    cut = tmp_path / "cut.h4mk"
    cut.write_bytes(data[: len(data) * 3 // 4])
    with H4MKReader(cut) as reader:
        assert reader.state == "incomplete"
        kept = reader.tracks[0].blocks
    recover(cut, tmp_path / "saved.h4mk")
    assert verify(tmp_path / "saved.h4mk").ok
    with H4MKReader(tmp_path / "saved.h4mk") as reader:
        assert reader.tracks[0].blocks == kept
        size = reader.tracks[0].bytes
        assert reader.read(0, size, 0) == library.sources[name].read_bytes()[:size]
    harmony4("recover", cut, "-o", tmp_path / "again.h4mk", status=3)
    assert (tmp_path / "again.h4mk").read_bytes() == (tmp_path / "saved.h4mk").read_bytes()


# 6 · tokens


@each_source
def test_tokens_hold_structure_only(name: str, library: Library) -> None:
    """Tokens cover all bytes and all time, and hold none of the media's bytes."""
    source = library.sources[name].read_bytes()
    tokens = list(VideoTransportTokenizer().encode(io.BytesIO(source)))
    written = b"".join(token.serialize() for token in tokens)
    assert len(written) == 128 * len(tokens)
    offset = 0
    for token in tokens:
        assert token.record.offset == offset
        assert token.record.pts <= token.record.end
        assert token.record.digest == hashlib.sha256(source[offset : offset + token.record.size]).digest()
        offset += token.record.size
    assert offset == len(source)
    windows = {source[at : at + 16] for at in range(0, len(source), 4096)}
    assert not any(written[at : at + 16] in windows - {bytes(16)} for at in range(len(written)))
    assert [one.record for one in VideoTransportTokenizer().decode(written)] == [one.record for one in tokens]
    with H4MKReader(library.container(name)) as reader:
        assert list(reader.tokens()) == [token.record for token in tokens]
    lines = harmony4("tokens", library.container(name)).decode().splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [one.record.digest.hex() for one in tokens]


@each_source
def test_whole_buffer_tokenizer_agrees(name: str, library: Library) -> None:
    source = library.sources[name].read_bytes()
    streamed = [token.record for token in VideoTransportTokenizer().encode(io.BytesIO(source))]
    assert [token.record for token in VideoTokenizer().tokens(source)] == streamed


# work: tokenizing doubles with the input (building, verifying and seeking: test_scaling.py)


def calls(work: Callable[[], object]) -> int:
    """How many functions this thread calls while it does the work: a clock that is never disturbed."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Seconds -> a piece of music of that length."""
    folder = tmp_path_factory.mktemp("music")
    for seconds in (10, 20):
        demo = Demo(f"{seconds}.flac", "flac", "Tones", seconds, None, "flac")
        make_media(demo, folder / demo.name, lambda *_: None)
    return {seconds: (folder / f"{seconds}.flac").read_bytes() for seconds in (10, 20)}


def test_tokenizing_doubles(music: dict[int, bytes]) -> None:
    once, twice = (calls(lambda data=data: VideoTokenizer().tokens(data)) for data in music.values())
    assert 1.7 < twice / once < 2.3


# the rest of the surface


@each_source
def test_info_agrees_everywhere(name: str, library: Library, server: Server) -> None:
    printed: dict[str, Any] = json.loads(harmony4("inspect", library.container(name), "--json"))
    served = server.get(f"/video/info?name={quote(name)}.h4mk").json
    for track in served["tracks"]:
        assert track.pop("range_url").startswith("/video/range/")
    for key in ("hls_url", "dash_url"):
        assert served.pop(key, f"/video/{key[:-4]}/").startswith(f"/video/{key[:-4]}/")
    assert served.pop("name") == f"{name}.h4mk"
    assert printed == served
    assert printed["state"] == "sealed"


def test_health_and_library(library: Library, server: Server) -> None:
    alive = server.get("/health", Origin="https://elsewhere.example")
    assert alive.json == {"status": "ok"}
    assert not [name for name in alive.headers if name.lower().startswith("access-control")]
    for method in ("POST", "PUT"):
        assert server.request(method, "/media?name=a.h4mk").problem == "method"
    assert server.get("/ready").json["status"] == "ready"
    listed = server.get("/media").json["items"]
    assert {item["name"] for item in listed} >= {f"{name}.h4mk" for name in NAMES}
    assert server.get("/video/info?name=../secret.h4mk").problem == "not-found"


def test_both_names_of_the_command() -> None:
    folder = Path(sys.executable).parent
    versions = {
        subprocess.run([folder / name, "--version"], capture_output=True, check=True).stdout
        for name in ("harmony4", "harmonyø4")
    }
    assert len(versions) == 1


def test_original_file_everywhere(library: Library, server: Server, tmp_path: Path) -> None:
    """A file of the original implementation opens, lists, seeks, verifies and plays like the others."""
    shutil.copy(ORIGINAL, library.folder / "original.h4mk")
    with H4MKReader(ORIGINAL) as reader, reader.open() as stream:
        assert reader.state == "original"
        content = stream.read()
        entry = reader.seek(1_500_000)
        assert entry is not None
        assert (entry.pts, entry.offset) == (1_000_000, 3_000)
    assert verify(ORIGINAL).ok
    harmony4("verify", ORIGINAL)
    assert json.loads(harmony4("inspect", ORIGINAL, "--json"))["state"] == "original"
    assert json.loads(harmony4("seek", ORIGINAL, "2500000", "--json"))["offset"] == 9_000
    harmony4("extract", ORIGINAL, "-o", tmp_path / "stream")
    assert (tmp_path / "stream").read_bytes() == content
    assert server.get("/video/range?name=original.h4mk").body == content
    assert server.get("/video/seek?name=original.h4mk&pts=1500000").json["offset"] == 3_000
    assert server.get("/video/info?name=original.h4mk").json["state"] == "original"
