"""The log: for people or as JSON, with the request's name, without what is secret."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from commands import run
from harmony4.server.logs import LONGEST, REQUEST_ID, LineHandler, formatter, json_line, rfc3339
from processes import Served, needs_proc, served
from serving import running, write_container


def record(message: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("Bearer abcdef")
        except ValueError:
            info = sys.exc_info()
    found = logging.LogRecord("harmony4.server", logging.WARNING, "x.py", 1, message, arguments, info)
    found.created = 1_700_000_000.25
    return found


def test_a_record_as_json() -> None:
    token = REQUEST_ID.set("abc123")
    try:
        found = json.loads(formatter("json").format(record("%s was broken off: %s", "/x?v=1", "why\nthough")))
    finally:
        REQUEST_ID.reset(token)
    assert found == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "harmony4.server",
        "event": "/x?v=1 was broken off: why\nthough",
        "request_id": "abc123",
    }
    assert "request_id" not in json.loads(formatter("json").format(record("x")))


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET /video/range?name=a&sig=0a1b2c&exp=1", "0a1b2c"),
        ("GET /video/range?name=a&%73i%67=0a1b2c", "0a1b2c"),
        ("GET /video/range?name=a&my_master-key=abcdef", "abcdef"),
        (f"GET /video/range?name=a&x={'0a' * 32}", "0a0a"),
        ("Harmony4-Master-Key: 00ff00ff", "00ff00ff"),
        ("{'Harmony4-Master-Key': '00ff00ff'}", "00ff00ff"),
        ("GET /a?b=h4mk-key-v1%3A00ff00ff", "00ff00ff"),
        ("Authorization: Bearer h4_0123.abcdef", "h4_0123.abcdef"),
        ("cannot read h4mk-key-v1:00ff00ff", "00ff00ff"),
        ("Cookie: harmony4_session=YWJj.def", "YWJj.def"),
        ("no such container: h4_0123456789abcdef_Zm9y-_Z2Vk.h4mk", "Zm9y-_Z2Vk"),
    ],
)
def test_secrets_are_left_out(log_format: str, text: str, secret: str) -> None:
    written = formatter(log_format).format(record(text))
    assert secret not in written
    assert "..." in written


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_nor_do_tracebacks_tell(log_format: str) -> None:
    written = formatter(log_format).format(record("it failed", error=True))
    assert "ValueError" in written
    assert "abcdef" not in written
    if log_format == "json":
        assert "\n" not in written


def test_the_console_names_the_request() -> None:
    token = REQUEST_ID.set("abc123")
    try:
        assert formatter("console").format(record("it failed")).endswith("it failed [abc123]")
    finally:
        REQUEST_ID.reset(token)


@pytest.mark.parametrize("text", ["x" * 10_000, "\u00e9" * 10_000, "\n\\" * 5000, "\U0001f600" * 3000])
def test_a_line_is_one_write(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """And an object still, of JSON's text as of a terminal's: the longest text in it is cut."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(formatter("json"))
    handler.emit(record(text))
    written = capsys.readouterr().err
    assert LONGEST - 256 < len(written) <= LONGEST
    said = json.loads(written)["event"]
    assert said.endswith(" ...")
    assert text.startswith(said.removesuffix(" ..."))
    handler.setFormatter(formatter("console"))
    handler.emit(record("x" * 10_000))
    written = capsys.readouterr().err
    assert len(written) == LONGEST
    assert written.endswith(" ...\n")


def test_many_long_texts_are_all_cut() -> None:
    line = json_line({"a": "x" * 5000, "b": "y" * 5000, "c": 7, "d": "z"})
    assert len(line) <= LONGEST
    found = json.loads(line)
    assert (found["c"], found["d"]) == (7, "z")


def test_times_are_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


# -- a server that is told secrets wherever they can be put


