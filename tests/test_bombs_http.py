"""Bodies that expand: a MiB of gzip that is a GiB of zeros, at every route that takes one, and at others.

Nobody expands them, whether somebody wants the body or not. Media that expand when they are demuxed or
decoded are in test_sandbox.py and test_sandbox_sound.py.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import pytest

from serving import running, write_container

TUS: Final = {"Tus-Resumable": "1.0.0"}
BODY: Final = {"Content-Type": "application/offset+octet-stream"}
META: Final = {"Upload-Length": str(2**30), "Upload-Metadata": "name Yy5oNG1r"}
LOCATION: Final = "LOCATION"


needs_measure = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs /proc, to know its memory"
)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()


def most_memory() -> int:
    """Bytes of memory that this process has had at most since the last `forget` (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget() -> None:
    """From here on the most counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


@needs_measure
def test_the_measure() -> None:
    """What was used and given back counts."""
    forget()
    before = most_memory()
    assert len(bytearray(b"x") * 2**28) == 2**28
    assert most_memory() - before > 2**27


@needs_measure
@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP"])
@pytest.mark.parametrize(
    ("method", "target", "fields", "status"),
    [
        ("POST", "/video/export?name=b.h4mk&raw=1", {}, 415),
        ("POST", "/video/stream?raw=1", {}, 415),
        ("POST", "/audio/stream", {}, 415),
        ("POST", "/audio/mask?format=raw", {}, 415),
        ("POST", "/video/seek?name=a.h4mk", {"Content-Type": "application/json"}, 415),
        ("POST", "/uploads/", TUS | META | BODY, 415),
        ("PATCH", LOCATION, TUS | {"Upload-Offset": "0"} | BODY, 415),
        # These want none.
        ("POST", "/session", {}, 200),
        ("POST", "/media/restore?id=1", {}, 404),
        ("GET", "/video/range?name=a.h4mk", {}, 200),
        ("GET", "/media", {}, 200),
        ("DELETE", "/media?name=none.h4mk", {}, 404),
    ],
)
def test_a_body_that_expands(
    tmp_path: Path, bomb: bytes, method: str, target: str, fields: dict[str, str], status: int, coding: str
) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server:  # which fails a test whose event loop was held up
        if target == LOCATION:
            made = server.request("POST", "/uploads/", TUS | META, b"")
            assert made.status == 201
            target = made.headers["Location"]
        forget()
        before = most_memory()
        try:
            answer = server.request(method, target, fields | {"Content-Encoding": coding}, bomb)
        except ConnectionError:  # it was refused before it was sent
            assert status == 415
        else:
            assert answer.status == status
        assert server.get("/health").status == 200
        assert most_memory() - before < 64 * 2**20
        assert {path.name for path in tmp_path.glob("*.h4mk")} == {"a.h4mk"}
