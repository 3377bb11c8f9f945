"""`DELETE /media` and the rest of what changes a library over HTTP, and `/events`, which tells of it."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

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


# -- events


class Stream:
    """An SSE client."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self._file.readline()

    def next(self) -> tuple[str, Any]:
        """The next event; comments are passed over."""
        lines: list[str] = []
        while True:
            size = int(self._file.readline(), 16)
            data = self._file.read(size)
            self._file.readline()
            lines += data.decode().split("\n")
            while "" in lines:
                at = lines.index("")
                block, lines = lines[:at], lines[at + 1 :]
                fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
                if fields:
                    return fields["event"], json.loads(fields["data"])

    def rest(self) -> bytes:
        """What comes until the connection ends, less what says nothing."""
        return self._file.read().replace(b"8\r\n: ping\n\n\r\n", b"")

    def until(self, name: str, **wanted: Any) -> Any:
        """The first event of that name with these members."""
        while True:
            found, data = self.next()
            if found == name and wanted.items() <= data.items():
                return data


@contextmanager
def listening(server: Server) -> Iterator[Stream]:
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield Stream(connection)


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


def test_the_server_stops_while_somebody_listens(tmp_path: Path) -> None:
    """It sends the listener away, and does not wait `stop_timeout` for them."""
    with ExitStack() as stack:
        with running(tmp_path, stop_timeout=100) as server:
            stream = stack.enter_context(listening(server))
        assert stream.rest() == b"0\r\n\r\n"
