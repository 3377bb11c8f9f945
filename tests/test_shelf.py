"""server/intake/shelf.py: containers in, out and back; by two at once, by who is killed in the middle, and on
two file systems."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto.errors import NotFoundError, StorageError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import PROBLEMS, Problem
from harmony4.server.folder.library import Library, check_name
from harmony4.server.folder.listing import scan
from harmony4.server.intake import moving
from harmony4.server.intake.shelf import Match, Shelf, check_new_name
from harmony4.server.reading.ranges import matcher
from harmony4.server.state import FOLDER, State
from limits import run_python
from serving import write_container

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, and locks of processes, are POSIX here")

ANY = matcher(["*"])
LONG_AGO = 1_000_000_000_123_456_789
"""Nanoseconds since the epoch."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "library"
    path.mkdir()
    return path


@pytest.fixture
def state(root: Path) -> State:
    return State(root / FOLDER)


@pytest.fixture
def shelf(root: Path, state: State) -> Shelf:
    return Shelf(Library(root), state)


@contextmanager
def other_disk(beside: Path) -> Iterator[Path]:
    """A folder on another file system than `beside`."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == beside.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    path = shared / f"harmony4-shelf-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def far(root: Path) -> Iterator[State]:
    """A state on another file system than the library."""
    with other_disk(root) as path:
        yield State(path / "state")


@pytest.fixture(params=["beside", "far"])
def any_state(request: pytest.FixtureRequest) -> State:
    """Each of the two."""
    found = request.getfixturevalue("state" if request.param == "beside" else "far")
    assert isinstance(found, State)
    return found


def container(path: Path, content: bytes = b"content") -> bytes:
    """A container with a time of its own; returns its bytes."""
    write_container(path, [content])
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path.read_bytes()


def tags(path: Path) -> dict[str, str]:
    """The tags of a container, and what else `If-Match` takes."""
    with H4MKReader(path) as reader:
        return {"file": f'"{reader.file_etag()}"', "track": f'"{reader.etag(0)}"', "any": "*"}


def tree(*folders: Path) -> dict[Path, object]:
    """All that there is, for comparison; what the server keeps for itself (locks, empty folders) left out."""
    found: dict[Path, object] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            _, own, inside = f"{path.relative_to(folder)}/".partition(f"{FOLDER}/")
            if own and (inside.startswith("locks/") or path.is_dir()):
                continue
            if path.is_symlink():
                found[path] = path.readlink()
            else:
                found[path] = (
                    (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else path.is_dir()
                )
    return found


@contextmanager
def problem(code: str, status: int) -> Iterator[None]:
    with pytest.raises(Problem) as caught:
        yield
    assert caught.value.code == code
    assert PROBLEMS[code][0] == status


# -- new names


def test_new(shelf: Shelf, root: Path, tmp_path: Path, any_state: State) -> None:
    shelf = Shelf(Library(root), any_state)
    for name in ("a.h4mk", "talks/2024/day 1.h4mk", "talks/2024/ö.h4mk", "talks/a..b.h4mk"):
        made = any_state.folder("spool") / "made.h4mk"
        data = container(made, name.encode())
        shelf.check(name, None)
        shelf.put(made, name)
        assert (root / name).read_bytes() == data
        assert (root / name).stat().st_mtime_ns == LONG_AGO
        assert not made.exists()
    assert [one.name for one in scan(root)] == sorted(
        ["a.h4mk", "talks/2024/day 1.h4mk", "talks/2024/ö.h4mk", "talks/a..b.h4mk"]
    )
    assert shelf.trash() == []
    assert not list(root.rglob("*.part"))


@pytest.mark.parametrize("taken_by", ["container", "folder", "dangling link", "link out", "fifo", "text"])
def test_taken(shelf: Shelf, root: Path, tmp_path: Path, any_state: State, taken_by: str) -> None:
    shelf = Shelf(Library(root), any_state)
    container(tmp_path / "made.h4mk", b"new")
    path = root / "a.h4mk"
    if taken_by == "container":
        container(path, b"old")
    elif taken_by == "folder":
        path.mkdir()
    elif taken_by == "dangling link":
        path.symlink_to("nowhere")
    elif taken_by == "link out":
        path.symlink_to(tmp_path / "outside.h4mk")
        container(tmp_path / "outside.h4mk")
    elif taken_by == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("no container")
    before = tree(tmp_path)
    with problem("exists", 409):
        shelf.check("a.h4mk", None)
    with problem("exists", 409):
        shelf.put(tmp_path / "made.h4mk", "a.h4mk")
    if taken_by != "container":  # nor is it what somebody knows by a tag
        with problem("precondition", 412):
            shelf.put(tmp_path / "made.h4mk", "a.h4mk", matcher(['"0123456789abcdef0123456789abcdef"']))
    assert tree(tmp_path) == before
    assert shelf.trash() == []


def test_a_folder_is_not_replaced(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    container(tmp_path / "made.h4mk")
    (root / "a.h4mk").mkdir()
    before = tree(tmp_path)
    with pytest.raises(Problem):
        shelf.put(tmp_path / "made.h4mk", "a.h4mk", ANY)
    assert tree(tmp_path) == before


def test_somebody_is_faster(
    shelf: Shelf, root: Path, tmp_path: Path, any_state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person, who knows nothing of locks, puts a file there in the last moment."""
    shelf = Shelf(Library(root), any_state)
    data = container(tmp_path / "by-hand.h4mk", b"by hand")
    made = any_state.folder("spool") / "made.h4mk"
    mine = container(made, b"mine")
    link = os.link

    def late(source: Any, target: Any, **more: Any) -> None:
        if Path(target).name == "a.h4mk" and (tmp_path / "by-hand.h4mk").exists():
            (tmp_path / "by-hand.h4mk").rename(root / "a.h4mk")
        link(source, target, **more)

    monkeypatch.setattr(os, "link", late)
    with problem("exists", 409):
        shelf.put(made, "a.h4mk")
    assert (root / "a.h4mk").read_bytes() == data
    assert made.read_bytes() == mine
    assert [path.name for path in root.iterdir() if path.name != FOLDER] == ["a.h4mk"]


# -- If-Match


