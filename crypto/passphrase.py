"""Master keys under a passphrase: AES-KW (RFC 3394) under what scrypt (RFC 7914) makes of it (H4MK 21.2)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from harmony4.crypto.errors import KeyRefusedError, UsageError
from harmony4.crypto.mask import KEY_SIZE, MasterKey

__all__ = ["Stretch", "lock_key", "unlock_key"]

_MOST_MEMORY: Final = 2**28
"""Bytes that scrypt may take: twice what our own parameters take."""
_MOST_WORK: Final = 2**30
"""The same for 128·N·r·p, which its time follows: eight times ours, some seconds."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a passphrase is stretched: scrypt's salt and parameters. By default 128 MiB and 0.3 s."""

    salt: bytes
    log_n: int = 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        """Raises KeyRefusedError for more than 256 MiB, or some seconds: they may come from a stranger."""
        positive = 0 < self.log_n <= 28 and self.r > 0 and self.p > 0
        size = 128 * self.r << self.log_n if positive else 0
        if not 0 < size <= _MOST_MEMORY or size * self.p > _MOST_WORK:
            raise KeyRefusedError(
                "the key asks for too much memory or time before it opens",
                expected=f"scrypt in up to {_MOST_MEMORY // 2**20} MiB",
                found=f"{self.log_n}:{self.r}:{self.p}",
            )


def lock_key(key: MasterKey, passphrase: str, stretch: Stretch) -> bytes:
    """The key, locked: 40 bytes. Use each salt once. Raises UsageError for an empty passphrase."""
    if not passphrase:
        raise UsageError("an empty passphrase protects nothing")
    return aes_key_wrap(_stretched(passphrase, stretch), key.reveal())


def unlock_key(locked: bytes, passphrase: str, stretch: Stretch) -> MasterKey:
    """The key that `lock_key` was given. Raises KeyRefusedError."""
    try:
        return MasterKey(aes_key_unwrap(_stretched(passphrase, stretch), locked))
    except (InvalidUnwrap, UsageError):
        raise KeyRefusedError("the passphrase does not open the key") from None


def _stretched(passphrase: str, stretch: Stretch) -> bytes:
    # The same passphrase comes in another normal form from another keyboard.
    secret = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    kdf = Scrypt(salt=stretch.salt, length=KEY_SIZE, n=1 << stretch.log_n, r=stretch.r, p=stretch.p)
    try:
        return kdf.derive(secret)
    except MemoryError:  # also for parameters that scrypt does not have, such as N ≥ 2^(16·r)
        raise KeyRefusedError("there is not enough memory to open the key") from None
