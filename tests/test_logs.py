"""The log: for people or as JSON, with the request's name, without what is secret."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from harmony4.server.logs import LONGEST, REQUEST_ID, LineHandler, formatter, rfc3339


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
        ("Authorization: Bearer h4_0123.abcdef", "h4_0123.abcdef"),
        ("cannot read h4mk-key-v1:00ff00ff", "00ff00ff"),
        ("Cookie: harmony4_session=YWJj.def", "YWJj.def"),
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


def test_a_line_is_one_write(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LineHandler(sys.stderr)
    handler.setFormatter(formatter("json"))
    handler.emit(record("x" * 10_000))
    written = capsys.readouterr().err
    assert len(written) == LONGEST
    assert written.endswith(" ...\n")


def test_times_are_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
