"""The hash tree of RFC 9162, against its definition (H4MK 11.1)."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import EMPTY_ROOT, MerkleTree, SealError, UsageError, leaf_hash, node_hash
from harmony4.crypto.merkle import (
    check_consistency,
    consistency_proof,
    inclusion_places,
    inclusion_proof,
    inclusion_root,
    node_at,
)

# The test vectors of RFC 6962's reference implementation (the tree of RFC 9162 is the same).
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        bytes(range(0x60, 0x70)).hex(),
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_published_roots():  # H4MK 11.1
    tree = MerkleTree()
    assert tree.root() == EMPTY_ROOT == hashlib.sha256().digest()
    for data, root in zip(INPUTS, ROOTS, strict=True):
        tree.append(leaf_hash(data))
        assert tree.root().hex() == root


def test_prefixes_keep_leaves_and_nodes_apart():
    left, right = leaf_hash(b"l"), leaf_hash(b"r")
    assert node_hash(left, right) != leaf_hash(left + right)
    assert node_hash(left, right) != node_hash(right, left)


@given(st.integers(0, 70))
def test_any_size_agrees_with_the_definition(count):  # H4MK 11.1, 11.2
    leaves = [leaf_hash(bytes([number])) for number in range(count)]
    tree, rows = MerkleTree(), []
    for leaf in leaves:
        for level, node in enumerate(tree.append(leaf)):
            if level == len(rows):
                rows.append([])
            rows[level].append(node)
    assert tree.size == count
    assert tree.root() == independent.root_of(leaves)
    # What `append` completes, level by level, is exactly what MERK stores.
    complete = [row[: count >> level] for level, row in enumerate(independent.levels(leaves))]
    assert rows == [row for row in complete if row]
    assert [len(row) for row in rows] == [count >> level for level in range(count.bit_length())]


@pytest.mark.parametrize("count", [0, 1, 1000, 4095, 4096])
def test_memory_is_one_node_per_bit(count):
    tree = MerkleTree()
    for number in range(count):
        tree.append(number.to_bytes(32))
    assert len(tree._edge) == count.bit_count()


# ---- proofs ----------------------------------------------------------------------------------------------

# Proofs of the same tree, published with RFC 6962's implementations (transparency-dev/merkle).
LEAF = {
    0: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    1: "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    4: "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    6: "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
}
PAIR = {
    0: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    1: "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    2: "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    3: "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
}
QUAD = {
    0: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    1: "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
}
INCLUSION = {  # (leaf, size): path
    (0, 1): [],
    (0, 2): [LEAF[1]],
    (1, 2): [LEAF[0]],
    (2, 3): [PAIR[0]],
    (1, 5): [LEAF[0], PAIR[1], LEAF[4]],
    (0, 8): [LEAF[1], PAIR[1], QUAD[1]],
    (5, 8): [LEAF[4], PAIR[3], QUAD[0]],
}
CONSISTENCY = {  # (first, second): path
    (1, 1): [],
    (1, 8): [LEAF[1], PAIR[1], QUAD[1]],
    (2, 5): [PAIR[1], LEAF[4]],
    (2, 8): [PAIR[1], QUAD[1]],
    (6, 7): [PAIR[2], LEAF[6], QUAD[0]],
    (6, 8): [PAIR[2], PAIR[3], QUAD[0]],
}


class Stored:
    """The complete subtrees over some leaves, as MERK has them; counts what is read."""

    def __init__(self, leaves):
        self.rows = independent.levels(leaves)
        self.read = []

    def __call__(self, level, index):
        self.read.append((level, index))
        return self.rows[level][index]


def _subproof(leaves, first, whole):
    """RFC 9162, 2.1.4.1, as it stands there."""
    if first == len(leaves):
        return [] if whole else [independent.root_of(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if first <= split:
        return [*_subproof(leaves[:split], first, whole), independent.root_of(leaves[split:])]
    return [*_subproof(leaves[split:], first - split, False), independent.root_of(leaves[:split])]


def _path(leaves, number):
    """RFC 9162, 2.1.3.1, as it stands there."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if number < split:
        return [*_path(leaves[:split], number), independent.root_of(leaves[split:])]
    return [*_path(leaves[split:], number - split), independent.root_of(leaves[:split])]


HASHES = [leaf_hash(data) for data in INPUTS]


@pytest.mark.parametrize(("where", "path"), INCLUSION.items(), ids=str)
def test_published_inclusion_proofs(where, path):  # H4MK 22.1
    (leaf, size), stored = where, Stored(HASHES)
    found = inclusion_proof([leaf], size, stored)
    assert [node.hex() for node in found] == path
    assert inclusion_root({leaf: HASHES[leaf]}, size, found).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("where", "path"), CONSISTENCY.items(), ids=str)
