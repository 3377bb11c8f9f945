"""Scrubbing: everything is verified, slowly, by one process, and damage is said and not hidden."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from harmony4.server.config import Config
from harmony4.server.folder import scrubbing
from harmony4.server.folder.library import Library
from harmony4.server.folder.scrubbing import Scrubber
from harmony4.server.insight.tally import Tally
from harmony4.server.state import FOLDER, State, hold
from processes import needs_proc, until
from serving import running, write_container


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scrubber(root: Path, rate: int = 2**30, tally: Tally | None = None) -> Scrubber:
    library = Library(root)
    config = Config(library=root, scrub_rate=rate, scrub_pause=0.05)
    return Scrubber(config, library, State.of(None, library.root), tally or Tally())


def test_damage_is_reported_everywhere_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("good", "bad"):
        write_container(tmp_path / f"{name}.h4mk", [b"x" * 100_000])
    damage(tmp_path / "bad.h4mk")
    (tmp_path / "text.h4mk").write_text("no container")
    (tmp_path / "notes.txt").write_text("not looked at")
    with running(tmp_path, scrub_rate=2**30, scrub_pause=0.05) as server:

        def verified() -> dict[str, object]:
            items = server.get("/media").json["items"]
            return {item["name"]: item.get("verified", {}).get("ok") for item in items}

        until(lambda: verified() == {"good.h4mk": True, "bad.h4mk": False, "text.h4mk": False}, "a round")
        (bad,) = [one for one in server.get("/media").json["items"] if one["name"] == "bad.h4mk"]
        assert bad["verified"]["problem"].startswith("chunk CORE fails its CRC at offset ")
        assert server.get("/video/info?name=bad.h4mk").json["verified"] == bad["verified"]
        assert abs(bad["verified"]["at"] - time.time()) < 600
        text = server.get("/metrics").body.decode()
        assert "\nharmony4_damaged_containers 2.0\n" in text
        assert 'harmony4_verification_failures_total{found_by="scrub"}' in text
        assert 'harmony4_scrubbed_containers_total{result="sound"}' in text
        # What has been replaced is not what was verified; the next round looks at it.
        write_container(tmp_path / "bad.h4mk", [b"y" * 100_001])
        (tmp_path / "text.h4mk").unlink()
        until(lambda: verified() == {"good.h4mk": True, "bad.h4mk": True}, "the round after that")
        until(lambda: "\nharmony4_damaged_containers 0.0\n" in server.get("/metrics").body.decode(), "zero")
    assert "'bad.h4mk' is damaged" in caplog.text
    assert (tmp_path / "bad.h4mk").exists()


def test_damage_is_known_from_the_start(tmp_path: Path) -> None:
    """A restart mends nothing: the alert must not go away until somebody has looked again."""
    write_container(tmp_path / "bad.h4mk", [b"x" * 100_000])
    damage(tmp_path / "bad.h4mk")
    scrubber(tmp_path).round()
    with running(tmp_path, scrub_rate=1) as server:  # it would take days
        assert "\nharmony4_damaged_containers 1.0\n" in server.get("/metrics").body.decode()
    with State(tmp_path / FOLDER).private("scrub", "locks") as lock:
        assert hold(lock.fileno())  # the old worker's, after SIGHUP
        with running(tmp_path, scrub_rate=1) as server:
            assert "\nharmony4_damaged_containers 1.0\n" in server.get("/metrics").body.decode()
    (tmp_path / "bad.h4mk").unlink()
    one = scrubber(tmp_path)
    one.remember()
    one.round()
    assert one._damaged == 0


@needs_proc
def test_what_took_the_place_of_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the outside and a pipe, put there after the look at the folder: neither is read."""
    root, outside = tmp_path / "library", tmp_path / "outside.h4mk"
    for name in ("link", "pipe", "sound"):
        write_container(root / f"{name}.h4mk", [b"x" * 1000])
    outside.write_bytes(b"no container")
    found = scrubbing.scan(root)
    for name in ("link", "pipe"):
        (root / f"{name}.h4mk").unlink()
    (root / "link.h4mk").symlink_to(outside)
    os.mkfifo(root / "pipe.h4mk")
    monkeypatch.setattr(scrubbing, "scan", lambda *_: found)
    one = scrubber(root)
    one.round()
    assert list(one.findings.read()) == ["sound.h4mk"]


def test_nothing_is_scrubbed_unless_asked_for(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    with running(tmp_path) as server:
        assert "verified" not in server.get("/media").json["items"][0]
    assert not (tmp_path / FOLDER / "scrub.json").exists()


def test_the_rate_holds(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20] * 2)
    tally = Tally()
    started = time.monotonic()
    scrubber(tmp_path, 8 * 2**20, tally).round()
    assert time.monotonic() - started >= 0.25
    assert tally.counts["scrubbed_bytes"] == (tmp_path / "a.h4mk").stat().st_size


def test_it_stops_in_the_middle(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x" * 2**20])
    tally = Tally()
    one = scrubber(tmp_path, 1, tally)  # it would take days
    thread = threading.Thread(target=one.run)
    thread.start()
    until(lambda: tally.counts["scrubbed_bytes"] > 0, "the begin")
    one.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert not (tmp_path / FOLDER / "scrub.json").exists()


def test_one_process_does_it_for_all(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    (tmp_path / FOLDER / "locks").mkdir(parents=True)
    tally = Tally()
    one = scrubber(tmp_path, tally=tally)
    thread = threading.Thread(target=one.run)
    with State(tmp_path / FOLDER).private("scrub", "locks") as lock:
        assert hold(lock.fileno())
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert tally.counts["scrubbed|sound"] == 0
    until(lambda: tally.counts["scrubbed|sound"] > 0, "its turn")
    one.stop()
    thread.join(30)
    assert json.loads((tmp_path / FOLDER / "scrub.json").read_bytes())["a.h4mk"]["ok"]
