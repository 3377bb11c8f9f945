"""Fragments without the samples of other tracks: what a demuxer says of the clock stays the same."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from harmony4.crypto.errors import MediaError
from harmony4.server.exporting import thinning
from harmony4.server.exporting.thinning import Thinner
from harmony4.server.sandboxing.sandbox import Sandbox
from harmony4.tokenize.demux import clock_of, demux
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import media
from needs import needs_ffmpeg


class Pipe:
    """A reader without seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, n: int, /) -> bytes:
        return self._file.read(n)


def packets(data: bytes, *, thin: bool) -> tuple[object, int]:
    """What is said of the clock, of the first packet and of the end; and how many packets there were."""
    pipe = Pipe(data)
    thinner = Thinner(pipe.read) if thin else None
    try:
        with demux(thinner or pipe, "mp4") as medium:
            clock = clock_of(medium.streams)
            assert clock is not None
            if thinner is not None:
                thinner.keep(clock.id)
            found = list(medium)
            stopped = None if thinner is not None and thinner.broken else medium.stopped
    except MediaError as error:
        return str(error), 0
    return ([one for one in found if one.stream == clock.index], found[:1], stopped), len(found)


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, flags: int, *values: int, version: int = 0) -> bytes:
    return box(kind, struct.pack(f">{1 + len(values)}I", version << 24 | flags, *values))


def traf(number: int, start: int, *sizes: int) -> bytes:
    """A track of a plain fragment, its samples from `start` on."""
    return box(
        b"traf",
        full(b"tfhd", 0x20000, number),
        full(b"tfdt", 0, 7),
        full(b"trun", 0x201, len(sizes), start, *sizes),
    )


def moof(*trafs: bytes) -> bytes:
    return box(b"moof", full(b"mfhd", 0, 1), *trafs)


FIRST, SECOND = traf(1, 300, 5, 6), traf(2, 311, 7)
HEAD = len(moof(FIRST, SECOND))
FIRST, SECOND = traf(1, HEAD + 8, 5, 6), traf(2, HEAD + 19, 7)
PLAIN = moof(FIRST, SECOND)
MDAT = box(b"mdat", bytes(18))
THIN = PLAIN.replace(SECOND, SECOND.replace(b"traf", b"free"))
START = box(b"ftyp", bytes(8)) + box(b"moov", bytes(40))


def thinned(data: bytes, size: int = 100, keep: int = 1) -> bytes:
    thinner = Thinner(Pipe(data).read)
    thinner.keep(keep)
    found = []
    while piece := thinner.read(size):
        found.append(piece)
        assert len(piece) == size or sum(map(len, found)) == len(data)
    return b"".join(found)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_other_tracks_are_free_space(size: int) -> None:
    """But in the first fragment with them, which shows that the demuxer knows them."""
    data = START + 3 * (PLAIN + MDAT) + box(b"styp") + PLAIN + MDAT
    expected = START + PLAIN + MDAT + 2 * (THIN + MDAT) + box(b"styp") + THIN + MDAT
    assert thinned(data, size) == expected


def test_nothing_is_changed_before_it_is_asked_for() -> None:
    data = START + 3 * (PLAIN + MDAT)
    thinner = Thinner(Pipe(data).read)
    first = thinner.read(len(START + PLAIN + MDAT))
    thinner.keep(1)
    assert first + thinner.read(10_000) == START + PLAIN + MDAT + 2 * (THIN + MDAT)


def test_a_large_box_behind_the_fragment() -> None:
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 18) + bytes(18)
    first, second = traf(1, HEAD + 16, 5, 6), traf(2, HEAD + 27, 7)
    whole = moof(first, second)
    thin = whole.replace(second, second.replace(b"traf", b"free"))
    assert thinned(START + 3 * (whole + large)) == START + whole + large + 2 * (thin + large)


def test_fragments_without_the_clock_stay() -> None:
    alone = moof(traf(2, len(moof(traf(2, 0, 7))) + 8, 7)) + box(b"mdat", bytes(7))
    data = START + PLAIN + MDAT + alone + PLAIN + MDAT
    assert thinned(data) == START + PLAIN + MDAT + alone + THIN + MDAT


