"""What the header bytes of a stream say of its codecs: RFC 6381 strings, picture sizes, channels.

Read from ISO BMFF (ISO/IEC 14496-12 `stsd` and the configuration boxes in it) and, as far as it goes, from
the first bytes of an MPEG transport stream. Whatever cannot be read is unknown and no error: the bytes come
from outside, and a player finds out for itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Coded", "mp4_streams", "ts_streams", "webm_streams"]

_STREAMS: Final = 16
"""A track with more streams than this is nothing for players: of so many nothing is said."""


@dataclass(frozen=True, slots=True)
class Coded:
    """One stream inside a track."""

    kind: str
    """video, audio or other."""
    codec: str | None
    """RFC 6381; None where it is not known."""
    width: int = 0
    height: int = 0
    """Pixels; 0 where they are not known."""
    channels: int = 0
    rate: int = 0
    """Hz."""


def mp4_streams(data: bytes) -> list[Coded]:
    """The streams that the `moov` in a file's first bytes describes, in its order."""
    found = []
    for moov in _boxes(data, b"moov"):
        for trak in _boxes(moov, b"trak"):
            for stsd in _at(trak, b"mdia", b"minf", b"stbl", b"stsd"):
                first = next(_all(stsd[8:]), None)
                found += [] if first is None else [_entry(*first)]
                if len(found) > _STREAMS:
                    return []
    return found


