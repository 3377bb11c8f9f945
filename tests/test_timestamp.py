"""Time stamps (RFC 3161; H4MK 13.6), made by openssl's own authority, of signatures over real containers."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import independent
from commands import here, refused
from harmony4.crypto.der import SEQUENCE, children, join
from harmony4.crypto.digest import crc32
from harmony4.crypto.errors import FormatError, OrderError, SealError, UsageError
from harmony4.crypto.signing import SigningKey
from harmony4.crypto.timestamp import TimeStamp, imprint_of, read_authorities, request_for
from harmony4.h4mk import BytesSource, H4MKReader, verify
from harmony4.h4mk.layout import chunk_header
from harmony4.h4mk.proofs.signature import Signer, final_signatures
from harmony4.h4mk.proofs.signing import sign_file, stamp_container, stamp_file
from harmony4.h4mk.proofs.trust import Trust
from needs import needs_openssl
from samples import track_of

pytestmark = needs_openssl

KEY = SigningKey.generate()
OTHER = SigningKey.generate()
CONFIG = """
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[tsa]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = critical, serverAuth
[stamps]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384
"""


@dataclass(frozen=True)
class Authority:
    """openssl as an authority, with a root of its own."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "ca.pem"

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        (folder / "config").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        made = cls(folder)
        new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config config"
        made.run(f"req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=root -extensions ca -days 2")
        made.run(f"req {new} -keyout tsa.key -out tsa.csr -subj /CN=clock")
        sign = "x509 -req -in tsa.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile config -days 2"
        made.run(f"{sign} -extensions tsa -out tsa.pem")
        made.run(f"{sign} -extensions server -out server.pem")
        return made

    def run(self, line: str) -> None:
        subprocess.run(["openssl", *line.split()], cwd=self.folder, check=True, capture_output=True)

    def answer(self, request: bytes, *options: str) -> bytes:
        (self.folder / "q").write_bytes(request)
        reply = "ts -reply -config config -section stamps -queryfile q -signer tsa.pem -inkey tsa.key -out r"
        self.run(" ".join([reply, *options]))
        return (self.folder / "r").read_bytes()

    def stamp(self, data: bytes, digest: str = "sha256") -> bytes:
        """The response to a request that openssl made."""
        (self.folder / "data").write_bytes(data)
        self.run(f"ts -query -data data -{digest} -cert -out q")
        return self.answer((self.folder / "q").read_bytes())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority") / "a")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("stranger") / "a")


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A container with two signatures."""
    path = tmp_path / "a.h4mk"
    path.write_bytes(track_of(4))
    sign_file(path, Signer(KEY))
    sign_file(path, Signer(OTHER))
    return path


def sign_of(path: Path, number: int) -> bytes:
    """The payload of the `number`-th SIGN."""
    with H4MKReader(path) as reader:
        found = [one for one in reader.chunks() if one.tag == "SIGN"][number]
        return reader.read_file(found.payload, found.size)


def roots(*authorities: Authority) -> tuple[object, ...]:
    return tuple(one for each in authorities for one in read_authorities(each.root.read_bytes()))


def trust(*authorities: Authority) -> Trust:
    return Trust((KEY.public, OTHER.public), authorities=roots(*authorities))  # type: ignore[arg-type]


def test_a_request_is_what_openssl_asks_for(authority: Authority, signed: Path) -> None:
    """Only the nonce is missing: the same signature, the same request."""
    payload = sign_of(signed, 0)
    (authority.folder / "data").write_bytes(payload[:144])
    authority.run("ts -query -data data -sha256 -cert -no_nonce -out q")
    assert request_for(payload) == (authority.folder / "q").read_bytes()
    assert imprint_of(payload) == independent.sha(payload[:144])


def test_a_response_and_its_token(authority: Authority) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    data = authority.stamp(b"a" * 144)
    stamp = TimeStamp.parse(data)
    assert stamp.imprint == independent.sha(b"a" * 144)
    assert before <= stamp.time <= datetime.now(UTC)
    assert TimeStamp.parse(stamp.token) == stamp
    assert stamp.token in data
    stamp.check(roots(authority))  # type: ignore[arg-type]


def test_the_time_is_shown_by_verify(authority: Authority, signed: Path) -> None:
    plain = signed.read_bytes()
    for number in (1, 0):
        stamp = TimeStamp.parse(authority.stamp(sign_of(signed, number)[:144]))
        report = stamp_file(signed, stamp)
        assert (report.added, report.signatures) == (True, 2)
        again = stamp_file(signed, stamp)
        assert not again.added and again.length == report.length == signed.stat().st_size
    found = verify(signed, trust=trust(authority))
    assert found.problems == ()
    assert all(one.time is not None for one in found.accepted)
    independent.check(signed.read_bytes())
    # Where nobody is asked about the time, nobody's word counts.
    assert [one.time for one in verify(signed, trust=trust()).accepted] == [None, None]
    # Everything before the signatures is where it was.
    with H4MKReader(signed) as reader:
        assert plain[: reader.veri_offset] == signed.read_bytes()[: reader.veri_offset]
        tail = reader.tail
        assert tail is not None
        assert [one.key for one in final_signatures(reader.read_file, tail)] == [
            KEY.public.fingerprint,
            OTHER.public.fingerprint,
        ]
    # A third one still goes behind them.
    third = SigningKey.generate()
    assert sign_file(signed, Signer(third)).signatures == 3
    assert verify(signed).problems == ()


def test_onto_a_pipe(authority: Authority, signed: Path, tmp_path: Path) -> None:
    stamp = TimeStamp.parse(authority.stamp(sign_of(signed, 1)[:144]))
    with (tmp_path / "out").open("wb") as out:
        assert stamp_container(BytesSource(signed.read_bytes()), out, stamp).added
    stamp_file(signed, stamp)
    assert (tmp_path / "out").read_bytes() == signed.read_bytes()


def test_what_is_no_proof_of_a_time(authority: Authority, stranger: Authority, signed: Path) -> None:
    payload = sign_of(signed, 0)[:144]
    stamp = TimeStamp.parse(authority.stamp(payload))
    for wrong in ((stranger,), ()):
        with pytest.raises(SealError, match="authority is not trusted"):
            stamp.check(roots(*wrong))  # type: ignore[arg-type]
    # A certificate that is for servers, by the right root.
    answer = authority.answer(request_for(payload), "-signer", "tsa.pem")
    assert TimeStamp.parse(answer).imprint == stamp.imprint
    authority.run("ts -query -data data -sha256 -out q")
    with pytest.raises(subprocess.CalledProcessError):  # openssl itself refuses to stamp with it
        authority.run(
            "ts -reply -config config -section stamps -queryfile q -signer server.pem -inkey tsa.key -out r"
        )
    with pytest.raises(SealError, match="not over a signature of this container"):
        stamp_file(signed, TimeStamp.parse(authority.stamp(b"b" * 144)))
    with pytest.raises(FormatError, match="not over a SHA-256"):
        TimeStamp.parse(authority.stamp(payload, "sha384"))
    for rubbish in (
        b"",
        b"\x30",
        b"\x30\x03\x02\x01\x00",
        payload,
        authority.root.read_bytes(),
        stamp.token[:-1],
    ):
        with pytest.raises(FormatError):
            TimeStamp.parse(rubbish)
    plain = track_of(3)
    with pytest.raises(SealError, match="not over a signature"):
        stamp_container(BytesSource(plain), io.BytesIO(), stamp)
    with pytest.raises(SealError, match="not sealed"):
        stamp_container(BytesSource(plain[:-1]), io.BytesIO(), stamp)


def test_one_time_stamp_for_a_signature(authority: Authority, signed: Path) -> None:
    payload = sign_of(signed, 0)[:144]
    stamp_file(signed, TimeStamp.parse(authority.stamp(payload)))
    before = signed.read_bytes()
    with pytest.raises(UsageError, match="another time stamp already"):
        stamp_file(signed, TimeStamp.parse(authority.stamp(payload)))
    assert signed.read_bytes() == before


def test_each_bit_of_a_token(authority: Authority) -> None:
    """Flipped, it is refused, or it says the same of the same: DER and certificates leave some bits free."""
    stamp = TimeStamp.parse(authority.stamp(b"c" * 144))
    free = 0
    for at in range(len(stamp.token)):
        flipped = bytearray(stamp.token)
        flipped[at] ^= 1 << at % 8
        try:
            found = TimeStamp.parse(bytes(flipped))
            found.check(roots(authority))  # type: ignore[arg-type]
        except (FormatError, SealError):
            continue
        assert (found.imprint, found.time) == (stamp.imprint, stamp.time)
        free += 1
    assert free < 40


def tlv(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """Tag, and where the contents of a DER value begin and end."""
    size, start = data[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[at + 2 : start], "big")
    return data[at], start, start + size


def parts_of(data: bytes) -> list[bytes]:
    """The values in one."""
    _, at, end = tlv(data)
    found = []
    while at < end:
        stop = tlv(data, at)[2]
        found.append(data[at:stop])
        at = stop
    return found


def joined(tag: int, parts: list[bytes]) -> bytes:
    """A DER value of others."""
    body = b"".join(parts)
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    return bytes([tag, *([0x80 | len(length)] if len(body) > 127 else []), *length]) + body


def with_certificates(token: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A token with other certificates in it; they are not signed."""
    kind, content = parts_of(token)
    signed = parts_of(parts_of(content)[0])
    signed = [joined(0xA0, change(parts_of(one))) if one[0] == 0xA0 else one for one in signed]
    return joined(0x30, [kind, joined(0xA0, [joined(0x30, signed)])])


