"""What tests stand on: where the media and vectors are, and which outside programs a test needs.

    from needs import BUNNY, VECTORS, needs_ffmpeg

    @needs_ffmpeg
    def test_frames(tmp_path): ...

A test that needs a missing program is skipped with a reason (see `conftest.py`); `.ci/run` installs all of
them and fails on any skip that `.ci/allowed-skips.txt` does not list.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
MEDIA: Final = ROOT / "tests" / "media"
VECTORS: Final = ROOT / "tests" / "vectors"
BUNNY: Final = MEDIA / "bigbuckbunny.mp4"  # MP4, 5.3 s, H.264 + AAC, a single keyframe
ORIGINAL: Final = VECTORS / "original-v1.h4mk"  # written by the original implementation

# marker -> the names under which the program may be installed
PROGRAMS: Final = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "ffmpeg": ("ffmpeg",),
    "nginx": ("nginx",),
    "espeak": ("espeak-ng",),
    "curl": ("curl",),
    "wrk": ("wrk",),
    "aria2": ("aria2c",),
    "mpv": ("mpv",),
    "openssl": ("openssl",),
    "node": ("node", "nodejs"),
    "npm": ("npm",),
    "systemd": ("systemd-analyze",),
    "faketime": ("faketime",),
}
# Debian's, where it is not called as its program is.
PACKAGES: Final = {"aria2c": "aria2", "node": "nodejs", "systemd-analyze": "systemd"}

needs_chromium: Final = pytest.mark.chromium
needs_ffmpeg: Final = pytest.mark.ffmpeg
needs_nginx: Final = pytest.mark.nginx
needs_espeak: Final = pytest.mark.espeak
needs_curl: Final = pytest.mark.curl
needs_wrk: Final = pytest.mark.wrk
needs_aria2: Final = pytest.mark.aria2
needs_mpv: Final = pytest.mark.mpv
needs_openssl: Final = pytest.mark.openssl
needs_node: Final = pytest.mark.node
needs_npm: Final = pytest.mark.npm
needs_systemd: Final = pytest.mark.systemd
needs_faketime: Final = pytest.mark.faketime


def program(marker: str) -> str | None:
    """The path of the program behind a marker ("chromium", "ffmpeg", …), or None."""
    # nginx and the like live in sbin, which is not on everybody's PATH.
    path = ":".join(("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"))
    for name in PROGRAMS[marker]:
        found = shutil.which(name) or shutil.which(name, path=path)
        if found:
            return found
    return None
