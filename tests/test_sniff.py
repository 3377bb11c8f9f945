"""Recognising formats by their first bytes (H4MK 16.7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from media_factory import PLAIN, media
from needs import BUNNY, needs_ffmpeg

NAMES = {
    "mp4": ("mp4", "video/mp4"),
    "m4a": ("mp4", "video/mp4"),
    "mkv": ("matroska", "video/x-matroska"),
    "webm": ("matroska", "video/webm"),
    "ts": ("mpegts", "video/mp2t"),
    "m2ts": ("mpegts", "video/mp2t"),
    "mp3": ("mp3", "audio/mpeg"),
    "flac": ("flac", "audio/flac"),
    "wav": ("wav", "audio/wav"),
    "ogg": ("ogg", "video/ogg"),
    "ogv": ("ogg", "video/ogg"),
}
TS = (b"\x47" + bytes(187)) * 4
M2TS = (bytes(4) + b"\x47" + bytes(187)) * 4


def box(kind: bytes, rest: bytes = b"isom") -> bytes:
    return (8 + len(rest)).to_bytes(4, "big") + kind + rest


def mp3(version: int, rate: int, sampling: int, size: int) -> bytes:
    return bytes([0xFF, 0xE0 | version << 3 | 2 | 1, rate << 4 | sampling << 2, 0]) + bytes(size - 4)


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_real_media(name: str) -> None:
    found = sniff(media(name).read_bytes()[:SNIFF_SIZE])
    assert found is not None
    assert (found.name, found.video_type) == NAMES[name.rsplit(".")[-1]]
    assert found.packet == {"ts": 188, "m2ts": 192}.get(name.rsplit(".")[-1], 0)


def test_bunny() -> None:
    found = sniff(BUNNY.read_bytes()[:SNIFF_SIZE])
    assert found is not None
    assert (found.name, found.audio_type) == ("mp4", "audio/mp4")


@pytest.mark.parametrize(
    ("prefix", "name", "video_type"),
    [
        (box(b"ftyp", b"qt  "), "mp4", "video/quicktime"),
        (box(b"moov"), "mp4", "video/mp4"),
        (box(b"styp"), "mp4", "video/mp4"),
        (box(b"mdat"), "mp4", "video/quicktime"),
        (b"\0\0\0\1mdat" + bytes(8), "mp4", "video/quicktime"),
        (b"\0\0\0\0mdat", "mp4", "video/quicktime"),
        (b"\x1aE\xdf\xa3\x8b\x42\x82\x88matroska", "matroska", "video/x-matroska"),
        (b"\x1aE\xdf\xa3", "matroska", "video/x-matroska"),
        (b"ID3\4\0\0\0\0\0\4TAGSfLaC", "flac", "audio/flac"),
        (b"ID3\4\0\0\0\0\0\4TAGS\xff\xfb\0\0", "mp3", "audio/mpeg"),
        (b"ID3\4\0\0\0\x7f\x7f\x7f", "mp3", "audio/mpeg"),
        (b"RF64\xff\xff\xff\xffWAVE", "wav", "audio/wav"),
        (TS, "mpegts", "video/mp2t"),
        (TS[:377], "mpegts", "video/mp2t"),
        (M2TS, "mpegts", "video/mp2t"),
        (mp3(3, 9, 0, 417) + mp3(3, 9, 0, 417), "mp3", "audio/mpeg"),
        (mp3(2, 8, 1, 192) + mp3(2, 8, 1, 192), "mp3", "audio/mpeg"),
        (mp3(0, 8, 2, 576) + mp3(0, 8, 2, 576), "mp3", "audio/mpeg"),
    ],
)
def test_recognised(prefix: bytes, name: str, video_type: str) -> None:
    found = sniff(prefix)
    assert found is not None
    assert (found.name, found.video_type) == (name, video_type)


@pytest.mark.parametrize(
    "prefix",
    [
        b"",
        b"G",
        b"GIF89a" + bytes(1000),
        b"ffconcat version 1.0\nfile 'a.mp4'\n",
        b"#EXTM3U\n#EXTINF:1,\na.ts\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">',
        b"RIFF\0\0\0\0AVI ",
        b"ID3",
        b"\x89PNG\r\n\x1a\n",
        b"\x00\x00\x00\x03ftypisom",
        *(box(b"ftyp", brand) for brand in (b"heic", b"avif", b"mif1")),
        TS[:376],  # two sync bytes are an accident
        b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x46" + bytes(187),
        mp3(3, 9, 0, 417),  # one frame header is one too
        mp3(3, 9, 0, 417) + mp3(2, 9, 0, 417),
        mp3(3, 9, 0, 417) + bytes(10),
        mp3(3, 0, 0, 417) * 2,
        mp3(3, 15, 0, 417) * 2,
        mp3(3, 9, 3, 417) * 2,
        mp3(1, 9, 0, 417) * 2,
        b"\xff\xd8\xff\xe0",
    ],
)
def test_not_recognised(prefix: bytes) -> None:
    assert sniff(prefix) is None


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (b"WEBVTT", "webvtt"),
        (b"\xef\xbb\xbfWEBVTT\r\n", "webvtt"),
        (b"WEBVTT a title\n", "webvtt"),
        (b"WEBVTT\t", "webvtt"),
        (b"WEBVTT\rx", "webvtt"),
        (b"WEBVTTX\n", None),
        (b"webvtt\n", None),
        (b" WEBVTT\n", None),
        (b'{"pts":0}', "jsonl"),
        (b'{"pts": 7, "x": [1]}\r\nanything', "jsonl"),
        (b'{"pts":1}\n' + bytes(SNIFF_SIZE), "jsonl"),
        (b'{"pts":1}'.ljust(SNIFF_SIZE - 1), "jsonl"),
        (b'{"pts":1}'.ljust(SNIFF_SIZE), None),
        (b'{"pts":1}'.ljust(SNIFF_SIZE - 1) + b"\n", "jsonl"),
        (b' {"pts":1}\n', None),
        (b'\n{"pts":1}\n', None),
        (b'\xef\xbb\xbf{"pts":1}\n', None),
        (b'{"pts":1.0}\n', None),
        (b'{"pts":true}\n', None),
        (b'{"pts":-1}\n', None),
        (b'{"pts":"1"}\n', None),
        (b'{"pts":1,"x":NaN}\n', None),
        (b'{"pts":1', None),
        (b'{"pts":1} x\n', None),
        (b'{"PTS":1}\n', None),
        (b"{", None),
        (b'{"pts":' + b"9" * 4000 + b"}\n", None),
        (b'{"pts":' + b"[" * 4000 + b"\n", None),
        ('{"pts":1,"x":"é"}\n'.encode("latin-1"), None),
        ('{"pts":1}\n'.encode("utf-16-le"), None),
    ],
)
def test_text(prefix: bytes, name: str | None) -> None:
    found = sniff(prefix[:SNIFF_SIZE])
    assert (found and found.name) == name


@settings(deadline=None)
@given(st.binary(max_size=SNIFF_SIZE))
def test_anything_has_an_answer(prefix: bytes) -> None:
    found = sniff(prefix)
    assert found is None or found.name in {name for name, _ in NAMES.values()} | {"webvtt", "jsonl"}
