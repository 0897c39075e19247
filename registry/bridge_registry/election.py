"""Leader election over a store: the candidate whose key was created first leads.

Rules:
1. Every candidate puts one key, `<prefix><lease id>`, under its own lease. The key with the lowest
   create_revision leads; that revision is the epoch, so epochs only go up.
2. A leader acts as one only until its lease's `expires_at`, which is on its own monotonic clock and
   never later than the store's: two candidates never hold the office at one time. The lease has to
   be the one that its key was put under: one that was granted again starts behind the others.
3. What only a leader may write is written under `fence`, so that a write that was on its way when
   the office went is refused by the store.
4. A lease that was lost may mean another store at the same address: the candidates are listed again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec
import structlog

from bridge_core.errors import BridgeError
from bridge_core.store.api import (
    Deleted,
    KeyListing,
    KeyValue,
    LeaseHandle,
    Put,
    Store,
    Unchanged,
    WatchEvent,
)

log = structlog.get_logger()


class Office(msgspec.Struct, frozen=True):
    """Who leads, as one candidate sees it.

    Attributes:
        leader: The leader's value; None while nobody leads.
        epoch: The leader's create_revision; 0 while nobody leads.
        fence: Set while the leader is this candidate: the condition of its writes.
    """

    leader: bytes | None = None
    epoch: int = 0
    fence: Unchanged | None = None


def office(candidates: Iterable[KeyValue], own_key: str) -> Office:
    """Who leads among `candidates`, seen by the one whose key is `own_key`."""
    first = min(candidates, key=lambda candidate: candidate.create_revision, default=None)
    if first is None:
        return Office()
    fence = Unchanged(first.key, first.mod_revision) if first.key == own_key else None
    return Office(first.value, first.create_revision, fence)


class Election:
    """A candidate.

    Args:
        store: Where it is held.
        prefix: The election's name, ending in "/".
        value: What the others read as the leader.
        ttl_s: How long a dead leader keeps the office.
    """

    def __init__(self, store: Store, prefix: str, value: bytes, ttl_s: float) -> None:
        self._store = store
        self._prefix = prefix
        self._value = value
        self._ttl_s = ttl_s
        self._lease: LeaseHandle | None = None
        self._candidates: dict[str, KeyValue] = {}
        self._office = Office()
        self._changed = asyncio.Condition()

    @property
    def office(self) -> Office:
        """Who leads, as last heard from the store."""
        return self._office

    def leads(self, now: float) -> bool:
        """Whether this candidate holds the office at monotonic time `now` (rule 2)."""
        fence, lease = self._office.fence, self._lease
        if fence is None or lease is None:
            return False
        return fence.key == self._key(lease.id) and now < lease.expires_at

    async def changed(self, seen: Office) -> Office:
        """Waits until the office is not `seen`; returns it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._office != seen)
            return self._office

    async def run(self) -> None:
        """Stands for election until cancelled, then steps down at once.

        Raises:
            StoreRefused: the store does not let this client take part.
        """
        self._lease = self._store.lease(self._ttl_s)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lease.keep(), name="election-lease")
                await self._stand(self._lease, group)
        finally:
            self._office = Office()
            await asyncio.shield(self._lease.revoke())

    async def _stand(self, lease: LeaseHandle, group: asyncio.TaskGroup) -> None:
        following = group.create_task(self._follow(), name="election-follow")
        held = 0
        while True:
            before, held = held, await lease.changed(held)
            if before:
                following.cancel()
                following = group.create_task(self._follow(), name="election-follow")
            await self._put(lease, held)
            await self._publish()

    async def _put(self, lease: LeaseHandle, lease_id: int) -> None:
        key = self._key(lease_id)
        while lease.id == lease_id:
            try:
                # Harmless when an earlier attempt did happen: the condition fails.
                await self._store.commit(
                    [Put(key, self._value, lease=lease_id)], if_=[Unchanged(key, mod_revision=0)]
                )
                return
            except BridgeError as fault:
                log.info("election_candidacy_not_written", key=key, reason=fault.message)
                await asyncio.sleep(self._ttl_s / 10)

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._store.watch(self._prefix)) as events:
            async for event in events:
                self._take(event)
                await self._publish()

    def _take(self, event: WatchEvent) -> None:
        if isinstance(event, KeyListing):
            self._candidates = {item.key: item for item in event.items}
            return
        for change in event.events:
            if isinstance(change, Deleted):
                self._candidates.pop(change.key, None)
            else:
                self._candidates[change.key] = change

    async def _publish(self) -> None:
        own = self._key(self._lease.id) if self._lease is not None and self._lease.id else ""
        async with self._changed:
            self._office = office(self._candidates.values(), own)
            self._changed.notify_all()

    def _key(self, lease_id: int) -> str:
        return f"{self._prefix}{lease_id:016x}"
