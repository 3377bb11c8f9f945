"""Who gets the media of a masked container as they were before: callers who may use a key that is here.

A caller may use the server's keys with the scope `mask` beside `read`; where everything is open, everybody
may. A signed address grants it where it says `masked=0` itself: whoever signed it meant that.
"""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web

from harmony4.crypto.errors import UsageError
from harmony4.crypto.mask import MasterKey
from harmony4.h4mk import Unmasked
from harmony4.server.errors import Problem
from harmony4.server.folder.library import Container
from harmony4.server.guard.caller import CALLER
from harmony4.server.guard.scopes import MASK
from harmony4.server.keys import CONFIG, KEYRING
from harmony4.server.masking.keys import Keyring

__all__ = ["can_unmask", "is_opened_by", "may_use_keys", "shows_unmasked", "unmasked_for", "wants_masked"]


def wants_masked(request: web.Request) -> bool:
    """Whether the query asks for the bytes as they are stored: `masked=1`. Raises UsageError."""
    text = request.query.get("masked", "0")
    if text not in ("0", "1"):
        raise UsageError("masked is not valid", expected="0 or 1", found=text[:8])
    return text == "1"


def may_use_keys(request: web.Request) -> bool:
    """Whether the caller may use the keys of the server."""
    caller = request[CALLER]
    if caller.signed is not None:
        return request.query.get("masked") == "0"
    return MASK in caller.scopes


def is_opened_by(keyring: Keyring, ids: tuple[bytes, ...]) -> MasterKey | None:
    """The first key of a keyring that is among these key ids."""
    return next((key for one in ids if (key := keyring.get(one)) is not None), None)


def can_unmask(request: web.Request, container: Container) -> bool:
    """Whether the caller gets the unmasked bytes of a masked container."""
    return may_use_keys(request) and is_opened_by(request.app[KEYRING], container.key_ids) is not None


def shows_unmasked(request: web.Request, container: Container) -> bool:
    """Whether addresses in an answer lead to unmasked bytes: where the caller gets them, and does not ask for
    `masked=1`. Raises UsageError."""
    return not wants_masked(request) and can_unmask(request, container)


async def unmasked_for(request: web.Request, container: Container) -> Unmasked:
    """A masked container's media for the caller. One object for all requests, so that each block's digest is
    checked once.

    Raises Problem (403), KeyRefusedError where the container's slot is not what it should be, FormatError and
    its kin.
    """
    if not may_use_keys(request):
        raise Problem(
            "key",
            "a signed address opens unmasked bytes only where it says masked=0"
            if request[CALLER].signed is not None
            else "unmasked bytes need the scope mask beside read; masked=1 gives them as they are stored",
        )
    master = is_opened_by(request.app[KEYRING], container.key_ids)
    if master is None:
        raise Problem(
            "key", "the server has no key for this container; masked=1 gives its bytes as they are stored"
        )
    known = container.unmasked
    # A key that was taken away opens nothing any more.
    if known is None or known[0] != master:
        always = request.app[CONFIG].verify_on_read
        found = await asyncio.to_thread(partial(Unmasked, container.reader, [master], always=always))
        container.unmasked = known = (master, found)
    return known[1]
