"""What a token and a tokenizer are: structure and time, never media.

A token says what a piece of media is made of (size, time, digest, spectrum) and can be written down
(`serialize`) and shown (`metadata`). A tokenizer makes tokens from bytes (`encode`) and reads written ones
back (`decode`). There is no way from tokens to media, here or anywhere else in the project.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, BinaryIO, Generic, TypeVar

__all__ = ["Source", "Token", "Tokenizer"]

Source = Iterable[bytes] | BinaryIO
"""Media in reading order: an open binary file or pipe, or pieces of any length."""


class Token(ABC):
    """One structural unit of a medium, with an explicit time."""

    __slots__ = ()

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """The token as JSON values (integers are µs or bytes, digests lower-case hex)."""

    @abstractmethod
    def serialize(self) -> bytes:
        """The token's binary record; holds no byte of the media."""


TokenT = TypeVar("TokenT", bound=Token, covariant=True)
"""What a tokenizer makes."""


class Tokenizer(ABC, Generic[TokenT]):
    """Turns media into tokens; `decode` parses written tokens and never makes media."""

    @abstractmethod
    def encode(self, source: Source) -> Iterator[TokenT]:
        """Read `source` once, in order, and yield its tokens as they become certain.

        Raises MediaError, SourceError, UsageError.
        """

    async def stream(self, chunks: AsyncIterable[bytes], *, ahead: int = 1) -> AsyncGenerator[TokenT]:
        """The same tokens from bytes that are still arriving; reading, demuxing and hashing run in a thread.

        Memory: what `encode` takes, 256 KiB of the source, and `ahead` tokens that wait to be taken. Use
        `contextlib.aclosing` where the tokens may not all be taken. Raises what `encode` and `chunks` raise.
        """
        async with aclosing(self.batches(chunks, ahead=ahead)) as found:
            async for batch in found:
                for token in batch:
                    yield token

    def batches(self, chunks: AsyncIterable[bytes], *, ahead: int) -> AsyncGenerator[list[TokenT]]:
        """`stream` for those who do something once for all tokens that are there: lists of one to `ahead`."""
        from harmony4.tokenize.stream import batches  # asyncio takes its time, and few need it

        return batches(self.encode, chunks, ahead=ahead)

    @abstractmethod
    def decode(self, data: bytes) -> Sequence[TokenT]:
        """Parse concatenated `serialize` records. Raises FormatError and its kin."""
