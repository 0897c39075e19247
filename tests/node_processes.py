"""Agents as processes that joined registries which are processes, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from bridge_agent.config import AgentConfig, Listeners, StateDir
from bridge_agent.engines.config import EngineConfig
from bridge_agent.membership.join import JoinPlan, join
from bridge_core.http1 import Pool
from bridge_core.snapshot import Snapshot
from bridge_core.snapshot_file import SnapshotFile
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.cluster.agent_bed import AgentProcess, free_listeners, report_of
from tests.registry_processes import RegistryPair
from tests.sealing_bed import sealer_of
from tests.support import eventually

WAIT_S = 60.0


async def leading(pair: RegistryPair) -> None:
    """Waits until it leads."""
    await eventually(lambda: asyncio.to_thread(lambda: "leading" in pair.ready()), WAIT_S)


async def make_token(pair: RegistryPair) -> str:
    async with pair.admin_channel() as channel:
        stub = AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
        return str((await stub.CreateToken(pb.CreateTokenRequest(), timeout=60)).token)


async def apply_route(pair: RegistryPair, name: str) -> None:
    text = (
        f"apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {{name: {name}}}\n"
        "spec: {backends: [{model: m}]}\n"
    )
    async with pair.admin_channel() as channel:
        stub = AdminStub(channel)  # type: ignore[no-untyped-call]  # generated
        files = [pb.ConfigFile(name="r.yaml", text=text)]
        assert not (await stub.Apply(pb.ApplyRequest(files=files), timeout=60)).faults


async def joined(
    pair: RegistryPair,
    folder: Path,
    engine: EngineConfig,
    listeners: Listeners | None = None,
    *,
    advertise: str | None = None,
) -> NodeProcess:
    """A node that joined by this registry, named after its folder; not started."""
    plan = JoinPlan(
        registries=(pair.address,),
        token=await make_token(pair),
        name=folder.name,
        listeners=listeners or free_listeners(),
        engines=(engine,),
        advertise=advertise,
    )
    state = StateDir(folder)
    return NodeProcess(state, await join(plan, state))


class NodeProcess:
    """A node's agent and what it keeps of the mesh."""

    def __init__(self, state: StateDir, settings: AgentConfig) -> None:
        self.state, self.settings = state, settings
        self.process: AgentProcess | None = None

    async def start(self) -> None:
        """Starts it, and waits until it serves."""
        self.process = AgentProcess(self.state, self.settings)
        await self.process.ready()

    @property
    def running(self) -> AgentProcess:
        assert self.process is not None
        return self.process

    async def stop(self) -> None:
        self.running.process.terminate()
        await self.running.ended()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    @property
    def snapshot(self) -> Snapshot:
        """What it has on disk."""
        return SnapshotFile(self.state.snapshot, sealer_of(self.state), now=lambda: 0.0).load()

    async def concerns(self) -> list[str]:
        found: list[str] = report_of((await self.running.get("/status"))[1])["concerns"]
        return found

    async def linked(self) -> None:
        """Waits until registry and store answer it."""

        async def up() -> bool:
            links = report_of((await self.running.get("/status"))[1])["links"]
            return all(link["up"] for link in links if link["name"] in {"registry", "etcd"})

        await eventually(up, WAIT_S)

    async def ask(self, model: str, session: str = "") -> tuple[int, str]:
        """Status and answering node of one request."""
        status, node, _ = await self._ask(model, session)
        return status, node

    async def told(self, model: str) -> tuple[int, str]:
        """Status and error of one request."""
        status, _, body = await self._ask(model, "")
        return status, "" if status == 200 else str(msgspec.json.decode(body)["error"])

    async def _ask(self, model: str, session: str) -> tuple[int, str, bytes]:
        host, _, port = self.settings.listeners.http.rpartition(":")
        pool = Pool((host, int(port)))
        body = msgspec.json.encode({"model": model, "prompt": "x", "stream": False})
        try:
            fields = ((b"content-type", b"application/json"), (b"x-bridge-session", session.encode()))
            async with pool.request("POST", b"/api/generate", fields, body) as response:
                said = await response.read(1 << 20)
                node = response.headers.get(b"x-bridge-node") or b""
                return response.status, node.decode(), said
        finally:
            await pool.close()
