"""Sound decoded in a process of its own: the same samples, within limits, and nothing that comes back
believed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harmony4.crypto.errors import HarmonyError, LimitError, MediaError, SourceError
from harmony4.server.sandboxing import sandbox, sandbox_sound, sandbox_worker
from harmony4.server.sandboxing.sandbox import Limits
from harmony4.server.sandboxing.sandbox_sound import SoundSandbox, default_decoder
from harmony4.tokenize.decode import decode
from harmony4.tokenize.sound import Sound, SoundFormat, open_sound
from media_factory import media
from needs import BUNNY, needs_ffmpeg
from sandboxes import at_rest, frame, leaving_nothing, limits_of, says, workers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are confined on POSIX systems only")

ALL = [
    *(
        "stereo.m4a",
        "stereo-moovend.m4a",
        "stereo.ts",
        "stereo.mp3",
        "stereo.flac",
        "stereo.ogg",
        "stereo.webm",
    ),
    *("stereo-ac3.ts", "stereo-mp2.ts", "stereo-eac3.mkv", "stereo-alac.m4a", "stereo-wavpack.mkv"),
    *("stereo-adpcm.wav", "stereo-alaw.wav", "stereo-f64.mkv", "surround.m4a", "twelve.ogg", "plain.mp4"),
]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


def opened(source: Any, limits: Limits | None = None, **options: Any) -> Sound:
    return open_sound(source, pcm=None, decoder=default_decoder(limits), **options)


def all_of(sound: Sound) -> tuple[NDArray[np.int32], SoundFormat, str | None]:
    arrays = list(sound)
    assert all(array.dtype == np.int32 and 0 < array.size <= 2**18 for array in arrays)
    return np.concatenate([np.zeros((0, sound.format.channels)), *arrays]), sound.format, sound.note


def here(source: Any, **options: Any) -> tuple[NDArray[np.int32], SoundFormat, str | None]:
    return all_of(open_sound(source, pcm=None, decoder=decode, **options))


def equal(one: Any, other: Any) -> bool:
    return np.array_equal(one[0], other[0]) and one[1:] == other[1:]


# -- the same as in this process


@needs_ffmpeg
@pytest.mark.parametrize("name", ALL)
def test_the_same_samples(name: str) -> None:
    data = media(name).read_bytes()
    expected = here([data])
    with media(name).open("rb") as file:
        assert equal(all_of(opened(file)), expected)
    pieces = [data[i : i + 7777] for i in range(0, len(data), 7777)]
    assert equal(all_of(opened(pieces)), expected)


@needs_ffmpeg
def test_the_same_notes_and_errors() -> None:
    damaged = bytearray(media("stereo.m4a").read_bytes())
    begin = damaged.index(b"mdat") + 4
    damaged[begin : begin + 2000] = b"\xff" * 2000
    for source in (
        [bytes(damaged)],
        [media("stereo.ts").read_bytes(), media("mono.ts").read_bytes()],
        [media("stereo.ogg").read_bytes(), media("stereo.ogg").read_bytes()[:9000]],
    ):
        assert equal(all_of(opened(source)), here(source))
    empty = media("stereo-alaw.wav").read_bytes()
    empty = empty[: empty.index(b"data") + 4] + bytes(4)
    assert equal(all_of(opened([empty])), here([empty]))
    for data, options in (
        (media("silent.ts").read_bytes(), {}),
        (media("stereo-s64.mkv").read_bytes(), {}),
        (b"\0\0\0\x18ftypisom" + bytes(5000), {}),
    ):
        messages = []
        for read in (here, lambda *a, **o: all_of(opened(*a, **o))):
            with pytest.raises(MediaError) as caught:
                read([data], **options)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@needs_ffmpeg
def test_one_stream_of_several() -> None:
    data = media("two-sounds.mkv").read_bytes()
    assert all_of(opened([data], stream=2))[1].rate == 44_100
    assert equal(all_of(opened([data], stream=1)), all_of(opened([data])))
    with pytest.raises(MediaError, match="no sound of it in matroska"):
        list(opened([data], stream=0))


def test_default() -> None:
    assert isinstance(default_decoder(), SoundSandbox)


def test_default_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_sound.os, "name", "nt")
    assert default_decoder() is decode


# -- limits


@needs_ffmpeg
def test_an_hour_of_silence() -> None:
    """A worker that decodes too much is ended, before it is through."""
    limits = Limits(samples=10**6)
    with pytest.raises(LimitError, match=r"more sound than it may in flac .*1000000"):
        list(opened([media("silence.flac").read_bytes()], limits))
    got = 0
    with pytest.raises(LimitError, match="<= 500000 samples"):
        for array in opened([media("silence.flac").read_bytes()], max_samples=500_000):
            got += array.size
    assert 400_000 < got <= 500_000
    exactly = Limits(samples=2 * 2 * 48_000)
    assert all_of(opened([media("stereo.flac").read_bytes()], exactly))[0].size == 2 * 2 * 48_000


@needs_ffmpeg
def test_more_samples_than_bytes() -> None:
    """What a worker of packets may say at most is no limit for samples."""
    found = all_of(opened([media("silence.flac").read_bytes()[:200_000]], Limits(output=0)))
    assert found[0].size > 50 * 200_000 // 4


@needs_ffmpeg
def test_confined() -> None:
    data = media("silence.flac").read_bytes()
    seen: dict[str, Any] = {}

    def source() -> Iterator[bytes]:
        yield data[:200_000]  # more than a pipe holds: it has begun to read, so it is confined
        (pid,) = workers()
        seen["limits"] = limits_of(pid, "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE")
        yield data[200_000:300_000]

    assert list(opened(source(), Limits(memory=2**30, cpu=77)))
    assert seen["limits"] == {
        "RLIMIT_AS": (2**30, 2**30),
        "RLIMIT_CPU": (77, 78),
        "RLIMIT_NOFILE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
    }


@needs_ffmpeg
def test_memory() -> None:
    with pytest.raises(MediaError, match=r"decoded: it needs more memory|ended early"):
        list(opened([media("stereo.flac").read_bytes()], Limits(memory=64 * 2**20)))


@needs_ffmpeg
def test_half_a_gigabyte_is_enough() -> None:
    """It took 0.25 GiB, numpy and FFmpeg's libraries included."""
    for name in ("stereo.m4a", "twelve.ogg"):
        assert list(opened([media(name).read_bytes()], Limits(memory=2**29)))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGXCPU, "CPU time"), (signal.SIGSTOP, "no progress for 0.5 s")],
)
def test_a_worker_that_ends_or_stalls(number: signal.Signals, message: str) -> None:
    data = media("silence.flac").read_bytes()

    def source() -> Iterator[bytes]:
        yield data[:200_000]  # more than a pipe holds: it is at work
        (pid,) = workers()
        os.kill(pid, number)
        yield data[200_000:]

    with pytest.raises(MediaError, match=f"its sound cannot be decoded: .*{message}"):
        list(opened(source(), Limits(stall=0.5 if number == signal.SIGSTOP else 30)))


