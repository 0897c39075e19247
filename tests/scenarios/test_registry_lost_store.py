"""An etcd that comes back empty or older: noticed, nothing is lost by it, and put back at an admin's word."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from bridge_core.files import write_atomically
from bridge_core.http1 import Pool
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_csr, generate_key
from bridge_core.snapshot import Snapshot, Version
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import MESH, Bed, Follower, Node, following, make_settings, refused, running
from tests.scenarios.test_registry_config_and_snapshots import a_route
from tests.support import eventually


@contextlib.asynccontextmanager
async def a_registry(state: Path, etcd: FakeEtcd, name: str = "r1") -> AsyncIterator[Bed]:
    store = FakeStore(etcd)
    async with running(make_settings(state, name), store) as bed:
        yield bed
    await store.close()


async def a_mesh(bed: Bed, store: FakeStore) -> Node:
    """n1 with an instance, n2 drained, n3 revoked, a route, a token."""
    await bed.leads()
    node = await bed.join("n1")
    await bed.join("n2")
    await bed.join("n3")
    await node.register(store)
    async with bed.admin() as admin:
        await admin.Apply(pb.ApplyRequest(files=[a_route("a")]))
        await admin.Drain(pb.DrainRequest(node_name="n2", drained=True))
        await admin.Revoke(pb.RevokeRequest(node_name="n3"))
        await admin.CreateToken(pb.CreateTokenRequest())
    hub = bed.registry.publisher.hub

    def published() -> bool:
        now = hub.current
        return (
            set(now.instances) == {"n1/0"}
            and set(now.routes) == {"a"}
            and {name: one.state for name, one in now.nodes.items()}
            == {"n1": "active", "n2": "drained", "n3": "revoked"}
            and bool(now.mesh.revoked_serials)
            and bool(now.mesh.store_id)
        )

    await eventually(published)
    return node


def contents(snapshot: Snapshot) -> tuple[object, ...]:
    return snapshot.nodes, snapshot.routes, snapshot.mesh


async def noticed(bed: Bed) -> str:
    """The registry leads in the strange store, and says that it is strange."""

    async def concern() -> str:
        async with bed.admin() as admin:
            status = await admin.Status(pb.StatusRequest())
        return status.concerns[0] if status.leader and status.concerns else ""

    return await eventually(concern)


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("grown", [False, True], ids=["young", "outgrown"])
async def test_an_empty_store_empties_nothing_and_is_filled_at_an_admins_word(
    tmp_path: Path, restarted: bool, grown: bool
) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with contextlib.AsyncExitStack() as stack:
        bed = await stack.enter_async_context(a_registry(tmp_path, etcd))
        node = await a_mesh(bed, store)
        before = bed.registry.publisher.hub.current
        follower = Follower()
        await stack.enter_async_context(following(node, follower))
        await eventually(lambda: follower.snapshot.version == before.version)
        follower.seen.clear()
        if restarted:
            await stack.aclose()
        etcd.lose_everything(revision=10_000 if grown else 1)
        if restarted:
            bed = await stack.enter_async_context(a_registry(tmp_path, etcd))
            await stack.enter_async_context(following(node, follower, bed))
        assert "came back empty" in await noticed(bed)
        assert bed.registry.publisher.hub.current.entries == before.entries
        async with node.mesh(bed) as mesh, bed.admin() as admin:
            # Nobody is told that it is no member any more, and nothing is written.
            csr = create_csr(generate_key(), SpiffeId(MESH, "node", "n1"))
            for call in (
                mesh.Renew(pb.RenewRequest(csr_pem=csr)),
                mesh.Leave(pb.LeaveRequest()),
                admin.CreateToken(pb.CreateTokenRequest()),
                admin.Drain(pb.DrainRequest(node_name="n1")),
                admin.Apply(pb.ApplyRequest(files=[a_route("b")])),
            ):
                code, says = await refused(call)
                assert (code, "bridgectl restore" in says) == (grpc.StatusCode.UNAVAILABLE, True), says
            assert not any("/nodes/" in key or "/config/" in key for key in etcd.items)
            await node.register(store)  # an agent that got a new lease
            done = await admin.Restore(pb.RestoreRequest())
            assert (done.nodes, done.documents, done.tokens) == (3, 1, 4)
            assert done.revocations == len(before.mesh.revoked_serials)
            hub = bed.registry.publisher.hub
            await eventually(lambda: follower.snapshot.version > before.version)
            await eventually(lambda: set(follower.snapshot.instances) == {"n1/0"})
            assert contents(follower.snapshot) == contents(before)
            assert all(seen == {"n1/0"} for seen in follower.seen)
            assert not (await admin.Status(pb.StatusRequest())).concerns
            await eventually(lambda: "/bridge/v1/ca/authorities" in etcd.items)
            await admin.Apply(pb.ApplyRequest(files=[a_route("b")]))
            await eventually(lambda: set(hub.current.routes) == {"a", "b"})
            code, says = await refused(admin.Restore(pb.RestoreRequest()))
            assert (code, "nothing to restore" in says) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    await store.close()


async def test_a_store_that_is_another_is_told_in_log_readiness_and_metric_too(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with a_registry(tmp_path, etcd) as bed:
        await a_mesh(bed, store)
        assert "bridge_registry_store_foreign 0.0" in await page(bed, "/metrics")
        with capture_logs() as logs:
            etcd.lose_everything()
            await noticed(bed)
        (told,) = [entry for entry in logs if entry["event"] == "store_is_not_the_known_one"]
        assert (told["log_level"], "bridgectl restore" in told["hint"]) == ("error", True)
        assert "bridge_registry_store_foreign 1.0" in await page(bed, "/metrics")
        assert "came back empty" in await page(bed, "/readyz")
        async with bed.admin() as admin:
            await admin.Restore(pb.RestoreRequest())

        async def known_again() -> bool:
            return "bridge_registry_store_foreign 0.0" in await page(bed, "/metrics")

        await eventually(known_again)
    await store.close()


async def page(bed: Bed, path: str) -> str:
    """What the registry's admin listener says there."""
    pool = Pool(("127.0.0.1", bed.registry.admin_port))
    try:
        async with pool.request("GET", path, [(b"host", b"localhost")]) as response:
            return (await response.read()).decode()
    finally:
        await pool.close()


