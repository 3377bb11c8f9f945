"""`/uploads/` over real sockets: every rule of tus 1.0, lost connections, and servers that are killed."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.intake import finishing
from harmony4.server.intake.uploads import Uploads
from harmony4.server.keys import DESK
from harmony4.server.state import State
from media_factory import media
from needs import BUNNY, needs_ffmpeg
from processes import demuxers, needs_proc, served, until
from serving import LOOPS, Answer, Server, running, write_container

VERSION: Final = {"Tus-Resumable": "1.0.0"}
CHUNK: Final = {"Content-Type": "application/offset+octet-stream"}
DATA: Final = BUNNY.read_bytes()


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def metadata(**values: str) -> str:
    return ",".join(f"{key} {b64(value)}" for key, value in values.items())


def ask(url: str, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    """One exchange with a server of either kind, on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    try:
        connection.request(method, target, body, dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


class Client:
    """A client that knows no more than the protocol."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create(self, length: int, /, body: bytes | None = None, **more: str) -> Answer:
        """POST; `more` are headers with `_` for `-`."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        headers = VERSION | {"Upload-Length": str(length)} | ({} if body is None else CHUNK) | headers
        headers.setdefault("Upload-Metadata", metadata(name="a.h4mk"))
        return ask(self.url, "POST", "/uploads/", headers, body)

    def new(self, length: int, **values: str) -> str:
        """The path of a new upload."""
        answer = self.create(length, Upload_Metadata=metadata(**(values or {"name": "a.h4mk"})))
        assert answer.status == 201, answer
        return str(answer.headers["Location"])

    def patch(self, target: str, offset: int, body: bytes, /, **more: str) -> Answer:
        """PATCH; `more` are headers with `_` for `-`."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        headers = VERSION | CHUNK | {"Upload-Offset": str(offset)} | headers
        return ask(self.url, "PATCH", target, headers, body)

    def head(self, target: str) -> Answer:
        return ask(self.url, "HEAD", target, VERSION)

    def offset(self, target: str) -> int:
        answer = self.head(target)
        assert answer.status == 200, answer
        return int(answer.headers["Upload-Offset"])

    def delete(self, target: str) -> Answer:
        return ask(self.url, "DELETE", target, VERSION)

    def job(self, number: str) -> Any:
        return ask(self.url, "GET", f"/jobs/{number}", {}).json

    def ended(self, number: str) -> Any:
        """A job's facts when it has come to its end."""
        until(lambda: self.job(number)["state"] not in ("receiving", "sealing"), "the end of the job")
        return self.job(number)

    @contextmanager
    def sending(self, target: str, offset: int, total: int, **more: str) -> Iterator[socket.socket]:
        """A PATCH of `total` bytes whose head has been sent."""
        fields = (
            VERSION
            | CHUNK
            | {"Upload-Offset": str(offset), "Content-Length": str(total), "Host": "localhost"}
        )
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        with self.connected() as connection:
            connection.sendall(f"PATCH {target} HTTP/1.1\r\n{head}\r\n".encode())
            yield connection

    def connected(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((str(parts.hostname), parts.port), timeout=60)


def arrived(root: Path, target: str) -> int:
    """Bytes of an upload on the disk."""
    return (root / ".harmony4" / "uploads" / f"{target.rpartition('/')[2]}.data").stat().st_size


def kept(root: Path) -> set[str]:
    """The kinds of files that uploads have left."""
    return {path.suffix for path in (root / ".harmony4" / "uploads").iterdir()}


def exported(source: Path, folder: Path, options: ExportOptions | None = None) -> bytes:
    """What `harmony4 export` makes."""
    export(source, folder / "expected.h4mk", options or ExportOptions())
    return (folder / "expected.h4mk").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(BUNNY, tmp_path_factory.mktemp("expected"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "library").mkdir()
    with running(tmp_path / "library", min_free=0, stop_timeout=1) as one:
        yield one


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


# -- what everything has in common


def test_discovery(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running(tmp_path / "other", max_upload=12345) as limited:
        for one, most in ((server, None), (limited, "12345")):
            for target in ("/uploads/", f"/uploads/{'0' * 32}"):
                for headers in ({}, {"Tus-Resumable": "9.9.9"}):
                    answer = one.request("OPTIONS", target, headers)
                    assert (answer.status, answer.body) == (204, b"")
                    assert answer.headers["Tus-Version"] == "1.0.0"
                    assert answer.headers["Tus-Extension"] == (
                        "creation,creation-with-upload,termination,checksum,expiration"
                    )
                    assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
                    assert answer.headers["Tus-Max-Size"] == most


@pytest.mark.parametrize("headers", [{}, {"Tus-Resumable": "0.2.2"}, {"Tus-Resumable": "1.0"}])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
def test_other_versions(client: Client, root: Path, method: str, headers: dict[str, str]) -> None:
    target = "/uploads/" if method == "POST" else client.new(10)
    more = {"Upload-Length": "3", "Upload-Metadata": metadata(name="b.h4mk"), "Upload-Offset": "0", **CHUNK}
    body = b"abc" if method == "PATCH" else None
    answer = ask(client.url, method, target, headers | more, body)
    assert answer.status == 412
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    if method != "HEAD":
        assert answer.problem == "tus-version"
    if method != "POST":
        assert client.offset(target) == 0


def test_every_answer_names_the_version(client: Client) -> None:
    target = client.new(10)
    for method, path, status in (
        ("GET", target, 405),
        ("PUT", target, 405),
        ("GET", "/uploads/", 405),
        ("HEAD", f"/uploads/{'0' * 32}", 404),
        ("DELETE", "/uploads/..%2f..", 404),
        ("POST", target, 405),
        ("GET", "/uploads/a/b", 404),
    ):
        answer = ask(client.url, method, path, VERSION)
        assert (answer.status, answer.headers["Tus-Resumable"]) == (status, "1.0.0"), path
        if method != "HEAD":
            assert answer.problem in ("method", "not-found", "no-route")
    assert ask(client.url, "GET", "/media", {}).headers["Tus-Resumable"] is None


# -- from the first byte to the container


@pytest.mark.parametrize("loop", LOOPS)
def test_an_upload(tmp_path: Path, expected: bytes, loop: str) -> None:
    rng = random.Random(loop)
    with running(tmp_path, loop=loop, min_free=0) as server:
        client = Client(server.url)
        answer = client.create(
            len(DATA), Upload_Metadata=metadata(filename="Big Buck.mp4", filetype="video/mp4")
        )
        target = answer.headers["Location"]
        assert (answer.status, answer.body) == (201, b"")
        assert target.startswith("/uploads/")
        assert answer.headers["Upload-Offset"] == "0"
        offset, number = 0, None
        while offset < len(DATA):
            seen = client.head(target)
            assert seen.status == 200
            assert seen.headers["Upload-Offset"] == str(offset)
            assert seen.headers["Upload-Length"] == str(len(DATA))
            assert seen.headers["Upload-Metadata"] == metadata(filename="Big Buck.mp4", filetype="video/mp4")
            assert seen.headers["Cache-Control"] == "no-store"
            assert seen.headers["Upload-Expires"].endswith(" GMT")
            assert seen.headers["Harmony4-Job"] is None
            piece = DATA[offset : offset + rng.choice([0, 1, 1000, 300_000])]
            answer = client.patch(target, offset, piece)
            assert (answer.status, answer.body) == (204, b"")
            assert "Upload-Expires" in answer.headers
            offset += len(piece)
            assert answer.headers["Upload-Offset"] == str(offset)
            number = answer.headers["Harmony4-Job"]
            assert (number is None) == (offset < len(DATA))
        assert number is not None
        job = client.ended(number)
        assert (job["state"], job["name"], job["size"]) == ("done", "Big Buck.h4mk", len(DATA))
        assert job["result"]["name"] == "Big Buck.h4mk"
        assert (tmp_path / "Big Buck.h4mk").read_bytes() == expected
        until(lambda: kept(tmp_path) == {".json", ".lock"}, "the removal of the bytes")
        # It still answers, and takes no more.
        seen = client.head(target)
        assert seen.headers["Upload-Offset"] == str(len(DATA))
        assert seen.headers["Harmony4-Job"] == number
        assert client.patch(target, len(DATA), b"").status == 204
        assert client.patch(target, 0, b"").problem == "offset"
        assert client.patch(target, len(DATA), b"x").problem == "limit"
        assert client.delete(target).status == 204
        assert client.head(target).status == 404
        assert kept(tmp_path) == set()
        assert (tmp_path / "Big Buck.h4mk").exists()


@needs_ffmpeg
def test_a_large_upload(client: Client, root: Path, tmp_path: Path) -> None:
    source = media("large.mp4")
    data = source.read_bytes()
    target = client.new(len(data), name="a/large.h4mk")
    half = len(data) // 2
    assert client.patch(target, 0, data[:half]).status == 204
    number = client.patch(target, half, data[half:]).headers["Harmony4-Job"]
    assert client.ended(number)["state"] == "done"
    assert (root / "a" / "large.h4mk").read_bytes() == exported(source, tmp_path)


def test_options_of_the_export(client: Client, root: Path, tmp_path: Path) -> None:
    values = {"block_size": "4KiB", "raw": "1", "fps_hint": "24", "gop": "12", "title": "Ein Täg"}
    answer = client.create(len(DATA), DATA, Upload_Metadata=metadata(name="a.h4mk", **values))
    assert client.ended(answer.headers["Harmony4-Job"])["state"] == "done"
    options = ExportOptions(block_size=4096, raw=True, fps_hint=24, gop=12, title="Ein Täg")  # type: ignore[arg-type]
    assert (root / "a.h4mk").read_bytes() == exported(BUNNY, tmp_path, options)


def test_nothing_at_all(client: Client, root: Path, tmp_path: Path) -> None:
    """An upload of no bytes is complete when it is made."""
    answer = client.create(0)
    assert answer.status == 201
    assert client.ended(answer.headers["Harmony4-Job"])["state"] == "done"
    (tmp_path / "empty").touch()
    assert (root / "a.h4mk").read_bytes() == exported(tmp_path / "empty", tmp_path)


def test_creation_with_upload(client: Client, root: Path, expected: bytes) -> None:
    answer = client.create(len(DATA), DATA[:1000])
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, "1000")
    target = answer.headers["Location"]
    assert client.offset(target) == 1000
    number = client.patch(target, 1000, DATA[1000:]).headers["Harmony4-Job"]
    assert client.ended(number)["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected
    named = metadata(name="b.h4mk")
    for body, headers, status, code in (
        (b"abc", {"Upload_Checksum": f"sha1 {b64(bytes(20))}"}, 460, "upload-checksum"),
        (b"abcdef", {}, 413, "limit"),
        (b"abc", {"Content_Type": "text/plain"}, 415, "content-type"),
    ):
        answer = client.create(5, body, Upload_Metadata=named, **headers)
        assert (answer.status, answer.problem) == (status, code)
    assert kept(root) <= {".json", ".lock"}
    right = f"sha1 {b64(hashlib.sha1(b'abc').digest())}"
    answer = client.create(5, b"abc", Upload_Metadata=named, Upload_Checksum=right)
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, "3")


def test_only_post(client: Client, root: Path, expected: bytes) -> None:
    """X-HTTP-Method-Override."""

    def post(target: str, method: str, body: bytes | None = None, **more: str) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        return ask(client.url, "POST", target, VERSION | {"X-HTTP-Method-Override": method} | headers, body)

    assert post("/uploads/", "OPTIONS").headers["Tus-Version"] == "1.0.0"
    more = {"Upload_Length": str(len(DATA)), "Upload_Metadata": metadata(name="a.h4mk")}
    target = post("/uploads/", "POST", **more).headers["Location"]
    assert (
        post(
            target, "patch", DATA[:5], Upload_Offset="0", **{k.replace("-", "_"): v for k, v in CHUNK.items()}
        ).status
        == 204
    )
    answer = post(target, "HEAD")
    assert (answer.status, answer.headers["Upload-Offset"]) == (200, "5")
    assert post(target, "OPTIONS").status == 204
    answer = post(target, "PATCH", DATA[5:], Upload_Offset="5", Content_Type=CHUNK["Content-Type"])
    assert client.ended(answer.headers["Harmony4-Job"])["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected
    for method in ("GET", "PUT", "POST", "x"):
        answer = post(target, method)
        assert (answer.status, answer.problem) == (405, "method")
        assert "PATCH" in answer.headers["Allow"]
    answer = post("/uploads/", "PATCH")
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS,POST")
    assert post(target, "DELETE").status == 204


# -- refused


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload-Length": None}, 400, "usage"),
        ({"Upload-Length": "-1"}, 400, "usage"),
        ({"Upload-Length": "ten"}, 400, "usage"),
        ({"Upload-Length": str(2**63)}, 400, "usage"),
        ({"Upload-Length": None, "Upload-Defer-Length": "1"}, 400, "usage"),
        ({"Upload-Concat": "partial"}, 400, "usage"),
        ({"Upload-Metadata": None}, 400, "usage"),
        ({"Upload-Metadata": "name"}, 400, "usage"),
        ({"Upload-Metadata": "name !"}, 400, "usage"),
        ({"Upload-Metadata": metadata(name="../a.h4mk")}, 400, "usage"),
        ({"Upload-Metadata": metadata(name="a.mp4")}, 400, "usage"),
        ({"Upload-Metadata": metadata(name="b.h4mk", gop="many")}, 400, "usage"),
        ({"Upload-Metadata": metadata(name="b.h4mk", raw="maybe")}, 400, "usage"),
        ({"Upload-Checksum": "md5 AAAA"}, 400, "usage"),
        ({"Upload-Metadata": metadata(name="a.h4mk")}, 409, "exists"),
        ({"Upload-Metadata": metadata(filename="a.mp4")}, 409, "exists"),
        ({"Upload-Metadata": metadata(name="a.h4mk"), "If-Match": '"other"'}, 412, "precondition"),
        ({"If-Match": "*"}, 412, "precondition"),
        ({"Upload-Length": "1000001"}, 413, "limit"),
        ({"Upload-Length": "900000"}, 507, "full"),
        ({"Upload-Length": "300000"}, 507, "full"),  # media and container beside each other
    ],
)
def test_creation_refused(tmp_path: Path, headers: dict[str, str | None], status: int, code: str) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    usual = VERSION | {"Upload-Length": "10", "Upload-Metadata": metadata(name="b.h4mk")}
    asked = {name: value for name, value in (usual | headers).items() if value is not None}
    with running(tmp_path, max_upload=10**6, quota=500_000, min_free=0) as server:
        answer = ask(server.url, "POST", "/uploads/", asked)
        assert (answer.status, answer.problem) == (status, code)
        assert ("Retry-After" in answer.headers) == (status == 507)
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert str(tmp_path).encode() not in answer.body
    assert list((tmp_path / ".harmony4").glob("uploads/*")) == []


def test_a_full_disk(tmp_path: Path) -> None:
    with running(tmp_path, min_free=2**62) as server:
        answer = Client(server.url).create(10)
        assert (answer.status, answer.problem) == (507, "full")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload-Offset": None}, 400, "usage"),
        ({"Upload-Offset": "-3"}, 400, "usage"),
        ({"Upload-Checksum": "sha1"}, 400, "usage"),
        ({"Upload-Checksum": f"crc32 {b64(bytes(4))}"}, 400, "usage"),
        ({"Upload-Offset": "0"}, 409, "offset"),
        ({"Upload-Offset": "4"}, 409, "offset"),
        ({"Content-Type": "application/octet-stream"}, 415, "content-type"),
        ({"Content-Type": None}, 415, "content-type"),
        ({"Content-Encoding": "gzip"}, 415, "content-type"),
        ({"Upload-Checksum": f"sha256 {b64(bytes(32))}"}, 460, "upload-checksum"),
    ],
)
def test_bytes_refused(
    client: Client, root: Path, headers: dict[str, str | None], status: int, code: str
) -> None:
    target = client.new(10)
    client.patch(target, 0, b"abc")
    asked = {k: v for k, v in (VERSION | CHUNK | {"Upload-Offset": "3"} | headers).items() if v is not None}
    answer = ask(client.url, "PATCH", target, asked, b"def")
    assert (answer.status, answer.problem) == (status, code)
    assert answer.headers["Upload-Offset"] == ("3" if code == "offset" else None)
    assert (client.offset(target), arrived(root, target)) == (3, 3)
    assert client.patch(target, 3, b"defg").headers["Upload-Offset"] == "7"


