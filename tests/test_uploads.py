"""server/intake/tusfields.py and uploads.py: what the headers of tus mean, and the files of an upload."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto.errors import NotFoundError, StorageError, UsageError
from harmony4.server.errors import Problem
from harmony4.server.intake import uploads as uploads_module
from harmony4.server.intake.tusfields import (
    asked_for,
    expires,
    parse_checksum,
    parse_metadata,
    parse_size,
)
from harmony4.server.intake.uploads import Held, Uploads
from harmony4.server.state import State

TTL = 1000.0


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


# -- header fields


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("filename d29ybGQucGRm", {"filename": b"world.pdf"}),
        ("filename d29ybGQucGRm,is_confidential", {"filename": b"world.pdf", "is_confidential": b""}),
        ("a , b IA==", {"a": b"", "b": b" "}),
        ("a AA==, \tb AAA=", {"a": b"\0", "b": b"\0\0"}),
        ("k/+=;x YQ==", {"k/+=;x": b"a"}),
    ],
)
def test_metadata(text: str, found: dict[str, bytes]) -> None:
    assert parse_metadata(text) == found


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a YQ==,",
        " , a YQ==",
        "a YQ",  # without its padding
        "a Y Q==",
        "a YQ==YQ==",
        "a -_==",  # the other alphabet
        "a YQ==,a YQ==",
        "ä YQ==",
        "a ä",
        "a\x7f YQ==",
        f"a {b64(b'x' * 3072)}",
        ",".join(f"k{n}" for n in range(33)),
    ],
)
def test_metadata_that_is_not_valid(text: str) -> None:
    with pytest.raises(UsageError):
        parse_metadata(text)


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1)


@given(st.dictionaries(KEYS, st.binary(max_size=40), max_size=10))
def test_metadata_round_trip(values: dict[str, bytes]) -> None:
    text = ",".join(f"{key} {b64(value)}" for key, value in values.items())
    if len(text) <= 4096:
        assert parse_metadata(text) == values


@given(st.text(max_size=100))
def test_any_metadata(text: str) -> None:
    try:
        asked_for(parse_metadata(text))
    except UsageError:
        pass


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"name": b"talks/day1.h4mk", "filename": b"x.mp4"}, "talks/day1.h4mk"),
        ({"filename": b"film.mp4"}, "film.h4mk"),
        ({"filename": b"film"}, "film.h4mk"),
        ({"filename": b"film.h4mk"}, "film.h4mk"),
        ({"filename": b"a.b.mkv", "filetype": b"video/x-matroska", "type": b"", "x": b"\xff"}, "a.b.h4mk"),
        ({"filename": b"folder/film.mp4", "relativePath": b"null"}, "film.h4mk"),
        ({"filename": b"C:\\videos\\film.mp4"}, "film.h4mk"),
        ({"filename": "Käse & Brot.mov".encode()}, "Käse & Brot.h4mk"),
    ],
)
def test_names(metadata: dict[str, bytes], name: str) -> None:
    assert asked_for(metadata).name == name


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"filetype": b"video/mp4"},
        {"filename": b""},
        {"filename": b".mp4"},
        {"filename": b"folder/"},
        {"filename": b"\xff.mp4"},
        {"filename": b"a\0.mp4"},
        {"filename": b"..\\..\\"},
        {"name": b""},
        {"name": b"film.mp4"},
        {"name": b"../film.h4mk"},
        {"name": b".hidden.h4mk"},
        {"name": b"\xff.h4mk"},
        {"name": b"a.h4mk", "block_size": b"much"},
        {"name": b"a.h4mk", "raw": b"yes"},
        {"name": b"a.h4mk", "gop": b"0"},
        {"name": b"a.h4mk", "fps_hint": b"-1"},
        {"name": b"a.h4mk", "title": b"\xff"},
        {"name": b"a.h4mk", "title": b"x" * 1025},
    ],
)
def test_what_cannot_be_exported(metadata: dict[str, bytes]) -> None:
    with pytest.raises(UsageError):
        asked_for(metadata)


def test_options() -> None:
    found = asked_for(
        {
            "filename": b"a.bin",
            "block_size": b"64KiB",
            "raw": b"1",
            "fps_hint": b"30000/1001",
            "gop": b"15",
            "title": "Ein Täg".encode(),
            "job": b"whatever",
        }
    )
    options = found.options
    assert (options.block_size, options.raw, options.gop) == (65536, True, 15)
    assert (options.fps_hint, options.title) == (Fraction(30000, 1001), "Ein Täg")


@pytest.mark.parametrize("text", [None, "", "-1", "+1", "1.0", "0x1", " 1", "1e3", "١", str(2**63), "9" * 30])
def test_sizes_that_are_not_valid(text: str | None) -> None:
    with pytest.raises(UsageError):
        parse_size("Upload-Length", text)


def test_sizes() -> None:
    assert [parse_size("Upload-Offset", text) for text in ("0", "007", str(2**63 - 1))] == [0, 7, 2**63 - 1]


def test_checksums() -> None:
    found = parse_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")
    assert (found.algorithm, found.digest.hex()) == ("sha1", "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed")
    assert parse_checksum(f"sha256 {b64(bytes(32))}").digest == bytes(32)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "sha1",
            "sha1 ",
            "sha1 AAAA",
            "md5 1B2M2Y8AsgTpgAmY7PhCfg==",
            f"SHA1 {b64(bytes(20))}",
            "sha1 ä",
        ),
        *(f"sha1  {b64(bytes(20))}", f"sha256 {b64(bytes(20))}", f"crc32 {b64(bytes(4))}"),
    ],
)
def test_checksums_that_are_not_valid(text: str) -> None:
    with pytest.raises(UsageError):
        parse_checksum(text)


def test_dates() -> None:
    assert expires(1_234_567_890.9) == "Fri, 13 Feb 2009 23:31:30 GMT"


# -- files


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def uploads(state: State) -> Uploads:
    return Uploads(state, TTL)


def begun(uploads: Uploads, data: bytes = b"abc", length: int = 10) -> str:
    """The id of an upload that has got `data` and is in nobody's hands."""
    held = uploads.create(length, "name YS5oNG1r", None)
    append(held, data)
    held.release()
    return held.id