def test_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", "/nowhere/python")
    with BUNNY.open("rb") as file, pytest.raises(SourceError, match="cannot be started"):
        list(opened(file))


# -- a worker that was taken over says what it likes


def described(*values: object) -> bytes:
    return frame(b"S", json.dumps(values).encode())


STEREO = described(48_000, 2, "flac", True, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame(b"D", bytes(8)),
        frame(b"S", b"{}"),
        frame(b"S", b"["),
        described(),
        described(48_000, 2, "flac", True),
        described(0, 2, "flac", True, 0),
        described(2**31, 2, "flac", True, 0),
        described(48_000.0, 2, "flac", True, 0),
        described(True, 2, "flac", True, 0),
        described(48_000, 0, "flac", True, 0),
        described(48_000, 10_000, "flac", True, 0),
        described(48_000, "2", "flac", True, 0),
        described(48_000, 2, "fl\u00e4c", True, 0),
        described(48_000, 2, "f" * 64, True, 0),
        described(48_000, 2, None, True, 0),
        described(48_000, 2, "flac", 1, 0),
        described(48_000, 2, "flac", True, 2**63),
        described(48_000, 2, "flac", True, None),
        STEREO,
        STEREO + STEREO,
        STEREO + frame(b"P", bytes(8)),
        STEREO + frame(b"D", b""),
        STEREO + frame(b"D", bytes(4)),
        STEREO + frame(b"D", bytes(12)),
        STEREO + frame(b"D", bytes(9)),
        STEREO + frame(b"D", np.array([0, 2**23 + 1], "<i4").tobytes()),
        STEREO + frame(b"D", np.array([-(2**23) - 1, 0], "<i4").tobytes()),
        STEREO + frame(b"D", np.array([-(2**31), 0], "<i4").tobytes()),
        STEREO + sandbox_worker.FRAME.pack(b"D", 2**32 - 1),
        STEREO + frame(b"D", bytes(8)),
        STEREO + frame(b"E", b"\xff\xfe my own words"),
    ],
)
def test_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    says(tmp_path, monkeypatch, data)
    with pytest.raises(MediaError) as caught:
        list(opened([b"fLaC" + bytes(9000)], Limits(stall=5)))
    assert type(caught.value) is MediaError
    assert "decoded" in str(caught.value) or "my own words" in str(caught.value)


