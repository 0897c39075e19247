"""Keeps this node's instances registered in the store under the node's lease.

The lease is the node's sign of life: when it is lost, the records go and the instances leave the
ring. An agent that cannot renew keeps serving, and `status` says since when.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog

from bridge_agent.membership import registration_rules as rules
from bridge_agent.membership.link_status import LinkReport, LinkStatus
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError
from bridge_core.snapshot import Instance
from bridge_core.store.api import LeaseHandle, Store

log = structlog.get_logger()


class Registration:
    """The records of one node. `publish` may be called at any time; `run` does the writing."""

    def __init__(self, store: Store, *, ttl_s: float, now: Callable[[], float], rng: random.Random) -> None:
        """`now` is the wall clock in seconds, for `status`."""
        self._store = store
        self._ttl_s = ttl_s
        self._backoff = Backoff(rng, first_s=0.1, most_s=2.0)
        self._desired: dict[str, bytes] = {}
        self._written: rules.Written = {}
        self._lease: LeaseHandle | None = None
        self._lease_id = 0
        self._revoked = False
        self._wake = asyncio.Event()
        self._now = now
        self._status = LinkStatus("etcd", now)

    def publish(self, instances: Iterable[Instance]) -> None:
        """Replaces what is registered."""
        self._desired = rules.records(instances)
        self._wake.set()

    async def run(self) -> None:
        """Writes until cancelled. The lease outlives a cancellation: `revoke` gives it back.

        After a fault it may be run again.
        """
        if self._revoked:
            return
        if self._lease is None:
            self._lease = await self._store.lease(self._ttl_s)
        if self._desired:
            self._wake.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_lease(self._lease), name="lease")
            group.create_task(self._write(), name="registration")

    async def revoke(self) -> None:
        """Gives the lease back: the instances leave the ring at once. Best effort, bounded in time."""
        self._desired = {}
        self._revoked = True
        if self._lease is not None:
            lease, self._lease = self._lease, None
            await lease.revoke()
            log.info("lease_revoked")

    def report(self, monotonic: float) -> LinkReport:
        """Whether the store answers and holds the records; `monotonic` is that clock's now."""
        fault = self._store.fault
        if fault is not None:
            return LinkReport("etcd", False, self._now() - (monotonic - fault.since), fault.reason)
        return self._status.report()

    async def _follow_lease(self, lease: LeaseHandle) -> None:
        while True:
            self._lease_id = await lease.changed(self._lease_id)
            log.info("lease_granted", lease=f"{self._lease_id:x}", ttl_s=self._ttl_s)
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ops = rules.plan(self._desired, self._written, self._lease_id)
            if not ops:
                continue
            try:
                await self._store.commit(ops)
            except BridgeError as fault:
                self._written = rules.after(self._written, ops, known=False)
                if self._status.failed(fault):
                    log.warning("registration_failed", reason=str(fault))
                await asyncio.sleep(self._backoff.next_s())
                self._wake.set()
                continue
            self._written = rules.after(self._written, ops, known=True)
            self._backoff.reset()
            self._status.works()
            log.debug("registered", keys=[op.key for op in ops])
