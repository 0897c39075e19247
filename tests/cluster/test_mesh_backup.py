"""A mesh whose control plane is lost whole, etcd and registry, and comes back from a backup."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_cli.parts import agent_state
from tests.cluster.conftest import needs_talker
from tests.cluster.mesh_bed import end_hard
from tests.cluster.up_bed import Bridge, post
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]
_NODES = 2


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bridge]:
    needs_talker()
    bed = Bridge(tmp_path / "state", _NODES)
    try:
        yield bed
    finally:
        bed.kill_everything()


@pytest.mark.timeout(400)  # eight commands, each a process of its own, beside a mesh that starts twice
async def test_a_control_plane_lost_whole_comes_back_and_nobody_enrols_again(
    bed: Bridge, tmp_path: Path
) -> None:
    def run(*argv: str) -> str:
        return bed.run(*argv).stdout

    bed.up()
    run("client", "create", "anna")
    keys = {path: path.read_bytes() for path in bed.state.glob("node*/identity/*")}
    assert keys
    file, key = tmp_path / "mesh.backup", f"file:{tmp_path}/backup.key"
    said = run("backup", str(file), "--backup-key", key)
    assert f"{_NODES} nodes, 1 clients" in said
    assert "Made its key" in said

    nodes = {name: bed.pid(name) for name in ("node1", "node2")}
    for part in ("registry", "guard", "etcd"):
        end_hard(bed.pid(part))
    for folder in ("etcd", "registry"):
        shutil.rmtree(bed.state / folder)
    run("restore", str(file), "--backup-key", key)
    assert await answers(bed) == [200] * _NODES  # while there is no control plane
    run("up")

    async def whole() -> bool:
        states = [await agent_state(agent["admin"]) for agent in bed.mesh()["agents"]]
        return all(state.ready and state.instances == _NODES for state in states)

    await eventually(whole, 60)
    assert {name: bed.pid(name) for name in nodes} == nodes
    assert {path: path.read_bytes() for path in keys} == keys
    assert "anna" in run("client", "list")
    assert await answers(bed) == [200] * _NODES
    run("down")


async def answers(bed: Bridge) -> list[int]:
    """What each node answers to a request."""
    body = {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    said = [
        await asyncio.to_thread(post, agent["http"], "/api/generate", body) for agent in bed.mesh()["agents"]
    ]
    return [status for status, _ in said]
