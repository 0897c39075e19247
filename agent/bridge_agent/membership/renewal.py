"""Renews the node's certificate in good time and hands it to whoever uses it.

When no registry answers it keeps trying, also past the certificate's end, then with the old key's
signature, which the mesh may allow for a while: `status` says until when it holds, or what brings the node
back. Where somebody else put a new identity into the folder, which
`join --replace` does while the agent runs, that one is taken.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from bridge_agent.config import StateDir
from bridge_agent.membership.advertise import SubjectNames
from bridge_agent.membership.identity_files import write_identity
from bridge_agent.membership.link_status import LinkStatus
from bridge_agent.membership.mesh_trust import issuer_of
from bridge_agent.membership.new_key import NewKey, OldKey, new_key
from bridge_agent.membership.registry_api import IssuedIdentity, NotAMember, RegistryApi
from bridge_agent.membership.standing_rules import way_back
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError
from bridge_core.identity import CertificateState, SpiffeId, certificate_state
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()

# The wall clock is looked at this often: a machine that slept, or whose clock was set, is noticed.
_LOOK_S: Final = 30.0
_GLANCE_S: Final = 1.0  # and whose files these are, this often
_SPREAD_EACH_S: Final = 0.2  # when another CA signs, a mesh renews over so much for each node
_SPREAD_S: Final = 600.0  # and no more than this
_OVERTAKEN_AGAIN_S: Final = 5.0  # where what was given is of the former CA all the same


class Renewal:
    """Keeps one node's certificate fresh.

    Args:
        identity: The files, reloaded after each renewal.
        node: Whose certificate it is.
        names: What it is to name besides; a name that is the node's no more may be another's now.
        state: Where its files lie.
        registries: Asked in turn; more may come and some go.
        on_renewed: Called after the new certificate is in the files and in `identity`'s contexts.
        now: The wall clock in seconds.
        rng: For the jitter.
        may: Whether to renew now what is due: not while another agent is the node.
        refused: Why the mesh takes the certificate no more, though its time is not up; empty: it does.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        node: SpiffeId,
        names: SubjectNames,
        state: StateDir,
        registries: Sequence[RegistryApi],
        *,
        on_renewed: Callable[[], None],
        now: Callable[[], float],
        rng: random.Random,
        may: Callable[[], bool] = lambda: True,
        refused: Callable[[], str] = lambda: "",
    ) -> None:
        self._at_once = False
        self._preferred = ""
        self._overtaken_at = 0.0  # the loop's time
        self._spread_s = 0.0
        self._identity = identity
        self._node = node
        self._names = names
        self._state = state
        self._registries = registries
        self._on_renewed = on_renewed
        self._now = now
        self._rng = rng
        self._may = may
        self._refused = refused
        self._backoff = Backoff(rng, first_s=1.0, most_s=60.0)
        self._taken = self._on_disk()
        self._woken = asyncio.Event()
        self.status = LinkStatus("certificate", now)
        self.status.works()

    def prefer(self, issuer: str, nodes: int) -> None:
        """The CA that signs now: a certificate of another is renewed soon, by one of `nodes` at a time."""
        self._spread_s = min(_SPREAD_S, nodes * _SPREAD_EACH_S)
        if issuer != self._preferred:
            self._preferred = issuer
            self._spread_out(0.0)
            self._woken.set()

    def renew_now(self) -> None:
        """Renews at the next opportunity: the registry has another address of this node than its own."""
        self._at_once = True
        self._woken.set()

    async def run(self) -> None:
        """Looks at the certificate and renews it when due, until cancelled."""
        jitter = self._rng.random()
        while True:
            self._woken.clear()
            if self._on_disk() != self._taken:
                self._take_replaced()
            info = self._identity.info
            verdict = certificate_state(info.not_before, info.not_after, self._now(), jitter)
            if verdict is CertificateState.NOT_YET_VALID:
                if self.status.failed("not yet valid: this machine's clock is behind the registry's"):
                    log.warning("certificate_not_yet_valid", not_before=info.not_before)
                await self._pause(_LOOK_S)
                continue
            if verdict is CertificateState.FRESH and not self._at_once and self._overtaken_in() > 0.0:
                self._look_at_mesh()
                await self._pause(_GLANCE_S)
                continue
            if not self._may():
                await self._pause(_GLANCE_S)
                continue
            try:
                await self._renew(expired=verdict is CertificateState.EXPIRED)
            except (BridgeError, OSError) as fault:
                self._failed(fault, expired=verdict is CertificateState.EXPIRED)
                await self._pause(self._backoff.next_s())
                continue
            self._at_once = False
            self._spread_out(_OVERTAKEN_AGAIN_S)
            self._backoff.reset()
            self.status.works()
            jitter = self._rng.random()

    def _overtaken_in(self) -> float:
        """Seconds until it is renewed for the sake of another CA; infinite: it is of the right one."""
        if self._preferred in {"", issuer_of(self._state.certificate)}:
            return math.inf
        return self._overtaken_at - asyncio.get_running_loop().time()

    def _spread_out(self, least_s: float) -> None:
        # A whole mesh is told at the same moment.
        wait_s = least_s + self._rng.random() * self._spread_s
        self._overtaken_at = asyncio.get_running_loop().time() + wait_s

    def _look_at_mesh(self) -> None:
        """Says of a certificate whose time is not up whether the mesh takes it."""
        if why := self._refused():
            back = way_back(self._node.name, [one.address for one in self._registries])
            if self.status.failed(f"the mesh takes it no more: {why}; {back}"):
                log.warning("certificate_refused", reason=why, remedy=back)
        else:
            self.status.works()

    def _failed(self, fault: Exception, *, expired: bool) -> None:
        words = f"expired, and not renewed: {fault}" if expired else f"not renewed: {fault}"
        lost = expired or isinstance(fault, NotAMember)
        back = way_back(self._node.name, [one.address for one in self._registries]) if lost else ""
        if self.status.failed(f"{words}; {back}" if back else words, because=fault):
            expires = self._identity.info.not_after
            log.warning(
                "renewal_failed", expires_unix=expires, expired=expired, reason=str(fault), remedy=back
            )

    async def _renew(self, *, expired: bool) -> None:
        last: BridgeError | None = None
        made = None if expired else await new_key(self._node, self._names)
        for registry in tuple(self._registries):
            try:
                if made is None:
                    new, fresh = await self._renew_late(registry)
                else:
                    new, fresh = made, await registry.renew(made.csr_pem)
            except BridgeError as fault:
                last = fault
                continue
            write_identity(
                self._state.identity,
                key=new.key_pem,
                certificate_chain=fresh.certificate_chain,
                trust_bundle=fresh.trust_bundle,
                issuers=fresh.issuers,
            )
            self._reload("certificate_renewed")
            return
        raise last or BridgeError("no registry is configured")

    async def _renew_late(self, registry: RegistryApi) -> tuple[NewKey, IssuedIdentity]:
        """With a certificate that has ended, which no listener takes: the old key signs the request."""
        nonce = await registry.nonce()
        certificate = self._state.certificate.read_bytes()
        old = OldKey(certificate, self._state.key.read_bytes(), nonce)
        made = await new_key(self._node, self._names, old)
        return made, await registry.renew_expired(
            made.csr_pem, certificate, nonce=nonce, signature=made.signature
        )

    def _take_replaced(self) -> None:
        try:
            self._reload("certificate_replaced")
        except BridgeError as fault:  # a set is put in place whole; this one is damaged all the same
            self._taken = self._on_disk()
            log.warning("certificate_not_taken", reason=str(fault))

    def _reload(self, event: str) -> None:
        self._taken = self._on_disk()
        self._identity.reload()
        log.info(event, expires_unix=self._identity.info.not_after)
        self._on_renewed()

    async def _pause(self, seconds: float) -> None:
        """Waits, not past `renew_now` nor past the identity's being replaced."""
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0 and self._on_disk() == self._taken:
            try:
                async with asyncio.timeout(min(left, _GLANCE_S)):
                    await self._woken.wait()
            except TimeoutError:
                continue
            return

    def _on_disk(self) -> str:
        """Which set of files is in place."""
        try:
            return os.readlink(self._state.identity)  # noqa: PTH115 - kept relative
        except OSError:
            return ""
