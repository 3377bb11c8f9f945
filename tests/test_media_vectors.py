"""Media that name other files (tests/vectors/media): in the sandbox and by the command line, they give no
more than their own bytes, and nothing beside them is opened.

tests/test_demux.py gives them to the demuxers; tests/test_vectors.py makes them again, byte for byte.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from commands import here, refused, run
from harmony4.crypto.errors import HarmonyError, MediaError
from harmony4.h4mk import H4MKReader
from harmony4.server.sandboxing.sandbox import Sandbox
from harmony4.tokenize.demux import demux
from harmony4.tokenize.sniff import SNIFF_SIZE, sniff
from harmony4.tokenize.video import VideoTransportTokenizer
from make_vectors.media import NEIGHBOUR
from needs import BUNNY, needs_ffmpeg
from programs import run_program
from vector_use import media_vectors
from watching import Opens

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify (Linux)")

VECTORS = {Path(twin["file"]).stem: (twin, data) for twin, data in media_vectors()}
KINDS = ("ffconcat", "m3u8", "dash", "sdp", "dref")
SECRET = b"what stands in the neighbour, and only there"
# What it takes for FFmpeg to follow them; its own defaults hinder some.
UNHINDERED = {
    "concat": {"safe": "0"},
    "hls": {"extension_picky": "0"},
    "mp4": {"enable_drefs": "1", "use_absolute_path": "1"},
}


class Trap:
    """A folder with a vector and its neighbour, a real video; it is the current one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / NEIGHBOUR).write_bytes(BUNNY.read_bytes() + SECRET)
        self.opens = Opens(folder)

    def put(self, name: str) -> tuple[dict[str, Any], bytes, Path]:
        """A vector's twin, content and file."""
        twin, data = VECTORS[name]
        path = self.folder / twin["file"]
        path.write_bytes(data)
        self.opens.names()
        return twin, data, path

    def opened(self) -> set[str]:
        """The files in the folder that were opened since `put`."""
        return set(self.opens.names()) - {""}


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    folder = tmp_path / "trap"
    folder.mkdir()
    one = Trap(folder)
    monkeypatch.chdir(folder)
    yield one
    one.opens.close()


def test_each_kind_is_there() -> None:
    assert {name.split("-")[0] for name in VECTORS} == set(KINDS)
    codes = {error.code for error in HarmonyError.__subclasses__()}
    for name, (twin, data) in VECTORS.items():
        found = sniff(data[:SNIFF_SIZE])
        assert (found and found.name) == twin["sniffed"], name
        assert twin["expect"] in {"opaque", "demuxed", *codes}
        assert (twin["expect"] == "opaque") == (twin["sniffed"] is None), name
    assert MediaError.code in {twin["expect"] for twin, _ in VECTORS.values()}


@pytest.mark.parametrize("name", [name for name, (twin, _) in VECTORS.items() if twin["follower"] != "dash"])
def test_no_dud(trap: Trap, name: str) -> None:
    """What FFmpeg does when nobody hinders it: where the twin says so, the neighbour is opened."""
    twin, _, path = trap.put(name)
    try:
        with av.open(
            str(path), format=twin["follower"], options=UNHINDERED.get(twin["follower"], {}), timeout=5
        ) as container:
            list(container.demux())
    except av.FFmpegError:
        pass
    assert trap.opened() - {path.name} == {twin["opens"]} - {None}


@needs_ffmpeg
@pytest.mark.parametrize("name", [name for name, (twin, _) in VECTORS.items() if twin["follower"] == "dash"])
def test_no_dud_of_dash(trap: Trap, name: str) -> None:
    """The same with Debian's FFmpeg: the one in PyAV has no demuxer for DASH yet."""
    twin, _, path = trap.put(name)
    copy = ("-c", "copy", "-f", "null", "-")
    run_program(
        "ffmpeg", "-v", "error", "-f", "dash", "-i", path.name, *copy, folder=trap.folder, status=None
    )
    assert trap.opened() - {path.name} == {twin["opens"]} - {None}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("demuxer", [demux, Sandbox()], ids=["in this process", "sandbox"])
def test_tokens(trap: Trap, name: str, demuxer: Any) -> None:
    """From a file, and from a source that cannot seek."""
    twin, data, path = trap.put(name)
    with path.open("rb") as file:
        for source in (file, [data]):
            tokenizer = VideoTransportTokenizer(demuxer=demuxer)
            if twin["expect"] == "media":
                with pytest.raises(MediaError, match="refuses"):
                    list(tokenizer.encode(source))
                continue
            assert b"".join(one.data for one in tokenizer.encode(source)) == data
            as_twin(twin, tokenizer.track.codec, tokenizer.track.kind)
    assert trap.opened() <= {path.name}


def as_twin(twin: dict[str, Any], codec: str, kind: str) -> None:
    """Whether a track is what the twin expects: never the neighbour's, which is H.264 video."""
    sound = {"mp4": "pcm_s16be", "mp3": "mp3"}
    assert (codec, kind) == (
        ("", "data") if twin["expect"] == "opaque" else (sound[twin["sniffed"]], "audio")
    )


def stored(twin: dict[str, Any], data: bytes, container: Path) -> None:
    """Check that a container holds the vector and nothing else."""
    assert SECRET not in container.read_bytes()
    with H4MKReader(container) as reader:
        assert reader.read(0, len(data) + 1, 0) == data
        as_twin(twin, reader.tracks[0].info.codec, reader.tracks[0].info.kind)


@pytest.mark.parametrize("name", VECTORS)
def test_the_command_line(trap: Trap, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin, data, path = trap.put(name)
    made, back = tmp_path / "made.h4mk", tmp_path / "back"
    done = here(capsys, "export", path.name, "-o", made)
    assert trap.opened() == {path.name}
    assert SECRET not in done.out + done.err.encode()
    if twin["expect"] == "media":
        refused(done, "--raw")
        assert not made.exists()
        assert here(capsys, "export", "--raw", path.name, "-o", made).status == 0
        with H4MKReader(made) as reader:
            assert reader.read(0, len(data) + 1, 0) == data
    else:
        assert done.status == 0, done.err
        stored(twin, data, made)
    for command in (("verify", made), ("extract", made, "-o", back)):
        assert here(capsys, *command).status == 0
    assert back.read_bytes() == data
    facts = json.loads(here(capsys, "inspect", "--json", made).text)
    assert NEIGHBOUR not in json.dumps(facts)


@pytest.mark.parametrize("name", [f"{kind}-relative" for kind in KINDS[:3]] + ["sdp", "dref-alias-relative"])
def test_the_command_line_from_a_pipe(trap: Trap, name: str, tmp_path: Path) -> None:
    """As a process of its own that is started beside the neighbour."""
    twin, data, path = trap.put(name)
    done = run("export", "-", "-o", tmp_path / "made.h4mk", stdin=data)
    assert done.status == 0, done.err
    assert trap.opened() - {path.name} == set()
    stored(twin, data, tmp_path / "made.h4mk")
