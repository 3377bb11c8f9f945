"""HLS playlists as text (RFC 8216; EXT-X-GAP and SUBTITLES as in its second edition).

Pure: a `Rendition` in, text out. Segments are byte ranges of one address, so there are no segment files, and
nothing is muxed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from harmony4.server.players.presentation import Rendition

__all__ = ["MEDIA_TYPE", "master_playlist", "media_playlist"]

MEDIA_TYPE: Final = "application/vnd.apple.mpegurl"
_SECOND: Final = 1_000_000
_LATE: Final = 500_000
"""From so many µs on a track begins late. Less is what encoders are apart by: ffmpeg, which counts from the
first packet on, would look for a keyframe behind the one that a segment begins with, and miss it."""
_VARIANTS: Final = 64
"""Most variants where sounds are in several groups: their number is a product, and comes from outside."""
_KINDS: Final = 2
"""A picture's codecs and one group's."""
_SUBTITLES: Final = "subtitles"


def media_playlist(one: Rendition) -> str:
    """The playlist of one rendition: its segments, or for text the whole of it as one."""
    if one.segments is None:
        whole = f"#EXTINF:{_decimal(one.duration)},\n{one.url}\n"
        return _head(3, one.duration) + whole + "#EXT-X-ENDLIST\n"
    segments = one.segments
    durations = segments.durations
    if segments.starts[0] >= _LATE:
        # Playlists of one presentation begin together: the silence belongs to the first segment.
        durations = durations.copy()
        durations[0] += segments.starts[0]
    longest = int(durations.max())
    version = 8 if segments.gaps else 7 if one.init else 4
    parts = [_head(version, longest), "#EXT-X-INDEPENDENT-SEGMENTS\n"]
    if one.init:
        parts.append(f'#EXT-X-MAP:URI="{one.url}",BYTERANGE="{one.init}@0"\n')
    # All lines in one operation: a loop over 18 000 segments takes several times as long.
    columns = (*np.divmod(durations, _SECOND), segments.sizes, segments.offsets)
    rows = np.column_stack(columns)
    line = "#EXTINF:%d.%06d,\n#EXT-X-BYTERANGE:%d@%d\n" + one.url.replace("%", "%%") + "\n"
    marks = segments.jumps | segments.gaps
    for start, stop in pairwise(sorted({0, *marks, *(mark + 1 for mark in segments.gaps), len(rows)})):
        if start in segments.jumps:
            parts.append("#EXT-X-DISCONTINUITY\n")
        if start in segments.gaps:
            parts.append("#EXT-X-GAP\n")
        parts.append(line * (stop - start) % tuple(rows[start:stop].ravel().tolist()))
    return "".join([*parts, "#EXT-X-ENDLIST\n"])


def _head(version: int, longest: int) -> str:
    """How it begins; `longest` segment, µs: rounded, no other may be longer (RFC 8216 §4.3.3.1)."""
    target = max(1, (longest + _SECOND // 2) // _SECOND)
    return (
        f"#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target}\n"
        "#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    )


def master_playlist(found: Sequence[Rendition], address: Callable[[int], str]) -> str:
    """The playlist of playlists; `address` of a track's own. `found` holds a video or sound."""
    videos = [one for one in found if one.kind == "video"]
    sounds = [one for one in found if one.kind == "audio"]
    texts = [one for one in found if one.kind == "text"]
    lines = ["#EXTM3U", "#EXT-X-VERSION:6", "#EXT-X-INDEPENDENT-SEGMENTS"]
    groups = _groups(sounds, len(videos)) if videos or len(sounds) > 1 else []
    # In a group it stands for the sound of whatever video is played, so all of them must have one.
    inside = videos[:1] if videos and all(one.sound is not None for one in videos) else []
    for number, group in enumerate(groups):
        entries = [*((one, None) for one in inside), *((one, address(one.track)) for one in group)]
        lines += _media("AUDIO", f"audio{number}", entries)
    lines += _media("SUBTITLES", _SUBTITLES, [(one, address(one.track)) for one in texts], default=False)
    variants: list[tuple[Rendition, str | None, list[Rendition]]] = [
        (video, f"audio{number}" if groups else None, group)
        for video in videos
        for number, group in enumerate(groups or [[]])
    ]
    if not videos:
        variants = [(group[0], f"audio{number}", group) for number, group in enumerate(groups)] or [
            (one, None, []) for one in sounds
        ]
    for one, audio, group in variants:
        lines += [_variant(one, audio, group, bool(texts)), address(one.track)]
    return "\n".join([*lines, ""])


