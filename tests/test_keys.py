"""Master keys on paper: their text, their files, passphrases, the keyring of a server (H4MK 21.2)."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import KeyRefusedError, MasterKey, SourceError, StorageError, UsageError
from harmony4.crypto.passphrase import Stretch, lock_key, unlock_key
from harmony4.server.masking import keys
from harmony4.server.masking.keys import Keyring, format_key, parse_key, read_key_file, write_key_file
from processes import until

KEY = MasterKey(bytes(range(32)))
HEX = bytes(range(32)).hex()
TEXT = f"h4mk-key-v1:{HEX}"


def cheap(key: MasterKey = KEY, passphrase: str = "correct horse", log_n: int = 4) -> str:
    """A key with a passphrase, made by other means and with parameters that take no time."""
    salt = hashlib.shake_128(b"salt").digest(16)
    kek = hashlib.scrypt(passphrase.encode(), salt=salt, n=2**log_n, r=8, p=1, dklen=32)
    return f"h4mk-key-v1-scrypt:{log_n}:8:1:{salt.hex()}:{aes_key_wrap(kek, key.reveal()).hex()}"


def never() -> str:
    raise AssertionError("nobody needs the passphrase")


# -- the text


def test_a_key_is_a_line_of_text() -> None:
    assert format_key(KEY) == TEXT
    assert parse_key(TEXT, never) == KEY
    assert parse_key(f" {TEXT.replace(HEX, HEX.upper())}\r\n") == KEY


def test_a_passphrase_locks_it() -> None:
    text = format_key(KEY, "correct horse")
    assert text.startswith("h4mk-key-v1-scrypt:17:8:1:")
    assert HEX not in text
    assert format_key(KEY, "correct horse") != text, "each has its own salt"
    assert parse_key(text, lambda: "correct horse") == KEY
    with pytest.raises(KeyRefusedError, match="passphrase does not open"):
        parse_key(text, lambda: "incorrect horse")


def test_scrypt_and_key_wrap_are_those_of_others() -> None:
    assert parse_key(cheap(), lambda: "correct horse") == KEY
    _, log_n, _, _, salt, locked = format_key(KEY, "battery").split(":")
    kek = hashlib.scrypt(
        b"battery", salt=bytes.fromhex(salt), n=2 ** int(log_n), r=8, p=1, dklen=32, maxmem=2**28
    )
    assert aes_key_wrap(kek, KEY.reveal()).hex() == locked


def test_a_passphrase_is_the_same_from_every_keyboard() -> None:
    assert parse_key(cheap(passphrase="Stra\u00dfe \u00fc"), lambda: "Stra\u00dfe u\u0308") == KEY


def test_a_passphrase_that_is_not_utf_8_is_its_bytes() -> None:
    """As the environment hands it over."""
    salt = bytes(16)
    kek = hashlib.scrypt(b"\xff", salt=salt, n=16, r=8, p=1, dklen=32)
    locked = aes_key_wrap(kek, KEY.reveal())
    assert unlock_key(locked, os.fsdecode(b"\xff"), Stretch(salt, 4)) == KEY


def test_a_passphrase_that_is_missing_is_asked_for_by_name() -> None:
    with pytest.raises(KeyRefusedError, match=keys.PASSPHRASE):
        parse_key(cheap())
    assert keys.passphrase_from({}) is None
    assert keys.passphrase_from({keys.PASSPHRASE: ""}) is None
    known = keys.passphrase_from({keys.PASSPHRASE: "correct horse"})
    assert parse_key(cheap(), known) == KEY


def test_an_empty_passphrase_is_none() -> None:
    with pytest.raises(UsageError, match="empty"):
        format_key(KEY, "")
    with pytest.raises(UsageError, match="empty"):
        lock_key(KEY, "", Stretch(bytes(16), 4))


@pytest.mark.parametrize("numbers", ["19:8:1", "18:9:1", "99:8:1", "29:1:1", "17:8:9", "10:1024:9"])
def test_a_key_cannot_ask_for_too_much(numbers: str) -> None:
    """Before the passphrase is asked for, and before any memory is taken."""
    text = cheap().replace(":4:8:1:", f":{numbers}:")
    with pytest.raises(KeyRefusedError, match="too much") as refused:
        parse_key(text, never)
    assert numbers in str(refused.value)


def test_parameters_that_scrypt_does_not_have() -> None:
    with pytest.raises(KeyRefusedError, match="not enough memory"):
        parse_key(cheap().replace(":4:8:1:", ":17:1:1:"), lambda: "correct horse")


@pytest.mark.parametrize(("log_n", "r", "p"), [(0, 8, 1), (4, 0, 1), (4, 8, 0), (-1, 8, 1), (4, -8, 1)])
def test_parameters_are_positive(log_n: int, r: int, p: int) -> None:
    with pytest.raises(KeyRefusedError, match="too much"):
        Stretch(bytes(16), log_n, r, p)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h4mk-key-v1:",
        HEX,
        TEXT[:-1],
        TEXT + "0",
        TEXT.replace("v1", "v2"),
        TEXT + "\n" + TEXT,
        TEXT.replace("0", "g"),
        TEXT.replace("0", "٠"),  # a digit, but not one of ours
        cheap()[:-1],
        cheap().replace(":4:", ":04:"),
        cheap().replace(":4:", ":-4:"),
        cheap().replace(":8:", ":8_0:"),
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_anything_else_is_no_key(text: str) -> None:
    with pytest.raises(KeyRefusedError, match="not the text of a key"):
        parse_key(text, lambda: "correct horse")


@given(st.text(), st.sampled_from(["", "h4mk-key-v1:", "h4mk-key-v1-scrypt:4:8:1:"]))
def test_whatever_stands_there_is_refused_and_not_repeated(text: str, before: str) -> None:
    with pytest.raises(KeyRefusedError) as refused:
        parse_key(before + text, lambda: "correct horse")
    assert len(text) < 4 or text not in str(refused.value)


def test_a_locked_key_of_another_size_is_refused() -> None:
    kek = hashlib.scrypt(b"pass", salt=bytes(16), n=16, r=8, p=1, dklen=32)
    with pytest.raises(KeyRefusedError, match="does not open"):
        unlock_key(aes_key_wrap(kek, bytes(16)), "pass", Stretch(bytes(16), 4))


# -- files


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key_file(tmp_path / "a.key", TEXT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert (tmp_path / "a.key").read_text() == TEXT + "\n"
    assert read_key_file(tmp_path / "a.key") == KEY


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    write_key_file(tmp_path / "a.key", TEXT)
    (tmp_path / "link.key").symlink_to(tmp_path / "nothing")
    for name in ("a.key", "link.key"):
        with pytest.raises(StorageError, match="never written over"):
            write_key_file(tmp_path / name, format_key(MasterKey.generate()))
    assert read_key_file(tmp_path / "a.key") == KEY
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["missing/a.key", "nul\0.key"])
def test_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot write the key file"):
        write_key_file(tmp_path / name, TEXT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a.key").write_text(TEXT)
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(KeyRefusedError, match="chmod 600") as refused:
        read_key_file(tmp_path / "a.key")
    assert f"{mode:04o}" in str(refused.value)
    assert "a.key" in str(refused.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_that_only_its_owner_may_read_will_do(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a.key").write_text(TEXT)
    (tmp_path / "a.key").chmod(mode)
    assert read_key_file(tmp_path / "a.key") == KEY


def test_a_file_of_somebody_else_is_theirs_to_guard(tmp_path: Path) -> None:
    """As with ssh: a secret that a container's runtime mounts belongs to another user."""
    if os.geteuid() == 0:
        (tmp_path / "a.key").write_text(TEXT)
        (tmp_path / "a.key").chmod(0o444)
        os.chown(tmp_path / "a.key", 12345, 12345)
        assert read_key_file(tmp_path / "a.key") == KEY
    else:  # nobody else's key is at hand, but a file that everybody may read: it is read
        with pytest.raises(KeyRefusedError, match="not the text of a key"):
            read_key_file("/etc/passwd")


