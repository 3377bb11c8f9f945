"""Commands and the audit log: what they note, where nobody leads them, and what waits for room."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from commands import HARMONY4, Done, here, refused, run, small_container
from harmony4.crypto.errors import StorageError
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.server.audit import AuditLog
from harmony4.server.cli import frame
from harmony4.server.cli.main import main
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import FOLDER, State
from processes import Served, needs_proc, served, until
from serving import running, write_container

Capture = pytest.CaptureFixture[str]
OWNER = os.geteuid() or 12345
"""Whose library it is: where root runs this, somebody else's."""
SUBTITLE = "1\n00:00:00,000 --> 00:00:01,000\nhello\n"
WAITING = "audit-waiting"


def entries(library: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (library / FOLDER / "audit.log").read_bytes().splitlines()]


def actions(library: Path) -> list[object]:
    return [row["action"] for row in entries(library)]


def give(*paths: Path) -> None:
    for path in paths:
        os.chown(path, OWNER, -1, follow_symlinks=False)


@pytest.fixture
def subtitle(tmp_path: Path) -> Path:
    path = tmp_path / "t.srt"
    path.write_text(SUBTITLE)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library with a server's folder, in which there is nothing yet."""
    root = tmp_path / "library"
    (root / "sub").mkdir(parents=True)
    (root / FOLDER / "locks").mkdir(parents=True)
    (root / FOLDER).chmod(0o700)
    give(root, root / "sub", root / FOLDER, root / FOLDER / "locks")
    return root


# -- nobody leads root somewhere else


