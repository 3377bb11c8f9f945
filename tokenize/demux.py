"""Packets out of media through PyAV (FFmpeg's demuxers): where they lie, when they show; nothing decoded.

The demuxer is given a format by name, a reader, and nothing else: each attempt to open a second file or
address (playlists, `concat`, MP4 data references) ends in PermissionError, and FFmpeg's protocol list is
empty besides.

What PyAV 18.1 (libavformat 62.12) reports as `pos` from a reader that cannot seek, as found by trying and
held by tests/test_demux.py:

- MP4, fragmented or not: the sample's first byte inside `mdat`, in file order (with a seekable reader: in
  decoding order, so positions jump between streams). Samples that an edit list drops still come.
- Matroska, WebM: the first byte of the (Simple)Block's payload, which is its track number, a few bytes before
  the frame; always inside its Cluster.
- MPEG-TS: the transport packet in which the PES packet starts (with 192-byte packets: its 4-byte time
  stamp); None for the second and later frames of one PES packet.
- Ogg: the page in which the packet starts, the same for all packets that start there.
- MP3: the frame header; ID3 and Xing/LAME frames are no packets. FLAC: the frame header. WAV: the first
  sample of each 4096-sample packet.

FFmpeg's own handling of time is switched off where it guesses: `correct_ts_overflow` (the 33-bit wrap, which
it takes for a jump of 26 hours when streams are joined) and GENPTS (which holds packets back without
limit until a missing PTS can be made up). `timeline.py` does the former; a packet without PTS is just one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import av
import av.error

from harmony4.crypto.errors import HarmonyError, MediaError
from harmony4.tokenize.packet import Packet

if TYPE_CHECKING:
    from harmony4.tokenize.packettable import PacketTable

__all__ = [
    "BUFFER",
    "Demuxed",
    "Demuxer",
    "Media",
    "Readable",
    "Refuse",
    "StreamFacts",
    "clock_of",
    "demux",
    "end_of",
    "open_medium",
    "reason",
    "refusal",
    "stream_kind",
]

BUFFER = 32768
"""Bytes per read. FFmpeg can step back within its buffer, so the size is part of `cut.rule`."""

_OPTIONS = {"protocol_whitelist": "none", "correct_ts_overflow": "0"}
_GENPTS = 1
_ATTACHED = 1 << 10 | 1 << 11  # AV_DISPOSITION_ATTACHED_PIC, _TIMED_THUMBNAILS
_MAX_STREAMS = 1024


class Readable(Protocol):
    """What a demuxer reads: `n` bytes, fewer only at the end. With `seek` and `tell` it is seekable."""

    def read(self, n: int, /) -> bytes:
        """The next `n` bytes."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream as the container declares it."""

    index: int
    kind: str
    """video, audio, subtitle, data or attachment; `picture` for a still that is attached to audio."""
    codec: str
    """FFmpeg's name of the codec; "unknown" where it knows none."""
    num: int
    """One tick of its clock is num/den s."""
    den: int
    start: int | None
    """Its first PTS in ticks, if the container says so or the first packets show it."""
    id: int
    """The container's number for it: MPEG-TS's PID."""


class Demuxed(Protocol):
    """An opened medium: its streams, then its packets, once."""

    streams: tuple[StreamFacts, ...]
    stopped: str | None
    """Why the packets ended before the medium did; None if they did not."""

    def __iter__(self) -> Iterator[Packet | PacketTable]: ...


Demuxer = Callable[[Readable, str], AbstractContextManager[Demuxed]]
"""`demuxer(reader, format)`: opens a medium, or raises MediaError."""


Refuse = Callable[[str, str], MediaError]
"""Makes the error for a medium that FFmpeg does not accept, of the reason and the format's name."""


def refusal(reason: str, where: str) -> MediaError:
    """The error for a recognised format that the demuxer does not accept."""
    return MediaError(f"the demuxer refuses it (--raw would store it as it is): {reason}", where=where)


def clock_of(streams: tuple[StreamFacts, ...]) -> StreamFacts | None:
    """The stream whose packets time the blocks: the first one of video, else of audio."""
    for kind in ("video", "audio"):
        for stream in streams:
            if stream.kind == kind:
                return stream
    return None


def demux(source: Readable, name: str) -> Media:
    """Open `source` as format `name` in this process. Raises MediaError."""
    return Media(source, name)


def open_medium(source: Readable, name: str, refuse: Refuse = refusal) -> Any:
    """PyAV's container for `source` as format `name`, that opens nothing else. Raises MediaError."""
    try:
        medium = av.open(
            source,
            mode="r",
            format=name,
            container_options=_OPTIONS,
            metadata_errors="replace",
            buffer_size=BUFFER,
            io_open=_deny,
        )
    except HarmonyError:  # the reader's own
        raise
    except Exception as error:
        raise refuse(end_of(error, name, refuse), name) from error
    if len(medium.streams) > _MAX_STREAMS:
        medium.close()
        raise MediaError("too many streams", where=name, expected=f"<= {_MAX_STREAMS}")
    return medium


def _deny(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError(f"media may not open {url!r}")


def reason(error: BaseException) -> str:
    """FFmpeg's own words, without the errno and the made-up file name that PyAV adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def end_of(error: Exception, where: str, refuse: Refuse = refusal) -> str:
    """Why packets end before the medium does.

    Raises MediaError where memory has run out: that says nothing of the medium, and must not decide what
    comes of it.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        raise refuse("it needs more memory than it may have", where) from error
    return reason(error)


class Media:
    """PyAV behind `Demuxed`."""

    def __init__(self, source: Readable, name: str) -> None:
        self.stopped: str | None = None
        self._name = name
        self._container = open_medium(source, name)
        self._container.flags = self._container.flags & ~_GENPTS
        self.streams = tuple(map(_facts, self._container.streams))

    def __enter__(self) -> Media:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Packet]:
        for packet in self.raw():
            found = Packet(
                packet.stream_index,
                packet.pos,
                packet.pts,
                packet.duration or 0,
                packet.size,
                packet.is_keyframe,
            )
            if found.size or found.pts is not None:  # else one of PyAV's flushing packets
                yield found

    def raw(self, only: int | None = None) -> Iterator[Any]:
        """PyAV's own packets, the empty ones that flush decoders as well.

        `only`: all that come before the first real one, that one, and then those of this stream. The others
        are read like these, but no object is made for them.
        """
        try:
            if only is not None:
                packets = self._container.demux()
                for packet in packets:
                    yield packet
                    if packet.size or packet.pts is not None:
                        break
                packets.close()
            yield from self._container.demux(*([] if only is None else [self._container.streams[only]]))
        except HarmonyError:
            raise
        except Exception as error:  # AVERROR of any kind: what was read so far stands
            self.stopped = end_of(error, self._name)


def stream_kind(stream: Any) -> str:
    """`StreamFacts.kind` of one of PyAV's streams."""
    kind: str = stream.type or "data"
    return "picture" if kind == "video" and int(stream.disposition) & _ATTACHED else kind


def _facts(stream: Any) -> StreamFacts:
    context = stream.codec_context
    base = stream.time_base
    return StreamFacts(
        index=stream.index,
        kind=stream_kind(stream),
        codec="unknown" if context is None else context.codec.canonical_name,
        num=base.numerator if base else 1,
        den=base.denominator if base else 1,
        start=stream.start_time,
        id=stream.id,
    )
