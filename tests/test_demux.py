"""PyAV's demuxers: what they report, what they may not do, what becomes of bad media."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import av
import pytest

from harmony4.crypto.errors import HarmonyError, MediaError, SourceError
from harmony4.tokenize import demux as module
from harmony4.tokenize.demux import StreamFacts, demux
from harmony4.tokenize.packet import Packet
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.video import VideoTransportTokenizer
from make_vectors.media import ADDRESS
from media_factory import PLAIN, media
from needs import BUNNY, needs_ffmpeg
from vector_use import media_vectors
from watching import Opens

OURS = ("mp4", "matroska", "mpegts", "mp3", "flac", "wav", "ogg")


class Pipe:
    """A reader without seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, n: int, /) -> bytes:
        return self._file.read(n)


def name_of(data: bytes) -> str:
    found = sniff(data[:SNIFF_SIZE])
    assert found is not None
    return found.name


def read(data: bytes, *, seekable: bool = False) -> tuple[tuple[StreamFacts, ...], list[Packet], str | None]:
    with demux(io.BytesIO(data) if seekable else Pipe(data), name_of(data)) as opened:
        packets = list(opened)
        return opened.streams, packets, opened.stopped


def test_bunny() -> None:
    data = BUNNY.read_bytes()
    streams, packets, stopped = read(data, seekable=True)  # its index comes last
    assert [(one.kind, one.codec) for one in streams] == [("video", "h264"), ("audio", "aac")]
    keys = [one for one in packets if one.stream == 0 and one.key]
    assert len(keys) == 1
    assert stopped is None
    assert sum(one.size for one in packets) < len(data)


# What stands at `pos`, per format: (bytes, where from pos, which packets)
AT_POS = {
    "plain.mkv": b"",  # the track number, see below
    "live.webm": b"",
    "plain.ts": b"\x47",
    "plain.m2ts": b"\x47",
    "opus.ogg": b"OggS",
    "theora.ogv": b"OggS",
    "tone.mp3": b"\xff\xfb",
    "bare.mp3": b"\xff\xfb",
    "tone.flac": b"\xff\xf8",
}


@needs_ffmpeg
@pytest.mark.parametrize("name", AT_POS)
def test_what_stands_at_pos(name: str) -> None:
    data = media(name).read_bytes()
    _, packets, stopped = read(data)
    assert stopped is None
    lead = 4 if name.endswith("m2ts") else 0
    places = [one.pos + lead for one in packets if one.pos is not None]
    assert len(places) > 20
    expected = AT_POS[name]
    if name.endswith(("mkv", "webm")):
        assert all(data[one.pos] == 0x81 + one.stream for one in packets if one.pos is not None)
    else:
        assert {data[place : place + len(expected)] for place in places} == {expected}


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.mp4", "fragmented.mp4", "moovend.mp4", "tone.wav"])
def test_pos_is_the_payload(name: str) -> None:
    data = media(name).read_bytes()
    _, packets, _ = read(data, seekable=name == "moovend.mp4")
    with av.open(str(media(name))) as container:
        payloads = {bytes(one) for one in container.demux() if one.size}
    for one in packets:
        assert one.pos is not None
        assert data[one.pos : one.pos + one.size] in payloads


@needs_ffmpeg
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("moovend.mp4", "audio.m4a")])
def test_file_order_from_a_pipe(name: str) -> None:
    _, packets, _ = read(media(name).read_bytes())
    for stream in {one.stream for one in packets}:
        places = [one.pos for one in packets if one.stream == stream and one.pos is not None]
        assert places == sorted(places)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["plain.ts", "plain.mkv"])
def test_missing_pos(name: str) -> None:
    _, packets, _ = read(media(name).read_bytes())
    missing = [one for one in packets if one.pos is None]
    assert bool(missing) == name.endswith("ts")
    assert {one.stream for one in missing} <= {1}  # only where several frames share a PES packet


@needs_ffmpeg
def test_attached_pictures_are_no_video() -> None:
    streams, _, _ = read(media("cover.mp3").read_bytes())
    assert {one.kind for one in streams} == {"audio", "picture"}


# -- what a medium may not do

MARKER = b"the neighbour's secret, 0123456789"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with a real video that nobody may open."""
    neighbour = tmp_path / "neighbour.mp4"
    neighbour.write_bytes(BUNNY.read_bytes() + MARKER)
    return neighbour


def test_texts_are_not_media() -> None:
    for twin, data in media_vectors():
        if twin["sniffed"] is not None:
            continue
        assert sniff(data) is None
        tokens = list(VideoTransportTokenizer().encode(io.BytesIO(data)))
        assert [one.data for one in tokens] == [data]  # stored as the opaque text that it is
        for forced in OURS:
            try:
                with demux(Pipe(data), forced) as opened:
                    assert sum(one.size for one in opened) <= len(data)
            except MediaError:
                pass


def test_nested_opening_is_denied(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with demuxers that do open other files, which sniffing never chooses."""
    monkeypatch.chdir(trap.parent)
    for twin, data in media_vectors():
        if twin["follower"] in ("concat", "hls") and twin["opens"]:
            with pytest.raises(MediaError) as caught, demux(Pipe(data), twin["follower"]) as opened:
                assert list(opened) == []
                raise MediaError("opened, but empty")
            assert "secret" not in str(caught.value)
    with pytest.raises(PermissionError):
        module._deny("http://127.0.0.1", 0, {})


