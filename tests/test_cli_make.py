"""export, extract, recover, verify: media in, the same media out, nothing lost or half-made in between."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import HARMONY4, ROOM, Done, here, refused, run, small_container, started
from harmony4.h4mk import H4MKReader
from limits import needs_rlimit
from media_factory import PLAIN, media
from needs import BUNNY, ORIGINAL, needs_ffmpeg

MIB = 2**20
Capture = pytest.CaptureFixture[str]


def random_bytes(count: int) -> bytes:
    """Bytes that look like nothing, the same in every run."""
    return hashlib.shake_128(b"harmony4").digest(count)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def bunny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    container = tmp_path_factory.mktemp("bunny") / "bunny.h4mk"
    assert run("export", "-q", BUNNY, "-o", container) == Done(0, b"", "")
    return container


# -- there and back


def test_export_says_what_it_made(tmp_path: Path, capsys: Capture) -> None:
    done = here(capsys, "export", BUNNY, "-o", tmp_path / "b.h4mk", "--title", "Big Buck Bunny")
    assert done.status == 0
    assert "h264,aac (video/mp4), 0:00:05.280" in done.text
    facts = json.loads(here(capsys, "export", "--json", BUNNY, "-o", tmp_path / "b.h4mk").out)
    with H4MKReader(tmp_path / "b.h4mk") as reader:
        assert reader.head is not None
        assert (facts["head"], facts["blocks"]) == (reader.head.hex(), reader.block_count)
        assert (facts["size"], facts["duration"]) == (reader.size, reader.duration)
    assert (facts["timing"], facts["note"]) == ("demux", None)


def test_extract_gives_the_file_back(bunny: Path, tmp_path: Path, capsys: Capture) -> None:
    facts = json.loads(here(capsys, "extract", "--json", bunny, "-o", tmp_path / "b.mp4").out)
    assert (tmp_path / "b.mp4").read_bytes() == BUNNY.read_bytes()
    assert facts["sha256"] == hashlib.sha256(BUNNY.read_bytes()).hexdigest()
    assert (facts["bytes"], facts["complete"], facts["missing"]) == (BUNNY.stat().st_size, True, 0)


@needs_ffmpeg
@pytest.mark.parametrize("name", PLAIN)
def test_every_format_there_and_back(name: str, tmp_path: Path, capsys: Capture) -> None:
    source, container, back = media(name), tmp_path / "c.h4mk", tmp_path / "back"
    facts = json.loads(here(capsys, "export", "--json", source, "-o", container).out)
    assert (facts["timing"], facts["note"]) == ("demux", None)
    assert here(capsys, "verify", "-q", container) == Done(0, b"", "")
    assert here(capsys, "extract", "-q", container, "-o", back) == Done(0, b"", "")
    assert back.read_bytes() == source.read_bytes()


def test_through_pipes(bunny: Path) -> None:
    shell = f"set -o pipefail; cat {BUNNY} | {HARMONY4} export - -o - | {HARMONY4} verify - --json"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"]
    assert b"standard output: h264,aac" in done.stderr  # the summary does not stand in the data's way
    piped = run("export", "-q", "-", "-o", "-", stdin=BUNNY.read_bytes())
    assert (piped.status, piped.err, piped.out == bunny.read_bytes()) == (0, "", True)
    with BUNNY.open("rb") as file:
        redirected = run("export", "-q", "-", "-o", "-", stdin=file)
    assert redirected.out == piped.out
    back = run("extract", "-q", "-", "-o", "-", stdin=piped.out)
    assert (back.status, back.out == BUNNY.read_bytes()) == (0, True)
    recovered = run("recover", "-", "-o", "-", "--json", stdin=piped.out)
    assert (recovered.status, json.loads(recovered.err)["complete"]) == (0, True)
    assert run("verify", "-q", "-", stdin=recovered.out).status == 0


def test_raw_blocks_and_their_times(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m").write_bytes(random_bytes(100_000))
    options = ["--raw", "--fps-hint", "30000/1001", "--gop", "15", "--block-size", "32KiB"]
    facts = json.loads(here(capsys, "export", "--json", tmp_path / "m", "-o", tmp_path / "c", *options).out)
    assert (facts["blocks"], facts["timing"], facts["kind"]) == (4, "hint", "data")
    lines = here(capsys, "tokens", tmp_path / "c").text.splitlines()
    assert [json.loads(line)["pts"] for line in lines] == [0, 500_500, 1_001_000, 1_501_500]
    assert [json.loads(line)["size"] for line in lines] == [32768, 32768, 32768, 1696]


def test_an_empty_file_there_and_back(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert here(capsys, "export", tmp_path / "empty", "-o", tmp_path / "c").status == 0
    assert here(capsys, "verify", tmp_path / "c").status == 0
    assert here(capsys, "extract", tmp_path / "c", "-o", tmp_path / "back").status == 0
    assert (tmp_path / "back").read_bytes() == b""


def test_the_original_implementations_file(tmp_path: Path, capsys: Capture) -> None:
    assert here(capsys, "verify", ORIGINAL).status == 0
    assert here(capsys, "extract", ORIGINAL, "-o", tmp_path / "o").status == 0
    with H4MKReader(ORIGINAL) as reader:
        assert (tmp_path / "o").read_bytes() == reader.read(0, 1000)
    refused(here(capsys, "recover", ORIGINAL, "-o", tmp_path / "r"), "only read")


def test_tracks_are_extracted_one_by_one(tmp_path: Path, capsys: Capture) -> None:
    streams = small_container(tmp_path / "a")
    for track, stream in enumerate(streams):
        assert here(capsys, "extract", tmp_path / "a", "-t", track, "-o", tmp_path / "o").status == 0
        assert (tmp_path / "o").read_bytes() == stream


# -- targets


def test_an_existing_target_is_replaced_and_a_link_followed(bunny: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    assert run("export", BUNNY, "-o", tmp_path / "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == bunny.read_bytes()
    assert listing(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("command", ["export", "extract", "recover"])
def test_a_device_stays_a_device(command: str, bunny: Path, capsys: Capture) -> None:
    source = BUNNY if command == "export" else bunny
    assert here(capsys, command, source, "-o", "/dev/null").status == 0
    assert Path("/dev/null").is_char_device()
    refused(here(capsys, command, source, "-o", "/dev/full"), "No space left")


def test_the_output_cannot_be_the_input(tmp_path: Path, capsys: Capture) -> None:
    small_container(tmp_path / "a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to("a")
    before = (tmp_path / "a").read_bytes()
    for name in ("a", "hard", "soft"):
        for command in ("export", "extract", "recover"):
            refused(here(capsys, command, tmp_path / "a", "-o", tmp_path / name), "same file")
    with (tmp_path / "a").open("rb") as file:
        refused(run("export", "-", "-o", tmp_path / "soft", stdin=file), "same file")
    with (tmp_path / "a").open("ab") as file:
        refused(run("export", tmp_path / "a", "-o", "-", stdout=file), "same file")
    assert (tmp_path / "a").read_bytes() == before
    assert listing(tmp_path) == ["a", "hard", "soft"]


@pytest.mark.parametrize("command", ["export", "extract", "recover"])
def test_where_nothing_can_be_written(command: str, bunny: Path, tmp_path: Path, capsys: Capture) -> None:
    source = BUNNY if command == "export" else bunny
    refused(here(capsys, command, source, "-o", tmp_path), "folder")
    refused(here(capsys, command, source, "-o", tmp_path / "none" / "o"), "No such file")
    refused(here(capsys, command, source, "-o", BUNNY / "o"), "Not a directory")
    refused(here(capsys, command, source, "-o", tmp_path / ("n" * 300)), "File name too long")
    assert listing(tmp_path) == []


def test_what_cannot_be_exported(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "before").write_bytes(b"before")
    for missing, words in ((tmp_path / "none", "No such file or directory"), (tmp_path, "it is a folder")):
        done = here(capsys, "export", missing, "-o", tmp_path / "before")
        assert done.err == f"error: cannot open {missing}: {words}\n"
    refused(here(capsys, "export", tmp_path, "-o", tmp_path / "before"), "folder")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(BUNNY.read_bytes()[:64] + random_bytes(5000))
    refused(here(capsys, "export", broken, "-o", tmp_path / "before"), "--raw")
    assert (tmp_path / "before").read_bytes() == b"before"
    assert listing(tmp_path) == ["before", "broken.mp4"]
    assert here(capsys, "export", "--raw", broken, "-o", tmp_path / "before").status == 0


NOBODY = """
import os, sys
from harmony4.server.exporting import ingest
from harmony4.server.cli import frame, main
with open(os.devnull, "w") as sys.stderr:
    main.main(["inspect", "none"])  # loads what is loaded late, from where nobody may read
    main.main(["export", "none", "-o", "none"])
