"""A store in memory that keeps every promise of `bridge_core.store.api`.

`FakeEtcd` is the server, which tests pause, restart and compact; `FakeStore` is a client of it.
Held to the same contract suite as the real one (tests/contract/test_store_*.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Sequence

from bridge_core.store.api import (
    Changes,
    Delete,
    Deleted,
    KeyListing,
    KeyValue,
    LeaseGone,
    Op,
    Put,
    StoreFault,
    StoreRefused,
    StoreUnavailable,
    TxnOutcome,
    Unchanged,
    WatchEvent,
)
from tests.support import RunningClock


class FakeEtcd:
    """The server. `available` False: it does not answer, and its leases expire only after.

    Leases last as long as this process runs: when all of it stands still, so do their clients.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.cluster_id = 1
        self.items: dict[str, KeyValue] = {}
        self.history: list[Changes] = []
        self.compacted = 0
        self.available = True
        self.leases: dict[int, tuple[float, float]] = {}  # id to expiry by `clock`, and monotonic
        self._clock = RunningClock(0.05)
        self._next_lease = 7_000
        self._wake = asyncio.Event()
        self.refused_prefix: str | None = None

    def pause(self) -> None:
        """It stops answering."""
        self.available = False
        self._notify()

    def resume(self) -> None:
        """It answers again; what expired meanwhile goes now."""
        self.available = True
        now = time.monotonic()
        for lease in [lease for lease, (_, expiry) in self.leases.items() if expiry <= now]:
            self.revoke(lease)
        self._notify()

    def lose_everything(self, *, revision: int = 1) -> None:
        """Its data folder is gone: it begins anew as the same cluster, and is at `revision` by now."""
        self.revision, self.compacted = revision, 0
        self.items.clear()
        self.leases.clear()
        self.history[:] = [Changes((), revision)]
        self._notify()

    def compact(self) -> None:
        """Forgets all history."""
        self.compacted = self.revision
        self.history.clear()

    def grant(self, ttl_s: float) -> int:
        """A new lease's id."""
        self._next_lease += 1
        self.leases[self._next_lease] = self._expiry(ttl_s)
        return self._next_lease

    def renew(self, lease: int, ttl_s: float) -> bool:
        """Whether the lease is still there; if so it is renewed."""
        self.expire()
        if lease not in self.leases:
            return False
        self.leases[lease] = self._expiry(ttl_s)
        return True

    def _expiry(self, ttl_s: float) -> tuple[float, float]:
        return self._clock() + ttl_s, time.monotonic() + ttl_s

    def revoke(self, lease: int) -> None:
        """Drops a lease and its keys."""
        self.leases.pop(lease, None)
        keys = [key for key, item in self.items.items() if item.lease == lease]
        if keys:
            self.apply([Delete(key) for key in keys])

    def expire(self) -> None:
        """Revokes what is past its time, if the server runs."""
        now = self._clock()
        if self.available:
            for lease in [lease for lease, (expiry, _) in self.leases.items() if expiry <= now]:
                self.revoke(lease)

    def apply(self, ops: Sequence[Op]) -> None:
        """All of `ops` at one new revision; none when they change nothing."""
        if any(isinstance(op, Put) and op.lease and op.lease not in self.leases for op in ops):
            raise LeaseGone("the lease of this write is gone")
        puts = [op.key for op in ops if isinstance(op, Put)]
        if len(set(puts)) != len(puts) or any(_covers(op, key) for op in ops for key in puts):
            raise StoreRefused("duplicate key given in txn request")
        revision, events = self.revision + 1, list[KeyValue | Deleted]()
        for op in ops:
            if isinstance(op, Put):
                old = self.items.get(op.key)
                created = revision if old is None else old.create_revision
                item = KeyValue(op.key, op.value, revision, created, op.lease)
                self.items[op.key] = item
                events.append(item)
            else:
                for key in sorted(key for key in self.items if _covers(op, key)):
                    del self.items[key]
                    events.append(Deleted(key, revision))
        if events:
            self.revision = revision
            self.history.append(Changes(tuple(events), revision))
            self._notify()

    def listing(self, prefix: str) -> KeyListing:
        """Everything under `prefix` now."""
        items = tuple(self.items[key] for key in sorted(self.items) if key.startswith(prefix))
        return KeyListing(items, self.revision, self.cluster_id)

    async def wait(self, timeout_s: float) -> None:
        """Waits for the next change of anything."""
        # Not wait_for: until 3.12 it swallows a cancellation that comes with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    def _notify(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()


