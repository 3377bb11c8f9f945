"""The audit log: what is in it, and what is noticed when somebody changes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import here, refused, run
from harmony4.crypto.errors import HarmonyError, SealError, SourceError
from harmony4.server.audit import AuditLog, Head
from harmony4.server.state import FOLDER, State
from serving import running, write_container

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
