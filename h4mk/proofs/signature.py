"""SIGN: one signature over a container or over all of it so far, and who makes it (H4MK 13)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from harmony4.crypto.digest import crc32, sha256
from harmony4.crypto.errors import ChecksumError, LimitError, OrderError, UsageError
from harmony4.crypto.token import MAX_VALUE
from harmony4.h4mk.layout import CHUNK_SIZE, DIGEST_SIZE, JSON_LIMIT, SIGN_SIZE, ChunkInfo, Tail
from harmony4.h4mk.seals import CHECKPOINT, FINAL, check_sign

if TYPE_CHECKING:
    from harmony4.crypto.signing import SigningKey

__all__ = [
    "CHECKPOINT",
    "FINAL",
    "MOST_SIGNATURES",
    "MOST_SIGNS",
    "NO_SUBJECT",
    "SignPayload",
    "Signature",
    "Signer",
    "final_chunks",
    "final_signatures",
    "subject_hash",
]

NO_SUBJECT: Final = bytes(32)
MOST_SIGNATURES: Final = 16
"""Final signatures that are put into a container, and that a proof has."""
MOST_SIGNS: Final = 1000
"""Final signatures that are looked at without reading the whole file."""
_ALGORITHM: Final = 1
_SIGNED: Final = struct.Struct(">BB6xQ32s32s")
"""SIGN[0:80]: what of it is signed, behind HEAD."""

SignPayload = Callable[[int, bytes], bytes]
"""(kind, HEAD) -> the payload of a SIGN chunk: what a builder asks for signatures."""


def subject_hash(subject: str | None) -> bytes:
    """What SIGN holds of a subject (H4MK 13.5). Raises UsageError for one that is empty or no Unicode."""
    if subject is None:
        return NO_SUBJECT
    try:
        data = subject.encode()
    except UnicodeEncodeError:
        raise UsageError("a subject must be Unicode text") from None
    if not data:
        raise UsageError("a subject must not be empty")
    return sha256(data)


@dataclass(frozen=True, slots=True)
class Signature:
    """The payload of a SIGN chunk. What it says is only as good as its check (`Trust`)."""

    kind: int
    """FINAL 1 or CHECKPOINT 2."""
    revision: int
    subject: bytes
    """SHA-256 of the subject; NO_SUBJECT without one."""
    key: bytes
    """SHA-256 of the signer's SubjectPublicKeyInfo."""
    value: bytes
    """r ‖ s, 64 bytes."""
    certificates: tuple[bytes, ...] = ()
    """DER, the signer's own first."""

    def _signed(self) -> bytes:
        return _SIGNED.pack(self.kind, _ALGORITHM, self.revision, self.subject, self.key)

    def message(self, head: bytes) -> bytes:
        """What is signed: HEAD (128 bytes, H4MK 12.1) and the first 80 bytes of SIGN (H4MK 13.2)."""
        return head + self._signed()

    def pack(self) -> bytes:
        """The payload."""
        chain = b"".join(len(one).to_bytes(4) + one for one in self.certificates)
        return self._signed() + self.value + chain

    @classmethod
    def unpack(cls, data: bytes, kind: int) -> Self:
        """Parse a payload that stands where signatures of `kind` stand. Raises as `check_sign` does."""
        check_sign(data, kind)
        found, _, revision, subject, key = _SIGNED.unpack_from(data)
        chain, at = [], SIGN_SIZE
        while at < len(data):
            size = int.from_bytes(data[at : at + 4])
            chain.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        value = data[_SIGNED.size : SIGN_SIZE]
        return cls(found, revision, subject, key, value, tuple(chain))


def final_chunks(read: Callable[[int, int], bytes], tail: Tail) -> Iterator[tuple[ChunkInfo, bytes]]:
    """The final SIGN chunks of a sealed file, 1000 at most, and the `time` chunks behind them, in file order.

    `read(offset, size)` reads the file. Raises FormatError and its kin where what stands between VERI and
    TAIL is not what TAIL says.
    """
    at = tail.veri + CHUNK_SIZE + DIGEST_SIZE
    end = tail.length - CHUNK_SIZE - len(tail.pack())
    signs, before = 0, "VERI"
    while at < end and (signs < MOST_SIGNS or before == "SIGN"):
        info = ChunkInfo.unpack(read(at, CHUNK_SIZE), at, end)
        if info.tag == "time" and before == "SIGN":
            pass  # belongs to the one before
        elif info.tag != "SIGN":
            raise OrderError("a signature is missing that TAIL counts", where=at, found=info.tag)
        elif signs == MOST_SIGNS:
            return
        info.check_size()
        payload = read(info.payload, info.size)
        if crc32(payload) != info.crc:
            raise ChecksumError(f"chunk {info.tag} fails its CRC", where=at)
        yield info, payload
        at, before = info.end, info.tag
        signs += info.tag == "SIGN"
    if signs != min(tail.signs, MOST_SIGNS):
        raise OrderError("TAIL counts other signatures", where=at, expected=tail.signs, found=signs)


def final_signatures(read: Callable[[int, int], bytes], tail: Tail) -> Iterator[Signature]:
    """The final signatures of a sealed file in file order, 1000 at most. Raises as `final_chunks` does."""
    for info, payload in final_chunks(read, tail):
        if info.tag == "SIGN":
            yield Signature.unpack(payload, FINAL)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs as one key, one subject, one revision: a SignPayload."""

    key: SigningKey
    subject: str | None = None
    """What the container is an edition of."""
    revision: int = 0
    """Goes up with each edition of the subject; 0 without a subject."""
    certificates: tuple[bytes, ...] = ()
    """A chain, DER: the first of this key, each next one the issuer of the one before."""

    def __post_init__(self) -> None:
        """Raises UsageError, LimitError, and SealError for certificates that are no chain of this key."""
        if not 0 <= self.revision <= MAX_VALUE:
            raise LimitError("a revision is out of range", expected=f"0 to {MAX_VALUE}", found=self.revision)
        if self.revision and self.subject is None:
            raise UsageError("a revision counts the editions of a subject, and there is none")
        subject_hash(self.subject)
        if self.certificates:
            from harmony4.crypto.signing import check_certificates  # takes its time, and few need it

            check_certificates(self.certificates, self.key.public.fingerprint)
        size = SIGN_SIZE + sum(4 + len(one) for one in self.certificates)
        if size > JSON_LIMIT:
            raise LimitError("the certificates are too large", expected=f"<= {JSON_LIMIT}", found=size)

    def __call__(self, kind: int, head: bytes) -> bytes:
        """The payload of a SIGN chunk over HEAD. Checkpoints carry no certificates: there may be many."""
        empty = Signature(
            kind,
            self.revision,
            subject_hash(self.subject),
            self.key.public.fingerprint,
            b"",
            self.certificates if kind == FINAL else (),
        )
        value = self.key.sign(empty.message(head))
        return Signature(kind, empty.revision, empty.subject, empty.key, value, empty.certificates).pack()
