"""POST `/audio/mask` over real sockets: any body through a mask and back, keys that are named or sent."""

from __future__ import annotations

import io
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from harmony4.crypto.mask import MaskSpec, MasterKey, xor_mask
from harmony4.h4mk import H4MKReader, Unmasked, mask_container
from harmony4.server.errors import Problem
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.keys import STATE
from harmony4.server.masking import streams
from harmony4.server.masking.keys import format_key
from harmony4.server.state import State
from harmony4.server.streams import spill
from masking import ONE, STRANGE, TWO, keyring
from media_factory import media
from needs import needs_curl, needs_ffmpeg, needs_nginx
from processes import until
from programs import documented, nginx, run_program
from serving import LOOPS, Answer, Server, running

URL = "/audio/mask?key=films"
RAW = f"{URL}&format=raw"
BODY = random.Random(1).randbytes(3_000_001)
each_loop = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return keyring(tmp_path / "ring", films=ONE, more=TWO)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    return tmp_path / "library"


def post(server: Server, target: str, body: bytes = BODY, **headers: str) -> Answer:
    return server.request(
        "POST", target, {name.replace("_", "-"): text for name, text in headers.items()}, body
    )


def unmasked(data: bytes, *masters: MasterKey, track: int = 0) -> bytes:
    with H4MKReader(data) as reader:
        return Unmasked(reader, masters).read(0, 2**62, track)


def spools(server: Server) -> list[Path]:
    folder = server.app[STATE].path / "spool"
    return list(folder.iterdir()) if folder.exists() else []


class Talk:
    """One request whose body and answer are sent and read at the caller's pace."""

    def __init__(self, server: Server, target: str, *fields: str) -> None:
        self.socket = socket.create_connection(server.address, timeout=30)
        head = [f"POST {target} HTTP/1.1", "Host: localhost", *fields, "Transfer-Encoding: chunked"]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())
        self.answer = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """Without bytes: the end."""
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def head(self) -> dict[str, str]:
        status = self.answer.readline()
        assert status.startswith(b"HTTP/1.1 200"), status + self.answer.read(1000)
        found = {}
        while (field := self.answer.readline()) != b"\r\n":
            assert field, "the head breaks off"
            name, _, value = field.decode().partition(":")
            found[name.lower()] = value.strip()
        return found

    def pieces(self) -> Iterator[bytes]:
        while True:
            line = self.answer.readline()
            if not line:
                raise ConnectionResetError
            size = int(line, 16)
            data = self.answer.read(size)
            self.answer.readline()
            if not size:
                return
            yield data


@contextmanager
def talk(server: Server, target: str, *fields: str) -> Iterator[Talk]:
    one = Talk(server, target, *fields)
    try:
        yield one
    finally:
        one.answer.close()
        one.socket.close()


# -- there and back


@each_loop
@pytest.mark.parametrize("body", [b"", b"x", BODY], ids=["empty", "a byte", "3 MB"])
def test_raw(root: Path, ring: Path, loop: str, body: bytes) -> None:
    with running(root, loop=loop, keyring=ring) as server:
        answer = post(server, RAW, body)
        assert (answer.status, len(answer.body)) == (200, len(body))
        assert answer.headers["Content-Length"] == str(len(body))
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        salt = answer.headers["Harmony4-Salt"]
        assert re.fullmatch("[0-9a-f]{64}", salt)
        assert xor_mask(answer.body, ONE.raw_key(bytes.fromhex(salt))) == body
        back = post(server, f"{RAW}&inverse=1", answer.body, Harmony4_Salt=salt)
        assert (back.status, back.body) == (200, body)
        assert "Harmony4-Salt" not in back.headers
        until(lambda: not spools(server), "clearing up")


