"""The hash tree of RFC 9162 section 2.1 (leaf prefix 0x00, node prefix 0x01), built leaf by leaf."""

from __future__ import annotations

import hashlib

__all__ = ["EMPTY_ROOT", "MerkleTree", "leaf_hash", "node_hash"]

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves: SHA-256 of nothing."""


def leaf_hash(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-256(0x00 ‖ data), 32 bytes."""
    digest = hashlib.sha256(b"\x00")
    digest.update(data)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """An append-only tree whose state is one node per set bit of its size: O(log n) memory.

    Not safe for use from several threads at once.
    """

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[bytes] = []  # roots of complete subtrees, largest first

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash. Returns the nodes that it completes, from level 0 (the leaf itself) upwards."""
        done = [leaf]
        node = leaf
        size = self.size
        while size & 1:
            node = node_hash(self._edge.pop(), node)
            done.append(node)
            size >>= 1
        self._edge.append(node)
        self.size += 1
        return done

    def root(self) -> bytes:
        """The root over all leaves so far, 32 bytes."""
        if not self._edge:
            return EMPTY_ROOT
        node = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            node = node_hash(left, node)
        return node
