"""server/intake/admission.py: places for uploads across processes, and room on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem, problem_response
from harmony4.server.intake.admission import Room, place
from harmony4.server.state import State
from limits import file_size_limit, needs_rlimit, run_python
from serving import write_container

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are held on POSIX systems only")

HEAD = """
import os, sys
from pathlib import Path
from harmony4.crypto.errors import StorageError
from harmony4.server.errors import Problem
from harmony4.server.intake.admission import place
from harmony4.server.state import State
state = State(Path(sys.argv[1]))
"""


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / ".harmony4")


@contextmanager
def elsewhere(state: State, client: str, *, most: int, each: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that has a place; killed (SIGKILL) when the block is left."""
    code = (
        "taken = place(state, sys.argv[2], most=int(sys.argv[3]), each=int(sys.argv[4]))\ntaken.__enter__()\n"
    )
    code += "print('taken', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", HEAD + code, str(state.path), client, str(most), str(each)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def check(error: Problem, code: str, status: int) -> None:
    """The answer that it becomes."""
    assert error.code == code
    answer = problem_response(error.code, error.detail, headers=error.headers)
    assert answer.status == status
    assert int(answer.headers["Retry-After"]) > 0


def refused(state: State, client: str, code: str, status: int, *, most: int, each: int) -> None:
    with pytest.raises(Problem) as caught, place(state, client, most=most, each=each):
        pytest.fail("a place was given")
    check(caught.value, code, status)


# -- places


def test_most(state: State) -> None:
    with place(state, "a", most=2, each=2):
        with place(state, "b", most=2, each=2):
            refused(state, "c", "busy", 503, most=2, each=2)
        with place(state, "c", most=2, each=2):
            refused(state, "d", "busy", 503, most=2, each=2)
    with place(state, "a", most=2, each=2), place(state, "a", most=2, each=2):
        refused(state, "b", "busy", 503, most=2, each=2)


def test_each(state: State) -> None:
    with place(state, "a", most=9, each=2), place(state, "b", most=9, each=2):
        with place(state, "a", most=9, each=2):
            refused(state, "a", "too-many", 429, most=9, each=2)
            with place(state, "b", most=9, each=2):
                refused(state, "b", "too-many", 429, most=9, each=2)
        with place(state, "a", most=9, each=2):
            pass


def test_a_place_is_given_back_whatever_happens(state: State) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), place(state, "a", most=1, each=1):
            _ = 1 / 0


def test_a_refusal_takes_nothing(state: State) -> None:
    with place(state, "a", most=2, each=1):
        free = os.open(state.path, os.O_RDONLY)
        os.close(free)
        for _ in range(10):
            refused(state, "a", "too-many", 429, most=2, each=1)
        with place(state, "b", most=2, each=1):
            for _ in range(10):
                refused(state, "c", "busy", 503, most=2, each=1)
        again = os.open(state.path, os.O_RDONLY)
        os.close(again)
        assert again == free


@pytest.mark.parametrize("client", ["::1", "", "2001:db8::1"])
def test_a_place_forgets_who_had_it(state: State, client: str) -> None:
    with place(state, "2001:db8::1:2:3", most=2, each=1):
        pass
    with place(state, client, most=2, each=1):
        refused(state, client, "too-many", 429, most=2, each=1)
        with place(state, "2001:db8::1:2:3", most=2, each=1):
            pass


@pytest.mark.xfail(strict=True, reason="a client is kept in 256 bytes, and compared with all of its own")
def test_a_long_client(state: State) -> None:
    with place(state, "x" * 300, most=2, each=1):
        refused(state, "x" * 300, "too-many", 429, most=2, each=1)


