"""keygen, sign, verify --trust, prove, check, export --sign (docs/API.md, "Commands")."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

import independent
from commands import HARMONY4, Done, here, refused, run, small_container
from harmony4.crypto.signing import PublicKey, SigningKey
from harmony4.h4mk import H4MKReader, verify
from harmony4.h4mk.proofs.signature import Signer
from harmony4.h4mk.proofs.trust import Trust
from needs import BUNNY, ORIGINAL, needs_openssl
from test_signing import _openssl, certificate

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert run("keygen", "--signing", "-o", tmp_path / "k.pem").status == 0
    return tmp_path / "k.pem"


@pytest.fixture
def container(tmp_path: Path) -> Path:
    small_container(tmp_path / "a.h4mk")
    return tmp_path / "a.h4mk"


def facts(done: Done, status: int = 0) -> Any:
    assert done.status == status, done.err
    return json.loads(done.out)


def public(key: Path) -> Path:
    return key.with_suffix(".pub.pem")


# ---- keygen ----------------------------------------------------------------------------------------------


def test_a_new_key_is_for_its_owner_alone(tmp_path: Path, capsys: Capture) -> None:
    known = facts(here(capsys, "keygen", "--signing", "-o", tmp_path / "k.pem", "--json"))
    secret, shown = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    assert known == {
        "output": str(secret),
        "kind": "sign",
        "public": str(shown),
        "key": PublicKey.from_pem(shown.read_bytes()).fingerprint.hex(),
    }
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert SigningKey.from_pem(secret.read_bytes()).public == PublicKey.from_pem(shown.read_bytes())
    said = here(capsys, "keygen", "--signing", "-o", tmp_path / "other")
    assert known["key"] not in said.text and "other.pub.pem" in said.text
    assert here(capsys, "keygen", "--signing", "-o", tmp_path / "third", "-q").out == b""
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused(here(capsys, "keygen", "--signing", "-o", secret), "k.pem exists")
    (tmp_path / "n.pub.pem").write_bytes(b"x")
    refused(here(capsys, "keygen", "--signing", "-o", tmp_path / "n.pem"), "n.pub.pem exists")
    refused(here(capsys, "keygen", "--signing", "-o", tmp_path / "no" / "k.pem"), "cannot write")
    refused(here(capsys, "keygen", "--signing", "-o", "-"), "-o KEY.pem")
    (tmp_path / "n.pub.pem").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before  # nothing half-made


def test_a_key_with_a_passphrase(tmp_path: Path, container: Path, capsys: Capture) -> None:
    word, key = tmp_path / "word", tmp_path / "k.pem"
    word.write_bytes(b"open sesame\r\nmore\n")
    assert here(capsys, "keygen", "--signing", "-o", key, "--passphrase-file", word).status == 0
    assert b"ENCRYPTED" in key.read_bytes()
    assert SigningKey.from_pem(key.read_bytes(), b"open sesame").public
    assert here(capsys, "sign", container, "--key", key, "--passphrase-file", word).status == 0
    word.write_bytes(b"close sesame\n")
    for said in (
        here(capsys, "sign", container, "--key", key, "--passphrase-file", word),
        run("sign", container, "--key", key),
        here(capsys, "keygen", "--signing", "-o", tmp_path / "n", "--passphrase-file", os.devnull),
        run("keygen", "--signing", "-o", tmp_path / "n", "--passphrase"),
    ):
        refused(said, "passphrase")
        assert "sesame" not in said.err
    assert not (tmp_path / "n").exists()


def _on_terminal(lines: list[str], *arguments: object) -> Done:
    """A command whose standard input is a terminal; each line is typed when it is asked for."""
    ours, theirs = pty.openpty()
    command = [str(HARMONY4), *map(str, arguments)]
    # Without a controlling terminal the prompt goes to standard error.
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr and process.stdout
        said, left = b"", list(lines)
        while piece := process.stderr.read1():
            said += piece
            if piece.endswith(b": ") and left:
                os.write(ours, left.pop(0).encode() + b"\n")
        out = process.stdout.read()
    os.close(ours)
    os.close(theirs)
    return Done(process.returncode, out, said.decode())


def test_a_passphrase_is_asked_for(tmp_path: Path, container: Path) -> None:
    key = tmp_path / "k.pem"
    done = _on_terminal(["one", "two"], "keygen", "--signing", "-o", key, "--passphrase")
    assert done.status == 1 and "differ" in done.err and not key.exists()
    done = _on_terminal([""], "keygen", "--signing", "-o", key, "--passphrase")
    assert done.status == 1 and "empty" in done.err
    done = _on_terminal(["one", "one"], "keygen", "--signing", "-o", key, "--passphrase")
    assert done.status == 0, done.err
    assert SigningKey.from_pem(key.read_bytes(), b"one")
    assert _on_terminal(["one"], "sign", container, "--key", key).status == 0


# ---- sign and verify -------------------------------------------------------------------------------------


def test_sign_and_verify(container: Path, key: Path, capsys: Capture) -> None:
    plain = container.read_bytes()
    sign = ("sign", container, "--key", key, "--subject", "talk", "--revision", 3)
    refused_before = here(capsys, "verify", container, "--trust", public(key))
    assert refused_before.status == 3 and "required signature is missing" in refused_before.text
    known = facts(here(capsys, *sign, "--json"))
    name = PublicKey.from_pem(public(key).read_bytes()).fingerprint.hex()
    assert (known["key"], known["revision"], known["added"], known["signatures"]) == (name, 3, True, 1)
    data = container.read_bytes()
    assert known["size"] == len(data) and data[: len(plain) - 140] == plain[:-140]
    again = here(capsys, *sign)
    assert "already" in again.text and container.read_bytes() == data
    shown = here(capsys, "verify", container, "--trust", public(key), "--subject", "talk", "--revision", 3)
    assert shown.status == 0 and f"signed by {name}, revision 3" in shown.text
    report = facts(here(capsys, "verify", container, "--trust", public(key), "--json"))
    assert report["signatures"] == {
        "found": 1,
        "checked": 1,
        "covered": 21,
        "accepted": [{"key": name, "subject": known["subject"], "revision": 3, "time": None}],
    }
    assert "1 signature found, not checked" in here(capsys, "verify", container).text
    assert here(capsys, "verify", container, "--head", known["head"].upper()).status == 0
    for arguments, said in (
        (("--trust", public(key), "--revision", 4, "--subject", "talk"), "old edition"),
        (("--trust", public(key), "--subject", "walk"), "another subject"),
        (("--trust", public(key), "--revoked", public(key)), "revoked"),
        (("--head", "00" * 32), "pinned"),
    ):
        done = here(capsys, "verify", container, *arguments)
        assert done.status == 3 and said in done.text
    refused(here(capsys, "verify", container, "--subject", "talk"), "--trust")
    refused(here(capsys, "verify", container, "--trust", key), "no public key")
    refused(here(capsys, "verify", container, "--trust", key.with_name("none")), "cannot read")
    refused(here(capsys, "verify", container, "--head", "12"), "64 hex digits", status=2)
    refused(here(capsys, "verify", container, "--trust", public(key), "--revision", 3), "subject")


def test_sign_elsewhere_and_through_pipes(
    container: Path, key: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = container.read_bytes()
    out = tmp_path / "b.h4mk"
    assert here(capsys, "sign", container, "--key", key, "-o", out).status == 0
    assert container.read_bytes() == data
    trust = Trust((PublicKey.from_pem(public(key).read_bytes()),))
    assert verify(out, trust=trust).ok
    piped = run("sign", "-", "--key", key, "-o", "-", stdin=data)
    assert piped.status == 0 and piped.out == out.read_bytes() and "signed" in piped.err
    assert run("verify", "-", "--trust", public(key), "-q", stdin=piped.out).status == 0
    refused(run("sign", "-", "--key", key, stdin=data), "-o OUT")
    link = tmp_path / "link.h4mk"
    link.symlink_to(container)
    assert here(capsys, "sign", link, "--key", key, "-q").out == b""
    assert link.is_symlink() and container.read_bytes() == out.read_bytes()


def test_what_is_not_signed(container: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    data = container.read_bytes()
    refused(here(capsys, "sign", container), "--key")
    refused(here(capsys, "sign", container, "--key", public(key)), "no private key")
    refused(here(capsys, "sign", container, "--key", tmp_path / "none"), "cannot read the key")
    refused(here(capsys, "sign", container, "--key", container.parent), "cannot read the key")
    refused(here(capsys, "sign", container, "--key", key, "--revision", 1), "subject")
    refused(here(capsys, "sign", tmp_path / "none", "--key", key), "cannot open")
    refused(here(capsys, "sign", ORIGINAL, "--key", key), "not sound")
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    refused(here(capsys, "sign", container, "--key", tmp_path / "large"), "too large")
    container.write_bytes(data[:200] + b"?" + data[201:])
    refused(here(capsys, "sign", container, "--key", key), "not sound")
    refused(here(capsys, "sign", container, "--key", key, "-o", tmp_path / "out"), "not sound")
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.h4mk", "k.pem", "k.pub.pem", "large"}


def test_certificates(container: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    private: Any = serialization.load_pem_private_key(key.read_bytes(), None)
    der = certificate("me", private.public_key(), "me", private)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM))
    assert here(capsys, "sign", container, "--key", key, "--cert", chain).status == 0
    assert der in container.read_bytes()
    assert here(capsys, "verify", container, "--trust", public(key)).status == 0
    assert here(capsys, "keygen", "--signing", "-o", tmp_path / "l.pem").status == 0
    refused(here(capsys, "sign", container, "--key", tmp_path / "l.pem", "--cert", chain), "another key")
    refused(here(capsys, "sign", container, "--key", key, "--cert", key), "no certificate")


@needs_openssl
def test_a_key_of_openssl_signs(container: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "o.pem").write_bytes(_openssl("ecparam", "-name", "prime256v1", "-genkey"))
    (tmp_path / "o.pub.pem").write_bytes(_openssl("pkey", "-in", str(tmp_path / "o.pem"), "-pubout"))
    assert here(capsys, "sign", container, "--key", tmp_path / "o.pem").status == 0
    assert here(capsys, "verify", container, "--trust", tmp_path / "o.pub.pem").status == 0


@needs_openssl
def test_openssl_checks_what_stands_in_a_container(
    container: Path, key: Path, tmp_path: Path, capsys: Capture
) -> None:  # H4MK 12.1, 13.1 to 13.3
    """With nothing of ours but the chunks: the message and the signature as the specification has them."""
    for number in range(8):  # so that r is of either form: with a zero in front in DER, and without
        more = ("--subject", "talk", "--revision", number) if number else ()
        assert here(capsys, "sign", container, "--key", key, *more).status == 0
        # The last SIGN is the new one.
        of = {one.tag: one.payload for one in independent.walk(container.read_bytes())}
        tail, sign = of[b"TAIL"], of[b"SIGN"]
        head = b"H4MK head v1\0\0\0\0" + tail[40:56] + tail[64:96]
        head += b"".join(hashlib.sha256(of[tag]).digest() for tag in (b"TRAK", b"META"))
        assert len(head + sign[:80]) == 208
        (tmp_path / "message").write_bytes(head + sign[:80])
        (tmp_path / "signature").write_bytes(der(sign[80:112], sign[112:144]))
        check = ("dgst", "-sha256", "-verify", public(key), "-signature", tmp_path / "signature")
        assert b"Verified OK" in _openssl(*check, tmp_path / "message")
        for changed in (0, 60, 130, 207):
            message = bytearray(head + sign[:80])
            message[changed] ^= 1
            (tmp_path / "message").write_bytes(message)
            with pytest.raises(subprocess.CalledProcessError):
                _openssl(*check, tmp_path / "message")


def der(*numbers: bytes) -> bytes:
    """SEQUENCE { INTEGER r, INTEGER s } (X.690, 8.3)."""
    body = b""
    for number in numbers:
        digits = number.lstrip(b"\0")
        digits = b"\0" * (digits[0] >> 7) + digits
        body += bytes([2, len(digits)]) + digits
    return bytes([0x30, len(body)]) + body


def test_export_signs(key: Path, tmp_path: Path, capsys: Capture) -> None:
    out, trust = tmp_path / "b.h4mk", Trust((PublicKey.from_pem(public(key).read_bytes()),))
    export = ("export", BUNNY, "-o", out, "--block-size", "64KiB")
    assert here(capsys, *export, "--sign", "--key", key, "--subject", "bunny", "--revision", 2).status == 0
    report = verify(out, trust=trust)
    assert report.ok and (report.signatures, report.covered) == (1, report.blocks)
    data = out.read_bytes()
    assert here(capsys, *export).status == 0
    assert here(capsys, "sign", out, "--key", key, "--subject", "bunny", "--revision", 2).status == 0
    assert out.read_bytes() == data
    assert here(capsys, *export, "--sign-every", 3, "--key", key).status == 0
    report = verify(out, trust=trust)
    assert report.ok and report.checked == report.signatures == report.blocks // 3 + 1
    refused(here(capsys, *export, "--sign"), "--key")
    refused(here(capsys, *export, "--key", key), "--sign")
    refused(here(capsys, *export, "--sign", "--key", key, "--remux", "--keep-original", "--raw"), "exclude")


def test_exports_of_several_tracks_are_signed(key: Path, tmp_path: Path, capsys: Capture) -> None:
    out, trust = tmp_path / "b.h4mk", Trust((PublicKey.from_pem(public(key).read_bytes()),))
    for more in (("--remux", "--keep-original"), ("--spectrum", "structure")):
        done = here(capsys, "export", BUNNY, "-o", out, "--sign-every", 1, "--key", key, *more)
        assert done.status == 0, done.err
        report = verify(out, trust=trust)
        assert report.ok and report.checked == report.blocks + 1


# ---- prove and check -------------------------------------------------------------------------------------


@pytest.fixture
def signed(container: Path, key: Path, capsys: Capture) -> Path:
    here(capsys, "sign", container, "--key", key, "--subject", "talk", "--revision", 3)
    return container


def test_prove_and_check(signed: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    proof = tmp_path / "p.json"
    done = here(capsys, "prove", signed, "--pts", "1s", "--pts", 0, "-o", proof)
    assert done.status == 0 and "1 signature" in done.text
    trust = ("--trust", public(key), "--subject", "talk", "--revision", 3)
    known = facts(here(capsys, "check", proof, *trust, "--pts", "1s", "--pts", 0, "--json"))
    with H4MKReader(signed) as reader:
        assert known["head"] == (reader.head or b"").hex()
        for answer in known["answers"]:
            found = reader.seek(answer["pts"])
            assert found and answer["keyframe"] == {"pts": found.pts, "offset": found.offset}
            assert answer["place"] == "inside"
    assert (known["ok"], known["final"], known["pinned"], known["signature"]["revision"]) == (
        True,
        True,
        True,
        3,
    )
    text = here(capsys, "check", proof, "--trust", public(key), "--pts", "1s").text
    assert "proven" in text and "sha256" in text and "any container by this key passes" in text
    assert here(capsys, "check", proof, *trust, "--pts", "1s", "-q").out == b""
    assert "signed by" not in here(capsys, "check", proof, "--head", known["head"], "--pts", "1s").text
    for arguments, said in (
        ((*trust, "--pts", "4s"), "does not answer"),
        ((*trust, "--pts", "1s", "--track", 1), "does not answer"),
        ((*trust[:-1], 4, "--pts", "1s"), "old edition"),
        (("--head", "00" * 32, "--pts", "1s"), "pinned"),
        ((*trust, "--revoked", public(key), "--pts", "1s"), "revoked"),
    ):
        done = here(capsys, "check", proof, *arguments)
        assert done.status == 3 and f"NOT proven: {''}" in done.text and said in done.text
        value = facts(here(capsys, "check", proof, *arguments, "--json"), 3)
        assert value["ok"] is False and said in value["problem"]["message"]
    data = proof.read_bytes()
    proof.write_bytes(data + b"\n")  # as an editor leaves it
    assert here(capsys, "check", proof, *trust, "--pts", "1s").status == 0
    for spoilt in (data[:-1], b"", b"[]", data.replace(b'"revision":3', b'"revision":4')):
        proof.write_bytes(spoilt)
        assert here(capsys, "check", proof, *trust, "--pts", "1s").status == 3


def test_proofs_of_byte_ranges(signed: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    piped = run("prove", signed, "--bytes", 0, 30, "-t", 1, "-o", "-")
    assert piped.status == 0
    proof = tmp_path / "p.json"
    proof.write_bytes(piped.out)
    known = facts(here(capsys, "check", proof, "--trust", public(key), "--bytes", 0, 30, "-t", 1, "--json"))
    with H4MKReader(signed) as reader:
        assert known["blocks"] and all(
            one["digest"] == reader.token(one["index"], 1).digest.hex() for one in known["blocks"]
        )
    assert "block" in here(capsys, "check", proof, "--trust", public(key), "--bytes", 0, 30, "-t", 1).text
    assert here(capsys, "check", proof, "--trust", public(key), "--bytes", 0, 10**6, "-t", 1).status == 3
    done = run("prove", signed, "--bytes", 10**6, 10**6, "-o", "-")
    proof.write_bytes(done.out)
    shown = here(capsys, "check", proof, "--trust", public(key), "--bytes", 10**6, 10**7)
    assert "no such bytes" in shown.text


def test_places_are_said(key: Path, tmp_path: Path, capsys: Capture) -> None:
    from harmony4.h4mk import H4MKBuilder, TrackInfo

    secret = SigningKey.from_pem(key.read_bytes())
    path, proof = tmp_path / "c.h4mk", tmp_path / "p.json"
    with H4MKBuilder.to_path(path, [TrackInfo(), TrackInfo()], signer=Signer(secret)) as builder:
        builder.add_block(b"x", 50)
        builder.finish(ends={0: 70})
    for track, pts, said in (
        (0, 1, "before the first block"),
        (0, 60, "none at or before it"),
        (0, 70, "after the end"),
        (1, 70, "without blocks"),
    ):
        here(capsys, "prove", path, "--pts", pts, "-t", track, "-o", proof)
        done = here(capsys, "check", proof, "--trust", public(key), "--pts", pts, "-t", track)
        assert done.status == 0 and said in done.text


def test_a_stream_that_grew(key: Path, tmp_path: Path, capsys: Capture) -> None:
    whole, cut, proof = tmp_path / "w.h4mk", tmp_path / "c.h4mk", tmp_path / "g.json"
    here(capsys, "export", BUNNY, "-o", whole, "--block-size", "64KiB", "--sign-every", 2, "--key", key)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    done = here(capsys, "diff", cut, whole, "--proof", proof)
    assert done.status == 0 and "B continues A" in done.text
    done = here(capsys, "check", proof, "--trust", public(key))
    assert done.status == 0 and "the later container begins with all" in done.text
    value = facts(here(capsys, "check", proof, "--trust", public(key), "--json"))
    assert value["final"] == [False, True] and value["blocks"][0] % 2 == 0
    assert here(capsys, "check", proof, "--trust", public(key), "-q").out == b""
    refused(here(capsys, "check", proof, "--trust", public(key), "--pts", 1), "what is to be proven")
    proof.write_bytes(proof.read_bytes().replace(b'"revision":0', b'"revision":1', 1))
    assert here(capsys, "check", proof, "--trust", public(key)).status == 3
    refused(here(capsys, "diff", whole, cut, "--proof", whole), "same file")
    piped = run("diff", whole, cut, "--proof", "-")
    assert piped.status == 0 and json.loads(piped.out)["format"] == "h4mk growth 1" and "part" in piped.err


def test_what_cannot_be_proven(signed: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    proof = tmp_path / "p.json"
    refused(here(capsys, "prove", signed, "-o", proof), "--pts")
    refused(here(capsys, "prove", signed, "--pts", 1, "--bytes", 1, 2, "-o", proof), "--bytes")
    refused(here(capsys, "prove", signed, "--bytes", 3, 2, "-o", proof), "no range")
    refused(here(capsys, "prove", signed, "--pts", 1, "-t", 7, "-o", proof), "no such track")
    refused(here(capsys, "prove", signed, "--pts", 1, "-o", signed), "same file")
    refused(here(capsys, "prove", ORIGINAL, "--pts", 1, "-o", proof), "sealed")
    assert not proof.exists()
    refused(here(capsys, "check", proof, "--trust", public(key), "--pts", 1), "cannot read")
    refused(here(capsys, "check", proof, "--pts", 1), "--trust")
    here(capsys, "prove", signed, "--pts", 1, "-o", proof)
    refused(here(capsys, "check", proof, "--trust", public(key)), "--pts")


def test_a_key_that_is_believed_on_some_days(key: Path, container: Path, capsys: Capture) -> None:
    here(capsys, "sign", container, "--key", key)
    trusted = public(key)
    for days in ("2000-01-01..2999-12-31", "2000-01-01..", "..2999-12-31", ".."):
        assert here(capsys, "verify", container, "--trust", f"{trusted}@{days}").status == 0, days
    for days in ("..2000-01-01", "2999-01-01..", "1999-01-01..2000-01-01"):
        done = here(capsys, "verify", container, "--trust", f"{trusted}@{days}")
        assert done.status == 3 and "not valid now" in done.text + done.err
    for days, said in (("2000-13-01..", "no days"), ("2001-01-01..2000-01-01", "before it begins")):
        refused(here(capsys, "verify", container, "--trust", f"{trusted}@{days}"), said)
    both = here(capsys, "verify", container, "--trust", f"{trusted}@2000-01-01..", "--trust", trusted)
    refused(both, "twice")
