"""Catalogue, listing and the cache of facts: pages from memory, and a cache that may be lost any time."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmony4.server.folder import catalogue as catalogue_module
from harmony4.server.folder import factstore
from harmony4.server.folder.catalogue import Catalogue
from harmony4.server.folder.factstore import FactStore
from harmony4.server.folder.library import Identity
from harmony4.server.folder.listing import Listing
from processes import needs_proc, served, until
from serving import running, write_container

COUNT = 60


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Containers of different lengths, and one that is none, in two folders that have not changed lately."""
    root = tmp_path / "library"
    for number in range(COUNT):
        write_container(root / f"{number % 2}" / f"{number:02}.h4mk", [b"x"] * (1 + number % 7))
    (root / "broken.h4mk").write_bytes(b"no container")
    return settle(root)


def settle(root: Path) -> Path:
    """Make the folders look old: what was done to them is no longer a moment ago."""
    for folder in (root, *root.rglob("*/")):
        if folder.is_dir():
            os.utime(folder, (10**9, 10**9))
    return root


def everything(catalogue: Catalogue, sort: str = "name") -> list[dict[str, Any]]:
    """All items, by pages."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        items, after, _ = catalogue.page(query="", sort=sort, after=after, limit=25)
        found += items
        if after is None:
            return found


def spoil(path: Path) -> None:
    """Make a container unreadable without anything that `stat` could show: whoever opens it sees."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"\0" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Identity.of(path.stat()) == Identity.of(status)


def spoil_all(root: Path) -> None:
    for path in root.rglob("*.h4mk"):
        spoil(path)


def test_what_is_known_is_not_opened_again(library: Path, tmp_path: Path) -> None:
    """In memory, after a restart, and in another process's hands."""
    first = Catalogue(library, cache=tmp_path / "cache")
    expected = {
        sort: everything(first, sort) for sort in ("name", "-duration", "duration", "size", "-modified")
    }
    assert len(expected["name"]) == COUNT + 1
    assert {item["duration"] for item in expected["name"] if "error" not in item} == {
        1_000_000 * count for count in range(1, 8)
    }
    spoil_all(library)
    for catalogue in (first, Catalogue(library, cache=tmp_path / "cache")):
        assert {sort: everything(catalogue, sort) for sort in expected} == expected
        catalogue.close()
        catalogue.close()
        assert everything(catalogue) == expected["name"]  # from memory
    assert all("error" in item for item in everything(Catalogue(library)))


def test_filling(library: Path, tmp_path: Path) -> None:
    """Everything is known before anybody asks; what has left the library leaves the cache."""
    expected = everything(Catalogue(library))
    stop = threading.Event()
    filled = Catalogue(library, cache=tmp_path / "cache")
    filled.fill(stop)
    filled.close()
    gone = library / "0" / "00.h4mk"
    kept = gone.read_bytes()
    gone.unlink()
    spoil_all(library)
    again = Catalogue(library, cache=tmp_path / "cache")
    again.fill(stop)
    assert everything(again) == [item for item in expected if item["name"] != "0/00.h4mk"]
    store = FactStore(tmp_path / "cache", library)
    assert store.fetch([b"0/00.h4mk"]) == {}
    assert len(store.fetch([item["name"].encode() for item in expected])) == COUNT
    for one in (again, store):
        one.close()
    assert kept
    Catalogue(tmp_path / "nothing").fill(stop)  # an empty one is filled at once
    stop.set()
    early = Catalogue(library)
    early.fill(stop)
    assert len(early._facts) < COUNT or len(early._facts) <= 64


class Rests(threading.Event):
    """Told to rest, it goes on at once, and writes down for how long it should have; set at rest `last`."""

    def __init__(self, last: int = 0) -> None:
        super().__init__()
        self.taken: list[float | None] = []
        self._last = last

    def wait(self, timeout: float | None = None) -> bool:
        self.taken.append(timeout)
        if len(self.taken) == self._last:
            self.set()
        return self.is_set()


