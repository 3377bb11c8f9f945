"""Few descriptors, many containers and connections: all are served, none too many is open, nothing spins."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harmony4.server.serving import descriptors
from limits import needs_rlimit, run_python
from processes import cpu_seconds, needs_proc, served
from serving import LOOPS, write_container

pytestmark = [needs_rlimit, needs_proc]
each_loop = pytest.mark.parametrize("loop", LOOPS)

CONTAINERS = 10_000
FEW = 1000
PAYLOAD = b"0123456789" * 20


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many containers as issue 3 speaks of."""
    return fill(tmp_path_factory.mktemp("library"), CONTAINERS)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So few that reading ahead is over soon, and no longer seen in the processor time of the server."""
    return fill(tmp_path_factory.mktemp("few"), FEW)


def fill(folder: Path, count: int) -> Path:
    """Containers that are one file under many names: to a library each name is a container of its own."""
    write_container(folder / "0000.h4mk", [PAYLOAD])
    for number in range(1, count):
        (folder / f"{number:04}.h4mk").hardlink_to(folder / "0000.h4mk")
    return folder


def open_descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def test_shares() -> None:
    """Containers and connections together never need more than there is."""
    for limit in (256, 1024, 4096, 2**20):
        readers = descriptors.readers_that_fit(limit)
        connections = descriptors.connections_that_fit(limit, readers)
        assert limit // 2 - 64 <= readers * descriptors.PER_READER <= limit // 2
        assert readers * descriptors.PER_READER + connections < limit
        assert descriptors.connections_that_fit(limit, 1) > connections
    assert descriptors.readers_that_fit(0) == 1
    assert descriptors.connections_that_fit(0, 1) == 8


def test_the_limit_is_raised() -> None:
    code = """
import resource
from harmony4.server.serving import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(descriptors.limit(), descriptors.raise_limit(), descriptors.limit())
"""
    assert run_python(code) == "100 200 200\n"


def test_what_says_that_there_are_none() -> None:
    code = """
import errno, os, resource, sys
from harmony4.crypto.errors import SourceError
from harmony4.h4mk import H4MKReader
from harmony4.server.serving import descriptors
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
try:
    while True:
        held.append(H4MKReader(sys.argv[1]))
except SourceError as error:
    found = descriptors.is_exhausted(error)
held.clear()
print(found, descriptors.is_exhausted(SourceError("x")), descriptors.is_exhausted(OSError(errno.EIO, "")))
"""
    assert run_python(code, __file__.replace("test_descriptors.py", "vectors/original-v1.h4mk")) == (
        "True False False\n"
    )


@pytest.mark.parametrize(("loop", "count"), list(zip(LOOPS, (CONTAINERS, 2500), strict=False)))
def test_all_containers_are_served(library: Path, loop: str, count: int) -> None:
    """In random order, with a cache that is set far too large for the descriptors there are.

    What is kept open does not depend on the loop: on the second one a part of the library will do.
    """
    order = random.Random(5).sample(range(CONTAINERS), count)
    order += order[-500:]  # some of them are still open
    with (
        served(library, loop=loop, descriptors=256, HARMONY4_MAX_OPEN="100000") as server,
        server.connect() as line,
    ):
        most = 0
        for turn in range(0, len(order), 20):
            for number in order[turn : turn + 20]:
                line.ask(f"/video/range?name={number:04}.h4mk")
            for _ in order[turn : turn + 20]:
                assert line.answer()[::2] == (200, PAYLOAD)
            most = max(most, open_descriptors(server.process.pid))
        kept = descriptors.PER_READER * descriptors.readers_that_fit(256)
        assert kept <= most < kept + 32
        assert server.stop() == (0, "")


async def test_readers_in_use_leave_room_by_themselves(few: Path) -> None:
    """The limit is lower than the library was told: opening makes room, as long as anything is idle."""
    code = """