sys.stderr = sys.__stderr__
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main.main(sys.argv[1:]))
"""


def test_permissions_as_somebody_else(tmp_path: Path) -> None:
    closed, hidden = tmp_path / "closed", tmp_path / "hidden.h4mk"
    closed.mkdir(mode=0o700)
    small_container(hidden)
    hidden.chmod(0o600)
    if os.getuid() != 0:  # without rights to give up, take them from the file instead
        hidden.chmod(0)
        closed.chmod(0o500)
    code = NOBODY if os.getuid() == 0 else NOBODY.replace("os.setgroups([]);", "0 and")

    def as_nobody(*arguments: object) -> Done:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=ROOM, check=False)
        return Done(done.returncode, done.stdout, done.stderr.decode())

    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if os.getuid() == 0:
            folder.chmod(0o755)
    refused(as_nobody("inspect", hidden), "Permission denied")
    refused(as_nobody("export", hidden, "-o", "/dev/null"), "Permission denied")
    refused(as_nobody("export", "/dev/null", "-o", closed / "o.h4mk"), "Permission denied")
    if os.getuid() != 0:
        closed.chmod(0o700)


# -- full disks, kills, changes


def limited(size: int) -> Any:
    """For `preexec_fn`: files cannot grow beyond `size` bytes, as if the disk were full."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@needs_rlimit
