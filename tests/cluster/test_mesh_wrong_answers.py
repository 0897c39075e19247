"""An engine that answers fast and wrong in a real mesh is found by the others, named, and taken out.

What makes it wrong is what does so in life: weights on one disk that are no longer what their name says.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.cluster.conftest import needs_talker
from tests.cluster.mesh_bed import ASK, GREEDY, NODES, TALKER, Mesh, end_hard, open_mesh
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp, pytest.mark.timeout(900)]

SPREAD = f"""apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata:
  name: spread
spec:
  strategy: round_robin
  backends:
    - model: {TALKER}
"""


async def test_a_node_that_answers_wrong_is_taken_out_and_named(tmp_path: Path) -> None:
    needs_talker()
    with contextlib.contextmanager(open_mesh)(tmp_path / "state") as mesh:
        await _found_and_named(mesh, tmp_path)


async def _found_and_named(mesh: Mesh, tmp_path: Path) -> None:
    await mesh.whole()
    weights = _weights_of_its_own(mesh, "node3")
    (tmp_path / "spread.yaml").write_text(SPREAD)
    mesh.run("apply", "-f", str(tmp_path / "spread.yaml"))

    async def all_agree() -> bool:
        await _ask_some(mesh)  # keeps the model in use, and in memory on every node
        return all(one["compared"].startswith("agrees with") for one in await _health(mesh))

    await eventually(all_agree, 300)
    _mix_layers(weights)
    end_hard(mesh.engine_pid("node3"))  # the next one loads them

    async def named() -> bool:
        await _ask_some(mesh)
        found = {one["instance"]: one for one in await _health(mesh)}
        return bool(found["node3/0"]["out"])

    await eventually(named, 300)
    found = {one["instance"]: one for one in await _health(mesh)}
    assert not found["node1/0"]["out"]
    assert not found["node2/0"]["out"]
    reasons = [one for one in found["node3/0"]["reasons"] if one["aspect"] == "business"]
    assert [one["code"] for one in reasons] == ["wrong-answers"]
    assert TALKER in reasons[0]["text"]
    assert "node3/0 is failing and takes no requests" in mesh.run("status", check=False).stdout

    async def all_know() -> bool:
        answers = [await _ask(mesh, node) for node in NODES]
        return "node3" not in {one.headers.get("x-bridge-node") for one in answers}

    await eventually(all_know, 120)
    # Its own clients too are served, and rightly, by the others.
    answer = await _ask(mesh, "node3")
    assert answer.status_code == 200
    assert "Paris" in answer.json()["message"]["content"]


def _weights_of_its_own(mesh: Mesh, node: str) -> Path:
    """The talker's weights on one node, no longer the same file as the other nodes'."""
    blobs = [one for one in (mesh.state / node / "models" / "blobs").iterdir() if one.is_file()]
    weights = max(blobs, key=lambda one: one.stat().st_size)
    copy = weights.with_suffix(".copy")
    copy.write_bytes(weights.read_bytes())
    copy.rename(weights)
    return weights


def _mix_layers(weights: Path) -> None:
    """Swaps layers of a model: it stays well-formed, is as fast as before, and says nonsense."""
    from gguf import GGUFReader

    tensors = {one.name: one.data for one in GGUFReader(weights, "r+").tensors}
    for name in ("ffn_down", "ffn_up", "attn_output"):
        for layer in range(10):
            one, other = (tensors[f"blk.{at}.{name}.weight"] for at in (layer, 29 - layer))
            kept = one.copy()
            one[:] = other
            other[:] = kept


async def _ask_some(mesh: Mesh) -> None:
    await asyncio.gather(*(_ask(mesh, node) for node in NODES))


async def _ask(mesh: Mesh, node: str) -> httpx.Response:
    body = {"model": "spread", "messages": ASK, "stream": False, "options": GREEDY}
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{mesh.url(node)}/api/chat", json=body)


async def _health(mesh: Mesh) -> list[dict[str, Any]]:
    ran = await asyncio.to_thread(mesh.run, "health", "--json", check=False)
    found: list[dict[str, Any]] = msgspec.json.decode(ran.stdout)["instances"]
    return found