@pytest.mark.parametrize(("most", "each", "given", "code"), [(3, 8, 3, "busy"), (9, 1, 1, "too-many")])
def test_all_at_once(state: State, most: int, each: int, given: int, code: str) -> None:
    """Eight threads want a place in the same moment, again and again."""
    rounds = 25
    start, decided = threading.Barrier(8), threading.Barrier(8)
    results: list[list[str]] = [[] for _ in range(rounds)]

    def upload() -> None:
        for round in results:
            start.wait(30)
            with ExitStack() as stack:
                try:
                    stack.enter_context(place(state, "a", most=most, each=each))
                    round.append("")
                except Problem as problem:
                    round.append(problem.code)
                decided.wait(30)

    threads = [threading.Thread(target=upload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sorted(round) for round in results] == [[""] * given + [code] * (8 - given)] * rounds


def test_other_processes_count(state: State) -> None:
    one = {"most": 3, "each": 1}
    two = {"most": 3, "each": 2}
    with elsewhere(state, "a", **one) as first, elsewhere(state, "b", **one):
        refused(state, "a", "too-many", 429, **one)
        with place(state, "a", **two):
            refused(state, "b", "busy", 503, **two)
        first.kill()
        first.wait()
        with place(state, "a", **one):  # as dead as it is, it has no place any more
            refused(state, "a", "too-many", 429, **one)
            with place(state, "c", **one):
                refused(state, "d", "busy", 503, **one)


def test_no_folder_for_places(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for at in (tmp_path / "file", tmp_path / "missing" / "state"):
        with pytest.raises(StorageError), place(State(at), "a", most=1, each=1):
            pytest.fail("a place was given")
    state = State(tmp_path)
    (state.folder("places") / "0").mkdir()
    with pytest.raises(StorageError), place(state, "a", most=1, each=1):
        pytest.fail("a place was given")


@needs_rlimit
@pytest.mark.xfail(
    strict=True, reason="_take() keeps the free place that it has found when another fails to open"
)
def test_no_descriptors(state: State) -> None:
    """A server without descriptors refuses, and has all its places again when it has descriptors."""
    code = """
import resource
lowest = os.open(sys.argv[1], os.O_RDONLY)
os.close(lowest)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, limits[1]))
try:
    place(state, "a", most=2, each=1).__enter__()
except StorageError:
    print("refused")
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
try:
    place(state, "a", most=1, each=1).__enter__()
    print("taken")
except Problem as problem:
    print(problem.code)
"""
    state.folder("places")
    assert run_python(HEAD + code, state.path) == "refused\ntaken\n"


@needs_rlimit
@pytest.mark.xfail(strict=True, reason="_take(): OSError of pwrite escapes, and the place stays taken")
def test_a_full_disk(state: State) -> None:
    state.folder("places")
    with file_size_limit(0), pytest.raises(StorageError), place(state, "a", most=1, each=1):
        pytest.fail("a place was given")
    with place(state, "a", most=1, each=1):
        pass


# -- room


def full(room: Room, more: int = 0) -> None:
    with pytest.raises(Problem) as caught:
        room.check(more)
    check(caught.value, "full", 507)


def test_quota(tmp_path: Path, state: State) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 1000])
    write_container(tmp_path / "folder" / "b.h4mk", [b"x" * 2000])
    (tmp_path / "notes.txt").write_bytes(b"x" * 10_000)  # no container
    size = sum((tmp_path / name).stat().st_size for name in ("a.h4mk", "folder/b.h4mk"))
    room = Room(tmp_path, state, quota=size + 10, least=0)
    assert room.used() == size
    room.check()
    room.check(10)
    full(room, 11)
    # What is uploaded and what was deleted counts.
    (state.folder("trash") / "c.h4mk").write_bytes(b"12345")
    (state.folder("spool") / "d").mkdir()
    (state.path / "spool" / "d" / "made").write_bytes(b"1234")
    assert room.used() == size + 9
    room.check(1)
    full(room, 2)
    write_container(tmp_path / "e.h4mk", [b"x"])
    full(room)
    Room(tmp_path, state, quota=0, least=0).check(10**6)


def test_a_floor_of_free_space(tmp_path: Path, state: State) -> None:
    free = shutil.disk_usage(tmp_path).free
    Room(tmp_path, state, quota=0, least=1).check(1)
    full(Room(tmp_path, state, quota=0, least=2**62))
    full(Room(tmp_path, state, quota=0, least=free), free // 2)
    full(Room(tmp_path, state, quota=0, least=0), 2**62)
    full(Room(tmp_path, state, quota=2**62, least=2**62))


def test_the_fuller_disk_decides(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    other = shared / f"harmony4-test-{os.getpid()}"
    other.mkdir()
    try:
        small, large = sorted((tmp_path, other), key=lambda path: shutil.disk_usage(path).free)
        least = (shutil.disk_usage(small).free + shutil.disk_usage(large).free) // 2
        Room(large, State(large / "state"), quota=0, least=least).check()
        Room(large, State(small / "missing"), quota=0, least=least).check()  # not made yet
        full(Room(large, State(small), quota=0, least=least))
        full(Room(small, State(large), quota=0, least=least))
    finally:
        shutil.rmtree(other)


def test_no_library(tmp_path: Path, state: State) -> None:
    with pytest.raises(StorageError):
        Room(tmp_path / "missing", state, quota=0, least=0).check()
