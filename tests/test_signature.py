"""SIGN: signed containers, checkpoints, who is trusted, and adding a signature to a file (H4MK 13, 17.9)."""

import errno
import hashlib
import io
import os
import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import independent
from harmony4.crypto import (
    ChecksumError,
    LimitError,
    OrderError,
    SealError,
    SourceChangedError,
    SourceError,
    StorageError,
    UsageError,
)
from harmony4.crypto.digest import crc32
from harmony4.crypto.signing import SigningKey
from harmony4.h4mk import (
    BytesSource,
    FileSource,
    H4MKBuilder,
    H4MKReader,
    TrackInfo,
    recover,
    verify,
)
from harmony4.h4mk.edits import target
from harmony4.h4mk.layout import chunk_header, head_bytes
from harmony4.h4mk.proofs.proof import verify_seek
from harmony4.h4mk.proofs.prove import prove_seek
from harmony4.h4mk.proofs.signature import (
    CHECKPOINT,
    FINAL,
    Signature,
    Signer,
    final_signatures,
    subject_hash,
)
from harmony4.h4mk.proofs.signing import sign_container, sign_file
from harmony4.h4mk.proofs.trust import SignatureAudit, Trust, TrustedKey
from needs import ORIGINAL
from test_signing import SECRET, certificate
from test_spec import _values as spec_values

KEY, OTHER = SigningKey.from_number(SECRET), SigningKey.from_number(7)
EXAMPLE = Signer(KEY, "example", 1)


def made(signer=EXAMPLE, every=0, *, blocks=7, tracks=2, payload=b"%d %d"):
    """A container of some blocks in each of some tracks."""
    with H4MKBuilder.in_memory(
        [TrackInfo(kind="video")] * tracks, signer=signer, sign_every=every
    ) as builder:
        for number in range(blocks):
            for track in range(tracks):
                builder.add_block(
                    payload % (number, track), number * 40_000, track=track, key=number % 3 == 0
                )
        builder.finish(ends=dict.fromkeys(range(tracks), blocks * 40_000))
        return builder.getvalue()


def test_what_the_specification_has():  # H4MK A.5
    values = spec_values("signing")
    assert KEY.public.spki == values["spki"] and KEY.public.fingerprint == values["spki_hash"]
    assert subject_hash("example") == values["subject_hash"]
    assert EXAMPLE(CHECKPOINT, values["checkpoint_HEAD"]) == values["checkpoint_sign"]
    assert EXAMPLE(FINAL, values["final_HEAD"]) == values["final_sign"]
    found = Signature.unpack(values["final_sign"], FINAL)
    assert found.message(values["final_HEAD"]) == values["final_message"]
    assert found.pack() == values["final_sign"]
    assert (found.revision, found.subject, found.key) == (1, values["subject_hash"], values["spki_hash"])


@pytest.mark.parametrize("every", [0, 1, 3, 100])
def test_a_builder_signs(every):  # H4MK 13.4, 17.2
    data = made(every=every)
    facts = independent.check(data)
    counts = [struct.unpack_from(">Q", head, 16)[0] for head, _ in facts["checkpoints"]]
    assert counts == (list(range(every, 15, every)) if every else [])
    assert len(facts["signs"]) == 1
    for head, payload in (*facts["checkpoints"], *facts["signs"]):
        KEY.public.verify(payload[80:144], head + payload[:80])
    report = verify(data, trust=Trust((KEY.public,), subject="example", revision=1))
    assert report.ok and report.checked == report.signatures == len(counts) + 1
    assert report.covered == 14 and report.accepted[0].revision == 1
    assert report.accepted[0].subject == subject_hash("example")
    assert made(every=every) == data
    # Nothing but the chunks and what counts them is different.
    with H4MKReader(made(None)) as plain, H4MKReader(data) as reader:
        assert reader.root == plain.root
        assert reader.read(0, 10**6) == plain.read(0, 10**6)
        assert (reader.head == plain.head) is (not counts)  # META has offsets
        assert not reader.is_plain()


def test_a_file_is_signed_as_it_is_built(tmp_path):
    with H4MKBuilder.to_path(tmp_path / "a", [TrackInfo()], signer=EXAMPLE, sign_every=1) as builder:
        builder.add_block(b"x", 0)
        seal = builder.finish()
    assert seal.length == (tmp_path / "a").stat().st_size
    assert verify(tmp_path / "a", trust=Trust((KEY.public,))).ok