def strange(change: Callable[[bytes], bytes]) -> bytes:
    """A fragment whose second track is not plain, of the length that its samples' places suppose."""
    found = change(SECOND)
    assert found != SECOND
    whole = moof(FIRST, found)
    shift = len(whole) - HEAD
    for track, start in ((FIRST, HEAD + 8), (SECOND, HEAD + 19)):
        whole = whole.replace(
            struct.pack(">i", start) + track[-4:], struct.pack(">i", start + shift) + track[-4:]
        )
    return whole


RUN = struct.pack(">I", HEAD + 19)


@pytest.mark.parametrize(
    "fragment",
    [
        strange(lambda one: one.replace(b"tfdt", b"skip")),
        strange(lambda one: one.replace(b"trun", b"skip")),
        strange(lambda one: one.replace(b"tfhd", b"skip")),
        strange(lambda one: one.replace(b"\0\2\0\0", b"\0\0\0\0")),  # no base at the fragment
        strange(lambda one: one.replace(b"\0\2\0\0", b"\0\2\0\1")),  # a base of its own
        strange(lambda one: one.replace(b"\0\2\0\0", b"\0\2\0\x10")),  # a field that is not there
        strange(lambda one: one.replace(b"\0\0\2\1", b"\0\0\0\1")),  # nor is this one
        strange(lambda one: one.replace(b"\0\0\2\1", b"\0\0\2\0")),
        strange(lambda one: one.replace(b"\0\0\2\1", b"\0\0\6\1")),
        strange(lambda one: one.replace(b"\0\0\2\1", b"\2\0\2\1")),
        strange(lambda one: one.replace(RUN, struct.pack(">I", HEAD + 18))),  # into the other's samples
        strange(lambda one: one.replace(RUN, struct.pack(">I", HEAD + 20))),  # beyond the media
        strange(lambda one: one.replace(RUN, struct.pack(">I", 8))),  # before them
        strange(lambda one: one[:-4] + bytes(4)),  # a sample of no bytes
        strange(lambda one: one[:-12] + struct.pack(">III", 0, HEAD + 19, 7)),  # no samples
        strange(lambda one: one.replace(b"\0\0\0\7\0\0\0\x18", b"\0\0\0\7\0\0\0\x19")),
        strange(lambda one: one.replace(full(b"tfdt", 0, 7), full(b"tfdt", 0, 7, version=2))),
        strange(lambda one: one.replace(full(b"tfdt", 0, 7), full(b"tfdt", 0, 2**31, 7, version=1))),
        strange(lambda one: one.replace(full(b"tfdt", 0, 7), full(b"tfdt", 0, 7, 7))),
        moof(FIRST, SECOND.replace(full(b"tfhd", 0x20000, 2), full(b"tfhd", 0x20000, 1))),  # a track twice
        moof(FIRST, SECOND.replace(full(b"tfhd", 0x20000, 2), full(b"tfhd", 0x20000, 3))),  # unknown
        PLAIN[:-4] + bytes(3),
        box(b"moof", bytes(thinning._MOST)),
    ],
)
def test_what_is_not_plain_stays_and_so_does_all_behind_it(fragment: bytes) -> None:
    begin = START + 2 * (PLAIN + MDAT)
    data = begin + fragment + MDAT + 2 * (PLAIN + MDAT)
    assert thinned(data) == START + PLAIN + MDAT + THIN + MDAT + data[len(begin) :]


@pytest.mark.parametrize(
    "between",
    [
        box(b"moov"),
        box(b"\0\0\0\1"),
        box(b"mdat"),
        struct.pack(">I4s", 7, b"free") + bytes(12),
        struct.pack(">I4sQ", 1, b"free", 7),
        PLAIN + box(b"free", bytes(10)),
        PLAIN + struct.pack(">I4s", 0, b"mdat") + bytes(18),
        PLAIN + struct.pack(">I4sQ", 1, b"mdat", 2**31) + bytes(18),
    ],
)
def test_boxes_that_are_not_expected(between: bytes) -> None:
    begin = START + 2 * (PLAIN + MDAT)
    data = begin + between + 2 * (PLAIN + MDAT)
    assert thinned(data) == START + PLAIN + MDAT + THIN + MDAT + data[len(begin) :]