def test_filling_rests(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as long as reading took: after each container that was read, and after each batch."""
    ticks = itertools.count()
    # Every look at the clock is a second later than the one before: reading takes a second.
    monkeypatch.setattr(catalogue_module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    batches = -(-(COUNT + 1) // 64)
    for read in (COUNT + 1, 0):
        rests = Rests()
        catalogue = Catalogue(library, cache=tmp_path / "cache")
        catalogue.fill(rests)
        assert rests.taken == [3.0] * (read + batches)
        catalogue.fill(rests)  # all in memory
        assert len(rests.taken) == read + 2 * batches
        catalogue.close()
    for number in (3, 7):
        write_container(library / "1" / f"{number:02}.h4mk", [b"new"] * 20)
    rests, catalogue = Rests(), Catalogue(library, cache=tmp_path / "cache")
    catalogue.fill(rests)
    assert rests.taken == [3.0] * (2 + batches)
    catalogue.close()


def test_filling_stops_in_the_middle(tmp_path: Path) -> None:
    """Told to while it rests, it is back soon: a server that ends waits for it."""
    root, count = tmp_path / "library", 400
    write_container(root / "000.h4mk", [b"x"])
    data = (root / "000.h4mk").read_bytes()
    for number in range(1, count):
        (root / f"{number:03}.h4mk").write_bytes(data)
    rests, catalogue = Rests(last=70), Catalogue(root, cache=tmp_path / "cache")
    catalogue.fill(rests)
    assert len(rests.taken) == 70
    assert len(catalogue._facts) < 70
    catalogue.close()


def test_a_replaced_container_shows_new_facts(library: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(library, cache=tmp_path / "cache")
    path = library / "1" / "01.h4mk"
    (before,) = (item for item in everything(catalogue) if item["name"] == "1/01.h4mk")
    assert before["blocks"] == 2
    for number in range(3, 6):
        write_container(path, [b"y"] * number)
        for one in (catalogue, Catalogue(library, cache=tmp_path / "cache")):
            (now,) = (item for item in everything(one, "duration") if item["name"] == "1/01.h4mk")
            assert now["blocks"] == number
            assert now["range_url"] != before["range_url"]
    catalogue.close()


@needs_proc
def test_a_link_takes_the_place_of_a_container(library: Path, tmp_path: Path) -> None:
    """What lies outside is not shown, though it was none when the listing was made."""
    write_container(tmp_path / "outside.h4mk", [b"secret"] * 20)
    catalogue = Catalogue(library)
    assert catalogue.page(query="nothing", sort="name", after=None, limit=9) == ([], None, 0)
    path = library / "1" / "01.h4mk"
    path.unlink()
    path.symlink_to(tmp_path / "outside.h4mk")
    settle(library)
    (item,) = (item for item in everything(catalogue) if item["name"] == "1/01.h4mk")
    assert item["error"] == {"code": "source-changed", "message": "the file cannot be read"}
    assert "blocks" not in item


def test_a_listing_is_believed_for_a_moment(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as no folder changes, and not for ever."""
    listing = Listing(library)
    assert listing.is_fresh()
    (library / "1" / "01.h4mk").unlink()
    assert not listing.is_fresh()
    assert not Listing(library).is_fresh()  # changed a moment ago: may change again under the same time
    settle(library)
    assert Listing(library).is_fresh()
    shutil.rmtree(library / "1")
    assert not Listing(library).is_fresh()
    monkeypatch.setattr("harmony4.server.folder.listing.TRUST", -1.0)
    settle(library)
    assert not Listing(library).is_fresh()
    shutil.rmtree(library)
    assert not Listing(library).is_fresh()


def damaged(data: bytes, seed: int) -> bytes:
    """A file with something wrong in it."""
    chance = random.Random(seed)
    kind = seed % 4
    if kind == 0:
        return data[: chance.randrange(len(data))]
    if kind == 1:
        return chance.randbytes(chance.randrange(3 * 4096))
    changed = bytearray(data)
    for _ in range(1 if kind == 2 else 50):
        at = chance.randrange(len(data))
        changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_a_damaged_cache_is_nobodys_problem(library: Path, tmp_path: Path) -> None:
    """Cut, overwritten, a bit turned anywhere: the answers are right, and nobody hears of it."""
    expected = everything(Catalogue(library), "duration")
    catalogue = Catalogue(library, cache=tmp_path / "cache")
    assert everything(catalogue, "duration") == expected
    catalogue.close()
    (file,) = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    for seed in range(120):
        file.write_bytes(damaged(data, seed))
        for _ in range(2):
            catalogue = Catalogue(library, cache=tmp_path / "cache")
            assert everything(catalogue, "duration") == expected, seed
            catalogue.close()


def test_rows_of_others_are_not_believed(library: Path, tmp_path: Path) -> None:
    """Another version's, another table's, and a row that was made to fit and is not ours."""
    expected = everything(Catalogue(library))
    store = FactStore(tmp_path, library)
    catalogue = Catalogue(library, cache=tmp_path)
    everything(catalogue)
    catalogue.close()
    assert len(store.fetch([b"0/00.h4mk"])) == 1
    store._version = b"0 0.0.1"
    assert store.fetch([b"0/00.h4mk"]) == {}
    store.close()
    for script in (
        "UPDATE facts SET item = '{}'",
        "UPDATE facts SET identity = 'x', seal = 'y'",
        "DROP TABLE facts; CREATE TABLE facts (colour TEXT)",
        "DROP TABLE facts; CREATE TABLE facts (raw, identity, item, seal, more)",
        "DROP TABLE facts; CREATE VIEW facts AS SELECT 1",
    ):
        with sqlite3.connect(store.path) as database:
            database.executescript(script)
        database.close()
        catalogue = Catalogue(library, cache=tmp_path)
        assert everything(catalogue) == expected, script
        catalogue.close()
    store = FactStore(tmp_path, library)
    for identity in ("[1]", "{}", "no JSON", "[1, 2, 3, 4, 5]"):
        with sqlite3.connect(store.path) as database:
            seal = store._seal(b"0/00.h4mk", identity, "{}")
            database.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, '{}', ?)", (b"0/00.h4mk", identity, seal)
            )
        database.close()
        assert store.fetch([b"0/00.h4mk"]) == {}
    store.close()


