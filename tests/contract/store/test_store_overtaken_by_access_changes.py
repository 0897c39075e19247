"""Calls that a change of etcd's users overtakes: a registry sets them up while others write."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bridge_core.store.api import Put
from bridge_core.store.endpoints import Endpoints, StoreTiming
from bridge_core.store.etcd import EtcdStore
from bridge_registry.enrolment.store_access import EtcdAccess
from bridge_wire.etcd.auth_pb2 import UserAddOptions
from bridge_wire.etcd.rpc_pb2 import AuthUserAddRequest
from bridge_wire.etcd.rpc_pb2_grpc import AuthStub
from tests.contract.store.beds import EtcdBed

pytestmark = pytest.mark.etcd

USERS = 24
WRITES = 60


async def test_every_call_is_done_once_while_users_change(own_etcd: EtcdBed) -> None:
    tls = own_etcd.certificates.client
    async with contextlib.AsyncExitStack() as stack:
        channels = Endpoints([own_etcd.url], tls, StoreTiming())
        stack.push_async_callback(channels.close)
        store = EtcdStore([own_etcd.url], tls)
        stack.push_async_callback(store.close)
        await EtcdAccess(channels.write, "client", "guard").prepare()

        async def add_user(number: int) -> None:
            request = AuthUserAddRequest(name=f"n{number}", options=UserAddOptions(no_password=True))
            await channels.write(lambda channel, t: AuthStub(channel).UserAdd(request, timeout=t))

        async def write(number: int) -> None:
            assert (await store.commit([Put(f"/test/{number}", b"")])).committed
            assert await store.get(f"/test/{number}")

        await asyncio.gather(*map(add_user, range(USERS)), *map(write, range(WRITES)))
        listing = await store.list("/test/")
        assert len(listing.items) == WRITES
        assert all(item.mod_revision == item.create_revision for item in listing.items)
