"""Message authentication: HMAC-SHA256 (RFC 2104), keys for its different uses, and comparison in constant
time."""

from __future__ import annotations

import hmac

from harmony4.crypto.digest import Buffer

__all__ = ["derive", "equal", "mac"]


def mac(key: bytes, message: Buffer) -> bytes:
    """HMAC-SHA256 of a message, 32 bytes."""
    return hmac.digest(key, message, "sha256")


def derive(secret: bytes, label: bytes) -> bytes:
    """The 32-byte key for one use of a secret of 32 random bytes: HKDF-Expand with `label` (RFC 5869
    §2.3)."""
    return mac(secret, label + b"\x01")


def equal(one: bytes, other: bytes) -> bool:
    """Whether they are the same; how long that takes does not tell where they differ."""
    return hmac.compare_digest(one, other)