def test_dref_reads_only_the_source(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trap.parent)
    found = [data for twin, data in media_vectors() if twin["file"].startswith("dref-")]
    assert found
    for data in found:
        for seekable in (False, True):
            _, packets, _ = read(data, seekable=seekable)
            assert all(one.pos is not None and one.pos + one.size <= len(data) for one in packets)


@pytest.mark.skipif(sys.platform != "linux", reason="needs inotify (Linux)")
def test_the_neighbour_is_never_opened(trap: Path, request: pytest.FixtureRequest) -> None:
    """By any of our demuxers, nor by those that are made for opening other files; nor is anybody called."""
    opens = Opens(trap.parent)
    request.addfinalizer(opens.close)
    bait = trap.with_name("bait.mp4")
    bait.write_text(f"ffconcat version 1.0\nfile '{trap.name}'\n")
    with av.open(str(bait)) as container:  # this is what happens without our care, and it is seen
        assert container.streams.video
    assert trap.name in opens.names()
    called = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:  # a demuxer that waits for an answer would wait for ever
            while True:
                connection, _ = server.accept()
                with connection:
                    if stop.is_set():
                        return
                    called.append(connection.getpeername())

        stop = threading.Event()
        thread = threading.Thread(target=hang_up)
        thread.start()
        address = b"127.0.0.1:%05d" % server.getsockname()[1]  # as long as the one it takes the place of
        media = [data.replace(ADDRESS.encode(), address) for _, data in media_vectors()]
        here = Path.cwd()
        os.chdir(trap.parent)
        try:
            for data in media:
                for name in (*OURS, "concat", "hls", "sdp", "dash"):
                    for reader in (Pipe(data), io.BytesIO(data)):
                        with contextlib.suppress(MediaError), demux(reader, name) as opened:
                            list(opened)
        finally:
            os.chdir(here)
            stop.set()
            socket.create_connection(server.getsockname()).close()
            thread.join(30)
    assert called == []
    assert opens.names() == []


# -- bad media


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(name: str, seed: int) -> None:
    data = random.Random(seed).randbytes(20_000 * seed)
    try:
        with demux(Pipe(data), name) as opened:
            list(opened)
    except MediaError as error:
        assert "--raw" in str(error)


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_damaged_media(name: str) -> None:
    """Truncated and with flipped bits: our errors or none, and never a packet outside of the source."""
    whole = media(name).read_bytes()
    rnd = random.Random(name)
    for _ in range(25):
        data = bytearray(whole[: rnd.randrange(1, len(whole))] if rnd.random() < 0.5 else whole)
        for _ in range(rnd.choice((0, 1, 10, 300))):
            spot = rnd.randrange(min(len(data), rnd.choice((200, 5000, len(data)))))
            data[spot] ^= 1 << rnd.randrange(8)
        try:
            with demux(Pipe(bytes(data)), name_of(whole)) as opened:
                list(opened)
        except HarmonyError as error:
            assert isinstance(error, MediaError)


class Broken:
    """A source that fails in the middle."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self._file = io.BytesIO(data)
        self._error = error

    def read(self, n: int, /) -> bytes:
        data = self._file.read(n)
        if len(data) < n:
            raise self._error
        return data


@needs_ffmpeg
@pytest.mark.parametrize("size", [1000, 40_000, 100_000])
def test_the_readers_own_errors_come_through(size: int) -> None:
    data = media("plain.mp4").read_bytes()[:size]
    with pytest.raises(SourceError), demux(Broken(data, SourceError("gone")), "mp4") as opened:
        list(opened)


@needs_ffmpeg
def test_other_errors_end_the_packets() -> None:
    data = media("plain.mp4").read_bytes()[:100_000]
    with demux(Broken(data, OSError(errno.EIO, "I/O error")), "mp4") as opened:
        packets = list(opened)
    assert packets
    assert opened.stopped is not None
    with pytest.raises(MediaError), demux(Broken(data[:1000], ValueError("odd")), "mp4"):
        pass


@needs_ffmpeg
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory")])
def test_no_memory_is_no_end(error: Exception) -> None:
    """What comes of a medium must not follow from the memory that somebody had for it."""
    data = media("plain.mp4").read_bytes()[:100_000]
    with demux(Broken(data, error), "mp4") as opened, pytest.raises(MediaError, match="more memory"):
        list(opened)


def test_too_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_STREAMS", 1)
    with pytest.raises(MediaError, match="too many"), demux(Pipe(BUNNY.read_bytes()), "mp4"):
        pass


@needs_ffmpeg
def test_one_stream_alone() -> None:
    """The first packet there is, and then those of one stream: the same as among all the others."""

    def row(packet: Any) -> tuple[object, ...]:
        return packet.stream_index, packet.pos, packet.pts, packet.size, packet.is_keyframe

    data = media("moovend.mp4").read_bytes()
    with demux(io.BytesIO(data), "mp4") as medium:
        every = [row(one) for one in medium.raw() if one.size]
    for only in (0, 1):
        with demux(io.BytesIO(data), "mp4") as medium:
            found = [row(one) for one in medium.raw(only) if one.size]
        assert found == every[:1] + [one for one in every[1:] if one[0] == only]
    assert {one[0] for one in every} == {0, 1}


@needs_ffmpeg
def test_one_stream_of_none() -> None:
    data = media("fragmented.mp4").read_bytes()
    with demux(io.BytesIO(data[: data.find(b"moof") - 4]), "mp4") as medium:
        assert all(not one.size and one.pts is None for one in medium.raw(0))
        assert medium.stopped is None
