"""h4mk/masks/unmasked.py: streams of masked containers as they were, checked block by block."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import (
    ChecksumError,
    KeyRefusedError,
    SealError,
    SourceError,
    TruncatedError,
    UsageError,
)
from harmony4.crypto.mask import MaskSpec
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, Unmasked, mask_container
from harmony4.h4mk.layout import CHUNK_SIZE
from harmony4.h4mk.masks import unmasked as unmasked_module
from harmony4.h4mk.source import BytesSource, FileSource, read_into
from masking import ONE, STRANGE, TWO

BLOCKS = [random.Random(n).randbytes(size) for n, size in enumerate([1000, 1, 2**21 + 77, 300_000, 16])]
STREAM = b"".join(BLOCKS)
PLACES = [(sum(map(len, BLOCKS[:number])), len(one)) for number, one in enumerate(BLOCKS)]
"""Offset and size of each block."""
INFO = TrackInfo(kind="video", media_type="video/mp4")


def containers() -> tuple[bytes, bytes]:
    """A plain one, and the same masked, with a plain copy of its track."""
    plain, masked = io.BytesIO(), io.BytesIO()
    with H4MKBuilder(plain, [INFO], block=16 * 2**20) as builder:
        for number, payload in enumerate(BLOCKS):
            builder.add_block(payload, number, key=True)
        builder.finish()
    with H4MKReader(plain.getvalue()) as reader:
        mask_container(reader, masked, MaskSpec((ONE, TWO), keep_plaintext=True))
    return plain.getvalue(), masked.getvalue()


PLAIN, MASKED = containers()


def spoiled(block: int, byte: int, *, token: bool = False) -> bytes:
    """The masked one with a bit of a block, or of its tag, flipped; `token`: with a CRC that fits again."""
    data = bytearray(MASKED)
    with H4MKReader(MASKED) as reader:
        position = reader.range_map()[block].position
    start = position - CHUNK_SIZE - 128
    if token:
        data[start + 96 + byte] ^= 1
        data[start - 4 : start] = crc32(data[start : start + 128]).to_bytes(4)
    else:
        data[position + byte] ^= 1
    return bytes(data)


def test_everything(tmp_path: Path) -> None:
    path = tmp_path / "a.h4mk"
    path.write_bytes(MASKED)
    for source in (MASKED, path):
        with H4MKReader(source) as reader:
            unmasked = Unmasked(reader, [STRANGE, TWO])
            for track in (0, 1):
                assert unmasked.stream_size(track) == len(STREAM)
                for _ in range(2):  # checked now, and trusted then
                    assert unmasked.read(0, 2**40, track) == STREAM
                assert [bytes(payload) for _, payload in unmasked.blocks(track, 1)] == BLOCKS[1:]
                with unmasked.open(track) as file:
                    file.seek(-20, 2)
                    assert file.read() == STREAM[-20:]
            assert unmasked.read(len(STREAM), 9) == b""
            with pytest.raises(UsageError):
                unmasked.read(-1, 9)


def test_who_may_not() -> None:
    with H4MKReader(MASKED) as reader, pytest.raises(KeyRefusedError):
        Unmasked(reader, [STRANGE])
    with H4MKReader(PLAIN) as reader, pytest.raises(UsageError, match="not masked"):
        Unmasked(reader, [ONE])


@settings(max_examples=40)
@given(st.integers(0, len(STREAM) + 9), st.integers(0, len(STREAM)), st.booleans())
def test_any_range(start: int, length: int, new: bool) -> None:
    """Whether its blocks were checked before or not, in pieces as in one buffer."""
    with H4MKReader(MASKED) as reader:
        unmasked = Unmasked(reader, [ONE])
        if not new:
            unmasked.read(0, 2**40)
        pieces = [bytes(one) for one in unmasked.pieces(start, length)]
        assert b"".join(pieces) == STREAM[start : start + length]
        assert all(0 < len(one) <= 2**20 for one in pieces)
        out = bytearray(b"\xaa" * length)
        count = unmasked.read_into(start, memoryview(out))
        assert bytes(out[:count]) == STREAM[start : start + length]
        assert bytes(out[count:]) == b"\xaa" * (length - count)


@settings(max_examples=40)
@given(st.integers(0, len(STREAM) - 1), st.integers(1, len(STREAM)), st.sampled_from([0, 1]))
def test_what_is_at_hand(start: int, length: int, track: int) -> None:
    """Once its blocks were checked, and not before; the plain copy of the track as well."""
    length = min(length, len(STREAM) - start)
    out = memoryview(bytearray(length))
    with H4MKReader(MASKED) as reader:
        unmasked = Unmasked(reader, [ONE])
        assert not unmasked.read_soon(start, out, track)
        unmasked.read(start, length, track)
        assert unmasked.read_soon(start, out, track)
        assert out == STREAM[start : start + length]
        whole = memoryview(bytearray(len(STREAM)))
        touched = {
            row for row, (first, size) in enumerate(PLACES) if start < first + size and first < start + length
        }
        assert unmasked.read_soon(0, whole, track) == (len(touched) == len(BLOCKS))
        assert not Unmasked(reader, [ONE], always=True).read_soon(start, out, track)


def test_what_is_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a disk; who may, gets it."""
    (tmp_path / "a.h4mk").write_bytes(MASKED)
    out = memoryview(bytearray(99))
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        unmasked = Unmasked(reader, [ONE])
        unmasked.read(2000, 99)
        allowed = [3]  # the token, once more to check its tag, the payload
        read = os.preadv

        def some(descriptor: int, into: list[memoryview], offset: int, flags: int = 0) -> int:
            if flags:
                assert flags == os.RWF_NOWAIT
                if not allowed[0]:
                    raise BlockingIOError
                allowed[0] -= 1
            return read(descriptor, into, offset)  # whatever the file system knows

        monkeypatch.setattr(os, "preadv", some)
        assert unmasked.read_soon(2000, out)
        assert out == STREAM[2000:2099]
        for there in (0, 1):  # neither token nor payload, only the token
            allowed[0] = there
            assert not unmasked.read_soon(2000, out)
        assert unmasked.read_into(2000, out) == 99


