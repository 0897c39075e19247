"""The CA's key, and other secrets of the mesh, at rest: sealed with the registry's keyring.

What is sealed may lie in etcd and in backups; only who also has the keyring and what opens it can use it.
The CA's pin and a secret's name are a part of the purpose, so that none can be passed off as another.
"""

from __future__ import annotations

from typing import Final

from bridge_core.errors import BridgeError, Fatal
from bridge_core.identity import certificates as x509
from bridge_core.sealing import SealBroken, Sealer

# What the first version wrote, before there were keyrings.
_EARLIER: Final = b"BRK1"


def seal(authority: x509.Authority, sealer: Sealer) -> bytes:
    """The sealed key of `authority`."""
    return sealer.seal(x509.key_to_pem(authority.key), _purpose(authority.pin))


def unseal(ca_pem: bytes, sealed: bytes, sealer: Sealer) -> x509.Authority:
    """The CA whose certificate is `ca_pem`.

    Raises:
        Fatal: the keyring is another one, or certificate and sealed key do not belong together.
        IdentityFault: `ca_pem` is no certificate.
    """
    certificate = x509.from_pem(ca_pem)
    check_version(sealed)
    try:
        pem = sealer.open(sealed, _purpose(x509.pin(certificate)))
    except SealBroken as fault:
        raise Fatal(
            f"the CA's key does not open: {fault.message}",
            hint="pki/keyring, pki/authorities.json and pki/root-*.key.enc have to come from the same mesh; "
            "restore pki/ from a backup",
        ) from fault
    return x509.Authority(certificate, x509.key_from_pem(pem))


def check_version(sealed: bytes) -> None:
    """Refuses what an earlier version sealed, in words of its own.

    Raises:
        Fatal: it did.
    """
    if sealed.startswith(_EARLIER):
        raise earlier_version()


def earlier_version() -> Fatal:
    """What is said of the state of an earlier version."""
    return Fatal(
        "the CA's key was sealed by an earlier version, in a way not read any more",
        hint="move this state folder away and start a new mesh; "
        "its nodes join again (`bridgectl up --state-dir` takes another folder)",
    )


def seal_secret(name: str, secret: bytes, sealer: Sealer) -> bytes:
    """A secret of the mesh, sealed."""
    return sealer.seal(secret, f"secret {name}")


def unseal_secret(name: str, sealed: bytes, sealer: Sealer) -> bytes:
    """The secret of this name.

    Raises:
        BridgeError: the keyring is another one, or it is none, or another's.
    """
    try:
        return sealer.open(sealed, f"secret {name}")
    except SealBroken as fault:
        raise BridgeError(
            f"the mesh's secret {name} does not open with this registry's keyring: {fault.message}",
            hint="pki/keyring has to be that of the mesh's other registries",
        ) from fault


def _purpose(pin: str) -> str:
    return f"ca-key {pin}"
