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
_SUBTITLES: Final = "subtitles"


def media_playlist(one: Rendition) -> str:
    """The playlist of one rendition: its segments, or for text the whole of it as one."""
    if one.segments is None:
        seconds = max(1, round(one.duration / _SECOND))
        whole = f"#EXTINF:{_decimal(one.duration)},\n{one.url}\n"
        return _head(3, seconds) + whole + "#EXT-X-ENDLIST\n"
    segments = one.segments
    durations = segments.durations
    if segments.starts[0] >= _LATE:
        # Playlists of one presentation begin together: the silence belongs to the first segment.
        durations = durations.copy()
        durations[0] += segments.starts[0]
    longest = int(durations.max())
    version = 8 if segments.gaps else 7 if one.init else 4
    # Rounded, no segment may be longer (RFC 8216 §4.3.3.1).
    parts = [_head(version, max(1, (longest + _SECOND // 2) // _SECOND)), "#EXT-X-INDEPENDENT-SEGMENTS\n"]
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


def _head(version: int, target: int) -> str:
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
    # Renditions of one group must not differ in their codecs (RFC 8216 §4.3.4.1.1).
    groups: dict[tuple[str, ...] | None, list[Rendition]] = {}
    if videos or len(sounds) > 1:
        for one in sounds:
            groups.setdefault(one.codecs, []).append(one)
    muxed = next((one for one in videos if one.sound is not None), None)
    for number, group in enumerate(groups.values()):
        inside = [] if muxed is None or not videos else [(muxed, None)]
        entries = [*inside, *((one, address(one.track)) for one in group)]
        lines += _media("AUDIO", f"audio{number}", entries)
    lines += _media("SUBTITLES", _SUBTITLES, [(one, address(one.track)) for one in texts], default=False)
    variants: list[tuple[Rendition, str | None, list[Rendition]]] = [
        (video, f"audio{number}" if groups else None, group)
        for video in videos
        for number, group in enumerate(groups.values() if groups else [[]])
    ]
    if not videos:
        variants = [(group[0], f"audio{number}", group) for number, group in enumerate(groups.values())] or [
            (one, None, []) for one in sounds
        ]
    for one, audio, group in variants:
        lines += [_variant(one, audio, group, bool(texts)), address(one.track)]
    return "\n".join([*lines, ""])


def _variant(one: Rendition, audio: str | None, group: Sequence[Rendition], texts: bool) -> str:
    beside = [other for other in group if other is not one]
    peak = one.peak + max((other.peak for other in beside), default=0)
    average = one.average + max((other.average for other in beside), default=0)
    attributes = [f"BANDWIDTH={max(peak, 1)}", f"AVERAGE-BANDWIDTH={max(average, 1)}"]
    known = [one.codecs, *(other.codecs for other in beside)]
    if all(codecs is not None for codecs in known):
        names = dict.fromkeys(name for codecs in known if codecs is not None for name in codecs)
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
        name = _plain(one.name if address is not None else "In the video")
        if name in names:  # names of one group must differ
            name = f"{name} ({one.track + 1})"
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
