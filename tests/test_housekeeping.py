"""server/housekeeping.py: whatever goes wrong in one round, there is a next one."""

from __future__ import annotations

import itertools
import logging
import select
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from harmony4.server import housekeeping
from harmony4.server.folder.library import Library
from harmony4.server.keys import LIBRARY
from processes import until
from serving import LOOPS, running, write_container

BAD = 3


@pytest.mark.parametrize("place", [(Library, "let_go"), (housekeeping, "_look_after")])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_bad_round_is_not_the_last(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    loop: str,
    place: tuple[Any, str],
) -> None:
    """Each is logged, and the rounds after them still cut off a client that takes nothing."""
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 24)
    rounds, over = itertools.count(), threading.Event()
    real = getattr(*place)

    def fails_at_first(*arguments: Any) -> Any:
        if next(rounds) < BAD:
            raise RuntimeError("a bad round")
        over.set()
        return real(*arguments)

    monkeypatch.setattr(*place, fails_at_first)
    with (
        caplog.at_level(logging.ERROR, "harmony4.server"),
        running(tmp_path, loop=loop, write_timeout=0.3, stop_timeout=0.1) as server,
    ):
        assert over.wait(20)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
            client.settimeout(30)
            client.connect(server.address)
            client.sendall(b"GET /video/range?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\n\r\n")
            # Without reading: the kernel says that the connection was reset.
            poll = select.poll()
            poll.register(client, 0)
            assert poll.poll(20_000)
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [
        ("a bad round",)
    ] * BAD


def test_what_was_deleted_gives_its_room_back(tmp_path: Path) -> None:
    """A file that is open keeps its bytes on the disk; nobody asks for its name any more."""
    for number in range(40):
        write_container(tmp_path / f"{number}.h4mk", [b"x"])
    with running(tmp_path) as server:
        for number in range(40):
            assert server.get(f"/video/range?name={number}.h4mk").body == b"x"
        assert server.app[LIBRARY].opened == 40
        for number in range(40):
            if number != 7:
                (tmp_path / f"{number}.h4mk").unlink()
        until(lambda: server.app[LIBRARY].opened == 1, "39 containers that are closed")
        assert server.get("/video/range?name=7.h4mk").body == b"x"
