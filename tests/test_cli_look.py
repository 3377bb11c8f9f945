"""inspect, seek, tokens (docs/API.md, "Commands")."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from commands import here, refused, run, small_container
from harmony4.server.cli.main import main
from needs import BUNNY, ORIGINAL, VECTORS


@pytest.fixture
def container(tmp_path: Path) -> Path:
    small_container(tmp_path / "a.h4mk", title="A \x1b[31mtitle")
    return tmp_path / "a.h4mk"


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([str(one) for one in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(one) for one in arguments]) == status
    return capsys.readouterr().out


def test_inspect_for_people(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = text(capsys, "inspect", container)
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert "sealed" in lines["state"]
    assert lines["duration"].split()[1] == "0:00:05.000"
    assert lines["blocks"].split() == ["blocks", "21"]
    assert r"A \x1b[31mtitle" in lines["title"]  # the container cannot colour our output
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith(("0 ", "1 "))]
    assert rows[0][:7] == ["0", "video", "h264", "video/mp4", "demux", "11", "5"]
    assert rows[1][:7] == ["1", "audio", "opus", "audio/ogg", "demux", "10", "10"]
    assert rows[1][-1] == "de"


def test_inspect_for_programs(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = facts(capsys, "inspect", container, "--json")
    assert (value["state"], value["duration"], value["blocks"]) == ("sealed", 5_000_000, 21)
    assert len(value["head"]) == len(value["root"]) == 64
    assert [track["keyframes"] for track in value["tracks"]] == [5, 10]
    assert "chunks" not in value


def test_inspect_lists_chunks(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = facts(capsys, "inspect", "--json", "--chunks", container)
    chunks = value["chunks"]
    tags = [chunk["tag"] for chunk in chunks]
    assert tags[:3] == ["TRAK", "TOKN", "CORE"]
    assert tags[-8:] == ["SEEK", "SEEK", "RMAP", "RMAP", "META", "MERK", "VERI", "TAIL"]
    assert chunks[-1]["offset"] + 12 + chunks[-1]["size"] == container.stat().st_size
    lines = text(capsys, "inspect", "-c", container).splitlines()
    listed = [line.split() for line in lines[lines.index(lines[-1]) - len(chunks) + 1 :]]
    shown = [[str(one["offset"]), str(one["size"]), one["crc"], one["tag"]] for one in chunks]
    assert listed == shown


def test_inspect_says_that_blocks_are_opaque(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("not media at all " * 100)
    done = text(capsys, "export", tmp_path / "notes.txt", "-o", tmp_path / "n.h4mk", "--fps-hint", "25")
    assert "no known media format" in done
    shown = text(capsys, "inspect", tmp_path / "n.h4mk")
    assert "opaque blocks" in shown
    assert "a keyframe every 0:00:01.200" in shown
    assert "fps=25/1 gop=30" in shown


def test_inspect_an_incomplete_file(
    container: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.h4mk"
    cut.write_bytes(container.read_bytes()[:2000])
    shown = text(capsys, "inspect", "--chunks", cut)
    assert "incomplete" in shown
    assert "harmony4 recover" in shown
    assert shown.splitlines()[-1].split()[-1] in ("TOKN", "CORE")
    assert facts(capsys, "inspect", "--json", "--chunks", cut)["state"] == "incomplete"


def test_the_original_implementations_file(capsys: pytest.CaptureFixture[str]) -> None:
    shown = text(capsys, "inspect", ORIGINAL)
    assert "original" in shown
    assert '"project":"HarmonyO4"' in shown
    value = facts(capsys, "inspect", "--json", "--chunks", ORIGINAL)
    assert (value["state"], value["blocks"]) == ("original", 5)
    assert [one["tag"] for one in value["chunks"]] == ["CORE"] * 5 + ["SEEK", "META", "SAFE", "VERI"]
    found = facts(capsys, "seek", "--json", ORIGINAL, "1999999")
    assert (found["pts"], found["offset"], found["next_pts"]) == (1_000_000, 3000, 2_000_000)
    refused(here(capsys, "tokens", ORIGINAL), "no tokens")


@pytest.mark.parametrize("time", ["2300000", "2.3s", "2300ms", "0:02.3", "0:00:02.3"])
def test_seek_takes_times_of_all_kinds(
    time: str, container: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = facts(capsys, "seek", container, time, "--json")
    assert (value["asked"], value["pts"], value["next_pts"]) == (2_300_000, 2_000_000, 3_000_000)
    assert (value["offset"], value["size"], value["block_index"]) == (6 + 4 * 300, 600, 5)
    assert value["header_ranges"] == [[0, 6]]


def test_seek_for_people(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = text(capsys, "seek", container, "2.3s")
    assert "0:00:02.000  (pts 2000000 µs, 300000 µs before)" in shown
    assert "offset    1206" in shown
    assert "bytes 0-5 are needed too" in shown
    assert "to the end" in text(capsys, "seek", container, "1h", "--track", "1")


def test_seek_before_the_first_keyframe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").write_bytes(b"")
    assert here(capsys, "export", tmp_path / "none", "-o", tmp_path / "none.h4mk").status == 0
    refused(here(capsys, "seek", tmp_path / "none.h4mk", "5s"), "no keyframe")


def test_tokens_are_a_json_line_each(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = text(capsys, "tokens", container).splitlines()
    tokens = [json.loads(line) for line in lines]
    assert [one["index"] for one in tokens] == list(range(11))
    assert tokens[0]["header"]
    assert tokens[-1]["last"]
    assert all(one["end"] == two["pts"] for one, two in pairwise(tokens))
    assert text(capsys, "tokens", "--json", container).splitlines() == lines
    assert len(text(capsys, "tokens", "-t", "1", container).splitlines()) == 10


def test_spectral_tokens_that_are_not_there(container: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed where they are: tests/test_sound_http.py, beside the stream."""
    refused(here(capsys, "tokens", "--spectrum", container), "holds no spectral tokens")
    refused(here(capsys, "tokens", "--spectrum", "-t", "1", container), "no such track of spectral tokens")