def told_secrets(server: Served, token: str, signed: str) -> list[str]:
    """Say them in every place that a client has, rightly and wrongly; returns what must not be found."""
    master = "".join(f"{n:02x}" for n in range(100, 132))
    forged = f"h4_0123456789abcdef_{'Zm9yZ2Vk' * 5}abc"
    signature = parse_qs(urlsplit(signed).query)["sig"][0]
    session = ""

    def send(text: str, body: bytes = b"") -> bytes:
        with server.connect() as line:
            line.send(text.replace("\n", "\r\n").encode() + body)
            line.socket.settimeout(20)
            received = b""
            with suppress(ConnectionError, TimeoutError):
                while piece := line.socket.recv(2**16):
                    received += piece
        return received

    target = urlsplit(signed)._replace(scheme="", netloc="").geturl()
    head = "HTTP/1.1\nHost: localhost\nConnection: close\n"
    answer = send(f"POST /session {head}Authorization: Bearer {token}\nContent-Length: 0\n\n")
    found = re.search(rb"harmony4_session=([^;\s]+)", answer)
    assert found, answer
    session = found[1].decode()
    escaped = target.replace("sig=", "%73ig=")
    for first in (
        f"GET {target} {head}",
        f"GET {target}x {head}",
        f"GET {escaped} {head}",
        f"GET {target.replace('/video/range', '/nowhere')} {head}",
        f"GET /media {head}Referer: http://localhost{target}\n",
        f"GET /media {head}Authorization: Bearer {token}\n",
        f"GET /media {head}Authorization: Bearer {forged}\n",
        f"GET /media {head}Authorization: Basic {token}\n",
        f"GET /media {head}Cookie: harmony4_session={session}\n",
        f"GET /media {head}Cookie: harmony4_session={session}x; other={token}\n",
        f"GET /media?token={token} {head}",
        f"GET /media?access_token={token}&x=1 {head}",
        f"GET /media?token={token.replace('_', '%5F').replace('h4', '%684')} {head}",
        f"GET /{token} {head}",
        f"GET /media {head}User-Agent: Bearer {token}\n",
        f"GET /video/range?name=bad.h4mk {head}Authorization: Bearer {token}\n",
        f"GET /video/range?name={token} {head}Authorization: Bearer {token}\n",
        f"POST /audio/mask?master_key={master} {head}Authorization: Bearer {token}\nContent-Length: 0\n",
        f"POST /audio/mask {head}Harmony4-Master-Key: {master}\nContent-Length: 0\n",
        f"POST /audio/mask {head}Harmony4-Master-Key: {master}x\nAuthorization: Bearer {token}\n",
        f"POST /audio/mask?{master} {head}Authorization: Bearer {token}\nContent-Length: 0\n",
        f"GET /media BROKEN/1.1\nHost: localhost\nAuthorization: Bearer {token}\n",
        f"GET /media {head}Authorization : Bearer {token}\n",
        f"BREW /media?sig={signature} {head}Authorization: Bearer {token}\n",
        f"GET /media {head}X-Request-Id: {token}\nAuthorization: Bearer {forged}\n",
    ):
        send(f"{first}\n")
    parts = f'--b\nContent-Disposition: form-data; name="master_key"\n\n{master}\n--b\n'.replace("\n", "\r\n")
    send(
        f"POST /audio/mask {head}Authorization: Bearer {token}\nContent-Type: multipart/form-data; "
        f"boundary=b\nContent-Length: {len(parts)}\n\n",
        parts.encode(),
    )
    return [token[20:], forged[20:], signature, session, master]


@needs_proc
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_in_the_log_of_a_server(tmp_path: Path, log_format: str) -> None:
    """With every line that there is: requests, warnings, and what Python's development mode adds."""
    library = tmp_path / "library"
    write_container(library / "a.h4mk", [b"x" * 100])
    write_container(library / "bad.h4mk", [b"y" * 5000])
    data = (library / "bad.h4mk").read_bytes()
    (library / "bad.h4mk").write_bytes(data.replace(b"y" * 5000, b"y" * 4999 + b"z"))
    token = run("token", "add", "me", "--scope", "admin", "--library", library).text.split()[-1]
    signed = run("sign-url", "http://localhost/video/range?name=a.h4mk", "--library", library).text.strip()
    environ = {
        "HARMONY4_LOG_FORMAT": log_format,
        "HARMONY4_ACCESS_LOG": "true",
        "HARMONY4_VERIFY_ON_READ": "true",
        "PYTHONDEVMODE": "1",
        "PYTHONASYNCIODEBUG": "1",
    }
    with (
        (tmp_path / "log").open("wb") as file,
        served(library, "--auth", log=file, **environ) as server,
    ):
        secrets = told_secrets(server, token, signed)
        server.process.terminate()
        server.process.wait(60)
    log = (tmp_path / "log").read_text("utf-8")
    assert log.count("/media") >= 10  # it does log
    assert "bad.h4mk" in log or "SealError" in log or "does not match" in log
    for one in secrets:
        assert len(one) > 20
        at = log.find(one[:20])
        assert at < 0, log[max(0, at - 200) : at + 200]
    if log_format == "json":
        for line in log.splitlines():
            json.loads(line)


@pytest.mark.parametrize(
    "shown",
    [
        "short",
        "x" * 65,
        "a b c d e f g",
        "injected%0d%0aline",
        "é" * 10,
        '"}{"level":"error',
        "",
        "\x1b[31mred----",
    ],
)
def test_names_of_requests_are_harmless(tmp_path: Path, shown: str) -> None:
    """A name that is not 8 to 64 plain characters is not taken over, neither into answers nor into lines."""
    with running(tmp_path) as server:
        raw = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: "
        answer = server.raw(raw + shown.encode() + b"\r\n\r\n").partition(b"\r\n\r\n")[0]
    status, *fields = answer.split(b"\r\n")
    if b" 404 " in status:
        names = [field for field in fields if field.lower().startswith(b"x-request-id:")]
        assert len(names) == 1
        assert re.fullmatch(rb"X-Request-Id: [0-9a-f]{16}", names[0]), names
    else:
        assert b" 400 " in status  # control characters: no request at all
        assert not any(shown.encode() in field for field in fields if shown)