def test_many_blocks_at_once_are_not_at_hand() -> None:
    """However small they are: an event loop has no time for so many."""
    plain, masked = io.BytesIO(), io.BytesIO()
    with H4MKBuilder(plain, [INFO]) as builder:
        for number in range(1000):
            builder.add_block(b"x", number, key=True)
        builder.finish()
    with H4MKReader(plain.getvalue()) as reader:
        mask_container(reader, masked, MaskSpec((ONE,)))
    with H4MKReader(masked.getvalue()) as reader:
        unmasked = Unmasked(reader, [ONE])
        assert unmasked.read(0, 1000) == b"x" * 1000
        most = unmasked_module._BLOCKS
        for start in (0, 7, 1000 - most):
            assert unmasked.read_soon(start, memoryview(bytearray(most)))
        for start in (0, 7, 999 - most):
            assert not unmasked.read_soon(start, memoryview(bytearray(most + 1)))


def test_keys_are_kept_for_some_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a container has."""
    monkeypatch.setattr(unmasked_module, "_KEYS", 2)
    with H4MKReader(MASKED) as reader:
        unmasked = Unmasked(reader, [ONE])
        for _ in range(3):
            assert unmasked.read(0, len(STREAM)) == STREAM
            assert len(unmasked._keys) <= 2


@pytest.mark.parametrize(
    ("token", "wrong"), [(False, ChecksumError), (True, SealError)], ids=["a payload", "a tag"]
)
def test_what_was_altered(token: bool, wrong: type[Exception]) -> None:
    """What is sound before it is given, and nothing of it."""
    before = sum(map(len, BLOCKS[:2]))
    with H4MKReader(spoiled(2, 7, token=token)) as reader:
        unmasked = Unmasked(reader, [ONE])
        got = b""
        with pytest.raises(wrong):
            for piece in unmasked.pieces(0, len(STREAM)):
                got += piece
        assert got == STREAM[:before]
        out = bytearray(len(STREAM))
        assert unmasked.read_into(0, memoryview(out)) == before
        assert out[:before] == STREAM[:before]
        for _ in range(2):
            with pytest.raises(wrong):
                unmasked.read_into(before, memoryview(out))
        with pytest.raises(wrong):
            list(unmasked.blocks(0, 2))
        after = before + len(BLOCKS[2])
        assert unmasked.read(after, 99) == STREAM[after : after + 99]


def test_a_tag_is_checked_every_time() -> None:
    """A payload's digest once; its token whenever something is read."""

    class Altering(BytesSource):
        other = b""

        def read_at(self, offset: int, count: int) -> bytes:
            return (self.other or MASKED)[offset : offset + count]

    source = Altering(MASKED)
    with H4MKReader(source) as reader:
        unmasked = Unmasked(reader, [ONE])
        assert unmasked.read(0, 10) == STREAM[:10]
        source.other = spoiled(0, 0, token=True)
        assert not unmasked.read_soon(0, memoryview(bytearray(10)))
        with pytest.raises(SealError, match="tag"):
            unmasked.read(0, 10)
        source.other = MASKED
        assert unmasked.read_soon(0, memoryview(bytearray(10)))


def test_reading_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    file = FileSource(tmp_path / "a")
    for source in (file, BytesSource(bytes(range(100)))):
        out = bytearray(20)
        read_into(source, 70, memoryview(out))
        assert bytes(out) == bytes(range(70, 90))
        with pytest.raises(TruncatedError) as raised:
            read_into(source, 90, memoryview(out))
        assert (raised.value.where, raised.value.expected) == (100, 110)
    monkeypatch.delattr("os.preadv")
    read_into(file, 1, memoryview(out))
    assert bytes(out) == bytes(range(1, 21))
    monkeypatch.undo()
    file.close()
    with pytest.raises(SourceError):
        read_into(file, 0, memoryview(out))


def test_a_block_that_changes_behind_its_first_reading() -> None:
    """Its token still has the right tag; `always` looks at its bytes again."""
    for always in (False, True):
        data = bytearray(containers()[1])
        with H4MKReader(BytesSource(data)) as reader:
            media = Unmasked(reader, [ONE], always=always)
            assert media.read(10, 20) == STREAM[10:30]
            data[reader.range_map(0)[0].position + 12] ^= 1
            if always:
                with pytest.raises(ChecksumError):
                    media.read(10, 20)
            else:
                assert media.read(10, 20) != STREAM[10:30]
