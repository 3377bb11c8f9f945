"""`Host`, `Origin` and `Sec-Fetch-Site`: what they say, and whether that is ours. Pure.

Browsers send these for every page and no page can change them. A program may send what it likes, and could as
well leave them out: they protect people whose browser is used against them, not the server from programs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["Hosts", "check_host", "check_origin", "host_name", "is_foreign"]

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{0,5}))?")
_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": "80", "https": "443"}
_KNOWN: Final = 256
"""Host headers whose answer is remembered."""


def host_name(value: str) -> str | None:
    """The host in a Host header (RFC 9110 §7.2) in lower case, without port, brackets and final dot.

    None where it is none.
    """
    found = _HOST.fullmatch(value.lower())
    if found is None:
        return None
    if found[1].startswith("["):
        return found[1][1:-1] if _is_address(found[1][1:-1]) else None
    name = found[1].removesuffix(".")
    return name if _NAME.fullmatch(name) else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Hosts:
    """The names by which the server may be called.

    DNS rebinding makes a hostile page's own name lead to this machine, so that the browser takes the server
    for a part of that page. It needs a name: addresses, `localhost` and names below it are always ours.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """`names` as `check_host` takes them."""
        lower = [name.lower() for name in names]
        self._names = frozenset(name for name in lower if not name.startswith("*."))
        self._parents = tuple(name[1:] for name in lower if name.startswith("*."))
        self._known: dict[str, bool] = {}

    def allows(self, value: str) -> bool:
        """Whether a Host header names this server."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[value] = self._look(value)
        return known

    def _look(self, value: str) -> bool:
        name = host_name(value)
        if name is None:
            return False
        if name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return True
        return name in self._names or name.endswith(self._parents)


def check_host(text: str) -> str:
    """A name for `Hosts`: `media.example.org`, or `*.example.org` for all names below it. Raises
    ValueError."""
    if not _NAME.fullmatch(text.lower().removeprefix("*.")):
        raise ValueError("a host name without a port, or *. and one")
    return text


def check_origin(text: str) -> str:
    """An origin exactly as browsers send it (RFC 6454 §6.2). Raises ValueError."""
    found = _ORIGIN.fullmatch(text)
    if found is None or host_name(found[2]) is None or found[2].endswith("."):
        raise ValueError("an origin such as https://example.org, in lower case, without a path")
    port = found[3]
    if port is not None and (port == _PORTS[found[1]] or not 0 < int(port) < 2**16 or port != str(int(port))):
        raise ValueError("an origin without a port that goes without saying")
    return text


def is_foreign(origin: str | None, site: str | None, host: str, allowed: frozenset[str]) -> bool:
    """Whether a request was made by a page that is neither ours nor one of the `allowed` origins.

    `origin`, `site` and `host` are the headers Origin, Sec-Fetch-Site and Host. Programs send neither of the
    first two. Ours is http:// or https:// and the host: a proxy may take TLS away, and a browser says with
    Sec-Fetch-Site that a page of the other scheme is another site.
    """
    if origin is not None:
        if origin in allowed:
            return False
        scheme, _, rest = origin.partition("://")
        port = _PORTS.get(scheme)
        if port is None or rest.removesuffix(f":{port}") != host.lower().removesuffix(f":{port}"):
            return True
    return site not in (None, "same-origin", "none")
