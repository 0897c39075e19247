"""Holds leases in the store for nodes that write models into shared storage; `hold_rules` has the rules."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from bridge_core.errors import BridgeError, Unavailable
from bridge_core.store.api import KeyValue, LeaseHandle, Put, Store, StoreRefused, Unchanged
from bridge_registry.leadership import Leadership
from bridge_registry.records import RecordFault, decode, encode
from bridge_registry.shared_storage.hold_rules import (
    MOST_HELD,
    TTL_S,
    PublicationRecord,
    alone_key_of,
    key_of,
    prefix_of,
    refusal,
    valid_ms,
)

log = structlog.get_logger()

_GRANT_S: Final = 5.0


class Held(StoreRefused):
    """Somebody else has the lease; the message names the node."""


class Holding:
    """One lease that is held.

    Args:
        store: Where it is.
        leadership: Only the leader says that it holds.
        lease: The store's lease.
        item: The record as it was written.

    Attributes:
        done: Its holder said so; else the lease runs out by itself.
    """

    def __init__(self, store: Store, leadership: Leadership, lease: LeaseHandle, item: KeyValue) -> None:
        self._store = store
        self._leadership = leadership
        self._lease = lease
        self._item = item
        self.done = False

    @property
    def token(self) -> int:
        """The store's revision that it began with."""
        return self._item.mod_revision

    async def valid_ms(self) -> int:
        """For how long its holder may believe in it from now on.

        Raises:
            Unavailable: it is lost, the store does not answer, or another registry leads.
        """
        self._leadership.fence()
        expires_at = self._lease.expires_at  # as of before the look: the look takes time
        found = await self._store.get(self._item.key)
        if found is None or found.mod_revision != self.token or self._lease.id != self._item.lease:
            raise Unavailable("the lease was lost", hint="publish the model again")
        return valid_ms(expires_at, time.monotonic())


class Publications:
    """Gives out leases.

    Args:
        store: etcd.
        leadership: Only the leader gives them.
        ttl_s: How long one lives that nobody renews.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        *,
        ttl_s: float = TTL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._held = Counter[str]()
        self.ttl_s: Final = ttl_s

    @contextlib.asynccontextmanager
    async def hold(self, node: str, tier: str, model: str, *, alone: bool = False) -> AsyncIterator[Holding]:
        """Holds the lease of a model in canonical form while the context lasts, and after it by rule 4.

        With `alone` nobody else holds one of the tier (rule 5).

        Raises:
            Held: another writer has it.
            StoreRefused: tier or model are none, or the node holds too many.
            Unavailable: this registry does not lead, or the store does not answer.
        """
        key = key_of(tier, model)
        if key is None:
            raise StoreRefused("tier is not 32 hexadecimal digits, or model is no canonical name")
        if self._held[node] >= MOST_HELD:
            raise StoreRefused(f"node {node} publishes {MOST_HELD} models already, and may no more")
        self._held[node] += 1
        try:
            async with self._leased() as lease:
                holding = await self._taken(key, PublicationRecord(node, model, self._clock(), alone), lease)
                log.info("publication_begins", node=node, model=model, tier=tier[:8], token=holding.token)
                yield holding
                if holding.done:
                    await lease.revoke()
                log.info("publication_ends", node=node, model=model, tier=tier[:8], done=holding.done)
        finally:
            self._held[node] -= 1
            if not self._held[node]:
                del self._held[node]

    @contextlib.asynccontextmanager
    async def _leased(self) -> AsyncIterator[LeaseHandle]:
        """A lease of the store, kept alive meanwhile; left to expire afterwards unless it was revoked."""
        self._leadership.fence()
        lease = self._store.lease(self.ttl_s)
        keeping = asyncio.create_task(lease.keep(), name="publication-lease")
        try:
            try:
                async with asyncio.timeout(_GRANT_S):
                    await lease.changed(0)
            except TimeoutError:
                raise Unavailable("the store grants no lease", hint="try again in some seconds") from None
            yield lease
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _taken(self, key: str, record: PublicationRecord, lease: LeaseHandle) -> Holding:
        keys = [key, alone_key_of(key)] if record.alone else [key]
        puts = [Put(one, encode(record), lease.id) for one in keys]
        bars = (key, alone_key_of(key))
        try:
            outcome = await self._store.commit(
                puts, if_=[self._leadership.fence(), *(Unchanged(one, 0) for one in bars)]
            )
            there = (await self._store.list(prefix_of(key))).items
            own = next((one for one in there if one.key == key and one.lease == lease.id), None)
            found = next(
                (one for one in there if one.lease != lease.id and (record.alone or one.key in bars)), None
            )
            if outcome.committed and own is not None and found is None:
                return Holding(self._store, self._leadership, lease, own)
            if found is None:
                raise Unavailable("the lease was not given", hint="try again in some seconds")
            raise self._held_by(found, record.model)
        except BridgeError:
            await lease.revoke()  # nobody was told of it
            raise

    def _held_by(self, found: KeyValue, model: str) -> Held:
        try:
            said = refusal(decode(found, PublicationRecord), self._clock())
        except RecordFault as fault:
            return Held(f"who publishes {model} cannot be read: {fault.message}")
        return Held(said, hint="try again when it is done")
