"""The page at `/` and its files below `/static/`, read once at start and served from memory."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

import harmony4.static
from harmony4.crypto.errors import NotFoundError
from harmony4.server.reading.ranges import Representation, decide

__all__ = ["PAGE_POLICY", "SECURITY_HEADERS", "StaticFile", "load_static", "routes", "secure"]

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "harmony4",
}
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_MEDIA: Final = "application/octet-stream"
_WORKER: Final = "unmask-worker.js"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page."""

    data: bytes
    content_type: str
    etag: str
    packed: bytes
    """`data` by gzip, the same bytes wherever they are made."""


def load_static(folder: Path | None = None) -> dict[str, StaticFile]:
    """The files of the page by name: those of the package `harmony4.static`, or of another folder."""
    folder = Path(harmony4.static.__path__[0]) if folder is None else folder
    found = {}
    for path in sorted(folder.iterdir()):
        kind = _TYPES.get(path.suffix)
        if kind is not None and path.is_file():
            data = path.read_bytes()
            found[path.name] = StaticFile(data, kind, hashlib.sha256(data).hexdigest()[:32], _gzip(data))
    return found


def routes(files: Mapping[str, StaticFile]) -> list[web.RouteDef]:
    """`/` and `/static/NAME` for these files."""

    async def get_page(request: web.Request) -> web.Response:
        return _respond(request, "index.html", files["index.html"])

    async def get_static(request: web.Request) -> web.Response:
        name = request.match_info["file"]
        file = files.get(name)
        if file is None:
            raise NotFoundError("there is no such file")
        return _respond(request, name, file)

    return [web.get("/", get_page), web.get("/static/{file}", get_static)]


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def _takes_gzip(request: web.Request) -> bool:
    """Whether a client says that it takes gzip (RFC 9110 12.5.3); one that says it does not is believed."""
    for one in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _respond(request: web.Request, name: str, file: StaticFile) -> web.Response:
    # Ranges of such small files are never asked for: only the preconditions of `decide` matter here.
    packed = _takes_gzip(request)
    etag = f"{file.etag}-gzip" if packed else file.etag  # other bytes, another strong tag
    decision = decide("HEAD", request.headers, Representation(len(file.data), etag))
    headers = {"Cache-Control": "no-cache", "ETag": f'"{etag}"', "Content-Type": file.content_type}
    headers["Vary"] = "Accept-Encoding"
    if packed:
        headers["Content-Encoding"] = "gzip"
    if file.content_type.startswith("text/html"):
        headers["Content-Security-Policy"] = PAGE_POLICY
        headers["X-Frame-Options"] = "DENY"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if name == _WORKER:
        headers["Service-Worker-Allowed"] = "../"  # the page lies above it; relative, so below any prefix
    body = (file.packed if packed else file.data) if decision.status == 200 else None
    if decision.status == 304:
        del headers["Content-Type"]
        headers.pop("Content-Encoding", None)
    return web.Response(status=decision.status, headers=headers, body=body)


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Put the security headers on every answer; a signal handler, so that errors and streams have them
    too."""
    headers = response.headers
    headers.update(SECURITY_HEADERS)
    if response.content_type != _MEDIA and not response.content_type.startswith(("video/", "audio/")):
        # What is no page has nothing to load and no business in a frame. Browsers show media that is opened
        # by
        # itself in a page of their own, which this would stop.
        headers.setdefault("Content-Security-Policy", DATA_POLICY)
