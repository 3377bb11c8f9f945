"""Whom to believe: keys, a pinned container, a subject and its lowest revision (H4MK 13, 22.5).

No clock here: whoever gives keys an end of their validity says what time it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from harmony4.crypto.digest import sha256
from harmony4.crypto.errors import SealError, UsageError
from harmony4.h4mk.proofs.signature import FINAL, NO_SUBJECT, Signature, subject_hash

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.x509 import Certificate

    from harmony4.crypto.signing import PublicKey

__all__ = ["Accepted", "SignatureAudit", "Trust", "TrustedKey"]

_NOT_TRUSTED: Final = "the signature is by a key that is not trusted"
_OLD: Final = "the signature is of an old edition"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, and when it may be believed: seconds since 1970, None for no bound."""

    key: PublicKey
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A signature that holds, by a key that is trusted."""

    key: PublicKey
    kind: int
    subject: bytes | None
    """SHA-256 of the subject, None without one."""
    revision: int
    """What to remember: an edition of the subject with a lower one is an old one."""
    time: datetime | None = None
    """When it was there at the latest, UTC, if an authority that is trusted says so."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What must hold of a container before it is believed: all that is given here.

    With `keys`: a signature by one of them. With `head`: that it is this very container. With `subject`: that
    the signature names it, with `revision` or a later one. Keys alone accept every container that they ever
    signed, old editions too.
    """

    keys: tuple[PublicKey | TrustedKey, ...] = ()
    head: bytes | None = None
    subject: str | None = None
    revision: int = 0
    revoked: frozenset[bytes] = frozenset()
    """Fingerprints (SHA-256 of the SPKI) of keys that are not believed any more, whatever they signed."""
    now: int | None = None
    """Seconds since 1970; needed where a key has a bound."""
    authorities: tuple[Certificate, ...] = ()
    """Whose time stamps are believed; without any, nobody's are looked at."""
    latest: Mapping[tuple[bytes, bytes], int] = field(default_factory=dict, hash=False)
    """The highest revision that was seen, by the key's fingerprint and the hash of the subject: a lower one
    is of an old edition (H4MK 13.5)."""
    _by_name: dict[bytes, TrustedKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises UsageError where nothing is given that could be checked."""
        if not self.keys and self.head is None:
            raise UsageError("trust needs a key, or a head to compare with")
        if self.subject is not None and not self.keys:
            raise UsageError("a subject is named by a signature, and there is no key to check one with")
        if self.revision and self.subject is None:
            raise UsageError("a revision counts the editions of a subject, and there is none")
        subject_hash(self.subject)
        keys = [one if isinstance(one, TrustedKey) else TrustedKey(one) for one in self.keys]
        if self.now is None and any((one.since, one.until) != (None, None) for one in keys):
            raise UsageError("a key has a bound in time, and nobody says what time it is")
        by_name = {one.key.fingerprint: one for one in keys}
        if len(by_name) != len(set(keys)):
            raise UsageError("a key is given twice, with other bounds")
        object.__setattr__(self, "_by_name", by_name)

    def knows(self, fingerprint: bytes) -> bool:
        """Whether this key is among the trusted ones, revoked or not."""
        return fingerprint in self._by_name

    def named(self, prefix: bytes) -> Iterator[bytes]:
        """The fingerprints of trusted keys that begin like this."""
        return (name for name in self._by_name if name.startswith(prefix))

    def check_head(self, head: bytes) -> None:
        """Raise SealError where another container is pinned than the one with this HEAD (128 bytes)."""
        found = sha256(head)
        if self.head is not None and found != self.head:
            raise SealError(
                "this is not the container that is pinned", expected=self.head.hex(), found=found.hex()
            )

    def check_signature(self, head: bytes, signature: Signature) -> Accepted:
        """Raise SealError unless the signature is by a trusted key and holds over HEAD (128 bytes)."""
        known = self._by_name.get(signature.key)
        if known is None:
            raise SealError(_NOT_TRUSTED, found=signature.key.hex())
        known.key.verify(signature.value, signature.message(head))
        if signature.certificates:
            from harmony4.crypto.signing import check_certificates  # takes its time, and few need it

            check_certificates(signature.certificates, signature.key)
        subject = None if signature.subject == NO_SUBJECT else signature.subject
        return Accepted(known.key, signature.kind, subject, signature.revision)

    def check_wanted(self, accepted: Accepted) -> None:
        """Raise SealError where the key may not be believed now, or another subject or edition is wanted."""
        name = accepted.key.fingerprint
        known = self._by_name[name]
        if name in self.revoked:
            raise SealError("the signature is by a key that was revoked", found=name.hex())
        if self.now is not None:
            early = known.since is not None and self.now < known.since
            if early or (known.until is not None and self.now > known.until):
                raise SealError("the signature is by a key that is not valid now", found=name.hex())
        if accepted.subject is not None:
            seen = self.latest.get((name, accepted.subject), 0)
            if accepted.revision < seen:
                raise SealError(_OLD, expected=f">= {seen}, which was seen", found=accepted.revision)
        if self.subject is None:
            return
        if accepted.subject != subject_hash(self.subject):
            raise SealError("the signature is for another subject")
        if accepted.revision < self.revision:
            wanted = f">= {self.revision}"
            raise SealError(_OLD, expected=wanted, found=accepted.revision)

    def check(self, head: bytes, signatures: Iterable[Signature]) -> Accepted | None:
        """Raise SealError unless all that is wanted holds of the container with this HEAD (128 bytes).

        Returns what is accepted of the highest revision, the first where several have it; None where no keys
        are given.
        """
        self.check_head(head)
        if not self.keys:
            return None
        reason = SealError("a required signature is missing")
        # The latest edition that a container was signed as is what is to be remembered of it.
        for number, signature in enumerate(sorted(signatures, key=lambda one: -one.revision)):
            try:
                accepted = self.check_signature(head, signature)
                self.check_wanted(accepted)
                return accepted
            except SealError as error:
                # What is wrong with a signature of a trusted key says more than that others signed, too.
                if not number or error.message != _NOT_TRUSTED:
                    reason = error
        raise reason


class SignatureAudit:
    """Checks the signatures of a file as they come, each that is by a trusted key, and keeps count."""

    MOST = 100
    """Final signatures that are remembered."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._last: bytes | None = None
        self._reason = SealError("a required signature is missing")
        self.checked = 0
        """Signatures that hold."""
        self.covered = 0
        """Blocks that those cover that are wanted, from the first on."""
        self.accepted: list[Accepted] = []
        """Final signatures that hold and are wanted."""

    def wants(self, signature: Signature) -> bool:
        """Whether this one is to be taken. Nothing is computed for keys that are not trusted."""
        self._last = None
        return self._trust.knows(signature.key)

    def take(self, signature: Signature, blocks: int, head: bytes) -> None:
        """Check one that `wants` wants, over `blocks` blocks. Raises SealError where it does not hold."""
        self._last = None
        accepted = self._trust.check_signature(head, signature)
        self.checked += 1
        try:
            self._trust.check_wanted(accepted)
        except SealError as error:
            self._reason = error
            return
        self.covered = max(self.covered, blocks)
        if signature.kind == FINAL and len(self.accepted) < self.MOST:
            self.accepted.append(accepted)
            self._last = signature.pack()

    def stamp(self, data: bytes) -> None:
        """Check the time stamp behind the signature that was taken last, if that was accepted.

        Raises FormatError, and SealError where it is over something else or its authority is not trusted.
        """
        if self._last is None or not self._trust.authorities:
            return
        from harmony4.crypto.timestamp import TimeStamp, imprint_of  # takes its time, and few need it

        stamp = TimeStamp.parse(data)
        if stamp.imprint != imprint_of(self._last):
            raise SealError("the time stamp is not over the signature before it")
        stamp.check(self._trust.authorities)
        self.accepted[-1] = replace(self.accepted[-1], time=stamp.time)

    def require(self, head: bytes | None) -> None:
        """Raise SealError unless all that is wanted of a whole file has shown itself (H4MK 19, V22).

        `head` is what was computed of it; None where that was not possible.
        """
        pinned = self._trust.head
        if pinned is not None and head != pinned:
            raise SealError("this is not the container that is pinned", expected=pinned.hex())
        if self._trust.keys and not self.accepted:
            raise self._reason
