"""Tokens and tokenizers: what they promise, and that they hold no media."""

from __future__ import annotations

import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harmony4.crypto.errors import FormatError, HarmonyError
from harmony4.crypto.token import KEY, LAST, NONE, TOKEN_SIZE, TokenRecord
from harmony4.tokenize.tokens import Source, Token, Tokenizer
from harmony4.tokenize.video import VideoBlockToken, VideoTokenizer, VideoTransportTokenizer
from needs import ROOT


def test_the_standard_library_keeps_its_tokenize() -> None:
    # A package here would hide it from inspect, linecache and aiohttp as soon as the root is on sys.path.
    assert not (ROOT / "tokenize" / "__init__.py").exists()
    assert callable(tokenize.generate_tokens)
    assert not Path(tokenize.__file__).is_relative_to(ROOT / "tokenize")


def test_it_wins_even_with_the_root_on_the_path() -> None:
    code = "import tokenize, inspect, harmony4.tokenize.video as v; print(tokenize.open.__name__, v.__name__)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert out.split() == ["open", "harmony4.tokenize.video"]


def test_abstract() -> None:
    with pytest.raises(TypeError):
        Token()  # type: ignore[abstract]
    with pytest.raises(TypeError):
        Tokenizer()  # type: ignore[abstract]

    class Length(Token):
        def __init__(self, size: int) -> None:
            self.size = size

        def metadata(self) -> dict[str, Any]:
            return {"size": self.size}

        def serialize(self) -> bytes:
            return self.size.to_bytes(4, "big")

    class Lengths(Tokenizer):
        def encode(self, source: Source) -> Iterator[Token]:
            return (Length(len(piece)) for piece in source)

        def decode(self, data: bytes) -> list[Token]:
            return [Length(int.from_bytes(data[i : i + 4], "big")) for i in range(0, len(data), 4)]

    tokens = list(Lengths().encode([b"ab", b"c"]))
    assert [token.metadata() for token in tokens] == [{"size": 2}, {"size": 1}]
    assert len(Lengths().decode(b"".join(token.serialize() for token in tokens))) == 2


def test_a_written_token_is_read_back_without_media() -> None:
    secret = b"these bytes are the media " * 100
    tokens = VideoTokenizer(raw=True, block_size=1000).tokens(secret)
    written = b"".join(token.serialize() for token in tokens)
    assert len(written) == TOKEN_SIZE * len(tokens) == TOKEN_SIZE * 3
    assert b"media" not in written
    again = VideoTransportTokenizer().decode(written)
    assert [token.record for token in again] == [token.record for token in tokens]
    assert [token.data for token in again] == [b""] * 3
    assert VideoTokenizer().decode(written) == again


def test_metadata() -> None:
    token = VideoTokenizer(raw=True).tokens(b"abc")[0]
    assert token.metadata() == {
        "track": 0,
        "index": 0,
        "pts": 0,
        "end": 1_000_000,
        "offset": 0,
        "size": 3,
        "key": True,
        "header": False,
        "masked": False,
        "last": True,
        "key_pts": 0,
        "key_offset": 0,
        "min_pts": 0,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    header = TokenRecord(0, 8, 1, 0, 0, 0, 0, NONE, NONE, 0, bytes(32))
    shown = VideoBlockToken(header, b"x").metadata()
    assert (shown["header"], shown["key_pts"], shown["key_offset"]) == (True, None, None)
    assert token.record.flags == KEY | LAST


@pytest.mark.parametrize("size", [1, 127, 129, 255])
def test_decode_refuses_partial_records(size: int) -> None:
    with pytest.raises(FormatError):
        VideoTransportTokenizer().decode(bytes(size))


def test_decode_refuses_nonsense() -> None:
    with pytest.raises(HarmonyError):
        VideoTransportTokenizer().decode(b"\xff" * TOKEN_SIZE)
    assert VideoTransportTokenizer().decode(b"") == []
