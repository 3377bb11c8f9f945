"""The frame around the commands: exit statuses, one line of error, help, closed and full outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import HARMONY4, refused, run, small_container
from harmony4.crypto.errors import HarmonyError, StorageError
from harmony4.server.cli import frame
from harmony4.server.cli.main import main
from harmony4.server.cli.output import json_text
from needs import BUNNY, ORIGINAL

COMMANDS = (
    "demo",
    "serve",
    "export",
    "extract",
    "recover",
    "inspect",
    "seek",
    "tokens",
    "verify",
    "keygen",
    "mask",
    "unmask",
    "rekey",
    "token",
    "sign-url",
)


@pytest.mark.parametrize("name", ["harmony4", "harmonyø4"])
def test_both_names_are_installed(name: str) -> None:
    done = subprocess.run([HARMONY4.with_name(name), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "harmony4"


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "harmony4.server.cli", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.startswith(b"harmony4 ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_complete(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Exit status" in shown
    assert "3 done, but something was lost" in shown.replace("│", "")
    assert len(shown) > 400


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"│ {command} " in shown for command in COMMANDS)


def test_without_arguments_it_helps_and_is_wrong_usage() -> None:
    done = run()
    assert done.status == 2
    assert "Usage:" in done.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspct", "x"], ["inspct", "Did you mean 'inspect'?"]),
        (["inspect"], ["Missing argument", "FILE", "harmony4 inspect --help"]),
        (["inspect", "a", "b"], ["unexpected extra argument"]),
        (["inspect", "--nope", "x"], ["--nope"]),
        (["seek", "x", "1.5"], ["1.5s"]),
        (["seek", "x", "1:75"], ["59"]),
        (["export", "x"], ["--output"]),
        (["export", "x", "-o", "y", "--block-size", "17MiB"], ["16 MiB"]),
        (["export", "x", "-o", "y", "--fps-hint", "fast"], ["30000/1001"]),
        (["export", "x", "-o", "y", "--gop", "0"], ["--gop"]),
        (["tokens", "x", "--track", "-1"], ["--track"]),
        (["serve", "--port", "65536"], ["--port"]),
    ],
)
def test_wrong_usage(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    for word in words:
        assert word in shown.err


def test_wrong_usage_as_a_process() -> None:
    refused(run("seek", "x"), "Missing argument", status=2)


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (StorageError("no space"), "no space", 1),
        (HarmonyError("odd", where=5, expected=1, found=2), "odd at offset 5 (expected 1, found 2)", 1),
        (MemoryError(), "out of memory", 1),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory", 1),
        (OSError(28, "whatever"), "no space left on device", 1),
        (OSError("bare"), "bare", 1),
        (KeyError("k"), "internal error, please report it: KeyError: 'k'", 1),
        (RecursionError("deep"), "internal error, please report it: RecursionError: deep", 1),
    ],
)
def test_every_exception_becomes_a_line(error: Exception, message: str, status: int) -> None:
    assert frame.explain(error) == (message, status)


def test_an_error_stays_on_one_line_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    refused(run("inspect", tmp_path / "a\nb\x1b[2J.h4mk"), r"a\nb\x1b[2J")


def test_a_traceback_only_in_development_mode(tmp_path: Path) -> None:
    done = run("inspect", tmp_path / "none", env=os.environ | {"PYTHONDEVMODE": "1"})
    assert done.status == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json", "--chunks"], ["tokens"]])
def test_a_full_disk_behind_standard_output(command: list[str], tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk")
    with Path("/dev/full").open("wb") as full:
        refused(run(*command, tmp_path / "a.h4mk", stdout=full), "No space left")


@pytest.mark.parametrize("command", ["tokens", "extract"])
def test_closed_standard_output(command: str, tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk")
    more = "-o -" if command == "extract" else ""
    shell = f"exec {HARMONY4} {command} {tmp_path / 'a.h4mk'} {more} >&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output is closed\n")


def test_closed_standard_input() -> None:
    shell = f"exec {HARMONY4} verify - <&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard input is closed\n")


@pytest.mark.parametrize("command", ["tokens", "inspect --chunks --json"])
def test_a_reader_of_facts_may_leave(command: str, tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk", blocks=4000)
    shell = f"set -o pipefail; {HARMONY4} {command} {tmp_path / 'a.h4mk'} | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["--version"]])
def test_a_reader_of_help_may_leave(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [str(HARMONY4), *arguments]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_of_data_that_leaves_ends_it_as_sigpipe_would(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.write_bytes(bytes(8 * 2**20))
    for command in (f"export --raw -q {media} -o -", f"extract -q {tmp_path}/a.h4mk -o -"):
        shell = f"set -o pipefail; {HARMONY4} {command} | head -c 100 | wc -c"
        if "extract" in command:
            assert run("export", "--raw", media, "-o", tmp_path / "a.h4mk").status == 0
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, done.stdout.strip()) == (141, "", "100")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.h4mk"
    Path(os.fsdecode(name)).write_bytes(ORIGINAL.read_bytes())
    done = run("inspect", os.fsdecode(name))
    assert done.status == 0
    assert "udcff" in done.text


def test_a_terminal_without_unicode_gets_escapes(tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk", title="漢字 😀")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("inspect", "--json", tmp_path / "a.h4mk", env=environment)
    assert json.loads(done.out)["title"] == "漢字 😀"
    assert run("inspect", tmp_path / "a.h4mk", env=environment).status == 0


def test_completion_knows_the_commands() -> None:
    asked = {"_HARMONY4_COMPLETE": "complete_bash", "COMP_WORDS": "harmony4 ver", "COMP_CWORD": "1"}
    done = run(env=os.environ | asked)
    assert (done.status, done.text.split()) == (0, ["verify"])


def test_binary_data_is_not_written_onto_a_terminal() -> None:
    ours, theirs = os.openpty()
    try:
        done = run("export", BUNNY, "-o", "-", stdout=theirs)
        refused(done, "terminal")
        refused(run("export", BUNNY, "-o", os.ttyname(theirs)), "terminal")
        refused(run("export", "-", "-o", "x", stdin=theirs), "terminal")
        refused(run("verify", "-", stdin=theirs), "terminal")
    finally:
        os.close(ours)
        os.close(theirs)


def test_other_names_of_the_standard_streams(tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk")
    sealed = (tmp_path / "a.h4mk").read_bytes()
    done = run("extract", "/dev/stdin", "-t", "1", "-o", "/dev/stdout", stdin=sealed)
    assert (done.status, done.out) == (0, b"".join(b"%06d" % number for number in range(10)))
    assert done.err.startswith("standard output: audio/ogg")


def test_integers_that_javascript_would_round_are_strings() -> None:
    value = {"a": [2**53 - 1, 2**53], "b": {"c": -(2**63)}, "d": True, "e": None}
    expected = {"a": [2**53 - 1, str(2**53)], "b": {"c": str(-(2**63))}, "d": True, "e": None}
    assert json.loads(json_text(value)) == expected
