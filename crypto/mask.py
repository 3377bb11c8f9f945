"""Masking: an XOR keystream that can be entered anywhere, the keys around it, and tags (H4MK 21).

The keystream is AES-256-CTR under a key that is used for one block of one file, so that byte i needs counter
block i // 16 and nothing else. Keys never show: not in `repr`, not in errors, not in pickles.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from harmony4.crypto.digest import Buffer
from harmony4.crypto.errors import KeyRefusedError, LimitError, UsageError
from harmony4.crypto.kdf import hkdf, hkdf_expand
from harmony4.crypto.mac import equal, mac

__all__ = [
    "KEY_SIZE",
    "MODES",
    "MOST_KEYS",
    "SALT_SIZE",
    "FileKey",
    "MaskSpec",
    "MasterKey",
    "xor_mask",
    "xor_mask_into",
]

KEY_SIZE: Final = 32
"""Bytes of a master key, a file key and a block key."""
SALT_SIZE: Final = 32
MODES: Final = ("deterministic", "random")
MOST_KEYS: Final = 8
"""Master keys that can open one file (H4MK 7)."""
_AES: Final = 16
_TAGGED: Final = 96
"""Bytes of a token that its tag covers."""


def xor_mask_into(data: Buffer, out: Buffer, key: bytes, offset: int = 0) -> None:
    """XOR `data`, which begins at byte `offset` of a block, with the block's keystream into `out`.

    `out` has the same length and may be `data` itself; masking and unmasking are the same. `key`: 32 bytes,
    used for this block alone (AES-256-CTR, NIST SP 800-38A; the counter begins at 0 and is big-endian).
    Raises UsageError.
    """
    if len(key) != KEY_SIZE or not 0 <= offset < _AES << 128 or len(out) != len(data):
        raise UsageError("not a block key, a place in a block and room for the result")
    stream = Cipher(algorithms.AES(key), modes.CTR((offset // _AES).to_bytes(_AES))).encryptor()
    stream.update(bytes(offset % _AES))
    stream.update_into(data, out)


def xor_mask(data: Buffer, key: bytes, offset: int = 0) -> bytearray:
    """`xor_mask_into` a new buffer."""
    out = bytearray(len(data))
    xor_mask_into(data, out, key, offset)
    return out


class _Secret:
    """32 bytes that do not show."""

    __slots__ = ("_key",)

    def __init__(self, key: Buffer) -> None:
        if len(key) != KEY_SIZE:
            raise UsageError("a key has 32 bytes", found=len(key))
        self._key = bytes(key)

    def reveal(self) -> bytes:
        """The 32 bytes, for whoever has to write them down."""
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and equal(self._key, other._key)

    def __hash__(self) -> int:
        return hash(hkdf_expand(self._key, b"h4mk/1 id", _AES))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")


class MasterKey(_Secret):
    """A key that people keep: 32 uniformly random bytes (H4MK 21.2)."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> MasterKey:
        """A new one from the system's generator."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @property
    def id(self) -> bytes:
        """The key id, 16 bytes: public, and nothing of the key can be computed from it."""
        return hkdf_expand(self._key, b"h4mk/1 id", _AES)

    def __repr__(self) -> str:
        return f"<MasterKey {self.id.hex()}>"

    def salt(self, plain: bytes) -> bytes:
        """The salt of the deterministic mode, 32 bytes, for content whose digest D is `plain` (H4MK 21.3)."""
        return mac(hkdf_expand(self._key, b"h4mk/1 syn"), plain)

    def file_key(self, salt: bytes) -> FileKey:
        """The key of the one file that has this salt."""
        return FileKey(hkdf(self._key, salt, b"h4mk/1 file"))

    def raw_key(self, salt: bytes) -> bytes:
        """The key of the one raw stream that has this salt (H4MK 21.9), 32 bytes."""
        return hkdf(self._key, salt, b"h4mk/1 raw")

    def wrap(self, key: FileKey) -> bytes:
        """A file key for a key slot, 40 bytes (RFC 3394)."""
        return aes_key_wrap(self._kek(), key.reveal())

    def unwrap(self, wrapped: bytes, commit: bytes) -> FileKey:
        """The file key out of a slot. Raises KeyRefusedError unless `commit` is made of it."""
        try:
            key = FileKey(aes_key_unwrap(self._kek(), wrapped))
        except (InvalidUnwrap, UsageError):
            raise KeyRefusedError("the key does not open its slot", where=f"key {self.id.hex()}") from None
        if not equal(key.commit, commit):
            raise KeyRefusedError(
                "the key opens its slot to another file's key", where=f"key {self.id.hex()}"
            )
        return key

    def _kek(self) -> bytes:
        return hkdf_expand(self._key, b"h4mk/1 kek")


class FileKey(_Secret):
    """The key of one masked file; every block has its own, derived from it (H4MK 21.2)."""

    __slots__ = ("_mac",)

    def __init__(self, key: Buffer) -> None:
        super().__init__(key)
        self._mac = hkdf_expand(self._key, b"h4mk/1 mac")

    @property
    def commit(self) -> bytes:
        """32 bytes that fit this key and, as far as anyone can compute, no other."""
        return hkdf_expand(self._key, b"h4mk/1 commit")

    def block_key(self, track: int, index: int) -> bytes:
        """The 32 bytes for one block of one track."""
        return hkdf_expand(self._key, b"h4mk/1 enc" + track.to_bytes(2) + index.to_bytes(8))

    def tag(self, trak: bytes, token: Buffer) -> bytes:
        """The tag of a block, 32 bytes (H4MK 21.5).

        `trak` is the SHA-256 of TRAK, `token` the packed token, whose own tag does not count.
        """
        return mac(self._mac, b"h4mk/1 tag\0" + trak + bytes(token[:_TAGGED]))

    def whole(self, trak: bytes, blocks: int, root: bytes) -> bytes:
        """32 bytes that say which blocks a file has, none of them missing (H4MK 21.6).

        `trak` is the SHA-256 of TRAK, `blocks` their number, `root` that of the tree over their tokens.
        """
        return mac(self._mac, b"h4mk/1 whole\0" + trak + blocks.to_bytes(8) + root)

    def wrap_heads(self, heads: Iterable[bytes]) -> bytes:
        """Heads that META does not show, 32 bytes each, as one text that only this key opens (H4MK 21.6)."""
        return aes_key_wrap(hkdf_expand(self._key, b"h4mk/1 history"), b"".join(heads))

    def unwrap_heads(self, wrapped: bytes) -> list[bytes]:
        """What `wrap_heads` was given. Raises KeyRefusedError."""
        try:
            data = aes_key_unwrap(hkdf_expand(self._key, b"h4mk/1 history"), wrapped)
        except InvalidUnwrap:
            raise KeyRefusedError("the hidden history is not one of this key's") from None
        return [data[at : at + 32] for at in range(0, len(data), 32)]


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """How media are masked in a container."""

    keys: tuple[MasterKey, ...] = field(repr=False)
    """1 to 8 different ones. Each opens the file; the file's own key is derived from the first."""
    mode: str = "deterministic"
    """deterministic: the file key follows from the content, which is read twice. random: always a new one."""
    keep_plaintext: bool = False
    """Every track a second time, not masked, for comparison. Whoever has the file has the media then."""

    def __post_init__(self) -> None:
        """Raises UsageError, LimitError."""
        if not self.keys:
            raise UsageError("masking needs a key")
        if len(self.keys) > MOST_KEYS:
            raise LimitError("too many keys for one file", expected=f"1 to {MOST_KEYS}", found=len(self.keys))
        if len(set(self.keys)) < len(self.keys):
            raise UsageError("the same key twice")
        if self.mode not in MODES:
            raise UsageError("no such mode", expected=" or ".join(MODES), found=self.mode[:40])
