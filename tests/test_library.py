"""server/folder/library.py: names, shared readers, replacement, eviction."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harmony4.crypto.errors import NotFoundError, SourceError, TruncatedError, VersionError
from harmony4.h4mk import opening
from harmony4.h4mk.layout import RMAP_ENTRY, RMAP_HEAD
from harmony4.h4mk.seek import PagedTable
from harmony4.server.folder.catalogue import Catalogue
from harmony4.server.folder.library import Library, check_name
from harmony4.server.folder.listing import scan
from harmony4.server.reading import resource
from serving import write_container


@pytest.mark.parametrize(
    "name", ["a.h4mk", "talks/day 1.h4mk", "ä/ö.h4mk", "a..b.h4mk", "a\\b.h4mk", "%2e%2e.h4mk"]
)
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        ".h4mk",
        "/a.h4mk",
        "//a.h4mk",
        "../a.h4mk",
        "b/../a.h4mk",
        "./a.h4mk",
        "b//a.h4mk",
        "b/./a.h4mk",
        "a.h4mk/",
        "a.h4mk\0",
        "\0.h4mk",
        "a.h4mk/..",
        ".hidden.h4mk",
        ".trash/a.h4mk",
        "a.H4MK",
        "a.txt",
        "\udcff.h4mk",
    ],
)
def test_no_names(name: str) -> None:
    with pytest.raises(NotFoundError):
        check_name(name)


async def test_what_does_not_lead_to_a_file_inside_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_container(root / "good.h4mk", [b"good"])
    write_container(tmp_path / "root-beside.h4mk", [b"outside"])
    write_container(tmp_path / "out" / "a.h4mk", [b"outside"])
    (root / "folder.h4mk").mkdir()
    os.mkfifo(root / "fifo.h4mk")
    (root / "inside.h4mk").symlink_to("good.h4mk")
    (root / "beside.h4mk").symlink_to(tmp_path / "root-beside.h4mk")
    (root / "out").symlink_to(tmp_path / "out")
    (root / "circle.h4mk").symlink_to("circle.h4mk")
    library = Library(root)
    for name in ("inside.h4mk", "good.h4mk"):
        with await library.open(name) as container:
            assert container.reader.read(0, 4) == b"good"
    for name in (
        "folder.h4mk",
        "fifo.h4mk",
        "beside.h4mk",
        "out/a.h4mk",
        "circle.h4mk",
        "none.h4mk",
        "good.h4mk/x.h4mk",
        "x" * 300 + ".h4mk",
        "x/" * 3000 + "a.h4mk",
    ):
        with pytest.raises(NotFoundError):
            await library.open(name)
    await library.close()


async def test_shared(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    library = Library(tmp_path)
    leases = await asyncio.gather(*(library.open("a.h4mk") for _ in range(50)))
    assert len({id(lease.reader) for lease in leases}) == 1
    assert (leases[0].users, library.opened) == (50, 1)
    for lease in leases:
        with lease:
            pass
    assert leases[0].users == 0
    await library.close()
    assert leases[0].closed


async def test_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.h4mk"
    write_container(path, [b"old"])
    library = Library(tmp_path)
    with await library.open("a.h4mk") as old:
        write_container(path, [b"new!"])
        with await library.open("a.h4mk") as new:
            assert new.reader.read(0, 9) == b"new!"
            assert old.reader.read(0, 9) == b"old"
            assert old.retired
            assert not old.closed
    assert old.closed
    assert not new.closed
    path.unlink()
    with pytest.raises(NotFoundError):
        await library.open("a.h4mk")
    assert new.closed
    # The same length and name again, seen by inode and time.
    write_container(path, [b"newer"])
    with await library.open("a.h4mk") as newer:
        assert newer.reader.read(0, 9) == b"newer"
    await library.close()


async def test_link_that_turns(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_container(root / "a.h4mk", [b"inside"])
    write_container(tmp_path / "secret.h4mk", [b"secret"])
    (root / "link.h4mk").symlink_to("a.h4mk")
    library = Library(root)
    with await library.open("link.h4mk") as container:
        assert container.reader.read(0, 9) == b"inside"
    (root / "link.h4mk").unlink()
    (root / "link.h4mk").symlink_to(tmp_path / "secret.h4mk")
    with pytest.raises(NotFoundError):
        await library.open("link.h4mk")
    await library.close()


async def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    for name in "abcd":
        write_container(tmp_path / f"{name}.h4mk", [name.encode()])
    library = Library(tmp_path, max_open=2)
    held = await library.open("a.h4mk")
    for name in "bcd":
        with await library.open(f"{name}.h4mk"):
            pass
        assert library.opened <= 2
    assert not held.closed  # in use, though the oldest
    with held:
        assert held.reader.read(0, 1) == b"a"
    with await library.open("d.h4mk") as newest, await library.open("b.h4mk"):
        assert held.closed
        assert not newest.closed
    await library.close()


async def test_more_in_use_than_the_limit(tmp_path: Path) -> None:
    for name in "abc":
        write_container(tmp_path / f"{name}.h4mk", [name.encode()])
    library = Library(tmp_path, max_open=1)
    leases = [await library.open(f"{name}.h4mk") for name in "abc"]
    assert [lease.reader.read(0, 1) for lease in leases] == [b"a", b"b", b"c"]
    for lease in leases:
        with lease:
            pass
    with await library.open("a.h4mk"):
        assert library.opened <= 2
    await library.close()
    assert all(lease.closed for lease in leases)


async def test_broken_is_not_read_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h4mk"
    path.write_bytes(b"H4MKxxxx")
    library = Library(tmp_path)
    errors = []
    for _ in range(3):
        with pytest.raises(VersionError) as caught:
            await library.open("a.h4mk")
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {str(errors[0])}
    path.write_bytes(b"H4M")
    with pytest.raises(TruncatedError):
        await library.open("a.h4mk")
    write_container(path, [b"whole"])
    with await library.open("a.h4mk") as container:
        assert container.reader.read(0, 9) == b"whole"
    await library.close()


async def test_a_waiter_that_leaves_does_not_fail_the_others(tmp_path: Path) -> None:
    write_container(tmp_path / "a.h4mk", [b"x"])
    library = Library(tmp_path)
    first, second = (asyncio.ensure_future(library.open("a.h4mk")) for _ in range(2))
    await asyncio.sleep(0)  # both wait for the same opening now
    first.cancel()
    with await second as container:
        assert container.users == 1
    with pytest.raises(asyncio.CancelledError):
        await first
    await library.close()


def test_root_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(SourceError):
            Library(root)


def test_scan_is_ordered_by_bytes(tmp_path: Path) -> None:
    for name in ("b.h4mk", "a/z.h4mk", "B.h4mk", "a.h4mk", "ä.h4mk"):
        write_container(tmp_path / name, [b"x"])
    assert [entry.name for entry in scan(tmp_path)] == ["B.h4mk", "a.h4mk", "a/z.h4mk", "b.h4mk", "ä.h4mk"]
    assert scan(tmp_path / "nothing") == []


@pytest.mark.parametrize("named", ["own", "link"])
def test_a_folder_that_is_no_part_of_it(tmp_path: Path, named: str) -> None:
    root = tmp_path / "library"
    for name in ("a.h4mk", "own/trash/b.h4mk", "owner/c.h4mk", "deep/own/d.h4mk"):
        write_container(root / name, [b"x"])
    (root / "to-b.h4mk").symlink_to("own/trash/b.h4mk")
    (tmp_path / "link").symlink_to(root / "own")
    library = Library(root, without={"own": root / "own", "link": tmp_path / "link"}[named])
    seen = ["a.h4mk", "deep/own/d.h4mk", "owner/c.h4mk"]
    assert [entry.name for entry in scan(root, library.without)] == seen
    items, _, total = Catalogue(root, without=library.without).page(
        query="", sort="name", after=None, limit=9
    )
    assert [item["name"] for item in items] == seen
    assert total == len(seen)
    for name in seen:
        assert library.resolve(name) == root / name
    for name in ("own/trash/b.h4mk", "to-b.h4mk"):
        with pytest.raises(NotFoundError):
            library.resolve(name)


@pytest.mark.parametrize("without", ["", ".."])
def test_what_it_lies_in_does_not_hide_it(tmp_path: Path, without: str) -> None:
    write_container(tmp_path / "library" / "a.h4mk", [b"x"])
    library = Library(tmp_path / "library", without=tmp_path / "library" / without)
    assert library.resolve("a.h4mk").exists()


@pytest.mark.parametrize(("limit", "paged"), [(0, False), (-1, True)])
def test_a_map_as_long_as_may_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, paged: bool
) -> None:
    """One that is longer is read by pages: all that every request needs of it was read in a thread."""
    limit += RMAP_HEAD.size + 10 * RMAP_ENTRY.size
    monkeypatch.setattr(opening, "COPY_LIMIT", limit)
    monkeypatch.setattr(resource, "COPY_LIMIT", limit)
    write_container(tmp_path / "a.h4mk", [b"block"] * 10)

    async def main() -> None:
        library = Library(tmp_path)
        with await library.open("a.h4mk") as container:
            with monkeypatch.context() as patch:
                patch.setattr(PagedTable, "row", None)
                found = resource.stream_resource(container, 0)
            assert (found.size, found.in_memory) == (50, not paged)
            assert len(list(found.pieces(0, 50))) == 10
        await library.close()

    asyncio.run(main())


def test_a_link_that_takes_the_files_place_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at where a name leads and the opening nobody can put a way out of the library."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    write_container(root / "folder" / "a.h4mk", [b"inside"])
    write_container(outside / "a.h4mk", [b"secret"])
    library = Library(root)
    look = library.resolve

    def exchange_file(path: Path) -> None:
        path.unlink()
        path.symlink_to(outside / "a.h4mk")

    def exchange_folder(path: Path) -> None:
        path.parent.rename(root / "elsewhere")
        path.parent.symlink_to(outside)

    for exchange in (exchange_file, exchange_folder):

        def resolve(name: str, exchange: Callable[[Path], None] = exchange) -> Path:
            path = look(name)
            exchange(path)
            return path

        monkeypatch.setattr(library, "resolve", resolve)
        with pytest.raises(NotFoundError):
            library._read("folder/a.h4mk", None)
        (root / "folder" / "a.h4mk").unlink()
        write_container(root / "folder" / "a.h4mk", [b"inside"])
