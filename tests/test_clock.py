"""Clocks that jump: a real server whose clock is set back and forward again while it serves.

libfaketime moves what the server's processes take for the time, and nothing else: files get the kernel's own
times, which then lie in the future, as those do that were written before a clock was set back.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import pytest

from commands import HARMONY4
from harmony4.server.guard import signing
from harmony4.server.guard.secret import load_secret
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import FOLDER, State
from needs import needs_faketime
from processes import Served, needs_proc, served, until
from serving import write_container

pytestmark = [needs_faketime, needs_proc]

DAY: Final = 86_400
FILM: Final = random.Random(1).randbytes(2**20)
RANGE: Final = "/video/range?name=film.h4mk"


@dataclass
class Clock:
    """What the server's processes take for the time, beside the true one."""

    path: Path

    def set(self, seconds: int) -> None:
        """So many seconds after the true time from now on."""
        part = self.path.with_suffix(".part")
        part.write_text(f"{seconds:+d}")
        part.replace(self.path)

    @property
    def environment(self) -> dict[str, str]:
        (library,) = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }


class Client:
    """Somebody with a token, on one connection."""

    def __init__(self, server: Served, token: str | None) -> None:
        self._connection = http.client.HTTPConnection(*server.address, timeout=60)
        self._fields = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, target: str, body: bytes | None = None, **fields: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body, as JSON where it is some."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        self._connection.request(method, target, body, self._fields | named)
        answer = self._connection.getresponse()
        data = answer.read()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, answer.headers, json.loads(data) if "json" in kind else data

    def close(self) -> None:
        self._connection.close()


@dataclass
class Place:
    """A server with a clock of its own."""

    server: Served
    clock: Clock
    library: Path
    state: State
    log: Path

    def now(self) -> float:
        """The time as the server sees it."""
        with self.client(None) as client:
            return parsedate_to_datetime(client.ask("GET", "/health")[1]["Date"]).timestamp()

    @contextmanager
    def client(self, token: str | None) -> Iterator[Client]:
        client = Client(self.server, token)
        try:
            yield client
        finally:
            client.close()

    def signed(self, seconds: int) -> str:
        key = signing.key_of(load_secret(self.state))
        return signing.signed_url(key, RANGE, signing.Signature(int(time.time()) + seconds, None))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    library = tmp_path / "library"
    for name in ("film", "gone"):
        write_container(library / f"{name}.h4mk", [FILM])
    clock = Clock(tmp_path / "clock")
    clock.set(0)
    state = State(library / FOLDER)
    load_secret(state)
    with (
        (tmp_path / "log").open("wb") as log,
        served(library, "--workers", 2, "--auth", log=log, **clock.environment) as server,
    ):
        yield Place(server, clock, library, state, tmp_path / "log")
        # Before it stops: libfaketime lets some of Python's sleeps fail, and one is slept at the end.
        said = (tmp_path / "log").read_text()
        assert "Traceback" not in said, said


def token(place: Place, seconds: int | None) -> str:
    """A token that all workers know."""
    expires = None if seconds is None else int(time.time()) + seconds
    made, text = new_token("test", ("read", "write", "admin"), time.time(), expires)
    TokenFile(place.state).add(made)
    for worker in place.server.workers():

        def known(worker: int = worker) -> bool:
            with place.server.only(worker), place.client(text) as client:
                return client.ask("GET", "/media")[0] == 200

        until(known, "a token that is known")
    return text


