"""`Tokenizer.stream`: the tokens of bytes that are still arriving are those of the bytes that are there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.crypto import MediaError, SourceError
from harmony4.server.errors import Problem
from harmony4.tokenize.audio import AudioFFTTokenizer
from harmony4.tokenize.tokens import Source, Token, Tokenizer
from harmony4.tokenize.video import VideoBlockToken, VideoTransportTokenizer
from media_factory import media
from needs import needs_espeak, needs_ffmpeg
from serving import LOOPS, go

each_loop = pytest.mark.parametrize("loop", LOOPS)


async def arriving(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def taken(tokenizer: Tokenizer[Any], pieces: Sequence[bytes], ahead: int = 1) -> list[Any]:
    async with aclosing(tokenizer.stream(arriving(pieces), ahead=ahead)) as tokens:
        return [token async for token in tokens]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({0, *places, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20), st.integers(1, 9))
@settings(max_examples=40)
def test_split_anywhere(data: bytes, places: list[int], ahead: int) -> None:
    def tokenizer() -> VideoTransportTokenizer:
        return VideoTransportTokenizer(raw=True, block_size=7)

    async def main() -> None:
        pieces = cut(data, [min(place, len(data)) for place in places])
        assert await taken(tokenizer(), pieces, ahead) == list(tokenizer().encode([data]))

    go(LOOPS[0], main)


@needs_ffmpeg
@each_loop
@pytest.mark.parametrize("name", ["fragmented.mp4", "plain.mp4", "moovend.mp4"])
def test_real_media(name: str, loop: str) -> None:
    data = media(name).read_bytes()
    with media(name).open("rb") as file:
        expected = list(VideoTransportTokenizer().encode(file))

    async def main() -> None:
        for size in (1000, 65_536, len(data)):
            tokenizer = VideoTransportTokenizer()
            assert await taken(tokenizer, cut(data, range(0, len(data), size))) == expected
            assert tokenizer.spooled == (name == "moovend.mp4")
            assert tokenizer.consumed == len(data)

    go(loop, main)


@needs_ffmpeg
@needs_espeak
@pytest.mark.parametrize("name", ["fragmented.mp4", "moovend.mp4", "plain.mkv", "plain.ts"])
@pytest.mark.parametrize("kind", [VideoTransportTokenizer, AudioFFTTokenizer])
def test_real_media_split_anywhere(name: str, kind: Callable[[], Tokenizer[Any]]) -> None:
    split_anywhere(media(name).read_bytes(), kind)


@needs_ffmpeg
@needs_espeak
@pytest.mark.parametrize("profile", ["structure", "detail"])
def test_sound_split_anywhere(profile: str) -> None:
    split_anywhere(media("speech.wav").read_bytes(), partial(AudioFFTTokenizer, profile=profile))


def split_anywhere(data: bytes, kind: Callable[[], Tokenizer[Any]]) -> None:
    """`stream` of any pieces, near the head or wherever, gives what `encode` gives."""
    expected = list(kind().encode([data]))
    assert expected

    @given(places(len(data)), st.integers(1, 9))
    @settings(max_examples=12)
    def check(at: list[int], ahead: int) -> None:
        async def main() -> None:
            assert await taken(kind(), cut(data, at), ahead) == expected

        go(LOOPS[0], main)

    check()


def places(size: int) -> st.SearchStrategy[list[int]]:
    """Where to cut so many bytes: half of the places are in the head, where formats are told apart."""
    return st.lists(st.integers(0, min(600, size)) | st.integers(0, size), max_size=30)


class Counted(Token):
    def metadata(self) -> dict[str, Any]:
        return {}

    def serialize(self) -> bytes:
        return b""


class Bytes(Tokenizer[Token]):
    """A token for each byte; says how many it has made, and whether it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = threading.Event()

    def encode(self, source: Source) -> Iterator[Token]:
        try:
            while source.read(1):  # type: ignore[union-attr]
                self.made += 1
                yield Counted()
        finally:
            self.closed.set()

    def decode(self, data: bytes) -> list[Token]:
        return []


@each_loop
@pytest.mark.parametrize("ahead", [1, 5])
def test_no_more_is_made_than_may_wait(loop: str, ahead: int) -> None:
    async def main() -> None:
        tokenizer = Bytes()
        async with aclosing(tokenizer.stream(arriving([b"x" * 100]), ahead=ahead)) as tokens:
            await anext(tokens)
            # What waits, one that waits to be put, and those that were taken at once.
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert 1 <= tokenizer.made <= 2 * ahead + 1
        assert tokenizer.closed.is_set()
        assert tokenizer.made <= 2 * ahead + 1

    go(loop, main)


@each_loop
@pytest.mark.parametrize("error", [Problem("body", "broken"), SourceError("gone"), RuntimeError("bug")])
def test_a_source_that_fails(loop: str, error: Exception) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"abc"
        raise error

    async def main() -> None:
        tokenizer = Bytes()
        found = []
        with pytest.raises(type(error)) as raised:
            async for token in tokenizer.stream(failing()):
                found.append(token)  # noqa: PERF401
        assert raised.value is error
        assert len(found) <= 3
        assert tokenizer.closed.is_set()

    go(loop, main)


@each_loop
def test_media_that_fail(loop: str) -> None:
    """The rest of the source is not wanted any more."""

    class Refusing(Bytes):
        def encode(self, source: Source) -> Iterator[Token]:
            source.read(10)  # type: ignore[union-attr]
            raise MediaError("no")
            yield

    given = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            given.append(1)
            yield b"x" * 10_000

    async def main() -> None:
        with pytest.raises(MediaError, match="no"):
            await anext(Refusing().stream(endless()))
        assert len(given) < 100

    go(loop, main)


@each_loop
def test_nobody_wants_the_rest(loop: str) -> None:
    """Whether the source is waited for or not, the thread ends."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.Event().wait()

    async def main() -> None:
        before = threading.active_count()
        tokenizer = Bytes()
        tokens = tokenizer.stream(slow())
        await anext(tokens)
        await tokens.aclose()
        assert tokenizer.closed.is_set()
        other = Bytes()
        task = asyncio.create_task(anext(aiter(other.stream(slow_from_the_start()))))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threading.active_count() <= before + 1

    async def slow_from_the_start() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    go(loop, main)


@each_loop
def test_a_source_that_is_cancelled(loop: str) -> None:
    """That is not the end of the medium."""

    async def cancelled() -> AsyncIterator[bytes]:
        yield b"abc"
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(SourceError, match="given up"):
            async for _ in Bytes().stream(cancelled()):
                pass

    go(loop, main)


def test_an_empty_source() -> None:
    async def main() -> None:
        found: list[VideoBlockToken] = await taken(VideoTransportTokenizer(), [])
        assert found == []

    go(LOOPS[0], main)
