"""Facts about a container as JSON values: what the command line prints with `--json` and the routes answer.

Times are µs, offsets and sizes bytes, digests lower-case hex. Integers beyond ±(2^53 - 1), which JavaScript
would
round, are decimal strings, as in the container's own JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from harmony4.crypto.errors import FormatError, NotFoundError
from harmony4.crypto.token import HEADER, KEY, LAST, MASKED, NONE, TokenRecord
from harmony4.h4mk import H4MKReader

if TYPE_CHECKING:
    from harmony4.server.exporting.ingest import ExportResult

__all__ = [
    "CONTAINER_TYPE",
    "EXTENSIONS",
    "SeekCard",
    "aligned_text",
    "content_type",
    "etags",
    "export_facts",
    "extension",
    "info_facts",
    "keyframe_facts",
    "mask_facts",
    "range_url",
    "readdressed",
    "seek_card",
    "seek_facts",
    "seek_miss",
    "seek_template",
    "seek_text",
    "summary_facts",
    "token_facts",
    "track_facts",
    "versioned",
]

Json = dict[str, Any]

SAFE_INTEGER: Final = 2**53 - 1
_MEDIA_TYPE: Final = re.compile(r"(?:video|audio)/[a-z0-9][a-z0-9.+-]{0,63}|text/vtt")
OPAQUE: Final = "application/octet-stream"
CONTAINER_TYPE: Final = "application/x-h4mk"
"""The media type of a container. Not registered, so not in the vendors' tree (RFC 6838 §3.2)."""

EXTENSIONS: Final = {
    "video/mp4": "mp4",
    "audio/mp4": "m4a",
    "video/webm": "webm",
    "audio/webm": "webm",
    "video/x-matroska": "mkv",
    "audio/x-matroska": "mka",
    "video/matroska": "mkv",
    "audio/matroska": "mka",
    "video/mp2t": "ts",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "video/ogg": "ogv",
    "audio/ogg": "ogg",
    "text/vtt": "vtt",
    "application/jsonl": "jsonl",
}


def content_type(media_type: str) -> str:
    """The Content-Type for a track's bytes: its media type for audio, video and WebVTT, else octet-stream.

    A container says of itself what it holds; text/html or an image with scripts would run in this site's
    name.
    """
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else OPAQUE


def extension(media_type: str) -> str:
    """The file name extension of a media type, without the dot; `bin` for what is not known."""
    return EXTENSIONS.get(media_type, "bin")


def range_url(reader: H4MKReader, name: str, track: int = 0, *, unmasked: bool = False) -> str:
    """The address of a track's bytes, relative to the server: it ends in the true extension and names the
    version.

    Of a masked track: of its bytes as they are stored, or `unmasked`; the address says which.
    """
    info = reader.tracks[track].info
    path = f"/video/range/{track}.{extension(info.media_type)}"
    if not info.masked:
        return versioned(path, reader, name, track)
    return f"{versioned(path, reader, name, track, unmasked=unmasked)}&masked={not unmasked:d}"


def etags(reader: H4MKReader, track: int) -> tuple[str | None, ...]:
    """The entity tags of a track's stream: as it is stored, and unmasked where it is masked."""
    stored = reader.etag(track)
    masked = track < len(reader.tracks) and reader.tracks[track].info.masked
    return (stored, reader.etag(track, unmasked=True)) if masked else (stored,)


def versioned(path: str, reader: H4MKReader, name: str, track: int = 0, *, unmasked: bool = False) -> str:
    """The address of something that is made of a container's track, with the version it is of."""
    etag = reader.etag(track, unmasked=unmasked)
    version = f"&v={etag[:16]}" if etag is not None else ""
    return f"{path}?name={quote(name, safe='/')}{version}"


def check_track(reader: H4MKReader, track: int) -> None:
    """Raise NotFoundError unless the container has that track."""
    if not 0 <= track < len(reader.tracks):
        raise NotFoundError("there is no such track", expected=f"0 to {len(reader.tracks) - 1}", found=track)


def seek_facts(reader: H4MKReader, pts: int, track: int = 0) -> Json:
    """The keyframe at or before `pts`: where to read, and how much.

    Raises NotFoundError where no keyframe is that early, or no such track is.
    """
    check_track(reader, track)
    found = reader.locate(pts, track)
    if found is None:
        raise _no_keyframe(pts)
    return {
        "track": track,
        "asked": _number(pts),
        "pts": _number(found.pts),
        "offset": _number(found.offset),
        "block_index": found.block_index,
        "next_pts": _number(found.next_pts),
        "size": _number(found.size),
        "header_ranges": _ranges(found.header_ranges),
    }


@dataclass(frozen=True, slots=True)
class SeekCard:
    """What all seeks in one track of an open container have in common."""

    track: int
    range_url: str
    tail: str
    """The end of the JSON text of an answer."""