@each_loop
@pytest.mark.parametrize("body", [b"", b"x", BODY], ids=["empty", "a byte", "3 MB"])
def test_a_container_and_back(root: Path, ring: Path, loop: str, body: bytes) -> None:
    with running(root, loop=loop, keyring=ring) as server:
        answer = post(server, "/audio/mask?key=films,more&block_size=512KiB", body)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/x-h4mk"
        assert "masked.h4mk" in answer.headers["Content-Disposition"]
        for master in (ONE, TWO):
            assert unmasked(answer.body, master) == body
        with H4MKReader(answer.body) as reader:
            assert reader.trak.mask is not None
            assert reader.trak.mask["mode"] == "random"
        for key in ("?", "?key=more&", f"?key={ONE.id.hex()}&"):
            back = post(server, f"/audio/mask{key}inverse=1", answer.body)
            assert back.status == 200
            with H4MKReader(back.body) as reader:
                assert reader.trak.mask is None
                assert reader.read(0, 2**62) == body
        # What the command line would have made without a mask.
        plain = io.BytesIO()
        export(io.BytesIO(body), plain, ExportOptions(block_size=2**19))
        assert back.body == plain.getvalue()
        until(lambda: not spools(server), "clearing up")


@needs_ffmpeg
@pytest.mark.parametrize("name", ["fragmented.mp4", "moovend.mp4", "plain.webm"])
def test_real_media(root: Path, ring: Path, name: str) -> None:
    data = media(name).read_bytes()
    with running(root, keyring=ring) as server:
        answer = post(server, URL, data)
        assert unmasked(answer.body, ONE) == data
        with H4MKReader(answer.body) as reader:
            assert reader.tracks[0].info.timing == "demux"


