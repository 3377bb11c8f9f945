"""Keys show nowhere: not in what commands print, log or write, not in process lists, not in tracebacks."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import ROOM, run, started
from harmony4.crypto import HarmonyError, MaskSpec, MasterKey, hkdf_expand
from harmony4.h4mk import H4MKReader, Unmasked, mask_container
from harmony4.server.masking.keys import KEY, KEY_FILE, PASSPHRASE, Keyring, format_key
from media_factory import media
from needs import BUNNY, needs_ffmpeg
from processes import demuxers, until

PHRASE = "correct horse battery staple"


def forms(key: bytes) -> Iterator[bytes]:
    """How 32 bytes could show; long pieces are enough."""
    for text in (
        key.hex(),
        key.hex().upper(),
        key.hex(" "),
        base64.b64encode(key).decode().rstrip("="),
        base64.urlsafe_b64encode(key).decode().rstrip("="),
        repr(key)[2:-1],
        str(list(key))[1:-1],
        str(int.from_bytes(key)),
        str(int.from_bytes(key, "little")),
    ):
        size = len(text)
        for piece in (text[: size // 2], text[size // 2 :]):
            yield piece.encode()
    yield key[:16]
    yield key[16:]


class Secrets:
    """Two keys, one of them locked, a masked film, and all that must not show."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.locked = MasterKey.generate(), MasterKey.generate()
        self.key_file, self.locked_file = folder / "a.key", folder / "locked.key"
        self.key_file.write_text(format_key(self.key))
        self.locked_file.write_text(format_key(self.locked, PHRASE))
        for file in (self.key_file, self.locked_file):
            file.chmod(0o600)
        self.plain, self.masked = folder / "plain.h4mk", folder / "masked.h4mk"
        assert run("export", "-q", BUNNY, "-o", self.plain).status == 0
        with H4MKReader(self.plain) as reader:
            mask_container(reader, self.masked, MaskSpec((self.key, self.locked)))
        with H4MKReader(self.masked) as reader:
            file_key = Unmasked(reader, [self.key]).key
        secrets = [
            *(one.reveal() for one in (self.key, self.locked, file_key)),
            *(hkdf_expand(one.reveal(), b"h4mk/1 kek") for one in (self.key, self.locked)),
            *(hkdf_expand(one.reveal(), b"h4mk/1 syn") for one in (self.key, self.locked)),
            hkdf_expand(file_key.reveal(), b"h4mk/1 mac"),
            hkdf_expand(file_key.reveal(), b"h4mk/1 history"),
            file_key.block_key(0, 0),
        ]
        self.needles = [needle for secret in secrets for needle in forms(secret)]
        self.needles += [PHRASE.encode(), self.locked_file.read_bytes().strip()[-80:]]

    def show(self, text: bytes | str) -> list[bytes]:
        """Which of the secrets a text shows."""
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        return [needle for needle in self.needles if needle in data]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return Secrets(tmp_path_factory.mktemp("secrets"))


def test_the_search_finds_what_is_there(secrets: Secrets) -> None:
    """Or it would prove nothing."""
    text = secrets.key.reveal().hex()
    assert secrets.show(f"error: {text}")
    assert secrets.show(f"error: {text[:40]}…")
    assert secrets.show(secrets.plain.read_bytes() + secrets.key.reveal())
    assert secrets.show(repr(secrets.key.reveal()))
    assert not secrets.show("error: nothing")