class FakeLease:
    """A client's lease."""

    def __init__(self, store: FakeStore, ttl_s: float) -> None:
        self.id = 0
        self.expires_at = -math.inf
        self._store = store
        self._ttl_s = ttl_s
        self._keeping: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """See `LeaseHandle`."""
        async with asyncio.TaskGroup() as group:
            self._keeping = group.create_task(self._keep())

    async def changed(self, seen: int) -> int:
        """See `LeaseHandle`."""
        while self.id in {0, seen}:
            await self._store.etcd.wait(0.02)
        return self.id

    async def revoke(self) -> None:
        """See `LeaseHandle`."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._store.etcd.available:
            self._store.etcd.revoke(self.id)
        self.id, self.expires_at = 0, -math.inf

    async def _keep(self) -> None:
        etcd = self._store.etcd
        while not self._store.closed:
            if self._store.reachable():
                sent = time.monotonic()
                if self.id and not etcd.renew(self.id, self._ttl_s):
                    self.id = 0
                self.id = self.id or etcd.grant(self._ttl_s)
                self.expires_at = sent + self._ttl_s
            await etcd.wait(self._ttl_s / 3 if etcd.available else 0.02)


class FakeStore:
    """A client; implements `bridge_core.store.api.Store`."""

    def __init__(self, etcd: FakeEtcd) -> None:
        self.etcd = etcd
        self.fault: StoreFault | None = None
        self.closed = False

    def reachable(self) -> bool:
        """Whether the server answers; notes it in `fault`."""
        self.etcd.expire()
        if self.etcd.available:
            self.fault = None
        elif self.fault is None:
            self.fault = StoreFault(time.monotonic(), "the fake etcd is paused")
        return self.etcd.available

    async def get(self, key: str) -> KeyValue | None:
        """See `Store.get`."""
        self._reach(key)
        return self.etcd.items.get(key)

    async def list(self, prefix: str) -> KeyListing:
        """See `Store.list`."""
        self._reach(prefix)
        return self.etcd.listing(prefix)

    async def commit(self, ops: Sequence[Op], *, if_: Sequence[Unchanged] = ()) -> TxnOutcome:
        """See `Store.commit`."""
        self._reach(*(op.key for op in ops))
        for condition in if_:
            item = self.etcd.items.get(condition.key)
            if (0 if item is None else item.mod_revision) != condition.mod_revision:
                return TxnOutcome(committed=False, revision=self.etcd.revision)
        self.etcd.apply(ops)
        return TxnOutcome(committed=True, revision=self.etcd.revision)

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """See `Store.watch`."""
        position: int | None = None
        while not self.closed:
            if not self.reachable():
                await self.etcd.wait(0.02)
                continue
            self._reach(prefix)
            if position is None or position < self.etcd.compacted or position > self.etcd.revision:
                listing = self.etcd.listing(prefix)
                position = listing.revision
                yield listing
                continue
            for changes in [changes for changes in self.etcd.history if changes.revision > position]:
                position = changes.revision
                if mine := tuple(event for event in changes.events if event.key.startswith(prefix)):
                    yield Changes(mine, changes.revision)
            if position >= self.etcd.revision or not self.etcd.available:
                await self.etcd.wait(0.02)

    def lease(self, ttl_s: float) -> FakeLease:
        """See `Store.lease`."""
        return FakeLease(self, ttl_s)

    async def close(self) -> None:
        """See `Store.close`."""
        self.closed = True

    def _reach(self, *keys: str) -> None:
        if not self.reachable():
            raise StoreUnavailable("the fake etcd is paused")
        refused = self.etcd.refused_prefix
        if refused is not None and any(key.startswith(refused) for key in keys):
            raise StoreRefused("permission denied")


def _covers(op: Op, key: str) -> bool:
    if isinstance(op, Put):
        return False
    return key.startswith(op.key) if op.prefix else key == op.key
