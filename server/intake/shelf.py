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
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.errors import HarmonyError, NotFoundError, StorageError, UsageError
from harmony4.h4mk import H4MKReader
from harmony4.server.errors import Problem
from harmony4.server.library import SUFFIX, Library, check_name
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
        self._check(self._path(name), match)

    def put(self, made: Path, name: str, match: Match | None = None) -> None:
        """Give a finished container its name. `match`: take the place of one with such an entity tag.

        Raises Problem: 409 for a name that is taken, 412 where no container matches. Raises StorageError.
        """
        with self._state.locked("library"):
            path = self._path(name)
            self._check(path, match)
            if match is None:
                _place(made, path)
            else:
                self._replace(made, path, name)

    def delete(self, name: str, match: Match | None = None) -> Trashed:
        """Move a container into the trash. Raises NotFoundError, Problem (412), StorageError."""
        with self._state.locked("library"):
            path = self._existing(name)
            if match is not None:
                self._check(path, match)
            with self._noted(name) as kept:
                _move(path, kept)
            return self._read(kept.stem)

    def rename(self, name: str, to: str, match: Match | None = None) -> None:
        """Give a container another name.

        Raises NotFoundError, Problem (409, 412), StorageError, UsageError.
        """
        with self._state.locked("library"):
            path = self._existing(name)
            if match is not None:
                self._check(path, match)
            _place(path, self._path(to))

    def restore(self, number: str, to: str | None = None) -> str:
        """Take a container out of the trash, under its old name or another. Returns the name.

        Raises NotFoundError, Problem (409), StorageError, UsageError.
        """
        with self._state.locked("library"):
            found = self._read(number)
            name = to if to is not None else found.name
            # An old name was good enough once: it may be one that no new container would get.
            path = self._path(name) if to is not None else self._library.root / check_name(name)
            _place(self._state.path / "trash" / f"{found.id}{SUFFIX}", path)
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
        """Remove what has lain in the trash for `retention` seconds, and what a crash has left there."""
        before = time.time() - retention
        with self._state.locked("library"), suppress(OSError):
            for path in list((self._state.path / "trash").iterdir()):
                partner = path.with_suffix(".json" if path.suffix == SUFFIX else SUFFIX)
                # A container counts from when its note was written, or else from when it was moved here.
                with suppress(OSError):
                    if path.suffix != SUFFIX:
                        since = path.lstat().st_mtime
                    else:
                        since = partner.lstat().st_mtime if partner.exists() else path.lstat().st_ctime
                    if since < before:
                        path.unlink(missing_ok=True)
                        partner.unlink(missing_ok=True)

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

    # -- the trash

    def _replace(self, made: Path, path: Path, name: str) -> None:
        """The old one is in the trash before the new one takes its place, and there only if it does."""
        with self._noted(name) as kept:
            _copy(path, kept)
            try:
                _take_place(made, path)
            except BaseException:
                kept.unlink(missing_ok=True)
                raise

    @contextmanager
    def _noted(self, name: str) -> Iterator[Path]:
        """A path in the trash for the container `name`, whose note is on disk. Raises StorageError."""
        folder, number = self._state.folder("trash"), secrets.token_hex(8)
        note = folder / f"{number}.json"
        try:
            try:
                with note.open("w", encoding="ascii") as file:
                    json.dump({"name": name}, file)
                    file.flush()
                    os.fsync(file.fileno())
                _sync(folder)
                yield folder / f"{number}{SUFFIX}"
                _sync(folder)
            except BaseException:
                if not os.path.lexists(folder / f"{number}{SUFFIX}"):
                    note.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StorageError(f"the container cannot be put into the trash: {error.strerror}") from error

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
    """Move a file, or a link, to a name that nobody has. Raises Problem (409), StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(made, path)
        made.unlink(missing_ok=True)
        _sync(path.parent)
    except FileExistsError as error:
        raise Problem("exists", "a container has that name; If-Match replaces it") from error
    except OSError as error:
        raise StorageError(f"the container cannot be put into the library: {error.strerror}") from error


def _take_place(made: Path, path: Path) -> None:
    """Move a file to a name that another one has. Raises OSError."""
    try:
        made.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with _copied(made, path) as part:
            part.replace(path)
        made.unlink()
    _sync(path.parent)


def _move(path: Path, kept: Path) -> None:
    """Move a file, or a link, to a name that nobody has; in one step where possible. Raises OSError."""
    if not path.is_symlink():
        try:
            path.rename(kept)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    _copy(path, kept)
    path.unlink()


def _copy(path: Path, to: Path) -> None:
    """The same file, or link, under a name that nobody has as well. Raises FileExistsError, OSError."""
    if path.is_symlink():
        target = path.readlink()
        if not target.is_absolute():
            # From its new folder it has to lead where it led.
            here, there = os.path.realpath(path.parent), os.path.realpath(to.parent)
            target = Path(os.path.relpath(Path(here) / target, there))
        to.symlink_to(target)
        return
    try:
        os.link(path, to)
    except OSError as error:
        if error.errno != errno.EXDEV and error.errno not in _NO_LINKS:
            raise
        with _copied(path, to) as part:
            try:
                os.link(part, to)
            except OSError as again:
                # Without links the look and the move are two steps; the lock keeps others of ours away.
                if again.errno not in _NO_LINKS:
                    raise
                if os.path.lexists(to):
                    raise FileExistsError from again
                part.replace(to)


@contextmanager
def _copied(path: Path, to: Path) -> Iterator[Path]:
    """A copy of a file beside `to`, on disk; it is gone behind the block unless it was moved."""
    part = to.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(path, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems that cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
