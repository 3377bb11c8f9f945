"""`harmony4 serve` as real processes: the parent, its workers, raw connections.

    with served(tmp_path, "--workers", "2") as server:
        first, second = server.workers()

Workers are found as children of the parent: nothing that the server says names them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import pytest

from commands import HARMONY4, ROOM

needs_proc: Final = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs /proc, to find the workers"
)


def until(condition: Callable[[], bool], what: str, seconds: float = ROOM) -> None:
    """Ask again and again, for what tells nobody that it has happened; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)  # only to leave the processor to those that are waited for


def _stat(pid: int) -> list[str]:
    """State, parent and what follows of a process (proc(5)); empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be counted does not."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def demuxers(*parents: int) -> list[int]:
    """Processes that demux for one of these, which may have died meanwhile."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        # A word names the parent: a demuxer is known by it when it has become somebody else's child.
        program = b"harmony4.server.sandboxing.sandbox_worker"
        ours = program in words and int(words[words.index(program) + 5]) in parents
        if ours and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def workers(self) -> list[int]:
        """The workers that run now, eldest first."""
        found = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal()]
        stats = {pid: _stat(pid) for pid in found}
        mine = {pid: stat for pid, stat in stats.items() if stat and int(stat[1]) == self.process.pid}
        return sorted((pid for pid in mine if mine[pid][0] not in "ZX"), key=lambda pid: int(mine[pid][19]))

    def connect(self, *, small: bool = False) -> Line:
        """A connection; with `small` buffers, so that an answer of some MiB does not fit into them."""
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(ROOM)
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        try:
            connection.connect(self.address)
        except BaseException:
            connection.close()
            raise
        return Line(connection)

    def get(self, target: str) -> tuple[int, bytes]:
        """Status and body, on a connection of its own."""
        with self.connect() as line:
            return line.get(target)

    def refuses(self) -> bool:
        """Whether nobody listens any more."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it was in the queue at the very moment
            return False
        return False

    @contextlib.contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """All other workers stand still, so that new connections are this one's."""
        others = [pid for pid in self.workers() if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: all(_stat(pid)[:1] == ["T"] for pid in others), "the others' standstill")
        try:
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> list[int]:
        """SIGKILL for all of it, the parent first, so that it replaces nobody; returns who they were.

        Not for demuxers, which are to die by themselves.
        """
        pids = [self.process.pid, *self.workers()]
        spared = demuxers(*pids)
        pids = [pid for pid in pids if pid not in spared]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # without its parent it may leave by itself
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, pids)), "the server's death")
        return pids

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and standard error after a signal."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=ROOM)
        return self.process.returncode, err.decode()


class Line:
    """One connection, by hand."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._ahead = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, target: str, *more: str) -> None:
        """Send a GET."""
        self.send("\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *more, "", ""]).encode())

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the next answer. Raises EOFError where none comes."""
        while b"\r\n\r\n" not in self._ahead:
            data = self.socket.recv(2**14)
            if not data:
                raise EOFError(self._ahead)
            self._ahead += data
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in fields}

    def body(self, size: int) -> bytes:
        """So many bytes, fewer at the end of the connection."""
        received = bytearray(self._ahead[:size])
        self._ahead = self._ahead[size:]
        while len(received) < size and (data := self.socket.recv(min(size - len(received), 2**16))):
            received += data
        return bytes(received)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The whole next answer."""
        status, headers = self.head()
        return status, headers, self.body(int(headers["content-length"]))

    def get(self, target: str) -> tuple[int, bytes]:
        """Status and body of one exchange."""
        self.ask(target)
        status, _, body = self.answer()
        return status, body


@contextlib.contextmanager
def served(
    library: Path,
    *arguments: object,
    loop: str = "uvloop",
    descriptors: int | None = None,
    log: IO[bytes] | None = None,
    **environ: str,
) -> Iterator[Served]:
    """`harmony4 serve library …` on a free port until the block is left.

    `loop`: "asyncio" hides uvloop from it. `descriptors` is the hard limit that it gets.
    `log`: where its standard error goes, else into a pipe that holds some lines.
    """
    command = [str(HARMONY4), "serve", str(library), "--port", "0", "--json", *map(str, arguments)]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    paths = [Path(__file__).parent / "hide-uvloop"] if loop == "asyncio" else []
    paths += [Path(environ.pop("path"))] if "path" in environ else []
    env = os.environ | environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log or subprocess.PIPE, env=env)
    server = Served(process, "")
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            raise AssertionError(process.communicate()[1].decode())
        server.url = json.loads(said)["url"]
        yield server
    finally:
        for pid in server.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        process.kill()  # whose workers end by themselves: a test is about that
        process.communicate()
