"""Registries and store guards that move: agents find them by what the mesh tells, no file is edited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.config import StateDir
from bridge_agent.engines.config import EngineConfig
from bridge_agent.membership.join import JoinPlan, join
from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from bridge_core.snapshot import Instance, Snapshot
from bridge_core.snapshot_file import SnapshotFile
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.cluster.agent_bed import AgentProcess, free_listeners, held_engine, report_of
from tests.registry_processes import Registries, RegistryPair, registries
from tests.support import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.faults]

WAIT_S = 60.0


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


async def leading(pair: RegistryPair) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: "leading" in pair.ready()), WAIT_S)


async def admin(pair: RegistryPair, route: str = "") -> str:
    """A join token, or a route that is applied."""
    async with pair.admin_channel() as channel:
        stub = AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
        if not route:
            return str((await stub.CreateToken(pb.CreateTokenRequest(), timeout=10)).token)
        text = (
            f"apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {{name: {route}}}\n"
            "spec: {backends: [{model: m}]}\n"
        )
        files = [pb.ConfigFile(name="r.yaml", text=text)]
        assert not (await stub.Apply(pb.ApplyRequest(files=files), timeout=10)).faults
        return ""


class Watched:
    """An agent's process and what it keeps of the mesh."""

    def __init__(self, state: StateDir, settings: Any) -> None:
        self.state, self.settings = state, settings
        self.process = AgentProcess(state, settings)

    @property
    def snapshot(self) -> Snapshot:
        return SnapshotFile(self.state.snapshot, now=lambda: 0.0).load()

    async def knows(self, *pairs: RegistryPair) -> None:
        wanted = {one.address for one in pairs}, {f"https://{one.guard}" for one in pairs}
        mesh = lambda: (set(self.snapshot.mesh.registries), set(self.snapshot.mesh.guards))  # noqa: E731
        await eventually(lambda: mesh() == wanted, WAIT_S)

    async def linked(self) -> None:
        """Waits until registry and store answer it and its record is in the mesh."""

        async def up() -> bool:
            links = report_of((await self.process.get("/status"))[1])["links"]
            return all(link["up"] for link in links if link["name"] in {"registry", "etcd"})

        await eventually(up, WAIT_S)

    async def follows(self, pair: RegistryPair, route: str) -> None:
        """Waits until what an admin applies there is in its snapshot."""
        await admin(pair, route)
        await eventually(lambda: route in self.snapshot.routes, WAIT_S)


async def test_a_registry_and_its_guard_that_moved_are_found_without_a_file_being_edited(
    mesh: Registries, tmp_path: Path, engine: EngineConfig
) -> None:
    first, second = mesh.pairs
    first.start()
    await leading(first)
    state = StateDir(tmp_path / "node1")
    plan = JoinPlan(
        registries=(first.address,),
        token=await admin(first),
        name="node1",
        listeners=free_listeners(),
        engines=(engine,),
    )
    settings = await join(plan, state)
    written = state.settings.read_bytes()
    agent = Watched(state, settings)
    try:
        await agent.process.ready()
        await agent.knows(first)
        await agent.linked()
        second.start()
        await agent.knows(first, second)
        first.stop()
        await leading(second)
        await agent.follows(second, "one-is-away")
        await agent.linked()
        first.start()  # at other ports than before
        await agent.knows(first, second)
        second.stop()
        await leading(first)
        await agent.follows(first, "one-has-moved")
        await agent.linked()
        await eventually(lambda: isinstance(agent.snapshot.instances.get("node1/0"), Instance), WAIT_S)
        agent.process.kill()  # and what it learned outlives it
        agent.process = AgentProcess(state, settings)
        await agent.process.ready()
        await agent.follows(first, "after-a-restart")
        await agent.linked()
        assert state.settings.read_bytes() == written
    finally:
        agent.process.kill()


async def test_a_mesh_without_a_store_guard_says_so(mesh: Registries) -> None:
    first, _ = mesh.pairs
    first.start()
    await leading(first)

    async def concerns() -> list[str]:
        async with first.admin_channel() as channel:
            stub = AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
            found = (await stub.Status(pb.StatusRequest(), timeout=10)).concerns
        return [one for one in found if one.startswith("no store guard has answered for ")]

    first.stop_guard()

    async def told() -> bool:
        return bool(await concerns())

    await eventually(told, WAIT_S)
    first.start_guard()

    async def untold() -> bool:
        return not await concerns()

    await eventually(untold, WAIT_S)
