"""DASH manifests as text (ISO/IEC 23009-1): one period, a SegmentList of byte ranges for each rendition.

The on-demand profile wants a `sidx` in the media, which is not ours to write; SegmentList names the same
ranges in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from harmony4.server.players.presentation import Rendition

__all__ = ["MEDIA_TYPE", "manifest"]

MEDIA_TYPE: Final = "application/dash+xml"
_SECOND: Final = 1_000_000


def manifest(found: Sequence[Rendition]) -> str:
    """The MPD of these renditions, of which one is a video or sound."""
    seconds, micros = divmod(max(one.duration for one in found), _SECOND)
    sets = "".join(_adaptation(number, group) for number, group in enumerate(_sets(found)))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:full:2011" '
        f'type="static" minBufferTime="PT2S" mediaPresentationDuration="PT{seconds}.{micros:06}S">\n'
        f'<Period id="0" start="PT0S">\n{sets}</Period>\n</MPD>\n'
    )


def _sets(found: Sequence[Rendition]) -> Iterator[list[Rendition]]:
    """Renditions of one set may be exchanged for each other while they play: pictures of the same type; each
    sound and text is one of its own.
    """

    def kind(one: Rendition) -> tuple[object, ...]:
        sound = one.sound is not None
        return (0, one.media_type, sound, one.lang or "") if one.kind == "video" else (1, one.track)

    return (list(group) for _, group in groupby(sorted(found, key=kind), key=kind))


def _adaptation(number: int, group: Sequence[Rendition]) -> str:
    first = group[0]
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


def _representation(one: Rendition) -> str:
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
        f"<Representation{facts}>\n<BaseURL>{_text(one.url)}</BaseURL>\n{_segments(one)}</Representation>\n"
    )


def _segments(one: Rendition) -> str:
    segments = one.segments
    if segments is None:
        return ""
    init = f'<Initialization range="0-{one.init - 1}"/>\n' if one.init else ""
    lasts = segments.offsets + segments.sizes - 1
    ranges = np.column_stack((segments.offsets, lasts)).ravel().tolist()
    timeline = _timeline(one.start + int(segments.starts[0]), segments.durations.tolist())
    urls = '<SegmentURL mediaRange="%d-%d"/>\n' * len(segments) % tuple(ranges)
    return (
        f'<SegmentList timescale="{_SECOND}"{_attributes(presentationTimeOffset=one.start or None)}>\n{init}'
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
