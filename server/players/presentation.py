"""What of a container players can be given: its renditions, with what a playlist says of each of them."""

from __future__ import annotations

from collections.abc import Container as Collection
from dataclasses import dataclass, field
from typing import Final

from harmony4.crypto.errors import FormatError, HarmonyError
from harmony4.h4mk import H4MKReader, Step
from harmony4.server.folder import facts
from harmony4.server.players.codecs import Coded, mp4_streams, ts_streams, webm_streams
from harmony4.server.players.segments import Segments, clock_steps, find_segments

__all__ = [
    "DASH_TYPES",
    "HLS_TYPES",
    "TEXT",
    "Rendition",
    "playable",
    "player_urls",
    "rendition",
    "renditions",
]

TEXT: Final = "text/vtt"
_MP4: Final = ("video/mp4", "audio/mp4")
_WEBM: Final = ("video/webm", "audio/webm")
HLS_TYPES: Final = (*_MP4, "video/mp2t", "audio/mpeg")
"""RFC 8216 §3: fragmented MP4, MPEG transport streams, packed audio."""
DASH_TYPES: Final = (*_MP4, *_WEBM)
_INIT: Final = 2**20
"""So much of the header bytes is looked at; a `moov` without samples has some KiB."""
_KEY: Final = 2**16
"""So much of the first keyframe of a transport stream."""
_SYNC: Final = b"\x47"
"""What a transport packet begins with; those of M2TS have four bytes before it, which HLS does not know."""
_LANGUAGE: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"


@dataclass(frozen=True, slots=True)
class Rendition:
    """A track that players can be given."""

    track: int
    kind: str
    """video, audio or text; a video may have sound in it."""
    media_type: str
    url: str
    """Where its bytes are, `facts.range_url`."""
    duration: int
    """µs, from 0 of the container to its end."""
    init: int
    """Bytes at the beginning of its stream that a decoder needs before any segment."""
    streams: tuple[Coded, ...] = ()
    peak: int = 0
    average: int = 0
    """Bits/s."""
    origin: int = 0
    """µs on the media's own clock that are 0 in the container, but for the steps."""
    steps: tuple[Step, ...] = ()
    """Where the media's clock jumped."""
    lang: str | None = None
    name: str = ""
    segments: Segments | None = field(default=None, compare=False)

    @property
    def codecs(self) -> tuple[str, ...] | None:
        """RFC 6381 names of its streams; None where one is not known."""
        names = tuple(dict.fromkeys(one.codec for one in self.streams if one.codec is not None))
        return names if names and all(one.codec for one in self.streams) else None

    @property
    def picture(self) -> tuple[int, int] | None:
        """Width and height in pixels, where they are known."""
        return next(((one.width, one.height) for one in self.streams if one.width and one.height), None)

    def media_time(self, pts: int) -> int:
        """µs on the media's own clock, at `pts` µs of the container."""
        return pts + self.origin - sum(step.shift for step in self.steps if step.pts <= pts)

    @property
    def sound(self) -> Coded | None:
        """Its first sound, if it has one."""
        return next((one for one in self.streams if one.kind == "audio"), None)


def playable(reader: H4MKReader, track: int, types: Collection[str]) -> bool:
    """Whether a track's own facts let it be given to players as one of `types` or as text."""
    state = reader.tracks[track]
    info = state.info
    if info.masked or not state.blocks:
        return False
    if info.media_type == TEXT:
        return info.kind == "text"
    return info.media_type in types and info.kind in ("video", "audio") and info.self_framing


def renditions(reader: H4MKReader, name: str, types: Collection[str]) -> list[Rendition]:
    """Every rendition of a container, in track order; damaged tracks are left out where others are sound.

    Reads tables and header bytes. Raises FormatError and its kin, SourceError.
    """
    found: list[Rendition] = []
    damaged: FormatError | None = None
    for track in range(len(reader.tracks)):
        try:
            one = rendition(reader, name, track) if playable(reader, track, types) else None
        except FormatError as error:  # the others play on
            damaged = damaged or error
            continue
        if one is not None:
            found.append(one)
    if damaged is not None and not found:
        raise damaged
    return found


def rendition(reader: H4MKReader, name: str, track: int) -> Rendition | None:
    """One track that is `playable`; None where its blocks cannot be fetched by segments after all: without a
    keyframe, or with header bytes elsewhere than at its beginning. Raises as `renditions` does.
    """
    info = reader.tracks[track].info
    common = (track, info.kind, info.media_type, facts.range_url(reader, name, track))
    lang, called = _language(info.lang), info.name or info.lang or f"Track {track + 1}"
    if info.media_type == TEXT:
        size = reader.stream_size(track)
        return Rendition(
            *common, max(reader.end(track), 1), 0, average=size, peak=size, lang=lang, name=called
        )
    headers = reader.header_ranges(track)
    segments = find_segments(reader, track)
    if segments is None or headers not in ((), ((0, int(segments.offsets[0])),)):
        return None
    streams = _streams(reader, track, segments)
    if streams is None:
        return None
    return Rendition(
        *common,
        int(segments.starts[0] + segments.durations.sum()),
        int(segments.offsets[0]) if headers else 0,
        tuple(streams),
        segments.peak(),
        segments.average(),
        reader.trak.origin,
        tuple(clock_steps(reader, track)),
        lang,
        called,
        segments,
    )


def player_urls(reader: H4MKReader, name: str) -> dict[str, str]:
    """`hls_url` and `dash_url`, each where a track of the container can be played so; reads no table."""
    kinds = (
        ("hls_url", "/video/hls/index.m3u8", HLS_TYPES),
        ("dash_url", "/video/dash/manifest.mpd", DASH_TYPES),
    )
    return {
        key: facts.versioned(path, reader, name)
        for key, path, types in kinds
        if any(
            playable(reader, track, types) and one.info.media_type != TEXT and one.keyframes
            for track, one in enumerate(reader.tracks)
        )
    }


def _streams(reader: H4MKReader, track: int, segments: Segments) -> list[Coded] | None:
    """Its streams, as far as they are known; None where players cannot take it after all."""
    info = reader.tracks[track].info
    names = info.codec.split(",")
    key = int(segments.offsets[0])
    try:
        if info.media_type in _MP4:
            return mp4_streams(reader.read(0, min(key, _INIT), track))
        if info.media_type in _WEBM:
            return webm_streams(names)
        if info.media_type == "video/mp2t":
            data = reader.read(key, min(int(segments.sizes[0]), _KEY), track)
            return ts_streams(names, data) if data.startswith(_SYNC) else None
    except HarmonyError:  # lost: a player finds out for itself
        return []
    return [Coded("audio", "mp4a.40.34")]


def _language(text: str | None) -> str | None:
    """What may stand as a language tag (RFC 5646) in a playlist."""
    return text if text and len(text) <= 35 and all(letter in _LANGUAGE for letter in text) else None