@pytest.mark.parametrize("kind", ["file", "track", "any"])
def test_replace(root: Path, any_state: State, kind: str) -> None:
    shelf = Shelf(Library(root), any_state)
    old = container(root / "talks" / "a.h4mk", b"old")
    made = any_state.folder("spool") / "made.h4mk"
    new = container(made, b"new")
    match = matcher(['"other"', tags(root / "talks" / "a.h4mk")[kind]] if kind != "any" else ["*"])
    shelf.check("talks/a.h4mk", match)
    now = int(time.time())
    shelf.put(made, "talks/a.h4mk", match)
    assert (root / "talks" / "a.h4mk").read_bytes() == new
    assert not made.exists()
    (kept,) = shelf.trash()
    assert (kept.name, kept.size) == ("talks/a.h4mk", len(old))
    assert now <= kept.deleted <= time.time()
    with problem("exists", 409):
        shelf.restore(kept.id)
    assert shelf.trash() == [kept]
    assert shelf.restore(kept.id, "talks/before.h4mk") == "talks/before.h4mk"
    assert (root / "talks" / "before.h4mk").read_bytes() == old
    assert (root / "talks" / "before.h4mk").stat().st_mtime_ns == LONG_AGO
    assert (root / "talks" / "a.h4mk").read_bytes() == new
    assert {one.name for one in scan(root)} == {"talks/a.h4mk", "talks/before.h4mk"}


def test_replaced_again_and_again(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    data = [container(tmp_path / f"{number}.h4mk", b"%d" % number) for number in range(5)]
    shelf.put(tmp_path / "0.h4mk", "a.h4mk")
    for number in range(1, 5):
        match = matcher([tags(root / "a.h4mk")["file"]])
        shelf.put(tmp_path / f"{number}.h4mk", "a.h4mk", match)
        with problem("precondition", 412):  # it is another one by now
            shelf.check("a.h4mk", match)
    kept = [shelf.restore(one.id, f"old/{one.id}.h4mk") for one in shelf.trash()]
    assert {(root / name).read_bytes() for name in kept} == set(data[:4])
    assert (root / "a.h4mk").read_bytes() == data[4]


@pytest.mark.parametrize("field", ['"other"', 'W/"{file}"', "{file}", '"{FILE}"', "", '"*"'])
def test_no_match(shelf: Shelf, root: Path, tmp_path: Path, field: str) -> None:
    container(root / "a.h4mk", b"old")
    container(tmp_path / "made.h4mk", b"new")
    tag = tags(root / "a.h4mk")["file"].strip('"')
    match = matcher([field.format(file=tag, FILE=tag.upper())])
    before = tree(tmp_path)
    changes: list[Callable[[], object]] = [
        lambda: shelf.check("a.h4mk", match),
        lambda: shelf.put(tmp_path / "made.h4mk", "a.h4mk", match),
        lambda: shelf.delete("a.h4mk", match),
        lambda: shelf.rename("a.h4mk", "b.h4mk", match),
    ]
    for change in changes:
        with problem("precondition", 412):
            change()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("match", [ANY, matcher(['"x"'])])
def test_nothing_to_replace(shelf: Shelf, root: Path, tmp_path: Path, match: Match) -> None:
    container(tmp_path / "made.h4mk")
    with problem("precondition", 412):
        shelf.check("a.h4mk", match)
    with problem("precondition", 412):
        shelf.put(tmp_path / "made.h4mk", "a.h4mk", match)
    assert (tmp_path / "made.h4mk").exists()
    assert list(scan(root)) == []


def test_a_refusal_leaves_no_folder(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    container(tmp_path / "made.h4mk")
    with problem("precondition", 412):
        shelf.put(tmp_path / "made.h4mk", "new/a.h4mk", ANY)
    assert not (root / "new").exists()


def test_what_is_no_container_is_replaced_by_name_only(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    """A damaged file has no tags; `*` takes its place, and it can be had back."""
    (root / "a.h4mk").write_bytes(b"damaged")
    data = container(tmp_path / "made.h4mk")
    shelf.put(tmp_path / "made.h4mk", "a.h4mk", ANY)
    assert (root / "a.h4mk").read_bytes() == data
    (kept,) = shelf.trash()
    shelf.restore(kept.id, "b.h4mk")
    assert (root / "b.h4mk").read_bytes() == b"damaged"


def test_a_replacement_that_fails_changes_nothing(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    old = container(root / "a.h4mk")
    with pytest.raises(StorageError):
        shelf.put(tmp_path / "missing.h4mk", "a.h4mk", ANY)
    assert (root / "a.h4mk").read_bytes() == old
    assert shelf.trash() == []


# -- names

PART = "x" * 250
GOOD = [
    "a.h4mk",
    "ä/ö.h4mk",
    "a b/c~.h4mk",
    "%2e%2e.h4mk",
    "a..h4mk",
    f"{PART}.h4mk",
    f"{'ö' * 125}.h4mk",
    "-.h4mk",
]
BAD = [
    "",
    "a",
    "a.txt",
    "a.H4MK",
    "a.h4mk/",
    "a.h4mk ",
    "/a.h4mk",
    "//a.h4mk",
    "a//b.h4mk",
    "..",
    "../a.h4mk",
    "a/../b.h4mk",
    "a/..h4mk",
    "./a.h4mk",
    "a/./b.h4mk",
    ".h4mk",
    "a/.h4mk",
    ".hidden.h4mk",
    f"{FOLDER}/trash/0123456789abcdef.h4mk",
    "a/.b/c.h4mk",
    "a\\b.h4mk",
    "..\\a.h4mk",
    "a\nb.h4mk",
    "a\tb.h4mk",
    "a\rb.h4mk",
    "\x1b[31m.h4mk",
    "a\x7f.h4mk",
    "a\x85.h4mk",
    "a\x9b.h4mk",
    "\0.h4mk",
    "a.h4mk\0",
    "a.h4mk\n",
    "\udcff.h4mk",
    "\ud800.h4mk",
    f"{PART}x.h4mk",
    f"{'ö' * 126}.h4mk",
    f"{'x' * 256}/a.h4mk",
    "/".join(["x" * 200] * 5 + ["x" * 20, "a.h4mk"]),
    "x/" * 600 + "a.h4mk",
]


@pytest.mark.parametrize("name", GOOD)
def test_good_names(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> None:
    assert check_new_name(name) == name
    data = container(tmp_path / "made.h4mk")
    shelf.check(name, None)
    shelf.put(tmp_path / "made.h4mk", name)
    assert [one.name for one in scan(root)] == [name]
    number = shelf.delete(name).id
    assert shelf.restore(number) == name
    assert (root / name).read_bytes() == data


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name)[:40])
def test_bad_names(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> None:
    container(tmp_path / "made.h4mk")
    container(root / "have.h4mk")
    container(root / "trashed.h4mk")
    number = shelf.delete("trashed.h4mk").id
    before = tree(tmp_path)
    changes: list[Callable[[], object]] = [
        lambda: check_new_name(name),
        lambda: shelf.check(name, None),
        lambda: shelf.check(name, ANY),
        lambda: shelf.put(tmp_path / "made.h4mk", name),
        lambda: shelf.put(tmp_path / "made.h4mk", name, ANY),
        lambda: shelf.rename("have.h4mk", name),
        lambda: shelf.restore(number, name),
    ]
    for change in changes:
        with pytest.raises(UsageError):
            change()
    assert tree(tmp_path) == before


PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "\0", "\n", "\x9f", ".h4mk", "a", "ö", " ", "\ud800", "x" * 255]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join) | st.lists(PIECES).map("/".join))
def test_any_name(text: str) -> None:
    """What may be put can be asked for, and stays inside."""
    for name in (text, f"{text}.h4mk"):
        try:
            assert check_new_name(name) == name
        except UsageError:
            continue
        assert check_name(name) == name
        assert len(name.encode()) < 1024
        assert os.path.normpath(f"/library/{name}") == f"/library/{name}"
        for part in name.split("/"):
            assert 0 < len(part.encode()) < 256
            assert not part.startswith(".")
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter == "\\" for letter in name)


