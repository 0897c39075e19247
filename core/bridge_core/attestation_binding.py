"""What ties a quote to a key, and a released key to a quote. The first half is pure.

Whoever releases a key asks with a nonce. The node makes a key pair inside of what is to be trusted, has its
hardware make a quote whose report data is `report_data` of both, and is sent the key encrypted to that pair
(HPKE, RFC 9180: DHKEM(P-256), HKDF-SHA256, AES-256-GCM): nobody else can open it, whoever carries it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from bridge_core.errors import BridgeError
from bridge_core.identity.spiffe import IdentityFault

_LABEL: Final = b"bridge attestation v1\0"
_RELEASED: Final = b"bridge released key v1\0"
NONCE_BYTES: Final = 32
MAX_SECRET_BYTES: Final = 4096


class NotOpened(BridgeError):
    """A released key that is not for this key pair, or not of this question."""


def report_data(public_key: bytes, nonce: bytes) -> bytes:
    """What a quote's report data has to be.

    Args:
        public_key: Of whoever is to be trusted: SubjectPublicKeyInfo, DER.
        nonce: 32 random bytes of whoever asks, used once.

    Raises:
        ValueError: the nonce is not of its length.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    return hashlib.sha512(_LABEL + nonce + public_key).digest()


def sealed_to(public_key: bytes, nonce: bytes, secret: bytes) -> bytes:
    """A secret that only the holder of that key pair opens, as the answer to this question.

    Args:
        public_key: ECDSA P-256, SubjectPublicKeyInfo, DER.
        nonce: What was asked with.
        secret: At most MAX_SECRET_BYTES.

    Raises:
        IdentityFault: it is no such key.
        ValueError: the secret is longer.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    if not secret or len(secret) > MAX_SECRET_BYTES:
        raise ValueError(f"what is released has 1 to {MAX_SECRET_BYTES} bytes")
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise IdentityFault("not a public key") from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityFault("the public key is not of P-256")
    return Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(secret, key, _RELEASED + nonce)


def opened(sealed: bytes, key_pem: bytes, nonce: bytes) -> bytes:
    """What was released to a key pair.

    Raises:
        IdentityFault: `key_pem` holds no private key of P-256.
        NotOpened: it is not for that pair, not the answer to this question, or was changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    from bridge_core.identity.certificates import key_from_pem

    key = key_from_pem(key_pem)
    try:
        return Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(sealed, key, _RELEASED + nonce)
    except (InvalidTag, ValueError) as fault:
        raise NotOpened(
            "what was released does not open: it is for another key, another nonce, or was changed"
        ) from fault
