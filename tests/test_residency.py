"""What is in memory, as the kernel says: on files of one's own, on others', and where it does not say."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from harmony4.crypto.errors import SourceError
from harmony4.server.folder.library import Library
from harmony4.server.reading import residency
from harmony4.server.reading.residency import bring_in, is_resident, let_go, read_resident
from serving import write_container

SIZE = 40 * mmap.PAGESIZE + 17
DATA = random.Random(3).randbytes(SIZE)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(DATA)
    opened = os.open(tmp_path / "file", os.O_RDWR)
    os.fsync(opened)
    yield opened
    os.close(opened)


def cool(descriptor: int) -> None:
    """Take a file out of the page cache; skips the test where its pages stay (tmpfs is nothing but pages)."""
    for _ in range(100):  # on a busy machine some are held for a moment
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if not any(cached := cached_pages(descriptor)):
            return
    if all(cached):
        pytest.skip(
            "on this file system POSIX_FADV_DONTNEED drops nothing (pytest's --basetemp: another one)"
        )


def cached_pages(descriptor: int) -> bytes:
    """A byte for each page of a file, 1 if it is in the page cache (mincore(2)). Reads none of them."""
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapping:
        whole = np.frombuffer(mapping, "u1")  # only for its address: ctypes takes no read-only buffer
        found = (ctypes.c_ubyte * -(-whole.size // mmap.PAGESIZE))()
        address = ctypes.c_void_p(whole.ctypes.data)
        assert not ctypes.CDLL(None).mincore(address, ctypes.c_size_t(whole.size), found)
        del whole, address
    return bytes(page & 1 for page in found)


def needs_nowait(descriptor: int) -> None:
    """Skip the test where the file system cannot read without waiting."""
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system does not know RWF_NOWAIT (pytest's --basetemp: another one)")


def read(descriptor: int, offset: int, size: int) -> bytes | None:
    """The bytes, if they are in memory."""
    into = memoryview(bytearray(size))
    return bytes(into) if read_resident(descriptor, offset, size, (into,)) else None


def test_hot_and_cold(descriptor: int) -> None:
    needs_nowait(descriptor)
    pieces = [(0, 10), (5 * mmap.PAGESIZE - 1, 2), (SIZE - 1, 1)]
    assert is_resident(descriptor, [(0, SIZE)])
    assert read(descriptor, 7, 100) == DATA[7:107]
    cool(descriptor)
    assert not is_resident(descriptor, pieces)
    assert read(descriptor, SIZE - 100, 100) is None
    bring_in(descriptor, pieces)
    assert is_resident(descriptor, pieces)
    assert read(descriptor, SIZE - 1, 1) == DATA[-1:]


def test_one_page_is_missing(descriptor: int) -> None:
    cool(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
    bring_in(descriptor, [(0, mmap.PAGESIZE), (2 * mmap.PAGESIZE, mmap.PAGESIZE)])
    assert is_resident(descriptor, [(0, mmap.PAGESIZE)])
    assert not is_resident(descriptor, [(0, 3 * mmap.PAGESIZE)])
    assert not is_resident(descriptor, [(0, 1), (mmap.PAGESIZE, 1)])


def test_a_file_that_became_shorter(descriptor: int) -> None:
    needs_nowait(descriptor)
    os.truncate(descriptor, 100)
    bring_in(descriptor, [(0, SIZE)])
    assert read(descriptor, 90, 20) is None
    assert read(descriptor, 90, 10) == DATA[90:100]


def test_a_descriptor_that_cannot_be_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(SourceError, match="cannot read the source"):
            bring_in(file.fileno(), [(0, 1)])
        assert read(file.fileno(), 0, 1) is None


def test_where_cachestat_does_not_tell(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older kernel, or somebody else's file: the bytes are read without waiting, all of them."""
    monkeypatch.setattr(residency, "_CACHESTAT", 10**6)
    monkeypatch.setattr(residency, "_probe", residency._Probe())
    assert is_resident(descriptor, [(0, SIZE)])
    assert not residency._probe.works
    assert not is_resident(descriptor, [(0, SIZE + 1)])
    cool(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
    bring_in(descriptor, [(0, mmap.PAGESIZE), (2 * mmap.PAGESIZE, SIZE - 2 * mmap.PAGESIZE)])
    assert is_resident(descriptor, [(0, mmap.PAGESIZE)])
    assert not is_resident(descriptor, [(0, SIZE)])


def test_where_nothing_tells(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_NOWAIT", None)
    assert not is_resident(descriptor, [(0, 1)])
    assert read(descriptor, 0, 1) is None


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs files that are nothing but memory")
def test_files_that_are_nothing_but_memory() -> None:
    descriptor = os.memfd_create("film")
    try:
        os.write(descriptor, DATA)
        residency.learn(descriptor)
        assert is_resident(descriptor, [(0, SIZE)])
        assert read(descriptor, 7, 100) == DATA[7:107]
        os.ftruncate(descriptor, 2**20)  # a hole: no page is there yet
        assert not is_resident(descriptor, [(0, 2**20)])
        assert read(descriptor, 2**19, 100) is None
    finally:
        os.close(descriptor)


def test_a_descriptor_that_is_used_again(tmp_path: Path) -> None:
    """What was memory may be a disk the next time: the library forgets what it closes."""

    async def look() -> None:
        library = Library(Path(folder))
        with await library.open("a.h4mk") as one:
            descriptor = one.reader.fileno()
            assert descriptor in residency._in_memory
        await library.close()
        assert descriptor not in residency._in_memory

    with TemporaryDirectory(dir="/dev/shm") as folder:
        write_container(Path(folder) / "a.h4mk", [b"x" * 1000])
        asyncio.run(look())


def test_let_go(descriptor: int) -> None:
    """The pages leave this process, and the mapping goes on to show the file."""
    with mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ) as mapping:
        before = _mapped()
        assert mapping[:] == DATA
        assert _mapped() - before >= 40
        let_go(mapping)
        assert _mapped() - before < 40
        assert mapping[:] == DATA


def _mapped() -> int:
    """Pages of files in this process."""
    return int(Path("/proc/self/statm").read_text().split()[2])


def test_pages_that_are_being_read_are_not_there_yet(tmp_path: Path) -> None:
    """`cachestat` counts them; sending them would wait for the disk."""
    size, window = 32 * 2**20, 2**20
    with (tmp_path / "large").open("wb+") as file:
        file.write(random.Random(5).randbytes(size))
        file.flush()
        os.fsync(file.fileno())
        cool(file.fileno())
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_WILLNEED)  # returns at once
        for offset in range(0, size, window):
            if is_resident(file.fileno(), [(offset, window)]):
                assert read(file.fileno(), offset, window) is not None
        bring_in(file.fileno(), [(0, size)])
        assert is_resident(file.fileno(), [(0, size)])
