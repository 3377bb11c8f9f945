"""A server that is killed at any moment of an upload leaves nothing half-made behind."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from harmony4.h4mk import verify
from harmony4.server.intake.jobs import ACTIVE
from processes import Served, served, until

MOMENTS = 30
WAYS = ("plain", "chunked", "form")
NOISE = random.Random(9).randbytes(6 * 2**20)


def test_killed_at_thirty_moments(tmp_path: Path) -> None:
    """Uploads by `/video/export`, three at a time: in a form, chunked, plain; SIGKILL at random moments."""
    numbers = random.Random(30)
    kept: set[str] = set()
    complete = 0
    for number in range(MOMENTS):
        with served(tmp_path) as server:
            _swept(server, tmp_path)
            connections = [
                _begin(server, f"{number}-{way}.h4mk", way) for way in ("plain", "chunked", "form")
            ]
            _send(connections, until=time.monotonic() + numbers.uniform(0, 0.25))
            server.process.send_signal(signal.SIGKILL)
            for connection, _ in connections:
                connection.close()
        there = {path.name for path in tmp_path.glob("*.h4mk")}
        assert kept <= there  # what was complete stays
        for name in there - kept:
            assert verify(tmp_path / name).ok, name
            complete += 1
        kept = there
        assert [path for path in tmp_path.iterdir() if path.name not in there] == [tmp_path / ".harmony4"]
    with served(tmp_path) as server:
        _swept(server, tmp_path)
        with server.connect() as line:
            status, body = line.get("/jobs")
        assert status == 200
        states = [job["state"] for job in json.loads(body)["jobs"]]
        assert not ACTIVE.intersection(states)
        assert states.count("done") <= complete
        assert "failed" in states


def _begin(server: Served, name: str, way: str) -> tuple[socket.socket, list[bytes]]:
    """A connection, and the pieces that are still to be sent."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
    head = f"POST /video/export?name={name}&raw=1 HTTP/1.1\r\nHost: localhost\r\n"
    pieces = [NOISE[at : at + 2**18] for at in range(0, len(NOISE), 2**18)]
    if way == "chunked":
        head += "Transfer-Encoding: chunked\r\n\r\n"
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    elif way == "form":
        begin = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        pieces = [begin, *pieces, b"\r\n--b--\r\n"]
        length = sum(map(len, pieces))
        head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    else:
        head += f"Content-Length: {len(NOISE)}\r\n\r\n"
    connection.sendall(head.encode())
    return connection, pieces


def _send(connections: list[tuple[socket.socket, list[bytes]]], until: float) -> None:
    """Piece by piece to each of them; returns at the moment, or where all is sent, a little before it."""
    with suppress(OSError):
        while time.monotonic() < until:
            for connection, pieces in connections:
                if pieces and time.monotonic() < until:
                    connection.sendall(pieces.pop(0))


def _swept(server: Served, library: Path) -> None:
    until(lambda: not list((library / ".harmony4" / "spool").glob("*")), "the spools of the dead are gone")
