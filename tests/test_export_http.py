"""`/video/export` and `/jobs` over real sockets: what comes in is what `harmony4 export` makes."""

from __future__ import annotations

import http.client
import io
import json
import random
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest

from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.keys import DESK
from media_factory import media
from needs import BUNNY
from processes import until
from serving import LOOPS, Server, running, write_container

UPLOAD = b"POST /video/export?name=a.h4mk&raw=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
NOISE = random.Random(8).randbytes(3 * 2**20 + 17)


@pytest.fixture(params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, loop=request.param) as found:
        yield found


def made(data: bytes, **options: Any) -> bytes:
    """The container of `harmony4 export`."""
    out = io.BytesIO()
    export(io.BytesIO(data), out, ExportOptions(**options))
    return out.getvalue()


def hidden(library: Path, *names: str) -> list[str]:
    """What stands in folders of the server's own."""
    return sorted(path.name for name in names for path in (library / ".harmony4" / name).glob("*"))


def form(
    data: bytes, *fields: tuple[str, str], after: tuple[tuple[str, str], ...] = ()
) -> tuple[dict[str, str], bytes]:
    def field(name: str, value: str) -> bytes:
        return b'--b0\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
            name.encode(),
            value.encode(),
        )

    file = (
        b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n'
        b"Content-Type: video/mp4\r\n\r\n" + data + b"\r\n"
    )
    body = b"".join([*(field(*one) for one in fields), file, *(field(*one) for one in after), b"--b0--\r\n"])
    return {"Content-Type": "multipart/form-data; boundary=b0"}, body


@pytest.mark.ffmpeg
@pytest.mark.parametrize("name", ["plain.mp4", "moovend.mp4", "fragmented.mp4", "plain.webm"])
def test_media_become_what_the_command_makes(server: Server, tmp_path: Path, name: str) -> None:
    data = media(name).read_bytes()
    answer = server.request("POST", "/video/export?name=a/b.h4mk", body=data)
    assert answer.status == 201, answer
    wanted = made(data)
    assert (tmp_path / "a" / "b.h4mk").read_bytes() == wanted
    assert server.get("/container?name=a/b.h4mk").body == wanted
    assert answer.headers["Location"] == "/video/info?name=a/b.h4mk"
    info = server.get(answer.headers["Location"]).json
    assert (answer.json["name"], answer.json["head"]) == ("a/b.h4mk", info["head"])
    assert answer.json["timing"] == "demux"
    job = server.get(f"/jobs/{answer.json['job']}").json
    assert (job["state"], job["received"], job["size"]) == ("done", len(data), len(data))
    assert job["blocks"] == answer.json["blocks"] > 0
    assert job["result"]["head"] == answer.json["head"]
    assert hidden(tmp_path, "spool") == []


def test_options_are_those_of_the_command(server: Server, tmp_path: Path) -> None:
    query = "name=a.h4mk&raw=1&block_size=100KiB&fps_hint=30000/1001&gop=15&title=%C3%98"

    answer = server.request("POST", f"/video/export?{query}", body=NOISE)
    assert answer.status == 201
    wanted = made(NOISE, raw=True, block_size=102_400, fps_hint=Fraction(30000, 1001), gop=15, title="Ø")
    assert (tmp_path / "a.h4mk").read_bytes() == wanted


def test_chunked(server: Server, tmp_path: Path) -> None:
    body = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (NOISE[:7], NOISE[7:70_000], NOISE[70_000:])
    )
    head = {"Transfer-Encoding": "chunked"}
    answer = server.request("POST", "/video/export?name=a.h4mk&raw=1", head, body + b"0\r\n\r\n")
    assert answer.status == 201
    assert (tmp_path / "a.h4mk").read_bytes() == made(NOISE, raw=True)
    assert server.get(f"/jobs/{answer.json['job']}").json["size"] is None


def test_form(server: Server, tmp_path: Path) -> None:
    headers, body = form(NOISE, ("name", "a.h4mk"), ("raw", "1"))
    answer = server.request("POST", "/video/export", headers, body)
    assert answer.status == 201, answer
    assert (tmp_path / "a.h4mk").read_bytes() == made(NOISE, raw=True)


