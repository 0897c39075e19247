"""Certificates that another node says it was shown: looked at once, not with each request.

Rules:
1. A certificate counts that a CA signed which the mesh trusts now, between its begin and its end, and that
   is not revoked.
2. It proves that somebody with its key has called at the node that shows it: no snapshot has clients' and
   admins' certificates, and TLS 1.3 shows them to nobody on the way.
"""

from __future__ import annotations

import ssl
from typing import Final

from bridge_agent.authentication.principals import UnknownPrincipal
from bridge_core.identity.certificate_info import CertificateInfo
from bridge_core.identity.rotation_rules import CLOCK_SKEW_S
from bridge_core.identity.spiffe import IdentityFault
from bridge_core.security_settings import Trust
from bridge_core.snapshot import Snapshot

MAX_BYTES: Final = 8 * 1024
_MOST: Final = 4096  # certificates that are remembered


class ShownCertificates:
    """Whom certificates name."""

    def __init__(self) -> None:
        self._trust = Trust()
        self._known: dict[bytes, CertificateInfo] = {}

    def check(self, text: str, der: bytes, snapshot: Snapshot, now: float, grace_s: float) -> None:
        """Returns when a certificate names `text`, and counts at `now` (Unix seconds).

        Args:
            text: An identity of the mesh.
            der: The certificate.
            snapshot: The mesh: whom it trusts, and what it has revoked.
            now: Unix seconds.
            grace_s: For so long after its end it still counts.

        Raises:
            UnknownPrincipal: it does not.
        """
        info = self._look(der, snapshot)
        if str(info.identity) != text:
            raise UnknownPrincipal(f"{text} is not proven: the certificate is another's")
        if not info.not_before - CLOCK_SKEW_S <= now < info.not_after + grace_s:
            raise UnknownPrincipal(f"{text} is not proven: the certificate is not valid now")
        if info.serial in snapshot.mesh.revoked_serials:
            raise UnknownPrincipal(f"{text} is not proven: the certificate was revoked")

    def _look(self, der: bytes, snapshot: Snapshot) -> CertificateInfo:
        trust = snapshot.mesh.trust
        if trust is not self._trust:
            if trust != self._trust:
                self._known.clear()
            self._trust = trust
        known = self._known.get(der)
        if known is None:
            known = _read(der, trust)
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[der] = known
        return known


def _read(der: bytes, trust: Trust) -> CertificateInfo:
    # Large: an agent that nobody calls with a certificate by way of others never loads it.
    from bridge_core.identity.certificates import describe, from_pem, issued_by

    if len(der) > MAX_BYTES:
        raise UnknownPrincipal(f"a certificate that proves something has {MAX_BYTES} bytes at most")
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    try:
        info = describe(pem)
        issuers = [from_pem(one.encode()) for one in trust.issuers]
    except IdentityFault as fault:
        raise UnknownPrincipal(f"the certificate proves nothing: {fault.message}") from fault
    if not any(issued_by(pem, one) for one in issuers):
        raise UnknownPrincipal("the certificate proves nothing: no CA that this mesh trusts has signed it")
    return info
