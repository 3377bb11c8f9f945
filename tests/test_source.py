"""Where a container's bytes come from: memory, files, anything with read_at."""

import contextlib
import mmap
import os
import threading
from pathlib import Path

import pytest

from harmony4.crypto import SourceError, TruncatedError
from harmony4.h4mk import BytesSource, FileSource, ReadAt
from harmony4.h4mk import source as source_module
from harmony4.h4mk.source import NotResidentError, impatient, open_source, read_exact, read_places
from samples import Counting

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["file", "path", "fd", bytes, bytearray, memoryview])
def test_all_sources_read_the_same(path, kind):
    if kind == "file":
        source = FileSource(str(path))
    elif kind == "path":
        source = FileSource(path)
    elif kind == "fd":
        source = FileSource(os.open(path, os.O_RDONLY))
    else:
        source = BytesSource(kind(DATA))
    assert isinstance(source, ReadAt)
    assert source.size() == len(DATA)
    end = len(DATA)
    for offset, count in ((0, 5), (100, 0), (end - 3, 10), (end, 5), (end + 9, 5), (7, 10**12), (0, end)):
        data = source.read_at(offset, count)
        assert isinstance(data, bytes) and data == DATA[offset : offset + count]
    assert read_exact(source, 3, 4) == DATA[3:7]
    with pytest.raises(TruncatedError) as caught:
        read_exact(source, end - 3, 10)
    assert (caught.value.where, caught.value.expected) == (end, end + 7)
    source.close()
    source.close()


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="folder"):
        FileSource(tmp_path)
    with pytest.raises(SourceError, match="regular"):
        FileSource(tmp_path / "pipe")  # and does not wait for a writer
    for bad in (tmp_path / "none", "nul\0", tmp_path / "pipe" / "x"):
        with pytest.raises(SourceError):
            FileSource(bad)
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(SourceError):
        FileSource(reading)  # it was taken over, and closed
    with pytest.raises(SourceError):
        FileSource(reading)


def test_a_closed_file(path):
    source = FileSource(path)
    assert source.fileno() >= 0
    source.close()
    assert source.fileno() == -1
    with pytest.raises(SourceError):
        source.read_at(0, 1)
    assert source.mapping is None


def test_a_file_that_shrinks(path):
    source = FileSource(path)
    os.truncate(path, 100)
    assert source.size() == len(DATA)
    assert source.read_at(90, 50) == DATA[90:100]
    with pytest.raises(TruncatedError):
        read_exact(source, 90, 50)
    with pytest.raises(SourceError):
        _ = source.mapping
    source.close()


def test_a_file_that_grows_is_read_as_it_was(path):
    source = FileSource(path)
    with path.open("ab") as file:
        file.write(b"more")
    assert source.read_at(len(DATA) - 2, 10) == DATA[-2:]
    source.close()


def test_a_mapping_is_made_once_and_outlives_the_source(path, tmp_path):
    source = FileSource(path)
    mapping = source.mapping
    assert isinstance(mapping, mmap.mmap) and mapping is source.mapping
    view = memoryview(mapping)[5:10]
    source.close()
    assert bytes(view) == DATA[5:10]
    with pytest.raises(TypeError):
        view[0] = 1
    (tmp_path / "empty").touch()
    empty = FileSource(tmp_path / "empty")
    assert empty.mapping is None and empty.read_at(0, 5) == b""
    empty.close()


def test_one_source_serves_many_threads(path):
    source = FileSource(path)
    wrong = []

    def read(seed):
        for number in range(300):
            offset = (seed * 7919 + number * 31) % len(DATA)
            if source.read_at(offset, 40) != DATA[offset : offset + 40]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    assert wrong == []


def test_who_closes_what(path):
    for given in (DATA, bytearray(DATA), memoryview(DATA), path, str(path)):
        source, owned = open_source(given)
        assert owned and source.size() == len(DATA)
        source.close()
    mine = Counting(DATA)
    assert open_source(mine) == (mine, False)


def test_no_descriptor_is_left_open(tmp_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    (tmp_path / "x").touch()
    for _ in range(3):
        with pytest.raises(SourceError):
            FileSource(tmp_path)
        FileSource(tmp_path / "x").close()
    assert descriptors() == before


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system cannot read without waiting")
def test_impatient_readers_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10**6)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    source = FileSource(path)
    with impatient():
        try:
            source.read_at(500_000, 10)
            pytest.skip("this file system keeps its pages in memory")
        except NotResidentError as error:
            assert error.where == 500_000
    assert source.read_at(500_000, 10) == b"x" * 10  # patient again
    with impatient():
        assert source.read_at(500_000, 10) == b"x" * 10
        assert source.read_at(10**6, 10) == b""
    source.close()
    with impatient(), pytest.raises(NotResidentError):
        source.read_at(0, 1)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system cannot read without waiting")
def test_impatient_readers_of_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    with contextlib.closing(FileSource(path)) as source:
        os.truncate(path, 500)
        with impatient(), pytest.raises(NotResidentError):
            source.read_at(490, 20)


FAR = [0, 100_000, 500_000, 999_990]
"""Places that are not read over."""


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system cannot read without waiting")
def test_impatient_readers_of_many_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(n * 31 % 251 for n in range(10**6))
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = b"".join(data[at : at + 10] for at in FAR)
    with contextlib.closing(FileSource(path)) as source:
        assert read_places(source, FAR, 10) == expected
        with impatient():
            assert read_places(source, FAR, 10) == expected
            with pytest.raises(NotResidentError):  # whoever waits gets what is there
                read_places(source, [*FAR, 999_995], 10)
            monkeypatch.setattr(source_module, "_NOWAIT", None)
            with pytest.raises(NotResidentError):
                read_places(source, FAR, 10)
        monkeypatch.undo()
        assert read_places(source, [*FAR, 999_995], 10) == expected
    with pytest.raises(SourceError, match="cannot read the source"):
        read_places(source, FAR, 10)
    with impatient(), pytest.raises(NotResidentError):
        read_places(source, FAR, 10)
