"""A library for the page's tests: each kind of container that a person may meet, made once a module.

root, key = library(folder)     # bigbuckbunny, signed, masked, corrupt, sound, ten-hours: `.h4mk`
with page_on(browser, server.url) as page: ...
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page

from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.exporting.ingest import ExportOptions, export
from needs import BUNNY, ROOT, program

AXE: Final = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
SIGNING: Final = SigningKey.from_number(20261128)
MASTER: Final = MasterKey(bytes(range(60, 92)))
BAD_BLOCK: Final = 7
"""The block of `corrupt.h4mk` in which a bit is another one."""
HOURS: Final = 10


def library(folder: Path) -> Path:
    """Make the containers below `folder`, and return it."""
    export(BUNNY, folder / "bigbuckbunny.h4mk", ExportOptions())
    clip = folder.parent / f"{folder.name}-clip.mp4"
    _film(clip, 20)
    export(clip, folder / "signed.h4mk", ExportOptions())
    sign_file(folder / "signed.h4mk", Signer(SIGNING, "a film", 1))
    export(clip, folder / "masked.h4mk", ExportOptions(mask=MaskSpec((MASTER,))))
    (folder / "corrupt.h4mk").write_bytes((folder / "signed.h4mk").read_bytes())
    flip(folder / "corrupt.h4mk", BAD_BLOCK)
    sound = folder.parent / f"{folder.name}-tone.flac"
    _ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:beep_factor=3:d=30", sound)
    export(sound, folder / "sound.h4mk", ExportOptions())
    ten_hours(folder / "ten-hours.h4mk")
    return folder


def ten_hours(path: Path) -> None:
    """18 000 keyframes, two seconds apart; a picture's grey says which second of its minute it is from."""
    minute, whole = path.with_suffix(".minute.mp4"), path.with_suffix(".mp4")
    _film(minute, 60)
    _ffmpeg("-stream_loop", str(HOURS * 60 - 1), "-i", minute, "-c", "copy", "-movflags", "+faststart", whole)
    export(whole, path, ExportOptions())
    minute.unlink()
    whole.unlink()


def grey(seconds: float) -> float:
    """The grey of the picture at a time, as pixels have it."""
    return (40 + 3 * (int(seconds) % 60) - 16) * 255 / 219


def flip(path: Path, block: int) -> None:
    """Change a bit in a block's payload."""
    with H4MKReader(path) as reader:
        entry = reader.range_map(0)[block]
    with path.open("r+b") as file:
        file.seek(entry.position + entry.size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def _film(path: Path, seconds: int) -> None:
    """Five pictures a second, a keyframe each two seconds."""
    picture = f"color=black:s=160x90:r=5:d={seconds},format=yuv420p,geq=lum='40+3*floor(N/5)':cb=128:cr=128"
    code = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-sc_threshold", "0", "-bf", "0"]
    _ffmpeg("-f", "lavfi", "-i", picture, *code, path)


def _ffmpeg(*arguments: str | Path) -> None:
    found = program("ffmpeg")
    assert found is not None
    subprocess.run([found, "-v", "error", "-y", *map(str, arguments)], check=True, timeout=120)


@contextmanager
def page_on(browser: Browser, url: str, expected: Sequence[str] = (), **options: Any) -> Iterator[Page]:
    """A page that must log no error, throw nothing, open no dialog, and ask nobody but the server at `url`.

    Logged errors that contain one of `expected` are answers to the page like any others.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    faults: list[str] = []
    page.on(
        "console",
        lambda one: (
            faults.append(one.text)
            if one.type == "error" and not any(text in one.text for text in expected)
            else None
        ),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda one: None if one.url.startswith(url) else faults.append(one.url))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert faults == []


def violations(page: Page, rule: str | None = None) -> list[str]:
    """What axe-core finds on the page as it stands, one line each; by one of its rules, or by all."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "(rule) => axe.run({ resultTypes: ['violations'], ...(rule && { runOnly: [rule] }) })", rule
    )
    return [
        f"{one['id']}: {node['target']} {json.dumps(node['any'][:1] and node['any'][0].get('message'))}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
