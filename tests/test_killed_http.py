"""A server that is killed at any moment of an upload leaves nothing half-made behind, and uploads that can go
on go on."""

from __future__ import annotations

import http.client
import io
import json
import random
import socket
import time
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from harmony4.h4mk import verify
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.intake.jobs import ACTIVE
from needs import BUNNY
from processes import Served, demuxers, needs_proc, served, until

MOMENTS: Final = 30
NOISE: Final = random.Random(9).randbytes(3 * 2**20)
FILM: Final = BUNNY.read_bytes()
"""An MP4 with its index last: all of it waits in a spool before it is demuxed."""
WAYS: Final = {"plain": (NOISE, "&raw=1"), "chunked": (FILM, ""), "form": (FILM, "")}
"""What is sent by `/video/export`, and options."""
PHASES: Final = {"creation": 0.1, "bytes": 0.1, "export": 0.6}
"""What a tus upload is at when the server is killed, up to so many seconds after it has begun with that."""
PIECE: Final = 2**15
VERSION: Final = {"Tus-Resumable": "1.0.0"}
CHUNK: Final = {"Content-Type": "application/offset+octet-stream"}


@pytest.mark.timeout(300)
@needs_proc
def test_killed_at_thirty_moments(tmp_path: Path) -> None:
    """SIGKILL at random moments, for one process or for three, while four uploads run: plain, chunked, in a
    form, and by tus.

    Ten tus uploads are hit one after the other while they begin, while their bytes come, and while their
    containers are made; each goes on where it stood.
    """
    expected = {"plain": _made(NOISE, raw=True)} | dict.fromkeys(("chunked", "form", "tus"), _made(FILM))
    numbers = random.Random(MOMENTS)
    kept: set[str] = set()
    dead: list[int] = []
    uploads: list[Upload] = []
    for number in range(MOMENTS):
        phase = list(PHASES)[number % len(PHASES)]
        spools = _spools(tmp_path)
        with served(tmp_path, "--workers", 1 + number % 2, HARMONY4_MIN_FREE="0") as server:
            _swept(tmp_path, spools, dead)
            sendings = [_begun(server, f"{number}-{way}.h4mk", way) for way in WAYS]
            if phase == "creation":
                uploads.append(Upload(f"{number}-tus.h4mk"))
                sendings.append(uploads[-1].create(server, numbers.uniform(0, 1.4)))
            elif phase == "bytes":
                sendings.append(uploads[-1].go_on(server, numbers.uniform(0, 1.4)))
            else:
                uploads[-1].complete(server)
            _send(sendings, time.monotonic() + numbers.uniform(0, PHASES[phase]))
            dead = server.kill()
        uploads[-1].hear()
        for one in sendings:
            one.connection.close()
        there = {path.name for path in tmp_path.glob("*.h4mk")}
        assert kept <= there  # what was complete stays
        for name in there - kept:
            assert verify(tmp_path / name).ok, name
            assert (tmp_path / name).read_bytes() == expected[_way(name)], name
        kept = there
        assert {path.name for path in tmp_path.iterdir()} - there <= {".harmony4"}
    spools = _spools(tmp_path)
    with served(tmp_path, "--workers", 2, HARMONY4_MIN_FREE="0") as server:
        _swept(tmp_path, spools, dead)
        for one in uploads:
            until(lambda one=one: one.job(server)["state"] not in ACTIVE, "the end of its job")  # type: ignore[misc]
            assert one.job(server)["state"] == "done", one.job(server)
            assert (tmp_path / one.name).read_bytes() == expected["tus"]
            until(lambda one=one: not one.bytes_in(tmp_path), "the removal of its bytes")  # type: ignore[misc]
        until(lambda: not _spools(tmp_path), "the removal of all spools")
        jobs = _json(server, "/jobs")["jobs"]
        assert {job["name"] for job in jobs if job["state"] == "done"} <= {
            path.name for path in tmp_path.glob("*.h4mk")
        }
        ended = Counter((_way(job["name"]), job["state"]) for job in jobs)
        assert {state for _, state in ended} == {"done", "failed"}, ended
        assert {way for way, state in ended if state == "failed"} == set(WAYS), ended
        assert ended["tus", "done"] == len(uploads) == MOMENTS // len(PHASES)
        assert any(0 < offset < len(FILM) for one in uploads for offset in one.resumed)


class Sending:
    """A connection, and the pieces that are still to be sent."""

    def __init__(self, server: Served, pieces: list[bytes]) -> None:
        self.connection = socket.create_connection(server.address, timeout=20)
        self.pieces = pieces

    def send(self) -> None:
        """The next piece, if the other side still takes one."""
        try:
            self.connection.sendall(self.pieces.pop(0))
        except OSError:
            self.pieces.clear()


