"""demo and serve: the library is made once, served, left as it is; the address is said; it ends when told."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import ROOM, here, refused, run, small_container, started
from harmony4.h4mk import H4MKReader
from harmony4.server.cli import serving
from harmony4.server.cli.demo_media import draw_frame, tone
from harmony4.server.cli.demo_plan import DEMOS, FPS
from harmony4.server.state import FOLDER, State
from mounts import folder_that_can_be_locked

NAMES = [f"{demo.name}.h4mk" for demo in DEMOS]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo library, made by the command."""
    folder = tmp_path_factory.mktemp("demo") / "library"
    done = run("demo", "--library", folder, "--no-serve", "--json")
    assert json.loads(done.out) == {"library": str(folder), "containers": NAMES, "made": NAMES}
    assert (done.status, done.err) == (0, "")
    return folder


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=ROOM) as answer:
        return json.load(answer)


def test_the_demo_is_real_media(library: Path, capsys: Capture) -> None:
    for demo, name in zip(DEMOS, NAMES, strict=True):
        assert here(capsys, "verify", "-q", library / name).status == 0
        with H4MKReader(library / name) as reader:
            (track,) = reader.tracks
            assert track.info.timing == "demux"
            assert track.keyframes >= 5
            assert abs(reader.duration - demo.seconds * 1_000_000) < 100_000
            assert track.info.kind == ("video" if demo.video else "audio")
            keys = [entry.pts for entry in reader.seek_table(0)]
        if demo.video:
            assert keys == [n * demo.gop * 1_000_000 // FPS for n in range(len(keys))]


def test_the_pictures_and_sounds_depend_on_nothing_but_time() -> None:
    assert np.array_equal(draw_frame(60, 750, 50), draw_frame(60, 750, 50))
    assert not np.array_equal(draw_frame(60, 750, 50), draw_frame(61, 750, 50))
    whole = tone(0, 96_000)
    assert np.array_equal(np.concatenate([tone(0, 1000), tone(1000, 95_000)]), whole)
    loudest = [float(np.abs(whole[start : start + 4800]).max()) for start in range(0, 96_000, 4800)]
    assert loudest[0] > 0.2 > loudest[9]  # struck each second, and fading
    assert loudest[10] > 0.2


def test_the_second_start_uses_what_is_there(library: Path, capsys: Capture) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in library.iterdir()}
    done = here(capsys, "demo", "-l", library, "--no-serve", "--json")
    assert json.loads(done.out)["made"] == []
    assert {path.name: path.stat().st_mtime_ns for path in library.iterdir()} == before


def test_what_is_missing_is_made_again_the_same(library: Path, capsys: Capture) -> None:
    flac = library / NAMES[2]
    before = flac.read_bytes()
    flac.unlink()
    State(library / FOLDER).folder("locks")
    done = here(capsys, "demo", "-l", library, "--no-serve")
    assert "A scale (FLAC)" in done.text
    assert flac.read_bytes() == before
    (line,) = (library / FOLDER / "audit.log").read_bytes().splitlines()
    shutil.rmtree(library / FOLDER)
    assert (json.loads(line)["action"], json.loads(line)["name"]) == ("demo", NAMES[2])


def test_somebody_elses_library_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    small_container(tmp_path / "mine.h4mk")
    done = here(capsys, "demo", "-l", tmp_path, "--no-serve", "--json")
    assert json.loads(done.out)["containers"] == ["mine.h4mk"]


def test_a_library_that_cannot_be_made(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(here(capsys, "demo", "-l", tmp_path / "file", "--no-serve"), "file")
    refused(here(capsys, "demo", "-l", tmp_path / "file" / "below", "--no-serve"), "Not a directory")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_serves_and_stops(number: int, library: Path) -> None:
    with started("demo", "-l", library, "--port", "0", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = json.loads(process.stdout.readline())
        assert said["library"] == str(library)
        assert [one["name"] for one in get(f"{said['url']}media")["items"]] == NAMES
        process.send_signal(number)
        assert process.wait(ROOM) == 0
        assert process.stderr.read() == b""


def test_serve_says_where(tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk")
    (tmp_path / "settings.toml").write_text("[server]\nport = 0\n")
    with started("serve", tmp_path, "--config", tmp_path / "settings.toml") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith(f"serving {tmp_path} at http://127.0.0.1:")
        url = line.split(" at ")[1].split()[0]
        found = get(f"{url}video/seek?name=a.h4mk&pts=2300000")
        assert (found["pts"], found["offset"]) == (2_000_000, 1206)


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_state_that_cannot_be_written_is_said(tmp_path: Path, below: str) -> None:
    """Whoever names one means to use it; what is there is served all the same."""
    (tmp_path / "library").mkdir()
    small_container(tmp_path / "library" / "a.h4mk")
    settings = tmp_path / "settings.toml"
    with folder_that_can_be_locked(tmp_path / "disk") as disk:
        settings.write_text(f"[server]\nport = 0\nstate = {json.dumps(str(disk.path / below))}\n")
        assert disk.lock()
        with started("serve", tmp_path / "library", "--config", settings) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().decode().split(" at ")[1].split()[0]
            assert get(f"{url}video/seek?name=a.h4mk&pts=2300000")["offset"] == 1206
            process.terminate()
            assert process.wait(ROOM) == 0
            said = process.stderr.read().decode()
        disk.unlock()
    assert said.count("cannot be written") == 1, said


def test_an_address_that_is_taken_is_refused(library: Path, tmp_path: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not serving._is_free(
            "127.0.0.1", port
        )  # then demo, when nobody asked for a port, takes another
        refused(run("serve", tmp_path, "--port", port), "port")
        refused(here(capsys, "demo", "-l", library, "--port", port), "port")
    assert serving._is_free("127.0.0.1", port)
    refused(here(capsys, "serve", tmp_path, "--host", "192.0.2.1", "--port", "0"), "address")


def test_settings_that_are_wrong(tmp_path: Path, capsys: Capture) -> None:
    refused(here(capsys, "serve", tmp_path / "none"), "No such file")
    refused(here(capsys, "serve", tmp_path, "-c", tmp_path / "none.toml"), "No such file")
    (tmp_path / "bad.toml").write_text("[server]\nprot = 1\n")
    refused(here(capsys, "serve", tmp_path, "-c", tmp_path / "bad.toml"), "prot")
    (tmp_path / "bad.toml").write_text("= 1")
    refused(here(capsys, "serve", tmp_path, "-c", tmp_path / "bad.toml"), "TOML")
