"""Scopes: what a token may be used for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["ADMIN", "ALL", "MASK", "METRICS", "READ", "SCOPES", "WRITE", "implied", "parse_scopes"]

READ: Final = "read"
WRITE: Final = "write"
MASK: Final = "mask"
ADMIN: Final = "admin"
METRICS: Final = "metrics"
SCOPES: Final = (READ, WRITE, MASK, ADMIN, METRICS)
ALL: Final = frozenset(SCOPES)


def implied(scopes: Iterable[str]) -> frozenset[str]:
    """All that these scopes allow: `admin` everything, `write` also `read`."""
    given = frozenset(scopes)
    if ADMIN in given:
        return ALL
    return given | {READ} if WRITE in given else given


def parse_scopes(text: str) -> tuple[str, ...]:
    """`read,write` as scopes, in the order of SCOPES. Raises ValueError."""
    given = {one.strip() for one in text.split(",")}
    if not given <= ALL:
        raise ValueError(f"scopes are some of {', '.join(SCOPES)}, with commas between them")
    return tuple(one for one in SCOPES if one in given)