def test_the_container_comes_back(server: Server, tmp_path: Path) -> None:
    answer = server.request("POST", "/video/export?raw=1", body=NOISE)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-h4mk"
    assert answer.body == made(NOISE, raw=True)
    assert list(tmp_path.glob("*.h4mk")) == []
    until(lambda: hidden(tmp_path, "spool") == [], "the spool is gone")


def test_empty(server: Server, tmp_path: Path) -> None:
    assert server.request("POST", "/video/export?name=a.h4mk", body=b"").status == 201
    assert (tmp_path / "a.h4mk").read_bytes() == made(b"")


def test_job(server: Server, tmp_path: Path) -> None:
    answer = server.request("POST", "/video/export?name=a.h4mk&raw=1&job=1", body=NOISE)
    assert answer.status == 202
    place = answer.headers["Location"]
    assert place == f"/jobs/{answer.json['id']}"
    until(lambda: server.get(place).json["state"] == "done", "the job is done")
    assert (tmp_path / "a.h4mk").read_bytes() == made(NOISE, raw=True)
    assert place.rpartition("/")[2] in [one["id"] for one in server.get("/jobs").json["jobs"]]
    assert server.request("DELETE", place).status == 200  # it has ended
    assert server.get(place).json["state"] == "done"


# -- refused, before the body is sent where that is possible


@contextmanager
def asking(server: Server, target: str, *lines: str) -> Iterator[socket.socket]:
    """A request that waits to be told to send its body."""
    with socket.create_connection(server.address, timeout=30) as connection:
        head = [f"POST {target} HTTP/1.1", "Host: localhost", "Expect: 100-continue", *lines, "", ""]
        connection.sendall("\r\n".join(head).encode())
        yield connection


def status_of(connection: socket.socket) -> int:
    data = b""
    while not data.endswith(b"\r\n"):
        data += connection.recv(1)
    return int(data.split()[1])


def test_the_body_is_asked_for(server: Server, tmp_path: Path) -> None:
    with asking(server, "/video/export?name=a.h4mk&raw=1", "Content-Length: 4") as connection:
        assert status_of(connection) == 100
        connection.recv(2)
        connection.sendall(b"abcd")
        assert status_of(connection) == 201
    assert (tmp_path / "a.h4mk").read_bytes() == made(b"abcd", raw=True)


@pytest.mark.parametrize(
    ("target", "lines", "status"),
    [
        ("/video/export?name=there.h4mk", (), 409),
        ("/video/export?name=there.h4mk", ('If-Match: "other"',), 412),
        ("/video/export?name=gone.h4mk", ("If-Match: *",), 412),
        ("/video/export?name=../x.h4mk", (), 400),
        ("/video/export?name=.x.h4mk", (), 400),
        ("/video/export?name=x.mp4", (), 400),
        ("/video/export?name=x%00.h4mk", (), 400),
        ("/video/export?name=.harmony4/trash/x.h4mk", (), 400),
        ("/video/export?block_size=0", (), 400),
        ("/video/export?block_size=17MiB", (), 400),
        ("/video/export?fps_hint=0", (), 400),
        ("/video/export?gop=0", (), 400),
        ("/video/export?title=", (), 400),
        ("/video/export?raw=yes", (), 400),
        ("/video/export?colour=red", (), 400),
        ("/video/export?job=1", (), 400),
        ("/video/export?name=x.h4mk", ("Content-Encoding: gzip",), 415),
        ("/video/export?name=x.h4mk", ("Content-Type: multipart/mixed; boundary=b",), 415),
    ],
)
def test_refused_before_the_body(
    server: Server, tmp_path: Path, target: str, lines: tuple[str, ...], status: int
) -> None:
    write_container(tmp_path / "there.h4mk", [b"x"])
    with asking(server, target, "Content-Length: 1000000000", *lines) as connection:
        assert status_of(connection) == status
    assert [path.name for path in tmp_path.glob("**/*.h4mk")] == ["there.h4mk"]
    assert hidden(tmp_path, "spool", "jobs") == []