def test_what_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([[-(2**23), 2**23], [0, -1]], "<i4")
    says(
        tmp_path,
        monkeypatch,
        described(2**31 - 1, 2, "x", False, -5)
        + frame(b"D", extremes.tobytes())
        + frame(b"X", b"\xff" * 1000),
    )
    samples, form, note = all_of(opened([b"fLaC" + bytes(9000)]))
    assert samples.tolist() == extremes.tolist()
    assert form == SoundFormat(2**31 - 1, 2, "x", False, -5)
    assert note is not None
    assert len(note) == 200


# -- sources that fail, callers that leave


@needs_ffmpeg
@pytest.mark.parametrize("name", ["stereo.ts", "stereo.flac", "stereo.m4a"])
@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), SourceError("gone"), RuntimeError("odd")]
)
@pytest.mark.parametrize("after", [4_500, 30_000])
def test_the_sources_own_error(name: str, error: Exception, after: int) -> None:
    data = media(name).read_bytes()

    def source() -> Iterator[bytes]:
        yield data[:after]
        raise error

    with pytest.raises(SourceError if isinstance(error, (OSError, HarmonyError)) else type(error)):
        list(opened(source()))


@needs_ffmpeg
def test_a_busy_caller_holds_the_source_back() -> None:
    """Nobody takes the samples: what is read of the source is what pipes hold."""
    data = media("silence.flac").read_bytes()
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for at in range(0, len(data), 1000):
            read = at
            yield data[at : at + 1000]

    found = iter(opened(source()))
    next(found)
    assert at_rest(lambda: read) < 400_000 < len(data)
    found.close()  # type: ignore[attr-defined]


@needs_ffmpeg
def test_leaving_while_the_source_hangs() -> None:
    data = media("stereo.ts").read_bytes()
    gate = threading.Event()

    def source() -> Iterator[bytes]:
        yield data[:30_000]
        gate.wait(60)
        yield b""

    found = iter(opened(source()))
    timer = threading.Timer(1.0, gate.set)
    timer.start()
    next(found, None)
    started = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    gate.set()
    timer.join()


def test_a_caller_who_does_not_want_it_any_more() -> None:
    class GoneError(Exception):
        pass

    gate = threading.Event()

    def look() -> None:
        gate.set()
        raise GoneError

    def source() -> Iterator[bytes]:
        yield b"fLaC" + bytes(5000)
        gate.wait(20)

    with pytest.raises(GoneError):
        list(open_sound(source(), pcm=None, decoder=SoundSandbox(look=look)))
