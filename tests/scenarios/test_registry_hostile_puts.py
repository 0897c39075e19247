"""One put of a node, whatever its bytes, ends no registry: not now, and not at its next start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge_core.store.api import Put
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import leading, make_settings, running
from tests.support import eventually
from tests.unit.test_hostile_records import BAD


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
async def test_a_bad_record_is_named_and_counted_and_everything_goes_on(tmp_path: Path, raw: bytes) -> None:
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    async with leading(tmp_path, etcd) as bed:
        node = await bed.join("n1")
        etcd.apply([Put("/bridge/v1/members/n1/0", raw)])
        await eventually(lambda: bed.registry.publisher.table.faults)
    async with leading(tmp_path, etcd) as bed:  # the next start
        await node.register(store, n=1)
        await eventually(lambda: "n1/1" in bed.registry.publisher.hub.current.instances)
        async with bed.admin() as admin:
            (concern,) = (await admin.Status(pb.StatusRequest())).concerns
        assert concern.startswith("1 record in the store does not decode: /bridge/v1/members/n1/0")
    await store.close()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (b"a.yaml", b"\xff\xfe"),
        (b"\xff.yaml", b"kind: Foo"),
        (b"a.yaml", b"a: " + b"[" * 5000),
        (b"a.yaml", b"# " + b"x" * (5 << 20)),
        (b"a.yaml", b"kind: !!bool x"),
    ],
    ids=["not UTF-8", "its name is not", "deep", "huge", "no bool"],
)
async def test_a_bad_file_in_the_folder_is_a_concern_and_ends_nothing(
    tmp_path: Path, name: bytes, raw: bytes
) -> None:
    folder = tmp_path / "mesh_config"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(raw)
    store = FakeStore(FakeEtcd())
    async with running(make_settings(tmp_path / "r", mesh_config=folder), store) as bed:
        await bed.leads()
        watch = bed.registry.mesh_config_watch
        assert watch is not None
        await eventually(lambda: any(".yaml:" in fault for fault in watch.faults))
        async with bed.admin() as admin:
            concerns = (await admin.Status(pb.StatusRequest())).concerns
        assert any(one.startswith("the folder of mesh_config is not applied") for one in concerns)
    await store.close()
