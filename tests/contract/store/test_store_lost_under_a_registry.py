"""A real etcd whose data folder is moved away under a running registry, and what an admin does about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge_registry.enrolment.store_access import OpenAccess
from bridge_wire.v1 import registry_pb2 as pb
from tests.contract.store.beds import EtcdBed
from tests.registry_bed import Follower, following, make_settings, running
from tests.support import eventually

pytestmark = pytest.mark.etcd


async def test_a_real_etcd_that_comes_back_empty_is_noticed_and_filled_again(
    own_etcd: EtcdBed, tmp_path: Path
) -> None:
    store, agent = own_etcd.client(), own_etcd.client()
    async with running(make_settings(tmp_path / "registry"), store, OpenAccess()) as bed:
        await eventually(lambda: bool(bed.registry.publisher.hub.current.version.epoch), 30)
        node = await bed.join("n1")
        await node.register(agent, ttl_s=2.0)
        hub = bed.registry.publisher.hub
        await eventually(lambda: "n1/0" in hub.current.instances and bool(hub.current.mesh.store_id))
        before = hub.current
        follower = Follower()
        async with following(node, follower):
            await eventually(lambda: follower.snapshot.version == before.version)
            own_etcd.server.kill()
            data = own_etcd.server.settings.data_dir
            (data / "member").rename(tmp_path / "lost")
            own_etcd.server.start()
            await own_etcd.ready()

            async def concern() -> str:
                async with bed.admin() as admin:
                    status = await admin.Status(pb.StatusRequest())
                return status.concerns[0] if status.leader and status.concerns else ""

            said = await eventually(concern, 30)
            assert "came back empty" in said
            assert hub.current.entries == before.entries
            assert follower.snapshot.entries == before.entries
            await node.register(agent, ttl_s=60.0)
            async with bed.admin() as admin:

                async def restored() -> Any:
                    try:
                        return await admin.Restore(pb.RestoreRequest())
                    except grpc.aio.AioRpcError as fault:  # its office may lapse on a busy machine
                        if fault.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        return None

                done = await eventually(restored, 30)
                assert (done.nodes, done.documents) == (1, 0)
                await eventually(lambda: follower.snapshot.version > before.version, 30)
                assert follower.snapshot.nodes == before.nodes
                assert set(follower.snapshot.instances) == {"n1/0"}
                assert not (await admin.Status(pb.StatusRequest())).concerns
                await bed.join("n2")
    await agent.close()
    await store.close()
