"""What a request brings: options, and media piece by piece, from a body as it is or from a multipart form.

No more than a piece is in memory, and every wait has an end. What breaks off is never taken for the end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from aiohttp import BodyPartReader, ClientError, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from harmony4.crypto.errors import UsageError
from harmony4.crypto.token import DEFAULT_BLOCK
from harmony4.server.cli.values import parse_block_size, parse_fps
from harmony4.server.errors import Problem
from harmony4.server.exporting.ingest import ExportOptions
from harmony4.server.intake.shelf import check_new_name
from harmony4.server.masking.asked import FIELDS as MASK_FIELDS
from harmony4.server.masking.asked import MaskAsked, parse_mask, switch

__all__ = [
    "EXPORT",
    "OPTIONS",
    "Asked",
    "Body",
    "Options",
    "check_coding",
    "check_head",
    "check_names",
    "go_on",
    "open_body",
    "open_pieces",
    "parse_asked",
    "switch",
    "wait_to_go_on",
]

_T = TypeVar("_T")

OPTIONS: Final = (
    *("name", "block_size", "fps_hint", "gop", "raw", "title", "remux", "keep_original", "spectrum"),
    *MASK_FIELDS,
)
FIELDS: Final = (*OPTIONS, "job")
"""What an export can be told, in the query or in fields of a form in front of the file."""
_PIECE: Final = 2**18
_FIELD: Final = 4096
"""Longest value of a field, bytes."""
_MOST_GOP: Final = 10**6
_TITLE: Final = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What an export is to do."""

    name: str | None
    """The container's name in the library; None: it is sent back."""
    options: ExportOptions
    job: bool
    """Answer when all has arrived, and go on without the client."""
    mask: MaskAsked | None = None
    """How it is to be masked; `options` do not say it, for they would hold keys."""


@dataclass(frozen=True, slots=True)
class Options(Generic[_T]):
    """What a route can be told, in the query or in fields of a form in front of the file."""

    names: tuple[str, ...]
    parse: Callable[[Mapping[str, str]], _T]
    """Of options as text. Raises UsageError."""
    check: Callable[[_T], None] = lambda _: None
    """Of all there are. Raises UsageError."""


@dataclass(frozen=True, slots=True)
class Body(Generic[_T]):
    """Media that are arriving."""

    asked: _T
    pieces: AsyncIterator[bytes]
    """Raises Problem: 400 where they break off or are no valid form, 408 where nothing comes any more."""


