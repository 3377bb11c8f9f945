"""A real server for tests: its own event loop in a thread, a real socket on loopback, real files.

    def test_it(serve, tmp_path):
        write_container(tmp_path / "a.h4mk", [b"one", b"two"])
        with serve(tmp_path) as server:
            assert server.get("/video/range?name=a.h4mk").body == b"onetwo"

`LOOPS` names the event loops to run a test on: the payload takes another path on each. A server whose loop
was blocked
for longer than `BLOCKED` seconds fails the test that stops it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from harmony4.h4mk import H4MKBuilder, Seal, TrackInfo
from harmony4.server import app as server_app
from harmony4.server.config import Config

try:
    import uvloop

    LOOPS: tuple[str, ...] = ("uvloop", "asyncio")
except ImportError:
    LOOPS = ("asyncio",)

_KEEPS_VIEWS: Final = (3, 12, 9) <= sys.version_info < (3, 13) or sys.version_info >= (3, 13, 2)
MAPPING_LOOPS: Final = tuple(loop for loop in LOOPS if loop == "uvloop" or _KEEPS_VIEWS)
"""Loops whose transports keep views of what they could not send, so that they may be given a mapping."""

BLOCKED: Final = 3.0
"""Seconds a callback may take. Generous: the machines that run tests are shared, and a callback that shares
an interpreter with the test's own threads has been seen to take 1.6 s for nothing."""

VIDEO: Final = TrackInfo(codec="h264", kind="video", media_type="video/mp4")


def go(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on one of the event loops, for up to half a minute."""
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), 30))


@dataclass(frozen=True)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The code of a problem; checks that it is a proper one."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        assert self.json["title"]
        return str(self.json["type"]).removeprefix("urn:harmony4:problem:")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    """Without a slash at the end."""
    app: web.Application
    loop: asyncio.AbstractEventLoop
    loop_name: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """One exchange on a connection of its own; target and body are sent as they are.

        With a body a `Content-Length` is added unless `headers` say how long it is.
        """
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            fields = list(headers.items() if isinstance(headers, Mapping) else headers)
            if body is not None and not {"Content-Length", "Transfer-Encoding"} & {
                name for name, _ in fields
            }:
                fields.append(("Content-Length", str(len(body))))
            for name, value in fields:
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, target: str, **headers: str) -> Answer:
        """GET with headers given as `If_None_Match="…"`."""
        return self.request("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})

    def raw(self, data: bytes) -> bytes:
        """Send bytes, return all that comes until the server closes the connection."""
        with socket.create_connection(self.address, timeout=30) as connection:
            connection.sendall(data)
            received = bytearray()
            while piece := connection.recv(2**16):
                received += piece
        return bytes(received)


@contextmanager
def running(library: Path, *, loop: str = LOOPS[0], lying: bool = False, **settings: Any) -> Iterator[Server]:
    """Serve `library` on a free port of 127.0.0.1 until the block is left; `lying`: as a demonstration."""
    app = server_app.create_app(Config(library=library, port=0, **settings), lying=lying)
    listener = socket.create_server(("127.0.0.1", 0))
    started: threading.Event = threading.Event()
    found: dict[str, Any] = {}
    failures: list[BaseException] = []

    async def main() -> None:
        current = asyncio.get_running_loop()
        current.set_debug(True)
        current.slow_callback_duration = BLOCKED
        stop = asyncio.Event()
        found.update(loop=current, stop=stop)

        def ready(url: str) -> None:
            found["url"] = url.rstrip("/")
            started.set()

        await server_app.serve(app, listener, ready=ready, stop=stop)

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
                runner.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    with _slow_callbacks() as slow:
        worker = threading.Thread(target=thread, name="server")
        worker.start()
        assert started.wait(30)
        try:
            if not failures:
                yield Server(found["url"], app, found["loop"], loop)
        finally:
            if "stop" in found and worker.is_alive():
                found["loop"].call_soon_threadsafe(found["stop"].set)
            worker.join(30)
            listener.close()
        if failures:
            raise failures[0]
        assert not worker.is_alive()
    assert not slow, slow


@contextmanager
def _slow_callbacks() -> Iterator[list[str]]:
    """What asyncio (or uvloop) says about callbacks that held up the event loop."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith("Executing "):
                messages.append(text)

    logger = logging.getLogger("asyncio")
    handler = Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def write_container(
    path: Path,
    payloads: Sequence[bytes],
    *,
    info: TrackInfo = VIDEO,
    step: int = 1_000_000,
    key_every: int = 1,
    title: str | None = None,
) -> Seal:
    """A container of one track: block i is at i·`step` µs, every `key_every`-th opens a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with H4MKBuilder.to_path(path, [info], title=title, block=16 * 2**20) as builder:
        for number, payload in enumerate(payloads):
            builder.add_block(payload, number * step, key=number % key_every == 0)
        return builder.finish(ends={0: len(payloads) * step})


def settle(server: Server) -> None:
    """Let the server's loop turn a few times."""

    async def turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(turns(), server.loop).result(30)