def test_a_default_size() -> None:
    """All samples of a track of one size, which its header says."""
    head = full(b"tfhd", 0x2003A, 2, 1, 1024, 3, 0x1000)

    def make(at: int) -> tuple[bytes, bytes]:
        other = box(b"traf", head, full(b"tfdt", 0, 0, 5, version=1), full(b"trun", 0x5, 2, at + 11, 99))
        return moof(traf(1, at, 5, 6), other), other

    whole, other = make(len(make(0)[0]) + 8)
    media_bytes = box(b"mdat", bytes(17))
    thin = whole.replace(other, other.replace(b"traf", b"free"))
    data = START + 2 * (whole + media_bytes)
    assert thinned(data) == START + whole + media_bytes + thin + media_bytes
    late = START + 2 * (whole + box(b"mdat", bytes(16)))  # one byte less than the samples need
    assert thinned(late) == late


def test_the_end_comes_early() -> None:
    data = START + 2 * (PLAIN + MDAT)
    for length in range(len(data) + 1):
        thinner = Thinner(Pipe(data[:length]).read)
        thinner.keep(1)
        found = b""
        while piece := thinner.read(50):
            found += piece
        assert len(found) == length
        # The last sample starts 7 bytes before the end, and is the second track's.
        assert thinner.broken == (len(data) - 10 <= length <= len(data) - 7)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["fragmented.mp4", "fragments-by-time.mp4", "numbered-fragments.mp4"])
def test_real_media(name: str) -> None:
    data = media(name).read_bytes()
    data_of = packets(data, thin=False)
    assert packets(data, thin=True)[0] == data_of[0]


def looped() -> bytes:
    """A film of many fragments: those of a short one again and again."""
    data = media("fragmented.mp4").read_bytes()
    first = data.find(b"moof") - 4
    last = data.rfind(b"mfra") - 4
    assert 0 < first < last
    return data[:first] + 8 * data[first:last]


@needs_ffmpeg
def test_fewer_packets_and_the_same() -> None:
    data = looped()
    whole, count = packets(data, thin=False)
    found, fewer = packets(data, thin=True)
    assert found == whole
    assert fewer < count


@needs_ffmpeg
@pytest.mark.parametrize("seed", range(3))
def test_broken_media(seed: int) -> None:
    """Cut short, or with boxes that lie: what is said of the clock does not change, nor does the end."""
    data, rng = looped(), random.Random(seed)
    places = [at for at in range(len(data) - 4) if data[at : at + 4] == b"moof"]
    differ = 0
    for number in range(25):
        changed = bytearray(data)
        if number % 2:
            for _ in range(rng.randrange(1, 3)):
                # Not the greatest sizes: FFmpeg itself answers them now so, now so.
                changed[rng.choice(places) + rng.randrange(8, 300)] = rng.choice([0, 1, 2, 7])
        if number % 3 != 1:
            del changed[rng.randrange(len(data) // 4, len(data)) :]
        same = {str(packets(bytes(changed), thin=False)[0]) for _ in range(2)}
        if len(same) == 1:
            differ += str(packets(bytes(changed), thin=True)[0]) not in same
    assert not differ


@needs_ffmpeg
def test_the_same_tokens() -> None:
    def run(**options: Any) -> list[Any]:
        tokenizer = VideoTransportTokenizer(block_size=10_000, **options)
        found: list[Any] = list(tokenizer.encode([data]))
        return [tokenizer.track, tokenizer.origin, tokenizer.steps, tokenizer.note, *found]

    whole = looped()
    for length in (len(whole), len(whole) - 1000, len(whole) // 2):
        data = whole[:length]
        assert run(demuxer=Sandbox()) == run()
