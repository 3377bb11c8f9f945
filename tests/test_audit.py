"""The audit log: what is in it, and what is noticed when somebody changes it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from commands import here, refused, run
from harmony4.crypto.errors import HarmonyError, SealError, SourceError
from harmony4.server.audit import AuditLog, Head
from harmony4.server.folder.library import Library
from harmony4.server.intake.shelf import Shelf
from harmony4.server.intake.uploads import Uploads
from harmony4.server.keys import DESK
from harmony4.server.state import FOLDER, State
from masking import ONE, TWO, keyring
from processes import needs_proc, served, until
from serving import running, write_container
from test_export_http import status_of, uploading

Capture = pytest.CaptureFixture[str]


def entries(library: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (library / FOLDER / "audit.log").read_bytes().splitlines()]


def told(path: Path, *, count: int = 5) -> AuditLog:
    log = AuditLog(State(path))
    for number in range(count):
        log.record("delete", name=f"film {number}.h4mk")
    return log


def test_every_change_is_a_line(tmp_path: Path, capsys: Capture) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 100])
    done = run("token", "add", "alice", "--scope", "admin", "--library", tmp_path)
    token = {"Authorization": f"Bearer {done.text.split()[-1]}"}
    with running(tmp_path, auth=True) as server:
        assert server.request("POST", "/media/rename?name=a.h4mk&to=b.h4mk", token, b"").status == 200
        gone = server.request("DELETE", "/media?name=b.h4mk", token).json
        assert server.request("POST", f"/media/restore?id={gone['id']}", token, b"").status == 200
        gone = server.request("DELETE", "/media?name=b.h4mk", token).json
        assert server.request("DELETE", f"/media/trash?id={gone['id']}", token).status == 204
        made = server.request("POST", "/video/export?name=c.h4mk&raw=1", token, b"opaque bytes")
        assert made.status == 201, made
        # What is refused changes nothing.
        assert server.request("DELETE", "/media?name=none.h4mk", token).status == 404
        assert server.request("DELETE", "/media?name=c.h4mk").status == 401
    found = entries(tmp_path)
    actions = [one["action"] for one in found]
    assert actions == ["token-add", "rename", "delete", "restore", "delete", "purge", "export"]
    number = found[0]["id"]
    assert str(found[0]["by"]).startswith("user ")
    assert {one["by"] for one in found[1:]} == {f"token {number}"}
    assert (found[1]["name"], found[1]["to"], found[6]["name"]) == ("a.h4mk", "b.h4mk", "c.h4mk")
    here(capsys, "sign-url", "/video/range?name=c.h4mk", "--library", tmp_path)
    run("token", "revoke", number, "--library", tmp_path)
    found = entries(tmp_path)
    assert [one["action"] for one in found[7:]] == ["sign-url", "token-revoke"]
    text = (tmp_path / FOLDER / "audit.log").read_text()
    assert "sig=" not in text
    assert token["Authorization"][7:] not in text
    verified = json.loads(here(capsys, "audit", "verify", "--library", tmp_path, "--json").out)
    assert verified["lines"] == 9
    assert verified["head"].startswith("9:")


def test_who_nobody_in_particular_is(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server:
        assert server.request("DELETE", "/media?name=a.h4mk").status == 200
    assert [one["by"] for one in entries(tmp_path)] == ["address 127.0.0.1"]


@pytest.mark.parametrize("line", range(5))
def test_a_change_is_noticed(tmp_path: Path, line: int) -> None:
    log = told(tmp_path / "state")
    whole = log.path.read_bytes()
    head = log.verify()
    assert head.number == 5
    lines = whole.splitlines(keepends=True)
    changed = [*lines[:line], lines[line].replace(b"film", b"Film"), *lines[line + 1 :]]
    without = [*lines[:line], *lines[line + 1 :]]
    twice = [*lines[: line + 1], *lines[line:]]
    for tampered in (changed, without, twice, [*lines[:line], b"{}\n", *lines[line:]]):
        log.path.write_bytes(b"".join(tampered))
        with pytest.raises(SealError):
            log.verify(head)
    log.path.write_bytes(whole)
    assert log.verify(head) == head


def test_an_end_that_was_cut_off_needs_a_head(tmp_path: Path) -> None:
    log = told(tmp_path / "state")
    head = log.verify()
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:3]))
    assert log.verify().number == 3  # by itself it holds together
    with pytest.raises(SealError, match="missing at the end"):
        log.verify(head)
    log.path.unlink()
    told(tmp_path / "state")  # written anew, at other times
    lines = log.path.read_bytes().replace(b"film", b"Film").splitlines(keepends=True)
    assert len(lines) == 5
    with pytest.raises(SealError, match="not the one that was noted"):
        log.verify(Head(5, "0" * 64))


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_a_crash_cut_short(tmp_path: Path, cut: int) -> None:
    log = told(tmp_path / "state")
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-cut])
    with pytest.raises(SealError, match="line 5"):
        log.verify()
    log.record("delete", name="after.h4mk")
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [row["action"] for row in rows[4:]] == ["repaired", "delete"]
    assert rows[4]["lost"].startswith('{"n": 5')
    assert log.verify().number == 6


_TORN = """
import resource, sys
from pathlib import Path
from harmony4.server.audit import AuditLog
from harmony4.server.state import State
log = AuditLog(State(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size, resource.RLIM_INFINITY))
log.record("delete", name="late")
assert log.waiting == 2, log.waiting
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.retry()
assert log.waiting == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
def test_a_line_cut_short_before_the_disk_was_full(tmp_path: Path) -> None:
    log = told(tmp_path / "state")
    log.path.write_bytes(log.path.read_bytes()[:-20])
    command = [sys.executable, "-c", _TORN, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [row["action"] for row in rows[4:]] == ["repaired", "delete"]
    assert log.verify().number == 6


def test_a_long_line_before_one_that_was_cut_short(tmp_path: Path) -> None:
    log = AuditLog(State(tmp_path / "state"))
    for letter in "ab":
        log.record("delete", name=letter * 40_000)
    log.path.write_bytes(log.path.read_bytes()[:-5])
    log.record("delete", name="after")
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [row["action"] for row in rows] == ["delete", "repaired", "delete"]
    assert log.verify().number == 3


def test_lines_that_wait_are_seen_and_written_at_the_end(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server:
        path = tmp_path / FOLDER / "audit.log"
        path.parent.mkdir(exist_ok=True)
        path.mkdir()
        assert server.request("DELETE", "/media?name=a.h4mk", (), b"").status in (200, 204)
        assert b"\nharmony4_audit_lines_waiting 1.0\n" in server.get("/metrics").body
        path.rmdir()
    assert [row["action"] for row in entries(tmp_path)] == ["delete"]


def test_what_is_no_log(tmp_path: Path) -> None:
    log = AuditLog(State(tmp_path / "state"))
    with pytest.raises(SourceError):
        log.verify()
    log.record("delete", name="a\n\x00é.h4mk")
    assert log.verify().number == 1
    for text in (b"\n", b"[" * 60_000 + b"\n", b"[]\n", b"x" * 2**20, b'{"n": true}\n'):
        log.path.write_bytes(text)
        with pytest.raises(HarmonyError):
            log.verify()


def test_many_lines_stay_a_chain(tmp_path: Path) -> None:
    log = told(tmp_path / "state", count=3)
    log.record("delete", name="x" * 20_000)
    log.record("delete", name="y")
    assert log.verify().number == 5


def test_a_log_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(State(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    log.path.mkdir()
    log.record("delete", name="a")
    assert "the audit log cannot be written (delete)" in caplog.text


def test_the_command_says_where_it_breaks(tmp_path: Path, capsys: Capture) -> None:
    log = told(tmp_path / FOLDER)
    head = log.verify()
    told_head = f"{head.number}:{head.digest}"
    assert told_head in here(capsys, "audit", "verify", "-l", tmp_path, "--head", told_head).text
    refused(here(capsys, "audit", "verify", "-l", tmp_path, "--head", "5:abc"), "N:HASH")
    log.path.write_bytes(log.path.read_bytes().replace(b"film 2", b"film 7"))
    refused(here(capsys, "audit", "verify", "-l", tmp_path), "line 4")


def test_who_verifies_waits_for_who_writes(tmp_path: Path) -> None:
    log = told(tmp_path / "state")
    whole = log.path.read_bytes()
    with ThreadPoolExecutor() as threads:
        with State(tmp_path / "state").locked("audit"):
            log.path.write_bytes(whole[:-20])
            verified = threads.submit(log.verify)
            assert not wait([verified], 0.5).done
            log.path.write_bytes(whole)
        assert verified.result(30).number == 5


def test_what_comes_later_is_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = told(tmp_path / "state")
    settled = State.settled

    @contextmanager
    def then_more(self: State, name: str, patience: float) -> Iterator[None]:
        with settled(self, name, patience):
            yield
        with log.path.open("ab") as file:
            file.write(b'{"n": 6, ')  # somebody writes again, as soon as the size is known

    monkeypatch.setattr(State, "settled", then_more)
    assert log.verify().number == 5


def test_a_log_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy with nothing beside it that only can be read, and a lock that nobody ever lets go."""
    log = told(tmp_path / "state")
    copy = AuditLog(State(tmp_path / "copy"))
    copy.path.parent.mkdir()
    copy.path.write_bytes(log.path.read_bytes())
    copy.path.parent.chmod(0o500)
    assert copy.verify() == log.verify()
    assert [path.name for path in copy.path.parent.iterdir()] == ["audit.log"]
    monkeypatch.setattr("harmony4.server.audit._PATIENCE", 0.1)
    with State(tmp_path / "state").locked("audit"):
        assert log.verify().number == 5


def test_a_log_that_is_none(tmp_path: Path) -> None:
    """A pipe that nobody writes to is not waited for."""
    log = AuditLog(State(tmp_path / "state"))
    log.path.parent.mkdir()
    os.mkfifo(log.path)
    with pytest.raises(SourceError, match="no regular file"):
        log.verify()


# -- what else is a change


def test_what_expires_and_what_is_given_up(tmp_path: Path) -> None:
    state = State(tmp_path / "library" / FOLDER)
    write_container(tmp_path / "library" / "a.h4mk", [b"x"])
    log = AuditLog(state)
    shelf = Shelf(Library(tmp_path / "library"), state, log)
    number = shelf.delete("a.h4mk").id
    shelf.sweep(-1)
    uploads = Uploads(state, 1000, log)
    for _ in range(2):
        held = uploads.create(10, None, None)
        held.data.write_bytes(b"1234")
        held.release()
    first, second = sorted(path.stem for path in held.data.parent.glob("*.data"))
    taken = uploads.take(first)
    assert taken is not None
    uploads.give_up(taken)
    taken.release()
    os.utime(held.data.with_name(f"{second}.data"), (0, 0))
    uploads.sweep()
    rows = [
        {key: row[key] for key in row if key in ("action", "by", "name", "id", "bytes")}
        for row in entries(tmp_path / "library")
    ]
    assert rows == [
        {"action": "delete", "by": "server", "name": "a.h4mk", "id": number},
        {"action": "expire", "by": "server", "name": "a.h4mk", "id": number},
        {"action": "upload-cancel", "by": "server", "id": first, "bytes": 4},
        {"action": "upload-expire", "by": "server", "id": second, "bytes": 4},
    ]
    assert log.verify().number == 4


def test_over_http_too(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    keys = keyring(tmp_path / "keys", films=ONE)
    tus = {"Tus-Resumable": "1.0.0"}
    with running(library, keyring=keys) as server:
        made = server.request("POST", "/video/export?name=a.h4mk&raw=1&mask=films", (), b"opaque")
        assert made.status == 201, made
        name = base64.b64encode(b"b.h4mk").decode()
        begun = server.request(
            "POST", "/uploads/", tus | {"Upload-Length": "10", "Upload-Metadata": f"name {name}"}, b""
        )
        assert begun.status == 201
        assert server.request("DELETE", begun.headers["Location"], tus).status == 204
    found = entries(library)
    assert [row["action"] for row in found] == ["key-add", "export", "upload-cancel"]
    assert (found[0]["name"], found[0]["key"]) == ("films", ONE.id.hex())
    assert found[1]["masked"] == ["films"]
    assert found[2]["by"] == "address 127.0.0.1"
    (keys / "films.key").unlink()
    with running(library, keyring=keys) as server:  # what happened while no server ran
        until(lambda: len(entries(library)) == 4, "the key's end in the log")
    assert entries(library)[3]["action"] == "key-remove"


def test_an_export_is_cancelled_once(tmp_path: Path) -> None:
    """However often somebody asks for it; and where it is too late, it was exported."""
    with running(tmp_path) as server, uploading(server) as connection:
        (job,) = server.get("/jobs").json["jobs"]
        desk = server.app[DESK]
        with pytest.MonkeyPatch.context() as patch:  # another worker has it, which looks now and then
            patch.setattr(desk, "cancel", lambda number: None)
            patch.setattr(desk, "_unwanted", lambda running: [])
            for _ in range(3):
                assert server.request("DELETE", f"/jobs/{job['id']}").status == 202
        assert status_of(connection) == 409
        until(lambda: server.get(f"/jobs/{job['id']}").json["state"] == "cancelled", "it is cancelled")
        until(lambda: (tmp_path / FOLDER / "audit.log").exists(), "the line")
        assert server.request("DELETE", f"/jobs/{job['id']}").status == 200
    assert [(row["action"], row["by"], row["id"]) for row in entries(tmp_path)] == [
        ("export-cancel", "address 127.0.0.1", job["id"])
    ]


def test_it_is_too_late_to_cancel(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        desk = server.app[DESK]
        put = desk.shelf.put

        def cancelled_meanwhile(*arguments: Any, **more: Any) -> None:
            (job,) = desk.jobs.active()
            for _ in range(2):
                assert server.request("DELETE", f"/jobs/{job['id']}").status == 202
            put(*arguments, **more)

        desk.shelf.put = cancelled_meanwhile
        assert server.request("POST", "/video/export?name=a.h4mk&raw=1", (), b"opaque").status == 201
    assert [row["action"] for row in entries(tmp_path)] == ["export"]


@needs_proc
def test_settings_that_are_read_anew(tmp_path: Path) -> None:
    library = tmp_path / "library"
    write_container(library / "a.h4mk", [b"x"])
    assert run("token", "add", "alice", "--library", library).status == 0
    file = tmp_path / "harmony4.toml"
    file.write_text("[server]\npublic_read = true\nworkers = 2\n")
    keys = keyring(tmp_path / "keys", films=ONE)
    with served(library, "--config", file, "--keyring", keys) as server:
        file.write_text("[server]\nauth = true\nquota = 1000\nworkers = 2\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: entries(library)[-1]["action"] == "settings", "the line of the settings")
    rows = entries(library)
    # Both workers look at the keyring, and one of them says it.
    assert [row["action"] for row in rows] == ["token-add", "key-add", "settings"]
    assert rows[-1]["changed"] == {
        "auth": [False, True],
        "public_read": [True, False],
        "quota": [0, 1000],
    }


def test_commands_that_work_on_a_library(tmp_path: Path) -> None:
    library = tmp_path / "library"
    write_container(library / "films" / "a.h4mk", [b"x" * 100, b"y"])
    assert run("token", "add", "alice", "--library", library).status == 0
    key, masters = tmp_path / "sign.pem", keyring(tmp_path / "keys", one=ONE, two=TWO)
    assert run("keygen", "--signing", "-o", key).status == 0
    for command in (
        ("sign", library / "films" / "a.h4mk", "--key", key),
        ("sign", library / "films" / "a.h4mk", "--key", key),  # has it already
        ("mask", library / "films" / "a.h4mk", "--key-file", masters / "one.key", "-o", library / "m.h4mk"),
        (
            *("rekey", library / "m.h4mk", "--key-file", masters / "one.key"),
            *("--add", masters / "two.key", "-o", library / "m.h4mk"),
        ),
        ("unmask", library / "m.h4mk", "--key-file", masters / "two.key", "-o", tmp_path / "elsewhere.h4mk"),
    ):
        done = run(*command)
        assert done.status == 0, (command, done.err)
    rows = entries(library)
    assert [(row["action"], row.get("name")) for row in rows[1:]] == [
        ("sign", "films/a.h4mk"),
        ("mask", "m.h4mk"),
        ("rekey", "m.h4mk"),
    ]
    assert str(rows[1]["by"]).startswith("user ")
    assert AuditLog(State(library / FOLDER)).verify().number == 4


# -- many at once, and no room

_WRITER = """
import sys
from pathlib import Path
from harmony4.server.audit import AuditLog
from harmony4.server.state import State
log = AuditLog(State(Path(sys.argv[1])))
for number in range(50):
    log.record("delete", name=f"{sys.argv[2]} {number}")
"""


def test_processes_and_threads_append_to_one_chain(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    log = AuditLog(State(folder))
    command = [sys.executable, "-c", _WRITER, str(folder)]
    processes = [subprocess.Popen([*command, f"process {number}"]) for number in range(4)]
    threads = [
        threading.Thread(target=lambda: [log.record("delete", name="thread") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0] * 4
    assert log.verify().number == 400
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    for number in range(4):  # each in its order
        mine = [row["name"] for row in rows if row["name"].startswith(f"process {number} ")]
        assert mine == [f"process {number} {n}" for n in range(50)]


_NO_ROOM = """
import resource, sys
from pathlib import Path
from harmony4.server.audit import AuditLog
from harmony4.server.state import State
log = AuditLog(State(Path(sys.argv[1])))
log.record("delete", name="first")
room = log.path.stat().st_size + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
for number in range(3):
    log.record("delete", name=f"late {number}")
assert log.verify().number == 1, "a line that is not whole stayed"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
(log.retry if sys.argv[3] == "retry" else lambda: log.record("delete", name="last"))()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
@pytest.mark.parametrize("room", [0, 1, 100])
@pytest.mark.parametrize("how", ["retry", "record"])
def test_no_room_loses_nothing(tmp_path: Path, room: int, how: str) -> None:
    """A limit on the file's size stands for the disk's: write() takes a part, and then fails."""
    command = [sys.executable, "-c", _NO_ROOM, str(tmp_path / "state"), str(room), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the audit log cannot be written (delete)") == 3
    log = AuditLog(State(tmp_path / "state"))
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    names = ["first", "late 0", "late 1", "late 2", *(["last"] if how == "record" else [])]
    assert [row["name"] for row in rows] == names
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert log.verify().number == len(names)


def test_how_many_lines_can_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmony4.server.audit._MOST_LATE", 2)
    log = AuditLog(State(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    log.path.mkdir()
    for number in range(5):
        log.record("delete", name=str(number))
    log.path.rmdir()
    log.retry()
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [(row["action"], row.get("changes")) for row in rows] == [
        ("delete", None),
        ("delete", None),
        ("lost", 3),
    ]
    assert log.verify().number == 3


def test_a_line_that_would_be_too_long(tmp_path: Path) -> None:
    log = AuditLog(State(tmp_path / "state"))
    log.record("settings", changed={"allowed_hosts": ["x" * 70_000]})
    log.record("delete", name="a")
    rows = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert rows[0]["cut"] > 70_000
    assert log.verify().number == 2