class Upload:
    """An upload by tus as its client knows it, which goes on with whatever server there is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = ""
        """Where it is; empty while the client was not told."""
        self._least = 0
        """Bytes that are there for sure."""
        self._asked = 0
        """Bytes that are there if all that was sent has been taken."""
        self._sending: Sending | None = None
        self.resumed: list[int] = []
        """Where it stood when a client came back."""

    def create(self, server: Served, share: float) -> Sending:
        """A new upload, with which half of the bytes should come; only a `share` of them does (1: all)."""
        return self._ask(server, "POST /uploads/", self._about() | CHUNK, FILM[: len(FILM) // 2], share)

    def go_on(self, server: Served, share: float) -> Sending:
        """The bytes that are missing, of which only a `share` comes."""
        offset = self._offset(server)
        headers = CHUNK | {"Upload-Offset": str(offset)}
        return self._ask(server, f"PATCH {self.target}", headers, FILM[offset:], share)

    def complete(self, server: Served) -> None:
        """The bytes that are missing, all of them; an export runs when this returns, or has ended."""
        offset = self._offset(server)
        if offset < len(FILM):
            more = CHUNK | {"Upload-Offset": str(offset)}
            answer = _ask(server, "PATCH", self.target, VERSION | more, FILM[offset:])
            assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(len(FILM)))
        self._least = len(FILM)
        until(lambda: self._head(server)["Harmony4-Job"] is not None, "its job")

    def hear(self) -> None:
        """What a server had said before it was killed."""
        if self._sending is None:
            return
        said = b""
        with suppress(OSError):
            while piece := self._sending.connection.recv(2**16):
                said += piece
        self._sending = None
        status, _, head = said.decode().partition("\r\n")
        if status:
            assert status.split()[1] in ("201", "204"), said
            headers = dict(line.split(": ", 1) for line in head.partition("\r\n\r\n")[0].split("\r\n"))
            self.target = headers.get("Location", self.target)
            assert int(headers["Upload-Offset"]) == self._asked
            self._least = self._asked

    def job(self, server: Served) -> Any:
        """The facts of its job."""
        return _json(server, f"/jobs/{self._head(server)['Harmony4-Job']}")

    def bytes_in(self, root: Path) -> bool:
        """Whether its bytes are on the disk."""
        return (root / ".harmony4" / "uploads" / f"{self.target.rpartition('/')[2]}.data").exists()

    def _about(self) -> dict[str, str]:
        about = f"name {b64encode(self.name.encode()).decode()}"
        return {"Upload-Length": str(len(FILM)), "Upload-Metadata": about}

    def _ask(self, server: Served, what: str, headers: dict[str, str], body: bytes, share: float) -> Sending:
        fields = VERSION | headers | {"Host": "localhost", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
        del pieces[round(share * len(pieces)) :]
        self._asked = int(headers.get("Upload-Offset", 0)) + sum(map(len, pieces))
        self._sending = Sending(server, [f"{what} HTTP/1.1\r\n{head}\r\n".encode(), *pieces])
        return self._sending

    def _offset(self, server: Served) -> int:
        """Where it stands. A client that was not told where it is begins anew."""
        if not self.target:
            answer = _ask(server, "POST", "/uploads/", VERSION | self._about())
            assert answer.status == 201
            self.target = answer.headers["Location"]
            self._asked = 0
        offset = int(self._head(server)["Upload-Offset"])
        assert self._least <= offset <= self._asked
        self.resumed.append(offset)
        return offset

    def _head(self, server: Served) -> http.client.HTTPMessage:
        answer = _ask(server, "HEAD", self.target, VERSION)
        assert answer.status == 200, self.name
        return answer.headers


def _made(data: bytes, *, raw: bool = False) -> bytes:
    out = io.BytesIO()
    export(io.BytesIO(data), out, ExportOptions(raw=raw))
    return out.getvalue()


def _way(name: str) -> str:
    return name.removesuffix(".h4mk").partition("-")[2]


def _ask(
    server: Served, method: str, target: str, headers: dict[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


def _json(server: Served, target: str) -> Any:
    status, body = server.get(target)
    assert status == 200, body
    return json.loads(body)


def _begun(server: Served, name: str, way: str) -> Sending:
    data, options = WAYS[way]
    head = f"POST /video/export?name={name}{options} HTTP/1.1\r\nHost: localhost\r\n"
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    if way == "chunked":
        head += "Transfer-Encoding: chunked\r\n\r\n"
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    elif way == "form":
        begin = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        pieces = [begin, *pieces, b"\r\n--b--\r\n"]
        length = sum(map(len, pieces))
        head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    else:
        head += f"Content-Length: {len(data)}\r\n\r\n"
    return Sending(server, [head.encode(), *pieces])


def _send(sendings: list[Sending], moment: float) -> None:
    """Piece by piece to each of them; returns at the moment."""
    while time.monotonic() < moment:
        left = [one for one in sendings if one.pieces]
        for one in left:
            if time.monotonic() < moment:
                one.send()
        if not left:
            until(lambda: time.monotonic() >= moment, "the moment")


def _spools(library: Path) -> list[Path]:
    return list((library / ".harmony4" / "spool").glob("*"))


def _swept(library: Path, spools: list[Path], dead: list[int]) -> None:
    """The next server clears away what the dead have left, and their demuxers have died with them."""
    until(lambda: not set(_spools(library)).intersection(spools), "the end of the spools of the dead")
    until(lambda: not demuxers(*dead), "the end of their demuxers")
