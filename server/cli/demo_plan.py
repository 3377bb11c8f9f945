"""What the demo library consists of. Apart from `demo_media`, so that a second start loads no encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEMOS", "FPS", "Demo"]

FPS: Final = 25


@dataclass(frozen=True, slots=True)
class Demo:
    """One file to make: its name, how it is encoded, and how long it is."""

    name: str
    format: str
    title: str
    seconds: int
    video: str | None
    audio: str
    gop: int = 2 * FPS
    """Frames from keyframe to keyframe."""


DEMOS: Final = (
    Demo("clock.mp4", "mp4", "A clock (H.264, AAC)", 30, "libx264", "aac"),
    Demo("clock.webm", "webm", "A clock (VP8, Opus)", 16, "libvpx", "libopus", gop=FPS),
    Demo("scale.flac", "flac", "A scale (FLAC)", 40, None, "flac"),
)
