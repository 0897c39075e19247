"""A real etcd that is stopped or killed under a registry and three nodes that hold leases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from bridge_core.snapshot import Instance, encode_entry
from bridge_core.store.api import LeaseHandle, Put, Store, StoreRefused, StoreUnavailable
from bridge_wire.v1 import registry_pb2 as pb
from tests.contract.store.beds import Certificates, EtcdBed
from tests.registry_bed import Bed, Follower, following, make_settings, running
from tests.support import eventually, kept

pytestmark = [pytest.mark.etcd, pytest.mark.faults]

TTL_S = 5.0  # a machine may stall for some of it
EVERYBODY = {"n0/0", "n1/0", "n2/0"}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdBed]:
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    folder = tmp_path / "etcd"
    folder.mkdir()
    bed = EtcdBed(folder, Certificates(folder))
    bed.server.start()
    yield bed
    bed.server.stop()


class Mesh(msgspec.Struct):
    """A registry, three nodes that keep themselves registered, and one that follows snapshots."""

    bed: Bed
    follower: Follower
    etcd: EtcdBed
    agents: list[asyncio.Task[None]] = []

    def start_agents(self) -> None:
        self.agents = [asyncio.create_task(keep_registered(self.etcd, f"n{at}")) for at in range(3)]

    async def stop_agents(self) -> None:
        for task in self.agents:
            task.cancel()
        await asyncio.gather(*self.agents, return_exceptions=True)


@pytest.fixture
async def mesh(tmp_path: Path, etcd: EtcdBed) -> AsyncIterator[Mesh]:
    await etcd.ready()
    store = etcd.client()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        bed = await stack.enter_async_context(running(make_settings(tmp_path / "registry"), store))
        await bed.leads()
        head = "apiVersion: bridge.deepseek.io/v1\nkind: Mesh\nmetadata: {name: mesh}\n"
        text = f"{head}spec: {{leaseTtl: {TTL_S:g}s}}\n"
        async with bed.admin() as admin:
            await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="mesh.yaml", text=text)]))
        nodes = [await bed.join(f"n{at}") for at in range(3)]
        follower = await stack.enter_async_context(following(nodes[0], Follower()))
        found = Mesh(bed, follower, etcd)
        found.start_agents()
        stack.push_async_callback(found.stop_agents)
        await eventually(lambda: set(follower.snapshot.instances) == EVERYBODY)
        follower.seen.clear()
        yield found


async def keep_registered(etcd: EtcdBed, node: str) -> None:
    """What an agent does: puts its instance whenever it has a new lease."""
    store = etcd.client()
    try:
        lease, seen = kept(store, TTL_S), 0
        while True:
            seen = await lease.changed(seen)
            await register(store, node, lease, seen)
    finally:
        await store.close()


async def register(store: Store, node: str, lease: LeaseHandle, seen: int) -> None:
    instance = encode_entry(Instance(id=f"{node}/0", node=node))
    while lease.id == seen:
        try:
            await store.commit([Put(f"/bridge/v1/members/{node}/0", instance, lease=seen)])
            return
        except (StoreUnavailable, StoreRefused):
            await asyncio.sleep(0.05)


async def changes_again(bed: Bed, follower: Follower) -> None:
    """Waits until the registry leads again and its snapshots reach the follower."""
    head = "apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\n"
    text = f"{head}metadata: {{name: after}}\nspec: {{backends: [{{model: m}}]}}\n"

    async def applied() -> bool:
        async with bed.admin() as admin:
            with contextlib.suppress(Exception):
                files = [pb.ConfigFile(name="r.yaml", text=text)]
                return not (await admin.Apply(pb.ApplyRequest(files=files))).faults
        return False

    await eventually(applied)
    await eventually(lambda: "after" in follower.snapshot.routes)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_nobody_leaves_the_ring_over_an_outage_longer_than_every_lease(mesh: Mesh, how: str) -> None:
    etcd = mesh.etcd
    if how == "stopped":
        await etcd.pause()
    else:
        etcd.server.kill()
    await every_lease_is_past_its_time(mesh)
    if how == "stopped":
        await etcd.resume()
    else:
        etcd.server.start()
        await etcd.ready()
    await nobody_left(mesh)


async def test_nobody_leaves_the_ring_when_every_lease_ends_before_anybody_renews(mesh: Mesh) -> None:
    await mesh.etcd.pause()
    await mesh.stop_agents()
    await every_lease_is_past_its_time(mesh)
    await mesh.etcd.resume()
    membership = mesh.bed.registry.publisher.table.membership
    await eventually(lambda: membership.missing == EVERYBODY)
    mesh.start_agents()
    await nobody_left(mesh)


async def every_lease_is_past_its_time(mesh: Mesh) -> None:
    away = time.monotonic()
    await eventually(lambda: not mesh.bed.registry.publisher.store_up)
    await eventually(lambda: time.monotonic() > away + 2.5 * TTL_S)


async def nobody_left(mesh: Mesh) -> None:
    await changes_again(mesh.bed, mesh.follower)
    membership = mesh.bed.registry.publisher.table.membership
    await eventually(lambda: not membership.missing)
    assert set(membership.members) == EVERYBODY
    assert all(seen == EVERYBODY for seen in mesh.follower.seen)
