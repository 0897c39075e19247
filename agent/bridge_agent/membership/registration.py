"""Keeps this node's instances registered in the store under the node's lease.

The lease is the node's sign of life: when it is lost, the records go and the instances leave the
ring. An agent that cannot renew keeps serving, and `status` says since when.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable

import msgspec
import structlog

from bridge_agent.membership import registration_rules as rules
from bridge_agent.membership.link_status import LinkReport, LinkStatus
from bridge_agent.membership.standing_rules import Standing
from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError
from bridge_core.keyspace import MEMBERS
from bridge_core.snapshot import Instance
from bridge_core.store.api import Store

log = structlog.get_logger()


class Registration:
    """The records of one node. `publish` may be called at any time; `run` does the writing."""

    def __init__(
        self,
        store: Store,
        *,
        ttl_s: float,
        now: Callable[[], float],
        rng: random.Random,
        holder: str = "",
        patience_s: float = 0.0,
    ) -> None:
        """`holder` is this agent in its records, which are written once `stand` was told how it stands,
        or nobody has said so for `patience_s`; `now` is the wall clock in seconds, for `status`.
        """
        self._store = store
        self._holder = holder
        self._patience_s = patience_s
        self._told = asyncio.Event()
        self._withheld = False
        self._put_at: dict[str, float] = {}
        self._ttl_s = ttl_s
        self._backoff = Backoff(rng, first_s=0.1, most_s=2.0)
        self._desired: dict[str, bytes] = {}
        self._written: rules.Written = {}
        self._lease = store.lease(ttl_s)
        self._lease_id = 0
        self._revoked = False
        self._wake = asyncio.Event()
        self._now = now
        self._status = LinkStatus("etcd", now)

    def publish(self, instances: Iterable[Instance]) -> None:
        """Replaces what is registered."""
        self._desired = rules.records(msgspec.structs.replace(one, holder=self._holder) for one in instances)
        self._wake.set()

    @property
    def registered(self) -> tuple[str, ...]:
        """The instances whose records were put and have had a lease's time to be seen."""
        until = asyncio.get_running_loop().time() - self._ttl_s
        known = (key for key, state in self._written.items() if state is not None)
        return tuple(key.removeprefix(MEMBERS) for key in known if self._put_at.get(key, until) <= until)

    def stand(self, found: Standing) -> None:
        """Hears how this agent stands: while another holds the node's records, none is written over them."""
        unknown = {f"{MEMBERS}{one}" for one in found.missing}
        if self._withheld and not found.other:
            unknown |= self._written.keys()  # the other's lease took them along
        self._written = {key: None if key in unknown else state for key, state in self._written.items()}
        self._withheld = bool(found.other)
        self._told.set()
        self._wake.set()

    async def run(self) -> None:
        """Writes, and keeps the lease, until cancelled. The lease outlives that: `revoke` gives it back.

        After a fault it may be run again.
        """
        if self._revoked:
            return
        if self._desired:
            self._wake.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep(), name="lease")
            group.create_task(self._follow_lease(), name="lease-changes")
            group.create_task(self._write(), name="registration")

    async def revoke(self) -> None:
        """Gives the lease back: the instances leave the ring at once. Best effort, bounded in time."""
        self._desired = {}
        self._revoked = True
        self._written = {}  # they go with the lease; what stands there next is another's
        await self._lease.revoke()
        log.info("lease_revoked")

    def report(self, monotonic: float) -> LinkReport:
        """Whether the store answers and holds the records; `monotonic` is that clock's now."""
        fault = self._store.fault
        if fault is not None:
            return LinkReport("etcd", False, self._now() - (monotonic - fault.since), fault.reason)
        return self._status.report()

    async def _follow_lease(self) -> None:
        while True:
            self._lease_id = await self._lease.changed(self._lease_id)
            log.info("lease_granted", lease=f"{self._lease_id:x}", ttl_s=self._ttl_s)
            self._wake.set()

    async def _write(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._told.wait()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._withheld:
                continue
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
            self._put_at |= dict.fromkeys((op.key for op in ops), asyncio.get_running_loop().time())
            self._backoff.reset()
            self._status.works()
            log.debug("registered", keys=[op.key for op in ops])
