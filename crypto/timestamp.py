"""Time stamps: that something was there at a time, said by an authority (RFC 3161; H4MK 13.6).

What an authority sends is parsed and verified by `rfc3161-client`; no clock is read here, as certificates are
looked at as of the time that is said.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from harmony4.crypto.errors import FormatError, SealError, UsageError

__all__ = ["TimeStamp", "imprint_of", "read_authorities", "request_for"]

_SHA256: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_GRANTED: Final = b"\x30\x03\x02\x01\x00"
"""PKIStatusInfo of a request that was granted, in DER."""
_SIGNED: Final = 144
"""Bytes of SIGN that are stamped: all but its certificates."""


def imprint_of(sign: bytes) -> bytes:
    """What a time stamp over a SIGN payload has to name: SHA-256 of its first 144 bytes."""
    return hashlib.sha256(sign[:_SIGNED]).digest()


def request_for(sign: bytes) -> bytes:
    """What an authority is asked for, DER: a time stamp over a SIGN payload, with its certificate.

    Without a nonce: a signature is stamped once in its life, and the same request is the same bytes.
    """
    builder = TimestampRequestBuilder().data(sign[:_SIGNED]).hash_algorithm(HashAlgorithm.SHA256)
    return builder.nonce(nonce=False).cert_request(cert_request=True).build().as_bytes()


def read_authorities(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in PEM text, at least one. Raises UsageError."""
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise UsageError("not certificates in PEM") from None


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """One time stamp. What it says is only as good as its check."""

    token: bytes
    """The TimeStampToken, DER."""
    imprint: bytes
    """SHA-256 of what was stamped, 32 bytes."""
    time: datetime
    """When, UTC."""

    @classmethod
    def parse(cls, data: bytes) -> TimeStamp:
        """A token, or the response that an authority answers with, in DER. Raises FormatError."""
        response = _decoded(data)
        try:
            info = response.tst_info
            imprint = info.message_imprint
            kind, digest, time = imprint.hash_algorithm, imprint.message, info.gen_time
            token = response.time_stamp_token()
        except ValueError as error:
            raise FormatError("not an RFC 3161 time stamp") from error
        if kind != _SHA256 or len(digest) != hashlib.sha256().digest_size:
            raise FormatError("a time stamp is not over a SHA-256", expected=_SHA256.dotted_string)
        return cls(token, digest, time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC))

    def check(self, authorities: tuple[x509.Certificate, ...]) -> None:
        """Raise SealError unless one of these roots, or one it vouches for, made it.

        Its certificate must be one for time stamps, and valid at the time that is said.
        """
        builder = VerifierBuilder()
        for one in dict.fromkeys(authorities):
            builder = builder.add_root_certificate(one)
        try:
            builder.build().verify(_decoded(self.token), self.imprint)
        except (VerificationError, ValueError):
            raise SealError("the time stamp does not hold, or its authority is not trusted") from None


def _decoded(data: bytes) -> Any:
    """A response, whatever it was. Raises FormatError."""
    for form in (data, _wrapped(data)):
        try:
            return decode_timestamp_response(form)
        except ValueError:
            continue
    raise FormatError("not an RFC 3161 time stamp")


def _wrapped(token: bytes) -> bytes:
    """A token as the response that grants it: SEQUENCE { PKIStatusInfo, token }, DER."""
    body = _GRANTED + token
    size = len(body)
    if size < 0x80:
        return bytes([0x30, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([0x30, 0x80 | len(length)]) + length + body