async def test_a_store_put_back_from_an_older_copy_is_noticed_and_brought_up_to_date(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with a_registry(tmp_path, etcd) as bed:
        await bed.leads()
        await bed.join("gone")
        await eventually(lambda: "/bridge/v1/store" in etcd.items)
        older = {key: item for key, item in etcd.items.items() if not item.lease}, etcd.revision
        async with bed.admin() as admin:
            await admin.Revoke(pb.RevokeRequest(node_name="gone"))
        node = await a_mesh_with_one(bed, store)
        before = bed.registry.publisher.hub.current
        etcd.lose_everything()
        etcd.items, etcd.revision = older
        assert "went back" in await noticed(bed)
        async with bed.admin() as admin, following(node, Follower()) as follower:
            assert bed.registry.publisher.hub.current.entries == before.entries
            await admin.Restore(pb.RestoreRequest())
            await eventually(lambda: follower.snapshot.version > before.version)
            assert follower.snapshot.nodes["gone"].state == "revoked"
            assert contents(follower.snapshot) == contents(before)
    await store.close()


async def a_mesh_with_one(bed: Bed, store: FakeStore) -> Node:
    node = await bed.join("n1")
    await node.register(store)
    hub = bed.registry.publisher.hub
    await eventually(lambda: "n1/0" in hub.current.instances and hub.current.nodes["gone"].state == "revoked")
    return node


async def test_a_store_that_is_right_as_it_is_can_be_accepted(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with a_registry(tmp_path, etcd) as bed:
        node = await a_mesh(bed, store)
        before = bed.registry.publisher.hub.current
        etcd.lose_everything()
        await noticed(bed)
        async with bed.admin() as admin, following(node, Follower()) as follower:
            done = await admin.Restore(pb.RestoreRequest(accept_store=True))
            assert (done.nodes, done.removed) == (0, 0)
            await eventually(lambda: follower.snapshot.version > before.version)
            await eventually(lambda: not follower.snapshot.nodes)
            assert follower.snapshot.mesh.store_id == before.mesh.store_id
    await store.close()


async def test_agents_that_saw_more_than_a_backup_follow_at_an_admins_word(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with a_registry(tmp_path, etcd) as bed:
        node = await a_mesh(bed, store)
        before = bed.registry.publisher.hub.current
        # What a registry in the lost machine's place publishes is older than what this agent has.
        seen = Version(before.version.epoch + 1000, before.version.revision)
        ahead = Follower(Snapshot(seen, before.entries))
        async with bed.admin() as admin, following(node, ahead) as follower:
            await admin.Restore(pb.RestoreRequest(accept_store=True))
            await eventually(lambda: bed.registry.publisher.hub.current.version > seen)
            await eventually(lambda: follower.snapshot.version == bed.registry.publisher.hub.current.version)
            assert contents(follower.snapshot) == contents(before)
            await admin.Apply(pb.ApplyRequest(files=[a_route("b")]))
    await store.close()


async def test_a_second_registry_notices_too_and_goes_on_once_the_first_restored(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    one, two = tmp_path / "one", tmp_path / "two"
    async with a_registry(one, etcd) as first:
        await a_mesh(first, store)
        (two / "pki").mkdir(parents=True)
        for name in ("authorities.json", "keyring", "kek"):
            write_atomically(two / "pki" / name, (one / "pki" / name).read_bytes())
        async with a_registry(two, etcd, "r2") as second:
            tables = [bed.registry.publisher.table for bed in (first, second)]
            await eventually(lambda: tables[1].records == tables[0].records)
            etcd.lose_everything()

            async def both() -> list[Bed]:
                leading = []
                for bed in (first, second):
                    async with bed.admin() as admin:
                        status = await admin.Status(pb.StatusRequest())
                    assert status.concerns
                    leading += [bed] if status.leader else []
                return leading

            (leader,) = await eventually(both)
            async with leader.admin() as admin:
                await admin.Restore(pb.RestoreRequest())

            async def calm() -> bool:
                for bed in (first, second):
                    async with bed.admin() as admin:
                        status = await admin.Status(pb.StatusRequest())
                    if status.concerns or len(status.nodes) != 3:
                        return False
                return True

            await eventually(calm)
    await store.close()
