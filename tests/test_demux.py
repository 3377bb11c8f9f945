"""PyAV's demuxers: what they report, what they may not do, what becomes of bad media."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from harmony4.crypto.errors import HarmonyError, MediaError, SourceError
from harmony4.tokenize import demux as module
from harmony4.tokenize.cut import Packet
from harmony4.tokenize.demux import StreamFacts, demux
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import PLAIN, media
from needs import BUNNY, needs_ffmpeg

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

EVIL = {
    "concat": "ffconcat version 1.0\nfile '{neighbour}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{neighbour}\n#EXT-X-ENDLIST\n",
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT6S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{neighbour}'
        "</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"
    ),
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
}


def box(kind: bytes, *parts: bytes) -> bytes:
    rest = b"".join(parts)
    return (8 + len(rest)).to_bytes(4, "big") + kind + rest


def replace_dref(data: bytes, neighbour: Path, kind: str) -> bytes:
    """An MP4 whose first track's media are said to lie in another file."""
    path, name = os.fsencode(neighbour), os.fsencode(neighbour.name)
    if kind == "url ":
        entry = box(b"url ", bytes(4), b"file://" + path + b"\0")
    else:  # as the MP4 demuxer reads it: 10 bytes, volume, 12, name, 16, levels, 16, then typed fields
        entry = bytes(4) + bytes(10) + b"\4disk".ljust(28, b"\0") + bytes(12)
        entry += (bytes([len(name)]) + name).ljust(64, b"\0") + bytes(16) + b"\0\1\0\1" + bytes(16)
        for number, value in ((2, path), (18, path)):
            pad = b"\0" * (len(value) % 2)
            entry += number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + pad
        entry = box(b"alis", entry + b"\xff\xff\0\0")
    start = data.find(b"dref") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    assert data[start:].startswith(box(b"dref", bytes(7), b"\1", box(b"url ", b"\0\0\0\1")))
    return _grow(data, start, size, box(b"dref", bytes(7), b"\1", entry))


def _grow(data: bytes, start: int, size: int, new: bytes) -> bytes:
    """Replace a box and correct the sizes of the boxes around it."""
    extra = len(new) - size
    out = bytearray(data[:start] + new + data[start + size :])
    at, end = 0, len(data)
    while at < start:
        length = int.from_bytes(data[at : at + 4], "big")
        if at < start < at + length:
            out[at : at + 4] = (length + extra).to_bytes(4, "big")
            at, end = at + 8, at + length
        else:
            at += length
    assert end >= start
    return bytes(out)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with a real video that nobody may open."""
    neighbour = tmp_path / "neighbour.mp4"
    neighbour.write_bytes(BUNNY.read_bytes() + MARKER)
    return neighbour


def evil(trap: Path, url: str = "http://127.0.0.1:9/x.mp4") -> Iterator[tuple[str, bytes]]:
    for name, text in EVIL.items():
        for neighbour in (trap.name, str(trap), f"file://{trap}", url):
            yield name, text.format(neighbour=neighbour).encode()
    for kind in ("alis", "url "):
        yield "dref", replace_dref(BUNNY.read_bytes(), trap, kind)


def test_texts_are_not_media(trap: Path) -> None:
    for name, data in evil(trap):
        if name == "dref":
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


def test_nested_opening_is_denied(trap: Path) -> None:
    """Also with demuxers that do open other files, which sniffing never chooses."""
    for name, demuxer in (("concat", "concat"), ("hls", "hls")):
        data = EVIL[name].format(neighbour=trap).encode()
        with pytest.raises(MediaError) as caught, demux(Pipe(data), demuxer) as opened:
            assert list(opened) == []
            raise MediaError("opened, but empty")
        assert "secret" not in str(caught.value)
    with pytest.raises(PermissionError):
        module._deny("http://127.0.0.1", 0, {})


@pytest.mark.parametrize("kind", ["alis", "url "])
def test_dref_reads_only_the_source(trap: Path, kind: str) -> None:
    data = replace_dref(BUNNY.read_bytes(), trap, kind)
    for seekable in (False, True):
        with contextlib.suppress(MediaError):
            _, packets, _ = read(data, seekable=seekable)
            assert all(one.pos is None or one.pos < len(data) for one in packets)


class Opens:
    """Every opening of a file in `folder`, by anybody, as the kernel reports it (inotify)."""

    IN_OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), self.IN_OPEN) >= 0

    def names(self) -> list[str]:
        try:
            data = os.read(self._fd, 2**16)
        except BlockingIOError:
            return []
        names = []
        while data:
            size = int.from_bytes(data[12:16], sys.byteorder)
            names.append(data[16 : 16 + size].rstrip(b"\0").decode())
            data = data[16 + size :]
        return names


@pytest.mark.skipif(sys.platform != "linux", reason="needs inotify (Linux)")
def test_the_neighbour_is_never_opened(trap: Path) -> None:
    """By any of our demuxers, nor by those that are made for opening other files; nor is anybody called."""
    opens = Opens(trap.parent)
    bait = trap.with_name("bait.mp4")
    bait.write_text(EVIL["concat"].format(neighbour=trap.name))
    with av.open(str(bait)) as container:  # this is what happens without our care, and it is seen
        assert container.streams.video
    assert trap.name in opens.names()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/neighbour.mp4"
        media = [data for _, data in evil(trap, url)]
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
        with pytest.raises(BlockingIOError):
            server.accept()
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


def test_too_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_STREAMS", 1)
    with pytest.raises(MediaError, match="too many"), demux(Pipe(BUNNY.read_bytes()), "mp4"):
        pass