def test_checkpoints_cover_a_stream_that_has_no_end():  # H4MK 13.4
    data = made(every=2)
    trust = Trust((KEY.public,))
    with H4MKReader(data) as reader:
        ends = [chunk.end for chunk in reader.chunks()]
    for end in ends[:-1]:
        report = verify(data[:end], trust=trust)
        assert not report.ok and report.state == "incomplete"
        assert report.blocks - 2 <= report.covered <= report.blocks
    report = verify(data[: ends[-2]], trust=trust)
    assert (report.covered, len(report.accepted)) == (14, 1)
    # The recovered container is another one, and says so.
    out = io.BytesIO()
    report = recover(BytesSource(data), out)
    assert report.signatures == 8 and verify(out.getvalue()).signatures == 0


def test_without_signer_no_checkpoints():
    for every, signer in ((1, None), (-1, EXAMPLE)):
        with pytest.raises(UsageError, match="signer"):
            H4MKBuilder.in_memory([TrackInfo()], signer=signer, sign_every=every)


# ---- who is trusted --------------------------------------------------------------------------------------


def _problems(data, trust):
    report = verify(data, trust=trust)
    assert report.ok is not report.problems or not report.ok
    return [problem.message for problem in report.problems]


@pytest.mark.parametrize(
    ("trust", "said"),
    [
        (Trust((KEY.public,)), None),
        (Trust((OTHER.public, KEY.public)), None),
        (Trust((KEY.public,), subject="example"), None),
        (Trust((KEY.public,), subject="example", revision=1), None),
        (Trust((TrustedKey(KEY.public, 5, 10),), now=5), None),
        (Trust((TrustedKey(KEY.public, None, 10),), now=10), None),
        (Trust((TrustedKey(KEY.public), TrustedKey(OTHER.public, 1, 2)), now=10), None),
        (Trust((KEY.public,), revoked=frozenset({OTHER.public.fingerprint})), None),
        (Trust((OTHER.public,)), "required signature is missing"),
        (Trust((KEY.public,), subject="exemple"), "another subject"),
        (Trust((KEY.public,), subject="example", revision=2), "old edition"),
        (Trust((TrustedKey(KEY.public, 5, 10),), now=4), "not valid now"),
        (Trust((TrustedKey(KEY.public, 5, 10),), now=11), "not valid now"),
        (Trust((KEY.public,), revoked=frozenset({KEY.public.fingerprint})), "revoked"),
        (Trust((KEY.public,), head=bytes(32)), "pinned"),
        (Trust(head=bytes(32)), "pinned"),
    ],
)
def test_what_is_asked_for_must_hold(trust, said):  # H4MK 19, V22
    problems = _problems(made(every=5), trust)
    assert len(problems) == (said is not None)
    assert said is None or said in problems[0]


def test_a_pin_without_keys():
    data = made(None)
    with H4MKReader(data) as reader:
        assert verify(data, trust=Trust(head=reader.head)).ok


def test_a_required_signature_must_be_there():
    assert "missing" in _problems(made(None), Trust((KEY.public,)))[0]
    # Not a pass for files that cannot have one, either.
    report = verify(ORIGINAL, trust=Trust((KEY.public,)))
    assert not report.ok and "missing" in report.problems[0].message
    assert "pinned" in verify(ORIGINAL, trust=Trust(head=bytes(32))).problems[0].message


def test_a_checkpoint_is_no_final_signature():
    data = made(every=1)
    with H4MKReader(data) as reader:
        at = reader.tail.veri + 44
        rest = reader.tail
    checkpoint = data.index(b"SIGN")
    forged = bytearray(data[checkpoint : checkpoint + 156])
    forged[12] = FINAL
    payload = bytes(forged[12:])
    forged[8:12] = struct.pack(">I", independent.zlib.crc32(payload))
    problems = _problems(data[:at] + bytes(forged) + data[at + 156 :], Trust((KEY.public,)))
    assert "does not hold" in problems[0] and rest.signs == 1


def test_each_signature_by_a_trusted_key_must_hold():
    def spoilt(kind, head):
        payload = bytearray(EXAMPLE(kind, head))
        if kind == CHECKPOINT:
            payload[100] ^= 1
        return bytes(payload)

    data = made(spoilt, every=7)
    assert verify(data).ok
    report = verify(data, trust=Trust((KEY.public,)))
    assert not report.ok and (report.checked, len(report.problems)) == (1, 2)
    assert verify(data, trust=Trust((OTHER.public,))).problems[0].message == "a required signature is missing"
    # Damage before it: what cannot be checked is not counted as checked.
    broken = data.replace(b"\0\0\0\1\0\0\0\3\0\0\0\0", b"\0\0\0\1\0\0\0\4\0\0\0\0", 1)
    report = verify(broken, trust=Trust((KEY.public,)))
    assert not report.ok and report.checked == 0


