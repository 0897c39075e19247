"""Shifting traffic on a real mesh by the commands that an admin uses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.mesh_bed import Mesh, call
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.llamacpp, pytest.mark.etcd]

ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: shifted}
spec: {backends: [{model: "smollm2:135m"}, {model: tiny, weight: 0}]}
"""
ROLLOUT = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: shift}
spec:
  route: shifted
  stable: smollm2:135m
  canary: tiny
  guards: {minRequests: 1}
"""
PROBE = '  probe: {prompts: [{prompt: "What is the capital of France?", expect: Paris}]}\n'


def apply(mesh: Mesh, folder: Path, *texts: str) -> None:
    for at, text in enumerate(texts):
        (folder / f"{at}.yaml").write_text(text)
    mesh.run("apply", "-f", str(folder), "--prune")


def status(mesh: Mesh) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(mesh.run("rollout", "status", "--json").stdout)
    return found[0]


async def ask(mesh: Mesh, node: str) -> tuple[int, str]:
    body = {"model": "shifted", "prompt": "a", "stream": True, "options": {"num_predict": 2}}
    code, headers, _ = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/generate", body)
    return code, headers.get("x-bridge-node", "")


async def test_a_canary_that_answers_wrongly_goes_back_before_anybody_sees_it(
    mesh: Mesh, tmp_path: Path
) -> None:
    apply(mesh, tmp_path, ROUTE, ROLLOUT + PROBE)
    try:
        found = await eventually(lambda: (one := status(mesh))["phase"] == "rolled-back" and one, 60)
        assert "the probe failed on node" in found["reason"]
        assert "expected 'Paris'" in found["reason"]

        def all_stable() -> bool:  # what agents follow is published after the phase
            now = status(mesh)
            return (now["stable"]["share"], now["canary"]["share"]) == (1.0, 0.0)

        await eventually(all_stable, 60)
    finally:
        mesh.run("apply", "-f", str(tmp_path / "0.yaml"), "--prune")


async def test_agents_report_what_users_get_and_promote_moves_them(mesh: Mesh, tmp_path: Path) -> None:
    apply(mesh, tmp_path, ROUTE, ROLLOUT)
    try:
        await eventually(lambda: status(mesh)["events"])

        async def answered() -> bool:
            return (await ask(mesh, "node1"))[0] == 200

        await eventually(answered)
        mesh.run("rollout", "pause", "shift")
        assert status(mesh)["phase"] == "paused"
        for node in ("node1", "node2", "node3"):
            assert (await ask(mesh, node))[0] == 200
        await eventually(lambda: int(status(mesh)["stable"]["requests"]) >= 3)
        mesh.run("rollout", "promote", "shift")
        assert status(mesh)["phase"] == "complete"
        await eventually(lambda: status(mesh)["canary"]["share"] == 1.0)
        mesh.run("rollout", "abort", "shift")
        assert status(mesh)["phase"] == "aborted"
    finally:
        mesh.run("apply", "-f", str(tmp_path / "0.yaml"), "--prune")


async def test_a_drained_node_gets_no_more_work_and_is_said_to_be_safe(mesh: Mesh) -> None:
    try:
        said = mesh.run("drain", "node2", "--timeout", "60").stdout
        assert "node2 is drained: safe to stop." in said
        served = {(await ask_model(mesh, f"{at}")) for at in range(12)}
        assert "node2" not in served
    finally:
        mesh.run("drain", "node2", "--undo")

    async def back() -> bool:
        return "node2" in {(await ask_model(mesh, f"again {at}")) for at in range(12)}

    await eventually(back, 30)


async def ask_model(mesh: Mesh, prompt: str) -> str:
    body = {"model": "tiny", "prompt": prompt, "stream": False, "options": {"num_predict": 1}}
    code, headers, _ = await asyncio.to_thread(call, mesh.address("node1"), "POST", "/api/generate", body)
    assert code == 200
    return headers["x-bridge-node"]


BLUE_GREEN = """\
apiVersion: bridge.deepseek.io/v1
kind: Rollout
metadata: {name: shift}
spec:
  route: shifted
  stable: smollm2:135m
  canary: tiny
  strategy: blueGreen
  baseline: 1s
  keepWarm: 10m
  guards: {minRequests: 0, ttftP50: null, ttftP95: null, tokensPerSecond: null}
"""


async def test_blue_and_green_are_switched_the_old_stays_warm_and_comes_back_at_once(
    mesh: Mesh, tmp_path: Path
) -> None:
    async def backend() -> str:
        """Which backend serves a request now."""
        body = {"model": "shifted", "prompt": "a", "options": {"num_predict": 1}}
        code, headers, _ = await asyncio.to_thread(call, mesh.address("node2"), "POST", "/api/generate", body)
        assert code == 200
        where = f"/explain?id={headers['x-request-id']}"
        _, _, said = await asyncio.to_thread(call, mesh.address("node2", "admin"), "GET", where)
        return next(str(hop["backend"]) for hop in json.loads(said) if not hop["via"])

    async def is_served_by(wanted: str) -> bool:
        return await backend() == wanted

    async def loaded() -> set[str]:
        """The nodes that hold the old model in memory."""
        _, _, said = await asyncio.to_thread(call, mesh.address("node1"), "GET", "/api/ps")
        models = json.loads(said)["models"]
        return {one["node"] for one in models if one["name"] == "smollm2:135m"}

    apply(mesh, tmp_path, ROUTE, BLUE_GREEN)
    try:
        await eventually(lambda: status(mesh)["step"] == 1, 30)
        await eventually(lambda: status(mesh)["canary"]["share"] == 1.0)
        await eventually(lambda: is_served_by("tiny"), 60)

        async def warm_everywhere() -> bool:
            return await loaded() == {"node1", "node2", "node3"}

        await eventually(warm_everywhere, 60)
        mesh.run("rollout", "abort", "shift")
        assert status(mesh)["stable"]["share"] == 1.0
        await eventually(lambda: is_served_by("smollm2:135m"), 60)
        said = mesh.run("rollout", "status", "shift").stdout
        assert "begin it anew with `bridgectl rollout restart shift`" in " ".join(said.split())
    finally:
        mesh.run("apply", "-f", str(tmp_path / "0.yaml"), "--prune")