def test_published_consistency_proofs(where, path):  # H4MK 22.4
    (first, second), stored = where, Stored(HASHES)
    found = consistency_proof(first, second, stored)
    assert [node.hex() for node in found] == path
    check_consistency(first, bytes.fromhex(ROOTS[first - 1]), second, bytes.fromhex(ROOTS[second - 1]), found)


def _leaves(count):
    return [leaf_hash(number.to_bytes(4)) for number in range(count)]


@given(st.data(), st.integers(1, 80))
def test_inclusion_proofs_agree_with_the_definition(data, count):
    leaves = _leaves(count)
    size = data.draw(st.integers(1, count))
    leaf = data.draw(st.integers(0, size - 1))
    stored = Stored(leaves)  # of the whole tree: a proof in any prefix of it comes of the same nodes
    path = inclusion_proof([leaf], size, stored)
    assert path == _path(leaves[:size], leaf)
    assert len(stored.read) <= 2 * size.bit_length()
    root = independent.root_of(leaves[:size])
    assert inclusion_root({leaf: leaves[leaf]}, size, path) == root
    wrong = data.draw(st.integers(0, size - 1).filter(lambda one: one != leaf) if size > 1 else st.just(1))
    try:
        assert inclusion_root({wrong: leaves[leaf]}, size, path) != root
    except SealError:
        pass
    for spoilt in ([*path, root], path[:-1] if path else [root]):
        with pytest.raises(SealError):
            inclusion_root({leaf: leaves[leaf]}, size, spoilt)


@given(st.data(), st.integers(1, 80))
def test_one_proof_for_several_leaves(data, size):  # H4MK 22.1
    leaves = _leaves(size)
    wanted = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    path = inclusion_proof(wanted, size, Stored(leaves))
    root = independent.root_of(leaves)
    known = {number: leaves[number] for number in wanted}
    assert inclusion_root(known, size, path) == root
    assert len(path) == len(set(path)) <= sum(len(_path(leaves, number)) for number in wanted)
    if len(wanted) == size:
        assert not path
    for at in range(len(path)):  # each node counts
        spoilt = [*path[:at], bytes(32), *path[at + 1 :]]
        assert inclusion_root(known, size, spoilt) != root
    for spoilt in ([*path, root], path[:-1] if path else [root]):
        with pytest.raises(SealError):
            inclusion_root(known, size, spoilt)


@given(st.data(), st.integers(1, 80))
def test_consistency_proofs_agree_with_the_definition(data, count):
    leaves = _leaves(count)
    second = data.draw(st.integers(1, count))
    first = data.draw(st.integers(1, second))
    stored = Stored(leaves)
    path = consistency_proof(first, second, stored)
    assert path == _subproof(leaves[:second], first, True)
    assert len(stored.read) <= 2 * second.bit_length()
    roots = independent.root_of(leaves[:first]), independent.root_of(leaves[:second])
    check_consistency(first, roots[0], second, roots[1], path)
    cases = [
        (first, roots[1] if first != second else bytes(32), second, roots[1], path),
        (first, roots[0], second, bytes(32), path),
        (first, roots[0], second, roots[1], [*path, bytes(32)]),
        (0, EMPTY_ROOT, second, roots[1], path),
        (second + 1, roots[0], second, roots[1], path),
    ]
    cases += [(first, roots[0], second, roots[1], path[:-1])] if path else []
    cases += [
        (first, roots[0], second, roots[1], [*path[:at], bytes(32), *path[at + 1 :]])
        for at in range(len(path))
    ]
    for case in cases:
        with pytest.raises(SealError):
            check_consistency(*case)


def test_what_cannot_be_proven():
    stored = Stored(HASHES)
    for leaves, size in (([], 8), ([8], 8), ([-1], 8), ([3, 3], 8), ([3, 2], 8), ([0], 0)):
        with pytest.raises(UsageError):
            inclusion_proof(leaves, size, stored)
    for first, second in ((0, 0), (0, 8), (3, 2)):
        with pytest.raises(UsageError):
            consistency_proof(first, second, stored)
    for known in ({}, {-1: HASHES[0]}, {8: HASHES[0]}):
        with pytest.raises(SealError):
            inclusion_root(known, 8, [])


def test_the_right_edge_is_computed():
    leaves = _leaves(7)
    stored = Stored(leaves)
    assert node_at(2, 1, 7, stored) == independent.root_of(leaves[4:])
    assert sorted(stored.read) == [(0, 6), (1, 2)]
    assert list(inclusion_places([6], 7)) == [(1, 2), (2, 0)]
