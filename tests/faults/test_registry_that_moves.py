"""Registries and store guards that move: agents find them by what the mesh tells, no file is edited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.cluster.agent_bed import held_engine
from tests.node_processes import WAIT_S, NodeProcess, apply_route, joined, leading
from tests.registry_processes import Registries, RegistryPair, registries
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.faults]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Registries]:
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    with registries(tmp_path, "registry1", "registry2") as found:
        yield found


@pytest.fixture
async def engine() -> AsyncIterator[EngineConfig]:
    async with held_engine() as (_, config):
        yield config


async def knows(agent: NodeProcess, *pairs: RegistryPair) -> None:
    """Waits until these registries and guards are in its snapshot, and no others."""
    wanted = {one.address for one in pairs}, {f"https://{one.guard}" for one in pairs}

    def told() -> bool:
        mesh = agent.snapshot.mesh
        return (set(mesh.registries), set(mesh.guards)) == wanted

    await eventually(told, WAIT_S)


async def follows(agent: NodeProcess, pair: RegistryPair, route: str) -> None:
    """Waits until what an admin applies there is in its snapshot."""
    await apply_route(pair, route)
    await eventually(lambda: route in agent.snapshot.routes, WAIT_S)


async def test_a_registry_and_its_guard_that_moved_are_found_without_a_file_being_edited(
    mesh: Registries, tmp_path: Path, engine: EngineConfig
) -> None:
    first, second = mesh.pairs
    first.start()
    await leading(first)
    agent = await joined(first, tmp_path / "node1", engine)
    written = agent.state.settings.read_bytes()
    try:
        await agent.start()
        await knows(agent, first)
        await agent.linked()
        second.start()
        await knows(agent, first, second)
        first.stop()
        await leading(second)
        await follows(agent, second, "one-is-away")
        await agent.linked()
        first.start()  # at other ports than before
        await knows(agent, first, second)
        second.stop()
        await leading(first)
        await follows(agent, first, "one-has-moved")
        await agent.linked()
        await eventually(lambda: "node1/0" in agent.snapshot.instances, WAIT_S)
        agent.kill()  # and what it learned outlives it
        await agent.start()
        await follows(agent, first, "after-a-restart")
        await agent.linked()
        assert agent.state.settings.read_bytes() == written
    finally:
        agent.kill()


async def test_a_mesh_without_a_store_guard_says_so(mesh: Registries) -> None:
    first, _ = mesh.pairs
    first.start()
    await leading(first)

    async def concerns() -> list[str]:
        async with first.admin_channel() as channel:
            stub = AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
            found = (await stub.Status(pb.StatusRequest(), timeout=60)).concerns
        return [one for one in found if one.startswith("no store guard has answered for ")]

    async def told() -> bool:
        return bool(await concerns())

    async def untold() -> bool:
        return not await concerns()

    first.stop_guard()
    await eventually(told, WAIT_S)
    first.start_guard()
    await eventually(untold, WAIT_S)