# -- folders that are none


def into(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> list[Callable[[], object]]:
    """All that gives a container the name `name`."""
    container(tmp_path / "made.h4mk")
    container(root / "have.h4mk")
    container(root / "trashed.h4mk")
    number = shelf.delete("trashed.h4mk").id
    return [
        lambda: shelf.put(tmp_path / "made.h4mk", name),
        lambda: shelf.put(tmp_path / "made.h4mk", name, ANY),
        lambda: shelf.rename("have.h4mk", name),
        lambda: shelf.restore(number, name),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "out/a.h4mk",
        "out/there/a.h4mk",
        "inside/a.h4mk",
        "nowhere/a.h4mk",
        "circle/a.h4mk",
        "deep/out/a.h4mk",
        pytest.param("out/new/folder/a.h4mk"),
        pytest.param("inside/new/a.h4mk"),
    ],
)
def test_through_links(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside" / "there").mkdir(parents=True)
    (root / "real").mkdir()
    (root / "deep").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "deep" / "out").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to("real")
    (root / "nowhere").symlink_to(tmp_path / "nowhere")
    (root / "circle").symlink_to("circle")
    changes = into(shelf, root, tmp_path, name)
    before = tree(tmp_path)
    for change in [lambda: shelf.check(name, None)] * (not name.startswith("circle")) + changes:
        with pytest.raises(UsageError):
            change()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["file.h4mk/a.h4mk", "file.h4mk/new/a.h4mk", "text/a.h4mk"])
def test_a_file_is_no_folder(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> None:
    container(root / "file.h4mk")
    (root / "text").touch()
    changes = into(shelf, root, tmp_path, name)
    before = tree(tmp_path)
    for change in changes:
        with pytest.raises(UsageError):
            change()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["file.h4mk/a.h4mk", "file.h4mk/new/a.h4mk", "circle/a.h4mk"])
def test_what_is_no_folder_is_seen_before_the_upload(shelf: Shelf, root: Path, name: str) -> None:
    container(root / "file.h4mk")
    (root / "circle").symlink_to("circle")
    with pytest.raises(UsageError):
        shelf.check(name, None)


def test_the_servers_own_folder_is_no_part_of_the_library(root: Path) -> None:
    """An operator may give it a name that is not hidden."""
    state = State(root / "own")
    shelf = Shelf(Library(root), state)
    container(root / "a.h4mk")
    number = shelf.delete("a.h4mk").id
    name = f"own/trash/{number}.h4mk"
    for change in (shelf.delete, lambda name: shelf.rename(name, "b.h4mk")):
        with pytest.raises(NotFoundError):
            change(name)
    assert shelf.restore(number) == "a.h4mk"


def test_nothing_is_put_into_the_servers_own_folder(root: Path, tmp_path: Path) -> None:
    shelf = Shelf(Library(root), State(root / "own"))
    container(tmp_path / "made.h4mk")
    with pytest.raises(UsageError):
        shelf.put(tmp_path / "made.h4mk", "own/trash/0123456789abcdef.h4mk")


# -- delete, trash, restore


def test_there_and_back(root: Path, any_state: State) -> None:
    shelf = Shelf(Library(root), any_state)
    path = root / "talks" / "ö.h4mk"
    data = container(path)
    path.chmod(0o640)
    now = int(time.time())
    gone = shelf.delete("talks/ö.h4mk")
    assert not path.exists()
    assert list(scan(root)) == []
    assert (gone.name, gone.size) == ("talks/ö.h4mk", len(data))
    assert now <= gone.deleted <= time.time()
    assert shelf.trash() == [gone]
    assert Shelf(Library(root), State(any_state.path)).trash() == [gone]
    (root / "talks").rmdir()
    assert shelf.restore(gone.id) == "talks/ö.h4mk"
    assert path.read_bytes() == data
    assert path.stat().st_mtime_ns == LONG_AGO
    assert path.stat().st_mode & 0o777 == 0o640
    assert shelf.trash() == []
    assert not list((any_state.path / "trash").iterdir())
    with pytest.raises(NotFoundError):
        shelf.restore(gone.id)
    assert [one.name for one in scan(root)] == ["talks/ö.h4mk"]


def test_by_its_tag(shelf: Shelf, root: Path) -> None:
    for kind in ("file", "track", "any"):
        container(root / "a.h4mk")
        shelf.delete("a.h4mk", matcher([tags(root / "a.h4mk")[kind]]))
        assert not (root / "a.h4mk").exists()
    assert len(shelf.trash()) == 3


