"""mesh_config through the registry, snapshot streams, outages and fail-over."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import pytest

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically
from bridge_core.snapshot import MemberModel, Snapshot, Version
from bridge_registry.app import Registry
from bridge_registry.enrolment.store_access import OpenAccess
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Follower, following, make_settings, refused, running
from tests.support import eventually


def a_route(name: str, model: str = "m") -> pb.ConfigFile:
    text = f"""\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {{name: {name}}}
spec: {{backends: [{{model: {model}}}]}}  # kept as written
"""
    return pb.ConfigFile(name=f"{name}.yaml", text=text)


def a_mesh(ttl: str) -> pb.ConfigFile:
    text = f"""\
apiVersion: bridge.deepseek.io/v1
kind: Mesh
metadata: {{name: mesh}}
spec: {{leaseTtl: {ttl}}}
"""
    return pb.ConfigFile(name="mesh.yaml", text=text)


@contextlib.asynccontextmanager
async def a_bed(state: Path, etcd: FakeEtcd, name: str = "r1", **more: object) -> AsyncIterator[Bed]:
    store = FakeStore(etcd)
    async with running(make_settings(state, name, **more), store) as bed:
        yield bed
    await store.close()


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    async with a_bed(tmp_path, etcd) as found:
        await found.leads()
        yield found


async def test_apply_diff_history_rollback(bed: Bed) -> None:
    hub = bed.registry.publisher.hub
    async with bed.admin() as admin:
        first = await admin.Apply(pb.ApplyRequest(files=[a_route("a"), a_route("b")]))
        assert (first.revision, list(first.changed)) == (1, ["ModelRoute/a", "ModelRoute/b"])
        await eventually(lambda: set(hub.current.routes) == {"a", "b"})
        same = await admin.Apply(pb.ApplyRequest(files=[a_route("a")]))
        assert (same.revision, list(same.changed)) == (1, [])
        planned = await admin.Diff(pb.ApplyRequest(files=[a_route("a", "other")], prune=True))
        assert "+spec: {backends: [{model: other}]}  # kept as written" in planned.unified_diff
        assert "--- applied/ModelRoute/b" in planned.unified_diff
        second = await admin.Apply(pb.ApplyRequest(files=[a_route("a", "other")], prune=True))
        assert (second.revision, list(second.changed)) == (2, ["ModelRoute/a", "ModelRoute/b"])
        await eventually(lambda: list(hub.current.routes) == ["a"])
        assert hub.current.routes["a"].backends[0].model == "other"
        third = await admin.Rollback(pb.RollbackRequest(revision=1))
        assert third.revision == 3
        await eventually(lambda: set(hub.current.routes) == {"a", "b"})
        history = (await admin.History(pb.HistoryRequest(limit=2))).revisions
        assert [revision.number for revision in history] == [3, 2]
        assert history[0].author == "spiffe://bridge.local/admin/admin"
        documents = (await admin.GetConfig(pb.GetConfigRequest(kind="ModelRoute", name="a"))).documents
        assert [document.yaml for document in documents] == [a_route("a").text]
        code, says = await refused(admin.Rollback(pb.RollbackRequest(revision=99)))
        assert (code, "no revision 99" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_one_fault_refuses_the_whole_set_and_all_are_named(bed: Bed) -> None:
    async with bed.admin() as admin:
        bad = pb.ConfigFile(name="bad.yaml", text=a_route("x").text.replace("backends", "backend"))
        worse = pb.ConfigFile(name="worse.yaml", text="kind: Foo\n")
        answer = await admin.Apply(pb.ApplyRequest(files=[a_route("a"), bad, worse]))
        assert answer.revision == 0
        assert [(fault.file, fault.line, fault.path) for fault in answer.faults] == [
            ("bad.yaml", 4, "spec.backend"),
            ("bad.yaml", 4, "spec.backends"),
            ("worse.yaml", 1, "kind"),
        ]
        assert not (await admin.GetConfig(pb.GetConfigRequest())).documents
        empty = await admin.Apply(pb.ApplyRequest())
        assert empty.faults[0].message == "there is no document"


async def test_the_folder_is_the_config_and_a_bad_edit_keeps_the_last_good(
    tmp_path: Path, etcd: FakeEtcd
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text(a_route("a").text)
    (folder / "README.md").write_text("not config")
    async with a_bed(tmp_path / "state", etcd, mesh_config=folder) as bed:
        hub = bed.registry.publisher.hub
        await eventually(lambda: set(hub.current.routes) == {"a"})
        (folder / "b.yaml").write_text("kind: Foo\n")
        (folder / "a.yaml").unlink()
        watch = bed.registry.mesh_config_watch
        assert watch is not None
        await watch.look()
        assert "b.yaml:1: kind: 'Foo' is not a known kind" in watch.faults[0]
        assert set(hub.current.routes) == {"a"}
        (folder / "b.yaml").write_text(a_route("b").text)
        await watch.look()
        await eventually(lambda: set(hub.current.routes) == {"b"})
        assert watch.faults == ()
        (folder / "b.yaml").unlink()
        await watch.look()
        assert "there is no YAML file" in watch.faults[0]
        assert set(hub.current.routes) == {"b"}


async def test_a_folder_that_is_back_as_it_was_has_no_fault_but_its_own(
    tmp_path: Path, etcd: FakeEtcd
) -> None:
    folder, away = tmp_path / "config", tmp_path / "away"
    folder.mkdir()
    (folder / "a.yaml").write_text(a_route("a").text)
    async with a_bed(tmp_path / "state", etcd, mesh_config=folder) as bed:
        hub, watch = bed.registry.publisher.hub, bed.registry.mesh_config_watch
        assert watch is not None
        await eventually(lambda: set(hub.current.routes) == {"a"})
        for broken in (False, True):
            if broken:
                (folder / "b.yaml").write_text("kind: Foo\n")
            await watch.look()
            before = watch.faults
            assert bool(before) is broken
            folder.rename(away)  # a share that is not mounted for a moment
            await watch.look()
            assert watch.faults != before
            away.rename(folder)
            await watch.look()
            assert watch.faults == before


async def test_updates_come_as_deltas_and_a_rejection_gets_a_whole_one(bed: Bed) -> None:
    node = await bed.join("n1")
    async with following(node, Follower()) as follower, bed.admin() as admin:
        await eventually(lambda: follower.updates)
        assert follower.updates[0][1]
        await admin.Apply(pb.ApplyRequest(files=[a_route("a")]))
        await eventually(lambda: "a" in follower.snapshot.routes)
        assert not follower.updates[-1][1]
        follower.reject_next = "the ring differs"
        await admin.Apply(pb.ApplyRequest(files=[a_route("b")]))
        await eventually(lambda: "b" in follower.snapshot.routes)
        assert follower.updates[-1][1]
        assert follower.updates[-2] == (follower.updates[-1][0], False)


async def test_an_agent_that_comes_back_gets_only_what_changed(bed: Bed) -> None:
    node = await bed.join("n1")
    async with bed.admin() as admin:
        async with following(node, Follower()) as follower:
            await eventually(lambda: "n1" in follower.snapshot.nodes)
        await admin.Apply(pb.ApplyRequest(files=[a_route("a")]))
        async with following(node, Follower(follower.snapshot)) as again:
            await eventually(lambda: "a" in again.snapshot.routes)
        assert not any(whole for _, whole in again.updates)
        stranger = Snapshot(Version(1, 1), {"route/x": b'{"name":"x"}'})
        async with following(node, Follower(stranger)) as follower:
            await eventually(lambda: "n1" in follower.snapshot.nodes)
        assert follower.updates[0][1]
        assert follower.snapshot.entries == bed.registry.publisher.hub.current.entries


async def test_an_agent_that_does_not_acknowledge_delays_nobody(bed: Bed) -> None:
    node, slow = await bed.join("n1"), await bed.join("n2")
    async with slow.mesh() as stub, following(node, Follower()) as follower, bed.admin() as admin:
        await eventually(lambda: {"n1", "n2"} <= set(follower.snapshot.nodes))
        call = stub.WatchSnapshot()
        await call.write(pb.SnapshotAck())
        first = await call.read()
        for at in range(5):
            await admin.Apply(pb.ApplyRequest(files=[a_route("a", f"m{at}")]))
            await eventually(
                lambda at=at: (
                    follower.snapshot.routes.get("a") is not None
                    and follower.snapshot.routes["a"].backends[0].model == f"m{at}"
                )
            )
        await call.write(pb.SnapshotAck(have=first.version))
        update = await call.read()  # the newest, in one step
        assert {entry.key for entry in update.entries} == {"route/a"}
        assert b'"m4"' in update.entries[0].value
        call.cancel()


async def test_draining_a_node_shows_in_snapshot_and_status(bed: Bed, etcd: FakeEtcd) -> None:
    node, store = await bed.join("n1"), FakeStore(etcd)
    await node.register(store)
    async with bed.admin() as admin, following(node, Follower()) as follower:
        await admin.Drain(pb.DrainRequest(node_name="n1", drained=True))
        await eventually(
            lambda: "n1" in follower.snapshot.nodes and follower.snapshot.nodes["n1"].state == "drained"
        )

        async def acknowledged() -> bool:
            status = await admin.Status(pb.StatusRequest())
            return bool(status.nodes[0].acknowledged == status.version)

        await eventually(acknowledged)
        status = await admin.Status(pb.StatusRequest())
        assert (status.leader, status.store_fault, status.trust_domain) == (True, "", "bridge.local")
        assert list(status.nodes[0].instances) == ["n1/0"]
        code, says = await refused(admin.Drain(pb.DrainRequest(node_name="zz")))
        assert (code, "no node 'zz'" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    await store.close()


async def test_an_outage_of_the_store_empties_nothing(bed: Bed, etcd: FakeEtcd) -> None:
    """Every lease runs out while etcd is away; its return ends them all before anybody can renew."""
    store = FakeStore(etcd)
    nodes = [await bed.join(f"n{at}") for at in range(3)]
    async with bed.admin() as admin, following(nodes[0], Follower()) as follower:
        await admin.Apply(pb.ApplyRequest(files=[a_mesh("3s")]))
        for node in nodes:
            await node.register(store, ttl_s=60.0)
        everybody = {"n0/0", "n1/0", "n2/0"}
        await eventually(lambda: set(follower.snapshot.instances) == everybody)
        follower.seen.clear()
        etcd.pause()
        await eventually(lambda: not bed.registry.publisher.store_up)
        assert (await admin.Status(pb.StatusRequest())).store_fault
        for lease in list(etcd.leases):  # all leases are past their time
            etcd.leases[lease] = (0.0, 0.0)
        etcd.resume()
        await eventually(lambda: not any(key.startswith("/bridge/v1/members/") for key in etcd.items))
        await eventually(lambda: bed.registry.publisher.table.membership.missing == everybody)
        again = FakeStore(etcd)
        for node in nodes[:2]:
            await node.register(again, slots=7)
        # Who did not come back is dropped when the grace is over, and nobody else ever was.
        await eventually(lambda: set(follower.snapshot.instances) == {"n0/0", "n1/0"})
        assert all(seen == everybody for seen in follower.seen[:-1])
        await again.close()
    await store.close()


async def test_a_restart_during_an_outage_serves_the_last_snapshot(tmp_path: Path, etcd: FakeEtcd) -> None:
    store = FakeStore(etcd)
    async with a_bed(tmp_path, etcd) as bed:
        await bed.leads()
        node = await bed.join("n1")
        await node.register(store)
        await eventually(lambda: "n1/0" in bed.registry.publisher.hub.current.instances)
        before = bed.registry.publisher.hub.current
    etcd.pause()
    async with a_bed(tmp_path, etcd) as bed, following(node, Follower(), bed) as follower:
        await eventually(lambda: follower.snapshot.version == before.version)
        assert follower.snapshot.entries == before.entries
        etcd.resume()
        await eventually(lambda: follower.snapshot.version > before.version)
        assert all(seen == {"n1/0"} for seen in follower.seen)
    await store.close()


async def test_fail_over_goes_to_a_higher_epoch_and_the_follower_names_the_leader(
    tmp_path: Path, etcd: FakeEtcd
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        leader = await first.enter_async_context(a_bed(one, etcd, "r1"))
        await leader.leads()
        (two / "pki").mkdir(parents=True)
        for name in ("authorities.json", "keyring", "kek"):
            write_atomically(two / "pki" / name, (one / "pki" / name).read_bytes())
        standby = await second.enter_async_context(a_bed(two, etcd, "r2"))
        node = await leader.join("n1")
        await eventually(lambda: "n1" in standby.registry.publisher.table.nodes)
        async with standby.admin() as admin:
            code, says = await refused(admin.CreateToken(pb.CreateTokenRequest()))
            assert (code, "the registry r1 leads" in says) == (grpc.StatusCode.UNAVAILABLE, True)
            assert len((await admin.Status(pb.StatusRequest())).nodes) == 1
        async with following(node, Follower(), standby) as refused_follower:
            await eventually(lambda: refused_follower.fault)
            assert refused_follower.fault is not None
            assert refused_follower.fault.code() is grpc.StatusCode.UNAVAILABLE
        async with following(node, Follower()) as follower:
            await eventually(lambda: "n1" in follower.snapshot.nodes)
        await first.aclose()
        await standby.leads()
        async with following(node, Follower(follower.snapshot), standby) as moved:
            await eventually(lambda: moved.snapshot.version > follower.snapshot.version)
        assert moved.snapshot.version.epoch > follower.snapshot.version.epoch
        assert moved.snapshot.nodes == follower.snapshot.nodes
        await standby.join("n2")


async def test_a_store_of_another_mesh_ends_the_registry(tmp_path: Path, etcd: FakeEtcd) -> None:
    async with a_bed(tmp_path / "one", etcd) as bed:
        await bed.leads()
        await eventually(lambda: "/bridge/v1/ca/authorities" in etcd.items)
    settings, store = make_settings(tmp_path / "two"), FakeStore(etcd)
    with pytest.raises(ExceptionGroup) as caught:
        await Registry(settings, store, OpenAccess(), settings.ensure_pki()).serve()
    (fault,) = caught.value.exceptions
    assert isinstance(fault, Fatal)
    assert "another CA" in fault.message
    await store.close()


@pytest.mark.parametrize("listener", ["grpc", "admin"])
async def test_a_taken_port_is_named(tmp_path: Path, etcd: FakeEtcd, listener: str) -> None:
    store = FakeStore(etcd)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = taken.getsockname()
        settings = msgspec.structs.replace(make_settings(tmp_path), **{listener: where})
        with pytest.raises(Fatal, match=f"127.0.0.1:{where[1]}"):
            await Registry(settings, store, OpenAccess(), settings.ensure_pki()).serve()
    await store.close()


async def test_an_agent_that_reconnects_keeps_its_acknowledgement_when_its_old_stream_ends(bed: Bed) -> None:
    node, hub = await bed.join("n1"), bed.registry.publisher.hub
    async with node.mesh() as old_stub, node.mesh() as new_stub:
        old, new = old_stub.WatchSnapshot(), new_stub.WatchSnapshot()
        await old.write(pb.SnapshotAck())
        await old.read()
        await new.write(pb.SnapshotAck())
        update = await new.read()
        await new.write(pb.SnapshotAck(have=update.version))
        version = Version(update.version.epoch, update.version.revision)
        await eventually(lambda: "n1" in hub.acknowledged and hub.acknowledged["n1"].have == version)
        await old.done_writing()
        assert await old.read() is grpc.aio.EOF
        assert hub.acknowledged["n1"].have == version
        await new.done_writing()
        await eventually(lambda: "n1" not in hub.acknowledged)


async def test_an_apply_warns_of_models_that_nobody_has_and_a_rollback_says_what_it_deletes(
    bed: Bed, etcd: FakeEtcd
) -> None:
    node, store = await bed.join("n1"), FakeStore(etcd)
    await node.register(store, models=(MemberModel("Tiny:latest"),))
    hub = bed.registry.publisher.hub
    await eventually(lambda: "n1/0" in hub.current.instances)
    async with bed.admin() as admin:
        files = [a_route("a", "tiny"), a_route("b", "nobody:has")]
        warning = "route b: no node has the model nobody:has"
        assert list((await admin.Diff(pb.ApplyRequest(files=files))).warnings) == [warning]
        first = await admin.Apply(pb.ApplyRequest(files=files[:1]))
        assert (list(first.faults), list(first.warnings)) == ([], [])
        second = await admin.Apply(pb.ApplyRequest(files=files))
        assert (list(second.faults), list(second.warnings)) == ([], [warning])
        back = await admin.Rollback(pb.RollbackRequest(revision=first.revision))
        assert (list(back.changed), list(back.removed)) == (["ModelRoute/b"], ["ModelRoute/b"])
        revisions = (await admin.History(pb.HistoryRequest())).revisions
        assert [one.restores for one in revisions] == [first.revision, 0, 0]
    await store.close()
