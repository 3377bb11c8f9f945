"""The access log: its lines, both lanes alike, and readers that are slow."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from commands import HARMONY4, ROOM
from harmony4.server.logs import formatter, without_signature
from harmony4.server.serving.access import AccessLog, escape
from serving import write_container

LINE = re.compile(
    r'(?P<address>\S+) - - \[(?P<date>[^]]+)\] "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<size>\d+) '
    r'"(?P<referrer>[^"]*)" "(?P<agent>[^"]*)" (?P<microseconds>\d+)'
)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("GET /a?b=c HTTP/1.1", "GET /a?b=c HTTP/1.1"),
        ('"\\', "\\x22\\x5C"),
        ("a\r\nb\x00", "a\\x0D\\x0Ab\\x00"),
        ("ü", "\\xC3\\xBC"),
        ("\udcff", "\\xFF"),  # a byte that is no UTF-8, as aiohttp hands it on
        ("\x1b[31m", "\\x1B[31m"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_lines(tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "log").open("wb") as file:
            log = AccessLog(file.fileno(), clock=lambda: 1_700_000_000.9)
            log.add("127.0.0.1", "GET / HTTP/1.1", 200, 12, '"-" "curl/8"', 0.0123456)
            log.add("::1", "HEAD /x HTTP/1.0", 404, 0, '"-" "-"', 2)
            await log.close()

    asyncio.run(main())
    assert (tmp_path / "log").read_text() == (
        '127.0.0.1 - - [14/Nov/2023:22:13:20 +0000] "GET / HTTP/1.1" 200 12 "-" "curl/8" 12345\n'
        '::1 - - [14/Nov/2023:22:13:20 +0000] "HEAD /x HTTP/1.0" 404 0 "-" "-" 2000000\n'
    )


def test_many_lines_come_by_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "log").open("wb") as file:
            log = AccessLog(file.fileno())
            for number in range(30_000):
                log.add("-", f"GET /{number} HTTP/1.1", 200, number, '"-" "-"', 0)
            while not (tmp_path / "log").stat().st_size:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
            log.add("-", "last", 200, 0, '"-" "-"', 0)
            await log.close()

    asyncio.run(main())
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[6] for line in lines[:-1]] == [f"/{number}" for number in range(30_000)]
    assert '"last"' in lines[-1]


def test_a_reader_that_does_not_read() -> None:
    """A full pipe costs lines, not the server, and whoever reads later sees whole lines."""

    async def main() -> bytes:
        reading, writing = os.pipe()
        log = AccessLog(writing)
        for _ in range(110_000):
            log.add("-", "x" * 100, 200, 0, '"-" "-"', 0)
        await asyncio.wait_for(log.close(), 10)
        taken = os.read(reading, 2**20)
        log.add("-", "again", 200, 0, '"-" "-"', 0)
        await log.close()
        taken += os.read(reading, 2**20)
        os.close(reading)
        log.add("-", "nobody is there", 200, 0, '"-" "-"', 0)
        await log.close()
        os.close(writing)
        return taken

    lines = asyncio.run(main()).decode().splitlines()
    assert '"again"' in lines[-2]  # and how many were dropped behind it
    dropped = [line for line in lines if line.startswith("(")]
    assert all(LINE.fullmatch(line) for line in lines if line not in dropped)
    assert len(lines) < 110_000
    # What was dropped in front of the thread, and what the thread could not write.
    assert len(lines) - len(dropped) + sum(int(line[1:].split()[0]) for line in dropped) == 110_001


def test_both_lanes_log_alike(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 1000, b"y" * 1000])
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(HARMONY4), "serve", str(tmp_path), "--port", "0", "--access-log", "--json"],
            stdout=subprocess.PIPE,
            stderr=file,
        )
    try:
        assert process.stdout is not None
        found = re.search(rb'"(http://[^"]*)"', process.stdout.readline())
        assert found is not None
        url = found[1].decode()
        agent = ["-A", 'a "b"', "-e", "http://x/"]
        asked = [f"{url}video/range?name=a.h4mk"] * 3
        subprocess.run(["curl", "-fsS", *agent, "-r", "5-9", "-o", os.devnull, *_each(asked)], check=True)
        seeks = [f"{url}video/seek?name=a.h4mk&pts={pts}" for pts in (0, 5, 1_500_000)]
        subprocess.run(["curl", "-fsS", *agent, "-o", os.devnull, *_each(seeks)], check=True)
        subprocess.run(["curl", "-sS", "-o", os.devnull, f"{url}none"], check=True)
    finally:
        process.terminate()
        process.communicate(timeout=ROOM)
    lines = [LINE.fullmatch(line) for line in log.read_text().splitlines()]
    facts = [one.groupdict() for one in lines if one is not None]
    assert len(facts) == len(lines) == 7
    assert [one["status"] for one in facts] == ["206"] * 3 + ["200"] * 3 + ["404"]
    assert [one["size"] for one in facts[:3]] == ["5"] * 3
    assert [one["request"] for one in facts[:3]] == ["GET /video/range?name=a.h4mk HTTP/1.1"] * 3
    assert [one["request"].split("=")[-1] for one in facts[3:6]] == [
        "0 HTTP/1.1",
        "5 HTTP/1.1",
        "1500000 HTTP/1.1",
    ]
    assert {one["agent"] for one in facts[:6]} == {"a \\x22b\\x22"}
    assert {one["referrer"] for one in facts[:6]} == {"http://x/"}
    assert {one["address"] for one in facts} == {"127.0.0.1"}


def _each(urls: list[str]) -> list[str]:
    """Arguments for curl to fetch all of them on one connection."""
    return [
        part for number, url in enumerate(urls) for part in (["-o", os.devnull] if number else []) + [url]
    ]


def test_no_escape_hides_a_key() -> None:
    key = "ab" * 32
    for target in (
        f"/x?k={key}",
        f"/x?k={'%61%62' * 32}",
        f"/x?k={key[:10]}%62{key[11:]}&l=1",
        f"/x?h4mk%2Dkey-v1:{key}",
    ):
        shown = without_signature(target)
        assert "abab" not in shown and "%61%62%61" not in shown, shown
    assert without_signature("/x?name=%C3%96&pts=1") == "/x?name=%C3%96&pts=1"


@pytest.mark.parametrize(
    "target",
    [
        "http://h/p?src=%2Fv%3Fname%3Da%26sig%3DSECRET",
        "http://h/p?src=%252Fv%253Fname%253Da%2526SIG%253DSECRET&x=1",
        "/x?a=b?sig=SECRET",
        "/x?a=b?c=d&%73ig=SECRET",
        "/x?sig=SECRET?sig=SECRET",
    ],
)
def test_no_address_within_an_address_hides_a_signature(target: str) -> None:
    shown = without_signature(target)
    assert "SECRET" not in shown
    assert shown.endswith("...")
    assert without_signature(shown) == shown


@pytest.mark.parametrize(
    "piece",
    ["?master", "master", "&master?", "?", "&sig", "?s=%73", "h4mk-key-", "harmony4-master-key ", "Bearer "],
)
def test_what_is_made_to_be_slow_is_not(piece: str) -> None:
    """Every word of a request is looked at once; a search that goes back would take minutes here."""
    text = piece * 20_000
    record = logging.LogRecord("x", logging.ERROR, "", 0, text, (), None)
    began = time.process_time()
    without_signature(text)
    for form in ("console", "json"):
        formatter(form).format(record)
    assert time.process_time() - began < 10