@pytest.mark.parametrize(
    "name", ["", "no.h4mk", "folder.h4mk", ".hidden.h4mk", "../a.h4mk", "out.h4mk", "out/a.h4mk"]
)
def test_what_cannot_be_deleted(shelf: Shelf, root: Path, tmp_path: Path, name: str) -> None:
    (root / "folder.h4mk").mkdir()
    container(root / ".hidden.h4mk")
    container(tmp_path / "a.h4mk")
    (root / "out.h4mk").symlink_to(tmp_path / "a.h4mk")
    (root / "out").symlink_to(tmp_path)
    before = tree(tmp_path)
    for change in (shelf.delete, lambda name: shelf.rename(name, "b.h4mk")):
        with pytest.raises(NotFoundError):
            change(name)
    assert tree(tmp_path) == before


def test_under_another_name(root: Path, any_state: State) -> None:
    shelf = Shelf(Library(root), any_state)
    data = container(root / "a.h4mk")
    number = shelf.delete("a.h4mk").id
    other = container(root / "a.h4mk", b"other")
    before = shelf.trash()
    with problem("exists", 409):
        shelf.restore(number)
    with pytest.raises(UsageError):
        shelf.restore(number, "../b.h4mk")
    assert shelf.trash() == before
    assert shelf.restore(number, "new/folder/b.h4mk") == "new/folder/b.h4mk"
    assert (root / "new" / "folder" / "b.h4mk").read_bytes() == data
    assert (root / "a.h4mk").read_bytes() == other
    assert shelf.trash() == []


@pytest.mark.parametrize("name", ["a\\b.h4mk", "line\nbreak.h4mk", "linked/a.h4mk"])
def test_whatever_was_deleted_comes_back(shelf: Shelf, root: Path, name: str) -> None:
    """Names that a person gave and that are served, though no new container may get them."""
    (root / "real").mkdir()
    (root / "linked").symlink_to("real")
    data = container(root / name)
    number = shelf.delete(name).id
    assert shelf.restore(number) == name
    assert (root / name).read_bytes() == data


@pytest.mark.parametrize(
    "number",
    ["", "0", "0" * 16, "x" * 16, "0" * 15 + "\n", "../../a", "../trash/" + "0" * 16, "０" * 16, "\0" * 16],
)
def test_not_in_the_trash(shelf: Shelf, root: Path, number: str) -> None:
    container(root / "a.h4mk")
    (root / "a.json").write_text(json.dumps({"name": "b.h4mk"}))
    container(root / "b.h4mk")
    shelf.delete("b.h4mk")
    before = tree(root)
    for change in (shelf.restore, shelf.purge):
        with pytest.raises(NotFoundError):
            change(number)
    assert tree(root) == before


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"null", b"{}", b"\xff", None])
def test_a_broken_note(shelf: Shelf, root: Path, state: State, note: bytes | None) -> None:
    """It is not listed and harms nobody; what it is about is not thrown away."""
    container(root / "a.h4mk")
    container(root / "b.h4mk")
    one, two = shelf.delete("a.h4mk").id, shelf.delete("b.h4mk").id
    path = state.path / "trash" / f"{one}.json"
    if note is None:
        path.unlink()
    else:
        path.write_bytes(note)
    assert [found.id for found in shelf.trash()] == [two]
    for change in (shelf.restore, shelf.purge):
        with pytest.raises(NotFoundError):
            change(one)
    shelf.sweep(3600)
    assert (state.path / "trash" / f"{one}.h4mk").exists()


def test_purge(shelf: Shelf, root: Path, state: State) -> None:
    container(root / "a.h4mk")
    container(root / "b.h4mk")
    one, two = shelf.delete("a.h4mk").id, shelf.delete("b.h4mk").id
    shelf.purge(one)
    assert [found.id for found in shelf.trash()] == [two]
    assert {path.stem for path in (state.path / "trash").iterdir()} == {two}
    for change in (shelf.restore, shelf.purge):
        with pytest.raises(NotFoundError):
            change(one)


def test_sweep(shelf: Shelf, root: Path, state: State) -> None:
    shelf.sweep(0)
    numbers = []
    for number in range(3):
        container(root / "a.h4mk")
        numbers.append(shelf.delete("a.h4mk").id)
        at = time.time() - 1000 * number
        os.utime(state.path / "trash" / f"{numbers[-1]}.json", (at, at))
    assert [found.id for found in shelf.trash()] == numbers  # the last deleted first
    shelf.sweep(3000)
    assert [found.id for found in shelf.trash()] == numbers
    shelf.sweep(1500)
    assert [found.id for found in shelf.trash()] == numbers[:2]
    shelf.sweep(500)
    assert [found.id for found in shelf.trash()] == numbers[:1]
    shelf.sweep(-10)
    assert not list((state.path / "trash").iterdir())


def test_the_time_is_that_of_the_deletion(shelf: Shelf, root: Path) -> None:
    """A container that is years old is not swept at once."""
    container(root / "a.h4mk")
    shelf.delete("a.h4mk")
    shelf.sweep(3600)
    assert len(shelf.trash()) == 1


@pytest.mark.parametrize("left", ["0123456789abcdef.json", ".0123456789abcdef.part"])
def test_what_a_crash_left_is_swept(shelf: Shelf, state: State, left: str) -> None:
    path = state.folder("trash") / left
    path.write_text(json.dumps({"name": "a.h4mk"}))
    os.utime(path, (10**9, 10**9))
    shelf.sweep(3600)
    assert not path.exists()


# -- rename


def test_rename(shelf: Shelf, root: Path) -> None:
    data = container(root / "a.h4mk")
    match = matcher([tags(root / "a.h4mk")["file"]])
    shelf.rename("a.h4mk", "new/folder/b.h4mk", match)
    path = root / "new" / "folder" / "b.h4mk"
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_nlink) == (data, LONG_AGO, 1)
    assert [one.name for one in scan(root)] == ["new/folder/b.h4mk"]
    assert shelf.trash() == []
    with pytest.raises(NotFoundError):
        shelf.rename("a.h4mk", "c.h4mk")


