"""The mesh's CAs as this registry has them: open, on its disk, and behind the certificates that it shows.

What the store says of them is taken up at once: first to disk, so that a registry that restarts without a
store signs by the same CA; then its own certificates are made anew where their CA is another now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Final

import structlog

from bridge_core.errors import BridgeError, Fatal
from bridge_core.identity import certificates as x509
from bridge_core.identity.expiry_rules import Expiry, expiry_concern
from bridge_core.tls import TlsIdentity
from bridge_registry.enrolment import pki_files
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.enrolment.pki_files import Ensured, Pki

log = structlog.get_logger()

_LOOK_S: Final = 10.0
_RENEW_EVERY_S: Final = 3_600.0


class AuthorityKeeper:
    """See the module.

    Args:
        pki: This registry's files.
        ensured: What they held at its start.
        hosts: Names and addresses that it is dialled by.
        identity: Its certificate, reloaded when it or what it trusts changes.

    Attributes:
        authority: The CA that signs for members, open.
        sealer: What the CAs' keys are sealed with.
        authorities: All of them.
        fault: Why what the store says could not be taken up; empty: it was.
        lives: When each of this registry's certificates ends.
    """

    def __init__(self, pki: Pki, ensured: Ensured, hosts: Iterable[str], identity: TlsIdentity) -> None:
        self.pki = pki
        self.authority: x509.Authority = ensured.authority
        self.sealer: Final = ensured.sealer
        self.authorities: Authorities = ensured.authorities
        self.fault = ""
        self.lives = pki_files.lives(pki, ensured.authorities)
        self._told = frozenset[Expiry]()
        self._hosts = list(hosts)
        self._identity = identity
        self._wanted = ensured.authorities
        self._renewed = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def next_change(self) -> asyncio.Event:
        """Set when the CAs are others. Taken before these are read, it cannot miss a change."""
        return self._changed

    @property
    def pin(self) -> str:
        """The root that new tokens name."""
        return self.authorities.issuing.root_pin

    @property
    def pins(self) -> Collection[str]:
        """The roots that tokens may name."""
        return self.authorities.roots.keys()

    @property
    def roots_pem(self) -> bytes:
        """The roots' certificates."""
        return "".join(self.authorities.roots.values()).encode()

    @property
    def issuers(self) -> list[bytes]:
        """The certificates of those who sign for members."""
        return [one.certificate.encode() for one in self.authorities.issuers]

    @property
    def issuers_pem(self) -> bytes:
        """The same in one."""
        return b"".join(self.issuers)

    def take(self, wanted: Authorities) -> None:
        """Takes up what the store says; what fails is tried again by `run`."""
        self._wanted = wanted
        if wanted == self.authorities:
            return
        try:
            self._take(wanted)
        except (BridgeError, OSError) as fault:
            if str(fault) != self.fault:
                log.error("authorities_not_taken_up", reason=str(fault))
            self.fault = str(fault)
            return
        self.fault = ""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        log.info(
            "authorities_taken_up",
            **{one.state: one.pin[:16] for one in wanted.issuers},
            roots=len(self.pins),
        )

    def concerns(self) -> list[str]:
        """What an admin should look after."""
        told = [f"the mesh's CAs are not taken up as the store has them: {self.fault}"] if self.fault else []
        now = time.time()
        return told + [words for one in self.lives if (words := expiry_concern(one, now))]

    async def run(self) -> None:
        """Keeps this registry's, etcd's and the first admin's certificates fresh, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.take(self._wanted)
            self._warn()
            if time.monotonic() - self._renewed < _RENEW_EVERY_S:
                continue
            self._renewed = time.monotonic()
            try:
                self._ensure()
            except BridgeError as fault:
                log.error("own_certificates_not_renewed", reason=str(fault))

    def _take(self, wanted: Authorities) -> None:
        if not wanted.roots.keys() & self.authorities.roots.keys():
            raise Fatal("the store's CAs are of another mesh", hint="point --etcd elsewhere")
        authority = pki_files.open_issuer(wanted.issuing, self.sealer)  # before anything is overwritten
        pki_files.keep_authorities(self.pki, wanted)
        self.authority, self.authorities = authority, wanted
        self._ensure()

    def _warn(self) -> None:
        """Logs what ends soon, once for each certificate."""
        now = time.time()
        ending = {one: words for one in self.lives if (words := expiry_concern(one, now))}
        for one in ending.keys() - self._told:
            log.warning("certificate_ends", kind=one.kind, name=one.name, expires_unix=one.ends)
        self._told = frozenset(ending)

    def _ensure(self) -> None:
        # The keyring is opened at the start alone: its key may take a command, and be another by now.
        made = pki_files.ensure(self.pki, None, self._hosts, now=time.time(), sealer=self.sealer)
        self._identity.reload()
        self.lives = pki_files.lives(self.pki, self.authorities)
        if made.written:
            log.info("own_certificates_renewed", which=made.written)
