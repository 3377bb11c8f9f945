"""Master keys as people keep them: one line of text, in a file or in the environment (H4MK 21.2).

    h4mk-key-v1:<64 hexadecimal digits>
    h4mk-key-v1-scrypt:<log2 N>:<r>:<p>:<salt, 32 digits>:<80 digits>

The second is for keys with a passphrase: AES-KW (RFC 3394) of the key under scrypt (RFC 7914) of the
passphrase, which is Unicode's NFC in UTF-8. No error and no line of a log repeats any part of a key's text.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from harmony4.crypto.errors import HarmonyError, KeyRefusedError, SourceError, StorageError
from harmony4.crypto.mask import MasterKey
from harmony4.crypto.passphrase import Stretch, lock_key, unlock_key
from harmony4.h4mk.edits.target import sync_folder

__all__ = [
    "KEY",
    "KEY_FILE",
    "PASSPHRASE",
    "Keyring",
    "Passphrase",
    "format_key",
    "parse_key",
    "passphrase_from",
    "read_key_file",
    "write_key_file",
]

_LOG: Final = logging.getLogger("harmony4.server")

KEY: Final = "HARMONY4_KEY"
"""The variable of the environment that may hold a key's text."""
KEY_FILE: Final = "HARMONY4_KEY_FILE"
"""The one that may hold the name of a key file."""
PASSPHRASE: Final = "HARMONY4_KEY_PASSPHRASE"  # noqa: S105 - a name
"""The one that may hold the passphrase of keys."""

Passphrase = Callable[[], str]
"""Asks for a passphrase, once it is known that one is needed."""

_LONGEST: Final = 4096
"""Bytes of a key file; the longest key has 159."""
_PLAIN: Final = re.compile(r"h4mk-key-v1:([0-9A-Fa-f]{64})")
_LOCKED: Final = re.compile(
    r"h4mk-key-v1-scrypt:([1-9][0-9]?):([1-9][0-9]{0,3}):([1-9][0-9]?):([0-9A-Fa-f]{32}):([0-9A-Fa-f]{80})"
)
_LIKE_A_KEY: Final = re.compile(r"h4mk-key-|[0-9A-Fa-f]{64}")
_SALT: Final = 16
_OPEN: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def format_key(key: MasterKey, passphrase: str | None = None) -> str:
    """The text of a key, without a line end; locked by `passphrase` if there is one.

    Raises UsageError for an empty passphrase.
    """
    if passphrase is None:
        return f"h4mk-key-v1:{key.reveal().hex()}"
    stretch = Stretch(secrets.token_bytes(_SALT))
    locked = lock_key(key, passphrase, stretch)
    return f"h4mk-key-v1-scrypt:{stretch.log_n}:{stretch.r}:{stretch.p}:{stretch.salt.hex()}:{locked.hex()}"


def parse_key(text: str, passphrase: Passphrase | None = None) -> MasterKey:
    """The key that a text stands for; white space around it does not count.

    `passphrase` is called at most once, where one is needed. Raises KeyRefusedError for anything that is no
    key, for a wrong passphrase and where there is none, and for scrypt parameters that would take more than
    256 MiB, or too long.
    """
    text = text.strip()
    if plain := _PLAIN.fullmatch(text):
        return MasterKey(bytes.fromhex(plain[1]))
    locked = _LOCKED.fullmatch(text)
    if locked is None:
        raise KeyRefusedError("that is not the text of a key", expected="one line: h4mk-key-v1:…")
    log_n, r, p = (int(number) for number in locked.groups()[:3])
    stretch = Stretch(bytes.fromhex(locked[4]), log_n, r, p)
    if passphrase is None:
        raise KeyRefusedError(f"the key has a passphrase; {PASSPHRASE} can hold it")
    return unlock_key(bytes.fromhex(locked[5]), passphrase(), stretch)


def passphrase_from(environ: Mapping[str, str]) -> Passphrase | None:
    """The passphrase that the environment holds, if it does."""
    found = environ.get(PASSPHRASE)
    return (lambda: found) if found else None


def read_key_file(
    path: str | os.PathLike[str], passphrase: Passphrase | None = None, *, strict: bool = False
) -> MasterKey:
    """The key in a file; pipes and the like will do, unless `strict`: only files that others cannot read.

    As with ssh, a file of the user's own that others may read is refused: a key that was seen is no key.
    Raises SourceError, and KeyRefusedError as `parse_key` does, with the file's name.
    """
    where = os.fsdecode(path)
    if _LIKE_A_KEY.search(where):
        # Whoever reads the error, a log or the list of processes would have it.
        raise KeyRefusedError("that is a key, not the name of a file; give it up, it may have been seen")
    try:
        return parse_key(_read(path, strict), passphrase)
    except KeyRefusedError as error:
        raise KeyRefusedError(
            error.message, where=where, expected=error.expected, found=error.found
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise SourceError(f"cannot read the key file: {reason}", where=where) from None


def _read(path: str | os.PathLike[str], strict: bool) -> str:
    # A FIFO that nobody writes to would be waited for; a server must not.
    descriptor = os.open(path, _OPEN | (getattr(os, "O_NONBLOCK", 0) if strict else 0))
    try:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode)
        if strict and not regular:
            raise KeyRefusedError("it is not a regular file")
        mine = strict or (regular and os.name == "posix" and status.st_uid == os.geteuid())
        if os.name == "posix" and mine and status.st_mode & 0o077:
            raise KeyRefusedError(
                "others may read or change the key file; `chmod 600` ends that, if nobody has read it yet",
                expected="mode 0600",
                found=f"{stat.S_IMODE(status.st_mode):04o}",
            )
        data = b""
        while len(data) <= _LONGEST and (piece := os.read(descriptor, _LONGEST + 1 - len(data))):
            data += piece
    finally:
        os.close(descriptor)
    # Longer than any key, or not text: `parse_key` says that it is none.
    return data.decode("ascii", "replace") if len(data) <= _LONGEST else ""


