"""Bearer tokens (RFC 6750): `h4_<id>_<secret>`, 16 hexadecimal digits and 43 characters of base64url.

Only the SHA-256 of a secret is kept, so whoever reads `tokens.json` in the server's own folder has no token.
The secret is 256 random bits: a slow hash would protect nothing that guessing could find. `TokenFile` is the
file, `check` the decision.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import LimitError, NotFoundError, SourceError, UsageError
from harmony4.crypto.mac import equal
from harmony4.server.guard.files import read_private, write_private
from harmony4.server.guard.scopes import ALL, SCOPES
from harmony4.server.state import State

__all__ = ["MOST", "Token", "TokenFile", "check", "new_token", "pack", "token_id", "unpack"]

MOST: Final = 10_000
"""Tokens that one server has at most."""
_LONGEST_NAME: Final = 200
_LOCK: Final = "tokens"
_VERSION: Final = 1
_TEXT: Final = re.compile(r"h4_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NOBODY: Final = "0" * 64
"""What an unknown id's secret is compared with, so that it takes as long."""

Tokens = Mapping[str, "Token"]
"""By id."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token."""

    id: str
    name: str
    """What its maker calls it."""
    scopes: tuple[str, ...]
    """As given; `scopes.implied` says what they allow."""
    digest: str
    """SHA-256 of the secret's text, hexadecimal."""
    created: int
    """Seconds since the epoch."""
    expires: int | None = None
    """Seconds since the epoch; None: never."""

    def has_expired(self, now: float) -> bool:
        """Whether it is not to be used any more; `now` is seconds since the epoch."""
        return self.expires is not None and now >= self.expires


def new_token(name: str, scopes: Iterable[str], now: float, expires: int | None = None) -> tuple[Token, str]:
    """A new token and its text, which nobody can make again. Raises UsageError."""
    given = frozenset(scopes)
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            "the token's name is not valid", expected=f"1 to {_LONGEST_NAME} printable characters"
        )
    if not given or not given <= ALL:
        raise UsageError("the token's scopes are not valid", expected=f"some of {', '.join(SCOPES)}")
    if expires is not None and expires <= now:
        raise UsageError("the token would have expired already")
    secret = secrets.token_urlsafe(32)
    ordered = tuple(one for one in SCOPES if one in given)
    token = Token(secrets.token_hex(8), name, ordered, _digest(secret), int(now), expires)
    return token, f"h4_{token.id}_{secret}"


def token_id(text: str) -> str:
    """The id in a token's text; empty where the text is none."""
    found = _TEXT.fullmatch(text)
    return found[1] if found is not None else ""


def check(tokens: Tokens, text: str) -> Token | None:
    """The token that this is the text of. The caller looks whether it has expired."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    token = tokens.get(found[1])
    stored = token.digest if token is not None else _NOBODY
    return token if equal(_digest(found[2]).encode("ascii"), stored.encode("ascii")) else None


def _digest(secret: str) -> str:
    return sha256(secret.encode("ascii")).hex()


def pack(tokens: Tokens) -> bytes:
    """The content of `tokens.json`."""
    rows = [
        {
            "id": one.id,
            "name": one.name,
            "scopes": list(one.scopes),
            "sha256": one.digest,
            "created": one.created,
            "expires": one.expires,
        }
        for one in tokens.values()
    ]
    return json.dumps({"version": _VERSION, "tokens": rows}, indent=1).encode("ascii") + b"\n"


def unpack(data: bytes) -> dict[str, Token]:
    """The tokens in `tokens.json`. Raises ValueError where anything in it is not as it should be."""
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ValueError("another version wrote it")
        tokens = [_token(row) for row in document["tokens"]]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("a part is missing or of another type") from error
    found = {one.id: one for one in tokens}
    if len(found) != len(tokens):
        raise ValueError("an id stands twice")
    return found


def _token(row: dict[str, Any]) -> Token:
    token = Token(row["id"], row["name"], tuple(row["scopes"]), row["sha256"], row["created"], row["expires"])
    whole = (
        _ID.fullmatch(token.id)
        and isinstance(token.name, str)
        and token.scopes
        and ALL.issuperset(token.scopes)
        and _DIGEST.fullmatch(token.digest)
        and type(token.created) is int
        and (token.expires is None or type(token.expires) is int)
    )
    if not whole:
        raise ValueError("a token is not valid")
    return token


class TokenFile:
    """`tokens.json` in the server's own folder. Its methods touch the disk: call them in threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.path: Final[Path] = state.path / "tokens.json"

    def read(self) -> dict[str, Token]:
        """All tokens by id, the expired ones too. Raises SourceError where they cannot be read."""
        data = read_private(self.path)
        if data is None:
            return {}
        try:
            return unpack(data)
        except ValueError as error:
            raise SourceError(f"the tokens cannot be read: {error}", where=str(self.path)) from error

    def add(self, token: Token) -> None:
        """Keep one more. Raises LimitError, SourceError, StorageError."""

        def add(tokens: dict[str, Token]) -> None:
            if len(tokens) >= MOST:
                raise LimitError("there are too many tokens", expected=f"<= {MOST}")
            tokens[token.id] = token

        self._change(add)

    def revoke(self, id: str) -> Token:
        """Remove one; servers that run notice within a second. Raises NotFoundError, and as `add` does."""
        removed: list[Token] = []

        def remove(tokens: dict[str, Token]) -> None:
            if id not in tokens:
                raise NotFoundError("there is no token with that id", found=id[:40])
            removed.append(tokens.pop(id))

        self._change(remove)
        return removed[0]

    def _change(self, change: Callable[[dict[str, Token]], None]) -> None:
        with self._state.locked(_LOCK):
            tokens = self.read()
            change(tokens)
            write_private(self.path, pack(tokens))
