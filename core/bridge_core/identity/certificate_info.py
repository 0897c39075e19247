"""What a certificate says, in the mesh's words; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec

from bridge_core.identity.spiffe import IdentityFault, SpiffeId


class CertifiedName(str):
    """The text of an identity, with the certificate that it was read from.

    Attributes:
        certificate: The one that its holder has shown and proven to hold, DER.
    """

    __slots__ = ("certificate",)

    certificate: bytes

    def __new__(cls, text: str, certificate: bytes) -> Self:
        """`text` of the identity that `certificate` names."""
        made = super().__new__(cls, text)
        made.certificate = certificate
        return made


class CertificateInfo(msgspec.Struct, frozen=True):
    """What a certificate says. Times are Unix seconds, the serial is lower-case hexadecimal."""

    identity: SpiffeId | None
    serial: str
    not_before: float
    not_after: float
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def single_identity(uris: Sequence[str]) -> SpiffeId | None:
    """Whom a certificate with these URIs names. SPIFFE: exactly one names the holder, more name nobody."""
    if len(uris) != 1:
        return None
    try:
        return SpiffeId.parse(uris[0])
    except IdentityFault:
        return None
