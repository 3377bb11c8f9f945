"""What the kernel takes at once goes through the buffer; the rest, and what is wrong, is the transport's."""

from __future__ import annotations

import errno
import mmap
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmony4.crypto.errors import SourceChangedError
from harmony4.server.reading import push as module
from harmony4.server.reading.push import begin, push, slices

SIZE = 3 * 2**20
DATA = random.Random(5).randbytes(SIZE)
HEAD = b"HTTP/1.1 206 Partial Content\r\n\r\n"
BUFFER = len(module._BUFFER)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(DATA)
    opened = os.open(tmp_path / "file", os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def sent(
    pair: tuple[socket.socket, socket.socket],
    descriptor: int,
    pieces: list[tuple[int, int]],
    head: bytes = HEAD,
    *,
    mapped: bool = True,
) -> tuple[bytes, bytes]:
    """What came at once, and what was left, for pieces that are in memory."""
    data = begin(descriptor, pieces, sum(size for _, size in pieces))
    assert data is not None
    with mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ) as mapping:
        left = push(pair[0].fileno(), head, data, descriptor, pieces, mapping if mapped else None)
        rest = b"".join(left)
        del left
    came = bytearray()
    try:
        while part := pair[1].recv(2**20):
            came += part
    except BlockingIOError:
        pass
    return bytes(came), rest


def joined(pieces: list[tuple[int, int]]) -> bytes:
    return b"".join(DATA[offset : offset + size] for offset, size in pieces)


RUNS = {
    "one byte": [(7, 1)],
    "the last byte": [(SIZE - 1, 1)],
    "one piece": [(1000, 5000)],
    "a whole buffer": [(3, BUFFER)],
    "a byte more": [(3, BUFFER + 1)],
    "many buffers": [(0, SIZE)],
    "gaps that are read over": [(0, 1000), (1100, 1000), (2100 + 4096, 100)],
    "gaps that are not": [(0, 1000), (2100 + 4097, 100), (2**21, 5)],
    "back to front": [(2**20, 1000), (0, 1000)],
    "without a gap": [(0, 1000), (1000, 1000)],
    "blocks": [(at + 200, 150_000) for at in range(0, SIZE - 150_200, 150_200)],
    "single bytes": [(at, 1) for at in range(0, 64 * 200, 200)],
}


@pytest.mark.parametrize("pieces", RUNS.values(), ids=RUNS)
def test_all_of_it_comes(
    pair: tuple[socket.socket, socket.socket], descriptor: int, pieces: list[tuple[int, int]]
) -> None:
    """At once, or, where the socket is full, with what is left for the transport."""
    came, left = sent(pair, descriptor, pieces)
    assert came + left == HEAD + joined(pieces)
    assert len(came) > len(HEAD)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_socket_that_takes_little(
    pair: tuple[socket.socket, socket.socket], descriptor: int, mapped: bool
) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for pieces in ([(11, 400_000)], [(11, 200_000), (200_100, 200_000)]):
        came, left = sent(pair, descriptor, pieces, mapped=mapped)
        assert came + left == HEAD + joined(pieces)
        assert left


@pytest.mark.parametrize("mapped", [True, False])
def test_a_socket_that_takes_a_part_of_the_head(
    pair: tuple[socket.socket, socket.socket], descriptor: int, mapped: bool
) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    head = b"x" * 400_000
    came, left = sent(pair, descriptor, [(5, 10)], head, mapped=mapped)
    assert came + left == head + DATA[5:15]
    assert 0 < len(came) < len(head)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_socket_that_is_full_or_broken(
    pair: tuple[socket.socket, socket.socket], descriptor: int, mapped: bool
) -> None:
    pair[1].close()
    data = begin(descriptor, [(0, 10)], 10)
    assert data is not None
    with mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ) as mapping:
        left = push(pair[0].fileno(), HEAD, data, descriptor, [(0, 10)], mapping if mapped else None)
        assert b"".join(left) == HEAD + DATA[:10]
        del left


def test_a_file_that_is_cut_short_meanwhile(
    pair: tuple[socket.socket, socket.socket], descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUFFER", memoryview(bytearray(4096)))
    pieces = [(0, 100_000)]
    data = begin(descriptor, pieces, 100_000)
    assert data is not None
    with mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ) as mapping:
        os.truncate(descriptor, 0)
        with pytest.raises(SourceChangedError):
            push(pair[0].fileno(), HEAD, data, descriptor, pieces, mapping)


PAGE = mmap.PAGESIZE
ENDS = {
    "within a page": [(5, 10)],
    "whole pages": [(0, 3 * PAGE)],
    "up to a page's first byte": [(0, 3 * PAGE + 1)],
    "up to a page's last byte": [(0, 3 * PAGE - 1)],
    "from a page's last byte": [(PAGE - 1, PAGE)],
    "two in one page": [(7, PAGE), (PAGE + 100, 50)],
    "one behind a gap": [(7, PAGE), (5 * PAGE + 100, 50)],
    "one that ends a page, and one": [(7, PAGE - 7), (PAGE + 64, 50)],
    "small ones": [(at, 30) for at in range(PAGE // 2, 3 * PAGE, 100)],
    "blocks": [(at + 200, 15_000) for at in range(0, 60_000, 15_200)],
}


@pytest.mark.parametrize("pieces", ENDS.values(), ids=ENDS)
def test_no_answer_is_whole_and_wrong(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, pieces: list[tuple[int, int]]
) -> None:
    """Wherever a file is cut short while slices of it wait: they are right, or sending them fails."""
    last = sum(pieces[-1])
    good = joined(pieces)
    cuts = {0, last - 1, last, last + 1}
    for offset, size in pieces:
        for place in (offset, offset + size, *range(offset // PAGE * PAGE, offset + size + PAGE, PAGE)):
            cuts |= {max(0, place - 1), place, place + 1}
    ended = set()
    for cut in cuts:
        (tmp_path / "file").write_bytes(DATA[: last + 1])
        descriptor = os.open(tmp_path / "file", os.O_RDWR)
        with mmap.mmap(descriptor, last + 1, access=mmap.ACCESS_READ) as mapping:
            left = slices(mapping, descriptor, pieces)
            assert sum(map(len, left)) == len(good)
            os.truncate(descriptor, cut)
            came = bytearray()
            try:
                for one in map(memoryview, left):
                    while one:
                        one = one[pair[0].send(one[:PAGE]) :]
                        came += pair[1].recv(2 * PAGE)
            except OSError as error:
                assert error.errno == errno.EFAULT
            else:
                assert came == good
            ended.add(len(came) == len(good))
            del left, one
        os.close(descriptor)
    assert True in ended


def test_what_is_not_in_memory_or_not_in_the_file(descriptor: int) -> None:
    """Nothing begins: the ordinary way brings it in, or says what is wrong."""
    assert begin(descriptor, [(SIZE - 5, 10)], 10) is None
    assert begin(descriptor, [(0, 5), (SIZE - 5, 10)], 15) is None
    assert begin(descriptor, [(SIZE - 5, 10), (0, 5)], 15) is None
    assert begin(descriptor, [(SIZE - BUFFER, BUFFER + 1)], BUFFER + 1) is None
    assert begin(descriptor, [(SIZE - BUFFER, BUFFER), (SIZE, 1)], BUFFER + 1) is None
