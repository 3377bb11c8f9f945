"""The header fields of tus 1.0 (https://tus.io/protocols/resumable-upload) as pure functions: text in,
values or UsageError out.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from harmony4.crypto.errors import UsageError
from harmony4.server.folder.library import SUFFIX
from harmony4.server.intake.body import OPTIONS, Asked, parse_asked

__all__ = [
    "ALGORITHMS",
    "CHUNK_TYPE",
    "EXTENSIONS",
    "VERSION",
    "Checksum",
    "asked_for",
    "expires",
    "parse_checksum",
    "parse_metadata",
    "parse_size",
]

VERSION: Final = "1.0.0"
EXTENSIONS: Final = ("creation", "creation-with-upload", "termination", "checksum", "expiration")
ALGORITHMS: Final = ("sha1", "sha256")
"""For `Upload-Checksum`; the protocol asks for SHA-1."""
CHUNK_TYPE: Final = "application/offset+octet-stream"

"""Keys of the metadata that say something to the export; all others are the client's own."""
_KEY: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
"""ASCII without spaces, commas and control characters."""
_LONGEST: Final = 4096
"""Bytes of metadata, as they are sent."""
_MOST_KEYS: Final = 32
_DIGITS: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_SIZES: Final = {"sha1": 20, "sha256": 32}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the body of a request must have."""

    algorithm: str
    """One of ALGORITHMS, as `hashlib.new` takes it."""
    digest: bytes


def parse_size(field: str, text: str | None) -> int:
    """`Upload-Length` or `Upload-Offset`: bytes, below 2^63. Raises UsageError."""
    if text is None or not _DIGITS.fullmatch(text) or int(text) >= 2**63:
        found = None if text is None else text[:40]
        raise UsageError(f"{field} is not valid", expected="a whole number below 2^63", found=found)
    return int(text)


def parse_metadata(text: str) -> dict[str, bytes]:
    """`Upload-Metadata`: keys and values, which may be empty. Raises UsageError.

    Strict: at most 4 KiB and 32 keys, each once, of ASCII without spaces and commas; values are Base64 with
    its padding (RFC 4648 §4).
    """
    if len(text.encode("utf-8", "surrogateescape")) > _LONGEST:
        raise UsageError("Upload-Metadata is too long", expected=f"<= {_LONGEST} bytes")
    found: dict[str, bytes] = {}
    pairs = [pair.strip(" \t") for pair in text.split(",")]
    if pairs == [""]:
        return found
    for pair in pairs:
        key, _, value = pair.partition(" ")
        if not _KEY.fullmatch(key):
            raise UsageError("a key of Upload-Metadata is not valid", expected="ASCII", found=key[:40])
        if key in found:
            raise UsageError("a key of Upload-Metadata is given twice", found=key[:40])
        found[key] = _base64(value, f"{key[:40]} in Upload-Metadata")
    if len(found) > _MOST_KEYS:
        raise UsageError("Upload-Metadata has too many keys", expected=f"<= {_MOST_KEYS}", found=len(found))
    return found


def asked_for(metadata: Mapping[str, bytes]) -> Asked:
    """What the export is to do, and the container's name: `name`, or `filename` with `.h4mk` for its
    extension.

    Values that it takes are UTF-8. Raises UsageError.
    """
    fields = {key: _text(key, metadata[key]) for key in OPTIONS if key in metadata}
    if "name" not in fields:
        if "filename" not in metadata:
            raise UsageError(
                "the container's name is missing", expected="`name` or `filename` in Upload-Metadata"
            )
        fields["name"] = _container_name(_text("filename", metadata["filename"]))
    return parse_asked(fields)


def _container_name(filename: str) -> str:
    last = re.split(r"[/\\]", filename)[-1]
    stem, dot, _ = last.rpartition(".")
    return (stem if dot and stem else last) + SUFFIX


def parse_checksum(text: str) -> Checksum:
    """`Upload-Checksum`: the name of an algorithm and a digest in Base64. Raises UsageError."""
    algorithm, _, value = text.partition(" ")
    if algorithm not in ALGORITHMS:
        raise UsageError(
            "the checksum's algorithm is not known", expected=", ".join(ALGORITHMS), found=algorithm[:40]
        )
    digest = _base64(value, "Upload-Checksum")
    if len(digest) != _SIZES[algorithm]:
        raise UsageError(
            "the checksum is of another size", expected=f"{_SIZES[algorithm]} bytes", found=len(digest)
        )
    return Checksum(algorithm, digest)


def expires(when: float) -> str:
    """`Upload-Expires`: seconds since the epoch as a date (RFC 9110 §5.6.7)."""
    return formatdate(when, usegmt=True)


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise UsageError(f"{what} is not Base64", found=text[:40]) from None


def _text(key: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{key} in Upload-Metadata is not UTF-8") from None
