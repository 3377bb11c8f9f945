"""The hash tree of RFC 9162, against its definition (H4MK 11.1)."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import independent
from harmony4.crypto import EMPTY_ROOT, MerkleTree, leaf_hash, node_hash

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
