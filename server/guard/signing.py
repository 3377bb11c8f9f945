"""Signed URLs: an address that opens one thing, for a while, for whoever has it. Pure.

The signature is HMAC-SHA256 over the path and all parameters of the query but `sig`, as they were understood
and in sorted order, so that clients may write them in another order and with other percent-encoding:

    exp   when it ends, seconds since the epoch
    ip    the one address that it may be used from; optional
    sig   base64url without padding, 43 characters

A parameter that stands twice is refused: two readers could understand two things. A signature grants `read`
for GET and HEAD of exactly this URL. It cannot be taken back by itself; all end when the server's secret is
replaced.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from yarl import URL

from harmony4.crypto.mac import derive, equal, mac

__all__ = ["BadSignature", "Signature", "check", "key_of", "plain_address", "sign", "signed_url"]

_SIGNATURE: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_NAMES: Final = frozenset({"exp", "ip", "sig"})

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature is bound to beside its URL."""

    exp: int
    """Seconds since the epoch."""
    ip: str | None = None
    """As `plain_address` writes it."""


class BadSignature(Exception):  # noqa: N818 - it says what it is
    """The text says what is wrong."""


def key_of(secret: bytes) -> bytes:
    """The key for signatures of URLs."""
    return derive(secret, b"harmony4 signed url 1")


def plain_address(text: str) -> str:
    """An IP address in its one canonical form; IPv4 in IPv6 as IPv4. Raises ValueError."""
    found = ipaddress.ip_address(text)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def sign(key: bytes, path: str, pairs: Pairs) -> str:
    """The signature of a path and its parameters, `exp` and `ip` among them."""
    fields = [path]
    for name, value in sorted(pairs):
        fields += [name, value]
    # Each with its length: no two lists of fields give the same message.
    data = [field.encode("utf-8", "surrogatepass") for field in fields]
    message = b"".join(len(one).to_bytes(4) + one for one in data)
    return base64.urlsafe_b64encode(mac(key, message)).decode("ascii").rstrip("=")


def signed_url(key: bytes, url: str, signature: Signature) -> str:
    """A URL, whole or from its path on, with a signature. Raises ValueError where it cannot have one."""
    parts = URL(url).with_fragment(None)
    pairs = list(parts.query.items())
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a parameter stands twice in the URL")
    if _NAMES & set(names):
        raise ValueError("the URL has a signature already")
    if not parts.raw_path.startswith("/"):
        raise ValueError("the path of the URL does not begin with a slash")
    more = [("exp", str(signature.exp))]
    if signature.ip is not None:
        more.append(("ip", signature.ip))
    more.append(("sig", sign(key, parts.raw_path, [*pairs, *more])))
    text = "&".join(f"{name}={quote(value, safe=':')}" for name, value in more)
    return f"{parts}{'&' if parts.raw_query_string else '?'}{text}"


def check(key: bytes, path: str, pairs: Pairs, now: float, address: str) -> Signature:
    """What a request's signature is bound to; raises BadSignature where it does not hold.

    `path` is as it was sent, `pairs` are the decoded parameters, `now` is seconds since the epoch and
    `address` the client's. Only who has a right signature learns that it has ended, or is somebody else's.
    """
    fields = list(pairs)
    found = dict(fields)
    if len(found) != len(fields):
        raise BadSignature("a parameter of the signed address stands twice")
    signature, ends = found.pop("sig", ""), found.get("exp", "")
    if not _SECONDS.fullmatch(ends) or not _SIGNATURE.fullmatch(signature):
        raise BadSignature("the signature is not whole")
    if not equal(sign(key, path, found.items()).encode("ascii"), signature.encode("ascii")):
        raise BadSignature("the signature is not of this address")
    if now >= int(ends):
        raise BadSignature("the signed address has expired")
    ip = found.get("ip")
    if ip is not None and not _is_address(ip, address):
        raise BadSignature("the address was signed for another client")
    return Signature(int(ends), ip)


def _is_address(wanted: str, address: str) -> bool:
    try:
        return plain_address(wanted) == plain_address(address.partition("%")[0])
    except ValueError:
        return False
