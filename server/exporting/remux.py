"""A medium's streams as fragmented MP4, remuxed by FFmpeg and not decoded. Runs in the sandbox's process.

Fragments begin at keyframes (of sound alone: every two seconds), so each of them plays behind the header
bytes. What libavformat 62.12 (PyAV 18.1) does with these options, as tests/test_remux.py holds it:

- the same packets give the same bytes: `bitexact`, no times of day, no names of versions;
- an edit list says where B-frames and encoder delay put the beginning, so that ffmpeg and browsers agree on
  which picture is at which time (without one they differ by the delay of B-frames);
- a stream that starts late, alone in its file, has its time in `tfdt`;
- beside others too, and then there is no edit list: to write one the muxer would hold everything back until
  each stream has begun. All times are later by the delay of B-frames then, which only `--demux` avoids.

Times are those of the source, less its own beginning where that is later than 0 (MPEG-TS begins anywhere).
All streams of a source are moved by the same time, also when they are remuxed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.bitstream
import av.container.output

from harmony4.crypto.errors import HarmonyError, MediaError
from harmony4.tokenize.demux import Readable, end_of, open_medium, reason, stream_kind
from harmony4.tokenize.timeline import unroll

__all__ = ["ALL", "StreamNote", "remux"]

ALL: Final = frozenset({-1})
"""Every stream that fits."""
_FLAGS: Final = "+empty_moov+default_base_moof+skip_trailer"
_SIZE: Final = str(16 * 2**20)
"""Longest fragment, bytes: a film with a single keyframe must not wait in memory for its end."""
_LATE: Final = 1_000_000
"""µs after which a stream begins late."""
_SOUND: Final = "2000000"
"""Shortest fragment of sound alone, µs."""
_TEXT: Final = 1024
"""Characters of a language or title that are passed on."""
_JUMP: Final = 10
"""Seconds: a clock that goes back further has jumped; less is a packet out of order."""


@dataclass(frozen=True, slots=True)
class StreamNote:
    """What is known of one stream of a source."""

    index: int
    kind: str
    """As `StreamFacts.kind`."""
    codec: str
    lang: str | None
    name: str | None
    fits: bool
    """Whether MP4 can hold it."""


class _Sink:
    """What the muxer writes to: it cannot seek."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(bytes(data))
        return len(data)


def remux(
    source: Readable,
    name: str,
    wanted: Collection[int],
    describe: Callable[[list[StreamNote]], object],
    write: Callable[[bytes], object],
) -> str | None:
    """Write the `wanted` streams of a medium of format `name` as one fragmented MP4.

    `describe` is called first, with all streams; without any that is wanted nothing is written. Returns why
    the packets ended before the medium did, None if they did not. Raises MediaError.
    """
    with open_medium(source, name) as medium:
        with av.open(_Sink(lambda data: None), "w", format="mp4") as probe:
            codecs = probe.supported_codecs
        notes = [_note(stream, codecs) for stream in medium.streams]
        describe(notes)
        if not wanted:
            return None
        chosen = [note for note in notes if note.fits and (wanted is ALL or note.index in wanted)]
        if not chosen:
            raise MediaError("none of its streams can be put into MP4", where=name)
        return _Remuxer(medium, name, chosen, write).run()


def _note(stream: Any, codecs: Collection[str]) -> StreamNote:
    context = stream.codec_context
    codec = "unknown" if context is None else context.codec.canonical_name
    kind = stream_kind(stream)
    words = stream.metadata
    return StreamNote(
        stream.index,
        kind,
        codec,
        words.get("language", "")[:_TEXT] or None,
        words.get("title", "")[:_TEXT] or None,
        kind in ("video", "audio") and codec in codecs,
    )


class _Remuxer:
    """One source on its way into one MP4."""

    def __init__(
        self, medium: Any, name: str, chosen: list[StreamNote], write: Callable[[bytes], object]
    ) -> None:
        self._medium = medium
        self._name = name
        video = any(note.kind == "video" for note in chosen)
        begin = max(0, medium.start_time or 0)
        starts = [self._starts(note.index) - begin for note in chosen]
        alone = len(chosen) == 1
        edits = alone or max(starts) <= _LATE
        flags = _FLAGS + ("+frag_keyframe" if video else "") + ("+delay_moov" if edits else "")
        if not edits or (alone and starts[0] > 0):
            flags += "+frag_discont"
        options = {"movflags": flags, "frag_size": _SIZE, "write_tmcd": "0"}
        options |= {} if video else {"frag_duration": _SOUND}
        options |= {} if edits else {"use_editlist": "0"}
        general = {"fflags": "+bitexact"} | ({} if edits else {"avoid_negative_ts": "make_non_negative"})
        self._out = av.open(_Sink(write), "w", format="mp4", options=options, container_options=general)
        self._tracks: dict[int, Any] = {}
        self._filters: dict[int, Any] = {}
        self._moved: dict[int, int] = {}
        self._last: dict[int, int] = {}
        for note in chosen:
            stream = medium.streams[note.index]
            self._tracks[note.index] = self._out.add_stream_from_template(stream)
            # The same time for all, as near as each clock can say it.
            self._moved[note.index] = round(Fraction(begin, 1_000_000) / stream.time_base)
            if name == "mpegts" and note.codec == "aac":
                self._filters[note.index] = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream)

    def _starts(self, index: int) -> int:
        """When a stream begins, µs on the source's clock: late where probing has not met it."""
        stream = self._medium.streams[index]
        if stream.start_time is None:
            return max(0, self._medium.start_time or 0) + _LATE + 1
        return int(stream.start_time * stream.time_base * 1_000_000)

    def run(self) -> str | None:
        stopped = None
        packets = self._medium.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except HarmonyError:
                raise
            except Exception as error:  # what was read so far stands
                stopped = end_of(error, self._name)
                break
            if packet.stream_index in self._tracks and packet.size:
                self._add(packet, packet.stream_index)
        try:
            for index, one in self._filters.items():
                for packet in one.filter(None):
                    self._mux(packet, index)
            self._out.close()
        except Exception as error:
            raise self._refused(error) from error
        return stopped

    def _add(self, packet: Any, index: int) -> None:
        try:
            self._place(packet, index)
            for one in self._filters[index].filter(packet) if index in self._filters else [packet]:
                self._mux(one, index)
        except HarmonyError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _mux(self, packet: Any, index: int) -> None:
        packet.stream = self._tracks[index]
        self._out.mux_one(packet)

    def _place(self, packet: Any, index: int) -> None:
        """Its times on a clock that begins at 0, does not wrap and does not go back."""
        last, moved = self._last.get(index), self._moved[index]
        pts, dts = packet.pts, packet.dts
        if self._name == "mpegts":
            near = moved if last is None else last + moved
            dts = None if dts is None else unroll(dts, near)
            pts = None if pts is None else unroll(pts, near)
        pts, dts = None if pts is None else pts - moved, None if dts is None else dts - moved
        if dts is not None and last is not None and dts <= last:
            if (last - dts) * packet.time_base > _JUMP:
                raise MediaError(
                    "its clock goes back, which MP4 cannot say (without remuxing it is kept as it is)",
                    where=self._name,
                )
            dts = last + 1
            pts = None if pts is None else max(pts, dts)
        if dts is not None:
            self._last[index] = dts
        packet.pts, packet.dts = pts, dts

    def _refused(self, error: Exception) -> MediaError:
        return MediaError(f"it cannot be put into MP4: {reason(error)}", where=self._name)
