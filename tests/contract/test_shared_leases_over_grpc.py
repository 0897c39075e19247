"""Two nodes that publish a model at one time, through a real registry: one of them is refused, by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge_agent.config import StateDir
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.models.shared.hold import Hold, held
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.tier_writes import TierWriter
from bridge_core import keyspace
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.names import ModelName, canonical
from bridge_core.store.api import Delete, Put, Store
from bridge_registry.shared_storage.hold_rules import BEATS, MOST_HELD
from bridge_registry.shared_storage.publications import Publications
from bridge_wire.v1 import shared_storage_pb2 as pb
from bridge_wire.v1.shared_storage_pb2_grpc import SharedStorageStub
from tests.contract.store.beds import store_clients
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Node, leading, make_settings, refused, running
from tests.shared_bed import Leases
from tests.support import eventually

TIER = "ab" * 16
MODEL = canonical("team/big:v1")
NAME = ModelName.parse("team/big:v1")


@pytest.fixture(params=["fake", "etcd"])
async def store(request: Any, tmp_path: Path) -> AsyncIterator[Callable[[], Store]]:
    """Makes clients of one store: of one in memory, and of a real etcd."""
    async with store_clients(request.param, tmp_path / "etcd") as clients:
        yield clients


async def client_of(bed: Bed, folder: Path, name: str) -> tuple[RegistryClient, Node]:
    """A node's way to the registry."""
    node, state = await bed.join(name), StateDir(folder / name)
    state.ca.parent.mkdir(parents=True)
    state.ca.write_bytes(bed.ca_pem)
    state.key.write_bytes(node.key_pem)
    state.certificate.write_bytes(node.cert_pem)
    return RegistryClient(bed.address, state), node


@contextlib.asynccontextmanager
async def soon_held(client: RegistryClient, tier: str) -> AsyncIterator[Hold]:
    """A lease that another one gave back: had at once, or once it runs out where the store is slow."""

    async def taken() -> Hold | None:
        with contextlib.suppress(BridgeError):
            return await stack.enter_async_context(held([client], tier, MODEL))
        return None

    async with contextlib.AsyncExitStack() as stack:
        found = await eventually(taken)
        assert found is not None
        yield found


async def nothing_held(store: Store) -> bool:
    return not (await store.list(keyspace.PUBLISHING)).items


async def test_the_second_writer_is_refused_and_the_first_ones_manifest_stands(
    tmp_path: Path, store: Callable[[], Store]
) -> None:
    """Both ends real but for the file system's machines: two writers on one folder, leases in the store."""
    (tmp_path / "share").mkdir()
    first, second = (TierWriter(tmp_path / "share", Patience(30.0)) for _ in range(2))
    async with running(make_settings(tmp_path / "r"), client := store()) as bed:
        await bed.leads()
        (a, _), (b, _) = [await client_of(bed, tmp_path, name) for name in "ab"]
        tier = first.identity()
        assert second.identity() == tier
        async with held([a], tier, MODEL) as hold:
            assert hold.valid()
            assert hold.token > 0
            first.tidy()
            first.claim(NAME, "first", hold.valid)
            with pytest.raises(BridgeError, match=r"node a is publishing .*team/big:v1") as fault:
                async with held([b], tier, MODEL):
                    raise AssertionError
            assert not isinstance(fault.value, Unavailable)
            # Another model, and another storage, are nobody's.
            async with held([b], tier, canonical("other:v1")), held([b], TIER, MODEL):
                pass
            first.list_model(NAME, b"the first one's", "first", hold.valid)
        assert not hold.valid()
        async with soon_held(b, tier) as later:
            assert later.token > hold.token
            second.claim(NAME, "second", later.valid)
            with pytest.raises(BridgeError):
                first.list_model(NAME, b"too late", "first", lambda: True)
            second.list_model(NAME, b"the second one's", "second", later.valid)
        found = [path.read_bytes() for path in (tmp_path / "share" / "manifests").rglob("v1")]
        assert found == [b"the second one's"]
        await eventually(lambda: nothing_held(client))
        # It is nobody's business when the mesh is put back.
        assert not keyspace.is_lasting(f"{keyspace.PUBLISHING}{tier}/x")
    await client.close()


