"""Requests that two servers may read in two ways (RFC 9112 §11.2), through the real nginx and straight at
ours.

Each one carries a second request for a path of its own. What nginx has not logged as a request, ours must not
have answered: then nobody gets the answer to somebody else's request, and no cache keeps it under a wrong
name.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from needs import ROOT, needs_nginx
from processes import Line, Served, needs_proc, served
from programs import Proxy, nginx
from serving import write_container

pytestmark = [needs_nginx, needs_proc]

FILM: Final = bytes(range(256)) * 2**12
OTHER: Final = b"other" * 2**16
INNER: Final = "GET /smuggled-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST: Final = "POST /video/seek?name=film.h4mk HTTP/1.1\r\nHost: localhost\r\n"
GET: Final = "GET /video/seek?name=film.h4mk&pts=0 HTTP/1.1\r\nHost: localhost\r\n"


def chunked(text: str) -> str:
    return f"{len(text):x}\r\n{text}\r\n0\r\n\r\n"


def attacks(n: int) -> dict[str, str]:
    """By name, requests with a second one, for `/smuggled-{n}`, inside."""
    inner = INNER.format(n=n)
    size = len(inner)
    te = "Transfer-Encoding: chunked"
    tail = f"Content-Length: {size + 5}\r\n\r\n0\r\n\r\n{inner}"
    return {
        # Which of two lengths holds (RFC 9112 §6.3).
        "CL.TE": f"{POST}Content-Length: {size + 5}\r\n{te}\r\n\r\n0\r\n\r\n{inner}",
        "TE.CL": f"{POST}{te}\r\nContent-Length: 4\r\n\r\n{chunked(inner)}",
        "CL.CL": f"{POST}Content-Length: 0\r\nContent-Length: {size}\r\n\r\n{inner}",
        "CL.CL, the long one first": f"{POST}Content-Length: {size}\r\nContent-Length: 0\r\n\r\n{inner}",
        "CL list": f"{POST}Content-Length: 0, {size}\r\n\r\n{inner}",
        "CL list of the same": f"{POST}Content-Length: 0, 0\r\n\r\n{inner}",
        "CL +": f"{POST}Content-Length: +{size}\r\n\r\n{inner}",
        "CL -": f"{POST}Content-Length: -{size}\r\n\r\n{inner}",
        "CL hexadecimal": f"{POST}Content-Length: 0x{size:x}\r\n\r\n{inner}",
        "CL with a point": f"{POST}Content-Length: {size}.0\r\n\r\n{inner}",
        "CL of 2^64": f"{POST}Content-Length: {2**64}\r\n\r\n{inner}",
        "CL with digits of another script": f"{POST}Content-Length: \u0661\r\n\r\n{inner}",
        "CL_": f"{POST}Content_Length: 0\r\nContent-Length: {size}\r\n\r\n{inner}",
        "body of a GET": f"{GET}Content-Length: {size}\r\n\r\n{inner}",
        "chunks of a GET": f"{GET}{te}\r\n\r\n{chunked(inner)}",
        # Names and values that one of them may not see as what they are.
        "TE with a space before the colon": f"{POST}Transfer-Encoding : chunked\r\n{tail}",
        "TE with a tab": f"{POST}Transfer-Encoding:\tchunked\r\n{tail}",
        "TE with a vertical tab": f"{POST}Transfer-Encoding:\x0bchunked\r\n{tail}",
        "TE quoted": f'{POST}Transfer-Encoding: "chunked"\r\n{tail}',
        "TE xchunked": f"{POST}Transfer-Encoding: xchunked\r\n{tail}",
        "TE identity": f"{POST}Transfer-Encoding: identity\r\n{tail}",
        "TE chunked, identity": f"{POST}{te}, identity\r\n{tail}",
        "TE twice": f"{POST}{te}\r\nTransfer-Encoding: x\r\n{tail}",
        "TE twice chunked": f"{POST}{te}\r\n{te}\r\n\r\n0\r\n\r\n{inner}",
        "TE_": f"{POST}Transfer_Encoding: chunked\r\n{tail}",
        "TE behind a name with a space": f"{POST}X y\r\n{te}\r\n{tail}",
        "TE in HTTP/1.0": f"{POST.replace('1.1', '1.0')}{te}\r\n{tail}",
        "TE with a NUL": f"{POST}Transfer-Encoding: chunked\0\r\n{tail}",
        "a NUL in a name": f"{POST}X\0: 1\r\n{te}\r\n{tail}",
        # Where a line ends.
        "obs-fold": f"{POST}X: 1\r\n {te}\r\n{tail}",
        "obs-fold of TE": f"{POST}Transfer-Encoding:\r\n chunked\r\n{tail}",
        "obs-fold at the first line": (
            f"POST / HTTP/1.1\r\n Content-Length: 0\r\nHost: localhost\r\n\r\n{inner}"
        ),
        "bare LF": f"{POST}X: 1\n{te}\r\n{tail}",
        "bare LF everywhere": (f"{POST}Content-Length: {size}\r\n\r\n".replace("\r\n", "\n")) + inner,
        "bare CR": f"{POST}X: 1\r{te}\r\n{tail}",
        "CR CR LF": f"{POST}X: 1\r\r\n{te}\r\n{tail}",
        "LF ends the head": f"{GET}X: 1\n\nGET /smuggled-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        # What a chunk is (RFC 9112 §7.1).
        "a chunk's extension": f"{POST}{te}\r\n\r\n0;x={'a' * 40}\r\n\r\n",
        "an extension with LF": f"{POST}{te}\r\n\r\n1;x\n{inner}0\r\n\r\n",
        "an extension that never ends": f"{POST}{te}\r\n\r\n1;{'a' * 70_000}\r\nx\r\n0\r\n\r\n",
        "a chunk of 2^64": f"{POST}{te}\r\n\r\n10000000000000000\r\n{inner}\r\n0\r\n\r\n",
        "a chunk of 2^63": f"{POST}{te}\r\n\r\n8000000000000000\r\n{inner}\r\n0\r\n\r\n",
        "a chunk of -1": f"{POST}{te}\r\n\r\n-1\r\n{inner}\r\n0\r\n\r\n",
        "a chunk of 0x": f"{POST}{te}\r\n\r\n0x0\r\n\r\n{inner}",
        "a chunk with a _": f"{POST}{te}\r\n\r\n1_0\r\n{inner}",
        "a chunk without its end": f"{POST}{te}\r\n\r\n1\r\nxx0\r\n\r\n{inner}",
        "a chunk that ends with two letters": f"{POST}{te}\r\n\r\n1\r\nxab0\r\n\r\n{inner}",
        "a chunk that ends with LF": f"{POST}{te}\r\n\r\n1\nx\n0\n\n{inner}",
        "trailers": f"{POST}{te}\r\n\r\n0\r\nContent-Length: {size}\r\nX: 1\r\n\r\n",
        "a trailer that splits": f"{POST}{te}\r\n\r\n0\r\nX: 1\n\n{inner}\r\n",
        # Where a request leads.
        "CRLF in the path": (
            f"GET /x%0d%0a%0d%0aGET%20/smuggled-{n}%20HTTP/1.1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ),
        "LF in the query": f"GET /media?x=%0aGET%20/smuggled-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a space in the path": f"GET /x HTTP/1.1 /smuggled-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "CRLF in Host": f"GET /health HTTP/1.1\r\nHost: localhost%0d%0aGET /smuggled-{n}\r\n\r\n",
        "two Hosts": "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "HTTP/0.9": f"GET /smuggled-{n}\r\n\r\n",
        "HTTP/2 preface": f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{inner}",
        "an upgrade": f"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        f"Content-Length: {size}\r\n\r\n{inner}",
        "a tunnel": f"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n{inner}",
        # A body that nobody wants, with something behind it.
        "behind a body that is refused": (
            f"{POST}Content-Type: text/x\r\nContent-Length: {size}\r\n\r\n{inner}"
        ),
        "behind Expect": f"{POST}Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n{inner}",
        "behind another Expect": f"{POST}Expect: 200-ok\r\nContent-Length: {size}\r\n\r\n{inner}",
        "Content-Length in Connection": (
            f"{POST}Connection: Content-Length\r\nContent-Length: {size}\r\n\r\n{inner}"
        ),
        "TE in Connection": f"{POST}Connection: Transfer-Encoding\r\n{te}\r\n\r\n{chunked(inner)}",
    }


NAMES: Final = list(attacks(0))
ANSWERED: Final[dict[str, list[int]]] = {
    # Both read these the same way: what looks like a request is a body, or a name.
    "CL_": [415],
    "TE_": [415],
    "body of a GET": [200],
    "chunks of a GET": [200],
    "an upgrade": [200],
    "CRLF in the path": [404],
    "LF in the query": [200],
    "CRLF in Host": [421],
    "a chunk's extension": [415],
    "behind a body that is refused": [415],
    "behind Expect": [100, 415],
    "behind another Expect": [417],
    "Content-Length in Connection": [415],
    "TE in Connection": [415],
    # Refused before what is wrong with the body has come.
    "an extension that never ends": [415],
    "a chunk of 2^63": [415, 408],
    # These are what they look like: a request, and two requests.
    "HTTP/0.9": [404],
    "a tunnel": [404, 404],
}
"""What the server says to those that it does not refuse as no HTTP (400)."""


@dataclass
class Place:
    """A server, an nginx before it, and what both have logged."""

    server: Served
    proxy: Proxy
    folder: Path

    def ours(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def theirs(self) -> str:
        return (self.folder / "access.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("smuggling")
    write_container(folder / "library" / "film.h4mk", [FILM])
    write_container(folder / "library" / "other.h4mk", [OTHER])
    text = (ROOT / "deploy" / "nginx.conf").read_text("utf-8")
    text = text.replace("/var/log/nginx/harmony4.log", str(folder / "access.log"))
    for name, seconds in (("client_header", 15), ("client_body", 60), ("keepalive", 65)):
        assert f"    {name}_timeout {seconds}s;" in text
        text = text.replace(f"    {name}_timeout {seconds}s;", f"    {name}_timeout 2s;")
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        server = stack.enter_context(
            served(
                folder / "library",
                "--access-log",
                log=log,
                HARMONY4_TRUSTED_PROXIES="127.0.0.1",
                HARMONY4_READ_TIMEOUT="2",
                HARMONY4_KEEPALIVE_TIMEOUT="2",
            )
        )
        proxy = stack.enter_context(nginx(folder / "nginx", text, server.address))
        yield Place(server, proxy, folder)


def send(address: tuple[str, int], data: bytes) -> list[int]:
    """The statuses of all answers that come until the connection is closed."""
    received = b""
    with socket.create_connection(address, timeout=60) as connection:
        try:
            connection.sendall(data)
            while piece := connection.recv(2**16):
                received += piece
        except ConnectionError:
            pass
    return [int(one) for one in re.findall(rb"HTTP/\d\.\d (\d\d\d) ", received)]


@pytest.fixture(scope="module")
def straight(place: Place) -> dict[str, list[int]]:
    """What the server answers to each."""
    return _all_at_once(place.server.address, 2000)


@pytest.fixture(scope="module")
def through(place: Place) -> dict[str, list[int]]:
    """What comes of each through nginx."""
    return _all_at_once(place.proxy.address, 1000)


def _all_at_once(address: tuple[str, int], first: int) -> dict[str, list[int]]:
    """Most of them end with a time-out, of ours or of nginx; waiting for all of them takes no longer."""
    with ThreadPoolExecutor(len(NAMES)) as pool:
        sent = {
            name: pool.submit(send, address, attacks(first + number)[name].encode())
            for number, name in enumerate(NAMES)
        }
        return {name: one.result() for name, one in sent.items()}


def counted(log: str, path: str) -> int:
    """How many requests for a path a log has."""
    return len(re.findall(rf'"[A-Z]+ {re.escape(path)}(?: HTTP/1\.\d)?" \d', log))


def in_step(place: Place) -> None:
    """Whoever comes through nginx now gets the answers to their own requests, many on each connection."""
    for _ in range(3):
        with socket.create_connection(place.proxy.address, timeout=30) as connection:
            for name, data in (("film", FILM), ("other", OTHER)):
                connection.sendall(
                    f"GET /video/range?name={name}.h4mk HTTP/1.1\r\nHost: localhost\r\n"
                    "Range: bytes=5-104\r\n\r\n".encode()
                )
                received = b""
                while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 100:
                    piece = connection.recv(2**16)
                    assert piece, received
                    received += piece
                assert received.startswith(b"HTTP/1.1 206 ")
                assert received.endswith(b"\r\n\r\n" + data[5:105])


@pytest.mark.parametrize("name", NAMES)
def test_through_nginx(place: Place, through: dict[str, list[int]], name: str) -> None:
    number = NAMES.index(name) + 1000
    assert counted(place.ours(), f"/smuggled-{number}") <= counted(place.theirs(), f"/smuggled-{number}")


def test_whoever_comes_after_them(place: Place, through: dict[str, list[int]]) -> None:
    assert through
    in_step(place)


@pytest.mark.parametrize("name", NAMES)
def test_straight_at_the_server(place: Place, straight: dict[str, list[int]], name: str) -> None:
    """What RFC 9112 calls ambiguous is refused, and the connection with it; a body is never a request."""
    number = NAMES.index(name) + 2000
    assert straight[name] == ANSWERED.get(name, [400])
    answered = len([one for one in straight[name] if one not in (100, 408)])
    assert counted(place.ours(), f"/smuggled-{number}") == (answered == 2)


# -- caches


def fetch(place: Place, target: str, *fields: str) -> tuple[int, dict[str, str], bytes]:
    with Line(socket.create_connection(place.proxy.address, timeout=30)) as line:
        line.ask(target, "Connection: close", *fields)
        status, headers = line.head()
        return status, headers, line.body(2**30)


def test_a_cache_keeps_no_answer_under_another_name(place: Place) -> None:
    """Addresses that nginx takes for others, and those that lead to others in the server's eyes."""
    media = json.loads(place.server.get("/media")[1])["items"]
    film, other = (one["range_url"] for one in sorted(media, key=lambda one: one["name"]))
    version = film.partition("v=")[2].partition("&")[0]
    theirs = other.partition("v=")[2].partition("&")[0]
    tricks = [
        film.replace("film.h4mk", "other.h4mk"),  # the other one, under this one's version
        film.replace("?", "%3F"),
        film.replace("/range?", "/range%3F") + f"?name=other.h4mk&v={theirs}",
        f"/video/range/other.h4mk%3Fv={version}?v={theirs}",
        f"/video/range/other.h4mk/../film.h4mk?v={version}",
        f"/video/range/x/..%2fother.h4mk?v={version}",
        f"/video//range?name=film.h4mk&v={version}",
        f"/video/./range?name=other.h4mk&v={version}",
        f"/video/ran%67e?name=other.h4mk&v={version}",
        f"/video/range;x?name=film.h4mk&v={version}",
        f"{film}&name=other.h4mk",
        f"/video/range?name=other.h4mk&v={version}&name=film.h4mk",
        f"{film}#&name=other.h4mk",
        f"{film}%00&name=other.h4mk",
        f"{film}bytes=0-1048575",
        f"http://evil.example{film}",
        f"http://evil.example{other}",
    ]
    for trick in tricks:
        for more in ((), ("Range: bytes=0-99",), ("X-Forwarded-Host: evil.example",), ("X-Original-URL: /",)):
            fetch(place, trick, *more)
    for target, data in ((film, FILM), (other, OTHER)):
        for _ in range(2):
            status, headers, body = fetch(place, target, "Range: bytes=5-104")
            assert (status, body) == (206, data[5:105])
            assert "evil" not in str(headers)
        assert headers["x-cache-status"] == "HIT"
        assert fetch(place, target)[2] == data


@pytest.mark.parametrize(
    "fields",
    [
        ("X-Forwarded-For: 6.6.6.6",),
        ("X-Forwarded-For: 6.6.6.6", "Connection: X-Forwarded-For"),
        ("X-Forwarded-For: 6.6.6.6", "Connection: close, X-Forwarded-For"),
        ("X_Forwarded_For: 6.6.6.6",),
        ("X-Forwarded-For : 6.6.6.6",),
        ("X-Forwarded-For\t: 6.6.6.6",),
        ("x-forwarded-for: 6.6.6.6", "X-FORWARDED-FOR: 6.6.6.6, 127.0.0.1"),
        ("Forwarded: for=6.6.6.6",),
        ("X-Real-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6", "X-Client-IP: 6.6.6.6"),
    ],
)
def test_nobody_lends_themselves_an_address(place: Place, fields: tuple[str, ...]) -> None:
    fetch(place, "/media", *fields)
    assert fetch(place, "/health")[0] == 200  # lines are written in order
    assert "6.6.6.6" not in place.ours()
