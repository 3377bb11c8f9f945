"""Containers into the library, out of it, and back: names, the trash, and changes that happen whole or not
at all.

    STATE/trash/ID.h4mk  a container that was deleted or replaced, as it was
    STATE/trash/ID.json  its name

No change overwrites anything: what stood under a name goes into the trash first, from where it comes back.
Changes come one after the other, under a lock; none of them copies a container while it has it (`moving.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from harmony4.crypto.errors import HarmonyError, NotFoundError, StorageError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.audit import AuditLog
from harmony4.server.errors import Problem
from harmony4.server.folder.library import SUFFIX, Library, check_name
from harmony4.server.intake.moving import (
    ApartError,
    Copies,
    drop,
    is_part,
    keep,
    move,
    place,
    sweep_parts,
    sync_after,
    take_place,
)
from harmony4.server.state import State, write_whole

__all__ = ["Shelf", "Trashed", "check_new_name"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_PART: Final = 255
_LONGEST: Final = 1024
_THREADS: Final = 4
_ATTEMPTS: Final = 8
"""Copies that one change may need; two are enough unless somebody else changes the same container."""
_NOT_PUT: Final = "the container cannot be put into the library"
_NOT_TRASHED: Final = "the container cannot be put into the trash"

_P = ParamSpec("_P")
_T = TypeVar("_T")

Match = Callable[[str | None], bool]
"""Whether an entity tag (without quotes; None for what has none) is one that the client takes."""


def check_new_name(name: str) -> str:
    """Return a name that a container may get. Raises UsageError.

    Stricter than what is served: a path that ends in `.h4mk`, whose parts are no longer than file systems
    take, begin with no dot, and hold no control characters and no backslash.
    """
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        sizes = [0]
    good = (
        name.endswith(SUFFIX)
        and sum(sizes) + len(sizes) <= _LONGEST
        and all(0 < size <= _PART for size in sizes)
        and not any(part.startswith(".") for part in parts)
        and not _CONTROL.search(name)
    )
    if not good:
        raise UsageError(
            "name is not valid",
            expected=f"a path that ends in {SUFFIX}; parts up to {_PART} bytes, without a dot in front",
            found=name[:80],
        )
    return name


@dataclass(frozen=True, slots=True)
class Trashed:
    """A container in the trash."""

    id: str
    name: str
    size: int
    """Bytes."""
    deleted: int
    """Seconds since the epoch."""


class Shelf:
    """The library as something that changes.

    Its methods touch the disk, and may wait for others' changes: `await shelf.call(shelf.delete, name)`.
    """

    def __init__(self, library: Library, state: State, audit: AuditLog | None = None) -> None:
        self._library = library
        self._state = state
        self._audit = audit or AuditLog(state)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="harmony4-shelf")

    async def call(self, change: Callable[_P, _T], *arguments: _P.args, **more: _P.kwargs) -> _T:
        """Call a method of this shelf in one of its own threads.

        Changes wait for one another, and copies take long: requests that only read need the other threads.
        """
        # With its context: the audit log says who it was.
        work = partial(copy_context().run, change, *arguments, **more)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Wait for changes that are being made; `call` takes no more."""
        self._threads.shutdown()

    def check(self, name: str, match: Match | None) -> None:
        """Raise now what `put` would raise: before an upload, not after it."""
        self._check(self._path(name), match)

    def put(self, made: Path, name: str, match: Match | None = None, **about: object) -> None:
        """Give a finished container its name. `match`: take the place of one with such an entity tag.

        `about`: what else the audit log is to say of it.

        Raises Problem: 409 for a name that is taken, 412 where no container matches. Raises StorageError.
        """

        def change(copies: Copies) -> None:
            path = self._path(name)
            self._check(path, match)
            if match is None:
                place(made, path, copies)
            else:
                self._replace(made, path, name, copies)

        self._change(_NOT_PUT, change)
        drop(made)
        self._audit.record("export" if match is None else "replace", name=name, **about)

    def delete(self, name: str, match: Match | None = None) -> Trashed:
        """Move a container into the trash. Raises NotFoundError, Problem (412), StorageError."""

        def change(copies: Copies) -> Trashed:
            path = self._existing(name)
            if match is not None:
                self._check(path, match)
            copies.near(path, self._state.folder("trash"))  # before anything is written
            with self._noted(name) as kept:
                move(path, kept, copies)
            return self._read(kept.stem)

        found = self._change(_NOT_TRASHED, change)
        self._audit.record("delete", name=name, id=found.id)
        return found

    def rename(self, name: str, to: str, match: Match | None = None) -> None:
        """Give a container another name.

        Raises NotFoundError, Problem (409, 412), StorageError, UsageError.
        """

        def change(copies: Copies) -> None:
            path, new = self._existing(name), self._path(to)
            if match is not None:
                self._check(path, match)
            place(path, new, copies)
            try:
                path.unlink(missing_ok=True)
            except OSError:
                drop(new)
                raise
            sync_after(path.parent)

        self._change("the container cannot be renamed", change)
        self._audit.record("rename", name=name, to=to)

    def restore(self, number: str, to: str | None = None) -> str:
        """Take a container out of the trash, under its old name or another. Returns the name.

        Raises NotFoundError, Problem (409), StorageError, UsageError.
        """

        def change(copies: Copies) -> str:
            found = self._read(number)
            name = to if to is not None else found.name
            # An old name was good enough once: it may be one that no new container would get.
            path = self._path(name) if to is not None else self._library.root / check_name(name)
            kept = self._state.path / "trash" / f"{found.id}{SUFFIX}"
            place(kept, path, copies)
            drop(kept)
            drop(kept.with_suffix(".json"))
            return name

        name = self._change(_NOT_PUT, change)
        self._audit.record("restore", name=name, id=number)
        return name

    def purge(self, number: str) -> None:
        """Remove a container from the trash for good. Raises NotFoundError."""
        with self._state.locked("library"):
            found = self._read(number)
            self._remove(found)
        self._audit.record("purge", name=found.name, id=number)

    def trash(self) -> list[Trashed]:
        """What lies in the trash, the last deleted first."""
        found = []
        with suppress(OSError):
            for path in (self._state.path / "trash").iterdir():
                if path.suffix == ".json":
                    with suppress(NotFoundError):
                        found.append(self._read(path.stem))
        return sorted(found, key=lambda one: (-one.deleted, one.id))

    def sweep(self, retention: float) -> None:
        """Remove what has lain in the trash for `retention` seconds, and what crashes have left."""
        sweep_parts(self._state)
        before = time.time() - retention
        gone: list[tuple[str, str | None]] = []
        with self._state.locked("library"), suppress(OSError):
            for path in list((self._state.path / "trash").iterdir()):
                if is_part(self._state, path):  # has the time of its container
                    continue
                partner = path.with_suffix(".json" if path.suffix == SUFFIX else SUFFIX)
                # A container counts from when its note was written, or else from when it was moved here.
                with suppress(OSError):
                    if path.suffix != SUFFIX:
                        since = path.lstat().st_mtime
                    else:
                        since = partner.lstat().st_mtime if partner.exists() else path.lstat().st_ctime
                    if since < before:
                        there = path.with_suffix(SUFFIX).exists()
                        name = self._name_of(path.with_suffix(".json"))
                        path.unlink(missing_ok=True)
                        partner.unlink(missing_ok=True)
                        if there:
                            gone.append((path.stem, name))
        for number, name in gone:
            self._audit.record("expire", name=name, id=number)

    # -- paths

    def _path(self, name: str) -> Path:
        """The path for a new container, whose folder may be missing. Raises UsageError."""
        path = self._library.root / check_new_name(name)
        expected = "a path through folders of the library"
        if path.is_relative_to(self._state.path):
            raise UsageError("name is not valid", expected=expected, found=name[:80])
        for folder in reversed(path.relative_to(self._library.root).parents[:-1]):
            # Folders that are links lead elsewhere, where nobody lists what they hold.
            try:
                mode = (self._library.root / folder).lstat().st_mode
            except FileNotFoundError:
                break
            except OSError as error:
                raise StorageError(f"cannot look at the library: {error.strerror}") from error
            if not stat.S_ISDIR(mode):
                raise UsageError("name is not valid", expected=expected, found=name[:80])
        return path

    def _existing(self, name: str) -> Path:
        """The path of a container as it is named: of the link itself, not of what it leads to."""
        self._library.resolve(name)
        path = self._library.root / name
        if path.is_relative_to(self._state.path):
            raise NotFoundError("there is no such container")
        return path

    def _check(self, path: Path, match: Match | None) -> None:
        there = os.path.lexists(path)
        if match is None:
            if there:
                raise Problem("exists", "a container has that name; If-Match replaces it")
        elif not path.is_file() or not any(match(tag) for tag in [None, *_tags(path)]):
            raise Problem("precondition", "the container is another one by now")

    # -- changes

    def _change(self, failure: str, change: Callable[[Copies], _T]) -> _T:
        """Make a change while nobody else makes one, as soon as the copies are there that it needs.

        Raises what it raises; Problem (409) for a name that is taken, StorageError.
        """
        with Copies(self._state) as copies:
            try:
                for _ in range(_ATTEMPTS):
                    try:
                        with self._state.locked("library"):
                            return change(copies)
                    except ApartError as apart:
                        with suppress(FileNotFoundError):  # the next attempt says what is missing
                            copies.make(apart.path, apart.folder)
            except FileExistsError as error:
                raise Problem("exists", "a container has that name; If-Match replaces it") from error
            except OSError as error:
                raise StorageError(f"{failure}: {error.strerror}") from error
        raise StorageError(f"{failure}: somebody else changes it all the time")

    def _replace(self, made: Path, path: Path, name: str, copies: Copies) -> None:
        """The old one is in the trash before the new one takes its place, and there only if it does."""
        copies.near(made, path.parent)  # both before anything is written
        copies.near(path, self._state.folder("trash"))
        with self._noted(name) as kept:
            keep(path, kept, copies)
            try:
                take_place(made, path, copies)
            except BaseException:
                kept.unlink(missing_ok=True)
                raise

    @contextmanager
    def _noted(self, name: str) -> Iterator[Path]:
        """A path in the trash for the container `name`, whose note is on disk.

        Raises OSError, StorageError.
        """
        folder, number = self._state.folder("trash"), secrets.token_hex(8)
        kept = folder / f"{number}{SUFFIX}"
        note = kept.with_suffix(".json")
        try:
            write_whole(note, json.dumps({"name": name}).encode("ascii"), sync=True)
            yield kept
        except BaseException:
            if not os.path.lexists(kept):
                note.unlink(missing_ok=True)
            raise
        sync_after(folder)

    def _read(self, number: str) -> Trashed:
        folder = self._state.path / "trash"
        try:
            if not _ID.fullmatch(number):
                raise ValueError
            note = folder / f"{number}.json"
            facts: Any = json.loads(note.read_bytes())
            size = (folder / f"{number}{SUFFIX}").lstat().st_size
            return Trashed(number, str(facts["name"]), size, int(note.stat().st_mtime))
        except (OSError, ValueError, KeyError, TypeError):
            raise NotFoundError("there is no such container in the trash") from None

    def _name_of(self, note: Path) -> str | None:
        """What the container of a note in the trash was called; None where nothing says so."""
        try:
            return str(json.loads(note.read_bytes())["name"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remove(self, one: Trashed) -> None:
        for suffix in (SUFFIX, ".json"):
            with suppress(OSError):
                (self._state.path / "trash" / f"{one.id}{suffix}").unlink(missing_ok=True)


def _tags(path: Path) -> Iterator[str]:
    """The entity tags by which a client may know a container: the file's, and its first track's."""
    try:
        with H4MKReader(path) as reader:
            yield from (tag for tag in (reader.file_etag(), reader.etag(0)) if tag is not None)
    except (HarmonyError, OSError):
        return