def test_a_pipe_is_as_good(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o644)

    def write() -> None:
        with (tmp_path / "pipe").open("w") as pipe:
            for piece in (TEXT[:20], TEXT[20:]):
                pipe.write(piece)
                pipe.flush()

    thread = threading.Thread(target=write)
    thread.start()
    assert read_key_file(tmp_path / "pipe") == KEY
    thread.join()


@pytest.mark.parametrize("name", ["missing.key", ".", "nul\0.key"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="cannot read the key file"):
        read_key_file(tmp_path / name)


def test_what_is_no_key_file(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 100, TEXT.encode().ljust(5000), bytes(10**6)):
        (tmp_path / "a.key").write_bytes(content)
        (tmp_path / "a.key").chmod(0o600)
        with pytest.raises(KeyRefusedError, match="not the text of a key in"):
            read_key_file(tmp_path / "a.key")
    with pytest.raises(KeyRefusedError):
        read_key_file("/dev/zero")  # without an end


# -- the keyring


def ring(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.key").write_text(text)
        (folder / f"{name}.key").chmod(0o600)
    return folder


def test_a_keyring_takes_only_files_that_are_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A FIFO must not hold it up, and a file that others may read holds no secret, whoever owns it."""
    found = ring(tmp_path, films=TEXT, open=format_key(MasterKey.generate()))
    os.mkfifo(found / "pipe.key", 0o600)
    (found / "folder.key").mkdir(0o700)
    (found / "open.key").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(found / "open.key", 65534, 65534)
    keyring = Keyring(found)
    assert keyring.names() == {"films": KEY.id}
    for name in ("pipe.key", "folder.key", "open.key"):
        assert name in caplog.text
    (found / "films.key").unlink()
    assert keyring.reload(now=True)
    assert keyring.names() == {}


def test_a_file_that_is_called_like_another_key(tmp_path: Path) -> None:
    other = MasterKey.generate()
    found = Keyring(ring(tmp_path, films=TEXT, **{KEY.id.hex(): format_key(other)}))
    assert found.get(KEY.id.hex()) == KEY
    assert found.get(other.id.hex()) == other


@pytest.mark.parametrize("name", [TEXT, KEY.reveal().hex(), f"/tmp/{KEY.reveal().hex()}.key"])
def test_a_key_in_place_of_its_file(name: str) -> None:
    with pytest.raises(KeyRefusedError, match="not the name of a file") as caught:
        read_key_file(name)
    assert KEY.reveal().hex() not in f"{caught.value!r} {caught.value}"


def test_a_keyring_is_a_folder(tmp_path: Path) -> None:
    other = MasterKey.generate()
    found = Keyring(ring(tmp_path, films=TEXT, talks=format_key(other)))
    assert found.get("films") == found.get(KEY.id) == found.get(KEY.id.hex()) == KEY
    assert found.get("talks") == other
    assert found.get("others") is found.get(bytes(16)) is found.get("00" * 16) is None
    assert found.names() == {"films": KEY.id, "talks": other.id}
    assert sorted(found.masters(), key=lambda key: key.id) == list(found.masters())
    assert set(found.masters()) == {KEY, other}
    assert repr(found) == "<Keyring of 2>"


def test_a_keyring_of_nothing(tmp_path: Path) -> None:
    for found in (Keyring(None), Keyring(tmp_path)):
        assert found.masters() == ()
        assert found.get("x") is None
    assert not Keyring(None).due
    assert not Keyring(None).reload(now=True)
    with pytest.raises(SourceError, match="cannot read the keyring"):
        Keyring(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot read the keyring"):
        Keyring(tmp_path / "file")


def test_a_keyring_leaves_out_what_is_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring(tmp_path, good=TEXT, bad=f"h4mk-key-v2:{HEX}", seen=TEXT, locked=cheap())
    (tmp_path / "seen.key").chmod(0o644)
    (tmp_path / "dangling.key").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.key").mkdir()
    (tmp_path / ".hidden.key").write_text(TEXT)
    (tmp_path / "note.txt").write_text(TEXT)
    (tmp_path / "line\nbreak.key").write_text("")
    found = Keyring(tmp_path)
    assert found.names() == {"good": KEY.id}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 6
    for name in ("bad", "seen", "locked", "dangling", "folder", "line\\nbreak"):
        assert [f"'{name}.key'" in line for line in told].count(True) == 1, name
    assert keys.PASSPHRASE in next(line for line in told if "locked" in line)
    for line in told:
        assert HEX[:16] not in line
        assert str(tmp_path) not in line
        assert "\n" not in line
    caplog.clear()
    assert not found.reload(now=True)
    assert caplog.records == [], "said once"


def test_a_keyring_opens_keys_with_the_passphrase_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring(tmp_path, locked=cheap())
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    assert Keyring(tmp_path).get("locked") == KEY
    assert Keyring(tmp_path, passphrase=lambda: "another").get("locked") is None


def test_a_keyring_learns_and_forgets(tmp_path: Path) -> None:
    other = MasterKey.generate()
    found = Keyring(ring(tmp_path, a=TEXT))
    ring(tmp_path, b=format_key(other))
    assert found.reload(now=True)
    assert found.get("b") == found.get(other.id) == other
    (tmp_path / "a.key").unlink()
    assert found.reload(now=True)
    assert found.get("a") is found.get(KEY.id) is None
    (tmp_path / "b.key").chmod(0o644)
    assert found.reload(now=True), "changes of who may read it count, too"
    assert found.masters() == ()
    (tmp_path / "b.key").chmod(0o600)
    assert found.reload(now=True)
    assert not found.reload(now=True)
    assert found.masters() == (other,)


def test_a_keyring_looks_again_after_a_while(tmp_path: Path) -> None:
    found = Keyring(ring(tmp_path, a=TEXT))
    ring(tmp_path, b=format_key(MasterKey.generate()))
    assert not found.due
    assert not found.reload(), "too soon"
    assert len(found.masters()) == 1
    until(lambda: found.due, "the time to look again")
    assert found.reload()
    assert len(found.masters()) == 2


def test_a_keyring_that_goes_away_opens_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    found = Keyring(ring(folder, a=TEXT))
    folder.rename(tmp_path / "elsewhere")
    assert found.reload(now=True)
    assert found.get("a") is None
    assert not found.reload(now=True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "said once"
    (tmp_path / "elsewhere").rename(folder)
    assert found.reload(now=True)
    assert found.get("a") == KEY


# -- nothing shows


@pytest.mark.parametrize("show", [repr, str, lambda key: f"{key}", lambda key: f"{key!s} {key!r}"])
def test_a_key_does_not_show(show: Callable[[object], str]) -> None:
    for secret in (KEY, KEY.file_key(bytes(32))):
        shown = show(secret)
        assert HEX not in shown
        assert repr(bytes(range(32))) not in shown
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)
        assert not hasattr(secret, "__dict__")
