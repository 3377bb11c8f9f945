"""keygen, mask, unmask, rekey, export --mask and the commands that take a key: real media, real processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path

import pytest

import independent
from commands import Done, here, refused, run
from harmony4.crypto import MaskSpec, MasterKey, xor_mask
from harmony4.crypto.signing import PublicKey
from harmony4.h4mk import H4MKBuilder, H4MKReader, TrackInfo, mask_container, verify
from harmony4.h4mk.proofs.trust import Trust
from harmony4.server.masking.keys import KEY, KEY_FILE, PASSPHRASE, format_key, read_key_file
from limits import needs_rlimit, run_python
from make_vectors.parts import spec_value
from make_vectors.valid import masked as spec_masked
from media_factory import media
from needs import BUNNY, VECTORS, needs_ffmpeg
from processes import needs_proc

Capture = pytest.CaptureFixture[str]
VARIABLES = (KEY, KEY_FILE, PASSPHRASE)


@pytest.fixture(autouse=True)
def no_keys_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def new_key(path: Path, key: MasterKey | None = None) -> MasterKey:
    key = key or MasterKey.generate()
    path.write_text(format_key(key))
    path.chmod(0o600)
    return key


class Place:
    """A container of real media, and two keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain = folder / "film.h4mk"
        assert run("export", "-q", BUNNY, "-o", self.plain, "--title", "Big Buck Bunny").status == 0
        self.key_file, self.other_file = folder / "a.key", folder / "b.key"
        self.key, self.other = new_key(self.key_file), new_key(self.other_file)
        self.masked = folder / "masked.h4mk"
        with H4MKReader(self.plain) as reader:
            mask_container(reader, self.masked, MaskSpec((self.key, self.other)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("masking"))


def facts(done: Done) -> dict[str, object]:
    assert done.status == 0, done.err
    found: dict[str, object] = json.loads(done.out)
    return found


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- keygen


def test_keygen_makes_a_key(tmp_path: Path, capsys: Capture) -> None:
    done = here(capsys, "keygen", "-o", tmp_path / "a.key")
    key = read_key_file(tmp_path / "a.key")
    assert done.status == 0
    assert f"key id {key.id.hex()}" in done.text
    assert key.reveal().hex() not in done.text + done.err
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    found = facts(here(capsys, "keygen", "--json", "-o", tmp_path / "b.key"))
    other = read_key_file(tmp_path / "b.key")
    assert found == {
        "output": str(tmp_path / "b.key"),
        "kind": "mask",
        "id": other.id.hex(),
        "passphrase": False,
    }
    assert other != key


def test_keygen_never_writes_over_a_key(tmp_path: Path, capsys: Capture) -> None:
    key = new_key(tmp_path / "a.key")
    refused(here(capsys, "keygen", "-o", tmp_path / "a.key"), "never written over")
    assert read_key_file(tmp_path / "a.key") == key
    refused(here(capsys, "keygen", "-o", tmp_path / "nowhere" / "a.key"), "cannot write the key file")


def test_keygen_into_a_pipe_but_not_onto_a_terminal() -> None:
    done = run("keygen", "-o", "-")
    assert done.status == 0
    assert re.fullmatch(r"h4mk-key-v1:[0-9a-f]{64}\n", done.text)
    assert "key id" in done.err
    ours, theirs = os.openpty()
    try:
        refused(run("keygen", "-o", "-", stdout=theirs), "not shown on a terminal")
    finally:
        os.close(ours)
        os.close(theirs)


@needs_rlimit
def test_a_full_disk_leaves_no_key(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from harmony4.server.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));"
        "print(main(['keygen', '-o', sys.argv[1]]))"
    )
    assert run_python(code, tmp_path / "a.key") == "1\n"
    assert listing(tmp_path) == []