def seek_card(reader: H4MKReader, name: str, track: int, *, unmasked: bool = False) -> SeekCard:
    """Make a track's card; `unmasked` as for `range_url`. Raises NotFoundError, FormatError and its kin."""
    check_track(reader, track)
    url = range_url(reader, name, track, unmasked=unmasked)
    headers = json.dumps(_ranges(reader.header_ranges(track)))
    tail = f', "header_ranges": {headers}, "range_url": {json.dumps(url)}}}'
    return SeekCard(track, url, tail)


def readdressed(card: SeekCard, url: str) -> SeekCard:
    """The same card with another address in it."""
    tail = card.tail.removesuffix(json.dumps(card.range_url) + "}")
    return SeekCard(card.track, url, f"{tail}{json.dumps(url)}}}")


def seek_text(reader: H4MKReader, pts: int, card: SeekCard) -> str:
    """`seek_facts` and `range_url` as JSON text. Raises as `seek_facts` does.

    Written out by hand, because a server does nothing else as often: json.dumps takes several times as long.
    """
    found = reader.locate(pts, card.track)
    if found is None:
        raise _no_keyframe(pts)
    return (
        f'{{"track": {card.track}, "asked": {_text(pts)}, "pts": {_text(found.pts)}, '
        f'"offset": {_text(found.offset)}, "block_index": {found.block_index}, '
        f'"next_pts": {"null" if found.next_pts is None else _text(found.next_pts)}, '
        f'"size": {_text(found.size)}{card.tail}'
    )


def aligned_text(reader: H4MKReader, pts: int, cards: Iterable[SeekCard]) -> str:
    """What every track has at `pts`, as JSON text: `seek_text` and whether it plays then, or what is missing.

    Raises FormatError and its kin; NotFoundError where no track has a keyframe that early.
    """
    playing = reader.at(pts)
    answers, misses = [], 0
    for card in cards:
        try:
            plays = "false" if playing[card.track] is None else "true"
            answers.append(f'{seek_text(reader, pts, card)[:-1]}, "playing": {plays}}}')
        except NotFoundError as error:
            answers.append(f'{{"track": {card.track}, {seek_miss(pts, error)[1:]}')
            misses += 1
    if misses == len(answers):
        raise _no_keyframe(pts)
    return f'{{"asked": {_text(pts)}, "tracks": [{", ".join(answers)}]}}'


def seek_template(card: SeekCard) -> bytes:
    """The text of `seek_text` with places for asked, pts, offset, block_index, next_pts (bytes) and size."""
    front = b'{"track": %d, ' % card.track
    middle = b'"asked": %d, "pts": %d, "offset": %d, "block_index": %d, "next_pts": %b, "size": %d'
    return front + middle + card.tail.replace("%", "%%").encode("ascii")


def seek_miss(pts: int, error: NotFoundError) -> str:
    """What stands in a list of answers where there is none, as JSON text."""
    return json.dumps({"asked": _number(pts), "error": {"code": error.code, "message": error.message}})


def _no_keyframe(pts: int) -> NotFoundError:
    return NotFoundError("no keyframe is at or before that time", found=pts)


def track_facts(reader: H4MKReader, number: int) -> Json:
    """One track: what TRAK says of it, and what the file holds of it. Raises NotFoundError."""
    check_track(reader, number)
    state = reader.tracks[number]
    info = state.info
    facts: Json = {
        "track": number,
        "kind": info.kind,
        "codec": info.codec,
        "media_type": info.media_type,
        "self_framing": info.self_framing,
        "timing": info.timing,
        "span": _number(info.span),
        "start": {
            "ticks": _number(info.start.ticks),
            "num": _number(info.start.num),
            "den": _number(info.start.den),
        },
        "stream": info.stream,
        "masked": info.masked,
        "blocks": state.blocks,
        "bytes": _number(state.bytes),
        "keyframes": state.keyframes,
        "sha256": state.sha256.hex() if state.sha256 is not None else None,
        "etag": reader.etag(number),
    }
    if info.lang is not None:
        facts["lang"] = info.lang
    if info.name is not None:
        facts["name"] = info.name
    return facts


def export_facts(result: ExportResult) -> Json:
    """What came of an export, as `harmony4 export --json` and the route say it."""
    seal, track = result.seal, result.track
    return {
        "head": seal.head.hex(),
        "root": seal.root.hex(),
        "blocks": seal.blocks,
        "duration": _number(seal.duration),
        "size": _number(seal.length),
        "codec": track.codec,
        "kind": track.kind,
        "media_type": track.media_type,
        "timing": result.timing,
        "note": result.note,
    }