@pytest.mark.parametrize("command", [["tokens", "-t", "2"], ["seek", "-t", "2"], ["extract", "-t", "2"]])
def test_a_track_that_is_not_there(
    command: list[str], container: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"seek": ["5s"], "extract": ["-o", tmp_path / "o"]}.get(command[0], [])
    refused(here(capsys, *command, container, *more), "track", "0 to 1")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", [["inspect", "--json"], ["tokens"], ["seek", "2s", "--json"]])
def test_standard_input_is_as_good_as_a_file(command: list[str], container: Path) -> None:
    name, *options = command
    of_file = run(name, container, *options)
    with container.open("rb") as file:
        redirected = run(name, "-", *options, stdin=file)
    piped = run(name, "-", *options, stdin=container.read_bytes())
    assert of_file.status == redirected.status == piped.status == 0
    assert of_file.out == redirected.out == piped.out


def test_a_named_pipe_is_as_good_as_a_file(container: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, container.read_bytes())
    os.close(writing)
    done = run("inspect", "--json", f"/dev/fd/{reading}", pass_fds=[reading])
    os.close(reading)
    assert done.out == run("inspect", "--json", container).out


@pytest.mark.parametrize("command", ["inspect", "tokens", "verify", "extract", "recover", "seek"])
def test_what_cannot_be_read(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"seek": ["1s"], "extract": ["-o", tmp_path / "o"], "recover": ["-o", tmp_path / "o"]}
    arguments = more.get(command, [])
    refused(here(capsys, command, tmp_path / "missing", *arguments), "missing", "No such file")
    refused(here(capsys, command, tmp_path, *arguments), "folder")
    refused(here(capsys, command, BUNNY / "x", *arguments), "Not a directory")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["inspect", "tokens", "extract", "recover", "seek"])
def test_what_is_no_container(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"seek": ["1s"], "extract": ["-o", tmp_path / "o"], "recover": ["-o", tmp_path / "o"]}
    arguments = more.get(command, [])
    (tmp_path / "empty").write_bytes(b"")
    refused(here(capsys, command, tmp_path / "empty", *arguments))
    refused(here(capsys, command, BUNNY, *arguments), "not an H4MK container")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_no_vector_makes_a_command_fail_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    for vector in sorted(VECTORS.glob("*.h4mk")):
        done = here(capsys, "inspect", "--json", "--chunks", vector)
        assert done.status in (0, 1), vector
        assert done.err.count("\n") == done.status, (vector, done.err)
        assert "internal error" not in done.err, (vector, done.err)
        done = here(capsys, "verify", "--json", vector)
        assert done.status == (0 if json.loads(done.out)["ok"] else 3), vector
        assert not done.err, (vector, done.err)
