"""Who a request is from when proxies pass it on (`X-Forwarded-For`), and how many connections each has.

aiohttp-remotes answers the first of these by copying each request, which the express lane does not survive;
so it is done here, for the headers that matter.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from harmony4.server.guard.throttle import network

__all__ = ["ADDRESS", "BELIEVED", "Crowd", "Proxies", "client_address", "is_forwarded", "is_private"]

ADDRESS: Final = web.RequestKey("address", str)
"""The client's address, where a proxy that is believed says one."""
BELIEVED: Final = web.RequestKey("believed", bool)
"""Whether a request comes from a proxy that is believed."""
_NAMES: Final = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Real-IP",
    "Via",
)
_MOST: Final = 32
"""Addresses in a header that are looked at, from the end."""
_KNOWN: Final = 4096


def client_address(request: web.BaseRequest) -> str:
    """The address of who sends a request; empty where there is none."""
    return request.get(ADDRESS) or request.remote or ""


def is_forwarded(request: web.BaseRequest) -> bool:
    """Whether a request says that a proxy has passed it on, be it believed or not."""
    return any(name in request.headers for name in _NAMES)


def is_private(request: web.BaseRequest) -> bool:
    """Whether a request came over TLS, to us or to a proxy that is believed.

    Anybody may write X-Forwarded-Proto. Of what a proxy passes on its own word is the last one, for one that
    adds a word leaves the client's in front of it.
    """
    if request.secure:
        return True
    said = request.headers.getall("X-Forwarded-Proto", []) if request.get(BELIEVED) else []
    return bool(said) and said[-1].rpartition(",")[2].strip().lower() == "https"


class Proxies:
    """The proxies that are believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Addresses and networks. Raises ValueError."""
        self._networks = [ipaddress.ip_network(one) for one in networks]
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Whether this is the address of a proxy that is believed."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in one for one in self._networks)

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """The client behind `peer`, given the values of its X-Forwarded-For.

        Each proxy adds at the end whom it heard from: the last address that is not a proxy's is the client's,
        and what stands before it may be anybody's invention. Text that is no address ends the search.
        """
        if not self.trusts(peer):
            return peer
        named = [one.strip() for value in forwarded for one in value.split(",")]
        found = peer
        for text in named[: -_MOST - 1 : -1]:
            try:
                found = str(ipaddress.ip_address(text))
            except ValueError:
                break
            if not self.trusts(found):
                break
        return found


class Crowd:
    """How many connections each address has to this process. For one event loop."""

    def __init__(self, most: int, proxies: Proxies) -> None:
        """`most` for one address, 0: no limit; proxies that are believed may have any number."""
        self._most = most
        self.proxies: Final = proxies
        self._present: Counter[str] = Counter()

    def enter(self, address: str) -> str | None:
        """One more; what to `leave` with in the end. None: it is one too many."""
        if not self._most or self.proxies.trusts(address):
            return ""
        client = network(address)
        if self._present[client] >= self._most:
            return None
        self._present[client] += 1
        return client

    def leave(self, client: str) -> None:
        """One less."""
        if client:
            self._present[client] -= 1
            if self._present[client] <= 0:
                del self._present[client]
