"""server/intake/jobs.py: jobs in files, seen by any process, whatever becomes of who works on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harmony4.crypto.errors import NotFoundError, StorageError, UsageError
from harmony4.server.errors import PROBLEMS
from harmony4.server.intake.jobs import ACTIVE, Job, Jobs
from harmony4.server.state import State
from limits import file_size_limit, needs_rlimit, run_python
from processes import until
from watching import Opens

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are held on POSIX systems only")

needs_inotify = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")

HEAD = """
import json, os, sys
from pathlib import Path
from harmony4.server.intake.jobs import Jobs
from harmony4.server.state import State
jobs = Jobs(State(Path(sys.argv[1])))
"""
OLD = 10**9
"""A time long ago, seconds since the epoch."""


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def jobs(state: State) -> Jobs:
    return Jobs(state)


@contextmanager
def worker(state: State, code: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that works on a job, and its id; killed (SIGKILL) when the block is left."""
    code = (
        f"job = jobs.start(name='film.h4mk', received=7)\n{code}\nprint(job.id, flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", HEAD + code, str(state.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        number = process.stdout.readline().strip()
        assert number, "the other process has failed"
        yield process, number
    finally:
        process.kill()
        process.communicate()


def files(jobs: Jobs) -> set[str]:
    """Names in the folder, ids left out: ".json"."""
    return {re.sub("[0-9a-f]{32}", "", path.name) for path in jobs.folder.iterdir()}


def on_disk(jobs: Jobs, number: str) -> Any:
    return json.loads((jobs.folder / f"{number}.json").read_bytes())


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (OLD, OLD))


@contextmanager
def working(jobs: Jobs, **facts: object) -> Iterator[Job]:
    """A job that ends with the block, so that no descriptor is left."""
    job = jobs.start(**facts)
    try:
        yield job
    finally:
        job.finish("done")


def ended(jobs: Jobs) -> str:
    """The id of a job that is done."""
    job = jobs.start()
    job.finish("done")
    return job.id


# -- a life


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_states(jobs: Jobs, state: State, end: str) -> None:
    job = jobs.start(name="film.h4mk", size=None, blocks=0)
    assert re.fullmatch("[0-9a-f]{32}", job.id)
    known = {"id": job.id, "state": "receiving", "name": "film.h4mk", "size": None, "blocks": 0}
    assert jobs.read(job.id) == Jobs(state).read(job.id) == on_disk(jobs, job.id) == known
    job.note(now=True, blocks=1)
    assert jobs.read(job.id) == known | {"blocks": 1}
    job.note(now=True, state="sealing")
    assert jobs.read(job.id) == known | {"blocks": 1, "state": "sealing"}
    assert {"receiving", "sealing"} == ACTIVE
    job.finish(end, blocks=2, result={"ö": [1]})
    final = known | {"blocks": 2, "state": end, "result": {"ö": [1]}}
    assert jobs.read(job.id) == final
    # The first word counts, and nothing is said after it.
    job.finish("failed", problem={})
    job.note(now=True, state="receiving")
    assert jobs.read(job.id) == final
    assert files(jobs) == {".json"}


def test_all(jobs: Jobs) -> None:
    assert list(jobs.all()) == []
    with working(jobs, number=1) as one, working(jobs, number=2) as two:
        found = list(jobs.all())
        assert [facts["id"] for facts in found] == sorted([one.id, two.id])
        assert {facts["number"] for facts in found} == {1, 2}
    assert [facts["state"] for facts in jobs.all()] == ["done", "done"]


def test_pages(jobs: Jobs) -> None:
    numbers = sorted(ended(jobs) for _ in range(7))
    found: list[str] = []
    after = None
    for size in (3, 3, 1):
        facts, after = jobs.page(after, 3)
        assert len(facts) == size
        found += [one["id"] for one in facts]
    assert (found, after) == (numbers, None)
    assert jobs.page(None, 7)[1] is None
    assert jobs.page(numbers[-1], 7) == ([], None)
    for wrong in ("", "x", "../" + "0" * 29, "0" * 31, "A" * 32, "0" * 32 + "\n"):
        with pytest.raises(UsageError):
            jobs.page(wrong, 7)


def test_a_page_is_full_though_files_are_broken(jobs: Jobs) -> None:
    numbers = sorted(ended(jobs) for _ in range(6))
    for number in numbers[1:3]:
        (jobs.folder / f"{number}.json").write_bytes(b"")
    facts, after = jobs.page(None, 3)
    assert [one["id"] for one in facts] == [numbers[0], *numbers[3:5]]
    assert jobs.page(after, 3)[0][0]["id"] == numbers[5]


@needs_inotify
def test_what_has_ended_is_not_read(jobs: Jobs) -> None:
    """There may be very many."""
    numbers = sorted(ended(jobs) for _ in range(20))
    with working(jobs) as job:
        opens = Opens(jobs.folder)
        try:
            assert [one["id"] for one in jobs.active()] == [job.id]
            jobs.sweep(3600)
            assert {name for name in opens.names() if name.endswith(".json")} == {f"{job.id}.json"}
            facts, _ = jobs.page(numbers[4], 3)
            assert len(facts) == 3
            assert len({name for name in opens.names() if name.endswith(".json")}) == 4
        finally:
            opens.close()


def test_one_that_was_left_is_active(jobs: Jobs) -> None:
    """However long it takes until somebody takes it up, as long as it is known."""
    job = jobs.start(restarts=True)
    job.leave()
    live = jobs.folder / f"{job.id}.live"
    age(live)
    jobs.sweep(3600)
    assert [one["id"] for one in jobs.active()] == [job.id]
    age(live, jobs.folder / f"{job.id}.json")
    jobs.sweep(3600)
    jobs.sweep(3600)
    assert files(jobs) == set()


def test_files_are_their_owners(jobs: Jobs) -> None:
    assert jobs.folder.stat().st_mode & 0o777 == 0o700
    with working(jobs) as job:
        jobs.cancel(job.id)
        for name in ("live", "cancel"):
            assert (jobs.folder / f"{job.id}.{name}").stat().st_mode & 0o077 == 0


# -- progress


def test_progress_is_written_a_few_times_a_second(jobs: Jobs) -> None:
    with working(jobs, received=0) as job:
        path, versions, received = jobs.folder / f"{job.id}.json", set(), 0
        begin = time.monotonic()
        while time.monotonic() - begin < 0.8:
            received += 1
            job.note(received=received)
            status = path.stat()
            versions.add((status.st_ino, status.st_mtime_ns))
        passed = time.monotonic() - begin
        assert 2 <= len(versions) <= passed * 4 + 2
        assert 0 < jobs.read(job.id)["received"] <= received
        job.note(received=received + 1)
        assert job.facts["received"] == received + 1
        job.finish("done")
        assert jobs.read(job.id)["received"] == received + 1


def test_now_is_now(jobs: Jobs) -> None:
    with working(jobs) as job:
        for number in range(20):
            job.note(now=True, number=number)
            assert on_disk(jobs, job.id)["number"] == number


def test_the_file_is_whole_at_every_moment(jobs: Jobs) -> None:
    with working(jobs, text="") as job:
        over = threading.Event()

        def write() -> None:
            for number in range(300):
                job.note(now=True, text=f"{number % 10}" * 10_000)
            over.set()

        thread = threading.Thread(target=write)
        thread.start()
        reads = 0
        while not over.is_set() or not reads:
            text = jobs.read(job.id)["text"]
            assert len(set(text)) <= 1
            assert len(text) in (0, 10_000)
            reads += 1
        thread.join()
    assert files(jobs) == {".json"}


def test_notes_of_several_threads(jobs: Jobs) -> None:
    with working(jobs) as job:

        def note(thread: int) -> None:
            for number in range(50):
                job.note(now=True, **{f"thread{thread}": number})

        threads = [threading.Thread(target=note, args=(one,)) for one in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert [jobs.read(job.id)[f"thread{one}"] for one in range(4)] == [49] * 4


# -- cancelling


def test_the_worker_sees_that_it_is_cancelled(jobs: Jobs, state: State) -> None:
    with working(jobs) as job:
        job.note()
        assert not job.cancelled
        assert not jobs.is_unwanted(job.id)
        said = run_python(HEAD + "print(jobs.cancel(sys.argv[2])['state'])", state.path, job.id)
        assert said == "receiving\n"
        assert jobs.is_unwanted(job.id)

        def seen() -> bool:
            job.note()  # not at once: a few times a second
            return job.cancelled

        until(seen, "the cancellation")
        jobs.cancel(job.id)  # twice is no harm
        job.finish("cancelled")
        assert jobs.read(job.id)["state"] == "cancelled"
        assert not jobs.is_unwanted(job.id)
        assert files(jobs) == {".json"}


def test_a_note_at_once_sees_it_at_once(jobs: Jobs) -> None:
    with working(jobs) as job:
        jobs.cancel(job.id)
        job.note(now=True)
        assert job.cancelled


def test_who_cancelled_it_first(jobs: Jobs) -> None:
    with working(jobs) as job:
        assert job.cancelled_by() is None
        jobs.cancel(job.id, "token 1")
        jobs.cancel(job.id, "token 2")
        assert job.cancelled_by() == "token 1"


@needs_rlimit
def test_a_full_disk_keeps_nobody_from_cancelling(jobs: Jobs) -> None:
    with working(jobs) as job:
        with file_size_limit(0):
            jobs.cancel(job.id, "token 1")
        assert jobs.is_unwanted(job.id)
        assert job.cancelled_by() is None  # for whom there was no room


def test_what_has_ended_is_not_cancelled(jobs: Jobs) -> None:
    with working(jobs) as job:
        pass
    assert jobs.cancel(job.id)["state"] == "done"
    assert not jobs.is_unwanted(job.id)
    assert files(jobs) == {".json"}


# -- other processes


def test_another_process_reads_it(jobs: Jobs, state: State) -> None:
    with working(jobs, name="ö\udcff") as job:
        job.note(now=True, received=5)
        said = run_python(HEAD + "print(json.dumps(jobs.read(sys.argv[2])))", state.path, job.id)
        assert json.loads(said) == job.facts
    assert json.loads(run_python(HEAD + "print(json.dumps(list(jobs.all())))", state.path)) == [job.facts]


@pytest.mark.parametrize("how", ["read", "all", "cancel", "sweep"])
def test_its_worker_is_killed(jobs: Jobs, state: State, how: str) -> None:
    with worker(state, "job.note(now=True, state='sealing', blocks=3)") as (process, number):
        known = {"id": number, "name": "film.h4mk", "received": 7, "blocks": 3}
        assert jobs.read(number) == known | {"state": "sealing"}
        assert jobs.cancel(number)["state"] == "sealing"
        process.kill()
        process.wait()
        if how == "read":
            facts = jobs.read(number)
        elif how == "all":
            (facts,) = jobs.all()
        elif how == "cancel":
            facts = jobs.cancel(number)
        else:
            jobs.sweep(60)
            facts = on_disk(jobs, number)
        problem = facts.pop("problem")
        assert facts == known | {"state": "failed"}
        status, title = PROBLEMS["interrupted"]
        assert problem == {"type": "urn:harmony4:problem:interrupted", "title": title, "status": status}
        # It is written down: no later holder of the file makes it run again.
        assert on_disk(jobs, number) == facts | {"problem": problem}


def test_its_worker_is_killed_after_the_end(jobs: Jobs, state: State) -> None:
    with worker(state, "job.finish('done', result=1)") as (process, number):
        process.kill()
        process.wait()
        assert jobs.read(number) == {
            "id": number,
            "name": "film.h4mk",
            "received": 7,
            "state": "done",
            "result": 1,
        }


# -- expiry


def test_ended_jobs_are_forgotten(jobs: Jobs) -> None:
    ended = [jobs.start() for _ in range(3)]
    for job, end in zip(ended, ("done", "failed", "cancelled"), strict=True):
        job.finish(end)
    with working(jobs) as young, working(jobs) as running:
        young.finish("done")
        jobs.cancel(running.id)
        age(*(jobs.folder / f"{job.id}.json" for job in ended))
        age(*(jobs.folder / f"{running.id}.{name}" for name in ("json", "live", "cancel")))
        jobs.sweep(time.time() - OLD + 100)
        assert len(list(jobs.all())) == 5
        jobs.sweep(time.time() - OLD - 100)
        assert {facts["id"] for facts in jobs.all()} == {young.id, running.id}
        for job in ended:
            with pytest.raises(NotFoundError):
                jobs.read(job.id)
        assert jobs.is_unwanted(running.id)
        assert jobs.read(running.id)["state"] == "receiving"


def test_the_time_of_an_interrupted_job_begins_when_it_is_noticed(jobs: Jobs, state: State) -> None:
    with worker(state) as (process, number):
        process.kill()
        process.wait()
        path = jobs.folder / f"{number}.json"
        age(path)
        jobs.sweep(3600)
        assert jobs.read(number)["state"] == "failed"
        age(path, path.with_suffix(".live"))
        jobs.sweep(3600)
        assert files(jobs) == set()


def test_what_crashes_leave(jobs: Jobs) -> None:
    number, folder = "0" * 32, jobs.folder
    left = [folder / f"{number}.{end}" for end in ("live", "cancel", "01234567.part")]
    for path in left:
        path.touch()
    jobs.sweep(0)  # they may be a job that is just being made
    assert all(path.exists() for path in left)
    age(*left)
    jobs.sweep(3600)
    assert not any(path.exists() for path in left)


def test_sweeping_nothing(jobs: Jobs, state: State) -> None:
    jobs.sweep(0)
    assert not state.path.exists()


# -- files and names that are not what they should be

NUMBER = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'"receiving"',
        b"{}",
        b'{"state": 5}',
        b'{"state": ["receiving"]}',
        b"\0" * 100,
        pytest.param(b'{"state": "receiving"}'),
        pytest.param(b'{"state": "receiving", "id": "../x"}'),
        pytest.param(b"[" * 200_000),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_broken_file(jobs: Jobs, state: State, data: bytes) -> None:
    path = jobs.folder / f"{NUMBER}.json"
    with working(jobs) as job:
        path.write_bytes(data)
        with pytest.raises(NotFoundError):
            jobs.read(NUMBER)
        with pytest.raises(NotFoundError):
            jobs.cancel(NUMBER)
        assert [facts["id"] for facts in jobs.all()] == [job.id]
        jobs.sweep(3600)
        assert jobs.read(job.id)["state"] == "receiving"
    assert [path.name for path in state.path.iterdir()] == ["jobs"]


def test_a_broken_file_is_swept_when_it_is_old(jobs: Jobs) -> None:
    path = jobs.folder / f"{NUMBER}.json"
    path.write_bytes(b"")
    age(path)
    jobs.sweep(3600)
    assert not path.exists()


@pytest.mark.parametrize(
    "number",
    [
        *("", ".", "..", "../x", "../../x", "/etc/passwd", "../" + "0" * 29, "0" * 31 + "/"),
        *(
            "0" * 31,
            "0" * 33,
            "0" * 32 + "\n",
            "A" * 32,
            "g" * 32,
            "０" * 32,
            "\0" * 32,
            "*" * 32,
            "\udcff" * 32,
        ),
    ],
)
def test_no_ids(jobs: Jobs, state: State, number: str) -> None:
    """Each of them would find a job if it were taken for a path."""
    facts = json.dumps({"id": "x", "state": "done"})
    state.folder("jobs")
    for name in ("x", "A" * 32, "0" * 31, "0" * 33, "0" * 29):
        (state.path / f"{name}.json").write_text(facts)
        (jobs.folder / f"{name}.json").write_text(facts)
    (state.path.parent / "x.json").write_text(facts)
    for call in (jobs.read, jobs.cancel):
        with pytest.raises(NotFoundError):
            call(number)
    assert list(jobs.all()) == []
    assert not list(state.path.rglob("*.cancel"))


def test_nothing_is_known(jobs: Jobs, state: State) -> None:
    for call in (jobs.read, jobs.cancel):
        with pytest.raises(NotFoundError):
            call(NUMBER)
    assert not jobs.is_unwanted(NUMBER)
    assert not state.path.exists()


# -- the disk


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    jobs = Jobs(State(tmp_path / "file"))
    with pytest.raises(StorageError):
        jobs.start()
    with pytest.raises(NotFoundError):
        jobs.read(NUMBER)
    assert list(jobs.all()) == []
    jobs.sweep(0)


@needs_rlimit
def test_a_full_disk(jobs: Jobs) -> None:
    with working(jobs) as job:
        with file_size_limit(0):
            with pytest.raises(StorageError):
                jobs.start()
            with pytest.raises(StorageError):
                job.note(now=True, received=1)
        assert [facts["id"] for facts in jobs.all()] == [job.id]
        assert files(jobs) <= {".json", ".live"}
        job.note(now=True, received=2)
        assert jobs.read(job.id)["received"] == 2
        with file_size_limit(0), pytest.raises(StorageError):
            job.finish("done")
        assert jobs.read(job.id)["state"] == "failed"  # nobody works on it any more
        job.finish("done")
        assert files(jobs) <= {".json", ".live"}
