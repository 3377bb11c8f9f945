"""Time stamps: that something was there at a time, said by an authority (RFC 3161; H4MK 13.6).

What an authority sends is parsed and verified by `rfc3161-client`; no clock is read here, as certificates are
looked at as of the time that is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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

from harmony4.crypto.der import SEQUENCE, children, join, sort_certificates
from harmony4.crypto.errors import FormatError, SealError, UsageError
from harmony4.crypto.signing import certificate_errors

__all__ = ["Certificate", "TimeStamp", "imprint_of", "read_authorities", "request_for"]

Certificate = x509.Certificate
"""An authority's certificate."""

_SHA256: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_ERRORS: Final = certificate_errors()
_REFUSED: Final[tuple[type[Exception], ...]] = (*_ERRORS, VerificationError)
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
    except _ERRORS:
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
        except _ERRORS as error:
            raise FormatError("not an RFC 3161 time stamp", found=_reason(error)) from error
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
            response = _decoded(self.token)
            _check_names(response.signed_data.certificates)
            builder.build().verify(response, self.imprint)
        except _REFUSED as error:
            said = "the time stamp does not hold, or its authority is not trusted"
            raise SealError(said, found=_reason(error)) from None


def _check_names(certificates: Iterable[bytes]) -> None:
    """Raise ValueError where two certificates have one name: either could pass for the signer's."""
    found = [x509.load_der_x509_certificate(one) for one in certificates]
    if len({(one.issuer, one.serial_number) for one in found}) != len(found):
        raise ValueError("two certificates have the same issuer and number")


def _decoded(data: bytes) -> Any:
    """A response, whatever it was. Raises FormatError."""
    try:
        parts = children(data, SEQUENCE)
        token = parts[1] if parts and parts[0][0] == SEQUENCE and len(parts) == 2 else data
        status = parts[0] if token is not data else _GRANTED
        return decode_timestamp_response(join(SEQUENCE, [status, sort_certificates(token)]))
    except _ERRORS as error:
        raise FormatError("not an RFC 3161 time stamp", found=_reason(error)) from error


def _reason(error: Exception) -> str:
    """What a library says, in one line."""
    return " ".join(str(error).split())[:200]
