"""The vectors: made again byte for byte, and read, verified and recovered with exactly the expected result.

tests/vectors/README.md tells what a twin says; tests/make_vectors/ makes the files.
"""

import io
import json

import pytest

import independent
import make_vectors
import vector_use
from harmony4.crypto.errors import FormatError, LimitError
from harmony4.h4mk import verify
from harmony4.server.cli.main import main
from make_vectors.parts import SPEC, container, kept

NAMES = sorted(path.stem for path in make_vectors.FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def made():
    return make_vectors.files()


def _vector(name):
    path = make_vectors.FOLDER / f"{name}.h4mk"
    return path, path.read_bytes(), json.loads(path.with_suffix(".json").read_bytes())


def test_the_folder_holds_what_the_generator_makes_and_nothing_else(made):
    there = make_vectors.there()
    assert there.keys() == made.keys() | set(make_vectors.KEPT)
    assert [name for name, data in made.items() if there[name] != data] == []
    assert sum(map(len, there.values())) < 2**20


def test_twins_name_sections_and_classes_that_exist():
    kinds = {kind.code for kind in (*FormatError.__subclasses__(), FormatError, LimitError)}
    found = set()
    for name in NAMES:
        _, _, twin = _vector(name)
        section = twin["spec"].removeprefix("H4MK ")
        assert f"\n## {section} " in SPEC or f"\n### {section} " in SPEC, (name, section)
        assert twin["expect"] in kinds | {"ok"}
        assert (twin["expect"] == "ok") == (name.startswith("ok-") or name == "original-v1"), name
        found.add(twin["expect"])
    assert found == kinds | {"ok"}  # every class of H4MK 24.2 has its vectors


@pytest.mark.parametrize("name", NAMES)
def test_opening_and_reading(name):  # H4MK 18
    path, data, twin = _vector(name)
    sound = twin["expect"] == "ok"
    wanted = (twin["open"], twin.get("read", ""))
    assert vector_use.opening(data, sound) == wanted
    assert vector_use.opening(path, sound) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_verifying(name):  # H4MK 19
    _, data, twin = _vector(name)
    codes, state = vector_use.verifying(data)
    assert codes == {twin["expect"]}
    if twin["open"] in ("incomplete", "original"):
        assert state == twin["open"]
    elif twin["expect"] == "ok":
        assert state == "sealed"
    # From a pipe, where the length is not known, a size that lies is first seen to be impossible, or
    # when the pipe ends.
    piped = verify(io.BytesIO(data))
    assert {problem.code for problem in piped.problems or ()} <= codes | {"limit", "truncated"}
    assert piped.ok == (twin["expect"] == "ok")


@pytest.mark.parametrize("name", NAMES)
def test_recovering(name):  # H4MK 20
    _, data, twin = _vector(name)
    result, recovered = vector_use.recovering(data)
    assert result == twin["recover"]
    if recovered is None:
        return
    # The result is a sealed container that holds what it says: blocks of the damaged file as they were.
    assert verify(recovered).ok
    facts = independent.check(recovered)
    assert len(facts["tokens"]) == result["blocks"]
    assert facts["meta"].get("lost", []) == result["lost"]
    for token, payload in zip(facts["tokens"], facts["payloads"], strict=True):
        record = independent.pack_token(token)
        assert record in data and payload in data
    # What was recovered once is kept by doing it again.
    again, twice = vector_use.recovering(recovered)
    assert again == {**result, "left_out": 0}
    assert independent.check(twice)["root"] == facts["root"]


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_implementation_agrees(name):
    _, data, twin = _vector(name)
    if twin["expect"] == "ok":
        assert independent.check(data)["state"] == twin["open"]
    else:
        with pytest.raises(ValueError, match=r"."):
            independent.check(data)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_agrees(name, capsys):
    path, _, twin = _vector(name)
    status = main(["verify", "--json", str(path)])
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert status == (0 if twin["expect"] == "ok" else 3)
    assert facts["ok"] == (twin["expect"] == "ok")
    assert {problem["code"] for problem in facts["problems"]} == {twin["expect"]} - {"ok"}


def test_the_worked_examples_are_among_them():  # H4MK A
    for name, value in (("ok-masked", "masked_file_hash"), ("ok-signed", "signed_file_hash")):
        _, data, _ = _vector(name)
        assert f"\n{value} = {independent.sha(data).hex()}\n" in SPEC
    _, data, _ = _vector("ok-plain")
    assert f"\nhead = {independent.check(data)['head'].hex()}\n" in SPEC


# ---- too large to be stored ------------------------------------------------------------------------------


def _titled(size):
    """A container whose META has exactly `size` bytes, of which most are a title."""

    def grown(data):
        return data.replace(b'"Zw', b'"' + b"x" * (size - len(data)) + b"Zw")

    return container(meta_json=grown)


def _block(size):
    """A container with one block of this size."""

    def widest(trak):
        trak["cut"]["block"] = 2**24

    return container(change_trak=widest, blocks=[{"payload": bytes(size), "pts": 0, "key": True}])


def _trak(data):
    return container(trak_json=lambda _: data)


LARGE = [
    # What is recovered has one more entry in its history, for which there is no room.
    ("META of 1 MiB", lambda: _titled(2**20), "ok", "sealed", "limit"),
    ("META of 1 MiB and 1 byte", lambda: _titled(2**20 + 1), "limit", "limit", kept(4)),
    ("TRAK of 1 MiB and 1 byte", lambda: _trak(b"{" * (2**20 + 1)), "limit", "limit", kept(4)),
    ("TRAK of 1 MiB of brackets", lambda: _trak(b"[" * 2**20), "json", "json", kept(4)),
    ("TRAK of 1 MiB of digits", lambda: _trak(b"9" * 2**20), "json", "json", kept(4)),
    ("TRAK of 1 MiB in a string", lambda: _trak(b'"' + b"\\[" * (2**19 - 1)), "json", "json", kept(4)),
    ("a payload of 16 MiB", lambda: _block(2**24), "ok", "sealed", kept(1)),
    ("a payload of 16 MiB and 1 byte", lambda: _block(2**24 + 1), "limit", "sealed", kept(0, (0, 0, 0))),
]


@pytest.mark.parametrize(
    ("make", "expect", "opens", "recovered"), [row[1:] for row in LARGE], ids=[row[0] for row in LARGE]
)
def test_what_is_too_large_to_be_stored(make, expect, opens, recovered):  # H4MK 24.1
    data = make()
    assert vector_use.verifying(data)[0] == {expect}
    assert vector_use.opening(data, expect == "ok")[0] == opens
    assert vector_use.recovering(data)[0] == recovered
    if expect == "ok":
        independent.check(data)


# ---- every cut of what is valid --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ok-signed", "original-v1"])
def test_every_cut_is_noticed_and_nothing_else_raised(name):
    _, data, _ = _vector(name)
    for size in range(len(data)):
        part = data[:size]
        assert vector_use.verifying(part)[0] == {"truncated"}, size
        assert vector_use.opening(part)[0] in ("incomplete", "original", "truncated")
