"""`/ready`: what it says, and that it turns first."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from harmony4.server.keys import LIBRARY
from mounts import small_disk
from processes import Served, needs_proc, served, until
from serving import running, write_container


def test_what_ready_says(tmp_path: Path) -> None:
    with running(tmp_path, min_free=0) as server:
        found = server.get("/ready").json
        assert found["status"] == "ready"
        assert found["workers"] == 1
        assert found["takes_uploads"] is True
        assert found["disk_free"] > 0
    with running(tmp_path, min_free=2**62) as server:
        answer = server.get("/ready")  # readers are served all the same
        assert answer.status == 200
        assert answer.json["takes_uploads"] is False


def test_a_library_that_is_gone(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    with running(library, state=tmp_path / "state") as server:
        library.rename(tmp_path / "elsewhere")
        answer = server.get("/ready")
        assert (answer.status, answer.problem) == (503, "source")
        assert server.get("/health").status == 200
        (tmp_path / "elsewhere").rename(library)
        assert server.get("/ready").status == 200


def turned(server: Served) -> bool:
    """Whether nobody says any more that it is ready; who does not, says that it stops."""
    answers = [server.get("/ready") for _ in range(8)]
    no = [json.loads(body)["type"] for status, body in answers if status == 503]
    assert set(no) <= {"urn:harmony4:problem:stopping"}
    return len(no) == len(answers)


def test_a_library_whose_disk_is_another_one(tmp_path: Path) -> None:
    """As after an unmount below the server: the folder is there, and empty."""

    def numbers() -> set[str]:
        lines = server.get("/metrics").body.decode().splitlines()
        return {line.split()[0] for line in lines} & {"harmony4_disk_free_bytes", "harmony4_takes_uploads"}

    with (
        small_disk(tmp_path / "disk", 2**24) as disk,
        running(disk.path, state=tmp_path / "state") as server,
    ):
        assert server.get("/ready").status == 200
        assert len(numbers()) == 2
        if disk.mounted:
            disk.lose()
        else:
            server.app[LIBRARY].device += 1
        assert server.get("/ready").status == 503
        assert not numbers()  # Harmony4LibraryUnreadable goes by that


@needs_proc
def test_ready_turns_first(tmp_path: Path) -> None:
    """From the signal on it says no, while everything else is answered as before, on new connections too."""
    write_container(tmp_path / "a.h4mk", [b"x" * 1000])
    for workers in (1, 2):
        with served(tmp_path, "--workers", workers, HARMONY4_STOP_DELAY="2") as server:
            assert server.get("/ready")[0] == 200
            server.process.send_signal(signal.SIGTERM)
            # Each worker turns when the signal reaches it, so one 503 is not yet all of them.
            until(lambda server=server: turned(server), "/ready of all workers")  # type: ignore[misc]
            assert server.get("/video/range?name=a.h4mk") == (200, b"x" * 1000)
            assert server.process.wait(30) == 0
