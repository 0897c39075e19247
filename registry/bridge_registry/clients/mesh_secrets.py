"""The mesh's secrets: made once, sealed in the store, open in the memory of registries and agents alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import structlog

from bridge_core import keyspace
from bridge_core.errors import BridgeError
from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, Pepper
from bridge_core.sealing import Sealer
from bridge_core.store.api import Put, Store, Unchanged
from bridge_registry.enrolment.key_sealing import seal_secret, unseal_secret

log = structlog.get_logger()


class MeshSecrets:
    """See the module.

    Args:
        store: etcd.
        sealer: What they are sealed with.
        fence: Gives the condition under which this registry may write; raises when it does not lead.

    Attributes:
        opened: By name; replaced as a whole when something changed.
        faults: What does not open, by name, and why.
    """

    def __init__(self, store: Store, sealer: Sealer, fence: Callable[[], Unchanged]) -> None:
        self._store = store
        self._sealer = sealer
        self._fence = fence
        self._sealed: Mapping[str, bytes] = {}
        self.opened: Mapping[str, bytes] = {}
        self.faults: Mapping[str, str] = {}

    async def found(self) -> None:
        """Makes what the mesh has not got yet.

        Raises:
            Unavailable: the store does not answer, or this registry does not lead.
        """
        key = keyspace.SECRETS + PEPPER
        if await self._store.get(key) is not None:
            return
        sealed = seal_secret(PEPPER, os.urandom(PEPPER_BYTES), self._sealer)
        if (await self._store.commit([Put(key, sealed)], if_=[Unchanged(key, 0), self._fence()])).committed:
            log.info("pepper_made")

    def take(self, sealed: Mapping[str, bytes]) -> bool:
        """Opens what the store holds now; whether anything changed."""
        if sealed == self._sealed:
            return False
        opened, faults = dict[str, bytes](), dict[str, str]()
        for name, raw in sealed.items():
            try:
                opened[name] = unseal_secret(name, raw, self._sealer)
            except BridgeError as fault:
                faults[name] = str(fault)
                log.error("secret_does_not_open", secret=name, reason=fault.message)
        self._sealed, self.faults = dict(sealed), faults
        changed = opened != self.opened
        if changed:
            self.opened = opened
        return changed

    @property
    def pepper(self) -> Pepper:
        """What API keys are hashed with.

        Raises:
            BridgeError: it was not made yet, or does not open.
        """
        secret = self.opened.get(PEPPER, b"")
        if len(secret) != PEPPER_BYTES:
            raise BridgeError(
                self.faults.get(PEPPER, "the mesh has no pepper for API keys yet"),
                hint="try again in a moment",
            )
        return Pepper(secret)
