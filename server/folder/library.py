"""The library: names in requests to open containers.

A container is opened once and shared by all requests. `Library.open` hands out the shared reader under a
lease; a reader that somebody still uses is never closed under them, whether it fell out of the cache or was
replaced on disk in the meantime. Everything here except `open`'s fast path (one `stat`) runs in threads.

Names are paths below the root as a client wrote them, `talks/day1.h4mk`. Whatever does not lead to a regular
file inside the root (`..`, an absolute path, NUL, a link out of it, a folder, a FIFO) does not exist. Neither
does what lies in the server's own folder, wherever that is.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from harmony4.crypto.errors import HarmonyError, NotFoundError, SourceChangedError, SourceError
from harmony4.crypto.mask import MasterKey
from harmony4.h4mk import H4MKReader, TimeRange, Unmasked
from harmony4.h4mk.proofs.prove import Prover
from harmony4.server.folder.facts import SeekCard, seek_card
from harmony4.server.reading.residency import forget, learn, let_go, mapped_bytes
from harmony4.server.serving.descriptors import is_exhausted

__all__ = ["SUFFIX", "Container", "Identity", "Library", "check_name", "is_inside"]

SUFFIX: Final = ".h4mk"
_ATTEMPTS: Final = 4
_MAPPED: Final = 64 * 2**20
"""Mapped bytes that may be in this process's memory beyond those that it cannot do without."""
_MUCH: Final = 2**30
"""Bytes a second from which on they stay for a while."""
_PATIENCE: Final = 2.0
"""Seconds that they stay."""
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})

_LOOKS: Final = 16
"""Containers that are looked at in one round of the housekeeping, a look being a system call."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one file from its replacement."""

    device: int
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The identity in a `stat` result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def fits(self, status: os.stat_result) -> bool:
        """`Identity.of(status) == self`, without making one: every request asks."""
        return (
            status.st_mtime_ns == self.mtime_ns
            and status.st_ino == self.inode
            and status.st_size == self.size
            and status.st_dev == self.device
        )