def test_too_large_is_refused_before_the_body(tmp_path: Path) -> None:
    with running(tmp_path, max_upload=1000) as server:
        with asking(server, "/video/export?name=a.h4mk", "Content-Length: 1001") as connection:
            assert status_of(connection) == 413
        assert server.request("POST", "/video/export?name=a.h4mk&raw=1", body=bytes(1000)).status == 201
        body = b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
        answer = server.request(
            "POST", "/video/export?name=b.h4mk&raw=1", {"Transfer-Encoding": "chunked"}, body
        )
        assert (answer.status, answer.problem) == (413, "limit")
        assert not (tmp_path / "b.h4mk").exists()
        assert hidden(tmp_path, "spool") == []


def test_no_room(tmp_path: Path) -> None:
    with running(tmp_path, min_free=2**62) as server:
        answer = server.request("POST", "/video/export?name=a.h4mk", body=b"x")
        assert (answer.status, answer.problem) == (507, "full")
        assert int(answer.headers["Retry-After"]) > 0
    with running(tmp_path, quota=2**20) as server:
        answer = server.request("POST", "/video/export?name=a.h4mk&raw=1", body=NOISE)
        assert (answer.status, answer.problem) == (507, "full")
        assert server.request("POST", "/video/export?name=b.h4mk&raw=1", body=b"small").status == 201


def test_the_quota_holds_for_what_does_not_say_its_size(tmp_path: Path) -> None:
    with running(tmp_path, quota=20 * 2**20) as server:
        data = random.Random(1).randbytes(2**20)
        body = b"".join(b"%x\r\n%b\r\n" % (len(data), data) for _ in range(40)) + b"0\r\n\r\n"
        answer = server.request(
            "POST", "/video/export?name=a.h4mk&raw=1", {"Transfer-Encoding": "chunked"}, body
        )
        assert (answer.status, answer.problem) == (507, "full")
        assert not (tmp_path / "a.h4mk").exists()
        assert hidden(tmp_path, "spool") == []


def test_places(tmp_path: Path) -> None:
    with running(tmp_path, max_uploads=2, max_uploads_per_client=1) as server:
        with asking(server, "/video/export?name=a.h4mk&raw=1", "Content-Length: 2") as first:
            assert status_of(first) == 100
            answer = server.request("POST", "/video/export?name=b.h4mk", body=b"x")
            assert (answer.status, answer.problem) == (429, "too-many")
            assert int(answer.headers["Retry-After"]) > 0
            first.recv(2)
            first.sendall(b"ab")
            assert status_of(first) == 201
        assert server.request("POST", "/video/export?name=b.h4mk&raw=1", body=b"x").status == 201
    with (
        running(tmp_path, max_uploads=1) as server,
        asking(server, "/video/export", "Content-Length: 2") as first,
    ):
        assert status_of(first) == 100
        answer = server.request("POST", "/video/export?name=c.h4mk", body=b"x")
        assert (answer.status, answer.problem) == (503, "busy")


def sending(server: Server, target: str) -> socket.socket:
    """A request in chunks whose head has been sent."""
    connection = socket.create_connection(server.address, timeout=30)
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_the_disk_is_almost_full(tmp_path: Path) -> None:
    """An MP4 that never comes to its index must wait on the disk: refused before too little is left there."""

    def free() -> int:
        return shutil.disk_usage(tmp_path).free

    least, most, others = free() - 64 * 2**20, 512 * 2**20, 2 * 2**20  # what others may write meanwhile
    piece = chunk(random.Random(5).randbytes(2**19))
    sent, lowest = 0, free()
    with running(tmp_path, min_free=least) as server:
        with sending(server, "/video/export?name=a.h4mk") as connection:
            start = b"\0\0\0\x10ftypisom\0\0\2\0" + b"\0\0\0\1mdat" + (2**40).to_bytes(8, "big")
            connection.sendall(chunk(start))
            while sent < most and not select.select([connection], [], [], 0)[0]:
                connection.sendall(piece)
                sent += 2**19
                lowest = min(lowest, free())
            assert sent < most, "nobody has said that it is enough"
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            problem = json.loads(answer.read())
        assert (answer.status, problem["type"]) == (507, "urn:harmony4:problem:full")
        assert int(answer.headers["Retry-After"]) > 0
        (job,) = server.get("/jobs").json["jobs"]
        assert (job["state"], job["problem"]) == ("failed", problem)
        assert 2**20 < job["received"] <= sent + 32
        assert lowest >= least - others
        assert list(tmp_path.glob("*.h4mk")) == []
        assert hidden(tmp_path, "spool", "uploads") == []


