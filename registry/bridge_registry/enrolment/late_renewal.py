"""What a node sends whose certificate has ended, and whether it proves that the node has its key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from bridge_core.identity import IdentityFault
from bridge_core.identity import certificates as x509
from bridge_core.identity.spiffe import SpiffeId
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal, as_refusal

_MAX_PEM_BYTES: Final = 16 * 1024


class LateRenewal(msgspec.Struct, frozen=True):
    """What a node asks for whose certificate has ended; see RenewExpiredRequest."""

    csr_pem: bytes
    certificate_pem: bytes
    nonce: bytes
    signature: bytes
    peer_address: str = ""
    version: str = ""


class Proven(msgspec.Struct, frozen=True):
    """Whose certificate has ended and when, and which key it was of (`fingerprint`)."""

    identity: SpiffeId
    serial: str
    ended: float
    key: str


def proven(request: LateRenewal, issuers: Iterable[bytes], trust_domain: str) -> Proven:
    """What the certificate says, when who asks has its key and one of `issuers` signed it for a node.

    Raises:
        EnrolmentRefused: it proves nothing.
    """
    pem = request.certificate_pem
    if len(pem) > _MAX_PEM_BYTES:
        raise EnrolmentRefused(JoinRefusal.INVALID, "the certificate is too long")
    try:
        certificate, info = x509.from_pem(pem), x509.describe(pem)
        data = x509.possession(request.nonce, request.csr_pem, pem)
    except IdentityFault as fault:
        raise as_refusal(fault) from fault
    identity = info.identity
    if (
        identity is None
        or (identity.trust_domain, identity.kind) != (trust_domain, "node")
        or not any(x509.issued_by(pem, x509.from_pem(one)) for one in issuers)
        or not x509.is_signed_by(certificate, request.signature, data)
    ):
        raise EnrolmentRefused(
            JoinRefusal.UNAUTHENTICATED, "this is no proof of a node's key", hint="join with a token"
        )
    return Proven(identity, info.serial, info.not_after, fingerprint(certificate.public_key()))


def fingerprint(key: CertificatePublicKeyTypes) -> str:
    """How a node's record knows its key: SHA-256 of the DER, hexadecimal."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
