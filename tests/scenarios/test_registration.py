"""A node's records follow its instances and its lease, through outages of the store."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from bridge_agent.membership.registration import Registration
from bridge_core.snapshot import Instance
from tests.fakes.store import FakeEtcd, FakeStore
from tests.support import eventually

ONE = Instance(id="node1/0", node="node1")
TWO = Instance(id="node1/1", node="node1")


@pytest.fixture
def etcd() -> FakeEtcd:
    return FakeEtcd()


@contextlib.asynccontextmanager
async def running(etcd: FakeEtcd, ttl_s: float = 5.0) -> AsyncIterator[Registration]:
    store = FakeStore(etcd)
    registration = Registration(store, ttl_s=ttl_s, now=time.time, rng=random.Random(1))
    task = asyncio.create_task(registration.run())
    try:
        yield registration
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


def members(etcd: FakeEtcd) -> dict[str, bytes]:
    return {key: item.value for key, item in etcd.items.items()}


def at(*instances: Instance) -> set[str]:
    return {f"/bridge/v1/members/{instance.id}" for instance in instances}


async def test_records_appear_change_and_go_with_the_instances(etcd: FakeEtcd) -> None:
    async with running(etcd) as registration:
        registration.publish([ONE, TWO])
        await eventually(lambda: members(etcd).keys() == at(ONE, TWO))
        assert all(item.lease for item in etcd.items.values())
        registration.publish([TWO])
        await eventually(lambda: members(etcd).keys() == at(TWO))
        assert registration.report(time.monotonic()).up


async def test_a_lost_lease_is_replaced_and_the_records_come_back(etcd: FakeEtcd) -> None:
    async with running(etcd, ttl_s=0.06) as registration:
        registration.publish([ONE])
        await eventually(lambda: members(etcd).keys() == at(ONE))
        [lease] = etcd.leases
        etcd.revoke(lease)
        assert members(etcd) == {}
        await eventually(lambda: members(etcd).keys() == at(ONE))
        assert lease not in etcd.leases


async def test_a_paused_store_is_said_and_survived(etcd: FakeEtcd) -> None:
    async with running(etcd) as registration:
        registration.publish([ONE])
        await eventually(lambda: members(etcd).keys() == at(ONE))
        etcd.pause()
        registration.publish([ONE, TWO])
        await eventually(lambda: not registration.report(time.monotonic()).up)
        assert "paused" in registration.report(time.monotonic()).reason
        assert members(etcd).keys() == at(ONE)
        etcd.resume()
        await eventually(lambda: members(etcd).keys() == at(ONE, TWO))
        await eventually(lambda: registration.report(time.monotonic()).up)


async def test_a_store_that_refuses_is_asked_again(etcd: FakeEtcd) -> None:
    etcd.refused_prefix = "/bridge/"
    async with running(etcd) as registration:
        registration.publish([ONE])
        await eventually(lambda: "permission" in registration.report(time.monotonic()).reason)
        etcd.refused_prefix = None
        await eventually(lambda: members(etcd).keys() == at(ONE))


async def test_revoking_takes_the_records_at_once(etcd: FakeEtcd) -> None:
    async with running(etcd) as registration:
        registration.publish([ONE])
        await eventually(lambda: members(etcd).keys() == at(ONE))
        await registration.revoke()
        assert members(etcd) == {}


async def test_after_a_fault_it_goes_on_under_the_lease_that_it_has(etcd: FakeEtcd) -> None:
    store = FakeStore(etcd)
    registration = Registration(store, ttl_s=5.0, now=time.time, rng=random.Random(1))
    first = asyncio.create_task(registration.run())
    registration.publish([ONE])
    await eventually(lambda: members(etcd).keys() == at(ONE))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    registration.publish([ONE, TWO])
    again = asyncio.create_task(registration.run())
    await eventually(lambda: members(etcd).keys() == at(ONE, TWO))
    assert len(etcd.leases) == 1
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    await registration.revoke()
    await registration.run()  # given up is given up
    assert not etcd.leases
    await store.close()
