"""A real etcd that is stopped or killed under a registry and three nodes that hold leases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from bridge_core.snapshot import Instance, encode_entry
from bridge_core.store.api import Put, Store, StoreRefused, StoreUnavailable
from bridge_wire.v1 import registry_pb2 as pb
from tests.contract.store.beds import Certificates, EtcdBed
from tests.registry_bed import Bed, Follower, following, make_settings, running
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.faults]

TTL_S = 2.0  # etcd's least
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


@pytest.fixture
async def mesh(tmp_path: Path, etcd: EtcdBed) -> AsyncIterator[tuple[Bed, Follower]]:
    """A registry, three nodes that keep themselves registered, and one that follows snapshots."""
    await etcd.ready()
    store = etcd.client()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        bed = await stack.enter_async_context(running(make_settings(tmp_path / "registry"), store))
        await bed.leads()
        text = "apiVersion: bridge.deepseek.io/v1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {leaseTtl: 2s}\n"
        async with bed.admin() as admin:
            await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="mesh.yaml", text=text)]))
        nodes = [await bed.join(f"n{at}") for at in range(3)]
        for node in nodes:
            client = etcd.client()
            stack.push_async_callback(client.close)
            task = asyncio.create_task(keep_registered(client, node.name))
            stack.push_async_callback(ended, task)
        follower = await stack.enter_async_context(following(nodes[0], Follower()))
        await eventually(lambda: set(follower.snapshot.instances) == EVERYBODY)
        follower.seen.clear()
        yield bed, follower


async def keep_registered(store: Store, node: str) -> None:
    """What an agent does: puts its instance whenever it has a new lease."""
    lease, seen = await store.lease(TTL_S), 0
    while True:
        seen = await lease.changed(seen)
        instance = encode_entry(Instance(id=f"{node}/0", node=node))
        while lease.id == seen:
            try:
                await store.commit([Put(f"/bridge/v1/members/{node}/0", instance, lease=seen)])
                break
            except (StoreUnavailable, StoreRefused):
                await asyncio.sleep(0.05)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


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

    await eventually(applied, 20)
    await eventually(lambda: "after" in follower.snapshot.routes, 20)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_nobody_leaves_the_ring_over_an_outage_longer_than_every_lease(
    mesh: tuple[Bed, Follower], etcd: EtcdBed, how: str
) -> None:
    bed, follower = mesh
    if how == "stopped":
        await etcd.pause()
    else:
        etcd.server.kill()
    away = time.monotonic()
    await eventually(lambda: not bed.registry.publisher.store_up, 20)
    await eventually(lambda: time.monotonic() > away + 2.5 * TTL_S, 20)  # every lease is past its time
    if how == "stopped":
        await etcd.resume()
    else:
        etcd.server.start()
        await etcd.ready()
    await changes_again(bed, follower)
    membership = bed.registry.publisher.table.membership
    await eventually(lambda: not membership.missing, 20)
    assert set(membership.members) == EVERYBODY
    assert all(seen == EVERYBODY for seen in follower.seen)