@pytest.mark.parametrize("command", ["export", "extract", "recover"])
def test_a_full_disk_leaves_nothing(command: str, bunny: Path, tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"before")
    source = BUNNY if command == "export" else bunny
    done = run(command, source, "-o", tmp_path / "before", preexec_fn=limited(500_000))
    refused(done, "File too large")
    assert (tmp_path / "before").read_bytes() == b"before"
    assert listing(tmp_path) == ["before"]


@needs_rlimit
def test_no_room_for_the_copy_of_a_stream(bunny: Path) -> None:
    refused(run("inspect", "-", stdin=bunny.read_bytes(), preexec_fn=limited(500_000)), "File too large")


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=600k", "none", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        disk = Path("/dev/full")  # no right to mount: the kernel's own full disk
        refused(run("export", BUNNY, "-o", disk), "No space left on device")
        return
    try:
        refused(run("export", BUNNY, "-o", disk / "o.h4mk"), "No space left on device")
        assert listing(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def fed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Feed a command that goes on waiting: when this returns, it has read all but a pipe's worth."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_export_leaves_nothing(number: int, status: int, tmp_path: Path) -> None:
    (tmp_path / "o.h4mk").write_bytes(b"before")
    with started("export", "--raw", "-", "-o", tmp_path / "o.h4mk") as process:
        fed(process, random_bytes(8 * MIB))
        assert len(listing(tmp_path)) == 2
        process.send_signal(number)
        process.wait(ROOM)
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (status, b"", b"")
    assert listing(tmp_path) == ["o.h4mk"]
    assert (tmp_path / "o.h4mk").read_bytes() == b"before"


def test_an_interrupt_ends_the_demuxer_too(tmp_path: Path) -> None:
    with started("export", "-", "-o", tmp_path / "o.h4mk", start_new_session=True) as process:
        fed(process, BUNNY.read_bytes()[:900_000])
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody gets it
        process.wait(ROOM)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (130, b"")
    assert listing(tmp_path) == []


def test_a_killed_export_leaves_the_target_and_what_can_be_recovered(tmp_path: Path) -> None:
    data = random_bytes(8 * MIB)
    (tmp_path / "o.h4mk").write_bytes(b"before")
    with started("export", "--raw", "-", "-o", tmp_path / "o.h4mk") as process:
        fed(process, data)
        process.kill()
        process.wait(ROOM)
    assert (tmp_path / "o.h4mk").read_bytes() == b"before"
    (part,) = tmp_path.glob(".o.h4mk.*.part")
    assert run("inspect", "--json", part).status == 0
    refused(run("extract", part, "-o", tmp_path / "m"), "--partial")
    partial = run("extract", part, "-o", tmp_path / "m", "--partial", "--json")
    assert (partial.status, json.loads(partial.out)["complete"]) == (3, False)
    recovered = run("recover", part, "-o", tmp_path / "r.h4mk", "--json")
    facts = json.loads(recovered.out)
    assert recovered.status == 3
    assert facts["lost"] == [{"track": 0, "first": facts["blocks"], "count": 0}]
    # A pipe's worth, a block on its way through each of two threads, a buffer: the rest is on the disk.
    assert 3 <= facts["blocks"] <= 8
    assert run("verify", "-q", tmp_path / "r.h4mk").status == 0
    kept = facts["blocks"] * MIB
    assert (tmp_path / "m").read_bytes() == data[:kept]
    assert run("extract", "--partial", tmp_path / "r.h4mk", "-o", tmp_path / "m2").status == 3
    assert (tmp_path / "m2").read_bytes() == data[:kept]


def test_a_source_that_grows_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "growing"
    source.write_bytes(random_bytes(4 * MIB))
    with started("export", "--raw", "-q", source, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(64)  # it runs, and now waits until somebody reads on
        with source.open("ab") as file:
            file.write(b"more")
        process.stdout.read()
        done = Done(process.wait(ROOM), b"", process.stderr.read().decode())
    refused(done, f"error: {source} changed while it was read (expected ")
    assert listing(tmp_path) == ["growing"]


# -- damage


def test_a_corrupt_block_stops_extract(tmp_path: Path, capsys: Capture) -> None:
    small_container(tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    at = whole.index(b"000007" * 50)
    (tmp_path / "a").write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    refused(here(capsys, "extract", tmp_path / "a", "-o", tmp_path / "o"), "CRC")
    assert listing(tmp_path) == ["a"]
    piped = run("extract", tmp_path / "a", "-o", "-")
    refused(piped, "CRC")
    assert piped.out == small_container(tmp_path / "b")[0][: len(piped.out)]  # nothing wrong was let out
    assert b"X" not in piped.out


def test_verify_lists_every_problem(tmp_path: Path, capsys: Capture) -> None:
    small_container(tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    for block in (b"000002" * 50, b"000007" * 50):
        data[data.index(block)] ^= 1
    (tmp_path / "a").write_bytes(data)
    done = here(capsys, "verify", "--json", tmp_path / "a")
    facts = json.loads(done.out)
    assert (done.status, facts["ok"], facts["state"]) == (3, False, "sealed")
    crc = [one for one in facts["problems"] if one["code"] == "checksum"]
    assert [one["message"] for one in crc] == ["chunk CORE fails its CRC"] * 2
    assert all(isinstance(one["where"], int) and one["expected"] and one["found"] for one in crc)
    assert "seal" in {one["code"] for one in facts["problems"]}
    shown = here(capsys, "verify", "-q", tmp_path / "a")
    assert shown.status == 3
    assert f"NOT sound: sealed, {len(facts['problems'])} problems" in shown.text
    assert shown.text.count("expected") >= 2
    assert "checked" in shown.text


@pytest.mark.parametrize("content", [b"", b"H4M", b"nothing of the kind", b"H4MK\0\0\0\2"])
def test_verify_of_what_is_no_container(content: bytes, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a").write_bytes(content)
    done = here(capsys, "verify", "--json", tmp_path / "a")
    facts = json.loads(done.out)
    assert (done.status, done.err, facts["ok"], facts["state"]) == (3, "", False, "unreadable")
    assert len(facts["problems"]) == 1


def test_verify_says_what_it_checked(bunny: Path, capsys: Capture) -> None:
    facts = json.loads(here(capsys, "verify", "--json", bunny).out)
    assert facts["ok"]
    assert {"CRC-32", "SHA-256", "SEEK", "VERI"} <= set(" ".join(facts["checks"]).replace(",", "").split())
    assert facts["signatures"] == {"found": 0, "checked": 0, "covered": 0, "accepted": []}
    assert "nothing is wrong" in here(capsys, "verify", bunny).text
    assert here(capsys, "verify", "-q", bunny) == Done(0, b"", "")


def test_recover_and_extract_say_what_is_lost(tmp_path: Path, capsys: Capture) -> None:
    streams = small_container(tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    data[data.index(b"000004" * 50)] ^= 1
    (tmp_path / "a").write_bytes(data)
    done = here(capsys, "recover", tmp_path / "a", "-o", tmp_path / "r")
    assert done.status == 3
    assert "lost: block 5 of track 0" in done.text
    assert here(capsys, "verify", "-q", tmp_path / "r") == Done(0, b"", "")
    assert "1 hole" in here(capsys, "verify", tmp_path / "r").text
    assert "lost is block 5 of track 0" in here(capsys, "inspect", tmp_path / "r").text
    refused(here(capsys, "extract", tmp_path / "r", "-o", tmp_path / "o"), "--partial")
    partial = here(capsys, "extract", "--partial", "--json", tmp_path / "r", "-o", tmp_path / "o")
    assert (partial.status, json.loads(partial.out)["missing"]) == (3, 300)
    expected = streams[0].replace(b"000004" * 50, bytes(300))
    assert (tmp_path / "o").read_bytes() == expected  # every other byte at its place
    assert here(capsys, "extract", "-t", "1", tmp_path / "r", "-o", tmp_path / "o").status == 0
    assert (tmp_path / "o").read_bytes() == streams[1]


def test_recover_of_a_sound_container_loses_nothing(bunny: Path, tmp_path: Path, capsys: Capture) -> None:
    done = here(capsys, "recover", bunny, "-o", tmp_path / "r")
    assert done.status == 0
    assert "nothing is lost" in done.text
    assert here(capsys, "extract", tmp_path / "r", "-o", tmp_path / "o").status == 0
    assert (tmp_path / "o").read_bytes() == BUNNY.read_bytes()


# -- progress


PATIENT = """
import sys
from harmony4.server.cli import main, progress
progress._PATIENCE = progress._INTERVAL = 0.0
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("command", "quiet"), [("export", False), ("verify", False), ("extract", False), ("export", True)]
)
def test_a_bar_on_a_terminal_and_only_there(command: str, quiet: bool, bunny: Path, tmp_path: Path) -> None:
    source = BUNNY if command == "export" else bunny
    arguments = [command, str(source), *(["-o", str(tmp_path / "o")] if command != "verify" else [])]
    arguments += ["--quiet"] if quiet else []

    def watched(stdout: Any) -> bytes:
        ours, theirs = os.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
        call = [sys.executable, "-c", PATIENT, *arguments]
        done = subprocess.run(call, stdout=stdout, stderr=theirs, env=environment, timeout=ROOM, check=False)
        os.write(theirs, b"|")  # so that there is something to read in any case
        shown = os.read(ours, 65536)
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0
        return shown

    with (tmp_path / "facts").open("wb") as file:
        shown = watched(file)
    assert (b"ing " + os.fsencode(source)[:20] in shown or b"verifying" in shown) is not quiet
    assert watched(subprocess.PIPE) == b"|"  # the program behind the pipe may write to this terminal