@pytest.mark.parametrize(
    "trap", ["log", "hard log", "fifo log", "lock", "hard lock", "locks", "waiting", "dangling log"]
)
def test_what_is_put_there_by_others_is_left_alone(
    library: Path, subtitle: Path, tmp_path: Path, trap: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    secret = precious / "audit"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    state = library / FOLDER
    log, lock = state / "audit.log", state / "locks" / "audit"
    match trap:
        case "log":
            log.symlink_to(secret)
        case "dangling log":
            log.symlink_to(precious / "new")
        case "hard log":
            log.hardlink_to(secret)
        case "fifo log":
            os.mkfifo(log)
        case "lock":
            lock.symlink_to(secret)
        case "hard lock":
            lock.hardlink_to(secret)
        case "locks":
            lock.parent.rmdir()
            lock.parent.symlink_to(precious)
        case _:
            log.mkdir()
            (state / WAITING).symlink_to(precious)
    before = secret.stat()
    done = run("export", subtitle, "-o", library / "sub" / "x.h4mk")
    assert (library / "sub" / "x.h4mk").exists()
    assert "the audit log" in done.err, done.err
    assert done.status == (4 if trap == "waiting" else 0)
    after = secret.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert secret.read_bytes() == b"secret"
    assert [path.name for path in precious.iterdir()] == ["audit"]


def test_what_is_made_is_the_owners_and_nothing_else(library: Path, subtitle: Path) -> None:
    state = library / FOLDER
    (state / "locks").rmdir()
    assert run("export", subtitle, "-o", library / "sub" / "x.h4mk").status == 0
    assert actions(library) == ["export"]
    for path in (state / "locks", state / "locks" / "audit", state / "audit.log"):
        assert path.stat().st_uid == OWNER, path
    os.chown(state / "audit.log", os.geteuid(), -1)
    assert run("export", subtitle, "-o", library / "y.h4mk").status == 0
    assert actions(library) == ["export", "export"]
    assert (state / "audit.log").stat().st_uid == os.geteuid()  # it was there


def test_a_new_folder_is_the_owners(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    give(library)
    assert run("token", "add", "alice", "--library", library).status == 0
    made = [library / FOLDER, *(library / FOLDER).rglob("*")]
    assert {path.name for path in made} == {FOLDER, "locks", "tokens", "audit", "tokens.json", "audit.log"}
    assert {path.stat().st_uid for path in made} == {OWNER}


@pytest.mark.parametrize("whose", ["link", "everybody", "group", *(["somebody"] if OWNER == 12345 else [])])
def test_a_folder_that_may_be_a_trap_is_not_entered(library: Path, subtitle: Path, whose: str) -> None:
    state = library / FOLDER
    match whose:
        case "link":
            state.rename(library.parent / "elsewhere")
            state.symlink_to(library.parent / "elsewhere")
        case "everybody":
            state.chmod(0o777)
        case "group":
            state.chmod(0o770)
        case _:
            os.chown(state, 54321, -1)
    done = run("export", subtitle, "-o", library / "sub" / "x.h4mk")
    assert done.status == 0
    assert "no audit log was told" in done.err
    assert not (state / "audit.log").exists()
    assert list((state / "locks").iterdir()) == []


def test_a_trap_does_not_hide_the_library(library: Path, subtitle: Path) -> None:
    (library / "sub" / FOLDER).symlink_to(library.parent)
    assert run("export", subtitle, "-o", library / "sub" / "x.h4mk").status == 0
    assert actions(library) == ["export"]


def test_a_folder_that_changes_hands_meanwhile(library: Path) -> None:
    state = State.found(library)
    assert state is not None
    (library / FOLDER).chmod(0o777)
    with pytest.raises(StorageError, match="somebody else's"), state.locked("audit"):
        pytest.fail("entered")
    shutil.rmtree(library / FOLDER)
    with pytest.raises(StorageError), state.locked("audit"):
        pytest.fail("made it anew")
    assert State.found(library) is None


# -- every command


def test_split_fetch_and_bundle(library: Path, tmp_path: Path) -> None:
    small_container(tmp_path / "a.h4mk")
    (tmp_path / "b.h4mk").write_bytes((tmp_path / "a.h4mk").read_bytes())
    both = tmp_path / "both.h4mk"
    assert run("bundle", tmp_path / "a.h4mk", tmp_path / "b.h4mk", "-o", both).status == 0
    assert run("split", both, "-o", library / "sub").status == 0
    key = SigningKey.from_number(5)
    public = tmp_path / "public.pem"
    public.write_bytes(key.public.pem())
    sign_file(tmp_path / "a.h4mk", Signer(key, "talk", 1))
    shelf = tmp_path / "served"
    shelf.mkdir()
    shutil.copy(tmp_path / "a.h4mk", shelf)
    with running(shelf) as server:
        url = f"{server.url}/container?name=a.h4mk"
        fetch = ("fetch", url, "--container", "-o", library / "f.h4mk", "--trust", public)
        done = run(*fetch)
        assert done.status == 0, done.err
    assert [(row["action"], row["name"]) for row in entries(library)] == [
        ("split", "sub/00.h4mk"),
        ("split", "sub/01.h4mk"),
        ("fetch", "f.h4mk"),
    ]


# -- lines that cannot be written now


def waiting(library: Path) -> list[Path]:
    return sorted((library / FOLDER / WAITING).glob("*.json"))


def test_a_command_leaves_its_line(tmp_path: Path, subtitle: Path) -> None:
    library = tmp_path / "library"
    log = library / FOLDER / "audit.log"
    log.mkdir(parents=True)
    done = run("token", "add", "alice", "--library", library)
    assert done.status == 0
    assert done.err.count("the line waits beside it") == 1
    assert run("export", subtitle, "-o", library / "x.h4mk").status == 0
    assert len(waiting(library)) == 2
    with running(library) as server:
        assert b"\nharmony4_audit_lines_waiting 2.0\n" in server.get("/metrics").body
        log.rmdir()
    assert actions(library) == ["token-add", "export"]
    rows = entries(library)
    assert all(re.fullmatch("[0-9a-f]{32}", str(row["waited"])) for row in rows)
    assert rows[0]["time"] <= rows[1]["time"]  # type: ignore[operator]
    assert waiting(library) == []
    assert AuditLog(State(library / FOLDER)).verify().number == 2


def test_the_next_command_takes_it_in(tmp_path: Path, subtitle: Path) -> None:
    library = tmp_path / "library"
    log = library / FOLDER / "audit.log"
    log.mkdir(parents=True)
    assert run("export", subtitle, "-o", library / "x.h4mk").status == 0
    log.rmdir()
    told = AuditLog(State(library / FOLDER))
    log.touch()
    verified = run("audit", "verify", "--library", library)
    assert (verified.status, verified.err) == (0, "note: 1 line beside it, not added yet\n")
    assert told.left() == json.loads(run("audit", "verify", "-l", library, "--json").out)["waiting"] == 1
    assert run("export", subtitle, "-o", library / "y.h4mk").status == 0
    assert [row["name"] for row in entries(library)] == ["x.h4mk", "y.h4mk"]
    assert waiting(library) == []


def test_neither_the_log_nor_beside_it(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / FOLDER / "audit.log").mkdir(parents=True)
    (library / FOLDER / WAITING).touch()
    done = run("token", "add", "alice", "--library", library)
    assert done.status == 4
    assert "error: it is done, but the audit log does not know of it (token-add)" in done.err
    assert "alice" in run("token", "list", "--library", library).text
    assert done.text.strip()  # the token itself


def test_a_lock_that_somebody_holds(
    library: Path, subtitle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmony4.server.cli.noting.PATIENCE", 0.2)
    monkeypatch.setattr("harmony4.server.cli.tokens.PATIENCE", 0.2)

    def export(name: str) -> Done:
        return here(capsys, "export", subtitle, "-o", library / name, "--quiet")

    with State(library / FOLDER).locked("audit"):
        done = export("x.h4mk")
        assert done.status == 0
        assert done.err.count("\n") == 1
        assert "somebody else has held it" in done.err
    with State(library / FOLDER).locked("tokens"):
        refused(here(capsys, "token", "add", "a", "--library", library), "somebody else has held it")
    assert export("y.h4mk").err == ""
    assert [row["name"] for row in entries(library)] == ["x.h4mk", "y.h4mk"]


def test_a_line_is_taken_in_once(tmp_path: Path) -> None:
    """Whoever took it in died before the file was gone."""
    log = AuditLog(State(tmp_path / "state"))
    log.path.mkdir(parents=True)
    log.record("delete", name="a")
    log.leave()
    assert (log.waiting, log.left()) == (0, 1)
    (left,) = (tmp_path / "state" / WAITING).iterdir()
    data = left.read_bytes()
    log.path.rmdir()
    log.retry()
    assert not left.exists()
    log.record("delete", name="b")
    left.write_bytes(data)
    log.retry()
    assert not left.exists()
    rows = [json.loads(line)["name"] for line in log.path.read_bytes().splitlines()]
    assert rows == ["a", "b"]


@pytest.mark.parametrize("part", [0.0, 0.2, 0.34, 0.5, 0.67, 0.9, 0.999])
def test_a_part_of_what_waits_was_taken_in(tmp_path: Path, part: float) -> None:
    """Whoever took it in died in the midst of it: the rest follows, and nothing comes twice."""
    log = AuditLog(State(tmp_path / "state"))
    log.path.mkdir(parents=True)
    for name in "abc":
        log.record("delete", name=name)
    log.leave()
    (left,) = (tmp_path / "state" / WAITING).iterdir()
    data = left.read_bytes()
    log.path.rmdir()
    log.retry()
    os.truncate(log.path, int(log.path.stat().st_size * part))
    left.write_bytes(data)
    AuditLog(State(tmp_path / "state")).record("delete", name="d")
    assert not left.exists()
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [row["name"] for row in rows if row["action"] == "delete"] == ["a", "b", "c", "d"]
    assert log.verify().number == len(rows)


@pytest.mark.parametrize("age", [0, 100])
def test_whoever_left_a_line_died_too_soon(
    tmp_path: Path, age: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was written whole is not lost, and what was not does not stay."""
    state = State(tmp_path / "state")
    log = AuditLog(state)
    log.path.mkdir(parents=True)
    log.record("delete", name="a")
    log.leave()
    log.path.rmdir()
    (left,) = state.folder(WAITING).iterdir()
    whole = left.rename(left.with_name(f"{left.stem}.0123abcd.part"))
    torn = whole.with_name(f"{2:020}-1-{'0' * 32}.0123abcd.part")
    torn.write_bytes(whole.read_bytes()[:-9])
    for path in (whole, torn):
        at = path.stat().st_mtime - age
        os.utime(path, (at, at))
    log.retry()
    if not age:  # somebody may still be writing them
        assert whole.exists()
        assert torn.exists()
        return
    assert list(state.folder(WAITING).iterdir()) == []
    assert [json.loads(line)["name"] for line in log.path.read_bytes().splitlines()] == ["a"]
    assert caplog.text.count("were to wait for the audit log are lost") == 1


def test_a_line_is_left_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not both, where the disk does not say that the file is there."""

    def fails(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    log = AuditLog(State(tmp_path / "state"))
    log.path.mkdir(parents=True)
    log.record("delete", name="a")
    monkeypatch.setattr("harmony4.server.openfolder.sync_folder", fails)
    with pytest.raises(StorageError):
        log.leave()
    assert (log.waiting, log.left()) == (1, 0)
    assert list((tmp_path / "state" / WAITING).iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_interrupted_while_it_waits(library: Path, subtitle: Path, number: int) -> None:
    """What it did is done, and is told."""
    path = library / "x.h4mk"
    with State(library / FOLDER).locked("audit"):
        command = [HARMONY4, "export", subtitle, "-o", path, "--quiet"]
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # in the background shells ignore it
        try:
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
        finally:
            signal.signal(signal.SIGINT, before)
        until(path.exists, "the container")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"Traceback" not in err
    assert len(waiting(library)) == 1
    AuditLog(State(library / FOLDER)).retry()
    assert [row["name"] for row in entries(library)] == ["x.h4mk"]


def interrupted(argv: list[object], number: signal.Signals, stop: int = -1) -> tuple[int, int]:
    """Run a command in this process; interrupt it at its call `stop` of a function after its file is there.

    Returns its status, and how many such calls there were.
    """
    calls, done = 0, False

    def look(which: FrameType, event: str, argument: object) -> None:
        nonlocal calls, done
        if event == "call" and done:
            if calls == stop:
                os.kill(os.getpid(), number)
            calls += 1
        elif event == "c_return" and argument in (os.replace, os.rename):
            done = True
        elif event == "return" and which.f_code is frame.run.__code__:  # the command is over
            done = False

    sys.setprofile(look)
    try:
        return main([str(word) for word in argv]), calls
    finally:
        sys.setprofile(None)


# In a `__del__` Python swallows it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["export", "token-add", "token-revoke"])
def test_a_command_is_interrupted_anywhere(
    library: Path, subtitle: Path, capsys: Capture, number: signal.Signals, what: str
) -> None:
    """From the moment when its file is there: at calls of functions that are made then. One line is told."""
    log, tokens = AuditLog(State(library / FOLDER)), TokenFile(State(library / FOLDER))

    def argv() -> list[object]:
        if what == "export":
            return ["export", subtitle, "-o", library / f"{len(statuses)}.h4mk", "--quiet"]
        if what == "token-add":
            return ["token", "add", len(statuses), "--library", library]
        token, _ = new_token("somebody", ("read",), 0, None)
        tokens.add(token)
        return ["token", "revoke", token.id, "--library", library]

    statuses: list[int] = []
    calls = 0
    for _ in range(2):  # the first one imports what is imported once
        status, calls = interrupted(argv(), number)
        statuses.append(status)
    assert calls > 50
    for stop in range(0, calls, 1 + calls // 80):
        statuses.append(interrupted(argv(), number, stop)[0])
        log.retry()  # what waits is no part of what the next one does
        assert actions(library) == [what] * len(statuses), stop
    assert set(statuses) == {0, 128 + number}
    assert "Traceback" not in capsys.readouterr().err


def test_a_disk_that_fails_behind_the_work(
    library: Path, subtitle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container is there, and told, whatever the disk says of its folder."""

    def fails(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("harmony4.h4mk.edits.target.sync_folder", fails)
    refused(here(capsys, "export", subtitle, "-o", library / "x.h4mk"), "Input/output error")
    assert (library / "x.h4mk").exists()
    assert [row["name"] for row in entries(library)] == ["x.h4mk"]


def test_a_server_does_not_wait_without_end(tmp_path: Path) -> None:
    """Somebody who has the log and was stopped holds up no request, nor the server's end."""
    library = tmp_path / "library"
    for name in "ab":
        write_container(library / f"{name}.h4mk", [b"x"])
    with State(library / FOLDER).locked("audit"):
        with running(library) as server:
            for name in "ab":
                assert server.request("DELETE", f"/media?name={name}.h4mk", (), b"").status == 200
        assert len(waiting(library)) == 1
    AuditLog(State(library / FOLDER)).retry()
    assert [row["name"] for row in entries(library)] == ["a.h4mk", "b.h4mk"]


def test_a_folder_that_cannot_be_looked_at(
    tmp_path: Path, subtitle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command did what it was asked to."""
    monkeypatch.setenv("HARMONY4_LIBRARY", str(tmp_path))
    monkeypatch.setenv("HARMONY4_STATE", str(tmp_path / ("x" * 300)))
    done = here(capsys, "export", subtitle, "-o", tmp_path / "x.h4mk", "--quiet")
    assert (done.status, done.err) == (0, "")


def test_a_last_line_that_somebody_wrote_over(tmp_path: Path) -> None:
    library = tmp_path / "library"
    log = library / FOLDER / "audit.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"n": 1e999}\n')
    done = run("token", "add", "alice", "--library", library)
    assert done.status == 0
    assert "the line waits beside it" in done.err
    assert len(waiting(library)) == 1


def test_many_lines_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmony4.server.audit._MOST_LATE", 3)
    monkeypatch.setattr("harmony4.server.audit._MOST_TOGETHER", 2)
    log = AuditLog(State(tmp_path / "state"))
    log.path.mkdir(parents=True)
    for name in ("a", "b" * 70_000, "c", "d", "e"):
        log.record("delete", name=name)
    log.close()
    assert (log.waiting, log.left()) == (0, 4)
    log.path.rmdir()
    other = AuditLog(State(tmp_path / "state"))
    other.record("delete", name="f")
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [(row.get("name"), row["action"]) for row in rows] == [
        ("a", "delete"),
        (None, "delete"),
        ("c", "delete"),
        (None, "lost"),
        ("f", "delete"),
    ]
    assert rows[1]["cut"] > 70_000
    assert rows[3]["changes"] == 2
    assert log.verify().number == 5


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[1]", '[{"time": "", "action": "", "by": "", "n": 1}]', "[" * 10_000]
)
def test_what_is_no_line_is_not_taken_in(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    state = State(tmp_path / "state")
    path = state.folder(WAITING) / f"{1:020}-1-{'0' * 32}.json"
    path.write_text(text)
    log = AuditLog(state)
    log.record("delete", name="a")
    assert "cannot be read" in caplog.text
    assert path.read_text() == text
    assert log.verify().number == 1


@contextmanager
def reloaded(library: Path, file: Path, *in_the_way: Path) -> Iterator[Served]:
    """A server with two workers that has read new settings, and could not say so."""
    file.write_text("[server]\nworkers = 2\n")
    with served(library, "--config", file) as server:
        for path in in_the_way:
            path.mkdir() if path.name == "audit.log" else path.touch()
        file.write_text("[server]\nworkers = 2\nquota = 1000000\n")
        server.process.send_signal(signal.SIGHUP)
        until(
            lambda: b"\nharmony4_audit_lines_waiting 1.0\n" in server.get("/metrics")[1], "a line that waits"
        )
        yield server


@needs_proc
def test_new_settings_are_noted_later(tmp_path: Path) -> None:
    library = tmp_path / "library"
    write_container(library / "a.h4mk", [b"x"])
    state = library / FOLDER
    state.mkdir()
    with reloaded(library, tmp_path / "h.toml", state / "audit.log") as server:
        assert len(waiting(library)) == 1
        (state / "audit.log").rmdir()
        server.stop()  # workers take in what waits
        assert actions(library) == ["settings"]
    assert waiting(library) == []


@needs_proc
def test_new_settings_are_noted_later_without_room_for_anything(tmp_path: Path) -> None:
    library = tmp_path / "library"
    write_container(library / "a.h4mk", [b"x"])
    state = library / FOLDER
    state.mkdir()
    with reloaded(library, tmp_path / "h.toml", state / "audit.log", state / WAITING) as server:
        (state / WAITING).unlink()
        (state / "audit.log").rmdir()
        until((state / "audit.log").exists, "the line", 60)
        assert actions(library) == ["settings"]
        until(
            lambda: b"\nharmony4_audit_lines_waiting 0.0\n" in server.get("/metrics")[1],
            "nothing that waits",
        )
