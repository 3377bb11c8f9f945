"""The latest edition of each subject that was seen, in a file of the user's (H4MK 13.5, 22.6).

An old edition has a good signature for ever: who remembers the highest revision refuses it.

    {"editions":[{"key":"<fingerprint>","revision":3,"subject":"<SHA-256>"}],"format":"h4mk editions 1"}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import rfc8785

from harmony4.crypto.errors import StorageError, UsageError
from harmony4.h4mk.proofs.trust import Accepted
from harmony4.server.cli.keys import read_file
from harmony4.server.state import hold, write_whole

__all__ = ["Editions"]

_FORMAT: Final = "h4mk editions 1"
_MOST: Final = 2**26
"""Bytes of a file: 400 000 subjects."""
_NAME: Final = re.compile(r"[0-9a-f]{64}")


class Editions:
    """What is known, by a key's fingerprint and a subject's hash."""

    def __init__(self, path: str | None) -> None:
        """`path`: the file, which need not be there yet; None: nothing is known, and nothing kept.

        Raises SourceError; UsageError for a file that holds something else.
        """
        self._path = None if path is None else Path(os.path.realpath(path))
        self.latest: Mapping[tuple[bytes, bytes], int] = self._read()

    def _read(self) -> dict[tuple[bytes, bytes], int]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            return _parse(json.loads(read_file(os.fspath(self._path), "the editions", _MOST)))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError("that is no list of editions", where=os.fspath(self._path)) from None

    def remember(self, accepted: Iterable[Accepted | None]) -> None:
        """Keep what was believed, where it is later than what is known.

        Raises StorageError, and as `Editions` does.
        """
        found = {
            (one.key.fingerprint, one.subject): one.revision
            for one in sorted(filter(None, accepted), key=lambda one: one.revision)
            if one.subject is not None
        }
        if self._path is None or not found:
            return
        try:
            with _alone(self._path.parent):
                known = self._read()
                latest = known | {name: n for name, n in found.items() if n > known.get(name, -1)}
                if latest != known:
                    data = rfc8785.dumps(_facts(latest))
                    if len(data) > _MOST:
                        raise StorageError(
                            f"the editions {self._path} are full", expected=f"<= {_MOST} bytes"
                        )
                    write_whole(self._path, data, sync=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"cannot write the editions {self._path}: {reason}") from error
        self.latest = latest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Others may remember something at the same time; where folders cannot be locked they had better not."""
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hold(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _facts(latest: Mapping[tuple[bytes, bytes], int]) -> Any:
    editions = [
        # As text where JSON's numbers end.
        {"key": key.hex(), "subject": subject.hex(), "revision": n if n < 2**53 else str(n)}
        for (key, subject), n in sorted(latest.items())
    ]
    return {"format": _FORMAT, "editions": editions}


def _parse(document: Any) -> dict[tuple[bytes, bytes], int]:
    """Raises ValueError, KeyError, TypeError."""
    found = {}
    for one in document["editions"]:
        names, text = (one["key"], one["subject"]), str(one["revision"])
        if not all(map(_NAME.fullmatch, names)) or not re.fullmatch(r"[0-9]{1,19}", text):
            raise ValueError(one)
        found[bytes.fromhex(names[0]), bytes.fromhex(names[1])] = int(text)
    if document["format"] != _FORMAT:
        raise ValueError(document["format"])
    return found
