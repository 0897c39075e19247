"""Leader election over the store: one leader, a successor when it goes, epochs that only rise."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from bridge_core.store.api import Put, Store
from bridge_registry.election import Election
from tests.contract.store.beds import Bed
from tests.support import eventually


@contextlib.asynccontextmanager
async def standing(bed: Bed, prefix: str, name: bytes) -> AsyncIterator[tuple[Store, Election]]:
    store = bed.client()
    election = Election(store, prefix, name, max(bed.lease_s, 1.0))
    task = asyncio.create_task(election.run())
    try:
        yield store, election
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def test_the_first_leads_and_all_agree_who(bed: Bed, prefix: str) -> None:
    async with standing(bed, prefix, b"first") as (_, first):
        await eventually(lambda: first.leads(time.monotonic()))
        async with standing(bed, prefix, b"late") as (_, late):
            await eventually(lambda: late.office.leader == b"first")
            assert not late.leads(time.monotonic())
            assert late.office.epoch == first.office.epoch > 0


async def test_a_leader_that_steps_down_is_followed_by_the_next(bed: Bed, prefix: str) -> None:
    async with contextlib.AsyncExitStack() as outer:
        async with standing(bed, prefix, b"one") as (_, one):
            await eventually(lambda: one.leads(time.monotonic()))
            epoch = one.office.epoch
            _, two = await outer.enter_async_context(standing(bed, prefix, b"two"))
            await eventually(lambda: two.office.leader == b"one")
            assert not two.leads(time.monotonic())
        await eventually(lambda: two.leads(time.monotonic()))
        assert two.office.leader == b"two"
        assert two.office.epoch > epoch


async def test_a_leader_cut_off_from_the_store_stops_before_another_starts(bed: Bed, prefix: str) -> None:
    async with standing(bed, prefix, b"one") as (_, one):
        await eventually(lambda: one.leads(time.monotonic()))
        await bed.pause()
        await eventually(lambda: not one.leads(time.monotonic()))
        await bed.resume()
        await eventually(lambda: one.leads(time.monotonic()))


async def test_what_a_former_leader_still_writes_is_refused(bed: Bed, prefix: str) -> None:
    async with standing(bed, prefix, b"two") as (store, two):
        await eventually(lambda: two.leads(time.monotonic()))
        fence = two.office.fence
        assert fence is not None
        assert (await store.commit([Put(prefix + "../a", b"1")], if_=[fence])).committed
    late = bed.client()
    assert not (await late.commit([Put(prefix + "../a", b"2")], if_=[fence])).committed
    await late.close()
