"""The hash tree of RFC 9162 section 2.1 (leaf prefix 0x00, node prefix 0x01): built leaf by leaf, and proofs.

Who makes a proof reads stored nodes (H4MK 11.2) through a function; who checks one needs nothing but it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from harmony4.crypto.errors import SealError, UsageError

__all__ = [
    "EMPTY_ROOT",
    "MerkleTree",
    "Node",
    "check_consistency",
    "consistency_places",
    "consistency_proof",
    "inclusion_places",
    "inclusion_proof",
    "inclusion_root",
    "leaf_hash",
    "node_at",
    "node_hash",
]

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


Node = Callable[[int, int], bytes]
"""(level, index) -> the stored root of the complete subtree of 2^level leaves from leaf index·2^level on."""


def node_at(level: int, index: int, size: int, stored: Node) -> bytes:
    """The node that covers leaves index·2^level up to (index + 1)·2^level, or to `size` where that is less.

    Complete subtrees are stored; one at the right edge is computed of at most `level` stored ones.
    """
    start = index << level
    stop = min(start + (1 << level), size)
    node: bytes | None = None
    # From the right: the least significant bit of what is left is the smallest complete subtree.
    while start < stop:
        low = ((stop - start) & -(stop - start)).bit_length() - 1
        part = stored(low, (stop >> low) - 1)
        node = part if node is None else node_hash(part, node)
        stop -= 1 << low
    assert node is not None
    return node


def inclusion_places(leaves: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """(level, index) of each node in the proof that `leaves` are in the tree over the first `size` leaves.

    Level by level from the leaves up, left to right within a level; a node that other proven leaves give is
    left out. For one leaf this is the audit path of RFC 9162 (2.1.3). Raises UsageError unless the leaves
    strictly increase and are below `size`.
    """
    if not leaves or leaves[-1] >= size or leaves[0] < 0 or any(b <= a for a, b in pairwise(leaves)):
        raise UsageError("leaves to prove must increase and be in the tree", expected=f"< {size}")
    known, level = list(leaves), 0
    while size > 1:
        have = set(known)
        for index in known:
            sibling = index ^ 1
            if sibling < size and sibling not in have:
                yield level, sibling
        known = sorted({index >> 1 for index in known})
        size = (size + 1) >> 1
        level += 1


def inclusion_proof(leaves: Sequence[int], size: int, stored: Node) -> list[bytes]:
    """The nodes that `inclusion_places` names, of O(log n) stored ones for each leaf. Raises UsageError."""
    return [node_at(level, index, size, stored) for level, index in inclusion_places(leaves, size)]


def inclusion_root(leaves: Mapping[int, bytes], size: int, path: Sequence[bytes]) -> bytes:
    """The root of a tree of `size` leaves that has these (number: leaf hash), and `path` as its other nodes.

    Raises SealError for a leaf number that the tree cannot have and for a path of another length than size
    and numbers require.
    """
    if not leaves or min(leaves) < 0 or max(leaves) >= size:
        raise SealError("a leaf is not in the tree", expected=f"< {size}", found=max(leaves, default=None))
    known, rest = dict(sorted(leaves.items())), iter(path)
    while size > 1:
        above: dict[int, bytes] = {}
        for index, node in known.items():
            sibling = index ^ 1
            if sibling >= size:
                above[index >> 1] = node
            elif sibling in known:
                if index & 1 == 0:
                    above[index >> 1] = node_hash(node, known[sibling])
            else:
                other = next(rest, None)
                if other is None:
                    raise SealError("the audit path is too short", found=len(path))
                above[index >> 1] = node_hash(other, node) if index & 1 else node_hash(node, other)
        known = above
        size = (size + 1) >> 1
    if next(rest, None) is not None:
        raise SealError("the audit path is too long", found=len(path))
    return known[0]


def consistency_places(first: int, second: int) -> Iterator[tuple[int, int]]:
    """(level, index) of each node in the proof that the tree over `first` leaves begins that over `second`.

    The order of RFC 9162 (2.1.4.1). Raises UsageError unless 0 < first ≤ second.
    """
    if not 0 < first <= second:
        raise UsageError("a consistency proof goes from 1 or more leaves to as many or more")
    if first == second:
        return
    level = (first & -first).bit_length() - 1
    index, last = (first - 1) >> level, (second - 1) >> level
    # Where `first` is a power of two its root is what the verifier has.
    if first != 1 << level:
        yield level, index
    while last:
        if index & 1:
            yield level, index - 1
        elif index < last:
            yield level, index + 1
        level, index, last = level + 1, index >> 1, last >> 1


def consistency_proof(first: int, second: int, stored: Node) -> list[bytes]:
    """The nodes that `consistency_places` names, of O(log n) stored ones. Raises UsageError."""
    return [node_at(level, index, second, stored) for level, index in consistency_places(first, second)]


def check_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]
) -> None:
    """Raise SealError unless `path` proves that the first tree begins the second (RFC 9162, 2.1.4.2)."""
    if not 0 < first <= second:
        raise SealError("trees cannot be in this order", expected=f"1 to {second}", found=first)
    if first == second:
        if path or first_root != second_root:
            raise SealError("two trees of one size differ, or come with a path")
        return
    level = (first & -first).bit_length() - 1
    index, last = (first - 1) >> level, (second - 1) >> level
    rest = iter(path)
    start = first_root if first == 1 << level else next(rest, None)
    old = new = start
    while last and old is not None and new is not None:
        if index & 1 or index < last:
            other = next(rest, None)
            if other is None:
                old = None
            elif index & 1:
                old, new = node_hash(other, old), node_hash(other, new)
            else:
                new = node_hash(new, other)
        index, last = index >> 1, last >> 1
    if old is None or next(rest, None) is not None:
        raise SealError("the consistency path has the wrong length", found=len(path))
    if (old, new) != (first_root, second_root):
        raise SealError("the second tree does not begin with the first")
