"""Containers and sources for the tests of `h4mk`."""

import threading

from harmony4.h4mk import H4MKBuilder, TrackInfo

VIDEO = TrackInfo(codec="h264", kind="video", media_type="video/mp4", self_framing=True, timing="demux")


class Counting:
    """A ReadAt over bytes that writes down every read. Safe for threads, as the protocol asks."""

    def __init__(self, data):
        self.data = data
        self.reads = []
        self.closed = 0
        self._lock = threading.Lock()

    def size(self):
        return len(self.data)

    def read_at(self, offset, count):
        with self._lock:
            self.reads.append((offset, count))
        return bytes(self.data[offset : offset + count])

    def close(self):
        self.closed += 1

    def taken(self):
        """(number of reads, bytes asked for) since the last call."""
        with self._lock:
            reads, self.reads = self.reads, []
        return len(reads), sum(count for _, count in reads)


class Trickle:
    """A stream that gives at most `most` bytes a read."""

    def __init__(self, data, most):
        self._data = memoryview(data)
        self._most = most
        self._at = 0

    def read(self, count):
        piece = bytes(self._data[self._at : self._at + min(count, self._most)])
        self._at += len(piece)
        return piece


def track_of(count, size=8, *, gop=4, tracks=(VIDEO,), seed=0):
    """A sealed container with `count` blocks in each track, every `gop`-th of them a keyframe; 40 ms each."""
    with H4MKBuilder.in_memory(tracks, order="arrival") as builder:
        for number in range(count):
            for track in range(len(tracks)):
                payload = (number * 65537 + track + seed).to_bytes(8) * (size // 8 or 1)
                builder.add_block(payload[:size], number * 40_000, track=track, key=number % gop == 0)
        builder.finish(ends=dict.fromkeys(range(len(tracks)), count * 40_000))
        return builder.getvalue()


def payloads(data):
    """The CORE payloads of a container, in file order, found by nothing but the framing."""
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8])
        if data[at : at + 4] == b"CORE":
            found.append(data[at + 12 : at + 12 + size])
        at += 12 + size
    return found
