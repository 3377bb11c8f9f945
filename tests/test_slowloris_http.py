"""Heads that come a byte at a time and never end: the time for a head is that of all of it, not of a byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Final

import pytest

from processes import until
from serving import LOOPS, running, write_container

TIME: Final = 0.5
"""Seconds that a head may take here."""
WHOLE: Final = b"GET /video/range?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\n\r\n"
BEGIN: Final = WHOLE[:-2]


def bytes_of(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


DRIPS: Final = {
    "the first line": lambda: chain([b"GET /"], repeat(b"a")),
    "a field": lambda: chain(bytes_of(BEGIN + b"X: "), repeat(b"a")),
    "fields": lambda: chain([BEGIN], cycle([b"X-A: b\r\n", b"X-B: c\r\n"])),
    "bytes of fields": lambda: chain(bytes_of(BEGIN), cycle(bytes_of(b"X: y\r\n"))),
    "empty lines before it": lambda: repeat(b"\r\n"),
    "another head": lambda: chain([WHOLE], bytes_of(BEGIN + b"X: "), repeat(b"a")),
    "another head behind a whole one": lambda: chain([WHOLE + b"GET /"], repeat(b"a")),
    "a head with a body": lambda: chain(
        [b"POST /video/seek HTTP/1.1\r\nContent-Length: 9\r\nX: "], repeat(b"a")
    ),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", DRIPS)
def test_a_head_that_drips(tmp_path: Path, loop: str, how: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"one", b"two"])
    with (
        running(tmp_path, loop=loop, read_timeout=TIME) as server,
        socket.create_connection(server.address, timeout=30) as one,
    ):
        one.setblocking(False)
        pieces, said, sent = DRIPS[how](), bytearray(), 0
        began = time.monotonic()

        def ended() -> bool:
            """What has been said is read; as long as it is not the end, another piece is sent."""
            nonlocal sent
            try:
                while piece := one.recv(2**16):
                    said.extend(piece)
            except BlockingIOError:
                one.sendall(next(pieces))
                sent += 1
                return False
            except ConnectionError:  # it was sent into the connection's end
                pass
            return True

        try:
            until(ended, "the connection's end", 20)
        except ConnectionError:
            pass
        assert time.monotonic() - began >= TIME * 0.9
        assert sent > 5
        *answers, last = bytes(said).split(b"HTTP/1.1 ")[1:]
        assert last.startswith(b"408 ")
        assert b"Connection: close" in last
        assert [one[:3] for one in answers] == [b"200"] * how.startswith("another")
        # That was about nobody else.
        assert server.get("/video/range?name=a.h4mk").body == b"onetwo"


@pytest.mark.parametrize("loop", LOOPS)
def test_many_heads_that_drip(tmp_path: Path, loop: str) -> None:
    """Others are answered while they do, and all of them are sent away."""
    write_container(tmp_path / "a.h4mk", [b"one", b"two"])
    with running(tmp_path, loop=loop, read_timeout=TIME) as server:
        slow = [socket.create_connection(server.address, timeout=30) for _ in range(100)]
        for one in slow:
            one.sendall(BEGIN + b"X: ")
            one.setblocking(False)
        left = dict.fromkeys(slow)

        def all_ended() -> bool:
            assert server.get("/video/range?name=a.h4mk").body == b"onetwo"
            for one in list(left):
                try:
                    if one.recv(2**16).startswith(b"HTTP/1.1 408 "):
                        del left[one]
                except BlockingIOError:
                    one.sendall(b"a")
            return not left

        until(all_ended, "the end of the last", 30)
        for one in slow:
            one.close()
