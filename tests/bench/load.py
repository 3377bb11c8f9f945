"""Asking servers: wrk for rates, one socket for single answers, and files in or out of the page cache."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Server

CONNECTIONS = 8
ROOM = 30
"""Seconds that wrk may take beyond its time, and a single answer at all."""

# Requests are put together in one concatenation: wrk's own `format` takes longer than nginx's answer.
# `response` makes wrk keep every body, so it is defined only where each answer is to be checked.
SCRIPT = """
local heads, spans = {%(heads)s}, {%(spans)s}
local tail, length = %(tail)s, %(length)d
local started, threads = 0, {}
bad = 0

function setup(thread)
  started = started + 1
  thread:set("number", started)
  threads[started] = thread
end

function init(args)
  math.randomseed(%(seed)d * 1000 + number)
end

function request()
  local i = math.random(#heads)
  local at = math.random(0, spans[i])
  if length == 0 then return heads[i] .. at .. tail end
  return heads[i] .. at .. "-" .. (at + length - 1) .. tail
end

if %(check)s then
  function response(status, headers, body)
    if status ~= %(status)d or (length > 0 and #body ~= length) then bad = bad + 1 end
  end
end

function done(summary, latency, requests)
  local sum, e = 0, summary.errors
  for _, thread in ipairs(threads) do sum = sum + thread:get("bad") end
  io.write(string.format("found %%d %%d %%d %%d %%d %%d\\n",
    summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.timeout, e.status, sum))
end
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What one URL can be asked for."""

    path: str
    span: int
    """The greatest number put into a request."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What wrk found."""

    requests: int
    """Answers that were complete."""
    seconds: float
    bytes: int
    """Read, the headers and what came of answers that were not complete at the end included."""
    busy: float
    """Part of its core that the server used meanwhile."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Answers for a second that the server computes: the same where wrk is slower than the server."""
        return self.per_second / max(self.busy, 1e-3)


def wrk_program() -> str | None:
    """Debian's package `wrk`."""
    return shutil.which("wrk")


def drive(
    server: Server,
    targets: Sequence[Target],
    length: int,
    seconds: int,
    seed: int,
    core: int,
    home: Path,
    *,
    check: bool = False,
    connections: int = CONNECTIONS,
    fields: str = "",
) -> Rate:
    """Ask for `length` bytes at random places (0: for `path` with a random number behind it).

    `fields`: more header fields, with their line ends.

    Raises SystemExit where a connection failed or a status was an error; with `check` also where one was not
    206 (200) or a body had another length.
    """
    program = wrk_program()
    assert program is not None
    host = f" HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{fields}"
    heads = [f"GET {one.path}" + (f"{host}Range: bytes=" if length else "") for one in targets]
    text = SCRIPT % {
        "heads": ", ".join(map(json.dumps, heads)),
        "spans": ", ".join(str(one.span) for one in targets),
        "tail": json.dumps("\r\n\r\n" if length else f"{host}\r\n"),
        "length": length,
        "seed": seed,
        "check": "true" if check else "false",
        "status": 206 if length else 200,
    }
    script = home / "wrk.lua"
    script.write_text(text, encoding="ascii")
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s"]
    before = server.cpu()
    done = subprocess.run(
        [*command, os.fspath(script), f"http://127.0.0.1:{server.port}/"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + ROOM,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    used = server.cpu() - before
    found = re.search(r"^found (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"error: wrk: {done.stdout} {done.stderr}")
    requests, micros, read, failed, status, bad = map(int, found.groups())
    if failed or status or bad or not requests:
        raise SystemExit(f"error: {server.name}, {length} bytes of {targets[0].path}: {done.stdout}")
    return Rate(requests, micros / 1e6, read, used / (micros / 1e6))


class Connection:
    """One kept connection, without a library's time between the socket and the clock."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ROOM)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, target: str, headers: str = "") -> bytes:
        """What a GET is on the wire; `headers` with their line ends."""
        return f"GET {target}{self._head}{headers}\r\n".encode("ascii")

    def begin(self, request: bytes) -> tuple[bytes, bytes]:
        """Send; return when the first byte of the body is there: the head, and what came of the body.

        A 304 has none.
        """
        self._socket.sendall(request)
        got = b""
        while True:
            piece = self._socket.recv(2**16)
            if not piece:
                raise SystemExit(f"error: the connection ended within {got[:500]!r}")
            got += piece
            head, found, body = got.partition(b"\r\n\r\n")
            if found and (body or status(head) == 304):
                return head, body

    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send, and read the answer to its end: head and body."""
        head, body = self.begin(request)
        length = 0 if status(head) == 304 else content_length(head)
        pieces, there = [body], len(body)
        while there < length:
            piece = self._socket.recv(2**18)
            if not piece:
                raise SystemExit(f"error: {there} bytes of {length} came")
            pieces.append(piece)
            there += len(piece)
        return head, b"".join(pieces)

    def until(self, pattern: re.Pattern[bytes], seen: bytes) -> None:
        """Read on behind `seen` until the pattern comes."""
        while pattern.search(seen) is None:
            piece = self._socket.recv(2**18)
            if not piece:
                raise SystemExit(f"error: {pattern.pattern!r} never came")
            seen = seen[-64:] + piece


def status(head: bytes) -> int:
    """The status code of an answer."""
    return int(head.split(b" ", 2)[1])


def content_length(head: bytes) -> int:
    """What the head says. Raises SystemExit where it says nothing."""
    found = re.search(rb"^content-length:\s*(\d+)\s*$", head, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise SystemExit(f"error: an answer without a length: {head[:500]!r}")
    return int(found[1])


def warm(paths: Sequence[Path]) -> None:
    """Read files into the page cache."""
    buffer = bytearray(2**20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def chill(path: Path) -> float:
    """Drop a file from the page cache; returns the part of it (0 … 1) that stayed all the same."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what has not been written cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(path)


def resident(path: Path) -> float:
    """Part of a file (0 … 1) that is in the page cache, by mincore(2)."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    flags = (ctypes.c_ubyte * pages)()
    library = ctypes.CDLL(None, use_errno=True)
    library.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    # A private mapping that could be written to, for ctypes; no page of it is touched.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        first = ctypes.c_char.from_buffer(mapping)
        failed = library.mincore(ctypes.addressof(first), size, ctypes.addressof(flags))
        del first
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return bytes(flags).count(1) / pages
