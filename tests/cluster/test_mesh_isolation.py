"""A mesh whose engines run in cgroups and behind every wall, as a NodeClass asks: real processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.proc import place_of
from bridge_agent.engines.process import ProcessRecord
from bridge_agent.limits.cgroup import find_hierarchy, open_cgroups
from bridge_agent.limits.isolation import probe
from bridge_core.errors import BridgeError
from tests.cluster.conftest import needs_talker
from tests.cluster.mesh_bed import ASK, GREEDY, NODES, SOLO, TALKER, Mesh, call, end_hard, open_mesh
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.timeout(400)]

WALLS = ["cgroup", "mount", "pid", "ipc", "uts", "net", "capabilities", "no_new_privs"]
MEMORY = 640 << 20  # the talker takes 440 MiB with 4096 tokens of context, 800 MiB with 8192
TOO_MUCH_CONTEXT = 8192
PATIENCE_S = 60.0


def walled_class(memory: str = "640MiB", pids: int = 400) -> str:
    return (
        "apiVersion: bridge.deepseek.io/v1\n"
        "kind: NodeClass\n"
        "metadata: {name: walled}\n"
        "spec:\n"
        f"  limits: {{memoryMax: {memory}, pidsMax: {pids}, cpuMax: 1.5}}\n"
        f"  isolation: {{walls: [{', '.join(WALLS)}], require: [cgroup, mount, pid, net]}}\n"
    )


class WalledMesh:
    """The mesh, and what its agents say of their engines."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._file = mesh.state.parent / "walled.yaml"

    def apply(self, text: str, *, check: bool = True) -> str:
        self._file.write_text(text)
        ended = self.mesh.run("apply", "-f", str(self._file), check=check)
        return ended.stdout + ended.stderr

    def status(self, node: str) -> Any:
        return msgspec.json.decode(call(self.mesh.address(node, "admin"), "GET", "/status")[2])

    def engine(self, node: str) -> Any:
        """The report of a node's only engine."""
        return self.status(node)["instances"][0]

    def metric(self, node: str, name: str) -> float:
        page = call(self.mesh.address(node, "admin"), "GET", "/metrics")[2].decode()
        values = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(f"{name}{{")]
        return float(values[0])

    def answers(self, node: str, model: str = TALKER) -> bool:
        body = {"model": model, "messages": ASK, "stream": False, "options": GREEDY}
        return call(self.mesh.address(node), "POST", "/api/chat", body)[0] == 200

    def record(self, node: str) -> ProcessRecord:
        record = ProcessRecord.load(self.mesh.state / node / "engines" / "0" / "process.json")
        assert record is not None
        return record

    def engines(self) -> dict[str, int]:
        return {node: self.mesh.engine_pid(node) for node in NODES}


def groups_of(state: Path) -> list[str]:
    """The cgroups that were made for the nodes of a mesh."""
    marks = {hashlib.sha256(place_of(state / node).encode()).hexdigest()[:8] for node in NODES}
    trees = {tree.own for tree in find_hierarchy().trees.values()}
    return [str(path) for tree in trees for mark in marks for path in Path(tree).glob(f"bridge-node*-{mark}")]


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledMesh]:
    needs_talker()
    _needs_isolation()
    state = tmp_path_factory.mktemp("walled-mesh") / "state"
    for mesh in open_mesh(state):
        it = WalledMesh(mesh)
        it.apply(walled_class())
        # Walls stand from an engine's start on.
        mesh.run("down")
        mesh.run("up")
        yield it
    assert groups_of(state) == []
    assert str(state) not in Path("/proc/self/mountinfo").read_text()


def _needs_isolation() -> None:
    if os.geteuid() != 0:
        pytest.skip("SKIPPED LOUDLY: limits and walls of a whole mesh need root")
    if impossible := asyncio.run(probe()):
        pytest.skip(f"SKIPPED LOUDLY: this machine does not allow every wall: {impossible}")
    groups, why = open_cgroups(f"test-{os.getpid()}")
    if groups is None:
        pytest.skip(f"SKIPPED LOUDLY: no cgroups: {why}")
    if missing := {"memory", "pids", "cpu"} - set(groups.hierarchy.controllers):
        pytest.skip(f"SKIPPED LOUDLY: no cgroup controllers {missing}")


