"""Slows down who guesses tokens. Pure, but for the clock that it is given.

After FREE wrong tokens from one address the next ones are answered 429 without being looked at, for a second
first, and for twice as long after each further wrong one. Addresses are IPv4 addresses and IPv6 networks of
64 bits, which is what one subscriber gets.

Others behind the same address (a company's, a proxy's) are not locked out: wrong secrets for a token that
there is are counted for this token alone, and everything else for all that are none. Ids are 64 random bits,
so whoever does not know one can only ever slow down those who show no token either. A right token does not
wipe the slate: it says nothing of who guessed.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["FORGET", "FREE", "LONGEST", "Throttle", "network"]

FREE: Final = 10
"""Wrong tokens that have no consequence."""
LONGEST: Final = 60.0
"""Seconds that an address waits at most."""
FORGET: Final = 900.0
"""Seconds without a wrong token, after which an address starts anew."""
_MOST: Final = 4096
"""Pairs of address and token that are remembered; the oldest are forgotten first."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


def network(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits; other text as it is."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Throttle:
    """The failures of all addresses. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: int = _MOST) -> None:
        """`clock` gives seconds and never goes back."""
        self._clock = clock
        self._most = most
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def wait(self, address: str, token_id: str) -> float:
        """Seconds until a token from this address will be looked at; 0.0: now.

        `token_id` is empty for what is none that there is.
        """
        if not self._failures:
            return 0.0
        found = self._failures.get((network(address), token_id))
        if found is None:
            return 0.0
        silent = self._clock() - found.last
        if silent >= FORGET or found.count < FREE:
            return 0.0
        return max(0.0, min(LONGEST, 2.0 ** min(found.count - FREE, 10)) - silent)

    def failed(self, address: str, token_id: str) -> None:
        """A token from this address was wrong; `token_id` as for `wait`."""
        key, now = (network(address), token_id), self._clock()
        found = self._failures.pop(key, None)
        if found is None or now - found.last >= FORGET:
            found = _Failures(0, now)
        self._failures[key] = _Failures(found.count + 1, now)
        while len(self._failures) > self._most:
            self._failures.popitem(last=False)