import asyncio, os, resource, sys
from pathlib import Path
from harmony4.crypto.errors import SourceError
from harmony4.server.folder.library import Library

async def main():
    library = Library(Path(sys.argv[1]), max_open=10_000)
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(8)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    for number in range(500):
        with await library.open(f"{number:04}.h4mk") as container:
            assert container.reader.read(0, 10) == b"0123456789"
    # Many at once, none of which is pushed out before whoever waits for it has it.
    async def read(number):
        with await library.open(f"{number % 60:04}.h4mk") as container:
            await asyncio.sleep(0)
            assert not container.closed
            return container.reader.read(0, 10) == b"0123456789"
    for _ in range(20):
        assert all(await asyncio.gather(*(read(number) for number in range(24))))
    held = []
    try:
        while True:
            held.append(await library.open(f"{len(held):04}.h4mk"))
    except SourceError:
        pass  # all in use: nothing can make room
    assert library.opened == len(held) > 30
    while held:
        held.pop().__exit__(None, None, None)
    with await library.open("0999.h4mk") as container:
        assert container.reader.read(0, 10) == b"0123456789"
    await library.close()
    print(len(os.listdir("/proc/self/fd")) < 20)

asyncio.run(main())
"""
    assert run_python(code, few) == "True\n"


@each_loop
def test_too_many_connections_wait(few: Path, loop: str) -> None:
    """More connections than there are descriptors: the rest waits in the queue, and is served later."""
    most = descriptors.connections_that_fit(128, descriptors.readers_that_fit(128))
    with served(few, loop=loop, descriptors=128) as server, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(server.connect()) for _ in range(200)]
        for number, line in enumerate(lines):
            line.ask(f"/video/range?name={number:04}.h4mk")
        while lines:
            now, lines = lines[:most], lines[most:]
            assert {line.answer()[::2] for line in now} == {(200, PAYLOAD)}
            assert open_descriptors(server.process.pid) < 128
            if lines:
                before = cpu_seconds(server.process.pid)
                lines[0].socket.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    lines[0].head()  # it waits
                lines[0].socket.settimeout(60)
                assert cpu_seconds(server.process.pid) - before < 0.25
            for line in now:
                line.close()
        status, err = server.stop()
        assert status == 0
        assert "as many connections as there is room for" in err
        assert "Traceback" not in err


EXHAUSTED = """
import asyncio, os, resource, socket, sys, time
from harmony4.server.app import loop_factory
from harmony4.server.serving.acceptor import Acceptor

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        open_now.add(transport)
        transport.write(b"hello")
        self.transport = transport
    def connection_lost(self, error):
        open_now.discard(self.transport)

open_now = set()
relieved = []

async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(
        listener, Echo, connections=open_now, most=10_000, relieve=lambda: relieved.append(1)
    )
    acceptor.start()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)  # its modules are loaded on first use
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(held)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    print(listener.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)  # connections are waiting
    before = time.process_time()
    while len(relieved) < 3:
        await asyncio.sleep(0.01)
    assert not open_now
    assert time.process_time() - before < 0.2
    for one in held:
        os.close(one)
    while len(open_now) < 5:
        await asyncio.sleep(0.01)
    await acceptor.stop()
    print("done", flush=True)

with asyncio.Runner(loop_factory=loop_factory() if sys.argv[1] == "uvloop" else None) as runner:
    runner.run(main())
"""


@each_loop
def test_no_descriptor_for_a_connection(loop: str) -> None:
    """The process has none left at all: the socket stays open, connections wait, and are taken later."""
    command = [sys.executable, "-c", EXHAUSTED, loop]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, **pipes))
        stack.callback(process.kill)
        port = int(process.stdout.readline())
        address = ("127.0.0.1", port)
        clients = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(5)]
        process.stdin.write("go\n")
        process.stdin.flush()
        assert [client.recv(5) for client in clients] == [b"hello"] * 5
        assert process.stdout.readline() == "done\n"
