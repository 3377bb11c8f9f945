"""The listening socket: bound in one place, before anything else starts."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any, Final

from harmony4.crypto.errors import UsageError

__all__ = ["BACKLOG", "address_url", "check_open", "listen"]

BACKLOG: Final = 1024
"""Connections that the kernel queues, while a worker is being replaced for one."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError that says what is wrong with the address."""
    where = f"{host}:{port}"
    family, kind, protocol, _, address = _resolve(host, port)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: "something else listens on this port",
            errno.EACCES: "this port needs more rights",
            errno.EADDRNOTAVAIL: "not an address of this machine",
        }
        raise UsageError(
            reasons.get(error.errno or 0, f"cannot listen: {error.strerror}"), where=where
        ) from error
    return listener


def check_open(host: str, port: int) -> None:
    """Raise UsageError unless only this machine reaches the address: whoever does may read and write."""
    address = str(_resolve(host, port)[-1][0])
    found = ipaddress.ip_address(address.partition("%")[0])
    if not (getattr(found, "ipv4_mapped", None) or found).is_loopback:
        raise UsageError(
            "others reach this address, and everybody could read and write: say --public-read (everybody "
            "reads, writing needs a token) or --auth (everything needs a token)",
            where=f"{host}:{port}",
        )


_Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


def _resolve(host: str, port: int) -> _Found:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError("not an address of this machine", where=f"{host}:{port}") from error
    return found[0]


def address_url(listener: socket.socket) -> str:
    """The address that a socket listens on, as the URL of the page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
