"""Where two containers part, found from their trees in O(log n) reads a difference (H4MK 22.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from harmony4.crypto.errors import OrderError, SealError, UsageError
from harmony4.crypto.merkle import EMPTY_ROOT, Node, leaf_hash, node_at, node_hash
from harmony4.crypto.token import LAST, TOKEN_SIZE, TokenRecord
from harmony4.h4mk.proofs.prove import StoredTree
from harmony4.h4mk.reader import H4MKReader

__all__ = ["Diff", "Parting", "diff", "differences", "open_tree"]


@dataclass(frozen=True, slots=True)
class Parting:
    """One block that is not the same in both; None in the container that has none at this place."""

    leaf: int
    first: TokenRecord | None
    second: TokenRecord | None


@dataclass(frozen=True, slots=True)
class Diff:
    """What two containers have in common."""

    blocks: tuple[int, int]
    """In each of them."""
    common: int
    """Blocks from the first on, in file order, that are the same in both."""
    same_tracks: bool
    """Whether TRAK is the same."""
    same: bool
    """Whether they are one container: the same head."""
    ends: int
    """How many blocks of the first one stand before the first that ends a track. A container that goes on has
    another token there."""
    partings: tuple[Parting, ...]
    """Blocks that differ, at most as many as were asked for, up to the end of the shorter one."""
    continues: bool
    """Whether the second one goes on where the first one ended: the tracks are the same, it has more blocks,
    both begin with the same ones (one at least), and it has each block of the first. The block that ends a
    track in the first one may lack LAST in the second, and may end at another time; blocks behind the first
    one that differs may stand elsewhere in the file, as blocks of other tracks come in between."""


def diff(first: H4MKReader, second: H4MKReader, *, most: int = 20) -> Diff:
    """Compare two containers by their trees. Reads a few nodes; of unsealed ones all tokens; where the second
    one may go on, also the first one's blocks from the first on that differs, up to one that it lacks.

    Raises UsageError for files of the original implementation, SealError where MERK does not give the root,
    FormatError and its kin.
    """
    trees = open_tree(first), open_tree(second)
    blocks = first.block_count, second.block_count
    found: list[int] = []
    common = min(blocks)
    for leaf in differences(*trees, *blocks):
        if not found:
            common = leaf
        if len(found) == most:
            break
        found.append(leaf)
    if not found and blocks[0] != blocks[1] and most:
        found.append(common)
    return Diff(
        blocks,
        common,
        first.trak == second.trak,
        first.head is not None and first.head == second.head,
        _first_end(first),
        tuple(Parting(leaf, _token(first, leaf), _token(second, leaf)) for leaf in found),
        first.trak == second.trak
        and common > 0
        and blocks[0] < blocks[1]
        and all(_goes_on(first, second, leaf) for leaf in differences(*trees, *blocks)),
    )


def open_tree(reader: H4MKReader) -> Node:
    """The nodes of a container's tree: read from MERK, or made of the tokens of one that is not sealed.

    Raises UsageError for the original profile, SealError where the nodes do not give the root.
    """
    if reader.state == "original":
        raise UsageError("files of the original implementation have no tree")
    if reader.tail is None:
        return _made(reader)
    tree, blocks = StoredTree(reader, reader.tail), reader.block_count
    root = node_at(blocks.bit_length(), 0, blocks, tree) if blocks else EMPTY_ROOT
    if root != reader.root:
        raise SealError("MERK is not the tree that TAIL names", where=reader.tail.merk)
    return tree


def _made(reader: H4MKReader) -> Node:
    tokens = islice((chunk for chunk in reader.chunks() if chunk.tag == "TOKN"), reader.block_count)
    rows = [[leaf_hash(reader.read_file(chunk.payload, TOKEN_SIZE)) for chunk in tokens]]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)])
    return lambda level, index: rows[level][index]


def differences(first: Node, second: Node, size: int, other: int) -> Iterator[int]:
    """The leaves below the smaller size that differ, in order; O(log n) nodes for each of them."""
    stop = min(size, other)
    at = 0
    while at < stop:
        # The largest complete subtree that begins here.
        level = min((at & -at or stop).bit_length(), (stop - at).bit_length()) - 1
        yield from _below(first, second, level, at >> level)
        at += 1 << level


def _below(first: Node, second: Node, level: int, index: int) -> Iterator[int]:
    if first(level, index) == second(level, index):
        return
    if not level:
        yield index
        return
    yield from _below(first, second, level - 1, 2 * index)
    yield from _below(first, second, level - 1, 2 * index + 1)


def _token(reader: H4MKReader, leaf: int) -> TokenRecord | None:
    """The token of a leaf, by a binary search in each track's range map."""
    for track in range(len(reader.tracks)):
        rmap = reader.range_map(track)
        row = rmap.at_leaf(leaf)
        if row >= 0:
            number, token = reader.leaf(row, track)
            if number == leaf:
                return token
    if leaf < reader.block_count:
        raise OrderError("RMAP lacks a block", where=f"leaf {leaf}")
    return None


def _goes_on(first: H4MKReader, second: H4MKReader, leaf: int) -> bool:
    """Whether the second one has this block of the first one, wherever it stands there."""
    token = _token(first, leaf)
    assert token is not None
    rmap = second.range_map(token.track)
    row = rmap.at_offset(token.offset) if len(rmap) else -1
    if row < 0:
        return False
    other = second.leaf(row, token.track)[1]
    if token.flags & LAST and not other.flags & LAST:
        other = replace(other, flags=other.flags | LAST, end=token.end)
    return other == token


def _first_end(reader: H4MKReader) -> int:
    """The least leaf whose token has LAST; all blocks where there is none."""
    ends = [reader.block_count]
    for track in range(len(reader.tracks)):
        rmap = reader.range_map(track)
        if len(rmap):
            leaf, token = reader.leaf(len(rmap) - 1, track)
            if token.flags & LAST:
                ends.append(leaf)
    return min(ends)
