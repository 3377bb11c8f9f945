"""Where containers are written to, and the tables that spill on the way (H4MK 17.2, 17.3)."""

import errno
import io
import os
import stat
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from harmony4.crypto import StorageError, TokenSequencer, sha256
from harmony4.h4mk import H4MKBuilder
from harmony4.h4mk.edits import target
from harmony4.h4mk.edits.target import AtomicFile, write_all
from harmony4.h4mk.tables import Spill, Tables
from limits import file_size_limit, needs_rlimit
from samples import VIDEO


class Greedy:
    """Takes `most` bytes a call, as pipes and sockets do."""

    def __init__(self, most):
        self.data = b""
        self.most = most

    def write(self, data):
        self.data += bytes(data[: self.most])
        return min(len(data), self.most)


class Silent:
    """Gives nothing back, as some file-like objects do."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)


@pytest.mark.parametrize("out", [Greedy(1), Greedy(3), Greedy(100), Silent()])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_byte_is_written(out, kind):
    out.data = b""
    write_all(out, kind(b"0123456789"))
    assert out.data == b"0123456789"


def test_a_target_that_takes_nothing_is_an_error_and_no_loop():
    with pytest.raises(StorageError, match="no more bytes"):
        write_all(Greedy(0), b"x")


def test_errors_of_a_target(tmp_path):
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(StorageError):
        write_all(closed, b"x")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe, pytest.raises(StorageError, match="Broken pipe"):
        write_all(pipe, b"x")


# ---- AtomicFile ------------------------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_complete_or_not_at_all(tmp_path):  # H4MK 17.3
    target = tmp_path / "a.h4mk"
    target.write_bytes(b"old")
    file = AtomicFile(target)
    assert file.write(b"new") == 3
    (part,) = (tmp_path / name for name in names(tmp_path) if name != "a.h4mk")
    assert part.name.startswith(".a.h4mk.") and part.name.endswith(".part")
    assert target.read_bytes() == b"old"
    file.commit()
    assert target.read_bytes() == b"new" and names(tmp_path) == ["a.h4mk"]
    file.abort()  # after commit: nothing happens
    assert target.read_bytes() == b"new"


def test_abort_leaves_no_trace(tmp_path):
    file = AtomicFile(str(tmp_path / "a.h4mk"))
    file.write(b"x" * 2**19)
    file.abort()
    file.abort()
    assert names(tmp_path) == []
    with pytest.raises(StorageError):
        write_all(file, b"x")


def test_the_mode_is_that_of_any_new_file(tmp_path):
    AtomicFile(tmp_path / "ours").commit()
    (tmp_path / "theirs").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "a b\nc", ".hidden"])
def test_any_legal_name(tmp_path, name):
    AtomicFile(tmp_path / name).commit()
    assert names(tmp_path) == [name]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "none" / "a", tmp_path / "file" / "a", tmp_path / "n\0ul"):
        with pytest.raises(StorageError):
            AtomicFile(path)
    assert names(tmp_path) == ["file"]


def test_a_target_that_becomes_a_folder(tmp_path):
    file = AtomicFile(tmp_path / "a")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(StorageError):
        file.commit()
    assert names(tmp_path) == ["a"]


def test_a_part_that_is_taken_away(tmp_path):
    file = AtomicFile(tmp_path / "a")
    file.part.unlink()
    with pytest.raises(StorageError):
        file.commit()
    assert names(tmp_path) == []
    file = AtomicFile(tmp_path / "a")
    file.part.unlink()
    file.part.mkdir()  # what cannot be removed is left, without a second error
    file.abort()


@pytest.mark.parametrize(
    ("call", "number", "refused"),
    [
        ("open", errno.EACCES, False),  # a folder that may be written and not read
        ("fsync", errno.EINVAL, False),  # a file system that cannot sync folders
        ("fsync", errno.EIO, True),
    ],
)
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, call, number, refused):
    """The file is in place by then: only a real error is one."""
    real = getattr(os, call)

    def of_a_folder(what, *rest):
        if Path(what).is_dir() if call == "open" else stat.S_ISDIR(os.fstat(what).st_mode):
            raise OSError(number, os.strerror(number))
        return real(what, *rest)

    file = AtomicFile(tmp_path / "a")
    monkeypatch.setattr(os, call, of_a_folder)
    with pytest.raises(StorageError) if refused else nullcontext():
        file.commit()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("fails_at", [None, 0, 1, 2])
def test_syncing_ahead(tmp_path, monkeypatch, fails_at):
    """What the thread is told by the disk, no later sync tells: it ends the write after it, or the commit."""
    synced = []

    def sync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        if len(synced) - 1 == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(descriptor)

    monkeypatch.setattr(target, "_sync", sync)
    monkeypatch.setattr(target, "_AHEAD", 2**20)
    (tmp_path / "a").write_bytes(b"before")
    file = AtomicFile(tmp_path / "a", ahead=True)
    with nullcontext() if fails_at is None else pytest.raises(StorageError):
        for _ in range(7):
            write_all(file, b"x" * 2**19)
        file.commit()
    file.abort()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == (b"x" * 7 * 2**19 if fails_at is None else b"before")
    assert len(synced) == (3 if fails_at is None else fails_at + 1)
    assert not [one for one in threading.enumerate() if one.name.startswith("harmony4-sync")]


def by_hand(path):
    file = AtomicFile(path)
    file.write(b"x" * 100_000)
    file.commit()


def by_a_builder(path):
    with H4MKBuilder.to_path(path, (VIDEO,)) as builder:
        builder.add_block(b"x" * 100_000, 0, key=True)
        builder.finish(ends={0: 1})


@pytest.mark.parametrize("write", [by_hand, by_a_builder])
@pytest.mark.parametrize("there", [False, True])
def test_the_bytes_are_safe_before_the_name_and_both_at_the_end(tmp_path, monkeypatch, write, there):
    """Synced: the whole file, then it gets its name, then the folder that holds the name."""
    path, steps = tmp_path / "a.h4mk", []
    real = {name: getattr(os, name) for name in ("fsync", "fdatasync", "replace", "rename")}

    def sync(name):
        def watched(descriptor):
            status = os.fstat(descriptor)
            size = None if stat.S_ISDIR(status.st_mode) else status.st_size
            steps.append((name, status.st_ino, size))
            real[name](descriptor)

        return watched

    def move(name):
        def watched(source, target):
            steps.append(("move", Path(source).stat().st_ino, Path(target)))
            real[name](source, target)

        return watched

    if there:
        path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(os, name, (sync if "sync" in name else move)(name))
        write(path)
    file, folder = path.stat(), tmp_path.stat()
    assert steps == [
        ("fsync", file.st_ino, file.st_size),
        ("move", file.st_ino, path),
        ("fsync", folder.st_ino, None),
    ]
    assert file.st_size >= 100_000


@needs_rlimit
def test_a_full_disk(tmp_path):
    file = AtomicFile(tmp_path / "a")
    with file_size_limit(2**16):
        with pytest.raises(StorageError) as caught:
            write_all(file, bytes(2**20))
        assert caught.value.__cause__.errno == errno.EFBIG
        file.abort()
    assert names(tmp_path) == []
    file = AtomicFile(tmp_path / "a")
    with file_size_limit(2**16):
        file.write(bytes(2**17))  # fits the buffer: the disk says no at the end
        with pytest.raises(StorageError):
            file.commit()
    assert names(tmp_path) == []


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 100, 2**20])
def test_a_spill_gives_back_what_it_took(limit, tmp_path):
    spill = Spill(limit, str(tmp_path))
    wanted = b""
    for number in range(3000):
        data = number.to_bytes(4) * 33
        spill.append(data)
        wanted += data
    assert b"".join(spill.pieces()) == wanted == b"".join(spill.pieces())
    assert spill.size == len(wanted)
    spill.append(b"more")
    assert b"".join(spill.pieces()) == wanted + b"more"
    assert names(tmp_path) == []  # unnamed: nothing to clean up after a crash
    spill.close()


def test_a_spill_that_has_nowhere_to_go(tmp_path):
    spill = Spill(4, str(tmp_path / "none"))
    spill.append(b"1234")
    with pytest.raises(StorageError):
        spill.append(b"5")
    spill.close()


@needs_rlimit
def test_a_spill_on_a_full_disk(tmp_path):
    spill = Spill(1, str(tmp_path))
    with file_size_limit(2**12), pytest.raises(StorageError, match="write"):
        spill.append(bytes(2**20))
    spill.close()
    spill = Spill(1, str(tmp_path))
    spill.append(b"1234")  # moves to the disk
    spill.append(b"56")  # stays in the file's buffer
    with file_size_limit(0):
        with pytest.raises(StorageError, match="read"):
            list(spill.pieces())
        spill.close()  # and no second error


def test_tables_are_the_same_in_memory_and_on_disk(tmp_path):  # H4MK 8, 9, 11.2
    def derived(limit):
        with Tables(2, limit=limit, folder=str(tmp_path)) as tables:
            sequencers = [TokenSequencer(0), TokenSequencer(1)]
            for number in range(300):
                token = sequencers[number % 2].push(
                    5, sha256(bytes([number % 251])), number, key=number % 3 == 0
                )
                if token is not None:
                    tables.add(token, token.pack(), 1000 + 160 * number)
            pieces = [tables.seek, tables.rmap]
            found = [b"".join(make(track)) for make in pieces for track in range(2)] + [
                b"".join(tables.merk())
            ]
            measured = Tables.measure(tables.merk())
            assert measured[0] == len(found[-1])
            assert [one.blocks for one in tables.tracks] == [149, 149]
            return found, measured, tables.tree.root()

    assert derived(1) == derived(2**20)


def test_spilling_needs_no_lock_of_ours(tmp_path):
    """Each builder has its own tables: several at once do not mix."""
    results = {}

    def fill(number):
        spill = Spill(10, str(tmp_path))
        for _ in range(2000):
            spill.append(bytes([number]) * 7)
        results[number] = b"".join(spill.pieces())
        spill.close()

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: bytes([number]) * 14000 for number in range(4)}
