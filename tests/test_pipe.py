"""tokenize/pipe.py: bytes from the event loop to a thread, in every order of what both sides do."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.crypto.errors import MediaError
from harmony4.server.errors import Problem
from harmony4.tokenize.pipe import MEMORY, Pipe
from serving import LOOPS, go

each_loop = pytest.mark.parametrize("loop", LOOPS)


async def turns(count: int = 10) -> None:
    """Let everything run on the event loop that can run."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- leaving


@each_loop
def test_close_ends_whoever_reads(loop: str) -> None:
    """A demuxer's feeder waits in `read` when the export ends by itself: it must not wait for ever."""

    async def main() -> None:
        pipe = Pipe()
        reading = asyncio.create_task(asyncio.to_thread(pipe.read, 10))
        await pipe.put(b"abc")
        await turns()
        pipe.close()
        assert await reading in (b"abc", b"")
        assert await asyncio.to_thread(pipe.read, 10) == b""

    go(loop, main)


# -- reading


@each_loop
def test_reads_join_and_split_pieces(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe()
        for piece in (b"ab", b"", b"cde", b"f", b"ghij"):
            assert await pipe.put(piece)
        pipe.end()
        read = lambda n: asyncio.to_thread(pipe.read, n)  # noqa: E731
        assert await read(0) == b""
        assert await read(1) == b"a"
        assert await read(3) == b"bcd"
        assert await read(2) == b"ef"
        assert await read(100) == b"ghij"
        for n in (1, 100, 0):
            assert await read(n) == b""

    go(loop, main)


@each_loop
def test_a_read_waits_for_all_that_it_asks_for(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe(4)  # less than what is read at once
        reading = asyncio.create_task(asyncio.to_thread(pipe.read, 10))
        for piece in (b"abcd", b"efgh", b"i"):
            await pipe.put(piece)
            await turns()
            assert not reading.done()
        await pipe.put(b"jk")
        assert await reading == b"abcdefghij"
        pipe.end()
        assert await asyncio.to_thread(pipe.read, 10) == b"k"

    go(loop, main)


@each_loop
def test_an_empty_piece_is_not_the_end(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe()
        reading = asyncio.create_task(asyncio.to_thread(pipe.read, 1))
        await pipe.put(b"")
        await turns()
        assert not reading.done()
        await pipe.put(b"x")
        assert await reading == b"x"

    go(loop, main)


@each_loop
def test_reading_nothing_waits_for_nothing(loop: str) -> None:
    async def main() -> None:
        assert await asyncio.to_thread(Pipe().read, 0) == b""

    go(loop, main)


# -- back-pressure


@each_loop
def test_put_waits_for_room(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe(10)
        assert await pipe.put(b"1" * 9)
        putting = asyncio.create_task(pipe.put(b"2" * 16))
        await turns()
        assert not putting.done()
        for n in (9, 6):  # 16 wait, then 10: no room yet
            await asyncio.to_thread(pipe.read, n)
            await turns()
            assert not putting.done()
        assert await asyncio.to_thread(pipe.read, 1) == b"2"
        assert await putting is True
        # And again: it waits, and everything else on the loop goes on.
        putting = asyncio.create_task(pipe.put(b"3"))
        await turns()
        assert not putting.done()
        assert await asyncio.to_thread(pipe.read, 9) == b"2" * 9
        assert await putting is True
        pipe.end()
        assert await asyncio.to_thread(pipe.read, 100) == b"3"

    go(loop, main)


@each_loop
def test_no_more_waits_than_may(loop: str) -> None:
    memory, piece, n, count = 5000, 1000, 700, 500
    returned = 0

    def read(pipe: Pipe) -> None:
        nonlocal returned
        while data := pipe.read(n):
            returned += len(data)

    async def main() -> None:
        pipe = Pipe(memory)
        reading = asyncio.create_task(asyncio.to_thread(read, pipe))
        handed = 0
        for _ in range(count):
            assert await pipe.put(b"x" * piece)
            handed += piece
            assert handed - returned < memory + n
        pipe.end()
        await reading
        assert returned == count * piece

    go(loop, main)


@each_loop
def test_memory_by_default(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe()
        assert await pipe.put(bytes(MEMORY - 1))
        putting = asyncio.create_task(pipe.put(b"x"))
        await turns()
        assert not putting.done()
        await asyncio.to_thread(pipe.read, 1)
        assert await putting

    go(loop, main)


@each_loop
def test_a_put_that_is_cancelled_has_put(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe(1)
        putting = asyncio.create_task(pipe.put(b"ab"))
        await turns()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        pipe.end()
        assert await asyncio.to_thread(pipe.read, 5) == b"ab"

    go(loop, main)


# -- ends and failures

ERRORS = (MediaError("first"), Problem("body", "second"))
ORDERS = [
    order
    for count in range(1, 5)
    for order in itertools.permutations(("put", "end", "first", "second"), count)
    if {"first", "second"} & set(order)
]


@each_loop
@pytest.mark.parametrize("early", [False, True], ids=["read-late", "read-early"])
def test_a_failure_is_what_is_read_whatever_else_happens(loop: str, early: bool) -> None:
    async def one(order: tuple[str, ...]) -> None:
        pipe = Pipe()
        reading = asyncio.create_task(asyncio.to_thread(pipe.read, 100)) if early else None
        failures = []
        for step in order:
            if step == "put":
                assert await pipe.put(b"data")
            elif step == "end":
                pipe.end()
            else:
                error = ERRORS[step == "second"]
                pipe.fail(error)
                failures.append(error)
                assert pipe.failure is failures[0]
        if reading is not None:
            try:
                data = await reading
            except (MediaError, Problem) as error:
                assert error is failures[0], order
            else:  # the end was there before the failure
                assert "end" in order, order
                assert order.index("end") < min(order.index(e) for e in ("first", "second") if e in order)
                assert data in (b"", b"data")
        for _ in range(2):
            with pytest.raises(type(failures[0])) as caught:
                await asyncio.to_thread(pipe.read, 1)
            assert caught.value is failures[0], order

    async def main() -> None:
        for order in ORDERS:
            await one(order)

    go(loop, main)


@each_loop
def test_a_reader_that_waits_is_woken(loop: str) -> None:
    """By each of the three; often, so that it waits in some rounds and comes too late in others."""

    async def main() -> None:
        for _ in range(50):
            for what in ("put", "end", "fail"):
                pipe = Pipe()
                reading = asyncio.create_task(asyncio.to_thread(pipe.read, 1))
                await turns(2)
                if what == "put":
                    await pipe.put(b"x")
                    assert await reading == b"x"
                elif what == "end":
                    pipe.end()
                    assert await reading == b""
                else:
                    pipe.fail(ERRORS[0])
                    with pytest.raises(MediaError):
                        await reading

    go(loop, main)


@each_loop
def test_a_failure_lets_the_reader_free_the_writer(loop: str) -> None:
    """As an export does it: the read raises, the thread closes the pipe, the writer hears of it."""

    async def main() -> None:
        pipe, busy = Pipe(1), threading.Event()

        def export() -> None:
            try:
                pipe.read(1)
                busy.wait(30)
                pipe.read(100)
            finally:
                pipe.close()

        putting = asyncio.create_task(pipe.put(b"abc"))
        await turns()
        reading = asyncio.create_task(asyncio.to_thread(export))
        await turns()
        pipe.fail(ERRORS[1])
        await turns()
        assert not putting.done()
        busy.set()
        assert await putting is False
        with pytest.raises(Problem):
            await reading

    go(loop, main)


# -- close


@each_loop
@pytest.mark.parametrize("thread", [False, True])
def test_close_wakes_a_put_that_waits(loop: str, thread: bool) -> None:
    async def main() -> None:
        pipe = Pipe(1)
        putting = asyncio.create_task(pipe.put(b"abc"))
        await turns()
        assert not putting.done()
        if thread:
            await asyncio.to_thread(pipe.close)
        else:
            pipe.close()
        assert await putting is False
        for _ in range(3):
            assert await pipe.put(b"x" * 100) is False  # without waiting
        pipe.close()

    go(loop, main)


@each_loop
def test_what_comes_after_the_close_is_dropped(loop: str) -> None:
    async def main() -> None:
        pipe = Pipe()
        await pipe.put(b"before")
        pipe.close()
        await pipe.put(b"after")
        pipe.end()
        assert await asyncio.to_thread(pipe.read, 100) == b""

    go(loop, main)


@each_loop
def test_the_loop_is_closed_before_the_reader_ends(loop: str) -> None:
    pipes: list[Pipe] = []

    async def main() -> None:
        pipe = Pipe(4)
        pipes.append(pipe)
        await pipe.put(b"abc")
        putting = asyncio.create_task(pipe.put(b"def"))
        await turns()
        assert not putting.done()  # the runner cancels it

    go(loop, main)
    pipe = pipes[0]
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(pipe.read, 4).result(30) == b"abcd"
        pipe.end()
        assert threads.submit(pipe.read, 4).result(30) == b"ef"
        threads.submit(pipe.close).result(30)


# -- any pieces, any reads


@given(
    pieces=st.lists(st.binary(max_size=40), max_size=40),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=10),
    memory=st.integers(1, 60),
    loop=st.sampled_from(LOOPS),
)
@settings(deadline=None)
def test_bytes_out_are_bytes_in(pieces: list[bytes], sizes: list[int], memory: int, loop: str) -> None:
    found: list[tuple[int, bytes]] = []

    def read(pipe: Pipe) -> None:
        for n in itertools.cycle(sizes):
            found.append((n, pipe.read(n)))
            if len(found[-1][1]) < n:
                return

    async def main() -> None:
        pipe = Pipe(memory)
        reading = asyncio.create_task(asyncio.to_thread(read, pipe))
        for piece in pieces:
            assert await pipe.put(piece)
        pipe.end()
        await reading
        assert await asyncio.to_thread(pipe.read, 1) == b""

    go(loop, main)
    assert b"".join(data for _, data in found) == b"".join(pieces)
    assert all(len(data) == n for n, data in found[:-1])


@each_loop
def test_read1_gives_what_is_there(loop: str) -> None:
    """At once, and never more than was asked for; nothing at the end."""

    async def main() -> None:
        pipe = Pipe()
        waiting = asyncio.create_task(asyncio.to_thread(pipe.read1, 10))
        await turns()
        assert not waiting.done()
        assert await pipe.put(b"abcdefghijkl")
        assert await waiting == b"abcdefghij"
        assert await asyncio.to_thread(pipe.read1, 10) == b"kl"
        pipe.end()
        assert await asyncio.to_thread(pipe.read1, 10) == b""
        pipe.fail(MediaError("no"))
        with pytest.raises(MediaError):
            await asyncio.to_thread(pipe.read1, 1)

    go(loop, main)


def test_room_that_is_made_between_two_looks() -> None:
    """The reader saw that nobody waited, and will not say it again."""

    async def main() -> None:
        pipe = Pipe(memory=10)

        class Room(asyncio.Event):
            def clear(self) -> None:
                super().clear()
                pipe._waiting = 0

        pipe._room = Room()
        assert await pipe.put(b"x" * 10)

    go(LOOPS[0], main)