def test_no_two_are_alike(root: Path, ring: Path) -> None:
    """Neither salts nor file keys come twice, also where the same bytes are masked at the same time."""
    salts: set[str] = set()
    commits: set[str] = set()
    with running(root, keyring=ring) as server:

        def ask(count: int) -> None:
            for _ in range(count):
                salts.add(post(server, RAW, b"the same").headers["Harmony4-Salt"])
            with H4MKReader(post(server, URL, b"the same").body) as reader:
                assert reader.trak.mask is not None
                commits.add(reader.trak.mask["commit"])

        threads = [threading.Thread(target=ask, args=(50,)) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert (len(salts), len(commits)) == (300, 6)


# -- while it is arriving


@each_loop
def test_the_answer_flows_while_the_body_arrives(root: Path, ring: Path, loop: str) -> None:
    with running(root, loop=loop, keyring=ring) as server:
        with talk(server, RAW) as one:
            one.send(b"first")
            key = ONE.raw_key(bytes.fromhex(one.head()["harmony4-salt"]))
            pieces = one.pieces()
            assert xor_mask(next(pieces), key) == b"first"
            one.send(b"second")
            assert xor_mask(next(pieces), key, 5) == b"second"
            one.send(b"")
            assert list(pieces) == []
        with talk(server, f"{URL}&block_size=64KiB&raw=1") as one:
            for _ in range(4):
                one.send(b"x" * 2**16)
            one.head()
            pieces = one.pieces()
            got = b""
            while len(got) < 2**17:  # two blocks of four: a block needs its successor
                got += next(pieces)
            one.send(b"")
            assert unmasked(got + b"".join(pieces), ONE) == b"x" * 2**18


@each_loop
@pytest.mark.parametrize("form", [RAW, f"{URL}&raw=1"])
def test_a_client_that_reads_only_when_it_has_sent_everything(
    root: Path, ring: Path, loop: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times what all buffers on the way hold, and longer than the time that nobody may take nothing."""
    size, most = 24 * 2**20, 2**20
    monkeypatch.setattr(streams, "_GRACE", 0.05)
    with (
        running(root, loop=loop, keyring=ring, write_timeout=0.5) as server,
        talk(server, form) as one,
    ):
        piece = random.Random(3).randbytes(most)
        started = time.monotonic()
        for _ in range(size // most):
            one.send(piece)
        until(lambda: any((each / "unread").exists() for each in spools(server)), "spilling")
        while time.monotonic() < started + 1:
            one.send(b"y")
        one.send(b"")
        head = one.head()
        got = b"".join(one.pieces())
        if form == RAW:
            got = bytes(xor_mask(got, ONE.raw_key(bytes.fromhex(head["harmony4-salt"]))))
        else:
            got = unmasked(got, ONE)
        assert got[:size] == piece * (size // most)
        assert got[size:].strip(b"y") == b""
        until(lambda: not spools(server), "clearing up")


@each_loop
def test_nothing_goes_to_the_disk_for_a_client_that_reads(
    root: Path, ring: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    async def write(self: spill.Spill, data: bytes) -> None:
        written.append(len(data))
        raise AssertionError("written")

    monkeypatch.setattr(spill.Spill, "_write", write)
    monkeypatch.setattr(streams, "_GRACE", 20)
    with running(root, loop=loop, keyring=ring) as server, talk(server, RAW) as one:

        def send() -> None:
            for _ in range(64):
                one.send(b"z" * 2**20)
            one.send(b"")

        thread = threading.Thread(target=send)
        thread.start()
        one.head()
        assert sum(map(len, one.pieces())) == 64 * 2**20
        thread.join()
    assert not written


# -- what breaks off


@each_loop
@pytest.mark.parametrize("form", [RAW, f"{URL}&raw=1&block_size=4KiB"])
def test_a_body_that_stops_in_the_middle(root: Path, ring: Path, loop: str, form: str) -> None:
    """Never a whole answer: with a length as with chunks the connection breaks off."""
    with running(root, loop=loop, keyring=ring, read_timeout=0.3) as server:
        with talk(server, form) as one:
            one.send(b"x" * 100_000)
            one.head()
            with pytest.raises(ConnectionResetError):
                list(one.pieces())
        with talk(server, form) as one:
            one.send(b"x" * 100_000)
            one.head()
            one.socket.sendall(b"no chunk\r\n")
            with pytest.raises(ConnectionResetError):
                list(one.pieces())
        with talk(server, form) as one:
            one.send(b"x" * 100_000)
            one.head()
            one.socket.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                list(one.pieces())
        with socket.create_connection(server.address, timeout=30) as one_more:
            one_more.sendall(
                f"POST {form} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n".encode()
                + b"x" * 100_000
            )
            got = b""
            with suppress(ConnectionResetError):
                while piece := one_more.recv(2**16):
                    got += piece
            assert got.startswith(b"HTTP/1.1 200")
            assert not got.endswith(b"0\r\n\r\n")
            assert len(got.partition(b"\r\n\r\n")[2]) < 200_000
        # HTTP/1.0 has no chunks: there the end of a connection must not look like the end of an answer.
        with socket.create_connection(server.address, timeout=30) as old:
            head = f"POST {URL}&raw=1&block_size=4KiB HTTP/1.0\r\nContent-Length: 200000\r\n\r\n"
            old.sendall(head.encode() + b"x" * 100_000)
            with pytest.raises(ConnectionResetError):
                while old.recv(2**16):
                    pass
        # Before the first byte there is a problem.
        with talk(server, f"{URL}&raw=1") as one:
            one.send(b"x")
            assert one.answer.readline().startswith(b"HTTP/1.1 408")
        until(lambda: not spools(server), "clearing up")


@each_loop
@pytest.mark.parametrize("form", [RAW, f"{URL}&raw=1&block_size=64KiB", "/audio/mask?inverse=1"])
def test_a_client_that_leaves(root: Path, ring: Path, loop: str, form: str) -> None:
    with running(root, loop=loop, keyring=ring) as server:
        for _ in range(3):
            with talk(server, form) as one:
                for _ in range(20):
                    one.send(b"x" * 100_000)
                if "inverse" not in form:
                    one.head()
        until(lambda: not spools(server), "nothing is left")
        assert post(server, RAW, b"x").status == 200


def test_a_client_that_takes_nothing_and_sends_nothing(root: Path, ring: Path) -> None:
    """It is cut off like every other one; its body has come, so there is nothing to wait for."""
    with running(root, keyring=ring, write_timeout=0.3) as server, talk(server, RAW) as one:
        for _ in range(40):
            one.send(b"x" * 2**20)
        one.send(b"")
        until(lambda: not spools(server), "it is cut off")


@each_loop
@pytest.mark.parametrize("form", [RAW, f"{URL}&raw=1&block_size=64KiB", "/audio/mask?inverse=1"])
def test_a_server_that_stops(root: Path, ring: Path, loop: str, form: str) -> None:
    """It leaves in time, and what it was at breaks off."""
    with running(root, loop=loop, keyring=ring, stop_timeout=0.3) as server:
        one = Talk(server, form)
        for _ in range(10):
            one.send(b"x" * 100_000)
        if "inverse" not in form:
            one.head()
    with pytest.raises((ConnectionResetError, ValueError)):
        list(one.pieces())
    one.socket.close()


def test_what_may_be_left_unread_has_a_bound(root: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_GRACE", 0.05)
    full, write = threading.Event(), spill.Spill._write

    async def watched(self: spill.Spill, data: bytes) -> None:
        try:
            await write(self, data)
        except Problem:
            full.set()
            raise

    monkeypatch.setattr(spill.Spill, "_write", watched)
    with (
        running(root, keyring=ring, stream_spill=2**20) as server,
        talk(server, RAW) as one,
    ):

        def send() -> None:
            with suppress(OSError):
                for _ in range(64):
                    one.send(b"x" * 2**20)

        sender = threading.Thread(target=send)
        sender.start()
        assert full.wait(30)
        with pytest.raises((ConnectionResetError, ValueError)):
            one.head()
            list(one.pieces())
        sender.join()


def test_limits(root: Path, ring: Path) -> None:
    with running(root, keyring=ring, max_upload=2**20, max_uploads_per_client=1) as server:
        assert post(server, RAW).problem == "limit"
        with talk(server, RAW) as one:
            for _ in range(11):
                one.send(b"x" * 100_000)
            one.head()
            with pytest.raises(ConnectionResetError):
                list(one.pieces())
        until(lambda: not spools(server), "clearing up")

        def begins() -> Talk | None:
            """A request that has its place; the one before may give it back a moment after its answer."""
            one = Talk(server, RAW)
            one.send(b"x")
            if one.answer.readline().startswith(b"HTTP/1.1 200"):
                return one
            one.socket.close()
            return None

        held: list[Talk | None] = []
        until(lambda: held.append(begins()) or held[-1] is not None, "a place is free")
        assert post(server, RAW, b"x").problem == "too-many"
        assert held[-1] is not None
        held[-1].socket.close()


# -- containers that are wrong


@each_loop
def test_wrong_containers(root: Path, ring: Path, loop: str) -> None:
    plain, masked, foreign = io.BytesIO(), io.BytesIO(), io.BytesIO()
    export(io.BytesIO(BODY), plain, ExportOptions(raw=True, block_size=2**18))
    with H4MKReader(plain.getvalue()) as reader:
        mask_container(reader, masked, MaskSpec((ONE,)))
        mask_container(reader, foreign, MaskSpec((STRANGE,)))
    inverse = "/audio/mask?inverse=1"
    with running(root, loop=loop, keyring=ring) as server:
        assert post(server, inverse, masked.getvalue()).body == plain.getvalue()
        for target, body, status, problem in (
            (inverse, foreign.getvalue(), 403, "key"),
            (f"{inverse}&key=more", masked.getvalue(), 403, "key"),
            (inverse, plain.getvalue(), 400, "usage"),
            (inverse, b"", 422, "media"),
            (inverse, BODY, 422, "media"),
            (inverse, masked.getvalue()[:-200_000], 400, "usage"),  # not sealed
        ):
            answer = post(server, target, body)
            assert (answer.status, answer.problem) == (status, problem), answer.body
        spoiled = bytearray(masked.getvalue())
        with H4MKReader(masked.getvalue()) as reader:
            rmap = reader.range_map()
            first, last = rmap[0].position, rmap[len(rmap) - 1].position
        spoiled[first] ^= 1
        assert post(server, inverse, bytes(spoiled)).problem == "media"
        spoiled[first] ^= 1
        spoiled[last] ^= 1
        with talk(server, inverse) as one:
            one.send(bytes(spoiled))
            one.send(b"")
            one.head()
            with pytest.raises(ConnectionResetError):
                list(one.pieces())
        until(lambda: not spools(server), "clearing up")


# -- keys


def test_requests_that_make_no_sense(root: Path, ring: Path) -> None:
    salt = "ab" * 32
    with running(root, keyring=ring) as server:
        for target, headers in (
            ("/audio/mask", {}),
            ("/audio/mask?format=raw&inverse=1", {"Harmony4-Salt": salt}),
            ("/audio/mask?key=films&format=zip", {}),
            ("/audio/mask?key=films,more&format=raw", {}),
            ("/audio/mask?key=films,films", {}),
            ("/audio/mask?key=", {}),
            ("/audio/mask?key=films&inverse=2", {}),
            ("/audio/mask?key=films&mode=x", {}),
            ("/audio/mask?key=films&format=raw&title=x", {}),
            ("/audio/mask?key=films&inverse=1&gop=3", {}),
            (f"{RAW}&inverse=1", {}),
            (f"{RAW}&inverse=1", {"Harmony4-Salt": salt[:-1]}),
            (RAW, {"Harmony4-Salt": salt}),
            (URL, {"Harmony4-Master-Key": ONE.reveal().hex()}),
        ):
            answer = server.request("POST", target, headers, b"x")
            assert (answer.status, answer.problem) == (400, "usage"), target
        assert post(server, "/audio/mask?key=nobody").problem == "key"
        assert post(server, f"/audio/mask?key={STRANGE.id.hex()}&format=raw").problem == "key"
        assert server.get(URL).status == 405
    with running(root) as server:
        assert post(server, "/audio/mask?inverse=1").problem == "key"


@pytest.mark.parametrize(
    "text", [STRANGE.reveal().hex(), format_key(STRANGE), STRANGE.reveal().hex().upper()]
)
def test_a_key_that_is_sent(root: Path, text: str) -> None:
    """In a header or in a form, on this machine; nowhere else, whatever somebody says who is no proxy."""
    with running(root, allowed_hosts=("media.example.org",)) as server:
        answer = post(server, "/audio/mask?format=raw", Harmony4_Master_Key=text)
        salt = bytes.fromhex(answer.headers["Harmony4-Salt"])
        assert xor_mask(answer.body, STRANGE.raw_key(salt)) == BODY
        form = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % pair
            for pair in ((b"master_key", text.encode()), (b"format", b"raw"), (b"file", BODY))
        )
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = server.request("POST", "/audio/mask", kind, form + b"--x--\r\n")
        salt = bytes.fromhex(answer.headers["Harmony4-Salt"])
        assert xor_mask(answer.body, STRANGE.raw_key(salt)) == BODY
        key = {"Harmony4-Master-Key": text}
        for more, taken in (
            ({"Host": "media.example.org"}, False),
            ({"Host": "media.example.org", "X-Forwarded-Proto": "http"}, False),
            ({"Host": "media.example.org", "X-Forwarded-Proto": "https"}, False),
            ({"Host": "localhost:1"}, True),
            ({"Host": "[::1]:80"}, True),
            ({"Host": "localhost:1", "X-Forwarded-Proto": "https"}, False),
            ({"X-Forwarded-For": "203.0.113.1"}, False),
            ({"Forwarded": "for=203.0.113.1"}, False),
        ):
            connection = {"Host": "localhost", **more, **key}
            head = "".join(f"{name}: {value}\r\n" for name, value in connection.items())
            head = f"POST /audio/mask?format=raw HTTP/1.1\r\n{head}Connection: close\r\n"
            got = server.raw(f"{head}Content-Length: 1\r\n\r\nx".encode())
            assert got.startswith(b"HTTP/1.1 200" if taken else b"HTTP/1.1 400"), more
            assert taken or b"only taken over TLS" in got
            assert text.encode() not in got
        form_elsewhere = server.request("POST", "/audio/mask", kind | {"Via": "1.1 x"}, form + b"--x--\r\n")
        assert form_elsewhere.problem == "usage"


@needs_nginx
def test_a_key_behind_a_proxy_that_says_nothing(root: Path, tmp_path: Path) -> None:
    """nginx as it comes sends a Host of its own and no word of the client: where a server is made for others
    than this machine, plain HTTP from this machine is not believed to be private."""
    state = State(tmp_path / "state")
    made, token = new_token("test", ["mask"], time.time(), None)
    TokenFile(state).add(made)
    key = {"Harmony4-Master-Key": STRANGE.reveal().hex(), "Authorization": f"Bearer {token}"}
    site = """server { listen 80; location / { proxy_pass http://127.0.0.1:8000; } }
        # /var/cache/nginx/harmony4"""
    with (
        running(root, state=state.path, public_read=True) as server,
        nginx(tmp_path / "n", f"{site}\n", server.address) as proxy,
    ):
        for way in (server, replace(server, url=proxy.url)):
            answer = way.request("POST", "/audio/mask?format=raw", key, b"x")
            assert (answer.status, answer.problem) == (400, "usage")
        told = {**key, "X-Forwarded-Proto": "https"}
        for way in (server, replace(server, url=proxy.url)):
            assert way.request("POST", "/audio/mask?format=raw", told, b"x").problem == "usage"


@needs_nginx
@pytest.mark.parametrize(("scheme", "taken"), [("https", True), ("http", False)])
def test_a_key_behind_a_proxy_that_is_believed(root: Path, tmp_path: Path, scheme: str, taken: bool) -> None:
    """Its word counts, in place of the client's; and nobody else's beside it."""
    key = {"Harmony4-Master-Key": STRANGE.reveal().hex(), "X-Forwarded-Proto": "https"}
    site = f"""server {{ listen 80; location / {{
        proxy_pass http://127.0.0.1:8000;
        proxy_bind 127.0.0.2;
        proxy_set_header X-Forwarded-Proto {scheme}; }} }}
        # /var/cache/nginx/harmony4"""
    with (
        running(root, trusted_proxies=("127.0.0.2",)) as server,
        nginx(tmp_path / "n", f"{site}\n", server.address) as proxy,
    ):
        answer = replace(server, url=proxy.url).request("POST", "/audio/mask?format=raw", key, b"x")
        assert answer.status == (200 if taken else 400)
        assert server.request("POST", "/audio/mask?format=raw", key, b"x").problem == "usage"


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (["https"], True),
        (["HTTPS"], True),
        (["http"], False),
        ([""], False),
        (["http, https"], True),
        (["https, http"], False),
        # A proxy that adds its own field leaves the client's in front of it.
        (["https", "http"], False),
        (["http", "https"], True),
    ],
)
def test_the_last_word_is_the_proxys(root: Path, said: list[str], taken: bool) -> None:
    fields = [("Harmony4-Master-Key", STRANGE.reveal().hex()), *(("X-Forwarded-Proto", one) for one in said)]
    with running(root, trusted_proxies=("127.0.0.1",)) as server:
        answer = server.request("POST", "/audio/mask?format=raw", fields, b"x")
        assert answer.status == (200 if taken else 400)


@each_loop
def test_nothing_says_a_key(
    root: Path, ring: Path, loop: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not the log, not the access log, no answer: whatever is wrong, and wherever somebody puts a key."""
    caplog.set_level(logging.DEBUG)
    secret = STRANGE.reveal().hex()
    answers = []
    with running(root, loop=loop, keyring=ring, access_log=True) as server:
        for target in (
            f"/audio/mask?master_key={secret}",
            f"/audio/mask?master%5Fkey={secret}&format=raw",
            f"/audio/mask?Master_Key={secret}",
            f"/audio/mask?key={secret}",
            f"/audio/mask?key={format_key(STRANGE)}",
            f"/audio/mask?key=films&master_key={secret}",
            f"/audio/mask?key={secret}x",
            f"/audio/mask?format={secret}",
            f"/audio/mask?inverse={secret}&key=films",
            f"/video/export?name=a.h4mk&mask={secret}",
            f"/video/export?name=a.h4mk&master_key={secret}",
            f"/video/range?name=a.h4mk&master_key={secret}",
        ):
            answer = post(server, target, b"x", Referer=f"http://localhost{target}")
            assert answer.status in (400, 403, 404, 405), target
            answers.append(answer)
        in_query = answers[0]
        assert (in_query.status, in_query.problem) == (400, "usage")
        assert "query string" in in_query.json["detail"]
        for header in (secret + "0", secret[:-1], f"h4mk-key-v1:{secret}0", f"h4mk-key-v1-scrypt:{secret}"):
            answers.append(post(server, "/audio/mask", b"x", Harmony4_Master_Key=header))
            assert answers[-1].problem == "key"
        answers.append(post(server, "/audio/mask", b"x", Harmony4_Master_Key=secret))
        answers.append(post(server, "/audio/mask?inverse=1", b"x", Harmony4_Master_Key=secret))
        answers.append(post(server, "/audio/mask?format=raw", b"x", Harmony4_Master_Key=secret))
        assert answers[-1].status == 200
        answers.append(post(server, RAW, b"x"))
    log = capfd.readouterr().err
    assert log.count("POST /audio/mask") >= 12
    assert answers[-1].headers["Harmony4-Salt"] not in log  # no value of any header
    said = [log, caplog.text, *(one.body.decode("latin-1") + str(one.headers) for one in answers)]
    for text in said:
        # Parts of it, too: an echo that is cut off gives most of it away.
        assert not re.search(secret[8:24], text, re.IGNORECASE)
        assert ONE.reveal().hex()[8:24] not in text


def test_scopes(root: Path, ring: Path, tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    def token(*scopes: str) -> dict[str, str]:
        made, text = new_token("test", scopes, time.time(), None)
        TokenFile(state).add(made)
        return {"Authorization": f"Bearer {text}"}

    mask, write, admin = token("mask"), token("write"), token("admin")
    for mode in ("auth", "public_read"):
        with running(root, keyring=ring, state=state.path, **{mode: True}) as server:
            assert post(server, RAW, b"x").status == 401
            refused = server.request("POST", RAW, write, b"x")
            assert (refused.status, refused.problem) == (403, "forbidden")
            assert 'scope="mask"' in refused.headers["WWW-Authenticate"]
            for who in (mask, admin):
                assert server.request("POST", RAW, who, b"x").status == 200


# -- other programs


@needs_curl
@each_loop
def test_curl(root: Path, ring: Path, loop: str, tmp_path: Path) -> None:
    """It sends and reads at the same time, and forms as well."""
    data = random.Random(9).randbytes(40 * 2**20)
    (tmp_path / "in").write_bytes(data)
    with running(root, loop=loop, keyring=ring) as server:
        for way in (
            ("--data-binary", "@in", "-H", "Content-Type: x/y"),
            ("-F", "file=@in"),
            ("-T", "in", "-X", "POST"),
        ):
            url = f"{server.url}{URL}&raw=1"
            run_program("curl", "-sSf", *way, "-o", "masked", url, folder=tmp_path)
            assert unmasked((tmp_path / "masked").read_bytes(), ONE) == data
        run_program(
            "curl",
            "-sSf",
            "-T",
            "masked",
            "-X",
            "POST",
            "-o",
            "out",
            f"{server.url}/audio/mask?inverse=1",
            folder=tmp_path,
        )
        with H4MKReader(tmp_path / "out") as reader:
            assert reader.read(0, 2**62) == data


@needs_nginx
@needs_curl
def test_through_nginx(root: Path, ring: Path, tmp_path: Path) -> None:
    """The example of docs/DEPLOYMENT.md lets the answer flow while the body arrives; the salt passes."""
    example = "".join(documented("## Behind nginx")[1:])
    with (
        running(root, keyring=ring) as server,
        nginx(tmp_path / "nginx", example, server.address) as proxy,
    ):
        through = replace(server, url=proxy.url)
        with talk(through, RAW) as one:
            one.send(b"first")
            key = ONE.raw_key(bytes.fromhex(one.head()["harmony4-salt"]))
            pieces = one.pieces()
            assert xor_mask(next(pieces), key) == b"first"
            one.send(b"second")
            assert xor_mask(next(pieces), key, 5) == b"second"
            one.send(b"")
            assert list(pieces) == []
