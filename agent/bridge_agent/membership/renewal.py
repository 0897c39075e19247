"""Renews the node's certificate in good time and hands it to whoever uses it.

When no registry answers it keeps trying; `status` says until when the present certificate holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from bridge_agent.config import StateDir
from bridge_agent.membership.identity_files import write_identity
from bridge_agent.membership.link_status import LinkStatus
from bridge_agent.membership.new_key import new_key
from bridge_agent.membership.registry_api import RegistryApi
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError
from bridge_core.identity import CertificateState, SpiffeId, certificate_state
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()

# The wall clock is looked at this often: a machine that slept, or whose clock was set, is noticed.
_LOOK_S = 30.0


class Renewal:
    """Keeps one node's certificate fresh.

    Args:
        identity: The files, reloaded after each renewal.
        node: Whose certificate it is.
        state: Where its files lie.
        registries: Asked in turn.
        on_renewed: Called after the new certificate is in the files and in `identity`'s contexts.
        now: The wall clock in seconds.
        rng: For the jitter.
        at_once: Renew now, whatever the certificate's age: the registry has to learn a new address.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        node: SpiffeId,
        state: StateDir,
        registries: Sequence[RegistryApi],
        *,
        on_renewed: Callable[[], None],
        now: Callable[[], float],
        rng: random.Random,
        at_once: bool = False,
    ) -> None:
        self._at_once = at_once
        self._identity = identity
        self._node = node
        self._state = state
        self._registries = tuple(registries)
        self._on_renewed = on_renewed
        self._now = now
        self._rng = rng
        self._backoff = Backoff(rng, first_s=1.0, most_s=60.0)
        self.status = LinkStatus("certificate", now)
        self.status.works()

    async def run(self) -> None:
        """Looks at the certificate and renews it when due, until cancelled."""
        jitter = self._rng.random()
        while True:
            info = self._identity.info
            verdict = certificate_state(info.not_before, info.not_after, self._now(), jitter)
            if verdict is CertificateState.FRESH and not self._at_once:
                await asyncio.sleep(_LOOK_S)
                continue
            if verdict is CertificateState.NOT_YET_VALID:
                if self.status.failed("not yet valid: this machine's clock is behind the registry's"):
                    log.warning("certificate_not_yet_valid", not_before=info.not_before)
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                await self._renew()
            except (BridgeError, OSError) as fault:
                expired = verdict is CertificateState.EXPIRED
                if self.status.failed(
                    f"expired, and not renewed: {fault}" if expired else f"not renewed: {fault}"
                ):
                    log.warning(
                        "renewal_failed", expires_unix=info.not_after, expired=expired, reason=str(fault)
                    )
                await asyncio.sleep(self._backoff.next_s())
                continue
            self._at_once = False
            self._backoff.reset()
            self.status.works()
            jitter = self._rng.random()

    async def _renew(self) -> None:
        made = await new_key(self._node, self._identity.info)
        last: BridgeError | None = None
        for registry in self._registries:
            try:
                fresh = await registry.renew(made.csr_pem)
            except BridgeError as fault:
                last = fault
                continue
            write_identity(
                self._state.identity,
                key=made.key_pem,
                certificate_chain=fresh.certificate_chain,
                trust_bundle=fresh.trust_bundle,
            )
            self._identity.reload()
            log.info("certificate_renewed", expires_unix=self._identity.info.not_after)
            self._on_renewed()
            return
        raise last or BridgeError("no registry is configured")
