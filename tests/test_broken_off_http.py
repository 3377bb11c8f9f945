"""Answers that end early, and those that must not: what clients lose, and what they leave behind."""

from __future__ import annotations

import json
import logging
import socket
import struct
from pathlib import Path

import pytest

from harmony4.crypto.errors import StorageError
from harmony4.server.keys import EXPRESS, LIBRARY, STATE, STATUS, TALLY
from processes import until
from serving import LOOPS, MAPPING_LOOPS, running, write_container
from test_arriving_http import RAW, duplex
from test_express import URL, client

NUMBER = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("how", ["evicted", "replaced"])
@pytest.mark.parametrize("loop", MAPPING_LOOPS)
def test_a_slow_client_of_a_container_that_is_closed(tmp_path: Path, loop: str, how: str) -> None:
    size = 12 * 2**20
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 12)
    write_container(tmp_path / "b.h4mk", [b"y"])
    with running(tmp_path, loop=loop, max_open=1) as server:
        with client(server) as first:
            first.ask(URL, "Range: bytes=0-9")
        until(lambda: server.app[EXPRESS].is_calm(server.loop.time()), "calm")
        for _ in range(50):
            with client(server) as one:
                before = server.app[EXPRESS].answered
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
                one.send(URL, f"Range: bytes=0-{size - 1}")
                one.socket.recv(1)
                if server.app[EXPRESS].answered == before:
                    continue
                if how == "evicted":
                    server.get("/video/range?name=b.h4mk")
                else:
                    write_container(tmp_path / "new", [b"z"])
                    (tmp_path / "new").replace(tmp_path / "a.h4mk")
                    server.get(URL)
                until(lambda: not server.app[LIBRARY]._closing, "closed")
                received = 1
                while piece := one.socket.recv(2**20):
                    received += len(piece)
                    if received >= size + 200:
                        one.socket.settimeout(0.5)
                        try:
                            received += len(one.socket.recv(2**20))
                        except TimeoutError:
                            pass
                        break
                assert received > size
                return
        pytest.fail("never in the express lane")


@pytest.mark.parametrize("loop", MAPPING_LOOPS)
def test_who_leaves_the_express_lane_is_counted(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 12)
    with running(tmp_path, loop=loop) as server:
        with client(server) as first:
            first.ask(URL, "Range: bytes=0-9")
        express, counts = server.app[EXPRESS], server.app[TALLY].counts
        for left in range(1, 51):
            until(lambda: express.is_calm(server.loop.time()), "calm")
            before = express.answered
            with client(server) as one:
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
                one.send(URL, f"Range: bytes=0-{12 * 2**20 - 1}")
                one.socket.recv(1)
            until(lambda left=left: counts["broken|left"] == left, "seeing who left")  # type: ignore[misc]
            assert counts.keys() & {"broken|stuck", "broken|failed"} == set()
            if express.answered > before:
                return
        pytest.fail("never in the express lane")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_stops_while_tokens_come(tmp_path: Path, loop: str) -> None:
    """However busy it is: each token brings the next piece."""
    with running(tmp_path, loop=loop) as server, duplex(server, "/video/stream?raw=1&block_size=1000") as one:
        lines = one.lines()
        one.send(b"x" * 10_000)
        assert next(lines)["event"] == "meta"
        server.app[STATUS].stopping = True
        for _ in range(10_000):
            line = next(lines)
            if line["event"] != "token":
                break
            one.send(b"x" * 1000)
        assert (line["event"], line["data"]["type"]) == ("problem", "urn:harmony4:problem:stopping")
        one.send(b"")  # else the server waits for the rest, so that the client sees the answer


@pytest.mark.parametrize("loop", LOOPS)
def test_a_spill_that_cannot_be_read(tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from harmony4.server.streams import spill

    async def broken(self: object) -> bytes:
        raise StorageError("the answer cannot be read back: Input/output error")

    monkeypatch.setattr(spill, "_MEMORY", 1000)
    monkeypatch.setattr(spill.Spill, "_from_disk", broken)
    with running(tmp_path, loop=loop) as server, socket.create_connection(server.address, timeout=3) as one:
        body = b"x" * 1_000_000
        one.sendall(
            f"POST {RAW} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        received = b""
        try:
            while piece := one.recv(2**16):
                received += piece
        except TimeoutError:
            pass
        assert received.count(b"HTTP/1.1 ") == 1, received[-600:]


def test_kept_tokens_are_bounded(tmp_path: Path) -> None:
    """Tokens of small blocks take hundreds of times the blocks."""
    with running(tmp_path, stream_spill=2**20) as server:
        target = f"/video/stream?raw=1&block_size=1&job={NUMBER}"
        assert server.request("POST", target, body=b"x" * 100_000).status in (202, 413)
        *_, last = server.get(f"/video/stream?job={NUMBER}", Accept="application/x-ndjson").body.splitlines()
        assert json.loads(last)["data"]["type"] == "urn:harmony4:problem:limit"
        path = server.app[STATE].path / "streams" / f"{NUMBER}.stream"
        assert path.stat().st_size < 2**20 + 2**18


def test_done_is_not_lost(tmp_path: Path) -> None:
    """A client that has the last token and not `done` gets to know that it has all."""
    write_container(tmp_path / "a.h4mk", [b"x"] * 3)
    with running(tmp_path) as server:
        url, lines = "/video/stream?name=a.h4mk", "application/x-ndjson"
        *_, last, _ = server.get(url, Accept=lines).body.splitlines()
        answer = server.get(url, Accept=lines, Last_Event_ID=json.loads(last)["id"])
        assert answer.status == 200
        assert b'"done"' in answer.body


@pytest.mark.parametrize("loop", MAPPING_LOOPS)
def test_nothing_is_owed_once_all_is_out(tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have room again when the transport gets what `push` left: then nothing resumes."""
    from harmony4.server.reading import express

    def late(sock: int, head: bytes, data: memoryview, *_: object) -> list[bytes]:
        return [head, bytes(data)]  # as `push` after EAGAIN

    monkeypatch.setattr(express, "push", late)
    write_container(tmp_path / "a.h4mk", [b"x" * 100_000])
    write_container(tmp_path / "b.h4mk", [b"y" * 2**20] * 12)
    with running(tmp_path, loop=loop, max_open=1) as server, client(server) as one:
        for _ in range(2):
            one.ask(URL, "Range: bytes=0-9")
        assert server.app[EXPRESS].answered == 1
        # Another answer on the same connection, of another container, which pushes the first one out.
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        one.send("/video/range?name=b.h4mk")
        _, body = one.receive()
        assert body == b"y" * 2**20 * 12


def test_readers_do_not_take_the_places_of_uploads(tmp_path: Path) -> None:
    import io
    import wave

    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 30_000_000)
    raw = data.getvalue()
    write_container(tmp_path / "a.h4mk", [raw[i : i + 2**20] for i in range(0, len(raw), 2**20)])
    with (
        running(tmp_path, max_uploads=1) as server,
        socket.create_connection(server.address, timeout=30) as one,
    ):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /audio/stream?name=a.h4mk&profile=detail HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(100).startswith(b"HTTP/1.1 200")
        answer = server.request("POST", RAW, body=b"x" * 1000)
        assert answer.status == 200, answer.body


def test_a_client_that_leaves_before_it_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That is no error of the server's, and fills no log."""
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server, caplog.at_level(logging.INFO):
        for _ in range(200):
            with socket.create_connection(server.address, timeout=30) as client:
                # Reset, not closed: it does not take another byte.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.get("/health").status == 200
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