def test_twice_the_same_header(client: Client, server: Server) -> None:
    target = client.new(10)
    fields = [*VERSION.items(), *CHUNK.items(), ("Upload-Offset", "0"), ("Upload-Offset", "0")]
    assert server.request("PATCH", target, fields, b"abc").problem == "usage"


def test_a_query_means_nothing(client: Client, root: Path, expected: bytes) -> None:
    """What becomes of an upload is in its metadata; proxies and pages may add to an address."""
    target = client.new(len(DATA))
    assert client.patch(f"{target}?from=page", 0, DATA).status == 204
    until(lambda: (root / "a.h4mk").exists(), "the container")
    assert (root / "a.h4mk").read_bytes() == expected


def test_more_than_it_has(client: Client, root: Path) -> None:
    """Said in front or only seen when it comes: no byte beyond the length."""
    target = client.new(5)
    assert client.patch(target, 0, b"abcdef").problem == "limit"
    assert client.offset(target) == 0
    fields = VERSION | CHUNK | {"Upload-Offset": "0", "Transfer-Encoding": "chunked", "Host": "localhost"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with client.connected() as connection:
        connection.sendall(f"PATCH {target} HTTP/1.1\r\n{head}\r\n3\r\nabc\r\n".encode())
        until(lambda: arrived(root, target) == 3, "the arrival of three bytes")
        connection.sendall(b"3\r\ndef\r\n0\r\n\r\n")
        assert b" 413 " in connection.recv(100)
    assert (client.offset(target), arrived(root, target)) == (3, 3)


def test_more_than_it_has_behind_the_last_byte(client: Client, root: Path, expected: bytes) -> None:
    """It is refused, and what belongs to the upload becomes a container."""
    target = client.new(len(DATA))
    client.patch(target, 0, DATA[:-3])
    fields = VERSION | CHUNK | {"Upload-Offset": str(len(DATA) - 3), "Host": "localhost"}
    fields["Transfer-Encoding"] = "chunked"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with client.connected() as connection:
        rest = DATA[-3:]
        connection.sendall(f"PATCH {target} HTTP/1.1\r\n{head}\r\n3\r\n".encode() + rest + b"\r\n")
        until(lambda: arrived(root, target) == len(DATA), "the arrival of the last byte")
        connection.sendall(b"3\r\nxyz\r\n0\r\n\r\n")
        assert b" 413 " in connection.recv(100)
    number = client.head(target).headers["Harmony4-Job"]
    assert client.ended(number)["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected


def test_a_client_that_leaves_after_the_last_byte(client: Client, root: Path, expected: bytes) -> None:
    """It need not hear the answer."""
    target = client.new(len(DATA))
    with client.sending(target, 0, len(DATA)) as connection:
        connection.sendall(DATA)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    offset = client.offset(target)  # a reset may take with it what nobody has read
    if offset < len(DATA):
        client.patch(target, offset, DATA[offset:])
    assert client.ended(client.head(target).headers["Harmony4-Job"])["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected


def test_who_waits_for_a_word(client: Client) -> None:
    """`Expect: 100-continue`: the bytes are asked for only where they are taken."""
    target = client.new(10)
    for offset, word in ((3, b"HTTP/1.1 409 "), (0, b"HTTP/1.1 100 Continue\r\n\r\n")):
        with client.sending(target, offset, 3, Expect="100-continue") as connection:
            assert connection.recv(100).startswith(word)
            if offset == 0:
                connection.sendall(b"abc")
                assert connection.recv(100).startswith(b"HTTP/1.1 204 ")
    assert client.offset(target) == 3


# -- checksums


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums(client: Client, root: Path, expected: bytes, algorithm: str) -> None:
    target = client.new(len(DATA))
    answer = None
    for start, stop in ((0, 1), (1, 700_000), (700_000, len(DATA))):
        piece = DATA[start:stop]
        wrong = f"{algorithm} {b64(hashlib.new(algorithm, piece + b'x').digest())}"
        answer = client.patch(target, start, piece, Upload_Checksum=wrong)
        assert (answer.status, answer.problem) == (460, "upload-checksum")
        assert (client.offset(target), arrived(root, target)) == (start, start)
        right = f"{algorithm} {b64(hashlib.new(algorithm, piece).digest())}"
        answer = client.patch(target, start, piece, Upload_Checksum=right)
        assert answer.headers["Upload-Offset"] == str(stop)
    assert answer is not None
    assert client.ended(answer.headers["Harmony4-Job"])["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected


def test_a_chunk_with_checksum_breaks_off(client: Client, root: Path) -> None:
    """It counts whole or not at all."""
    target = client.new(100)
    client.patch(target, 0, b"abc")
    right = f"sha1 {b64(hashlib.sha1(b'x' * 50).digest())}"
    with client.sending(target, 3, 50, Upload_Checksum=right) as connection:
        connection.sendall(b"x" * 30)
        until(lambda: arrived(root, target) == 33, "the arrival of thirty bytes")
        assert client.offset(target) == 3
    until(lambda: arrived(root, target) == 3, "the end of the chunk")
    assert client.patch(target, 3, b"x" * 50, Upload_Checksum=right).status == 204
    assert client.offset(target) == 53


# -- lost connections


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection(client: Client, root: Path, expected: bytes, reset: bool) -> None:
    """What has arrived is kept, however often the connection is lost."""
    target = client.new(len(DATA))
    rng, offset = random.Random(reset), 0
    for _ in range(5):
        size = rng.randrange(1, 150_000)
        with client.sending(target, offset, len(DATA) - offset) as connection:
            connection.sendall(DATA[offset : offset + size])
            until(lambda wanted=offset + size: arrived(root, target) == wanted, "their arrival")  # type: ignore[misc]
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        offset += size
        assert client.offset(target) == offset
    number = client.patch(target, offset, DATA[offset:]).headers["Harmony4-Job"]
    assert client.ended(number)["state"] == "done"
    assert (root / "a.h4mk").read_bytes() == expected


def test_a_silent_client(tmp_path: Path) -> None:
    with running(tmp_path, read_timeout=0.3, min_free=0, stop_timeout=0.1) as server:
        client = Client(server.url)
        target = client.new(10)
        with client.sending(target, 0, 10) as connection:
            connection.sendall(b"abc")
            assert b" 408 " in connection.recv(100)
        assert client.offset(target) == 3


def test_two_at_once(client: Client, root: Path) -> None:
    """The second is told that there is another one, and changes nothing; nor does a deletion."""
    target = client.new(100)
    with client.sending(target, 0, 100) as connection:
        connection.sendall(b"abc")
        until(lambda: arrived(root, target) == 3, "the arrival of three bytes")
        answer = client.patch(target, 3, b"xyz")
        assert (answer.status, answer.problem) == (423, "locked")
        assert answer.headers["Retry-After"] == "1"
        connection.sendall(b"d")
        answer = client.delete(target)
        assert (answer.status, answer.problem) == (423, "locked")
        connection.sendall(b"e" * 96)
        assert connection.recv(100).startswith(b"HTTP/1.1 204 ")
    assert client.patch(target, 100, b"").status == 204


def test_a_dead_connection_makes_way(client: Client, root: Path) -> None:
    """A client that comes back by another way need not wait for the time-out of its old connection."""
    target = client.new(100)
    with client.sending(target, 0, 100) as connection:
        connection.sendall(b"abc")
        until(lambda: arrived(root, target) == 3, "the arrival of three bytes")
        assert client.offset(target) == 3
        until(lambda: client.patch(target, 3, b"def").status == 204, "the end of the dead connection")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert client.offset(target) == 6


# -- the end of an upload


def test_termination(client: Client, root: Path) -> None:
    target = client.new(10)
    client.patch(target, 0, b"abc")
    answer = client.delete(target)
    assert (answer.status, answer.body) == (204, b"")
    assert kept(root) == set()
    assert client.head(target).status == 404
    assert client.patch(target, 3, b"def").problem == "not-found"
    assert client.delete(target).problem == "not-found"


def test_expiry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since the last byte; then it is gone, and what it had on the disk."""
    monkeypatch.setattr(finishing, "_SWEEP", 0.05)
    with running(tmp_path, upload_ttl=2, min_free=0) as server:
        client = Client(server.url)
        target, other = client.new(100_000), client.new(10)
        sent = 0

        def gone() -> bool:
            nonlocal sent
            assert client.patch(target, sent, b"x").status == 204
            sent += 1
            return client.head(other).status == 404

        until(gone, "the expiry of what gets no bytes")
        assert client.offset(target) == sent
        until(lambda: client.head(target).status == 404, "the expiry")
        assert client.patch(target, 9, b"x").problem == "not-found"
        until(lambda: kept(tmp_path) == set(), "the removal of the files")


def test_media_that_cannot_be_read(client: Client, root: Path) -> None:
    broken = DATA[:40] + bytes(len(DATA) - 40)
    target = client.new(len(broken))
    number = client.patch(target, 0, broken).headers["Harmony4-Job"]
    job = client.ended(number)
    assert job["state"] == "failed"
    assert job["problem"]["type"] == "urn:harmony4:problem:media"
    until(lambda: kept(root) == {".json", ".lock"}, "the removal of the bytes")
    assert client.offset(target) == len(broken)
    assert client.head(target).headers["Harmony4-Job"] == number
    assert list(root.glob("*.h4mk")) == []


def test_the_name_is_taken_meanwhile(client: Client, root: Path) -> None:
    target = client.new(len(DATA))
    write_container(root / "a.h4mk", [b"x"])
    before = (root / "a.h4mk").read_bytes()
    number = client.patch(target, 0, DATA).headers["Harmony4-Job"]
    assert client.ended(number)["problem"]["type"] == "urn:harmony4:problem:exists"
    assert (root / "a.h4mk").read_bytes() == before


def test_another_container_is_replaced(client: Client, root: Path, expected: bytes) -> None:
    write_container(root / "a.h4mk", [b"x"])
    tag = ask(client.url, "HEAD", "/container?name=a.h4mk", {}).headers["ETag"]
    answers = [client.create(len(DATA), If_Match=tag) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    found = []
    for answer in answers:
        number = client.patch(answer.headers["Location"], 0, DATA).headers["Harmony4-Job"]
        found.append(client.ended(number)["state"])
    assert (root / "a.h4mk").read_bytes() == expected
    assert found == ["done", "failed"]
    assert len(ask(client.url, "GET", "/media/trash", {}).json["items"]) == 1


@needs_proc
def test_cancelled(client: Client, root: Path) -> None:
    """By its job, as every export, while its demuxer works; the upload has come to its end then."""
    target = client.new(len(DATA))
    number = client.patch(target, 0, DATA).headers["Harmony4-Job"]
    until(lambda: bool(demuxers(os.getpid())), "the demuxer's start")
    (pid,) = demuxers(os.getpid())
    os.kill(pid, signal.SIGSTOP)  # so it has not given a single packet when the job is cancelled
    try:
        assert client.job(number)["state"] == "receiving"
        assert client.delete(target).problem == "locked"
        answer = ask(client.url, "DELETE", f"/jobs/{number}", {})
        assert (answer.status, answer.json["state"]) == (202, "receiving")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    job = client.ended(number)
    assert (job["state"], job["problem"]["type"]) == ("cancelled", "urn:harmony4:problem:cancelled")
    until(lambda: ".data" not in kept(root), "the removal of the bytes")
    assert demuxers(os.getpid()) == []
    assert list(root.glob("*.h4mk")) == []
    assert list((root / ".harmony4" / "spool").iterdir()) == []
    # Nobody takes it up again, and the client sees that it has nothing more to send.
    assert client.offset(target) == len(DATA)
    assert client.patch(target, len(DATA), b"").headers["Harmony4-Job"] == number
    assert ask(client.url, "DELETE", f"/jobs/{number}", {}).json["state"] == "cancelled"


def test_what_is_wanting_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes
) -> None:
    """A whole upload is not thrown away because the disk was full when its container was made."""
    monkeypatch.setattr(finishing, "_SWEEP", 0.05)
    with running(tmp_path, min_free=0) as server:
        shelf, tries = server.app[DESK].shelf, []
        put = shelf.put

        def fails_twice(*arguments: Any) -> None:
            tries.append(arguments)
            if len(tries) < 3:
                raise StorageError("no room")
            put(*arguments)

        monkeypatch.setattr(shelf, "put", fails_twice)
        client = Client(server.url)
        number = client.patch(client.new(len(DATA)), 0, DATA).headers["Harmony4-Job"]
        assert client.ended(number)["state"] == "done"
        assert len(tries) == 3
        assert (tmp_path / "a.h4mk").read_bytes() == expected
        until(lambda: ".data" not in kept(tmp_path), "the removal of the bytes")


def test_what_cannot_be_made_has_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "_SWEEP", 0.05)
    with running(tmp_path, min_free=0, upload_ttl=1) as server:

        def fails(*_: Any) -> None:
            raise StorageError("no room")

        monkeypatch.setattr(server.app[DESK].shelf, "put", fails)
        client = Client(server.url)
        number = client.patch(client.new(len(DATA)), 0, DATA).headers["Harmony4-Job"]
        job = client.ended(number)
        assert (job["state"], job["problem"]["status"]) == ("failed", 507)
        until(lambda: ".data" not in kept(tmp_path), "the removal of the bytes")


# -- limits


def test_uploads_at_once(tmp_path: Path) -> None:
    for settings, status, code in (
        ({"max_uploads": 1}, 503, "busy"),
        ({"max_uploads_per_client": 1}, 429, "too-many"),
    ):
        root = tmp_path / code
        root.mkdir()
        with running(root, min_free=0, **settings) as server:
            client = Client(server.url)
            target, other = client.new(100), client.new(100)
            with client.sending(target, 0, 100) as connection:
                connection.sendall(b"abc")
                until(lambda root=root, target=target: arrived(root, target) == 3, "their arrival")  # type: ignore[misc]
                for answer in (client.patch(other, 0, b"x"), client.create(5)):
                    assert (answer.status, answer.problem) == (status, code)
                    assert "Retry-After" in answer.headers
            until(
                lambda client=client, other=other: client.patch(other, 0, b"").status == 204, "a free place"
            )  # type: ignore[misc]


def test_the_disk_fills_while_bytes_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, client: Client, root: Path
) -> None:
    """What has arrived is kept, for later."""
    monkeypatch.setattr("harmony4.server.intake.tus.LOOK", 1000)
    target = client.new(len(DATA))

    def check(more: int = 0, *, roughly: bool = False) -> None:
        if roughly:
            raise Problem("full", "the disk is full")

    monkeypatch.setattr(server.app[DESK].room, "check", check)
    answer = client.patch(target, 0, DATA)
    assert (answer.status, answer.problem) == (507, "full")
    monkeypatch.undo()
    offset = client.offset(target)
    assert 0 < offset == arrived(root, target)
    assert client.patch(target, offset, DATA[offset:]).status == 204


# -- servers that stop, or are killed


@needs_ffmpeg
def test_a_server_that_stops_while_it_exports(tmp_path: Path) -> None:
    """Another one takes the job up, under its id."""
    source, root = media("large.mp4"), tmp_path / "library"
    root.mkdir()
    data = source.read_bytes()
    with running(root, min_free=0, stop_timeout=0) as server:
        client = Client(server.url)
        target = client.new(len(data))
        number = client.patch(target, 0, data).headers["Harmony4-Job"]
    assert list(root.glob("*.h4mk")) == []
    assert json.loads((root / ".harmony4" / "jobs" / f"{number}.json").read_text())["state"] == "receiving"
    assert list((root / ".harmony4" / "spool").iterdir()) == []
    with running(root, min_free=0) as server:
        client = Client(server.url)
        assert client.job(number)["state"] in ("receiving", "sealing", "done")
        assert client.ended(number)["state"] == "done"
        assert client.head(target).headers["Harmony4-Job"] == number
        until(lambda: ".data" not in kept(root), "the removal of the bytes")
    assert (root / "a.h4mk").read_bytes() == exported(source, tmp_path)


@pytest.mark.parametrize("state", ["receiving", "done", "cancelled", None])
def test_killed_at_the_very_end(tmp_path: Path, expected: bytes, state: str | None) -> None:
    """The container has its name, and nobody could note so any more; or the job had ended already."""
    root = tmp_path / "library"
    root.mkdir()
    if state in ("receiving", "done"):
        (root / "a.h4mk").write_bytes(expected)
    folder = State(root / ".harmony4")
    held = Uploads(folder, 1000).create(len(DATA), metadata(name="a.h4mk"), None)
    held.data.write_bytes(DATA)
    number = "1" * 32
    if state is not None:
        held.note(job=number)
        facts = {"id": number, "state": state, "restarts": True, "name": "a.h4mk"}
        (folder.folder("jobs") / f"{number}.json").write_text(json.dumps(facts))
    held.release()
    with running(root, min_free=0) as server:
        client = Client(server.url)
        until(lambda: ".data" not in kept(root), "the removal of the bytes")
        number = client.head(f"/uploads/{held.id}").headers["Harmony4-Job"]
        assert client.ended(number)["state"] == (state if state == "cancelled" else "done")
        assert ask(client.url, "GET", "/media/trash", {}).json["items"] == []
    if state != "cancelled":
        assert (root / "a.h4mk").read_bytes() == expected


@needs_proc
@needs_ffmpeg
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again(tmp_path: Path, workers: int) -> None:
    """SIGKILL in the middle of PATCH at several points and after the last byte: nothing is lost but time."""
    source, root = media("large.mp4"), tmp_path / "library"
    root.mkdir()
    data = source.read_bytes()
    rng = random.Random(workers)
    target, offset, number = "", 0, None
    points = [0, 1, *sorted(rng.sample(range(2, len(data) - 1), 5)), len(data)]
    for point in points:
        with ExitStack() as stack:
            server = stack.enter_context(served(root, "--workers", workers, HARMONY4_MIN_FREE="0"))
            client = Client(server.url)
            target = target or client.new(len(data))
            offset = client.offset(target)
            with client.sending(target, offset, len(data) - offset) as connection:
                connection.sendall(data[offset:point])
                if point == len(data):
                    answer = connection.recv(2**16).decode()
                    number = answer.partition("Harmony4-Job: ")[2].partition("\r\n")[0]
                elif point > offset:
                    _wait_for_some(root, target, offset, rng.randrange(point - offset))
                server.kill()
        assert list(root.glob("*.h4mk")) == []
    assert number
    with served(root, "--workers", workers, HARMONY4_MIN_FREE="0") as server:
        client = Client(server.url)
        assert client.offset(target) == len(data)
        assert client.head(target).headers["Harmony4-Job"] == number
        assert client.ended(number)["state"] == "done"
        assert (root / "a.h4mk").read_bytes() == exported(source, tmp_path)
        until(lambda: kept(root) == {".json", ".lock"}, "the removal of the bytes")
        until(lambda: list((root / ".harmony4" / "spool").iterdir()) == [], "the removal of spools")


def _wait_for_some(root: Path, target: str, offset: int, count: int) -> None:
    until(lambda: arrived(root, target) >= offset + count, f"the arrival of {count} bytes")


@needs_proc
@needs_ffmpeg
def test_a_worker_is_killed_while_it_exports(tmp_path: Path) -> None:
    """The one that takes its place, or another one, takes the job up."""
    source, root = media("large.mp4"), tmp_path / "library"
    root.mkdir()
    data = source.read_bytes()
    with served(root, "--workers", 2, HARMONY4_MIN_FREE="0") as server:
        client = Client(server.url)
        target = client.new(len(data))
        number = client.patch(target, 0, data).headers["Harmony4-Job"]
        assert list(root.glob("*.h4mk")) == []
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        assert client.ended(number)["state"] == "done"
        assert (root / "a.h4mk").read_bytes() == exported(source, tmp_path)
