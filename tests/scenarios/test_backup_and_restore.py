"""A registry's backup, taken from one store and put back into an empty one by another registry."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.store.api import Put
from bridge_registry.backup.backup_rules import Backup, content_of, decode
from bridge_registry.backup.placing import place
from bridge_registry.backup.taking import take
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, leading, make_settings, running
from tests.support import eventually

_ROUTE = """apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: helper}
spec: {backends: [{model: tiny, weight: 100}]}
"""


async def taken(state: Path, etcd: FakeEtcd) -> Backup:
    store = FakeStore(etcd)
    try:
        return decode(content_of(await take(state / "pki", store, version="1", now=1.0)))
    finally:
        await store.close()


async def founded(state: Path, etcd: FakeEtcd) -> Backup:
    """A mesh with a node, a token and a route, and its backup."""
    async with leading(state, etcd) as bed:
        await bed.join("n1")
        async with bed.admin() as admin:
            await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="r.yaml", text=_ROUTE)]))
        return await taken(state, etcd)


async def revisions(bed: Bed) -> list[int]:
    async with bed.admin() as admin:
        return [one.number for one in (await admin.History(pb.HistoryRequest(limit=9))).revisions]


async def test_an_empty_store_is_filled_unasked_after_a_restore(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    backup = await founded(tmp_path / "r1", etcd)
    place(backup, tmp_path / "new", replace=False, now=1.0)
    async with leading(tmp_path / "new", FakeEtcd()) as bed:
        hub = bed.registry.publisher.hub
        await eventually(lambda: set(hub.current.nodes) == {"n1"} and "helper" in hub.current.routes)
        assert hub.current.mesh.store_id == backup.store.id
        assert hub.current.version.epoch >> 48 == backup.store.generation + 1
        assert await revisions(bed) == [1]
        async with bed.admin() as admin:
            assert not (await admin.Status(pb.StatusRequest())).concerns
    # Asked for once: a store lost later is an admin's to decide about again.
    assert b'"put_back"' not in (tmp_path / "new" / "store.json").read_bytes()


async def test_a_store_that_still_holds_the_mesh_stays_as_it_is(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    backup = await founded(tmp_path / "r1", etcd)
    async with leading(tmp_path / "r1", etcd) as bed:
        await bed.join("n2")
    place(backup, tmp_path / "new", replace=False, now=1.0)
    async with leading(tmp_path / "new", etcd) as bed:
        hub = bed.registry.publisher.hub
        await eventually(lambda: set(hub.current.nodes) == {"n1", "n2"})
        assert bed.registry.publisher._memory.generation == backup.store.generation


async def test_a_store_of_another_mesh_is_not_overwritten(tmp_path: Path) -> None:
    backup = await founded(tmp_path / "r1", FakeEtcd())
    other = FakeEtcd()
    async with leading(tmp_path / "stranger", other):
        pass
    store = FakeStore(other)
    before = {item.key: item.value for item in (await store.list("/bridge/v1/")).items if not item.lease}
    place(backup, tmp_path / "new", replace=False, now=1.0)
    settings = make_settings(tmp_path / "new")
    async with running(settings, store) as bed:
        await eventually(lambda: bool(bed.registry.publisher._memory.foreign))
        assert not bed.registry.publisher.ready
    after = {item.key: item.value for item in (await store.list("/bridge/v1/")).items if not item.lease}
    assert after == before
    await store.close()


async def test_a_backup_is_taken_from_the_meshs_own_store_alone(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    await founded(tmp_path / "r1", etcd)
    with pytest.raises(Fatal, match="holds no mesh"):
        await taken(tmp_path / "r1", FakeEtcd())
    async with leading(tmp_path / "stranger", FakeEtcd()):
        pass
    with pytest.raises(Fatal, match="another CA"):
        await taken(tmp_path / "stranger", etcd)
    with pytest.raises(Fatal, match="cannot read"):
        await taken(tmp_path / "nowhere", etcd)


async def test_what_is_under_a_lease_is_in_no_backup(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    async with leading(tmp_path / "r1", etcd) as bed:
        store = FakeStore(etcd)
        node = await bed.join("n1")
        await node.register(store)
        await store.commit([Put("/bridge/v1/usage/n1/1", b"{}")])
        backup = await taken(tmp_path / "r1", etcd)
        await store.close()
    assert "/bridge/v1/nodes/n1" in backup.records
    assert list(backup.history) == ["/bridge/v1/usage/n1/1"]
    assert not [key for key in backup.records if "members" in key or "leader" in key]


async def test_a_state_that_is_there_is_kept_aside_and_secrets_are_nobody_elses(tmp_path: Path) -> None:
    backup = await founded(tmp_path / "r1", FakeEtcd())
    state = tmp_path / "r1"
    ca = (state / "pki" / "ca.pem").read_bytes()
    with pytest.raises(Fatal, match="state of a registry already"):
        place(backup, state, replace=False, now=1.0)
    place(backup, state, replace=True, now=77.0)
    assert (
        (state / "pki.replaced-77" / "ca.pem").read_bytes() == ca == (state / "pki" / "ca.pem").read_bytes()
    )
    assert (state / "store.json.replaced-77").exists()
    assert stat.S_IMODE((state / "pki").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state / "pki").iterdir()}
    assert {name for name, mode in modes.items() if mode != 0o600} == {"ca.pem", "issuers.pem"}
    assert stat.S_IMODE((state / "store.json").stat().st_mode) == 0o600


async def test_a_restore_that_breaks_off_leaves_no_ca(tmp_path: Path) -> None:
    backup = await founded(tmp_path / "r1", FakeEtcd())
    state = tmp_path / "new"
    state.mkdir()
    backup.files["x" * 300] = b""  # no file can have that name: it fails there as on a full disk
    with pytest.raises(Fatal, match="cannot write"):
        place(backup, state, replace=True, now=1.0)
    assert not (state / "pki").exists()
    assert not list(state.iterdir())
