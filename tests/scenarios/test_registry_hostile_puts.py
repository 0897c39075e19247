"""One put of a node, whatever its bytes, ends no registry: not now, and not at its next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.store.api import Put
from bridge_wire.v1 import registry_pb2 as pb
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import leading
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
