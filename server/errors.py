"""Errors as RFC 9457 problem details: the status and type of every error class, and the middleware that says
so.

A problem's `type` is `urn:harmony4:problem:` and the `code` of a `HarmonyError`, or one of the codes that
only exist
in HTTP (`PROBLEMS` lists both). Nothing in a problem names a path of the machine or a line of code: messages
of
`SourceError` and `StorageError`, which may, are replaced here and logged instead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from harmony4.crypto.errors import FormatError, HarmonyError

__all__ = [
    "CODE",
    "DAMAGED",
    "PROBLEMS",
    "PROBLEM_TYPE",
    "Problem",
    "describe",
    "problem_response",
    "problems",
]

PROBLEM_TYPE: Final = "application/problem+json"
_PREFIX: Final = "urn:harmony4:problem:"
_LOG: Final = logging.getLogger("harmony4.server")

PROBLEMS: Final[Mapping[str, tuple[int, str]]] = {
    # code: (status, title). First the codes of HarmonyError and its family.
    "harmony": (500, "Something failed"),
    "format": (500, "The container is not valid H4MK"),
    "truncated": (500, "The container ends too early"),
    "version": (500, "Not a container of a known version"),
    "checksum": (500, "A chunk of the container is damaged"),
    "order": (500, "The container's chunks are out of order"),
    "critical": (500, "The container needs something this server does not know"),
    "json": (500, "The container's metadata is not valid"),
    "seal": (500, "The container does not match its seal"),
    "limit": (413, "Too large"),
    "source": (503, "The container cannot be read"),
    "source-changed": (503, "The container changed while it was being read"),
    "storage": (507, "The result cannot be stored"),
    "media": (422, "The media cannot be read"),
    "key": (403, "The key is not here or not yours"),
    "usage": (400, "The request is not valid"),
    "not-found": (404, "Not found"),
    # Codes that exist in HTTP only.
    "body": (400, "The body breaks off or is not valid"),
    "timeout": (408, "The body did not come in time"),
    "exists": (409, "A container has that name"),
    "cancelled": (409, "The job was cancelled"),
    "offset": (409, "The upload stands at another offset"),
    "tus-version": (412, "Not a version of tus that is spoken here"),
    "locked": (423, "Somebody else is at the upload"),
    "too-many": (429, "Too many uploads from one client"),
    "upload-checksum": (460, "The bytes do not have the checksum"),
    "streams": (429, "Too many answers under way for one client"),
    "crowded": (503, "Too many answers under way"),
    "busy": (503, "Too many uploads"),
    "unread": (503, "The answer was not read"),
    "interrupted": (503, "The server stopped before the job was done"),
    "full": (507, "There is no more room"),
    "no-route": (404, "There is no such route"),
    "method": (405, "The route does not know this method"),
    "accept": (406, "There is no such form of it"),
    "content-type": (415, "The body is not of a type this route takes"),
    "self-framing": (409, "The blocks do not decode alone"),
    "precondition": (412, "The precondition does not hold"),
    "host": (421, "The server is not called so"),
    "origin": (403, "The page that asks is of another origin"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "throttled": (429, "Too many wrong tokens"),
    "range": (416, "No byte of the range exists"),
    "stale": (410, "The address names a version that is gone"),
    "stopping": (503, "The server is stopping"),
    "http": (500, "The request failed"),
}

DAMAGED: Final = web.RequestKey("damaged", bool)
"""Set on a request that failed because what is stored is not sound."""
CODE: Final = web.ResponseKey("code", str)
"""Of a response that is a problem: which one."""
_RETRY: Final = {429: "5", 503: "5", 507: "600"}
"""`Retry-After`, seconds, where nobody knows better."""
_PRIVATE: Final = frozenset({"source", "storage", "harmony"})
"""Codes whose messages may name a path of the machine."""


class Problem(Exception):  # noqa: N818 - it is one, and RFC 9457 calls it so
    """An answer that is a problem and has no class of `HarmonyError` because it only exists in HTTP."""

    def __init__(self, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})


def problem_response(
    code: str,
    detail: str | None,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> web.Response:
    """The response for a problem; `more` are extension members (RFC 9457 §3.2), left out where None."""
    usual, title = PROBLEMS[code]
    status = usual if status is None else status
    if code == "http":
        title = HTTPStatus(status).phrase
    body: dict[str, object] = {"type": _PREFIX + code, "title": title, "status": status}
    if detail is not None:
        body["detail"] = detail
    body |= {name: value for name, value in more.items() if value is not None}
    # Names of files may hold anything, so non-ASCII text (lone surrogates too) goes out as \u escapes.
    text = json.dumps(body, ensure_ascii=True)
    usual_headers = {"Cache-Control": "no-store"}
    if status in _RETRY:
        usual_headers["Retry-After"] = _RETRY[status]
    response = web.Response(
        status=status,
        body=text.encode("ascii"),
        headers={**usual_headers, **(headers or {}), "Content-Type": PROBLEM_TYPE},
    )
    response[CODE] = code
    return response


def describe(error: BaseException) -> dict[str, object]:
    """The problem details for an error, for where they are kept instead of answered."""
    if isinstance(error, Problem):
        response = problem_response(error.code, error.detail)
    elif isinstance(error, HarmonyError):
        response = _from_harmony(error)
    else:
        response = problem_response("http", None, status=500)
    assert isinstance(response.body, bytes)
    found: dict[str, object] = json.loads(response.body)
    return found


def _from_harmony(error: HarmonyError) -> web.Response:
    code = error.code if error.code in PROBLEMS else "harmony"
    if PROBLEMS[code][0] >= 500:
        _LOG.warning("%s: %s", type(error).__name__, error)
    if code in _PRIVATE:
        return problem_response(code, None)
    # `where` may be a path as well; an offset in the file never is.
    where = error.where if isinstance(error.where, int) else None
    expected = None if error.expected is None else str(error.expected)
    found = None if error.found is None else str(error.found)
    return problem_response(code, error.message, where=where, expected=expected, found=found)


def _from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    allow = error.headers.get("Allow")
    kept = {"Allow": allow} if allow is not None else {}
    if error.status == 405:
        return problem_response("method", f"{request.method} is not allowed here", headers=kept)
    if error.status == 404:
        return problem_response("no-route", None)
    return problem_response("http", None, status=error.status, headers=kept)


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every error into problem details.

    Handlers that have begun to send a body deal with their own errors (`payload.send`): here nothing has been
    sent.
    """
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_http(request, error)
    except Problem as error:
        return problem_response(error.code, error.detail, headers=error.headers)
    except HarmonyError as error:
        if isinstance(error, FormatError):
            request[DAMAGED] = True
        return _from_harmony(error)
    except ConnectionError:
        if request.transport is not None:
            raise
        # The client has left, which is no error of ours: nobody gets this, and aiohttp logs no traceback.
        return web.Response(status=499, reason="Client Closed Request")
    except Exception:
        _LOG.exception("unexpected error in %s", request.method)
        return problem_response("http", None, status=500)
