"""A crowd of clients that behave, and what they see: for tests of the whole under load.

    seen = asyncio.run(crowd(place.url, films, 20))
    assert not seen.wrong

What they ask for, and how their answers are checked, is in crowd_clients.py. `Talker` is one of them by hand,
where a test must know which connection was whose.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from crowd_clients import CLIENTS, Client, Film, Seen, real_tokens
from needs import ROOT
from processes import Served, served
from programs import Proxy, nginx

SECONDS: Final = float(os.environ.get("SYSTEM_TIME", "120"))
LONG: Final = min(60.0, max(4.0, SECONDS / 10))
"""Seconds that a fault and what is before and after it take."""
P99: Final = float(os.environ.get("SYSTEM_P99", "0.05"))
"""Seconds that 99 of 100 seeks may take at most."""
KINDS: Final = {"range": 108, "seek": 50, "listen": 15, "tokens": 6, "send": 1, "upload": 10, "page": 10}
PAUSE: Final = 0.5
PAUSES: Final = {"send": 8.0}
"""Seconds between two requests of a client, at most. A film starts a process each time."""
OPTIONS: Final = ("--workers", "2", "--access-log")
ENVIRONMENT: Final = {
    "HARMONY4_LOG_FORMAT": "json",
    "HARMONY4_SCRUB_RATE": str(4 * 2**20),
    "HARMONY4_SCRUB_PAUSE": "1",
    "HARMONY4_TRUSTED_PROXIES": "127.0.0.1",
    "HARMONY4_MAX_STREAMS": "5000",
    "HARMONY4_MAX_STREAMS_PER_CLIENT": "5000",
    "HARMONY4_MAX_CONNECTIONS_PER_CLIENT": "5000",
    "HARMONY4_STOP_DELAY": "1",
}


@dataclass
class Place:
    """A server, an nginx before it."""

    server: Served
    url: str
    proxy: Proxy
    log: Path
    """What the server has said."""

    def said(self) -> str:
        """The server's log so far."""
        return self.log.read_text()


@contextmanager
def behind_nginx(library: Path, folder: Path, *options: str, **environment: str) -> Iterator[Place]:
    """Serve a library with two workers behind deploy/nginx.conf until the block is left.

    Its limits are for one client and made wide here: all clients come from one address.
    """
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    text = text.replace("/var/log/nginx/harmony4.log", str(folder / "access.log"))
    for old, new in (
        ("rate=200r/s", "rate=100000r/s"),
        ("burst=800", "burst=100000"),
        ("rate=50r/s", "rate=100000r/s"),
        ("burst=200", "burst=100000"),
        ("limit_conn harmony4_clients 64;", "limit_conn harmony4_clients 10000;"),
    ):
        assert old in text
        text = text.replace(old, new)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        server = stack.enter_context(
            served(library, *OPTIONS, *options, log=log, **(ENVIRONMENT | environment))
        )
        proxy = stack.enter_context(nginx(folder / "nginx", text, server.address, connections=4096))
        yield Place(server, proxy.url, proxy, folder / "log")


async def crowd(
    url: str,
    films: Sequence[Film],
    seconds: float,
    watch: Callable[[], object] = lambda: None,
    kinds: Mapping[str, int] = KINDS,
    clients: Mapping[str, Client] = CLIENTS,
    seen: Seen | None = None,
) -> Seen:
    """All clients at once until the time is over; each pauses between requests.

    `watch` is called once a second, in a thread. `seen`: where what they see goes.
    """
    seen = seen or Seen()
    if "send" in kinds:
        real_tokens()  # takes a while the first time
    clock = asyncio.get_running_loop().time
    until_then = clock() + seconds
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
    ) as session:

        async def live(kind: str, number: int) -> None:
            dice = random.Random(f"{kind} {number}")
            while clock() < until_then:
                await asyncio.sleep(dice.random() * PAUSES.get(kind, PAUSE))
                started = clock()
                seen.heard.discard(asyncio.current_task())
                try:
                    limit = max(0.1, until_then - clock()) if kind == "listen" else 60
                    async with asyncio.timeout(limit):
                        await clients[kind](session, url, dice.choice(films), dice, seen)
                except TimeoutError:
                    # A stream goes on until the time is over; whoever had some must have heard it begin.
                    begun = asyncio.current_task() in seen.heard or clock() - started < 5
                    seen.check(kind == "listen" and begun, f"{kind}: no answer in time")
                except (aiohttp.ClientError, OSError) as error:
                    seen.check(False, f"{kind}: {type(error).__name__} {error}")
                seen.times.setdefault(kind, []).append(clock() - started)
                seen.counts[kind] += 1

        async def look() -> None:
            while clock() < until_then:
                await asyncio.to_thread(watch)
                await asyncio.sleep(1)

        lives = [live(kind, number) for kind, most in kinds.items() for number in range(most)]
        await asyncio.gather(*lives, look())
    return seen


# -- one by hand


class CutError(Exception):
    """A connection ended before the answer did. Its argument is what had come of the body."""


@dataclass
class Reply:
    """An answer that came whole."""

    status: int
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes

    @property
    def problem(self) -> str:
        """The code of a problem, empty for anything else."""
        if not self.headers.get("content-type", "").startswith("application/problem+json"):
            return ""
        return str(json.loads(self.body)["type"]).removeprefix("urn:harmony4:problem:")


class Talker:
    """A client of one connection; another one is opened where the server said that it ends, or it is gone."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.port = 0
        """Ours, of the connection."""
        self.waits = False
        """Whether it has asked and the answer is not whole."""
        self.left = 0
        """Times that a connection was gone when it was to be used again, though nobody had said so."""

    async def get(self, target: str, *fields: str, host: str = "localhost", limit: float = 60) -> Reply:
        """Ask and read the answer. Raises CutError; TimeoutError after `limit` seconds."""
        if self._reader is not None and self._reader.at_eof():
            self.left += 1
            self.close()
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
            self.port = self._writer.get_extra_info("sockname")[1]
        assert self._writer is not None
        body = bytearray()
        self.waits = True
        try:
            async with asyncio.timeout(limit):
                lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
                self._writer.write("\r\n".join(lines).encode())
                head = await self._reader.readuntil(b"\r\n\r\n")
                first, *rest = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
                size = int(headers.get("content-length", "0"))
                while len(body) < size:
                    piece = await self._reader.read(min(size - len(body), 2**16))
                    if not piece:
                        raise CutError(bytes(body))
                    body += piece
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            raise CutError(bytes(body)) from error
        except BaseException:
            self.close()
            raise
        finally:
            self.waits = False
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(int(first.split()[1]), headers, bytes(body))

    async def leave(self) -> None:
        """Close the connection for good."""
        writer = self._writer
        self.close()
        if writer is not None:
            with suppress(OSError):
                await writer.wait_closed()

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def ports(pid: int) -> set[int]:
    """The ports of those whose connections a process has open (proc(5), net/tcp)."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(entry.readlink()))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if f"socket:[{words[9]}]" in sockets:
            found.add(int(words[2].rpartition(":")[2], 16))
    return found


# -- what is measured


def anonymous(pid: int) -> int:
    """Bytes of memory that are a process's own: pages of containers, which are mapped, are the kernel's."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Anonymous:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(values: list[float]) -> float:
    """Change per step, by least squares."""
    middle = (len(values) - 1) / 2
    over = sum((n - middle) ** 2 for n in range(len(values)))
    return sum((n - middle) * value for n, value in enumerate(values)) / over if over else 0.0


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