def test_a_passphrase_from_the_environment(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    found = facts(here(capsys, "keygen", "--json", "--passphrase", "-o", tmp_path / "a.key"))
    assert found["passphrase"] is True
    assert (tmp_path / "a.key").read_text().startswith("h4mk-key-v1-scrypt:17:8:1:")
    masked = tmp_path / "m.h4mk"
    made = facts(here(capsys, "mask", "--json", place.plain, "-o", masked, "-k", tmp_path / "a.key"))
    assert made["keys"] == [found["id"]]
    monkeypatch.setenv(PASSPHRASE, "battery staple")
    refused(
        here(capsys, "unmask", masked, "-o", tmp_path / "u", "-k", tmp_path / "a.key"),
        "the passphrase does not open the key",
        "a.key",
    )


# -- mask and unmask


def test_mask_and_unmask_give_the_container_back(place: Place, tmp_path: Path, capsys: Capture) -> None:
    done = here(capsys, "mask", place.plain, "-o", tmp_path / "m.h4mk", "--key-file", place.key_file)
    assert done.status == 0
    for words in ("masked (deterministic)", place.key.id.hex(), "stay visible", "head "):
        assert words in done.text
    masked = (tmp_path / "m.h4mk").read_bytes()
    assert verify(masked, masters=[place.key]).ok
    assert BUNNY.read_bytes()[1000:1100] not in masked
    done = here(capsys, "unmask", tmp_path / "m.h4mk", "-o", tmp_path / "u.h4mk", "-k", place.key_file)
    assert "bit for bit the container that was masked" in done.text
    assert (tmp_path / "u.h4mk").read_bytes() == place.plain.read_bytes()


def test_mask_and_unmask_as_facts(place: Place, tmp_path: Path, capsys: Capture) -> None:
    made = facts(
        here(
            capsys,
            *("mask", "--json", place.plain, "-o", tmp_path / "m.h4mk"),
            *("-k", place.key_file, "-k", place.other_file, "--random-salt"),
        )
    )
    with H4MKReader(tmp_path / "m.h4mk") as reader:
        assert reader.head is not None
        assert (made["head"], made["size"]) == (reader.head.hex(), reader.size)
    assert made["mode"] == "random"
    assert made["keys"] == sorted([place.key.id.hex(), place.other.id.hex()])
    assert (made["signatures_dropped"], made["parts_dropped"]) == (False, 0)
    assert (made["plaintext"], made["plain_bytes"]) == (False, 0)
    for key in (place.key_file, place.other_file):
        back = facts(here(capsys, "unmask", "--json", tmp_path / "m.h4mk", "-o", tmp_path / "u", "-k", key))
        assert (back["exact"], back["whole"]) == (True, True)
        assert (tmp_path / "u").read_bytes() == place.plain.read_bytes()


def test_keeping_plaintext_says_what_it_gives_away(place: Place, tmp_path: Path, capsys: Capture) -> None:
    arguments = (place.plain, "-o", tmp_path / "m.h4mk", "-k", place.key_file, "--keep-plaintext")
    done = here(capsys, "mask", *arguments)
    assert "whoever has the file has all of the media, 1.0 MiB," in done.text
    made = facts(here(capsys, "mask", "--json", *arguments))
    assert (made["plaintext"], made["plain_bytes"]) == (True, BUNNY.stat().st_size)
    here(capsys, "extract", tmp_path / "m.h4mk", "-o", tmp_path / "film.mp4", "--track", "1")
    assert (tmp_path / "film.mp4").read_bytes() == BUNNY.read_bytes()
    here(capsys, "unmask", "-q", tmp_path / "m.h4mk", "-o", tmp_path / "u.h4mk", "-k", place.key_file)
    assert (tmp_path / "u.h4mk").read_bytes() == place.plain.read_bytes()


def test_masking_by_pipes(place: Place) -> None:
    environment = os.environ | {KEY: place.key_file.read_text()}
    masked = run("mask", "-", "-o", "-", stdin=place.plain.read_bytes(), env=environment)
    assert masked.status == 0
    assert "standard output: masked" in masked.err
    back = run("unmask", "-", "-o", "-", stdin=masked.out, env=environment)
    assert (back.status, back.out) == (0, place.plain.read_bytes())


def test_a_wrong_key_is_refused_before_the_first_byte(place: Place, tmp_path: Path, capsys: Capture) -> None:
    new_key(tmp_path / "c.key")
    for command in ("unmask", "extract"):
        refused(
            here(capsys, command, place.masked, "-o", tmp_path / "out", "-k", tmp_path / "c.key"),
            "none of the keys given opens this container",
            place.key.id.hex(),
        )
        done = run(command, place.masked, "-o", "-", "-k", tmp_path / "c.key")
        refused(done, "none of the keys")
        assert done.out == b""
    assert listing(tmp_path) == ["c.key"]


def test_what_cannot_be_masked_or_unmasked(place: Place, tmp_path: Path, capsys: Capture) -> None:
    out = ("-o", tmp_path / "out", "-k", place.key_file)
    refused(here(capsys, "mask", place.masked, *out), "masked already")
    refused(here(capsys, "unmask", place.plain, *out), "not masked")
    (tmp_path / "cut.h4mk").write_bytes(place.plain.read_bytes()[:-10])
    refused(here(capsys, "mask", tmp_path / "cut.h4mk", *out), "only a sealed container")
    refused(here(capsys, "mask", place.plain, "-o", place.plain, "-k", place.key_file), "same file")
    refused(here(capsys, "mask", place.plain, "-o", tmp_path / "out"), "needs a key", "--key-file")
    twice = ("-k", place.key_file, "-k", place.key_file)
    refused(here(capsys, "mask", place.plain, "-o", tmp_path / "out", *twice), "the same key twice")
    damaged = bytearray(place.masked.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.h4mk").write_bytes(damaged)
    refused(here(capsys, "unmask", tmp_path / "damaged.h4mk", *out), "CRC")
    assert listing(tmp_path) == ["cut.h4mk", "damaged.h4mk"]


def test_keys_are_no_arguments(place: Place, capsys: Capture) -> None:
    done = here(capsys, "mask", place.plain, "-o", "-", "--key", format_key(place.key))
    assert done.status == 2
    assert place.key.reveal().hex() not in done.text + done.err


def test_keys_from_the_environment(
    place: Place, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> object:
        return facts(here(capsys, "mask", "--json", place.plain, "-o", tmp_path / "m.h4mk"))["keys"]

    monkeypatch.setenv(KEY_FILE, str(place.key_file))
    assert made() == [place.key.id.hex()]
    monkeypatch.setenv(KEY, format_key(place.other))
    assert made() == sorted([place.key.id.hex(), place.other.id.hex()])
    monkeypatch.setenv(KEY, format_key(place.key))
    assert made() == [place.key.id.hex()]
    monkeypatch.delenv(KEY_FILE)
    assert made() == [place.key.id.hex()]
    monkeypatch.setenv(KEY, "h4mk-key-v1:nonsense")
    refused(here(capsys, "mask", place.plain, "-o", tmp_path / "x"), "not the text of a key", KEY)
    explicit = ("mask", "--json", place.plain, "-o", tmp_path / "m.h4mk", "-k", place.other_file)
    assert facts(here(capsys, *explicit))["keys"] == [place.other.id.hex()], "options win"


# -- any bytes


@pytest.mark.parametrize("size", [0, 1, 15, 2**20, 2**20 + 17, 3 * 2**20])
def test_any_bytes_as_a_filter(place: Place, tmp_path: Path, size: int) -> None:
    data = hashlib.shake_128(b"any").digest(size)
    done = run("mask", "--raw", "-", "-o", "-", "-k", place.key_file, stdin=data)
    salt = re.search(r"^salt ([0-9a-f]{64})$", done.err, re.MULTILINE)
    assert done.status == 0
    assert salt is not None
    assert len(done.out) == size
    assert done.out == bytes(xor_mask(data, place.key.raw_key(bytes.fromhex(salt[1]))))
    back = run("unmask", "--raw", "--salt", salt[1], "-", "-o", "-", "-k", place.key_file, stdin=done.out)
    assert (back.status, back.out) == (0, data)


def test_any_file(place: Place, tmp_path: Path, capsys: Capture) -> None:
    masked = facts(
        here(capsys, "mask", "--raw", "--json", BUNNY, "-o", tmp_path / "masked", "-k", place.key_file)
    )
    assert masked["bytes"] == BUNNY.stat().st_size == (tmp_path / "masked").stat().st_size
    assert masked["key"] == place.key.id.hex()
    raw = ("--raw", "--salt", str(masked["salt"]).upper())
    back = here(capsys, "unmask", tmp_path / "masked", "-o", tmp_path / "back", "-k", place.key_file, *raw)
    assert "nothing shows whether the bytes were changed" in back.text
    assert (tmp_path / "back").read_bytes() == BUNNY.read_bytes()
    quiet = here(capsys, "mask", "--raw", "-q", BUNNY, "-o", tmp_path / "masked", "-k", place.key_file)
    assert re.fullmatch(r"salt [0-9a-f]{64}\n", quiet.text), "without it the bytes would be lost"
    assert str(masked["salt"]) not in quiet.text


def test_any_bytes_and_what_does_not_go_with_them(place: Place, tmp_path: Path, capsys: Capture) -> None:
    keys = ("-o", tmp_path / "out", "-k", place.key_file)
    both = (*keys, "-k", place.other_file)
    salt = ("--salt", "00" * 32)
    refused(here(capsys, "mask", "--raw", "--keep-plaintext", BUNNY, *keys), "--raw")
    refused(here(capsys, "mask", "--raw", BUNNY, *both), "one key")
    refused(here(capsys, "unmask", "--raw", *salt, BUNNY, *both), "one key")
    refused(here(capsys, "unmask", "--raw", BUNNY, *keys), "belong together")
    refused(here(capsys, "unmask", *salt, place.masked, *keys), "belong together")
    refused(here(capsys, "unmask", "--raw", "--salt", "00", BUNNY, *keys), "64 hexadecimal", status=2)
    for source in (tmp_path / "missing", tmp_path, "nul\0"):
        refused(here(capsys, "mask", "--raw", source, *keys), "cannot open")
    assert listing(tmp_path) == []


@needs_rlimit
def test_any_bytes_need_no_memory(place: Place, tmp_path: Path) -> None:
    """A sparse file of 1 GiB goes through, and the process does not grow."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**30)
    code = (
        "import resource, sys;"
        "from harmony4.server.cli.main import main;"
        "main(['mask', '--raw', '-q', '-k', sys.argv[2], '-o', '/dev/null', '/dev/null']);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "main(['mask', '--raw', '-q', '-k', sys.argv[2], '-o', '/dev/null', sys.argv[1]]);"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print((after - before) // 1024)"
    )
    shown = run_python(code, tmp_path / "big", place.key_file).splitlines()
    assert int(shown[-1]) < 16, "MiB"


@needs_proc
def test_memory_follows_the_block(place: Place, tmp_path: Path) -> None:
    """The peaks of whole commands, for a container of 8 blocks and one of 72."""
    code = (
        "import sys;"
        "from harmony4.server.cli.main import main;"
        "assert main(sys.argv[1:]) == 0;"
        # Not ru_maxrss, which a child inherits from its parent.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    key = ("-k", place.key_file)
    peaks: dict[str, list[int]] = {}
    for blocks in (8, 72):
        source, plain, masked = (tmp_path / f"{blocks} {name}" for name in ("source", "plain", "masked"))
        with source.open("wb") as file:
            file.truncate(blocks * 2**20)
        assert run("export", "-q", "--raw", source, "-o", plain).status == 0
        for name, arguments in {
            "mask": ("mask", "-q", plain, "-o", masked, *key),
            "mask anew": ("mask", "-q", "--random-salt", plain, "-o", "/dev/null", *key),
            "unmask": ("unmask", "-q", masked, "-o", "/dev/null", *key),
            "export": ("export", "-q", "--raw", "--mask", source, "-o", "/dev/null", *key),
            "export anew": (
                *("export", "-q", "--raw", "--mask", "--random-salt", source, "-o", "/dev/null", *key),
            ),
        }.items():
            peaks.setdefault(name, []).append(int(run_python(code, *arguments).split()[-1]) // 1024)
        for path in (source, plain, masked):
            path.unlink()
    assert all(large - small < 8 and large < 120 for small, large in peaks.values()), peaks


# -- who can open it


def test_rekey_changes_who_can_open_it(place: Place, tmp_path: Path, capsys: Capture) -> None:
    third = new_key(tmp_path / "c.key")
    out = tmp_path / "r.h4mk"
    change = ("--add", tmp_path / "c.key", "--remove", place.key.id.hex().upper())
    done = here(capsys, "rekey", place.masked, "-o", out, "-k", place.other_file, *change)
    assert done.status == 0
    assert "copies from before stay readable with the keys they had" in done.text
    assert "may have kept the key of the file itself" in done.text
    for key, opens in ((place.key, False), (place.other, True), (third, True)):
        assert (key.id.hex() in done.text) == opens
    for file, opens in ((place.key_file, False), (place.other_file, True), (tmp_path / "c.key", True)):
        status = here(capsys, "unmask", "-q", out, "-o", tmp_path / "u", "-k", file).status
        assert status == (0 if opens else 1)
    assert (tmp_path / "u").read_bytes() == place.plain.read_bytes()
    with H4MKReader(place.masked) as before, H4MKReader(out) as after:
        assert before.head == after.head
        assert before.root == after.root
    assert verify(out, masters=[third]).ok


def test_rekey_in_place(place: Place, tmp_path: Path, capsys: Capture) -> None:
    file, link = tmp_path / "m.h4mk", tmp_path / "link.h4mk"
    file.write_bytes(place.masked.read_bytes())
    link.symlink_to(file)
    third = new_key(tmp_path / "c.key")
    found = facts(
        here(
            capsys,
            *("rekey", "--json", link, "-o", link, "-k", place.key_file, "--add", tmp_path / "c.key"),
        )
    )
    assert found["added"] == [third.id.hex()]
    assert found["removed"] == []
    assert found["keys"] == sorted(key.id.hex() for key in (place.key, place.other, third))
    assert link.is_symlink()
    assert verify(file, masters=[third]).ok
    assert listing(tmp_path) == ["c.key", "link.h4mk", "m.h4mk"]


def test_rekey_leaves_signatures_alone(place: Place, tmp_path: Path, capsys: Capture) -> None:
    """And blocks, root and head: what was signed is as it was, and whoever trusts the signer still does."""
    file, out, pem = tmp_path / "m.h4mk", tmp_path / "r.h4mk", tmp_path / "k.pem"
    assert here(capsys, "keygen", "--signing", "-q", "-o", pem).status == 0
    made = ("-o", file, "--mask", "--block-size", "64KiB", "-k", place.key_file, "--random-salt")
    signed = ("--sign-every", 3, "--key", pem, "--subject", "film", "--revision", 2)
    done = here(capsys, "export", "-q", BUNNY, *made, *signed)
    assert done.status == 0, done.err
    new_key(tmp_path / "c.key")
    change = ("--add", tmp_path / "c.key", "--remove", place.key.id.hex())
    assert here(capsys, "rekey", "-q", file, "-o", out, "-k", place.key_file, *change).status == 0
    before, after = (list(independent.walk(path.read_bytes())) for path in (file, out))
    assert [one.tag for one in before] == [one.tag for one in after]
    assert {one.tag for one, other in zip(before, after, strict=True) if one.payload != other.payload} == {
        b"KEYS",
        b"VERI",
    }
    assert sum(one.tag == b"SIGN" for one in after) > 2
    with H4MKReader(file) as one, H4MKReader(out) as other:
        assert (one.head, one.root) == (other.head, other.root)
    trust = ("--trust", tmp_path / "k.pub.pem", "--subject", "film", "--revision", 2)
    for path in (file, out):
        assert here(capsys, "verify", path, *trust).status == 0
    report = verify(out, trust=Trust((PublicKey.from_pem((tmp_path / "k.pub.pem").read_bytes()),)))
    assert report.ok
    assert report.checked == report.signatures == sum(one.tag == b"SIGN" for one in after)
    assert here(capsys, "unmask", "-q", out, "-o", tmp_path / "u", "-k", place.key_file).status == 1
    assert here(capsys, "unmask", "-q", out, "-o", tmp_path / "u", "-k", tmp_path / "c.key").status == 0


def test_rekey_by_pipes(place: Place) -> None:
    gone = ("--remove", place.other.id.hex())
    data = place.masked.read_bytes()
    done = run("rekey", "-", "-o", "-", "-k", place.key_file, *gone, stdin=data)
    assert done.status == 0
    assert verify(done.out, masters=[place.key]).ok
    assert "opened by key" in done.err


def test_what_rekey_refuses(place: Place, tmp_path: Path, capsys: Capture) -> None:
    out = ("rekey", place.masked, "-o", tmp_path / "out")
    key = ("-k", place.key_file)
    refused(here(capsys, *out, *key), "--add or --remove")
    refused(here(capsys, *out, *key, "--add", place.other_file), "has that key already")
    refused(here(capsys, *out, *key, "--remove", "00" * 16), "no such key")
    refused(here(capsys, *out, *key, "--remove", "00"), "32 hexadecimal digits", status=2)
    both = ("--remove", place.key.id.hex(), "--remove", place.other.id.hex())
    refused(here(capsys, *out, *key, *both), "nobody could open")
    refused(here(capsys, *out, "--remove", place.key.id.hex()), "needs a key")
    new_key(tmp_path / "c.key")
    refused(here(capsys, *out, "-k", tmp_path / "c.key", "--add", tmp_path / "c.key"), "none of the keys")
    refused(here(capsys, "rekey", place.plain, "-o", tmp_path / "o", *key, *both), "not masked")
    assert listing(tmp_path) == ["c.key"]


# -- the commands that read


def test_extract_with_a_key(place: Place, tmp_path: Path, capsys: Capture) -> None:
    done = here(
        capsys, "extract", "--json", place.masked, "-o", tmp_path / "film.mp4", "-k", place.other_file
    )
    found = facts(done)
    assert (found["sha256"], found["whole"]) == (hashlib.sha256(BUNNY.read_bytes()).hexdigest(), True)
    assert (tmp_path / "film.mp4").read_bytes() == BUNNY.read_bytes()
    refused(here(capsys, "extract", place.masked, "-o", tmp_path / "x"), "masked", "without a key")
    plain = here(capsys, "extract", place.plain, "-q", "-o", tmp_path / "film.mp4", "-k", place.other_file)
    assert plain.status == 0, "a key that is not needed does no harm"


def test_extract_of_what_is_left(place: Place, tmp_path: Path, capsys: Capture) -> None:
    data = place.masked.read_bytes()
    (tmp_path / "cut.h4mk").write_bytes(data[: len(data) // 2])
    done = here(capsys, "recover", tmp_path / "cut.h4mk", "-o", tmp_path / "r.h4mk")
    kept = "1 block kept" in done.text
    assert done.status == (3 if kept else 1)
    out = ("-o", tmp_path / "film.mp4", "-k", place.key_file)
    for file in ("cut.h4mk", "r.h4mk") if kept else ("cut.h4mk",):
        refused(here(capsys, "extract", tmp_path / file, *out), "--partial")
        assert here(capsys, "extract", "--partial", tmp_path / file, *out).status == 3
        found = (tmp_path / "film.mp4").read_bytes()
        assert BUNNY.read_bytes().startswith(found)
        assert len(found) > 1000 or not kept
        shown = here(capsys, "extract", "--partial", tmp_path / file, *out).text
        assert "nothing shows that no block is missing" in shown
    if kept:
        back = here(capsys, "unmask", tmp_path / "r.h4mk", "-o", tmp_path / "u", "-k", place.key_file)
        assert "nothing shows that none is missing" in back.text
        checked = here(capsys, "verify", tmp_path / "r.h4mk", "-k", place.key_file)
        assert "nothing shows that no masked block is missing" in checked.text


def test_extract_of_a_track_whose_end_is_gone(tmp_path: Path, capsys: Capture) -> None:
    """All tags that are there are right; only the last block does not say that it is the last."""
    key = MasterKey(spec_value("master"))
    new_key(tmp_path / "a.key", key)
    out = ("-o", tmp_path / "out", "-k", tmp_path / "a.key")
    (tmp_path / "whole.h4mk").write_bytes(spec_masked())
    assert here(capsys, "extract", tmp_path / "whole.h4mk", *out).status == 0
    (tmp_path / "out").unlink()
    (tmp_path / "short.h4mk").write_bytes(spec_masked(body=lambda raws: raws[:-2]))
    for command in ("extract", "unmask"):
        refused(here(capsys, command, tmp_path / "short.h4mk", *out), "not have the blocks that were masked")
    # Whoever changes it may say that it was changed; then it counts how each track ends.
    later = [{"args": {}, "inputs": [], "op": "recover"}]
    (tmp_path / "short.h4mk").write_bytes(spec_masked(later, body=lambda raws: raws[:-2]))
    refused(here(capsys, "extract", tmp_path / "short.h4mk", *out), "goes on behind its last block")
    refused(here(capsys, "unmask", tmp_path / "short.h4mk", *out), "last block of a track is missing")
    assert not (tmp_path / "out").exists()


def test_verify_with_a_key(place: Place, capsys: Capture, tmp_path: Path) -> None:
    done = here(capsys, "verify", place.masked)
    assert done.status == 0
    assert "tags can only be checked with a key" in done.text
    done = here(capsys, "verify", place.masked, "-k", place.key_file)
    assert (done.status, "tags of masked blocks with the key: 3 are right" in done.text) == (0, True)
    found = facts(here(capsys, "verify", "--json", place.masked, "-k", place.key_file))
    assert (found["ok"], found["masked"], found["tags"], found["whole"]) == (True, True, 3, True)
    found = facts(here(capsys, "verify", "--json", place.plain))
    assert (found["masked"], found["tags"]) == (False, 0)
    new_key(tmp_path / "c.key")
    refused(here(capsys, "verify", place.masked, "-k", tmp_path / "c.key"), "none of the keys")
    piped = run("verify", "-", "-k", place.key_file, stdin=place.masked.read_bytes())
    assert (piped.status, "3 are right" in piped.text) == (0, True)


def test_inspect_shows_the_mask(place: Place, capsys: Capture, tmp_path: Path) -> None:
    found = facts(here(capsys, "inspect", "--json", place.masked))
    ids = sorted([place.key.id.hex(), place.other.id.hex()])
    assert found["mask"] == {"mode": "deterministic", "keys": ids}
    assert facts(here(capsys, "inspect", "--json", place.plain))["mask"] is None
    shown = here(capsys, "inspect", place.masked).text
    assert f"masked    deterministic, opened by {ids[0]} or {ids[1]}\n" in shown
    assert "history   export, then mask\n" in shown
    damaged = bytearray(place.masked.read_bytes())
    with H4MKReader(place.masked) as reader:
        damaged[next(one.payload for one in reader.chunks() if one.tag == "KEYS")] ^= 1
    (tmp_path / "damaged.h4mk").write_bytes(damaged)
    assert "the key slots are damaged" in here(capsys, "inspect", tmp_path / "damaged.h4mk").text


def test_seek_and_tokens_need_no_key(place: Place, capsys: Capture) -> None:
    plain, masked = (
        facts(here(capsys, "seek", "--json", file, "2s")) for file in (place.plain, place.masked)
    )
    assert {name: value for name, value in plain.items() if name != "range_url"} == {
        name: value for name, value in masked.items() if name != "range_url"
    }
    tokens = [json.loads(line) for line in here(capsys, "tokens", place.masked).text.splitlines()]
    assert all(one["masked"] and len(one["tag"]) == 64 for one in tokens)


@pytest.mark.parametrize("command", ["cut", "concat", "filter", "bundle", "split"])
def test_what_needs_the_plain_container_says_so(
    place: Place, tmp_path: Path, capsys: Capture, command: str
) -> None:
    more = {"filter": ["--track", "0"], "cut": ["--from", "0"]}.get(command, [])
    refused(here(capsys, command, place.masked, "-o", tmp_path / "out", *more), "masked", "harmony4 unmask")
    assert listing(tmp_path) == []


# -- export --mask


@needs_ffmpeg
@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("bunny", []),
        ("fragmented.mp4", []),
        ("plain.webm", []),
        ("plain.mp4", ["--remux"]),
        ("plain.mp4", ["--spectrum", "structure"]),
        ("plain.mp4", ["--raw", "--block-size", "10000"]),
    ],
)
def test_export_masks_as_mask_does(
    place: Place, tmp_path: Path, capsys: Capture, source: str, options: list[str]
) -> None:
    """Read twice, from a file or a pipe: the same bytes as those of the two commands after each other."""
    film = BUNNY if source == "bunny" else media(source)
    key = ("-k", place.key_file)
    here(capsys, "export", "-q", film, "-o", tmp_path / "plain.h4mk", *options)
    here(capsys, "mask", "-q", tmp_path / "plain.h4mk", "-o", tmp_path / "masked.h4mk", *key)
    found = facts(
        here(capsys, "export", "--json", film, "-o", tmp_path / "direct.h4mk", "--mask", *key, *options)
    )
    assert (found["mode"], found["keys"], found["plaintext"]) == (
        "deterministic",
        [place.key.id.hex()],
        False,
    )
    wanted = (tmp_path / "masked.h4mk").read_bytes()
    assert (tmp_path / "direct.h4mk").read_bytes() == wanted
    piped = run("export", "-", "-o", "-", "--mask", *key, *options, stdin=film.read_bytes())
    assert piped.status == 0, piped.err
    assert piped.out == wanted


def test_export_with_a_random_salt(place: Place, tmp_path: Path, capsys: Capture) -> None:
    made = []
    for _ in range(2):
        arguments = (BUNNY, "-o", tmp_path / "m.h4mk", "--mask", "--random-salt", "-k", place.key_file)
        done = here(capsys, "export", *arguments, "--title", "Big Buck Bunny")
        assert "masked (random)" in done.text
        made.append((tmp_path / "m.h4mk").read_bytes())
        done = here(capsys, "unmask", tmp_path / "m.h4mk", "-o", tmp_path / "u.h4mk", "-k", place.key_file)
        assert "every block is authentic, and none is missing" in done.text
        assert (tmp_path / "u.h4mk").read_bytes() == place.plain.read_bytes()
    assert made[0] != made[1]


def test_export_keeping_plaintext(place: Place, tmp_path: Path, capsys: Capture) -> None:
    done = here(
        capsys,
        *("export", BUNNY, "-o", tmp_path / "m.h4mk", "--mask", "--keep-plaintext", "-k", place.key_file),
    )
    assert "whoever has the file has all of the media" in done.text
    with H4MKReader(tmp_path / "m.h4mk") as reader:
        assert [track.info.masked for track in reader.tracks] == [True, False]
        assert reader.read(0, 10**7, 1) == BUNNY.read_bytes()


def test_export_and_options_that_belong_together(place: Place, tmp_path: Path, capsys: Capture) -> None:
    out = ("export", BUNNY, "-o", tmp_path / "m.h4mk")
    for options in (["-k", place.key_file], ["--random-salt"], ["--keep-plaintext"]):
        refused(here(capsys, *out, *options), "go with --mask")
    refused(here(capsys, *out, "--mask"), "needs a key")
    assert listing(tmp_path) == []


# -- what is dropped, and what stays


def test_dropped_signatures_are_named(place: Place, tmp_path: Path, capsys: Capture) -> None:
    out = ("-o", tmp_path / "m.h4mk", "-k", place.key_file)
    done = here(capsys, "mask", VECTORS / "ok-signed.h4mk", *out)
    assert (done.status, "the signatures were dropped" in done.text) == (0, True)
    found = facts(here(capsys, "mask", "--json", VECTORS / "ok-signed.h4mk", *out))
    assert found["signatures_dropped"] is True
    assert verify(tmp_path / "m.h4mk").signatures == 0


def test_parts_of_a_bundle_are_dropped_and_named(place: Place, tmp_path: Path, capsys: Capture) -> None:
    """They hold digests of plain media."""
    assert run("bundle", "-q", place.plain, BUNNY, "-o", tmp_path / "b.h4mk").status == 0
    with H4MKReader(tmp_path / "b.h4mk") as reader:
        assert reader.meta is not None
        had = len(reader.meta.ancillary)
    assert had > 0
    out = ("-o", tmp_path / "m.h4mk", "-k", place.key_file)
    done = here(capsys, "mask", tmp_path / "b.h4mk", *out)
    assert f"{had} ancillary chunk" in done.text
    assert "cannot take this bundle apart any more" in done.text
    found = facts(here(capsys, "mask", "--json", tmp_path / "b.h4mk", *out))
    assert found["parts_dropped"] == had
    here(capsys, "unmask", "-q", tmp_path / "m.h4mk", "-o", tmp_path / "u.h4mk", "-k", place.key_file)
    here(capsys, "extract", "-q", tmp_path / "u.h4mk", "-o", tmp_path / "film.mp4", "--track", "1")
    assert (tmp_path / "film.mp4").read_bytes() == BUNNY.read_bytes()


def test_other_ancillary_chunks_stay_readable_and_are_named(
    place: Place, tmp_path: Path, capsys: Capture
) -> None:
    with H4MKBuilder.to_path(tmp_path / "a.h4mk", [TrackInfo()]) as builder:
        builder.add_block(b"media", 0, key=True)
        builder.finish(ancillary=[("post", b"a poster that everybody may see")])
    done = here(capsys, "mask", tmp_path / "a.h4mk", "-o", tmp_path / "m.h4mk", "-k", place.key_file)
    assert "1 ancillary chunk stays readable" in done.text
    assert b"a poster that everybody may see" in (tmp_path / "m.h4mk").read_bytes()
