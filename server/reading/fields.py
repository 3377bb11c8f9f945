"""Response headers that a client has to ask for: `Content-Disposition` and `Content-Digest`.

`attachment`, `download_name` and `wants_sha256` are pure; `asked_fields` puts the headers of one answer
together and reads the content where its digest is wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import quote

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.server.folder.library import SUFFIX
from harmony4.server.reading.ranges import ByteRange, Decision, digest_field
from harmony4.server.reading.resource import Resource

__all__ = [
    "MAX_DIGESTED",
    "asked_fields",
    "attachment",
    "content_digest",
    "download_name",
    "wants_sha256",
]

MAX_DIGESTED: Final = 64 * 2**20
"""Bytes of content above which a wish for its digest is not granted unless the digest is known.

All of the content has to be read before the first header goes out. 64 MiB take a thread some tens of
milliseconds where the processor knows SHA-256, and a few hundred where it does not.
"""
_STEP: Final = 2**20
"""Bytes digested in one turn of a thread: requests that need one in the meantime get theirs in between."""
_READ: Final = 256 * 2**10

# Control characters, line and paragraph separators, and the marks and overrides of text direction, with which
# a name may show another ending than it has.
_UNSHOWN: Final = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
# What a quoted string holds only with an escape that not every client undoes, what is a path to some, and the
# percent sign, which some decode (RFC 6266 appendix D).
_UNSAFE: Final = re.compile(r'[^ -~]|["%/\\]')
_ATTR_CHAR: Final = "!#$&+-.^_`|~"
"""What RFC 8187 §3.2.1 leaves as it is beside letters and digits."""

_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_BARE: Final = (
    r"(?:-?\d{1,12}\.\d{1,3}|-?\d{1,15}"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*|:[A-Za-z0-9+/=]*:|\?[01])"
)
_MEMBER: Final = re.compile(rf"({_KEY})=(-?\d{{1,15}})(?:; *{_KEY}(?:={_BARE})?)*", re.ASCII)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")


async def asked_fields(request: web.Request, resource: Resource, decision: Decision) -> dict[str, str]:
    """The headers that a request for a resource asked for, for an answer of 200 or 206.

    Raises UsageError for a `download` that is neither 0 nor 1, and HarmonyError where the content whose
    digest is wanted cannot be read.
    """
    fields = {}
    if _download(request):
        name = download_name(resource.container.name, resource.extension)
        fields["Content-Disposition"] = attachment(name)
    # Not on HEAD: its own content is empty (RFC 9530 appendix B.2), and the digest of nothing helps nobody.
    wanted = request.headers.getall("Want-Content-Digest", ())
    if wanted and request.method == "GET" and wants_sha256(wanted):
        digest = await _digest(resource, decision, lambda: request.transport is not None)
        if digest is not None:
            fields["Content-Digest"] = digest_field(digest)
    return fields


def download_name(name: str, extension: str | None) -> str:
    """The file name for a download of something out of the container `name`, a path below the library.

    `extension` takes the place of the container's own (`a/clip.mp4.h4mk` and `a/clip.h4mk` give `clip.mp4`);
    None keeps it. Pure.
    """
    base = name.rpartition("/")[2]
    if extension is None:
        return base
    stem = base.removesuffix(SUFFIX)
    return stem if stem.lower().endswith(f".{extension}") else f"{stem}.{extension}"


def attachment(name: str) -> str:
    """A Content-Disposition that saves the answer as `name` (RFC 6266, RFC 8187). Total and pure.

    `filename` is for clients that know ASCII only, with `_` for what it cannot hold; `filename*` is the true
    name, and stands there only where they differ.
    """
    name = _UNSHOWN.sub("_", name).replace("/", "_").replace("\\", "_")
    plain = _UNSAFE.sub("_", name)
    if plain == name:
        return f'attachment; filename="{plain}"'
    return (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR, errors='replace')}"
    )


def wants_sha256(values: Sequence[str]) -> bool:
    """Whether `Want-Content-Digest` headers ask for SHA-256 (RFC 9530 §4).

    They are one dictionary of integers from 0, not acceptable, to 10 (RFC 8941 §3.2); the last value of a key
    counts, and parameters mean nothing. Whatever is not one is ignored as a whole.
    """
    text = ", ".join(values).strip(" ")
    wishes: dict[str, int] = {}
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        if member is None:
            return False
        wishes[member[1]] = int(member[2])
        if member.end() == len(text):
            break
        comma = _COMMA.match(text, member.end())
        if comma is None:
            return False
        at = comma.end()
    return all(0 <= wish <= 10 for wish in wishes.values()) and wishes.get("sha-256", 0) > 0


async def content_digest(
    resource: Resource, parts: Sequence[bytes | ByteRange], awaited: Callable[[], bool] = lambda: True
) -> bytes | None:
    """The SHA-256 of a body of these parts; None if it is not `awaited` any more. Raises HarmonyError.

    The file is read, in threads: never the mapping, as only the kernel may touch that. Digested and sent are
    thus two looks at one file. A container that is replaced keeps its open file, so both see the same bytes;
    one that is cut short in between breaks the connection off (`payload.send`); and one that somebody writes
    over in place gives a digest that does not match, as it should.
    """
    found = hashlib.sha256()
    steps = _digesting(resource, parts, found)
    while await asyncio.to_thread(next, steps, False):
        if not awaited():
            return None
    return found.digest()


async def _digest(resource: Resource, decision: Decision, awaited: Callable[[], bool]) -> bytes | None:
    """The digest of the content; None where it is too long to compute, or the client has left."""
    if decision.status == 200 and resource.digest is not None:
        return resource.digest
    length = sum(len(part) if isinstance(part, bytes) else part.length for part in decision.parts)
    if length > MAX_DIGESTED:
        return None
    return await content_digest(resource, decision.parts, awaited)


def _digesting(
    resource: Resource, parts: Sequence[bytes | ByteRange], found: hashlib._Hash
) -> Iterator[bool]:
    """Feed `found` with the parts; gives True after each `_STEP` bytes. In a thread."""
    done = 0
    for part in parts:
        if isinstance(part, bytes):
            found.update(part)
            continue
        for piece in _pieces(resource, part):
            found.update(piece)
            done += len(piece)
            if done >= _STEP:
                done = 0
                yield True


def _pieces(resource: Resource, part: ByteRange) -> Iterator[bytes | memoryview]:
    """The bytes of a range, read or unmasked."""
    if resource.fill is not None and resource.checked is not None:
        yield from resource.checked(part.start, part.length)
        return
    for offset, size in resource.pieces(part.start, part.length):
        for at in range(0, size, _READ):
            yield resource.container.reader.read_file(offset + at, min(_READ, size - at))


def _download(request: web.Request) -> bool:
    """Whether the query says `download=1`. Raises UsageError."""
    value = request.query.get("download", "0")
    if value not in ("0", "1"):
        raise UsageError("download is not valid", expected="0 or 1", found=value[:40])
    return value == "1"
