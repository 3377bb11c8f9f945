"""server/reading/payload.py: which transports are given a mapping, how few calls it takes to hand it over."""

from __future__ import annotations

import asyncio
import http.client
import random
import socket
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmony4.server.keys import EXPRESS, LIBRARY
from harmony4.server.reading import payload
from harmony4.server.reading.payload import may_map
from harmony4.server.serving.connection import Connection
from processes import until
from serving import MAPPING_LOOPS, Server, running, write_container

MIB = 2**20
BLOCKS = [random.Random(n).randbytes(size) for n, size in enumerate([MIB, 300_000, MIB, MIB, MIB, 70_000])]
STREAM = b"".join(BLOCKS)
URL = "/video/range?name=a.h4mk"

# ---- which transports ------------------------------------------------------------------------------------


def transport(module: str, **extra: object) -> Any:
    """What `may_map` asks a transport for: where its class comes from, and whether something encrypts."""
    body = {"__module__": module, "get_extra_info": lambda self, name, default=None: extra.get(name, default)}
    return type("Transport", (), body)()


@pytest.mark.parametrize(
    ("module", "version", "extra", "expected"),
    [
        ("uvloop.loop", (3, 11, 0), {}, True),
        ("uvloop.loop", (3, 13, 0), {}, True),
        ("uvloop.loop", (3, 14, 0), {"sslcontext": object()}, False),
        ("uvloop.sslproto", (3, 14, 0), {"sslcontext": object()}, False),
        ("uvloops_cousin.loop", (3, 14, 0), {}, False),
        ("asyncio.selector_events", (3, 11, 0), {}, False),
        ("asyncio.selector_events", (3, 11, 14), {}, False),
        ("asyncio.selector_events", (3, 12, 0), {}, False),
        ("asyncio.selector_events", (3, 12, 8), {}, False),
        ("asyncio.selector_events", (3, 12, 9), {}, True),
        ("asyncio.selector_events", (3, 12, 12), {}, True),
        ("asyncio.selector_events", (3, 13, 0), {}, False),
        ("asyncio.selector_events", (3, 13, 1), {}, False),
        ("asyncio.selector_events", (3, 13, 2), {}, True),
        ("asyncio.selector_events", (3, 13, 11), {}, True),
        ("asyncio.selector_events", (3, 14, 0), {}, True),
        ("asyncio.selector_events", (3, 14, 0), {"sslcontext": object()}, False),
        ("asyncio.sslproto", (3, 14, 0), {"sslcontext": object()}, False),
        ("asyncio.proactor_events", (3, 14, 0), {}, False),
    ],
)
def test_transports_that_may_be_given_a_mapping(
    module: str,
    version: tuple[int, int, int],
    extra: dict[str, object],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload, "sys", SimpleNamespace(version_info=(*version, "final", 0)))
    assert may_map(transport(module, **extra)) is expected


# ---- how it is handed over -------------------------------------------------------------------------------


