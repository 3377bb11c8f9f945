"""POST `…/stream?job=`: the tokens of an upload on another connection, while it is still arriving."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harmony4.server.keys import STATE, STATUS
from harmony4.server.state import State, sweep_streams
from harmony4.server.streams import kept
from harmony4.tokenize.video import VideoTransportTokenizer
from media_factory import media
from needs import needs_espeak, needs_ffmpeg
from processes import until
from serving import LOOPS, Answer, Server, running
from test_sse import parse

each_loop = pytest.mark.parametrize("loop", LOOPS)
RAW = "/video/stream?raw=1&block_size=10000"
NUMBER = "0123456789abcdef0123456789abcdef"


def events(answer: Answer) -> list[tuple[str, Any, str]]:
    assert answer.status == 200, answer
    body = answer.body.removeprefix(b"retry: 2000\n\n")
    return [(name, json.loads(data), number) for name, data, number in parse(body)]


def folder(server: Server) -> Path:
    return server.app[STATE].path / "streams"


@contextmanager
def uploading(server: Server, target: str) -> Iterator[socket.socket]:
    """A request with a number of the client's own, whose body is sent at the caller's pace."""
    with socket.create_connection(server.address, timeout=30) as one:
        one.sendall(
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        until(lambda: (folder(server) / f"{NUMBER}.stream").exists(), "beginning")
        yield one


def send(one: socket.socket, data: bytes) -> None:
    one.sendall(b"%x\r\n%b\r\n" % (len(data), data))


@needs_ffmpeg
@needs_espeak
@each_loop
@pytest.mark.parametrize(
    ("route", "name"), [("video", "plain.mp4"), ("video", "moovend.mp4"), ("audio", "speech.wav")]
)
def test_the_same_tokens(tmp_path: Path, loop: str, route: str, name: str) -> None:
    data = media(name).read_bytes()
    with running(tmp_path, loop=loop) as server:
        plain = server.request("POST", f"/{route}/stream", body=data)
        answer = server.request("POST", f"/{route}/stream?job=1", body=data)
        assert answer.status == 202
        assert answer.headers["Location"] == answer.json["url"] == f"/{route}/stream?job={answer.json['id']}"
        assert answer.headers["Cache-Control"] == "no-store"
        found = server.get(answer.json["url"])
        seal = answer.json["id"][:8]
        assert found.body == plain.body.replace(b"id: 00000000-", f"id: {seal}-".encode())
        for accept in ("application/x-ndjson", "application/octet-stream"):
            same = server.request("POST", f"/{route}/stream", {"Accept": accept}, data).body
            got = server.get(answer.json["url"], Accept=accept).body
            assert got == same.replace(b'"id":"00000000-', f'"id":"{seal}-'.encode())
        assert os.listdir(server.app[STATE].path / "spool") == []  # noqa: PTH208


@each_loop
def test_read_while_it_is_arriving(tmp_path: Path, loop: str) -> None:
    """The client has chosen the number, and listens before it has sent everything."""
    with running(tmp_path, loop=loop) as server, uploading(server, f"{RAW}&job={NUMBER}") as one:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("GET", f"/video/stream?job={NUMBER}", headers={"Accept": "application/x-ndjson"})
        answer = connection.getresponse()
        send(one, b"x" * 30_000)
        assert json.loads(answer.readline())["event"] == "meta"
        for index in range(20):
            assert json.loads(answer.readline())["id"] == f"01234567-0-{index}"
            send(one, b"x" * 10_000)
        send(one, b"")
        rest = [json.loads(line) for line in answer]
        assert [line["data"]["index"] for line in rest[:-1]] == [20, 21, 22]
        assert (rest[-1]["event"], rest[-1]["data"]["tokens"]) == ("done", 23)
        connection.close()


def test_coming_back(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        url = server.request("POST", f"{RAW}&job=1", body=b"x" * 100_000).json["url"]
        _, *tokens, (_, _, end) = events(server.get(url))
        assert len(tokens) == 10
        for index in (0, 5, 9):
            (first, _, _), *found, _ = events(server.get(url, Last_Event_ID=tokens[index][2]))
            assert first == "meta"
            assert found == tokens[index + 1 :]
        assert server.get(url, Last_Event_ID=end).status == 204
        (first, _, _), *_ = events(server.get(url, Last_Event_ID="ffffffff-0-3"))
        assert first == "reset"


@pytest.mark.parametrize("job", ["2", "x", NUMBER[:-1], NUMBER.upper(), NUMBER + "0", ""])
def test_numbers_that_are_none(tmp_path: Path, job: str) -> None:
    with running(tmp_path) as server:
        assert server.request("POST", f"{RAW}&job={job}", body=b"x").problem == "usage"
        assert server.get(f"/video/stream?job={job}").problem == "usage"


def test_what_is_not_there_or_there_already(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert server.get(f"/video/stream?job={NUMBER}").problem == "not-found"
        assert server.request("POST", f"{RAW}&job={NUMBER}", body=b"x" * 100).status == 202
        again = server.request("POST", f"{RAW}&job={NUMBER}", body=b"x" * 100)
        assert (again.status, again.problem) == (409, "exists")
        assert server.get(f"/video/stream?job={NUMBER}", Accept="image/png").problem == "accept"


@needs_ffmpeg
def test_media_that_cannot_be_read(tmp_path: Path) -> None:
    """Whoever reads the stream is told as well."""
    with running(tmp_path) as server:
        data = media("plain.mp4").read_bytes()[:2000]
        answer = server.request("POST", f"/video/stream?job={NUMBER}", body=data)
        assert answer.status in (202, 422)  # whether it has been looked at when all has arrived
        url = f"/video/stream?job={NUMBER}"
        ((name, problem, _),) = events(server.get(url))
        assert (name, problem["type"]) == ("problem", "urn:harmony4:problem:media")
        with pytest.raises(http.client.IncompleteRead):
            server.get(url, Accept="application/octet-stream")


def test_an_upload_that_breaks_off(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        with uploading(server, f"{RAW}&job={NUMBER}") as one:
            send(one, b"x" * 50_000)
        *_, (name, problem, _) = events(server.get(f"/video/stream?job={NUMBER}"))
        assert (name, problem["type"]) == ("problem", "urn:harmony4:problem:body")


def test_a_writer_that_died(tmp_path: Path) -> None:
    state = State.of(None, tmp_path)
    keeper = kept.Keeper(state, NUMBER)
    keeper.add(kept.Entry("meta", b"{}").pack())
    keeper.add(kept.Entry("token", b'{"index":0}', 0, b"r").pack()[:-1])  # not whole
    keeper.close()
    keeper.close()
    with running(tmp_path) as server:
        (first, _, _), (name, problem, _) = events(server.get(f"/video/stream?job={NUMBER}"))
        assert (first, name, problem["type"]) == ("meta", "problem", "urn:harmony4:problem:interrupted")


def test_a_server_that_stops(tmp_path: Path) -> None:
    with running(tmp_path) as server, uploading(server, f"{RAW}&job={NUMBER}") as one:
        send(one, b"x" * 50_000)
        server.app[STATUS].stopping = True
        *_, (name, _, _) = events(server.get(f"/video/stream?job={NUMBER}"))
        assert name == "restart"


def test_a_quiet_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_QUIET", 0.05)
    with running(tmp_path) as server, uploading(server, f"{RAW}&job={NUMBER}"):
        with socket.create_connection(server.address, timeout=30) as one:
            one.sendall(f"GET /video/stream?job={NUMBER} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = b""
            while received.count(b": ping") < 2:
                received += one.recv(1000)
        # The reader has left; nothing of it stays.
        descriptors = Path("/proc/self/fd")
        path = folder(server) / f"{NUMBER}.stream"

        def readers() -> int:
            return sum(1 for each in descriptors.iterdir() if _is(each, path))

        until(lambda: readers() == 1, "leaving", seconds=1)  # the writer's


def _is(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path
    except OSError:
        return False


def test_what_has_expired_is_removed(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        url = server.request("POST", f"{RAW}&job=1", body=b"x" * 100).json["url"]
        events(server.get(url))
        state = server.app[STATE]
        sweep_streams(state, 60)
        assert len(list(folder(server).iterdir())) == 1
        (path,) = folder(server).iterdir()
        os.utime(path, (time.time() - 100,) * 2)
        with uploading(server, f"{RAW}&job={NUMBER}"):
            os.utime(folder(server) / f"{NUMBER}.stream", (time.time() - 100,) * 2)
            sweep_streams(state, 60)
            assert [one.stem for one in folder(server).iterdir()] == [NUMBER]
        assert server.get(url).problem == "not-found"
    sweep_streams(State.of(tmp_path / "none", tmp_path), 60)


def test_records(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        url = server.request("POST", f"{RAW}&job=1", body=b"x" * 25_000).json["url"]
        body = server.get(url, Accept="application/octet-stream").body
        expected = list(VideoTransportTokenizer(raw=True, block_size=10_000).encode([b"x" * 25_000]))
        assert [one.record for one in VideoTransportTokenizer().decode(body)] == [
            one.record for one in expected
        ]
