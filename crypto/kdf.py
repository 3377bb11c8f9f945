"""HKDF-SHA256: keys for different uses out of one secret (RFC 5869)."""

from __future__ import annotations

import hmac
from typing import Final

from harmony4.crypto.errors import LimitError

__all__ = ["hkdf", "hkdf_expand", "hkdf_extract"]

_SIZE: Final = 32
_MOST: Final = 255 * _SIZE


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """A pseudorandom key, 32 bytes, from a secret that need not be uniform (RFC 5869 §2.2).

    An empty `salt` counts as 32 zero bytes.
    """
    return hmac.digest(salt or bytes(_SIZE), secret, "sha256")


def hkdf_expand(key: bytes, info: bytes, length: int = _SIZE) -> bytes:
    """`length` bytes for the use that `info` names (RFC 5869 §2.3). Raises LimitError beyond 8160 bytes."""
    if not 0 < length <= _MOST:
        raise LimitError("HKDF cannot give that many bytes", expected=f"1 to {_MOST}", found=length)
    found = block = b""
    for number in range(1, -(-length // _SIZE) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        found += block
    return found[:length]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = _SIZE) -> bytes:
    """Extract and expand (RFC 5869 §2). Raises LimitError."""
    return hkdf_expand(hkdf_extract(salt, secret), info, length)