async def test_every_node_answers_from_engines_that_only_their_agents_reach(walled: WalledMesh) -> None:
    for node in NODES:
        assert walled.answers(node)
        assert walled.answers(node, SOLO)  # node3's alone: also over the peer link
        engine = walled.engine(node)
        assert engine["isolation"]["walls"] == WALLS
        assert "missing" not in engine["isolation"]
        assert engine["isolation"]["limits"]["memory_max"] == MEMORY
        assert engine["isolation"]["usage"]["pids"] > 1
        assert walled.status(node)["concerns"] == []
        assert walled.metric(node, "bridge_engine_memory_limit_bytes") == MEMORY
        record = walled.record(node)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((record.host, record.port), 5)


async def test_an_engine_over_its_memory_limit_dies_alone(walled: WalledMesh) -> None:
    before = walled.engines()
    others = [node for node in NODES if node != "node2"]
    record = walled.record("node2")
    client = EngineClient(record.host, record.port, record.pid)
    try:
        with contextlib.suppress(BridgeError):  # dying is the answer
            await client.generate_one(TALKER, context_length=TOO_MUCH_CONTEXT)
    finally:
        await client.close()

    async def told() -> bool:
        return walled.metric("node2", "bridge_engine_oom_kills_total") >= 1

    await eventually(told, PATIENCE_S)
    (concern,) = walled.status("node2")["concerns"]
    assert concern.startswith("node2/0 was killed at its memory limit of 640 MiB")
    assert concern in " ".join(walled.mesh.run("status", check=False).stdout.split())
    assert walled.engine("node2")["isolation"]["usage"]["memory_bytes"] <= MEMORY
    assert {node: walled.mesh.engine_pid(node) for node in others} == {node: before[node] for node in others}
    for node in others:
        assert walled.metric(node, "bridge_engine_oom_kills_total") == 0
        assert walled.answers(node)
    await walled.mesh.whole(PATIENCE_S)
    await eventually(lambda: walled.answers("node2"), PATIENCE_S)


async def test_an_agent_that_comes_back_takes_its_isolated_engine_over(walled: WalledMesh) -> None:
    before = walled.engines()
    walled.mesh.kill("node1")
    await walled.mesh.repair()
    await walled.mesh.whole(PATIENCE_S)
    assert walled.engines() == before
    engine = walled.engine("node1")
    assert engine["pid"] == before["node1"]
    assert engine["isolation"]["walls"] == WALLS
    assert engine["isolation"]["usage"]["memory_bytes"] > 0
    assert walled.answers("node1")


async def test_limits_change_under_a_running_engine(walled: WalledMesh) -> None:
    before = walled.engines()
    assert "Revision" in walled.apply(walled_class("700MiB", 300))

    def changed() -> bool:
        limits = [walled.engine(node)["isolation"]["limits"] for node in NODES]
        return all(one["pids_max"] == 300 and one["memory_max"] == 700 << 20 for one in limits)

    await eventually(changed, PATIENCE_S)
    written = [Path(group, "0", "pids.max") for group in groups_of(walled.mesh.state)]
    assert {path.read_text().strip() for path in written if path.exists()} == {"300"}
    assert walled.engines() == before
    assert all(walled.answers(node) for node in NODES)
    walled.apply(walled_class())


async def test_a_wrong_class_is_refused_with_its_line(walled: WalledMesh) -> None:
    said = walled.apply(walled_class("640MB", -1), check=False)
    assert "walled.yaml:5: spec.limits.memoryMax: should be a size such as 512MiB" in " ".join(said.split())
    assert "spec.limits.pidsMax" in said
    assert walled.status("node1")["concerns"] == []


async def test_an_engine_that_cannot_be_limited_as_asked_is_not_started(walled: WalledMesh) -> None:
    before = walled.engines()
    walled.apply(walled_class("100TiB"))

    def refused() -> bool:
        concerns = walled.status("node3")["concerns"]
        return any("memory_max is" in one and "the machine has" in one for one in concerns)

    await eventually(refused, PATIENCE_S)
    assert walled.engines() == before  # what runs goes on as it was
    assert walled.engine("node3")["isolation"]["limits"]["memory_max"] == MEMORY
    end_hard(before["node3"])

    def waits() -> bool:
        engine = walled.engine("node3")
        return engine["state"] == "backoff" and "the machine has" in engine["detail"]

    await eventually(waits, PATIENCE_S)
    assert walled.answers("node3")  # by the others
    walled.apply(walled_class())
    await walled.mesh.whole(2 * PATIENCE_S)
    assert walled.mesh.engine_pid("node3") != before["node3"]
    assert walled.engine("node3")["isolation"]["walls"] == WALLS
