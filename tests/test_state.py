"""server/state.py: the server's own folder, its locks, spools, and files that are held; real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmony4.crypto.errors import StorageError
from harmony4.server.state import Spool, State, held, hold, sweep_spools, write_whole
from limits import file_size_limit, needs_rlimit, run_python

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are held on POSIX systems only")

HEAD = """
import os, sys
from pathlib import Path
from harmony4.server.state import Spool, State, held, hold, sweep_spools
path = Path(sys.argv[1])
"""
STAY = "\nprint(said, flush=True)\nsys.stdin.read()\n"
"""What another process does until it is killed."""


@contextmanager
def elsewhere(code: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that runs `code`, and what it says; killed (SIGKILL) when the block is left."""
    command = [sys.executable, "-c", HEAD + code + STAY, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, "the other process has failed"
        yield process, said.strip()
    finally:
        process.kill()
        process.communicate()


def died(process: subprocess.Popen[str]) -> None:
    """SIGKILL: nothing of it runs any more."""
    process.kill()
    process.wait()


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


@contextmanager
def open_hands() -> Iterator[None]:
    """A process whose umask takes nothing away."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


# -- folders


def test_nobody_else_can_look_in(tmp_path: Path) -> None:
    state = State(tmp_path / ".harmony4")
    assert not state.path.exists()
    with open_hands():
        folder = state.folder("trash")
        with state.locked("library"), Spool(state) as spool:
            for path in (state.path, folder, spool.path, spool.path.parent, state.path / "locks"):
                assert path.is_dir()
                assert path.stat().st_mode & 0o777 == 0o700, path
            for path in (state.path / "locks" / "library", spool.path / "live"):
                assert path.stat().st_mode & 0o777 == 0o600, path
    assert folder == state.path / "trash"
    (folder / "kept").touch()
    assert state.folder("trash") == folder
    assert (folder / "kept").exists()


@pytest.mark.parametrize("where", ["missing/state", "file", "file/state"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    state = State(tmp_path / where)
    with pytest.raises(StorageError):
        state.folder("x")
    with pytest.raises(StorageError), state.locked("x"):
        pytest.fail("locked without a lock")
    with pytest.raises(StorageError):
        Spool(state)
    with pytest.raises(StorageError):
        sweep_spools(state)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_something_else_stands_in_its_place(tmp_path: Path) -> None:
    state = State(tmp_path)
    (tmp_path / "spool").touch()
    with pytest.raises(StorageError):
        state.folder("spool")
    with pytest.raises(StorageError):
        Spool(state)
    (state.folder("locks") / "x").mkdir()
    with pytest.raises(StorageError), state.locked("x"):
        pytest.fail("locked without a lock")


def test_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in it is told from what lies in the library by its path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert State.of(tmp_path / "link" / "state", tmp_path).path == tmp_path / "real" / "state"
    monkeypatch.chdir(tmp_path)
    assert State.of(Path("state"), tmp_path).path == tmp_path / "state"
    assert State.of(None, tmp_path).path == tmp_path / ".harmony4"


# -- small files


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    with open_hands():
        write_whole(path, b"one", sync=sync)
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as before:
        write_whole(path, b"two", sync=sync)
        assert before.read() == b"one"
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        write_whole(tmp_path / "none" / "a.json", b"", sync=sync)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", b"", sync=sync)
    assert {one.name for one in tmp_path.iterdir()} == {"a.json", "folder"}


@needs_rlimit
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_for_which_there_is_no_room(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one", sync=sync)
    with file_size_limit(2), pytest.raises(OSError):
        write_whole(path, b"three", sync=sync)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


# -- locks

COUNT = """
import threading
from contextlib import nullcontext
number = path / "number"
def count():
    for _ in range(100):
        with State(path / "state").locked("count"):
            number.write_text(str(int(number.read_text()) + 1))
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=count) for _ in range(2)]
for one in threads: one.start()
for one in threads: one.join()
said = "counted"
"""


def test_a_lock_excludes_threads_and_processes(tmp_path: Path) -> None:
    """Four threads in two processes read a number and write the next: none is lost."""
    (tmp_path / "state").mkdir()
    (tmp_path / "number").write_text("0")
    with elsewhere(COUNT, tmp_path) as (one, _), elsewhere(COUNT, tmp_path) as (two, _):
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "counted\n"
    assert (tmp_path / "number").read_text() == "400"


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    state, order = State(tmp_path / "state"), []

    def enter() -> None:
        with state.locked("x"):
            order.append("second")

    with ThreadPoolExecutor() as threads:
        with state.locked("x"):
            waiting = threads.submit(enter)
            with state.locked("y"):  # another name is another lock
                threads.submit(lambda: None).result(30)
            order.append("first")
        waiting.result(30)
    assert order == ["first", "second"]


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with pytest.raises(ZeroDivisionError), state.locked("x"):
        _ = 1 / 0
    with state.locked("x"):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with elsewhere("lock = State(path).locked('x'); lock.__enter__(); said = 'in'", state.path) as (one, _):
        assert held(state.path / "locks" / "x")
        died(one)
        with state.locked("x"):
            pass


# -- spools


def test_a_spool_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    spool, other = Spool(state), Spool(state)
    assert spool.path != other.path
    assert spool.path.parent == state.path / "spool"
    (spool.path / "folder").mkdir()
    (spool.path / "folder" / "data").write_bytes(b"data")
    spool.close()
    assert not spool.path.exists()
    assert other.path.exists()
    spool.close()
    with pytest.raises(ZeroDivisionError), other:
        _ = 1 / 0
    assert not other.path.exists()


def test_a_spool_closes_its_file(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with Spool(state):
        pass
    free = os.open(tmp_path, os.O_RDONLY)
    os.close(free)
    for _ in range(10):
        with Spool(state):
            pass
    again = os.open(tmp_path, os.O_RDONLY)
    os.close(again)
    assert again == free


MAKE = """
spool = Spool(State(path))
(spool.path / "data").write_bytes(b"data")
said = spool.path
"""


def test_only_spools_of_the_dead_are_swept(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with elsewhere(MAKE, state.path) as (victim, name), elsewhere(MAKE, state.path) as (_, kept):
        sweep_spools(state)
        assert (Path(name) / "data").read_bytes() == b"data"
        died(victim)
        assert Path(name).exists()
        with Spool(state) as mine:
            sweep_spools(state)
            assert set((state.path / "spool").iterdir()) == {Path(kept), mine.path}
            assert (Path(kept) / "data").read_bytes() == b"data"
        run_python(HEAD + "sweep_spools(State(path))", state.path)
        assert set((state.path / "spool").iterdir()) == {Path(kept)}
    sweep_spools(state)
    assert not list((state.path / "spool").iterdir())


def test_what_was_never_held_is_swept(tmp_path: Path) -> None:
    """A process died between making the folder and holding its file."""
    state = State(tmp_path / "state")
    (state.folder("spool") / "0").mkdir()
    sweep_spools(state)
    assert not list((state.path / "spool").iterdir())


# -- hold, held


def test_held_as_long_as_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "live"
    assert not held(path)
    assert not path.exists()
    one, two = opened(path), opened(path)
    assert not held(path)
    assert hold(one)
    assert held(path)
    assert not hold(two)
    assert hold(one)  # as often as one likes
    os.close(one)
    assert not held(path)
    assert hold(two)
    os.close(two)
    assert not held(tmp_path / "live" / "x")


def test_held_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "live"
    ask = HEAD + "print(held(path))"
    mine = opened(path)
    assert run_python(ask, path) == "False\n"
    hold(mine)
    assert run_python(ask, path) == "True\n"
    os.close(mine)
    code = "file = os.open(path, os.O_RDWR | os.O_CREAT); hold(file); said = 'held'"
    with elsewhere(code, path) as (one, _):
        assert held(path)
        died(one)
        assert not held(path)


def test_a_held_file_is_not_inherited(tmp_path: Path) -> None:
    """What a process starts, such as a demuxer, does not hold its files when it has died."""
    path = tmp_path / "live"
    code = """
