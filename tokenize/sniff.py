"""Which of the formats that we demux or cut a medium is, by its first bytes and nothing else.

A name or a Content-Type is never believed, and the demuxer is told the answer (`format=`), so no text that
calls itself a video can make it choose a playlist reader. What is not recognised here is opaque.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmony4.tokenize.text import record

__all__ = ["SNIFF_SIZE", "Format", "sniff"]

SNIFF_SIZE = 4096
"""Bytes of a medium's start that are enough for every rule below."""


@dataclass(frozen=True, slots=True)
class Format:
    """A recognised container format."""

    name: str
    """mp4, matroska, mpegts, mp3, flac, wav or ogg: FFmpeg's name for its demuxer. Text: webvtt, jsonl."""
    video_type: str
    """Media type if the clock stream is video."""
    audio_type: str
    """Media type otherwise."""
    packet: int = 0
    """MPEG-TS only: bytes from packet to packet, 188 or 192."""


_MP4 = Format("mp4", "video/mp4", "audio/mp4")
_QUICKTIME = Format("mp4", "video/quicktime", "audio/mp4")
_MATROSKA = Format("matroska", "video/x-matroska", "audio/x-matroska")
_WEBM = Format("matroska", "video/webm", "audio/webm")
_MP3 = Format("mp3", "audio/mpeg", "audio/mpeg")
_FLAC = Format("flac", "audio/flac", "audio/flac")
_WAV = Format("wav", "audio/wav", "audio/wav")
_OGG = Format("ogg", "video/ogg", "audio/ogg")

_WEBVTT = Format("webvtt", "text/vtt", "text/vtt")
# Registered is only application/json-seq (RFC 7464), whose records begin with another byte.
_JSONL = Format("jsonl", "application/jsonl", "application/jsonl")

_BOXES = frozenset((b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot"))
# Still images use the same boxes; the MP4 demuxer would read them as films of one picture.
_IMAGES = frozenset(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"avif", b"avis", b"mif1", b"msf1")
)

# MPEG-1 Layer III bit rates in kbit/s: MPEG 1, then MPEG 2 and 2.5 (ISO 11172-3, 13818-3).
_RATES1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLING = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def sniff(prefix: bytes) -> Format | None:
    """The format of a medium that starts with `prefix` (up to SNIFF_SIZE bytes), or None."""
    if prefix[4:8] in _BOXES:
        return _boxes(prefix)
    if prefix.startswith(b"\x1aE\xdf\xa3"):
        # The DocType element (42 82) stands in the EBML header, which is a few dozen bytes long.
        return _WEBM if b"\x42\x82\x84webm" in prefix[:128] else _MATROSKA
    if prefix.startswith(b"OggS"):
        return _OGG
    if prefix.startswith(b"fLaC"):
        return _FLAC
    if prefix[:4] in (b"RIFF", b"RF64", b"BW64") and prefix[8:12] == b"WAVE":
        return _WAV
    if prefix.startswith(b"ID3") and len(prefix) >= 10:
        return _after_id3(prefix)
    for packet in (188, 192):
        sync = prefix[packet - 188 :: packet]
        # Three in a row: a single 'G' opens many texts and every GIF.
        if len(sync) >= 3 and sync.count(0x47) == len(sync):
            return Format("mpegts", "video/mp2t", "video/mp2t", packet)
    return _MP3 if _frames(prefix) else _text(prefix)


def _text(prefix: bytes) -> Format | None:
    signature = prefix.removeprefix(b"\xef\xbb\xbf")
    if signature.startswith(b"WEBVTT") and signature[6:7] in (b"", b" ", b"\t", b"\r", b"\n"):
        return _WEBVTT
    line, end, _ = prefix.partition(b"\n")
    # Without its end the first line is whole only where it is the last one.
    whole = end or len(line) < SNIFF_SIZE
    return _JSONL if whole and line.startswith(b"{") and record(line) is not None else None


def _boxes(prefix: bytes) -> Format | None:
    size = int.from_bytes(prefix[:4], "big")
    if 1 < size < 8:
        return None
    if prefix[4:8] == b"ftyp":
        brand = prefix[8:12]
        if brand in _IMAGES:
            return None
        return _QUICKTIME if brand == b"qt  " else _MP4
    return _MP4 if prefix[4:8] in (b"styp", b"moov") else _QUICKTIME


def _after_id3(prefix: bytes) -> Format:
    size = 0
    for byte in prefix[6:10]:  # a "synchsafe" integer: seven bits a byte
        size = size << 7 | byte & 0x7F
    return _FLAC if prefix[10 + size : 14 + size] == b"fLaC" else _MP3


def _frames(prefix: bytes) -> bool:
    """Whether two Layer III frames of one kind follow each other (ISO 11172-3 2.4.2.3)."""
    at = 0
    kinds = set()
    for _ in range(2):
        head = prefix[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
            return False
        version, rate, sampling = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
        if version == 1 or rate in (0, 15) or sampling == 3:
            return False
        kinds.add((version, sampling))
        kilobits = (_RATES1 if version == 3 else _RATES2)[rate]
        samples = 144 if version == 3 else 72
        at += samples * kilobits * 1000 // _SAMPLING[version][sampling] + (head[2] >> 1 & 1)
    return len(kinds) == 1
