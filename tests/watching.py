"""Who opens which files, as the kernel reports it (inotify; Linux)."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


class Opens:
    """Every opening of a file in `folder`, by any process."""

    IN_OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), self.IN_OPEN) >= 0

    def names(self) -> list[str]:
        """The files that were opened since the last call, in order; the folder itself is called ""."""
        names = []
        while True:
            try:
                data = os.read(self._fd, 2**16)
            except BlockingIOError:
                return names
            while data:
                size = int.from_bytes(data[12:16], sys.byteorder)
                names.append(data[16 : 16 + size].rstrip(b"\0").decode())
                data = data[16 + size :]

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)