def test_trust_asks_for_something():
    for arguments in (
        {},
        {"head": bytes(32), "subject": "x"},
        {"keys": (KEY.public,), "revision": 1},
        {"keys": (KEY.public,), "subject": ""},
        {"keys": (KEY.public,), "subject": "\ud800"},
        {"keys": (TrustedKey(KEY.public, since=1),)},
    ):
        with pytest.raises(UsageError):
            Trust(**arguments)


def test_a_check_says_the_most_it_can():
    head = bytes(128)
    ours, theirs = (Signature.unpack(key(FINAL, head), FINAL) for key in (EXAMPLE, Signer(OTHER)))
    trust = Trust((KEY.public,), subject="example")
    assert trust.check(head, [theirs, ours]).key == KEY.public
    assert trust.knows(ours.key) and not trust.knows(theirs.key)
    assert list(trust.named(ours.key[:4])) == [ours.key] and not list(trust.named(b"x"))
    with pytest.raises(SealError, match="not trusted"):
        trust.check(head, [theirs])
    with pytest.raises(SealError, match="does not hold"):
        trust.check(bytes(127) + b"x", [ours, theirs])
    with pytest.raises(SealError, match="missing"):
        trust.check(head, [])
    assert Trust(head=hashlib.sha256(head).digest()).check(head, []) is None


def test_an_audit_remembers_little():
    head, trust = bytes(128), Trust((KEY.public,))
    audit, signature = SignatureAudit(trust), Signature.unpack(EXAMPLE(FINAL, bytes(128)), FINAL)
    for _ in range(SignatureAudit.MOST + 1):
        audit.take(signature, 3, head)
    assert (audit.checked, len(audit.accepted)) == (SignatureAudit.MOST + 1, SignatureAudit.MOST)


# ---- who signs -------------------------------------------------------------------------------------------


def test_certificates_travel_with_the_final_signature():  # H4MK 13.1
    root, ours = ec.generate_private_key(ec.SECP256R1()), ec.derive_private_key(SECRET, ec.SECP256R1())
    chain = (
        certificate("signer", ours.public_key(), "root", root),
        certificate("root", root.public_key(), "root", root),
    )
    data = made(Signer(KEY, certificates=chain), every=5)
    report = verify(data, trust=Trust((KEY.public,)))
    assert report.ok and report.checked == 3
    with H4MKReader(data) as reader:
        (found,) = final_signatures(reader.read_file, reader.tail)
    assert found.certificates == chain and Signature.unpack(found.pack(), FINAL) == found
    assert len(data) == len(made(Signer(KEY), every=5)) + sum(4 + len(one) for one in chain)

    def others(kind, head):  # a signature does not cover its certificates
        payload = Signer(KEY)(kind, head)
        return payload + len(chain[1]).to_bytes(4) + chain[1]

    assert "another key" in _problems(made(others), Trust((KEY.public,)))[0]
    with pytest.raises(SealError, match="another key"):
        Signer(OTHER, certificates=chain)


