"""The express lane answers what the ordinary way answers, byte for byte, and only what it may."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import logging
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from harmony4.h4mk import H4MKReader
from harmony4.server.keys import EXPRESS, LIBRARY, TALLY
from harmony4.server.reading import express
from harmony4.server.reading.express import Express, split
from harmony4.server.serving.connection import Connection
from processes import until
from serving import LOOPS, MAPPING_LOOPS, Server, running, settle, write_container

BLOCKS = [
    random.Random(n).randbytes(size) for n, size in enumerate([70_000, 1, 300_000, 5, 4_000_000, 80_000])
]
STREAM = b"".join(BLOCKS)
SIZE = len(STREAM)
URL = "/video/range?name=a.h4mk"


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", BLOCKS, key_every=2)
    write_container(root / "100% ü.h4mk", [b"one", b"two"])
    write_container(root / "late.h4mk", [b"early", b"late"], key_every=2)
    with running(root, loop=request.param) as one:
        yield one


def lane(server: Server) -> Express:
    return server.app[EXPRESS]


@dataclass
class Client:
    """One kept connection, on which requests are sent as raw bytes."""

    socket: socket.socket
    server: Server

    def ask(self, target: str, *lines: str, method: str = "GET") -> tuple[bytes, bytes]:
        """(head without Date, body) of the answer."""
        self.send(target, *lines, method=method)
        answer = self.receive()
        # The answer is out before the server has learned from it.
        settle(self.server)
        return answer

    def send(self, target: str, *lines: str, method: str = "GET") -> None:
        self.socket.sendall(raw(target, *lines, method=method))

    def receive(self) -> tuple[bytes, bytes]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            assert byte, head
            head += byte
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
        body = b""
        while len(body) < length:
            piece = self.socket.recv(length - len(body))
            assert piece
            body += piece
        assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
        return re.sub(rb"Date: [^\r]*\r\n", b"", head), body


def tick(server: Server) -> None:
    """Let the loop's clock move on, which goes by milliseconds: a file is looked at once in each."""

    async def time() -> float:
        return server.loop.time()

    def look() -> float:
        return asyncio.run_coroutine_threadsafe(time(), server.loop).result(30)

    began = look()
    until(lambda: look() > began, "the loop's clock")