def append(held: Held, data: bytes) -> None:
    with held.data.open("ab") as file:
        file.write(data)
    held.offset += len(data)


def taken(uploads: Uploads, number: str) -> Held:
    held = uploads.take(number)
    assert held is not None
    return held


def files(state: State) -> set[str]:
    return {path.name for path in (state.path / "uploads").iterdir()}


def age(state: State, number: str, seconds: float) -> None:
    for path in (state.path / "uploads").glob(f"{number}.*"):
        os.utime(path, (0, time.time() - seconds))


def test_life(state: State, uploads: Uploads) -> None:
    held = uploads.create(6, "name YS5oNG1r,x", ('"tag"', "*"))
    assert not held.is_complete
    append(held, b"abc")
    number = held.id
    held.release()
    held.release()
    seen = uploads.look(number)
    assert (seen.offset, seen.known) == (3, held.known)
    assert seen.known.match == ('"tag"', "*")
    assert abs(seen.expires - time.time() - TTL) < 60
    held = taken(uploads, number)
    assert held.offset == 3
    append(held, b"def")
    assert held.is_complete
    held.note(job="0" * 32)
    held.finish()
    held.release()
    seen = uploads.look(number)
    assert (seen.offset, seen.known.job, seen.known.done) == (6, "0" * 32, True)
    assert files(state) == {f"{number}.json", f"{number}.lock"}
    held = taken(uploads, number)
    assert held.is_complete
    held.remove()
    held.release()
    assert files(state) == set()
    with pytest.raises(NotFoundError):
        uploads.look(number)


def test_files_are_the_owners(state: State, uploads: Uploads) -> None:
    begun(uploads)
    assert {path.stat().st_mode & 0o077 for path in [state.path, state.path / "uploads"]} == {0}


def test_only_one_has_it(state: State, uploads: Uploads) -> None:
    number = begun(uploads)
    held = taken(uploads, number)
    assert not held.is_wanted()
    assert uploads.is_held(number)
    assert Uploads(state, TTL).take(number) is None
    assert held.is_wanted()
    held.release()
    assert not uploads.is_held(number)
    again = taken(uploads, number)
    assert not again.is_wanted()
    again.release()


@pytest.mark.parametrize("number", ["", "x", "0" * 32, "A" * 32, "../places/0", "0" * 31 + "\n", "0" * 33])
def test_ids_that_name_nothing(uploads: Uploads, number: str) -> None:
    begun(uploads)
    for ask in (uploads.look, uploads.take):
        with pytest.raises(NotFoundError):
            ask(number)
    assert not uploads.is_held(number)


def test_what_is_not_sure(state: State, uploads: Uploads) -> None:
    """A chunk with a checksum that nobody saw the end of does not count, and is dropped."""
    number = begun(uploads)
    held = taken(uploads, number)
    held.note(sure=3)
    append(held, b"defg")
    assert uploads.look(number).offset == 3
    held.release()  # as if killed
    assert uploads.look(number).offset == 3
    held = taken(uploads, number)
    assert (held.offset, held.known.sure, held.data.read_bytes()) == (3, None, b"abc")
    held.note(sure=3)
    append(held, b"d")
    held.settle()
    assert (held.offset, held.data.read_bytes()) == (3, b"abc")
    held.settle()
    held.release()


