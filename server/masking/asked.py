"""What a request says of masking: keys by their ids or names, and how. Pure, but for the keyring.

Nothing here repeats what was sent as a key: it may be a master key in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harmony4.crypto.errors import KeyRefusedError, LimitError, UsageError
from harmony4.crypto.mask import MOST_KEYS, MaskSpec, MasterKey
from harmony4.server.masking.keys import Keyring, parse_key

__all__ = [
    "FIELDS",
    "MaskAsked",
    "key_names",
    "masters_named",
    "parse_mask",
    "parse_master",
    "shown",
    "switch",
]

FIELDS: Final = ("mask", "random_salt", "keep_plaintext")
"""What an export can be told of masking."""
_SHOWN: Final = 40
_NAME: Final = re.compile(r"[^\0-\x1f\x7f/]{1,255}")
_DIGITS: Final = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class MaskAsked:
    """How media are to be masked."""

    keys: tuple[str, ...]
    """Ids, or names in the server's keyring."""
    random: bool
    keep_plaintext: bool

    def spec(self, keyring: Keyring) -> MaskSpec:
        """The mask, with keys. Raises KeyRefusedError where one is not there, UsageError for one twice."""
        mode = "random" if self.random else "deterministic"
        return MaskSpec(masters_named(keyring, self.keys), mode, self.keep_plaintext)


def parse_mask(fields: Mapping[str, str]) -> MaskAsked | None:
    """Options of an export as text; None where nothing is to be masked. Raises UsageError, LimitError."""
    text = fields.get("mask")
    random, keep = switch(fields, "random_salt"), switch(fields, "keep_plaintext")
    if text is None:
        for name in FIELDS[1:]:
            if name in fields:
                raise UsageError("mask is missing", expected=f"the id of a key, where {name} is given")
        return None
    return MaskAsked(key_names("mask", text), random, keep)


def key_names(option: str, text: str) -> tuple[str, ...]:
    """Ids or names of keys, with commas between them. Raises UsageError, LimitError."""
    names = tuple(one.strip() for one in text.split(","))
    if not all(_NAME.fullmatch(one) and not _is_secret(one) for one in names):
        raise UsageError(
            f"{option} is not valid", expected="ids of keys, 32 hexadecimal digits, or their names"
        )
    if len(names) > MOST_KEYS:
        raise LimitError("too many keys for one file", expected=f"<= {MOST_KEYS}", found=len(names))
    return names


def _is_secret(text: str) -> bool:
    return _DIGITS.fullmatch(text) is not None or text.startswith("h4mk-key-")


def masters_named(keyring: Keyring, names: tuple[str, ...]) -> tuple[MasterKey, ...]:
    """The keys of these ids or names. Raises KeyRefusedError where one is not there."""
    found = [keyring.get(one.lower() if len(one) == 32 else one) or keyring.get(one) for one in names]
    masters = tuple(one for one in found if one is not None)
    if len(masters) < len(names):
        raise KeyRefusedError("there is no such key in the server's keyring")
    return masters


def parse_master(text: str) -> MasterKey:
    """A master key that a client sends: 64 hexadecimal digits, or a key file's text without a passphrase.

    Raises KeyRefusedError, which says nothing of it.
    """
    text = text.strip()
    return MasterKey(bytes.fromhex(text)) if _DIGITS.fullmatch(text) else parse_key(text)


def switch(fields: Mapping[str, str], name: str) -> bool:
    """An option that is 0 or 1. Raises UsageError."""
    text = fields.get(name, "0")
    if text not in ("0", "1"):
        raise UsageError(f"{name} is not valid", expected="0 or 1", found=shown(text))
    return text == "1"


def shown(text: str) -> str | None:
    """What an error repeats of a value; nothing that is as long as a key."""
    return text if len(text) <= _SHOWN else None
