"""A large mesh_config on an etcd of somebody else: 128 operations a transaction, 1.5 MiB a request."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_core import keyspace
from bridge_core.errors import BridgeError
from bridge_core.store.api import Put, StoreRefused, Unchanged
from bridge_core.store.etcd import EtcdStore
from bridge_registry.membership.mesh_table import MeshTable
from bridge_registry.traffic.config_desk import ConfigDesk
from tests.contract.store.beds import limited_store
from tests.support import eventually

pytestmark = pytest.mark.etcd

MANY = 500
ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata:
  name: route-{n}
spec:
  backends:
    - model: model-{n}:8b
      weight: {weight}
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EtcdStore]:
    async with limited_store(tmp_path) as store:
        yield store


@pytest.fixture
async def desk(store: EtcdStore) -> ConfigDesk:
    return ConfigDesk(store, "bridge.local", lambda: Unchanged("/nobody", 0), lambda: 1.0)


def files(count: int, *, weight: int = 100) -> list[tuple[str, str]]:
    return [(f"{n}.yaml", ROUTE.format(n=n, weight=weight)) for n in range(count)]


@contextlib.asynccontextmanager
async def reading(store: EtcdStore) -> AsyncIterator[tuple[MeshTable, list[set[tuple[int, int]]]]]:
    """A table that follows the store, and what it held after each event: (routes, weights) it saw."""
    table, seen = MeshTable(()), list[set[tuple[int, int]]]()

    async def follow() -> None:
        async with contextlib.aclosing(store.watch(keyspace.ROOT)) as events:
            async for event in events:
                table.apply(event, 0.0)
                weights = {route.spec.backends[0].weight for route in table.routes}
                seen.append({(len(table.routes), weight) for weight in weights})

    task = asyncio.create_task(follow())
    try:
        yield table, seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_limits_are_in_force(store: EtcdStore) -> None:
    with pytest.raises(StoreRefused):
        await store.commit([Put(f"/a/{n}", b"") for n in range(129)])
    with pytest.raises(StoreRefused):
        await store.commit([Put("/a", b"x" * 2 * 1024 * 1024)])


async def test_five_hundred_documents_are_applied_changed_removed_and_rolled_back(
    store: EtcdStore, desk: ConfigDesk
) -> None:
    async with reading(store) as (table, seen):
        first = await desk.apply(files(MANY), prune=True, author="me")
        assert (first.revision, first.faults) == (1, ())
        second = await desk.apply(files(MANY, weight=50), prune=False, author="me")
        assert len(second.change.changed if second.change else ()) == MANY
        third = await desk.apply(files(1), prune=True, author="me")
        assert len(third.change.removed if third.change else ()) == MANY - 1
        await eventually(lambda: len(table.routes) == 1)
        back = await desk.rollback(2, author="me")
        assert back.revision == 4
        await eventually(lambda: len(table.routes) == MANY)
    # Whoever reads sees one revision or another, never a part of one.
    assert set().union(*seen) == {(MANY, 100), (MANY, 50), (1, 100)}
    assert all(len(state) <= 1 for state in seen)
    assert [record.number for record in await desk.history(3)] == [4, 3, 2]
    assert len(await desk.documents("ModelRoute", "")) == MANY


async def test_what_etcd_would_not_take_is_refused_with_the_numbers_and_nothing_changes(
    store: EtcdStore, desk: ConfigDesk
) -> None:

    noise = random.Random(1)
    await desk.apply(files(2), prune=True, author="me")
    large = [(name, text + "# " + noise.randbytes(4_000).hex() + "\n") for name, text in files(MANY)]
    with pytest.raises(BridgeError, match=r"\d+ KiB compressed.*at most \d+ KiB"):
        await desk.apply(large, prune=True, author="me")
    assert len(await desk.documents("", "")) == 2


async def test_a_hundred_revisions_of_many_documents_are_kept_and_no_more(desk: ConfigDesk) -> None:
    for number in range(105):
        await desk.apply(files(3, weight=number + 1), prune=True, author="me")
    history = await desk.history(1_000)
    assert [record.number for record in history] == list(range(105, 5, -1))
    with pytest.raises(BridgeError, match="no revision 5"):
        await desk.rollback(5, author="me")
    assert (await desk.rollback(6, author="me")).revision == 106
