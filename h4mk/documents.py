"""TRAK and META: the two JSON chunks, as frozen dataclasses with one canonical encoding each (H4MK 5, 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from harmony4.crypto.errors import JSONError, OrderError
from harmony4.crypto.token import DEFAULT_BLOCK, MAX_BLOCK, MAX_BLOCKS, MAX_VALUE
from harmony4.h4mk import canonical
from harmony4.h4mk.canonical import (
    boolean,
    choice,
    digest,
    filled,
    hexdigest,
    integer,
    items,
    members,
    operation,
    tag,
    text,
)

__all__ = [
    "AncillaryInfo",
    "HistoryEntry",
    "Lost",
    "Meta",
    "Start",
    "Step",
    "StoredTrack",
    "TrackInfo",
    "Trak",
    "steps_fit",
]

_TICKS: Final = 2**63 - 1

Digest = bytes
"""A SHA-256, 32 bytes."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream starts: `ticks` of a clock whose tick lasts `num`/`den` seconds."""

    ticks: int = 0
    num: int = 1
    den: int = 1_000_000


@dataclass(frozen=True, slots=True)
class TrackInfo:
    """What TRAK says of a track; known before its first block."""

    codec: str = ""
    """Codec names of the streams in it, in stream order, joined by commas; empty if unknown."""
    kind: str = "data"
    """video, audio, text, tokens or data."""
    media_type: str = "application/octet-stream"
    self_framing: bool = False
    """Whether the HEADER blocks and any KEY group play alone."""
    span: int = 0
    """Least distance of two KEY blocks, µs."""
    start: Start = field(default_factory=Start)
    stream: int = 0
    """Which stream of the source is the clock."""
    timing: str = "hint"
    """demux: times come from the media; hint: from a frame rate that somebody gave."""
    masked: bool = False
    lang: str | None = None
    name: str | None = None

    def _json(self) -> dict[str, object]:
        value: dict[str, object] = {
            "codec": self.codec,
            "kind": self.kind,
            "masked": self.masked,
            "media_type": self.media_type,
            "self_framing": self.self_framing,
            "span": self.span,
            "start": {"den": self.start.den, "num": self.start.num, "ticks": self.start.ticks},
            "stream": self.stream,
            "timing": self.timing,
        }
        return value | _present(lang=self.lang, name=self.name)


@dataclass(frozen=True, slots=True)
class Trak:
    """TRAK: the tracks and how blocks were cut (H4MK 5)."""

    tracks: tuple[TrackInfo, ...]
    origin: int = 0
    """µs that were subtracted from every floored time."""
    block: int = DEFAULT_BLOCK
    """Greatest payload of a block, bytes."""
    order: str = "end"
    """end: blocks in order of (end, track, index); arrival: as they came."""
    rule: int = 1
    mask: Mapping[str, str] | None = None

    def pack(self) -> bytes:
        """The canonical JSON. What it would refuse to read it refuses to write."""
        value = {
            "cut": {"block": self.block, "order": self.order, "rule": self.rule},
            "origin": str(self.origin),
            "tracks": [track._json() for track in self.tracks],
        }
        data = canonical.encode(value | _present(mask=self.mask), "TRAK")
        self.unpack(data)
        return data

    @classmethod
    def unpack(cls, data: bytes) -> Trak:
        """Parse and check. Raises JSONError, CriticalError."""
        value = canonical.decode(data, "TRAK", _TRAK)
        tracks = tuple(TrackInfo(**{**track, "start": Start(**track["start"])}) for track in value["tracks"])
        masked = any(track.masked for track in tracks)
        if masked != ("mask" in value):
            raise JSONError("masked tracks and `mask` must come together", where="TRAK.mask")
        return cls(tracks, value["origin"], **value["cut"], mask=value.get("mask"))


@dataclass(frozen=True, slots=True)
class Step:
    """A jump of the source's clock that was taken out: from `pts` on, `shift` µs were added, or taken."""

    pts: int
    shift: int
    track: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """A hole: `count` blocks from index `first` on are missing; 0: the end of the track, length unknown."""

    count: int
    first: int
    track: int = 0