async def test_a_writer_that_breaks_off_keeps_its_lease_until_it_runs_out(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    async with leading(tmp_path / "r", etcd) as bed:
        bed.registry._shared_storage._publications = Publications(
            FakeStore(etcd), bed.registry._leadership, ttl_s=3.0
        )
        (a, _), (b, _) = [await client_of(bed, tmp_path, name) for name in "ab"]
        async with a.publish() as call:
            await call.send(TIER, MODEL)
            assert 0.0 <= (await call.receive()).valid_s <= 2.0
        # The call was broken off, and its writer may be at work in good faith: not given away at once.
        assert [item.lease in etcd.leases for item in etcd.listing(keyspace.PUBLISHING).items] == [True]

        async def taken() -> bool:
            with contextlib.suppress(BridgeError):
                async with held([b], TIER, MODEL):
                    return True
            return False

        assert await eventually(taken)


async def test_a_remover_beside_a_record_that_cannot_be_read_leaves_none_of_its_own(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    async with leading(tmp_path / "r", etcd) as bed:
        a, _ = await client_of(bed, tmp_path, "a")
        other = f"{keyspace.PUBLISHING}{TIER}/{'0' * 64}"
        etcd.apply([Put(other, b"no record")])
        with pytest.raises(BridgeError, match="cannot be read"):
            async with held([a], TIER, MODEL, alone=True):
                pass
        assert [item.key for item in etcd.listing(keyspace.PUBLISHING).items] == [other]


async def test_a_lease_that_the_store_lost_is_not_renewed(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    async with leading(tmp_path / "r", etcd) as bed:
        a, _ = await client_of(bed, tmp_path, "a")
        async with a.publish() as call:
            await call.send(TIER, MODEL)
            await call.receive()
            (key,) = (key for key in etcd.items if key.startswith(keyspace.PUBLISHING))
            etcd.apply([Delete(key)])
            await call.send(TIER, MODEL)
            with pytest.raises(Unavailable, match="lease was lost"):
                await call.receive()


async def test_a_writer_that_says_nothing_is_left(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        publications = bed.registry._shared_storage._publications
        bed.registry._shared_storage._publications = Publications(
            publications._store, bed.registry._leadership, ttl_s=3.0
        )
        a, _ = await client_of(bed, tmp_path, "a")
        async with a.publish() as call:
            await call.send(TIER, MODEL)
            await call.receive()
            with pytest.raises(Unavailable, match="said nothing"):
                await call.receive()


@pytest.mark.parametrize(
    ("tier", "model"), [("../x", MODEL), (TIER, "Team/Big"), (TIER, "x" * 9000), ("", "")]
)
async def test_what_is_no_tier_or_model_is_refused(tmp_path: Path, tier: str, model: str) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        a, _ = await client_of(bed, tmp_path, "a")
        async with a.publish() as call:
            await call.send(tier, model)
            with pytest.raises(BridgeError, match="32 hexadecimal digits") as fault:
                await call.receive()
        assert not isinstance(fault.value, Unavailable)


async def test_a_node_holds_few_at_a_time_and_only_nodes_hold(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        a, _ = await client_of(bed, tmp_path, "a")
        async with contextlib.AsyncExitStack() as stack:
            for n in range(MOST_HELD):
                await stack.enter_async_context(held([a], TIER, canonical(f"m{n}")))
            with pytest.raises(BridgeError, match="may no more"):
                await stack.enter_async_context(held([a], TIER, canonical("one-more")))
        async with held([a], TIER, canonical("one-more")):
            pass
        async with bed.called_by(*bed._admin) as channel:
            call = SharedStorageStub(channel).Publish()
            await call.write(pb.PublishBeat(tier=TIER, model=MODEL))
            code, _ = await refused(call.read())
            assert code == grpc.StatusCode.PERMISSION_DENIED


async def test_who_does_not_lead_gives_none(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    async with leading(tmp_path / "r", etcd) as bed:
        a, _ = await client_of(bed, tmp_path, "a")
        etcd.pause()

        async def unavailable() -> bool:
            try:
                async with asyncio.timeout(20), held([a], TIER, MODEL):
                    return False
            except Unavailable:
                return True

        await eventually(unavailable)
        etcd.resume()
        await bed.leads()


async def test_who_removes_is_alone_in_a_tier_and_waits_for_nobody(
    tmp_path: Path, store: Callable[[], Store]
) -> None:
    async with running(make_settings(tmp_path / "r"), client := store()) as bed:
        await bed.leads()
        (a, _), (b, _) = [await client_of(bed, tmp_path, name) for name in "ab"]
        other = canonical("other:v1")
        async with held([a], TIER, MODEL):
            for model in (MODEL, other):
                with pytest.raises(BridgeError, match=r"node a is publishing .*team/big:v1"):
                    async with held([b], TIER, model, alone=True):
                        raise AssertionError
            async with held([b], TIER, other):  # who was refused left nothing behind
                pass
            async with held([b], "cd" * 16, MODEL, alone=True):
                pass
        async with held([b], TIER, MODEL, alone=True) as hold:
            assert hold.valid()
            for model in (MODEL, other):
                for alone in (False, True):
                    with pytest.raises(BridgeError, match=r"node b is removing .*team/big:v1"):
                        async with held([a], TIER, model, alone=alone):
                            raise AssertionError
        async with soon_held(a, TIER):
            pass
        await eventually(lambda: nothing_held(client))
    await client.close()


async def test_a_registry_that_cannot_keep_others_out_is_not_believed() -> None:
    class Old(Leases):
        @contextlib.asynccontextmanager
        async def publish(self) -> AsyncIterator[Any]:
            async with super().publish() as call:
                yield _OldCall(call)

    class _OldCall:
        def __init__(self, call: Any) -> None:
            self._call, self.done, self.receive = call, call.done, call.receive

        async def send(self, tier: str, model: str, *, alone: bool = False) -> None:
            await self._call.send(tier, model)  # it knows nothing of that

    with pytest.raises(BridgeError, match="upgrade the registries"):
        async with held([Old()], TIER, MODEL, alone=True):
            raise AssertionError


async def test_beats_without_a_pause_wait(tmp_path: Path) -> None:
    clock = [100.0]
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        bed.registry._shared_storage._now = lambda: clock[0]
        (a, _), (b, _) = [await client_of(bed, tmp_path, name) for name in "ab"]
        async with a.publish() as call:
            for _ in range(int(BEATS) + 3):
                await call.send(TIER, MODEL)
            for _ in range(int(BEATS) + 1):
                await call.receive()
            more = asyncio.create_task(call.receive())
            async with held([b], TIER, canonical("other:v1")):  # the registry has had time for it
                assert not more.done()
                clock[0] += 1.0
                await more
                await call.receive()