# -- progress


@pytest.mark.parametrize("more", ["", "&raw=1", "&raw=1&block_size=16MiB"])
def test_progress(server: Server, more: str) -> None:
    """`received` grows as the bytes come, though nothing can be made of them before the last one: an MP4
    with its index last, and blocks that are larger than what has come."""
    data = BUNNY.read_bytes()
    with sending(server, f"/video/export?name=a.h4mk{more}") as connection:
        at = 0

        def received() -> int:
            found = server.get("/jobs").json["jobs"]
            assert all(one["state"] == "receiving" for one in found)
            return int(found[0]["received"]) if found else 0

        def grown(before: int) -> bool:
            nonlocal at
            connection.sendall(chunk(data[at : at + 1000]))
            at += 1000
            now = received()
            assert now <= at
            return now > before

        for _ in range(4):
            before = received()
            until(lambda before=before: grown(before), "progress", seconds=5)  # type: ignore[misc]
            assert at < len(data) - 100_000
        connection.sendall(chunk(data[at:]) + b"0\r\n\r\n")
        assert status_of(connection) == 201
    (job,) = server.get("/jobs").json["jobs"]
    assert (job["state"], job["received"]) == ("done", len(data))


# -- bodies that lie


def test_bodies_that_break_off(server: Server, tmp_path: Path) -> None:
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(UPLOAD % 1_000_000 + bytes(70_000))
    until(
        lambda: [one["state"] for one in server.get("/jobs").json["jobs"]] == ["failed"], "the job has failed"
    )
    (job,) = server.get("/jobs").json["jobs"]
    assert job["problem"]["type"] == "urn:harmony4:problem:body"
    assert list(tmp_path.glob("*.h4mk")) == []
    until(lambda: hidden(tmp_path, "spool") == [], "the spool is gone")


def test_a_body_that_stops_coming(tmp_path: Path) -> None:
    with running(tmp_path, read_timeout=0.3) as server:
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(UPLOAD % 1000 + bytes(70))
            assert status_of(connection) == 408
        assert hidden(tmp_path, "spool") == []


def test_a_form_with_more_than_it_may_have(server: Server) -> None:
    """It is refused at once: nothing of it is kept until a file may come."""
    part = b'--b0\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--b0\r\n'
    head = b"POST /video/export HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=b0\r\n\r\n" + part)
        assert status_of(connection) == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b0\r\n",
        b"--b0--\r\n",
        b'--b0\r\nContent-Disposition: form-data; name="name"\r\n\r\na.h4mk\r\n--b0--\r\n',
        b"--b0\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b0--\r\n",
        b'--b0\r\nContent-Disposition: form-data; name="file"\r\n\r\nno end',
        b'--b0\r\nContent-Disposition: form-data; name="raw"\r\n\r\n' + bytes(5000) + b"\r\n--b0--\r\n",
        b'--b0\r\nContent-Disposition: form-data; name="title"\r\n\r\n\xff\r\n--b0--\r\n',
        b"no boundary at all\r\n" * 100,
        form(b"x", ("raw", "1"), ("raw", "1"))[1],
        form(b"x", ("colour", "red"))[1],
        form(b"x", ("raw", "1"), after=(("name", "late.h4mk"),))[1],
    ],
)
def test_forms_that_are_none(server: Server, tmp_path: Path, body: bytes) -> None:
    answer = server.request("POST", "/video/export?name=a.h4mk", form(b"")[0], body)
    assert answer.status == 400, answer
    assert answer.problem in ("body", "usage")
    assert list(tmp_path.glob("*.h4mk")) == []
    assert hidden(tmp_path, "spool") == []


