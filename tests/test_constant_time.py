"""Secrets are compared in constant time: tokens, cookies, signatures, what makes sure of a mask, and keys.

How long a comparison takes is not measured, which machines that others use as well would not allow. What is
handed to `hmac.compare_digest` is written down while a server is asked, and must be what was sent and what it
has to be: with another comparison at any of these places nothing is there.
"""

from __future__ import annotations

import hmac
import time
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Final

import pytest

from harmony4.crypto.digest import sha256
from harmony4.crypto.mask import MaskSpec, MasterKey
from harmony4.h4mk import H4MKReader, verify
from harmony4.server.guard import signing
from harmony4.server.guard.secret import load_secret
from harmony4.server.guard.sessions import COOKIE
from harmony4.server.guard.tokens import TokenFile, new_token
from harmony4.server.state import State
from masking import ONE, TWO, keyring, masked_container, plain_container
from serving import VIDEO, Server, running, write_container

Pairs = list[tuple[bytes, bytes]]
RANGE: Final = "/video/range?name=a.h4mk"
WRONG: Final = "A" * 43
"""In the form of a token's secret, of a cookie's and of a signature."""


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """What has been compared in constant time, in this process."""
    pairs: Pairs = []
    compare = hmac.compare_digest

    def record(one: bytes, other: bytes) -> bool:
        pairs.append((bytes(one), bytes(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", record)
    return pairs


def status(server: Server, target: str = RANGE, **headers: str) -> int:
    return server.get(target, **headers).status


def test_tokens(tmp_path: Path, compared: Pairs) -> None:
    write_container(tmp_path / "a.h4mk", [b"one", b"two"])
    token, text = new_token("test", ["read"], time.time())
    TokenFile(State(tmp_path / ".harmony4")).add(token)
    with running(tmp_path, auth=True) as server:
        assert status(server, Authorization=f"Bearer {text}") == 200
        assert (token.digest.encode(), token.digest.encode()) in compared
        compared.clear()
        assert status(server, Authorization=f"Bearer h4_{token.id}_{WRONG}") == 401
        assert (sha256(WRONG.encode()).hex().encode(), token.digest.encode()) in compared
        compared.clear()
        # That there is no such token takes as long.
        assert status(server, Authorization=f"Bearer h4_{'0' * 16}_{WRONG}") == 401
        assert sha256(WRONG.encode()).hex().encode() in dict(compared)


def test_sessions(tmp_path: Path, compared: Pairs) -> None:
    write_container(tmp_path / "a.h4mk", [b"one", b"two"])
    token, text = new_token("test", ["read"], time.time())
    TokenFile(State(tmp_path / ".harmony4")).add(token)
    with running(tmp_path, auth=True) as server:
        answer = server.request("POST", "/session", {"Authorization": f"Bearer {text}"})
        value = SimpleCookie(answer.headers["Set-Cookie"])[COOKIE].value
        right = value.rpartition(".")[2].encode()
        compared.clear()
        assert status(server, Cookie=f"{COOKIE}={value}") == 200
        assert (right, right) in compared
        compared.clear()
        assert status(server, Cookie=f"{COOKIE}={value[:-43]}{WRONG}") == 401
        assert (right, WRONG.encode()) in compared


def test_signed_urls(tmp_path: Path, compared: Pairs) -> None:
    write_container(tmp_path / "a.h4mk", [b"one", b"two"])
    key = signing.key_of(load_secret(State(tmp_path / ".harmony4")))
    url = signing.signed_url(key, RANGE, signing.Signature(int(time.time()) + 600))
    right = url[-43:].encode()
    with running(tmp_path, auth=True) as server:
        compared.clear()
        assert status(server, url) == 200
        assert (right, right) in compared
        compared.clear()
        assert status(server, url[:-43] + WRONG) == 401
        assert (right, WRONG.encode()) in compared


def test_masks(tmp_path: Path, compared: Pairs) -> None:
    """Each block's tag before it is unmasked, the commitment to the file's key, and the end of the file."""
    plain_container(tmp_path / "plain.h4mk", [b"one", b"two", b"three"], VIDEO)
    masked_container(tmp_path / "a.h4mk", tmp_path / "plain.h4mk", MaskSpec((ONE, TWO)))
    with H4MKReader(tmp_path / "a.h4mk") as reader:
        tags = [reader.stored(row).tag for row in range(3)]
        commit = bytes.fromhex(reader.trak.mask["commit"])
        whole = bytes.fromhex(str(reader.meta.history[-1].args["whole"]))
    assert len({*tags, commit, whole}) == 5
    compared.clear()
    with running(tmp_path, keyring=keyring(tmp_path / "ring", one=ONE)) as server:
        assert server.get(f"{RANGE}&masked=0").body == b"onetwothree"
        for one in (*tags, commit):
            assert (one, one) in compared
    compared.clear()
    assert verify(tmp_path / "a.h4mk", masters=[ONE]).tags == 3
    for one in (*tags, commit, whole):
        assert (one, one) in compared


def test_keys(compared: Pairs) -> None:
    assert MasterKey(ONE.reveal()) == ONE
    assert ONE != TWO
    assert compared == [(ONE.reveal(), ONE.reveal()), (ONE.reveal(), TWO.reveal())]
