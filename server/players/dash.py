"""DASH manifests as text (ISO/IEC 23009-1): a SegmentList of byte ranges for each rendition.

The on-demand profile wants a `sidx` in the media, which is not ours to write; SegmentList names the same
ranges in the manifest. Where the media's clock jumps a new period begins, in which it has another offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from harmony4.server.players.presentation import Rendition

__all__ = ["MEDIA_TYPE", "manifest"]

MEDIA_TYPE: Final = "application/dash+xml"
_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Part:
    """The segments of a rendition in one period."""

    one: Rendition
    first: int
    stop: int
    """`stop` excluded."""
    begin: int
    """Of the period, µs of the container."""


def manifest(found: Sequence[Rendition]) -> str:
    """The MPD of these renditions, of which one is a video or sound."""
    seconds, micros = divmod(max(one.duration for one in found), _SECOND)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:full:2011" '
        f'type="static" minBufferTime="PT2S" mediaPresentationDuration="PT{seconds}.{micros:06}S">\n'
        f"{''.join(_period(number, parts) for number, parts in enumerate(_periods(found)))}</MPD>\n"
    )


def _periods(found: Sequence[Rendition]) -> list[list[_Part]]:
    """Which segments stand in which period. Text, which has no segments, only where there is one period."""
    timed = [one for one in found if one.segments is not None]
    jumps = sorted(
        (int(one.segments.starts[number]), place, number)
        for place, one in enumerate(timed)
        if one.segments is not None
        for number in one.segments.jumps
    )
    begins = [0]
    cuts = [[0] for _ in timed]
    own: dict[int, int] = {}
    for at, (start, place, number) in enumerate(jumps):
        own[place] = number
        # Tracks jump together, each at a keyframe of its own.
        if at + 1 < len(jumps) and jumps[at + 1][0] - start < _SECOND:
            continue
        begin = min(
            int(one.segments.starts[own[other]])
            for other, one in enumerate(timed)
            if other in own and one.segments is not None
        )
        begins.append(begin)
        for other, one in enumerate(timed):
            if one.segments is not None:
                later = int(np.searchsorted(one.segments.starts, begin))
                cuts[other].append(own.get(other, later))
        own = {}
    periods = []
    for number, begin in enumerate(begins):
        parts = []
        for one, cut in zip(timed, cuts, strict=True):
            stop = cut[number + 1] if number + 1 < len(cut) else len(one.segments or ())
            if cut[number] < stop:
                parts.append(_Part(one, cut[number], stop, begin))
        if len(begins) == 1:
            parts += [_Part(one, 0, 0, 0) for one in found if one.segments is None]
        periods.append(parts)
    return [parts for parts in periods if parts]


def _period(number: int, parts: Sequence[_Part]) -> str:
    seconds, micros = divmod(parts[0].begin, _SECOND)
    sets = "".join(_adaptation(place, group) for place, group in enumerate(_sets(parts)))
    return f'<Period id="{number}" start="PT{seconds}.{micros:06}S">\n{sets}</Period>\n'


def _sets(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Renditions of one set may be exchanged for each other while they play: pictures of the same type; each
    sound and text is one of its own.
    """

    def kind(part: _Part) -> tuple[object, ...]:
        one = part.one
        sound = one.sound is not None
        return (0, one.media_type, sound, one.lang or "") if one.kind == "video" else (1, one.track)

    return (list(group) for _, group in groupby(sorted(parts, key=kind), key=kind))


def _adaptation(number: int, group: Sequence[_Part]) -> str:
    first = group[0].one
    facts = _attributes(
        id=number,
        contentType=first.kind,
        mimeType=first.media_type,
        lang=first.lang,
        startWithSAP=None if first.kind == "text" else 1,
    )
    inner = "".join(map(_representation, group))
    label = f"<Label>{_text(first.name)}</Label>\n" if first.kind != "video" else ""
    role = "subtitle" if first.kind == "text" else "main"
    return (
        f"<AdaptationSet{facts}>\n{label}"
        f'<Role schemeIdUri="urn:mpeg:dash:role:2011" value="{role}"/>\n{inner}</AdaptationSet>\n'
    )


def _representation(part: _Part) -> str:
    one = part.one
    width, height = one.picture or (None, None)
    sound = one.sound
    facts = _attributes(
        id=one.track,
        bandwidth=max(one.peak, 1),
        codecs=None if one.codecs is None else ",".join(one.codecs),
        width=width,
        height=height,
        audioSamplingRate=sound.rate or None if sound is not None else None,
    )
    return (
        f"<Representation{facts}>\n<BaseURL>{_text(one.url)}</BaseURL>\n{_segments(part)}</Representation>\n"
    )


def _segments(part: _Part) -> str:
    one, segments = part.one, part.one.segments
    if segments is None:
        return ""
    here = slice(part.first, part.stop)
    begin = int(segments.starts[part.first])
    # Both are unsigned: what is before 0 on the media's clock, such as encoder delay, cannot be said.
    start = max(0, one.media_time(begin))
    offset = max(0, start - begin + part.begin)
    init = f'<Initialization range="0-{one.init - 1}"/>\n' if one.init else ""
    offsets = segments.offsets[here]
    ranges = np.column_stack((offsets, offsets + segments.sizes[here] - 1)).ravel().tolist()
    timeline = _timeline(start, segments.durations[here].tolist())
    urls = '<SegmentURL mediaRange="%d-%d"/>\n' * len(offsets) % tuple(ranges)
    return (
        f'<SegmentList timescale="{_SECOND}"{_attributes(presentationTimeOffset=offset or None)}>\n{init}'
        f"<SegmentTimeline>\n{timeline}</SegmentTimeline>\n"
        f"{urls}</SegmentList>\n"
    )


def _timeline(start: int, durations: Iterable[int]) -> str:
    lines: list[str] = []
    for duration, run in groupby(durations):
        repeated = sum(1 for _ in run) - 1
        first = f' t="{start}"' if not lines else ""
        again = f' r="{repeated}"' if repeated else ""
        lines.append(f'<S{first} d="{duration}"{again}/>\n')
    return "".join(lines)


def _attributes(**values: object) -> str:
    return "".join(
        f" {name}={quoteattr(_plain(str(value)))}" for name, value in values.items() if value is not None
    )


def _text(text: str) -> str:
    return escape(_plain(text))


def _plain(text: str) -> str:
    """What may stand in XML 1.0: no control character, no lone surrogate."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
