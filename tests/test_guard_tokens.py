"""Tokens: their text, what is kept of them, the file, and processes that change it at the same time."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from pathlib import Path

import pytest

from harmony4.crypto.errors import LimitError, NotFoundError, SourceError, StorageError, UsageError
from harmony4.server.guard import tokens
from harmony4.server.guard.files import mark
from harmony4.server.guard.secret import SIZE, load_secret, secret_path
from harmony4.server.guard.tokens import TokenFile, check, new_token, pack, token_id, unpack
from harmony4.server.state import State


def test_a_token_and_its_text() -> None:
    token, text = new_token("a laptop", ["write", "read"], 1000.5, 2000)
    prefix, id, secret = text.split("_", 2)
    assert (prefix, id, len(secret)) == ("h4", token.id, 43)
    assert token.scopes == ("read", "write")
    assert token.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(token)
    assert token_id(text) == token.id
    found = {token.id: token}
    assert check(found, text) is token
    assert token.has_expired(2000)
    assert not token.has_expired(1999.9)
    assert not new_token("x", ["read"], 0)[0].has_expired(1e12)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text.upper(),
        lambda text: text.replace("h4_", "h5_"),
        lambda text: text[:3] + "0" * 16 + text[19:],
        lambda text: text.replace("_", " "),
        lambda text: text[:-1] + "é",
        lambda text: text + "\n",
    ],
)
def test_what_is_no_token(change: object) -> None:
    token, text = new_token("x", ["read"], 0)
    assert callable(change)
    assert check({token.id: token}, change(text)) is None


def test_unknown_ids_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(tokens, "equal", lambda one, other: compared.append((one, other)))
    _, text = new_token("x", ["read"], 0)
    assert check({}, text) is None
    assert [len(one) for one in compared[0]] == [64, 64]


@pytest.mark.parametrize(
    ("name", "scopes", "expires"),
    [
        ("", ["read"], None),
        ("a\nb", ["read"], None),
        ("x" * 201, ["read"], None),
        ("x", [], None),
        ("x", ["root"], None),
        ("x", ["read"], 999),
    ],
)
def test_tokens_that_are_refused(name: str, scopes: list[str], expires: int | None) -> None:
    with pytest.raises(UsageError):
        new_token(name, scopes, 1000, expires)


def test_packed_and_unpacked() -> None:
    made = [new_token(f"ünï {n}", ["read", "mask"], n, None if n else 99)[0] for n in range(3)]
    found = {one.id: one for one in made}
    assert unpack(pack(found)) == found
    assert unpack(pack({})) == {}


def damaged() -> list[bytes]:
    token = new_token("x", ["read"], 0)[0]
    document = json.loads(pack({token.id: token}))
    row = document["tokens"][0]
    changes: list[object] = [
        document | {"version": 2},
        document | {"tokens": [row, row]},
        document | {"tokens": 5},
        [],
        {"version": 1},
    ]
    rows: list[dict[str, object]] = [
        {"id": "x"},
        {"id": 5},
        {"name": None},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": [[]]},
        {"sha256": "ff"},
        {"created": "1"},
        {"created": True},
        {"expires": 1.5},
    ]
    changes.extend(document | {"tokens": [row | more]} for more in rows)
    whole = pack({token.id: token})
    return [json.dumps(one).encode() for one in changes] + [b"", b"[" * 100_000, b"\xff", whole[:-5]]


@pytest.mark.parametrize("data", damaged())
def test_damaged_files(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(data)
    file = TokenFile(State(tmp_path))
    file.path.write_bytes(data)
    with pytest.raises(SourceError, match="tokens"):
        file.read()
    with pytest.raises(SourceError):  # and nothing is written over it
        file.add(new_token("x", ["read"], 0)[0])
    assert file.path.read_bytes() == data


def test_the_file(tmp_path: Path) -> None:
    file = TokenFile(State(tmp_path / "state"))
    assert file.read() == {}
    assert not (tmp_path / "state").exists()  # reading makes nothing
    one, other = (new_token(name, ["read"], 0)[0] for name in "ab")
    file.add(one)
    before = mark(file.path)
    file.add(other)
    assert mark(file.path) != before
    assert file.read() == {one.id: one, other.id: other}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.revoke(one.id) == one
    with pytest.raises(NotFoundError, match="no token"):
        file.revoke(one.id)
    assert list(file.read()) == [other.id]
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["locks", "tokens.json"]


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 1)
    file = TokenFile(State(tmp_path))
    file.add(new_token("a", ["read"], 0)[0])
    with pytest.raises(LimitError):
        file.add(new_token("b", ["read"], 0)[0])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    state = State(tmp_path / "file" / "state")
    with pytest.raises(StorageError):
        TokenFile(state).add(new_token("a", ["read"], 0)[0])
    with pytest.raises((StorageError, SourceError)):
        load_secret(state)


def at_once(count: int, work: object) -> None:
    assert callable(work)
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(30)
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_several_at_once_lose_nothing(tmp_path: Path) -> None:
    made = [new_token(str(number), ["read"], 0)[0] for number in range(16)]
    at_once(16, lambda number: TokenFile(State(tmp_path)).add(made[number]))
    assert TokenFile(State(tmp_path)).read() == {one.id: one for one in made}


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    found: list[bytes] = []
    at_once(16, lambda _: found.append(load_secret(State(tmp_path))))
    assert len(found) == 16
    assert len(set(found)) == 1
    assert len(found[0]) == SIZE
    assert stat.S_IMODE(secret_path(State(tmp_path)).stat().st_mode) == 0o600
    secret_path(State(tmp_path)).write_bytes(b"short")
    with pytest.raises(SourceError, match="damaged"):
        load_secret(State(tmp_path))