def _groups(sounds: Sequence[Rendition], videos: int) -> list[list[Rendition]]:
    """Sounds by their codecs: those of one group must not differ (RFC 8216 §4.3.4.1.1).

    Every video is a variant with every group; where that would be too many, there is one group of all.
    """
    groups: dict[tuple[str, ...] | None, list[Rendition]] = {}
    for one in sounds:
        groups.setdefault(one.codecs, []).append(one)
    found = list(groups.values())
    return found if len(found) * max(videos, 1) <= max(_VARIANTS, videos) else [list(sounds)]


def _variant(one: Rendition, audio: str | None, group: Sequence[Rendition], texts: bool) -> str:
    beside = [other for other in group if other is not one]
    peak = one.peak + max((other.peak for other in beside), default=0)
    average = one.average + max((other.average for other in beside), default=0)
    attributes = [f"BANDWIDTH={max(peak, 1)}", f"AVERAGE-BANDWIDTH={max(average, 1)}"]
    # Codecs that nobody knows, or of sounds that differ: then a player finds out by itself.
    known = dict.fromkeys((one.codecs, *(other.codecs for other in beside)))
    if None not in known and len(known) <= _KINDS:
        names = dict.fromkeys(name for codecs in known for name in codecs or ())
        attributes.append(f"CODECS={_quoted(','.join(names))}")
    if one.picture is not None:
        attributes.append("RESOLUTION={}x{}".format(*one.picture))
    if audio is not None:
        attributes.append(f"AUDIO={_quoted(audio)}")
    if texts:
        attributes.append(f"SUBTITLES={_quoted(_SUBTITLES)}")
    if one.kind == "video":
        attributes.append("CLOSED-CAPTIONS=NONE")
    return "#EXT-X-STREAM-INF:" + ",".join(attributes)


def _media(
    kind: str, group: str, entries: Iterable[tuple[Rendition, str | None]], *, default: bool = True
) -> list[str]:
    lines: list[str] = []
    names: set[str] = set()
    for one, address in entries:
        name = asked = _plain(one.name if address is not None else "In the video")
        number = one.track + 1
        while name in names:  # names of one group must differ
            name, number = f"{asked} ({number})", number + 1
        names.add(name)
        first = "YES" if default and not lines else "NO"
        attributes = [f"TYPE={kind}", f"GROUP-ID={_quoted(group)}", f"NAME={_quoted(name)}"]
        if one.lang is not None:
            attributes.append(f"LANGUAGE={_quoted(one.lang)}")
        attributes += [f"DEFAULT={first}", "AUTOSELECT=YES"]
        if kind == "SUBTITLES":
            attributes.append("FORCED=NO")
        elif one.sound is not None and one.sound.channels:
            attributes.append(f'CHANNELS="{one.sound.channels}"')
        if address is not None:
            attributes.append(f"URI={_quoted(address)}")
        lines.append("#EXT-X-MEDIA:" + ",".join(attributes))
    return lines


def _plain(text: str) -> str:
    """What may stand in a quoted string (RFC 8216 §4.2): no quote, no control character."""
    return "".join("'" if letter == '"' else letter if letter.isprintable() else " " for letter in text)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _decimal(micros: int) -> str:
    return f"{micros // _SECOND}.{micros % _SECOND:06}"
