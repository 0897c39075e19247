"""A node that let itself be given many certificates is thrown out all the same, and its place taken.

On an etcd of somebody else: 128 operations a transaction.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_core import keyspace
from bridge_core.store.api import Put
from bridge_core.store.etcd import EtcdStore
from bridge_registry.records import SerialRecord, encode
from bridge_wire.v1 import registry_pb2 as pb
from tests.contract.store.beds import limited_store
from tests.registry_bed import Bed, make_settings, running
from tests.support import eventually

pytestmark = pytest.mark.etcd

MANY = 300


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EtcdStore]:
    async with limited_store(tmp_path) as store:
        yield store


@pytest.fixture
async def bed(tmp_path: Path, store: EtcdStore) -> AsyncIterator[Bed]:
    async with running(make_settings(tmp_path / "registry"), store) as bed:
        await bed.leads()
        yield bed


async def renewed_often(store: EtcdStore, node: str) -> set[str]:
    """The serials of a node that asked for a new certificate again and again."""
    record = encode(SerialRecord(f"spiffe://bridge.local/node/{node}", time.time() + 3_600))
    serials = [f"{node.encode().hex()}{number:04x}" for number in range(MANY)]
    for at in range(0, MANY, 100):
        await store.commit([Put(keyspace.SERIALS + serial, record) for serial in serials[at : at + 100]])
    return set(serials)


async def revoked(store: EtcdStore) -> set[str]:
    return {item.key.removeprefix(keyspace.REVOKED) for item in (await store.list(keyspace.REVOKED)).items}


async def test_it_is_revoked(bed: Bed, store: EtcdStore) -> None:
    await bed.join("n1")
    serials = await renewed_often(store, "n1")
    async with bed.admin() as admin:
        await admin.Revoke(pb.RevokeRequest(node_name="n1"))
    assert serials <= await revoked(store)
    item = await store.get(keyspace.NODES + "n1")
    assert item is not None
    assert b'"state":"revoked"' in item.value


async def test_it_is_replaced(bed: Bed, store: EtcdStore) -> None:
    first = await bed.join("n1")
    serials = await renewed_often(store, "n1")
    again = await bed.join("n1", await bed.token(node_name="n1"))
    assert serials <= await revoked(store)
    await eventually(lambda: first.cert_pem != again.cert_pem)


async def test_it_may_leave(bed: Bed, store: EtcdStore) -> None:
    node = await bed.join("n1")
    serials = await renewed_often(store, "n1")
    async with node.mesh() as mesh:
        await mesh.Leave(pb.LeaveRequest())
    assert serials <= await revoked(store)
    assert await store.get(keyspace.NODES + "n1") is None
