"""Certificates of those who sign models: who they say that it is, and whether a CA says so, too.

Rules:
1. The chain has to lead to one of the CAs, by certificates that may sign others, all of which were good when
   the signer's own began. As in OpenSSF's tool that moment counts and not the present: nothing proves when a
   model was signed, and one that is in use must not go dark because a certificate ended meanwhile. Who is
   not to be believed any more is taken out of the policy.
2. The signer's own has to be for signing: a digital signature, or code.
3. Who it is: its alternative names (mail addresses, URIs, DNS names), or its common name where it has none.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from bridge_core.model_signing.bundle import MOST_CHAIN
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.keys import key_of_certificate

_KEPT: Final = 64
_MOST_AUTHORITIES: Final = 16
_UNREADABLE: Final = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)


@lru_cache(maxsize=_KEPT)
def authorities(pem: str) -> tuple[x509.Certificate, ...]:
    """The CA certificates in a PEM text.

    Raises:
        BadSignature: there is none in it, more than are taken, or what is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of whoever made it
            found = tuple(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError as fault:
        raise BadSignature("it is no certificate in PEM") from fault
    if len(found) > _MOST_AUTHORITIES:
        raise BadSignature(f"it has {len(found)} certificates, {_MOST_AUTHORITIES} are taken")
    return found


def checked_signer(
    chain: tuple[bytes, ...], roots: tuple[x509.Certificate, ...]
) -> tuple[ec.EllipticCurvePublicKey, tuple[str, ...]]:
    """The key of a signer's certificate, and who it says that they are.

    Raises:
        BadSignature: no CA of these says so, or it is not for signing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate, *between = (x509.load_der_x509_certificate(one) for one in chain)
            names = _names(certificate)
            if not _may_sign(certificate):
                raise BadSignature("its certificate is not for signing")
            policy = PolicyBuilder().store(Store(list(roots))).max_chain_depth(MOST_CHAIN)
            verifier = (
                policy.time(certificate.not_valid_before_utc)
                .extension_policies(
                    ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
                )
                .build_client_verifier()
            )
            verifier.verify(certificate, between)
            return key_of_certificate(certificate.public_key()), names
    except VerificationError as fault:
        raise BadSignature("its certificate is of none of these CAs") from fault
    except (*_UNREADABLE, ValueError, UnsupportedAlgorithm, TypeError) as fault:
        raise BadSignature("its certificate cannot be read") from fault


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        if certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return True
    except x509.ExtensionNotFound:
        pass
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CODE_SIGNING in usage


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        said = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(str(one.value) for one in said)
    names = [found.get_values_for_type(kind) for kind in _KINDS]
    return tuple(str(one) for of_kind in names for one in of_kind)


_KINDS: Final = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