def write_key_file(path: str | os.PathLike[str], text: str) -> None:
    """Put a key's text into a new file that only its owner may read; it is on the disk when this returns.

    Raises StorageError, also where there is something under that name: a key that was written over is lost,
    and with it what it masks.
    """
    where = os.fsdecode(path)
    try:
        descriptor = os.open(path, _CREATE, 0o600)
    except FileExistsError:
        raise StorageError(
            "there is a file of that name, and keys are never written over", where=where
        ) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write the key file: {_reason(error)}", where=where) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(Path(path).absolute().parent)
    except BaseException as error:
        with suppress(OSError):
            Path(path).unlink()
        if isinstance(error, OSError):
            raise StorageError(f"cannot write the key file: {_reason(error)}", where=where) from None
        raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not a file name"


_LOOKS: Final = 2.0
"""Seconds between two looks at whether the files of a keyring have changed."""


_Mark = tuple[int, ...] | None
_File = tuple[_Mark, MasterKey | None]


def _mark(path: Path) -> _Mark:
    """What tells a file from its replacement, and from what it was before a chmod."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Keyring:
    """The keys of a server: each `*.key` file in a folder, under its name without the `.key`.

    For all threads. `get` and `masters` never touch the disk; `reload` does, and is for threads. Files that
    hold no key, may be read by others or have a passphrase that nobody said are left out, and the log names
    them.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, *, passphrase: Passphrase | None = None
    ) -> None:
        """Read the folder; None: a keyring that stays empty. Touches the disk. Raises SourceError.

        `passphrase`: by default what the environment says.
        """
        self._folder = None if folder is None else Path(folder)
        self._passphrase = passphrase or passphrase_from(os.environ)
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}
        self._names: dict[str, MasterKey] = {}
        self._ids: dict[bytes, MasterKey] = {}
        self._next = 0.0
        self._failed = False
        if self._folder is not None:
            try:
                self._look(self._folder)
            except OSError as error:
                raise SourceError(
                    f"cannot read the keyring: {error.strerror}", where=str(self._folder)
                ) from None

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._ids)}>"

    def get(self, name: bytes | str) -> MasterKey | None:
        """A key by its id (16 bytes, or 32 hexadecimal digits) or by its file's name without `.key`."""
        if isinstance(name, bytes):
            return self._ids.get(name)
        # An id first: a file that is called like another key's id must not stand for that key.
        if re.fullmatch("[0-9a-f]{32}", name):
            return self._ids.get(bytes.fromhex(name))
        return self._names.get(name)

    def masters(self) -> tuple[MasterKey, ...]:
        """All keys, in the order of their ids."""
        return tuple(key for _, key in sorted(self._ids.items()))

    def names(self) -> dict[str, bytes]:
        """The key ids by file name, in order of the names."""
        return {name: key.id for name, key in sorted(self._names.items())}

    @property
    def due(self) -> bool:
        """Whether the last look is so long ago that `reload` would look again."""
        return self._folder is not None and time.monotonic() >= self._next

    def reload(self, *, now: bool = False) -> bool:
        """Read what has changed in the folder, if it is time to look again or `now`. Touches the disk.

        Returns whether other keys are known than before. Where the folder cannot be read, no key is known.
        """
        folder = self._folder
        with self._lock:
            if folder is None or not (now or self.due):
                return False
            before = self._names
            try:
                self._look(folder)
                self._failed = False
            except OSError as error:
                if not self._failed:
                    _LOG.error("no key is known any more: cannot read the keyring: %s", error.strerror)
                self._failed = True
                self._files, self._names, self._ids = {}, {}, {}
            return self._names != before

    def _look(self, folder: Path) -> None:
        self._next = time.monotonic() + _LOOKS
        found: dict[str, _File] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix != ".key" or path.name.startswith("."):
                continue
            marked = _mark(path)
            known = self._files.get(path.name)
            # An unchanged file is not read again, and not complained about again: scrypt is slow.
            if known is None or known[0] != marked:
                known = marked, self._read(path)
            found[path.name] = known
        names = {name.removesuffix(".key"): key for name, (_, key) in found.items() if key is not None}
        self._files, self._names = found, names
        self._ids = {key.id: key for key in names.values()}

    def _read(self, path: Path) -> MasterKey | None:
        try:
            return read_key_file(path, self._passphrase, strict=True)
        except HarmonyError as error:
            # Without the folder, and without anything that stands in the file.
            _LOG.warning("key file %r is not used: %s", path.name, error.message)
            return None