class Container:
    """A lease on an open container; give it back by leaving the `with` block.

    Attributes: `name`, `reader` (shared, thread-safe), `identity` of the file it was opened from; `times`:
    time ranges that were looked up, by track and times asked for (`server.timed`); `cards`: those that are
    made already; `provers`: the one of `prover`, once it is made. Of a masked one: `key_ids`, whose keys open
    it, and `unmasked`, by which key somebody has opened it, and its media.
    """

    __slots__ = (
        "_library",
        "cards",
        "checked",
        "closed",
        "identity",
        "key_ids",
        "name",
        "provers",
        "reader",
        "retired",
        "times",
        "unmasked",
        "users",
    )

    def __init__(
        self, library: Library, name: str, reader: H4MKReader, identity: Identity, key_ids: tuple[bytes, ...]
    ) -> None:
        self._library = library
        self.name = name
        self.reader = reader
        self.identity = identity
        self.key_ids = key_ids
        self.unmasked: tuple[MasterKey, Unmasked] | None = None
        self.users = 0
        self.checked = -1.0
        self.retired = False
        self.closed = False
        self.times: dict[tuple[int, int, int | None], TimeRange] = {}
        self.cards: dict[tuple[int, bool], SeekCard] = {}
        self.provers: list[Prover] = []

    def card(self, track: int, *, unmasked: bool = False) -> SeekCard:
        """What all seeks in a track have in common; may read the disk. Raises as `seek_card` does.

        `unmasked`: with the address of the unmasked bytes, where the track is masked.
        """
        card = self.cards.get((track, unmasked))
        if card is None:
            card = seek_card(self.reader, self.name, track, unmasked=unmasked)
            self.cards[track, unmasked] = card
        return card

    def prover(self) -> Prover:
        """What makes proofs of it, made once; reads the disk. Raises as Prover does."""
        if not self.provers:
            self.provers.append(Prover(self.reader))
        return self.provers[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.users -= 1
        if not self.users:
            self._library._unused(self)


class _Opening:
    """A container that is being opened, and how many wait for it."""

    __slots__ = ("container", "task", "waiters")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.container: Container | None = None
        self.waiters = 0


_Read = tuple[H4MKReader, Identity, tuple[bytes, ...]]
"""What is known of a container when it is open."""


class Library:
    """The containers below one folder. Use from one event loop.

    At most `max_open` readers stay open while nobody uses them, the least recently used go first; readers in
    use do not count against anybody and are bounded by the number of connections. Where the process runs out
    of descriptors all the same, readers that nobody uses make room.
    """

    def __init__(self, root: Path, *, without: Path | None = None, max_open: int = 256) -> None:
        """`without`: a folder that is no part of it. Raises SourceError unless `root` is a folder that can be
        read.
        """
        try:
            self.root: Final = Path(os.path.realpath(root, strict=True))
            with os.scandir(self.root):
                self.device: Final = self.root.stat().st_dev
        except OSError as error:
            raise SourceError(f"cannot read the library: {error.strerror}", where=str(root)) from error
        own = self.root if without is None else Path(os.path.realpath(without))
        # What the library itself lies in does not hide it.
        self.without: Final = None if self.root.is_relative_to(own) else own
        self.max_open: Final = max_open
        self._containers: OrderedDict[str, Container] = OrderedDict()
        self._broken: OrderedDict[str, tuple[Identity, HarmonyError]] = OrderedDict()
        self._opening: dict[str, _Opening] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._round: list[str] = []
        self._let_go = 0.0
        self._mapped = mapped_bytes()
        self.on_retire: Callable[[Container], object] = lambda container: None
        """Called with a container that is no longer handed out: replaced, closed, or gone."""

    @property
    def opened(self) -> int:
        """Number of readers in the cache, in use or not."""
        return len(self._containers)

    async def open(self, name: str) -> Container:
        """A lease on the container `name`: `with await library.open(name) as container`.

        Raises NotFoundError for a name that leads nowhere, SourceError for a file that cannot be read, and
        what the reader raises for a file that is no container.
        """
        check_name(name)
        container = self._containers.get(name)
        if container is not None:
            if self._current(container):
                self._containers.move_to_end(name)
                container.users += 1
                return container
            self._retire(name)
        opening = self._opening.get(name)
        if opening is None:
            opening = self._opening[name] = _Opening()
            opening.task = asyncio.get_running_loop().create_task(self._load(name, opening))
            # Looked at, so that asyncio does not complain when every waiter has left.
            opening.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        opening.waiters += 1
        try:
            # Shielded: a client that goes away must not fail the others that wait for the same container.
            await asyncio.shield(opening.task)
        except BaseException:
            opening.waiters -= 1
            if opening.container is not None:
                opening.container.__exit__(None, None, None)
            raise
        assert opening.container is not None  # set by `_load`, unless it raises
        return opening.container

    def touch(self, container: Container, now: float) -> bool:
        """Whether a container is still what its name leads to; then it counts as just used.

        For work that ends before the event loop goes on, and so needs no lease. `now` is the loop's time,
        seconds: one look at the file is enough for all requests that come at the same time (uvloop's stands
        still for a turn, and goes by milliseconds).
        """
        if container.retired:
            return False
        if container.checked != now:
            if not self._current(container):
                return False
            container.checked = now
            self._containers.move_to_end(container.name)
        return True

    def look_around(self) -> None:
        """Close some of those that nobody reads and that are gone or were replaced, others the next time.

        Else a file that was deleted keeps its room on the disk until its name is asked for once more.
        """
        if not self._round:
            self._round = list(self._containers)
        for _ in range(min(_LOOKS, len(self._round))):
            container = self._containers.get(name := self._round.pop())
            if container is not None and not self._current(container):
                self._retire(name)

    async def let_go(self, now: float) -> None:
        """Take mapped pages out of this process's memory where that is worth it; `now` is the loop's time,
        seconds.

        Pages that are sent again have to be mapped again, which costs more than it gives where much is sent:
        there they stay for a moment longer.
        """
        grown = mapped_bytes() - self._mapped
        passed = now - self._let_go
        if grown <= _MAPPED or (passed < _PATIENCE and grown > passed * _MUCH):
            return
        for one in list(self._containers.values()):
            with suppress(HarmonyError):
                if (mapping := one.reader.mapping) is not None:
                    await asyncio.to_thread(let_go, mapping)
        self._let_go, self._mapped = now, mapped_bytes()

    async def close(self) -> None:
        """Close all readers. Call it when no request runs any more."""
        if self._opening:
            await asyncio.gather(*(one.task for one in self._opening.values()), return_exceptions=True)
        for name in list(self._containers):
            self._retire(name)
        if self._closing:
            await asyncio.gather(*self._closing)

    def resolve(self, name: str) -> Path:
        """The real path of a name, for work in a thread. Raises NotFoundError, SourceError."""
        try:
            path = Path(os.path.realpath(self.root / check_name(name), strict=True))
            status = path.stat()
        except OSError as error:
            if error.errno in _GONE:
                raise _missing() from error
            raise SourceError(f"cannot read the container: {error.strerror}") from error
        if not is_inside(path, self.root, self.without) or not stat.S_ISREG(status.st_mode):
            raise _missing()
        return path

    def _current(self, container: Container) -> bool:
        try:
            # A link on the way was checked when the file was opened; the same file again needs no new check.
            status = os.stat(f"{self.root}/{container.name}")  # noqa: PTH116 - every request pays for it
            return container.identity.fits(status)
        except OSError:
            return False

    def relieve(self) -> int:
        """Close half of the readers that nobody uses, at least one; returns how many that are.

        For the moment when descriptors have run out.
        """
        idle = [name for name, one in self._containers.items() if not one.users]
        for name in idle[: (len(idle) + 1) // 2]:
            self._retire(name)
        return (len(idle) + 1) // 2

    async def _load(self, name: str, opening: _Opening) -> None:
        known = self._broken.get(name)
        try:
            reader, identity, ids = await self._read_relieved(name, known)
            self._broken.pop(name, None)
            opening.container = self._containers[name] = Container(self, name, reader, identity, ids)
            # Leases for all who wait, before it could be pushed out again.
            opening.container.users = opening.waiters
            self._evict()
        except _BrokenError as error:
            self._broken[name] = (error.identity, error.cause)
            self._broken.move_to_end(name)
            while len(self._broken) > self.max_open:
                self._broken.popitem(last=False)
            # A copy: one instance raised again and again would collect tracebacks.
            raise copy.copy(error.cause) from None
        finally:
            del self._opening[name]

    async def _read_relieved(self, name: str, known: tuple[Identity, HarmonyError] | None) -> _Read:
        """`_read`; where descriptors have run out, readers that nobody uses make room for it."""
        while True:
            try:
                return await asyncio.to_thread(self._read, name, known)
            except SourceError as error:
                if not (is_exhausted(error) and (self.relieve() or self._closing)):
                    raise
                await asyncio.gather(*self._closing)

    def _read(self, name: str, known: tuple[Identity, HarmonyError] | None) -> _Read:
        """Open a container; in a thread. A failure that is known already is not tried again."""
        for _ in range(_ATTEMPTS):
            path = self.resolve(name)
            try:
                before = Identity.of(path.stat())
                if known is not None and known[0] == before:
                    raise _BrokenError(before, known[1])
                reader = H4MKReader(path)
            except OSError:
                continue
            except SourceError:
                raise  # about this moment (descriptors, permissions), not about the content
            except HarmonyError as error:
                raise _BrokenError(before, error) from error
            descriptor = reader.fileno()
            if descriptor is not None and not holds(descriptor, self.root, self.without):
                reader.close()
                raise _missing()
            if descriptor is not None and Identity.of(os.fstat(descriptor)) == before:
                learn(descriptor)
                _warm(reader)
                return reader, before, _key_ids(reader)
            reader.close()
        raise SourceChangedError("the container changes while it is being opened")

    def _unused(self, container: Container) -> None:
        """The last user of a container has left."""
        if container.retired:
            self._dispose(container)
        else:
            self._evict()

    def _evict(self) -> None:
        """Retire the least recently used readers that nobody uses until the cache fits."""
        excess = len(self._containers) - self.max_open
        if excess > 0:
            newest = next(reversed(self._containers))
            idle = (name for name, one in self._containers.items() if not one.users and name != newest)
            for name in [name for name, _ in zip(idle, range(excess), strict=False)]:
                self._retire(name)

    def _retire(self, name: str) -> None:
        container = self._containers.pop(name)
        container.retired = True
        self.on_retire(container)
        if not container.users:
            self._dispose(container)

    def _dispose(self, container: Container) -> None:
        # In a thread: unmapping many gigabytes that the kernel has touched takes a while.
        container.closed = True
        if (descriptor := container.reader.fileno()) is not None:
            forget(descriptor)
        future = asyncio.get_running_loop().run_in_executor(None, container.reader.close)
        self._closing.add(future)
        future.add_done_callback(self._closing.discard)


def _key_ids(reader: H4MKReader) -> tuple[bytes, ...]:
    """Whose keys open a masked container; none where nobody can tell any more."""
    if reader.trak.mask is not None:
        with suppress(HarmonyError):
            return tuple(name for name, _ in reader.key_slots())
    return ()


def _warm(reader: H4MKReader) -> None:
    """Load tables, mapping and entity tag now, in this thread, and not in a request on the event loop.

    A damaged table is no reason to refuse the container's other tracks: asking for it raises again.
    """
    for track in range(len(reader.tracks)):
        for load in (reader.seek_table, reader.flat_map, reader.stream_size):
            with suppress(HarmonyError):
                load(track)
    with suppress(HarmonyError):
        reader.file_etag()
    with suppress(HarmonyError):
        _ = reader.mapping


class _BrokenError(Exception):
    """Carries a container's error and the identity it holds for out of the thread."""

    def __init__(self, identity: Identity, cause: HarmonyError) -> None:
        super().__init__(identity, cause)
        self.identity = identity
        self.cause = cause


def _missing() -> NotFoundError:
    return NotFoundError("there is no such container")


def is_inside(path: Path, root: Path, without: Path | None) -> bool:
    """Whether a real path is in the library at `root`, and not in its folder `without`. Pure."""
    return path.is_relative_to(root) and (without is None or not path.is_relative_to(without))


def holds(descriptor: int, root: Path, without: Path | None) -> bool:
    """Whether an open file is in the library at `root`: a link may have taken the place of what was found.

    Where the system does not say which file it is, what was found has to do.
    """
    try:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return True
    return is_inside(path, root, without)


def check_name(name: str) -> str:
    """Return `name` if it may be one (see the module's text), else raise NotFoundError. Pure."""
    parts = name.split("/")
    # Names that begin with a dot are hidden: half-written containers, trash, `.` and `..`.
    if not name.endswith(SUFFIX) or "\0" in name or any(not part or part.startswith(".") for part in parts):
        raise _missing()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _missing() from None
    return name
