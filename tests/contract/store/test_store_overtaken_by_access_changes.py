"""Calls that a change of etcd's users overtakes: nodes enrol at the same moment as others write."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bridge_core.store.api import Put
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_core.store.etcd import EtcdStore
from bridge_registry.enrolment.store_access import EtcdAccess
from tests.contract.store.beds import EtcdBed

pytestmark = pytest.mark.etcd

NODES = 8
WRITES = 60


async def test_every_call_is_done_once_while_nodes_enrol(own_etcd: EtcdBed) -> None:
    tls = own_etcd.certificates.client
    async with contextlib.AsyncExitStack() as stack:
        channels = Endpoints([own_etcd.url], tls, StoreTiming())
        stack.push_async_callback(channels.close)
        store = EtcdStore([own_etcd.url], tls)
        stack.push_async_callback(store.close)
        access = EtcdAccess(channels.write, "client")
        await access.prepare()

        async def write(number: int) -> None:
            assert (await store.commit([Put(f"/test/{number}", b"")])).committed
            assert await store.get(f"/test/{number}")

        await asyncio.gather(
            *(access.admit(f"n{number}") for number in range(NODES)), *map(write, range(WRITES))
        )
        listing = await store.list("/test/")
        assert len(listing.items) == WRITES
        assert all(item.mod_revision == item.create_revision for item in listing.items)