def audit(place: Place) -> None:
    done = subprocess.run(
        [HARMONY4, "audit", "verify", "--library", place.library],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_clock_is_set_back_and_forward(place: Place) -> None:
    """Whoever may do something may go on with it; nothing that is kept for a time goes before it is over."""
    short, lasting = token(place, 3600), token(place, None)
    signed = place.signed(600)
    with place.client(lasting) as me, place.client(short) as other, place.client(None) as nobody:
        cookie = me.ask("POST", "/session")[1]["Set-Cookie"].partition(";")[0]
        data = random.Random(2).randbytes(2**18)
        status, headers, _ = me.ask(
            "POST",
            "/uploads/",
            Upload_Length=str(len(data)),
            Upload_Metadata="name dXAuaDRtaw==,raw MQ==",
            Tus_Resumable="1.0.0",
        )
        assert status == 201
        upload = headers["Location"]

        def patch(start: int, stop: int) -> int:
            return me.ask(
                "PATCH",
                upload,
                data[start:stop],
                Upload_Offset=str(start),
                Content_Type="application/offset+octet-stream",
                Tus_Resumable="1.0.0",
            )[0]

        assert patch(0, 1000) == 204
        status, _, trashed = me.ask("DELETE", "/media?name=gone.h4mk")
        assert status == 200

        def everything(offset: int) -> None:
            for _ in range(3):  # and the express lane
                for who, target, fields in (
                    (me, RANGE, {}),
                    (other, RANGE, {}),
                    (nobody, signed, {}),
                    (nobody, RANGE, {"Cookie": cookie}),
                ):
                    status, headers, body = who.ask("GET", target, Range="bytes=7-1006", **fields)
                    assert (status, body) == (206, FILM[7:1007]), (target, body)
                    date = parsedate_to_datetime(headers["Date"])
                    modified = headers["Last-Modified"]
                    assert modified is None or parsedate_to_datetime(modified) <= date  # RFC 9110 8.8.2.1
            assert me.ask("GET", "/video/seek?name=film.h4mk&pts=5")[2]["pts"] == 0
            status, headers, _ = me.ask("HEAD", upload, Tus_Resumable="1.0.0")
            assert (status, headers["Upload-Offset"]) == (200, str(offset))
            assert [one["id"] for one in me.ask("GET", "/media/trash")[2]["items"]] == [trashed["id"]]
            status, headers, _ = me.ask("POST", "/session")
            assert status == 200
            assert "Max-Age=43200" in headers["Set-Cookie"]
            audit(place)

        everything(1000)
        place.clock.set(-2 * DAY)
        assert place.now() < time.time() - DAY  # it has really moved
        everything(1000)
        assert patch(1000, 2000) == 204
        everything(2000)
        # A change, for the audit log: its times go back, its chain holds.
        assert me.ask("DELETE", "/media?name=film.h4mk")[0] == 200
        film = me.ask("GET", "/media/trash")[2]["items"]
        (number,) = [one["id"] for one in film if one["id"] != trashed["id"]]
        assert me.ask("POST", f"/media/restore?id={number}")[0] == 200
        everything(2000)
        place.clock.set(0)
        everything(2000)
        assert patch(2000, len(data)) == 204
        until(lambda: (place.library / "up.h4mk").exists(), "the container of the upload")
        assert me.ask("GET", "/video/range?name=up.h4mk")[2] == data
        assert me.ask("POST", f"/media/restore?id={trashed['id']}")[0] == 200
        audit(place)


def test_what_has_a_time_ends_by_the_clock(place: Place) -> None:
    """Tokens and signatures end when the clock says so, and not sooner or later because it was set."""
    short, lasting = token(place, 3600), token(place, None)
    signed = place.signed(3600)
    with place.client(short) as me, place.client(lasting) as other, place.client(None) as nobody:
        for offset, status in ((0, 206), (2 * 3600, 401), (-3600, 206), (3500, 206), (3700, 401), (0, 206)):
            place.clock.set(offset)
            for _ in range(3):
                assert me.ask("GET", RANGE, Range="bytes=0-9")[0] == status, offset
                assert nobody.ask("GET", signed, Range="bytes=0-9")[0] == status, offset
                assert other.ask("GET", RANGE, Range="bytes=0-9")[0] == 206


def test_whoever_wants_an_upload_gets_it_though_the_clock_went_back(place: Place) -> None:
    """An upload whose client has vanished is let go of when another one asks, whatever the clock says."""
    lasting = token(place, None)
    with place.client(lasting) as me, place.server.connect() as line:
        status, headers, _ = me.ask(
            "POST", "/uploads/", Upload_Length="1000", Upload_Metadata="name YS5oNG1r", Tus_Resumable="1.0.0"
        )
        assert status == 201
        upload = headers["Location"]
        line.send(
            f"PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {lasting}\r\n"
            "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Length: 1000\r\n"
            "Content-Type: application/offset+octet-stream\r\n\r\n".encode()
            + b"x" * 100
        )
        number = upload.rpartition("/")[2]
        held = place.state.path / "uploads" / f"{number}.data"
        until(lambda: held.stat().st_size == 100, "the bytes that came")
        place.clock.set(-2 * DAY)
        status, headers, _ = me.ask("HEAD", upload, Tus_Resumable="1.0.0")
        offset = int(headers["Upload-Offset"])

        def goes_on() -> bool:
            status, _, _ = me.ask(
                "PATCH",
                upload,
                b"y" * (1000 - offset),
                Upload_Offset=str(offset),
                Content_Type="application/offset+octet-stream",
                Tus_Resumable="1.0.0",
            )
            assert status in (204, 423), status
            return status == 204

        until(goes_on, "the upload in other hands", 20)
