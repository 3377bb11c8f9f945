"""static/proof.js against harmony4.h4mk.proofs: one answer to each document, in a Chromium (H4MK 22)."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

import independent
import test_proof
import test_spec
from chromium import chromium
from harmony4.crypto import HEADER, KEY, LAST, HarmonyError, sha256
from harmony4.crypto.merkle import inclusion_root, leaf_hash
from harmony4.crypto.signing import ORDER
from harmony4.h4mk import H4MKReader
from harmony4.h4mk.proofs.proof import Proof, verify_range, verify_seek
from harmony4.h4mk.proofs.prove import prove_range, prove_seek
from harmony4.h4mk.proofs.signature import CHECKPOINT, FINAL, Signer
from harmony4.h4mk.proofs.trust import Trust, TrustedKey
from needs import needs_chromium
from serving import running

pytestmark = needs_chromium

KEY_A, KEY_B, TRUST, TWO = test_proof.KEY_A, test_proof.KEY_B, test_proof.TRUST, test_proof.TWO
_changes, _token, _whole, build = test_proof._changes, test_proof._token, test_proof._whole, test_proof.build

SCRIPT = """async () => {
  Object.assign(globalThis, await import("./static/proof.js"));
  const { Harmony4Error } = await import("./static/harmony4.js");
  const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  globalThis.told = async (call) => {
    try {
      return await call();
    } catch (error) {
      return error instanceof Harmony4Error ? error.code : String(error.stack);
    }
  };
  const trusts = new Map();
  const wide = (text) => (text === null ? null : BigInt(text));
  const trustOf = (wanted) => {
    const name = JSON.stringify(wanted);
    if (!trusts.has(name)) trusts.set(name, new Trust({ ...wanted, revision: BigInt(wanted.revision) }));
    return trusts.get(name);
  };
  globalThis.asked = ([document, wanted, track, start, stop]) => told(async () => {
    const bytes = Uint8Array.from(atob(document), (letter) => letter.charCodeAt(0));
    const trust = trustOf(wanted);
    if (stop === null) {
      const { place, keyframe, final } = await verifySeek(bytes, wide(start), track, trust);
      return [place, keyframe && [String(keyframe.pts), String(keyframe.offset)], final];
    }
    const tokens = await verifyRange(bytes, wide(start), wide(stop), track, trust);
    return tokens.map((one) => [String(one.offset), one.size, hex(one.digest)]);
  });
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running(tmp_path_factory.mktemp("library")) as server, chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.evaluate(SCRIPT)
        yield page


def _wanted(trust: Trust) -> dict[str, Any]:
    keys = [one if isinstance(one, TrustedKey) else TrustedKey(one) for one in trust.keys]
    return {
        "keys": [{"key": one.key.pem().decode(), "since": one.since, "until": one.until} for one in keys],
        "head": None if trust.head is None else trust.head.hex(),
        "subject": trust.subject,
        "revision": str(trust.revision),
        "revoked": [one.hex() for one in trust.revoked],
        "now": trust.now,
    }


class Cases:
    """Questions, and what Python says to them: an answer, or the code of the refusal."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.expected: list[Any] = []

    def seek(self, data: bytes, pts: int, track: int = 0, trust: Trust = TRUST) -> Any:
        def answer() -> Any:
            found = verify_seek(data, pts, track, trust)
            return [found.place, found.keyframe and [str(one) for one in found.keyframe], found.final]

        return self._ask(answer, data, trust, track, pts, None)

    def range(self, data: bytes, start: int, stop: int, track: int = 0, trust: Trust = TRUST) -> Any:
        def answer() -> Any:
            found = verify_range(data, start, stop, track, trust)
            return [[str(one.offset), one.size, one.digest.hex()] for one in found]

        return self._ask(answer, data, trust, track, start, stop)

    def _ask(self, answer: Any, data: bytes, trust: Trust, track: int, start: int, stop: int | None) -> Any:
        try:
            expected = answer()
        except HarmonyError as error:
            expected = error.code
        text = base64.b64encode(data).decode()
        self.asked.append([text, _wanted(trust), track, str(start), None if stop is None else str(stop)])
        self.expected.append(expected)
        return expected

    def check(self, page: Page) -> None:
        found = page.evaluate("(cases) => Promise.all(cases.map(asked))", self.asked)
        wrong = [
            (case, there, here)
            for case, there, here in zip(self.asked, found, self.expected, strict=True)
            if there != here
        ]
        assert not wrong, (len(wrong), wrong[0])


def _contents(seed: int) -> Any:
    """As `test_proof.contents`, from a seed."""
    rng, calls, ends = random.Random(seed), [], {}
    tracks = rng.randint(1, 3)
    for track in range(tracks):
        pts, key = 0, -1
        for _ in range(rng.randint(0, 9)):
            flags = rng.choice([0, KEY, KEY, HEADER])
            flags = 0 if flags == HEADER and (key >= 0 or pts) else flags
            pts += 0 if flags == HEADER else rng.choice([0, 0, 1, 7, 40])
            if flags == KEY:
                key = pts = max(pts, key + 1)
            calls.append((track, rng.randbytes(rng.randint(1, 5)), pts, flags))
        ends[track] = pts + rng.choice([0, 1, 50])
    return tracks, calls, ends, rng.choice([0, 1, 3])


def test_every_time_and_range(page: Page) -> None:  # H4MK 22.2, 22.3
    cases = Cases()
    for seed in range(40):
        content = _contents(seed)
        with H4MKReader(build(content)) as reader:
            for track in range(content[0]):
                end, size = content[2][track], reader.stream_size(track)
                times = [0, end // 2, end, end + 5, 2**63 - 1]
                several = prove_seek(reader, times, track).pack()
                for pts in times:
                    single = cases.seek(prove_seek(reader, pts, track).pack(), pts, track)
                    assert cases.seek(several, pts, track) == single and isinstance(single, list)
                    cases.seek(several, pts + 1, track + 1)
                for start, stop in ((0, 1), (0, size + 1), (size // 2, size // 2 + 3), (size, size + 4)):
                    packed = prove_range(reader, start, stop, track).pack()
                    assert isinstance(cases.range(packed, start, stop, track), list)
                    cases.range(packed, start, size + 1, track)
                    cases.range(packed, 0, stop, track)
    cases.check(page)


def test_one_change_and_nothing_is_proven(page: Page) -> None:
    cases = Cases()
    for seed in range(12):
        content = _contents(seed)
        with H4MKReader(build(content)) as reader:
            for track in range(content[0]):
                proof = prove_seek(reader, content[2][track] // 2, track).pack()
                for document in _changes(json.loads(proof)):
                    spoilt = independent.canonical(document)
                    assert isinstance(cases.seek(spoilt, content[2][track] // 2, track), str)
    assert len(cases.asked) > 1000
    cases.check(page)


def test_one_change_in_checkpoints_and_without_a_subject(page: Page) -> None:
    cases = Cases()
    tokens = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 120)]
    for subject in ("talk", None):
        revision = 3 if subject else 0
        trust = Trust((KEY_A.public,), subject=subject, revision=revision)
        for kind in (FINAL, CHECKPOINT):
            proof = _whole(tokens, kind=kind, signer=Signer(KEY_A, subject, revision)).pack()
            assert cases.seek(proof, 50, 0, trust) == ["inside", ["40", "10"], kind == FINAL]
            for document in _changes(json.loads(proof)):
                assert isinstance(cases.seek(independent.canonical(document), 50, 0, trust), str)
    cases.check(page)


def test_another_trust(page: Page) -> None:
    cases, name = Cases(), KEY_A.public.fingerprint
    with H4MKReader(build(TWO)) as reader:
        head, proof = reader.head, prove_seek(reader, [0, 120], 0).pack()
    proofs = [proof]
    for signer in (Signer(KEY_A, "talk", 2), Signer(KEY_A, "other", 3), Signer(KEY_B, "talk", 3), None):
        with H4MKReader(build(TWO, signer)) as reader:
            proofs.append(prove_seek(reader, [0, 120], 0).pack())
    with H4MKReader(build((*TWO[:2], {0: 301, 1: 150}, 2))) as reader:
        proofs.append(prove_seek(reader, [0, 120], 0).pack())
    keys = (KEY_A.public,)
    trusts = [
        TRUST,
        Trust(keys),
        Trust(keys, head=head),
        Trust(head=head),
        Trust(head=bytes(32)),
        Trust((KEY_B.public,)),
        Trust((KEY_B.public, KEY_A.public)),
        Trust((KEY_B.public,), head=bytes(32)),
        Trust(keys, subject="talk", revision=4),
        Trust(keys, subject="talk", revision=2**63 - 1),
        Trust(keys, revoked=frozenset({name})),
        Trust((*keys, KEY_B.public), revoked=frozenset({name})),
        *(
            Trust((TrustedKey(KEY_A.public, since, until),), now=100)
            for since, until in ((None, 99), (None, 100), (101, None), (100, None), (0, 200))
        ),
    ]
    for trust in trusts:
        for one in proofs:
            cases.seek(one, 120, 0, trust)
    assert len({str(one) for one in cases.expected}) > 1
    cases.check(page)


def test_splices_and_contradictions(page: Page) -> None:  # H4MK 22.2
    cases = Cases()
    honest = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 90, flags=KEY | LAST)]
    for tokens in (
        honest,
        [_token(0, 0, 60), _token(1, 40, 80)],
        [_token(0, 0, 40), _token(1, 50, 80)],
        [_token(0, 0, 40), _token(0, 40, 80, offset=10)],
        [_token(1, 0, 40), _token(0, 40, 80, offset=20)],
        [_token(0, 0, 40), _token(1, 40, 80, offset=11)],
        [_token(0, 0, 40), _token(1, 40, 80, offset=9)],
        [_token(0, 0, 40), _token(2, 40, 80, offset=10)],
        [_token(0, 30, 40), _token(3, 20, 35, offset=50)],
        [_token(0, 0, 40), _token(7, 3, 5, track=1), _token(1, 40, 80)],
        [_token(0, 0, 40, flags=KEY | LAST), _token(1, 40, 80)],
        [_token(0, 0, 40), _token(5, 100, 140, offset=90)],
        [_token(0, 2**60, 2**62, offset=2**60), _token(1, 2**62, 2**63 - 1, offset=2**60 + 10)],
        [_token(0, 2**60, 2**62, offset=2**60), _token(1, 2**62 + 1, 2**63 - 1, offset=2**60 + 10)],
        [_token(0, 2**60, 2**62, offset=2**60), _token(1, 2**62, 2**63 - 1, offset=2**60 + 11)],
        [_token(0, 2**53 - 1, 2**53, offset=2**53 - 10), _token(1, 2**53, 2**53 + 1, offset=2**53)],
        [_token(0, 0, 40, flags=KEY | LAST, offset=2**63 - 1)],
        [dataclasses.replace(_token(0, 0, 40, flags=KEY | LAST | 2), tag=b"t" * 32)],
    ):
        for kind in ({}, {"kind": CHECKPOINT}):
            proof = _whole(tokens, **kind)
            back = {"leaves": proof.leaves[::-1], "tokens": proof.tokens[::-1]}
            cases.seek(dataclasses.replace(proof, **back).pack(), 45)
            for pts in (0, 3, 45, 50, 80, 100, 2**53, 2**60, 2**62, 2**63 - 1):
                cases.seek(proof.pack(), pts)
            for start, stop in (
                (0, 100),
                (20, 95),
                (90, 95),
                (2**53 - 3, 2**53 + 3),
                (2**60 + 3, 2**60 + 20),
            ):
                cases.range(proof.pack(), start, stop)
                cases.range(proof.pack(), start, 2**63 - 1)
            # Neither can be shown as the other one.
            wrong = dataclasses.replace(proof, meta=sha256(b"m") if kind else bytes(32))
            assert cases.seek(wrong.pack(), 3) == "seal"
    cases.check(page)


def test_leaves_increase(page: Page) -> None:
    """A document has one form only, though the root does not depend on the order."""
    cases = Cases()
    proof = _whole([_token(0, 0, 40, flags=KEY | LAST), _token(0, 0, 40, flags=KEY | LAST, track=1)])
    assert cases.seek(proof.pack(), 3) == ["inside", ["0", "0"], True]
    for leaves in ((1, 0), (0, 0), (1, 1)):
        tokens = tuple(proof.tokens[leaf] for leaf in leaves)
        assert cases.seek(dataclasses.replace(proof, leaves=leaves, tokens=tokens).pack(), 3) == "seal"
    cases.check(page)


def test_half_of_another_tree(page: Page) -> None:
    cases = Cases()
    tokens = [_token(0, 0, 40), _token(1, 40, 80), _token(2, 80, 120), _token(3, 120, 160, flags=KEY | LAST)]
    whole, hashes = _whole(tokens), [leaf_hash(one.pack()) for one in tokens]
    pair = inclusion_root({0: hashes[2], 1: hashes[3]}, 2, [])
    good = dataclasses.replace(whole, leaves=(1,), tokens=(tokens[1],), path=(hashes[0], pair))
    assert cases.seek(good.pack(), 50) == ["inside", ["40", "10"], True]
    for change in (
        {"path": (hashes[0], hashes[2])},
        {"blocks": 3},
        {"blocks": 5},
        {"blocks": 1},
        {"blocks": 0},
        {"leaves": (0,)},
        {"path": (hashes[0],)},
        {"path": (hashes[0], pair, pair)},
        {"leaves": (1, 1), "tokens": (tokens[1],) * 2},
    ):
        assert cases.seek(dataclasses.replace(good, **change).pack(), 50) == "seal"
    cases.check(page)


def test_empty_tracks(page: Page) -> None:
    cases = Cases()
    with H4MKReader(build((2, [(0, b"x", 0, KEY)], {0: 10, 1: 0}, 0))) as reader:
        packed = prove_seek(reader, 5, 1).pack()
    for track in (0, 1, 2, -1, 10**9):
        cases.seek(packed, 5, track)
        cases.range(packed, 0, 9, track)
    document = json.loads(packed)
    for change in (document["directory"].replace('"blocks":1,', '"blocks":0,'), "{}", ""):
        assert isinstance(cases.seek(independent.canonical(document | {"directory": change}), 5), str)
    # By a signer who is not honest: what no META can be shows nothing, and a hole is not an empty track.
    meta = json.loads(document["directory"])
    one = meta["tracks"][1]
    for change in (
        {"lost": [{"count": 0, "first": 0, "track": 1}]},
        {"lost": [{"count": 0, "first": 0, "track": 0}]},
        {"lost": [{"count": 0, "first": 0, "track": 2}]},
        {"tracks": [meta["tracks"][0], {**one, "blocks": 1}]},
        {"more": 1},
        {"duration": -1},
    ):
        directory = independent.canonical(meta | change)
        spoilt = Proof.unpack(packed)
        spoilt = dataclasses.replace(spoilt, directory=directory, meta=sha256(directory), signatures=())
        trust = Trust(head=sha256(spoilt.head()))
        for track in (0, 1):
            cases.seek(spoilt.pack(), 5, track, trust)
    with H4MKReader(build((1, [], {0: 0}, 0))) as reader:
        cases.seek(prove_seek(reader, 0).pack(), 0)
    cases.check(page)


def test_documents_are_strict(page: Page) -> None:  # H4MK 22.5
    cases = Cases()
    with H4MKReader(build(TWO)) as reader:
        packed = prove_seek(reader, [0, 120], 0).pack()
    document = json.loads(packed)
    token, one = document["tokens"][0], document["signatures"][0]
    high = ORDER - int(one["value"][64:], 16)
    for change in (
        {"tokens": [token + "00" * 32, *document["tokens"][1:]]},
        {"tokens": [token[:-2], *document["tokens"][1:]]},
        {"tokens": [token.upper(), *document["tokens"][1:]]},
        {"tokens": [token + "\n", *document["tokens"][1:]]},
        {"tokens": [5]},
        {"tokens": []},
        {"tokens": {}},
        {"leaves": [0]},
        {"leaves": [2**26]},
        {"leaves": [True, 1]},
        {"leaves": ["1", "2"]},
        {"signatures": [one] * 16},
        {"signatures": [one] * 17},
        {"signatures": [{**one, "value": f"{one['value'][:64]}{high:064x}"}]},
        {"signatures": [{**one, "value": "00" * 64}]},
        {"signatures": [{**one, "value": "ff" * 64}]},
        {"signatures": [{**one, "subject": "00" * 32}]},
        {"signatures": [{**one, "revision": str(2**63 - 1)}]},
        {"signatures": [{**one, "revision": str(2**63)}]},
        {"signatures": [{**one, "more": 1}]},
        {"directory": "{}"},
        {"root": "00" * 32},
        {"blocks": 2**26},
        {"blocks": "3"},
        {"duration": str(2**53)},
        {"meta": "00" * 32},
        {"duration": None},
        {"format": 1},
        {"format": "h4mk proof 2"},
        {"more": 1},
        {"tokens": ["ff" * 96, document["tokens"][1]]},
        {"path": [[[[[[[[1]]]]]]]]},
    ):
        cases.seek(independent.canonical(document | change), 120)
    for data in (
        packed,
        packed + b"\n",
        b" " + packed,
        b"\xef\xbb\xbf" + packed,
        packed.replace(b'"blocks":', b'"blocks":1,"blocks":'),
        packed.replace(b'"duration":', b'"duration":-0,"x":'),
        packed.replace(b'"blocks":7', b'"blocks":7.0'),
        packed[:-1],
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"' + b"[" * 9 + b'"',
        b"[" * 100_000,
        b"\xff",
        b'{"a":"\\ud800"}',
        b" " * (2**20 + 1),
    ):
        cases.seek(data, 120)
    for pts in (-1, 2**63):
        assert cases.seek(packed, pts) == "usage"
    for start, stop in ((3, 3), (-1, 3), (4, 2)):
        assert cases.range(packed, start, stop) == "usage"
    assert sum(isinstance(one, list) for one in cases.expected) == 2
    cases.check(page)
    # What a JSON parser made of it serves as well.
    script = """async ([document, pem]) => {
      const trust = new Trust({ keys: [pem] });
      const deep = JSON.parse("[".repeat(200000) + "]".repeat(200000));
      return [
        (await checkProof(document, trust)).final,
        (await verifySeek(JSON.stringify(document), 120, 0, trust)).place,
        await told(() => checkProof({ ...document, path: deep }, trust)),
        await told(() => checkProof({ ...document, blocks: 0.5 }, trust)),
        await told(() => checkProof(null, trust)),
        await told(() => checkProof(document, {})),
        await told(() => checkProof({ a: "x".repeat(2 ** 20) }, trust)),
      ];
    }"""
    found = page.evaluate(script, [document, KEY_A.public.pem().decode()])
    assert found == [True, "inside", "json", "json", "json", "usage", "limit"]


def test_what_trust_is_made_of(page: Page) -> None:
    pem = KEY_A.public.pem().decode()
    wanted = {
        "nothing": {},
        "subject without key": {"head": "00" * 32, "subject": "a"},
        "revision without subject": {"keys": [pem], "revision": 1},
        "empty subject": {"keys": [pem], "subject": ""},
        "a bound and no time": {"keys": [{"key": pem, "until": 5}]},
        "other bounds": {"keys": [pem, {"key": pem, "until": 5}], "now": 1},
        "short head": {"head": "00"},
        "no key": {"keys": ["key"]},
        "a private key": {"keys": [KEY_A.pem().decode()]},
        "no base64": {"keys": [pem.replace("M", "!")]},
        "negative revision": {"keys": [pem], "subject": "a", "revision": -1},
        "revoked": {"keys": [pem], "revoked": ["x"]},
    }
    script = "(all) => Promise.all(all.map((one) => told(async () => (new Trust(one), 'made'))))"
    assert page.evaluate(script, list(wanted.values())) == ["usage"] * len(wanted)
    assert page.evaluate(script, [{"keys": [pem, pem]}, {"head": "AB" * 32}]) == ["made"] * 2


def test_what_the_specification_has(page: Page) -> None:  # H4MK A.7
    values, signer, cases = test_spec._values("proofs"), test_proof.test_signature.EXAMPLE, Cases()
    trust = Trust((signer.key.public,), subject="example", revision=1)
    seek, two = (independent.canonical(values[name]) for name in ("seek_proof", "two_proof"))
    assert isinstance(cases.seek(seek, values["seek_at"], 0, trust), list)
    for pts in values["two_at"]:
        assert isinstance(cases.seek(two, pts, 0, trust), list)
    cases.check(page)
