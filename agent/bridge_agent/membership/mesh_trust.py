"""Whom this node trusts: the mesh's CAs, as the snapshot has them, in the node's files and contexts.

A registry tells of a new CA before anybody shows a certificate of it, and of the end of one when nobody
does any more. The node's files change first, so that a restart trusts no less; `pins` then says so.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from bridge_agent.config import StateDir
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.identity.expiry_rules import Expiry
from bridge_core.identity.own_certificate import serial_of
from bridge_core.security_settings import Trust
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()

_END = b"-----END CERTIFICATE-----"


class MeshTrust:
    """See the module.

    Args:
        state: The node's files.
        identity: Its certificate, reloaded when whom it trusts changes.
        on_changed: Called after that.

    Attributes:
        pins: The CAs that members are trusted by, by the SHA-256 of their certificates.
        fault: Why what the mesh says could not be taken up; empty: it was.
        lives: When each of the CAs ends.
    """

    def __init__(self, state: StateDir, identity: TlsIdentity, on_changed: Callable[[], None]) -> None:
        self._state = state
        self._identity = identity
        self._on_changed = on_changed
        self.pins = pins_in(state.issuers)
        self.lives = self._read_lives()
        self.fault = ""

    def take(self, trust: Trust) -> None:
        """Takes up what a registry says now; what fails is tried again with the next snapshot."""
        if not trust.issuers or not trust.roots:
            return
        try:
            changed = self._write(trust)
            if changed:
                self._identity.reload()
        except (BridgeError, OSError, ValueError) as fault:  # ssl.SSLError is an OSError
            if str(fault) != self.fault:
                log.error("mesh_trust_not_taken_up", reason=str(fault))
            self.fault = str(fault)
            return
        self.fault = ""
        if changed:
            self.pins, self.lives = pins_in(self._state.issuers), self._read_lives()
            log.info("mesh_trust_taken_up", issuers=[pin[:16] for pin in self.pins], roots=len(trust.roots))
            self._on_changed()

    def _read_lives(self) -> tuple[Expiry, ...]:
        found = []
        for kind, path in (("root", self._state.ca), ("intermediate", self._state.issuers)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                context.load_verify_locations(path)
            except OSError:
                continue  # `TlsIdentity` says so
            for one in context.get_ca_certs():
                begins, ends = (
                    ssl.cert_time_to_seconds(str(one[name])) for name in ("notBefore", "notAfter")
                )
                found.append(Expiry(kind, serial_of(one)[:8], begins, ends))
        return tuple(found)

    def _write(self, trust: Trust) -> bool:
        """Whether anything differed."""
        changed = False
        for path, certificates in ((self._state.ca, trust.roots), (self._state.issuers, trust.issuers)):
            pem = "".join(certificates).encode()
            if path.exists() and path.read_bytes() == pem:
                continue
            _check(pem)
            write_atomically(path, pem)
            changed = True
        return changed


def pins_in(path: Path) -> tuple[str, ...]:
    """The SHA-256 of each certificate in a PEM file, hexadecimal; nothing of what cannot be read."""
    try:
        parts = path.read_bytes().split(_END)[:-1]
        ders = [ssl.PEM_cert_to_DER_cert((part + _END).decode().strip()) for part in parts]
    except (OSError, ValueError):
        return ()
    return tuple(hashlib.sha256(der).hexdigest() for der in ders)


def issuer_of(certificate: Path) -> str:
    """The CA that signed the certificate in a file, which has its chain after it; empty: it does not say."""
    return next(iter(pins_in(certificate)[1:]), "")


def _check(pem: bytes) -> None:
    """Raises OSError or ValueError where nobody could be trusted by `pem`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem.decode("ascii"))
