"""`DELETE /media` and the rest of what changes a library over HTTP, and `/events`, which tells of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from harmony4.server.folder.library import Library
from harmony4.server.folder.listing import Entry, scan
from harmony4.server.intake import events
from harmony4.server.intake.jobs import Jobs
from harmony4.server.keys import EVENTS
from harmony4.server.state import FOLDER, State
from processes import needs_proc, until
from serving import LOOPS, Server, running, write_container

LARGE = b"GET /video/range?name=large.h4mk HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
UPLOAD = b"POST /video/export?name=new.h4mk&raw=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na"


@pytest.fixture(params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    write_container(tmp_path / "a.h4mk", [b"a"])
    write_container(tmp_path / "talks" / "day one.h4mk", [b"b"])
    with running(tmp_path, loop=request.param) as found:
        yield found


def names(server: Server) -> list[str]:
    return [one["name"] for one in server.get("/media").json["items"]]


def test_deleted_and_restored(server: Server, tmp_path: Path) -> None:
    before, status = (tmp_path / "a.h4mk").read_bytes(), (tmp_path / "a.h4mk").stat()
    assert server.get("/video/range?name=a.h4mk").body == b"a"
    answer = server.request("DELETE", "/media?name=a.h4mk")
    assert (answer.status, answer.json["name"], answer.json["size"]) == (200, "a.h4mk", len(before))
    assert names(server) == ["talks/day one.h4mk"]
    assert server.get("/video/range?name=a.h4mk").status == 404
    assert [one["id"] for one in server.get("/media/trash").json["items"]] == [answer.json["id"]]
    again = server.request("POST", f"/media/restore?id={answer.json['id']}")
    assert (again.status, again.json, again.headers["Location"]) == (
        200,
        {"name": "a.h4mk"},
        "/video/info?name=a.h4mk",
    )
    assert (tmp_path / "a.h4mk").read_bytes() == before
    assert (tmp_path / "a.h4mk").stat().st_mtime_ns == status.st_mtime_ns
    assert server.get("/media/trash").json == {"items": []}
    assert server.request("POST", f"/media/restore?id={answer.json['id']}").status == 404


def test_who_reads_reads_on(server: Server, tmp_path: Path) -> None:
    write_container(tmp_path / "large.h4mk", [bytes([n]) * 2**20 for n in range(30)])
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(LARGE)
        first = connection.recv(1000)
        assert server.request("DELETE", "/media?name=large.h4mk").status == 200
        size = len(first)
        while piece := connection.recv(2**20):
            size += len(piece)
    assert size > 30 * 2**20


def test_purged(server: Server) -> None:
    number = server.request("DELETE", "/media?name=a.h4mk").json["id"]
    assert server.request("DELETE", f"/media/trash?id={number}").status == 204
    assert server.request("DELETE", f"/media/trash?id={number}").status == 404
    assert server.get("/media/trash").json == {"items": []}


def test_renamed(server: Server, tmp_path: Path) -> None:
    answer = server.request("POST", "/media/rename?name=a.h4mk&to=new/%C3%98.h4mk")
    assert (answer.status, answer.headers["Location"]) == (200, "/video/info?name=new/%C3%98.h4mk")
    assert names(server) == ["new/Ø.h4mk", "talks/day one.h4mk"]
    taken = server.request("POST", "/media/rename?name=new/%C3%98.h4mk&to=talks/day%20one.h4mk")
    assert (taken.status, taken.problem) == (409, "exists")
    assert names(server) == ["new/Ø.h4mk", "talks/day one.h4mk"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("DELETE", "/media", 400),
        ("DELETE", "/media?name=", 400),
        ("DELETE", "/media?name=b.h4mk", 404),
        ("DELETE", "/media?name=talks", 404),
        ("DELETE", "/media?name=../a.h4mk", 404),
        ("DELETE", "/media?name=a.h4mk%00", 404),
        ("DELETE", "/media?name=.harmony4/trash/x.h4mk", 404),
        ("POST", "/media/rename?name=a.h4mk", 400),
        ("POST", "/media/rename?name=a.h4mk&to=../b.h4mk", 400),
        ("POST", "/media/rename?name=a.h4mk&to=b.mp4", 400),
        ("POST", "/media/rename?name=a.h4mk&to=a.h4mk/b.h4mk", 400),
        ("POST", "/media/rename?name=b.h4mk&to=c.h4mk", 404),
        ("POST", "/media/restore", 400),
        ("POST", "/media/restore?id=../../a", 404),
        ("DELETE", "/media/trash?id=0000000000000000", 404),
        ("DELETE", "/media/trash", 400),
    ],
)
def test_refused(server: Server, tmp_path: Path, method: str, target: str, status: int) -> None:
    answer = server.request(method, target)
    assert answer.status == status, answer
    assert answer.problem
    assert names(server) == ["a.h4mk", "talks/day one.h4mk"]


def test_only_if_it_is_still_the_same(server: Server) -> None:
    etag = server.get("/video/range?name=a.h4mk").headers["ETag"]
    assert server.request("DELETE", "/media?name=a.h4mk", {"If-Match": '"x"'}).status == 412
    assert server.request("DELETE", "/media?name=a.h4mk", {"If-Match": etag}).status == 200


@needs_proc
def test_who_waits_for_a_change_keeps_nobody_else(server: Server, tmp_path: Path) -> None:
    """Another process is at a change: as many as there are wait for it, and containers are still opened."""
    for number in range(40):
        write_container(tmp_path / f"{number}.h4mk", [b"x"])
    lock = tmp_path / FOLDER / "locks" / "library"

    def waiting() -> int:
        open_files = (Path(os.path.realpath(one)) for one in Path("/proc/self/fd").iterdir())
        return sum(path == lock for path in open_files) - 1

    with ThreadPoolExecutor(40) as threads:
        with State(tmp_path / FOLDER).locked("library"):
            asked = [
                threads.submit(server.request, "DELETE", f"/media?name={number}.h4mk") for number in range(40)
            ]
            until(lambda: waiting() >= 4, "they wait")
            assert server.get("/video/info?name=talks/day%20one.h4mk").status == 200
            assert not any(one.done() for one in asked)
        assert [one.result(30).status for one in asked] == [200] * 40


def test_a_state_that_is_no_hidden_folder(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"a"])
    write_container(tmp_path / "b.h4mk", [b"b"])
    with running(tmp_path, state=tmp_path / "own") as server:
        number = server.request("DELETE", "/media?name=a.h4mk").json["id"]
        assert names(server) == ["b.h4mk"]
        for route in ("/video/info", "/video/range", "/container"):
            assert server.get(f"{route}?name=own/trash/{number}.h4mk").status == 404
        with listening(server) as stream:
            assert server.request("POST", "/video/export?name=c.h4mk&raw=1", body=b"x").status == 201
            assert stream.until("media")["name"] == "c.h4mk"
        assert server.request("POST", f"/media/restore?id={number}").status == 200


# -- events


class Stream:
    """An SSE client."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")
        self._lines: list[str] = []
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self._file.readline()

    def next(self) -> tuple[str, Any]:
        """The next event; comments are passed over."""
        while True:
            while "" in self._lines:
                at = self._lines.index("")
                block, self._lines = self._lines[:at], self._lines[at + 1 :]
                fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
                if fields:
                    return fields["event"], json.loads(fields["data"])
            size = int(self._file.readline(), 16)
            data = self._file.read(size)
            self._file.readline()
            self._lines += data.decode().split("\n")[:-1]  # every piece ends with a line

    def close(self) -> None:
        """Let go of the connection."""
        self._file.close()

    def rest(self) -> bytes:
        """What comes until the connection ends, less what says nothing."""
        return self._file.read().replace(b"8\r\n: ping\n\n\r\n", b"")

    def until(self, event: str, /, **wanted: Any) -> Any:
        """The first event of that name with these members."""
        while True:
            found, data = self.next()
            if found == event and wanted.items() <= data.items():
                return data


