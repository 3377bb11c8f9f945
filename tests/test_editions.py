"""`--remember`: who has seen an edition refuses those before it (H4MK 13.5, 22.6)."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from commands import here, refused
from harmony4.crypto.errors import SealError, StorageError
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk.proofs.signature import FINAL, NO_SUBJECT, Signer
from harmony4.h4mk.proofs.signing import sign_file
from harmony4.h4mk.proofs.trust import Accepted, Trust
from harmony4.server.cli.editions import Editions
from lying import lying
from serving import running, write_container

KEY, OTHER = SigningKey.from_number(5), SigningKey.from_number(6)
BLOCKS = [bytes([n]) * 100 for n in range(9)]
NAME = "a" * 64
Capture = pytest.CaptureFixture[str]


def signed(path: Path, revision: int, subject: str | None = "talk", key: SigningKey = KEY) -> Path:
    """An edition; each is another container."""
    write_container(path, BLOCKS, title=f"{revision}")
    sign_file(path, Signer(key, subject, revision))
    return path


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.public.pem() + OTHER.public.pem())
    return path


def test_an_old_edition_is_refused(tmp_path: Path, pem: Path, capsys: Capture) -> None:
    """By verify and check, whichever of them has seen the later one; other subjects and keys count apart."""
    old, new = signed(tmp_path / "old.h4mk", 1), signed(tmp_path / "new.h4mk", 2)
    apart = [
        signed(tmp_path / "other.h4mk", 1, "walk"),
        signed(tmp_path / "key.h4mk", 1, "talk", OTHER),
        signed(tmp_path / "none.h4mk", 0, None),
    ]
    known = tmp_path / "editions.json"
    trust = ("--trust", pem, "--remember", known)
    for path in (old, new, *apart):
        assert here(capsys, "verify", path, *trust).status == 0
    after = known.read_bytes()
    assert [one["revision"] for one in json.loads(after)["editions"]].count(2) == 1
    assert len(json.loads(after)["editions"]) == 3
    done = here(capsys, "verify", old, *trust)
    assert (done.status, "old edition" in done.text) == (3, True)
    for path in (new, *apart):
        assert here(capsys, "verify", path, *trust).status == 0
    proof = tmp_path / "proof.json"
    for path, status in ((old, 3), (new, 0)):
        assert here(capsys, "prove", path, "--pts", 0, "-o", proof).status == 0
        assert here(capsys, "check", proof, "--pts", 0, *trust).status == status
    assert known.read_bytes() == after
    # The same was seen in another order: the same file. Who is not asked to remember takes everything.
    for path in (*apart, new):
        here(capsys, "verify", path, "--trust", pem, "--remember", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == after
    assert here(capsys, "verify", old, "--trust", pem).status == 0


@pytest.mark.parametrize("revisions", [(1, 2), (2, 1)])
@pytest.mark.parametrize("command", ["verify", "check", "fetch", "fetch --container"])
def test_a_container_signed_as_two_editions(
    tmp_path: Path, pem: Path, capsys: Capture, revisions: tuple[int, int], command: str
) -> None:
    """The later signature is as good in the second place, and is what is remembered."""
    library, known = tmp_path / "library", tmp_path / "known"
    path = signed(library / "a.h4mk", revisions[0])
    sign_file(path, Signer(KEY, "talk", revisions[1]))
    trust = ("--trust", pem, "--remember", known)
    with running(library) as server:
        for _ in range(2):  # what is known now does not refuse it
            if command == "verify":
                done = here(capsys, "verify", path, *trust)
            elif command == "check":
                proof = tmp_path / "proof"
                here(capsys, "prove", path, "--pts", 0, "-o", proof)
                done = here(capsys, "check", proof, "--pts", 0, *trust)
            else:
                words = command.split()
                out = tmp_path / "out"
                done = here(capsys, *words, server.url + "/video/range?name=a.h4mk", "-o", out, *trust)
                out.unlink()
            assert done.status == 0
            assert [one["revision"] for one in json.loads(known.read_bytes())["editions"]] == [2]


@pytest.mark.parametrize("command", ["verify", "check", "fetch"])
def test_the_verdict_is_told_where_it_cannot_be_remembered(
    tmp_path: Path, pem: Path, capsys: Capture, command: str
) -> None:
    path = signed(tmp_path / "library" / "a.h4mk", 1)
    trust = ("--trust", pem, "--remember", tmp_path / "no folder" / "known")
    proof, out = tmp_path / "proof", tmp_path / "out"
    assert here(capsys, "prove", path, "--pts", 0, "-o", proof).status == 0
    with running(path.parent) as server:
        argv = {
            "verify": (path,),
            "check": (proof, "--pts", 0),
            "fetch": (server.url + "/video/range?name=a.h4mk", "-o", out),
        }[command]
        done = here(capsys, command, *argv, *trust)
    assert (done.status, done.err.count("cannot write the editions")) == (1, 1)
    assert "signed by" in done.text


def test_editions_beyond_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused before it is written: what is known stays known."""
    monkeypatch.setattr("harmony4.server.cli.editions._MOST", 1000)
    editions = Editions(str(tmp_path / "known"))
    with pytest.raises(StorageError, match="are full"):
        for n in range(100):
            editions.remember([accepted(1, subject=n.to_bytes(32, "big"))])
    assert len(Editions(str(tmp_path / "known")).latest) == len(editions.latest) > 3