def version_9(certificate: bytes) -> bytes:
    at = certificate.index(bytes.fromhex("a003020102")) + 4
    return certificate[:at] + b"\x09" + certificate[at + 1 :]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_certificates_that_are_spoilt(authority: Authority, signed: Path) -> None:
    stamp = TimeStamp.parse(authority.stamp(sign_of(signed, 0)[:144]))
    stamp_file(signed, stamp)
    token = with_certificates(stamp.token, lambda known: sorted([*known, version_9(known[0])]))
    data = rewritten(signed, lambda _: token)
    assert [type(one) for one in verify(data, trust=trust(authority)).problems] == [SealError]
    for at in range(0, len(stamp.token), 3):
        for value in {0, 3, 9, 0x30, 0x80, 0xFF} - {stamp.token[at]}:
            with contextlib.suppress(FormatError, SealError):
                spoilt = stamp.token[:at] + bytes([value]) + stamp.token[at + 1 :]
                TimeStamp.parse(spoilt).check(roots(authority))  # type: ignore[arg-type]


def test_an_authority_that_sends_its_chain(authority: Authority, signed: Path) -> None:
    """openssl writes the certificates as the chain goes, which is not the order of DER."""
    payload = sign_of(signed, 0)[:144]
    answer = authority.answer(request_for(payload), "-chain ca.pem")
    stamp = TimeStamp.parse(answer)
    stamp.check(roots(authority))  # type: ignore[arg-type]
    assert TimeStamp.parse(stamp.token) == stamp
    orders = [with_certificates(stamp.token, order) for order in (sorted, lambda one: sorted(one)[::-1])]
    assert orders[0] == stamp.token != orders[1]
    for token in orders:
        assert TimeStamp.parse(token) == stamp
    stamp_file(signed, stamp)
    for token in orders:
        data = rewritten(signed, lambda _, token=token: token)  # type: ignore[misc]
        found = verify(data, trust=trust(authority))
        assert found.ok and found.accepted[0].time == stamp.time


