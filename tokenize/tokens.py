"""What a token and a tokenizer are: structure and time, never media.

A token says what a piece of media is made of (size, time, digest, spectrum) and can be written down
(`serialize`) and shown (`metadata`). A tokenizer makes tokens from bytes (`encode`) and reads written ones
back (`decode`). There is no way from tokens to media, here or anywhere else in the project.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

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


class Tokenizer(ABC):
    """Turns media into tokens; `decode` parses written tokens and never makes media."""

    @abstractmethod
    def encode(self, source: Source) -> Iterator[Token]:
        """Read `source` once, in order, and yield its tokens as they become certain.

        Raises MediaError, SourceError, UsageError.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Sequence[Token]:
        """Parse concatenated `serialize` records. Raises FormatError and its kin."""