def parse_asked(fields: Mapping[str, str]) -> Asked:
    """Options as text. Raises UsageError."""
    check_names(fields, FIELDS)
    name, title = fields.get("name"), fields.get("title")
    if title is not None and not 0 < len(title.encode("utf-8", "surrogateescape")) <= _TITLE:
        raise UsageError("title is not valid", expected=f"1 to {_TITLE} bytes")
    try:
        size, rate = fields.get("block_size"), fields.get("fps_hint")
        options = ExportOptions(
            DEFAULT_BLOCK if size is None else parse_block_size(size),
            raw=switch(fields, "raw"),
            fps_hint=None if rate is None else parse_fps(rate),
            gop=_gop(fields),
            spectrum=fields.get("spectrum"),
            title=title,
            remux=switch(fields, "remux"),
            keep_original=switch(fields, "keep_original"),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    place = None if name is None else check_new_name(name)
    return Asked(place, options, switch(fields, "job"), parse_mask(fields))


def check_names(fields: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise UsageError for an option that is not among `known`."""
    unknown = sorted(set(fields) - set(known))
    if unknown:
        # Anything else in its place may be a secret that was put there by mistake.
        name = unknown[0][:40]
        found = name if re.fullmatch("[a-z_]+", name) else None
        raise UsageError("unknown option", expected=", ".join(known), found=found)


def _gop(fields: Mapping[str, str]) -> int | None:
    text = fields.get("gop")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 8 and 1 <= int(text) <= _MOST_GOP):
        raise UsageError("gop is not valid", expected=f"1 to {_MOST_GOP}", found=text[:40])
    return int(text)


async def wait_to_go_on(request: web.Request) -> None:
    """An `expect_handler` that says nothing yet: whether the body is wanted is not known so early."""
    expect = request.headers.get("Expect", "")
    if expect.lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def go_on(request: web.Request) -> None:
    """Tell a client that waits for it (RFC 9110 §10.1.1) to send the body."""
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer is out yet


def check_head(request: web.Request, options: Options[_T]) -> _T:
    """What a request asks for, as far as its head says it. Raises UsageError, Problem: 400, 415."""
    check_coding(request)
    kind = request.content_type
    if kind.startswith("multipart/") and kind != "multipart/form-data":
        raise Problem("content-type", "expected the media, or multipart/form-data with a field `file`")
    if len(set(request.query)) != len(request.query):
        raise UsageError("an option is given twice")
    asked = options.parse(dict(request.query))
    if kind != "multipart/form-data":
        options.check(asked)
    return asked


def check_coding(request: web.Request) -> None:
    """Raise Problem (415) for a body that is compressed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("content-type", "media are taken as they are: send no Content-Encoding")


def check_job(asked: Asked) -> None:
    """Raise UsageError for a job whose container nobody could find."""
    if asked.job and asked.name is None:
        raise UsageError("name is missing", expected="a job's container has a name")


EXPORT: Final = Options(FIELDS, parse_asked, check_job)


async def open_body(request: web.Request, patience: float, options: Options[_T]) -> Body[_T]:
    """The media in a request, whose head is checked and whose body is wanted (`go_on`).

    `patience`: seconds without a byte. Raises UsageError, Problem: 400, 408.
    """
    check_coding(request)
    fields = dict(request.query)
    if request.content_type != "multipart/form-data":
        return Body(options.parse(fields), _plain(request, patience))
    body = await _form(request, fields, patience, options)
    options.check(body.asked)
    return body


def open_pieces(request: web.Request, patience: float) -> AsyncIterator[bytes]:
    """The body of a request as it is, which is wanted (`go_on`); `patience`: seconds without a byte.

    Raises Problem: 415, and as `Body.pieces` does.
    """
    check_coding(request)
    return _plain(request, patience)


async def _plain(request: web.Request, patience: float) -> AsyncIterator[bytes]:
    content = request.content
    while True:
        with _reading():
            async with asyncio.timeout(patience):
                piece = await content.readany()
        if not piece:
            return
        yield piece


async def _form(
    request: web.Request, fields: dict[str, str], patience: float, options: Options[_T]
) -> Body[_T]:
    """Fields up to the file; all of them are small, so they get no more time than one silence."""
    with _reading():
        async with asyncio.timeout(patience):
            reader = await request.multipart()
            while True:
                part = await reader.next()
                if part is None:
                    raise UsageError("the form has no field `file`")
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise UsageError("the form is not valid", expected="fields with names")
                if part.name == "file":
                    break
                check_names({part.name: ""}, options.names)
                if part.name in fields:
                    raise UsageError("an option is given twice", found=part.name[:40])
                fields[part.name] = await _text(part)
    return Body(options.parse(fields), _file(reader, part, patience))


async def _text(part: BodyPartReader) -> str:
    data = b""
    while piece := await part.read_chunk(_FIELD):
        data += piece
        if len(data) > _FIELD:
            raise UsageError("a field is too long", expected=f"<= {_FIELD} bytes", found=str(part.name)[:40])
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("a field is not UTF-8", found=str(part.name)[:40]) from None


async def _file(reader: MultipartReader, part: BodyPartReader, patience: float) -> AsyncIterator[bytes]:
    if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise Problem("content-type", "media are taken as they are: send no Content-Transfer-Encoding")
    while True:
        with _reading():
            async with asyncio.timeout(patience):
                piece = await part.read_chunk(_PIECE)
        if not piece and part.at_eof():
            break
        if piece:
            yield piece
    with _reading():
        async with asyncio.timeout(patience):
            if await reader.next() is not None:
                raise UsageError("fields must stand in front of `file`, which is the last one")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Problem("timeout", "nothing comes any more") from None
    except (
        web.RequestPayloadError,
        ClientError,
        ConnectionError,
        HttpProcessingError,
        ValueError,
        RuntimeError,
        AssertionError,
    ) as error:
        raise Problem("body", "the body breaks off or is not valid") from error