def _all(data: memoryview | bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of the boxes in a row, as far as they are whole."""
    view = memoryview(data)
    while len(view) >= 8:
        size, kind = struct.unpack_from(">I4s", view)
        begin = 8
        if size == 1 and len(view) >= 16:
            (size,) = struct.unpack_from(">Q", view, 8)
            begin = 16
        elif size == 0:
            size = len(view)
        if not begin <= size <= len(view):
            return
        yield kind, view[begin:size]
        view = view[size:]


def _boxes(data: memoryview | bytes, wanted: bytes) -> Iterator[memoryview]:
    return (content for kind, content in _all(data) if kind == wanted)


def _at(data: memoryview, *path: bytes) -> Iterator[memoryview]:
    if not path:
        yield data
        return
    for content in _boxes(data, path[0]):
        yield from _at(content, *path[1:])


def _entry(kind: bytes, data: memoryview) -> Coded:
    """A sample entry (14496-12 §8.5.2)."""
    name = kind.decode("latin-1")
    try:
        if name in _VIDEO:
            width, height = struct.unpack_from(">HH", data, 24)
            return Coded("video", _VIDEO[name](name, data[78:]), width, height)
        if name in _AUDIO:
            version, channels, rate = struct.unpack_from(">H6xH6xH", data, 8)
            inner = data[28 + {1: 16, 2: 36}.get(version, 0) :]
            return Coded("audio", _AUDIO[name](name, inner), channels=channels, rate=rate)
    except (struct.error, IndexError, ValueError):
        return Coded("video" if name in _VIDEO else "audio", None)
    return Coded("other", None)


def _configuration(data: memoryview, box: bytes) -> memoryview:
    for content in _boxes(data, box):
        return content
    raise ValueError(box)


def _avc(name: str, data: memoryview) -> str:
    _, profile, compatible, level = struct.unpack_from("4B", _configuration(data, b"avcC"))
    return f"{name}.{profile:02X}{compatible:02X}{level:02X}"


def _hevc(name: str, data: memoryview) -> str:
    """ISO/IEC 14496-15 Annex E.3."""
    head, compatible, constraints, level = struct.unpack_from(">xBI6sB", _configuration(data, b"hvcC"))
    space = ("", "A", "B", "C")[head >> 6]
    reversed_bits = int(f"{compatible:032b}"[::-1], 2)
    rest = "".join(f".{byte:X}" for byte in constraints.rstrip(b"\0"))
    return f"{name}.{space}{head & 31}.{reversed_bits:X}.{'H' if head & 32 else 'L'}{level}{rest}"


def _av1(name: str, data: memoryview) -> str:
    """AV1 in ISOBMFF §5."""
    box = _configuration(data, b"av1C")
    high, twelve = box[2] >> 6 & 1, box[2] >> 5 & 1
    depth = 12 if high and twelve else 10 if high else 8
    return f"av01.{box[1] >> 5}.{box[1] & 31:02}{'H' if box[2] >> 7 else 'M'}.{depth:02}"


def _vp9(name: str, data: memoryview) -> str:
    """VP9 in ISOBMFF, `vpcC`."""
    box = _configuration(data, b"vpcC")
    return f"vp09.{box[4]:02}.{box[5]:02}.{box[6] >> 4:02}"


def _aac(name: str, data: memoryview) -> str:
    """`esds` (ISO/IEC 14496-1 §7.2.6): the object type, for AAC also the audio object type."""
    rest = _configuration(data, b"esds")[4:]
    tag, rest = _descriptor(rest)
    flags = rest[2]
    rest = rest[3 + 2 * (flags >> 7) :]
    if flags & 64:
        rest = rest[1 + rest[0] :]
    rest = rest[2 * (flags >> 5 & 1) :]
    inner, config = _descriptor(rest)
    if (tag, inner) != (3, 4):
        raise ValueError("not an esds")
    if config[0] != 0x40:
        return f"mp4a.{config[0]:02x}"
    last, specific = _descriptor(config[13:])
    if last != 5:
        raise ValueError("not an esds")
    kind = specific[0] >> 3
    if kind == 31:
        kind = 32 + ((specific[0] & 7) << 3 | specific[1] >> 5)
    return f"mp4a.40.{kind}"


def _descriptor(data: memoryview) -> tuple[int, memoryview]:
    size, at = 0, 1
    while True:
        size = size << 7 | data[at] & 127
        at += 1
        if not data[at - 1] & 128 or at > 4:
            return data[0], data[at : at + size]


def _named(codec: str) -> Callable[[str, memoryview], str]:
    return lambda name, data: codec


_VIDEO: Final = {
    "avc1": _avc,
    "avc3": _avc,
    "hvc1": _hevc,
    "hev1": _hevc,
    "av01": _av1,
    "vp09": _vp9,
}
_AUDIO: Final = {
    "mp4a": _aac,
    "Opus": _named("opus"),
    "fLaC": _named("flac"),
    "ac-3": _named("ac-3"),
    "ec-3": _named("ec-3"),
    ".mp3": _named("mp4a.6b"),
}

_WEBM: Final = {
    "vp8": Coded("video", "vp8"),
    "vp9": Coded("video", "vp9"),
    "opus": Coded("audio", "opus"),
    "vorbis": Coded("audio", "vorbis"),
}
_TS: Final = {
    "aac": Coded("audio", "mp4a.40.2"),
    "mp3": Coded("audio", "mp4a.40.34"),
    "ac3": Coded("audio", "ac-3"),
    "eac3": Coded("audio", "ec-3"),
}
_SPS: Final = re.compile(rb"\x00\x00\x01[\x27\x47\x67](...)", re.DOTALL)


def webm_streams(names: Sequence[str]) -> list[Coded]:
    """The streams of a WebM file whose codecs have FFmpeg's `names`."""
    return [_WEBM.get(name, Coded("other", None)) for name in names]


def ts_streams(names: Sequence[str], data: bytes) -> list[Coded]:
    """The streams of a transport stream; `data`: where its first keyframe begins."""
    found = []
    for name in names:
        if name == "h264":
            sps = _SPS.search(data)
            found.append(Coded("video", f"avc1.{sps[1].hex().upper()}" if sps else None))
        else:
            found.append(_TS.get(name, Coded("video" if name in ("hevc", "mpeg2video") else "other", None)))
    return found
