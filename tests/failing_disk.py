"""A disk that fails: a file system whose files cannot be read at some places (EIO).

    with failing_disk(tmp_path / "disk", source) as disk:
        disk.fail("a.h4mk", 2**20, 2**21)

It shows a folder's files, read only, through FUSE; a file system's side of its protocol is spoken here
(fuse(4), linux/fuse.h, 7.31), since nothing else is needed of it. Reads that touch a place that fails are
answered with EIO, as a disk with a bad sector answers them; a page that is mapped from there cannot be had at
all.

Mounting needs root; `may_mount` says whether it may be done here. Where it may not, `failing_reader` is as
good for everything but mapped pages: there a server's own reads raise.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

__all__ = ["Disk", "failing_disk", "failing_reader", "may_mount"]

_IN: Final = struct.Struct("<IIQQIIIHH")
"""fuse_in_header: length, opcode, unique, node, uid, gid, pid, extensions, padding."""
_OUT: Final = struct.Struct("<IiQ")
"""fuse_out_header: length, error, unique."""
_INIT: Final = struct.Struct("<IIIIHHIIHHI28x")
"""fuse_init_out: major, minor, readahead, flags, background, congestion, max_write, grain, pages, alignment,
flags2."""
_ATTR: Final = struct.Struct("<QQQQQQIIIIIIIIII")
"""fuse_attr: ino, size, blocks, three times, their ns, mode, links, uid, gid, rdev, blksize, flags."""
_READ: Final = struct.Struct("<QQI")
"""fuse_read_in, its begin: handle, offset, size."""
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ_, _STATFS, _RELEASE, _FLUSH, _INIT_ = 1, 2, 3, 14, 15, 17, 18, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = 27, 28, 29, 36, 38, 42
_SILENT: Final = {_FORGET, _INTERRUPT, _BATCH_FORGET}
_FLAGS: Final = 1 | 1 << 22
"""FUSE_ASYNC_READ, FUSE_MAX_PAGES."""
_READ_ONLY: Final = 1 | 2 | 4
"""MS_RDONLY, MS_NOSUID, MS_NODEV."""
_DETACH: Final = 2
"""MNT_DETACH."""
_ROOT: Final = 1
"""FUSE_ROOT_ID."""
_BUFFER: Final = 2**21
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass
class Disk:
    """A folder some of whose bytes cannot be read."""

    path: Path
    """Where a server finds it."""
    source: Path
    """The folder whose files it shows."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the server has to be started with."""
    maps: bool = True
    """Whether mapped pages fail as well."""
    _bad: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    def fail(self, name: str, start: int, stop: int) -> None:
        """Let bytes `start` to `stop` of a file be unreadable from now on, where they are not cached."""
        self._bad.setdefault(name, []).append((start, stop))
        self._tell()

    def heal(self) -> None:
        """Let everything be readable again."""
        self._bad.clear()
        self._tell()

    def forget(self, name: str) -> None:
        """Take a file's pages out of the page cache, but for those that are mapped somewhere."""
        with (self.path / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _tell(self) -> None:
        if (table := self.environment.get("BAD_SECTORS")) is not None:
            Path(f"{table}~").write_text(json.dumps(self._bad))
            Path(f"{table}~").replace(table)

    # -- what the kernel asks

    def _answer(self, code: int, node: int, body: bytes) -> bytes:
        """What an operation gives. Raises OSError."""
        if code == _INIT_:
            return _INIT.pack(7, 31, 2**17, _FLAGS, 16, 12, 2**17, 1, 32, 0, 0)
        if code == _LOOKUP:
            name = body.rstrip(b"\0").decode()
            status = (self.source / name).stat()
            if name not in self._names:
                self._names.append(name)
            number = _ROOT + 1 + self._names.index(name)
            return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + _attributes(number, status)
        if code == _GETATTR:
            status = (self.source if node == _ROOT else self._path(node)).stat()
            return struct.pack("<QII", 0, 0, 0) + _attributes(node, status)
        if code in (_OPEN, _OPENDIR):
            return struct.pack("<QII", node, 2, 0)  # FOPEN_KEEP_CACHE
        if code == _READ_:
            return self._read(self._path(node), *_READ.unpack_from(body)[1:])
        if code == _READDIR:
            return self._list(*_READ.unpack_from(body)[1:])
        if code == _STATFS:
            return struct.pack("<QQQQQIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096)
        if code in (_RELEASE, _RELEASEDIR, _FLUSH, _DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not known")

    def _path(self, node: int) -> Path:
        return self.source / self._names[node - _ROOT - 1]

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        if any(offset < stop and start < offset + size for start, stop in self._bad.get(path.name, ())):
            raise OSError(errno.EIO, "bad sector")
        with path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    def _list(self, offset: int, size: int) -> bytes:
        found = b""
        for number, name in enumerate(sorted(one.name for one in self.source.iterdir())[offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", number + _ROOT, number, len(raw), stat.S_IFREG >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > size:
                break
            found += entry
        return found

    def serve(self, device: int) -> None:
        """Answer the kernel until the file system is taken away."""
        while True:
            try:
                data = os.read(device, _BUFFER)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, code, unique, node, *_ = _IN.unpack_from(data)
            if code in _SILENT:
                continue
            try:
                answer, failure = self._answer(code, node, data[_IN.size :]), 0
            except OSError as error:
                answer, failure = b"", -(error.errno or errno.EIO)
            with suppress(OSError):  # whoever asked does not wait any more
                os.write(device, _OUT.pack(_OUT.size + len(answer), failure, unique) + answer)


def _attributes(number: int, status: os.stat_result) -> bytes:
    times = [divmod(ns, 10**9) for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    return _ATTR.pack(
        number,
        status.st_size,
        -(-status.st_size // 512),
        *(seconds for seconds, _ in times),
        *(ns for _, ns in times),
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        0,
        4096,
        0,
    )


def _mount(device: int, path: Path) -> None:
    options = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},allow_other"
    if _libc.mount(b"failing", os.fsencode(path), b"fuse", _READ_ONLY, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def _unmount(path: Path) -> None:
    _libc.umount2(os.fsencode(path), _DETACH)


@contextmanager
def failing_disk(path: Path, source: Path) -> Iterator[Disk]:
    """Mount a disk that shows `source` at `path` until the block is left. Raises OSError if one may not."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        path.mkdir(exist_ok=True)
        disk = Disk(path, source)
        _mount(device, path)
        thread = threading.Thread(target=disk.serve, args=(device,), name="failing-disk", daemon=True)
        thread.start()
        try:
            yield disk
        finally:
            _unmount(path)
            thread.join(30)
            assert not thread.is_alive(), "somebody still has a file of it open"
    finally:
        os.close(device)


@contextmanager
def failing_reader(table: Path, source: Path) -> Iterator[Disk]:
    """The same for a server that is started with `environment`: its reads of `source` raise."""
    shim = Path(__file__).parent / "bad-sectors"
    disk = Disk(source, source, {"path": str(shim), "BAD_SECTORS": str(table)}, maps=False)
    disk.heal()
    yield disk


def may_mount() -> bool:
    """Whether a FUSE file system can be mounted here."""
    with TemporaryDirectory() as folder, suppress(OSError), failing_disk(Path(folder) / "x", Path(folder)):
        return True
    return False