@pytest.mark.parametrize(
    "text", [b"ffconcat version 1.0\nfile /etc/passwd\n", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"]
)
def test_texts_that_name_files(server: Server, tmp_path: Path, text: bytes) -> None:
    """They are no media to us: opaque bytes, and nothing is opened."""
    answer = server.request("POST", "/video/export?name=a.h4mk", body=text)
    assert answer.status == 201
    assert answer.json["timing"] == "hint"
    assert (tmp_path / "a.h4mk").read_bytes() == made(text)


def test_media_that_are_refused(server: Server, tmp_path: Path) -> None:
    """An MP4 whose sample table counts 2^32 - 1 samples."""
    moov = b"\0\0\0\x18moov\0\0\0\x10stsz" + b"\xff" * 8
    data = b"\0\0\0\x10ftypisom\0\0\0\0" + moov + bytes(100)
    answer = server.request("POST", "/video/export?name=a.h4mk", body=data)
    assert (answer.status, answer.problem) == (422, "media")
    assert list(tmp_path.glob("*.h4mk")) == []
    assert hidden(tmp_path, "spool") == []
    job = next(one for one in server.get("/jobs").json["jobs"])
    assert job["problem"] == answer.json


def test_jobs_come_page_by_page(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for number in range(5):
            assert server.request("POST", f"/video/export?name={number}.h4mk&raw=1", body=b"x").status == 201
        found: list[Any] = []
        query = ""
        for size in (2, 2, 1):
            page = server.get(f"/jobs?limit=2{query}").json
            assert len(page["jobs"]) == size
            found += page["jobs"]
            query = f"&cursor={page['next']}"
        assert page["next"] is None
        assert {one["name"] for one in found} == {f"{number}.h4mk" for number in range(5)}
        assert server.get("/jobs").json == {"jobs": found, "next": None}
        for wrong in ("limit=0", "limit=1001", "limit=x", "limit=%C2%B2", "cursor=", "cursor=../x"):
            answer = server.get(f"/jobs?{wrong}")
            assert (answer.status, answer.problem) == (400, "usage"), wrong


# -- jobs that are stopped


@contextmanager
def uploading(server: Server, target: str = "/video/export?name=a.h4mk&raw=1") -> Iterator[socket.socket]:
    """An upload that has begun and goes on for ever."""
    with socket.create_connection(server.address, timeout=30) as connection:
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"200000\r\n" + bytes(2**21) + b"\r\n")
        until(lambda: bool(server.get("/jobs").json["jobs"]), "there is a job")
        yield connection


def test_cancel(server: Server, tmp_path: Path) -> None:
    with uploading(server) as connection:
        (job,) = server.get("/jobs").json["jobs"]
        assert job["state"] == "receiving"
        assert server.request("DELETE", f"/jobs/{job['id']}").status == 202
        assert status_of(connection) == 409
    until(lambda: server.get(f"/jobs/{job['id']}").json["state"] == "cancelled", "it is cancelled")
    assert hidden(tmp_path, "spool") == []
    assert list(tmp_path.glob("*.h4mk")) == []


def test_cancelled_by_another_process(server: Server) -> None:
    with uploading(server) as connection:
        (job,) = server.get("/jobs").json["jobs"]
        server.app[DESK].jobs.cancel(job["id"])  # as the other one's handler does
        assert status_of(connection) == 409


def test_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path, stop_timeout=0.2) as server, uploading(server):
        (job,) = server.get("/jobs").json["jobs"]
    with running(tmp_path) as server:
        found = server.get(f"/jobs/{job['id']}").json
        assert found["state"] == "failed", found
    assert hidden(tmp_path, "spool") == []


def test_no_such_job(server: Server) -> None:
    for number in ("0" * 32, "..", "x", "%2e%2e%2fx"):
        assert server.get(f"/jobs/{number}").problem in ("not-found", "no-route")
        assert server.request("DELETE", f"/jobs/{number}").status == 404


def test_replace(server: Server, tmp_path: Path) -> None:
    first = server.request("POST", "/video/export?name=a.h4mk&raw=1", body=b"one")
    etag = server.get("/container?name=a.h4mk").headers["ETag"]
    before = (tmp_path / "a.h4mk").read_bytes()
    answer = server.request("POST", "/video/export?name=a.h4mk&raw=1", {"If-Match": etag}, b"two")
    assert (first.status, answer.status) == (201, 201)
    assert server.get("/video/range?name=a.h4mk").body == b"two"
    assert server.request("POST", "/video/export?name=a.h4mk&raw=1", {"If-Match": etag}, b"x").status == 412
    (old,) = server.get("/media/trash").json["items"]
    assert server.request("POST", f"/media/restore?id={old['id']}&to=old.h4mk").status == 200
    assert (tmp_path / "old.h4mk").read_bytes() == before