@dataclass(frozen=True, slots=True)
class AncillaryInfo:
    """An ancillary chunk, as META lists it."""

    sha256: bytes
    size: int
    tag: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One operation on the way from the sources to this container."""

    op: str
    args: Mapping[str, str | int | bool] = field(default_factory=dict)
    inputs: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StoredTrack:
    """What META says of a track: its totals, and where its tables are."""

    blocks: int
    bytes: int
    """Stored payload bytes."""
    keyframes: int
    rmap: int
    seek: int
    """Chunk offsets."""
    sha256: Digest
    """SHA-256 of the stored stream."""


@dataclass(frozen=True, slots=True)
class Meta:
    """META: the directory of a sealed container (H4MK 10)."""

    blocks: int
    duration: int
    tracks: tuple[StoredTrack, ...]
    history: tuple[HistoryEntry, ...] = ()
    steps: tuple[Step, ...] = ()
    lost: tuple[Lost, ...] = ()
    ancillary: tuple[AncillaryInfo, ...] = ()
    structure_only: bool = True
    title: str | None = None

    def pack(self) -> bytes:
        """The canonical JSON. What it would refuse to read it refuses to write."""
        value: dict[str, object] = {
            "ancillary": [
                {"sha256": one.sha256.hex(), "size": one.size, "tag": one.tag} for one in self.ancillary
            ],
            "blocks": self.blocks,
            "duration": self.duration,
            "history": [
                {"args": one.args, "inputs": [dict(source) for source in one.inputs], "op": one.op}
                for one in self.history
            ],
            "steps": [{"pts": one.pts, "shift": one.shift, "track": one.track} for one in self.steps],
            "structure_only": self.structure_only,
            "tracks": [
                {
                    "blocks": one.blocks,
                    "bytes": one.bytes,
                    "keyframes": one.keyframes,
                    "rmap": one.rmap,
                    "seek": one.seek,
                    "sha256": one.sha256.hex(),
                }
                for one in self.tracks
            ],
        }
        lost = [{"count": one.count, "first": one.first, "track": one.track} for one in self.lost]
        data = canonical.encode(value | _present(lost=lost or None, title=self.title), "META")
        self.unpack(data)
        return data

    @classmethod
    def unpack(cls, data: bytes) -> Meta:
        """Parse and check. Raises JSONError, CriticalError, and OrderError for impossible holes."""
        value = canonical.decode(data, "META", _META)
        meta = cls(
            blocks=value["blocks"],
            duration=value["duration"],
            tracks=tuple(StoredTrack(**one) for one in value["tracks"]),
            history=tuple(HistoryEntry(**one) for one in value["history"]),
            steps=tuple(Step(**one) for one in value["steps"]),
            lost=tuple(Lost(**one) for one in value.get("lost", ())),
            ancillary=tuple(AncillaryInfo(**one) for one in value["ancillary"]),
            structure_only=value["structure_only"],
            title=value.get("title"),
        )
        _check_lost(meta.lost, len(meta.tracks))
        return meta


def _check_lost(lost: tuple[Lost, ...], tracks: int) -> None:
    """Holes are sorted, apart, and of tracks that exist; behind the end of a track is none (H4MK 10.2)."""
    if any(hole.track >= tracks for hole in lost):
        raise OrderError("a hole in a track that does not exist", where="META.lost")
    for before, after in pairwise(lost):
        apart = before.count and after.first > before.first + before.count
        if after.track < before.track or (after.track == before.track and not apart):
            raise OrderError("holes are out of order, touch or overlap", where="META.lost", found=after)


def steps_fit(steps: tuple[Step, ...], tracks: int) -> bool:
    """Whether steps are in order of (pts, track) and of tracks that exist (H4MK 19, V15)."""
    order = [(step.pts, step.track) for step in steps]
    return order == sorted(order) and all(step.track < tracks for step in steps)


def _present(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _simple(value: Any, path: str) -> Any:
    if isinstance(value, bool | str):
        return value
    return integer(-MAX_VALUE)(value, path)


def _arguments(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JSONError("must be an object", where=path, found=type(value).__name__)
    return {key: _simple(item, f"{path}.{key[:40]}") for key, item in value.items()}


_SIZE = integer(0, MAX_VALUE)
_NUMBER = integer(0, 65535)
_COUNT = integer(0, MAX_BLOCKS)

_TRAK: Final = members(
    {
        "cut": members(
            {
                "block": integer(1, MAX_BLOCK),
                "order": choice("end", "arrival"),
                "rule": choice(1),
            }
        ),
        "origin": integer(-MAX_VALUE, MAX_VALUE, decimal=True),
        "tracks": items(
            members(
                {
                    "codec": text,
                    "kind": choice("video", "audio", "text", "tokens", "data"),
                    "masked": boolean,
                    "media_type": filled,
                    "self_framing": boolean,
                    "span": _SIZE,
                    "start": members(
                        {
                            "den": integer(1, _TICKS),
                            "num": integer(1, _TICKS),
                            "ticks": integer(-_TICKS, _TICKS),
                        }
                    ),
                    "stream": _NUMBER,
                    "timing": choice("demux", "hint"),
                },
                {"lang": filled, "name": filled},
            ),
            least=1,
        ),
    },
    {"mask": members({"commit": hexdigest, "mode": choice("deterministic", "random")})},
)

_META: Final = members(
    {
        "ancillary": items(members({"sha256": digest, "size": integer(0, 2**32 - 1), "tag": tag})),
        "blocks": _COUNT,
        "duration": _SIZE,
        "history": items(
            members(
                {
                    "args": _arguments,
                    "inputs": items(members({"head": hexdigest}, {"sign": hexdigest})),
                    "op": operation,
                }
            )
        ),
        "steps": items(members({"pts": _SIZE, "shift": integer(-MAX_VALUE, MAX_VALUE), "track": _NUMBER})),
        "structure_only": boolean,
        "tracks": items(
            members(
                {
                    "blocks": _COUNT,
                    "bytes": _SIZE,
                    "keyframes": _COUNT,
                    "rmap": _SIZE,
                    "seek": _SIZE,
                    "sha256": digest,
                }
            ),
            least=1,
        ),
    },
    {
        "lost": items(members({"count": _COUNT, "first": _COUNT, "track": _NUMBER}), least=1),
        "title": filled,
    },
)
