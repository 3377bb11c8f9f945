"""What the parent of several workers has for the audit log, and never waits for."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harmony4.server.config import Config
from harmony4.server.insight.tally import Shares
from harmony4.server.serving import notes as module
from harmony4.server.serving.notes import Notes
from harmony4.server.state import FOLDER, State
from processes import until


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "library" / FOLDER).mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    return tmp_path / "library"


def changes(library: Path) -> list[object]:
    text = (library / FOLDER / "audit.log").read_text()
    return [json.loads(line)["changed"] for line in text.splitlines()]


def test_a_folder_that_cannot_be_looked_at(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and the next settings are noted."""
    old = Config(library=library, port=0)
    notes = Notes(str(library.parent / "shared"))
    notes.changed(old, replace(old, state=library / ("x" * 300), quota=1_000_000))
    until(lambda: "the audit log cannot be told of new settings" in caplog.text, "the error")
    notes.changed(old, replace(old, quota=2_000_000))
    notes.close()
    assert changes(library) == [{"quota": [old.quota, 2_000_000]}]


def test_a_log_that_somebody_holds(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the parent nor its end waits for it; the line does, and workers can tell."""
    old = Config(library=library, port=0)
    (library / FOLDER / "audit-waiting").touch()
    monkeypatch.setattr(module, "_RETRY", 0.05)
    notes = Notes(str(library.parent / "shared"))
    shares = Shares(library.parent / "shared")
    with State(library / FOLDER).locked("audit"):
        began = time.monotonic()
        notes.changed(old, replace(old, quota=1_000_000))
        assert time.monotonic() - began < 1
        until(lambda: shares.waiting() == 1, "a line that waits")
    until(lambda: shares.waiting() == 0, "nothing that waits")
    notes.close()
    assert changes(library) == [{"quota": [old.quota, 1_000_000]}]


def test_a_disk_that_does_not_answer(
    library: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is not waited for, and what is lost is told."""
    old = Config(library=library, port=0)
    answers = threading.Event()
    of = State.of

    def slowly(path: Path | None, library: Path) -> State:
        answers.wait()
        return of(path, library)

    monkeypatch.setattr(module, "_LAST", 0.1)
    monkeypatch.setattr(State, "of", slowly)
    notes = Notes(str(library.parent / "shared"))
    notes.changed(old, replace(old, quota=1_000_000))
    notes.close()
    assert "its disk does not answer" in caplog.text
    answers.set()
    until(lambda: (library / FOLDER / "audit.log").exists(), "the line, if it can be written at last")


def test_nothing_to_note(library: Path) -> None:
    notes = Notes(str(library.parent / "shared"))
    notes.close()
    old = Config(library=library, port=0)
    notes.changed(old, replace(old))
    notes.close()
    assert not (library / FOLDER / "audit.log").exists()
