"""What is and is not equal in masked files: what whoever has no key sees by comparing (H4MK 21.3, 21.7)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from commands import run
from harmony4.h4mk import H4MKReader
from harmony4.server.masking.keys import KEY
from masked import KEY as FIRST
from masked import OTHER
from needs import BUNNY

BLOCK = 100_000
FILM = BUNNY.read_bytes()
PREFIX = FILM[: 6 * BLOCK]
"""Six whole blocks that both contents begin with."""
ONE, TWO = PREFIX + FILM[6 * BLOCK : 8 * BLOCK], PREFIX + FILM[7 * BLOCK : 9 * BLOCK]


def masked(folder: Path, name: str, content: bytes, *options: str, key: str | None = None) -> bytes:
    """The content under that name, exported and masked under that name, as the commands do it."""
    text = key or f"h4mk-key-v1:{FIRST.reveal().hex()}"
    source, plain, out = folder / name, folder / f"{name}.plain.h4mk", folder / f"{name}.h4mk"
    source.write_bytes(content)
    made = run("export", "-q", source, "-o", plain, "--raw", "--block-size", BLOCK, "--title", "t")
    assert made.status == 0, made.err
    done = run("mask", "-q", plain, "-o", out, *options, env=os.environ | {KEY: text})
    assert done.status == 0, done.err
    return out.read_bytes()


def stored(data: bytes) -> list[bytes]:
    with H4MKReader(data) as reader:
        return [bytes(block.payload) for block in reader.blocks()]


def xor(a: bytes, b: bytes) -> bytes:
    size = min(len(a), len(b))
    return (int.from_bytes(a[:size]) ^ int.from_bytes(b[:size])).to_bytes(size)


def unrelated(a: list[bytes], b: list[bytes], plain: tuple[bytes, bytes]) -> None:
    """Neither stream, nor what their difference says of keystreams, tells that anything is shared."""
    one, two = b"".join(a), b"".join(b)
    size = min(len(one), len(two))
    shared = sum(one[at : at + 16] == two[at : at + 16] for at in range(0, size, 16))
    assert shared == 0
    # Two streams under one keystream would differ by what their plain bytes differ.
    assert xor(one, two)[:BLOCK] != xor(*plain)[:BLOCK]
    zeros = xor(one, two).count(0)
    assert zeros < size / 256 * 1.2, "as many as chance gives"


def test_two_contents_that_share_a_prefix(tmp_path: Path) -> None:
    one, two = masked(tmp_path, "one", ONE), masked(tmp_path, "two", TWO)
    with (
        H4MKReader(tmp_path / "one.plain.h4mk") as first,
        H4MKReader(tmp_path / "two.plain.h4mk") as second,
    ):
        digests = [[token.digest for token in reader.tokens()] for reader in (first, second)]
    assert digests[0][:6] == digests[1][:6], "plain blocks that are shared are seen"
    unrelated(stored(one), stored(two), (ONE, TWO))
    with H4MKReader(one) as first, H4MKReader(two) as second:
        tokens = [list(reader.tokens()) for reader in (first, second)]
        assert not {one.digest for one in tokens[0]} & {one.digest for one in tokens[1]}
        assert not {one.tag for one in tokens[0]} & {one.tag for one in tokens[1]}
        assert first.trak.mask != second.trak.mask
        assert first.key_slots()[0][0] == second.key_slots()[0][0], "the key id is seen"
        assert first.key_slots()[0][1] != second.key_slots()[0][1]
        # Sizes and times stay visible: they say what they said before.
        assert [(one.size, one.pts) for one in tokens[0]] == [(one.size, one.pts) for one in tokens[1]]


def test_the_same_content_twice(tmp_path: Path) -> None:
    """Equal files, so that a store keeps one of them, and so that everybody sees that they are equal."""
    assert masked(tmp_path, "one", ONE) == masked(tmp_path, "one", ONE)


def test_the_same_content_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert masked(tmp_path, "one", ONE) == masked(tmp_path / "elsewhere", "another name", ONE)


def test_the_same_content_under_two_keys(tmp_path: Path) -> None:
    other = f"h4mk-key-v1:{OTHER.reveal().hex()}"
    one, two = masked(tmp_path, "one", ONE), masked(tmp_path, "two", ONE, key=other)
    unrelated(stored(one), stored(two), (ONE, ONE))


@pytest.mark.parametrize("second", [ONE, TWO])
def test_with_a_random_salt_nothing_is_equal(tmp_path: Path, second: bytes) -> None:
    one = masked(tmp_path, "one", ONE, "--random-salt")
    two = masked(tmp_path, "two", second, "--random-salt")
    unrelated(stored(one), stored(two), (ONE, second))
    with H4MKReader(one) as first, H4MKReader(two) as other:
        assert first.trak.mask != other.trak.mask


def test_blocks_of_one_file_share_no_keystream(tmp_path: Path) -> None:
    """Zeros show the keystream itself."""
    blocks = stored(masked(tmp_path, "zeros", bytes(8 * BLOCK)))
    assert len(blocks) == 8
    pieces = [block[at : at + 16] for block in blocks for at in range(0, BLOCK, 16)]
    assert len(set(pieces)) == len(pieces)
