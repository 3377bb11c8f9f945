"""A tokenizer between two async iterators: bytes in, tokens out, and all of its work in a thread of its own.

The tokenizer is the synchronous one: it reads what arrives from a `Pipe`, and what it yields goes through a
`_Basket` back to the event loop. Both have a bound, so memory follows what waits in them and not the medium.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from harmony4.crypto.errors import SourceError
from harmony4.tokenize.pipe import Pipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from harmony4.tokenize.tokens import Source

__all__ = ["batches"]

_T = TypeVar("_T")


class _Basket(Generic[_T]):
    """One thread that puts, one event loop that takes, and a bound on what waits between them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._waiting: deque[_T] = deque()
        self._there = asyncio.Event()
        self._closed = False
        self._ended = False

    def put(self, one: _T) -> bool:
        """Hand over one; waits while `most` of them wait. False: nobody wants any more."""
        with self._changed:
            while len(self._waiting) >= self._most and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._waiting.append(one)
            self._wake()
        return True

    def end(self) -> None:
        """Nothing more comes; from the thread."""
        with self._changed:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._there.set)

    async def take(self) -> list[_T]:
        """All that wait, at least one; none at the end."""
        while True:
            self._there.clear()
            with self._changed:
                found = list(self._waiting)
                self._waiting.clear()
                self._changed.notify()
                if found or self._ended:
                    return found
            await self._there.wait()

    def close(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()


async def batches(
    encode: Callable[[Source], Iterator[_T]], chunks: AsyncIterable[bytes], *, ahead: int
) -> AsyncGenerator[list[_T]]:
    """What `encode` yields of the bytes in `chunks`, as it becomes certain: lists of what is there by then.

    At most `ahead` tokens wait to be taken, beside the one that waits to be put. Raises what `encode` and
    `chunks` raise. Closing the iterator (`aclose`) ends the thread; until then it waits for more bytes.
    """
    pipe, basket = Pipe(), _Basket[_T](ahead)
    with ThreadPoolExecutor(1, "harmony4-tokens") as thread:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(thread, _work, encode, pipe, basket)
        feeding = asyncio.create_task(_feed(chunks, pipe))
        try:
            while found := await basket.take():
                yield found
            await asyncio.shield(work)
        finally:
            basket.close()
            pipe.fail(SourceError("nobody wants the tokens any more"))
            feeding.cancel()
            # The thread may be at work on a block still; it is over with the next byte that it wants.
            await asyncio.gather(feeding, work, return_exceptions=True)


def _work(encode: Callable[[Source], Iterator[_T]], pipe: Pipe, basket: _Basket[_T]) -> None:
    try:
        # A generator: closing it ends the demuxer's process now, not when the collector gets to it.
        with closing(cast("Generator[_T]", encode(cast("Source", pipe)))) as tokens:
            for token in tokens:
                if not basket.put(token):
                    return
    finally:
        pipe.close()
        basket.end()


async def _feed(chunks: AsyncIterable[bytes], pipe: Pipe) -> None:
    try:
        async for chunk in chunks:
            if not await pipe.put(chunk):
                return  # the thread has ended, and says why
        pipe.end()
    except Exception as error:
        pipe.fail(error)
    except BaseException:
        pipe.fail(SourceError("the source was given up"))
        raise
