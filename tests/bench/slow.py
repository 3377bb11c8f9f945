"""Memory of the server while a thousand clients read one large container slowly."""

from __future__ import annotations

import os
import random
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path

from bench.load import status
from bench.measure import Place, Table
from bench.servers import Server, cores, ours
from big_container import build

MEMORY = 300 * 2**20
FLAT = 0.1 * 2**20
"""Bytes a second that the second half may grow by: 6 MiB in a minute."""
PIECE = 32 * 2**10
STEP = 0.5
"""Each client takes so many bytes at most, every so many seconds: a film's bit rate."""
PLANS = ((1000, 10 * 2**10, 60.0), (200, 1024, 10.0), (20, 64, 2.0))
"""Clients, blocks of 1 MiB, seconds."""


def slow(place: Place) -> Table:
    """Samples once a step; what counts is all resident memory, mapped pages of the file included."""
    table, pair = Table(), cores()
    clients, blocks, seconds = PLANS[place.quick]
    if pair is None:
        table.notes.append("Not measured: it needs a second core.")
        return table
    before = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="slow-", dir=place.cache) as folder:
        home = Path(folder)
        library = home / "library"
        library.mkdir()
        made = build(library / "big.h4mk", blocks)
        with ours(library, home, pair[0]) as server:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            # Ours alone: the server has been started with what the machine gives.
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], max(limits[0], 4096)), limits[1]))
            os.sched_setaffinity(0, {pair[1]})
            try:
                idle = server.memory()
                samples, taken = read(server, made.stream, clients, seconds)
            finally:
                os.sched_setaffinity(0, before)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    peak = {key: max(one[key] for _, one in samples) for key in idle}
    half = samples[len(samples) // 2 :]
    slope = statistics.linear_regression([at for at, _ in half], [one["RssAnon"] for _, one in half]).slope
    # Mapped pages come and go in a saw-tooth, which has no slope to speak of: its peaks say whether it grows.
    quarter = len(samples) // 4
    peaks = [
        max(one["VmRSS"] for _, one in samples[at : at + quarter]) for at in range(0, 4 * quarter, quarter)
    ]
    table.add(
        f"peak resident memory, {clients} slow clients in a container of {made.stream / 2**30:.3g} GiB",
        f"{peak['VmRSS'] / 2**20:.0f} MiB",
        "< 300 MiB",
        f"idle: {idle['VmRSS'] / 2**20:.0f} MiB",
        peak["VmRSS"] < MEMORY,
    )
    table.add(
        "its anonymous part",
        f"{peak['RssAnon'] / 2**20:.0f} MiB",
        "",
        f"idle: {idle['RssAnon'] / 2**20:.0f} MiB",
    )
    table.add(
        "growth of the anonymous part in the second half of the time",
        f"{slope / 2**20:+.2f} MiB/s",
        "< 0.1 MiB/s",
        "",
        slope < FLAT,
    )
    shown = ", ".join(f"{one / 2**20:.0f}" for one in peaks)
    table.add("peaks of all resident memory, in each quarter of the time", f"{shown} MiB")
    table.notes.append(
        f"{seconds:.0f} s; each client began at a random place and took up to {PIECE // 1024} KiB every "
        f"{STEP} s: {taken / seconds / 2**20:.0f} MiB/s in all. None was cut off. The container is sparse "
        "(`tests/big_container.py`), its payload a hole that the kernel gives as pages of zeros like others."
    )
    return table


def read(
    server: Server, stream: int, clients: int, seconds: float
) -> tuple[list[tuple[float, dict[str, int]]], int]:
    """Samples of (seconds, memory), and the bytes that came."""
    numbers = random.Random(1)
    sockets: list[socket.socket] = []
    try:
        for _ in range(clients):
            one = socket.socket()
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)  # before the window is agreed upon
            one.settimeout(10)
            one.connect(("127.0.0.1", server.port))
            at = numbers.randrange(stream // 2)
            head = f"GET /video/range?name=big.h4mk HTTP/1.1\r\nHost: localhost\r\nRange: bytes={at}-\r\n\r\n"
            one.sendall(head.encode())
        taken = _begin(sockets)
        began, samples, step = time.monotonic(), [], 0
        while (now := time.monotonic() - began) < seconds:
            samples.append((now, server.memory()))
            taken += sum(map(_some, sockets))
            step += 1
            time.sleep(max(0.0, step * STEP - (time.monotonic() - began)))
        return samples, taken
    finally:
        for one in sockets:
            one.close()


def _begin(sockets: list[socket.socket]) -> int:
    """Wait for every head."""
    taken = 0
    for one in sockets:
        got = one.recv(PIECE)
        if status(got) != 206:
            raise SystemExit(f"error: a slow client got {got[:300]!r}")
        one.setblocking(False)
        taken += len(got)
    return taken


def _some(one: socket.socket) -> int:
    """What is there, up to a piece. Raises SystemExit where the server has left."""
    try:
        got = len(one.recv(PIECE))
    except BlockingIOError:
        return 0
    except ConnectionError as error:
        raise SystemExit(f"error: a slow client was cut off: {error}") from error
    if not got:
        raise SystemExit("error: a slow client was cut off")
    return got
