"""server/streams/turns.py and spill.py: who comes when, and nothing lost on the way to a slow client."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from harmony4.server.errors import Problem
from harmony4.server.streams import spill, turns
from harmony4.server.streams.spill import Spill
from harmony4.server.streams.turns import Turns


async def test_turns_come_in_order_and_others_in_between() -> None:
    order: list[object] = []
    given = Turns()

    async def stream(number: int) -> None:
        for turn in range(3):
            await given.wait()
            order.append((turn, number))

    async def others() -> None:
        while sum(one != "others" for one in order) < 30:
            order.append("others")
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(stream(number))
        group.create_task(others())
    streams = [one for one in order if one != "others"]
    assert streams == sorted(streams)
    runs = "".join("o" if one == "others" else "s" for one in order).split("o")
    assert max(map(len, runs)) <= 2 * turns._AT_ONCE


async def test_a_turn_that_nobody_waits_for_any_more() -> None:
    given = Turns()
    gone = asyncio.create_task(given.wait())
    await asyncio.sleep(0)
    later = asyncio.create_task(given.wait())
    gone.cancel()
    async with asyncio.timeout(10):
        await later
        await given.wait()
    assert gone.cancelled()


@pytest.mark.parametrize("grace", [0.0, 0.0005, 5.0])
async def test_nothing_is_lost_and_nothing_overtakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    """In memory, on disk, and in memory again, while both sides go at paces of their own."""
    monkeypatch.setattr(spill, "_MEMORY", 1000)
    monkeypatch.setattr(spill, "_PIECE", 700)
    numbers = random.Random(7)
    sent, received = bytearray(), bytearray()
    one = Spill(tmp_path / "unread", 10**6, grace=grace)

    async def put() -> None:
        for _ in range(300):
            data = numbers.randbytes(numbers.randrange(1, 400))
            sent.extend(data)
            await one.put(data)
            if numbers.random() < 0.3:
                await asyncio.sleep(numbers.choice([0, 0.001]))
        one.patient = True
        for _ in range(100):
            sent.extend(b"patient")
            await one.put(b"patient")
        one.end()

    async def take() -> None:
        while data := await one.take(10):
            received.extend(data)
            await asyncio.sleep(numbers.choice([0, 0.002]))

    async with asyncio.timeout(30), asyncio.TaskGroup() as both:
        both.create_task(put())
        both.create_task(take())
    assert received == sent
    path = tmp_path / "unread"
    assert path.exists() or grace
    assert not path.exists() or (grace < 1 and path.stat().st_size == 0)
    assert await one.take(0.01) == b""
    await one.close()


async def test_what_stands_on_the_disk_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_MEMORY", 10)
    one = Spill(tmp_path / "unread", 25)
    for _ in range(3):
        await one.put(b"0123456789")
    with pytest.raises(Problem, match="25 bytes"):
        await one.put(b"0123456789")
    assert await one.take(1) == b"0123456789"
    assert await one.take(1) == b"0123456789" * 2
    await one.put(b"more")  # there is room again
    assert await one.take(1) == b"more"
    assert await one.take(0.01) is None
    await one.close()


async def test_the_file_grows_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much goes through it while something waits in it all the time."""
    monkeypatch.setattr(spill, "_MEMORY", 10)
    monkeypatch.setattr(spill, "_PIECE", 700)
    numbers, path, most = random.Random(3), tmp_path / "unread", 2000
    one = Spill(path, most)
    sent, received, largest = bytearray(), bytearray(), 0
    for _ in range(1000):
        while one.fits(400):
            data = numbers.randbytes(numbers.randrange(1, 400))
            sent += data
            await one.put(data)
        largest = max(largest, path.stat().st_size)
        while one._on_disk > 500:
            received += await one.take(1) or b""
    assert largest <= most
    assert len(sent) > 100 * most
    one.end()
    while data := await one.take(1):
        received += data
    assert received == sent
    await one.close()


async def test_nothing_on_the_disk_for_who_reads(tmp_path: Path) -> None:
    one = Spill(tmp_path / "unread", 0)
    await one.put(b"x" * 1000)
    assert await one.take(1) == b"x" * 1000
    one.end()
    assert await one.take(1) == b""
    await one.close()
    assert not (tmp_path / "unread").exists()


async def test_a_grace_for_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody takes, `put` waits, and nothing is written; where nobody does, it waits once."""
    monkeypatch.setattr(spill, "_MEMORY", 1000)
    path = tmp_path / "unread"
    one = Spill(path, 10**6, grace=5)
    taken = bytearray()

    async def take() -> None:
        while data := await one.take(10):
            taken.extend(data)

    async with asyncio.timeout(30), asyncio.TaskGroup() as both:
        both.create_task(take())
        for _ in range(100):
            await one.put(b"x" * 600)
        one.end()
    assert len(taken) == 60_000
    assert not path.exists()
    await one.close()
    idle = Spill(path, 10**6, grace=0.05)
    clock = asyncio.get_running_loop().time
    began = clock()
    for _ in range(200):
        await idle.put(b"y" * 600)
    assert path.stat().st_size >= 100_000
    assert 0.05 <= clock() - began < 5
    idle.end()
    found = b""
    while data := await idle.take(10):
        found += data
    assert found == b"y" * 120_000
    await idle.close()
