"""The CA's key, and other secrets of the mesh, at rest.

They are sealed with AES-256-GCM under a key-encryption key (KEK) that is kept in a file of its own. A sealed
key may lie in etcd and in backups; only who also has the KEK can use it. The CA's pin is authenticated along
with its key, and a secret's name with the secret, so that none can be passed off as another.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge_core.errors import BridgeError, Fatal
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
            hint="pki/kek, pki/authorities.json and pki/root-*.key.enc have to come from the same mesh",
        ) from fault
    return x509.Authority(certificate, x509.key_from_pem(pem))


def seal_secret(name: str, secret: bytes, kek: bytes, nonce: bytes) -> bytes:
    """A secret of the mesh, sealed; 12 fresh random bytes as `nonce`, never used twice."""
    return MAGIC + nonce + AESGCM(kek).encrypt(nonce, secret, _about(name))


def unseal_secret(name: str, sealed: bytes, kek: bytes) -> bytes:
    """The secret of this name.

    Raises:
        BridgeError: the KEK is another one, or it is none, or another's.
    """
    head = len(MAGIC) + _NONCE_BYTES
    try:
        return AESGCM(kek).decrypt(sealed[len(MAGIC) : head], sealed[head:], _about(name))
    except (InvalidTag, ValueError) as fault:  # also where it is too short, or no sealed secret at all
        raise BridgeError(
            f"the mesh's secret {name} does not open with this registry's key-encryption key",
            hint="pki/kek has to be that of the mesh's other registries",
        ) from fault


def _about(name: str) -> bytes:
    return MAGIC + b"secret/" + name.encode()
