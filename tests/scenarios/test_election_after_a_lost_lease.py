"""A candidate whose lease went and was granted again: its old fence is no longer an office."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from bridge_core.store.api import Delete, Op, Put, TxnOutcome, Unchanged, WatchEvent
from bridge_registry.election import Election
from tests.fakes.store import FakeEtcd, FakeStore
from tests.support import eventually

PREFIX = "/leader/"


class HeldUpStore(FakeStore):
    """While `held` its watches say nothing and its writes wait, as behind a slow server."""

    held = False

    async def commit(self, ops: Sequence[Op], *, if_: Sequence[Unchanged] = ()) -> TxnOutcome:
        while self.held:
            await self.etcd.wait(0.01)
        return await super().commit(ops, if_=if_)

    async def watch(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        async with contextlib.aclosing(super().watch(prefix)) as events:
            async for event in events:
                while self.held:
                    await self.etcd.wait(0.01)
                yield event


@contextlib.asynccontextmanager
async def standing(store: FakeStore, ttl_s: float = 30.0) -> AsyncIterator[Election]:
    election = Election(store, PREFIX, b"one", ttl_s)
    task = asyncio.create_task(election.run())
    try:
        yield election
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


def leads(election: Election) -> bool:
    return election.leads(time.monotonic())


def own_key(election: Election) -> str:
    fence = election.office.fence
    return "" if fence is None else fence.key


async def test_a_lease_granted_again_does_not_lead_on_the_old_fence() -> None:
    etcd = FakeEtcd()
    store = HeldUpStore(etcd)
    async with standing(store, ttl_s=0.6) as election:
        await eventually(lambda: leads(election))
        fence = election.office.fence
        assert fence is not None
        store.held = True
        etcd.revoke(min(etcd.leases))
        await eventually(lambda: bool(etcd.leases))  # granted again
        lease = election._lease
        await eventually(lambda: lease is not None and lease.id in etcd.leases)
        assert election.office.fence == fence  # the news of the loss is on its way
        assert not leads(election)
        store.held = False
        assert not (await store.commit([Put("/a", b"")], if_=[fence])).committed
        await eventually(lambda: leads(election))
        assert election.office.fence != fence


async def test_a_store_that_came_back_empty_is_read_anew() -> None:
    """Nothing tells the watch that what it knew is gone: the lost lease does."""
    etcd = FakeEtcd()
    async with standing(FakeStore(etcd), ttl_s=0.6) as election:
        await eventually(lambda: leads(election))
        etcd.leases.clear()
        etcd.items.clear()  # without an event
        etcd.apply([Put("/else", b"")])
        await eventually(lambda: leads(election) and own_key(election) in etcd.items)


async def test_a_stranger_under_the_prefix_is_no_fence_of_ours() -> None:
    etcd = FakeEtcd()
    etcd.apply([Put(PREFIX + "0", b"two")])
    async with standing(FakeStore(etcd)) as election:
        await eventually(lambda: election.office.leader == b"two")
        assert not leads(election)
        etcd.apply([Delete(PREFIX + "0")])
        await eventually(lambda: leads(election))