@pytest.mark.parametrize("where", ["file", "file/below", "folder-in-place"])
def test_a_cache_that_cannot_be(
    where: str, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, and the answers are as ever."""
    (tmp_path / "file").touch()
    if where == "folder-in-place":
        FactStore(tmp_path / where, library).path.mkdir(parents=True)
    catalogue = Catalogue(library, cache=tmp_path / where)
    assert everything(catalogue, "duration") == everything(Catalogue(library), "duration")
    catalogue.fill(threading.Event())
    catalogue.close()
    (record,) = caplog.records
    assert record.message.startswith("what is known of the library's containers is not kept: ")


def test_a_cache_that_stays_locked(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factstore, "_BUSY", 0.01)
    catalogue = Catalogue(library, cache=tmp_path / "cache")
    catalogue.page(query="", sort="name", after=None, limit=1)
    (file,) = (tmp_path / "cache").iterdir()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    expected = everything(catalogue, "duration")
    other.close()
    again = Catalogue(library, cache=tmp_path / "cache")
    assert everything(again, "duration") == expected  # and nothing is broken by it
    spoil_all(library)
    third = Catalogue(library, cache=tmp_path / "cache")
    assert everything(third, "duration") == expected
    for one in (catalogue, again, third):
        one.close()


FILL = """
import sys, threading
from pathlib import Path
from harmony4.server.folder.catalogue import Catalogue
catalogue = Catalogue(Path(sys.argv[1]), cache=Path(sys.argv[2]))
print("here", flush=True)
catalogue.fill(threading.Event())
catalogue.close()
print("done", flush=True)
"""


def fill_elsewhere(library: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FILL, str(library), str(cache)], stdout=subprocess.PIPE)


def test_several_processes_fill_one_cache(library: Path, tmp_path: Path) -> None:
    expected = everything(Catalogue(library))
    processes = [fill_elsewhere(library, tmp_path / "cache") for _ in range(4)]
    assert [one.communicate(timeout=60)[0] for one in processes] == [b"here\ndone\n"] * 4
    spoil_all(library)
    catalogue = Catalogue(library, cache=tmp_path / "cache")
    assert everything(catalogue) == expected
    catalogue.close()


def test_a_process_that_is_killed_while_it_writes(library: Path, tmp_path: Path) -> None:
    expected = everything(Catalogue(library), "duration")
    for _ in range(6):
        with fill_elsewhere(library, tmp_path / "cache") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        catalogue = Catalogue(library, cache=tmp_path / "cache")
        assert everything(catalogue, "duration") == expected
        catalogue.close()
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_items_that_are_kept(library: Path, tmp_path: Path) -> None:
    """What a listing says is kept on disk: where this test fails, raise `factstore.FORM` with it."""
    item = everything(Catalogue(library))[0]
    assert factstore.FORM == 4
    assert list(item) == [
        "name", "size", "modified", "state", "duration", "blocks", "title", "head", "signed", "mask",
        "tracks", "range_url",
    ]  # fmt: skip
    assert list(item["tracks"][0]) == ["kind", "codec", "media_type", "keyframes", "bytes", "lost"]


def test_a_server_reads_ahead(library: Path, tmp_path: Path) -> None:
    """Without a request, and the next server finds it."""
    names = [path.relative_to(library).as_posix().encode() for path in library.rglob("*.h4mk")]
    with running(library, cache=tmp_path / "cache") as server:
        store = FactStore(tmp_path / "cache", library)
        until(lambda: len(store.fetch(names)) == COUNT + 1, "the facts of all containers")
        store.close()
        expected = server.get("/media?sort=-duration&limit=1000").body
    spoil_all(library)
    with running(library, cache=tmp_path / "cache") as server:
        assert server.get("/media?sort=-duration&limit=1000").body == expected


@needs_proc
def test_workers_share_it(library: Path, tmp_path: Path) -> None:
    """All workers give the same pages, and the setting may be relative to the file that holds it."""
    (tmp_path / "settings.toml").write_text('[server]\nworkers = 2\ncache = "cache"\n')
    with served(library, "--config", tmp_path / "settings.toml") as server:
        answers = set()
        for worker in server.workers():
            with server.only(worker):
                answers.add(server.get("/media?sort=duration&limit=1000"))
        assert len(answers) == 1
        assert server.stop() == (0, "")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".sqlite"]
