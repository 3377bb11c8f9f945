"""Proofs over HTTP: `/video/proof`, and `/video/seek` with `proof=1` (docs/API.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import independent_proof
from harmony4.crypto import SealError, sha256
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import H4MKBuilder, H4MKReader
from harmony4.h4mk.proofs.proof import Proof, check_proof, verify_range, verify_seek
from harmony4.h4mk.proofs.prove import MOST_BLOCKS
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.h4mk.proofs.trust import Trust
from needs import ORIGINAL
from serving import VIDEO, Server, running

KEY = SigningKey.from_number(5)
TRUST = Trust((KEY.public,), subject="talk", revision=3)
BLOCKS = [bytes([65 + n]) * (n + 1) for n in range(9)]  # KEY at 1, 4, 7 s
MANY = 3000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("library")
    signer = Signer(KEY, "talk", 3)
    for name, key in (("a", signer), ("plain", None)):
        with H4MKBuilder.to_path(root / f"{name}.h4mk", [VIDEO, VIDEO], signer=key, title="ü") as builder:
            for number, payload in enumerate(BLOCKS):
                builder.add_block(payload, (1 + number) * 1_000_000, key=number % 3 == 0)
            builder.finish(ends={0: 10_000_000})
    with H4MKBuilder.to_path(root / "many.h4mk", [VIDEO], signer=signer) as builder:
        for number in range(MANY):
            builder.add_block(b"xy", number * 1000, key=True)
        builder.finish()
    (root / "original.h4mk").write_bytes(ORIGINAL.read_bytes())
    with running(root) as one:
        yield one


SEEK = "/video/seek?name=a.h4mk&proof=1"


@pytest.mark.parametrize("pts", [1_000_000, 3_999_999, 4_000_000, 9_999_999, 10_000_000, 2**60])
def test_a_seek_with_its_proof(server: Server, pts: int) -> None:
    plain = server.get(f"/video/seek?name=a.h4mk&pts={pts}").json
    for _ in range(2):  # asked again, answers may take another way
        answer = server.get(f"{SEEK}&pts={pts}")
        assert answer.status == 200 and answer.headers["Cache-Control"] == "no-cache"
        seek = answer.json
        proof = seek.pop("proof")
        assert seek == plain
        found = verify_seek(Proof.of(proof), pts, 0, TRUST)
        assert found.keyframe == (seek["pts"], seek["offset"])
        assert found.place == ("after" if pts >= 10_000_000 else "inside")
        assert independent_proof.verify(Proof.of(proof).pack(), pts, 0, keys=[KEY.public.pem()])


def test_that_there_is_nothing_has_a_proof(server: Server) -> None:
    answer = server.get(f"{SEEK}&pts=999999")
    assert answer.status == 200 and answer.json["error"]["code"] == "not-found"
    assert verify_seek(Proof.of(answer.json["proof"]), 999_999, 0, TRUST).place == "before"
    answer = server.get(f"{SEEK}&pts=5&track=1")
    assert verify_seek(Proof.of(answer.json["proof"]), 5, 1, TRUST).place == "empty"


def test_several_times_and_one_proof(server: Server) -> None:
    times = [0, 1_500_000, 8_000_000, 20_000_000]
    asked = f"{SEEK}&pts={','.join(map(str, times))}"
    body = json.dumps({"pts": times}).encode()
    got = server.get(asked)
    posted = server.request("POST", SEEK, {"Content-Type": "application/json"}, body)
    assert got.json == posted.json and posted.headers["Cache-Control"] == "no-store"
    checked = check_proof(Proof.of(got.json["proof"]), TRUST)
    for pts, one in zip(times, got.json["results"], strict=True):
        key = checked.seek(pts).keyframe
        assert (one["asked"], "error" in one) == (pts, key is None)
        assert key is None or key == (one["pts"], one["offset"])
    empty = server.request("POST", SEEK, {"Content-Type": "application/json"}, b'{"pts": []}')
    assert empty.json == {"results": [], "proof": None}


@pytest.mark.parametrize(
    ("asked", "status", "problem"),
    [
        ("name=a.h4mk&pts=1&proof=2", 400, "usage"),
        ("name=a.h4mk&pts=1&proof=1&track=*", 400, "usage"),
        ("name=a.h4mk&pts=1&proof=1&track=7", 404, "not-found"),
        ("name=original.h4mk&pts=1&proof=1", 404, "not-found"),
        ("name=a.h4mk&pts=1&proof=1&v=0000000000000000", 410, "stale"),
    ],
)
def test_seeks_that_are_refused(server: Server, asked: str, status: int, problem: str) -> None:
    answer = server.get(f"/video/seek?{asked}")
    assert (answer.status, answer.problem) == (status, problem)


def test_an_unsigned_container_is_proven_to_who_knows_it(server: Server) -> None:
    head = server.get("/video/info?name=plain.h4mk").json["head"]
    proof = Proof.of(server.get("/video/seek?name=plain.h4mk&pts=1500000&proof=1").json["proof"])
    assert verify_seek(proof, 1_500_000, 0, Trust(head=bytes.fromhex(head))).keyframe == (1_000_000, 0)
    with pytest.raises(SealError, match="missing"):
        verify_seek(proof, 1_500_000, 0, TRUST)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 44), (1, 3), (20, 44), (44, 99)])
def test_the_proof_of_a_range(server: Server, first: int, last: int) -> None:
    answer = server.get(f"/video/proof?name=a.h4mk&range=bytes={first}-{last}")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    tokens = verify_range(answer.body, first, last + 1, 0, TRUST)
    start, stop = tokens[0].offset, tokens[-1].offset + tokens[-1].size
    data = server.get("/video/range?name=a.h4mk", Range=f"bytes={start}-{stop - 1}").body
    for token in tokens:
        assert sha256(data[token.offset - start :][: token.size]) == token.digest
    assert start <= first and stop == (stop if last < 45 else 45)
    whole = independent_proof.verify_range(answer.body, first, last + 1, 0, keys=[KEY.public.pem()])
    assert [one[0] for one in whole] == [token.offset for token in tokens]


def test_the_ends_of_ranges(server: Server) -> None:
    url = "/video/proof?name=a.h4mk&range=bytes="
    assert len(verify_range(server.get(f"{url}0-").body, 0, 45, 0, TRUST)) == 9
    for behind in ("45-", "45-50", "1000-"):
        assert verify_range(server.get(url + behind).body, 45, 10**9, 0, TRUST) == ()
    assert verify_range(server.get(f"{url}0-&track=1").body, 0, 1, 1, TRUST) == ()
    version = server.get("/video/seek?name=a.h4mk&pts=1000000").json["range_url"].rpartition("v=")[2]
    assert server.get(f"{url}0-&v={version}").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("asked", "status", "problem"),
    [
        ("name=a.h4mk", 400, "usage"),
        ("name=a.h4mk&range=0-5", 400, "usage"),
        ("name=a.h4mk&range=bytes=-5", 400, "usage"),
        ("name=a.h4mk&range=bytes=5-4", 400, "usage"),
        ("name=a.h4mk&range=bytes=0-5,7-8", 400, "usage"),
        (f"name=a.h4mk&range=bytes={2**63}-", 400, "usage"),
        ("name=a.h4mk&range=bytes=0-&track=9", 404, "not-found"),
        ("name=none.h4mk&range=bytes=0-", 404, "not-found"),
        ("name=original.h4mk&range=bytes=0-", 404, "not-found"),
        ("range=bytes=0-", 400, "usage"),
        ("name=a.h4mk&range=bytes=0-&v=0000000000000000", 410, "stale"),
        ("name=many.h4mk&range=bytes=0-", 413, "limit"),
    ],
)
def test_ranges_that_are_refused(server: Server, asked: str, status: int, problem: str) -> None:
    answer = server.get(f"/video/proof?{asked}")
    assert (answer.status, answer.problem) == (status, problem)


def test_as_many_blocks_as_a_proof_holds(server: Server) -> None:
    url = f"/video/proof?name=many.h4mk&range=bytes=0-{2 * MOST_BLOCKS - 1}"
    assert len(verify_range(server.get(url).body, 0, 2 * MOST_BLOCKS, 0, TRUST)) == MOST_BLOCKS


def test_a_new_signature_is_seen_in_what_is_cached(tmp_path: Path) -> None:  # H4MK 12.3
    """Signing changes neither the container's identity nor its version, and yet its proofs."""
    path = tmp_path / "a.h4mk"
    with H4MKBuilder.to_path(path, [VIDEO]) as builder:
        builder.add_block(b"one", 0, key=True)
        builder.finish(ends={0: 1})
    with H4MKReader(path) as reader:
        version = (reader.etag(0) or "")[:16]
    with running(tmp_path) as one:
        for address in ("/video/proof?range=bytes=0-1", "/video/seek?pts=0&proof=1"):
            url = f"{address}&name=a.h4mk&v={version}"
            before = one.get(url)
            tag = before.headers["ETag"]
            assert before.status == 200 and before.headers["Cache-Control"] == "no-cache"
            again = one.get(url, If_None_Match=tag)
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
            assert one.get(url, If_Match='"other"').problem == "precondition"
            key = SigningKey.from_number(len(address))
            sign_file(path, Signer(key))
            after = one.get(url, If_None_Match=tag)
            assert after.status == 200 and after.headers["ETag"] != tag
            document = after.json.get("proof", after.json)
            assert check_proof(Proof.of(document), Trust((key.public,))).final


def test_a_container_without_an_end(tmp_path: Path) -> None:
    with H4MKBuilder.in_memory([VIDEO], signer=Signer(KEY, "talk", 3), sign_every=4) as builder:
        for number, payload in enumerate(BLOCKS):
            builder.add_block(payload, number * 1_000_000, key=number % 3 == 0)
        builder.finish()
        data = builder.getvalue()
    with H4MKReader(data) as reader:
        end = [one.end for one in reader.chunks() if one.tag == "CORE"][5]
    (tmp_path / "a.h4mk").write_bytes(data[:end])
    with running(tmp_path) as one:
        seek = one.get(f"{SEEK}&pts=3500000").json
        found = verify_seek(Proof.of(seek["proof"]), 3_500_000, 0, TRUST)
        assert found.keyframe == (seek["pts"], seek["offset"]) and not found.final
        proof = one.get("/video/proof?name=a.h4mk&range=bytes=0-3")
        assert len(verify_range(proof.body, 0, 4, 0, TRUST)) == 3
        assert one.get(f"{SEEK}&pts=4500000").status == 404