def test_two_uploads_to_one_name(server: Server, tmp_path: Path) -> None:
    """One of them gets it, whole; the other one is told."""
    answers = []
    bodies = [bytes([number]) * 300_000 for number in (1, 2)]

    def send(body: bytes) -> None:
        answers.append(server.request("POST", "/video/export?name=a.h4mk&raw=1", body=body).status)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [201, 409]
    assert (tmp_path / "a.h4mk").read_bytes() in [made(body, raw=True) for body in bodies]


def test_a_library_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with running(tmp_path, state=tmp_path / "file" / "state") as server:
        answer = server.request("POST", "/video/export?name=a.h4mk", body=b"x")
        assert (answer.status, answer.problem) == (507, "storage")
        assert str(tmp_path) not in answer.body.decode()
        assert server.get("/jobs").json == {"jobs": [], "next": None}


def test_heads_that_do_not_come(tmp_path: Path) -> None:
    with running(tmp_path, keepalive_timeout=0.3) as server:
        assert server.raw(b"") == b""  # who says nothing at all
    with running(tmp_path, read_timeout=0.3) as server:
        assert b" 408 " in server.raw(b"POST /video/export?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\nConte")


def bomb(samples: int, *, data: int = 1000) -> bytes:
    """An MP4 whose table really has so many samples of a byte: four bytes of it become many in memory.

    With as many bytes of `data` each of them is a packet, that costs time.
    """

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return (8 + len(body)).to_bytes(4) + kind + body

    entry = box(b"avc1", bytes(6), b"\0\1", bytes(16), b"\1\x40\0\xb4", bytes(50))
    table = box(
        b"stbl",
        box(b"stsd", bytes(7), b"\1", entry),
        box(b"stts", bytes(7), b"\1", samples.to_bytes(4), (1).to_bytes(4)),
        box(b"stsc", bytes(7), b"\1", (1).to_bytes(4), samples.to_bytes(4), (1).to_bytes(4)),
        box(b"stsz", bytes(8), samples.to_bytes(4), (1).to_bytes(4) * samples),
        box(b"stco", bytes(7), b"\1", (_BEFORE + 4 * samples).to_bytes(4)),
    )
    media_box = box(
        b"mdia",
        box(b"mdhd", bytes(12), (1000).to_bytes(4), (1).to_bytes(4), bytes(4)),
        box(b"hdlr", bytes(8), b"vide", bytes(13)),
        box(b"minf", table),
    )
    moov = box(b"moov", box(b"mvhd", bytes(12), (1000).to_bytes(4), bytes(80)), box(b"trak", media_box))
    before = box(b"ftyp", b"isom", bytes(4), b"isom") + moov
    assert len(before) + 8 == _BEFORE + 4 * samples
    return before + box(b"mdat", bytes(data))


_BEFORE: Final = 431
"""Bytes of `bomb` before its data, the table of sizes not counted."""


@pytest.mark.ffmpeg
@pytest.mark.parametrize("limits", [{"demux_memory": 2**29}, {"demux_memory": 2**34, "demux_cpu": 1}])
def test_a_demuxer_that_bloats_or_takes_too_long_leaves_others_alone(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    """It has a process and limits of its own, and so has the next one."""
    data = media("plain.mp4").read_bytes()
    with running(tmp_path, **limits) as server:
        answers: dict[str, tuple[int, str | None]] = {}

        def send(name: str, body: bytes) -> None:
            answer = server.request("POST", f"/video/export?name={name}.h4mk", body=body)
            answers[name] = answer.status, answer.problem if answer.status != 201 else None

        huge = bomb(2 * 10**6, data=2 * 10**6) if "demux_cpu" in limits else bomb(3 * 10**7)
        bodies = {"good": data, "huge": huge, "fine": data}
        threads = [threading.Thread(target=send, args=one) for one in bodies.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert answers == {"good": (201, None), "huge": (422, "media"), "fine": (201, None)}
        assert sorted(path.name for path in tmp_path.glob("*.h4mk")) == ["fine.h4mk", "good.h4mk"]
        assert (tmp_path / "good.h4mk").read_bytes() == made(data)
        until(lambda: hidden(tmp_path, "spool") == [], "the spools are gone")
