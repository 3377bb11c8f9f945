"""static/proof.js in Debian's Chromium: proofs and signatures, with the vectors of H4MK A.3 and A.5."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Page

from chromium import chromium
from independent import root_of, sha
from needs import ROOT, needs_chromium
from serving import running

pytestmark = needs_chromium


def values(name: str) -> dict[str, str]:
    text = (ROOT / "docs" / "H4MK.md").read_text(encoding="utf-8")
    found = re.search(rf"^```h4mk-values name={name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return dict(line.split(" = ") for line in found[1].splitlines())


TREE, SIGNED = values("identity"), values("signing")
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running(tmp_path_factory.mktemp("library")) as server, chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(
            """async () => {
              Object.assign(globalThis, await import("./static/proof.js"));
              const { Harmony4Error } = await import("./static/harmony4.js");
              const byte = (two) => parseInt(two, 16);
              globalThis.bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], byte);
              globalThis.told = async (call) => {
                try {
                  return (await call()) ?? "proven";
                } catch (error) {
                  return error instanceof Harmony4Error ? error.code : String(error.stack);
                }
              };
            }"""
        )
        yield page


def inclusion(page: Page, cases: list[list[Any]]) -> list[str]:
    """What `verifyInclusion` says of (leaf, index, size, path, root), hashes in hex."""
    found: list[str] = page.evaluate(
        """(cases) => Promise.all(cases.map(([leaf, index, size, path, root]) =>
          told(() => verifyInclusion(bytes(leaf), index, size, path.map(bytes), bytes(root)))))""",
        cases,
    )
    return found


def path_of(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 9162 2.1.3.1, as it is written there."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*path_of(leaves[:split], index), root_of(leaves[split:])]
    return [*path_of(leaves[split:], index - split), root_of(leaves[:split])]


def test_the_tree_of_the_specification(page: Page) -> None:  # H4MK A.3
    leaf = [TREE[f"leaf_{number}"] for number in range(4)]
    whole, first = TREE["root"], TREE["root_of_first_3"]
    assert inclusion(
        page,
        [
            [leaf[2], 2, 4, [leaf[3], TREE["node_0_1"]], whole],
            [leaf[1], 1, 4, [leaf[0], TREE["node_2_3"]], whole],
            [leaf[2], 2, 3, [TREE["node_0_1"]], first],
            [leaf[2], 2, 4, [TREE["node_0_1"]], whole],
            [leaf[2], 2, 4, [TREE["node_0_1"], leaf[3]], whole],
            [leaf[2], 3, 4, [leaf[3], TREE["node_0_1"]], whole],
            [leaf[2], 2, 4, [leaf[3], TREE["node_0_1"]], first],
            [leaf[2], 4, 4, [leaf[3], TREE["node_0_1"]], whole],
            [leaf[2], -1, 4, [leaf[3], TREE["node_0_1"]], whole],
            [leaf[2], 2.5, 4, [leaf[3], TREE["node_0_1"]], whole],
            [leaf[2], 2, 4, [leaf[3][2:], TREE["node_0_1"]], whole],
            [whole, 0, 1, [], whole],
        ],
    ) == ["proven"] * 3 + ["seal"] * 4 + ["usage"] * 4 + ["proven"]


def test_every_tree_of_up_to_17_leaves(page: Page) -> None:
    """Each leaf is proven at its place and nowhere else, with its path and no shorter or longer one."""
    cases, expected = [], []
    for size in range(1, 18):
        leaves = [sha(bytes([number])) for number in range(size)]
        root = root_of(leaves).hex()
        for index in range(size):
            path = [one.hex() for one in path_of(leaves, index)]
            for place in range(size):
                cases.append([leaves[index].hex(), place, size, path, root])
                expected.append("proven" if place == index else "seal")
            cases.append([leaves[index].hex(), index, size, [*path, root], root])
            cases.append([sha(leaves[index]).hex(), index, size, path, root])
            cases.append([leaves[index].hex(), index, size, path[1:], root])
            expected += ["seal", "seal", "seal" if path else "proven"]
    assert inclusion(page, cases) == expected


def test_large_trees(page: Page) -> None:
    """2^26 - 1 leaves, the most that a container has: the last one stands beside 25 complete trees."""
    leaf, node, path, size = sha(b"last"), sha(b"last"), [], 2**26 - 1
    for height in range(1, 26):
        path.append(sha(bytes([height])))
        node = sha(b"\1" + path[-1] + node)
    case = [leaf.hex(), size - 1, size, [one.hex() for one in path], node.hex()]
    assert inclusion(page, [case, [case[0], size - 2, *case[2:]]]) == ["proven", "seal"]


def signatures(page: Page, cases: list[list[str]]) -> list[Any]:
    """What `verifySign` says of (HEAD, SIGN, SPKI) in hex."""
    found: list[Any] = page.evaluate(
        "(cases) => Promise.all(cases.map((one) => told(() => verifySign(...one.map(bytes)))))", cases
    )
    return found


def with_rs(sign: str, r: int, s: int) -> str:
    return sign[:160] + r.to_bytes(32).hex() + s.to_bytes(32).hex() + sign[288:]


def test_the_signatures_of_the_specification(page: Page) -> None:  # H4MK A.5
    subject = json.loads(SIGNED["subject"])
    facts = {"revision": 1, "subject": sha(subject.encode()).hex()}
    final, checkpoint, spki = SIGNED["final_sign"], SIGNED["checkpoint_sign"], SIGNED["spki"]
    assert signatures(
        page,
        [
            [SIGNED["final_HEAD"], final, spki],
            [SIGNED["checkpoint_HEAD"], checkpoint, spki],
            [SIGNED["final_HEAD"], f"{final}00000001ff", spki],
        ],
    ) == [{"kind": "final", **facts}, {"kind": "checkpoint", **facts}, {"kind": "final", **facts}]


def test_signatures_that_do_not_hold(page: Page) -> None:
    head, final, spki = SIGNED["final_HEAD"], SIGNED["final_sign"], SIGNED["spki"]
    r, s = int(SIGNED["final_r"], 16), int(SIGNED["final_s"], 16)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    elsewhere = ec.generate_private_key(ec.SECP384R1()).public_key()
    keys = [one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in (other, elsewhere)]
    off_curve = bytearray.fromhex(spki)
    off_curve[-1] ^= 1

    def naming(key: bytes) -> str:
        return final[:96] + sha(key).hex() + final[160:]

    cases = {
        "high s": [head, with_rs(final, r, ORDER - s), spki],
        "r is 0": [head, with_rs(final, 0, s), spki],
        "s is 0": [head, with_rs(final, r, 0), spki],
        "r is q": [head, with_rs(final, ORDER, s), spki],
        "r is larger": [head, with_rs(final, 2**256 - 1, s), spki],
        "another s": [head, with_rs(final, r, s - 1), spki],
        "another key": [head, final, keys[0].hex()],
        "another key that is named": [head, naming(keys[0]), keys[0].hex()],
        "another curve": [head, naming(keys[1]), keys[1].hex()],
        "no point of the curve": [head, naming(bytes(off_curve)), off_curve.hex()],
        "no key": [head, naming(b"key"), b"key".hex()],
        "another kind": [head, "02" + final[2:], spki],
        "a checkpoint's HEAD": [SIGNED["checkpoint_HEAD"], final, spki],
    }
    assert dict(zip(cases, signatures(page, list(cases.values())), strict=True)) == dict.fromkeys(
        cases, "seal"
    )
    odd = {
        "algorithm": ([head, final[:2] + "02" + final[4:], spki], "critical"),
        "kind": ([head, "03" + final[2:], spki], "critical"),
        "padding": ([head, final[:4] + "01" + final[6:], spki], "format"),
        "revision": ([head, final[:16] + "80" + final[18:], spki], "format"),
        "short": ([head, final[:-2], spki], "format"),
        "HEAD": (["00" + head[2:], final, spki], "format"),
        "short HEAD": ([head[:-2], final, spki], "format"),
    }
    found = signatures(page, [case for case, _ in odd.values()])
    assert dict(zip(odd, found, strict=True)) == {name: code for name, (_, code) in odd.items()}


def test_every_changed_bit_of_what_is_signed(page: Page) -> None:
    head, final = bytes.fromhex(SIGNED["final_HEAD"]), bytes.fromhex(SIGNED["final_sign"])
    cases = []
    for data, place in ((head, 0), (final, 1)):
        for bit in range(0, 8 * len(data), 3):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            case = [head.hex(), final.hex(), SIGNED["spki"]]
            case[place] = changed.hex()
            cases.append(case)
    assert set(signatures(page, cases)) == {"seal", "format", "critical"}


def test_it_is_described(page: Page) -> None:
    text = (ROOT / "docs" / "API.md").read_text(encoding="utf-8").split("\n## JavaScript API\n")[1]
    for name in page.evaluate("async () => Object.keys(await import('./static/proof.js'))"):
        assert f"`{name}(" in text, name
