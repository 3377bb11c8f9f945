"""The demo's media: a drawn clock with a tone every second, encoded by the libraries inside PyAV.

Everything in the picture is there to check a seek by eye: the time code is the frame's own PTS, the bar shows
where in the film it stands, and the ticks on it are the keyframes. Frame n is drawn from n alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from harmony4.server.cli.demo_plan import FPS, Demo

__all__ = ["draw_frame", "make_media", "tone"]

_WIDTH: Final = 640
_HEIGHT: Final = 360
_RATE: Final = 48_000

Plane = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


_VIDEO_OPTIONS: Final = {
    # One thread, and not libvpx's "realtime", which looks at the clock: the same bytes in every run.
    "libx264": {"preset": "veryfast", "crf": "24", "bf": "2", "sc_threshold": "0", "threads": "1"},
    "libvpx": {"deadline": "good", "cpu-used": "5", "crf": "12", "b": "1M", "threads": "1"},
}

# 5 x 7 dots a glyph, a row a number, the leftmost dot the highest bit.
_GLYPHS: Final = {
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 6, 8, 16, 31),
    "3": (14, 17, 1, 6, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    ":": (0, 4, 4, 0, 4, 4, 0),
    ".": (0, 0, 0, 0, 0, 12, 12),
    " ": (0, 0, 0, 0, 0, 0, 0),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4),
    "Ø": (15, 17, 19, 21, 25, 17, 30),
}


def _write(luma: Plane, text: str, x: int, y: int, scale: int, value: int) -> None:
    """Draw text into the luma plane with its upper left corner at (x, y), dots `scale` pixels wide."""
    for character in text:
        rows = np.array(_GLYPHS[character], np.uint8)[:, None]
        dots = (rows >> np.arange(4, -1, -1, dtype=np.uint8)) & 1
        mask = np.kron(dots, np.ones((scale, scale), np.uint8)).astype(bool)
        luma[y : y + 7 * scale, x : x + 5 * scale][mask] = value
        x += 6 * scale


def draw_frame(number: int, frames: int, gop: int) -> Plane:
    """Frame `number` of `frames` as planar YUV 4:2:0 (an array of height·3/2 rows)."""
    luma = np.empty((_HEIGHT, _WIDTH), np.uint8)
    luma[:] = (36 + (np.arange(_HEIGHT) * 24 // _HEIGHT))[:, None]
    milliseconds = number * 1000 // FPS
    seconds = milliseconds // 1000
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds % 1000:03}"
    _write(luma, "HARMONYØ4", 24, 24, 3, 150)
    _write(luma, f"FRAME {number:05}", _WIDTH - 24 - 11 * 18, 24, 3, 150)
    _write(luma, clock, (_WIDTH - 12 * 48 + 8) // 2, 130, 8, 235)
    if number % gop < 5:
        _write(luma, "KEYFRAME", 24, 220, 3, 235)
    # The tone's flash: bright at the full second, gone after a third of it.
    luma[220:241, _WIDTH - 45 : _WIDTH - 24] = max(40, 235 - number % FPS * 25)
    left, right, top = 24, _WIDTH - 24, 290
    luma[top : top + 24, left:right] = 70
    luma[top : top + 24, left : left + (right - left) * (number + 1) // frames] = 190
    for key in range(0, frames, gop):
        tick = left + (right - left) * key // frames
        luma[top - 8 : top, tick : tick + 2] = 235
    # A colour wheel turn per minute, each minute of a ten-hour film its own.
    angle = 2 * np.pi * seconds / 12
    blue = np.full((_HEIGHT // 2, _WIDTH // 2), int(128 + 30 * np.cos(angle)), np.uint8)
    red = np.full((_HEIGHT // 2, _WIDTH // 2), int(128 + 30 * np.sin(angle)), np.uint8)
    chroma = np.concatenate([blue.reshape(-1, _WIDTH), red.reshape(-1, _WIDTH)])
    return np.concatenate([luma, chroma])


_SCALE: Final = (0, 2, 4, 5, 7, 9, 11, 12)


def tone(start: int, count: int) -> Samples:
    """Samples [start, start + count) of a struck note every second, up and down a major scale."""
    at = np.arange(start, start + count)
    second, within = at // _RATE, at % _RATE / _RATE
    steps = np.array(_SCALE + _SCALE[-2:0:-1])
    pitch = 440.0 * 2.0 ** (steps[second % len(steps)] / 12)
    struck = np.exp(-6.0 * within) * np.minimum(1.0, within * 400.0)
    return (0.4 * struck * np.sin(2 * np.pi * pitch * within)).astype(np.float32)


def make_media(demo: Demo, path: Path, progress: Callable[[int, int], None]) -> None:
    """Encode `demo` to `path`. `progress` is told frames (or seconds) done, and how many there are."""
    options = {"fflags": "+bitexact"}
    if demo.format == "mp4":
        options["movflags"] = "+faststart"  # the index in front: a browser starts at once
    with av.open(str(path), "w", format=demo.format, options=options) as out:
        picture = _video_stream(out, demo) if demo.video else None
        sound = out.add_stream(demo.audio, rate=_RATE, layout="mono")
        assert isinstance(sound, AudioStream)
        sound.codec_context.bit_rate = 96_000
        out.start_encoding()  # opens the encoders: only then is the frame size of the audio known
        audio = _audio_frames(sound, demo.seconds * _RATE)
        done = 0
        for second in range(demo.seconds):
            if picture is not None:
                for number in range(second * FPS, (second + 1) * FPS):
                    frame = av.VideoFrame.from_ndarray(
                        draw_frame(number, demo.seconds * FPS, demo.gop), format="yuv420p"
                    )
                    frame.pts, frame.time_base = number, Fraction(1, FPS)
                    out.mux(picture.encode(frame))
            while done < (second + 1) * _RATE and (piece := next(audio, None)) is not None:
                done += piece.samples
                out.mux(sound.encode(piece))
            progress(second + 1, demo.seconds)
        for stream in (picture, sound):
            if stream is not None:
                out.mux(stream.encode(None))


def _video_stream(out: av.container.OutputContainer, demo: Demo) -> VideoStream:
    assert demo.video is not None
    stream = out.add_stream(demo.video, rate=FPS, options=_VIDEO_OPTIONS[demo.video])
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
    stream.codec_context.gop_size = demo.gop
    stream.codec_context.time_base = Fraction(1, FPS)
    return stream


def _audio_frames(stream: AudioStream, samples: int) -> Iterator[av.AudioFrame]:
    """Frames of the size that the encoder asks for, in the sample format it asks for."""
    context = stream.codec_context
    size = context.frame_size or 1024
    for start in range(0, samples, size):
        wave = tone(start, min(size, samples - start))[None, :]
        if context.format.name.startswith("s16"):
            frame = av.AudioFrame.from_ndarray(np.rint(wave * 32767).astype(np.int16), "s16", "mono")
        else:
            frame = av.AudioFrame.from_ndarray(wave, context.format.name, "mono")
        frame.pts, frame.sample_rate, frame.time_base = start, _RATE, Fraction(1, _RATE)
        yield frame