class Watched:
    """A transport, and what is written to it."""

    def __init__(self, real: asyncio.Transport) -> None:
        self._real = real
        self.calls: list[tuple[str, list[Any]]] = []

    def write(self, data: Any) -> None:
        self.calls.append(("write", [data]))
        self._real.write(data)

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.calls.append(("writelines", list(pieces)))
        self._real.writelines(self.calls[-1][1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The transport of each connection, in order."""
    found: list[Watched] = []
    made = Connection.connection_made

    def connection_made(self: Connection, real: asyncio.Transport) -> None:
        kind = type("Watched", (Watched,), {"__module__": type(real).__module__})
        found.append(kind(real))
        made(self, found[-1])

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    return found


def ask(connection: http.client.HTTPConnection, start: int, size: int, **headers: str) -> bytes:
    connection.request("GET", URL, headers={"Range": f"bytes={start}-{start + size - 1}", **headers})
    answer = connection.getresponse()
    body = answer.read()
    assert (answer.status, body) == (206, STREAM[start : start + size])
    return body


def check_pieces(server: Server, pieces: list[Any], start: int, size: int, *, end: bool = True) -> None:
    """They are slices of the mapping, one for each block that is touched, and a copy of its `end`."""
    reader = server.app[LIBRARY]._containers["a.h4mk"].reader
    mapped = [one for one in map(memoryview, pieces) if one.obj is reader.mapping]
    copied = pieces[len(mapped) :]
    assert not any(memoryview(one).obj is reader.mapping for one in copied)
    assert sum(map(len, copied)) < 4096 if end else not copied
    lengths = [length for _, length in reader.extents(start, size)]
    if copied:
        lengths[-1] -= len(copied[-1])
        lengths.append(len(copied[-1]))
    assert [len(piece) for piece in pieces] == lengths


RANGES = [
    (5, 100_000, 1),  # (start, size, blocks that are touched)
    (MIB + 300_000, MIB, 1),
    (MIB - 40_000, 80_000, 2),
    (2 * MIB, MIB, 2),
    (MIB - 500_000, MIB, 3),
]
"""What the express lane sends from the mapping: more than 64 KiB, up to 1 MiB."""

each_loop = pytest.mark.parametrize("loop", MAPPING_LOOPS)


@each_loop
def test_the_express_lane_leaves_the_transport_what_the_kernel_does_not_take(
    tmp_path: Path, loop: str, watched: list[Watched]
) -> None:
    """Slices of the mapping, in one call: the rest of the answer, however much that is."""
    write_container(tmp_path / "a.h4mk", BLOCKS)
    with running(tmp_path, loop=loop) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        ask(connection, 0, 1)  # learned from
        until(lambda: bool(server.app[EXPRESS]._plans), "learning")
        watched[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        left = []
        for number, (start, size, _) in enumerate(RANGES, 1):
            watched[0].calls.clear()
            ask(connection, start, size)
            assert server.app[EXPRESS].answered == number
            for call, pieces in watched[0].calls:
                rest = sum(map(len, pieces))
                assert call == "writelines"
                check_pieces(server, pieces, start + size - rest, rest)
                left.append(rest)
        assert 0 < len(left) <= len(RANGES)
        connection.close()


@each_loop
def test_one_call_in_the_ordinary_lane(tmp_path: Path, loop: str, watched: list[Watched]) -> None:
    """The head goes out before; then all of a range up to 4 MiB at once, the copy of its end, too."""
    write_container(tmp_path / "a.h4mk", BLOCKS)
    with running(tmp_path, loop=loop) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        for number, (start, size, touched) in enumerate(RANGES):
            for one in watched:
                one.calls.clear()
            ask(connection, start, size, **{"X-Lane": str(number)})
            (first, (head,)), (call, pieces) = watched[0].calls
            assert (first, bytes(head[-4:])) == ("write", b"\r\n\r\n")
            assert (call, len(pieces)) == ("writelines", touched + 1)
            check_pieces(server, pieces, start, size)
        assert server.app[EXPRESS].answered == 0
        connection.close()


@each_loop
def test_one_call_for_every_four_mebibytes_of_more(tmp_path: Path, loop: str, watched: list[Watched]) -> None:
    write_container(tmp_path / "a.h4mk", BLOCKS)
    with running(tmp_path, loop=loop) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        start, size = 1000, len(STREAM) - 1000
        ask(connection, start, size)
        _, *calls = watched[0].calls
        most = 4 * MIB
        assert [sum(map(len, pieces)) for _, pieces in calls] == [most] * (size // most) + [size % most]
        for call, pieces in calls:
            taken = sum(map(len, pieces))
            assert call == ("writelines" if len(pieces) > 1 else "write")
            start += taken
            check_pieces(server, pieces, start - taken, taken, end=start == len(STREAM))
        connection.close()