import subprocess
file = os.open(path, os.O_RDWR | os.O_CREAT)
hold(file)
spool = Spool(State(path.parent / "state"))
child = subprocess.Popen(["sleep", "100"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
said = f"{child.pid} {spool.path}"
"""
    (tmp_path / "state").mkdir()
    with elsewhere(code, path) as (one, said):
        pid, spool = said.split(" ", 1)
        try:
            died(one)
            assert not held(path)
            sweep_spools(State(tmp_path / "state"))
            assert not Path(spool).exists()
        finally:
            os.kill(int(pid), 9)


def test_wait_until_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "live", []
    one, two = opened(path), opened(path)
    hold(one)
    with ThreadPoolExecutor() as threads:

        def wait() -> None:
            assert hold(two, wait=True)
            order.append("second")

        waiting = threads.submit(wait)
        order.append("first")
        os.close(one)
        waiting.result(30)
    assert order == ["first", "second"]
    assert held(path)
    os.close(two)


def test_who_looks_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that look at the same moment: the second comes when the first has not closed the file yet."""
    path = tmp_path / "live"
    path.touch()
    close, seen = os.close, []

    def slow(descriptor: int) -> None:
        if not seen:
            seen.append(True)
            seen.append(held(path))
        close(descriptor)

    monkeypatch.setattr(os, "close", slow)
    assert not held(path)
    assert seen == [True, False]


@needs_rlimit
def test_without_descriptors_nobody_is_taken_for_dead(tmp_path: Path) -> None:
    code = """
import resource
file = os.open(path, os.O_RDWR | os.O_CREAT)
hold(file)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (file + 1, hard))
try:
    found = held(path)
except Exception as error:
    found = type(error).__name__
print(found)
"""
    assert run_python(HEAD + code, tmp_path / "live") in ("True\n", "StorageError\n")


def test_a_spool_that_lost_its_folder(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with Spool(state) as spool:
        shutil.rmtree(spool.path)
    assert not spool.path.exists()