def test_what_is_not_believed_is_not_remembered(tmp_path: Path, pem: Path, capsys: Capture) -> None:
    path = signed(tmp_path / "a.h4mk", 9)
    data = bytearray(path.read_bytes())
    data[data.index(BLOCKS[4])] ^= 1
    path.write_bytes(data)
    known = tmp_path / "known"
    assert here(capsys, "verify", path, "--trust", pem, "--remember", known).status == 3
    assert not known.exists()
    refused(here(capsys, "verify", path, "--remember", known), "--trust")


def test_fetch_refuses_an_edition_that_is_replayed(tmp_path: Path, pem: Path, capsys: Capture) -> None:
    library, known = tmp_path / "library", tmp_path / "known"
    signed(library / "film.h4mk", 4)
    signed(library / "old.h4mk", 3)
    out = tmp_path / "out"
    more = ("-q", "--trust", pem, "--remember", known, "-o", out)
    with running(library) as server:
        target = "/video/range?name=film.h4mk"
        assert here(capsys, "fetch", server.url + target, *more).status == 0
        assert out.read_bytes() == b"".join(BLOCKS)
        out.unlink()
        with lying(server.url, send=lambda path: path.replace("film.h4mk", "old.h4mk")) as proxy:
            for way in ((), ("--container",)):
                done = here(capsys, "fetch", proxy + target, *more, *way)
                assert (done.status, "old edition" in done.err) == (3, True)
    assert not out.exists()


def accepted(revision: int, key: SigningKey = KEY, subject: bytes | None = b"s" * 32) -> Accepted:
    return Accepted(key.public, FINAL, subject, revision)


def test_nothing_is_lost_where_many_remember(tmp_path: Path) -> None:
    """All have read the file before anybody writes; a lower revision replaces none."""
    path = str(tmp_path / "known")
    several = [Editions(path) for _ in range(20)]
    threads = [
        threading.Thread(target=one.remember, args=([accepted(n % 7, SigningKey.from_number(n + 1))],))
        for n, one in enumerate(several)
    ]
    threads += [threading.Thread(target=one.remember, args=([accepted(n)],)) for n, one in enumerate(several)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Editions(path).latest
    assert len(found) == 20
    assert found[KEY.public.fingerprint, b"s" * 32] == 19
    Editions(path).remember([accepted(3), accepted(8), None, accepted(2**60, subject=None)])
    assert Editions(path).latest == found
    Editions(path).remember([accepted(2**63 - 1)])
    assert Editions(path).latest[KEY.public.fingerprint, b"s" * 32] == 2**63 - 1
    assert '"revision":"9223372036854775807"' in Path(path).read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"editions":[]}',
        '{"editions":[],"format":"h4mk editions 2"}',
        '{"editions":[{"key":"00","subject":"00","revision":1}],"format":"h4mk editions 1"}',
        '{"editions":[1],"format":"h4mk editions 1"}',
        json.dumps(
            {"editions": [{"key": NAME, "subject": NAME, "revision": -1}], "format": "h4mk editions 1"}
        ),
        "[" * 100_000,
        "\ud800",
    ],
)
def test_files_that_hold_something_else(text: str, tmp_path: Path, pem: Path, capsys: Capture) -> None:
    """They are refused before anything is looked at, and left alone."""
    known = tmp_path / "known"
    known.write_bytes(text.encode(errors="surrogatepass"))
    path = signed(tmp_path / "a.h4mk", 1)
    refused(here(capsys, "verify", path, "--trust", pem, "--remember", known), "no list of editions")
    assert known.read_bytes() == text.encode(errors="surrogatepass")


def test_where_nothing_can_be_kept(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write the editions"):
        Editions(str(tmp_path / "gone" / "known")).remember([accepted(1)])
    Editions(None).remember([accepted(1)])  # nobody asked for it


def test_trust_knows_what_was_seen() -> None:
    """In Python, too; without a subject nothing is an edition of anything."""
    seen = {(KEY.public.fingerprint, b"s" * 32): 5}
    trust = Trust((KEY.public, OTHER.public), latest=seen)
    for right in (accepted(5), accepted(6), accepted(0, subject=None), accepted(0, OTHER)):
        trust.check_wanted(right)
    with pytest.raises(SealError, match="old edition"):
        trust.check_wanted(accepted(4))
    assert bytes(32) == NO_SUBJECT
    assert hash(trust) == hash(Trust((KEY.public, OTHER.public)))
