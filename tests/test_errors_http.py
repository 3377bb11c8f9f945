"""Errors over HTTP: problem details for everything, and nothing of the machine in them."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

import harmony4.crypto.errors as errors_module
from harmony4.crypto.errors import HarmonyError, SourceError, UsageError
from harmony4.server.app import run
from harmony4.server.config import Config
from harmony4.server.errors import PROBLEMS
from harmony4.server.exporting.ingest import ExportOptions, export
from harmony4.server.openapi import document
from processes import until
from serving import Server, running, write_container


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    write_container(root / "a.h4mk", [b"x"] * 3)
    (root / "junk.h4mk").write_bytes(b"junk, but long enough to be something")
    outside = root.parent / "outside.h4mk"
    write_container(outside, [b"secret"])
    (root / "link.h4mk").symlink_to(outside)
    os.mkfifo(root / "fifo.h4mk")
    (root / "dir.h4mk").mkdir()
    with running(root) as one:
        yield one


def test_every_error_has_a_status() -> None:
    classes = [
        one for one in vars(errors_module).values() if isinstance(one, type) and issubclass(one, HarmonyError)
    ]
    assert {one.code for one in classes} <= PROBLEMS.keys()
    assert all(400 <= status < 600 for status, _ in PROBLEMS.values())


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/nothing", 404, "no-route"),
        ("GET", "/video", 404, "no-route"),
        ("GET", "/video/range/", 404, "no-route"),
        ("GET", "/static/", 404, "no-route"),
        ("GET", "/static/none.js", 404, "not-found"),
        ("GET", "/static/..%2fapp.py", 404, "not-found"),
        ("GET", "/static/../server/app.py", 404, "no-route"),
        ("GET", "/static/__init__.py", 404, "not-found"),
        ("POST", "/video/range?name=a.h4mk", 405, "method"),
        ("DELETE", "/", 405, "method"),
        ("PATCH", "/media", 405, "method"),
        ("GET", "/video/range", 400, "usage"),
        ("GET", "/video/range?name=none.h4mk", 404, "not-found"),
        ("GET", "/video/range?name=junk.h4mk", 500, "version"),
        ("GET", "/video/seek?name=junk.h4mk&pts=0", 500, "version"),
        ("GET", "/video/range?name=a.h4mk&v=0", 410, "stale"),
    ],
)
def test_problems(server: Server, method: str, target: str, status: int, code: str) -> None:
    answer = server.request(method, target)
    assert (answer.status, answer.problem) == (status, code)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    if status == 405:
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../outside.h4mk",
        "%2e%2e/outside.h4mk",
        "..%2foutside.h4mk",
        "%252e%252e%252foutside.h4mk",
        "a/../../outside.h4mk",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "//outside.h4mk",
        "..%5coutside.h4mk",
        "a.h4mk%00",
        "%00a.h4mk",
        "%00",
        "a.h4mk%0a",
        "link.h4mk",
        "fifo.h4mk",
        "dir.h4mk",
        "dir.h4mk/",
        "a.h4mk/",
        "./a.h4mk",
        "%c0%ae%c0%ae/outside.h4mk",
        "%ff.h4mk",
        "%ed%b3%bf.h4mk",
        "file:///etc/passwd",
        "a" * 5000 + ".h4mk",
    ],
)
@pytest.mark.parametrize(
    "route", ["/video/range?name={}", "/video/info?name={}", "/video/seek?pts=0&name={}"]
)
def test_names_never_leave_the_root(server: Server, name: str, route: str) -> None:
    answer = server.get(route.format(name))
    assert (answer.status, answer.problem) == (404, "not-found")
    assert b"secret" not in answer.body


def test_nothing_of_the_machine(server: Server, tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as other:
        os.truncate(tmp_path / "a.h4mk", 100)
        answers = [other.get("/video/range?name=a.h4mk"), other.get("/media"), server.get("/nothing")]
        (tmp_path / "a.h4mk").unlink()
        tmp_path.rmdir()
        answers += [other.get("/ready"), other.get("/video/info?name=a.h4mk"), other.get("/media")]
        tmp_path.mkdir()
    assert answers[3].status == 503
    assert answers[3].problem == "source"
    assert answers[5].json == {"items": [], "next": None, "total": 0}
    for answer in answers:
        text = answer.body.decode()
        assert str(tmp_path) not in text
        assert "Traceback" not in text
        assert ".py" not in text


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http(server: Server, data: bytes) -> None:
    received = server.raw(data)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].split()[1] == b"400"
    assert b"application/problem+json" in head
    assert b"nosniff" in head
    assert b"urn:harmony4:problem:http" in body
    assert server.get("/health").status == 200


def test_unexpected_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours is a bare 500 for the client and a traceback in the log."""
    monkeypatch.setattr("harmony4.server.folder.facts.info_facts", lambda reader: 1 / 0)
    with caplog.at_level(logging.ERROR, "harmony4.server"):
        answer = server.get("/video/info?name=a.h4mk")
    assert (answer.status, answer.problem) == (500, "http")
    assert answer.json.keys() == {"type", "title", "status"}
    assert "ZeroDivisionError" in caplog.text