def test_a_certificate_with_the_name_of_another(authority: Authority) -> None:
    """It would say what the signer's own does not: that it is one for time stamps."""
    token = TimeStamp.parse(authority.stamp(b"a" * 144)).token
    real = x509.load_pem_x509_certificate((authority.folder / "tsa.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        real.issuer,
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")]),
        key.public_key(),
        real.serial_number,
        real.not_valid_before_utc,
        real.not_valid_after_utc,
    ).add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    forged = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    spoilt = TimeStamp.parse(with_certificates(token, lambda known: sorted([*known, forged])))
    with pytest.raises(SealError, match="same issuer and number"):
        spoilt.check(roots(authority))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x81\x01\x05",
        b"\x30\x82\x00\x80",
        b"\x30\x02\x05",
        b"\x3f\x01\x01",
        b"\x31\x00",
        b"\x30\x00\x00",
        b"\x30\x84\x01",
        b"\x30\x02\x1f\x01",
    ],
)
def test_what_is_no_der(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"value|length"):
        children(data, SEQUENCE)
    assert join(SEQUENCE, [b"\x05\x00"]) == b"\x30\x02\x05\x00"
    assert children(join(SEQUENCE, [b"\x05\x00", b"\x04\x81\x80" + bytes(128)]), SEQUENCE) == [
        b"\x05\x00",
        b"\x04\x81\x80" + bytes(128),
    ]


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> bytes:
    """The container with the first token changed, and TAIL as it must be then."""
    with H4MKReader(path) as reader:
        info = next(one for one in reader.chunks() if one.tag == "time")
        tail, data = reader.tail, path.read_bytes()
    assert tail is not None
    token = change(data[info.payload : info.end])
    chunk = chunk_header(b"time", len(token), crc32(token)) + token
    new = replace(tail, length=tail.length + len(token) - info.size).pack()
    end = chunk_header(b"TAIL", len(new), crc32(new)) + new
    return data[: info.offset] + chunk + data[info.end : -len(end)] + end


