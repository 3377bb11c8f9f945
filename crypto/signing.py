"""ECDSA over P-256 with SHA-256, nonces by RFC 6979, low s; keys as PEM; chains of certificates (H4MK 13.3).

A signature is r ‖ s, 32 bytes each. One message and one key have exactly one signature that verifies here:
the nonce follows from both, and of the two values of s that would do only the low one is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from harmony4.crypto.errors import SealError, UsageError

__all__ = [
    "ORDER",
    "SIGNATURE_SIZE",
    "PublicKey",
    "SigningKey",
    "check_certificates",
    "read_certificates",
    "read_public_keys",
]

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""q, the order of the curve's group (FIPS 186-5, SP 800-186 3.2.1.3)."""
SIGNATURE_SIZE: Final = 64
_CURVE: Final = "secp256r1"
_MOST_PEM: Final = 2**20
_PUBLIC: Final = b"-----BEGIN PUBLIC KEY-----"
_END: Final = b"-----END PUBLIC KEY-----"


class PublicKey:
    """A key that signatures are checked with. Equal keys are equal, and can be in sets."""

    __slots__ = ("_key", "fingerprint", "spki")

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        """Raises UsageError for another curve."""
        if key.curve.name != _CURVE:
            raise UsageError("the key is not on P-256", expected=_CURVE, found=key.curve.name)
        self._key = key
        self.spki: bytes = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        """SubjectPublicKeyInfo, DER, with the point uncompressed."""
        self.fingerprint: bytes = hashlib.sha256(self.spki).digest()
        """SHA-256 of it, 32 bytes: what SIGN names a key by."""

    @classmethod
    def from_spki(cls, data: bytes) -> Self:
        """From SubjectPublicKeyInfo in DER. Raises UsageError."""
        try:
            key = serialization.load_der_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError("that is no public key") from error
        return cls(_on_a_curve(key))

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """From a PEM file with one public key in it (SubjectPublicKeyInfo). Raises UsageError."""
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError("that is no public key in PEM", expected=_PUBLIC.decode()) from error
        return cls(_on_a_curve(key))

    def pem(self) -> bytes:
        """As PEM."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SealError unless r ‖ s is this key's signature of the message, with the low s."""
        if len(signature) != SIGNATURE_SIZE:
            raise SealError("a signature has the wrong length", expected=SIGNATURE_SIZE, found=len(signature))
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if not (0 < r < ORDER and 0 < s < ORDER):
            raise SealError("a signature has an r or s that cannot be")
        if s > ORDER // 2:
            raise SealError("a signature has the high s")
        try:
            self._key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise SealError("a signature does not hold") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.spki == self.spki

    def __hash__(self) -> int:
        return hash(self.spki)

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint.hex()})"


class SigningKey:
    """A private key. Its text form and its errors never hold the secret."""

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Raises UsageError for another curve."""
        self.public: PublicKey = PublicKey(key.public_key())
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """A new key, from the system's random numbers."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_number(cls, secret: int) -> Self:
        """The key whose secret is this number, 1 … q - 1. Raises UsageError."""
        try:
            return cls(ec.derive_private_key(secret, ec.SECP256R1()))
        except ValueError:
            raise UsageError("a secret key is a number from 1 to q - 1") from None

    @classmethod
    def from_pem(cls, data: bytes, passphrase: bytes | None = None) -> Self:
        """From PEM: PKCS#8, encrypted or not, or SEC 1 as `openssl ecparam -genkey` writes it.

        Raises UsageError; it says whether a passphrase is missing, wrong, or given without need.
        """
        if len(data) > _MOST_PEM or b"-----BEGIN" not in data:
            raise UsageError("that is no private key in PEM")
        try:
            key = serialization.load_pem_private_key(_without_parameters(data), passphrase or None)
        except TypeError:
            said = "the key is encrypted: a passphrase is needed"
            raise UsageError(said if not passphrase else "the key has no passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            # What the library says may quote the input.
            said = "that is no private key in PEM" + (", or the passphrase is wrong" if passphrase else "")
            raise UsageError(said) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError("the key is no ECDSA key", expected="P-256", found=type(key).__name__)
        return cls(key)

    def pem(self, passphrase: bytes | None = None) -> bytes:
        """As PKCS#8 in PEM, encrypted if there is a passphrase. Raises UsageError for an empty one."""
        if passphrase is None:
            how: serialization.KeySerializationEncryption = serialization.NoEncryption()
        elif not passphrase:
            raise UsageError("the passphrase is empty")
        else:
            how = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    def sign(self, message: bytes) -> bytes:
        """r ‖ s, 64 bytes: the same for the same message, always (RFC 6979), with the low s."""
        der = self._key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32) + min(s, ORDER - s).to_bytes(32)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not pickled")


def read_public_keys(data: bytes) -> tuple[PublicKey, ...]:
    """All public keys of a PEM file, in its order. Raises UsageError if there is none, or an unsound one."""
    parts = data.split(_PUBLIC) if len(data) <= _MOST_PEM else [b""]
    if len(parts) < 2:
        raise UsageError("that is no public key in PEM", expected=_PUBLIC.decode())
    return tuple(PublicKey.from_pem(_PUBLIC + part.partition(_END)[0] + _END + b"\n") for part in parts[1:])


def read_certificates(data: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER, in its order. Raises UsageError."""
    from cryptography import x509  # takes longer than all the rest

    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UsageError("that is no certificate in PEM") from None
    return tuple(one.public_bytes(serialization.Encoding.DER) for one in found)


def check_certificates(chain: Sequence[bytes], fingerprint: bytes, at: int | None = None) -> None:
    """Raise SealError unless the first of these DER certificates is of the key with this fingerprint (SHA-256
    of its SPKI) and each next one issued the one before.

    `at`: seconds since 1970 at which all of them must be valid; None leaves time out. Whether the last one is
    to be trusted is the caller's to say.
    """
    from cryptography import x509

    try:
        certificates = [x509.load_der_x509_certificate(one) for one in chain]
        if certificates and PublicKey(_on_a_curve(certificates[0].public_key())).fingerprint != fingerprint:
            raise SealError("the certificate is of another key")
        for one, issuer in pairwise(certificates):
            one.verify_directly_issued_by(issuer)
        times = [(one.not_valid_before_utc, one.not_valid_after_utc) for one in certificates]
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, UsageError):
        raise SealError("the certificates are no chain from the signer's key") from None
    if at is not None:
        moment = datetime.fromtimestamp(at, UTC)
        if any(not begin <= moment <= end for begin, end in times):
            raise SealError("a certificate is not valid at that time", found=moment.isoformat())


def _on_a_curve(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError("the key is no ECDSA key", expected="P-256", found=type(key).__name__)
    return key


def _without_parameters(data: bytes) -> bytes:
    """`openssl ecparam -genkey` puts the curve's name before the key; the library takes only the key."""
    begin, end = b"-----BEGIN EC PARAMETERS-----", b"-----END EC PARAMETERS-----"
    before, _, rest = data.partition(begin)
    return before + rest.partition(end)[2] if rest else data