def test_expiry(state: State, uploads: Uploads) -> None:
    """Seconds since the last byte; a lock that is held, and bytes that are complete, are never swept."""
    old, young, busy, whole, done = (begun(uploads) for _ in range(5))
    holder = taken(uploads, busy)
    held = taken(uploads, whole)
    append(held, b"defghij")
    held.release()
    held = taken(uploads, done)
    held.finish()
    held.release()
    for number in (old, busy, whole):
        age(state, number, TTL + 5)
    age(state, young, TTL - 50)
    with pytest.raises(NotFoundError):
        uploads.look(old)
    uploads.sweep()
    assert {name.partition(".")[0] for name in files(state)} == {young, busy, whole, done}
    append(holder, b"d")
    assert uploads.look(busy).offset == 4
    holder.release()
    age(state, done, TTL + 5)
    uploads.sweep()
    assert {name.partition(".")[0] for name in files(state)} == {young, busy, whole}


def test_looked_at_while_it_ends(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container is made, and the bytes go, between two looks at its files: it is there all the time."""
    number = begun(uploads, b"0123456789")
    held = taken(uploads, number)
    read = uploads_module._read

    def and_then_it_ends(path: Path) -> object:
        known = read(path)
        if not held.known.done:
            held.finish()
        return known

    monkeypatch.setattr(uploads_module, "_read", and_then_it_ends)
    seen = uploads.look(number)
    assert (seen.offset, seen.known.done) == (10, True)
    uploads.sweep()
    assert uploads.look(number).offset == 10
    held.release()


def test_leftovers(state: State, uploads: Uploads) -> None:
    """What a crash leaves: files without the rest, notes cut off, bytes of an upload that has ended."""
    uploads.sweep()  # nothing there yet
    number = begun(uploads)
    folder = state.path / "uploads"
    names = [f"{'1' * 32}.data", f"{'2' * 32}.lock", f"{'3' * 32}.json", f"{number}.77.part", "stranger"]
    for name in names:
        (folder / name).write_bytes(b"{")
    uploads.sweep()
    assert set(names) <= files(state)  # somebody may be making them
    held = taken(uploads, number)
    held.finish()
    held.release()
    (folder / f"{number}.data").write_bytes(b"abc")
    for name in names:
        os.utime(folder / name, (0, time.time() - 100))
    uploads.sweep()
    assert files(state) == {f"{number}.json", f"{number}.lock"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"length": "1"}', '{"match": 1, "length": 1}', '{"match": null, "x": 1}']
)
def test_notes_that_are_not_valid(state: State, uploads: Uploads, text: str) -> None:
    number = begun(uploads)
    (state.path / "uploads" / f"{number}.json").write_text(text)
    with pytest.raises(NotFoundError):
        uploads.look(number)
    assert list(uploads.complete()) == []


def test_complete(state: State, uploads: Uploads) -> None:
    """What is complete and in nobody's hands is given out, to one."""
    begun(uploads)
    whole, busy, done, doubtful = (begun(uploads, b"0123456789") for _ in range(4))
    holder = taken(uploads, busy)
    held = taken(uploads, done)
    held.finish()
    held.release()
    held = taken(uploads, doubtful)
    held.note(sure=3)
    held.release()
    found = list(uploads.complete())
    assert [one.id for one in found] == [whole]
    assert list(Uploads(state, TTL).complete()) == []
    for one in [*found, holder]:
        one.release()


def test_too_many(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "_MOST", 2)
    for _ in range(2):
        begun(uploads)
    with pytest.raises(Problem) as caught:
        begun(uploads)
    assert caught.value.code == "busy"


def test_a_disk_that_refuses(state: State, uploads: Uploads) -> None:
    number = begun(uploads)
    held = taken(uploads, number)
    held.note(sure=0)
    held.data.unlink()
    with pytest.raises(StorageError):
        held.settle()
    with pytest.raises(StorageError):
        held.count()
    held.release()
    with pytest.raises(NotFoundError):
        uploads.look(number)
    (state.path / "uploads").rename(state.path / "away")
    (state.path / "uploads").touch()
    with pytest.raises(StorageError):
        begun(uploads)
    assert list(uploads.complete()) == []
    uploads.sweep()


def test_killed_in_the_middle(state: State, uploads: Uploads) -> None:
    """What a process has written is there after SIGKILL, and its lock is free."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from harmony4.server.state import State; from harmony4.server.intake.uploads import Uploads\n"
        "held = Uploads(State(Path(sys.argv[1])), 1000).create(10**6, None, None)\n"
        "file = open(held.data, 'ab', buffering=0)\n"
        "file.write(b'x' * 12345); print(held.id, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-P", "-c", code, str(state.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = process.stdout.readline().strip()
        assert uploads.take(number) is None
        process.kill()
    held = taken(uploads, number)
    assert (held.offset, held.data.read_bytes()) == (12345, b"x" * 12345)
    held.release()


def test_notes_are_replaced_whole(state: State, uploads: Uploads) -> None:
    number = begun(uploads)
    held = taken(uploads, number)
    held.note(job="1" * 32)
    held.release()
    text = json.loads((state.path / "uploads" / f"{number}.json").read_text())
    assert text == {
        "length": 10,
        "metadata": "name YS5oNG1r",
        "match": None,
        "sure": None,
        "job": "1" * 32,
        "done": False,
    }