def test_a_container_that_lies_about_its_time(
    authority: Authority, stranger: Authority, signed: Path
) -> None:
    payload = sign_of(signed, 0)[:144]
    stamp_file(signed, TimeStamp.parse(authority.stamp(payload)))
    other = TimeStamp.parse(authority.stamp(b"d" * 144)).token
    strange = TimeStamp.parse(stranger.stamp(payload)).token
    for token, words in ((other, "not over the signature"), (strange, "not trusted"), (b"x", "RFC 3161")):
        data = rewritten(signed, lambda _, token=token: token)  # type: ignore[misc]
        assert verify(data).ok  # without authorities it is a chunk like any other
        problems = verify(data, trust=trust(authority)).problems
        assert len(problems) == 1 and words in problems[0].message
    # Behind a signature by nobody that is trusted it is not looked at.
    alone = Trust((OTHER.public,), authorities=roots(authority))  # type: ignore[arg-type]
    assert verify(rewritten(signed, lambda _: other), trust=alone).ok


def test_signatures_that_tail_counts_differently(signed: Path) -> None:
    with H4MKReader(signed) as reader:
        tail = reader.tail
        assert tail is not None
        for signs in (1, 3):
            with pytest.raises(OrderError):
                list(final_signatures(reader.read_file, replace(tail, signs=signs)))


def test_the_commands(authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key, token = tmp_path / "a.h4mk", tmp_path / "k.pem", tmp_path / "r"
    path.write_bytes(track_of(4))
    here(capsys, "keygen", "--signing", "-o", str(key), "-q")
    query = tmp_path / "q"
    here(capsys, "sign", str(path), "--key", str(key), "--timestamp-request", str(query))
    token.write_bytes(authority.answer(query.read_bytes()))
    root = str(authority.root)
    for words in ("has the time stamp\n", "has the time stamp already\n"):
        done = here(capsys, "sign", path, "--timestamp-token", token, "--authority", root)
        assert words in done.out.decode()
    public = str(tmp_path / "k.pub.pem")
    checked = here(capsys, "verify", path, "--trust", public, "--authority", root, "--json").out
    (accepted,) = json.loads(checked)["signatures"]["accepted"]
    assert accepted["time"] == TimeStamp.parse(token.read_bytes()).time.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert b"not later than" in here(capsys, "verify", path, "--trust", public, "--authority", root).out
    for arguments, words in [
        (("--timestamp-token", str(token)), "who is believed about the time"),
        (("--timestamp-token", str(path), "--authority", root), "not an RFC 3161 time stamp"),
        (("--timestamp-token", str(token), "--authority", str(token)), "not certificates in PEM"),
        (("--timestamp-token", str(token), "--authority", root, "--key", str(key)), "without a key"),
        (("--key", str(key), "--authority", root), "an authority is for a time stamp"),
    ]:
        refused(here(capsys, "sign", path, *arguments), words)


def test_only_so_many_signatures_are_looked_at(
    authority: Authority, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmony4.h4mk.proofs.signature.MOST_SIGNS", 1)
    stamp = TimeStamp.parse(authority.stamp(sign_of(signed, 0)[:144]))
    for change in (lambda: None, lambda: stamp_file(signed, stamp)):
        change()
        with H4MKReader(signed) as reader:
            tail = reader.tail
            assert tail is not None
            assert [one.key for one in final_signatures(reader.read_file, tail)] == [KEY.public.fingerprint]
