"""Containers into the library, out of it, and back: names, the trash, and changes that happen whole or not
at all.

    STATE/trash/ID.h4mk  a container that was deleted or replaced, as it was
    STATE/trash/ID.json  its name

No change overwrites anything: what stood under a name goes into the trash first, from where it comes back.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import HarmonyError, NotFoundError, StorageError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import Problem
from harmony4.server.library import SUFFIX, Library
from harmony4.server.state import State

__all__ = ["Shelf", "Trashed", "check_new_name"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_PART: Final = 255
_LONGEST: Final = 1024
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

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
    """The library as something that changes. Its methods touch the disk: call them in threads."""

    def __init__(self, library: Library, state: State) -> None:
        self._library = library
        self._state = state

    def check(self, name: str, match: Match | None) -> None:
        """Raise now what `put` would raise: before an upload, not after it."""
        self._check(self._path(name, make=False), match)

    def put(self, made: Path, name: str, match: Match | None = None) -> None:
        """Give a finished container its name. `match`: take the place of one with such an entity tag.

        Raises Problem: 409 for a name that is taken, 412 where no container matches. Raises StorageError.
        """
        with self._state.locked("library"):
            path = self._path(name, make=True)
            self._check(path, match)
            if match is not None:
                self._into_trash(path, name, keep=True)
                _replace(made, path)
            else:
                _place(made, path)

    def delete(self, name: str, match: Match | None = None) -> Trashed:
        """Move a container into the trash. Raises NotFoundError, Problem (412), StorageError."""
        with self._state.locked("library"):
            path = self._existing(name)
            if match is not None:
                self._check(path, match)
            return self._into_trash(path, name, keep=False)

    def rename(self, name: str, to: str, match: Match | None = None) -> None:
        """Give a container another name.

        Raises NotFoundError, Problem (409, 412), StorageError, UsageError.
        """
        with self._state.locked("library"):
            path = self._existing(name)
            if match is not None:
                self._check(path, match)
            _place(path, self._path(to, make=True))

    def restore(self, number: str, to: str | None = None) -> str:
        """Take a container out of the trash, under its old name or another. Returns the name.

        Raises NotFoundError, Problem (409), StorageError, UsageError.
        """
        with self._state.locked("library"):
            found = self._read(number)
            name = to if to is not None else found.name
            _place(self._state.path / "trash" / f"{found.id}{SUFFIX}", self._path(name, make=True))
            (self._state.path / "trash" / f"{found.id}.json").unlink(missing_ok=True)
            return name

    def purge(self, number: str) -> None:
        """Remove a container from the trash for good. Raises NotFoundError."""
        with self._state.locked("library"):
            self._remove(self._read(number))

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
        """Remove what has lain in the trash for `retention` seconds."""
        now = time.time()
        with self._state.locked("library"):
            for one in self.trash():
                if one.deleted < now - retention:
                    self._remove(one)

    # -- paths

    def _path(self, name: str, *, make: bool) -> Path:
        """The path for a new container, its folder made if `make`. Raises UsageError, StorageError."""
        root = self._library.root
        path = root / check_new_name(name)
        try:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            real = Path(os.path.realpath(path.parent))
            # Folders that are links lead elsewhere, where nobody lists what they hold.
            if real != path.parent:
                raise UsageError(
                    "name is not valid", expected="a path through folders of the library", found=name
                )
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError("name is not valid", expected="a path through folders", found=name) from error
        except OSError as error:
            raise StorageError(f"the container's folder cannot be made: {error.strerror}") from error
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
        elif not there or not any(match(tag) for tag in [None, *_tags(path)]):
            raise Problem("precondition", "the container is another one by now")

    # -- the trash

    def _into_trash(self, path: Path, name: str, *, keep: bool) -> Trashed:
        folder, number = self._state.folder("trash"), secrets.token_hex(8)
        note = folder / f"{number}.json"
        kept = folder / f"{number}{SUFFIX}"
        try:
            size = path.lstat().st_size
            note.write_text(json.dumps({"name": name}), encoding="ascii")
            if keep:
                _copy(path, kept)
            else:
                _move(path, kept)
        except OSError as error:
            with suppress(OSError):
                note.unlink(missing_ok=True)
            raise StorageError(f"the container cannot be put into the trash: {error.strerror}") from error
        return Trashed(number, name, size, int(note.stat().st_mtime))

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


def _place(made: Path, path: Path) -> None:
    """Move a file to a name that nobody has. Raises Problem (409), StorageError."""
    try:
        try:
            os.link(made, path, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EXDEV:
                _across(made, path, replace=False)
            elif (
                error.errno in _NO_LINKS
            ):  # without links the look and the move are two steps; the lock helps
                if os.path.lexists(path):
                    raise FileExistsError from error
                made.replace(path)
            else:
                raise
        made.unlink(missing_ok=True)
        _sync(path.parent)
    except FileExistsError as error:
        raise Problem("exists", "a container has that name; If-Match replaces it") from error
    except OSError as error:
        raise StorageError(f"the container cannot be put into the library: {error.strerror}") from error


def _replace(made: Path, path: Path) -> None:
    try:
        try:
            made.replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _across(made, path, replace=True)
            made.unlink()
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"the container cannot be put into the library: {error.strerror}") from error


def _move(path: Path, kept: Path) -> None:
    try:
        path.rename(kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _across(path, kept, replace=False)
        path.unlink()


def _copy(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV and error.errno not in _NO_LINKS:
            raise
        _across(path, kept, replace=False)


def _across(path: Path, to: Path, *, replace: bool) -> None:
    """Copy a file to another file system: beside its name first, then to it."""
    part = to.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(path, part, follow_symlinks=False)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if replace:
            part.replace(to)
        else:
            os.link(part, to, follow_symlinks=False)
    finally:
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems that cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
