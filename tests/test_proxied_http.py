"""Answers that begin while their request is arriving, behind a proxy: all of it comes, however fast it is."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from masking import ONE, keyring
from needs import needs_nginx
from processes import until
from programs import Proxy, nginx
from serving import LOOPS, Server, running
from test_arriving_http import LINES, OCTETS, duplex, spools

each_loop = pytest.mark.parametrize("loop", LOOPS)
DEPLOYED = (Path(__file__).parents[1] / "deploy" / "nginx.conf").read_text("utf-8")
FROM = "X-Forwarded-For: 192.0.2.7"
RAW = "/video/stream?raw=1&block_size=10000"
MASK = "/audio/mask?format=raw"
MANY = 48 * 2**20
"""Bytes; more than all buffers on the way hold, and sent faster than they are read."""


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(1).randbytes(MANY)


@contextmanager
def front(server: Server, folder: Path) -> Iterator[Proxy]:
    text = DEPLOYED.replace("/var/log/nginx/harmony4.log", str(folder / "access.log"))
    with nginx(folder / "nginx", text, server.address) as proxy:
        yield proxy


def post(address: tuple[str, int], target: str, body: bytes, **headers: str) -> tuple[Any, bytes]:
    """The whole body goes out before a word of the answer is read."""
    line = http.client.HTTPConnection(*address, timeout=60)
    try:
        line.request("POST", target, body, headers={"Host": "localhost", **headers})
        answer = line.getresponse()
        return answer, answer.read()
    finally:
        line.close()


@needs_nginx
@each_loop
def test_tokens_of_much_at_once(tmp_path: Path, loop: str, data: bytes) -> None:
    with running(tmp_path, loop=loop) as server, front(server, tmp_path) as proxy:
        direct = post(server.address, RAW, data, Accept=OCTETS)[1]
        assert len(direct) == 128 * -(-MANY // 10_000)
        for _ in range(3):
            answer, records = post(proxy.address, RAW, data, Accept=OCTETS)
            assert answer.status == 200
            assert records == direct
        until(lambda: not spools(server), "clearing up")


@needs_nginx
def test_masks_of_much_at_once(tmp_path: Path, data: bytes) -> None:
    """As many bytes go back as come: neither side is collected at nginx, and none is forgotten there."""
    master = bytes(range(32)).hex()
    (tmp_path / "open").mkdir()
    with running(tmp_path) as server, front(server, tmp_path / "open") as proxy:
        # nginx says of itself that it was asked without TLS, so the key does not come this way.
        assert post(proxy.address, MASK, data[:1000], **{"Harmony4-Master-Key": master})[0].status == 400
    ring = keyring(tmp_path / "ring", one=ONE)
    with running(tmp_path, keyring=ring) as server, front(server, tmp_path) as proxy:
        answer, masked = post(proxy.address, f"{MASK}&key=one", data)
        assert (answer.status, len(masked)) == (200, MANY)
        salt = {"Harmony4-Salt": answer.headers["Harmony4-Salt"]}
        assert masked != data
        assert post(proxy.address, f"{MASK}&key=one&inverse=1", masked, **salt)[1] == data
        until(lambda: not spools(server), "clearing up")


def test_masks_of_more_than_may_wait(tmp_path: Path, data: bytes) -> None:
    """It is said before the answer begins; who comes without a proxy reads while it sends."""
    ring = keyring(tmp_path / "ring", one=ONE)
    with running(tmp_path, keyring=ring, stream_spill=2**20) as server:
        answer, said = post(server.address, f"{MASK}&key=one", data, **{"X-Forwarded-For": "192.0.2.7"})
        assert answer.status == 507
        assert "stream_spill" in json.loads(said)["detail"]
        until(lambda: not spools(server), "clearing up")


def test_tokens_of_more_than_may_wait(tmp_path: Path, data: bytes) -> None:
    """The same: nobody has left unread what nobody was given."""
    with running(tmp_path, stream_spill=2**20) as server:
        many = f"{RAW[:-5]}1000"
        answer, said = post(server.address, many, data, Accept=OCTETS, **{"X-Forwarded-For": "192.0.2.7"})
        assert answer.status == 507
        assert "stream_spill" in json.loads(said)["detail"]
        until(lambda: not spools(server), "clearing up")


@each_loop
def test_who_sends_slowly_is_answered_meanwhile(tmp_path: Path, loop: str) -> None:
    """And what comes faster then is taken at once: more than the connection and the spill in memory hold."""
    with running(tmp_path, loop=loop) as server, duplex(server, RAW, LINES, FROM) as one:
        one.send(b"x" * 30_000)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        assert next(lines)["data"]["index"] == 0
        for _ in range(64):
            one.send(b"x" * 500_000)
        one.send(b"")
        *tokens, done = lines
        assert [line["data"]["index"] for line in tokens] == list(range(1, 3203))
        assert done["data"]["bytes"] == 32_030_000
        until(lambda: not spools(server), "clearing up")


def test_past_the_bound_the_client_waits(tmp_path: Path) -> None:
    """Nothing is refused because a proxy was fast."""
    with running(tmp_path, stream_spill=2**17) as server, duplex(server, RAW, LINES, FROM) as one:
        one.send(b"x" * 30_000)
        lines = one.lines()
        assert next(lines)["event"] == "meta"
        sending = threading.Thread(target=lambda: [one.send(part) for part in [b"x" * 500_000] * 40 + [b""]])
        sending.start()
        *tokens, done = lines
        sending.join()
        assert (len(tokens), done["data"]["bytes"]) == (2003, 20_030_000)


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/audio/stream", b"no sound at all" * 1000, 422),
        ("/audio/stream?pcm=s16le&rate=8000&channels=2", b"x" * 1001, 422),
        ("/audio/mask?format=raw", b"no key", 400),
    ],
)
def test_what_is_wrong_has_a_status(tmp_path: Path, target: str, body: bytes, status: int) -> None:
    with running(tmp_path) as server:
        direct = post(server.address, target, body)
        proxied = post(server.address, target, body, **{"X-Forwarded-For": "192.0.2.7"})
        assert direct[0].status == proxied[0].status == status
        assert json.loads(direct[1]) == json.loads(proxied[1])


def test_who_leaves_before_the_answer_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        with duplex(server, RAW, LINES, FROM) as one:
            one.send(b"x" * 30_000)
            until(lambda: spools(server), "beginning")
        until(lambda: not spools(server), "clearing up")
