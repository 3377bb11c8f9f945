"""The tags of a masked container's blocks, for `verify` with a key (H4MK 21.5). No I/O of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harmony4.crypto.digest import Buffer, sha256
from harmony4.crypto.errors import KeyRefusedError, SealError
from harmony4.crypto.mac import equal
from harmony4.crypto.mask import FileKey, MasterKey
from harmony4.crypto.token import MASKED, TokenRecord
from harmony4.h4mk.documents import HistoryEntry, Trak
from harmony4.h4mk.masks.keyslots import open_slots, parse_keys
from harmony4.h4mk.masks.masking import is_whole

__all__ = ["Tags"]


class Tags:
    """Checks tags once it has learned the file's key."""

    def __init__(self, masters: Iterable[MasterKey]) -> None:
        self.count = 0
        """Tags that are what the key gives."""
        self.whole = False
        """Whether the key shows that no block is missing."""
        self._masters = tuple(masters)
        self._key: FileKey | None = None
        self._trak = b""

    def open(self, keys: bytes, trak: Trak) -> None:
        """Learn the file's key from the payload of KEYS.

        Raises FormatError and its kin for a bad one, also where the slot of a key that was given does not
        open; KeyRefusedError where none of them has a slot, for which the file is not to blame.
        """
        slots = parse_keys(keys)
        if not self._masters or trak.mask is None:
            return
        names = {name for name, _ in slots}
        mine = [master for master in self._masters if master.id in names]
        try:
            self._key = open_slots(slots, bytes.fromhex(trak.mask["commit"]), mine)
        except KeyRefusedError as error:
            if not mine:
                raise
            raise SealError(error.message, where=error.where) from None
        self._trak = sha256(trak.pack())

    def check_whole(self, history: Sequence[HistoryEntry], blocks: int, root: bytes) -> None:
        """Check, where the key is known, that all blocks are there that were masked. Raises SealError."""
        if self._key is not None:
            self.whole = is_whole(history, self._key, self._trak, blocks, root)

    def require(self) -> None:
        """Raise SealError where a key was given and nothing in the file shows that it was masked with it."""
        if self._key is not None and not self.whole and not self.count:
            raise SealError("nothing in the container shows that it was masked with this key")

    def check(self, token: TokenRecord, packed: Buffer) -> None:
        """Check a block's tag, where it has one and the key is known. Raises SealError."""
        if self._key is None or not token.flags & MASKED:
            return
        if not equal(self._key.tag(self._trak, packed), token.tag):
            raise SealError(
                "a block's tag is not one of this key", where=f"track {token.track} block {token.index}"
            )
        self.count += 1
