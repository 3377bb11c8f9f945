"""The family of errors: one root, a few branches, and each error says where, expected and found.

`code` is stable: it is the last part of the problem `type` over HTTP and the `class` of a test vector.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ChecksumError",
    "CriticalError",
    "FormatError",
    "HarmonyError",
    "JSONError",
    "KeyRefusedError",
    "LimitError",
    "MediaError",
    "NotFoundError",
    "OrderError",
    "SealError",
    "SourceChangedError",
    "SourceError",
    "StorageError",
    "TruncatedError",
    "UsageError",
    "VersionError",
]


class HarmonyError(Exception):
    """Root of every error that a caller of HarmonyØ4 can see.

    `where` is a place (a file offset in bytes, a chunk, a block, a JSON path), `expected` and `found` are
    what stood against each other there; any of them may be None.
    """

    code: ClassVar[str] = "harmony"

    def __init__(
        self,
        message: str,
        *,
        where: str | int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        text = self.message
        if self.where is not None:
            text += f" at offset {self.where}" if isinstance(self.where, int) else f" in {self.where}"
        if self.expected is not None:
            text += f" (expected {self.expected}"
            text += f", found {self.found})" if self.found is not None else ")"
        elif self.found is not None:
            text += f" (found {self.found})"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves; errors cross processes here.
        return _rebuild, (type(self), self.message, self.where, self.expected, self.found)


def _rebuild(
    kind: type[HarmonyError], message: str, where: str | int | None, expected: object, found: object
) -> HarmonyError:
    return kind(message, where=where, expected=expected, found=found)


class FormatError(HarmonyError):
    """The bytes are not a valid H4MK container."""

    code = "format"


class TruncatedError(FormatError):
    """The file ends inside something that began."""

    code = "truncated"


class VersionError(FormatError):
    """The magic or the version in the header is not ours (H4MK 2.1)."""

    code = "version"


class ChecksumError(FormatError):
    """A chunk's CRC-32 does not match its payload."""

    code = "checksum"


class OrderError(FormatError):
    """A chunk, a block or an entry is misplaced, doubled or missing."""

    code = "order"


class CriticalError(FormatError):
    """An unknown critical tag, flag or kind: reading on would be guessing."""

    code = "critical"


class JSONError(FormatError):
    """A JSON chunk is not canonical, or not what its schema asks for."""

    code = "json"


class SealError(FormatError):
    """A digest, the root or a derived table does not match what it was derived from."""

    code = "seal"


class KeyRefusedError(HarmonyError):
    """A key is missing, is not one of the file's, or cannot be opened. Says nothing of the key itself."""

    code = "key"


class LimitError(HarmonyError):
    """A size or a count is beyond what the format or the configuration allows."""

    code = "limit"


class SourceError(HarmonyError):
    """A source cannot be read: missing, a folder, no permission, an I/O error."""

    code = "source"


class SourceChangedError(SourceError):
    """A source changed while it was being read."""

    code = "source-changed"


class StorageError(HarmonyError):
    """A target cannot be written: no space, no permission, an I/O error."""

    code = "storage"


class MediaError(HarmonyError):
    """The demuxer refuses the media, or reading it went beyond a limit."""

    code = "media"


class UsageError(HarmonyError):
    """An argument is wrong, or calls came in an order that makes no sense."""

    code = "usage"


class NotFoundError(HarmonyError):
    """A name, a track or a time that is asked for does not exist."""

    code = "not-found"