def test_who_leaves_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody goes before the first token of a long sound is there: the log has nothing to say of it."""
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(2 * 48_000 * 600))
    export(sound, tmp_path / "sound.h4mk", ExportOptions())
    with running(tmp_path) as server:
        for _ in range(4):
            with socket.create_connection(server.address) as one:
                one.sendall(b"GET /audio/stream?name=sound.h4mk HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: '"499"' in server.get("/metrics").body.decode(), "it was seen that they left")
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_health_and_ready(server: Server) -> None:
    assert server.get("/health").json == {"status": "ok"}
    assert server.get("/ready").json["status"] == "ready"
    assert server.request("HEAD", "/health").status == 200


def test_page(server: Server) -> None:
    page = server.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    directives = {one.split()[0]: one.split()[1:] for one in policy.split(";")}
    assert directives.get("script-src", directives["default-src"]) == ["'self'"]  # no script within the page
    assert "frame-ancestors 'none'" in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert server.get("/", If_None_Match=page.headers["ETag"]).status == 304
    assert server.request("HEAD", "/").headers["Content-Length"] == str(len(page.body))
    for file, kind in (
        ("style.css", "text/css"),
        ("app.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer = server.get(f"/static/{file}")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert f"static/{file}".encode() in page.body


def test_openapi_describes_exactly_the_routes(server: Server) -> None:
    described = {
        (path, method.upper())
        for path, item in document()["paths"].items()
        for method in item
        if method != "head"
    }
    existing = set()
    for route in server.app.router.routes():
        assert route.resource is not None
        if route.method != "HEAD":
            existing.add((route.resource.canonical, route.method))
    assert described == existing
    answer = server.get("/openapi.json")
    assert answer.json == document()
    assert answer.headers["Content-Type"].startswith("application/json")
    schemas = answer.json["components"]["schemas"]
    for path, schema in (
        ("/video/info?name=a.h4mk", "Info"),
        ("/video/seek?name=a.h4mk&pts=0", "Seek"),
        ("/video/seek?name=a.h4mk&pts=0,1", "Seeks"),
        ("/video/keyframes?name=a.h4mk", "Keyframes"),
        ("/media", "Media"),
        ("/health", "Status"),
        ("/nothing", "Problem"),
    ):
        assert set(schemas[schema]["required"]) <= server.get(path).json.keys()


def test_port_taken_and_folder_missing(server: Server, tmp_path: Path) -> None:
    host, port = server.address
    with pytest.raises(UsageError, match="something else listens on this port") as caught:
        run(Config(library=tmp_path, host=host, port=port))
    assert str(port) in str(caught.value)
    with pytest.raises(UsageError, match="not an address"):
        run(Config(library=tmp_path, host="256.1.1.1", port=0))
    with pytest.raises(SourceError, match="cannot read the library"):
        run(Config(library=tmp_path / "none"))


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_stops_gracefully(tmp_path: Path, number: str) -> None:
    """A running response is finished, the process leaves with status 0."""
    import http.client
    import signal

    blocks = [os.urandom(2**20)] * 16
    write_container(tmp_path / "a.h4mk", blocks)
    code = (
        "import sys; from pathlib import Path; from harmony4.server.app import run;"
        "from harmony4.server.config import Config;"
        "run(Config(library=Path(sys.argv[1]), port=0), ready=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        connection.request("GET", "/video/range?name=a.h4mk")
        answer = connection.getresponse()
        begin = answer.read(1000)
        process.send_signal(signal.Signals[number])
        assert begin + answer.read() == b"".join(blocks)
        connection.close()
        assert process.wait(30) == 0