def commands(secrets: Secrets, out: Path) -> list[tuple[object, ...]]:
    """Commands that are given keys, in all their ways: most of them end well, some do not."""
    damaged = out / "damaged.h4mk"
    damaged.write_bytes(secrets.masked.read_bytes()[:-200] + bytes(200))
    swapped = bytearray(secrets.masked.read_bytes())
    swapped[len(swapped) // 2] ^= 1
    (out / "changed.h4mk").write_bytes(swapped)
    (out / "bad.key").write_text(secrets.key_file.read_text()[:-2])
    (out / "seen.key").write_text(secrets.key_file.read_text())
    (out / "bad.key").chmod(0o600)
    (out / "seen.key").chmod(0o644)
    made = "OUT"
    all_of_them: list[tuple[object, ...]] = [
        ("keygen", "-o", secrets.key_file),
        ("keygen", "--passphrase", "-o", out / "new.key"),
        ("mask", secrets.plain, "-o", made),
        ("mask", "--json", secrets.plain, "-o", made, "--random-salt"),
        ("mask", "--raw", "--json", BUNNY, "-o", made),
        ("mask", secrets.masked, "-o", made),
        ("mask", damaged, "-o", made),
        ("mask", secrets.plain, "-o", "/nowhere/at/all"),
        ("export", BUNNY, "-o", made, "--mask"),
        ("export", "--json", BUNNY, "-o", made, "--mask", "--keep-plaintext"),
        ("unmask", secrets.masked, "-o", made),
        ("unmask", "--json", secrets.masked, "-o", made),
        ("unmask", damaged, "-o", made),
        ("unmask", out / "changed.h4mk", "-o", made),
        ("unmask", secrets.plain, "-o", made),
        ("unmask", "--raw", "--salt", "00" * 32, BUNNY, "-o", made),
        ("rekey", secrets.masked, "-o", made, "--remove", secrets.locked.id.hex()),
        ("rekey", "--json", secrets.masked, "-o", made, "--add", secrets.key_file),
        ("rekey", secrets.masked, "-o", made, "--add", out / "bad.key"),
        ("extract", "--json", secrets.masked, "-o", made),
        ("extract", out / "changed.h4mk", "-o", made),
        ("verify", secrets.masked),
        ("verify", "--json", secrets.masked),
        ("verify", "--json", out / "changed.h4mk"),
        ("inspect", secrets.masked),
        ("inspect", "--json", "--chunks", secrets.masked),
        ("inspect", "--json", damaged),
        ("tokens", secrets.masked),
        ("seek", "--json", secrets.masked, "1s"),
        ("recover", "--json", damaged, "-o", made),
        *(("verify", secrets.masked, "--key-file", out / f"{name}.key") for name in ("bad", "seen")),
        ("verify", secrets.masked, "--key", secrets.key_file),
    ]
    return [
        tuple(out / f"out{number}" if word == made else word for word in command)
        for number, command in enumerate(all_of_them)
    ]


@pytest.mark.parametrize("how", ["file", "text", "passphrase"])
def test_commands_show_no_keys(secrets: Secrets, tmp_path: Path, how: str) -> None:
    """In Python's development mode, where errors print their tracebacks."""
    given = {
        "file": {KEY_FILE: str(secrets.key_file), PASSPHRASE: PHRASE},
        "text": {KEY: secrets.key_file.read_text(), PASSPHRASE: PHRASE},
        "passphrase": {KEY_FILE: str(secrets.locked_file), PASSPHRASE: PHRASE},
    }[how]
    environment = os.environ | given | {"PYTHONWARNINGS": "ignore"}
    asked = [[str(word) for word in command] for command in commands(secrets, tmp_path)]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _ALL], input=json.dumps(asked).encode(), capture_output=True,
        env=environment, timeout=ROOM, check=True
    )  # fmt: skip
    statuses = json.loads(done.stdout.splitlines()[-1])
    assert len(statuses) == len(asked)
    assert set(statuses) == {0, 1, 2, 3}
    assert b"Traceback" in done.stderr, "as promised"
    assert done.stderr.count(b"error: ") >= 10
    assert not secrets.show(done.stdout)
    assert not secrets.show(done.stderr)
    made = [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert len(made) > 10
    for path in made:
        assert not secrets.show(path.read_bytes()), path.name


_ALL = """
import json, sys
from harmony4.server.cli.main import main
print(json.dumps([main(words) for words in json.load(sys.stdin)]))
"""


@needs_ffmpeg
@pytest.mark.parametrize("way", ["mask", "export"])
def test_process_lists_show_no_keys(secrets: Secrets, tmp_path: Path, way: str) -> None:
    """While it runs: command lines, and the environment of everything but the process that was given it."""
    text = secrets.key_file.read_text()
    command = {
        "mask": ("mask", "--raw", "-", "-o", "-"),
        "export": ("export", "-", "-o", tmp_path / "out.h4mk", "--mask", "--random-salt"),
    }[way]
    data = media("fragmented.mp4").read_bytes()
    with started(*command, env=os.environ | {KEY: text, PASSPHRASE: PHRASE}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(bytes(2**20) if way == "mask" else data[: 2**17])
        process.stdin.flush()
        if way == "mask":
            assert process.stdout.read(1), "it has the key, and waits for a reader"
            children = []
        else:
            until(lambda: bool(demuxers(process.pid)), "a demuxer")
            children = demuxers(process.pid)
        assert b"harmony4" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert text.encode() in Path(f"/proc/{process.pid}/environ").read_bytes(), "where it was given"
        for pid in (process.pid, *children):
            for name in ("cmdline", "comm", "status"):
                assert not secrets.show(Path(f"/proc/{pid}/{name}").read_bytes()), (pid, name)
        for pid in children:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"=" in environ
            assert not secrets.show(environ)
            assert KEY.encode() not in environ


def test_a_server_logs_no_keys(secrets: Secrets, tmp_path: Path) -> None:
    ring = tmp_path / "keys"
    ring.mkdir()
    for name, content in (
        ("good", secrets.key_file.read_text()),
        ("locked", secrets.locked_file.read_text()),
        ("bad", secrets.key_file.read_text()[1:]),
    ):
        (ring / f"{name}.key").write_text(content)
        (ring / f"{name}.key").chmod(0o600)
    library = tmp_path / "library"
    library.mkdir()
    (library / "film.h4mk").write_bytes(secrets.masked.read_bytes())
    command = ["serve", library, "--port", "0", "--keyring", ring, "--access-log"]
    environment = os.environ | {PASSPHRASE: PHRASE, KEY: secrets.key_file.read_text(), "PYTHONDEVMODE": "1"}
    with started(*command, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = next(word for word in said.decode().split() if word.startswith("http"))
        answers = b""
        for path in ("video/info?name=film.h4mk", "media", "video/range?name=film.h4mk&v=0", "health"):
            try:
                with urllib.request.urlopen(url + path, timeout=ROOM) as answer:
                    answers += answer.read() + bytes(answer.headers)
            except urllib.error.HTTPError as error:
                answers += error.read()
        process.terminate()
        rest, errors = process.communicate(timeout=ROOM)
    assert not secrets.show(said + answers + rest)
    assert not secrets.show(errors)
    assert b"/video/info" in errors


def test_the_log_of_a_keyring(secrets: Secrets, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "bad.key").write_text(secrets.key_file.read_text() * 2)
    (tmp_path / "seen.key").write_text(secrets.key_file.read_text())
    (tmp_path / "locked.key").write_text(secrets.locked_file.read_text())
    for name, mode in (("bad", 0o600), ("seen", 0o644), ("locked", 0o600)):
        (tmp_path / f"{name}.key").chmod(mode)
    ring = Keyring(tmp_path, passphrase=lambda: PHRASE + "x")
    assert ring.masters() == ()
    assert len(caplog.records) == 3
    assert not secrets.show(caplog.text)
    assert not secrets.show(repr(ring) + repr(vars(ring)))


def test_tracebacks_with_local_variables(secrets: Secrets) -> None:
    """What error reporters collect: the values in every frame that is shown."""
    stranger = MasterKey.generate()
    changed = bytearray(secrets.masked.read_bytes())
    changed[-3000] ^= 1
    texts = []
    for data, keys in (
        (secrets.masked.read_bytes(), [stranger]),
        (bytes(changed), [secrets.key]),
        (secrets.plain.read_bytes(), [secrets.key]),
    ):
        try:
            with H4MKReader(data) as reader:
                list(Unmasked(reader, keys).blocks())
        except HarmonyError as error:
            texts.append(
                "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
            )
    assert len(texts) >= 2
    for text in texts:
        assert "master" in text
        assert not secrets.show(text)
        assert not [needle for needle in forms(stranger.reveal()) if needle in text.encode()]


def test_records_that_hold_keys(secrets: Secrets) -> None:
    from harmony4.h4mk import Masking
    from harmony4.server.exporting.ingest import ExportOptions

    spec = MaskSpec((secrets.key, secrets.locked))
    with H4MKReader(secrets.masked) as reader:
        unmasked = Unmasked(reader, spec.keys)
        shown = [spec, unmasked, unmasked.key, Masking.of(MaskSpec(spec.keys, "random"), None)]
        shown.append(ExportOptions(mask=spec))
        text = "".join(f"{one!r}{one!s}{getattr(one, '__dict__', '')}" for one in shown)
        assert not secrets.show(text)