def test_rename_onto_another(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    container(root / "a.h4mk", b"a")
    container(root / "b.h4mk", b"b")
    (root / "c.h4mk").symlink_to("nowhere")
    before = tree(tmp_path)
    for to in ("a.h4mk", "b.h4mk", "c.h4mk"):
        with problem("exists", 409):
            shelf.rename("a.h4mk", to)
    assert tree(tmp_path) == before


# -- links


@pytest.fixture
def linked(root: Path) -> bytes:
    """A link in a folder, to a container in another."""
    data = container(root / "real" / "a.h4mk")
    (root / "links").mkdir()
    (root / "links" / "a.h4mk").symlink_to("../real/a.h4mk")
    return data


def test_a_link_is_deleted_not_its_target(shelf: Shelf, root: Path, linked: bytes) -> None:
    gone = shelf.delete("links/a.h4mk")
    assert not os.path.lexists(root / "links" / "a.h4mk")
    assert (root / "real" / "a.h4mk").read_bytes() == linked
    shelf.restore(gone.id)
    assert (root / "links" / "a.h4mk").readlink() == Path("../real/a.h4mk")
    assert (root / "links" / "a.h4mk").read_bytes() == linked


def test_a_link_is_purged_not_its_target(shelf: Shelf, root: Path, linked: bytes) -> None:
    shelf.purge(shelf.delete("links/a.h4mk").id)
    assert (root / "real" / "a.h4mk").read_bytes() == linked


def test_a_link_is_renamed(shelf: Shelf, root: Path, linked: bytes) -> None:
    shelf.rename("links/a.h4mk", "links/b.h4mk")
    assert (root / "links" / "b.h4mk").is_symlink()
    assert (root / "links" / "b.h4mk").read_bytes() == linked
    assert not os.path.lexists(root / "links" / "a.h4mk")
    assert (root / "real" / "a.h4mk").read_bytes() == linked


@pytest.mark.parametrize("how", ["rename", "restore"])
def test_a_link_still_leads_there_from_another_folder(
    shelf: Shelf, root: Path, linked: bytes, how: str
) -> None:
    if how == "rename":
        shelf.rename("links/a.h4mk", "b.h4mk")
    else:
        shelf.restore(shelf.delete("links/a.h4mk").id, "b.h4mk")
    assert (root / "b.h4mk").read_bytes() == linked


def test_a_link_is_replaced_not_its_target(shelf: Shelf, root: Path, tmp_path: Path, linked: bytes) -> None:
    outside = container(tmp_path / "outside.h4mk", b"outside")
    (root / "out.h4mk").symlink_to(tmp_path / "outside.h4mk")
    for number, name in enumerate(("links/a.h4mk", "out.h4mk")):
        new = container(tmp_path / "made.h4mk", b"new %d" % number)
        shelf.put(tmp_path / "made.h4mk", name, ANY)
        assert not (root / name).is_symlink()
        assert (root / name).read_bytes() == new
    assert (root / "real" / "a.h4mk").read_bytes() == linked
    assert (tmp_path / "outside.h4mk").read_bytes() == outside
    names = {one.name: one.id for one in shelf.trash()}
    shelf.restore(names["links/a.h4mk"], "links/old.h4mk")
    assert (root / "links" / "old.h4mk").read_bytes() == linked


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_a_relative_link_goes_to_another_disk(
    root: Path, tmp_path: Path, far: State, linked: bytes, how: str
) -> None:
    shelf = Shelf(Library(root), far)
    if how == "delete":
        shelf.delete("links/a.h4mk")
    else:
        container(tmp_path / "made.h4mk")
        shelf.put(tmp_path / "made.h4mk", "links/a.h4mk", ANY)
        shelf.delete("links/a.h4mk")
    (number,) = (one.id for one in shelf.trash() if (far.path / "trash" / f"{one.id}.h4mk").is_symlink())
    shelf.restore(number)
    assert (root / "links" / "a.h4mk").readlink() == Path("../real/a.h4mk")
    assert (root / "links" / "a.h4mk").read_bytes() == linked


# -- file systems without hard links (FAT, some network file systems)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounting one takes more rights than a test has: this is what its kernel says."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_links")
def test_without_hard_links(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    data = container(tmp_path / "made.h4mk")
    shelf.put(tmp_path / "made.h4mk", "a.h4mk")
    container(tmp_path / "made.h4mk", b"other")
    with problem("exists", 409):
        shelf.put(tmp_path / "made.h4mk", "a.h4mk")
    container(root / "taken.h4mk", b"taken")
    with problem("exists", 409):
        shelf.rename("a.h4mk", "taken.h4mk")
    (root / "taken.h4mk").unlink()
    shelf.rename("a.h4mk", "b.h4mk")
    number = shelf.delete("b.h4mk").id
    shelf.restore(number)
    assert (root / "b.h4mk").read_bytes() == data
    assert [one.name for one in scan(root)] == ["b.h4mk"]
    assert (tmp_path / "made.h4mk").exists()


@pytest.mark.usefixtures("no_links")
def test_replace_without_hard_links(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    old = container(root / "a.h4mk", b"old")
    new = container(tmp_path / "made.h4mk", b"new")
    shelf.put(tmp_path / "made.h4mk", "a.h4mk", ANY)
    assert (root / "a.h4mk").read_bytes() == new
    shelf.restore(shelf.trash()[0].id, "b.h4mk")
    assert (root / "b.h4mk").read_bytes() == old


def test_from_another_disk_without_hard_links(
    root: Path, far: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Any, target: Any, **_: object) -> None:
        apart = Path(source).stat().st_dev != Path(target).parent.stat().st_dev
        raise OSError(errno.EXDEV if apart else errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)
    made = far.folder("spool") / "made.h4mk"
    data = container(made)
    Shelf(Library(root), far).put(made, "a.h4mk")
    assert (root / "a.h4mk").read_bytes() == data


# -- a disk that does not take it


def test_no_folder_for_the_trash(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    container(root / "a.h4mk")
    container(tmp_path / "made.h4mk")
    (root / FOLDER).touch()
    before = tree(tmp_path)
    changes: list[Callable[[], object]] = [
        lambda: shelf.put(tmp_path / "made.h4mk", "b.h4mk"),
        lambda: shelf.put(tmp_path / "made.h4mk", "a.h4mk", ANY),
        lambda: shelf.delete("a.h4mk"),
        lambda: shelf.rename("a.h4mk", "b.h4mk"),
        lambda: shelf.sweep(0),
    ]
    for change in changes:
        with pytest.raises(StorageError):
            change()
    assert tree(tmp_path) == before
    assert shelf.trash() == []


FULL = """
import resource, sys
from pathlib import Path
from harmony4.crypto.errors import StorageError
from harmony4.server.intake.shelf import Shelf
from harmony4.server.folder.library import Library
from harmony4.server.state import State
root, state, made = map(Path, sys.argv[1:])
shelf = Shelf(Library(root), State(state))
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
for change in (
    lambda: shelf.put(made, "b.h4mk"),
    lambda: shelf.put(made, "a.h4mk", lambda tag: True),
    lambda: shelf.delete("a.h4mk"),
):
    try:
        change()
        print("done")
    except StorageError:
        print("refused")
"""


def test_a_full_disk(root: Path, far: State) -> None:
    """Copies that end early become nobody's container, and nothing is lost. On two disks, as a move takes no
    room."""
    old = container(root / "a.h4mk", b"old" * 1000)
    made = far.folder("spool") / "made.h4mk"
    new = container(made, b"new" * 1000)
    assert run_python(FULL, root, far.path, made) == "refused\n" * 3
    assert (root / "a.h4mk").read_bytes() == old
    assert made.read_bytes() == new
    assert [path.name for path in root.iterdir()] == ["a.h4mk"]
    assert not list((far.path / "trash").iterdir())
    assert Shelf(Library(root), far).trash() == []


# -- copies


class Held:
    """`shutil.copy2`, whose copies end when somebody says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.count = 0
        copy = shutil.copy2

        def slow(source: Any, target: Any, **more: Any) -> None:
            self.count += 1
            copy(source, target, **more)
            self.begun.set()
            assert self.go_on.wait(30)

        monkeypatch.setattr(shutil, "copy2", slow)


def shelf_change(shelf: Shelf, far: State, how: str) -> Callable[[], object]:
    """A change that has to copy: the container, or what takes its place."""
    made = far.folder("spool") / "made.h4mk"
    container(made, b"made")
    return {
        "put": lambda: shelf.put(made, "new.h4mk"),
        "replace": lambda: shelf.put(made, "a.h4mk", ANY),
        "delete": lambda: shelf.delete("a.h4mk"),
    }[how]


@pytest.mark.parametrize("how", ["put", "replace", "delete"])
def test_nobody_waits_for_a_copy(root: Path, far: State, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    shelf = Shelf(Library(root), far)
    container(root / "a.h4mk")
    data = container(root / "b.h4mk", b"b")
    change, held = shelf_change(shelf, far, how), Held(monkeypatch)
    with ThreadPoolExecutor() as threads:
        try:
            changed = threads.submit(change)
            assert held.begun.wait(30)
            threads.submit(shelf.rename, "b.h4mk", "c.h4mk").result(10)
            assert not changed.done()
            shelf.sweep(0)  # what is being made is no leftover
        finally:
            held.go_on.set()
        changed.result(30)
    assert (root / "c.h4mk").read_bytes() == data
    assert held.count == (2 if how == "replace" else 1)
    assert not list(root.rglob("*.part"))
    assert not list(far.folder("parts").iterdir())


def test_what_changes_while_it_is_copied(root: Path, far: State, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(Library(root), far)
    container(root / "a.h4mk", b"old")
    new = container(root / "new.h4mk", b"newer")
    held = Held(monkeypatch)
    with ThreadPoolExecutor() as threads:
        deleted = threads.submit(shelf.delete, "a.h4mk")
        assert held.begun.wait(30)
        (root / "new.h4mk").replace(root / "a.h4mk")
        held.go_on.set()
        gone = deleted.result(30)
    assert held.count == 2
    assert not list(scan(root))
    assert (far.path / "trash" / f"{gone.id}.h4mk").read_bytes() == new


def test_what_is_put_there_while_it_is_copied(
    root: Path, far: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(Library(root), far)
    put, held = shelf_change(shelf, far, "put"), Held(monkeypatch)
    with ThreadPoolExecutor() as threads:
        changed = threads.submit(put)
        assert held.begun.wait(30)
        data = container(root / "new.h4mk", b"by hand")
        held.go_on.set()
        with problem("exists", 409):
            changed.result(30)
    assert (root / "new.h4mk").read_bytes() == data
    assert [path.name for path in root.iterdir()] == ["new.h4mk"]
    assert (far.path / "spool" / "made.h4mk").exists()


def test_one_device_that_is_mounted_twice(root: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its kernel says: links and moves fail though the device is the same."""

    def apart(move: Callable[..., None]) -> Callable[..., None]:
        def refuse(source: Any, target: Any, **more: Any) -> None:
            if (FOLDER in Path(source).parts) != (FOLDER in Path(target).parts):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            move(source, target, **more)

        return refuse

    for name in ("link", "rename", "replace"):
        monkeypatch.setattr(os, name, apart(getattr(os, name)))
    shelf, made = Shelf(Library(root), state), state.folder("spool") / "made.h4mk"
    old = container(made, b"old")
    shelf.put(made, "a.h4mk")
    new = container(made, b"new")
    shelf.put(made, "a.h4mk", ANY)
    assert (root / "a.h4mk").read_bytes() == new
    assert all_there(shelf, root) == {old, new}
    shelf.restore(shelf.delete("a.h4mk").id)
    assert all_there(shelf, root) == {old, new}
    assert not list(root.rglob("*.part"))


# -- what fails when it is done


def test_the_end_of_a_change_that_has_happened(
    root: Path, any_state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptor is left to sync a folder, and what is in the spool cannot be removed."""
    shelf, made = Shelf(Library(root), any_state), any_state.folder("spool") / "made.h4mk"
    unlink = Path.unlink

    def sync(folder: Path) -> None:
        if folder.is_relative_to(root) and FOLDER not in folder.parts:
            raise OSError(errno.EMFILE, "Too many open files")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == made:
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(moving, "sync_folder", sync)
    monkeypatch.setattr(Path, "unlink", refuse)
    old = container(made, b"old")
    shelf.put(made, "a.h4mk")
    assert (root / "a.h4mk").read_bytes() == old
    os.unlink(made)  # noqa: PTH108 - by somebody who can
    new = container(made, b"new")
    shelf.put(made, "a.h4mk", ANY)
    assert (root / "a.h4mk").read_bytes() == new
    gone = shelf.delete("a.h4mk")
    assert not (root / "a.h4mk").exists()
    shelf.restore(gone.id)
    shelf.rename("a.h4mk", "b.h4mk")
    assert all_there(shelf, root) == {old, new}
    assert "left behind" in caplog.text
    assert "may not be on the disk" in caplog.text


def test_a_name_that_cannot_be_taken_away(shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has no second one either."""
    data = container(root / "a.h4mk")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == root / "a.h4mk":
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError):
        shelf.rename("a.h4mk", "b.h4mk")
    assert [one.name for one in scan(root)] == ["a.h4mk"]
    assert (root / "a.h4mk").read_bytes() == data


def test_new_folders_are_on_the_disk(shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container(root / "a.h4mk")
    (root / "there").mkdir()
    synced: list[Path] = []
    monkeypatch.setattr(moving, "sync_folder", synced.append)
    shelf.rename("a.h4mk", "there/new/newer/b.h4mk")
    there = root / "there"
    assert synced == [there, there / "new", there / "new" / "newer", root]


# -- two at once

RACER = """
import json, sys
from pathlib import Path
from harmony4.crypto.errors import HarmonyError
from harmony4.server.errors import Problem
from harmony4.server.intake.shelf import Shelf
from harmony4.server.folder.library import Library
from harmony4.server.reading.ranges import matcher
from harmony4.server.state import State
root, state = map(Path, sys.argv[1:])
shelf = Shelf(Library(root), State(state))
print("ready", flush=True)
for line in sys.stdin:
    what, *arguments = json.loads(line)
    try:
        if what == "put":
            made, name, match = arguments
            shelf.put(Path(made), name, None if match is None else matcher([match]))
        else:
            getattr(shelf, what)(*arguments)
        print("done", flush=True)
    except (HarmonyError, Problem) as error:
        print(error.code, flush=True)
"""
ROUNDS = 25


class Racers:
    """Two processes that change one library at the same time."""

    def __init__(self, root: Path, state: State) -> None:
        command = [sys.executable, "-c", RACER, str(root), str(state.path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for one in self._processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"

    def run(self, *changes: list[Any]) -> list[str]:
        """Each does one change; returns how they ended."""
        for one, change in zip(self._processes, changes, strict=True):
            assert one.stdin is not None
            one.stdin.write(json.dumps(change) + "\n")
        for one in self._processes:
            assert one.stdin is not None
            one.stdin.flush()
        ends = []
        for one in self._processes:
            assert one.stdout is not None
            ends.append(one.stdout.readline().strip())
        return ends

    def close(self) -> None:
        for one in self._processes:
            one.kill()
            one.communicate()


@pytest.fixture
def racers(root: Path, any_state: State) -> Iterator[Racers]:
    found = Racers(root, any_state)
    yield found
    found.close()


def all_there(shelf: Shelf, root: Path) -> set[bytes]:
    """The bytes of all containers, those in the trash as well."""
    for one in shelf.trash():
        shelf.restore(one.id, f"back/{one.id}.h4mk")
    return {one.path.read_bytes() for one in scan(root)}


def test_two_give_the_same_new_name(racers: Racers, root: Path, any_state: State) -> None:
    spool = any_state.folder("spool")
    for number in range(ROUNDS):
        made = [spool / f"{number}-{one}.h4mk" for one in range(2)]
        data = [container(path, path.name.encode()) for path in made]
        name = f"new{number}/{number}.h4mk"
        ends = racers.run(*(["put", str(path), name, None] for path in made))
        assert sorted(ends) == ["done", "exists"]
        winner = ends.index("done")
        assert (root / name).read_bytes() == data[winner]
        assert not made[winner].exists()
        assert made[1 - winner].read_bytes() == data[1 - winner]
    assert len(scan(root)) == ROUNDS


@pytest.mark.parametrize("match", ["tag", "*"])
def test_two_replace_the_same(racers: Racers, root: Path, any_state: State, match: str) -> None:
    """With a tag one wins; with `*` both do, one after the other. Nothing is lost."""
    shelf, spool, everything = Shelf(Library(root), any_state), any_state.folder("spool"), set()
    for number in range(ROUNDS):
        name = f"{number}.h4mk"
        everything.add(container(root / name, b"old %d" % number))
        made = [spool / f"{number}-{one}.h4mk" for one in range(2)]
        data = [container(path, path.name.encode()) for path in made]
        field = "*" if match == "*" else tags(root / name)["file"]
        ends = racers.run(*(["put", str(path), name, field] for path in made))
        if match == "*":
            assert ends == ["done", "done"]
            assert (root / name).read_bytes() in data
            everything |= set(data)
        else:
            assert sorted(ends) == ["done", "precondition"]
            winner = ends.index("done")
            assert (root / name).read_bytes() == data[winner]
            assert made[1 - winner].read_bytes() == data[1 - winner]
            everything.add(data[winner])
    assert all_there(shelf, root) == everything


def test_one_deletes_what_the_other_moves(racers: Racers, root: Path, any_state: State) -> None:
    shelf, everything = Shelf(Library(root), any_state), set()
    for number in range(ROUNDS):
        name = f"{number}.h4mk"
        everything.add(container(root / name, name.encode()))
        other = ["delete", name] if number % 2 else ["rename", name, f"moved{number}.h4mk"]
        ends = racers.run(["delete", name], other)
        assert sorted(ends) == ["done", "not-found"]
    assert all_there(shelf, root) == everything


def test_two_restore_the_same(racers: Racers, root: Path, any_state: State) -> None:
    shelf, everything = Shelf(Library(root), any_state), set()
    for number in range(ROUNDS):
        name = f"{number}.h4mk"
        everything.add(container(root / name, name.encode()))
        gone = shelf.delete(name).id
        ends = racers.run(["restore", gone], ["restore", gone, f"other{number}.h4mk"])
        assert sorted(ends) == ["done", "not-found"]
    assert shelf.trash() == []
    assert {one.path.read_bytes() for one in scan(root)} == everything
    assert len(scan(root)) == ROUNDS


def test_who_asks_while_it_changes(shelf: Shelf, root: Path, tmp_path: Path) -> None:
    """While a container is replaced, deleted and restored, its name never leads to half of one."""
    first = container(root / "a.h4mk", b"a" * 5000)
    second = container(tmp_path / "b.h4mk", b"b" * 9000)
    over = threading.Event()

    def change() -> None:
        try:
            for _ in range(30):
                container(tmp_path / "made.h4mk", b"b" * 9000)
                shelf.put(tmp_path / "made.h4mk", "a.h4mk", ANY)
                number = shelf.delete("a.h4mk").id
                shelf.restore(number)
        finally:
            over.set()

    thread = threading.Thread(target=change)
    thread.start()
    seen = set()
    while not over.is_set():
        with suppress(FileNotFoundError):
            seen.add((root / "a.h4mk").read_bytes())
    thread.join()
    assert seen <= {first, second}
    assert second in seen | {(root / "a.h4mk").read_bytes()}
    assert len(shelf.trash()) == 30


# -- killed in the middle

CRASH = """
import os, shutil, sys, traceback
from pathlib import Path
from harmony4.server.intake.shelf import Shelf
from harmony4.server.folder.library import Library
from harmony4.server.state import State

template, work, far, operation, number = sys.argv[1:]


def change(base, state):
    # One operation in a copy of the template.
    shelf, made = Shelf(Library(base / "library"), State(state)), state / "spool" / "made.h4mk"
    if operation == "put":
        shelf.put(made, "new/folder/n.h4mk")
    elif operation == "replace":
        shelf.put(made, "a.h4mk", lambda tag: True)
    elif operation == "delete":
        shelf.delete("a.h4mk")
    elif operation == "rename":
        shelf.rename("a.h4mk", "new/n.h4mk")
    elif operation == "restore":
        shelf.restore(number)
    elif operation == "restore-to":
        shelf.restore(number, "new/n.h4mk")


def killed_before(step, base, state):
    # Run it, but end the process before its `step`th call that the file system sees.
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event == "open" or event.startswith(("os.", "shutil.")):
            if seen == step:
                os._exit(77)
            seen += 1

    sys.addaudithook(hook)
    try:
        change(base, state)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


step = 0
while True:
    base = Path(work) / str(step)
    shutil.copytree(template, base, symlinks=True)
    state = base / "state"
    if far:
        state = Path(far) / str(step)
        shutil.move(base / "state", state)
    child = os.fork()
    if not child:
        killed_before(step, base, state)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        break
    assert status == 77, (step, status)
    step += 1
print(step)
"""
OPERATIONS = ["put", "replace", "delete", "rename", "restore", "restore-to"]


def restorable(shelf: Shelf, root: Path, name: str) -> set[bytes]:
    """The containers that come back out of the trash and were called `name`."""
    found = set()
    for number, one in enumerate(shelf.trash()):
        if one.name == name:
            back = shelf.restore(one.id, f"back/{number}.h4mk")
            found.add((root / back).read_bytes())
    return found


@pytest.mark.parametrize("disks", ["one disk", "two disks"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_each_step(tmp_path: Path, operation: str, disks: str) -> None:
    """A process ends without a word before each call that changes a file; every time, what was in the library
    is still under a name or comes back from the trash, and nothing half-written has a name."""
    template = tmp_path / "template"
    old = container(template / "library" / "a.h4mk", b"old" * 1000)
    state = State(template / "state")
    number = ""
    if operation.startswith("restore"):
        number = Shelf(Library(template / "library"), state).delete("a.h4mk").id
    new = container(state.folder("spool") / "made.h4mk", b"new" * 2000)
    work = tmp_path / "work"
    work.mkdir()
    if disks == "two disks":
        with other_disk(tmp_path) as far:
            steps = int(run_python(CRASH, template, work, far, operation, number))
            look_at_each_step(work, lambda step: far / str(step), steps, operation, old, new)
    else:
        steps = int(run_python(CRASH, template, work, "", operation, number))
        look_at_each_step(work, lambda step: work / str(step) / "state", steps, operation, old, new)


def look_at_each_step(
    work: Path, state_of: Callable[[int], Path], steps: int, operation: str, old: bytes, new: bytes
) -> None:
    assert steps >= 4, "nothing was interrupted"
    ends = set()
    for step in range(steps + 1):  # the last one is not interrupted
        root, state = work / str(step) / "library", State(state_of(step))
        shelf, made, last = Shelf(Library(root), state), state.path / "spool" / "made.h4mk", step == steps
        found = {one.name: one.path.read_bytes() for one in scan(root)}
        assert set(found.values()) <= {old, new}, (operation, step)
        named, at = tuple(sorted(name for name in found if name)), (operation, step)
        ends.add(named)
        if operation == "put":
            assert found.pop("a.h4mk") == old, at
            assert set(found) <= {"new/folder/n.h4mk"}, at
            if found:
                assert found["new/folder/n.h4mk"] == new, at
            else:
                assert not last
                assert made.read_bytes() == new, at
        elif operation == "replace":
            assert set(found) == {"a.h4mk"}, at
            if found["a.h4mk"] == new:
                assert restorable(shelf, root, "a.h4mk") == {old}, at
            else:
                assert not last
                assert restorable(shelf, root, "a.h4mk") <= {old}, at
        elif operation == "rename":
            assert set(found) in ({"a.h4mk"}, {"new/n.h4mk"}, {"a.h4mk", "new/n.h4mk"}), at
            assert set(found.values()) == {old}, at
            assert not last or set(found) == {"new/n.h4mk"}
        else:
            name = {"delete": "a.h4mk", "restore": "a.h4mk", "restore-to": "new/n.h4mk"}[operation]
            assert set(found) <= {name}, at
            assert set(found.values()) | restorable(shelf, root, "a.h4mk") == {old}, at
            assert not last or set(found) == (set() if operation == "delete" else {name})
        # What was being copied is not kept for ever.
        shelf.sweep(10**9)
        assert not [*root.rglob(".*.part"), *state.path.rglob(".*.part")], at
        assert not list(state.folder("parts").iterdir()), at
        # It goes on: the dead hold no lock.
        fresh = work / "fresh.h4mk"
        data = container(fresh, b"fresh")
        shelf.put(fresh, "goes/on.h4mk")
        assert (root / "goes" / "on.h4mk").read_bytes() == data
        assert shelf.restore(shelf.delete("goes/on.h4mk").id) == "goes/on.h4mk"
    assert len(ends) > 1 or operation == "replace", "no step was before, or none after the change"