def mask_facts(reader: H4MKReader) -> Json | None:
    """How a container is masked, and the ids of the keys that open it; None where nothing is masked.

    `keys` is null where they are damaged. Reads the file.
    """
    if reader.trak.mask is None:
        return None
    try:
        keys = [name.hex() for name, _ in reader.key_slots()]
    except FormatError:
        return {"mode": reader.trak.mask["mode"], "keys": None}
    return {"mode": reader.trak.mask["mode"], "keys": keys}


def signed_facts(reader: H4MKReader) -> list[str]:
    """The keys that a sealed container says it is signed with: the first 8 digits of each one's SHA-256.

    Nothing is checked, and a part that is damaged counts as none. Reads the file.
    """
    try:
        return [key[:4].hex() for key in reader.signers()]
    except FormatError:
        return []


def summary_facts(reader: H4MKReader) -> Json:
    """What a listing says of a container."""
    return {
        "state": reader.state,
        "duration": _number(reader.duration),
        "blocks": reader.block_count,
        "title": reader.meta.title if reader.meta is not None else None,
        "head": reader.head.hex() if reader.head is not None else None,
        "signed": signed_facts(reader),
        "mask": mask_facts(reader),
        "tracks": [
            {
                "kind": one.info.kind,
                "codec": one.info.codec,
                "media_type": one.info.media_type,
                "keyframes": one.keyframes,
                "bytes": _number(one.bytes),
                "lost": sum(hole.count for hole in reader.lost if hole.track == number),
            }
            for number, one in enumerate(reader.tracks)
        ],
    }


def info_facts(reader: H4MKReader) -> Json:
    """Everything that is known of a container without reading its blocks.

    `head` and `root` are null, and `history`, `steps` and `ancillary` empty, where there is no seal;
    `original` holds
    the metadata of a file of the original implementation, else null.
    """
    trak, meta = reader.trak, reader.meta
    return {
        "state": reader.state,
        "size": _number(reader.size),
        "duration": _number(reader.duration),
        "blocks": reader.block_count,
        "title": meta.title if meta is not None else None,
        "head": reader.head.hex() if reader.head is not None else None,
        "root": reader.root.hex() if reader.root is not None else None,
        "signed": signed_facts(reader),
        "origin": str(trak.origin),
        "cut": {"block": trak.block, "order": trak.order, "rule": trak.rule},
        "mask": mask_facts(reader),
        "tracks": [track_facts(reader, number) for number in range(len(reader.tracks))],
        "steps": [
            {"pts": _number(one.pts), "shift": _number(one.shift), "track": one.track}
            for one in (meta.steps if meta is not None else ())
        ],
        "lost": [{"count": one.count, "first": one.first, "track": one.track} for one in reader.lost],
        "ancillary": [
            {"tag": one.tag, "size": one.size, "sha256": one.sha256.hex()}
            for one in (meta.ancillary if meta is not None else ())
        ],
        "history": [
            {"op": one.op, "args": dict(one.args), "inputs": [dict(source) for source in one.inputs]}
            for one in (meta.history if meta is not None else ())
        ],
        "original": reader.original_meta,
    }


def keyframe_facts(reader: H4MKReader, track: int = 0, *, start: int = 0, limit: int = 10_000) -> Json:
    """Up to `limit` keyframes from number `start` on, as two columns; `count` is how many the track has.

    Raises NotFoundError where no such track is.
    """
    check_track(reader, track)
    table = reader.seek_table(track)
    entries = [table[number] for number in range(start, min(start + limit, len(table)))]
    return {
        "track": track,
        "count": len(table),
        "start": start,
        "pts": [_number(entry.pts) for entry in entries],
        "offset": [_number(entry.offset) for entry in entries],
    }


def token_facts(record: TokenRecord) -> Json:
    """One token; `key_pts` and `key_offset` are null before the first keyframe."""
    return {
        "track": record.track,
        "index": record.index,
        "pts": _number(record.pts),
        "end": _number(record.end),
        "offset": _number(record.offset),
        "size": record.size,
        "key": bool(record.flags & KEY),
        "header": bool(record.flags & HEADER),
        "last": bool(record.flags & LAST),
        "masked": bool(record.flags & MASKED),
        "key_pts": None if record.key_pts == NONE else _number(record.key_pts),
        "key_offset": None if record.key_offset == NONE else _number(record.key_offset),
        "min_pts": _number(record.min_pts),
        "digest": record.digest.hex(),
        "tag": record.tag.hex() if record.flags & MASKED else None,
    }


def _number(value: int | None) -> int | str | None:
    return value if value is None or abs(value) <= SAFE_INTEGER else str(value)


def _text(value: int) -> str:
    return str(value) if value <= SAFE_INTEGER else f'"{value}"'


def _ranges(ranges: Iterable[tuple[int, int]]) -> list[list[int | str | None]]:
    return [[_number(offset), _number(size)] for offset, size in ranges]