@contextmanager
def listening(server: Server) -> Iterator[Stream]:
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream = Stream(connection)
        try:
            yield stream
        finally:
            stream.close()


def test_what_happens_is_told(server: Server, tmp_path: Path) -> None:
    with listening(server) as stream:
        assert b"text/event-stream" in stream.head
        assert b"no-transform" in stream.head
        answer = server.request("POST", "/video/export?name=new.h4mk&raw=1", body=b"x" * 100_000)
        assert answer.status == 201
        job = stream.until("job", id=answer.json["job"], state="done")
        assert job["result"]["head"] == answer.json["head"]
        assert stream.until("media", name="new.h4mk")["change"] == "added"
        server.request("DELETE", "/media?name=a.h4mk")
        assert stream.until("media", name="a.h4mk")["change"] == "removed"


def test_a_folder_put_there_by_hand(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "folder"
    for number in range(3):
        write_container(elsewhere / f"{number}.h4mk", [b"x"])
    with listening(server) as stream:
        shutil.move(elsewhere, tmp_path / "folder")
        assert stream.until("media", name="folder/0.h4mk")["change"] == "added"
        assert stream.until("media", name="folder/2.h4mk")["change"] == "added"
        write_container(tmp_path / "folder" / "1.h4mk", [b"other"])
        assert stream.until("media", name="folder/1.h4mk", change="changed")


def test_running_jobs_are_told_at_the_beginning(server: Server) -> None:
    with socket.create_connection(server.address, timeout=30) as upload:
        upload.sendall(UPLOAD)
        with listening(server) as first:
            number = first.until("job", name="new.h4mk")["id"]
        with listening(server) as stream:
            assert stream.until("job")["id"] == number
            upload.sendall(b"bc")
            assert stream.until("job", state="done")["received"] == 3


def test_who_leaves_is_forgotten_soon(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though there is nothing to say, and the next comment is far away."""
    monkeypatch.setattr(events, "_QUIET", 600.0)
    with socket.create_connection(server.address, timeout=30) as line:
        line.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: server.app[EVENTS].listeners == 1, "somebody who listens")
    until(lambda: server.app[EVENTS].listeners == 0, "nobody who listens")


def test_the_server_stops_while_somebody_listens(tmp_path: Path) -> None:
    """It sends the listener away, and does not wait `stop_timeout` for them."""
    with ExitStack() as stack:
        with running(tmp_path, stop_timeout=100) as server:
            stream = stack.enter_context(listening(server))
        assert stream.rest() == b"0\r\n\r\n"


def test_a_folder_called_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server's own holds jobs."""
    monkeypatch.setattr(events, "_SCAN", 1000.0)  # that what happens there is heard
    monkeypatch.setattr(events, "_QUIET", 1000.0)
    (tmp_path / "jobs").mkdir()
    with running(tmp_path) as server, listening(server) as stream:
        write_container(tmp_path / "first.h4mk", [b"x"])
        assert stream.until("media", name="first.h4mk")
        write_container(tmp_path / "jobs" / "talk.h4mk", [b"x"])
        assert stream.until("media", name="jobs/talk.h4mk")["change"] == "added"


def test_jobs_are_told_from_the_rest(tmp_path: Path) -> None:
    library = Library(tmp_path)
    found = events.Events(library, Jobs(State(tmp_path / FOLDER)))
    own, other = tmp_path / FOLDER / "jobs" / "1.json", tmp_path / "jobs" / "1.json"
    assert found._sort_out([own, own]) == ({"1"}, False)  # added, and changed: of the library nothing is said
    assert found._sort_out([own, other]) == ({"1"}, True)
    assert found._sort_out([other]) == (set(), True)
    added = watchfiles.Change.added
    assert found._matters(added, str(own))
    assert not found._matters(added, str(own.with_suffix(".live")))
    assert not found._matters(added, str(tmp_path / FOLDER / "uploads" / "1.data"))
    assert found._matters(added, str(tmp_path / "jobs" / "a.h4mk"))


def test_the_library_is_compared_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is written to where nothing is heard of: such as a link's target in a hidden folder."""
    monkeypatch.setattr(events, "_SCAN", 1.0)
    hidden = tmp_path / ".hidden" / "a.h4mk"
    write_container(hidden, [b"a"])
    (tmp_path / "a.h4mk").symlink_to(hidden)
    over = threading.Event()

    def send(path: Path) -> None:
        with path.open("ab", buffering=0) as file:
            while not over.wait(0.02):
                file.write(b"x")

    with running(tmp_path) as server, listening(server) as stream:
        thread = threading.Thread(target=send, args=(State(tmp_path / FOLDER).folder("uploads") / "x.data",))
        thread.start()
        try:
            write_container(hidden, [b"longer"])
            assert stream.until("media", name="a.h4mk")["change"] == "changed"
        finally:
            over.set()
            thread.join()


@needs_proc
def test_watchers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One keeps a little of each folder that was ever made; and nothing is missed between two of them."""
    monkeypatch.setattr(events, "_WORN", 20)
    monkeypatch.setattr(events, "_SCAN", 0.3)
    watchers = []
    watch = watchfiles.watch

    def another(*folders: Any, **options: Any) -> Any:
        watchers.append(folders)
        return watch(*folders, **options)

    def open_now() -> int:
        links = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        return links.count(Path("anon_inode:inotify"))

    monkeypatch.setattr(watchfiles, "watch", another)
    until(lambda: open_now() == 0, "those of other tests, which are gone")
    with running(tmp_path) as server, listening(server) as stream:
        spool = State(tmp_path / FOLDER).folder("spool")
        for turn in range(3):
            many = itertools.count()

            def is_next(many: Iterator[int] = many, turn: int = turn) -> bool:
                path = spool / f"{turn}-{next(many)}"
                path.mkdir()
                path.rmdir()
                return len(watchers) > turn + 1

            until(is_next, "another watcher")
            write_container(tmp_path / f"{turn}.h4mk", [b"x"])
            assert stream.until("media", name=f"{turn}.h4mk")["change"] == "added"
        until(lambda: open_now() == 1, "those before, which are gone")
    until(lambda: open_now() == 0, "the last one, which is gone")


def test_nothing_is_compared_while_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SCAN", 0.1)
    monkeypatch.setattr(events, "_PAUSE", 0.05)
    looks = []

    def look(*where: Any) -> list[Entry]:
        looks.append(where)
        return scan(*where)

    monkeypatch.setattr(events, "scan", look)
    with running(tmp_path) as server:
        write_container(tmp_path / "before.h4mk", [b"x"])
        assert server.request("POST", "/video/export?name=a.h4mk&raw=1", body=b"x").status == 201
        assert not looks
        with listening(server) as stream:
            assert looks
            # What was there before is not told.
            write_container(tmp_path / "b.h4mk", [b"x"])
            assert stream.until("media")["name"] == "b.h4mk"
