"""RFC 6381 names out of header bytes: what ffmpeg writes, and rubbish."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.server.players.codecs import Coded, mp4_streams, ts_streams, webm_streams
from media_factory import media
from needs import needs_ffmpeg, program

FRAGMENTS = ["-movflags", "+empty_moov+delay_moov+default_base_moof+frag_keyframe"]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def described(entry: bytes) -> bytes:
    """A `moov` with one track of that sample entry."""
    stsd = box(b"stsd", bytes(4) + struct.pack(">I", 1) + entry)
    return box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd)))))


def video(kind: bytes, configuration: bytes) -> bytes:
    fields = bytes(24) + struct.pack(">HH", 640, 360) + bytes(50)
    return described(box(kind, fields + configuration))


def audio(kind: bytes, configuration: bytes, *, version: int = 0, more: int = 0) -> bytes:
    fields = bytes(8) + struct.pack(">H6xH6xHH", version, 2, 48_000, 0) + bytes(more)
    return described(box(kind, fields + configuration))


def esds(specific: bytes, *, kind: int = 0x40, tags: bytes = b"\3\4\5") -> bytes:
    """ES_Descriptor, DecoderConfigDescriptor and, where there is something, DecoderSpecificInfo."""
    rest = bytes([tags[2], len(specific)]) + specific if specific else b""
    config = bytes([kind]) + bytes(12) + rest
    body = b"\0\0\0" + bytes([tags[1], len(config)]) + config
    return box(b"esds", bytes(4) + bytes([tags[0], len(body)]) + body)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c:v", "libx264", "-profile:v", "baseline", "-level", "3.0"], "avc1.42C01E"),
        (["-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1"], "hvc1.1.6.L"),
        (["-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"], "vp09.00."),
        (["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime"], "av01.0."),
    ],
)
def test_pictures(arguments: list[str], expected: str, tmp_path: Path) -> None:
    (one,) = _made(tmp_path, ["-f", "lavfi", "-i", "testsrc2=s=160x90:r=25:d=0.2", *arguments])
    assert (one.kind, one.width, one.height) == ("video", 160, 90)
    assert one.codec is not None and one.codec.startswith(expected)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("codec", "expected"),
    [("aac", "mp4a.40.2"), ("libopus", "opus"), ("flac", "flac"), ("ac3", "ac-3"), ("libmp3lame", "mp4a.6b")],
)
def test_sound(codec: str, expected: str, tmp_path: Path) -> None:
    sine = ["-f", "lavfi", "-i", "sine=r=48000:d=0.2", "-c:a", codec, "-strict", "-2"]
    (one,) = _made(tmp_path, sine)
    # ISO/IEC 14496-12 has 2 in the entries of the older codecs, whatever they hold.
    assert one == Coded("audio", expected, channels=1 if codec in ("libopus", "flac") else 2, rate=48_000)


def _made(folder: Path, arguments: list[str]) -> list[Coded]:
    made = folder / "made.mp4"
    command = [program("ffmpeg") or "ffmpeg", "-v", "error", "-nostdin", *arguments, "-pix_fmt", "yuv420p"]
    subprocess.run([*command, *FRAGMENTS, str(made)], check=True, timeout=60)
    return mp4_streams(made.read_bytes())


@needs_ffmpeg
def test_transport_streams() -> None:
    data = media("broadcast.ts").read_bytes()
    picture, sound = ts_streams(["h264", "aac"], data)
    assert picture.codec is not None and picture.codec.startswith("avc1.64")
    assert sound == Coded("audio", "mp4a.40.2")
    assert ts_streams(["h264", "hevc", "dvb_subtitle"], b"") == [
        *(Coded("video", None), Coded("video", None), Coded("other", None))
    ]


def test_webm() -> None:
    assert [one.codec for one in webm_streams(["vp9", "opus", "av1"])] == ["vp9", "opus", None]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (video(b"avc1", box(b"avcC", b"\1\x64\0\x1f")), "avc1.64001F"),
        (video(b"avc1", b""), None),
        (video(b"avc1", box(b"avcC", b"\1")), None),
        (video(b"hev1", box(b"hvcC", b"\1\x61\x60\0\0\0\xb0\0\0\0\0\0\x5d")), "hev1.A1.6.H93.B0"),
        (video(b"hev1", box(b"hvcC", b"\1\1")), None),
        (video(b"av01", box(b"av1C", b"\x81\x08\xc0\0")), "av01.0.08H.10"),
        (video(b"vp09", box(b"vpcC", b"\1\0\0\0\2\x1f\xa0")), "vp09.02.31.10"),
        (video(b"mystery", b"")[:-1], None),
        (audio(b"mp4a", esds(b"\x12\x10")), "mp4a.40.2"),
        (audio(b"mp4a", esds(b"\x2b\x10")), "mp4a.40.5"),  # HE-AAC
        (audio(b"mp4a", esds(b"\xf9\x40")), "mp4a.40.42"),  # object types from 32 on have an escape
        (audio(b"mp4a", esds(b"\x12\x10"), version=1, more=16), "mp4a.40.2"),  # QuickTime's are longer
        (audio(b"mp4a", esds(b"", kind=0x6B)), "mp4a.6b"),
        # stream dependence, URL and OCR flags; lengths of several bytes
        (
            audio(
                b"mp4a",
                box(
                    b"esds",
                    b"\0\0\0\0\3\x80\x80\x1d\0\0\xe0\0\1\1u\0\2\4\x80\x11\x40" + bytes(12) + b"\5\2\x12\x10",
                ),
            ),
            "mp4a.40.2",
        ),
        (audio(b"mp4a", esds(b"\x12\x10", tags=b"\6\4\5")), None),
        (audio(b"mp4a", esds(b"\x12\x10", tags=b"\3\4\6")), None),
        (audio(b"mp4a", box(b"esds", b"")), None),
    ],
)
def test_by_the_byte(data: bytes, expected: str | None) -> None:
    found = mp4_streams(data)
    assert [one.codec for one in found] in ([expected], [])
    assert found or expected is None


def test_boxes_with_long_and_with_open_sizes() -> None:
    inner = video(b"avc1", box(b"avcC", b"\1\x64\0\x1f"))[8:]
    for head in (struct.pack(">I4sQ", 1, b"moov", 16 + len(inner)), struct.pack(">I4s", 0, b"moov")):
        assert [one.codec for one in mp4_streams(head + inner)] == ["avc1.64001F"]
    assert mp4_streams(struct.pack(">I4s", 7, b"moov") + inner) == []
    assert mp4_streams(described(box(b"tx3g", b""))) == [Coded("other", None)]


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 40))
def test_rubbish(noise: bytes, at: int, cut: int) -> None:
    """Whatever the bytes are, there is an answer."""
    whole = audio(b"mp4a", esds(b"\x12\x10"))
    for data in (noise, whole[:at] + noise + whole[at:], whole[:-cut], box(b"moov", noise)):
        mp4_streams(data)
        ts_streams(["h264"], data)


def test_many_boxes_within_each_other() -> None:
    """Time follows the bytes: only the way to `stsd` is walked."""
    data = b""
    for _ in range(20_000):
        data = box(b"moov", data[: 2**16])
    assert mp4_streams(data * 8) == []
