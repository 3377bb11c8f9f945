"""Proxies that are believed, and how many connections and answers one client may have."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from harmony4.server.keys import EXPRESS, TALLY
from harmony4.server.serving.forwarded import Crowd, Proxies
from processes import until
from serving import Server, running, write_container


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        # Whoever is no proxy may write what they like.
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        # What a client invented stands before what the proxies saw.
        ("10.0.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["1.2.3.4", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, 10.0.0.2:80, 10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [", ".join(["10.0.0.9"] * 1000)], "10.0.0.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("not an address", ["203.0.113.7"], "not an address"),
    ],
)
def test_who_is_behind_a_proxy(peer: str, forwarded: list[str], client: str) -> None:
    assert Proxies(["10.0.0.0/8", "::1"]).client(peer, forwarded) == client


def test_nobody_is_believed_unless_named() -> None:
    assert Proxies([]).client("127.0.0.1", ["203.0.113.7"]) == "127.0.0.1"


def test_addresses_that_were_seen_take_bounded_room() -> None:
    proxies = Proxies(["10.0.0.0/8"])
    for number in range(10_000):
        assert proxies.trusts(f"10.0.{number >> 8}.{number & 255}")
    assert len(proxies._known) <= 4096


def test_places_of_a_crowd() -> None:
    crowd = Crowd(2, Proxies(["10.0.0.1"]))
    places = [crowd.enter("203.0.113.7") for _ in range(3)]
    assert places == ["203.0.113.7", "203.0.113.7", None]
    # One subscriber of IPv6 has a network of addresses.
    assert [crowd.enter(f"2001:db8::{n}") is None for n in range(3)] == [False, False, True]
    assert [crowd.enter("10.0.0.1") for _ in range(3)] == ["", "", ""]
    crowd.leave("203.0.113.7")
    assert crowd.enter("203.0.113.7") is not None
    assert Crowd(0, Proxies([])).enter("203.0.113.7") == ""


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=30)


def test_too_many_connections_of_one_address(tmp_path: Path) -> None:
    with running(tmp_path, max_connections_per_client=3) as server:
        line = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        held = [connect(server) for _ in range(3)]
        for one in held:
            one.sendall(line)
            assert one.recv(2**16).startswith(b"HTTP/1.1 200 ")
        with connect(server) as late:
            head, _, body = late.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert head.endswith(b"Content-Length: %d" % len(body))
            assert json.loads(body)["status"] == 429
        assert server.app[TALLY].counts["refused|connections_per_client"] == 1
        for one in held:
            one.close()

        def there_is_room() -> bool:
            with connect(server) as again:
                again.sendall(line)
                return again.recv(2**16).startswith(b"HTTP/1.1 200 ")

        until(there_is_room, "a place that was left")


def test_too_many_answers_for_one_client(tmp_path: Path) -> None:
    listen = b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: %b\r\n\r\n"
    settings = {"max_streams_per_client": 2, "max_streams": 3, "trusted_proxies": ("127.0.0.1",)}
    with running(tmp_path, **settings) as server:

        def begin(client: bytes) -> tuple[socket.socket, bytes]:
            one = connect(server)
            one.sendall(listen % client)
            return one, one.recv(2**16)

        held = [begin(b"203.0.113.7") for _ in range(2)]
        assert all(data.startswith(b"HTTP/1.1 200 ") for _, data in held)
        third, data = begin(b"203.0.113.7")
        assert data.startswith(b"HTTP/1.1 429 ")
        assert b"urn:harmony4:problem:streams" in data
        assert b"Retry-After: " in data
        other, data = begin(b"203.0.113.8")
        assert data.startswith(b"HTTP/1.1 200 ")
        fourth, data = begin(b"203.0.113.9")
        assert data.startswith(b"HTTP/1.1 503 ")
        assert b"urn:harmony4:problem:crowded" in data
        # Whoever watches is answered all the same.
        for target in ("/health", "/ready", "/metrics"):
            assert server.get(target).status == 200
        for one in (*[one for one, _ in held], third, other, fourth):
            one.close()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_log_names_the_client_and_not_the_proxy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 1000])
    request = (
        b"GET /video/range?name=a.h4mk&sig=secret HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\n"
        b"X-Forwarded-For: 203.0.113.7\r\nX-Request-Id: 0123456789\r\n\r\n"
    )
    settings = {"access_log": True, "log_format": log_format, "trusted_proxies": ("127.0.0.0/8",)}
    with running(tmp_path, **settings) as server:
        with connect(server) as one:
            for _ in range(5):
                one.sendall(request)
                data = b""
                while not data.endswith(b"x" * 10):
                    data += one.recv(2**16)
        assert server.app[EXPRESS].answered >= 3
    lines = [line for line in capfd.readouterr().err.splitlines() if "/video/range" in line]
    assert len(lines) == 5
    assert not any("secret" in line for line in lines)
    if log_format == "console":
        assert all(line.startswith("203.0.113.7 - - [") for line in lines)
    else:
        records = [json.loads(line) for line in lines]
        assert {(one["client"], one["status"], one["bytes"]) for one in records} == {("203.0.113.7", 206, 10)}
        assert records[0]["request_id"] == "0123456789"
        assert records[0]["request"] == "GET /video/range?name=a.h4mk&sig=... HTTP/1.1"
        assert records[0]["timestamp"].endswith("Z")


def test_an_express_plan_does_not_lend_its_address(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same bytes from somebody who is no proxy: the log has the address that they came from."""
    write_container(tmp_path / "a.h4mk", [b"x" * 1000])
    line = b"GET /video/range?name=a.h4mk HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\n"
    line += b"X-Forwarded-For: 203.0.113.7\r\n\r\n"
    with running(tmp_path, access_log=True, trusted_proxies=("127.0.0.2",)) as server:
        for source in ("127.0.0.2", "127.0.0.3"):
            with socket.create_connection(server.address, 30, source_address=(source, 0)) as one:
                for _ in range(3):
                    one.sendall(line)
                    data = b""
                    while not data.endswith(b"x" * 10):
                        data += one.recv(2**16)
        assert server.app[EXPRESS].answered >= 4
    lines = [line for line in capfd.readouterr().err.splitlines() if "/video/range" in line]
    assert [one.split()[0] for one in lines] == ["203.0.113.7"] * 3 + ["127.0.0.3"] * 3


def test_what_failed_has_a_name(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        name = server.get("/video/range?name=none.h4mk").headers["X-Request-Id"]
        assert len(name) == 16
        answer = server.get("/video/range?name=none.h4mk", X_Request_Id="from-the-proxy.1")
        assert answer.headers["X-Request-Id"] == "from-the-proxy.1"
        answer = server.get("/video/range?name=none.h4mk", X_Request_Id='"><script>')
        assert answer.headers["X-Request-Id"] not in ('"><script>', name)
        assert "X-Request-Id" not in server.get("/health").headers
