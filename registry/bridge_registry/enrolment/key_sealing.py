"""The CA's key at rest: AES-256-GCM under a key-encryption key (KEK) kept in a file of its own.

The sealed key may lie in etcd and in backups; only who also has the KEK can use it. The CA's pin is
authenticated along with it, so that a sealed key cannot be passed off as another CA's.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge_core.errors import Fatal
from bridge_core.identity import certificates as x509

MAGIC: Final = b"BRK1"
KEK_BYTES: Final = 32
_NONCE_BYTES: Final = 12


def seal(authority: x509.Authority, kek: bytes, nonce: bytes) -> bytes:
    """The sealed key of `authority`; 12 fresh random bytes as `nonce`, never used twice."""
    box = AESGCM(kek).encrypt(nonce, x509.key_to_pem(authority.key), MAGIC + authority.pin.encode())
    return MAGIC + nonce + box


def unseal(ca_pem: bytes, sealed: bytes, kek: bytes) -> x509.Authority:
    """The CA whose certificate is `ca_pem`.

    Raises:
        Fatal: the KEK is another one, or certificate and sealed key do not belong together.
    """
    certificate = x509.from_pem(ca_pem)
    head = len(MAGIC) + _NONCE_BYTES
    if len(kek) != KEK_BYTES or not sealed.startswith(MAGIC) or len(sealed) <= head:
        raise Fatal(
            "the CA's sealed key or its key-encryption key is damaged", hint="restore pki/ from a backup"
        )
    associated = MAGIC + x509.pin(certificate).encode()
    try:
        pem = AESGCM(kek).decrypt(sealed[len(MAGIC) : head], sealed[head:], associated)
    except InvalidTag as fault:
        raise Fatal(
            "the CA's key does not open with this key-encryption key",
            hint="pki/kek, pki/ca.pem and pki/ca.key.enc have to come from the same registry",
        ) from fault
    return x509.Authority(certificate, x509.key_from_pem(pem))
