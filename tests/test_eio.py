"""A disk with bad sectors below the library: who asks for them is told so, and nobody else notices.

With a real file system that answers EIO where one can be mounted, and with a server whose reads raise anyway.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from failing_disk import Disk, failing_disk, failing_reader, may_mount
from harmony4.h4mk import H4MKReader
from processes import Line, Served, needs_proc, served, until
from serving import LOOPS, write_container

pytestmark = needs_proc

KINDS: Final = ("disk", "reader") if may_mount() else ("reader",)
BLOCK: Final = 2**20
BLOCKS: Final = [random.Random(n).randbytes(BLOCK) for n in range(24)]
DATA: Final = b"".join(BLOCKS)
BAD: Final = 10 * BLOCK
"""The first byte of the stream that cannot be read; the block it opens cannot be read at all."""
FILM: Final = "/video/range?name=film.h4mk"
OTHER: Final = "/video/range?name=other.h4mk"


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    source = tmp_path / "source"
    for name in ("film", "other"):
        write_container(source / f"{name}.h4mk", BLOCKS)
    if request.param == "reader":
        with failing_reader(tmp_path / "bad.json", source) as disk:
            yield disk
    else:
        with failing_disk(tmp_path / "disk", source) as disk:
            yield disk


def place(disk: Disk, start: int) -> int:
    """Where a byte of the stream lies in the file."""
    with H4MKReader(disk.source / "film.h4mk") as reader:
        return next(iter(reader.extents(start, 1)))[0]


def break_block(disk: Disk) -> None:
    """Whole pages within one block: those around it stay readable (the kernel reads pages, and ahead)."""
    start = place(disk, BAD)
    disk.fail("film.h4mk", start, start + BLOCK)


def ask(server: Served, target: str, *fields: str) -> tuple[int, bytes, bool]:
    """Status, what came of the body, and whether that is all of it."""
    with server.connect() as line:
        return read(line, target, *fields)


def read(line: Line, target: str, *fields: str) -> tuple[int, bytes, bool]:
    line.ask(target, *fields)
    status, headers = line.head()
    body = bytearray()
    try:
        while piece := line.body(min(2**16, int(headers["content-length"]) - len(body))):
            body += piece
    except ConnectionError:
        pass
    return status, bytes(body), len(body) == int(headers["content-length"])


@contextmanager
def others(server: Served, *targets: str) -> Iterator[None]:
    """Four who read at the same time, another film and what is sound of the same one (or `targets`): from
    before the block begins until after it ends, without a byte that is wrong.

    Each of them has one connection, and is not cut off.
    """
    over = threading.Event()
    counts = [0] * 4

    def follow(number: int) -> None:
        dice = random.Random(number)
        target = (targets or (OTHER, FILM))[number % (len(targets) or 2)]
        stop = len(DATA) if target == OTHER else BAD - BLOCK
        with server.connect() as line:
            while True:
                last = over.is_set()
                size = dice.choice((100, 2**17, BLOCK, 3 * BLOCK))
                start = dice.randrange(stop - size)
                found = read(line, target, f"Range: bytes={start}-{start + size - 1}")
                assert found == (206, DATA[start : start + size], True), (target, start, size, found[0])
                counts[number] += 1
                if last:
                    return

    with ThreadPoolExecutor(len(counts)) as pool:
        following = [pool.submit(follow, number) for number in range(len(counts))]
        try:
            until(lambda: all(counts) or any(one.done() for one in following), "their first answers")
            yield
        finally:
            over.set()
        for one in following:
            one.result(60)
    assert min(counts) >= 2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_bad_sector_costs_who_asks_for_it(disk: Disk, tmp_path: Path, loop: str) -> None:
    break_block(disk)
    with (
        (tmp_path / "log").open("wb") as log,
        served(
            disk.path,
            *("--workers", 2),
            loop=loop,
            log=log,
            HARMONY4_STATE=str(tmp_path / "state"),
            **disk.environment,
        ) as server,
    ):
        workers = server.workers()
        for _ in range(3):  # the ordinary way, then the express lane
            with others(server):
                status, body, whole = ask(server, FILM)
            assert (status, whole) == (200, False)
            assert DATA.startswith(body)
            assert len(body) <= BAD
            for size in (100, 2**17, BLOCK // 2):
                with others(server):
                    status, body, whole = ask(server, FILM, f"Range: bytes={BAD + 1000}-{BAD + 999 + size}")
                assert (status, whole) == (503, True), (
                    size,
                    len(body),
                    body == DATA[BAD + 1000 : BAD + 1000 + size],
                )
                assert json.loads(body)["type"] == "urn:harmony4:problem:source"
                assert str(tmp_path).encode() not in body
                # What lies before it, in the same file.
                assert ask(server, FILM, f"Range: bytes=0-{size - 1}") == (206, DATA[:size], True)
            with others(server):
                status, body, whole = ask(server, FILM, f"Range: bytes={BAD - 6 * BLOCK}-{BAD + BLOCK}")
            assert (status, whole) == (206, False)
            assert DATA[BAD - 6 * BLOCK :].startswith(body)
            assert ask(server, OTHER) == (200, DATA, True)
            status, body, _ = ask(server, "/video/seek?name=film.h4mk&pts=10500000")
            assert (status, json.loads(body)["pts"]) == (200, 10_000_000)
        disk.heal()
        assert ask(server, FILM) == (200, DATA, True)
        assert server.workers() == workers
    said = (tmp_path / "log").read_text()
    assert "Input/output error" in said
    assert "Traceback" not in said


def test_tables_that_cannot_be_read(disk: Disk, tmp_path: Path) -> None:
    """A container that cannot even be opened is refused for as long as it is so, and not longer."""
    size = (disk.source / "film.h4mk").stat().st_size
    disk.fail("film.h4mk", size - 64, size)
    with served(disk.path, HARMONY4_STATE=str(tmp_path / "state"), **disk.environment) as server:
        for target in (
            FILM,
            "/video/seek?name=film.h4mk&pts=0",
            "/video/info?name=film.h4mk",
            "/container?name=film.h4mk",
        ):
            status, body, _ = ask(server, target)
            assert (status, json.loads(body)["type"]) == (503, "urn:harmony4:problem:source"), target
        assert ask(server, OTHER) == (200, DATA, True)
        status, body, _ = ask(server, "/media")
        assert status == 200
        assert {item["name"] for item in json.loads(body)["items"]} == {"film.h4mk", "other.h4mk"}
        disk.heal()
        assert ask(server, FILM) == (200, DATA, True)


def test_scrubbing_names_it(disk: Disk, tmp_path: Path) -> None:
    break_block(disk)
    with served(
        disk.path,
        HARMONY4_STATE=str(tmp_path / "state"),
        HARMONY4_SCRUB_RATE=str(2**30),
        HARMONY4_SCRUB_PAUSE="0.1",
        **disk.environment,
    ) as server:

        def verified() -> dict[str, object]:
            items = json.loads(server.get("/media")[1])["items"]
            return {item["name"]: item["verified"]["problem"] for item in items if "verified" in item}

        until(lambda: len(verified()) == 2, "a round")
        reason = "it cannot be read: cannot read the source: Input/output error"
        assert verified() == {"film.h4mk": reason, "other.h4mk": None}
        assert b"\nharmony4_damaged_containers 1.0\n" in server.get("/metrics")[1]
        disk.heal()
        until(lambda: not any(verified().values()), "the round after that")


@pytest.mark.parametrize("loop", LOOPS)
def test_pages_that_went_away_after_they_were_looked_at(disk: Disk, tmp_path: Path, loop: str) -> None:
    """What was in memory when it was handed over, and cannot be read when the client takes it.

    The kernel meets the bad page while it copies from the mapping into the socket: an error of that call,
    where a program that touched the page would die of SIGBUS.
    """
    environment = {"HARMONY4_STATE": str(tmp_path / "state"), **disk.environment}
    with served(disk.path, loop=loop, **environment) as server:
        with server.connect(small=True) as line:
            line.ask(FILM)
            status, _ = line.head()
            assert status == 200
            body = bytearray(line.body(2**16))  # what follows waits as slices of the mapping
            disk.forget("film.h4mk")
            for start in range(0, len(DATA), BLOCK):
                disk.fail("film.h4mk", place(disk, start), place(disk, start) + BLOCK)
            with others(server, OTHER), pytest.raises((ConnectionError, EOFError)):
                while True:
                    piece = line.body(2**16)
                    if not piece:
                        raise EOFError
                    body += piece
        assert DATA.startswith(bytes(body))
        assert len(body) < len(DATA)
        assert server.process.poll() is None
        assert ask(server, OTHER) == (200, DATA, True)
