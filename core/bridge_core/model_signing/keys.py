"""Keys that sign models, and those that prove it: ECDSA over P-256, P-384 or P-521, as in OpenSSF's tool."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from bridge_core.model_signing.bundle import Bundle, signed_text
from bridge_core.model_signing.fault import BadSignature

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_CURVES: Final = "an elliptic curve's, P-256, P-384 or P-521"
_KEPT: Final = 256


@lru_cache(maxsize=_KEPT)
def public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A public key.

    Raises:
        BadSignature: it is none, or of a kind that does not sign models.
    """
    try:
        found = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise BadSignature("it is no public key in PEM") from fault
    return _usable(found)


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key.

    Raises:
        BadSignature: it is none, of a kind that does not sign models, or locked by a password.
    """
    try:
        found = load_pem_private_key(pem, None)
    except TypeError as fault:
        raise BadSignature(
            "the key is locked by a password",
            hint="`model_signing sign key --password` takes it; attach what it made with --signature",
        ) from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise BadSignature("it is no private key in PEM") from fault
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name not in _HASHES:
        raise BadSignature(f"the key is not {_CURVES}")
    return found


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """How a bundle says which key signed it."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def signed_with(key: ec.EllipticCurvePrivateKey, payload: bytes, chain: tuple[bytes, ...] = ()) -> Bundle:
    """A payload, signed; with the chain of certificates of that key, where it has one."""
    signature = key.sign(signed_text(payload), ec.ECDSA(_HASHES[key.curve.name]))
    return Bundle(payload, signature, "" if chain else hint_of(key.public_key()), chain)


def is_signed_by(key: ec.EllipticCurvePublicKey, bundle: Bundle) -> bool:
    """Whether that key signed what the bundle says."""
    try:
        key.verify(bundle.signature, signed_text(bundle.payload), ec.ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def _usable(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise BadSignature(f"the key is not {_CURVES}")
    return key


def key_of_certificate(key: object) -> ec.EllipticCurvePublicKey:
    """A certificate's key, which may be of any kind. Raises BadSignature: it signs no models."""
    return _usable(key)