def raw(target: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@contextmanager
def client(server: Server) -> Iterator[Client]:
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Client(connection, server)


def same(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Whether two answers are the same but for the order of their headers."""
    first, second = (head.split(b"\r\n") for head, _ in (one, other))
    return first[0] == second[0] and sorted(first) == sorted(second) and one[1] == other[1]


RANGES = [
    (0, 0),
    (0, 9),
    (69_999, 70_001),  # across two block borders
    (70_000, 70_000),
    (65_535, 131_071),  # the largest that is read
    (100_000, 300_000),  # mapped
    (1, 2**20),  # the largest there is, over several blocks
    (SIZE - 1, SIZE - 1),
    (SIZE - 10, SIZE + 10),
]


def test_ranges_are_those_of_the_ordinary_way(server: Server) -> None:
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6", "X-Lane: express")  # learned here
        for first, last in RANGES:
            answered = lane(server).answered
            ordinary = one.ask(URL, f"Range: bytes={first}-{last}", f"X-Lane: ordinary {first} {last}")
            assert lane(server).answered == answered
            express = one.ask(URL, f"Range: bytes={first}-{last}", "X-Lane: express")
            beyond = last - first + 1 > 2**16 and server.loop_name not in MAPPING_LOOPS
            assert lane(server).answered == answered + (not beyond), (first, last)
            assert express[1] == STREAM[first : last + 1]
            assert same(express, ordinary)


@pytest.mark.parametrize("loop_target", ["/video/range/0.mp4?name=a.h4mk", "/video/range?name=a.h4mk&v={v}"])
def test_other_addresses(server: Server, loop_target: str) -> None:
    version = server.get(URL).headers["ETag"].strip('"')[:16]
    target = loop_target.format(v=version)
    with client(server) as one:
        ordinary = one.ask(target, "Range: bytes=7-99")
        before = lane(server).answered
        assert same(one.ask(target, "Range: bytes=7-99"), ordinary)
        assert lane(server).answered == before + 1


def test_open_ended(server: Server) -> None:
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6")
        before = lane(server).answered
        assert one.ask(URL, f"Range: bytes={SIZE - 5}-")[1] == STREAM[-5:]
        assert lane(server).answered == before + 1
        assert one.ask(URL, "Range: bytes=10-")[1] == STREAM[10:]  # too much for the lane
        assert lane(server).answered == before + 1


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ("-10", 206, STREAM[-10:]),
        ("9-3", 416, None),
        (f"{SIZE}-", 416, None),
        ("abc", 416, None),
        ("", 416, None),
        ("5", 416, None),
        ("1-2-3", 416, None),
        ("+1-2", 416, None),
        ("1 -2", 416, None),
        ("1-2,", 206, STREAM[1:3]),
        ("٣-٤", 416, None),
        ("9" * 40 + "-", 416, None),
        ("1-" + "9" * 40, 206, STREAM[1:]),
    ],
)
def test_other_ranges_go_the_ordinary_way(
    server: Server, value: str, status: int, body: bytes | None
) -> None:
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6")
        before = lane(server).answered
        head, found = one.ask(URL, f"Range: bytes={value}")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert body is None or found == body
        assert lane(server).answered == before


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["If-None-Match: {etag}"], 304),
        (['If-Match: "old"'], 412),
        (['If-Range: "old"'], 200),
        (["Connection: close"], 206),
        (["Range: bytes=0-9"], 200),  # two of them
        (["Expect: 100-continue"], 100),
    ],
)
def test_not_learned(server: Server, lines: list[str], status: int) -> None:
    etag = server.get(URL).headers["ETag"]
    before = lane(server).answered
    for _ in range(3):
        with socket.create_connection(server.address, timeout=30) as connection:
            request = raw(URL, "Range: bytes=5-6", *(line.format(etag=etag) for line in lines))
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 %d " % status)
    assert lane(server).answered == before


def test_conditions_that_hold(server: Server) -> None:
    etag = server.get(URL).headers["ETag"]
    for line in (f"If-Range: {etag}", f"If-Match: {etag}", 'If-None-Match: "old"'):
        with client(server) as one:
            ordinary = one.ask(URL, "Range: bytes=5-6", line)
            before = lane(server).answered
            assert same(one.ask(URL, "Range: bytes=5-6", line), ordinary)
            assert lane(server).answered == before + 1


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_other_methods(server: Server, method: str) -> None:
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6")
        before = lane(server).answered
        one.send(URL, "Range: bytes=5-6", method=method)
        assert one.socket.recv(2**16).startswith(b"HTTP/1.1 200" if method == "HEAD" else b"HTTP/1.1 405")
        assert lane(server).answered == before


@pytest.mark.parametrize("pts", [0, 1, 1_999_999, 2_000_000, 3_999_999, 4_000_000, 10**14, 10**18, 2**63 - 1])
def test_seeks_are_those_of_the_ordinary_way(server: Server, pts: int) -> None:
    target = "/video/seek?name=a.h4mk&pts="
    with client(server) as one:
        one.ask(f"{target}5", "X-Lane: express")
        ordinary = one.ask(f"{target}{pts}", f"X-Lane: ordinary {pts}")
        before = lane(server).answered
        assert same(one.ask(f"{target}{pts}", "X-Lane: express"), ordinary)
        assert lane(server).answered == before + (pts < 10**15)


def test_seeks_of_an_odd_name(server: Server) -> None:
    target = "/video/seek?pts={}&name=100%25%20%C3%BC.h4mk&track=0"
    with client(server) as one:
        one.ask(target.format(5))
        before = lane(server).answered
        express = one.ask(target.format(1_000_001))
        assert lane(server).answered == before + 1
        ordinary = one.ask(target.format(1_000_001), "X-Lane: ordinary")
        assert same(express, ordinary)


@pytest.mark.parametrize("pts", ["", "x", "-1", "1.5", "5&track=7", "9223372036854775808", "5&pts=6"])
def test_other_seeks_go_the_ordinary_way(server: Server, pts: str) -> None:
    with client(server) as one:
        one.ask("/video/seek?name=a.h4mk&pts=5")
        before = lane(server).answered
        one.send(f"/video/seek?name=a.h4mk&pts={pts}")
        head, _ = one.receive()
        assert head[9:10] == (b"2" if pts == "5&pts=6" else b"4")
        assert lane(server).answered == before


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/video/seek?name=a.h4mk&pts={}%35", "X-Lane: digits behind a percent sign"),
        ("/video/seek?name=a.h4mk&%70ts=2000000", "Referer: http://x/?pts={}"),
        ("/video/seek?name=a.h4mk&%70ts=2000000&pts={}", "X-Lane: the second of two"),
        ("/video/seek?name=a.h4mk&%70ts=2000000&x=?pts={}", "X-Lane: in another value"),
        ("/video/seek?name=a.h4mk&%70ts=2000000#&pts={}", "X-Lane: in a fragment"),
    ],
)
def test_digits_that_are_not_the_time(server: Server, target: str, line: str) -> None:
    with client(server) as one:
        one.ask(target.format(4), line.format(4))
        before = lane(server).answered
        asked = json.loads(one.ask(target.format(1), line.format(1))[1])["asked"]
        assert asked == (15 if "%35" in target else 2_000_000)
        assert lane(server).answered == before


@pytest.mark.parametrize("loop", LOOPS)
def test_two_requests_at_once_are_never_learned_as_one(tmp_path: Path, loop: str) -> None:
    """A parser whose queue is full hands out the first of two that came together, and keeps the second."""
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 24)
    both = raw(URL, "Range: bytes=0-5", "X-Pair: one") + raw(URL, "Range: bytes=0-6", "X-Pair: two")
    with running(tmp_path, loop=loop) as server:
        with client(server) as one:
            one.send(URL)  # more than all buffers hold: whatever follows has to wait
            for _ in range(31):
                one.send("/health")
                settle(server)  # each in a piece of its own
            one.socket.sendall(both)
            settle(server)
            assert [len(one.receive()[1]) for _ in range(34)][-2:] == [6, 7]
        with client(server) as one:
            one.socket.sendall(both)
            assert [len(one.receive()[1]) for _ in range(2)] == [6, 7]
        assert lane(server).answered == 0


def test_many_small_pieces_go_the_ordinary_way(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"] * 1000)
    with running(tmp_path) as server, client(server) as one:
        one.ask(URL, "Range: bytes=0-9")
        for last, lane_answers in ((63, 1), (511, 2), (512, 2), (999, 2), (5, 3)):
            assert one.ask(URL, f"Range: bytes=0-{last}")[1] == b"x" * (last + 1)
            assert lane(server).answered == lane_answers


def test_long_answers_while_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 1 MiB goes this way only if no short answer was given a moment ago."""
    data = [random.Random(n).randbytes(2**20) for n in range(17)]
    write_container(tmp_path / "a.h4mk", data)
    with running(tmp_path) as server, client(server) as one:
        lane(server).last = float("inf")  # somebody waits, all the time
        one.ask(URL, "Range: bytes=0-9")
        for last in (2**20, 2**24 - 1):
            assert one.ask(URL, f"Range: bytes=0-{last}")[1] == b"".join(data)[: last + 1]
            assert lane(server).answered == 0
        lane(server).last = 0.0
        for number, (first, last) in enumerate([(0, 2**20), (5, 2**24 + 4), (2**20, 2**24)], 1):
            assert one.ask(URL, f"Range: bytes={first}-{last}")[1] == b"".join(data)[first : last + 1]
            assert lane(server).answered == number
        one.ask(URL, f"Range: bytes=0-{2**24}")
        assert lane(server).answered == 3
        one.ask(URL, "Range: bytes=0-9")  # short, and from now on somebody waits
        one.ask(URL, f"Range: bytes=0-{2**20}")
        assert lane(server).answered == 4


def test_what_plans_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long and odd the requests are, and whatever was learned of a closed container."""
    monkeypatch.setattr(express, "_MEMORY", 2**16)
    for name in "ab":
        write_container(tmp_path / f"{name}.h4mk", [b"data"])
    with running(tmp_path, max_open=1) as server, client(server) as one:
        plans = lane(server)._plans
        for number in range(50):
            one.ask(URL, "Range: bytes=0-1", f"User-Agent: {number}{'é' * 1000}")
            assert sum(len(part) for key in plans for part in key) < 2**16
        assert plans
        one.ask(URL.replace("a.h4mk", "b.h4mk"), "Range: bytes=0-1")
        assert [plan.container.name for plan in plans.values()] == ["b.h4mk"]
        assert len(lane(server)._keys) == 1


def test_a_container_that_is_retired_while_it_answers(tmp_path: Path) -> None:
    """Nothing is kept of it."""
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 24)
    with running(tmp_path) as server, client(server) as one:
        one.send(URL, "Range: bytes=1-")
        assert one.socket.recv(1, socket.MSG_PEEK) == b"H"
        write_container(tmp_path / "a.h4mk", [b"after!"])
        assert server.get(URL).body == b"after!"
        assert len(one.receive()[1]) == 24 * 2**20 - 1
        settle(server)
        assert not lane(server)._plans


def unsent(server: Server) -> list[Connection]:
    """The connections that have bytes left which the kernel did not take."""

    async def look() -> list[Connection]:
        found = [one for one in gc.get_objects() if isinstance(one, Connection) and one._loop is server.loop]
        return [one for one in found if one.wire is not None and one.wire.get_write_buffer_size()]

    return asyncio.run_coroutine_threadsafe(look(), server.loop).result(30)


@pytest.mark.skipif("uvloop" not in LOOPS, reason="asyncio's lane sends no more than the kernel takes")
def test_a_slow_client_is_not_idle(tmp_path: Path) -> None:
    """Whoever has still bytes to take is cut off for taking none, not for being silent."""
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 4)
    settings = {"keepalive_timeout": 0.5, "write_timeout": 600}
    with running(tmp_path, loop="uvloop", **settings) as server, client(server) as one:
        one.ask(URL, "Range: bytes=0-9")
        asked = 0
        while not unsent(server):
            one.send(URL, f"Range: bytes=0-{2**20 - 1}")
            asked += 1
        (connection,) = unsent(server)
        due = connection._next_keepalive_close_time
        # The server has looked twice, and put it off.
        until(
            lambda: connection._next_keepalive_close_time > due + 0.6 or connection.transport is None,
            "looking",
        )
        assert connection.transport is not None
        for _ in range(asked):
            assert len(one.receive()[1]) == 2**20


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_to_be_closed_and_takes_nothing(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 24)
    with running(tmp_path, loop=loop, write_timeout=0.4) as server, client(server) as one:
        one.send(URL)
        while not (left := unsent(server)):
            pass
        server.loop.call_soon_threadsafe(left[0].force_close)
        deadline = time.monotonic() + 30
        while left[0].wire is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_request_in_pieces(server: Server) -> None:
    with client(server) as one:
        ordinary = one.ask(URL, "Range: bytes=5-6")
        request = raw(URL, "Range: bytes=5-6")
        for cut in range(1, len(request), 7):
            one.socket.sendall(request[:cut])
            one.socket.sendall(request[cut:])
            assert same(one.receive(), ordinary)


def test_what_looks_like_a_request_in_a_body(server: Server) -> None:
    """A body is the parser's business, whatever stands in it."""
    inner = raw(URL, "Range: bytes=5-6")
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6")
        before = lane(server).answered
        outer = raw("/health", f"Content-Length: {len(inner)}")
        one.socket.sendall(outer)
        assert one.receive()[0].startswith(b"HTTP/1.1 200")
        one.socket.sendall(inner)  # the body of what was answered already
        one.socket.sendall(raw("/ready"))
        assert b'"ready"' in one.receive()[1]
        assert lane(server).answered == before


def test_pipelined(server: Server) -> None:
    with client(server) as one:
        one.ask(URL, "Range: bytes=5-6")
        one.socket.sendall(raw(URL, "Range: bytes=1-2") + raw(URL, "Range: bytes=3-4"))
        assert one.receive()[1] + one.receive()[1] == STREAM[1:5]
        one.socket.sendall(raw(URL, "Range: bytes=1-999999") + raw(URL, "Range: bytes=3-4")[:30])
        one.socket.sendall(raw(URL, "Range: bytes=3-4")[30:])
        assert one.receive()[1] == STREAM[1:1_000_000]
        assert one.receive()[1] == STREAM[3:5]


def test_replaced(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"before"])
    with running(tmp_path) as server, client(server) as one:
        for _ in range(2):
            assert one.ask(URL, "Range: bytes=0-5")[1] == b"before"
        assert lane(server).answered == 1
        write_container(tmp_path / "a.h4mk", [b"after!"])
        tick(server)
        for _ in range(3):
            assert one.ask(URL, "Range: bytes=0-5")[1] == b"after!"
        (tmp_path / "a.h4mk").unlink()
        tick(server)
        assert one.ask(URL, "Range: bytes=0-5")[0].startswith(b"HTTP/1.1 404")


def test_closed_for_lack_of_room(tmp_path: Path) -> None:
    for name in "abc":
        write_container(tmp_path / f"{name}.h4mk", [name.encode() * 6])
    with running(tmp_path, max_open=1) as server, client(server) as one:
        for _ in range(3):
            for name in "abc":
                assert one.ask(f"/video/range?name={name}.h4mk", "Range: bytes=0-5")[1] == name.encode() * 6
        assert server.app[LIBRARY].opened == 1


def test_cold_bytes(tmp_path: Path) -> None:
    data = [random.Random(5).randbytes(2**20) for _ in range(3)]
    write_container(tmp_path / "a.h4mk", data)
    with running(tmp_path) as server, client(server) as one, (tmp_path / "a.h4mk").open("rb") as file:
        os.fsync(file.fileno())
        for first, last in ((5, 500), (2**20 - 500_000, 2**20 + 400_000)):
            one.ask(URL, f"Range: bytes={first}-{last}")
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert one.ask(URL, f"Range: bytes={first}-{last}")[1] == b"".join(data)[first : last + 1]


def test_cut_short(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 4)
    with running(tmp_path) as server:
        for first, last in ((2**21, 2**21 + 9), (2**21, 2**21 + 900_000)):
            with client(server) as one:
                one.ask(URL, f"Range: bytes={first}-{last}")
                whole = (tmp_path / "a.h4mk").read_bytes()
                os.truncate(tmp_path / "a.h4mk", 2**20)
                one.send(URL, f"Range: bytes={first}-{last}")
                # Cut short is replaced: what is left is walked, and has no whole block.
                assert one.receive()[1] == b""
                (tmp_path / "a.h4mk").write_bytes(whole)
        assert server.get("/health").status == 200


@pytest.mark.parametrize("loop", MAPPING_LOOPS)
def test_cut_short_within_the_last_page(tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """While slices wait for the kernel: what is missing of that page would go out as zero bytes."""
    size = 12 * 2**20
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 12)
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        end = sum(next(iter(reader.extents(size - 1, 1))))
    assert end % 4096 > 1
    with running(tmp_path, loop=loop) as server, ExitStack() as clients:
        clients.enter_context(client(server)).ask(URL, "Range: bytes=0-9")
        until(lambda: server.app[EXPRESS].is_calm(server.loop.time()), "calm")
        for _ in range(50):  # now and then the kernel does not say that a page is there
            one = clients.enter_context(client(server))
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            one.send(URL, f"Range: bytes=0-{size - 1}")
            one.socket.recv(1)
            if server.app[EXPRESS].answered:
                break
        os.truncate(tmp_path / "a.h4mk", end - 1)
        received = b""
        with caplog.at_level(logging.WARNING, "harmony4.server"), suppress(ConnectionError):
            # Slowly, so that the last page is still in the server's hands when it looks.
            while "cut short" not in caplog.text and (piece := one.socket.recv(2**16)):
                received += piece
            while piece := one.socket.recv(2**20):
                received += piece
        assert len(received) < size
        assert b"\0" not in received
    assert "cut short" in caplog.text


@pytest.mark.parametrize("loop", MAPPING_LOOPS)
def test_cut_short_is_told(tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the loop makes of the kernel's EFAULT: it was not the client that left."""
    size = 12 * 2**20
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 12)
    with running(tmp_path, loop=loop) as server, ExitStack() as clients:
        clients.enter_context(client(server)).ask(URL, "Range: bytes=0-9")
        until(lambda: server.app[EXPRESS].is_calm(server.loop.time()), "calm")
        for _ in range(50):  # now and then the kernel does not say that a page is there
            one = clients.enter_context(client(server))
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            before = server.app[EXPRESS].answered
            one.send(URL, f"Range: bytes=0-{size - 1}")
            one.socket.recv(1)
            if server.app[EXPRESS].answered > before:
                break
        os.truncate(tmp_path / "a.h4mk", size // 2)
        received = 1
        with caplog.at_level(logging.WARNING, "harmony4.server"), suppress(ConnectionError):
            while piece := one.socket.recv(2**20):
                received += len(piece)
        assert received < size
        until(lambda: server.app[TALLY].counts["broken|failed"] == 1, "the count")
        assert not server.app[TALLY].counts["broken|left"]
    assert "an answer was broken off: the container was cut short" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_asks_and_never_reads(tmp_path: Path, loop: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 4)
    with running(tmp_path, loop=loop, write_timeout=0.3) as server, client(server) as one:
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.ask(URL, "Range: bytes=0-9")
        one.socket.settimeout(30)
        requests = raw(URL, "Range: bytes=0-999999") * 1000
        with pytest.raises(ConnectionError):
            for _ in range(1000):  # far more than all buffers hold
                one.socket.sendall(requests)


def test_http_client_library(server: Server) -> None:
    """A client that knows nothing of lanes, on one connection."""
    rng = random.Random(8)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    before = lane(server).answered
    for _ in range(200):
        start = rng.randrange(SIZE)
        stop = min(SIZE, start + rng.choice([1, 1000, 60_000]))
        connection.request("GET", URL, headers={"Range": f"bytes={start}-{stop - 1}"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, STREAM[start:stop])
    connection.close()
    assert lane(server).answered - before >= 198


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        (
            b"GET /video/x HTTP/1.1\r\nRange: bytes=1-2\r\nA: b\r\n\r\n",
            (b"GET /video/x HTTP/1.1\r\nRange: bytes=", b"\r\nA: b\r\n\r\n"),
            b"1-2",
        ),
        (
            b"GET /video/seek?pts=12&a=b HTTP/1.1\r\n\r\n",
            (b"GET /video/seek?pts=", b"&a=b HTTP/1.1\r\n\r\n"),
            b"12",
        ),
        (b"GET /video/seek?x_pts=12 HTTP/1.1\r\n\r\n", None, b""),
        (b"GET /media HTTP/1.1\r\n\r\n", None, b""),
        (b"HEAD /video/seek?pts=1 HTTP/1.1\r\n\r\n", None, b""),
        (b"GET /video/" + b"x" * 5000, None, b""),
        (b"", None, b""),
    ],
)
def test_split(data: bytes, key: tuple[bytes, bytes] | None, value: bytes) -> None:
    assert split(data) == (key, value)