def test_signers_that_cannot_be():
    ours = ec.derive_private_key(SECRET, ec.SECP256R1())
    for arguments, error in (
        ({"revision": 1}, UsageError),
        ({"subject": "x", "revision": -1}, LimitError),
        ({"subject": "x", "revision": 2**63}, LimitError),
        ({"subject": ""}, UsageError),
        ({"certificates": (b"x",)}, SealError),
    ):
        with pytest.raises(error):
            Signer(KEY, **arguments)
    large = certificate("n" * 60, ours.public_key(), "n" * 60, ours)
    with pytest.raises(LimitError, match="certificates"):
        Signer(KEY, certificates=(large,) * (2**20 // len(large)))


# ---- adding a signature ----------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "a.h4mk"
    path.write_bytes(made(None))
    path.chmod(0o640)
    return path


def test_signing_a_file(plain):  # H4MK 13.4, 17.9
    before = plain.read_bytes()
    seen = []
    report = sign_file(plain, EXAMPLE, progress=seen.append)
    data = plain.read_bytes()
    assert data == made(EXAMPLE)  # as if it had been signed when it was made
    assert report.added and report.length == len(data) and report.signatures == 1 and seen
    assert data[: len(before) - 140] == before[:-140]
    assert plain.stat().st_mode & 0o777 == 0o640
    inode = plain.stat().st_ino
    again = sign_file(plain, EXAMPLE)
    assert (again.added, again.signature) == (False, report.signature)
    assert plain.read_bytes() == data and plain.stat().st_ino == inode
    second = sign_file(plain, Signer(OTHER))
    assert second.signatures == 2 and second.head == report.head
    for key in (KEY, OTHER):
        assert verify(plain, trust=Trust((key.public,), head=report.head)).ok
    out = io.BytesIO()
    assert not sign_container(FileSource(plain), out, Signer(OTHER)).added
    assert out.getvalue() == plain.read_bytes()
    out = io.BytesIO()
    assert sign_container(BytesSource(before), out, EXAMPLE).added
    assert out.getvalue() == data
    assert [one.name for one in plain.parent.iterdir()] == ["a.h4mk"]


def test_time_stamps_stay_with_their_signature():  # H4MK 13.6
    data = independent.build(
        {**_trak(), "tracks": [_track()]},
        [{"payload": b"x", "pts": 0, "key": True, "track": 0}],
        sign=[lambda head: (EXAMPLE(FINAL, head), b"stamp")],
    )
    out = io.BytesIO()
    assert sign_container(BytesSource(data), out, Signer(OTHER)).signatures == 2
    assert b"stamp" in out.getvalue() and verify(out.getvalue(), trust=Trust((OTHER.public,))).ok
    with H4MKReader(out.getvalue()) as reader:
        assert len(list(final_signatures(reader.read_file, reader.tail))) == 2


def _trak():
    return {"cut": {"block": 100, "order": "end", "rule": 1}, "origin": "0"}


def _track():
    start = {"den": 1, "num": 1, "ticks": 0}
    return {
        "codec": "",
        "kind": "data",
        "masked": False,
        "media_type": "a/b",
        "self_framing": False,
        "span": 0,
        "start": start,
        "stream": 0,
        "timing": "hint",
    }


def test_what_is_not_signed(plain, tmp_path):
    data = plain.read_bytes()
    for bad in (data[:-1], data[:100] + b"?" + data[101:], ORIGINAL.read_bytes(), b"nothing"):
        plain.write_bytes(bad)
        with pytest.raises(SealError, match="not sound"):
            sign_file(plain, EXAMPLE)
        assert plain.read_bytes() == bad
    with pytest.raises(SourceError):
        sign_file(tmp_path / "none", EXAMPLE)
    assert [one.name for one in tmp_path.iterdir()] == ["a.h4mk"]


def test_too_many_signatures(plain):  # H4MK 13.4, 24.1
    keys = [SigningKey.from_number(number) for number in range(100, 117)]
    for key in keys[:-1]:
        report = sign_file(plain, Signer(key))
    assert report.signatures == 16
    before = plain.read_bytes()
    with pytest.raises(UsageError, match="as many signatures as it may"):
        sign_file(plain, Signer(keys[-1]))
    assert plain.read_bytes() == before
    # Each of them is of use.
    with H4MKReader(plain) as reader:
        proof = prove_seek(reader, 0).pack()
    for key in keys[:-1]:
        assert verify_seek(proof, 0, 0, Trust((key.public,))).token
    # One that another writer added is read, and can be trusted.
    more = with_signature(before, Signer(keys[-1]))
    assert verify(more, trust=Trust((keys[-1].public,))).ok


def test_many_signatures_by_strangers_cost_little(monkeypatch):
    """Nothing is computed for keys that nobody trusts."""
    data = made(EXAMPLE)
    for number in range(20):
        data = with_signature(data, Signer(OTHER, "talk", number))
    heads = []
    take = SignatureAudit.take
    monkeypatch.setattr(
        SignatureAudit, "take", lambda self, one, *more: heads.append(one.key) or take(self, one, *more)
    )
    report = verify(data, trust=Trust((KEY.public,)))
    assert report.ok and report.checked == 1 and report.signatures == 21
    assert heads == [KEY.public.fingerprint]


def test_a_key_with_two_bounds():
    early, late = TrustedKey(KEY.public, until=10), TrustedKey(KEY.public)
    for keys in ((early, late), (late, early), (KEY.public, early)):
        with pytest.raises(UsageError, match="twice"):
            Trust(keys, now=100)
    assert Trust((KEY.public, late, KEY.public)).knows(KEY.public.fingerprint)


def with_signature(data, signer):
    """The container with one more signature, whatever it has."""
    with H4MKReader(data) as reader:
        tail, trak, meta = reader.tail, reader.trak.pack(), reader.meta.pack()
    payload = signer(FINAL, head_bytes(tail.blocks, tail.duration, tail.root, trak, meta))
    chunk = chunk_header(b"SIGN", len(payload), crc32(payload)) + payload
    end = tail.length - 12 - len(tail.pack())
    new = replace(tail, length=tail.length + len(chunk), signs=tail.signs + 1).pack()
    return data[:end] + chunk + chunk_header(b"TAIL", len(new), crc32(new)) + new


def test_a_file_that_changes_is_not_replaced(plain):
    def meddling(kind, head):
        with plain.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more")
        return EXAMPLE(kind, head)

    with pytest.raises(SourceChangedError):
        sign_file(plain, meddling)
    assert plain.read_bytes().endswith(b"more") and [one.name for one in plain.parent.iterdir()] == ["a.h4mk"]


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_takes_its_place_is_not_lost(plain, there):
    other = made(None, payload=b"%d-%d")

    def meddling(kind, head):
        if there:
            new = plain.with_name("new")
            new.write_bytes(other)
            os.utime(new, ns=(plain.stat().st_atime_ns, plain.stat().st_mtime_ns))
            new.replace(plain)
        else:
            plain.unlink()
        return EXAMPLE(kind, head)

    with pytest.raises(SourceChangedError, match="another file took"):
        sign_file(plain, meddling)
    assert (plain.read_bytes() == other) if there else not plain.exists()
    assert len(list(plain.parent.iterdir())) == there


def test_two_who_sign_at_the_same_time(plain):
    """One is refused while the other is at it; nobody's signature is lost."""

    def meddling(kind, head):
        with pytest.raises(StorageError, match="by someone else"):
            sign_file(plain, Signer(OTHER))
        return EXAMPLE(kind, head)

    assert sign_file(plain, meddling).signatures == 1
    assert sign_file(plain, Signer(OTHER)).signatures == 2


def test_a_container_that_is_exchanged_meanwhile():
    first, second = made(None), made(None, payload=b"%d-%d")
    assert len(first) == len(second) and first != second

    class Exchanged(BytesSource):
        """Another container once the first one was read to its end."""

        read = False

        def read_at(self, offset, count):
            self.read |= offset >= len(first)
            return (second if self.read else first)[offset : offset + count]

    with pytest.raises(SourceChangedError):
        sign_container(Exchanged(first), io.BytesIO(), EXAMPLE)


def test_signatures_that_are_not_what_tail_says():
    data = made()
    with H4MKReader(data) as reader:
        tail, at = reader.tail, reader.tail.veri + 44

    def read(spoilt):
        return lambda offset, size: spoilt[offset : offset + size]

    assert len(list(final_signatures(read(data), tail))) == 1
    for change, error in (
        (data[:at] + b"SEEK" + data[at + 4 :], OrderError),
        (data[: at + 20] + b"x" + data[at + 21 :], ChecksumError),
        (data[: at + 4] + struct.pack(">I", 10) + data[at + 8 :], LimitError),
    ):
        with pytest.raises(error):
            list(final_signatures(read(change), tail))


# ---- copying ---------------------------------------------------------------------------------------------


def _taken(tmp_path, data):
    path = tmp_path / "from"
    path.write_bytes(data)
    file = target.AtomicFile(tmp_path / "to")
    source = FileSource(path)
    try:
        file.take(source.fileno(), len(data))
        file.write(b"tail")
        file.commit()
    finally:
        source.close()
        file.abort()
    return (tmp_path / "to").read_bytes()


@pytest.mark.parametrize("way", ["system", "refused", "missing"])
def test_bytes_are_taken_over(way, tmp_path, monkeypatch):
    if way == "refused":

        def refuse(*arguments):
            raise OSError(errno.EXDEV, "other device")

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    elif way == "missing":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
        monkeypatch.delattr(os, "fchmod", raising=False)
    data = os.urandom(3 * 2**20 + 5)
    assert _taken(tmp_path, data) == data + b"tail"
    assert _taken(tmp_path, b"") == b"tail"
    file = target.AtomicFile(tmp_path / "x")
    file.keep_mode(file._file.fileno())
    file.abort()


def test_bytes_that_cannot_be_taken_over(tmp_path, monkeypatch):
    path = tmp_path / "from"
    path.write_bytes(b"short")
    with path.open("rb") as source:
        file = target.AtomicFile(tmp_path / "to")
        with pytest.raises(SourceError, match="too early"):
            file.take(source.fileno(), 6)

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "copy_file_range", full, raising=False)
        with pytest.raises(StorageError, match="No space"):
            file.take(source.fileno(), 5)
        monkeypatch.setattr(os, "fchmod", full, raising=False)
        with pytest.raises(StorageError, match="No space"):
            file.keep_mode(source.fileno())
        file.abort()
    assert [one.name for one in tmp_path.iterdir()] == ["from"]
